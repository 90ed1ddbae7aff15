"""The points that a reader asks for: dyadic coordinates, so that readers share points.

A coordinate is m·2^e with whole numbers m and e. The spacing of what is asked for is rounded to a
power of two (in its logarithm), so that every finer grid holds the points of every coarser one
where they overlap, and two readers who look at about the same place ask for the same numbers, bit
for bit.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from thalweg.explorer.request_error import RequestError
from thalweg.explorer.strict_json import expect_fields, number_in

__all__ = ["LINE_FIELDS", "PLANE_FIELDS", "Place", "Ticks", "coarse_first", "ticks_of"]

# The coordinates of one point: (α,) on a line, (x, y) on a plane.
Place = tuple[float, ...]

LINE_FIELDS = ("from", "to", "points")
PLANE_FIELDS = ("x", "y", "columns", "rows")

_FARTHEST = 4096.0
_FINEST = -40  # with _FARTHEST: m stays below 2^53, so that coordinates are exact
_MOST_ON_LINE = 1025
_MOST_ON_AXIS = 129


@dataclass(frozen=True)
class Ticks:
    """Equally spaced coordinates m·2^e for m = first, …, last.

    Attributes:
        exponent: e.
        first: The smallest m.
        last: The largest m.

    Example:
        >>> Ticks(-1, -1, 2).coordinates
        (-0.5, 0.0, 0.5, 1.0)
    """

    exponent: int
    first: int
    last: int

    @classmethod
    def covering(cls, start: float, stop: float, points: int) -> "Ticks":
        """Return about so many coordinates that cover an interval.

        Args:
            start: Its lower end.
            stop: Its upper end.
            points: About how many; √2 times as many at most, and three more.

        Example:
            >>> Ticks.covering(-0.5, 1.5, 51).coordinates[:3]
            (-0.5, -0.46875, -0.4375)
        """
        exponent = round(math.log2((stop - start) / (points - 1)))
        scale = math.ldexp(1.0, -exponent)
        return cls(exponent, math.floor(start * scale), math.ceil(stop * scale))

    @property
    def coordinates(self) -> tuple[float, ...]:
        """The coordinates, ascending."""
        return tuple(math.ldexp(m, self.exponent) for m in range(self.first, self.last + 1))

    def described(self) -> dict[str, Any]:
        """Return both ends and the number of points."""
        coordinates = self.coordinates
        return {"from": coordinates[0], "to": coordinates[-1], "points": len(coordinates)}


def ticks_of(content: Mapping[str, Any], dimension: int) -> tuple[Ticks, ...]:
    """Return the coordinates that a request asks for, one `Ticks` for each axis.

    Args:
        content: `{"from": a, "to": b, "points": n}` on a line;
            `{"x": {"from": a, "to": b}, "y": {...}, "columns": n, "rows": m}` on a plane.
        dimension: 1 or 2.

    Raises:
        RequestError: 400 if it asks for something else, or for more than is allowed at a time.

    Example:
        >>> ticks_of({"from": 0, "to": 1, "points": 3}, 1)
        (Ticks(exponent=-1, first=0, last=2),)
    """
    if dimension == 1:
        asked = expect_fields(content, LINE_FIELDS)
        return (_ticks(asked, _points(asked, "points", _MOST_ON_LINE)),)
    asked = expect_fields(content, PLANE_FIELDS)
    x, y = (expect_fields(asked[axis], ("from", "to"), where=repr(axis)) for axis in ("x", "y"))
    columns, rows = (_points(asked, name, _MOST_ON_AXIS) for name in ("columns", "rows"))
    return _ticks(x, columns), _ticks(y, rows)


def coarse_first(axes: tuple[Ticks, ...]) -> list[Place]:
    """Return the points of a line or table, those that coarser grids share first.

    So the picture is there at once, and becomes finer everywhere.

    Args:
        axes: One or two.

    Example:
        >>> coarse_first((Ticks(-2, 0, 4),))
        [(0.0,), (1.0,), (0.5,), (0.25,), (0.75,)]
    """
    numbered = [
        [(_level(ticks, m), m) for m in range(ticks.first, ticks.last + 1)] for ticks in axes
    ]
    if len(axes) == 1:
        points: list[tuple[float, tuple[int, ...]]] = [(level, (m,)) for level, m in numbered[0]]
    else:
        points = [(max(a, b), (m, n)) for b, n in numbered[1] for a, m in numbered[0]]
    points.sort()
    scales = [ticks.exponent for ticks in axes]
    return [tuple(math.ldexp(m, e) for m, e in zip(ms, scales, strict=True)) for _, ms in points]


def _level(ticks: Ticks, m: int) -> float:
    """Return how fine a grid must be to hold a coordinate: −e of the coarsest that does."""
    return -math.inf if m == 0 else -(ticks.exponent + (m & -m).bit_length() - 1)


def _points(content: Mapping[str, Any], name: str, most: int) -> int:
    """Return a number of points."""
    value = number_in(content, name, most, least=2)
    if value != int(value):
        raise RequestError(400, f"{name!r} must be a whole number; got {value:g}. Send one.")
    return int(value)


def _ticks(content: Mapping[str, Any], points: int) -> Ticks:
    """Return the coordinates that cover an interval."""
    start, stop = (number_in(content, n, _FARTHEST, least=-_FARTHEST) for n in ("from", "to"))
    finest = math.ldexp(1.0, _FINEST)
    if (stop - start) / (points - 1) < finest:
        raise RequestError(
            400,
            f"'to' must be above 'from' by {finest:.2g} a point at least; got {start:g} to "
            f"{stop:g} with {points} points. Zoom out, or ask for fewer points.",
        )
    return Ticks.covering(start, stop, points)
