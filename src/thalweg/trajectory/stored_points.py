"""The points of a trajectory on disk: read one at a time, or streamed at the speed of the disk."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from thalweg.space import is_statistic
from thalweg.trajectory.description import Description
from thalweg.trajectory.index import Entry
from thalweg.trajectory.points import PointSource
from thalweg.trajectory.state import unpacked
from thalweg.trajectory.tensor_file import TensorFile, Written

__all__ = ["StoredSnapshots", "open_snapshot", "state_of"]

_STATE = ("optimizer/", "random/")


class StoredSnapshots(PointSource):
    """The snapshots of a recorder, checked as they are read.

    Args:
        folder: The folder of the trajectory.
        description: What its points are.
        entries: Its snapshots, in order.

    Attributes:
        folder: The folder.
        count: Number of points.
        size: Number of parameters P.
        dtype: Type that the points are read in: that of storage, or the widest of several.
    """

    def __init__(self, folder: Path, description: Description, entries: Sequence[Entry]) -> None:
        self.folder = folder
        self.count = len(entries)
        self.size = description.space.size
        self.dtype = description.widest
        self._space = description.space
        self._entries = entries

    def __repr__(self) -> str:
        return f"StoredSnapshots({self.count} of {self.size} parameters in {str(self.folder)!r})"

    def read(self, index: int) -> Tensor:
        """Return one point, shape (P,), with the running statistics that were stored with it.

        Raises:
            TrajectoryError: If its file is missing, cut short or damaged.
        """
        return self._read_into(index, torch.empty(self.size, dtype=self.dtype))

    def stream(self, start: int = 0, stop: int | None = None) -> Iterator[Tensor]:
        """Give points in order; each is overwritten by the next but one.

        Two points are in memory: the next one is read while one is looked at.
        """
        stop = self.count if stop is None else stop
        rooms = [torch.empty(self.size, dtype=self.dtype) for _ in range(2)]
        with ThreadPoolExecutor(1, thread_name_prefix="thalweg-reader") as reader:
            coming = None
            for index in range(start, stop):
                coming = coming or reader.submit(self._read_into, index, rooms[index % 2])
                theta = coming.result()
                coming = None
                if index + 1 < stop:
                    coming = reader.submit(self._read_into, index + 1, rooms[(index + 1) % 2])
                yield theta

    def tensor(self, index: int, name: str) -> Tensor:
        """Return one tensor of one point, as it was stored; nothing else is read.

        Args:
            index: Which point.
            name: Name of a parameter or buffer.
        """
        with open_snapshot(self.folder, self._entries[index]) as file:
            return file.read(self._space.aliases.get(name, name))

    def buffers(self, index: int) -> dict[str, Tensor]:
        """Return the buffers that were stored with a point."""
        with open_snapshot(self.folder, self._entries[index]) as file:
            return {name: file.read(name) for name in self._buffers_in(file)}

    def update(self, index: int) -> Tensor | None:
        """Return the update that was made from a point, shape (P,), or None."""
        entry = self._entries[index]
        if entry.update_file is None or entry.update_written is None:
            return None
        with TensorFile(self.folder / entry.update_file, entry.update_written) as file:
            update = torch.empty(self.size, dtype=self.dtype)
            file.read_into(self._space.names, update)
            return update

    def optimizer_state(self, index: int) -> dict[str, Any] | None:
        """Return the `state_dict` of the optimiser that was stored with a point, or None."""
        with open_snapshot(self.folder, self._entries[index]) as file:
            if "optimizer" not in file.facts:
                return None
            state: dict[str, Any] = unpacked(file.facts["optimizer"], state_of(file))
            return state

    def check(self, index: int) -> None:
        """Read everything that was stored with a point, and raise where it is damaged."""
        entry = self._entries[index]
        with open_snapshot(self.folder, entry) as file:
            file.check()
        if entry.update_file is not None and entry.update_written is not None:
            with TensorFile(self.folder / entry.update_file, entry.update_written) as file:
                file.check()

    def _read_into(self, index: int, theta: Tensor) -> Tensor:
        """Read a point into a vector, which remembers its running statistics."""
        with open_snapshot(self.folder, self._entries[index]) as file:
            file.read_into(self._space.names, theta)
            statistics = {n: file.read(n) for n in self._buffers_in(file) if is_statistic(n)}
        self._space.remember(theta, statistics)
        return theta

    def _buffers_in(self, file: TensorFile) -> list[str]:
        """Return the names of the buffers in a file."""
        parameters = set(self._space.names)
        return [n for n in file.names if n not in parameters and not n.startswith(_STATE)]


def open_snapshot(folder: Path, entry: Entry) -> TensorFile:
    """Open the file of a snapshot."""
    written: Written = entry.written
    return TensorFile(folder / entry.file, written)


def state_of(file: TensorFile) -> dict[str, Tensor]:
    """Return the tensors of optimiser and random generators in the file of a snapshot."""
    return {name: file.read(name) for name in file.names if name.startswith(_STATE)}
