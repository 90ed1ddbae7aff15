"""The command that says what stands in the way of a recorded run: `diagnose`."""

import hashlib
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from thalweg.cli.folders import OwnFolder, keep, prepare
from thalweg.cli.sections import Factory, folder_name_of, names_of, stated

if TYPE_CHECKING:
    from thalweg.objectives.objective import Objective
    from thalweg.results import Diagnosis
    from thalweg.trajectory.trajectory import Trajectory

__all__ = ["diagnose"]

_SHAPES = 6  # of tensors that an error lists

RunFolder = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
Reference = Annotated[Path | None, tyro.conf.arg(metavar="CHECKPOINT")]


def diagnose(
    run: RunFolder,
    /,
    *,
    objective: Factory,
    reference: Reference = None,
    floor: float | None = None,
    exact: bool = False,
    examples: int | None = None,
    seed: int = 0,
    output: OwnFolder = None,
    trust_pickle: bool = False,
    quiet: bool = False,
) -> int:
    """Say what stands between a recorded run and a low cost, with the evidence; print a table.

    Args:
        run: The folder that the run was recorded to.
        objective: A function without arguments that returns the objective.
        reference: Parameters of a better point, such as the end of another run.
        floor: A cost that is known to be reachable, or to bound the cost from below.
        exact: Use all of the data for every number.
        examples: Take gradients and curvatures from this many examples, drawn at random.
        seed: Seed of that draw.
        output: Where the record and the figure go; thalweg-runs/diagnosis-RUN by default.
        trust_pickle: Load a reference that could run code.
        quiet: Show no progress bar.
    """
    from thalweg.diagnosis import diagnose as compute
    from thalweg.factories import load_objective
    from thalweg.trajectory.trajectory import Trajectory

    if floor is not None and not math.isfinite(floor):
        raise ValueError(
            f"--floor is a cost, a finite number; got {floor}. Leave it out where none is known."
        )
    if examples is not None and (examples < 1 or exact):
        raise ValueError(
            f"--examples is 1 or more, and not given with --exact, which takes all; got {examples}"
            f"{' and --exact' if exact else ''}. Leave one of them out."
        )
    trajectory = Trajectory.open(run)
    cost = load_objective(objective)
    _expect_same_parameters(cost, trajectory, run)
    (name,) = names_of((run,))
    asked: dict[str, Any] = {"run": _stated_run(run, trajectory), "objective": objective}
    asked |= {"floor": floor, "exact": exact}
    asked |= {"reference": stated((reference,))} if reference else {}
    some: dict[str, int] = {} if examples is None else {"examples": examples, "seed": seed}
    asked |= some
    folder = output or Path("thalweg-runs") / folder_name_of("diagnosis", (name,))
    prepare(folder, "diagnosis", asked)
    better = cost.space.flatten(reference, trust_pickle=trust_pickle) if reference else None
    result: Diagnosis = compute(
        cost,
        trajectory,
        reference=better,
        floor=floor,
        exact=exact,
        progress=False if quiet else None,
        **some,
    )
    print(result)
    title = f"What stands in the way of {name}"
    keep("diagnosis", title, result, asked, _numbers(result), folder)
    return 0


def _expect_same_parameters(cost: "Objective", trajectory: "Trajectory", run: Path) -> None:
    """Raise unless the run has the parameters of the cost, whatever their names."""
    from thalweg.errors import ParameterMismatchError

    if len(trajectory) == 0:
        raise ValueError(
            f"A diagnosis needs a run with recorded points; {run} has none. Record some."
        )
    have = [tuple(block.shape) for block in cost.space.blocks]
    recorded = trajectory.space
    known = have if recorded is None else [tuple(block.shape) for block in recorded.blocks]
    if trajectory.points.size != cost.space.size or known != have:
        raise ParameterMismatchError(
            f"The run and the objective must have the same parameters; {run} has "
            f"{trajectory.points.size} in tensors of {_some(known)}, the objective "
            f"{cost.space.size} in tensors of {_some(have)}. Let the factory make the model that "
            "was trained."
        )


def _some(shapes: list[tuple[int, ...]]) -> str:
    """Return the first shapes of some."""
    more = ", …" if len(shapes) > _SHAPES else ""
    return ", ".join(map(str, shapes[:_SHAPES])) + more


def _stated_run(run: Path, trajectory: "Trajectory") -> dict[str, Any]:
    """Return what identifies a run: its name, and what its index says of every point."""
    from thalweg.trajectory.store import INDEX

    digest = hashlib.sha256((run / INDEX).read_bytes()).hexdigest()
    return {"folder": run.resolve().name, "points": len(trajectory), "sha256": digest}


def _numbers(result: "Diagnosis") -> dict[str, Any]:
    """Return what a diagnosis boils down to."""
    numbers: dict[str, Any] = {"primary": result.primary or "none", "floor": result.floor}
    numbers["possible"] = result.possible
    for finding in result.present:
        numbers[f"{finding.obstacle}_severity"] = finding.severity
    return numbers
