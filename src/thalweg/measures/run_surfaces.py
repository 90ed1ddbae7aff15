"""Measures of a run on its ruled surface: what is between it and the line, and why it leaves."""

import numpy as np
from numpy.typing import NDArray

from thalweg.results import Array, RunSurface

__all__ = ["leaving", "obstacle_beside_line"]


def obstacle_beside_line(surface: RunSurface, split: str | None = None) -> Array:
    """Return how high the cost rises between the line and the run, at each point of the run.

    On ruling t the way from the line (b = 0) to the run (b = ±β(t)) has the height

        max_b S(t, b) − max(S(t, 0), S(t, ±β(t))),    b evaluated between them,

    which is 0 where the cost has no ridge there: nothing separates the run from the line. It is
    NaN where a value on the way is not finite.

    Args:
        surface: A ruled surface.
        split: Name of a split; the first one by default.

    Returns:
        Heights of at least 0, shape (T,).

    Raises:
        ValueError: If the surface is a plane, which does not contain the run, or has no such
            split.

    Example:
        >>> from thalweg.results import RunPoints
        >>> run = RunPoints([0, 1], [0, 1], [0, 2], [0, 0], [4.0, 1.0])
        >>> hill = [[4, 4, 4, 4, 4], [1, 1, 2, 5, 1]]
        >>> obstacle_beside_line(RunSurface("ruled", [0, 1], [-2, -1, 0, 1, 2], hill, run))
        array([0., 3.])

    Source: the question of the surfaces in Goodfellow, Vinyals & Saxe (2015), figure 7.
    """
    _expect_ruled(surface)
    name = surface.first_split if split is None else split
    if name not in surface.loss:
        known = ", ".join(map(repr, surface.loss))
        raise ValueError(f"`split` must be one of {known}; got {name!r}. Name one of these.")
    found = np.zeros(len(surface.along))
    for t, place in enumerate(surface.run.across):
        between = (surface.across * np.sign(place) >= 0) & (np.abs(surface.across) <= abs(place))
        way = np.append(surface.loss[name][t, between], surface.run.loss[name][t])
        ends = surface.line_loss[name][t], surface.run.loss[name][t]
        finite = np.isfinite(way).all() and np.isfinite(ends).all()
        found[t] = way.max() - max(ends) if finite else np.nan
    return found


def leaving(surface: RunSurface) -> NDArray[np.bool_]:
    """Tell at which points the run is leaving the line: the next is the farthest so far.

    Args:
        surface: A ruled surface, or a plane with a line.

    Returns:
        Shape (T,); the last is False.

    Example:
        >>> from thalweg.results import RunPoints
        >>> run = RunPoints([0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 0], [0] * 4, [4.0, 2.0, 1.0, 0.0])
        >>> leaving(RunSurface("ruled", [0, 1, 2, 3], [-1, 0, 1], np.ones((4, 3)), run))
        array([ True,  True, False, False])
    """
    farthest = np.maximum.accumulate(surface.run.distance)
    return np.append(surface.run.distance[1:] > farthest[:-1], False)


def _expect_ruled(surface: RunSurface) -> None:
    """Raise for a plane."""
    if surface.kind != "ruled":
        raise ValueError(
            f"The way from the line to the run lies on a ruled surface; got {surface.kind!r}. Use "
            "`tw.ruled_surface`."
        )
