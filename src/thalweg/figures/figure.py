"""What a plot shows, as data: curves, bands, markers and maps, with their words.

Nothing here knows how a figure is drawn, so that a test can ask what a figure says, and
print and browser show the same. A value that is NaN is a gap.
"""

from dataclasses import dataclass
from typing import Literal

from thalweg.results import Array

__all__ = [
    "Axis",
    "Band",
    "Bar",
    "Curve",
    "Figure",
    "Grid",
    "Map",
    "Marker",
    "Panel",
    "Path",
    "Sheet",
]


@dataclass(frozen=True)
class Axis:
    """One axis of a panel.

    Attributes:
        label: Quantity and unit.
        log: Whether it is logarithmic.
        limits: First and last value shown, or None for what the data need.
        linear_below: On a logarithmic axis that goes on below zero: the magnitude up to which it
            is linear. None where nothing is below zero.
    """

    label: str
    log: bool = False
    limits: tuple[float, float] | None = None
    linear_below: float | None = None


@dataclass(frozen=True, eq=False)
class Curve:
    """A line through points, in the order given.

    Attributes:
        x: Horizontal positions, shape (n,).
        y: Vertical positions, shape (n,).
        label: Its name.
        rank: 0 for what the figure is about, 1 and up for what it is compared with. Curves
            of one rank look alike in all panels.
        dots: Whether the points themselves are marked.
        joined: Whether a line joins them.
    """

    x: Array
    y: Array
    label: str
    rank: int = 0
    dots: bool = False
    joined: bool = True


@dataclass(frozen=True, eq=False)
class Band:
    """A shaded interval around a curve, such as that of a Monte-Carlo estimate.

    Attributes:
        x: Horizontal positions, shape (n,).
        low: Lower edge, shape (n,).
        high: Upper edge, shape (n,).
        label: What the interval means.
        rank: Rank of the curve that it belongs to.
    """

    x: Array
    low: Array
    high: Array
    label: str
    rank: int = 0


@dataclass(frozen=True)
class Bar:
    """A horizontal bar from 0, with its name to the left.

    Attributes:
        label: Its name.
        length: Where it ends, or NaN where that is not known: it goes over all of the axis.
        look: How it is told apart from others, not by colour alone.
        note: Words at its end.
    """

    label: str
    length: float
    look: Literal["filled", "outline", "hatched"] = "filled"
    note: str = ""


@dataclass(frozen=True, eq=False)
class Grid:
    """Counts in a grid of named rows and columns; its diagonal is what should be.

    Attributes:
        rows: Names of the rows, from top to bottom.
        columns: Names of the columns.
        counts: Shape (rows, columns); cells with 0 stay empty.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    counts: Array


@dataclass(frozen=True)
class Marker:
    """A named place: a vertical line at x, or the point (x, y).

    Attributes:
        label: Its name; empty for a place without one.
        x: Horizontal position.
        y: Vertical position, or None for a line from bottom to top.
    """

    label: str
    x: float
    y: float | None = None


@dataclass(frozen=True, eq=False)
class Map:
    """Values over the plane, shown by colour and contour lines.

    Attributes:
        x: Horizontal positions, shape (rows, columns).
        y: Vertical positions, shape (rows, columns).
        values: The values there, shape (rows, columns).
        label: Quantity and unit.
        log: Whether equal steps of colour are equal factors.
        equal: Whether both axes have one scale, so that distances are true.
    """

    x: Array
    y: Array
    values: Array
    label: str
    log: bool = False
    equal: bool = True


@dataclass(frozen=True, eq=False)
class Path:
    """A line through points in space, in the order given; it may lie on a sheet.

    Attributes:
        x: First horizontal positions, shape (n,).
        y: Second horizontal positions, shape (n,).
        z: Heights, shape (n,).
        label: Its name.
        rank: As for `Curve`.
        dots: Whether the points themselves are marked.
        columns: What else is known of each point, for readers who ask: name and values (n,).
    """

    x: Array
    y: Array
    z: Array
    label: str
    rank: int = 0
    dots: bool = False
    columns: tuple[tuple[str, Array], ...] = ()


@dataclass(frozen=True, eq=False)
class Sheet:
    """A surface in space, coloured by its height, with paths and named places on it.

    Attributes:
        x: First horizontal positions, shape (rows, columns).
        y: Second horizontal positions, shape (rows, columns).
        z: Heights, shape (rows, columns).
        label: Quantity and unit of the height.
        log: Whether equal heights are equal factors.
        paths: Lines, the lowest rank in front.
        places: Named places: name and position (x, y, z).
        box: Lengths of the edges of the box that it is drawn in.
        view: Elevation and azimuth of the eye, in degrees.
    """

    x: Array
    y: Array
    z: Array
    label: str
    log: bool = False
    paths: tuple[Path, ...] = ()
    places: tuple[tuple[str, tuple[float, float, float]], ...] = ()
    box: tuple[float, float, float] = (1.0, 1.0, 0.7)
    view: tuple[float, float] = (32.0, -58.0)


@dataclass(frozen=True)
class Panel:
    """One pair of axes and all that is in it.

    Attributes:
        x: Horizontal axis.
        y: Vertical axis.
        curves: Lines, the lowest rank in front.
        bands: Shaded intervals, behind the lines.
        bars: Bars from top to bottom. No curves are in such a panel.
        grid: Counts in a grid, or None. Nothing else is in such a panel.
        markers: Named places.
        map: Values over the plane, or None. Curves lie on it.
        sheet: A surface in space, or None. Nothing else is in such a panel.
        title: Heading of this panel alone.
        height: Height as a share of that of a full panel.
        equal: Whether a unit is as long on both axes; the height then follows from the curves.
        listed: Whether the names of the curves, being long, are in a list below.
    """

    x: Axis
    y: Axis
    curves: tuple[Curve, ...] = ()
    bands: tuple[Band, ...] = ()
    bars: tuple[Bar, ...] = ()
    grid: Grid | None = None
    markers: tuple[Marker, ...] = ()
    map: Map | None = None
    sheet: Sheet | None = None
    title: str = ""
    height: float = 1.0
    equal: bool = False
    listed: bool = False


@dataclass(frozen=True)
class Figure:
    """Panels in rows, with the words that go with them.

    Attributes:
        title: Heading.
        caption: What is shown and under which conditions, for the text below the figure.
        rows: Panels from top to bottom, in each row from left to right.
        alt: The same in words, for readers who cannot see it.
    """

    title: str
    caption: str
    rows: tuple[tuple[Panel, ...], ...]
    alt: str = ""

    @property
    def panels(self) -> tuple[Panel, ...]:
        """All panels, row by row."""
        return tuple(panel for row in self.rows for panel in row)
