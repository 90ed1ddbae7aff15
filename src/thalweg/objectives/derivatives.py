"""Gradients of a cost, and products with its Hessian, in one call each."""

from numpy.typing import ArrayLike
from torch import Tensor

from thalweg.errors import ParameterMismatchError
from thalweg.objectives.curvature import curvature
from thalweg.objectives.finite_differences import first_order
from thalweg.objectives.objective import Objective
from thalweg.space import as_vector

__all__ = ["gradient_at", "products_at"]


def gradient_at(objective: Objective, theta: Tensor | ArrayLike) -> Tensor:
    """Return ∇J(θ), shape (P,)."""
    pieces = objective.pieces(theta, objective.space.blocks)
    with pieces.context():
        return first_order(pieces, pieces.leaves)[1].to(objective.dtype)


def products_at(
    objective: Objective, theta: Tensor | ArrayLike, vector: Tensor | ArrayLike
) -> Tensor:
    """Return H(θ) v for one vector, shape (P,), or a block of them, (k, P), from one pass."""
    given = as_vector(vector)
    if given.ndim == 2 and given.shape[1] == objective.space.size:
        return curvature(objective, theta, memory=0).products(given)
    if given.ndim == 2:
        raise ParameterMismatchError(
            f"vector must have shape ({objective.space.size},), or (k, {objective.space.size}) for "
            f"a block; got {tuple(given.shape)}. Use `objective.space.flatten`."
        )
    one = objective.point(given, "vector")
    return curvature(objective, theta, memory=0).product(one)
