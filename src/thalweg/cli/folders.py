"""What every command does with folders and terminals: settle, write, illustrate, speak."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

if TYPE_CHECKING:
    from thalweg.records import Record
    from thalweg.results import Diagnosis, Profile, SpectralDensity, Spectrum, Surface

__all__ = ["Folder", "OwnFolder", "illustrate", "keep", "prepare", "rank_here", "say"]

Folder = Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="FOLDER")]
OwnFolder = Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="FOLDER")]


def prepare(folder: Path, study: str, asked: Mapping[str, Any]) -> None:
    """Make a folder before any work is done, and raise where it holds something else."""
    from thalweg.errors import RecordError
    from thalweg.records import Record, open_record

    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise PermissionError(
            f"A folder that can be written to is needed; {folder} cannot. Choose another with "
            "--output."
        )
    if not (folder / "record.json").exists():
        return
    try:
        held = open_record(folder)
    except RecordError as error:
        raise FileExistsError(
            f"A record never replaces one that cannot be read; {folder} holds one ({error}). "
            "Remove that folder, or choose another with --output."
        ) from error
    if held.study != study or dict(held.asked) != dict(Record(study=study, asked=asked).asked):
        raise FileExistsError(
            f"A record never replaces that of another run; {folder} holds {held.study!r} with "
            "other settings or seed. Remove that folder, or choose another with --output."
        )


def keep(
    study: str,
    title: str,
    result: "Diagnosis | Profile | SpectralDensity | Spectrum | Surface",
    asked: Mapping[str, Any],
    numbers: Mapping[str, float],
    folder: Path,
) -> None:
    """Write the record and the figure of one result, and say where."""
    import shlex

    from thalweg.records import Record, save_record

    command = shlex.join(["thalweg", *sys.argv[1:]])
    record = Record(
        study=study,
        title=title,
        asked=asked,
        results={study: result},
        numbers=numbers,
        provenance={"command": command, "created": result.provenance.created},
    )
    save_record(record, folder)
    illustrate(record, folder)
    say(f"Record, figure and report are in {folder}.")


def illustrate(record: "Record", folder: Path) -> None:
    """Draw every figure of a record, and a report."""
    from thalweg.figures.draw import draw
    from thalweg.figures.plots import figures_of
    from thalweg.reports.page import report as write

    (folder / "figures").mkdir(exist_ok=True)
    for name, figure in figures_of(record).items():
        for suffix in ("png", "pdf"):
            draw(figure, folder / "figures" / f"{name}.{suffix}", caption=True)
    write([record], folder / "report.html")


def say(text: str) -> None:
    """Say something on standard error."""
    print(text, file=sys.stderr)


def rank_here() -> int:
    """Return which process of a job of `torchrun` this is; 0 where there is one process."""
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return int(os.environ.get("RANK", "0")) if several else 0
