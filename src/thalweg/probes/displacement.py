"""How far a run strays from a line, in two passes over its points."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from thalweg.anchors import distance
from thalweg.environment import provenance
from thalweg.probes.rounding import largest_rounding
from thalweg.probes.run_arguments import flat_ends
from thalweg.probes.streaming import Room, Sums, Workers, blocks, dots
from thalweg.progress import Progress, progress_bar
from thalweg.results import Array, Displacement
from thalweg.sections import Line
from thalweg.trajectory.points import PointSource
from thalweg.trajectory.trajectory import Trajectory

__all__ = ["displacement"]

# |v|² = |v − g u|² − ((v − g u)·u)² loses digits where the second square exceeds the result; it
# is used up to this ratio, and the vector is computed otherwise.
_LARGEST_RATIO = 100.0


def displacement(
    trajectory: Trajectory,
    line: Line | None = None,
    *,
    progress: bool | Progress | None = None,
) -> Displacement:
    """Return where the points of a run lie as seen from a straight line.

    For a line from a to b with unit vector u = (b − a)/‖b − a‖, and each point θ(t),

        α(t) = (θ(t) − a)·u                    the projection, a length,
        r(t) = θ(t) − a − α(t) u,  β(t) = ‖r(t)‖   the distance off the line,
        r(t)·u₂ with u₂ = r(t*)/β(t*)          the second axis, where t* maximises β,

    what remains after both axes, and the lengths and angles of the updates. Residuals are
    computed as vectors, not from differences of squares, and all sums are taken in float64, so
    that the numbers agree with a dense computation in float64 far from the origin and close to
    the line as well. Two passes over the points; memory for a few of them.

    Args:
        trajectory: The run.
        line: The line; by default from the first point of the run to its last. Its ends may be
            vectors or points on disk (`StoredPoint`), and need not be points of the run.
        progress: None for a bar where standard error is a terminal, False for none, or a function.

    Returns:
        Projections and distances, with the error that storage brought.

    Raises:
        ValueError: If there is no point, or the two ends of the line are the same.
        ParameterMismatchError: If line and run have different numbers of parameters.
        TypeError: If the arguments are no trajectory, or no line.

    Source: Goodfellow, Vinyals & Saxe (2015), appendix B and figures 11-13.

    Example:
        >>> arc = torch.tensor([[1.0, 1.0], [4.0, 5.0], [7.0, 1.0]])
        >>> found = displacement(Trajectory.from_points(arc))
        >>> found.projection, found.distance
        (array([0., 3., 6.]), array([0., 4., 0.]))
    """
    if not isinstance(trajectory, Trajectory):
        raise TypeError(
            f"The first argument is a trajectory; got {type(trajectory).__name__}. Use "
            "`Trajectory.open(folder)`, or `Trajectory.from_points(thetas)`."
        )
    began = time.perf_counter()
    source = trajectory.points
    if source.count == 0:
        raise ValueError(
            "A run has one point at least; this trajectory is empty. Record some points first."
        )
    axis = _Axis.of(_line_of(trajectory) if line is None else line, source)
    # NaN and infinity are values here.
    with np.errstate(all="ignore"), progress_bar(progress) as report, Workers() as workers:
        first = _first_pass(source, axis, workers, report)
        second, rest = _second_pass(source, axis, first, workers, report)
    away, along = first.distance, first.projection
    ends = (axis.start, axis.end)
    facts = {
        "kind": "Line",
        "labels": list(axis.labels),
        "line": "from the first point to the last" if line is None else "given",
        "parameters": source.size,
    }
    return Displacement(
        step=trajectory.step.astype(np.float64),
        projection=along,
        distance=away,
        second=second,
        rest=rest,
        to_end=first.to_end,
        norm=first.norm,
        update_length=first.update_length,
        update_cosine=_cosine(first.turn, first.update_length[:-1] * first.update_length[1:]),
        heading=_cosine(first.onward, first.update_length * first.to_end[:-1]),
        length=axis.length,
        chord=first.chord,
        size=source.size,
        storage=str(source.dtype).removeprefix("torch."),
        rounding=largest_rounding(source, first.norm, np.hypot(along, away), ends, axis.length),
        labels=axis.labels,
        provenance=provenance(
            torch.device("cpu"), torch.float64, time.perf_counter() - began, section=facts
        ),
    )


@dataclass(frozen=True, eq=False)
class _Axis:
    """The line, in memory."""

    start: Tensor
    end: Tensor
    length: float
    labels: tuple[str, ...]

    @classmethod
    def of(cls, line: Line, source: PointSource) -> "_Axis":
        """Check a line and read its ends."""
        if not isinstance(line, Line):
            raise TypeError(
                f"The displacement is seen from a straight `Line`; got {type(line).__name__}. "
                "Make one of two points: `Line(a, b)`."
            )
        start, end = (end.detach().cpu() for end in flat_ends(line, source.size))
        length = distance(start, end)
        if length == 0:
            raise ValueError(
                "A line needs two different ends to have a direction; both are the same point. "
                "Give a line between two different points: `displacement(trajectory, Line(a, b))`."
            )
        return cls(start, end, length, line.labels)

    def piece(self, columns: slice) -> tuple[Array, Array, Array]:
        """Return a, b and u at some of the parameters, in float64."""
        start, end = (vector[columns].double().numpy() for vector in (self.start, self.end))
        return start, end, (end - start) / self.length


def _line_of(trajectory: Trajectory) -> Line:
    """Return the line from the first point to the last."""
    return Line(trajectory[0].theta, trajectory[-1].theta)


# The two passes


@dataclass(frozen=True, eq=False)
class _FirstPass:
    """What the first pass finds: all but the second axis."""

    projection: Array
    distance: Array
    norm: Array
    to_end: Array
    update_length: Array
    turn: Array  # inner products of each update with the next
    onward: Array  # inner products of each update with the way to the end
    chord: float
    furthest: Tensor  # the point with the greatest distance, shape (1, P)
    place: int  # its number


def _first_pass(source: PointSource, axis: _Axis, workers: Workers, report: Progress) -> _FirstPass:
    """Go through the points for projections, distances, and the updates between them."""
    before: list[Tensor] = []  # up to two points, for an angle needs three
    found: list[Sums] = []
    done, greatest, guess = 0, -1.0, 0.0
    for block in blocks(source):
        known = sum(map(len, before))
        along, off, *others = workers.sums(
            source.size, partial(_along, axis, [*before, block], known, guess)
        )
        projection = guess + along
        squares = off - along**2
        if _lost(squares, along):
            (squares,) = workers.sums(source.size, partial(_off, axis, block, projection))
        found.append((projection, squares, *others))
        if done == 0:
            first, furthest, place = block[0].clone(), block[:1].clone(), 0
        heights = np.where(np.isfinite(squares), squares, -1.0)
        top = int(heights.argmax())
        if heights[top] > greatest:
            furthest, place, greatest = block[[top]], done + top, float(heights[top])
        guess = next((float(a) for a in projection[::-1] if np.isfinite(a)), guess)
        before = _last_two([*before, block])
        done += len(block)
        report(done, 2 * source.count, "distance off the line")
    projection, off, norm, left, update, onward, turn = (
        np.concatenate(parts) for parts in zip(*found, strict=True)
    )
    return _FirstPass(
        projection=_finite(projection, off),
        distance=np.sqrt(_finite(off, off)),
        norm=np.sqrt(_finite(norm, off)),
        to_end=np.sqrt(_finite(left, off)),
        update_length=np.sqrt(_finite(update, update)),
        turn=turn,
        onward=onward,
        chord=distance(first, before[-1][-1]),
        furthest=furthest,
        place=place,
    )


def _last_two(parts: Sequence[Tensor]) -> list[Tensor]:
    """Return the last two points of several blocks, as blocks."""
    last = parts[-1][-2:]
    return [last] if len(last) == 2 or len(parts) == 1 else [parts[-2][-1:], last]


def _lost(squares: Array, removed: Array) -> bool:
    """Tell whether digits were lost where a square was subtracted."""
    return bool(np.any(removed**2 > _LARGEST_RATIO * squares))


def _along(
    axis: _Axis,
    parts: Sequence[Tensor],
    known: int,
    guess: float,
    room: Room,
    columns: slice,
) -> Sums:
    """Return the sums of the first pass over one piece.

    The first `known` points belong to the block before. For each new point they are v·u and v·v
    for v = θ − a − guess u, then θ·θ and the squared way to b; for each new update its square and
    its product with the way to b; and for each new pair of updates their product.
    """
    start, end, unit = axis.piece(columns)
    theta = room.fill(parts, columns)
    scratch = room.scratch[: len(theta), : theta.shape[1]]
    update = room.update[: len(theta) - 1, : theta.shape[1]]
    np.subtract(theta[1:], theta[:-1], out=update)
    since = max(known - 1, 0)  # where the first new update begins
    fresh = update[since:]
    left = np.subtract(end, theta[since:], out=scratch[since:])
    new = theta[known:]
    others = (
        dots(new, new),
        dots(left, left)[known - since :],
        dots(fresh, fresh),
        dots(fresh, left[:-1]),
        dots(update[:-1], update[1:]),
    )
    new -= start
    new -= guess * unit
    return dots(new, unit), dots(new, new), *others


def _off(axis: _Axis, block: Tensor, projection: Array, room: Room, columns: slice) -> Sums:
    """Return the squares of the residuals in one piece."""
    residual = _residuals(axis, block, projection, room, columns)
    return (dots(residual, residual),)


def _residuals(axis: _Axis, block: Tensor, projection: Array, room: Room, columns: slice) -> Array:
    """Return θ − a − α u in one piece, shape (points, entries)."""
    start, _, unit = axis.piece(columns)
    residual = room.fill([block], columns)
    residual -= start
    _take(residual, projection, unit, room)
    return residual


def _take(vectors: Array, lengths: Array, direction: Array, room: Room) -> None:
    """Take from each vector a length along a direction."""
    along = room.scratch[: len(vectors), : vectors.shape[1]]
    vectors -= np.multiply(lengths[:, None], direction, out=along)


def _second_pass(
    source: PointSource, axis: _Axis, first: _FirstPass, workers: Workers, report: Progress
) -> tuple[Array, Array]:
    """Go through the points once more for the second axis, and what remains after both."""
    greatest = first.distance[first.place]
    if not greatest > 0:  # the run is on the line, or nowhere: there is no second axis
        return 0 * first.distance, first.distance
    found: list[Sums] = []
    done, guess = 0, 0.0
    for block in blocks(source):
        projection = first.projection[done : done + len(block)]
        work = partial(_beside, axis, first, block, projection)
        beside, squares = workers.sums(source.size, partial(work, np.full(len(block), guess)))
        second, squares = guess + beside, squares - beside**2
        if _lost(squares, beside):
            _, squares = workers.sums(source.size, partial(work, second))
        found.append((second, squares))
        guess = next((float(s) for s in second[::-1] if np.isfinite(s)), guess)
        done += len(block)
        report(source.count + done, 2 * source.count, "second axis")
    second, squares = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return second, np.sqrt(squares)


def _beside(
    axis: _Axis,
    first: _FirstPass,
    block: Tensor,
    projection: Array,
    second: Array,
    room: Room,
    columns: slice,
) -> Sums:
    """Return v·u₂ and v·v in one piece, for v = r − second u₂."""
    at = slice(first.place, first.place + 1)
    furthest = _residuals(axis, first.furthest, first.projection[at], room, columns)
    direction = furthest[0] / first.distance[first.place]
    residual = _residuals(axis, block, projection, room, columns)
    _take(residual, second, direction, room)
    return dots(residual, direction), dots(residual, residual)


def _finite(values: Array, squares: Array) -> Array:
    """Return values, and NaN where the vectors of these squares are not finite."""
    return np.where(np.isfinite(squares), values, np.nan)


def _cosine(product: Array, lengths: Array) -> Array:
    """Return product / lengths between −1 and 1, and NaN where a length is zero."""
    cosine: Array = np.full(product.shape, np.nan)
    np.divide(product, lengths, out=cosine, where=lengths > 0)
    bounded: Array = np.clip(cosine, -1, 1)
    return bounded
