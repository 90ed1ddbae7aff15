"""The command line: `thalweg demo`, `run`, `profile` and so on.

Standard output carries data (a folder, a table), standard error what is said about it. Exit
codes: 0 done; 1 done, but a claim was not reproduced; 2 bad usage or bad input; 130 interrupted;
141 nobody reads the output any more.
Each command imports what it needs when it is called, so that `--version` and `list` are quick.

Under `torchrun` the processes share the points of `profile` and `surface`; the first of them
prints and writes, and does every other command alone.
"""

import hashlib
import io
import os
import re
import sys
import traceback
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from thalweg._version import __version__
from thalweg.grids import Uniform

if TYPE_CHECKING:
    from thalweg.records import Record
    from thalweg.results import Profile, Surface

__all__ = ["main"]

Scale = Literal["smoke", "small", "paper"]
Folder = Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="FOLDER")]
OwnFolder = Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="FOLDER")]
StudyName = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="STUDY")]
Checkpoint = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CHECKPOINT")]
Factory = Annotated[str, tyro.conf.arg(metavar="FILE.PY:FACTORY")]
GridText = Annotated[str, tyro.conf.arg(metavar="START:STOP:POINTS")]

# What an interrupted command leaves behind.
_TRAINED = "Training and points that had finished are kept; the same command goes on from there."
_POINTS = "Nothing was written but finished points; the same command goes on from there."
_KEPT = {"run": _TRAINED, "demo": _TRAINED, "profile": _POINTS, "surface": _POINTS}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    shared = arguments[:1] in (["profile"], ["surface"])
    if _rank() > 0:  # of several processes, the first speaks
        if not shared:
            return 0  # and does alone what cannot be shared
        warnings.simplefilter("ignore")
    if arguments in (["--version"], ["-V"]):
        print(f"thalweg {__version__}")
        return 0
    if isinstance(sys.stdout, io.TextIOWrapper):  # a pipe may know no Greek
        sys.stdout.reconfigure(errors="replace")
    commands: dict[str, Any] = {
        "demo": demo,
        "list": list_studies,
        "run": run,
        "check": check,
        "copy": copy,
        "profile": profile,
        "surface": surface,
        "report": report,
    }
    try:
        with _split() if shared else nullcontext():
            code: int = tyro.extras.subcommand_cli_from_dict(
                commands,
                args=arguments,
                prog="thalweg",
                description="Show what stands between an optimiser and a low cost.",
                config=(tyro.conf.FlagCreatePairsOff,),
            )
            return code
    except KeyboardInterrupt:
        if _rank() == 0:
            _say(f"Interrupted. {_KEPT.get(arguments[0], 'Nothing was written.')}")
        return 130
    except BrokenPipeError:  # as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:  # code of the user's runs in here, so anything may come
        if os.environ.get("THALWEG_TRACEBACK"):
            traceback.print_exc()
        _say(f"thalweg{f' (rank {_rank()})' if _rank() else ''}: {_described(error)}")
        return 2


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
    print(f"\nFigures    {folder / 'figures'}")
    print(f"Report     {folder / 'report.html'}")
    print(f"Record     {folder / 'record.json'}")
    print(f"Parameters {folder}/*.safetensors")
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
        _say(sentence)
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
    _say(f"{record}: intact ({opened.study}, scale {opened.scale or 'unknown'}).")
    claims = opened.claims
    if opened.study in NAMES and "file" not in opened.provenance:
        claims = check_claims(load_study(opened.study), opened.numbers)
        if [c.verdict for c in claims] != [c.verdict for c in opened.claims]:
            _say("The claims of the study have changed since: these are today's verdicts.")
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


def profile(
    a: Checkpoint,
    b: Checkpoint,
    /,
    *,
    objective: Factory,
    grid: GridText = "0:1:51",
    output: OwnFolder = None,
    trust_pickle: bool = False,
    quiet: bool = False,
) -> int:
    """Evaluate the total cost on the line between two checkpoints; print it as CSV.

    Args:
        a: Parameters at alpha = 0: a .safetensors file or a saved state dict.
        b: Parameters at alpha = 1.
        objective: A function without arguments that returns the objective.
        grid: Coordinates, both ends included.
        output: Where the record and the figure go; thalweg-runs/profile-A-B by default.
        trust_pickle: Load checkpoints that could run code.
        quiet: Show no progress bar.
    """
    from thalweg.evaluate import profile as evaluate
    from thalweg.factories import load_objective
    from thalweg.sections import Line

    cells = _grid(grid, "--grid")
    cost = load_objective(objective)
    ends = [cost.space.flatten(path, trust_pickle=trust_pickle) for path in (a, b)]
    names = _names((a, b))
    asked = {"checkpoints": _stated((a, b)), "objective": objective, "grid": grid}
    folder = output or Path("thalweg-runs") / _folder_name("profile", names)
    _prepare(folder, "profile", asked)
    line = Line(ends[0], ends[1], labels=(names[0], names[1]))
    show = False if quiet else None
    result = evaluate(cost, line, cells, progress=show, keep=folder / "points")
    if _rank() > 0:
        return 0
    numbers = _line_numbers(result)
    if numbers:
        _say(
            "Between the two, the greatest climb is {climb:.4g} and the barrier {barrier:.4g} at "
            "alpha = {barrier_alpha:.3g}.".format(**numbers)
        )
    _print_table({"alpha": result.alpha}, result)
    _keep("profile", f"From {names[0]} to {names[1]}", result, asked, numbers, folder)
    return 0


def surface(
    checkpoints: Annotated[
        tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="CHECKPOINT")
    ],
    /,
    *,
    objective: Factory,
    x: GridText = "",
    y: GridText = "",
    normalize: Literal["filter", "layer", "none"] = "filter",
    seed: int = 0,
    output: OwnFolder = None,
    trust_pickle: bool = False,
    quiet: bool = False,
) -> int:
    """Evaluate the total cost on a plane; print it as CSV.

    Args:
        checkpoints: Three, for the plane through them, at (0, 0), (1, 0) and (0, 1); or one,
            for a plane around it along two random directions.
        objective: A function without arguments that returns the objective.
        x: First coordinates, both ends included; -0.5:1.5:25 through three checkpoints, -1:1:25
            around one.
        y: Second coordinates, likewise.
        normalize: How random directions are scaled to the network.
        seed: Seed of the random directions.
        output: Where the record and the figure go; thalweg-runs/surface-NAMES by default.
        trust_pickle: Load checkpoints that could run code.
        quiet: Show no progress bar.
    """
    import numpy as np

    from thalweg.evaluate import surface as evaluate
    from thalweg.factories import load_objective
    from thalweg.sections import Plane

    if len(checkpoints) not in (1, 3):
        raise ValueError(
            f"A surface needs one checkpoint or three; got {len(checkpoints)}. Give three for "
            "the plane through them, one for random directions around it."
        )
    usual = "-0.5:1.5:25" if len(checkpoints) == 3 else "-1:1:25"
    cells = [_grid(text or usual, name) for text, name in ((x, "--x"), (y, "--y"))]
    cost = load_objective(objective)
    points = [cost.space.flatten(path, trust_pickle=trust_pickle) for path in checkpoints]
    names = _names(checkpoints)
    asked: dict[str, Any] = {"checkpoints": _stated(checkpoints), "objective": objective}
    asked |= {"x": x or usual, "y": y or usual}
    if len(points) == 3:
        plane = Plane.through(*points, labels=(names[0], names[1], names[2]))
    else:
        asked |= {"normalize": normalize, "seed": seed}
        plane = Plane.random(cost.space, points[0], normalize=normalize, seed=seed, label=names[0])
    folder = output or Path("thalweg-runs") / _folder_name("surface", names)
    _prepare(folder, "surface", asked)
    show = False if quiet else None
    result = evaluate(cost, plane, *cells, progress=show, keep=folder / "points")
    if _rank() > 0:
        return 0
    across, up = np.meshgrid(result.x, result.y)
    _print_table({"x": across.ravel(), "y": up.ravel()}, result)
    _keep("surface", "Around " + " and ".join(names), result, asked, {}, folder)
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


def _rank() -> int:
    """Return which process of a job of `torchrun` this is; 0 where there is one process."""
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return int(os.environ.get("RANK", "0")) if several else 0


def _split() -> AbstractContextManager[None]:
    """Let the processes of a job share the points of a sweep."""
    if "WORLD_SIZE" not in os.environ:
        return nullcontext()
    from thalweg.evaluate.ranks import split_over_ranks

    return split_over_ranks()


def _run(
    name: str, scale: str, folder: Path, seed: int, device: str, quiet: bool
) -> "tuple[Record, Path]":
    """Run a study, and write figures and a report beside its record."""
    from thalweg.studies import load_study
    from thalweg.studies.study import run_study

    study = load_study(name)
    if scale in study.scales:
        _prepare(folder, study.name, {**study.scales[scale], "seed": seed})
    file = Path(name) if name.endswith(".py") else None
    show = False if quiet else None
    record = run_study(study, scale, folder, seed=seed, device=device, file=file, progress=show)
    _illustrate(record, folder)
    return record, folder


def _illustrate(record: "Record", folder: Path) -> None:
    """Draw every figure of a record, and a report."""
    from thalweg.figures.draw import draw
    from thalweg.figures.plots import figures_of
    from thalweg.reports.page import report as write

    (folder / "figures").mkdir(exist_ok=True)
    for name, figure in figures_of(record).items():
        for suffix in ("png", "pdf"):
            draw(figure, folder / "figures" / f"{name}.{suffix}", caption=True)
    write([record], folder / "report.html")


def _keep(
    study: str,
    title: str,
    result: "Profile | Surface",
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
    _illustrate(record, folder)
    _say(f"Record, figure and report are in {folder}.")


def _prepare(folder: Path, study: str, asked: Mapping[str, Any]) -> None:
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


def _names(paths: Sequence[Path]) -> tuple[str, ...]:
    """Return short names for checkpoints: their stems, with the folder where those coincide."""
    names = [path.stem for path in paths]
    if len(set(names)) < len(names):
        names = [f"{path.resolve().parent.name}/{path.stem}" for path in paths]
    return tuple(n if len(n) <= 20 else f"{n[:9]}…{n[-10:]}" for n in names)


def _folder_name(what: str, names: Sequence[str]) -> str:
    """Return a name for the folder of a result."""
    return "-".join([what, *(re.sub(r"[^\w.=+]+", "_", name) for name in names)])


def _stated(paths: Sequence[Path]) -> list[dict[str, str]]:
    """Return name and checksum of each checkpoint."""
    stated = []
    for path in paths:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        stated.append({"file": path.name, "sha256": digest})
    return stated


def _described(error: Exception) -> str:
    """Return the message of an error; of one that is not ours, also its kind and its place."""
    if isinstance(error, ArithmeticError | ImportError | OSError | TypeError | ValueError):
        return str(error)
    last = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"{type(error).__name__}: {error} ({Path(last.filename).name}, line {last.lineno}). "
        "THALWEG_TRACEBACK=1 shows how it came to that."
    )


def _grid(text: str, option: str) -> Uniform:
    """Read START:STOP:POINTS."""
    parts = text.split(":")
    try:
        start, stop, points = float(parts[0]), float(parts[1]), int(parts[2])
        if len(parts) != 3:
            raise IndexError
    except (IndexError, ValueError) as error:
        raise ValueError(
            f"{option} is START:STOP:POINTS, such as -0.5:1.5:51; got {text!r}. "
            "Give two numbers and a count."
        ) from error
    return Uniform(start, stop, points)


def _line_numbers(result: "Profile") -> dict[str, float]:
    """Return the numbers of a line, or none where its loss has gaps."""
    from thalweg.measures.summaries import line_numbers

    try:
        return line_numbers(result)
    except ValueError as error:
        _say(f"No measures: {error}")
        return {}


def _print_table(coordinates: Mapping[str, Any], result: "Profile | Surface") -> None:
    """Print coordinates, losses and metrics as CSV, every digit of them."""
    columns = dict(coordinates)
    columns |= {f"loss_{split}": values.ravel() for split, values in result.loss.items()}
    for metric, table in result.metrics.items():
        columns |= {f"{metric}_{split}": values.ravel() for split, values in table.items()}
    print(",".join(columns))
    for row in zip(*columns.values(), strict=True):
        print(",".join(repr(float(value)) for value in row))


def _say_claims(record: "Record") -> None:
    """Say the verdict on every claim."""
    for claim in record.claims:
        _say(f"{claim.verdict}: {claim.text} [{claim.measured}]")


def _verdict(record: "Record") -> int:
    """Return the exit code for a record."""
    return 0 if all(claim.verdict == "reproduced" for claim in record.claims) else 1


def _say(text: str) -> None:
    """Say something on standard error."""
    print(text, file=sys.stderr)
