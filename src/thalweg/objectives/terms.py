"""What a loss or a metric is, once it is taken apart: a sum of terms, and their number."""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

__all__ = [
    "TRIAL_TOLERANCE",
    "Criterion",
    "SumAndCount",
    "count_of",
    "prediction",
    "reject_no_terms",
    "split_batch",
    "target_of",
]

SumAndCount = tuple[Tensor, Tensor]

# How far two ways of averaging may differ and still count as the same; else half precision.
TRIAL_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}

_TARGET_KEYS = ("labels", "label", "targets", "target", "y")


class Criterion(Protocol):
    """A loss or metric of one batch as a sum and a count, both float64 scalars."""

    needs_output: bool

    def __call__(self, model: nn.Module, batch: Any, output: Any) -> SumAndCount:
        """Evaluate one batch; `output` is None where it is not needed."""
        ...


def split_batch(batch: Any) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
    """Return positional inputs, named inputs and target of a batch.

    `(x, y)` calls `model(x)`, `(x₁, x₂, y)` calls `model(x₁, x₂)`; where x is a tuple or a
    mapping, its parts are the inputs. A single tensor is input and target. A mapping is
    passed by name, without its labels.
    """
    if isinstance(batch, Mapping):
        key = next((key for key in _TARGET_KEYS if key in batch), None)
        named = {name: value for name, value in batch.items() if name != key}
        return (), named, batch[key] if key is not None else None
    if isinstance(batch, Tensor):
        return (batch,), {}, batch
    inputs, target = (batch[:-1], batch[-1]) if len(batch) > 1 else (batch, batch[0])
    if len(inputs) == 1 and isinstance(inputs[0], Mapping):
        return (), dict(inputs[0]), target
    if len(inputs) == 1 and isinstance(inputs[0], tuple | list):
        return tuple(inputs[0]), {}, target
    return tuple(inputs), {}, target


def target_of(batch: Any) -> Any:
    """Return the target of a batch, or raise where there is none."""
    target = split_batch(batch)[2]
    if target is None:
        raise ValueError(
            "A loss of (output, target) needs a target; the batch has none of the keys "
            f"{', '.join(_TARGET_KEYS)}. Rename it, or pass a loss `(model, batch) → "
            "(sum, count)`."
        )
    return target


def prediction(output: Any) -> Tensor:
    """Return the prediction tensor of a model's output: itself, or its `logits` (or `out`).

    Raises:
        TypeError: If there is none.
    """
    if isinstance(output, Tensor):
        return output
    for key in ("logits", "out", "output", "prediction"):
        value = output.get(key) if isinstance(output, Mapping) else getattr(output, key, None)
        if isinstance(value, Tensor):
            return value
    if isinstance(output, tuple | list) and output and isinstance(output[0], Tensor):
        return output[0]
    raise TypeError(
        "The output of the model must be a tensor or hold one called 'logits'; got "
        f"{type(output).__name__}. Pass a loss `(model, batch) → (sum, count)`."
    )


def count_of(count: int, like: Tensor) -> Tensor:
    """Return a count as a float64 scalar on the device of a tensor."""
    return torch.tensor(float(count), dtype=torch.float64, device=like.device)


def reject_no_terms(name: str, split: str, count: float) -> None:
    """Raise for a mean over nothing."""
    if count <= 0:
        raise ValueError(
            f"A mean needs one term at least; {name!r} counts none on split {split!r}. Check "
            "`ignore_index` and the weights of the loss."
        )
