"""A study: a named, seeded, cited experiment whose claims are checked by code."""

import datetime
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from thalweg._version import __version__
from thalweg.progress import Progress, progress_bar
from thalweg.records import CheckedClaim, Record, Result, Scalar, save_record

__all__ = ["SCALES", "Claim", "Outcome", "Run", "Study", "check_claims", "run_study"]

SCALES = ("smoke", "small", "paper")

Numbers = Mapping[str, Any]


@dataclass(frozen=True)
class Claim:
    """A statement of the literature, and the test that a run puts it to.

    Attributes:
        text: The statement, with its threshold.
        holds: Takes the numbers of a run and tells whether they bear the statement out.
        measured: What to show for it: a format string over the numbers, such as
            `"greatest climb {climb:.2g}"`.
    """

    text: str
    holds: Callable[[Numbers], bool]
    measured: str


@dataclass(frozen=True)
class Run:
    """What a study is given: its settings, and where and how to work.

    Attributes:
        settings: The settings of the scale, with the seed.
        folder: Where parameters that took long to find are kept, and points that were
            evaluated; a run that was interrupted finds them there again.
        device: Where to train and to evaluate.
        report: Shows progress.
    """

    settings: Mapping[str, Any]
    folder: Path
    device: str
    report: Progress

    def __getitem__(self, name: str) -> Any:
        """Return one setting."""
        return self.settings[name]

    @property
    def kept(self) -> Path:
        """Where points that were evaluated are kept, so that none is evaluated twice."""
        return self.folder / "points"


@dataclass(frozen=True)
class Outcome:
    """What a study found.

    Attributes:
        results: Name to profile, surface or history, in the order of importance.
        numbers: What they boil down to.
        summary: The finding in plain words, one sentence each.
    """

    results: Mapping[str, Result]
    numbers: Mapping[str, Scalar]
    summary: tuple[str, ...] = ()


@dataclass(frozen=True)
class Study:
    """A named experiment at three scales.

    Attributes:
        name: Name on the command line.
        title: One line.
        source: What it reproduces.
        run: Does the work.
        scales: Settings for `"smoke"` (seconds, no data needed), `"small"` (minutes, real
            data) and `"paper"` (the numbers of the source).
        claims: What is checked afterwards.
    """

    name: str
    title: str
    source: str
    run: Callable[[Run], Outcome]
    scales: Mapping[str, Mapping[str, Any]]
    claims: tuple[Claim, ...] = field(default=())


def run_study(
    study: Study,
    scale: str,
    folder: Path,
    *,
    seed: int = 0,
    device: str = "cpu",
    file: Path | None = None,
    progress: bool | Progress | None = None,
) -> Record:
    """Run a study, check its claims and write its record.

    Args:
        study: The study.
        scale: One of its scales.
        folder: Where the record goes. Training that an earlier run with the same settings
            finished there is not repeated.
        seed: Seed of everything random in it.
        device: Where to train and evaluate.
        file: The file that the study was read from, where it is none of ours; its checksum
            is kept with the record.
        progress: None for a progress bar on a terminal, False for none.

    Returns:
        The record that was written.

    Raises:
        ValueError: If the study has no such scale.
    """
    if scale not in study.scales:
        raise ValueError(
            f"{study.name!r} has the scales {', '.join(study.scales)}; got {scale!r}. "
            "Choose one of them."
        )
    settings = {**study.scales[scale], "seed": seed}
    clock = time.perf_counter()
    with progress_bar(progress) as report:
        outcome = study.run(Run(settings, folder, device, report))
    record = Record(
        study=study.name,
        title=study.title,
        source=study.source,
        scale=scale,
        asked=settings,
        results=outcome.results,
        numbers=outcome.numbers,
        claims=check_claims(study, outcome.numbers),
        summary=outcome.summary,
        provenance={
            "command": f"thalweg run {file.name if file else study.name} --scale {scale} "
            f"--seed {seed} --device {device}",
            **({} if file is None else _origin(file)),
            "seed": seed,
            "device": device,
            "thalweg": __version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
            "machine": platform.machine(),
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "seconds": round(time.perf_counter() - clock, 1),
        },
    )
    save_record(record, folder)
    return record


def _origin(file: Path) -> dict[str, str]:
    """Return name and checksum of the file of a study."""
    return {"file": file.name, "file_sha256": sha256(file.read_bytes()).hexdigest()}


def check_claims(study: Study, numbers: Numbers) -> tuple[CheckedClaim, ...]:
    """Put the numbers of a run to every claim of its study."""
    return tuple(
        CheckedClaim(
            claim.text,
            "reproduced" if claim.holds(numbers) else "not reproduced",
            claim.measured.format(**numbers),
        )
        for claim in study.claims
    )
