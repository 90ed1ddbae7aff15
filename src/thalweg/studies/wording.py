"""Findings in plain words."""

from collections.abc import Mapping
from typing import Any

__all__ = ["barrier_sentence", "fall_sentence", "number", "window_sentence"]

Numbers = Mapping[str, Any]


def number(value: float) -> str:
    """Write a number with three digits, and zero as 0."""
    return "0" if value == 0 else f"{value:.3g}"


def fall_sentence(numbers: Numbers, place: str, prefix: str = "") -> str:
    """Say whether the cost falls all the way along a line."""
    climb, share = numbers[f"{prefix}climb"], numbers[f"{prefix}climb_share"]
    points = int(numbers[f"{prefix}points"])
    first, last = numbers[f"{prefix}loss_start"], numbers[f"{prefix}loss_end"]
    if share <= 1e-3:
        way = "all the way" if climb == 0 else f"but for {share:.2%} of the range"
        return (
            f"{place} the cost falls {way}, from {number(first)} to {number(last)}: greatest "
            f"climb {number(climb)} at {points} points."
        )
    return (
        f"{place} the cost goes from {number(first)} to {number(last)}, but not all downhill: it "
        f"climbs by {number(climb)} ({share:.1%} of the range) at {points} points."
    )


def window_sentence(numbers: Numbers, place: str, prefix: str) -> str:
    """Say what a fine grid shows in a part of a line."""
    points, bumps = int(numbers[f"{prefix}points"]), int(numbers[f"{prefix}bumps"])
    change = numbers[f"{prefix}loss_end"] - numbers[f"{prefix}loss_start"]
    direction = "falls" if change <= 0 else "rises"
    found = "no bump" if bumps == 0 else f"{bumps} bump{'s' * (bumps > 1)}"
    return (
        f"{place} the cost {direction} by {number(abs(change))}, with {found} at {points} points "
        f"(greatest climb {number(numbers[f'{prefix}climb'])})."
    )


def barrier_sentence(numbers: Numbers, prefix: str = "") -> str:
    """Say what separates the two ends of a line."""
    height, where = numbers[f"{prefix}barrier"], numbers[f"{prefix}barrier_alpha"]
    inside = int(numbers[f"{prefix}minima"])
    if height <= 1e-3 * max(numbers[f"{prefix}span"], 1e-300):
        return "No barrier separates the two solutions on the line between them."
    minima = {
        0: "with no other minimum between them: each is a solution in its own right",
        1: "with one more minimum between them",
    }.get(inside, f"with {inside} more minima between them")
    return (
        f"The two solutions are separated by a barrier of height {number(height)} at α = "
        f"{where:.2f}, {minima}."
    )
