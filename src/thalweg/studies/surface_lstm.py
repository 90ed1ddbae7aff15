"""An LSTM on its way: the cost between the line and the run.

The slides that go with Goodfellow, Vinyals & Saxe (2015) show the run of an LSTM on a surface of
its cost, with no obstacle between the straight line and the run. J is the mean −log p of the next
word over the whole text, with the state carried through and without dropout, as in `interp-lstm`.

Expected: nothing between line and run; a cost that falls along the run.
"""

from thalweg.studies.study import Outcome, Run, Study
from thalweg.studies.surfaces import CLEAR_WAY, FALLING_RUN, LOWER_THAN_LINE, run_surface


def run(run: Run) -> Outcome:
    """Train the language model, and draw the cost between its line and its run."""
    from thalweg.studies.trainings import language_model

    return run_surface(run, language_model(run, run["seed"]))


STUDY = Study(
    name="surface-lstm",
    title="LSTM: what stands between the line and the run",
    source="Goodfellow, Vinyals & Saxe (2015), slides on the LSTM",
    run=run,
    scales={
        "smoke": {
            "recipe": "SMALL",
            "data": "chance",
            "words": 3000,
            "vocabulary": 24,
            "network": {"units": 24, "epochs": 16, "constant_epochs": 14, "unroll": 5},
            "across": 11,
            "side": 9,
            "curvature": False,
        },
        "small": {
            "recipe": "SMALL",
            "data": "ptb",
            "words": 40_000,
            "valid_words": 10_000,
            "vocabulary": 10_000,
            "network": {"epochs": 8},
            "across": 9,
            "side": 7,
            "curvature": False,
        },
        "paper": {
            "recipe": "MEDIUM",
            "data": "ptb",
            "vocabulary": 10_000,
            "network": {},
            "across": 41,
            "side": 41,
            "curvature": True,
        },
    },
    claims=(CLEAR_WAY, FALLING_RUN, LOWER_THAN_LINE),
)
