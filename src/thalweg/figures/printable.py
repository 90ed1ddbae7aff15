"""Figures as a picture of one column can show them: long curves thinned, long names shortened."""

from dataclasses import replace
from itertools import pairwise

import numpy as np

from thalweg.figures.figure import Band, Curve, Figure, Panel
from thalweg.results import Array

__all__ = ["printable"]

_BINS = 1500  # more than a column of a journal has dots for
_FEW = 4 * _BINS  # points that are drawn as they are
_LETTERS = 30  # of a name that leaves room for the curves
_LABEL = 60  # letters of a label along an axis


def printable(figure: Figure) -> Figure:
    """Return a figure whose long curves have only points that can be told apart.

    Of each of many short stretches in a row the first, the least, the largest and the last value
    are kept, and a gap where there is one, so that no spike is lost. Names end in an ellipsis
    where they would leave no room for what they name.
    """
    return replace(figure, rows=tuple(tuple(map(_panel, row)) for row in figure.rows))


def _panel(panel: Panel) -> Panel:
    """Return a panel with thinned curves and bands, and short names."""
    return replace(
        panel,
        x=replace(panel.x, label=_short(panel.x.label, _LABEL)),
        y=replace(panel.y, label=_short(panel.y.label, _LABEL)),
        curves=tuple(map(_thinned_curve, panel.curves)),
        bands=tuple(map(_thinned_band, panel.bands)),
        markers=tuple(replace(each, label=_short(each.label)) for each in panel.markers),
    )


def _short(name: str, letters: int = _LETTERS) -> str:
    """Return a name, cut where it is very long."""
    return name if len(name) <= letters else f"{name[: letters - 1]}…"


def _thinned_curve(curve: Curve) -> Curve:
    """Return a curve with the points that matter; without dots where there were too many."""
    curve = replace(curve, label=_short(curve.label))
    if len(curve.x) <= _FEW:
        return curve
    kept = _kept(curve.y)
    return replace(curve, x=curve.x[kept], y=curve.y[kept], dots=False)


def _thinned_band(band: Band) -> Band:
    """Return a band with the points that matter to either edge."""
    if len(band.x) <= _FEW:
        return band
    kept = np.union1d(_kept(band.low), _kept(band.high))
    return replace(band, x=band.x[kept], low=band.low[kept], high=band.high[kept])


def _kept(values: Array) -> Array:
    """Return the places of the values that are kept, in their order."""
    edges = np.linspace(0, len(values), _BINS + 1).astype(int)
    places = []
    for first, last in pairwise(edges):
        part = values[first:last]
        finite = np.isfinite(part)
        places += [first, last - 1]
        if finite.any():
            places.append(first + int(np.where(finite, part, np.inf).argmin()))
            places.append(first + int(np.where(finite, part, -np.inf).argmax()))
        if not finite.all():
            places.append(first + int((~finite).argmax()))
    return np.unique(places)
