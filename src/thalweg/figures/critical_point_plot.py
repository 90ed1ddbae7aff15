"""The plots of a critical point and of a search for one."""

import numpy as np

from thalweg.figures.captions import computed_words, cost_label, joined, number
from thalweg.figures.elements import shown, span
from thalweg.figures.figure import Axis, Curve, Figure, Marker, Panel
from thalweg.results import Array, CriticalPoint, CriticalPointSearch

__all__ = ["critical_point_figure", "search_figure"]

_MOST_DOTS = 100  # so few points that each is marked


def critical_point_figure(point: CriticalPoint) -> Figure:
    """Return the figure of a critical point: its eigenvalues, and the cost in the null space."""
    values = point.eigenvalues
    ranks = np.arange(1.0, len(values) + 1)
    panel = Panel(
        x=Axis("rank of the eigenvalue, from the lowest"),
        y=Axis("eigenvalue of the Hessian"),
        curves=(Curve(ranks, values, "", dots=len(values) <= _MOST_DOTS, joined=len(values) > 30),),
    )
    known = "" if len(values) == point.size else f" of {point.size}"
    return Figure(
        title=f"A point that is {_article(point.kind)}",
        caption=joined(
            f"J = {point.loss:.6g}, {len(values)}{known} eigenvalues"
            f"{computed_words(point.provenance)}.",
            *point.evidence,
        ),
        rows=((panel,), *_null_space_panels(point)),
        alt=f"Eigenvalues from {values.min(initial=0):.4g} to {values.max(initial=0):.4g}. "
        + " ".join(point.evidence),
    )


def _null_space_panels(point: CriticalPoint) -> tuple[tuple[Panel, ...], ...]:
    """Return the panel of the cost in the null space, where it was probed."""
    if len(point.radius) == 0:
        return ()
    directions = len(point.signs)
    circle = point.sign_changes is not None
    x: Array = np.arange(directions, dtype=np.float64)
    if circle:
        x *= 360 / directions
    label = "direction in the null space" + (" (degrees)" if circle else "")
    curve = Curve(x, shown(point.change[-1], log=False), "", dots=True, joined=circle)
    return (
        (
            Panel(
                x=Axis(label, limits=span(x)),
                y=Axis(f"J − J₀ at distance {point.radius[-1]:.2g}"),
                curves=(curve,),
            ),
        ),
    )


def _article(kind: str) -> str:
    """Return a kind with its article, where it takes one."""
    return f"a {kind}" if kind in ("minimum", "maximum", "saddle") else kind


def search_figure(search: CriticalPointSearch) -> Figure:
    """Return the figure of a search: the cost and the norm of the gradient over the steps."""
    step = np.arange(len(search.loss), dtype=np.float64)
    dots = len(step) <= _MOST_DOTS
    axis = Axis("step", limits=span(step))
    cost = Panel(
        x=axis,
        y=Axis(cost_label(search.provenance)),
        curves=(Curve(step, shown(search.loss, log=False), "cost", dots=dots),),
        markers=(Marker("end", step[-1]),),
    )
    gradient = Panel(
        x=axis,
        y=Axis("norm", log=True),
        curves=(
            Curve(step, shown(search.gradient_norm, log=True), "gradient", dots=dots),
            Curve(step, shown(search.displacement, log=True), "displacement", 1, dots),
        ),
    )
    return Figure(
        title=f"Search for a critical point: {search.method}",
        caption=joined(
            f"{search.outcome.capitalize()} after {search.steps} steps.",
            search.reason,
            f"{search.products} Hessian-vector products{computed_words(search.provenance)}.",
            "Displacement: ‖|H|⁻¹ ∇J‖, the distance of a critical point by the curvature there.",
        ),
        rows=((cost,), (gradient,)),
        alt=f"Line plots over {search.steps} steps. Cost from {search.loss[0]:.4g} to "
        f"{search.loss[-1]:.4g}, gradient norm from {number(search.gradient_norm[0])} to "
        f"{number(search.gradient_norm[-1])}.",
    )
