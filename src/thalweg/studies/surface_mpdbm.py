"""A multi-prediction deep Boltzmann machine on its way: the run passes beside the line.

Figure 7 right of Goodfellow, Vinyals & Saxe (2015): the line from start to solution of the MP-DBM
has an anomaly, and the picture of cost, line and run shows that training did not pass near it.
J is the multi-prediction criterion, as in `interp-mpdbm`.

Measured at scale `small` (seed 0): no anomaly on the line, a falling cost along the run, nothing
between them.

Expected: the cost falls along the run although it climbs along the line.
"""

from thalweg.studies.study import Claim, Outcome, Run, Study
from thalweg.studies.surfaces import CLEAR_WAY, FALLING_RUN, LOWER_THAN_LINE, run_surface


def run(run: Run) -> Outcome:
    """Train the machine, and draw the cost between its line and its run."""
    from thalweg.studies.trainings import boltzmann_machine

    return run_surface(run, boltzmann_machine(run, run["seed"]))


STUDY = Study(
    name="surface-mpdbm",
    title="MP-DBM: the run passes beside the line",
    source="Goodfellow, Vinyals & Saxe (2015), figure 7 right",
    run=run,
    scales={
        "smoke": {
            "data": "digits",
            "network": {
                "hidden": [100, 100],
                "iterations": 6,
                "epochs": 25,
                "batch_size": 50,
                "nonzero": [8, 10],
                "init_range": 0.05,
                "learning_rate": 5.0,
            },
            "mask_draws": 1,
            "across": 11,
            "side": 9,
            "curvature": False,
        },
        "small": {
            "data": "mnist",
            "examples": 5000,
            "valid_examples": 2000,
            "network": {
                "hidden": [200, 300],
                "iterations": 6,
                "epochs": 15,
                "batch_size": 25,
                "init_range": 0.05,
                "learning_rate": 8.0,
            },
            "mask_draws": 1,
            "across": 11,
            "side": 9,
            "curvature": False,
        },
        "paper": {
            "data": "mnist",
            "network": {},
            "mask_draws": 5,
            "across": 41,
            "side": 41,
            "curvature": True,
        },
    },
    claims=(
        Claim(
            "The line climbs where the run does not (by more than 1 % of the range, and by more "
            "than the run).",
            lambda n: n["line_climb_share"] > max(1e-2, n["run_climb_share"]),
            "line {line_climb_share:.2%}, run {run_climb_share:.2%} of the range",
        ),
        CLEAR_WAY,
        FALLING_RUN,
        LOWER_THAN_LINE,
    ),
)
