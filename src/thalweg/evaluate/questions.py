"""Questions about a line that an estimate can decide: each asks for a maximum of contrasts.

A contrast is a sum of values with weights that add up to 0, such as the difference of two. Whether
the greatest of them is above a height can be told long before every value is known well.
"""

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from thalweg.evaluate.confidence import limits_of_largest
from thalweg.results import Array

__all__ = ["Answer", "BarrierAbove", "ClimbAbove", "Question", "Values", "answered"]


@dataclass(frozen=True)
class BarrierAbove:
    """Is there a barrier higher than this between the two ends of the line?

    What is asked for is `thalweg.barrier` with the linear baseline (Entezari et al. 2022): the
    greatest excess over the straight line between the losses at the ends, both of which must be
    on the grid. Points beyond the ends do not count.

    Attributes:
        height: In units of the loss, at least 0.

    Example:
        >>> str(BarrierAbove(0.01))
        'Is there a barrier higher than 0.01?'
    """

    height: float

    def __post_init__(self) -> None:
        _expect_height(self.height)

    def __str__(self) -> str:
        return f"Is there a barrier higher than {self.height:g}?"

    def expect_points(self, alpha: Array, ends: Array) -> None:
        """Raise unless the question can be asked at some coordinates.

        Args:
            alpha: Coordinates of the points, ascending, shape (n,).
            ends: Coordinates of the two ends of the line.
        """
        if not np.isin(ends, alpha).all():
            raise ValueError(
                "A barrier is measured from the two ends of the line, so that both must be on "
                f"the grid; alpha = {ends[0]:g} and {ends[1]:g} are not both among the "
                f"{len(alpha)} points. Put them on the grid."
            )

    def contrasts(self, alpha: Array, ends: Array, values: Array) -> Array:
        """Return the excess over the baseline at each point between the ends.

        Args:
            alpha: Coordinates of the points, ascending, shape (n,).
            ends: Coordinates of the two ends of the line.
            values: Anything with a number for each point, shape (..., n).
        """
        first, last = np.searchsorted(alpha, ends)
        t = (alpha[first + 1 : last] - ends[0]) / (ends[1] - ends[0])
        between: Array = values[..., first + 1 : last] - (
            (1 - t) * values[..., first, None] + t * values[..., last, None]
        )
        return between


@dataclass(frozen=True)
class ClimbAbove:
    """Does the loss climb by more than this on the way?

    What is asked for is `thalweg.greatest_climb` over all points of the grid: the greatest
    J(b) − J(a) with a before b (Goodfellow et al. 2015, section 3).

    Attributes:
        height: In units of the loss, at least 0.

    Example:
        >>> str(ClimbAbove(0.5))
        'Is there a climb higher than 0.5?'
    """

    height: float

    def __post_init__(self) -> None:
        _expect_height(self.height)

    def __str__(self) -> str:
        return f"Is there a climb higher than {self.height:g}?"

    def expect_points(self, alpha: Array, ends: Array) -> None:
        """Raise unless the question can be asked at some coordinates.

        Args:
            alpha: Coordinates of the points, ascending, shape (n,).
            ends: Coordinates of the two ends of the line.
        """
        if len(alpha) < 2:
            raise ValueError(
                f"A climb needs two points at least; the grid has {len(alpha)}. Use a finer grid."
            )

    def contrasts(self, alpha: Array, ends: Array, values: Array) -> Array:
        """Return the difference of each point and each one before it.

        Args:
            alpha: Coordinates of the points, ascending, shape (n,).
            ends: Coordinates of the two ends of the line.
            values: Anything with a number for each point, shape (..., n).
        """
        before, after = np.triu_indices(len(alpha), 1)
        rises: Array = values[..., after] - values[..., before]
        return rises


Question = BarrierAbove | ClimbAbove


@dataclass(frozen=True, eq=False)
class Values:
    """Estimated values along a line, and how far each may be off.

    Attributes:
        alpha: Coordinates of the points, ascending, shape (n,).
        ends: Coordinates of the two ends of the line.
        loss: The estimates, shape (n,).
        deviations: For each group and point, shape (g, n), as in `thalweg.Estimate`.
        exact: Which values are known without error, shape (n,).
    """

    alpha: Array
    ends: Array
    loss: Array
    deviations: Array
    exact: NDArray[np.bool_]


@dataclass(frozen=True)
class Answer:
    """What some values say to a question.

    Attributes:
        word: "yes", "no" or "undetermined"; empty where nothing was asked.
        interval: Lower and upper limit of the quantity asked for; empty likewise.
        final: Whether more examples would change nothing.
    """

    word: str = ""
    interval: tuple[float, ...] = ()
    final: bool = False


def answered(question: Question, values: Values, confidence: float, seed: int) -> Answer:
    """Return what some estimates say to a question, and with which interval.

    The answer is "yes" where the lower limit is above the height asked about, "no" where the
    upper limit is not, and otherwise "undetermined". It remains so, as the measures refuse to
    answer, where a loss is not finite.

    Args:
        question: What is asked.
        values: The estimates.
        confidence: Probability with which the interval, and so the answer, is to be right.
        seed: Seed of what is drawn to find the interval.

    Example:
        >>> values = Values(
        ...     alpha=np.array([0.0, 0.5, 1.0]),
        ...     ends=np.array([0.0, 1.0]),
        ...     loss=np.array([1.0, 1.5, 2.0]),
        ...     deviations=np.zeros((20, 3)),
        ...     exact=np.array([True, True, True]),
        ... )
        >>> answered(ClimbAbove(0.9), values, 0.95, seed=0)
        Answer(word='yes', interval=(1.0, 1.0), final=True)
        >>> answered(BarrierAbove(0.0), values, 0.95, seed=0).word
        'no'
    """
    if not np.isfinite(values.loss).all():
        return Answer("undetermined", (math.nan, math.nan), final=True)
    of = partial(question.contrasts, values.alpha, values.ends)
    contrasts = of(values.loss)
    low = high = 0.0  # of a line without points between its ends
    if len(contrasts):
        # A number of its own for each value that is not exact: a contrast is, where it is zero.
        exact = of(np.where(values.exact, 0.0, 1.0 + np.arange(len(values.exact)) ** 2)) == 0
        low, high = limits_of_largest(contrasts, of(values.deviations), exact, confidence, seed)
    low, high = max(0.0, low), max(0.0, high)  # neither a barrier nor a climb is negative
    word = "yes" if low > question.height else "no" if high <= question.height else "undetermined"
    return Answer(word, (low, high), final=word != "undetermined")


def _expect_height(height: float) -> None:
    """Raise unless a height can be asked about."""
    if not (math.isfinite(height) and height >= 0):
        raise ValueError(
            f"A height is a finite number of at least 0, in units of the loss; got {height}. "
            "Barriers and climbs are never negative: ask for 0.01."
        )
