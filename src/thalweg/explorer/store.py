"""The folder of an explorer, and the one server that writes to it.

    explorer.json                  what the folder belongs to: cost, data, run
    requests.jsonl                 sections, what was asked of them, what is done
    points/                        finished points, as `profile(..., keep=folder)` keeps them
    eigenvectors/                  directions that were computed
    records/ID/                    one record a section, for `thalweg report`
    lock                           held by the server; the system lets go of it when that ends

A request is on the disk before it is answered, and a point before it is told of, so a server that
is killed at any moment goes on from there. An incomplete last line is cut off.
"""

import json
import os
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from thalweg.durable import AppendedFile, checked_content, checked_line, write_atomically
from thalweg.errors import TrajectoryError
from thalweg.evaluate.identity import Identity, identity_of
from thalweg.explorer.coordinates import Ticks
from thalweg.explorer.definitions import Definition
from thalweg.objectives.objective import Objective
from thalweg.sections import Line
from thalweg.trajectory.lock import FolderLock
from thalweg.trajectory.trajectory import Trajectory

__all__ = ["Asked", "Store", "fingerprint"]

FORMAT = 1  # 1: first version

_DOCUMENT = "explorer.json"
_REQUESTS = "requests.jsonl"
# Parts of the engine's identity that belong to a section rather than to the cost.
_OF_SECTION = ("anchors", "buffers", "strategy")


@dataclass(frozen=True)
class Asked:
    """One request for points of a section.

    Attributes:
        number: Of the request, ascending.
        section: Id of the section.
        axes: The coordinates.
    """

    number: int
    section: str
    axes: tuple[Ticks, ...]


@dataclass
class _Requests:
    """What the file of requests says."""

    sections: dict[str, Definition] = field(default_factory=dict)
    asked: dict[int, Asked] = field(default_factory=dict)
    done: set[int] = field(default_factory=set)


class Store:
    """The folder of an explorer.

    Args:
        folder: The folder; it is made if need be.
        facts: What it must belong to, as `fingerprint` tells.

    Attributes:
        sections: Id to section, of those that were defined.
        asked: What was asked for, the oldest first.
        done: Numbers of the requests that are done.

    Raises:
        ValueError: If another server has the folder, or it belongs to another cost or run.
        OSError: If it cannot be written to.
    """

    def __init__(self, folder: Path, facts: Mapping[str, Any]) -> None:
        self.folder = folder
        self._lock = _locked(folder)
        try:
            self._expect(facts)
            self._file = AppendedFile(folder / _REQUESTS)
        except BaseException:
            self._lock.release()
            raise
        found = _read(folder / _REQUESTS, self._file.read())
        self.sections, self.done = found.sections, found.done
        self.asked = list(found.asked.values())
        self._last = max(found.asked, default=0)

    @property
    def points(self) -> Path:
        """Where the engine keeps finished points."""
        return self.folder / "points"

    def record(self, section: str) -> Path:
        """Return where the record of a section is."""
        return self.folder / "records" / section

    def add_section(self, definition: Definition) -> None:
        """Note a section, durably."""
        self._append({"kind": "section", "definition": definition.described()})
        self.sections[definition.id] = definition

    def add_request(self, section: str, axes: tuple[Ticks, ...]) -> Asked:
        """Note a request, durably, and return it with its number."""
        asked = Asked(self._last + 1, section, axes)
        ticks = [[t.exponent, t.first, t.last] for t in axes]
        line = {"kind": "request", "number": asked.number, "section": section, "axes": ticks}
        self._append(line)
        self._last += 1
        self.asked.append(asked)
        return asked

    def add_done(self, number: int) -> None:
        """Note that all points of a request are finished; they are found again in any case."""
        self._append({"kind": "done", "number": number}, sync=False)
        self.done.add(number)

    def close(self) -> None:
        """Let the folder go."""
        self._file.close()
        self._lock.release()

    def _append(self, content: Mapping[str, Any], *, sync: bool = True) -> None:
        """Add a line."""
        self._file.append(checked_line(content, _checksum), sync=sync)

    def _expect(self, facts: Mapping[str, Any]) -> None:
        """Raise unless the folder belongs to a cost and a run; a new one does from now on."""
        path = self.folder / _DOCUMENT
        told: dict[str, Any] = json.loads(json.dumps({"format": FORMAT, **facts}))
        if not path.exists():
            write_atomically(path, (json.dumps(told, indent=1) + "\n").encode())
            return
        try:
            its = json.loads(path.read_bytes())
            differing = Identity(told).differences(its)
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"What an explorer has kept belongs to one cost and one run; {path} cannot be read "
                "to tell which. Restore it from a copy, or choose another folder with --output."
            ) from error
        if differing:
            raise ValueError(
                f"What an explorer has kept belongs to one cost and one run; {self.folder} belongs "
                f"to another, which differs in: {', '.join(differing)}. Give the objective and the "
                "run that it was made with, or choose another folder with --output."
            )


def fingerprint(objective: Objective, trajectory: Trajectory) -> dict[str, Any]:
    """Return plain facts about a cost and a run: what kept points belong to.

    They are those by which the engine keeps points (`thalweg.evaluate.identity`), less those of a
    section, and the first point of the run: a run that is still being recorded stays the same.

    Args:
        objective: The cost.
        trajectory: The run.
    """
    first = trajectory[0].theta
    facts = dict(identity_of(objective, Line(first, first), (first,), "").facts)
    run = {"first_step": trajectory[0].step, "first_point": facts["anchors"]}
    return {**{k: v for k, v in facts.items() if k not in _OF_SECTION}, "run": run}


def _locked(folder: Path) -> FolderLock:
    """Take the right to write to a folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return FolderLock(folder)
    except TrajectoryError as error:
        holder = (folder / "lock").read_text(errors="replace").strip()
        raise ValueError(
            f"An explorer's folder has one server at a time; {folder} is in use by process "
            f"{holder or 'unknown'}. Use the address that it printed, end it, or choose another "
            "folder with --output."
        ) from error
    except OSError as error:
        raise OSError(
            f"An explorer needs a folder that can be written to; {folder} cannot "
            f"({os.strerror(error.errno) if error.errno else error}). Choose another with --output."
        ) from error


def _read(path: Path, data: bytes) -> _Requests:
    """Return what a file of requests says; tell of lines that are damaged."""
    found, damaged = _Requests(), 0
    for line in data.split(b"\n")[:-1]:
        content = checked_content(line, _checksum)
        if content is None:
            damaged += 1
        elif content["kind"] == "section":
            definition = Definition.read(content["definition"])
            found.sections[definition.id] = definition
        elif content["kind"] == "done":
            found.done.add(content["number"])
        elif content["section"] in found.sections:
            axes = tuple(Ticks(*axis) for axis in content["axes"])
            found.asked[content["number"]] = Asked(content["number"], content["section"], axes)
    if damaged:
        warnings.warn(
            f"Requests must be as they were written; {damaged} in {path} are damaged and left out. "
            "Check the disk, and ask for those points again. [damaged-requests]",
            RuntimeWarning,
            stacklevel=3,
        )
    return found


def _checksum(text: bytes) -> str:
    """Return the checksum of a line."""
    return f"{zlib.crc32(text):08x}"
