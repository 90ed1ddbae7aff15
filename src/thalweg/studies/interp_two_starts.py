"""Between two random starts: no obstacle.

Two initialisations of the same network, nothing trained. Whatever separates two solutions is
not yet there: the cost on the line between two starts hardly changes (Lee, "The error surface
of deep networks": profiles between two random starts).

The output weights of the paper's ReLU network start at zero, so that the cost between two of
its starts is exactly ln 10 everywhere. All layers are therefore drawn from U(−1/√n, 1/√n) here,
n inputs a unit, which is the default of PyTorch.

Expected: no barrier above a hundredth of the cost, no minimum of any depth.
"""

from thalweg.grids import Uniform
from thalweg.measures.summaries import line_numbers
from thalweg.studies.study import Claim, Outcome, Run, Study
from thalweg.studies.wording import number


def run(run: Run) -> Outcome:
    """Evaluate the cost on the line between two initialisations."""
    # Imported here, so that listing the studies does not load torch.
    from thalweg.evaluate import profile
    from thalweg.sections import Line
    from thalweg.space import ParameterSpace
    from thalweg.studies import interpolation as study

    (first, data), (second, _) = (study.untrained(run, seed=2 * run["seed"] + k) for k in (0, 1))
    space = ParameterSpace.of(first)
    line = Line(space.flatten(first), space.flatten(second), labels=("start A", "start B"))
    cost = study.cost_of(run, (first, data))
    between = profile(cost, line, Uniform(*run["grid"]), progress=run.report, keep=run.kept)
    numbers = line_numbers(between) | {"parameters": space.size}
    return Outcome(
        {"line": between},
        numbers,
        (
            f"Between two random starts the cost stays within {numbers['lowest']:.4f} and "
            f"{numbers['highest']:.4f}: the barrier has height {number(numbers['barrier'])}.",
        ),
    )


_GRID = [-0.5, 1.5, 41]

STUDY = Study(
    name="interp-two-starts",
    title="Between two random starts: no obstacle",
    source="Lee, The error surface of deep networks; Im, Tao & Branson (2016)",
    run=run,
    scales={
        "smoke": {
            "recipe": "RELU",
            "data": "digits",
            "hidden": [32, 32],
            "init_ranges": [0.125, 0.177, 0.177],
            "grid": _GRID,
        },
        "small": {
            "recipe": "RELU",
            "data": "mnist",
            "examples": 50_000,
            "init_ranges": [0.0357, 0.0334, 0.0255],
            "grid": _GRID,
        },
        "paper": {
            "recipe": "RELU",
            "data": "mnist",
            "examples": 50_000,
            "init_ranges": [0.0357, 0.0334, 0.0255],
            "grid": [-0.5, 1.5, 201],
        },
    },
    claims=(
        Claim(
            "No barrier separates two starts (at most 1 % of the cost there).",
            lambda n: n["barrier"] <= 0.01 * n["loss_start"],
            "height {barrier:.3g} of a cost of {loss_start:.4g}",
        ),
        Claim(
            "The cost between them never rises above the higher of the two by 1 %.",
            lambda n: n["highest"] <= 1.01 * max(n["loss_start"], n["loss_end"]),
            "highest {highest:.4g}, ends {loss_start:.4g} and {loss_end:.4g}",
        ),
    ),
)
