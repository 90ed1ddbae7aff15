"""What a step gains: slope, curvature, and the true change of the cost, along a run.

A step −ε g is predicted to change the cost by −ε gᵀg + ½ ε² gᵀHg, least at ε* = gᵀg/gᵀHg
(Goodfellow, Bengio & Courville 2016, section 4.3.1). Once an epoch, over all of the training data:
gᵀg and gᵀHg; the predicted and the true change for ε in {ε_t, ε*, 2 ε*}, with ε_t the learning rate
of the run there; and mini-batch steps −ε_t g_B of the gradient alone (without momentum) from the
same point, of which some go uphill on the full cost.

The network is that of the paper with rectifiers (784-898-1532-10, 2,097,528 parameters), trained
without dropout, for then its training cost is what the run descends.

Expected: predictions that hold at the optimal step, and some uphill steps. The textbook says that
gᵀg often does not shrink much during training, while gᵀHg grows by more than an order of magnitude
(section 8.2.1). Measured at scale `small` (10,000 examples of MNIST, 8 epochs, seed 0; 6 minutes on
2 cores): neither, once the flat start is left; 9 of 96 mini-batch steps go uphill.
"""

from collections.abc import Mapping
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np

from thalweg.measures.proportions import proportion_interval
from thalweg.results import History, StepCurvature
from thalweg.studies.scales import trained_scales
from thalweg.studies.study import Claim, Outcome, Run, Study
from thalweg.studies.wording import number

if TYPE_CHECKING:
    from thalweg.objectives import ModelObjective
    from thalweg.studies.interpolation import Network

_MULTIPLES = (0.5, 1.0, 1.5, 2.0)  # of ε*


def run(run: Run) -> Outcome:
    """Train a network, and take steps from the point of every epoch."""
    # Imported here, so that listing the studies does not load torch.
    from thalweg.studies import interpolation as study

    network, trajectory = study.train_recorded(run, seed=run["seed"])
    cost = study.cost_of(run, network, splits=("train",))
    points = len(trajectory) - 1  # no step was made from the last
    steps, uphill = [], []
    for epoch in range(points):
        run.report(epoch, points, "steps from the point of an epoch")
        point = trajectory[epoch]
        step, count = _measured(run, network, cost, point.theta, point.learning_rate, epoch)
        steps.append(step)
        uphill.append(count)
    run.report(points, points, "steps from the point of an epoch")
    rates = trajectory.learning_rate[:points]
    table = _table(steps, rates)
    numbers = _numbers(table, uphill, run["tries"]) | {
        "epochs": points,
        "parameters": network.space.size,
    }
    return Outcome(
        {
            "first-step": steps[0],
            "middle-step": steps[points // 2],
            "last-step": steps[-1],
            "run": _history(table, np.array(uphill) / run["tries"], steps),
        },
        numbers,
        _summary(numbers),
    )


def _measured(
    run: Run, network: "Network", cost: "ModelObjective", theta: Any, rate: float, epoch: int
) -> tuple[StepCurvature, int]:
    """Return the steps from one point and how many mini-batch steps go uphill, or read them."""
    from thalweg.errors import RecordError
    from thalweg.probes.step_curvature import step_curvature
    from thalweg.records import Record, open_record, save_record

    asked = {
        "point": sha256(theta.numpy().tobytes()).hexdigest(),
        "data": network.data.checksum,
        "rate": rate,
        "seed": [run["seed"], epoch],
        "tries": run["tries"],
        "batch": run["batch"],
        "multiples": list(_MULTIPLES),
    }
    kept = run.folder / f"step-{epoch:03d}"
    try:
        record = open_record(kept)
        found = record.results.get("step")
        if dict(record.asked) == asked and isinstance(found, StepCurvature):
            return found, int(record.numbers["uphill"])
    except RecordError:
        pass  # not measured yet, or cut off
    found = step_curvature(cost, theta, step_sizes=[rate], multiples=_MULTIPLES)
    noise = float(found.rounding.max())
    changes = _batch_changes(run, network, cost, theta, rate, found.loss, epoch)
    uphill = int((changes > noise).sum())
    save_record(
        Record(study="steps", asked=asked, results={"step": found}, numbers={"uphill": uphill}),
        kept,
    )
    return found, uphill


def _batch_changes(
    run: Run,
    network: "Network",
    cost: "ModelObjective",
    theta: Any,
    rate: float,
    here: float,
    epoch: int,
) -> "np.ndarray[Any, np.dtype[np.float64]]":
    """Return what steps along mini-batch gradients change in the full cost."""
    import torch

    from thalweg.objectives import ModelObjective

    x, y = network.data.splits["train"]
    rng = np.random.default_rng([run["seed"], epoch])
    changes = []
    for _ in range(run["tries"]):
        chosen = torch.from_numpy(rng.choice(len(y), run["batch"], replace=False))
        batch = ModelObjective(
            network.model,
            torch.nn.CrossEntropyLoss(),
            (x[chosen], y[chosen]),
            device=run.device,
            dtype=cost.dtype,
        )
        there = cost.point(theta) - rate * batch.gradient(theta)
        changes.append(cost.value(there) - here)
    return np.array(changes)


def _table(steps: list[StepCurvature], rates: Any) -> dict[str, Any]:
    """Return what was found at every epoch, one array a quantity."""

    def at(step: StepCurvature, size: float) -> int:
        return int(np.argmin(np.abs(step.step_size - size)))

    def pairs(sizes: Any) -> tuple[Any, Any]:
        places = [at(s, e) if np.isfinite(e) else None for s, e in zip(steps, sizes, strict=True)]
        known = list(zip(steps, places, strict=True))
        predicted = [np.nan if i is None else step.predicted[i] for step, i in known]
        actual = [np.nan if i is None else step.actual[i] for step, i in known]
        return np.array(predicted), np.array(actual)

    optimal = np.array([step.optimal_step for step in steps])
    taken, best, twice = pairs(rates), pairs(optimal), pairs(2 * optimal)
    return {
        "slope": np.array([step.slope for step in steps]),
        "curvature": np.array([step.curvature for step in steps]),
        "rayleigh": np.array([step.rayleigh for step in steps]),
        "optimal": optimal,
        "rate": np.asarray(rates, dtype=np.float64),
        "taken": taken,
        "best": best,
        "twice": twice,
    }


def _numbers(table: Mapping[str, Any], uphill: list[int], tries: int) -> dict[str, float]:
    """Boil the run down."""
    total = len(uphill) * tries
    low, high = proportion_interval(sum(uphill), total)
    predicted, actual = table["best"]
    known = np.isfinite(predicted)
    right = [np.sign(p) == np.sign(a) for p, a in zip(*table["taken"], strict=True)]
    found = {
        "gradient_first": table["slope"][0],
        "gradient_least_share": table["slope"].min() / table["slope"][0],
        "gradient_growth": table["slope"][-1] / table["slope"][0],
        "curvature_first": table["curvature"][0],
        "curvature_growth": table["curvature"].max() / abs(table["curvature"][0]),
        "later_curvature_growth": table["curvature"][1:].max() / abs(table["curvature"][1]),
        "later_gradient_least_share": table["slope"][1:].min() / table["slope"][1],
        "rayleigh_most": table["rayleigh"].max(),
        "positive_share": (table["curvature"] > 0).mean(),
        "too_long_share": (table["rate"] > 2 * table["optimal"]).mean(),
        "sign_share": np.mean(right),
        "error_taken": float(np.median(_missed(*table["taken"]))),
        "error_best": float(np.median(_missed(predicted[known], actual[known]))),
        "falls_at_best": float((actual[known] < 0).mean()) if known.any() else np.nan,
        "rises_at_twice": float((table["twice"][1][known] > 0).mean()) if known.any() else np.nan,
        "uphill": sum(uphill),
        "tried": total,
        "uphill_share": sum(uphill) / total,
        "uphill_low": low,
        "uphill_high": high,
    }
    return {name: float(value) for name, value in found.items()}


def _missed(predicted: Any, actual: Any) -> Any:
    """Return by what share of itself each true change was missed."""
    if len(predicted) == 0:
        return np.array([np.nan])
    return np.abs(predicted - actual) / np.abs(actual)


def _history(table: Mapping[str, Any], uphill: Any, steps: list[StepCurvature]) -> History:
    """Return the run, epoch by epoch."""
    return History(
        epoch=np.arange(len(steps), dtype=np.float64),
        loss={"train": np.array([step.loss for step in steps])},
        metrics={
            "gradient gᵀg": {"train": table["slope"]},
            "curvature gᵀHg/gᵀg": {"train": table["rayleigh"]},
            "log₁₀ of ε*/ε": {"train": np.log10(table["optimal"] / table["rate"])},
            "change of J": {"predicted": table["taken"][0], "true": table["taken"][1]},
            "share of uphill steps": {"train": uphill},
        },
        provenance=steps[0].provenance,
    )


def _summary(numbers: Mapping[str, Any]) -> tuple[str, ...]:
    """Say what was found."""
    return (
        f"Along {numbers['epochs']} epochs gᵀHg is at most "
        f"{number(numbers['later_curvature_growth'])} times what it is after the first epoch, and "
        f"gᵀg at least {numbers['later_gradient_least_share']:.1%}; at the start, where the cost "
        "is flat, both are smaller by far.",
        f"At the optimal step the second-order prediction misses the true change by "
        f"{numbers['error_best']:.0%} (median), at the learning rate of the run by "
        f"{numbers['error_taken']:.0%}.",
        f"{numbers['uphill']:.0f} of {numbers['tried']:.0f} mini-batch steps go uphill on the full "
        f"cost ({numbers['uphill_share']:.0%}, interval {numbers['uphill_low']:.0%} to "
        f"{numbers['uphill_high']:.0%}).",
    )


STUDY = Study(
    name="curvature-steps",
    title="ReLU network: what a step is predicted to gain, and what it gains",
    source="Goodfellow, Bengio & Courville (2016), sections 4.3.1 and 8.2.1; Goodfellow (2015), "
    "slides of the Montreal summer school",
    run=run,
    scales=trained_scales(
        "RELU_WITHOUT_DROPOUT",
        smoke={"init_ranges": [0.1, 0.2, 0.0], "epochs": 40, "batch": 100, "tries": 4},
        small={"examples": 10_000, "epochs": 8, "batch": 100, "tries": 12},
        paper={"epochs": 50, "batch": 100, "tries": 100},
    ),
    claims=(
        Claim(
            "A step of the optimal size lowers the cost, at every epoch where it is finite.",
            lambda n: n["falls_at_best"] == 1,
            "{falls_at_best:.0%} of the epochs, prediction missed by {error_best:.0%} (median)",
        ),
        Claim(
            "At the learning rate of the run the prediction has the right sign at nine epochs of "
            "ten or more.",
            lambda n: n["sign_share"] >= 0.9,
            "{sign_share:.0%} of the epochs, missed by {error_taken:.0%} (median)",
        ),
        Claim(
            "gᵀHg grows by more than an order of magnitude during training (from the first epoch "
            "on: at the start the output weights are zero, and the cost is flat).",
            lambda n: n["later_curvature_growth"] > 10,
            "at most {later_curvature_growth:.3g} times what it is after the first epoch; "
            "{curvature_growth:.3g} times that of the start",
        ),
        Claim(
            "The squared norm of the gradient does not shrink much meanwhile (never below a tenth "
            "of what it is after the first epoch).",
            lambda n: n["later_gradient_least_share"] >= 0.1,
            "least {later_gradient_least_share:.2%} of that",
        ),
        Claim(
            "Mini-batch steps at the learning rate of the run go uphill on the full cost (the "
            "95 % interval of their share lies above 1 %).",
            lambda n: n["uphill_low"] > 0.01,
            "{uphill:.0f} of {tried:.0f}, a share of {uphill_low:.1%} to {uphill_high:.1%}",
        ),
    ),
)
