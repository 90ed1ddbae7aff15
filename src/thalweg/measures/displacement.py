"""What the displacement of a run boils down to: detour, captured shares, greatest distance."""

from typing import Literal

import numpy as np

from thalweg.results import Displacement

__all__ = ["detour_ratio", "greatest_distance", "least_captured_share", "overshoot"]


def detour_ratio(displacement: Displacement) -> float:
    """Return how much longer the run was than the way from its first point to its last.

    Path length over chord, at least 1. Between points that are several updates apart the path
    was longer, so the true ratio is at least as high. Infinite for a run that returns to its
    start, NaN for one that never moves.

    Example:
        >>> detour_ratio(
        ...     Displacement([0, 1, 2], [0, 3, 6], [0, 4, 0], update_length=[5, 5], chord=6)
        ... )
        1.6666666666666667
    """
    path, chord = displacement.path_length, displacement.chord
    if chord == 0:
        return float("inf") if path > 0 else float("nan")
    return path / chord


def greatest_distance(displacement: Displacement, share: bool = False) -> float:
    """Return the greatest distance off the line: max_t β(t).

    Only recorded points are seen, so the true one is at least as high.

    Args:
        displacement: Of a run.
        share: Whether to return it as a share of the length of the line; a random walk has ½.

    Raises:
        ValueError: If no point is finite.

    Example:
        >>> arc = Displacement([0, 1, 2], [0, 3, 6], [0, 4, 0], length=6)
        >>> greatest_distance(arc)
        4.0
    """
    _expect_a_point(displacement)
    greatest = float(np.nanmax(displacement.distance))
    return greatest / displacement.length if share else greatest


def least_captured_share(
    displacement: Displacement, of: Literal["way", "parameters"] = "way"
) -> float:
    """Return the least share that the line captures at any point of the run.

    Goodfellow et al. (2015, appendix B) write that it captures two thirds of the norm at all
    times, which can be read in two ways:

    - `of="way"`: min_t abs(α(t))/‖θ(t) − a‖, the share of the way from the start. The start is
      left out: there is no way yet. A random walk has √(t/T), close to 0 at its beginning.
    - `of="parameters"`: min_t 1 − β(t)/‖θ(t)‖, what the distance off the line leaves of the norm of
      the parameters.

    Args:
        displacement: Of a run.
        of: Which of the two.

    Raises:
        ValueError: If the share is known at no point, or `of` is something else.

    Example:
        >>> arc = Displacement([0, 1, 2], [0, 3, 6], [0, 4, 0], norm=[1, 16, 7])
        >>> least_captured_share(arc), least_captured_share(arc, of="parameters")
        (0.6, 0.75)
    """
    if of not in ("way", "parameters"):
        raise ValueError(
            f"A share is of the 'way' or of the 'parameters'; got of={of!r}. Choose one of these."
        )
    shares = displacement.captured if of == "way" else 1 - displacement.distance_share
    if not np.isfinite(shares).any():
        raise ValueError(
            "A captured share needs a point away from the start, and for the parameters their "
            "norms; it is known at no point of this run. Give a run that moves."
        )
    return float(np.nanmin(shares))


def overshoot(displacement: Displacement) -> float:
    """Return how far the run goes beyond the end of the line, as a share of its length.

    max_t α(t)/‖b − a‖ − 1, and 0 where it never does.

    Raises:
        ValueError: If no point is finite.

    Example:
        >>> round(overshoot(Displacement([0, 1, 2], [0, 7, 5], [0, 1, 0], length=5)), 6)
        0.4
    """
    _expect_a_point(displacement)
    return max(0.0, float(np.nanmax(displacement.projection)) / displacement.length - 1)


def _expect_a_point(displacement: Displacement) -> None:
    """Raise unless one point is finite."""
    if not np.isfinite(displacement.distance).any():
        raise ValueError(
            "This needs one finite point at least; every point of the run is NaN or infinite. "
            "Record points from before the training diverged."
        )
