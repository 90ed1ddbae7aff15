"""What the plots share: curves of a table, panels of metrics, and their words."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from thalweg.figures.captions import joined, number
from thalweg.figures.figure import Axis, Curve, Marker, Panel
from thalweg.results import Array

__all__ = [
    "curve_alt",
    "curves",
    "gaps",
    "metric_panel",
    "named",
    "needs_log",
    "shown",
    "span",
]

_FEW_POINTS = 25  # so few that each is marked
_METRIC_HEIGHT = 0.5
# A surface over more than two decades shows nothing but its rim on a linear scale.
_AUTOMATIC_LOG = 100.0


def curves(x: Array, table: Mapping[str, Array], log: bool) -> tuple[Curve, ...]:
    """Return one curve a split, in order."""
    dots = len(x) <= _FEW_POINTS
    return tuple(
        Curve(x, shown(values, log), split, rank, dots)
        for rank, (split, values) in enumerate(table.items())
    )


def metric_panel(
    name: str, table: Mapping[str, Array], splits: Iterable[str], x: Array, main: Panel
) -> Panel:
    """Return the small panel of one metric, its splits in the looks that they have above."""
    error = name.lower().replace("_", " ").startswith("error")
    order = list(dict.fromkeys([*splits, *table]))
    curves = tuple(
        Curve(
            x=x,
            y=shown(values * (100 if error else 1), log=False),
            label=split,
            rank=order.index(split),
            dots=len(x) <= _FEW_POINTS,
        )
        for split, values in table.items()
    )
    label = "error rate (%)" if error else name.replace("_", " ")
    lines = tuple(Marker("", marker.x) for marker in main.markers if marker.y is None)
    return Panel(main.x, Axis(label), curves, markers=lines, height=_METRIC_HEIGHT)


def needs_log(values: Array) -> bool:
    """Tell whether the heights of a surface are positive and span more than two decades."""
    finite = values[np.isfinite(values)]
    return bool(len(finite)) and bool(0 < finite.min() * _AUTOMATIC_LOG < finite.max())


def shown(values: Array, log: bool) -> Array:
    """Return values with NaN in place of what cannot be shown."""
    visible = np.isfinite(values) & ((values > 0) if log else True)
    return np.where(visible, values, np.nan)


def span(x: Array) -> tuple[float, float] | None:
    """Return first and last of ascending values, or None where they span nothing."""
    return (float(x[0]), float(x[-1])) if len(x) > 1 and x[0] < x[-1] else None


def gaps(curves: tuple[Curve, ...], table: Mapping[str, Array]) -> str:
    """Return the sentences about values that are not shown."""
    lost = sum(int(np.sum(~np.isfinite(values))) for values in table.values())
    low = sum(int(np.sum(~np.isfinite(curve.y))) for curve in curves) - lost
    total = sum(len(values) for values in table.values())
    return joined(
        f"{lost} of {total} values are not finite: gaps." if lost else "",
        f"{low} of {total} values are not above 0: gaps on this scale." if low else "",
    )


def curve_alt(name: str, x: Array, table: Mapping[str, Array]) -> str:
    """Return first, lowest and last value of each curve in words."""
    sentences = []
    for split, values in table.items():
        at = np.flatnonzero(np.isfinite(values))
        if len(at) == 0:
            sentences.append(f"{split}: no finite value.")
            continue
        lowest = at[np.argmin(values[at])]
        first, least, last = (
            f"{values[i]:.4g} at {name} = {number(x[i])}" for i in (at[0], lowest, at[-1])
        )
        sentences.append(f"{split}: {first}, lowest {least}, {last}.")
    return "Line plot of the cost. " + " ".join(sentences)


def named(places: Iterable[Any], labels: tuple[str, ...]) -> list[tuple[Any, str]]:
    """Return places with their names; the name is empty where there are fewer names."""
    places = list(places)
    return list(zip(places, [*labels, *[""] * len(places)], strict=False))
