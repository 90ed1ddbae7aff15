"""Maxout, rectified and sigmoid units side by side: three lines on one axis.

Figure 3 of Goodfellow, Vinyals & Saxe (2015): the lines from start to solution of three networks
with dropout, the cost on a logarithmic scale, for the differences are at the bottom. The three
have the same shape: units that saturate make the way harder, but put nothing in it.

Expected: all three fall; maxout and ReLU end an order below sigmoid.
"""

from typing import Any

from thalweg.studies.study import Claim, Outcome, Run, Study

_UNITS = ("maxout", "ReLU", "sigmoid")


def run(run: Run) -> Outcome:
    """Train three networks, and put their lines on one axis."""
    # Imported here, so that listing the studies does not load torch.
    from dataclasses import replace

    from thalweg.results import Profile
    from thalweg.studies.lines import evaluated_line
    from thalweg.studies.trainings import perceptron

    lines: dict[str, Any] = {}
    runs: dict[str, Any] = {}
    numbers: dict[str, Any] = {}
    for name in _UNITS:
        own = replace(
            run,
            settings={**run.settings, **run["networks"][name]},
            folder=run.folder / name.lower(),
        )
        made = perceptron(own, run["seed"])
        network, lines[name], found = evaluated_line(own, made, seed=run["seed"], splits=("train",))
        runs[f"run-{name.lower()}"] = network.history
        numbers |= {f"{name.lower()}_{key}": value for key, value in found.items()}
    first = lines["maxout"]
    together = Profile(
        first.alpha,
        {name: line.loss[line.first_split] for name, line in lines.items()},
        anchors=first.anchors,
        labels=first.labels,
        provenance=first.provenance,
    )
    ends = ", ".join(f"{name} {numbers[f'{name.lower()}_loss_end']:.3g}" for name in _UNITS)
    summary = (f"At their solutions the costs are: {ends}.",)
    return Outcome({"lines": together, **runs}, numbers, summary)


def _networks(smoke: bool, epochs: int | None) -> dict[str, dict[str, Any]]:
    """Return what is special to each network."""
    length = {} if epochs is None else {"epochs": epochs}
    # Sigmoid units take longer to begin.
    longer = {} if epochs is None else {"epochs": 3 * epochs}
    wide: dict[str, Any] = {"init_ranges": [0.1, 0.1, 0.1]} if smoke else {}
    wider: dict[str, Any] = {"init_ranges": [0.5, 0.5, 0.0], "epochs": 500} if smoke else {}
    return {
        "maxout": {"recipe": "MAXOUT", **length, **wide},
        "ReLU": {"recipe": "RELU", **length},
        "sigmoid": {"recipe": "SIGMOID", **longer, **wider},
    }


STUDY = Study(
    name="interp-compare-activations",
    title="Maxout, ReLU and sigmoid: three lines on one axis",
    source="Goodfellow, Vinyals & Saxe (2015), figure 3",
    run=run,
    scales={
        "smoke": {
            "data": "digits",
            "hidden": [32, 32],
            "init_ranges": [0.1, 0.2, 0.0],
            "networks": _networks(True, 60),
            "grid": [0.0, 2.0, 41],
        },
        "small": {
            "data": "mnist",
            "examples": 20_000,
            "networks": _networks(False, 12),
            "grid": [0.0, 2.0, 31],
        },
        "paper": {
            "data": "mnist",
            "examples": 50_000,
            "networks": _networks(False, None),
            "grid": [0.0, 2.0, 181],
        },
    },
    claims=(
        Claim(
            "All three fall from start to solution (climbs of at most 1 % of the range).",
            lambda n: all(n[f"{u.lower()}_climb_share"] <= 1e-2 for u in _UNITS),
            "greatest climbs {maxout_climb_share:.2%}, {relu_climb_share:.2%}, "
            "{sigmoid_climb_share:.2%}",
        ),
        Claim(
            "All three have one minimum only between the ends and beyond: the solution (minima "
            "between deeper than 0.1 % of the range).",
            lambda n: all(n[f"{u.lower()}_minima"] == 0 for u in _UNITS),
            "{maxout_minima:.0f}, {relu_minima:.0f} and {sigmoid_minima:.0f} minima",
        ),
        Claim(
            "The sigmoid network ends highest.",
            lambda n: n["sigmoid_loss_end"] > max(n["maxout_loss_end"], n["relu_loss_end"]),
            "{sigmoid_loss_end:.3g} against {maxout_loss_end:.3g} and {relu_loss_end:.3g}",
        ),
    ),
)
