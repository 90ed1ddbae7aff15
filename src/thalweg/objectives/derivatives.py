"""Gradients of the cost, and products with its Hessian, over all of the data."""

from typing import TYPE_CHECKING

import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from thalweg.objectives.terms import reject_no_terms

if TYPE_CHECKING:
    from thalweg.objectives.model import ModelObjective

__all__ = ["derivative"]


def derivative(
    objective: "ModelObjective", theta: Tensor | ArrayLike, vector: Tensor | None
) -> Tensor:
    """Return the gradient, or its derivative along a vector."""
    if objective.sharding is not None:
        raise ValueError(
            "Derivatives need all parameters in one place; those of this model are sharded "
            "over ranks. Leave `shard` out."
        )
    if objective.batch_norm == "recalibrate":
        raise ValueError(
            "Derivatives need statistics that do not depend on θ; batch_norm='recalibrate' "
            "recomputes them at every point. Use batch_norm='stored' or 'batch'."
        )
    with objective.passive(grad=True), sdpa_kernel(SDPBackend.MATH):
        tensors = objective.tensors_at(theta, None)
        leaves = [tensors[name].detach().requires_grad_() for name in objective.space.names]
        tensors |= dict(zip(objective.space.names, leaves, strict=True))
        total = torch.zeros(objective.space.size, dtype=torch.float64, device=objective.device)
        count = torch.zeros((), dtype=torch.float64, device=objective.device)
        objective.set_mode()
        for index, batch in enumerate(objective.splits[0].batches):
            for sample in objective.samples:
                pair = objective.call(tensors, batch, sample, 0, index, loss_only=True)[0]
                total += _differentiated(pair[0], leaves, vector)
                count += pair[1].detach()
        reject_no_terms("loss", objective.splits[0].name, float(count))
        total /= count
        if objective.penalty is not None:
            total += _differentiated(objective.penalty_at(tensors), leaves, vector)
    return total.to(objective.dtype)


def _differentiated(value: Tensor, leaves: list[Tensor], vector: Tensor | None) -> Tensor:
    """Return the flat gradient of a scalar, or its Hessian times a vector, in float64."""
    if not value.requires_grad:  # nothing that moves was used
        return torch.zeros(sum(leaf.numel() for leaf in leaves), dtype=torch.float64).to(value)
    gradients = torch.autograd.grad(
        value, leaves, create_graph=vector is not None, allow_unused=True, materialize_grads=True
    )
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    if vector is None:
        return flat.double()
    slope = flat @ vector
    if not slope.requires_grad:  # linear in everything: no curvature
        return torch.zeros_like(flat, dtype=torch.float64)
    products = torch.autograd.grad(slope, leaves, allow_unused=True, materialize_grads=True)
    return torch.cat([product.reshape(-1) for product in products]).double()
