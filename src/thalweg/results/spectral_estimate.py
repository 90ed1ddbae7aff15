"""One number about a spectrum, with its interval."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from thalweg.results.frozen import Array, freeze, rebuilt
from thalweg.results.provenance import Provenance

__all__ = ["SpectralEstimate"]


@dataclass(frozen=True, eq=False)
class SpectralEstimate:
    """One number about the spectrum of a matrix: exact, or a mean over random probes.

    Attributes:
        quantity: What it is, such as `"trace"`.
        value: The number.
        standard_error: Its standard error over the probes; 0 where it is exact, NaN for a
            single probe.
        interval: Lower and upper limit with the stated confidence (Student's t over the probes).
        confidence: Probability with which the interval holds; 1 where it is exact.
        samples: What each probe said, shape (probes,); empty where it is exact.
        exact: Whether the whole matrix was computed.
        method: How it was computed, in words.
        products: Number of vectors that were multiplied by the matrix.
        seed: Seed of the probes.
        provenance: What made this result.

    Example:
        >>> sure = SpectralEstimate("trace", 6.0, 0.0, (6.0, 6.0), exact=True)
        >>> sure.value, sure.interval
        (6.0, (6.0, 6.0))
    """

    quantity: str
    value: float
    standard_error: float
    interval: tuple[float, ...]
    confidence: float = 1.0
    samples: Array = field(default_factory=lambda: np.empty(0))
    exact: bool = False
    method: str = ""
    products: int = 0
    seed: int = 0
    provenance: Provenance = field(default_factory=Provenance)

    def __post_init__(self) -> None:
        freeze(self, "samples", (None,))

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuilt(self)
