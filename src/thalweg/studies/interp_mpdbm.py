"""From start to solution of a multi-prediction deep Boltzmann machine, in a straight line.

Figure 7 left of Goodfellow, Vinyals & Saxe (2015): for the MP-DBM alone the line from start to
solution shows a secondary local minimum with a high cost. J is the multi-prediction criterion:
how badly masked pixels and labels are predicted by mean field from those that are not masked, for
pixels drawn from their grey levels once, and a few draws of the masks, the same at every point.

The machine is the paper's (784-2087-3200 units, 8,352,689 parameters, 14 mean-field iterations,
gradients through all of them); that of scale `small` has 200 and 300 units and 6 iterations, and
sees 10,000 images. Labels are inferred with all pixels seen, also by the multi-inference trick.

Measured at scale `small` (seed 0): no second minimum; 5.9 % of the labels inferred wrongly against
10.0 % of a linear classifier.

Expected: a minimum between start and solution, with a high cost; labels inferred clearly better
than by a linear classifier on the same images.
"""

from typing import Any

from thalweg.studies.study import Claim, Outcome, Run, Study

_SECOND_MINIMUM = Claim(
    "The line shows a second minimum besides that of the solution (deeper than 0.1 % of the range; "
    "between the ends or beyond them).",
    lambda n: n["other_minima"] >= 1,
    "{other_minima:.0f} further minima, greatest climb before the solution {climb_share:.2%}",
)


def run(run: Run) -> Outcome:
    """Train the machine, evaluate its criterion along the line, infer labels."""
    # Imported here, so that listing the studies does not load torch.
    from thalweg.measures.profiles import interior_minima
    from thalweg.studies.interpolation import train_network
    from thalweg.studies.lines import run_line
    from thalweg.studies.trainings import boltzmann_machine

    made = boltzmann_machine(run, run["seed"])
    found = run_line(run, made)
    line: Any = found.results["line"]
    minima = interior_minima(line, tolerance=1e-3 * float(found.numbers["span"]))
    network = train_network(run, seed=run["seed"], training=made)
    network.model.load_state_dict(network.space.unflatten(network.solution), strict=False)
    errors = _errors(network)
    numbers = {
        **found.numbers,
        **errors,
        "other_minima": max(0, len(minima) - 1),
    }
    summary = (
        *found.summary,
        f"With all pixels seen, {errors['plain_error']:.2%} of the labels are inferred wrongly, "
        f"{errors['multi_error']:.2%} with the multi-inference trick; a linear classifier has "
        f"{errors['linear_error']:.2%}.",
    )
    return Outcome(found.results, numbers, summary)


def _errors(network: Any) -> dict[str, float]:
    """Return error rates on the validation split: of two ways to infer, and of linear features."""
    import torch

    (x, y), (own, labels) = network.data.splits["valid"], network.data.splits["train"]
    device = next(network.model.parameters()).device
    with torch.no_grad():
        missed = {
            f"{name}_error": float(
                (network.model.classify(x.to(device), multi_inference=multi).argmax(1).cpu() != y)
                .double()
                .mean()
            )
            for name, multi in (("plain", False), ("multi", True))
        }
    return {**missed, "linear_error": _linear_error(own, labels, x, y)}


def _linear_error(own: Any, labels: Any, x: Any, y: Any) -> float:
    """Return the error rate of softmax regression with a little decay, trained to its minimum."""
    import torch

    weight = torch.zeros(own.shape[1] + 1, 10, requires_grad=True)

    def logits(pixels: Any) -> Any:
        return pixels @ weight[:-1] + weight[-1]

    search = torch.optim.LBFGS([weight], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Any:
        search.zero_grad()
        loss = torch.nn.functional.cross_entropy(logits(own), labels) + 1e-4 * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    search.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        return float((logits(x).argmax(1) != y).double().mean())


STUDY = Study(
    name="interp-mpdbm",
    title="MP-DBM: straight from start to solution",
    source="Goodfellow, Vinyals & Saxe (2015), figure 7 left; Goodfellow et al. (2013)",
    run=run,
    scales={
        "smoke": {
            "data": "digits",
            "network": {
                "hidden": [100, 100],
                "iterations": 6,
                "epochs": 50,
                "batch_size": 50,
                "nonzero": [8, 10],
                "init_range": 0.05,
                "learning_rate": 5.0,
            },
            "mask_draws": 2,
            "grid": [-0.25, 2.0, 46],
        },
        "small": {
            "data": "mnist",
            "examples": 10_000,
            "valid_examples": 5000,
            "network": {
                "hidden": [200, 300],
                "iterations": 6,
                "epochs": 45,
                "batch_size": 25,
                "init_range": 0.05,
                "learning_rate": 8.0,
            },
            "mask_draws": 1,
            "grid": [-0.25, 2.0, 46],
        },
        "paper": {
            "data": "mnist",
            "network": {},
            "mask_draws": 5,
            "grid": [-0.25, 2.0, 91],
        },
    },
    claims=(
        _SECOND_MINIMUM,
        Claim(
            "Mean field through the trained machine classifies (error rate at most a third of "
            "chance).",
            lambda n: n["plain_error"] <= 0.3,
            "{plain_error:.2%}",
        ),
        Claim(
            "Labels are inferred better than by a linear classifier on the same images (error "
            "rate lower by a tenth of it or more).",
            lambda n: n["plain_error"] <= 0.9 * n["linear_error"],
            "{plain_error:.2%} against {linear_error:.2%}",
        ),
        Claim(
            "The multi-inference trick does no harm (error rate at most a tenth higher).",
            lambda n: n["multi_error"] <= 1.1 * n["plain_error"],
            "{multi_error:.2%} against {plain_error:.2%}",
        ),
    ),
)
