"""Batches of any structure: tensors in tuples, lists and mappings, with constants beside them."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "Batch",
    "as_tensors",
    "constants_in",
    "examples_in",
    "few_of",
    "holds_tensors",
    "joined",
    "known_examples_in",
    "map_tensors",
    "narrow",
    "raw_bytes",
    "rows_of",
    "tensors_in",
]

Batch = Any  # a tensor, or a tuple, list or mapping of such


def map_tensors(function: Callable[[Tensor], Tensor], batch: Batch) -> Batch:
    """Apply a function to every tensor of a nested batch, keeping its containers."""
    if isinstance(batch, Tensor):
        return function(batch)
    if isinstance(batch, Mapping):
        return {key: map_tensors(function, value) for key, value in batch.items()}
    if isinstance(batch, tuple | list):
        return _like(batch, [map_tensors(function, value) for value in batch])
    return batch


def tensors_in(batch: Batch) -> Iterator[Tensor]:
    """Iterate over the tensors of a nested batch."""
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, Mapping):
        for value in batch.values():
            yield from tensors_in(value)
    elif isinstance(batch, tuple | list):
        for value in batch:
            yield from tensors_in(value)


def constants_in(batch: Batch) -> Iterator[Any]:
    """Iterate over what is no tensor in a nested batch; a sequence without tensors is one."""
    if isinstance(batch, Mapping | tuple | list) and holds_tensors(batch):
        for value in batch.values() if isinstance(batch, Mapping) else batch:
            yield from constants_in(value)
    elif not isinstance(batch, Tensor):
        yield batch


def examples_in(batch: Batch) -> int:
    """Return the number of examples of a batch: the length of its first tensor."""
    count = known_examples_in(batch)
    return 1 if count is None else count


def known_examples_in(batch: Batch) -> int | None:
    """Return the length of the first tensor that has one, or None where there is none.

    Example:
        >>> known_examples_in({"x": [torch.zeros(5, 2)], "scale": torch.tensor(1.0)})
        5
    """
    return next((tensor.shape[0] for tensor in tensors_in(batch) if tensor.ndim), None)


def narrow(batch: Batch, start: int, stop: int) -> Batch:
    """Return the examples from `start` up to `stop`, as views."""
    count = examples_in(batch)
    return map_tensors(lambda t: t[start:stop] if t.ndim and t.shape[0] == count else t, batch)


def few_of(batch: Batch, examples: int, tokens: int) -> Batch:
    """Return the first examples, as views: of sequences, no more than hold so many tokens.

    What is looked at before a sweep is to be little beside it, and an example that is a sequence
    costs as much as many others. Sequences are rows of integers (bytes are rather pixels); four
    of them are always kept.
    """
    rows = (t for t in tensors_in(batch) if t.ndim > 1 and t.dtype in (torch.int32, torch.int64))
    longest = max((row[:1].numel() for row in rows), default=1)
    return narrow(batch, 0, min(examples, max(4, tokens // max(1, longest))))


def rows_of(table: Any, rows: Any) -> Any:
    """Index every tensor and array of a nested table along its first axis."""
    if isinstance(table, Tensor | np.ndarray):
        return table[rows]
    if isinstance(table, Mapping):
        return {key: rows_of(value, rows) for key, value in table.items()}
    if isinstance(table, tuple | list):
        return _like(table, [rows_of(value, rows) for value in table])
    return table


def as_tensors(batch: Batch, name: str) -> Batch:
    """Turn NumPy arrays into tensors of their own, and reject what holds no tensor at all.

    Raises:
        TypeError: If there is none.
    """
    if isinstance(batch, np.ndarray):
        return torch.from_numpy(np.array(batch))
    if isinstance(batch, Mapping):
        batch = {k: as_tensors(v, name) if holds_tensors(v) else v for k, v in batch.items()}
    elif isinstance(batch, tuple | list):
        parts = [as_tensors(v, name) if holds_tensors(v) else v for v in batch]
        batch = _like(batch if isinstance(batch, tuple) else (), parts)
    if next(tensors_in(batch), None) is None:
        raise TypeError(
            f"A batch must hold tensors; split {name!r} gives {type(batch).__name__} without "
            "any. Convert the examples to tensors, or pass a loss `(model, batch) → (sum, "
            "count)` with batches that hold tensors."
        )
    return batch


def holds_tensors(value: Any) -> bool:
    """Tell whether a part of a batch is, or may hold, tensors."""
    return isinstance(value, Tensor | np.ndarray | Mapping | tuple | list) and (
        isinstance(value, Tensor | np.ndarray)
        or any(holds_tensors(v) for v in (value.values() if isinstance(value, Mapping) else value))
    )


def joined(batches: list[Batch]) -> Batch:
    """Join batches whose tensors differ in length alone; also a single one is copied."""
    columns = zip(*(list(tensors_in(batch)) for batch in batches), strict=True)
    parts = iter([torch.cat(column) for column in columns])
    return map_tensors(lambda _: next(parts), batches[0])


def raw_bytes(tensor: Tensor) -> Any:
    """Return the bytes of a tensor of any type, shape (bytes,), copied only where need be."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()


def _like(container: Any, parts: list[Any]) -> Any:
    """Return parts in a container of the same kind: list, tuple or named tuple."""
    if isinstance(container, list):
        return parts
    return type(container)(*parts) if hasattr(container, "_fields") else tuple(parts)
