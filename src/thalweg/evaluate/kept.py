"""Finished points on disk: written as they come, found again by a sweep that needs them.

A folder holds one text file for each cost (`thalweg.evaluate.identity`) and each process that
wrote: `points-IDENTITY-rankN.jsonl`, IDENTITY being the first 16 digits of the cost's digest.
The first line says what the points belong to; every further line is one point: its weights
(followed by their derivatives, where those of the cost were evaluated), and what was found there.
Numbers are hexadecimal floats, so that every bit comes back. Each line ends with a checksum of
itself and of the whole identity.

A file is only ever appended to, by the one process that holds a lock on it, so a crash leaves
at most an incomplete last line, which is overwritten by the next writer. A line that does not
match its checksum is not used: the point is evaluated again.
"""

import json
import os
import struct
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from thalweg.durable import checked_content, checked_line, read_all, write_all
from thalweg.errors import RecordError
from thalweg.evaluate.identity import Identity, Probe
from thalweg.objectives.objective import Evaluation
from thalweg.results import Array

if sys.platform != "win32":
    import fcntl

__all__ = ["KeptPoints"]

FORMAT = 1  # 1: first version

_SYNC_SECONDS = 1.0  # between two flushes to the disk: what a power failure may take
_MOST_FILES = 10_000


class KeptPoints:
    """The finished points of one cost in a folder.

    Args:
        folder: Where the files are; it is made if need be.
        identity: What the values depend on.
        probe: A few sums of the cost as it is now, which must agree with those in the files.
        rank: Which process of a job this is; it writes to a file of its own.

    Attributes:
        path: The file that this process writes to.

    Raises:
        OSError: If the folder cannot be written to.
        RecordError: If the cost is not the one whose points were kept, although nothing that
            can be seen has changed.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with KeptPoints(folder, Identity({"cost": "bowl"}), {}) as kept:
        ...         kept.add(np.array([[0.25, 0.75]]), [Evaluation({"train": 0.1})])
        ...     with KeptPoints(folder, Identity({"cost": "bowl"}), {}) as kept:
        ...         kept.get(np.array([0.25, 0.75])).loss["train"]
        0.1
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        identity: Identity,
        probe: Probe,
        rank: int = 0,
    ) -> None:
        self.identity = identity
        self._digest = identity.digest
        self._points: dict[bytes, Evaluation] = {}
        self._pending = b""
        self._complained = False
        self._synced = time.monotonic()
        place = Path(folder)
        stem = f"points-{self._digest[:16]}"
        try:
            place.mkdir(parents=True, exist_ok=True)
            for path in sorted(place.glob(f"{stem}-*.jsonl")):
                self._take(path, path.read_bytes(), probe)
            self.path, self._file = self._own(place, f"{stem}-rank{rank}", probe)
        except OSError as error:
            raise OSError(
                "Finished points need a folder that can be written to; "
                f"{place} cannot ({error.strerror or error}). Make room, or choose another folder."
            ) from error

    def __len__(self) -> int:
        """Number of points."""
        return len(self._points)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file."""
        self.close()

    def get(self, row: Array) -> Evaluation | None:
        """Return the evaluation at a point, or None where it is not finished.

        Args:
            row: Its weights, shape (m,), which must be those that were kept bit for bit.
        """
        return self._points.get(_key(row))

    def add(self, rows: Array, evaluations: Sequence[Evaluation]) -> None:
        """Keep finished points.

        They are handed to the system at once, so that they outlive this process, and flushed
        to the disk every second. Where that fails a warning says so, once, and the next call
        tries again: a sweep does not end because it cannot be kept.

        Args:
            rows: Their weights, shape (n, m).
            evaluations: What was found there.
        """
        for row, evaluation in zip(rows, evaluations, strict=True):
            self._points[_key(row)] = evaluation
            self._pending += self._line(_point(row, evaluation))
        self._write()

    def close(self) -> None:
        """Flush what was written to the disk, and let the file go."""
        if self._file < 0:
            return
        try:
            self._write()
            os.fsync(self._file)
        except OSError as error:
            self._complain(error)
        os.close(self._file)
        self._file = -1

    # --- reading

    def _take(self, path: Path, data: bytes, probe: Probe) -> bool:
        """Read the points of one file; tell whether its head is that of this cost."""
        head, *lines = data.split(b"\n")
        content = self._content(head)
        if content is None or not lines:
            if len(lines) > 1:  # else it is being written just now, or its writer was killed
                self._warn_damaged(path, len(lines) - 1)
            return False
        kept = {name: (_number(a), _number(b)) for name, (a, b) in content["probe"].items()}
        difference = self.identity.disagreement(kept, probe)
        if difference is not None:
            raise RecordError(
                "Finished points can be used for the cost that they belong to alone; those in "
                f"{path} were of another, although model, data and settings look the same: "
                f"{difference}. If the code (or a file that it reads) has changed, remove that "
                "file or choose another folder."
            )
        damaged = 0
        for line in lines[:-1]:  # what follows the last newline is incomplete
            point = self._content(line)
            if point is not None:
                row = np.array([_number(text) for text in point["weights"]])
                self._points.setdefault(_key(row), _evaluation(point))
            elif line.strip():
                damaged += 1
        if damaged:
            self._warn_damaged(path, damaged)
        return True

    def _content(self, line: bytes) -> Any:
        """Return what a line says, or None where it is not as it was written."""
        return checked_content(line, self._checksum)

    def _line(self, content: Mapping[str, Any]) -> bytes:
        """Return a line: its content, and a checksum over that and the identity."""
        return checked_line(content, self._checksum)

    def _checksum(self, text: bytes) -> str:
        """Return the checksum of a line's text and of the identity."""
        return sha256(self._digest.encode() + b" " + text).hexdigest()[:16]

    def _warn_damaged(self, path: Path, count: int) -> None:
        """Say how many points will be evaluated again."""
        warnings.warn(
            f"Finished points must be as they were written; {count} in {path} are damaged and "
            "will be evaluated again. Check the disk. [damaged-points]",
            RuntimeWarning,
            stacklevel=4,
        )

    # --- writing

    def _own(self, place: Path, stem: str, probe: Probe) -> tuple[Path, int]:
        """Open the first file of a name that no other process is writing to."""
        for number in range(1, _MOST_FILES):
            path = place / (f"{stem}.jsonl" if number == 1 else f"{stem}-{number}.jsonl")
            file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
            try:
                if self._locked(file) and self._settled(file, probe):
                    return path, file
            except BaseException:
                os.close(file)
                raise
            os.close(file)
        raise OSError(f"all {_MOST_FILES} names of files are taken")

    @staticmethod
    def _locked(file: int) -> bool:
        """Lock a file for this process; the system lets go of it however the process ends."""
        if sys.platform == "win32":
            return os.fstat(file).st_size == 0  # without such a lock every process gets a file
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # some network file systems know no locks
            return os.fstat(file).st_size == 0
        return True

    def _settled(self, file: int, probe: Probe) -> bool:
        """Bring a file into order before it is written to; tell whether that is possible."""
        data = read_all(file)
        head, newline, rest = data.partition(b"\n")
        if newline and self._content(head) is None:
            return False
        self._file = file
        if not newline:  # new, or its first writer was killed at once
            head = self._line(_header(self.identity, probe))
            os.ftruncate(file, 0)
            write_all(file, 0, head)
            self._end = len(head)
            os.fsync(file)
            return True
        self._end = len(data) - len(data.rpartition(b"\n")[2])
        os.ftruncate(file, self._end)
        at = len(head) + 1
        for line in rest.split(b"\n")[:-1]:
            if line.strip() and self._content(line) is None:
                write_all(file, at, b" " * len(line))  # so that it is told of once
            at += len(line) + 1
        return True

    def _write(self) -> None:
        """Append what is pending; complain where that fails, and keep it pending."""
        if not self._pending:
            return
        try:
            write_all(self._file, self._end, self._pending)
            self._end += len(self._pending)
            self._pending = b""
            if time.monotonic() - self._synced >= _SYNC_SECONDS:
                os.fsync(self._file)
                self._synced = time.monotonic()
        except OSError as error:
            self._complain(error)

    def _complain(self, error: OSError) -> None:
        """Warn once that points are not kept."""
        if not self._complained:
            self._complained = True
            warnings.warn(
                f"Finished points cannot be kept in {self.path} for now "
                f"({error.strerror or error}); the sweep goes on without. Make room. "
                "[points-not-kept]",
                RuntimeWarning,
                stacklevel=4,
            )


def _header(identity: Identity, probe: Probe) -> dict[str, Any]:
    """Return the first line of a file."""
    return {
        "format": FORMAT,
        "identity": identity.digest,
        "facts": json.loads(json.dumps(dict(identity.facts))),
        "probe": {name: [_text(a), _text(b)] for name, (a, b) in probe.items()},
    }


def _point(row: Array, evaluation: Evaluation) -> dict[str, Any]:
    """Return a point as plain JSON."""
    point = {
        "weights": [_text(weight) for weight in row],
        "loss": {split: _text(value) for split, value in evaluation.loss.items()},
        "metrics": {
            metric: {split: _text(value) for split, value in table.items()}
            for metric, table in evaluation.metrics.items()
        },
        "samples": {
            split: [_text(value) for value in values]
            for split, values in evaluation.samples.items()
        },
    }
    if evaluation.slopes:
        point["slopes"] = {split: _text(value) for split, value in evaluation.slopes.items()}
    if evaluation.curvatures:
        table = evaluation.curvatures
        point["curvatures"] = {split: _text(value) for split, value in table.items()}
    return point


def _evaluation(point: Mapping[str, Any]) -> Evaluation:
    """Return the evaluation that a line holds."""
    return Evaluation(
        {split: _number(text) for split, text in point["loss"].items()},
        {
            metric: {split: _number(text) for split, text in table.items()}
            for metric, table in point["metrics"].items()
        },
        {split: tuple(map(_number, texts)) for split, texts in point["samples"].items()},
        {split: _number(text) for split, text in point.get("slopes", {}).items()},
        {split: _number(text) for split, text in point.get("curvatures", {}).items()},
    )


def _key(row: Array) -> bytes:
    """Return the bits of the weights of a point."""
    return np.ascontiguousarray(row, dtype="<f8").tobytes()


def _text(value: float) -> str:
    """Write a float with all of its bits; NaNs differ in theirs."""
    value = float(value)
    return value.hex() if value == value else "nan:" + struct.pack(">d", value).hex()


def _number(text: str) -> float:
    """Read a float with all of its bits."""
    if text.startswith("nan:"):
        value: float = struct.unpack(">d", bytes.fromhex(text[4:]))[0]
        return value
    return float.fromhex(text)
