"""How often each planted cause was named, and what was named in its place."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from thalweg.results.frozen import Array, freeze, rebuilt
from thalweg.results.provenance import Provenance

__all__ = ["ConfusionMatrix"]


@dataclass(frozen=True, eq=False)
class ConfusionMatrix:
    """Counts of cases by the planted cause and the cause that was named.

    Attributes:
        causes: Names of rows and columns; the last stands for nothing wrong.
        counts: Cases with the cause of the row planted and that of the column named, shape (n, n).
        wrongly_present: How often each cause was called present where it is absent by
            construction, shape (n,); the last is 0.
        absent: In how many cases each cause is absent by construction, shape (n,).
        provenance: What made this result.

    Example:
        >>> matrix = ConfusionMatrix(("noise", "none"), [[3, 1], [0, 6]], [0, 0], [6, 0])
        >>> matrix.right, matrix.cases, matrix.healthy
        (0.9, 10, 1.0)
    """

    causes: tuple[str, ...]
    counts: Array
    wrongly_present: Array
    absent: Array
    provenance: Provenance = field(default_factory=Provenance)

    def __post_init__(self) -> None:
        object.__setattr__(self, "causes", tuple(self.causes))
        size = len(self.causes)
        freeze(self, "counts", (size, size))
        freeze(self, "wrongly_present", (size,))
        freeze(self, "absent", (size,))

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuilt(self)

    @property
    def cases(self) -> int:
        """Number of cases."""
        return int(self.counts.sum())

    @property
    def right(self) -> float:
        """Share of the cases in which the planted cause was named; NaN without cases."""
        return float(np.trace(self.counts) / self.cases) if self.cases else float("nan")

    @property
    def healthy(self) -> float:
        """Share of the healthy runs in which nothing was named."""
        row = self.counts[-1]
        return float(row[-1] / row.sum()) if row.sum() else float("nan")

    @property
    def false_alarms(self) -> float:
        """Share of absent causes that were called present."""
        total = self.absent.sum()
        return float(self.wrongly_present.sum() / total) if total else float("nan")
