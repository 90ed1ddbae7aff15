"""Draw figures for print. This is the only module that imports matplotlib.

It uses matplotlib's object-oriented interface with settings of its own inside a context, so
neither pyplot nor the settings of the caller are touched, and the same figure gives the same
bytes wherever the same version of matplotlib draws it.
"""

import math
import os
import textwrap
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np

try:
    import matplotlib.style
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import LogNorm, Normalize, to_rgb
    from matplotlib.figure import Figure as Canvas
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import withStroke
    from matplotlib.ticker import (
        FixedLocator,
        FuncFormatter,
        LogLocator,
        MaxNLocator,
        NullFormatter,
        NullLocator,
    )
except ImportError as error:
    raise ImportError(
        "Drawing needs matplotlib, which is not installed. "
        "Install it with `pip install 'thalweg[plots]'`."
    ) from error

from thalweg.figures.draw_space import draw_space
from thalweg.figures.figure import Bar, Figure, Grid, Map, Panel
from thalweg.figures.plots import figure_of
from thalweg.figures.printable import printable
from thalweg.records import Result, write_atomically
from thalweg.results import Displacement

__all__ = ["draw", "render"]

Format = Literal["png", "pdf", "svg"]
_FORMATS: dict[str, Format] = {".png": "png", ".pdf": "pdf", ".svg": "svg"}

_CM = 1 / 2.54
_WIDTH, _PANEL = 9.0, 5.6  # cm: the width of a column, the height of a full panel
_CAPTION_LETTERS = 76  # of the smallest print, that fit into the width
_LETTER, _STOREYS = 0.019, 3  # width of a letter as a share of a panel; lines of names
_MAP_WIDTH, _MAP_WORDS, _MAP_HEIGHT = 7.3, 2.4, 16.0  # cm: of a map, of what surrounds it
_EQUAL_WORDS, _EQUAL_LEAST = 1.3, 3.0  # cm: what surrounds a panel with one scale, its least height
_NAME_WIDTH = 0.095  # cm: of a letter of a name beside a panel
_MOST_TOPS = 3  # curves that have room for their names where they are highest
_NAME_HEIGHT = 0.34  # cm: of a name in a list of curves
_CELL, _GRID_WORDS = 0.42, 3.6  # cm: of a cell of a grid, of the names around it
_BAR, _BAR_WORDS, _BAR_SHARE = 0.36, 1.2, 0.62  # cm: of a bar, of what surrounds bars; its body
_LIST_WIDTH = 52  # letters of two names that fit beside each other in a list
_DPI = 300

# Okabe & Ito (2008): told apart by readers with any kind of colour vision. In grey the dashes
# and the labels at the curves do it.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES = ("-", (0, (5, 1.6)), (0, (1.2, 1.3)), (0, (5, 1.4, 1.2, 1.4)), (0, (9, 2)))
_INK, _SOFT, _LINE, _GRID = "#1a1a1a", "#6b6b6b", "#a0a0a0", "#e8e8e8"
_MAP_COLOURS, _LEVELS = "viridis", 14
_PATHS = ("#D55E00", _INK)  # on those colours: the run, the line
_SPACE = 8.2  # cm: the height of a surface in space
_STEPS = [1, 2, 2.5, 5, 10]  # between marks, as people count

_STYLE = {
    "font.family": ["DejaVu Sans"],  # comes with matplotlib, so it is the same everywhere
    "font.size": 7.5,
    "axes.titlesize": 8,
    "axes.labelsize": 7.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _SOFT,
    "xtick.color": _SOFT,
    "ytick.color": _SOFT,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "xtick.minor.size": 1.6,
    "ytick.minor.size": 1.6,
    "grid.color": _GRID,
    "grid.linewidth": 0.5,
    "hatch.linewidth": 0.5,
    "lines.solid_capstyle": "round",
    "lines.dash_capstyle": "butt",
    "text.parse_math": False,  # a dollar in a name is a dollar
    "pdf.fonttype": 42,
    "svg.fonttype": "path",
    "svg.hashsalt": "thalweg",
    "axes.formatter.useoffset": False,
    "axes.formatter.limits": [-4, 6],
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


def draw(
    what: Figure | Result | Mapping[str, Displacement],
    path: str | os.PathLike[str],
    *,
    log: bool | None = None,
    caption: bool = False,
) -> Path:
    """Draw a figure, or the figure of a result, to a file.

    The file is 9 cm wide, the width of a journal's column. A PDF embeds its fonts. Title and
    caption go into the metadata of the file too, so that a picture says what it shows.

    Args:
        what: A figure, or a result that `figure_of` knows; or several displacements about one
            line, by their names.
        path: Ends in `.png` (300 dots per inch), `.pdf` or `.svg`.
        log: Whether the cost of a result has a logarithmic scale; see `figure_of`.
        caption: Whether to write the caption below the picture as well.

    Returns:
        The path of the file.

    Raises:
        ImportError: If matplotlib is not installed (`pip install 'thalweg[plots]'`).
        ValueError: If the suffix is another, or `log` is given for a finished figure.
        TypeError: If there is no plot for the type.

    Example:
        >>> import tempfile
        >>> from thalweg.results import Profile
        >>> walk = Profile(alpha=[0.0, 0.5, 1.0], loss=[2.0, 2.25, 0.5])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     draw(walk, f"{folder}/walk.svg").name
        'walk.svg'
    """
    path = Path(path)
    form = _FORMATS.get(path.suffix.lower())
    if form is None:
        raise ValueError(
            f"A figure is drawn to a .png, .pdf or .svg file; got {path.name!r}. "
            "Choose one of these suffixes."
        )
    if isinstance(what, Figure) and log is not None:
        raise ValueError(
            f"`log` belongs to a result; a finished Figure came with log={log}. "
            "Give it to `figure_of` instead."
        )
    figure = what if isinstance(what, Figure) else figure_of(what, log=log)
    write_atomically(path, render(figure, form, caption=caption))
    return path


def render(figure: Figure, form: Format, *, caption: bool = False, dpi: int = _DPI) -> bytes:
    """Return the picture of a figure as the bytes of a file.

    Args:
        figure: What to draw.
        form: `"png"`, `"pdf"` or `"svg"`.
        caption: Whether to write the caption below the picture as well.
        dpi: Dots per inch of a PNG.
    """
    with matplotlib.style.context(["default", _STYLE]):
        canvas = _canvas(printable(figure), caption)
        _settle(canvas)
        buffer = BytesIO()
        canvas.savefig(buffer, format=form, dpi=dpi, metadata=_metadata(figure, form))
    return buffer.getvalue()


def _metadata(figure: Figure, form: Format) -> dict[str, Any]:
    """Return title and caption for a file, and no date: the same figure gives the same bytes."""
    if form == "png":
        return {"Title": figure.title, "Description": figure.caption, "Software": "thalweg"}
    if form == "pdf":
        return {"Title": figure.title, "Subject": figure.caption, "CreationDate": None}
    return {"Title": figure.title, "Description": figure.caption, "Date": None}


def _canvas(figure: Figure, caption: bool = False) -> Canvas:
    """Lay out the panels and draw each."""
    width = _MAP_WIDTH - _NAME_WIDTH * _longest_name(figure)
    heights = [max(_height(panel, width) for panel in row) for row in figure.rows]
    title = textwrap.wrap(figure.title, 42)  # letters that fit into the width
    words = textwrap.wrap(figure.caption, _CAPTION_LETTERS) if caption else []
    height = sum(heights) + 0.1 + 0.4 * len(title) + 0.27 * len(words)
    canvas = Canvas(figsize=(_WIDTH * _CM, height * _CM), layout="constrained")
    FigureCanvasAgg(canvas)
    if title:
        canvas.suptitle("\n".join(title), x=0.015, ha="left", fontsize=8.5, weight="bold")
    if words:
        style = {"x": 0.015, "ha": "left", "fontsize": 6, "color": _SOFT, "linespacing": 1.3}
        canvas.supxlabel("\n".join(words), **style)
    columns = math.lcm(*(len(row) for row in figure.rows))
    grid = canvas.add_gridspec(len(figure.rows), columns, height_ratios=heights)
    named: set[int] = set()  # ranks whose curves have a name already
    for i, row in enumerate(figure.rows):
        share = columns // len(row)
        below = figure.rows[i + 1] if i + 1 < len(figure.rows) else ()
        for j, panel in enumerate(row):
            place = grid[i, j * share : (j + 1) * share]
            if panel.sheet is not None:
                _draw_sheet(canvas.add_subplot(place, projection="3d"), panel)
                continue
            axes = canvas.add_subplot(place)
            _label_axes(axes, panel, first=j == 0)
            if [panel.x] == [other.x for other in below] and len(row) == 1:
                axes.tick_params(labelbottom=False)  # the panel below has the same axis
                axes.set_xlabel("")
            if panel.grid is not None:
                _draw_grid(axes, panel.grid)
            elif panel.bars:
                _draw_bars(axes, panel)
            elif panel.map is None:
                _draw_lines(axes, panel, ticks=7 if len(row) == 1 else 2)
                if panel.listed or (panel.equal and len(panel.curves) > _MOST_TOPS):
                    _list_curves(axes, panel)
                elif panel.equal:
                    _name_tops(axes, panel)
                else:
                    _name_curves(axes, panel, heights[i], named)
            else:
                _draw_map(canvas, axes, panel.map, heights[i] - _MAP_WORDS)
                _draw_on_map(axes, panel)
            _draw_vertical_markers(axes, panel)
            _draw_points(axes, panel)
    return canvas


def _settle(canvas: Canvas) -> None:
    """Fix the places of the axes: the solver of the layout leaves their last digits to chance."""
    layout = canvas.get_layout_engine()
    assert layout is not None
    layout.execute(canvas)
    canvas.set_layout_engine("none")
    for axes in canvas.axes:
        # Rounded before matplotlib fits maps and surfaces into them.
        axes.set_position(tuple(round(x, 6) for x in axes.get_position(original=True).bounds))


def _longest_name(figure: Figure) -> int:
    """Return the letters of the longest name beside the panels of a figure that has a map."""
    names = [[curve.label for curve in p.curves if curve.label] for p in figure.panels if not p.map]
    return max((len(name) for some in names if len(some) > 1 for name in some), default=0)


def _height(panel: Panel, width: float) -> float:
    """Return the height of a panel in centimetres; that of a map follows from its shape."""
    if panel.equal:
        names = len(panel.curves) if len(panel.curves) > _MOST_TOPS else 0
        return _equal_height(panel) + _NAME_HEIGHT * math.ceil(names / 2)
    if panel.sheet is not None:
        return _SPACE * panel.height
    if panel.grid is not None:
        return _CELL * len(panel.grid.rows) + _GRID_WORDS
    if panel.bars:
        return _BAR * len(panel.bars) + _BAR_WORDS
    if panel.map is None:
        names = math.ceil(len(panel.curves) / _list_columns(panel)) if panel.listed else 0
        return _PANEL * panel.height + _NAME_HEIGHT * names
    shape = float(np.ptp(panel.map.y) / np.ptp(panel.map.x)) if panel.map.equal else 0.5
    return min(width * shape + _MAP_WORDS, _MAP_HEIGHT)


def _equal_height(panel: Panel) -> float:
    """Return the height of a panel with a common scale, in which its curves fill the width."""
    x = np.concatenate([curve.x for curve in panel.curves])
    y = np.concatenate([curve.y for curve in panel.curves])
    if not (np.isfinite(x).any() and np.isfinite(y).any()):
        return _PANEL
    wide, high = (float(np.nanmax(v) - np.nanmin(v)) for v in (x, y))
    shape = high / wide if wide > 0 else 1.0
    return min(max(_MAP_WIDTH * shape + _EQUAL_WORDS, _EQUAL_LEAST), _MAP_HEIGHT)


def _label_axes(axes: Axes, panel: Panel, first: bool) -> None:
    """Set labels, scales and grid of a panel."""
    axes.set_xlabel(panel.x.label)
    if first:  # panels in a row share their quantity
        axes.set_ylabel(textwrap.fill(panel.y.label, 26, break_on_hyphens=False))
    if panel.title:
        axes.set_title(panel.title, fontsize=7, loc="left", color=_SOFT)
    if panel.x.log:
        axes.set_xscale("log")
    if panel.y.linear_below is not None:
        axes.set_yscale("symlog", linthresh=panel.y.linear_below, linscale=0.5)
    elif panel.y.log:
        axes.set_yscale("log")
    if panel.equal:  # the limits give way, not the size
        axes.set_aspect("equal", adjustable="datalim")
    if panel.map is None:
        axes.grid(visible=True)


def _draw_lines(axes: Axes, panel: Panel, ticks: int) -> None:
    """Draw bands and curves, the lowest rank in front."""
    for band in panel.bands:
        colour = _COLOURS[band.rank % len(_COLOURS)]
        axes.fill_between(band.x, band.low, band.high, color=colour, alpha=0.18, linewidth=0)
    for curve in panel.curves:
        axes.plot(
            curve.x,
            curve.y,
            color=_COLOURS[curve.rank % len(_COLOURS)],
            linestyle=_DASHES[curve.rank % len(_DASHES)] if curve.joined else "",
            linewidth=1.3 if curve.rank == 0 else 1.1,
            marker="o" if curve.dots else "",
            markersize=2.4,
            zorder=3 - 0.1 * curve.rank,
        )
    if panel.x.limits:
        low, high = panel.x.limits
        margin = 0.0 if panel.x.log else 0.015 * (high - low)
        axes.set_xlim(low - margin, high + margin)
    if panel.y.limits:
        axes.set_ylim(panel.y.limits)
    for axis, scale, most in ((axes.xaxis, panel.x, ticks), (axes.yaxis, panel.y, 5)):
        if scale.linear_below is not None:
            _mark_both_sides(axis, scale.linear_below)
        elif scale.log:
            _mark_decades(axis)
        else:
            axis.set_major_locator(MaxNLocator(most, steps=_STEPS))


def _draw_grid(axes: Axes, grid: Grid) -> None:
    """Draw counts in a grid: the diagonal filled, what is off it in a colour of its own."""
    axes.grid(visible=False)
    axes.set_xlim(-0.5, len(grid.columns) - 0.5)
    axes.set_ylim(len(grid.rows) - 0.5, -0.5)
    axes.set_xticks(range(len(grid.columns)), grid.columns, rotation=60, ha="right")
    axes.set_yticks(range(len(grid.rows)), grid.rows)
    axes.tick_params(length=0)
    for (row, column), count in np.ndenumerate(grid.counts):
        right = row == column
        share = count / max(float(grid.counts[row].sum()), 1.0)
        colour = _COLOURS[0] if right else _COLOURS[1]
        cell = Rectangle((column - 0.46, row - 0.46), 0.92, 0.92, linewidth=0.4, edgecolor=_LINE)
        cell.set_facecolor((*to_rgb(colour), share if count else 0.0))
        axes.add_patch(cell)
        if count:
            ink = "white" if share > 0.5 else _INK
            axes.text(column, row, f"{int(count)}", ha="center", va="center", size=6, color=ink)


def _draw_bars(axes: Axes, panel: Panel) -> None:
    """Draw horizontal bars, the first at the top."""
    first, last = panel.x.limits or (0.0, max(bar.length for bar in panel.bars))
    axes.grid(visible=False, axis="y")
    axes.set_xlim(first, last)
    axes.set_ylim(len(panel.bars) - 0.4, -0.6)
    axes.set_yticks(range(len(panel.bars)), [bar.label for bar in panel.bars])
    axes.tick_params(axis="y", length=0)
    for place, (bar, name) in enumerate(zip(panel.bars, axes.get_yticklabels(), strict=True)):
        name.set_color(_INK if bar.look == "filled" else _SOFT)
        _draw_bar(axes, bar, place, last)


def _draw_bar(axes: Axes, bar: Bar, place: int, last: float) -> None:
    """Draw one bar with its note."""
    end = bar.length if math.isfinite(bar.length) else last
    looks: dict[str, dict[str, Any]] = {
        "filled": {"color": _COLOURS[0], "linewidth": 0},
        "outline": {"facecolor": "white", "edgecolor": _SOFT, "linewidth": 0.7},
        "hatched": {"facecolor": "none", "edgecolor": _LINE, "hatch": "/////", "linewidth": 0},
    }
    if bar.look == "outline" and end == 0:  # a bar of no length would not be seen
        axes.plot(0, place, "o", ms=3.2, mfc="white", mec=_SOFT, mew=0.7, clip_on=False, zorder=4)
    else:
        axes.barh(place, end, _BAR_SHARE, **looks[bar.look])
    inside = bar.look == "hatched" or end > 0.85 * last
    halo = [withStroke(linewidth=2.2, foreground="white")] if bar.look == "hatched" else []
    axes.annotate(
        bar.note,
        (0.5 * end if bar.look == "hatched" else end, place),
        xytext=(0 if bar.look == "hatched" else -4 if inside else 4, 0),
        textcoords="offset points",
        ha="center" if bar.look == "hatched" else "right" if inside else "left",
        va="center",
        fontsize=7,
        color="white" if inside and bar.look == "filled" else _INK,
        path_effects=halo,
    )


def _mark_decades(axis: Any) -> None:
    """Mark a logarithmic axis with plain numbers, more than one a decade where they are few."""
    low, high = axis.get_view_interval()
    decades = math.log10(high / low)
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades < 2.5 else (1.0,)))
    axis.set_major_formatter(FuncFormatter(_plain_number))
    axis.set_minor_formatter(NullFormatter())


def _mark_both_sides(axis: Any, linear_below: float) -> None:
    """Mark zero and some powers of ten on both sides of it, at most four on each."""
    low, high = axis.get_view_interval()
    first = math.ceil(math.log10(linear_below) - 1e-9)
    last = math.floor(math.log10(max(-low, high, linear_below)) + 1e-9)
    powers = range(last, first - 1, -max(1, math.ceil((last - first + 1) / 4)))
    marks = sorted({0.0, *(sign * 10.0**power for power in powers for sign in (-1, 1))})
    axis.set_major_locator(FixedLocator([mark for mark in marks if low <= mark <= high]))
    axis.set_major_formatter(FuncFormatter(_signed_number))
    axis.set_minor_formatter(NullFormatter())
    axis.set_minor_locator(NullLocator())


def _signed_number(value: float, _: int | None = None) -> str:
    """Return a number of a scale that goes on below zero."""
    if value == 0:
        return "0"
    return f"−{_plain_number(-value)}" if value < 0 else _plain_number(value)


def _plain_number(value: float, _: int | None = None) -> str:
    """Return a number of a logarithmic scale: 0.02, 300 or 2·10⁻⁶."""
    if 1e-3 <= value < 1e4:
        return f"{value:g}"
    mantissa, power = f"{value:.0e}".split("e")
    raised = str(int(power)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"10{raised}" if mantissa == "1" else f"{mantissa}·10{raised}"


def _name_curves(axes: Axes, panel: Panel, height: float, named: set[int]) -> None:
    """Write the name of each curve at its right end, moved apart where they would overlap."""
    ends = []
    alone = sum(bool(curve.label) for curve in panel.curves) == 1
    for curve in panel.curves:
        finite = np.flatnonzero(np.isfinite(curve.y))
        if len(finite) and curve.label and curve.rank not in named and not alone:
            named.add(curve.rank)
            place = axes.transData.transform((curve.x[finite[-1]], curve.y[finite[-1]]))
            ends.append((axes.transAxes.inverted().transform(place)[1], curve))
    ends.sort(key=lambda end: end[0])
    line = 0.3 / max(height - 1.4, 1.0)  # 0.3 cm as a share of the axes
    for height_of_name, (_, curve) in zip(_apart([e[0] for e in ends], line), ends, strict=True):
        axes.annotate(
            curve.label,
            (1.0, height_of_name),
            xycoords="axes fraction",
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            color=_COLOURS[curve.rank % len(_COLOURS)],
            fontsize=7,
        )


def _name_tops(axes: Axes, panel: Panel) -> None:
    """Write the name of each curve where it is highest: the first below, the others above it."""
    for curve in panel.curves:
        if not np.isfinite(curve.y).any():
            continue
        top = int(np.nanargmax(curve.y))
        axes.annotate(
            curve.label,
            (curve.x[top], curve.y[top]),
            xytext=(0, 3 if curve.rank else -4),
            textcoords="offset points",
            ha="center",
            va="bottom" if curve.rank else "top",
            color=_COLOURS[curve.rank % len(_COLOURS)],
            fontsize=7,
        )


def _list_curves(axes: Axes, panel: Panel) -> None:
    """Write the names of many curves below them, with their colours, the highest first."""
    order = _from_highest(panel) if panel.equal else range(len(panel.curves))
    high = _equal_height(panel) if panel.equal else _PANEL * panel.height
    axes.legend(
        [axes.lines[i] for i in order],
        [panel.curves[i].label for i in order],
        loc="upper center" if panel.equal else "upper right",
        bbox_to_anchor=(0.47 if panel.equal else 1.0, -0.16 * _MAP_WIDTH / high),
        ncols=_list_columns(panel),
        frameon=False,
        fontsize=6,
        handlelength=2.6,
        borderaxespad=0.4,
    )


def _list_columns(panel: Panel) -> int:
    """Return how many names fit beside each other below a panel."""
    longest = sorted(len(curve.label) for curve in panel.curves)[-2:]
    return 1 if sum(longest) > _LIST_WIDTH else 2


def _from_highest(panel: Panel) -> list[int]:
    """Return the places of the curves in a panel, the one that goes highest first."""
    tops = [float(np.nanmax(curve.y, initial=-math.inf)) for curve in panel.curves]
    return sorted(range(len(tops)), key=lambda i: -tops[i])


def _apart(places: Sequence[float], least: float) -> list[float]:
    """Move ascending places apart, as little as needed and inside of 0 to 1 where they fit."""
    moved = [min(max(place, 0.0), 1.0) for place in places]
    for i in range(1, len(moved)):
        moved[i] = max(moved[i], moved[i - 1] + least)
    if moved and moved[-1] > 1.0:
        moved[-1] = 1.0
        for i in range(len(moved) - 2, -1, -1):
            moved[i] = min(moved[i], moved[i + 1] - least)
    return moved


def _draw_vertical_markers(axes: Axes, panel: Panel) -> None:
    """Draw named lines from bottom to top; names that would overlap go one line higher."""
    lines = sorted((m for m in panel.markers if m.y is None), key=lambda marker: marker.x)
    low, high = axes.get_xlim()
    free = [-math.inf] * _STOREYS  # where each line of names is free from
    for marker in lines:
        axes.axvline(marker.x, color=_LINE, linewidth=0.6, zorder=1.5)
        place = (marker.x - low) / (high - low)
        half = 0.5 * _LETTER * (len(marker.label) + 1)
        storey = next((k for k in range(_STOREYS) if place - half >= free[k]), None)
        if not marker.label or storey is None:
            continue
        free[storey] = place + half
        axes.annotate(
            marker.label,
            (marker.x, 1.0),
            xycoords=axes.get_xaxis_transform(),
            xytext=(0, 2 + 9 * storey),
            textcoords="offset points",
            ha="center",
            color=_SOFT,
            fontsize=7,
        )


def _draw_points(axes: Axes, panel: Panel) -> None:
    """Draw named points."""
    halo = [withStroke(linewidth=1.8, foreground="white")]
    edge = _INK if panel.map else _COLOURS[0]
    for marker in panel.markers:
        if marker.y is None:
            continue
        axes.plot(marker.x, marker.y, "o", ms=3.8, mfc="white", mec=edge, zorder=4, clip_on=False)
        axes.annotate(
            marker.label,
            (marker.x, marker.y),
            xytext=(4, 4),
            textcoords="offset points",
            fontsize=7,
            zorder=5,
            path_effects=halo,
        )


def _draw_map(canvas: Canvas, axes: Axes, plane: Map, height: float) -> None:
    """Draw filled contours with a scale of colours."""
    if plane.equal:
        axes.set_aspect("equal")
    values = np.ma.masked_invalid(plane.values)
    if values.count() == 0:
        axes.text(0.5, 0.5, "no finite value", transform=axes.transAxes, ha="center")
        return
    levels, norm = _scale(values, plane.log)
    filled = axes.contourf(plane.x, plane.y, values, levels=levels, norm=norm, cmap=_MAP_COLOURS)
    filled.set_edgecolor("face")  # no hairlines between the colours in PDF and SVG
    filled.set_linewidth(0.2)
    axes.contour(
        plane.x, plane.y, values, levels=levels, colors="white", linewidths=0.35, alpha=0.6
    )
    pad = 0.15 / height  # 0.15 cm as a share of the map
    scale = canvas.colorbar(filled, ax=axes, location="top", aspect=45, pad=pad)
    scale.set_label(plane.label)
    scale.outline.set_visible(False)
    scale.minorticks_off()
    if plane.log:
        scale.ax.xaxis.set_major_formatter(FuncFormatter(_plain_number))


def _draw_on_map(axes: Axes, panel: Panel) -> None:
    """Draw curves on a map, in colours that stand out from its own."""
    for curve in sorted(panel.curves, key=lambda curve: -curve.rank):
        width = 1.3 if curve.rank == 0 else 1.0
        axes.plot(
            curve.x,
            curve.y,
            color=_PATHS[curve.rank % len(_PATHS)],
            linestyle="-" if curve.rank == 0 else (0, (4, 1.6)),
            linewidth=width,
            marker="o" if curve.dots else "",
            markersize=2.2,
            path_effects=[withStroke(linewidth=width + 0.9, foreground="white")],
            zorder=3 - 0.1 * curve.rank,
        )


def _draw_sheet(axes: Any, panel: Panel) -> None:
    """Draw a surface in space in the colours of a map."""
    assert panel.sheet is not None
    values = np.ma.masked_invalid(panel.sheet.z)
    if panel.sheet.log:
        values = np.ma.masked_less_equal(values, 0)
    if values.count() == 0:
        axes.text2D(0.5, 0.5, "no finite value", transform=axes.transAxes, ha="center")
        return
    norm = _scale(values, panel.sheet.log)[1]
    paint = matplotlib.colormaps[_MAP_COLOURS]
    draw_space(
        axes,
        panel,
        lambda cost: paint(norm(np.ma.masked_invalid(cost))),
        _PATHS,
        lambda width: [withStroke(linewidth=width, foreground="white")],
        _plain_number,
    )


def _scale(values: Any, log: bool) -> tuple[list[float], Any]:
    """Return round levels around some values, and the scale of colours that belongs to them."""
    levels = _levels(float(values.min()), float(values.max()), log)
    return levels, (LogNorm if log else Normalize)(levels[0], levels[-1])


def _levels(low: float, high: float, log: bool) -> list[float]:
    """Return round levels around the values."""
    if high - low <= 1e-9 * abs(high):  # one colour, on a scale that can be read
        return [0.9 * low, 1.1 * low] if low > 0 else [low - 1.0, low + 1.0]
    if not log:
        locator = MaxNLocator(_LEVELS, steps=_STEPS)
        levels = [float(level) for level in locator.tick_values(low, high)]
        # Rounding may leave the extremes just outside, where they would be holes.
        return [min(levels[0], low), *levels[1:-1], max(levels[-1], high)]
    decades = math.log10(high / low)
    steps = (1, 1.5, 2, 3, 5, 7) if decades <= 2 else (1, 2, 5) if decades <= 5 else (1,)
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    series = [step * 10.0**power for power in powers for step in steps]
    below = max(level for level in series if level <= low)
    above = min(level for level in series if level >= high and level > below)
    return [level for level in series if below <= level <= above]
