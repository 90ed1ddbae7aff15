"""Between two solutions: each is a minimum of its own.

Two runs of the same network differ in the seed of everything: weights, dropout masks, order
of the mini-batches. On the straight line through both solutions Goodfellow, Vinyals & Saxe
(2015) find a barrier between them, and no minimum but the two: they seem to be different ways
of breaking the symmetry of the saddle at the origin, not solutions of different quality.

Expected: a barrier of the height of the initial cost or more, no minimum in its middle, and
two solutions of the same quality.
"""

from thalweg.grids import Uniform
from thalweg.measures.summaries import line_numbers
from thalweg.studies.scales import trained_scales
from thalweg.studies.study import Claim, Outcome, Run, Study
from thalweg.studies.wording import barrier_sentence


def run(run: Run) -> Outcome:
    """Train twice, and evaluate the cost from beyond one solution to beyond the other."""
    # Imported here, so that listing the studies does not load torch.
    from thalweg.evaluate import profile
    from thalweg.measures.profiles import interior_minima
    from thalweg.sections import Line
    from thalweg.studies import interpolation as study

    first, second = (study.train_network(run, seed=2 * run["seed"] + k) for k in (0, 1))
    line = Line(first.solution, second.solution, labels=("solution A", "solution B"))
    cost = study.cost_of(run, first)
    between = profile(cost, line, Uniform(*run["grid"]), progress=run.report, keep=run.kept)
    numbers = line_numbers(between)
    assert between.ends is not None
    errors = between.ends.metrics["error"]["valid"]
    everywhere = interior_minima(between, tolerance=1e-3 * numbers["span"])
    numbers |= {
        "minima_on_line": len(everywhere),
        "farthest_minimum": max(
            (min(abs(m.alpha), abs(m.alpha - 1)) for m in everywhere), default=0.0
        ),
        "error_a": float(errors[0]),
        "error_b": float(errors[1]),
        "loss_untrained": cost.value(first.start),
        "parameters": first.space.size,
    }
    return Outcome(
        {"line": between, "run-a": first.history, "run-b": second.history},
        numbers,
        (
            barrier_sentence(numbers),
            f"Their validation errors are {errors[0]:.2%} and {errors[1]:.2%}.",
        ),
    )


_GRID = [-1.0, 2.0, 61]

STUDY = Study(
    name="interp-two-solutions",
    title="Two solutions: a barrier between them, and no other minimum",
    source="Goodfellow, Vinyals & Saxe (2015), figure 5 left",
    run=run,
    scales=trained_scales(
        "RELU",
        smoke={"grid": _GRID},
        small={"grid": _GRID},
        paper={"grid": [-1.0, 2.0, 181]},
    ),
    claims=(
        Claim(
            "A barrier separates the two solutions (at least 1 % of the range).",
            lambda n: n["barrier"] >= 0.01 * n["span"] and n["barrier"] > 0,
            "height {barrier:.3g} at alpha = {barrier_alpha:.2f}",
        ),
        Claim(
            "There is no minimum between them (deeper than 0.1 % of the range).",
            lambda n: n["minima"] == 0,
            "{minima:.0f} minima",
        ),
        Claim(
            "The line through both has two minima and no more, at the solutions or beyond them.",
            lambda n: n["minima_on_line"] == 2 and n["minima"] == 0,
            "{minima_on_line:.0f} minima, the farther one {farthest_minimum:.2f} off its solution",
        ),
        Claim(
            "The two are of the same quality (validation errors within 2 % of each other).",
            lambda n: abs(n["error_a"] - n["error_b"]) <= 0.02,
            "{error_a:.2%} and {error_b:.2%}",
        ),
    ),
)
