"""Boiling results down to a table of numbers, for summaries, claims and reports."""

import numpy as np

from thalweg.measures.profiles import (
    barrier,
    convex_share,
    greatest_climb,
    initial_steepness,
    interior_minima,
)
from thalweg.results import History, Profile

__all__ = ["line_numbers", "share_at_the_bottom", "window_numbers"]


def line_numbers(profile: Profile, prefix: str = "") -> dict[str, float]:
    """Boil a profile down to numbers, for its first split between the two ends.

    The greatest climb is given in units of the cost, and as a share of the difference between
    the highest and the lowest cost between the ends.
    """
    between = (profile.anchors[0], profile.anchors[-1])
    assert profile.ends is not None
    loss = profile.loss[profile.first_split]
    inside = loss[(profile.alpha >= between[0]) & (profile.alpha <= between[1])]
    first, last = profile.ends.loss[profile.first_split]
    highest, lowest = max(inside.max(), first, last), min(inside.min(), first, last)
    span = highest - lowest
    climb = greatest_climb(profile, between=between)
    minima = interior_minima(profile, tolerance=1e-3 * span, between=between)
    steepest = _steepest_place(profile, between)
    try:
        beyond = convex_share(profile, between=(steepest, between[1]))
    except ValueError:  # fewer than three points beyond it
        beyond = float("nan")
    numbers = {
        "points": len(profile.alpha),
        "loss_start": first,
        "loss_end": last,
        "highest": highest,
        "lowest": lowest,
        "span": span,
        "climb": climb.height,
        "climb_share": climb.height / span if span > 0 else 0.0,
        "barrier": barrier(profile).height,
        "barrier_alpha": barrier(profile).alpha,
        "barrier_mean": barrier(profile, baseline="mean").height,
        "minima": len(minima),
        "convex_share": convex_share(profile, between=between),
        "steepness": initial_steepness(profile),
        "steepest": steepest,
        "convex_beyond": beyond,
        "distance": profile.length or 0.0,
    }
    return {prefix + name: float(value) for name, value in numbers.items()}


def window_numbers(profile: Profile, prefix: str) -> dict[str, float]:
    """Boil down a profile of a part of a line: how far it climbs, and how often it turns.

    A smooth stretch turns once at most; every further minimum is a bump.
    """
    loss = profile.loss[profile.first_split]
    span = float(loss.max() - loss.min())
    climb = greatest_climb(profile)
    minima = interior_minima(profile, tolerance=1e-6 * span)
    peaks = interior_minima(Profile(profile.alpha, {"train": -loss}), tolerance=1e-6 * span)
    numbers = {
        "points": len(loss),
        "loss_start": loss[0],
        "loss_end": loss[-1],
        "span": span,
        "climb": climb.height,
        "climb_share": climb.height / span if span > 0 else 0.0,
        "minima": len(minima),
        "bumps": len(peaks),
    }
    return {prefix + name: float(value) for name, value in numbers.items()}


def share_at_the_bottom(history: History) -> float:
    """Return the share of epochs at whose end nine tenths of the fall of the cost were done."""
    loss = history.loss[history.first_split]
    done = loss[0] - loss
    return float((done[1:] >= 0.9 * done.max()).mean())


def _steepest_place(profile: Profile, between: tuple[float, float]) -> float:
    """Return the coordinate after the steepest fall between two ends."""
    inside = (profile.alpha >= between[0]) & (profile.alpha <= between[1])
    alpha, loss = profile.alpha[inside], profile.loss[profile.first_split][inside]
    return float(alpha[1 + int(np.argmin(np.diff(loss) / np.diff(alpha)))])
