"""What rounding the points of a run to the type of their storage can change."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from thalweg.anchors import distance
from thalweg.objectives.objective import Objective
from thalweg.results import Array
from thalweg.trajectory.points import PointSource

__all__ = ["change_rounding", "largest_rounding", "rounding_of"]


def rounding_of(dtype: torch.dtype, norm: Array, size: int) -> Array:
    """Return the largest distance by which points move when they are rounded to a type.

    Each entry moves by half a unit in its last place at most: a share ε/2 of itself, or half the
    smallest number of the type where it is below the normal range.

    Args:
        dtype: The type.
        norm: Norms of the points.
        size: Number of entries of each.

    Example:
        >>> float(rounding_of(torch.bfloat16, np.array(1.0), 1)) == 2**-8
        True
    """
    type_ = torch.finfo(dtype)
    moved: Array = 0.5 * (type_.eps * norm + type_.smallest_normal * type_.eps * np.sqrt(size))
    return moved


def largest_rounding(
    source: PointSource, norm: Array, from_start: Array, ends: Sequence[Tensor], length: float
) -> Array:
    """Return what rounding can have changed in projection and distance of each point, at most.

    A point that moves by δ changes both by δ at most; an end of the line that does shifts the
    line there by as much, and elsewhere in proportion to the distance from the other end:

        δ(t) + δ_a + (‖θ(t) − a‖/‖b − a‖) (δ_a + δ_b).

    Args:
        source: The points.
        norm: Norms of the points, shape (T,).
        from_start: Distances of the points from a, shape (T,).
        ends: a and b.
        length: Distance between them.
    """
    start, end = (
        float(rounding_of(point.dtype, np.array(_norm(point)), source.size)) for point in ends
    )
    own = rounding_of(source.dtype, norm, source.size)
    bound: Array = own + start + from_start / length * (start + end)
    return bound


def change_rounding(
    objective: Objective,
    point: Tensor,
    along: Tensor,
    gradient: Tensor,
    here: float,
    there: Array,
    steps: Array,
) -> Array:
    """Return what rounding can have changed in J(θ − ε d) − J(θ), to first order.

    Terms of J have a rounding error of a few units in their last place, and each entry of θ − ε d
    of half of one, which moves J by g times that.

    Args:
        objective: J.
        point: θ.
        along: d.
        gradient: g.
        here: J(θ).
        there: J(θ − ε d), shape (n,).
        steps: ε, shape (n,).
    """
    terms = 4 * torch.finfo(objective.rounding).eps * np.maximum(abs(here), np.abs(there))
    unit = 0.5 * torch.finfo(objective.dtype).eps
    steep = gradient.double().abs()
    at_rest, moved = float(steep @ point.double().abs()), float(steep @ along.double().abs())
    entries = unit * (at_rest + np.abs(steps) * moved)
    error: Array = terms + entries
    return error


def _norm(point: Tensor) -> float:
    """Return the Euclidean norm of a point, summed in float64."""
    return distance(torch.zeros(1, dtype=point.dtype).expand_as(point), point)
