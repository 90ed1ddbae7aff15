"""Products of matrices on processors: by oneDNN, where torch would take another library.

Torch's linear layers multiply by the BLAS that it was built with, which on some processors (MKL
on those of AMD) reaches two thirds of the rate that oneDNN does, of which torch has a copy as well.
"""

import platform
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["DenseProduct", "dense_products", "linear"]

# Below this many rows, or entries of a row, starting a product takes as long as doing it.
_FEWEST = 64


def linear(given: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return x Wᵀ + b, with the operator of this machine that does it fastest.

    Args:
        given: x, shape (..., inputs).
        weight: W, shape (outputs, inputs).
        bias: b, shape (outputs,), or None.

    Example:
        >>> linear(torch.ones(1, 2), torch.tensor([[1.0, 2.0]]), None)
        tensor([[3.]])
    """
    if _by_onednn(given, weight):
        product: Tensor = torch.ops.mkldnn._linear_pointwise(given, weight, bias, "none", [], "")
        return product
    return functional.linear(given, weight, bias)


class DenseProduct:
    """A linear layer, as a shortcut: see `thalweg.evaluate.deferred.Shortcut`.

    Args:
        layer: The layer.
    """

    reason = ""  # told once for all of them

    def __init__(self, layer: nn.Linear) -> None:
        self.layer = layer

    def forward(self, given: Tensor) -> Tensor:
        """Apply the layer."""
        return linear(given, self.layer.weight, self.layer.bias)

    def moved(self) -> None:
        """Nothing is kept."""

    released = moved


def dense_products(model: nn.Module, taken: Sequence[nn.Module]) -> list[DenseProduct]:
    """Return the linear layers of a model that are wide enough to have a choice.

    Args:
        model: The model.
        taken: Layers that are dealt with in another way.
    """
    others = {id(layer) for layer in taken}
    return [
        DenseProduct(module)
        for module in model.modules()
        if type(module) is nn.Linear
        and "forward" not in vars(module)
        and id(module) not in others
        and min(module.weight.shape) >= _FEWEST
        and _for_onednn(module.weight)
    ]


def _by_onednn(given: Tensor, weight: Tensor) -> bool:
    """Tell whether one product goes to oneDNN."""
    return (
        type(given) is Tensor
        and given.ndim == 2
        and min(*weight.shape, len(given)) >= _FEWEST
        and given.dtype == torch.float32
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and _for_onednn(weight)
    )


def _for_onednn(weight: Tensor) -> bool:
    """Tell whether oneDNN multiplies matrices of this kind here."""
    mkldnn: Any = torch.backends.mkldnn
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and platform.machine() in ("x86_64", "AMD64")
        and mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )
