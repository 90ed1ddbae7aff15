"""The log of a run: a few numbers of every step, in a file of comma-separated values.

The first line names the columns; every further line is one update: the step θ(t) that it was made
from, then what was known about it. What was not said is left empty. The last column is the CRC-32
of the line before it. Numbers have as many digits as it takes to get every bit back.
"""

import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from thalweg.results import Array

__all__ = [
    "StepLog",
    "columns_in",
    "columns_of",
    "head_of",
    "length_before",
    "read_log",
    "row_of",
]

_KNOWN = ("step", "epoch", "batch_size", "loss", "gradient_norm", "learning_rate")
_CHECK = "crc32"


@dataclass(frozen=True, eq=False)
class StepLog:
    """What was noted at every step of a run; NaN where it was not.

    Attributes:
        step: Number of updates made before each, shape (n,), ascending.
        epoch: Epochs that had ended, or the epoch as it was said, shape (n,).
        batch_size: Examples that the gradient was taken over, shape (n,).
        loss: Mini-batch loss at θ(step), shape (n,).
        gradient_norm: Norm of the gradient that the optimiser was given, shape (n,).
        learning_rates: Rate that the update was made with, of every parameter group, shape (n, G).

    Example:
        >>> log = StepLog.empty()
        >>> len(log), log.loss
        (0, array([], dtype=float64))
    """

    step: NDArray[np.int64]
    epoch: Array
    batch_size: Array
    loss: Array
    gradient_norm: Array
    learning_rates: Array

    @classmethod
    def empty(cls) -> "StepLog":
        """Return the log of no step."""
        none = np.empty(0)
        return cls(np.empty(0, np.int64), none, none, none, none, np.empty((0, 1)))

    def __len__(self) -> int:
        return len(self.step)

    def __repr__(self) -> str:
        return f"StepLog({len(self)} steps)"

    @property
    def learning_rate(self) -> Array:
        """Rate of the first parameter group, shape (n,)."""
        rates: Array = self.learning_rates[:, 0]
        return rates

    def running_gradient_norm(self, factor: float | None = None) -> Array:
        """Return the running average of the mini-batch gradient norms.

        The first of two curves that Goodfellow (2015) plots to ask whether training ends where
        the gradient vanishes; the second is the norm of a full gradient, now and then. Steps
        without a norm do not count.

        Args:
            factor: Exponential averages r ← f r + (1 − f) ‖g‖, started at the first norm; all
                norms so far count alike by default.

        Returns:
            Shape (n,); NaN before the first norm.

        Example:
            >>> log = StepLog(np.arange(3), *[np.array([1.0, 2.0, 6.0])] * 4, np.ones((3, 1)))
            >>> log.running_gradient_norm(), log.running_gradient_norm(0.5)
            (array([1. , 1.5, 3. ]), array([1.  , 1.5 , 3.75]))
        """
        known = np.isfinite(self.gradient_norm)
        if factor is None:
            count = np.cumsum(known)
            total = np.cumsum(np.where(known, self.gradient_norm, 0.0))
            with np.errstate(invalid="ignore"):  # 0 / 0 before the first norm
                return np.asarray(total / count)
        running, averages = np.nan, np.empty(len(self))
        for at, norm in enumerate(self.gradient_norm):
            if known[at]:
                running = norm if np.isnan(running) else factor * running + (1 - factor) * norm
            averages[at] = running
        return averages

    def at(self, steps: NDArray[np.int64]) -> "StepLog":
        """Return the rows of given steps, NaN where there is none."""
        place = np.minimum(np.searchsorted(self.step, steps), max(len(self) - 1, 0))
        here = self.step[place] == steps if len(self) else np.zeros(len(steps), bool)

        def rows(values: Array) -> Array:
            found = np.full((len(steps), *values.shape[1:]), np.nan)
            if len(self):
                found[here] = values[place[here]]
            return found

        return StepLog(
            steps,
            rows(self.epoch),
            rows(self.batch_size),
            rows(self.loss),
            rows(self.gradient_norm),
            rows(self.learning_rates),
        )


def columns_of(groups: int) -> tuple[str, ...]:
    """Return the names of the columns, for an optimiser of some parameter groups."""
    more = (f"learning_rate_{group}" for group in range(1, groups))
    return (*_KNOWN, *more)


def row_of(numbers: Sequence[float | None], columns: tuple[str, ...]) -> bytes:
    """Return one line of the log, of numbers in the order of its columns, as many as it has."""
    values = [*numbers, *[None] * (len(columns) - len(numbers))]
    line = ",".join(
        ["" if value is None else repr(value) for value in values[: len(columns)]]
    ).encode()
    return b"%b,%08x\n" % (line, zlib.crc32(line))


def head_of(columns: tuple[str, ...]) -> bytes:
    """Return the first line of the log."""
    return ",".join((*columns, _CHECK)).encode() + b"\n"


def read_log(path: Path, content: bytes) -> StepLog:
    """Return the log in a file; an incomplete last line is left out.

    Args:
        path: Where the content comes from, for a warning about damaged lines.
        content: The bytes of the file.
    """
    head, *lines = content.split(b"\n")[:-1] or [b""]
    columns = _columns(head)
    rows = {}
    damaged = 0
    for fields in map(_fields, lines):
        if fields is None or len(fields) != len(columns):
            damaged += 1
        else:
            rows[int(fields[0])] = fields
    if damaged:
        warnings.warn(
            f"The log of a trajectory must be as it was written; {damaged} of {len(lines)} lines "
            f"in {path} are damaged and left out. Restore the file from a copy. "
            "[damaged-trajectory]",
            RuntimeWarning,
            stacklevel=4,
        )
    steps = sorted(rows)
    table = np.array(
        [[float(text) if text else np.nan for text in rows[step]] for step in steps]
    ).reshape(len(steps), len(columns))
    by_name = dict(zip(columns, table.T, strict=True))
    rates = [by_name[name] for name in columns if name.startswith("learning_rate")]
    return StepLog(
        np.array(steps, dtype=np.int64),
        by_name["epoch"],
        by_name["batch_size"],
        by_name["loss"],
        by_name["gradient_norm"],
        np.stack(rates, axis=1),
    )


def length_before(content: bytes, step: int) -> int:
    """Return the bytes of the lines that speak of earlier steps than a given one."""
    length = 0
    for number, line in enumerate(content.split(b"\n")[:-1]):
        fields = _fields(line)
        if number and fields is not None and int(fields[0]) >= step:
            break
        length += len(line) + 1
    return length


def columns_in(content: bytes) -> tuple[str, ...]:
    """Return the names of the columns in the first line of a file."""
    return _columns(content.partition(b"\n")[0])


def _columns(head: bytes) -> tuple[str, ...]:
    """Return the names of the columns; those that are always there where the line is damaged."""
    names = tuple(head.decode(errors="replace").split(","))[:-1]
    return names if names[: len(_KNOWN)] == _KNOWN else _KNOWN


def _fields(line: bytes) -> list[str] | None:
    """Return the fields of a line without its checksum, or None where that does not match."""
    body, _, check = line.rpartition(b",")
    if f"{zlib.crc32(body):08x}".encode() != check:
        return None
    return body.decode().split(",")
