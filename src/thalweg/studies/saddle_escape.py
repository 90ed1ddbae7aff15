"""Training that is stuck need not be at a critical point, nor its gradient be small.

A flat stretch in the curve of the cost is often taken for a critical point. The slides that this
follows show training runs that are stuck while the norm of the gradient stays large
(Goodfellow, Bengio & Courville 2016, section 8.2.2 and Fig. 8.1); their networks are not told, so
what is here is a proposal.

1. A chain of three factors, (1 − w₁w₂w₃)², from (0.3, −0.28, 1): descent is drawn to the saddle
   (0, 0, 1) and leaves it. The cost is flat there; the gradient dips, and peaks after. From
   (0.05, 0.05, 1), on the way out of the saddle from the start, there is nothing to dip.
2. A network of rectified units at a fixed learning rate of 0.5, and of 1: whether the cost stays
   high while the gradient over all of the data stays larger than at the start.

Expected: 1 as said; of 2, training at the rate of 0.5 is not stuck, and at 1 it is, as long as
the network is small. With the 898 and 1532 units of the recipe, as at scale `paper`, all units are
dead after a few steps at the rate of 1: the cost stays at ln 10 with a gradient that *is* small.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from thalweg.results import History, Provenance
from thalweg.studies.scales import trained_scales
from thalweg.studies.study import Claim, Outcome, Run, Study

_APPROACH = (0.3, -0.28, 1.0)
_PROPOSED = (0.05, 0.05, 1.0)
_RATES = {"half": 0.5, "one": 1.0}
_ARRIVED = 1e-8
_PLATEAU = 0.05  # share of the cost of the saddle that counts as on its plateau


def run(run: Run) -> Outcome:
    """Descend by a saddle, and train a network with large steps."""
    results: dict[str, Any] = {}
    numbers: dict[str, Any] = {}
    for name, start in {"approach": _APPROACH, "proposed": _PROPOSED}.items():
        history, closest = _chain_descent(start, run["rate"])
        results[f"chain-{name}"] = history
        numbers |= _dip_and_peak(history, f"{name}_")
        if name == "approach":
            results["chain-closest"] = closest
            numbers["closest_kind"] = closest.kind
    for name, rate in _RATES.items():
        results[f"network-{name}"] = history = _trained(run, rate)
        numbers |= _stuck(history, f"{name}_")
    return Outcome(
        results,
        numbers,
        (
            f"By the saddle of a chain the gradient dips to {numbers['approach_dip']:.2f} and "
            f"peaks at {numbers['approach_peak']:.2f}; {numbers['approach_plateau']:.0%} of the "
            "steps are on the plateau.",
            f"At the rate 0.5 the second half of the training has a cost of "
            f"{numbers['half_loss']:.2g} and {numbers['half_ratio']:.1f} times the gradient of "
            f"the start; at 1, {numbers['one_loss']:.2g} and {numbers['one_ratio']:.1f} times.",
        ),
    )


def _chain_descent(start: tuple[float, ...], rate: float) -> tuple[History, Any]:
    """Return cost and gradient norm over a descent, and the point of smallest gradient on it."""
    from thalweg import functions
    from thalweg.probes.critical_points import classify

    chain = functions.chain(len(start))
    loss: list[float] = []
    norm: list[float] = []
    theta, path = chain.point(start), []
    while not loss or loss[-1] > _ARRIVED:
        gradient = chain.gradient(theta)
        loss.append(chain.value(theta))
        norm.append(float(gradient.norm()))
        path.append(theta)
        theta = theta - rate * gradient
    least = int(np.argmin(norm[: int(np.argmax(norm)) + 1]))
    closest = classify(chain, path[least], progress=False)
    history = _history(loss, norm, {"learning_rate": rate}, closest.provenance)
    return history, closest


def _history(
    loss: list[float], norm: list[float], asked: Mapping[str, Any], provenance: Provenance
) -> History:
    """Return cost and gradient norm over the passes of a descent through all of the data."""
    return History(
        np.arange(float(len(loss))),
        {"train": np.array(loss)},
        {"gradient_norm": {"train": np.array(norm)}},
        provenance=replace(provenance, section={"kind": "training", **asked}),
    )


def _dip_and_peak(history: History, prefix: str) -> dict[str, float]:
    """Return the least gradient before the largest, both, and how long the plateau is."""
    norm, loss = history.metrics["gradient_norm"]["train"], history.loss["train"]
    peak = int(norm.argmax())
    numbers = {
        "start": norm[0],
        "dip": norm[: peak + 1].min(),
        "peak": norm[peak],
        "plateau": np.mean(np.abs(loss - 1) <= _PLATEAU),
        "steps": len(loss) - 1,
    }
    return {prefix + name: float(value) for name, value in numbers.items()}


def _trained(run: Run, rate: float) -> History:
    """Train at a fixed rate; return cost and gradient norm over all of the data by epoch."""
    from torch.nn import CrossEntropyLoss

    from thalweg.objectives.model import ModelObjective
    from thalweg.problems.recipes import ExponentialDecay
    from thalweg.studies.interpolation import untrained
    from thalweg.studies.trainings import recipe_of
    from thalweg.training import train

    recipe = replace(
        recipe_of(run.settings), learning_rate=ExponentialDecay(initial=rate, factor=1.0)
    )
    model, data = untrained(run, seed=run["seed"])
    cost = ModelObjective(model, CrossEntropyLoss(), data.splits["train"], device=run.device)
    norm: list[float] = []

    def measure(done: int, total: int, message: str) -> None:
        norm.append(float(cost.gradient(cost.space.flatten(model)).double().norm()))
        run.report(done, total, message)

    splits = {name: data.splits[name] for name in ("train", "valid")}
    trained = train(
        model,
        splits,
        recipe,
        seed=run["seed"],
        patience=recipe.epochs,
        progress=measure,
        device=run.device,
    )
    loss = [float(value) for value in trained.history.loss["train"]]
    return _history(loss, norm, {"learning_rate": rate}, trained.history.provenance)


def _stuck(history: History, prefix: str) -> dict[str, float]:
    """Return cost and gradient of the second half of a training, against those of its start."""
    norm, loss = history.metrics["gradient_norm"]["train"], history.loss["train"]
    half = len(loss) // 2
    numbers = {
        "loss": np.median(loss[half:]),
        "loss_share": np.median(loss[half:]) / loss[0],
        "start_norm": norm[0],
        "norm": np.median(norm[half:]),
        "ratio": np.median(norm[half:]) / norm[0],
    }
    return {prefix + name: float(value) for name, value in numbers.items()}


def _is_stuck(numbers: Any, name: str) -> bool:
    """Tell whether the cost stayed above a third and the gradient above that of the start."""
    return bool(numbers[f"{name}_loss_share"] >= 1 / 3 and numbers[f"{name}_ratio"] >= 2)


STUDY = Study(
    name="saddle-escape",
    title="Stuck is not the same as a gradient of zero",
    source="Goodfellow, Bengio & Courville (2016), section 8.2.2 and figure 8.1",
    run=run,
    scales=trained_scales(
        "RELU_WITHOUT_DROPOUT",
        smoke={"rate": 0.01, "epochs": 12},
        small={"rate": 0.01, "epochs": 20, "examples": 10_000, "hidden": [240, 240]},
        paper={"rate": 0.01, "epochs": 50},
    ),
    claims=(
        Claim(
            "By a saddle the cost is flat and the gradient dips (below a third of its peak and of "
            "its start), then peaks, on the way from (0.3, −0.28, 1).",
            lambda n: (
                n["approach_dip"] <= min(n["approach_start"], n["approach_peak"]) / 3
                and n["approach_plateau"] >= 0.2
            ),
            "from {approach_start:.2f} to {approach_dip:.2f}, then {approach_peak:.2f}; "
            "{approach_plateau:.0%} of the steps within 5 % of the cost of the saddle",
        ),
        Claim(
            "The same from (0.05, 0.05, 1).",
            lambda n: n["proposed_dip"] <= min(n["proposed_start"], n["proposed_peak"]) / 3,
            "from {proposed_start:.2f} to {proposed_dip:.2f}, then {proposed_peak:.2f}",
        ),
        Claim(
            "Even where the gradient is smallest, the run is at no critical point.",
            lambda n: n["closest_kind"] == "not critical",
            "{closest_kind}",
        ),
        Claim(
            "At a fixed rate of 0.5 training is stuck (the cost stays above a third of that of the "
            "start) while the gradient stays large (twice that of the start or more).",
            lambda n: _is_stuck(n, "half"),
            "cost {half_loss:.2g}, gradient {half_norm:.2g} against {half_start_norm:.2g}",
        ),
        Claim(
            "The same at a fixed rate of 1.",
            lambda n: _is_stuck(n, "one"),
            "cost {one_loss:.2g}, gradient {one_norm:.2g} against {one_start_norm:.2g}",
        ),
    ),
)
