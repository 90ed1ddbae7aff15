"""From a random point to a solution: nothing on the way.

The random point is drawn from N(0, I) in the whole parameter space, far from where networks
are initialised. Were local minima common, the line from there to a solution should meet one;
Goodfellow, Vinyals & Saxe (2015) met none.

Expected: the cost falls from a huge value; the only minimum up to the solution is the solution.
"""

from thalweg.grids import Uniform
from thalweg.measures.summaries import line_numbers
from thalweg.studies.scales import trained_scales
from thalweg.studies.study import Claim, Outcome, Run, Study
from thalweg.studies.wording import fall_sentence

_GRID = [0.0, 2.0, 41]


def run(run: Run) -> Outcome:
    """Train once, and evaluate the cost from a random point to beyond the solution."""
    # Imported here, so that listing the studies does not load torch.
    from thalweg.evaluate import profile
    from thalweg.sections import Line
    from thalweg.studies import interpolation as study

    network = study.train_network(run, seed=run["seed"])
    origin = study.random_point(network.space, run["seed"] + 1000)
    line = Line(origin, network.solution, labels=("random point", "solution"))
    cost = study.cost_of(run, network)
    fall = profile(cost, line, Uniform(*run["grid"]), progress=run.report, keep=run.kept)
    numbers = line_numbers(fall) | {"parameters": network.space.size}
    return Outcome(
        {"line": fall, "run": network.history},
        numbers,
        (fall_sentence(numbers, "From a random point to the solution"),),
    )


STUDY = Study(
    name="interp-random-to-solution",
    title="From a random point to a solution: no other minimum",
    source="Goodfellow, Vinyals & Saxe (2015), figure 5 right",
    run=run,
    scales=trained_scales(
        "RELU",
        smoke={"grid": _GRID},
        small={"grid": _GRID},
        paper={"grid": [0.0, 2.0, 181]},
    ),
    claims=(
        Claim(
            "No minimum lies between the random point and the solution (deeper than 0.1 % of "
            "the range).",
            lambda n: n["minima"] == 0,
            "{minima:.0f} minima",
        ),
        Claim(
            "The cost falls all the way (greatest climb at most 0.1 % of the range).",
            lambda n: n["climb_share"] <= 1e-3,
            "greatest climb {climb:.3g}, {climb_share:.3%} of the range",
        ),
    ),
)
