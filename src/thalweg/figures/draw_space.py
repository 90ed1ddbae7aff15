"""Draw a surface in space, and paths on it, into axes in space that it is given."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thalweg.figures.figure import Panel, Sheet
from thalweg.figures.perspective import heights, hidden, limits_of, refined, some
from thalweg.results import Array

__all__ = ["draw_space"]

_ZOOM = 1.1
_ROWS = 48  # that make colours look smooth
_MOST = 64  # rows and columns that a picture of a column's width can show
_FAINT = 0.38  # opacity of what the surface hides
_SURFACE, _INK = 0.92, "#1a1a1a"
_PANE, _GRID = (1.0, 1.0, 1.0, 0.0), "#dedede"


def draw_space(
    axes: Any,
    panel: Panel,
    colours: Callable[[Array], Array],
    path_colours: Sequence[str],
    halo: Callable[[float], list[Any]],
    plain_number: Callable[[float, int | None], str],
) -> None:
    """Draw the sheet of a panel.

    Args:
        axes: Axes in space.
        panel: What to draw.
        colours: Takes values of the cost and returns their colours, shape (..., 4).
        path_colours: One for each rank.
        halo: Takes a width and returns the effect of a white rim.
        plain_number: Writes a number of a logarithmic scale.
    """
    sheet = panel.sheet
    assert sheet is not None
    axes.computed_zorder = False  # the order is ours: surface, what it hides, what it does not
    axes.set_proj_type("ortho")
    axes.set_anchor("W")  # the words about the height stand on the right
    axes.view_init(*sheet.view)
    axes.set_box_aspect(sheet.box, zoom=_ZOOM)
    sheet = _fine(_thinned(sheet))
    z = heights(sheet.z, sheet.log)
    middle = _face_means(z)
    faces = colours(10**middle if sheet.log else middle)
    faces = _lit(faces, sheet, z)
    axes.plot_surface(
        sheet.x,
        sheet.y,
        z,
        rstride=1,
        cstride=1,
        facecolors=faces,
        shade=False,
        edgecolor=(1, 1, 1, 0.18),
        linewidth=0.12,
        antialiased=True,
        alpha=_SURFACE,
        zorder=1,
    )
    _draw_paths(axes, sheet, path_colours, halo)
    for name, (x, y, height) in sheet.places:
        level = float(heights(np.array([height]), sheet.log)[0])
        axes.plot([x], [y], [level], "o", ms=4, mfc="white", mec=_INK, mew=0.9, zorder=8)
        low, high = limits_of(sheet)[2]
        axes.text(
            x, y, level + 0.06 * (high - low), name, fontsize=7, zorder=9, path_effects=halo(1.8)
        )
    _label(axes, panel, sheet, plain_number)


def _draw_paths(
    axes: Any, sheet: Sheet, path_colours: Sequence[str], halo: Callable[[float], list[Any]]
) -> None:
    """Draw the paths, faintly where the surface hides them."""
    for path in sorted(sheet.paths, key=lambda path: -path.rank):
        colour = path_colours[path.rank % len(path_colours)]
        width = 1.5 if path.rank == 0 else 1.1
        order = 6 - 0.5 * path.rank
        points = refined(path, sheet.log)
        covered = hidden(sheet, points, sheet.view)
        for part, is_hidden in _stretches(covered):
            style = {"alpha": _FAINT} if is_hidden else {"path_effects": halo(width + 1.0)}
            axes.plot(
                *(column[part] for column in points),
                color=colour,
                linewidth=width,
                linestyle="-" if path.rank == 0 else (0, (4, 1.6)),
                zorder=order - (2.5 if is_hidden else 0),
                **style,
            )
        if path.dots:
            own = path.x, path.y, heights(path.z, sheet.log)
            covered = hidden(sheet, own, sheet.view)
            for behind in (True, False):
                axes.plot(
                    *(column[covered == behind] for column in own),
                    "o",
                    ms=2.4,
                    mfc=colour,
                    mec="white",
                    mew=0.3,
                    alpha=_FAINT if behind else 1.0,
                    zorder=order + (-2.4 if behind else 0.1),
                )


def _thinned(sheet: Sheet) -> Sheet:
    """Return a sheet with as many rows and columns as can be told apart."""
    kept = np.ix_(*(some(size, _MOST) for size in sheet.x.shape))
    return replace(sheet, x=sheet.x[kept], y=sheet.y[kept], z=sheet.z[kept])


def _fine(sheet: Sheet) -> Sheet:
    """Cut the faces between rows that are far apart, so that colour follows height."""
    gaps = np.abs(np.diff(sheet.x[:, 0]))
    pieces = np.maximum(np.ceil(_ROWS * gaps / max(gaps.sum(), 1e-300)), 1).astype(int)
    parts = [k + np.arange(count) / count for k, count in enumerate(pieces)]
    at = np.concatenate([*parts, [len(pieces)]])
    low = np.minimum(at.astype(int), len(sheet.x) - 2)
    share = (at - low)[:, None]
    z = heights(sheet.z, sheet.log)
    x, y, z = ((1 - share) * each[low] + share * each[low + 1] for each in (sheet.x, sheet.y, z))
    return replace(sheet, x=x, y=y, z=10**z if sheet.log else z)


def _stretches(covered: NDArray[np.bool_]) -> list[tuple[slice, bool]]:
    """Cut a path where it comes to light or is hidden; pieces share the point between them."""
    cuts = [0, *(np.flatnonzero(np.diff(covered.astype(int))) + 1), len(covered)]
    return [
        (slice(max(0, a - 1) if a else a, b), bool(covered[a])) for a, b in pairwise(cuts) if b > a
    ]


def _face_means(z: Array) -> Array:
    """Return the mean height of the corners of each face; the last row and column repeat."""
    means = (z[:-1, :-1] + z[1:, :-1] + z[1:, 1:] + z[:-1, 1:]) / 4
    return np.pad(means, ((0, 1), (0, 1)), mode="edge")


def _lit(faces: Array, sheet: Sheet, z: Array) -> Array:
    """Return colours of faces under a light from above and from the left, so that relief shows."""
    limits = limits_of(sheet)
    scale = [edge / (high - low) for edge, (low, high) in zip(sheet.box, limits, strict=True)]
    points = np.stack([sheet.x * scale[0], sheet.y * scale[1], z * scale[2]], axis=-1)
    normal = np.cross(points[1:, 1:] - points[:-1, :-1], points[:-1, 1:] - points[1:, :-1])
    size = np.linalg.norm(normal, axis=-1, keepdims=True)
    normal = np.where(size > 0, normal / np.where(size > 0, size, 1), [0.0, 0.0, 1.0])
    normal *= np.where(normal[..., 2:] < 0, -1, 1)
    azimuth = np.radians(sheet.view[1] - 60)
    light = np.array([0.55 * np.cos(azimuth), 0.55 * np.sin(azimuth), 0.83])
    bright = 0.72 + 0.28 * np.clip(np.nan_to_num(normal @ light), 0, 1)
    lit = faces.copy()
    lit[..., :3] *= np.pad(bright, ((0, 1), (0, 1)), mode="edge")[..., None]
    return lit


def _label(
    axes: Any, panel: Panel, sheet: Sheet, plain_number: Callable[[float, int | None], str]
) -> None:
    """Set limits, labels and marks."""
    (left, right), (front, back), (low, high) = limits_of(sheet)
    axes.set(xlim=(left, right), ylim=(front, back), zlim=(low, high))
    axes.set_xlabel(panel.x.label, labelpad=-4)
    axes.set_ylabel(panel.y.label, labelpad=-4)
    axes.set_zlabel("cost J", labelpad=-5)
    axes.tick_params(pad=-2, labelsize=6, length=2)
    for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
        axis.set_pane_color(_PANE)
        axis._axinfo["grid"].update(color=_GRID, linewidth=0.4)
        axis.line.set_linewidth(0.6)
        axis.get_major_locator().set_params(nbins=5)
    if sheet.log:
        marks = np.arange(np.ceil(low), np.floor(high) + 1)
        marks = marks if len(marks) <= 6 else marks[:: int(np.ceil(len(marks) / 6))]
        if len(marks) >= 2:
            axes.set_zticks(marks)
        axes.zaxis.set_major_formatter(lambda level, _: plain_number(float(10**level), None))
