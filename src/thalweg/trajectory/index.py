"""The index of a trajectory: one line of JSON for every thing that has become durable.

Each line says its `kind`:

- `snapshot`: a file with the parameters at a step, with its size and checksum, the norm of θ and
  the length of what rounding took from it;
- `update`: a file with the update that was made from a snapshot;
- `epoch`: the epoch of a snapshot that was already there when the epoch ended;
- `event`: something worth a note happened at a step;
- `resume`: the run went on from a step. Lines above it that speak of later steps no longer count.

Of two lines that speak of one thing the later counts. A line ends with the CRC-32 of itself.
"""

import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from thalweg.durable import checked_content, checked_line
from thalweg.trajectory.tensor_file import Written

__all__ = ["Entry", "Index", "line_of", "read_index"]


@dataclass(frozen=True)
class Entry:
    """What the index says about one snapshot.

    Attributes:
        step: Number of updates made before it.
        file: Path of the file, from the folder of the trajectory.
        written: Size and checksum of the file.
        epoch: Epoch, or None where it was not said.
        norm: Euclidean norm of θ; NaN where an entry is not a number.
        rounding: Length of what rounding took from θ.
        finite: Whether all entries of θ were finite.
        update_file: Path of the file with the update made from here, or None.
        update_written: Size and checksum of that file.
        update_norm: Euclidean norm of the update, or NaN.
    """

    step: int
    file: str
    written: Written
    epoch: float | None
    norm: float
    rounding: float
    finite: bool
    update_file: str | None = None
    update_written: Written | None = None
    update_norm: float = float("nan")


@dataclass
class Index:
    """What an index says.

    Attributes:
        entries: Step to snapshot, in ascending order.
        events: Step and text of each event.
    """

    entries: dict[int, Entry] = field(default_factory=dict)
    events: list[tuple[int, str]] = field(default_factory=list)

    def take(self, line: Mapping[str, Any]) -> None:
        """Take note of what one more line says."""
        step, kind = int(line["step"]), line["kind"]
        if kind == "snapshot":
            self.entries[step] = Entry(
                step,
                line["file"],
                Written(line["bytes"], line["header_crc32"]),
                line["epoch"],
                _number(line["norm"]),
                _number(line["rounding"]),
                line["finite"],
            )
        elif kind == "update" and step in self.entries:
            self._change(
                step,
                update_file=line["file"],
                update_written=Written(line["bytes"], line["header_crc32"]),
                update_norm=_number(line["norm"]),
            )
        elif kind == "epoch" and step in self.entries:
            self._change(step, epoch=line["epoch"])
        elif kind == "event":
            self.events.append((step, line["text"]))
        elif kind == "resume":
            self.entries = {at: entry for at, entry in self.entries.items() if at <= step}
            self.events = [(at, text) for at, text in self.events if at <= step]
            if step in self.entries:  # the update from here is about to be made again
                self._change(step, update_file=None, update_written=None, update_norm=float("nan"))

    def _change(self, step: int, **values: Any) -> None:
        """Replace some of what is known about a snapshot."""
        self.entries[step] = Entry(**{**vars(self.entries[step]), **values})


def line_of(content: Mapping[str, Any]) -> bytes:
    """Return a line of the index, with its checksum."""
    plain = {key: None if value != value else value for key, value in content.items()}
    return checked_line(plain, _checksum)


def read_index(path: Path, content: bytes) -> Index:
    """Return what an index says; an incomplete last line is left out, as it never counted.

    Args:
        path: Where the content comes from, for a warning about damaged lines.
        content: The bytes of the file.
    """
    index, damaged = Index(), []
    for number, line in enumerate(content.split(b"\n")[:-1], start=1):
        said = checked_content(line, _checksum)
        if said is None:
            damaged.append(number)
        else:
            index.take(said)
    if damaged:
        warnings.warn(
            f"The index of a trajectory must be as it was written; of {path} line "
            f"{', '.join(map(str, damaged[:4]))}{' and more' if len(damaged) > 4 else ''} is "
            "damaged, and what it speaks of is left out. Restore the file from a copy. "
            "[damaged-trajectory]",
            RuntimeWarning,
            stacklevel=4,
        )
    index.entries = dict(sorted(index.entries.items()))
    return index


def _checksum(text: bytes) -> str:
    """Return the CRC-32 of a line's text."""
    return f"{zlib.crc32(text):08x}"


def _number(value: float | None) -> float:
    """Return a number, where strict JSON has no word for one that is none."""
    return float("nan") if value is None else float(value)
