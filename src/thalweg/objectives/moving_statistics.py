"""Batch normalisation by statistics that depend on θ and can be differentiated any number of times.

Torch takes running statistics for constants. Here layers in evaluation mode compute
y = γ (x − μ) (σ² + ε)^(−1/2) + β by plain operators, so that derivatives of all orders go through
μ and σ², too. (`thalweg.objectives.tangents.moving_statistics` keeps the bits of torch's own
output, and has first derivatives alone.)
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["differentiable_statistics"]


@contextmanager
def differentiable_statistics(layers: Mapping[str, _BatchNorm]) -> Iterator[None]:
    """Let normalisation layers normalise by plain operators inside the block.

    Raises:
        ValueError: If a layer is of a class that normalises in a way of its own.
    """
    for name, layer in layers.items():
        if type(layer).forward not in (_BatchNorm.forward, nn.SyncBatchNorm.forward):
            raise ValueError(
                "Derivatives through recalibrated statistics need batch-normalisation layers of "
                f"torch.nn; {name!r} is a {type(layer).__name__}. Use batch_norm='stored' or "
                "'batch'."
            )
    with ExitStack() as stack:
        for layer in layers.values():
            vars(layer)["forward"] = _Plain(layer)
            stack.callback(vars(layer).pop, "forward")
        yield


class _Plain:
    """The forward pass of one normalisation layer, in plain operators."""

    def __init__(self, layer: _BatchNorm) -> None:
        self.layer = layer

    def __call__(self, given: Tensor) -> Tensor:
        """Normalise by the running statistics."""
        layer = self.layer
        assert layer.running_mean is not None
        assert layer.running_var is not None
        shape = [1, -1] + [1] * (given.ndim - 2)
        # Copies: while population statistics are collected, these buffers are written to.
        mean, scale = layer.running_mean.clone(), torch.rsqrt(layer.running_var + layer.eps)
        if layer.weight is not None:
            scale = scale * layer.weight
        output = (given - mean.view(shape)) * scale.view(shape)
        return output if layer.bias is None else output + layer.bias.view(shape)
