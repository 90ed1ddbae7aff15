"""The cost between the line and the run, as the studies of several networks ask for it."""

import math
from typing import TYPE_CHECKING, Any

from thalweg.measures.run_surfaces import leaving, obstacle_beside_line
from thalweg.results import RunSurface
from thalweg.studies.study import Claim, Outcome, Run
from thalweg.studies.wording import number

if TYPE_CHECKING:
    from thalweg.studies.trainings import Training

__all__ = ["CLEAR_WAY", "FALLING_RUN", "LOWER_THAN_LINE", "run_surface"]

CLEAR_WAY = Claim(
    "No obstacle stands between line and run (at most 1 % of the range).",
    lambda n: n["obstacle_share"] <= 1e-2,
    "{obstacle:.2g}, {obstacle_share:.2%} of the range",
)
FALLING_RUN = Claim(
    "The total cost falls along the run, epoch by epoch (climbs of at most 1 % of the range).",
    lambda n: n["run_climb_share"] <= 1e-2,
    "greatest climb {run_climb_share:.2%} of the range",
)
LOWER_THAN_LINE = Claim(
    "The run is at a lower cost than the line beside it (at nine of ten epochs or more).",
    lambda n: n["below_line"] >= 0.9,
    "at {below_line:.0%} of the epochs",
)


def run_surface(run: Run, made: "Training") -> Outcome:
    """Train a network, and draw the cost between its line and its run.

    Args:
        run: Settings: `across` and `side` are numbers of points, `curvature` says whether to
            measure the curvature across the line.
        made: The training of its seed.
    """
    # Imported here, so that listing the studies does not load torch.
    from thalweg.probes.principal_surface import principal_surface
    from thalweg.probes.run_surface import ruled_surface, run_plane
    from thalweg.sections import Line
    from thalweg.studies import interpolation as study

    done, trajectory = study.train_recorded(run, seed=run["seed"], training=made)
    best = int(done.history.best or 0)
    line = Line(done.start, done.solution, labels=("start", "solution"))
    cost = made.cost(("train",))
    how: Any = {"progress": run.report, "keep": run.kept}
    side = {"along": run["side"], "across": run["across"]}
    ruled = ruled_surface(
        cost, trajectory, line, across=run["across"], curvature=run["curvature"], **how
    )
    plane = run_plane(cost, trajectory, line, **side, **how)
    principal = principal_surface(cost, trajectory, "mean", **side, **how)
    reading = next(iter(done.history.metrics))
    numbers = _numbers(ruled) | {
        "parameters": done.space.size,
        "epochs": len(trajectory) - 1,
        "best_epoch": best,
        f"valid_{reading}": float(done.history.metrics[reading]["valid"][best]),
        "plane_off_share": float(plane.run.off.max() / plane.run.distance.max()),
        "explained_first": float(principal.explained[0]),
        "explained_second": float(principal.explained[1]),
    }
    results: dict[str, Any] = {
        "ruled": ruled,
        "plane": plane,
        "principal": principal,
        "run": done.history,
    }
    return Outcome(results, numbers, _summary(numbers))


def _numbers(surface: RunSurface) -> dict[str, float]:
    """Boil a ruled surface down to numbers."""
    true = surface.run.loss[surface.first_split]
    line = surface.line_loss[surface.first_split]
    span = float(true.max() - true.min())
    obstacle = obstacle_beside_line(surface)
    rise = true - [true[: t + 1].min() for t in range(len(true))]
    numbers = {
        "loss_start": true[0],
        "loss_lowest": true.min(),
        "obstacle": obstacle.max(),
        "obstacle_share": obstacle.max() / span,
        "obstacle_epochs": int((obstacle > 1e-2 * span).sum()),
        "run_climb_share": rise.max() / span,
        "below_line": float((true[1:] <= line[1:] + 1e-3 * span).mean()),
        "line_climb_share": _climb(line) / span,
        "distance_share": surface.run.distance.max() / (surface.length or 1.0),
    }
    away = surface.curvature[leaving(surface)] if len(surface.curvature) else surface.curvature
    if len(away):
        numbers |= {
            "leaving": len(away),
            "leaving_negative": int((away < 0).sum()),
            "curvature_first": surface.curvature[0],
            "curvature_least": away.min(),
            "curvature_most": away.max(),
        }
    return {name: float(value) for name, value in numbers.items()}


def _climb(values: Any) -> float:
    """Return the greatest climb along the line, from epoch to epoch."""
    lowest, climb = math.inf, 0.0
    for value in values:
        lowest = min(lowest, float(value))
        climb = max(climb, float(value) - lowest)
    return climb


def _summary(numbers: dict[str, float]) -> tuple[str, ...]:
    """Say what was found."""
    n = numbers
    said = [
        f"In {n['epochs']:.0f} epochs a network with {n['parameters']:,.0f} parameters went from a "
        f"cost of {number(n['loss_start'])} to {number(n['loss_lowest'])}, up to "
        f"{n['distance_share']:.0%} of the length of the line away from it.",
        f"Between line and run the cost rises by {number(n['obstacle'])} at most "
        f"({n['obstacle_share']:.2%} of the range).",
    ]
    if "leaving" in n:
        said.append(
            f"While it left the line, the curvature across was between "
            f"{number(n['curvature_least'])} and {number(n['curvature_most'])}, negative at "
            f"{n['leaving_negative']:.0f} of {n['leaving']:.0f} epochs."
        )
    said.append(
        f"A plane hides up to {n['plane_off_share']:.0%} of the distance from the line; two "
        f"principal components explain {n['explained_first'] + n['explained_second']:.0%} of the "
        "run's scatter, those of a random walk 76 %."
    )
    return tuple(said)
