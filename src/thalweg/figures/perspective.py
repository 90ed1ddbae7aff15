"""What the eye sees of a surface in space: which parts of a path on it are hidden, from where.

Positions are in the box that the surface is drawn in, seen from far away (orthographically).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from thalweg.figures.figure import Path, Sheet
from thalweg.results import Array

__all__ = ["best_view", "boxed", "heights", "hidden", "limits_of", "refined", "some"]

_NEARER = 0.015  # in lengths of the box: what covers a point is at least this much nearer
_MOST = 40  # rows and columns of a surface that is asked whether it covers a point
_POINTS_AT_ONCE = 64

# Eyes from which the first axis runs from left to right, the most pleasing first.
_VIEWS = tuple(
    (elevation, azimuth)
    for elevation in (32.0, 42.0, 52.0)
    for azimuth in (-58.0, -45.0, -70.0, -122.0, -110.0, -135.0)
)


def heights(values: Array, log: bool) -> Array:
    """Return values as heights: their decimal logarithms on a logarithmic scale; NaN is a gap."""
    if not log:
        return np.where(np.isfinite(values), values, np.nan)
    positive = np.isfinite(values) & (values > 0)
    return np.log10(np.where(positive, values, np.nan))


def limits_of(sheet: Sheet) -> tuple[tuple[float, float], ...]:
    """Return least and largest x, y and height of a sheet and its paths."""
    found = []
    for k in range(3):
        shown: tuple[Sheet | Path, ...] = (sheet, *sheet.paths)
        parts = [_columns(each, sheet.log)[k].ravel() for each in shown]
        values = np.concatenate(parts)
        values = values[np.isfinite(values)]
        low, high = (values.min(), values.max()) if len(values) else (0.0, 1.0)
        pad = 0.5 * max(abs(low), 1.0) if high == low else 0.0
        found.append((float(low - pad), float(high + pad)))
    return tuple(found)


def boxed(sheet: Sheet, points: Sequence[Array]) -> Array:
    """Return positions in the box of a sheet, shape (..., 3); the third is a height already."""
    scaled = [
        (values - low) / (high - low) * edge
        for values, (low, high), edge in zip(points, limits_of(sheet), sheet.box, strict=True)
    ]
    return np.stack(scaled, axis=-1)


def refined(path: Path, log: bool, times: int = 4) -> tuple[Array, ...]:
    """Return x, y and height of a path with more points on each of its pieces."""
    columns = _columns(path, log)
    at = np.arange(len(path.x), dtype=np.float64)
    fine = np.linspace(0, len(at) - 1, times * (len(at) - 1) + 1)
    return tuple(np.interp(fine, at, column) for column in columns)


def hidden(sheet: Sheet, points: Sequence[Array], view: tuple[float, float]) -> NDArray[np.bool_]:
    """Tell for each point whether the sheet is between it and the eye, shape (n,).

    Args:
        sheet: The surface.
        points: x, y and height, shape (n,) each.
        view: Elevation and azimuth in degrees.
    """
    corners = _triangles(boxed(sheet, _columns(sheet, sheet.log)))
    a, b, c = (_seen(corners[:, k], view) for k in range(3))
    eye = _seen(boxed(sheet, points), view)
    area = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (c[:, 0] - a[:, 0]) * (b[:, 1] - a[:, 1])
    flat = np.abs(area) < 1e-12
    a, b, c, area = a[~flat], b[~flat], c[~flat], area[~flat]
    covered = np.zeros(len(eye), dtype=bool)
    for at in range(0, len(eye), _POINTS_AT_ONCE):
        p = eye[at : at + _POINTS_AT_ONCE, None]
        u = (p[..., 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (c[:, 0] - a[:, 0]) * (
            p[..., 1] - a[:, 1]
        )
        w = (b[:, 0] - a[:, 0]) * (p[..., 1] - a[:, 1]) - (p[..., 0] - a[:, 0]) * (
            b[:, 1] - a[:, 1]
        )
        u, w = u / area, w / area
        depth = a[:, 2] + u * (b[:, 2] - a[:, 2]) + w * (c[:, 2] - a[:, 2])
        inside = (u >= 0) & (w >= 0) & (u + w <= 1)
        covered[at : at + _POINTS_AT_ONCE] = (inside & (depth > p[..., 2] + _NEARER)).any(axis=1)
    return covered


def best_view(sheet: Sheet, path: Path) -> tuple[float, float]:
    """Return the eye that sees the most of a path; of several the one that looks best."""
    points = refined(path, sheet.log, 1)
    finite = np.isfinite(points[2])
    visible = tuple(column[finite] for column in points)
    return min(_VIEWS, key=lambda view: round(float(np.mean(hidden(sheet, visible, view))), 2))


def some(count: int, most: int) -> NDArray[np.intp]:
    """Return which of so many rows, or columns, are kept: the first and the last among them."""
    if count <= most:
        return np.arange(count)
    return np.unique(np.linspace(0, count - 1, most).round().astype(np.intp))


def _columns(what: Sheet | Path, log: bool) -> tuple[Array, Array, Array]:
    """Return x, y and height."""
    return what.x, what.y, heights(what.z, log)


def _triangles(points: Array) -> Array:
    """Cut a mesh into triangles, shape (count, 3, 3), after thinning it."""
    rows, columns = (some(size, _MOST) for size in points.shape[:2])
    points = points[np.ix_(rows, columns)]
    a, b, c, d = points[:-1, :-1], points[1:, :-1], points[1:, 1:], points[:-1, 1:]
    found = np.concatenate([np.stack(t, axis=-2).reshape(-1, 3, 3) for t in ((a, b, c), (a, c, d))])
    finite: Array = found[np.isfinite(found).all(axis=(1, 2))]
    return finite


def _seen(points: Array, view: tuple[float, float]) -> Array:
    """Return positions as the eye has them: to the right, up, towards it; shape (..., 3)."""
    elevation, azimuth = np.radians(view)
    right = [-np.sin(azimuth), np.cos(azimuth), 0.0]
    up = [
        -np.sin(elevation) * np.cos(azimuth),
        -np.sin(elevation) * np.sin(azimuth),
        np.cos(elevation),
    ]
    towards = [
        np.cos(elevation) * np.cos(azimuth),
        np.cos(elevation) * np.sin(azimuth),
        np.sin(elevation),
    ]
    seen: Array = points @ np.array([right, up, towards]).T
    return seen
