"""Interpolating values between evaluated points, with an estimate of the error.

A cost along a section is smooth nearly everywhere, and near a solution it is its logarithm that
is simple. So there are four candidates: a cubic spline and a monotone cubic (PCHIP, which does
not overshoot), each of J and of log J. The one that best predicts every inner point from the
others (leave-one-out) is taken. What it fails by there is also what its error is estimated
from: an interval is about half as wide as the gap that leaving a point out makes.

Where slopes are known there are two more: the cubic Hermite interpolants of J and of log J, which
have these values and slopes at every point. Their error goes with the fourth power of the width
as that of a spline does, but with a smaller factor, and what happens in one interval does not
touch the others. Slopes also make leave-one-out sharper: a point that is left out must have its
slope predicted, too, and what it is missed by is scaled to the middle of the gap that it leaves.

How often the bound holds on networks that were not used to choose these numbers is measured by
`benchmarks/points_needed.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Curve", "Sheet", "fit_curve", "fit_sheet"]

Array = NDArray[np.float64]

# An interval's error as a share of what leaving out its ends costs: for a smooth curve about
# 0.1 (the error goes with the fourth power of the width), at a kink 0.5, at worst below 2.
_EXPECTED, _BOUND = 0.4, 2.0

# A point may be met by accident while its slope is missed: then the error in the gap is that slope
# times this share of the shorter half. For the smooth case, x (x² − h²)², it is 0.286; for a kink
# in the middle of one half, which both values next to it happen to meet, 0.5.
_SLOPE_SHARE = 0.5


@dataclass(frozen=True, eq=False)
class Curve:
    """Values between points on a line.

    Attributes:
        x: Coordinates, ascending, shape (n,).
        y: Values there, shape (n,).
        method: Which interpolant was taken, in words.
        expected: For each interval the expected error, shape (n − 1,).
        bound: For each interval what the error should not exceed, shape (n − 1,).
        slopes: Derivatives at the coordinates, shape (n,), or None where they are not known.
    """

    x: Array
    y: Array
    method: str
    expected: Array
    bound: Array
    slopes: Array | None = None

    def __call__(self, at: ArrayLike) -> Array:
        """Return the values at some coordinates; NaN outside, and next to a value that is NaN.

        Args:
            at: Coordinates, any shape.
        """
        at = np.asarray(at, dtype=np.float64)
        values = _evaluated(self.method, self.x, self.y, at, self.slopes)
        outside = (at < self.x[0]) | (at > self.x[-1])
        return np.where(outside, np.nan, values)


@dataclass(frozen=True, eq=False)
class Sheet:
    """Values between points of a table.

    Attributes:
        x: First coordinates, shape (columns,).
        y: Second coordinates, shape (rows,).
        z: Values, shape (rows, columns).
        method: Which interpolant was taken, in words.
        expected_x: For each interval of x the expected error, shape (columns − 1,).
        expected_y: Likewise for y, shape (rows − 1,).
        bound: For each cell what the error should not exceed, shape (rows − 1, columns − 1).
    """

    x: Array
    y: Array
    z: Array
    method: str
    expected_x: Array
    expected_y: Array
    bound: Array

    def __call__(self, x: ArrayLike, y: ArrayLike) -> Array:
        """Return the values on the table of some coordinates, shape (len(y), len(x))."""
        across, up = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
        if not np.all(np.isfinite(self.z)):
            return _bilinear(self, across, up)
        kind, log = _METHODS[self.method]
        table = np.log(self.z) if log else self.z
        table = _interpolant(kind, self.x, table, axis=1)(across)
        values: Array = _interpolant(kind, self.y, table, axis=0)(up)
        values = np.exp(values) if log else values
        values[:, (across < self.x[0]) | (across > self.x[-1])] = np.nan
        values[(up < self.y[0]) | (up > self.y[-1])] = np.nan
        return values


def fit_curve(x: ArrayLike, y: ArrayLike, slopes: ArrayLike | None = None) -> Curve:
    """Choose an interpolant for values on a line, and estimate its error.

    Args:
        x: Coordinates, ascending strictly.
        y: Values there. Values that are not finite part the line into pieces.
        slopes: Derivatives there, where they are known: then cubic Hermite interpolants are
            among the candidates, unless a slope is not finite where the value is.

    Example:
        >>> x = np.linspace(0, 2, 9)
        >>> curve = fit_curve(x, np.exp(-x))
        >>> curve.method
        'cubic spline of log J'
        >>> bool(abs(curve(0.3) - np.exp(-0.3)) < 1e-12)
        True
        >>> fit_curve([0, 2, 3], [0, 8, 27], slopes=[0, 12, 27]).method  # x³
        'cubic Hermite of J'
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    steep = None if slopes is None else np.asarray(slopes, dtype=np.float64)
    if steep is not None and not np.all(np.isfinite(steep[np.isfinite(y)])):
        steep = None
    method, missed = _chosen(x, y, steep)
    gaps = np.maximum(missed[:-1], missed[1:])
    gaps = np.maximum(gaps, _disagreement(method, x, y, steep))
    return Curve(x, y, method, _EXPECTED * gaps, _BOUND * _around(gaps), steep)


def fit_sheet(x: ArrayLike, y: ArrayLike, z: ArrayLike) -> Sheet:
    """Choose an interpolant for values on a table, and estimate its error.

    Args:
        x: First coordinates, ascending strictly, shape (columns,).
        y: Second coordinates, shape (rows,).
        z: Values, shape (rows, columns).

    Example:
        >>> x = np.linspace(-1, 1, 9)
        >>> sheet = fit_sheet(x, x, x**2 + 2 * x[:, None] ** 2)
        >>> bool(abs(sheet([0.3], [0.6])[0, 0] - 0.81) < 1e-12)
        True
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    z = np.asarray(z, dtype=np.float64)
    scored = []
    for method in _candidates(z):
        kind, log = _METHODS[method]
        rows = np.stack([_left_out(kind, log, x, row) for row in z])
        columns = np.stack([_left_out(kind, log, y, column) for column in z.T], axis=1)
        scored.append((max(_largest(rows), _largest(columns)), method, rows, columns))
    _, method, rows, columns = min(scored, key=lambda each: each[0])
    in_x = np.maximum(rows[:, :-1], rows[:, 1:])
    in_y = np.maximum(columns[:-1], columns[1:])
    cells = np.maximum(in_x[:-1], in_x[1:]) + np.maximum(in_y[:, :-1], in_y[:, 1:])
    return Sheet(
        x,
        y,
        z,
        method,
        _EXPECTED * np.max(in_x, axis=0, initial=0.0),
        _EXPECTED * np.max(in_y, axis=1, initial=0.0),
        _BOUND * _around(_around(cells, 0), 1),
    )


def _around(errors: Array, axis: int = 0) -> Array:
    """Return the largest error of each interval and of the two beside it.

    A point may be predicted well by chance, and now and then both ends of an interval are.
    """
    moved = np.moveaxis(errors, axis, 0)
    largest = moved.copy()
    largest[1:] = np.maximum(largest[1:], moved[:-1])
    largest[:-1] = np.maximum(largest[:-1], moved[1:])
    return np.moveaxis(largest, 0, axis)


# Name to kind of spline, and whether it is one of the logarithm. The first is the default.
_METHODS = {
    "cubic spline of J": ("cubic", False),
    "cubic spline of log J": ("cubic", True),
    "monotone cubic of J": ("monotone", False),
    "monotone cubic of log J": ("monotone", True),
}
_WITH_SLOPES = {
    "cubic Hermite of J": ("Hermite", False),
    "cubic Hermite of log J": ("Hermite", True),
}
_ALL_METHODS = _METHODS | _WITH_SLOPES


def _candidates(values: Array, slopes: Array | None = None) -> list[str]:
    """Return the methods that suit the values: there is no logarithm of a negative number."""
    finite = values[np.isfinite(values)]
    methods = _METHODS if slopes is None else _WITH_SLOPES | _METHODS
    return [name for name, (_, log) in methods.items() if not log or bool(np.all(finite > 0))]


def _chosen(x: Array, y: Array, slopes: Array | None = None) -> tuple[str, Array]:
    """Return the method that predicts left-out points best, and what it misses them by."""
    scored = [
        (_left_out(*_ALL_METHODS[method], x, y, slopes), method)
        for method in _candidates(y, slopes)
    ]
    missed, method = min(scored, key=lambda each: _largest(each[0]))
    return method, missed


def _largest(errors: Array) -> float:
    """Return the largest error that is finite, 0 where there is none."""
    finite = errors[np.isfinite(errors)]
    return float(finite.max(initial=0.0))


def _left_out(kind: str, log: bool, x: Array, y: Array, slopes: Array | None = None) -> Array:
    """Return by how much each inner point is missed by the interpolant of all others, (n,).

    Where slopes are known, missing the slope counts as the error that it leads to. The ends,
    which others cannot say anything about, get the error of their neighbours; points next to a
    value that is not finite get infinity, for nothing is known there.
    """
    missed = np.zeros(len(x))
    for piece in _pieces(y):
        u, v = x[piece], np.log(y[piece]) if log else y[piece]
        s = _slopes_of(y, slopes, piece, log)
        inner = np.full(len(u), np.inf if len(u) < len(x) else 0.0)
        for i in range(1, len(u) - 1):
            others = np.arange(len(u)) != i
            rates = None if s is None else s[others]
            predict = _interpolant(kind, u[others], v[others], slopes=rates)
            guess = np.exp(predict(u[i])) if log else predict(u[i])
            inner[i] = abs(guess - y[piece][i])
            if s is not None:
                low, high = u[i] - u[i - 1], u[i + 1] - u[i]
                # Near an end of the gap the error is smaller than in its middle.
                inner[i] *= ((low + high) ** 2 / (4 * low * high)) ** 2
                off = abs(predict(u[i], 1) - s[i]) * (guess if log else 1.0)
                inner[i] = max(inner[i], _SLOPE_SHARE * min(low, high) * off)
        if len(u) > 2:
            inner[0], inner[-1] = inner[1], inner[-2]
        missed[piece] = inner
    missed[~np.isfinite(y)] = np.inf
    return missed


def _disagreement(method: str, x: Array, y: Array, slopes: Array | None = None) -> Array:
    """Return how far splines of J and of log J part in each interval, where both exist."""
    apart = np.zeros(len(x) - 1)
    kind, _ = _ALL_METHODS[method]
    if len(x) < (2 if kind == "Hermite" else 3) or not np.all(np.isfinite(y)) or not np.all(y > 0):
        return apart
    shares = np.linspace(0, 1, 9)[1:-1]
    inside = x[:-1, None] + shares * np.diff(x)[:, None]
    rates = (None, None) if slopes is None else (slopes, slopes / y)
    plain = _interpolant(kind, x, y, slopes=rates[0])(inside)
    logarithmic = np.exp(_interpolant(kind, x, np.log(y), slopes=rates[1])(inside))
    apart[:] = np.abs(plain - logarithmic).max(axis=1)
    return apart


def _evaluated(method: str, x: Array, y: Array, at: Array, slopes: Array | None = None) -> Array:
    """Return the interpolant at some coordinates, piece by piece between values not finite."""
    kind, log = _ALL_METHODS[method]
    values = np.full(at.shape, np.nan)
    for piece in _pieces(y):
        u, v = x[piece], np.log(y[piece]) if log else y[piece]
        inside = (at >= u[0]) & (at <= u[-1])
        if len(u) == 1:
            values[inside] = y[piece][0]
            continue
        s = _slopes_of(y, slopes, piece, log)
        found = _interpolant(kind, u, v, slopes=s)(at[inside])
        values[inside] = np.exp(found) if log else found
    # The logarithm and back again rounds; the points themselves are kept as they are.
    place = np.clip(np.searchsorted(x, at), 0, len(x) - 1)
    exact = (x[place] == at) & np.isfinite(y[place])
    values[exact] = y[place[exact]]
    return values


def _slopes_of(y: Array, slopes: Array | None, piece: slice, log: bool) -> Array | None:
    """Return the slopes of J, or of log J, in one run of finite values."""
    if slopes is None:
        return None
    return slopes[piece] / y[piece] if log else slopes[piece]


def _pieces(y: Array) -> list[slice]:
    """Return the runs of finite values."""
    finite = np.concatenate([[False], np.isfinite(y), [False]])
    edges = np.flatnonzero(np.diff(finite.astype(int)))
    return [slice(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def _interpolant(
    kind: str, x: Array, y: Array, axis: int = 0, slopes: Array | None = None
) -> Callable[..., Any]:
    """Return a spline through points; a straight line through two, a parabola through three."""
    from scipy import interpolate

    if len(x) == 1:
        return lambda at: np.repeat(np.take(y, [0], axis=axis), np.size(at), axis=axis)
    if kind == "Hermite":
        return interpolate.CubicHermiteSpline(x, y, slopes)  # type: ignore[no-any-return]
    if len(x) == 2 or kind == "monotone":
        return interpolate.PchipInterpolator(x, y, axis=axis)  # type: ignore[no-any-return]
    return interpolate.CubicSpline(x, y, axis=axis)  # type: ignore[no-any-return]


def _bilinear(sheet: Sheet, across: Array, up: Array) -> Array:
    """Return values that are NaN in every cell with a corner that is not finite."""

    def along(values: Array, nodes: Array, at: Array) -> Array:
        if len(nodes) == 1:
            return np.repeat(values[:1], len(at), axis=0)
        piece = np.clip(np.searchsorted(nodes, at, side="right") - 1, 0, len(nodes) - 2)
        t = ((at - nodes[piece]) / (nodes[piece + 1] - nodes[piece]))[:, None]
        low, high = values[piece], values[piece + 1]
        mixed = np.where(t == 0, low, np.where(t == 1, high, (1 - t) * low + t * high))
        mixed[(at < nodes[0]) | (at > nodes[-1])] = np.nan
        return mixed

    with np.errstate(invalid="ignore"):
        columns = along(sheet.z.T, sheet.x, across)
        values = along(columns.T, sheet.y, up)
    return np.where(np.isfinite(values), values, np.nan)
