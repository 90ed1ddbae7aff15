"""Commands that evaluate a user's cost: `profile` and `surface`."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from thalweg.cli.folders import OwnFolder, keep, prepare, rank_here, say
from thalweg.grids import Adaptive, Uniform

if TYPE_CHECKING:
    from thalweg.anchors import Anchor
    from thalweg.evaluate import Plan
    from thalweg.results import Profile, Surface
    from thalweg.space import ParameterSpace

__all__ = [
    "Checkpoint",
    "Factory",
    "folder_name_of",
    "names_of",
    "profile",
    "stated",
    "surface",
]

Checkpoint = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CHECKPOINT")]
Factory = Annotated[str, tyro.conf.arg(metavar="FILE.PY:FACTORY")]
Tolerance = Annotated[float | None, tyro.conf.arg(metavar="SHARE")]
GridText = Annotated[str, tyro.conf.arg(metavar="START:STOP:POINTS")]


def profile(
    a: Checkpoint,
    b: Checkpoint,
    /,
    *,
    objective: Factory,
    grid: GridText = "",
    tolerance: Tolerance = None,
    plan: bool = False,
    from_disk: bool = False,
    output: OwnFolder = None,
    trust_pickle: bool = False,
    quiet: bool = False,
) -> int:
    """Evaluate the total cost on the line between two checkpoints; print it as CSV.

    Args:
        a: Parameters at alpha = 0: a .safetensors file, a folder of them, or a saved state dict.
        b: Parameters at alpha = 1.
        objective: A function without arguments that returns the objective.
        grid: Coordinates, both ends included; 0:1:51 unless a tolerance is given.
        tolerance: Place points where the cost bends, until what lies between them is known to
            this share of the range of the cost (such as 1e-3).
        plan: Say what would be done, and what it would take, and do not do it.
        from_disk: Read the checkpoints tensor by tensor at every point, in the memory of one
            model and one tensor, rather than hold both.
        output: Where the record and the figure go; thalweg-runs/profile-A-B by default.
        trust_pickle: Load checkpoints that could run code.
        quiet: Show no progress bar.
    """
    from thalweg.evaluate import plan as planned
    from thalweg.evaluate import profile as evaluate
    from thalweg.factories import load_objective
    from thalweg.sections import Line

    cells = _coordinates(grid, "--grid", "0:1:51", tolerance)
    cost = load_objective(objective)
    ends = [_point(cost.space, path, from_disk, trust_pickle) for path in (a, b)]
    names = names_of((a, b))
    line = Line(ends[0], ends[1], labels=(names[0], names[1]))
    if plan:
        return _say_plan(planned(cost, line, cells))
    asked: dict[str, Any] = {"checkpoints": stated((a, b)), "objective": objective}
    asked |= {"grid": grid or "0:1:51"} if tolerance is None else {"tolerance": tolerance}
    folder = output or Path("thalweg-runs") / folder_name_of("profile", names)
    prepare(folder, "profile", asked)
    show = False if quiet else None
    result = evaluate(cost, line, cells, progress=show, keep=folder / "points")
    if rank_here() > 0:
        return 0
    numbers = _line_numbers(result)
    if numbers:
        say(
            "Between the two, the greatest climb is {climb:.4g} and the barrier {barrier:.4g} at "
            "alpha = {barrier_alpha:.3g}.".format(**numbers)
        )
    _say_interpolation(result)
    _print_table({"alpha": result.alpha}, result)
    keep("profile", f"From {names[0]} to {names[1]}", result, asked, numbers, folder)
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
    tolerance: Tolerance = None,
    plan: bool = False,
    from_disk: bool = False,
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
        tolerance: Place columns and rows where the cost bends, until what lies between them is
            known to this share of the range of the cost (such as 1e-2).
        plan: Say what would be done, and what it would take, and do not do it.
        from_disk: Read the checkpoints tensor by tensor at every point, in the memory of one
            model and one tensor, rather than hold all of them.
        normalize: How random directions are scaled to the network.
        seed: Seed of the random directions.
        output: Where the record and the figure go; thalweg-runs/surface-NAMES by default.
        trust_pickle: Load checkpoints that could run code.
        quiet: Show no progress bar.
    """
    import numpy as np

    from thalweg.evaluate import plan as planned
    from thalweg.evaluate import surface as evaluate
    from thalweg.factories import load_objective
    from thalweg.sections import Plane

    if len(checkpoints) not in (1, 3):
        raise ValueError(
            f"A surface needs one checkpoint or three; got {len(checkpoints)}. Give three for "
            "the plane through them, one for random directions around it."
        )
    through = len(checkpoints) == 3
    usual = "-0.5:1.5:25" if through else "-1:1:25"
    cells = [_coordinates(t, name, usual, tolerance) for t, name in ((x, "--x"), (y, "--y"))]
    cost = load_objective(objective)
    names = names_of(checkpoints)
    asked: dict[str, Any] = {"checkpoints": stated(checkpoints), "objective": objective}
    asked |= {"x": x or usual, "y": y or usual}
    asked |= {} if tolerance is None else {"tolerance": tolerance}
    if through:
        points = [_point(cost.space, path, from_disk, trust_pickle) for path in checkpoints]
        plane = Plane.through(*points, labels=(names[0], names[1], names[2]))
    else:
        asked |= {"normalize": normalize, "seed": seed}
        centre = cost.space.flatten(checkpoints[0], trust_pickle=trust_pickle)
        plane = Plane.random(cost.space, centre, normalize=normalize, seed=seed, label=names[0])
    if plan:
        return _say_plan(planned(cost, plane, *cells))
    folder = output or Path("thalweg-runs") / folder_name_of("surface", names)
    prepare(folder, "surface", asked)
    show = False if quiet else None
    result = evaluate(cost, plane, *cells, progress=show, keep=folder / "points")
    if rank_here() > 0:
        return 0
    _say_interpolation(result)
    across, up = np.meshgrid(result.x, result.y)
    _print_table({"x": across.ravel(), "y": up.ravel()}, result)
    keep("surface", "Around " + " and ".join(names), result, asked, {}, folder)
    return 0


def _point(space: "ParameterSpace", path: Path, from_disk: bool, trust_pickle: bool) -> "Anchor":
    """Return a checkpoint as a point, in memory or on disk."""
    if from_disk:
        from thalweg.stored import StoredPoint

        return StoredPoint(space, path)
    return space.flatten(path, trust_pickle=trust_pickle)


def _say_plan(planned: "Plan") -> int:
    """Print a plan; of several processes the first does."""
    if rank_here() == 0:
        print(planned)
    return 0


def _say_interpolation(result: "Profile | Surface") -> None:
    """Say how good the values between the points are, where points were placed for that."""
    between = result.interpolation
    if between is None:
        return
    enough = "" if between.converged else " More points than allowed would be needed."
    say(
        f"{next(iter(result.loss.values())).size} points; between them a {between.method} is "
        f"expected to err by {between.expected:.2g} at most. What is narrower than "
        f"{between.resolution:.2g} may have been missed.{enough}"
    )


def names_of(paths: Sequence[Path]) -> tuple[str, ...]:
    """Return short names for checkpoints: their stems, with the folder where those coincide."""
    names = [path.resolve().name if path.is_dir() else path.stem for path in paths]
    if len(set(names)) < len(names):
        names = [f"{path.resolve().parent.name}/{path.stem}" for path in paths]
    return tuple(n if len(n) <= 20 else f"{n[:9]}…{n[-10:]}" for n in names)


def folder_name_of(what: str, names: Sequence[str]) -> str:
    """Return a name for the folder of a result."""
    return "-".join([what, *(re.sub(r"[^\w.=+]+", "_", name) for name in names)])


def stated(paths: Sequence[Path]) -> list[dict[str, str]]:
    """Return name and checksum of each checkpoint."""
    return [{"file": path.resolve().name, "sha256": _digest(path)} for path in paths]


def _digest(path: Path) -> str:
    """Return the checksum of a file, or of the files in a folder."""
    if path.is_dir():
        files = sorted(part for part in path.iterdir() if part.is_file())
        told = "".join(f"{part.name} {_digest(part)}\n" for part in files)
        return hashlib.sha256(told.encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _coordinates(
    text: str, option: str, usual: str, tolerance: float | None
) -> "Uniform | Adaptive":
    """Read START:STOP:POINTS; with a tolerance, the points are those of the first grid."""
    parts = (text or usual).split(":")
    try:
        start, stop, points = float(parts[0]), float(parts[1]), int(parts[2])
        if len(parts) != 3:
            raise IndexError
    except (IndexError, ValueError) as error:
        raise ValueError(
            f"{option} is START:STOP:POINTS, such as -0.5:1.5:51; got {text!r}. "
            "Give two numbers and a count."
        ) from error
    if tolerance is None:
        return Uniform(start, stop, points)
    return Adaptive(tolerance, start, stop, points if text else 9)


def _line_numbers(result: "Profile") -> dict[str, float]:
    """Return the numbers of a line, or none where its loss has gaps."""
    from thalweg.measures.summaries import line_numbers

    try:
        return line_numbers(result)
    except ValueError as error:
        say(f"No measures: {error}")
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
