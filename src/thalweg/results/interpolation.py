"""How good the values between the evaluated points are."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from thalweg.results.frozen import Array, freeze, rebuilt

__all__ = ["Interpolation"]


@dataclass(frozen=True, eq=False)
class Interpolation:
    """How good the values between the evaluated points are.

    Attributes:
        method: The interpolant, such as `"cubic spline of log J"`.
        tolerance: What was asked for, as a share of the range of the loss.
        expected: Largest error that is expected between the points, in units of the loss.
        bound: For each interval (or cell) what the error should not exceed, in units of the
            loss; for a line shape (n − 1,), for a surface (rows − 1, columns − 1). It is an
            estimate from how well the points predict one another, no proof.
        resolution: Width of the widest interval: what is narrower may have been missed.
        converged: Whether the tolerance was met within the number of points allowed.
    """

    method: str
    tolerance: float
    expected: float
    bound: Array
    resolution: float
    converged: bool

    def __post_init__(self) -> None:
        bound = np.asarray(self.bound, dtype=np.float64)
        freeze(self, "bound", (None,) * bound.ndim)

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuilt(self)
