"""How sure a loss is that was estimated from a subsample."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from thalweg.results.frozen import Array, freeze, rebuilt

__all__ = ["Estimate"]


@dataclass(frozen=True, eq=False)
class Estimate:
    """How sure an estimated loss is.

    The examples were drawn at random and put into g groups; a group's deviation from the mean
    at every point tells how much values, and differences between points, would vary from one
    draw to another. For a surface the points are counted row by row.

    Attributes:
        deviations: For each group and point, scaled such that the covariance of the estimated
            values is `deviations.T @ deviations`, shape (g, n).
        multiplier: Standard errors that cover all points at once, with the stated confidence.
        confidence: Probability with which the intervals hold, and the answer is right.
        examples: Examples that were drawn.
        of: Examples that there are.
        seed: Seed of the draw.
        nodes: Coordinates at which the exact loss was evaluated, shape (K,) or (K, 2).
        question: What was asked, in words; empty where nothing was.
        answer: `"yes"`, `"no"`, or `"undetermined"` where a loss is not finite.
        interval: Lower and upper limit of the barrier or climb asked about.

    Example:
        >>> sure = Estimate(deviations=[[0.3, 0.4], [-0.3, -0.3]], multiplier=2.0)
        >>> sure.half_width.round(3), round(float(sure.difference(0, 1)), 3)
        (array([0.849, 1.   ]), 0.2)
    """

    deviations: Array
    multiplier: float
    confidence: float = 0.95
    examples: int = 0
    of: int = 0
    seed: int = 0
    nodes: Array = field(default_factory=lambda: np.empty(0))
    question: str = ""
    answer: str = ""
    interval: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        freeze(self, "deviations", (None, None))
        nodes = np.asarray(self.nodes, dtype=np.float64)
        freeze(self, "nodes", (None,) * nodes.ndim)

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuilt(self)

    @property
    def standard_error(self) -> Array:
        """Standard error of the value at each point, shape (n,)."""
        error: Array = np.sqrt((self.deviations**2).sum(axis=0))
        return error

    @property
    def half_width(self) -> Array:
        """Half the width of the intervals that hold at all points at once, shape (n,)."""
        return self.multiplier * self.standard_error

    def difference(self, i: Any, j: Any) -> Array:
        """Return half the width of the interval of value i − value j.

        It holds for a difference that was named beforehand, not for the largest that is found.

        Args:
            i: Number of a point, or several.
            j: Likewise.
        """
        apart = self.deviations[:, i] - self.deviations[:, j]
        half: Array = self.multiplier * np.sqrt((apart**2).sum(axis=0))
        return half
