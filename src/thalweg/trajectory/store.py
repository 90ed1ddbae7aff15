"""The folder of a trajectory, and the one who writes to it.

    trajectory.json                        what the run is of: parameters, types, facts
    index.jsonl                            one line for every thing that has become durable
    steps.csv                              a few numbers of every step
    snapshots/000000001200.safetensors     parameters, buffers and what else was asked for
    updates/000000001200.safetensors       θ(1201) − θ(1200), where asked for
    lock                                   held by the writer

A snapshot is written to a temporary name, flushed to the disk, renamed, its folder flushed, and
then a line is appended to the index and flushed. So at every moment the index speaks of nothing but
whole files, and a crash leaves at most a temporary file and half a line, which the next writer
takes away.
"""

import errno
import math
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from thalweg.durable import AppendedFile, sync_folder, write_atomically
from thalweg.errors import TrajectoryError
from thalweg.trajectory.description import DOCUMENT, Description, read_description
from thalweg.trajectory.index import line_of, read_index
from thalweg.trajectory.lock import FolderLock
from thalweg.trajectory.step_log import columns_in, columns_of, head_of, length_before, row_of
from thalweg.trajectory.tensor_file import Written, write_tensors

__all__ = ["INDEX", "STEPS", "TrajectoryWriter"]

INDEX = "index.jsonl"
STEPS = "steps.csv"
_SNAPSHOTS = "snapshots"
_UPDATES = "updates"
_SYNC_SECONDS = 10.0  # between two flushes of the log: what a power failure may take of it


class TrajectoryWriter:
    """The one who writes to the folder of a trajectory.

    Args:
        folder: The folder; it is made if need be.
        description: What is recorded.
        groups: Number of parameter groups whose learning rates are noted.

    Attributes:
        folder: The folder.
        description: What is recorded.
        index: What is durable so far.
        new: Whether there was no trajectory before.

    Raises:
        OSError: If the folder cannot be written to.
        TrajectoryError: If another writer has the folder, or what is in it is damaged.
        ParameterMismatchError: If it holds the trajectory of another model.
    """

    def __init__(self, folder: Path, description: Description, groups: int) -> None:
        self.folder = folder
        with self._room("A trajectory"):
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = FolderLock(folder)
        self._steps: AppendedFile | None = None
        self._index: AppendedFile | None = None
        try:
            self._open(description, groups)
        except BaseException:
            self.close()
            raise

    def _open(self, description: Description, groups: int) -> None:
        """Make the files, or bring those that are there into order."""
        self.new = not (self.folder / DOCUMENT).exists()
        self.description = description
        if not self.new:
            self.description = read_description(self.folder)
            self.description.expect(description, self.folder)
        self._expect_complete()
        with self._room("A trajectory"):
            self._steps = AppendedFile(self.folder / STEPS)
            self._index = AppendedFile(self.folder / INDEX)
            if self.new:  # what a writer left that was killed before there was anything
                self._steps.cut(0)
            if not self._steps.length:
                self._steps.append(head_of(columns_of(groups)), sync=True)
            self.columns = columns_in(self._steps.read())
            for part in ("", _SNAPSHOTS, _UPDATES):
                for leftover in (self.folder / part).glob(".*.tmp"):
                    leftover.unlink(missing_ok=True)
            if self.new:
                sync_folder(self.folder)
                write_atomically(self.folder / DOCUMENT, description.document())
        self.index = read_index(self.folder / INDEX, self._index.read())
        self._synced = time.monotonic()
        self._warned = False

    def _expect_complete(self) -> None:
        """Raise where the description or the index was lost: a new one would give up the rest."""
        index = self.folder / INDEX
        lost = index if not self.new and not index.exists() else None
        if self.new and index.exists() and index.stat().st_size:
            lost = self.folder / DOCUMENT
        if lost is not None:
            raise TrajectoryError(
                f"A trajectory goes on where it is complete; {lost} is missing. Restore it from a "
                "copy, or choose another folder. Snapshots are plain safetensors files."
            )

    def resume(self, step: int) -> None:
        """Go on from a step: what was recorded of later ones no longer counts."""
        index, steps = self._files()
        with self._room("A trajectory"):
            # The index first: were the log cut alone, it would lack steps that still count.
            self._note(index, {"kind": "resume", "step": step, "time": round(time.time(), 3)})
            steps.cut(length_before(steps.read(), step))

    def add_snapshot(
        self,
        step: int,
        epoch: float | None,
        parameters: Mapping[str, Tensor],
        others: Mapping[str, Tensor],
        facts: Mapping[str, str],
    ) -> None:
        """Write a snapshot; it is durable on return.

        Args:
            step: Number of updates made before.
            epoch: Epoch, as far as it was said.
            parameters: Name to trainable parameter, on the CPU, in the model's type.
            others: Further tensors, which are stored as they are.
            facts: Words for the header of the file.

        Raises:
            OSError: If it cannot be written; everything before it stays as it is.
        """
        index, steps = self._files()
        stored = {name: self._rounded(name, tensor) for name, tensor in parameters.items()}
        differences = (_distance(parameters[name], stored[name]) for name in stored)
        norm = math.hypot(*(_norm(tensor) for tensor in parameters.values()))
        before = self.index.entries.get(step)
        file = f"{_SNAPSHOTS}/{step:012d}.safetensors"
        if before is not None and before.file == file:  # that one counts until this one does
            file = f"{_SNAPSHOTS}/{step:012d}-again.safetensors"
        with self._room(f"The snapshot of step {step}"):
            facts = {"step": str(step), **facts}
            written = write_tensors(self.folder / file, {**stored, **others}, facts)
            steps.sync()
            self._note(
                index,
                {
                    "kind": "snapshot",
                    "step": step,
                    "epoch": epoch,
                    "file": file,
                    "bytes": written.bytes,
                    "header_crc32": written.header_crc32,
                    "norm": norm if math.isfinite(norm) else None,
                    "rounding": math.hypot(*differences),
                    "finite": math.isfinite(norm),
                },
            )
            if before is not None:
                (self.folder / before.file).unlink(missing_ok=True)

    def add_update(self, step: int, update: Mapping[str, Tensor]) -> None:
        """Write the update that was made from a snapshot; it is durable on return."""
        index, _ = self._files()
        stored = {name: self._rounded(name, tensor) for name, tensor in update.items()}
        norm = math.hypot(*(_norm(tensor) for tensor in update.values()))
        file = f"{_UPDATES}/{step:012d}.safetensors"
        with self._room(f"The update of step {step}"):
            written: Written = write_tensors(self.folder / file, stored, {"step": str(step)})
            self._note(
                index,
                {
                    "kind": "update",
                    "step": step,
                    "file": file,
                    "bytes": written.bytes,
                    "header_crc32": written.header_crc32,
                    "norm": norm if math.isfinite(norm) else None,
                },
            )

    def add_epoch(self, step: int, epoch: float) -> None:
        """Say the epoch of a snapshot that is there already."""
        index, _ = self._files()
        with self._room("The end of an epoch"):
            self._note(index, {"kind": "epoch", "step": step, "epoch": epoch})

    def add_event(self, step: int, text: str) -> None:
        """Note that something happened."""
        index, _ = self._files()
        with self._room("An event"):
            self._note(index, {"kind": "event", "step": step, "text": text})

    def add_row(self, numbers: Sequence[float | None]) -> None:
        """Add the numbers of one step to the log, so that they outlive this process.

        Args:
            numbers: In the order of `columns`; None for what is not known.
        """
        _, steps = self._files()
        now = time.monotonic()
        sync = now - self._synced >= _SYNC_SECONDS
        try:  # at every step, where even `_room` counts
            steps.append(row_of(numbers, self.columns), sync=sync)
        except OSError as error:
            raise self._failure("The log of a step", error) from error
        if sync:
            self._synced = now

    def close(self) -> None:
        """Flush what is left to the disk, and let the folder go."""
        try:
            if self._steps is not None:
                with self._room("The log of a run"):
                    self._steps.sync()
        finally:
            for file in (self._steps, self._index):
                if file is not None:
                    file.close()
            self._steps = self._index = None
            self._lock.release()

    def _files(self) -> tuple[AppendedFile, AppendedFile]:
        """Return the index and the log."""
        if self._index is None or self._steps is None or not self._lock.held:
            raise ValueError(
                f"A recorder writes until it is closed, and in the process that opened it; that of "
                f"{self.folder} is closed, or of another process. Open another one with "
                "`resume=True`."
            )
        return self._index, self._steps

    def _note(self, file: AppendedFile, content: Mapping[str, object]) -> None:
        """Add one line to the index."""
        file.append(line_of(content), sync=True)
        self.index.take(content)

    def _rounded(self, name: str, tensor: Tensor) -> Tensor:
        """Return a tensor in the type that it is stored in, where that can hold it."""
        rounded = tensor.to(self.description.dtype(name))
        if rounded.dtype == torch.float16 and tensor.dtype != torch.float16:
            lost = torch.isinf(rounded) & torch.isfinite(tensor)
            if bool(lost.any()):
                self._warn_overflow(name)
                return tensor.float()
        return rounded

    def _warn_overflow(self, name: str) -> None:
        """Say, once, that a tensor is kept in a wider type."""
        if not self._warned:
            self._warned = True
            warnings.warn(
                "float16 holds numbers up to 65504; a tensor with larger ones, "
                f"{name!r}, is stored in float32 instead, and so will others be. "
                "`dtype=torch.bfloat16` has the range of float32. [float16-overflow]",
                RuntimeWarning,
                stacklevel=6,
            )

    @contextmanager
    def _room(self, what: str) -> Iterator[None]:
        """Turn what the system says into what was wanted, what came, and what to do."""
        try:
            yield
        except OSError as error:
            raise self._failure(what, error) from error

    def _failure(self, what: str, error: OSError) -> OSError:
        """Return the error for something that could not be written."""
        remedy = "Choose another folder"
        if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", None)):
            remedy = "Make room, choose another folder, or snapshots that are fewer or smaller"
        return OSError(
            error.errno or errno.EIO,
            f"{what} needs a folder that can be written to; {self.folder} cannot: "
            f"{error.strerror or error}. {remedy}; what was recorded before is intact",
        )


def _norm(tensor: Tensor) -> float:
    """Return the Euclidean norm, summed in float64."""
    return float(torch.linalg.vector_norm(tensor.detach(), dtype=torch.float64))


def _distance(tensor: Tensor, stored: Tensor) -> float:
    """Return the length of what rounding took."""
    if torch.promote_types(stored.dtype, tensor.dtype) == stored.dtype:
        return 0.0
    return _norm(stored.to(tensor.dtype) - tensor.detach())
