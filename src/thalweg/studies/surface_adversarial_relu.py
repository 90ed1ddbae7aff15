"""An adversarially trained ReLU network on its way: the cost between the line and the run.

The slides that go with Goodfellow, Vinyals & Saxe (2015) show the run of "adversarial ReLUs" on a
surface of their cost, without an obstacle. Which network that was is not told: it is the one of
`interp-relu` here, trained on examples and adversarial examples as `interp-adversarial-maxout` is.

Expected: nothing between line and run; a cost that falls along the run.
"""

from thalweg.studies.scales import trained_scales
from thalweg.studies.study import Outcome, Run, Study
from thalweg.studies.surfaces import CLEAR_WAY, FALLING_RUN, LOWER_THAN_LINE, run_surface


def run(run: Run) -> Outcome:
    """Train the network adversarially, and draw the cost between its line and its run."""
    from thalweg.studies.trainings import adversarial

    return run_surface(run, adversarial(run, run["seed"]))


STUDY = Study(
    name="surface-adversarial-relu",
    title="Adversarially trained ReLU network: what stands between the line and the run",
    source="Goodfellow, Vinyals & Saxe (2015), slides on adversarial training",
    run=run,
    scales=trained_scales(
        "RELU",
        smoke={
            "epochs": 40,
            "epsilon": 0.1,
            "across": 11,
            "side": 9,
            "curvature": True,
        },
        small={
            "examples": 5000,
            "valid_examples": 2000,
            "epochs": 16,
            "epsilon": 0.1,
            "across": 9,
            "side": 5,
            "curvature": True,
        },
        paper={"epsilon": 0.25, "across": 41, "side": 41, "curvature": True},
    ),
    claims=(CLEAR_WAY, FALLING_RUN, LOWER_THAN_LINE),
)
