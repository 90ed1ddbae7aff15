"""How far a training run strays from a straight line."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from thalweg.results.frozen import Array, freeze, rebuilt
from thalweg.results.labelled import import_xarray
from thalweg.results.provenance import Provenance

if TYPE_CHECKING:
    import xarray

__all__ = ["Displacement"]


@dataclass(frozen=True, eq=False)
class Displacement:
    """Where the points θ(t) of a run lie as seen from a line from a to b.

    With the unit vector u = (b − a)/‖b − a‖ the projection is α(t) = (θ(t) − a)·u, a length, and
    the distance off the line is β(t) = ‖r(t)‖, the Euclidean norm (not its square) of the
    residual r(t) = θ(t) − a − α(t) u (Goodfellow et al. 2015, Fig. 11-13). A point that is not
    finite has NaN in all of its numbers.

    A random walk has the same curve of distance over projection, so its shape is evidence of
    nothing: see `thalweg.random_walk_evidence`.

    Attributes:
        step: Number of updates made before each point, shape (T,).
        projection: α(t), shape (T,): 0 at a, `length` at b.
        distance: β(t), shape (T,), at least 0.
        second: Signed coordinate r(t)·u₂ on the second axis, shape (T,), where
            u₂ = r(t*)/‖r(t*)‖ points to the point that is furthest off the line.
        rest: Norm of what remains after both axes, shape (T,): √(β² − second²), but computed
            from the vector.
        to_end: ‖θ(t) − b‖, shape (T,).
        norm: ‖θ(t)‖, shape (T,).
        update_length: ‖θ(t+1) − θ(t)‖ from each point to the next, shape (T − 1,).
        update_cosine: Cosine between each update and the next, shape (T − 2,). NaN where one of
            them is zero.
        heading: Cosine between each update and the way b − θ(t) that is left, shape (T − 1,).
            NaN where one of them is zero.
        length: ‖b − a‖.
        chord: Distance of the last point from the first.
        size: Number P of parameters.
        storage: Floating-point type that the points were kept in, such as `"bfloat16"`.
        rounding: What rounding to that type can have changed in α(t) and β(t) at most (to first
            order), shape (T,), for a run that was computed in a wider type. Of a run that was
            computed in this very type nothing was lost.
        labels: Names of a and b.
        provenance: What made this result.

    Example:
        >>> bend = Displacement(step=[0, 1, 2], projection=[0, 3, 6], distance=[0, 4, 0], length=6)
        >>> bend.captured
        array([nan, 0.6, 1. ])
        >>> bend.furthest
        1
    """

    step: Array
    projection: Array
    distance: Array
    second: Array = field(default_factory=lambda: np.empty(0))
    rest: Array = field(default_factory=lambda: np.empty(0))
    to_end: Array = field(default_factory=lambda: np.empty(0))
    norm: Array = field(default_factory=lambda: np.empty(0))
    update_length: Array = field(default_factory=lambda: np.empty(0))
    update_cosine: Array = field(default_factory=lambda: np.empty(0))
    heading: Array = field(default_factory=lambda: np.empty(0))
    length: float = float("nan")
    chord: float = float("nan")
    size: int = 0
    storage: str = ""
    rounding: Array = field(default_factory=lambda: np.empty(0))
    labels: tuple[str, ...] = ("start", "end")
    provenance: Provenance = field(default_factory=Provenance)

    def __post_init__(self) -> None:
        freeze(self, "step", (None,))
        points = len(self.step)
        if points == 0:
            raise ValueError(
                "A displacement has one point at least; `step` is empty. Give the points of a run."
            )
        freeze(self, "projection", (points,))
        freeze(self, "distance", (points,))
        counts = dict.fromkeys(("second", "rest", "to_end", "norm", "rounding"), points)
        counts |= {"update_length": points - 1, "heading": points - 1}
        counts |= {"update_cosine": max(points - 2, 0)}
        for name, count in counts.items():
            if len(getattr(self, name)) == 0:  # not known
                object.__setattr__(self, name, np.full(count, np.nan))
            freeze(self, name, (count,))

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuilt(self)

    @property
    def from_start(self) -> Array:
        """‖θ(t) − a‖ = √(α² + β²), shape (T,)."""
        apart: Array = np.hypot(self.projection, self.distance)
        return apart

    @property
    def captured(self) -> Array:
        """Share of the way from a that the line captures, abs(α(t))/‖θ(t) − a‖, shape (T,).

        NaN at a itself, where there is no way to capture. `thalweg.least_captured_share` is its
        minimum. For a random walk of T steps it is √(t/T).
        """
        return _ratio(np.abs(self.projection), self.from_start)

    @property
    def distance_share(self) -> Array:
        """Distance off the line as a share β(t)/‖θ(t)‖ of the parameters, shape (T,).

        One minus it is the other reading of "the line captures two thirds of the norm of the
        parameters" (Goodfellow et al. 2015, appendix B). NaN at the origin.
        """
        return _ratio(self.distance, self.norm)

    @property
    def path_length(self) -> float:
        """Sum of the lengths of all updates: how long the run was, as far as points tell.

        Between points that are several updates apart the run was longer.
        """
        return float(self.update_length.sum())

    @property
    def furthest(self) -> int:
        """Number of the point with the greatest distance off the line (the first of several)."""
        known = np.isfinite(self.distance)
        return int(np.argmax(np.where(known, self.distance, -1.0)))

    def to_xarray(self) -> "xarray.Dataset":
        """Return the same numbers with named axes: `distance(step)`, `projection(step)`, ….

        Raises:
            ImportError: If xarray is not installed (`pip install thalweg[notebook]`).
        """
        make = import_xarray().Dataset
        at_points = ("projection", "distance", "second", "rest", "to_end", "norm", "rounding")
        variables = {name: (("step",), getattr(self, name)) for name in at_points}
        variables |= {
            name: (("from_step",), getattr(self, name)) for name in ("update_length", "heading")
        }
        variables["update_cosine"] = (("turn_step",), self.update_cosine)
        coordinates = {
            "step": self.step,
            "from_step": self.step[:-1],
            "turn_step": self.step[1:-1],
        }
        dataset: xarray.Dataset = make(variables, coords=coordinates)
        return dataset


def _ratio(part: Array, whole: Array) -> Array:
    """Return part / whole, and NaN where the whole is zero."""
    share: Array = np.full(part.shape, np.nan)
    np.divide(part, whole, out=share, where=whole != 0)
    return share
