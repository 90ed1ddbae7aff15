"""From start to solution of a convolutional maxout network, and what is near the start.

Figure 6 of Goodfellow, Vinyals & Saxe (2015): on CIFAR-10 the cost of a convolutional maxout
network looks well-behaved along the whole line, but zoomed in near the start there is a shallow
barrier, "reasonably wide but not very tall". The paper suspects that the initial weights were
larger than they should be; here the network is trained once more from smaller ones: a third as
large, and at `small`, where that never leaves its plateau, half as large.

The network is the paper's (16,247,830 parameters: three convolutional maxout layers of 96, 192 and
192 channels, one of 500 units, kernel norms limited, learning rates of the convolutions divided by
20; contrast normalised and whitened images). That of scale `small` has 16, 24, 24 channels and 48
units, and sees 2,000 images.

Expected: no climb of the whole line worth the name; a small one near the start, smaller or gone
from smaller weights.
"""

from typing import Any

from thalweg.studies.study import Claim, Outcome, Run, Study


def run(run: Run) -> Outcome:
    """Train twice, from weights as they are and from smaller ones, and look near the start."""
    # Imported here, so that listing the studies does not load torch.
    from dataclasses import replace

    from thalweg.evaluate import profile
    from thalweg.grids import Uniform
    from thalweg.measures.summaries import window_numbers
    from thalweg.sections import Line
    from thalweg.studies import interpolation as study
    from thalweg.studies.lines import run_line
    from thalweg.studies.trainings import convolutional

    original = convolutional(run, run["seed"])
    first = run_line(run, original)
    smaller = {**run["network"], "init_range": run["smaller_init_range"]}
    again = replace(
        run, settings={**run.settings, "network": smaller}, folder=run.folder / "smaller-weights"
    )
    made = convolutional(again, run["seed"], original.data)
    network = study.train_network(again, seed=run["seed"], training=made)
    near = profile(
        made.cost(("train",)),
        Line(network.start, network.solution, labels=("start", "solution")),
        Uniform(*run["zoom"]),
        progress=run.report,
        keep=again.kept,
    )
    best = int(network.history.best or 0)
    numbers: dict[str, Any] = {
        **first.numbers,
        **window_numbers(near, "smaller_"),
        "smaller_error": float(network.history.metrics["error"]["valid"][best]),
    }
    losses = network.history.loss["train"]
    numbers["smaller_fall"] = float(losses[0] - losses[best])
    numbers["near_climb_of_line"] = numbers["near_climb"] / numbers["span"]
    numbers["smaller_climb_of_line"] = numbers["smaller_climb"] / numbers["span"]
    results = {**first.results, "near-the-start-smaller": near, "run-smaller": network.history}
    summary = (
        *first.summary,
        f"Near the start the cost climbs by {numbers['near_climb']:.2g}, "
        f"{numbers['near_climb_of_line']:.2%} of the range of the line; from smaller weights "
        f"by {numbers['smaller_climb']:.2g}, from which training lowers it by "
        f"{numbers['smaller_fall']:.3g}.",
    )
    return Outcome(results, numbers, summary)


STUDY = Study(
    name="interp-conv-cifar",
    title="Convolutional maxout network: the line, and a shallow barrier near the start",
    source="Goodfellow, Vinyals & Saxe (2015), figure 6; section 4",
    run=run,
    scales={
        "smoke": {
            "data": "digits",
            "network": {
                "channels": [6, 8],
                "kernels": [3, 3],
                "padding": [1, 1],
                "pools": [[2, 2], [2, 2]],
                "hidden": 24,
                "hidden_pieces": 2,
                "init_range": 0.1,
                "norm_limits": [2.0, 2.0, 1.9, 1.9365],
                "rate_factors": [0.5, 0.5, 1.0, 1.0],
                "dropout": None,
                "epochs": 12,
                "batch_size": 50,
            },
            "smaller_init_range": 0.033,
            "grid": [-0.25, 2.0, 28],
            "zoom": [0.0, 0.25, 26],
        },
        "small": {
            "data": "cifar10",
            "examples": 2000,
            "valid_examples": 500,
            # Fewer channels need wider weights to leave the plateau as soon.
            "network": {
                "channels": [16, 24, 24],
                "hidden": 48,
                "epochs": 18,
                "batch_size": 16,
                "init_range": 0.03,
            },
            "smaller_init_range": 0.015,
            "grid": [-0.25, 2.0, 19],
            "zoom": [0.0, 0.25, 21],
        },
        "paper": {
            "data": "cifar10",
            "network": {},
            "smaller_init_range": 0.005 / 3,
            "grid": [-0.25, 2.0, 91],
            "zoom": [0.0, 0.25, 51],
        },
    },
    claims=(
        Claim(
            "At a global scale the curve is well-behaved (greatest climb at most 5 % of the "
            "range).",
            lambda n: n["climb_share"] <= 0.05,
            "greatest climb {climb:.3g}, {climb_share:.2%} of the range",
        ),
        Claim(
            "Near the start there is a shallow barrier (the cost climbs by more than 0 and at most "
            "5 % of the range of the line).",
            lambda n: 0 < n["near_climb_of_line"] <= 0.05,
            "it climbs by {near_climb:.2g}, {near_climb_of_line:.3%} of the range",
        ),
        Claim(
            "Smaller initial weights, from which training gains at least half as much, make it "
            "lower, or remove it.",
            lambda n: n["smaller_climb"] < n["near_climb"] and n["smaller_fall"] >= 0.5 * n["span"],
            "it climbs by {smaller_climb:.2g} instead of {near_climb:.2g}; training from there "
            "gains {smaller_fall:.3g}, from the others {span:.3g}",
        ),
    ),
)
