"""The plot of a surface: a map of the cost on a plane, at true distances."""

import numpy as np

from thalweg.figures.captions import (
    between_words,
    computed_words,
    cost_label,
    data_words,
    estimate_words,
    joined,
    model_words,
    number,
    policy_words,
    section_words,
)
from thalweg.figures.elements import named, needs_log, shown
from thalweg.figures.figure import Axis, Figure, Map, Marker, Panel
from thalweg.results import Array, Surface

__all__ = ["surface_figure"]

_DENSE = 121  # points along each axis where an interpolant is drawn


def surface_figure(surface: Surface, log: bool | None) -> Figure:
    """Return the figure of a surface, at true distances."""
    values = surface.loss[surface.first_split]
    if min(values.shape) < 2:
        raise ValueError(
            "A map needs two rows and two columns at least; the surface has shape "
            f"{values.shape}. Evaluate more points, or a profile."
        )
    finite = values[np.isfinite(values)]
    log = needs_log(values) if log is None else log
    factor = _lengths(surface.gram)
    columns, rows, drawn = surface.x, surface.y, values
    if surface.interpolation is not None:
        columns, rows = (np.linspace(c[0], c[-1], _DENSE) for c in (columns, rows))
        drawn = surface.interpolate(columns, rows)
    x, y = np.einsum("ij,jrc->irc", factor, np.stack(np.meshgrid(columns, rows)))
    markers = tuple(
        Marker(label, *(float(length) for length in factor @ place))
        for place, label in named(surface.anchors, surface.labels)
        if surface.x[0] <= place[0] <= surface.x[-1] and surface.y[0] <= place[1] <= surface.y[-1]
    )
    first, across = _direction_names(surface)
    visible = shown(drawn, log)
    hidden = int(np.sum(~np.isfinite(shown(values, log))))
    panel = Panel(
        x=Axis(first),
        y=Axis(across),
        markers=markers,
        map=Map(x, y, visible, cost_label(surface.provenance), log),
    )
    return Figure(
        title="Cost on a plane through parameter space",
        caption=joined(
            data_words(surface.provenance, {surface.first_split: values}),
            model_words(surface.provenance),
            policy_words(surface.provenance),
            section_words(surface.provenance),
            "Distances in the plane are Euclidean distances between parameter vectors.",
            f"{values.shape[1]} × {values.shape[0]} points{computed_words(surface.provenance)}.",
            between_words(surface.interpolation),
            estimate_words(surface.estimate),
            f"{hidden} of {values.size} values are gaps." if hidden else "",
        ),
        rows=((panel,),),
        alt=_surface_alt(surface, finite),
    )


def _lengths(gram: Array) -> Array:
    """Return Rᵀ with R Rᵀ = gram: it maps coordinates of the plane to lengths."""
    try:
        return np.asarray(np.linalg.cholesky(gram).T, dtype=np.float64)
    except np.linalg.LinAlgError as error:
        raise ValueError(
            "The two directions of a plane must be independent; their inner products are "
            f"{gram.tolist()}. Choose three points that are not on one line."
        ) from error


def _direction_names(surface: Surface) -> tuple[str, str]:
    """Return the labels of the two axes of a plane."""
    places = {tuple(place): label for place, label in named(surface.anchors, surface.labels)}
    origin, unit = places.get((0.0, 0.0)), places.get((1.0, 0.0))
    if origin and unit:
        return f"distance along {origin} → {unit}", "distance across"
    return "distance along the first direction", "distance across"


def _surface_alt(surface: Surface, finite: Array) -> str:
    """Return range and lowest point of a surface in words."""
    if len(finite) == 0:
        return "Contour map without a finite value."
    values = surface.loss[surface.first_split]
    lowest = np.argmin(np.where(np.isfinite(values), values, np.inf))
    i, j = np.unravel_index(lowest, values.shape)
    return (
        f"Contour map of the cost from {finite.min():.4g} to {finite.max():.4g}; lowest at "
        f"coordinates ({number(surface.x[j])}, {number(surface.y[i])})."
    )
