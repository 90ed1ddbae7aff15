"""The line from start to solution, as three studies ask for it with different networks."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from thalweg.grids import Uniform
from thalweg.measures.summaries import line_numbers
from thalweg.studies.lines import (
    BOTTOM,
    FALLS_ALL_THE_WAY,
    FLAT_START,
    NEARLY_CONVEX,
    NO_MINIMUM_BETWEEN,
    evaluated_line,
)
from thalweg.studies.scales import trained_scales
from thalweg.studies.study import Claim, Outcome, Run
from thalweg.studies.wording import fall_sentence, number

__all__ = ["descent_claims", "descent_scales", "run_descent"]


def descent_scales(
    recipe: str, *, smoke: Mapping[str, Any], small_epochs: int
) -> Mapping[str, Mapping[str, Any]]:
    """Return the three scales of a descent.

    Args:
        recipe: Name of the recipe.
        smoke: Settings of the small network at scale `smoke`.
        small_epochs: Epochs at scale `small`.
    """
    line = [-0.25, 2.0]
    return trained_scales(
        recipe,
        smoke={"grid": [*line, 46], "dropout_samples": 3, **smoke},
        small={"grid": [*line, 46], "dropout_samples": 2, "epochs": small_epochs},
        paper={"grid": [*line, 181], "dropout_samples": 5},
    )


def descent_claims(*, starts_at_log_classes: bool) -> tuple[Claim, ...]:
    """Return the claims of Goodfellow et al. (2015, section 3) about the line to the solution."""
    claims = (
        FALLS_ALL_THE_WAY,
        NO_MINIMUM_BETWEEN,
        FLAT_START,
        NEARLY_CONVEX,
        BOTTOM,
        Claim(
            "With dropout masks held fixed, the training cost falls all the way as well "
            "(greatest climb at most 1 % of the range).",
            lambda n: n["dropout_climb_share"] <= 1e-2,
            "greatest climb {dropout_climb:.3g}, {dropout_climb_share:.2%} of the range",
        ),
    )
    if not starts_at_log_classes:
        return claims
    golden = Claim(
        "With output weights of zero the cost starts at ln 10.",
        lambda n: abs(n["loss_start"] - math.log(10)) <= 1e-5,
        "{loss_start:.7f} against 2.3025851",
    )
    return (*claims, golden)


def run_descent(run: Run) -> Outcome:
    """Train a network and evaluate its cost from before the start to beyond the solution."""
    # Imported here, so that listing the studies does not load torch.
    from thalweg.evaluate import profile
    from thalweg.objectives.dropout import MonteCarlo
    from thalweg.sections import Line
    from thalweg.studies import interpolation as study
    from thalweg.studies.trainings import perceptron

    made = perceptron(run, run["seed"])
    network, exact, found = evaluated_line(run, made, seed=run["seed"])
    line = Line(network.start, network.solution, labels=("start", "solution"))
    masks = MonteCarlo(samples=run["dropout_samples"], seed=run["seed"])
    noisy = profile(
        study.cost_of(run, network, splits=("train",), dropout=masks),
        line,
        Uniform(*run["grid"]),
        progress=run.report,
        keep=run.kept,
    )
    history = replace(network.history, provenance=exact.provenance)
    numbers = {**found, **line_numbers(noisy, "dropout_")}
    return Outcome(
        {"line": exact, "line-with-dropout": noisy, "run": history},
        numbers,
        (
            fall_sentence(numbers, "From start to solution"),
            f"The solution was found after {numbers['best_epoch']} of {numbers['epochs']} epochs, "
            f"with a validation error of {numbers['valid_error']:.2%}; "
            f"{numbers['bottom_share']:.0%} of "
            "the epochs were spent at the bottom of the valley.",
            f"Near the start the cost is {number(100 * numbers['steepness'])} % as steep as at "
            "the steepest.",
        ),
    )
