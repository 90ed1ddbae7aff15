"""Factored linear networks: the cost around the run, where the formula is known.

The smallest deep networks: y = w₁ w₂ … w_n x, trained so that x = 1 gives 1, with the cost
(1 − Π wᵢ)². Although it is linear in x the cost is not convex, and it has saddles and plateaus
like those of real networks; Goodfellow, Vinyals & Saxe (2015) draw it to show that the run of
gradient descent bends away from the line to its end, and that nothing stands between the two.

Gradient descent with small steps starts at weights of opposite signs, so that it has to pass by
the saddle at the origin. The ruled surface around each run (depths 2, 3 and 5) holds line and
run; for depth 2 the plane is the whole space, so its picture must agree with it.

Expected: no obstacle between line and run, the cost falls along both, and what gradient flow
conserves (wᵢ² − wⱼ²) is conserved. Measured (scale `paper`): exactly none at every depth.
"""

import math
from typing import Any

from thalweg.grids import Uniform
from thalweg.measures.run_surfaces import leaving, obstacle_beside_line
from thalweg.results import RunSurface
from thalweg.studies.study import Claim, Outcome, Run, Study
from thalweg.studies.wording import number

_STARTS = {
    2: (0.3, -0.2),
    3: (1.2, -0.3, 0.8),
    5: (0.9, -0.4, 0.6, 1.1, 0.8),
}
_DEPTHS = tuple(_STARTS)


def run(run: Run) -> Outcome:
    """Descend at every depth, and draw the cost around the runs."""
    # Imported here, so that listing the studies does not load torch.
    import torch

    from thalweg.evaluate import surface
    from thalweg.functions import chain as factors
    from thalweg.probes.run_surface import ruled_surface, run_plane
    from thalweg.sections import Plane

    how: Any = {"progress": run.report, "keep": run.kept}
    results: dict[str, Any] = {}
    numbers: dict[str, float] = {}
    for depth in _DEPTHS:
        chain = factors(depth)
        trajectory = _descend(chain, _STARTS[depth], run["rate"], run["points"])
        size = run["across"]
        ruled = ruled_surface(chain, trajectory, across=size, curvature=True, **how)
        results[f"ruled-{depth}"] = ruled
        numbers |= _numbers(ruled, f"depth{depth}_")
        start, end = trajectory[0].theta, trajectory[-1].theta
        kept = end.square() - end[0].square() - (start.square() - start[0].square())
        numbers[f"depth{depth}_drift"] = float(kept.abs().max())
        steep = 1 / end
        product = chain.hvp(end, steep / steep.norm())
        expected = 2 * float(steep.square().sum())
        numbers[f"depth{depth}_sharpness_error"] = float(product.norm()) / expected - 1
        if depth == 2:
            plane = run_plane(chain, trajectory, along=size, across=size, **how)
            origin, one, two = torch.zeros(2), *torch.eye(2)
            plain = Plane((origin, one, two), False, ("saddle",))
            side = Uniform(-2, 2, run["side"])
            results |= {"plane-2": plane, "space-2": surface(chain, plain, side, side, **how)}
            numbers["plane_off"] = float(plane.run.off.max())
            numbers["end_error"] = _end_error(start, end)
    return Outcome(results, numbers, _summary(numbers))


def _descend(chain: Any, start: tuple[float, ...], rate: float, points: int) -> Any:
    """Return points of gradient descent that are evenly apart along its path."""
    import numpy as np
    import torch

    from thalweg.trajectory.trajectory import Trajectory

    path = [chain.point(start)]
    while chain.value(path[-1]) > 1e-6:
        path.append(path[-1] - rate * chain.gradient(path[-1]))
    theta = torch.stack(path)
    length = np.append(0, np.cumsum(theta.diff(dim=0).norm(dim=1).numpy()))
    steps = np.searchsorted(length, np.linspace(0, length[-1] * (1 - 1e-12), points))
    chosen = theta[torch.from_numpy(steps)]
    run = Trajectory.from_points(chosen, learning_rate=rate)
    run.step[:] = steps
    return run


def _numbers(surface: RunSurface, prefix: str) -> dict[str, float]:
    """Boil a ruled surface down to numbers."""
    true = surface.run.loss[surface.first_split]
    line = surface.line_loss[surface.first_split]
    span = float(true.max() - true.min())
    away = surface.curvature[leaving(surface)]
    numbers = {
        "loss_start": true[0],
        "loss_end": true[-1],
        "obstacle_share": obstacle_beside_line(surface).max() / span,
        "run_rise_share": max(0.0, float((true[1:] - true[:-1]).max())) / span,
        "line_rise_share": max(0.0, float((line[1:] - line[:-1]).max())) / span,
        "distance_share": surface.run.distance.max() / (surface.length or math.nan),
        "curvature_least": away.min(),
        "curvature_most": away.max(),
    }
    return {prefix + name: float(value) for name, value in numbers.items()}


def _end_error(start: Any, end: Any) -> float:
    """Return how far the end is from that of gradient flow, w₁² = (c + √(c² + 4))/2."""
    first, second = (float(w) for w in start)
    conserved = first**2 - second**2
    expected = math.sqrt((conserved + math.sqrt(conserved**2 + 4)) / 2)
    return abs(float(end[0]) - expected)


def _summary(numbers: dict[str, float]) -> tuple[str, ...]:
    """Say what was found."""
    found = [numbers[f"depth{depth}_obstacle_share"] for depth in _DEPTHS]
    away = [100 * numbers[f"depth{depth}_distance_share"] for depth in _DEPTHS]
    least = [numbers[f"depth{depth}_curvature_least"] for depth in _DEPTHS]
    return (
        "Gradient descent on factored linear networks of depths 2, 3 and 5 leaves the line to its "
        f"end by {', '.join(f'{share:.0f} %' for share in away)} of its length.",
        "Between line and run the cost rises by at most "
        f"{number(max(found))} of its range: there is no obstacle.",
        "Where the runs leave the line, the curvature across it is at least "
        f"{', '.join(number(value) for value in least)}: they leave because the gradient points "
        "aside, not because the line runs along a ridge.",
    )


def _of_every_depth(numbers: Any, name: str, bound: float) -> bool:
    """Tell whether a number is within a bound at every depth."""
    return all(abs(numbers[f"depth{depth}_{name}"]) <= bound for depth in _DEPTHS)


STUDY = Study(
    name="surface-factored-linear",
    title="Factored linear networks: nothing between the line and the run",
    source="Goodfellow, Vinyals & Saxe (2015), section 5 and slides; Saxe et al. (2014)",
    run=run,
    scales={
        "smoke": {"rate": 0.01, "points": 41, "across": 21, "side": 41},
        "small": {"rate": 0.002, "points": 61, "across": 41, "side": 81},
        "paper": {"rate": 0.0005, "points": 121, "across": 81, "side": 161},
    },
    claims=(
        Claim(
            "No obstacle stands between line and run at depths 2, 3 and 5 (at most 0.1 % of the "
            "range).",
            lambda n: _of_every_depth(n, "obstacle_share", 1e-3),
            "{depth2_obstacle_share:.2g}, {depth3_obstacle_share:.2g} and "
            "{depth5_obstacle_share:.2g} of the range",
        ),
        Claim(
            "The cost falls along every run and along every line.",
            lambda n: (
                _of_every_depth(n, "run_rise_share", 0) and _of_every_depth(n, "line_rise_share", 0)
            ),
            "greatest rise of a line {depth2_line_rise_share:.2g}, {depth3_line_rise_share:.2g}, "
            "{depth5_line_rise_share:.2g} of the range",
        ),
        Claim(
            "The run bends away from its line (by 5 % of its length or more).",
            lambda n: all(n[f"depth{depth}_distance_share"] >= 0.05 for depth in _DEPTHS),
            "{depth2_distance_share:.1%}, {depth3_distance_share:.1%}, {depth5_distance_share:.1%}",
        ),
        Claim(
            "For two weights the plane is the space: no point of the run is off it.",
            lambda n: n["plane_off"] <= 1e-12,
            "at most {plane_off:.2g}",
        ),
        Claim(
            "Gradient flow conserves the differences of squared weights, so the end is known for "
            "two weights (both within 0.02, for the steps are finite).",
            lambda n: n["end_error"] <= 0.02 and _of_every_depth(n, "drift", 0.02),
            "end {end_error:.2g} off; drift {depth2_drift:.2g}, {depth3_drift:.2g}, "
            "{depth5_drift:.2g}",
        ),
        Claim(
            "At a solution the one curvature that is not zero is 2 Σ 1/w² (within 1 %).",
            lambda n: _of_every_depth(n, "sharpness_error", 0.01),
            "errors {depth2_sharpness_error:.2g}, {depth3_sharpness_error:.2g}, "
            "{depth5_sharpness_error:.2g}",
        ),
    ),
)
