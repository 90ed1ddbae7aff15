"""The plot of a history: cost and metrics over the epochs of a training run."""

from thalweg.figures.captions import (
    computed_words,
    cost_label,
    data_words,
    joined,
    model_words,
    number,
    policy_words,
)
from thalweg.figures.elements import curve_alt, curves, gaps, metric_panel, span
from thalweg.figures.figure import Axis, Figure, Marker, Panel
from thalweg.results import History

__all__ = ["history_figure"]


def history_figure(history: History, log: bool) -> Figure:
    """Return the figure of a history: cost and metrics over the epochs."""
    markers: tuple[Marker, ...] = ()
    if history.best is not None:
        markers = (Marker(f"kept: epoch {number(history.best)}", float(history.best)),)
    main = Panel(
        x=Axis("epoch", limits=span(history.epoch)),
        y=Axis(cost_label(history.provenance), log),
        curves=curves(history.epoch, history.loss, log),
        markers=markers,
    )
    metrics = [
        (metric_panel(name, table, history.loss, history.epoch, main),)
        for name, table in history.metrics.items()
    ]
    return Figure(
        title="Cost during training",
        caption=joined(
            data_words(history.provenance, history.loss),
            model_words(history.provenance),
            policy_words(history.provenance),
            f"{len(history.epoch)} evaluations{computed_words(history.provenance)}.",
            gaps(main.curves, history.loss),
        ),
        rows=((main,), *metrics),
        alt=curve_alt("epoch", history.epoch, history.loss),
    )
