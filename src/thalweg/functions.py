"""Costs in closed form, with known gradients, Hessians and critical points."""

from functools import partial

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from thalweg.objectives import FunctionObjective

__all__ = ["chain", "quadratic"]


def chain(depth: int) -> FunctionObjective:
    """Return J(w) = (1 − w₁ w₂ … w_n)², a deep linear network of one unit a layer.

    Source: Goodfellow, Vinyals and Saxe 2015, section 5.
    """
    return FunctionObjective(_chain, depth, name=f"(1 − Π w)², depth {depth}")


def quadratic(
    hessian: ArrayLike, centre: ArrayLike | None = None, *, lowest: float = 0.0
) -> FunctionObjective:
    """Return J(θ) = ½ (θ − c)ᵀ H (θ − c) + lowest."""
    matrix = torch.as_tensor(hessian, dtype=torch.float64)
    middle = (
        torch.zeros(len(matrix), dtype=torch.float64)
        if centre is None
        else torch.as_tensor(centre, dtype=torch.float64)
    )
    return FunctionObjective(
        partial(_quadratic, matrix=matrix, middle=middle, lowest=lowest),
        len(matrix),
        name="quadratic",
    )


def _chain(w: Tensor) -> Tensor:
    """Return (1 − Π w)²."""
    return (1 - w.prod()) ** 2


def _quadratic(theta: Tensor, matrix: Tensor, middle: Tensor, lowest: float) -> Tensor:
    """Return ½ (θ − c)ᵀ H (θ − c) + lowest."""
    away = theta - middle
    return away @ matrix @ away / 2 + lowest
