"""Grids: the coordinates at which a section is evaluated."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from thalweg.results import Array

__all__ = ["Grid", "Uniform", "Zoom", "coordinates"]


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
        """Return the coordinates, shape (points,), ascending."""
        # Weights (1 - t, t) instead of start + t * width: the ends are then exact.
        t = np.arange(self.points) / (self.points - 1)
        return (1 - t) * self.start + t * self.stop


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


Grid = Uniform | Zoom


def coordinates(grid: Grid | Sequence[float] | Array) -> Array:
    """Return the coordinates of a grid, or of a plain sequence of numbers.

    Args:
        grid: A grid, or finite numbers that ascend strictly.

    Raises:
        ValueError: If there are none, or they do not ascend, or are not finite.
    """
    values: Any = (
        grid.coordinates()
        if isinstance(grid, Uniform | Zoom)
        else np.asarray(grid, dtype=np.float64)
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
