"""A ReLU network on its way: the cost between the line and the run.

The line from start to solution is smooth (`interp-relu`), but training does not go along it. Is
that because something stands in the way beside the line, or does the run bend around nothing?
The ruled surface holds the line and the run, one ruling an epoch, so the question has an answer
at every epoch: the cost on the straight way from the line to the run.

Goodfellow, Vinyals & Saxe (2015) show surfaces of this kind. They find no obstacle for most
networks, and for adversarially trained maxout networks obstacles that the run goes around, along
directions of negative curvature.

Expected: no obstacle between line and run; the total cost falls along the run. The curvature
across the line, where the run leaves it, is measured. Measured at scale `smoke` (digits, seeds 0
to 3): no obstacle at any epoch; curvature across negative at 12 to 15 of the 14 to 17 epochs in
which the run left the line; but the cost of the run climbs in between, by 0.9, 2.1, 2.3 and 1.2 %
of its range, so that it falls in the stated sense for seed 0 alone. Measured at scale `small`
(MNIST, seed 0): no obstacle, a falling cost, and negative curvature across at 2 of the 3 epochs in
which the run left the line.
"""

from typing import Any

from thalweg.measures.run_surfaces import leaving, obstacle_beside_line
from thalweg.results import RunSurface
from thalweg.studies.scales import trained_scales
from thalweg.studies.study import Claim, Outcome, Run, Study
from thalweg.studies.wording import number


def run(run: Run) -> Outcome:
    """Train a network, and draw the cost between its line and its run."""
    # Imported here, so that listing the studies does not load torch.
    from thalweg.probes.principal_surface import principal_surface
    from thalweg.probes.run_surface import ruled_surface, run_plane
    from thalweg.sections import Line
    from thalweg.studies import interpolation as study

    done, trajectory = study.train_recorded(run, seed=run["seed"])
    best = int(done.history.best or 0)
    line = Line(done.start, done.solution, labels=("start", "solution"))
    cost = study.cost_of(run, done, splits=("train",))
    how: Any = {"progress": run.report, "keep": run.kept}
    side = {"along": run["side"], "across": run["across"]}
    ruled = ruled_surface(cost, trajectory, line, across=run["across"], curvature=True, **how)
    plane = run_plane(cost, trajectory, line, **side, **how)
    principal = principal_surface(cost, trajectory, "mean", **side, **how)
    numbers = _numbers(ruled) | {
        "parameters": done.space.size,
        "epochs": len(trajectory) - 1,
        "best_epoch": best,
        "valid_error": float(done.history.metrics["error"]["valid"][best]),
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
    away = surface.curvature[leaving(surface)]
    rise = true - [true[: t + 1].min() for t in range(len(true))]
    numbers = {
        "loss_start": true[0],
        "loss_lowest": true.min(),
        "obstacle": obstacle_beside_line(surface).max(),
        "obstacle_share": obstacle_beside_line(surface).max() / span,
        "run_climb_share": rise.max() / span,
        "below_line": float((true[1:] <= line[1:] + 1e-3 * span).mean()),
        "distance_share": surface.run.distance.max() / (surface.length or 1.0),
        "leaving": len(away),
        "leaving_negative": int((away < 0).sum()),
        "curvature_first": surface.curvature[0],
        "curvature_least": away.min(),
        "curvature_most": away.max(),
    }
    return {name: float(value) for name, value in numbers.items()}


def _summary(numbers: dict[str, float]) -> tuple[str, ...]:
    """Say what was found."""
    n = numbers
    return (
        f"In {n['epochs']:.0f} epochs a network with {n['parameters']:,.0f} parameters went from a "
        f"cost of {number(n['loss_start'])} to {number(n['loss_lowest'])}, up to "
        f"{n['distance_share']:.0%} of the length of the line away from it.",
        f"Between line and run the cost rises by {number(n['obstacle'])} at most "
        f"({n['obstacle_share']:.2%} of the range).",
        f"While it left the line, the curvature across was between {number(n['curvature_least'])} "
        f"and {number(n['curvature_most'])}, negative at {n['leaving_negative']:.0f} of "
        f"{n['leaving']:.0f} epochs.",
        f"A plane hides up to {n['plane_off_share']:.0%} of the distance from the line; two "
        f"principal components explain {n['explained_first'] + n['explained_second']:.0%} of the "
        "run's scatter, those of a random walk 76 %.",
    )


STUDY = Study(
    name="surface-relu",
    title="ReLU network: what stands between the line and the run",
    source="Goodfellow, Vinyals & Saxe (2015), figure 7 right and slides",
    run=run,
    scales=trained_scales(
        "RELU",
        smoke={"epochs": 40, "across": 21, "side": 15},
        small={"epochs": 12, "across": 13, "side": 11},
        paper={"across": 41, "side": 41},
    ),
    claims=(
        Claim(
            "No obstacle stands between line and run (at most 1 % of the range).",
            lambda n: n["obstacle_share"] <= 1e-2,
            "{obstacle:.2g}, {obstacle_share:.2%} of the range",
        ),
        Claim(
            "The total cost falls along the run, epoch by epoch (climbs of at most 1 % of the "
            "range).",
            lambda n: n["run_climb_share"] <= 1e-2,
            "greatest climb {run_climb_share:.2%} of the range",
        ),
        Claim(
            "The run is at a lower cost than the line beside it (at nine of ten epochs or more).",
            lambda n: n["below_line"] >= 0.9,
            "at {below_line:.0%} of the epochs",
        ),
    ),
)
