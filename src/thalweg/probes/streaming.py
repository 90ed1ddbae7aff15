"""Going through the points of a run: blocks of points, and sums over pieces of their parameters.

Points are read one block at a time, in a thread of its own that is one block ahead, so that a
trajectory may be larger than memory and the disk never waits. What is computed from a block is
computed piece by piece: a piece of some points at some thousand parameters stays in the cache of
the processor, where it is turned to float64 and all sums over it are taken.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thalweg.results import Array
from thalweg.trajectory.points import PointSource

__all__ = ["Room", "Sums", "Workers", "blocks", "dots"]

# Up to 10,000 entries BLAS takes a dot product in one thread; the threads are ours.
_PIECE = 8192
_MOST_POINTS, _MOST_BYTES = 16, 128 << 20  # of a block
_OVERLAP = 2  # points of the block before that are still wanted

Sums = tuple[Array, ...]


def blocks(source: PointSource) -> Iterator[Tensor]:
    """Iterate over the points, some at a time, while the next ones are being read.

    The last two points of a block stay as they are while the next block is used; all others are
    overwritten.

    Args:
        source: The points.

    Yields:
        Some points, shape (n, P), in the type that they are kept in, on the CPU.
    """
    size = source.size * source.dtype.itemsize
    together = min(max(1, _MOST_BYTES // max(1, size)), _MOST_POINTS, max(1, source.count))
    # One is read, one used, and those before it hold the points that are still wanted.
    kept = -(-_OVERLAP // together)
    rooms = [torch.empty(together, source.size, dtype=source.dtype) for _ in range(2 + kept)]
    stream = source.stream()

    def read(room: Tensor) -> Tensor:
        # A point may be overwritten by the next.
        count = 0
        for row, point in zip(room, islice(stream, together), strict=False):
            row.copy_(point)
            count += 1
        return room[:count]

    with ThreadPoolExecutor(1) as reader:
        turn = 0
        ahead = reader.submit(read, rooms[turn])
        while len(block := ahead.result()):
            turn = (turn + 1) % len(rooms)
            ahead = reader.submit(read, rooms[turn])
            yield block


class Room:
    """Memory for one piece of a block, taken once: taking it each time costs as much as the sums.

    Attributes:
        theta: For a piece of the points, shape (points, entries), float64.
        update: Of the same shape.
        scratch: Of the same shape.
    """

    def __init__(self) -> None:
        points = _MOST_POINTS + _OVERLAP
        self._theta = torch.empty(points, _PIECE, dtype=torch.float64)
        self.theta: Array = self._theta.numpy()
        self.update, self.scratch = np.empty((2, points, _PIECE))

    def fill(self, parts: Sequence[Tensor], columns: slice) -> Array:
        """Return some entries of points in float64, shape (points, entries).

        Args:
            parts: Points, shape (n, P) each.
            columns: Which entries.
        """
        width = columns.stop - columns.start
        count = 0
        for part in parts:
            self._theta[count : count + len(part), :width].copy_(part[:, columns])
            count += len(part)
        return self.theta[:count, :width]


class Workers(AbstractContextManager["Workers"]):
    """Threads that share the pieces: as many as torch is allowed, but for the one that reads."""

    def __init__(self) -> None:
        self._rooms = [Room() for _ in range(max(1, torch.get_num_threads() - 1))]
        alone = len(self._rooms) == 1
        self._pool = None if alone else ThreadPoolExecutor(len(self._rooms))

    def __exit__(self, *_: Any) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def sums(self, size: int, work: Callable[[Room, slice], Sums]) -> Sums:
        """Return the sums over all pieces, added in the same order for any number of threads.

        Args:
            size: Number of parameters.
            work: Returns the sums of one piece.
        """
        starts = range(0, size, _PIECE)
        count = len(self._rooms)

        def some(worker: int) -> list[Sums]:
            # NaN and infinity are values here, and each thread has settings of its own.
            with np.errstate(all="ignore"):
                room, share = self._rooms[worker], starts[worker::count]
                return [work(room, slice(at, min(at + _PIECE, size))) for at in share]

        run = map if self._pool is None else self._pool.map
        found = list(run(some, range(count)))
        in_order = [found[i % count][i // count] for i in range(len(starts))]
        return tuple(np.sum(parts, axis=0) for parts in zip(*in_order, strict=True))


def dots(a: Array, b: Array) -> Array:
    """Return the inner products of rows, shape (rows,)."""
    # NumPy 1 has no `vecdot`, which takes half the time.
    vecdot: Callable[[Array, Array], Array] | None = getattr(np, "vecdot", None)
    found: Array = np.einsum("...i,...i->...", a, b) if vecdot is None else vecdot(a, b)
    return found
