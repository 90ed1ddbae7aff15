"""Anchors - points in memory or on disk - and the one way in which they are combined."""

import functools
import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from thalweg.space import TensorBlock
from thalweg.stored import StoredPoint

__all__ = [
    "Anchor",
    "combine",
    "corresponding_parts",
    "distance",
    "part_of",
    "write_combination",
]

Anchor = Tensor | StoredPoint

_PIECE = 1 << 18  # entries that are in float64 at a time


def combine(anchors: Sequence[Anchor], weights: ArrayLike) -> Tensor:
    """Return Σ_j w_j P_j, exactly P_j where w_j = 1 is the only weight that is not zero.

    Anchors of weight zero are left out rather than multiplied, so that the ends of a line
    are the ends bit for bit.

    Args:
        anchors: m points of shape (P,).
        weights: m numbers.

    Example:
        >>> combine([torch.tensor([1.0, 2.0]), torch.tensor([3.0, 6.0])], [0.5, 0.5])
        tensor([2., 4.])
    """
    row = [float(weight) for weight in np.asarray(weights, dtype=np.float64)]
    parts = []
    for tensors in corresponding_parts(anchors):
        dtype = functools.reduce(torch.promote_types, (tensor.dtype for tensor in tensors))
        part = torch.empty_like(tensors[0], dtype=dtype)
        write_combination(part, [tensor.to(dtype) for tensor in tensors], row)
        parts.append(part)
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def write_combination(out: Tensor, anchors: Iterable[Tensor], weights: Sequence[float]) -> None:
    """Write Σ_j w_j P_j into a tensor; the one place where anchors are combined.

    Args:
        out: Where it goes.
        anchors: m tensors of its shape, which may be made as they are asked for.
        weights: m numbers.
    """
    empty = True
    for weight, anchor in zip(weights, anchors, strict=True):
        if weight == 0:
            continue
        if not empty:
            out.add_(anchor, alpha=weight)
        elif weight == 1:
            out.copy_(anchor)
        else:
            torch.mul(anchor, weight, out=out)
        empty = False
    if empty:
        out.zero_()


def distance(a: Anchor, b: Anchor) -> float:
    """Return the Euclidean distance of two points, summed in float64.

    Example:
        >>> distance(torch.tensor([1.0, 1.0]), torch.tensor([4.0, 5.0]))
        5.0
    """
    squares = 0.0
    for x, y in corresponding_parts([a, b]):
        for at in range(0, len(x), _PIECE):
            first, second = (part[at : at + _PIECE].double() for part in (x, y))
            squares += float(torch.linalg.vector_norm(second - first)) ** 2
    return math.sqrt(squares)


def part_of(anchor: Anchor, block: TensorBlock, rows: slice | None = None) -> Tensor:
    """Return one tensor of an anchor, or some rows of its first axis."""
    if isinstance(anchor, StoredPoint):
        return anchor.tensor(block, rows)
    tensor = block.of(anchor)
    return tensor if rows is None else tensor[rows]


def corresponding_parts(anchors: Sequence[Anchor]) -> Iterator[list[Tensor]]:
    """Iterate over the parts of several anchors that belong together, as flat vectors.

    Vectors in memory are one part; where one anchor is stored, every tensor is.
    """
    stored = next((anchor for anchor in anchors if isinstance(anchor, StoredPoint)), None)
    if stored is None:
        yield [anchor for anchor in anchors if isinstance(anchor, Tensor)]
        return
    for block in stored.space.blocks:
        yield [part_of(anchor, block).reshape(-1) for anchor in anchors]
