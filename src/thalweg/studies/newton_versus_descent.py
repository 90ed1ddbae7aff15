"""Newton's method goes to saddles; descent leaves them.

Where the Hessian has negative eigenvalues, Newton's step −H⁻¹g goes uphill along their
eigenvectors: the method is attracted by every critical point, saddles and maxima included
(Goodfellow, Bengio & Courville 2016, section 8.2.3). Gradient descent is slow near a saddle but
leaves it, and saddle-free Newton (Dauphin et al. 2014), which takes abs(H) for H, leaves it fast.

First on x²/2 − y²/2 + y⁴/4 from (1.5, 0.001), beside its saddle at the origin; then on a small
network of tanh units on digits, with weight decay, started with small weights, beside the saddle
where all weights are zero and the network knows no more than how frequent each class is.

Expected: Newton ends in the saddle, with a cost above that of its start or hardly below; the
others leave it. (From weights five times as large Newton's method mostly diverges.) Seconds at
scale `smoke`, some minutes at `small`.
"""

from typing import TYPE_CHECKING, Any

from thalweg.grids import Uniform
from thalweg.studies.study import Claim, Outcome, Run, Study

if TYPE_CHECKING:
    from thalweg.objectives.model import ModelObjective

_START = (1.5, 0.001)
_LOWEST = -0.25
_METHODS = {"newton": "newton", "free": "saddle-free-newton"}


def run(run: Run) -> Outcome:
    """Search from beside a saddle by Newton's method, saddle-free Newton and descent."""
    results: dict[str, Any] = {}
    numbers: dict[str, Any] = {}
    _closed_form(run, results, numbers)
    _network(run, results, numbers)
    return Outcome(
        results,
        numbers,
        (
            f"On x²/2 − y²/2 + y⁴/4 Newton's method ends in a {numbers['form_newton_kind']}, "
            f"saddle-free Newton in a {numbers['form_free_kind']} after "
            f"{numbers['form_free_steps']} steps, and gradient descent needs "
            f"{numbers['form_descent_steps']}.",
            f"On a network of {numbers['parameters']} parameters Newton's method ends in a "
            f"{numbers['net_newton_kind']} of cost {numbers['net_newton_loss']:.3f}, with "
            f"{numbers['net_newton_negative']:.0%} of the eigenvalues negative; saddle-free Newton "
            f"reaches {numbers['net_free_loss']:.3f} and gradient descent "
            f"{numbers['net_descent_loss']:.3f}.",
        ),
    )


def _closed_form(run: Run, results: dict[str, Any], numbers: dict[str, Any]) -> None:
    """Search on a function of two variables, and draw it with the ends."""
    from dataclasses import replace

    import numpy as np
    import torch

    from thalweg import functions
    from thalweg.evaluate import surface
    from thalweg.probes.principal_surface import principal_surface
    from thalweg.sections import Plane
    from thalweg.trajectory.trajectory import Trajectory

    cost = functions.attractive_saddle()
    ends = [_START]
    for name, method in _METHODS.items():
        search = _searched(run, cost, _START, method, results, numbers, f"form_{name}_")
        results[f"form-{method}"] = search
        ends.append(tuple(search.theta))
    path = [cost.point(_START)]
    while cost.value(path[-1]) > _LOWEST + 1e-6:
        path.append(path[-1] - run["rate"] * cost.gradient(path[-1]))
    numbers["form_descent_steps"] = len(path) - 1
    numbers["form_descent_loss"] = cost.value(path[-1])
    numbers["form_closest"] = min(float(point.norm()) for point in path)
    axes = torch.eye(2, dtype=torch.float64)
    plane = Plane((torch.zeros(2, dtype=torch.float64), *axes), False, ("saddle",))
    side = run["side"]
    sheet = surface(
        cost, plane, Uniform(-2, 2, side), Uniform(-1.8, 1.8, side), progress=run.report
    )
    labels = ("start", "Newton", "saddle-free")
    results["form-ends"] = replace(sheet, anchors=np.array(ends), labels=labels)
    results["form-descent"] = principal_surface(
        cost, Trajectory.from_points(torch.stack(path)), progress=run.report, reach=1.5
    )


def _network(run: Run, results: dict[str, Any], numbers: dict[str, Any]) -> None:
    """Search on a small network from beside the saddle of zero weights."""
    import numpy as np

    from thalweg.results import History

    cost, start = _small_network(run)
    numbers["parameters"] = cost.space.size
    for name, method in _METHODS.items():
        search = _searched(run, cost, start, method, results, numbers, f"net_{name}_")
        results[f"net-{method}"] = search
    theta, losses = start, []
    for step in range(run["descent"] + 1):
        run.report(step, run["descent"], "gradient descent")
        losses.append(cost.value(theta))
        if step < run["descent"]:
            theta = theta - run["net_rate"] * cost.gradient(theta)
    numbers["net_start_loss"], numbers["net_descent_loss"] = losses[0], losses[-1]
    provenance = results["net-newton"].provenance
    results["net-descent"] = History(
        np.arange(float(len(losses))), {"train": np.array(losses)}, provenance=provenance
    )


def _small_network(run: Run) -> "tuple[ModelObjective, Any]":
    """Return the cost of a network of tanh units on a few components of digits, and a start."""
    import torch

    from thalweg.objectives.model import ModelObjective
    from thalweg.problems.data import digits

    inputs, labels = digits(seed=0).splits["train"]
    kept = labels < run["classes"]
    inputs, labels = inputs[kept].double(), labels[kept]
    inputs = inputs - inputs.mean(0)
    _, _, components = torch.linalg.svd(inputs, full_matrices=False)
    inputs = inputs @ components[: run["components"]].T
    inputs = inputs / inputs.std()
    generator = torch.Generator().manual_seed(run["seed"])
    model = torch.nn.Sequential(
        torch.nn.Linear(run["components"], run["hidden"], dtype=torch.float64),
        torch.nn.Tanh(),
        torch.nn.Linear(run["hidden"], run["classes"], dtype=torch.float64),
    )
    decay = run["decay"]
    cost = ModelObjective(
        model,
        torch.nn.CrossEntropyLoss(),
        (inputs, labels),
        penalty=lambda tensors: decay / 2 * sum(t.square().sum() for t in tensors.values()),
    )
    start = torch.randn(cost.space.size, generator=generator, dtype=torch.float64)
    return cost, run["reach"] * start


def _searched(
    run: Run,
    cost: Any,
    start: Any,
    method: Any,
    results: dict[str, Any],
    numbers: dict[str, Any],
    prefix: str,
) -> Any:
    """Search, classify the end, and note both."""
    from thalweg.probes.critical_point_search import find_critical_point
    from thalweg.probes.critical_points import classify

    search = find_critical_point(
        cost, start, method, steps=run["steps"], progress=run.report, scale=run["length"]
    )
    end = classify(cost, search.theta, progress=run.report, scale=run["length"])
    results[f"{prefix.replace('_', '-')}end"] = end
    numbers |= {
        f"{prefix}outcome": search.outcome,
        f"{prefix}steps": search.steps,
        f"{prefix}loss": float(search.loss[-1]),
        f"{prefix}kind": end.kind,
        f"{prefix}negative": end.index_interval[0],
        f"{prefix}norm": float((search.theta**2).sum() ** 0.5),
    }
    return search


_SETTINGS = {"rate": 0.1, "steps": 200, "length": 1.0, "reach": 0.02, "decay": 1e-3}

STUDY = Study(
    name="newton-versus-descent",
    title="Newton's method goes to saddles; descent leaves them",
    source="Goodfellow, Bengio & Courville (2016), section 8.2.3; Dauphin et al. (2014)",
    run=run,
    scales={
        "smoke": {
            **_SETTINGS,
            **{"side": 41, "classes": 3, "components": 4, "hidden": 3},
            **{"descent": 300, "net_rate": 1.0},
        },
        "small": {
            **_SETTINGS,
            **{"side": 81, "classes": 10, "components": 8, "hidden": 8},
            **{"descent": 1000, "net_rate": 1.0},
        },
    },
    claims=(
        Claim(
            "From beside a saddle Newton's method goes to the saddle.",
            lambda n: n["form_newton_outcome"] == "converged" and n["form_newton_kind"] == "saddle",
            "{form_newton_outcome} in {form_newton_steps} steps: {form_newton_kind} of cost "
            "{form_newton_loss:.2g}",
        ),
        Claim(
            "Gradient descent is drawn to the same saddle (to within 0.1), and leaves it for a "
            "minimum.",
            lambda n: n["form_closest"] <= 0.1 and n["form_descent_loss"] <= _LOWEST + 1e-6,
            "as close as {form_closest:.2g}, then to {form_descent_loss:.4f}, in "
            "{form_descent_steps} steps",
        ),
        Claim(
            "Saddle-free Newton leaves it for a minimum, in fewer steps than gradient descent.",
            lambda n: (
                n["form_free_kind"] == "minimum" and n["form_free_steps"] < n["form_descent_steps"]
            ),
            "{form_free_kind} of cost {form_free_loss:.4f} in {form_free_steps} steps, against "
            "{form_descent_steps}",
        ),
        Claim(
            "On a network Newton's method converges to a saddle, at the point of zero weights.",
            lambda n: (
                n["net_newton_outcome"] == "converged"
                and n["net_newton_kind"] == "saddle"
                and n["net_newton_loss"] >= 0.95 * n["net_start_loss"]
            ),
            "{net_newton_kind}, cost {net_newton_loss:.4f} after {net_start_loss:.4f} at the "
            "start, {net_newton_negative:.0%} of the eigenvalues negative",
        ),
        Claim(
            "Saddle-free Newton and gradient descent leave it (to less than half of its cost).",
            lambda n: max(n["net_free_loss"], n["net_descent_loss"]) <= n["net_newton_loss"] / 2,
            "{net_free_loss:.4f} and {net_descent_loss:.4f}",
        ),
        Claim(
            "Saddle-free Newton ends in a critical point without negative curvature.",
            lambda n: (
                n["net_free_kind"] in ("minimum", "degenerate") and n["net_free_negative"] == 0
            ),
            "{net_free_kind} after {net_free_steps} steps",
        ),
    ),
)
