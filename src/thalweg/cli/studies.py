"""Commands about studies and their records: `demo`, `list`, `run`, `check`, `copy`, `report`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from thalweg.cli.folders import Folder, OwnFolder, illustrate, prepare, say

if TYPE_CHECKING:
    from thalweg.records import Record

__all__ = ["check", "copy", "demo", "gallery", "list_studies", "report", "run"]

Scale = Literal["smoke", "small", "paper"]
StudyName = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="STUDY")]


def demo(
    *,
    output: Folder = Path("thalweg-demo"),
    seed: int = 0,
    device: str = "cpu",
    quiet: bool = False,
) -> int:
    """Train on handwritten digits and look at the cost: figures, a report and a summary.

    Args:
        output: Where to write.
        seed: Seed of everything random.
        device: Where to compute, such as cpu or cuda.
        quiet: Show no progress bar.
    """
    record, folder = _run("demo", "smoke", output, seed, device, quiet)
    print(f"\n{record.title}\n")
    for sentence in record.summary:
        print(f"  * {sentence}")
    print("\nClaims of the literature, checked on this run:\n")
    for claim in record.claims:
        print(f"  {claim.verdict:14}  {claim.text}  [{claim.measured}]")
    print("\nWhat stood in the way of the first run?\n")
    print(record.results["diagnosis"])
    print(f"\nFigures    {folder / 'figures'}")
    print(f"Report     {folder / 'report.html'}")
    print(f"Record     {folder / 'record.json'}")
    print(f"Parameters {folder}/*.safetensors")
    return _verdict(record)


def gallery(
    *,
    scale: Literal["smoke", "small"] = "small",
    output: Folder = Path("thalweg-gallery"),
    seed: int = 0,
    quiet: bool = False,
) -> int:
    """Diagnose runs whose obstacle is planted, and say how often the diagnosis is right.

    Args:
        scale: `small` for all cases (minutes), `smoke` for one variant of each.
        output: Where to write.
        seed: Noted with the record; each case has a seed of its own.
        quiet: Show no progress bar.
    """
    record, folder = _run("obstacle-gallery", scale, output, seed, "cpu", quiet)
    for sentence in record.summary:
        print(sentence)
    _say_claims(record)
    print(folder)
    return _verdict(record)


def list_studies() -> int:
    """List the studies: name, scales, what it is about and where it comes from."""
    from thalweg.studies import NAMES, load_study

    width = max(map(len, NAMES))
    for name in NAMES:
        study = load_study(name)
        print(f"{name:{width}}  {study.title}")
        print(f"{'':{width}}  {study.source}; scales: {', '.join(study.scales)}")
    return 0


def run(
    study: StudyName,
    /,
    *,
    scale: Scale = "smoke",
    output: OwnFolder = None,
    seed: int = 0,
    device: str = "cpu",
    quiet: bool = False,
) -> int:
    """Run a study, check its claims, draw its figures; print the folder with the record.

    Args:
        study: A name from `thalweg list`, or a file as `thalweg copy` writes it.
        scale: smoke takes seconds; small minutes, with real data; paper the source's numbers.
        output: Where to write; thalweg-runs/STUDY-SCALE-seedSEED by default.
        seed: Seed of everything random.
        device: Where to compute, such as cpu or cuda.
        quiet: Show no progress bar.
    """
    place = output or Path("thalweg-runs") / f"{Path(study).stem}-{scale}-seed{seed}"
    record, folder = _run(study, scale, place, seed, device, quiet)
    for sentence in record.summary:
        say(sentence)
    _say_claims(record)
    print(folder)
    return _verdict(record)


def check(record: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RECORD")], /) -> int:
    """Verify every byte of a record, and put its numbers to the claims of its study again.

    The record is record.json and arrays.safetensors; figures and parameters beside it are not.

    Args:
        record: The folder of a record.
    """
    from thalweg.records import open_record
    from thalweg.studies import NAMES, load_study
    from thalweg.studies.study import check_claims

    opened = open_record(record)
    say(f"{record}: intact ({opened.study}, scale {opened.scale or 'unknown'}).")
    claims = opened.claims
    if opened.study in NAMES and "file" not in opened.provenance:
        claims = check_claims(load_study(opened.study), opened.numbers)
        if [c.verdict for c in claims] != [c.verdict for c in opened.claims]:
            say("The claims of the study have changed since: these are today's verdicts.")
    for claim in claims:
        print(f"{claim.verdict}\t{claim.text}\t{claim.measured}")
    return 0 if all(claim.verdict == "reproduced" for claim in claims) else 1


def copy(
    study: StudyName,
    /,
    *,
    to: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None,
) -> int:
    """Copy the file of a study here, to change it and run it with `thalweg run FILE`.

    Args:
        study: A name from `thalweg list`.
        to: The new file; the study's own file name in this folder by default.
    """
    from thalweg.records import write_atomically
    from thalweg.studies import study_file

    source = study_file(study)
    target = to or Path(source.name)
    if target.exists():
        raise FileExistsError(
            f"A copy never overwrites; {target} is there already. Choose another name with --to."
        )
    write_atomically(target, source.read_bytes())
    print(target)
    return 0


def report(
    records: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RECORD")],
    /,
    *,
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="FILE")] = Path("report.html"),
) -> int:
    """Make one HTML page of one or more records; print its path.

    Args:
        records: Folders of records.
        output: The page.
    """
    from thalweg.reports.page import report as write

    if not records:
        raise ValueError("A report needs one record at least; got none. Give their folders.")
    print(write(records, output))
    return 0


def _run(
    name: str, scale: str, folder: Path, seed: int, device: str, quiet: bool
) -> "tuple[Record, Path]":
    """Run a study, and write figures and a report beside its record."""
    from thalweg.studies import load_study
    from thalweg.studies.study import run_study

    study = load_study(name)
    if scale in study.scales:
        prepare(folder, study.name, {**study.scales[scale], "seed": seed})
    file = Path(name) if name.endswith(".py") else None
    show = False if quiet else None
    record = run_study(study, scale, folder, seed=seed, device=device, file=file, progress=show)
    illustrate(record, folder)
    return record, folder


def _say_claims(record: "Record") -> None:
    """Say the verdict on every claim."""
    for claim in record.claims:
        say(f"{claim.verdict}: {claim.text} [{claim.measured}]")


def _verdict(record: "Record") -> int:
    """Return the exit code for a record."""
    return 0 if all(claim.verdict == "reproduced" for claim in record.claims) else 1
