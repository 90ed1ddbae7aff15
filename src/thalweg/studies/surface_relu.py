"""A ReLU network on its way: the cost between the line and the run.

The line from start to solution is smooth (`interp-relu`), but training does not go along it. Is
that because something stands in the way beside the line, or does the run bend around nothing?
The ruled surface holds the line and the run, one ruling an epoch, so the question has an answer
at every epoch: the cost on the straight way from the line to the run.

Goodfellow, Vinyals & Saxe (2015) show surfaces of this kind. They find no obstacle for most
networks, and for adversarially trained maxout networks obstacles that the run goes around, along
directions of negative curvature.

Expected: no obstacle between line and run; the total cost falls along the run. The curvature
across the line, where the run leaves it, is measured. Measured at scale `smoke` (digits, seeds 0
to 3): no obstacle at any epoch; curvature across negative at 12 to 15 of the 14 to 17 epochs in
which the run left the line; but the cost of the run climbs in between, by 0.9, 2.1, 2.3 and 1.2 %
of its range, so that it falls in the stated sense for seed 0 alone. Measured at scale `small`
(MNIST, seed 0): no obstacle, a falling cost, and negative curvature across at 2 of the 3 epochs in
which the run left the line.
"""

from thalweg.studies.scales import trained_scales
from thalweg.studies.study import Outcome, Run, Study
from thalweg.studies.surfaces import CLEAR_WAY, FALLING_RUN, LOWER_THAN_LINE, run_surface


def run(run: Run) -> Outcome:
    """Train a network, and draw the cost between its line and its run."""
    from thalweg.studies.trainings import perceptron

    return run_surface(run, perceptron(run, run["seed"]))


STUDY = Study(
    name="surface-relu",
    title="ReLU network: what stands between the line and the run",
    source="Goodfellow, Vinyals & Saxe (2015), figure 7 right and slides",
    run=run,
    scales=trained_scales(
        "RELU",
        smoke={"epochs": 40, "across": 21, "side": 15, "curvature": True},
        small={"epochs": 12, "across": 13, "side": 11, "curvature": True},
        paper={"across": 41, "side": 41, "curvature": True},
    ),
    claims=(CLEAR_WAY, FALLING_RUN, LOWER_THAN_LINE),
)
