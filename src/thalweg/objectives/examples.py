"""A cost on some of its examples."""

import copy
import hashlib

import torch
from torch import Tensor

from thalweg.objectives.batches import Split, map_tensors, narrow
from thalweg.objectives.forward_pass import ForwardPass
from thalweg.objectives.model import ModelObjective
from thalweg.objectives.streaming import StreamedBatches

__all__ = [
    "can_pick",
    "picked_examples",
    "random_examples",
    "split_of",
    "with_examples",
    "with_splits",
]


def can_pick(split: Split) -> bool:
    """Tell whether examples of a split can be picked one by one."""
    if isinstance(split.batches, StreamedBatches):
        return split.batches.pickable
    return split.uniform


def random_examples(split: Split, seed: int) -> Tensor:
    """Return the numbers of all examples in random order; a draw is its first ones."""
    return torch.randperm(split.examples, generator=torch.Generator().manual_seed(seed))


def picked_examples(split: Split, indices: Tensor) -> object:
    """Return some examples of a split as one batch, in the order of their numbers given."""
    if isinstance(split.batches, StreamedBatches):
        return split.batches.pick(indices.tolist())
    total = split.examples
    return map_tensors(
        lambda t: t[indices.to(t.device)] if t.ndim and t.shape[0] == total else t, split.whole
    )


def split_of(split: Split, indices: Tensor, batch_size: int) -> Split:
    """Return a split of some examples of another, cut into batches."""
    picked = picked_examples(split, indices)
    starts = range(0, len(indices), batch_size)
    batches = tuple(narrow(picked, at, at + batch_size) for at in starts)
    digest = hashlib.sha256(f"{split.sha256} {indices.tolist()}".encode()).hexdigest()
    return Split(split.name, batches, picked, digest)


def with_examples(objective: ModelObjective, indices: Tensor, batch_size: int) -> ModelObjective:
    """Return the loss of the first split on some of its examples, without further metrics.

    Statistics of batch normalisation that the cost recalibrates are those of these examples.

    Args:
        objective: J, a mean over examples.
        indices: Numbers of examples, shape (n,).
        batch_size: Examples of a batch.
    """
    return with_splits(objective, split_of(objective.splits[0], indices, batch_size))


def with_splits(objective: ModelObjective, *splits: Split) -> ModelObjective:
    """Return the loss on other splits, the first of which is what J is over; without metrics."""
    own = copy.copy(objective)
    vars(own).pop("_ways", None)  # what was found to work is kept for each cost
    vars(own)["_terms"] = {}  # as are the terms that were counted
    own.splits = splits
    own.metrics = ()
    own.forward_pass = ForwardPass(
        objective.forward_pass.model, objective.forward_pass.criteria[:1]
    )
    return own
