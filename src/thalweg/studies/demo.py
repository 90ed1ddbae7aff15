"""The main job on real data in seconds: what does training on handwritten digits look like?

A ReLU network (64-64-64-10) is trained twice on the 8 by 8 digits that come with scikit-learn.
The total cost is then looked at as Goodfellow, Vinyals & Saxe (2015) looked at theirs: along
the line from start to solution, between the two solutions, from a random point, at high
resolution near both ends, and on the plane through the start and both solutions.

Expected: the cost falls all the way; the solutions are separated by a barrier; nothing else.
"""

import math
from typing import Any

from thalweg.grids import Uniform
from thalweg.measures.summaries import line_numbers, share_at_the_bottom, window_numbers
from thalweg.studies.study import Claim, Outcome, Run, Study
from thalweg.studies.wording import barrier_sentence, fall_sentence, window_sentence


def run(run: Run) -> Outcome:
    """Train twice and take every picture."""
    # Imported here, so that listing the studies does not load torch.
    import torch

    from thalweg.evaluate import profile, surface
    from thalweg.sections import Line, Plane
    from thalweg.studies import interpolation as study

    first, second = (study.train_network(run, seed=2 * run["seed"] + k) for k in (0, 1))
    cost = study.cost_of(run, first)
    precise = study.cost_of(run, first, splits=("train",), dtype=torch.float64)
    origin = study.random_point(first.space, run["seed"] + 1000)
    descent = Line(first.start, first.solution, labels=("start", "solution A"))
    between = Line(first.solution, second.solution, labels=("solution A", "solution B"))
    outside = Line(origin, first.solution, labels=("random point", "solution A"))
    plane = Plane.through(
        first.start, first.solution, second.solution, labels=("start", "solution A", "solution B")
    )
    how: Any = {"progress": run.report, "keep": run.kept}
    points = run["points"]
    lines = {
        "start-to-solution": profile(cost, descent, Uniform(-0.25, 1.75, points), **how),
        "between-solutions": profile(cost, between, Uniform(-0.5, 1.5, points), **how),
        "random-to-solution": profile(cost, outside, Uniform(0, 1.5, points), **how),
        "near-start": profile(precise, descent, Uniform(0, 0.01, run["zoom"]), **how),
        "near-solution": profile(precise, descent, Uniform(0.99, 1, run["zoom"]), **how),
    }
    side = Uniform(-0.3, 1.4, run["side"])
    map_of_plane = surface(precise, plane, side, side, **how)
    numbers = (
        line_numbers(lines["start-to-solution"])
        | line_numbers(lines["between-solutions"], "between_")
        | line_numbers(lines["random-to-solution"], "random_")
        | window_numbers(lines["near-start"], "near_start_")
        | window_numbers(lines["near-solution"], "near_solution_")
    )
    numbers["bottom_share"] = share_at_the_bottom(first.history)
    numbers["parameters"] = first.space.size
    best = int(first.history.best or 0)
    numbers["valid_error"] = float(first.history.metrics["error"]["valid"][best])
    return Outcome(
        {**lines, "plane": map_of_plane, "run": first.history}, numbers, _summary(numbers)
    )


def _summary(numbers: dict[str, float]) -> tuple[str, ...]:
    """Say what was found."""
    smooth = numbers["climb"] == 0 and numbers["near_solution_bumps"] == 0
    reason = "; no obstacle on the line explains why they were needed" if smooth else ""
    return (
        f"A network with {numbers['parameters']:,.0f} parameters learned handwritten digits twice "
        f"(validation error {numbers['valid_error']:.1%}).",
        fall_sentence(numbers, "From start to solution"),
        f"{numbers['bottom_share']:.0%} of the epochs were spent at the bottom of the valley, "
        f"after nine tenths of the fall{reason}.",
        barrier_sentence(numbers, "between_"),
        fall_sentence(numbers, "From a random point to the solution", "random_"),
        window_sentence(numbers, "In the first hundredth of the line", "near_start_"),
        window_sentence(numbers, "In the last hundredth of the line", "near_solution_"),
    )


STUDY = Study(
    name="demo",
    title="What stands between the optimiser and a low cost? Two runs on handwritten digits",
    source="Goodfellow, Vinyals & Saxe (2015), figures 1, 4 and 5",
    run=run,
    scales={
        "smoke": {
            "recipe": "RELU_WITHOUT_DROPOUT",
            "data": "digits",
            "hidden": [64, 64],
            "init_ranges": [0.1, 0.1, 0.0],
            "epochs": 100,
            "points": 81,
            "zoom": 200,
            "side": 41,
        },
    },
    claims=(
        Claim(
            "The cost starts at ln 10, for the output weights start at zero.",
            lambda n: abs(n["loss_start"] - math.log(10)) <= 1e-6,
            "{loss_start:.7f} against 2.3025851",
        ),
        Claim(
            "The cost falls all the way from start to solution "
            "(greatest climb at most 0.1 % of the range).",
            lambda n: n["climb_share"] <= 1e-3,
            "greatest climb {climb:.3g}",
        ),
        Claim(
            "Most epochs are spent at the bottom of the valley (half of them or more after "
            "nine tenths of the fall).",
            lambda n: n["bottom_share"] >= 0.5,
            "{bottom_share:.0%} of the epochs",
        ),
        Claim(
            "A barrier separates the two solutions (at least 1 % of the range), and no minimum "
            "lies between them.",
            lambda n: n["between_barrier"] >= 0.01 * n["between_span"] and n["between_minima"] == 0,
            "height {between_barrier:.3g}, {between_minima:.0f} minima between them",
        ),
        Claim(
            "No minimum lies between a random point and the solution.",
            lambda n: n["random_minima"] == 0,
            "{random_minima:.0f} minima",
        ),
        Claim(
            "High resolution shows no bump in the first and the last hundredth of the line.",
            lambda n: n["near_start_bumps"] == 0 and n["near_solution_bumps"] == 0,
            "{near_start_bumps:.0f} and {near_solution_bumps:.0f} bumps",
        ),
    ),
)
