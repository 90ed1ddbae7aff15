"""From start to solution of an adversarially trained maxout network, in a straight line.

The top row of figure 1 of Goodfellow, Vinyals & Saxe (2015): the state of the art of its time, a
maxout network whose cost is half on the examples and half on adversarial ones, x + ε sign ∂J/∂x
with ε = 0.25 (Goodfellow, Shlens & Szegedy 2015). The total cost evaluated here is the cost that
was minimised, adversarial examples of every point included, without dropout.

The paper's network has 1600 units a layer and 19,104,010 parameters. That of scale `small` has 240,
sees 10,000 images with ε = 0.1, and starts from weights ten times as wide: with ε = 0.25 and the
paper's weights it had not left the plateau around its start after 25 epochs.

Expected: no climb, as for the network without adversarial training (`interp-maxout`).
"""

from thalweg.studies.lines import (
    BOTTOM,
    FALLS_ALL_THE_WAY,
    FLAT_START,
    NEARLY_CONVEX,
    NO_MINIMUM_BETWEEN,
    run_line,
)
from thalweg.studies.scales import trained_scales
from thalweg.studies.study import Outcome, Run, Study


def run(run: Run) -> Outcome:
    """Train the network adversarially and evaluate its cost along the line."""
    from thalweg.studies.trainings import adversarial

    return run_line(run, adversarial(run, run["seed"]))


STUDY = Study(
    name="interp-adversarial-maxout",
    title="Adversarially trained maxout network: straight from start to solution",
    source="Goodfellow, Vinyals & Saxe (2015), figure 1 top; appendix A",
    run=run,
    scales=trained_scales(
        "MAXOUT",
        smoke={
            "init_ranges": [0.1, 0.1, 0.1],
            "epochs": 60,
            "epsilon": 0.1,
            "grid": [-0.25, 2.0, 46],
        },
        small={
            "examples": 10_000,
            "valid_examples": 5000,
            "init_ranges": [0.05, 0.05, 0.05],
            "epochs": 25,
            "epsilon": 0.1,
            "grid": [-0.25, 2.0, 28],
        },
        paper={"hidden": [1600, 1600], "epsilon": 0.25, "grid": [-0.25, 2.0, 181]},
    ),
    claims=(FALLS_ALL_THE_WAY, NO_MINIMUM_BETWEEN, FLAT_START, NEARLY_CONVEX, BOTTOM),
)
