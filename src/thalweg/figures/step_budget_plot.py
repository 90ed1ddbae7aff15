"""The plot of a step budget: where the steps of a run went, and whether they could be larger."""

import numpy as np

from thalweg.figures.captions import computed_words, joined, model_words, policy_words, sentence
from thalweg.figures.elements import shown, span
from thalweg.figures.figure import Axis, Curve, Figure, Panel
from thalweg.results import Array, StepBudget

__all__ = ["step_budget_figure"]

_HEIGHT = 0.5


def step_budget_figure(budget: StepBudget) -> Figure:
    """Return the figure of a step budget: its terms, ε λ_max and the noise scale, over the run."""
    x = Axis("step", limits=span(budget.steps))
    terms = {
        "true": budget.actual,
        "predicted": budget.predicted,
        "descent": budget.descent,
        "curvature": budget.curvature,
        "noise": budget.noise,
    }
    rows = [(Panel(x, Axis("change of the cost J"), _curves(budget.steps, terms)),)]
    more = (
        ("ε λ_max (dashed: limit)", {"ε λ_max": budget.stability, "limit": budget.stability_limit}),
        (
            "noise scale (dashed: batch size)",
            {"noise scale": budget.noise_scale, "batch size": budget.batch_size},
        ),
    )
    for label, table in more:
        known = {name: values for name, values in table.items() if np.isfinite(values).any()}
        first = next(iter(table))
        if first in known and (known[first] > 0).any():
            curves = _curves(budget.steps, known, log=True)
            rows.append((Panel(x, Axis(label, log=True), curves, height=_HEIGHT),))
    return Figure(
        title="Where the steps went",
        caption=joined(
            model_words(budget.provenance),
            policy_words(budget.provenance),
            sentence(f"optimiser: {budget.optimizer}" if budget.optimizer else ""),
            sentence(budget.method),
            f"{budget.uphill_steps} of {budget.counted_steps} steps go uphill"
            f"{computed_words(budget.provenance)}.",
        ),
        rows=tuple(rows),
        alt=_alt(budget),
    )


def _curves(x: Array, table: dict[str, Array], log: bool = False) -> tuple[Curve, ...]:
    """Return a dotted curve for each row of a table."""
    return tuple(
        Curve(x, shown(values, log), name, rank, dots=True)
        for rank, (name, values) in enumerate(table.items())
    )


def _alt(budget: StepBudget) -> str:
    """Return first and last change in words."""
    known = np.flatnonzero(np.isfinite(budget.actual))
    if len(known) == 0:
        return "Line plot of the change of the cost by steps. No finite value."
    return "Line plot of the change of the cost by steps of a run. " + " ".join(
        f"At step {budget.steps[i]:g}: true {budget.actual[i]:.4g}, predicted "
        f"{budget.predicted[i]:.4g}."
        for i in sorted({known[0], known[-1]})
    )
