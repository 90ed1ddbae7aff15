"""Where a run lies from the point of view of a line, in one pass over its points."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from thalweg.progress import Progress
from thalweg.results import Array
from thalweg.trajectory.passes import expect_finite, pieces
from thalweg.trajectory.trajectory import Trajectory

__all__ = ["RunGeometry", "geometry_of", "residual"]

# A residual of fewer roundings of the points than this has no direction worth the name.
_ROUNDINGS = 16


@dataclass(frozen=True)
class RunGeometry:
    """Projection and distance of every point, and the direction in which it is off the line.

    Attributes:
        share: Projection as a share of the length of the line, shape (T,).
        distance: β(t) = ‖r(t)‖, shape (T,).
        side: +1 or −1 for each point: v(t) = side · r(t)/β(t) turns by no more than a right
            angle from one point to the next, shape (T,).
        source: The point whose direction each point has: its own number, or that of a neighbour
            where its own residual is rounding, shape (T,).
        length: Length of the line.
    """

    share: Array
    distance: Array
    side: Array
    source: NDArray[np.intp]
    length: float

    @property
    def projection(self) -> Array:
        """α(t), a length, shape (T,)."""
        return self.share * self.length

    @property
    def own(self) -> NDArray[np.bool_]:
        """Whether each point has a direction of its own, shape (T,)."""
        found: NDArray[np.bool_] = self.source == np.arange(len(self.source))
        return found

    @property
    def across(self) -> Array:
        """The signed distance of each point, 0 where it is rounding, shape (T,)."""
        return np.where(self.own, self.side * self.distance, 0.0)


def geometry_of(
    trajectory: Trajectory, ends: Sequence[Tensor], eps: float, report: Progress
) -> RunGeometry:
    """Return where the points of a run lie from the point of view of a line.

    Three points are in memory besides the ends, whatever the length of the run.

    Args:
        trajectory: The run.
        ends: θ_i and θ_f, shape (P,) each.
        eps: Relative rounding of the coarsest type that is used.
        report: Shows progress.

    Raises:
        ValueError: If a point is not finite, the ends are one point, or no point is off the line.
    """
    start, end = ends
    squared = sum(float(d @ d) for d in _differences(end, start))
    if squared == 0:
        raise ValueError(
            "A picture of a run needs two ends that differ; start and end are one point. Pass a "
            "`line` with another end."
        )
    count = len(trajectory)
    norm = max(float(torch.linalg.vector_norm(p.double())) for p in ends)
    share, distance = np.zeros(count), np.zeros(count)
    side, source = np.ones(count), np.full(count, -1)
    last: tuple[int, Tensor] | None = None  # the last point that was off the line
    for t, theta in enumerate(trajectory.stream()):
        expect_finite(trajectory, t, theta)
        share[t] = sum(float(x @ d) for x, d in _beside(theta, start, end)) / squared
        square, turn = 0.0, 0.0
        for piece in pieces(len(theta)):
            r = residual(theta, ends, share[t], piece)
            square += float(r @ r)
            if last is not None:
                turn += float(r @ residual(last[1], ends, share[last[0]], piece))
        distance[t] = np.sqrt(square)
        reach = max(norm, abs(share[t]) * np.sqrt(squared), distance[t])
        if distance[t] > _ROUNDINGS * eps * reach:
            if last is not None:
                side[t] = side[last[0]] * (1 if turn >= 0 else -1)
            source[t] = t
            last = t, theta.detach().clone()
        elif last is not None:
            side[t], source[t] = side[last[0]], last[0]
        report(t + 1, count, "distance of the run from the line")
    if last is None:
        raise ValueError(
            f"A picture of a run needs a point off the line; all {count} points are on it, but "
            "for rounding. Use `tw.profile` on the line: it shows all there is."
        )
    first = int(np.flatnonzero(source >= 0)[0])
    source[:first] = first
    return RunGeometry(share, distance, side, source, float(np.sqrt(squared)))


def residual(theta: Tensor, ends: Sequence[Tensor], share: float, piece: slice) -> Tensor:
    """Return a piece of θ − θ_i − share · (θ_f − θ_i), float64."""
    start, end = (point[piece].double() for point in ends)
    return theta[piece].double() - start - share * (end - start)


def _differences(a: Tensor, b: Tensor) -> Iterator[Tensor]:
    """Iterate over the pieces of a − b, float64."""
    return (a[piece].double() - b[piece].double() for piece in pieces(len(a)))


def _beside(theta: Tensor, start: Tensor, end: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Iterate over the pieces of θ − θ_i and of θ_f − θ_i."""
    return zip(_differences(theta, start), _differences(end, start), strict=True)
