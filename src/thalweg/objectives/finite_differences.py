"""Products with the Hessian from gradients alone, for operators without a second derivative.

H v ≈ (∇J(θ + h v) − ∇J(θ − h v)) / 2h, with h ‖v‖ = ε^(1/3) (1 + ‖θ‖) where ε is the rounding of
the type: the step at which truncation, of order h², is as small as rounding, of order ε / h
(Nocedal and Wright 2006, section 8.1; the scale with ‖θ‖ as in Andrei 2009). What is left is
seen by doubling the step.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from thalweg.objectives.pieces import Pieces, Sums
from thalweg.objectives.second_order import gradient_of

__all__ = ["difference", "first_order", "relative_change"]

# The gradient of a cost, float64, where the tensors that move have given values.
Gradient = Callable[[Sequence[Tensor]], Tensor]


def first_order(pieces: Pieces, tensors: Sequence[Tensor]) -> tuple[float, Tensor]:
    """Return J and ∇J where the tensors that move have given values, float64."""
    sums = Sums(pieces)
    for evaluate in pieces.all():
        piece = evaluate(tensors)
        sums.see(piece)
        sums.add(piece, gradient_of(piece, tensors))
    return sums.value(), sums.vectors()


def difference(
    gradient: Gradient, leaves: Sequence[Tensor], vector: Sequence[Tensor], widen: float = 1.0
) -> Tensor:
    """Return H v by central differences, float64.

    Args:
        gradient: ∇J at a place.
        leaves: The place.
        vector: v, in parts of the shapes of the leaves.
        widen: Factor of the step.
    """
    length = _norm(vector)
    if length == 0:
        return torch.zeros_like(gradient(leaves))
    rounding = float(torch.finfo(leaves[0].dtype).eps) ** (1 / 3)
    step = widen * rounding * (1 + _norm(leaves)) / length
    ahead, behind = (
        gradient(
            [
                (leaf.detach() + sign * step * part).requires_grad_()
                for leaf, part in zip(leaves, vector, strict=True)
            ]
        )
        for sign in (1, -1)
    )
    slope: Tensor = (ahead - behind) / (2 * step)
    return slope


def relative_change(
    gradient: Gradient, leaves: Sequence[Tensor], vector: Sequence[Tensor]
) -> float:
    """Return by how much H v changes when the step doubles, as a share of H v.

    Truncation grows fourfold and rounding halves, so the error is no larger than about this.
    """
    fine, coarse = (difference(gradient, leaves, vector, widen) for widen in (1.0, 2.0))
    return float((coarse - fine).norm() / fine.norm()) if float(fine.norm()) else 0.0


def _norm(tensors: Sequence[Tensor]) -> float:
    """Return the Euclidean norm of a vector in parts, summed in float64."""
    return float(sum(float(t.detach().double().square().sum()) for t in tensors) ** 0.5)
