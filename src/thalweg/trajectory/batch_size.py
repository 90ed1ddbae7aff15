"""How many examples there are in a mini-batch of whatever form."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

__all__ = ["size_of_batch"]


def size_of_batch(batch: Any) -> int | None:
    """Return the number of examples: the length of the first tensor in it, or None without one.

    Example:
        >>> import torch
        >>> size_of_batch({"x": [torch.zeros(5, 2)], "scale": torch.tensor(1.0)})
        5
    """
    if isinstance(batch, Tensor):
        return len(batch) if batch.dim() else None
    items: Iterable[Any] = ()
    if isinstance(batch, Mapping):
        items = batch.values()
    elif isinstance(batch, list | tuple):
        items = batch
    sizes = (size_of_batch(item) for item in items)
    return next((size for size in sizes if size is not None), None)
