"""How far a run strays from a line, in two passes over its points.

Points are read one block at a time, in a thread of its own that is one block ahead, so that a
trajectory may be larger than memory and the disk never waits. What is computed from a block is
computed piece by piece: a piece of some points at some thousand parameters stays in the cache of
the processor, where it is turned to float64 and all sums over it are taken.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thalweg.anchors import distance
from thalweg.environment import provenance
from thalweg.errors import ParameterMismatchError
from thalweg.probes.rounding import largest_rounding
from thalweg.progress import Progress, progress_bar
from thalweg.results import Array, Displacement
from thalweg.sections import Line
from thalweg.stored import StoredPoint
from thalweg.trajectory.points import PointSource
from thalweg.trajectory.trajectory import Trajectory

__all__ = ["displacement"]

# Up to 10,000 entries BLAS takes a dot product in one thread; the threads are ours.
_PIECE = 8192
_MOST_POINTS, _MOST_BYTES = 8, 64 << 20  # of a block

Sums = tuple[Array, ...]


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
            vectors or `StoredPoint`s, and need not be points of the run.
        progress: None for a bar where standard error is a terminal, False for none, or a function.

    Returns:
        Projections and distances, with the error that storage brought.

    Raises:
        ValueError: If there is no point, or the two ends of the line are the same.
        ParameterMismatchError: If line and run have different numbers of parameters.
        TypeError: If `line` is another section.

    Source: Goodfellow, Vinyals & Saxe (2015), appendix B and figures 11-13.

    Example:
        >>> arc = torch.tensor([[1.0, 1.0], [4.0, 5.0], [7.0, 1.0]])
        >>> found = displacement(Trajectory.from_points(arc))
        >>> found.projection, found.distance
        (array([0., 3., 6.]), array([0., 4., 0.]))
    """
    began = time.perf_counter()
    source = trajectory.points
    axis = _Axis.of(_line_of(trajectory) if line is None else line, source)
    with progress_bar(progress) as report, _Workers() as workers:
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
        ends = [p.flat() if isinstance(p, StoredPoint) else p for p in line.anchors]
        start, end = (point.detach().cpu() for point in ends)
        if len(start) != source.size:
            raise ParameterMismatchError(
                f"Line and run must have the same parameters; the line has {len(start)}, the run "
                f"{source.size}. Make both of the same model."
            )
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
    if len(trajectory) == 0:
        raise ValueError(
            "A run has one point at least; this trajectory is empty. Record some points first."
        )
    return Line(trajectory[0].theta, trajectory[-1].theta)


# Blocks of points, and pieces of their parameters


class _Workers(AbstractContextManager["_Workers"]):
    """As many threads as torch is allowed, each with a share of the pieces."""

    def __init__(self) -> None:
        self.count = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(self.count) if self.count > 1 else None

    def __exit__(self, *_: Any) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def sums(self, size: int, work: Callable[[slice], Sums]) -> Sums:
        """Return the sums over all pieces, added in the same order for any number of threads."""
        starts = range(0, size, _PIECE)

        def some(worker: int) -> list[Sums]:
            # NaN and infinity are values here; each thread has its own settings.
            with np.errstate(all="ignore"):
                share = starts[worker :: self.count]
                return [work(slice(at, min(at + _PIECE, size))) for at in share]

        run = map if self._pool is None else self._pool.map
        found = list(run(some, range(self.count)))
        in_order = [found[i % self.count][i // self.count] for i in range(len(starts))]
        return tuple(np.sum(parts, axis=0) for parts in zip(*in_order, strict=True))


def _blocks(source: PointSource) -> Iterator[list[Tensor]]:
    """Iterate over copies of the points, some at a time, while the next ones are being read."""
    size = source.size * source.dtype.itemsize
    together = min(max(1, _MOST_BYTES // max(1, size)), _MOST_POINTS)
    stream = source.stream()

    def read() -> list[Tensor]:
        # A point may be overwritten by the next.
        return [point.detach().to("cpu", copy=True) for point in islice(stream, together)]

    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(read)
        while block := ahead.result():
            ahead = reader.submit(read)
            yield block


def _rows(points: Sequence[Tensor], columns: slice) -> Array:
    """Return a piece of some points in float64, shape (points, columns)."""
    rows = torch.empty(len(points), columns.stop - columns.start, dtype=torch.float64)
    for row, point in zip(rows, points, strict=True):
        row.copy_(point[columns])
    piece: Array = rows.numpy()
    return piece


def _dots(a: Array, b: Array) -> Array:
    """Return the inner products of rows, shape (rows,)."""
    # NumPy 1 has no `vecdot`, which takes half the time.
    vecdot: Callable[[Array, Array], Array] | None = getattr(np, "vecdot", None)
    found: Array = np.einsum("...i,...i->...", a, b) if vecdot is None else vecdot(a, b)
    return found


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
    furthest: Tensor  # the point with the greatest distance
    place: int  # its number


def _first_pass(
    source: PointSource, axis: _Axis, workers: _Workers, report: Progress
) -> _FirstPass:
    """Go through the points for projections, distances, and the updates between them."""
    before: deque[Tensor] = deque(maxlen=2)  # an angle needs three points
    found: list[Sums] = []
    done, greatest = 0, -1.0
    for block in _blocks(source):
        points = [*before, *block]
        sums = workers.sums(source.size, partial(_along, axis, points, len(before)))
        (squares,) = workers.sums(source.size, partial(_off, axis, block, sums[0]))
        found.append((*sums, squares))
        known = np.where(np.isfinite(squares), squares, -1.0)
        if done == 0:
            first = furthest = block[0]
            place = 0
        if known.max() > greatest:
            furthest, place = block[int(known.argmax())], done + int(known.argmax())
            greatest = float(known.max())
        before.extend(block)
        done += len(block)
        report(done, 2 * source.count, "distance off the line")
    projection, norm, left, update, onward, turn, off = (
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
        chord=distance(first, before[-1]),
        furthest=furthest,
        place=place,
    )


def _along(axis: _Axis, points: Sequence[Tensor], known: int, columns: slice) -> Sums:
    """Return the sums of one piece that need no residual.

    The first `known` points belong to the block before. The sums are, for each new point,
    (θ − a)·u, θ·θ and the squared way to b; for each new update, its square and its product with
    the way to b; and for each new pair of updates, their product.
    """
    start, end, unit = axis.piece(columns)
    theta = _rows(points, columns)
    new = theta[known:]
    squares = _dots(new, new)
    projection = _dots(new - start, unit)
    update = np.diff(theta, axis=0)
    before = max(known - 1, 0)  # where the first new update begins
    fresh = update[before:]
    left = end - theta[before:]
    return (
        projection,
        squares,
        _dots(left, left)[known - before :],
        _dots(fresh, fresh),
        _dots(fresh, left[:-1]),
        _dots(update[:-1], update[1:]),
    )


def _off(axis: _Axis, points: Sequence[Tensor], projection: Array, columns: slice) -> Sums:
    """Return the squares of the residuals in one piece."""
    residual = _residuals(axis, points, projection, columns)
    return (_dots(residual, residual),)


def _residuals(axis: _Axis, points: Sequence[Tensor], projection: Array, columns: slice) -> Array:
    """Return θ − a − α u in one piece, shape (points, columns)."""
    start, _, unit = axis.piece(columns)
    residual = _rows(points, columns)
    residual -= start
    residual -= np.multiply.outer(projection, unit)
    return residual


def _second_pass(
    source: PointSource, axis: _Axis, first: _FirstPass, workers: _Workers, report: Progress
) -> tuple[Array, Array]:
    """Go through the points once more for the second axis, and what remains after both."""
    greatest = first.distance[first.place]
    if not greatest > 0:  # the run is on the line, or nowhere: there is no second axis
        return 0 * first.distance, first.distance
    across = partial(
        _across, axis, [first.furthest], first.projection[[first.place]], float(greatest)
    )
    found: list[Sums] = []
    done = 0
    for block in _blocks(source):
        projection = first.projection[done : done + len(block)]
        (second,) = workers.sums(
            source.size, partial(_beside, axis, across, block, projection, None)
        )
        (squares,) = workers.sums(
            source.size, partial(_beside, axis, across, block, projection, second)
        )
        found.append((second, squares))
        done += len(block)
        report(source.count + done, 2 * source.count, "second axis")
    second, squares = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return second, np.sqrt(squares)


def _across(
    axis: _Axis, furthest: Sequence[Tensor], projection: Array, greatest: float, columns: slice
) -> Array:
    """Return a piece of the second axis."""
    piece: Array = _residuals(axis, furthest, projection, columns)[0] / greatest
    return piece


def _beside(
    axis: _Axis,
    across: Callable[[slice], Array],
    points: Sequence[Tensor],
    projection: Array,
    second: Array | None,
    columns: slice,
) -> Sums:
    """Return the products of the residuals with the second axis, or what remains after both."""
    residual = _residuals(axis, points, projection, columns)
    if second is None:
        return (_dots(residual, across(columns)),)
    residual -= np.multiply.outer(second, across(columns))
    return (_dots(residual, residual),)


def _finite(values: Array, squares: Array) -> Array:
    """Return values, and NaN where the vectors of these squares are not finite."""
    return np.where(np.isfinite(squares), values, np.nan)


def _cosine(product: Array, lengths: Array) -> Array:
    """Return product / lengths between −1 and 1, and NaN where a length is zero."""
    cosine: Array = np.full(product.shape, np.nan)
    np.divide(product, lengths, out=cosine, where=lengths > 0)
    bounded: Array = np.clip(cosine, -1, 1)
    return bounded
