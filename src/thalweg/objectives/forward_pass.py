"""One batch through a model whose parameters are given from outside."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from thalweg.objectives.terms import Criterion, SumAndCount, split_batch

__all__ = ["ForwardPass", "private_copy"]


class ForwardPass(nn.Module):
    """The model together with its criteria: one batch in, sums and counts out."""

    def __init__(self, model: nn.Module, criteria: Sequence[Criterion]) -> None:
        super().__init__()
        self.model = model
        self.criteria = tuple(criteria)  # the loss first
        self.needs_output = any(c.needs_output for c in criteria)

    def forward(
        self, batch: Any, loss_only: bool, apart: bool = False
    ) -> Tensor | tuple[SumAndCount, Any]:
        """Return sum and count of every criterion, shape (criteria, 2), float64.

        Args:
            batch: One batch.
            loss_only: Whether to leave the metrics out.
            apart: Whether to return (sum, count) of the loss and the model's output instead.
        """
        criteria = self.criteria[:1] if loss_only else self.criteria
        output = None
        if any(c.needs_output for c in criteria):
            inputs, named, _ = split_batch(batch)
            output = self.model(*inputs, **named)
        pairs = [c(self.model, batch, output) for c in criteria]
        if apart:
            return pairs[0], output
        return torch.stack([torch.stack(pair) for pair in pairs])

    def call(self, tensors: Mapping[str, Tensor], batch: Any, loss_only: bool = False) -> Tensor:
        """Run one batch with given parameters and buffers in place of the model's own."""
        named = {f"model.{name}": tensor for name, tensor in tensors.items()}
        result: Tensor = functional_call(self, named, (batch, loss_only))
        return result

    def call_apart(self, tensors: Mapping[str, Tensor], batch: Any) -> tuple[SumAndCount, Any]:
        """Return sum and count of the loss, and the model's output where the loss needs it."""
        named = {f"model.{name}": tensor for name, tensor in tensors.items()}
        result: tuple[SumAndCount, Any] = functional_call(self, named, (batch, True, True))
        return result


def private_copy(
    model: nn.Module, device: torch.device, dtype: torch.dtype, trainable: Sequence[str]
) -> nn.Module:
    """Copy a model, in evaluation mode and without gradients.

    Args:
        model: The model.
        device: Where the copy goes.
        dtype: Type of its floating-point parameters and buffers.
        trainable: Names of the parameters that may be without memory: they are written to later.
    """
    try:
        copied = copy.deepcopy(model)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            "The model must be one that can be copied, so that yours is not touched; copying "
            f"{type(model).__name__} failed: {error}. Remove what cannot be copied from its "
            "attributes, such as tensors with a graph (old-style weight_norm: use "
            "torch.nn.utils.parametrizations), locks and open files."
        ) from error
    _give_memory(copied, device, trainable)
    return copied.to(device=device, dtype=dtype).requires_grad_(False).eval()


def _give_memory(model: nn.Module, device: torch.device, trainable: Sequence[str]) -> None:
    """Replace trainable parameters on the meta device by small random numbers.

    Numbers, because a loss is tried out before the first point is written.
    """
    empty = {name: p for name, p in model.named_parameters() if p.is_meta}
    fixed = [name for name in empty if name not in trainable]
    fixed += [name for name, buffer in model.named_buffers() if buffer.is_meta]
    if fixed:
        raise ValueError(
            "What does not move must hold numbers; on the meta device are the frozen tensors or "
            f"buffers {', '.join(map(repr, fixed[:4]))}. Build the model such that only what "
            "moves is there, as with accelerate's `init_empty_weights(include_buffers=False)`."
        )
    filled: dict[int, nn.Parameter] = {}
    source = torch.Generator(device).manual_seed(0)
    for owner in model.modules():
        for name, parameter in owner.named_parameters(recurse=False):
            if not parameter.is_meta:
                continue
            if id(parameter) not in filled:  # what is shared stays shared
                values = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
                filled[id(parameter)] = nn.Parameter(values.normal_(0, 0.02, generator=source))
            setattr(owner, name, filled[id(parameter)])
