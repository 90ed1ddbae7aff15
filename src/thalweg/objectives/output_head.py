"""The logits of a language model, some positions at a time.

A table of tokens x vocabulary is the largest tensor of a pass by far: 4096 tokens of a
vocabulary of 128,000 are 2 GiB in float32. A model that keeps its output head as a module of
its own (Transformers' `get_output_embeddings`) can do without: its head is called on some
positions at a time, inside the model's own pass.

That is right only where the model does nothing to the logits after the head, such as capping or
scaling them. So the head hands known values on in place of logits, and if they do not arrive at
the output as they are, the model is left to make its logits at once.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from thalweg.objectives.terms import prediction

__all__ = ["Measure", "at_positions"]

# A function of logits, shape (n, vocabulary), and targets, shape (n,), with one value a target.
Measure = Callable[[Tensor, Tensor], Tensor]

# Positional and named arguments of a model.
Inputs = tuple[tuple[Any, ...], Mapping[str, Any]]

# Exact in every floating-point type, and far enough from 0 that no cap leaves them alone.
_KNOWN = (-1024.0, -30.0, -1.0, 0.0, 0.5, 30.0, 1024.0)

# Heads that cannot be called on some positions at a time.
_indivisible: WeakSet[nn.Module] = WeakSet()


def at_positions(
    model: nn.Module,
    inputs: Inputs,
    shape: Sequence[int],
    places: Tensor,
    targets: Tensor,
    measure: Measure,
    chunk: int,
) -> Tensor:
    """Return a measure of the logits at some positions, shape (n,).

    Args:
        model: Returns logits of shape (rows, length, vocabulary), or an output that holds them.
        inputs: Positional and named arguments of the model.
        shape: Rows and length of the token ids.
        places: Which of the rows x length positions to look at, shape (n,), ascending.
        targets: What is to be predicted there, shape (n,).
        measure: Called on logits of `chunk` positions.
        chunk: Positions whose logits are needed at a time.

    Raises:
        TypeError: If the output of the model holds no logits.
        ValueError: If logits have another shape.
    """
    head = _head(model)
    if head is not None and head not in _indivisible:
        try:
            divided = _by_head(model, head, inputs, shape, places, targets, measure, chunk)
        except Exception:  # by known values in place of logits, or it fails again below
            divided = None
        if divided is not None:
            return divided
    positional, named = inputs
    logits = prediction(model(*positional, **named))
    if logits.ndim != 3 or logits.shape[:2] != tuple(shape):
        raise ValueError(
            f"Logits must have shape ({shape[0]}, {shape[1]}, vocabulary), one row of scores a "
            f"token; got {tuple(logits.shape)}. Move the vocabulary to the last axis."
        )
    if head is not None:
        _indivisible.add(head)
    return _in_chunks(lambda rows: rows, logits, places, targets, measure, chunk)


def _head(model: nn.Module) -> nn.Module | None:
    """Return the module that turns hidden states into logits, where a model tells it."""
    find: Any = getattr(model, "get_output_embeddings", None)
    head = find() if callable(find) else None
    if not isinstance(head, nn.Module) or head is model:
        return None
    return head if any(head is part for part in model.modules()) else None


def _by_head(
    model: nn.Module,
    head: nn.Module,
    inputs: Inputs,
    shape: Sequence[int],
    places: Tensor,
    targets: Tensor,
    measure: Measure,
    chunk: int,
) -> Tensor | None:
    """Measure inside the model's own pass; None where that does not give its own logits."""
    found: list[Tensor] = []
    known: list[Tensor] = []
    forward = head.forward

    def replacement(hidden: Tensor) -> Tensor:
        if hidden.ndim != 3 or hidden.shape[:2] != tuple(shape):
            raise ValueError("Hidden states must be in the order of the token ids.")
        found.append(_in_chunks(forward, hidden, places, targets, measure, chunk))
        known.append(torch.tensor([[_KNOWN]], dtype=hidden.dtype, device=hidden.device))
        return known[-1]

    positional, named = inputs
    with _replaced(head, replacement):
        output = prediction(model(*positional, **named))
    if len(found) != 1 or not torch.equal(output.to(known[0].dtype), known[0]):
        return None
    return found[0]


def _in_chunks(
    logits_of: Callable[[Tensor], Tensor],
    table: Tensor,
    places: Tensor,
    targets: Tensor,
    measure: Measure,
    chunk: int,
) -> Tensor:
    """Measure the logits of some rows of a table, shape (rows, length, width), at a time."""
    rows = table.reshape(-1, table.shape[-1])
    pieces = zip(torch.split(places, chunk), torch.split(targets, chunk), strict=True)
    return torch.cat([measure(logits_of(rows[some]), those) for some, those in pieces])


@contextmanager
def _replaced(module: nn.Module, forward: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Give one module another forward for a moment."""
    own = vars(module)
    before = own.get("forward")
    own["forward"] = forward
    try:
        yield
    finally:
        if before is None:
            own.pop("forward", None)
        else:
            own["forward"] = before
