"""At high resolution: does a coarse grid hide small structures?

Goodfellow, Vinyals & Saxe (2015, figure 4) tile the line from start to solution with 200
points, and then the two places where something might hide: α in [0, 0.01], where symmetry is
broken, and α in [0.99, 1], where what was learned is complete. The network has no dropout, for
masks would show as noise. Neighbouring points of a window differ by 5e-5 in α, so everything
is evaluated in float64.

Expected: no climb on any of the three grids. Where training was stopped by the validation
error, the training cost may rise by little in the last per cent of the line.
"""

from thalweg.grids import Uniform
from thalweg.measures.summaries import line_numbers, window_numbers
from thalweg.studies.scales import trained_scales
from thalweg.studies.study import Claim, Outcome, Run, Study
from thalweg.studies.wording import fall_sentence, window_sentence

_WINDOWS = {"line": (0.0, 1.0), "near-start": (0.0, 0.01), "near-solution": (0.99, 1.0)}


def run(run: Run) -> Outcome:
    """Train without dropout, and evaluate the line on three fine grids in float64."""
    # Imported here, so that listing the studies does not load torch.
    import torch

    from thalweg.evaluate import profile
    from thalweg.sections import Line
    from thalweg.studies import interpolation as study

    network = study.train_network(run, seed=run["seed"])
    line = Line(network.start, network.solution, labels=("start", "solution"))
    cost = study.cost_of(run, network, splits=("train",), dtype=torch.float64)
    profiles = {
        name: profile(
            cost, line, Uniform(*window, run["points"]), progress=run.report, keep=run.kept
        )
        for name, window in _WINDOWS.items()
    }
    numbers = line_numbers(profiles["line"])
    for name, prefix in (("near-start", "start_"), ("near-solution", "solution_")):
        numbers |= window_numbers(profiles[name], prefix)
    numbers["parameters"] = network.space.size
    return Outcome(
        {**profiles, "run": network.history},
        numbers,
        (
            fall_sentence(numbers, "From start to solution"),
            window_sentence(numbers, "In the first hundredth of the line", "start_"),
            window_sentence(numbers, "In the last hundredth of the line", "solution_"),
        ),
    )


STUDY = Study(
    name="interp-highres",
    title="High resolution: no small structures",
    source="Goodfellow, Vinyals & Saxe (2015), figure 4 a, c, d",
    run=run,
    scales=trained_scales(
        "RELU_WITHOUT_DROPOUT",
        smoke={"points": 200},
        small={"points": 200, "examples": 10_000, "hidden": [400, 400], "epochs": 20},
        paper={"points": 200},
    ),
    claims=(
        Claim(
            "The cost falls at each of 200 points in [0, 1] (greatest climb at most 0.1 % of "
            "the range).",
            lambda n: n["climb_share"] <= 1e-3,
            "greatest climb {climb:.3g}",
        ),
        Claim(
            "It falls at each of 200 points in [0, 0.01], where symmetry is broken (greatest "
            "climb at most 1 % of the range there).",
            lambda n: n["start_climb_share"] <= 1e-2,
            "greatest climb {start_climb:.3g}, {start_climb_share:.2%} of the range",
        ),
        Claim(
            "There is no bump in [0.99, 1]: no minimum but the lowest point.",
            lambda n: n["solution_minima"] <= 1 and n["solution_bumps"] == 0,
            "greatest climb {solution_climb:.3g}, {solution_bumps:.0f} bumps",
        ),
    ),
)
