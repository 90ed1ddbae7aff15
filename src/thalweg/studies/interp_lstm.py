"""From start to solution of an LSTM language model, in a straight line.

Goodfellow, Vinyals & Saxe (2015) evaluate the total cost of an LSTM that was trained on the Penn
Treebank (Zaremba et al. 2014) between its start and its solution, and find no obstacle: it falls
all the way. J is the mean −log p of the next word over the whole text, with the state carried
from its first to its last word, and without dropout.

Small is the small model of Zaremba et al. on the first 100,000 words and 6 epochs; smoke reads a
text that is made by chance. With `data` set to `"tinyshakespeare"` (`thalweg copy interp-lstm`) it
reads characters of a text that is free.

Expected: no climb; a validation perplexity of a few hundred at scale `small` (about 120 where the
small model is trained on all of the text). Measured there (seed 0): no climb, perplexity 340; the
cost is not flat near the start, and half of the epochs are not spent at the bottom.
"""

from thalweg.studies.lines import (
    BOTTOM,
    FALLS_ALL_THE_WAY,
    FLAT_START,
    NO_MINIMUM_BETWEEN,
    run_line,
)
from thalweg.studies.study import Claim, Outcome, Run, Study

_LINE = [-0.25, 1.5]


def run(run: Run) -> Outcome:
    """Train the language model and evaluate its cost along the line."""
    from thalweg.studies.trainings import language_model

    return run_line(run, language_model(run, run["seed"]))


STUDY = Study(
    name="interp-lstm",
    title="LSTM: straight from start to solution",
    source="Goodfellow, Vinyals & Saxe (2015), figure 8; Zaremba, Sutskever & Vinyals (2014)",
    run=run,
    scales={
        "smoke": {
            "recipe": "SMALL",
            "data": "chance",
            "words": 5000,
            "vocabulary": 24,
            "network": {"units": 32, "epochs": 20, "constant_epochs": 18, "unroll": 5},
            "grid": [*_LINE, 36],
        },
        "small": {
            "recipe": "SMALL",
            "data": "ptb",
            "words": 100_000,
            "valid_words": 20_000,
            "vocabulary": 10_000,
            "network": {"epochs": 6},
            "grid": [*_LINE, 22],
        },
        "paper": {
            "recipe": "MEDIUM",
            "data": "ptb",
            "vocabulary": 10_000,
            "network": {},
            "grid": [-0.25, 2.0, 46],
        },
    },
    claims=(
        FALLS_ALL_THE_WAY,
        NO_MINIMUM_BETWEEN,
        FLAT_START,
        BOTTOM,
        Claim(
            "The solution predicts the next word better than its frequency does (validation "
            "perplexity at most half of that at the start).",
            lambda n: n["valid_perplexity"] <= 0.5 * n["start_perplexity"],
            "{valid_perplexity:.0f} against {start_perplexity:.0f}",
        ),
    ),
)
