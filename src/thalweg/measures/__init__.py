"""Measures: read results (NumPy only) and return numbers. Nothing here imports torch."""

from thalweg.measures.displacement import (
    detour_ratio,
    greatest_distance,
    least_captured_share,
    overshoot,
)
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
from thalweg.measures.random_walk import (
    RandomWalkEvidence,
    excess_over_random_walk,
    random_walk_displacement,
    random_walk_evidence,
)

__all__ = [
    "Barrier",
    "Climb",
    "Minimum",
    "RandomWalkEvidence",
    "barrier",
    "convex_share",
    "detour_ratio",
    "excess_over_random_walk",
    "greatest_climb",
    "greatest_distance",
    "initial_steepness",
    "interior_minima",
    "is_monotone",
    "least_captured_share",
    "overshoot",
    "random_walk_displacement",
    "random_walk_evidence",
]
