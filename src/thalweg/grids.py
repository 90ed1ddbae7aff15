"""Grids: the coordinates at which a section is evaluated."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from thalweg.results import Array

__all__ = ["Adaptive", "Chebyshev", "Grid", "Uniform", "Zoom", "coordinates"]


@dataclass(frozen=True)
class Uniform:
    """Evenly spaced coordinates, with both ends.

    Attributes:
        start: First coordinate.
        stop: Last coordinate; it is in the grid.
        points: Number of coordinates, at least 2.

    Example:
        >>> Uniform(0, 1, 5).coordinates()
        array([0.  , 0.25, 0.5 , 0.75, 1.  ])
    """

    start: float = 0.0
    stop: float = 1.0
    points: int = 51

    def __post_init__(self) -> None:
        if not (np.isfinite(self.start) and np.isfinite(self.stop) and self.start < self.stop):
            raise ValueError(
                "A uniform grid goes from a smaller to a larger finite coordinate; got "
                f"{self.start} to {self.stop}. Swap or change the ends."
            )
        if self.points != int(self.points) or self.points < 2:
            raise ValueError(
                f"A uniform grid needs 2 points at least; got {self.points}. Ask for more."
            )

    def coordinates(self) -> Array:
        """Return the coordinates, shape (points,), ascending.

        Each is the number nearest to start + (stop − start) i / (points − 1), so that a finer
        grid holds the coordinates of a coarser one bit for bit: `Uniform(0, 1, 51)` is every
        second coordinate of `Uniform(0, 1, 101)`, and every third of `Uniform(0, 1, 151)`.
        """
        start, width = Fraction(self.start), Fraction(self.stop) - Fraction(self.start)
        last = int(self.points) - 1
        return np.array([float(start + width * i / last) for i in range(last + 1)])


@dataclass(frozen=True)
class Chebyshev:
    """Chebyshev-Lobatto coordinates, which are densest at the ends: x_i ~ −cos(π i / (n − 1)).

    A polynomial through the values at these points comes close to a smooth function everywhere,
    where one through evenly spaced points may not (Trefethen 2013, chapters 2 and 8). The grid
    of 2n − 1 points holds that of n.

    Attributes:
        points: Number of coordinates, at least 2.
        start: First coordinate.
        stop: Last coordinate; it is in the grid.

    Example:
        >>> Chebyshev(5).coordinates().round(4)
        array([0.    , 0.1464, 0.5   , 0.8536, 1.    ])
    """

    points: int
    start: float = 0.0
    stop: float = 1.0

    def __post_init__(self) -> None:
        Uniform(self.start, self.stop, self.points)  # the same is required

    def coordinates(self) -> Array:
        """Return the coordinates, shape (points,), ascending."""
        last = int(self.points) - 1
        # sin² of a reduced fraction: the same bits for the same place in any grid.
        places = [Fraction(i, 2 * last) for i in range(last + 1)]
        t = np.array([_squared_sine(place) for place in places])
        return (1 - t) * self.start + t * self.stop


def _squared_sine(turn: Fraction) -> float:
    """Return sin²(π turn), exact at 0, 1/4 and 1/2, for 0 ≤ turn ≤ 1/2."""
    exact = {Fraction(0): 0.0, Fraction(1, 4): 0.5, Fraction(1, 2): 1.0}
    return exact.get(turn, math.sin(math.pi * float(turn)) ** 2)


@dataclass(frozen=True)
class Adaptive:
    """Points where the curve bends, until an interpolant is good enough.

    The first grid is refined by halving intervals whose expected error is above the tolerance.
    What is expected comes from predicting each point from the others (`thalweg.interpolation`);
    the result states the expected error and a bound of every interval, and the width of the
    widest one: what is narrower than that may have been missed between two points.

    Attributes:
        tolerance: Error that is allowed, as a share of the range (maximum − minimum) of the
            first split's loss over the section.
        start: First coordinate.
        stop: Last coordinate.
        points: Number of coordinates of the first grid, at least 5.
        resolution: No interval stays wider than this, however straight the curve looks. By
            default the widest interval of the first grid.
        limit: Most coordinates; the result says whether that was enough.

    Example:
        >>> Adaptive(tolerance=1e-2, start=-1.0).coordinates().round(3)
        array([-1.   , -0.837, -0.604, -0.316,  0.   ,  0.316,  0.604,  0.837,
                1.   ])
    """

    tolerance: float = 1e-3
    start: float = 0.0
    stop: float = 1.0
    points: int = 9
    resolution: float | None = None
    limit: int = 200

    def __post_init__(self) -> None:
        Uniform(self.start, self.stop, max(self.points, 2))
        if not 0 < self.tolerance < 1:
            raise ValueError(
                "The tolerance is a share of the range of the cost, between 0 and 1; got "
                f"{self.tolerance}. Use 1e-3."
            )
        if self.points < 5 or self.limit < self.points:
            raise ValueError(
                "An adaptive grid starts with 5 points at least and never has fewer than that; "
                f"got {self.points} points and a limit of {self.limit}. Use 9 and 200."
            )
        if self.resolution is not None and not self.resolution > 0:
            raise ValueError(
                f"The resolution is a positive width; got {self.resolution}. Leave it out for "
                "that of the first grid."
            )

    @property
    def widest(self) -> float:
        """The width that no interval exceeds in the end."""
        if self.resolution is not None:
            return self.resolution
        return float(np.diff(self.coordinates()).max())

    def coordinates(self) -> Array:
        """Return the first grid: halfway between evenly spaced and Chebyshev's coordinates."""
        even = Uniform(self.start, self.stop, self.points).coordinates()
        return (even + Chebyshev(self.points, self.start, self.stop).coordinates()) / 2


@dataclass(frozen=True)
class Zoom:
    """A uniform grid with denser windows in it, such as both ends of a line.

    Goodfellow et al. (2015, Fig. 4) look at 200 points in [0, 0.01] and in [0.99, 1], to see
    whether the breaking of symmetry at the start, or what was learned at the end, hides small
    structures. Windows so narrow need float64: neighbouring points differ by 5e-5.

    Attributes:
        overview: The grid around the windows.
        windows: The dense grids. A coordinate in two grids is evaluated once.

    Example:
        >>> Zoom(Uniform(0, 1, 3), (Uniform(0.9, 1, 3),)).coordinates()
        array([0.  , 0.5 , 0.9 , 0.95, 1.  ])
    """

    overview: Uniform = Uniform(0.0, 1.0, 51)
    windows: tuple[Uniform, ...] = (Uniform(0.0, 0.01, 200), Uniform(0.99, 1.0, 200))

    def coordinates(self) -> Array:
        """Return the coordinates of all grids, ascending, each once."""
        kept: Array = np.empty(0)
        # Windows first: of two coordinates that differ by rounding alone, theirs stays, for
        # their ends are exact where those of the overview are inner points.
        for grid in (*self.windows, self.overview):
            more = grid.coordinates()
            rounding = 8 * np.finfo(np.float64).eps * np.abs(more).max()
            apart = np.abs(more[:, None] - kept).min(axis=1, initial=np.inf)
            kept = np.concatenate([kept, more[apart > rounding]])
        return np.sort(kept)


Grid = Uniform | Zoom | Chebyshev | Adaptive


def coordinates(grid: Grid | Sequence[float] | Array) -> Array:
    """Return the coordinates of a grid, or of a plain sequence of numbers.

    Args:
        grid: A grid, or finite numbers that ascend strictly.

    Raises:
        ValueError: If there are none, or they do not ascend, or are not finite.
    """
    values: Any = (
        grid.coordinates() if isinstance(grid, Grid) else np.asarray(grid, dtype=np.float64)
    )
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(
            "A grid is a sequence of one number or more; got an array of shape "
            f"{values.shape}. Use `Uniform(0, 1, 51)` or `[0.0, 0.5, 1.0]`."
        )
    if not np.all(np.isfinite(values)) or np.any(np.diff(values) <= 0):
        raise ValueError(
            "The coordinates of a grid must be finite and ascend strictly; got "
            f"{np.array2string(values, threshold=6)}. Sort them and remove what repeats."
        )
    array: Array = values
    return array
