"""An adversarially trained maxout network on its way: obstacles, and how the run passes them.

The slides that go with Goodfellow, Vinyals & Saxe (2015) show one network with obstacles between
the line from start to solution and the run: the adversarially trained maxout network, whose run
leaves the line along directions of negative curvature. Both are measured here: the climb of the
cost from the line to the run at every epoch, and the curvature v'Hv of the line across it, towards
the run, while the run leaves the line.

Measured at scale `small` (5,000 images, ε = 0.1, weights ten times as wide; seed 0): no obstacle;
curvature across the line down to −0.11, negative at 4 of the 6 epochs in which the run leaves it.

Expected: obstacles at some epochs, and negative curvature across the line where the run leaves it.
"""

from thalweg.studies.scales import trained_scales
from thalweg.studies.study import Claim, Outcome, Run, Study
from thalweg.studies.surfaces import FALLING_RUN, LOWER_THAN_LINE, run_surface


def run(run: Run) -> Outcome:
    """Train the network adversarially, and draw the cost between its line and its run."""
    from thalweg.studies.trainings import adversarial

    return run_surface(run, adversarial(run, run["seed"]))


STUDY = Study(
    name="surface-adversarial-maxout",
    title="Adversarially trained maxout network: obstacles between the line and the run",
    source="Goodfellow, Vinyals & Saxe (2015), slides on adversarial training",
    run=run,
    scales=trained_scales(
        "MAXOUT",
        smoke={
            "init_ranges": [0.1, 0.1, 0.1],
            "epochs": 40,
            "epsilon": 0.1,
            "across": 11,
            "side": 9,
            "curvature": True,
        },
        small={
            "examples": 5000,
            "valid_examples": 2000,
            "init_ranges": [0.05, 0.05, 0.05],
            "epochs": 16,
            "epsilon": 0.1,
            "across": 9,
            "side": 5,
            "curvature": True,
        },
        paper={
            "hidden": [1600, 1600],
            "epsilon": 0.25,
            "across": 41,
            "side": 41,
            "curvature": True,
        },
    ),
    claims=(
        Claim(
            "Obstacles stand between line and run (above 1 % of the range, at some epoch).",
            lambda n: n["obstacle_share"] > 1e-2,
            "{obstacle:.2g}, {obstacle_share:.2%} of the range, at {obstacle_epochs:.0f} epochs",
        ),
        Claim(
            "The run leaves the line along negative curvature (at half of the epochs or more in "
            "which it leaves it).",
            lambda n: n["leaving_negative"] >= 0.5 * n["leaving"],
            "at {leaving_negative:.0f} of {leaving:.0f} epochs, least {curvature_least:.2g}",
        ),
        FALLING_RUN,
        LOWER_THAN_LINE,
    ),
)
