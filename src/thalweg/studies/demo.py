"""The main job on real data in seconds: what does training on handwritten digits look like?

A ReLU network (64-64-64-10) is trained twice on the 8 by 8 digits that come with scikit-learn,
and both runs are recorded, one point an epoch. The total cost is then looked at as Goodfellow,
Vinyals & Saxe (2015) looked at theirs: along the line from start to solution, between the two
solutions, from a random point, at high resolution near both ends, on the plane through the start
and both solutions, and on the surface that holds the line and the run. How far the runs stray
from their lines is seen beside a random walk. At the end the first run is diagnosed: what stood in
its way, with the evidence.

Expected: the cost falls all the way; the solutions are separated by a barrier; nothing else, not
even between the line and the run, which goes around nothing.
"""

import math
from typing import Any

from thalweg.grids import Uniform
from thalweg.measures.displacement import greatest_distance, least_captured_share
from thalweg.measures.run_surfaces import obstacle_beside_line
from thalweg.measures.summaries import line_numbers, share_at_the_bottom, window_numbers
from thalweg.results.diagnosis_table import headline
from thalweg.studies.study import Claim, Outcome, Run, Study
from thalweg.studies.wording import barrier_sentence, fall_sentence, window_sentence


def run(run: Run) -> Outcome:
    """Train twice and take every picture."""
    # Imported here, so that listing the studies does not load torch.
    import torch

    from thalweg.diagnosis import diagnose
    from thalweg.evaluate import profile, surface
    from thalweg.probes.displacement import displacement
    from thalweg.probes.run_surface import ruled_surface
    from thalweg.sections import Line, Plane
    from thalweg.studies import interpolation as study

    (first, run_a), (second, run_b) = (
        study.train_recorded(run, seed=2 * run["seed"] + k, updates=True) for k in (0, 1)
    )
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
    other = Line(second.start, second.solution, labels=("start B", "solution B"))
    strays = {
        "displacement-a": displacement(run_a, descent, progress=run.report),
        "displacement-b": displacement(run_b, other, progress=run.report),
    }
    training_cost = study.cost_of(run, first, splits=("train",))
    around = ruled_surface(training_cost, run_a, descent, across=run["across"], **how)
    found = diagnose(cost, run_a, floor=0.0, progress=run.report)
    numbers: dict[str, Any] = (
        line_numbers(lines["start-to-solution"])
        | line_numbers(lines["between-solutions"], "between_")
        | line_numbers(lines["random-to-solution"], "random_")
        | window_numbers(lines["near-start"], "near_start_")
        | window_numbers(lines["near-solution"], "near_solution_")
    )
    numbers["bottom_share"] = share_at_the_bottom(first.history)
    true = around.run.loss["train"]
    numbers["obstacle_share"] = float(
        obstacle_beside_line(around).max() / (true.max() - true.min())
    )
    for name, seen in zip("ab", strays.values(), strict=True):
        numbers[f"distance_{name}"] = greatest_distance(seen, share=True)
        numbers[f"captured_{name}"] = least_captured_share(seen)
    numbers["parameters"] = first.space.size
    numbers["primary"] = found.primary or "none"
    best = int(first.history.best or 0)
    numbers["valid_error"] = float(first.history.metrics["error"]["valid"][best])
    return Outcome(
        {
            **lines,
            "plane": map_of_plane,
            **strays,
            "line-and-run": around,
            "run": first.history,
            "diagnosis": found,
        },
        numbers,
        (*_summary(numbers), f"What stood in the way of the first run? {headline(found)}"),
    )


def _summary(numbers: dict[str, Any]) -> tuple[str, ...]:
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
        f"The runs strayed from their lines by {numbers['distance_a']:.0%} and "
        f"{numbers['distance_b']:.0%} of the lengths of these; between line and run the cost of "
        f"the first rises by {numbers['obstacle_share']:.2%} of its range at most.",
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
            "across": 21,
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
            "No obstacle stands between the line and the run (at most 1 % of the range).",
            lambda n: n["obstacle_share"] <= 1e-2,
            "{obstacle_share:.2%} of the range",
        ),
        Claim(
            "High resolution shows no bump in the first and the last hundredth of the line.",
            lambda n: n["near_start_bumps"] == 0 and n["near_solution_bumps"] == 0,
            "{near_start_bumps:.0f} and {near_solution_bumps:.0f} bumps",
        ),
    ),
)
