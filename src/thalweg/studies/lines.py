"""The line from start to solution of any training, and what the paper claims about it."""

from typing import TYPE_CHECKING, Any

from thalweg.grids import Uniform
from thalweg.measures.summaries import line_numbers, share_at_the_bottom, window_numbers
from thalweg.studies.study import Claim, Outcome, Run
from thalweg.studies.wording import fall_sentence, number

if TYPE_CHECKING:
    from thalweg.results import Profile
    from thalweg.studies.interpolation import Network
    from thalweg.studies.trainings import Training

__all__ = [
    "BOTTOM",
    "FALLS_ALL_THE_WAY",
    "FLAT_START",
    "NEARLY_CONVEX",
    "NO_MINIMUM_BETWEEN",
    "evaluated_line",
    "run_line",
]

FALLS_ALL_THE_WAY = Claim(
    "The cost falls all the way from start to solution (greatest climb at most 0.1 % of the "
    "range).",
    lambda n: n["climb_share"] <= 1e-3,
    "greatest climb {climb:.3g}, {climb_share:.2%} of the range",
)
NO_MINIMUM_BETWEEN = Claim(
    "No minimum lies between start and solution (deeper than 0.1 % of the range).",
    lambda n: n["minima"] == 0,
    "{minima:.0f} minima",
)
FLAT_START = Claim(
    "The cost is flat near the start (first slope at most half of the steepest).",
    lambda n: n["steepness"] <= 0.5,
    "first slope {steepness:.1%} of the steepest",
)
NEARLY_CONVEX = Claim(
    "Apart from that it is nearly convex (from the steepest point to the solution, at 90 % of the "
    "points or more).",
    lambda n: n["convex_beyond"] >= 0.9,
    "convex at {convex_beyond:.0%} of the points beyond alpha = {steepest:.2f}",
)
BOTTOM = Claim(
    "The run spends most of its epochs at the bottom of the valley (half of them or more after "
    "nine tenths of the fall).",
    lambda n: n["bottom_share"] >= 0.5,
    "{bottom_share:.0%} of the epochs",
)


def evaluated_line(
    run: Run, training: "Training", *, seed: int, splits: tuple[str, ...] = ("train", "valid")
) -> "tuple[Network, Profile, dict[str, Any]]":
    """Train a network, evaluate its cost from before the start to beyond the solution.

    Args:
        run: Its `grid` is where.
        training: What to train.
        seed: Number of its files.
        splits: Splits to evaluate.

    Returns:
        The network, the line, and what both boil down to.
    """
    from thalweg.evaluate import profile
    from thalweg.sections import Line
    from thalweg.studies import interpolation as study

    network = study.train_network(run, seed=seed, training=training)
    line = Line(network.start, network.solution, labels=("start", "solution"))
    cost = training.cost(splits)
    found = profile(cost, line, Uniform(*run["grid"]), progress=run.report, keep=run.kept)
    history = network.history
    best = int(history.best or 0)
    reading = next(iter(history.metrics))
    numbers = {
        **line_numbers(found),
        "bottom_share": share_at_the_bottom(history),
        "parameters": network.space.size,
        "epochs": len(history.epoch) - 1,
        "best_epoch": best,
        f"valid_{reading}": float(history.metrics[reading]["valid"][best]),
        f"start_{reading}": float(history.metrics[reading]["valid"][0]),
    }
    return network, found, numbers


def run_line(run: Run, made: "Training") -> Outcome:
    """Train a network and evaluate its cost along the line, and close to the start if asked.

    Args:
        run: Settings: `grid` is the whole line; `zoom`, where it is there, a part of it.
        made: The training of its seed.
    """
    # Imported here, so that listing the studies does not load torch.
    from thalweg.evaluate import profile
    from thalweg.sections import Line

    network, line, numbers = evaluated_line(run, made, seed=run["seed"])
    results: dict[str, Any] = {"line": line}
    if "zoom" in run.settings:
        near = Line(network.start, network.solution, labels=("start", "solution"))
        zoom = profile(
            made.cost(("train",)),
            near,
            Uniform(*run["zoom"]),
            progress=run.report,
            keep=run.kept,
        )
        results["near-the-start"] = zoom
        numbers |= window_numbers(zoom, "near_")
    results["run"] = network.history
    reading = next(iter(network.history.metrics))
    said = (
        f"{numbers[f'valid_{reading}']:.2%}"
        if reading == "error"
        else number(numbers[f"valid_{reading}"])
    )
    summary = (
        fall_sentence(numbers, "From start to solution"),
        f"The solution was found after {numbers['best_epoch']} of {numbers['epochs']} epochs, with "
        f"a validation {'error' if reading == 'error' else reading} of {said}; "
        f"{numbers['bottom_share']:.0%} of the epochs were spent at the bottom of the valley.",
        f"Near the start the cost is {number(100 * numbers['steepness'])} % as steep as at the "
        "steepest.",
    )
    return Outcome(results, numbers, summary)
