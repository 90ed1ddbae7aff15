"""Measures: read results (NumPy only) and return numbers. Nothing here imports torch."""

from thalweg.measures.profiles import (
    Barrier,
    Climb,
    Minimum,
    barrier,
    convex_share,
    greatest_climb,
    initial_steepness,
    interior_minima,
    is_monotone,
)

__all__ = [
    "Barrier",
    "Climb",
    "Minimum",
    "barrier",
    "convex_share",
    "greatest_climb",
    "initial_steepness",
    "interior_minima",
    "is_monotone",
]
