"""What a stretch of a run did not reach, shared out among causes. Pure arithmetic."""

import math
from dataclasses import dataclass

from thalweg.diagnosis import thresholds as at
from thalweg.diagnosis.readings import Readings, Stretch

__all__ = ["Losses", "losses_of"]


@dataclass(frozen=True)
class Losses:
    """What the run lost to each obstacle in one stretch, in J; the obstacles add up.

    Attributes:
        stretch: Which.
        noise, too_large, too_small, conditioning, saddle, plateau: Losses.
    """

    stretch: Stretch
    noise: float = 0.0
    too_large: float = 0.0
    too_small: float = 0.0
    conditioning: float = 0.0
    saddle: float = 0.0
    plateau: float = 0.0


def losses_of(stretch: Stretch, readings: Readings) -> Losses:
    """Share out what a stretch of the run did not reach, cause by cause.

    Levels of J go down from what the run reached: without noise; with a smaller, or a far larger
    step; with Newton's steps. Each cause is charged with the distance from the level before.
    """
    ways, floor, possible = stretch.alternatives, readings.floor.value, readings.possible
    start = ways.start.loss
    level = min(stretch.level, floor + possible) if possible > 0 else stretch.level
    run_gain = start - level

    def charged(reached: float, level: float) -> tuple[float, float]:
        """Return what a cause takes, and the level without it."""
        reached = max(reached, floor) if math.isfinite(reached) else math.inf
        better = reached < level and run_gain <= at.SLOW * (start - reached)
        return (level - reached, reached) if better else (0.0, level)

    noise = too_large = too_small = conditioning = saddle = plateau = 0.0
    if stretch.noise >= at.NOISY:
        noise, level = charged(ways.same, level)
    own = stretch.rate
    smaller = ways.smaller
    if math.isnan(smaller) and ways.same > start and ways.safe_rate < own:
        smaller = ways.safe_throughout  # within the limit at first, and yet J climbs by such steps
    too_large, level = charged(smaller, level)
    left = start - floor
    # Where slope and curvature promise nothing, a longer step that helps is a leap in the dark.
    flat = ways.start.reach_of(ways.way) <= at.AT_REST * left
    if math.isfinite(own) and ways.safe_rate >= at.FAR_TOO_SMALL * own and not flat:
        too_small, level = charged(ways.safe, level)
    if ways.by_negative >= ways.by_positive and not flat:
        throughout = ways.safe_throughout if too_small > 0 else math.inf
        saddle, level = charged(ways.newton, max(min(level, throughout), floor))
    elif not flat and ways.start.in_valleys >= at.IN_VALLEYS:
        # What the longest safe step reaches in the same time is no matter of curvature.
        throughout = ways.safe_throughout
        reached = min(level, throughout) if math.isfinite(throughout) else level
        conditioning, level = charged(ways.newton, max(reached, floor))
    elif flat and run_gain <= at.SLOW * left:
        plateau = level - floor
    return Losses(stretch, noise, too_large, too_small, conditioning, saddle, plateau)
