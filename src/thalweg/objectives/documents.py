"""Documents of different lengths as tables of tokens: padded, or packed behind each other."""

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

__all__ = ["IGNORED", "packed", "padded"]

# The label of what is not predicted, in Transformers and in torch's losses.
IGNORED = -100


def padded(
    documents: Iterable[Any], *, side: Literal["right", "left"] = "right", pad: int = 0
) -> dict[str, Tensor]:
    """Return documents as rows of one table, filled up to the longest.

    The table is a split for `ModelObjective` with `NextToken`. Its cost is that of the
    documents one by one; what it costs to evaluate is the length of the longest for each.

    Args:
        documents: The token ids of each, as a list, an array or a tensor of one dimension.
        side: Where the filling goes.
        pad: Token to fill up with; it is neither seen nor predicted.

    Returns:
        `input_ids` and `attention_mask` (1 for tokens, 0 for filling), both of shape
        (documents, longest).

    Raises:
        TypeError: If a document is no sequence of whole numbers.
        ValueError: If there is none, or one is empty.

    Example:
        >>> table = padded([[5, 6, 7], [8, 9]])
        >>> table["input_ids"].tolist(), table["attention_mask"].tolist()
        ([[5, 6, 7], [8, 9, 0]], [[1, 1, 1], [1, 1, 0]])
    """
    if side not in ("right", "left"):
        raise ValueError(f"`side` is 'right' or 'left'; got {side!r}. Leave it out for 'right'.")
    tokens = _expect_documents(documents)
    shape = len(tokens), max(map(len, tokens))
    ids = torch.full(shape, pad, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, document in enumerate(tokens):
        start = 0 if side == "right" else shape[1] - len(document)
        stop = start + len(document)
        ids[row, start:stop] = document
        mask[row, start:stop] = 1
    return {"input_ids": ids, "attention_mask": mask}


def packed(documents: Iterable[Any], length: int, *, pad: int = 0) -> dict[str, Tensor]:
    """Return documents put behind each other in rows of one length, none of them cut.

    The table is a split for `ModelObjective` with `NextToken`. The positions of each document
    start at 0: that is how a model (Transformers from 4.53 on) knows that its tokens must not
    look at the documents before it. `NextToken` makes sure that they do not. Documents go
    where they leave the least room, the longest first, so hardly any of the work is done on
    filling; the cost does not depend on their order.

    Args:
        documents: The token ids of each, as a list, an array or a tensor of one dimension.
        length: Tokens a row; at least those of the longest document.
        pad: Token to fill up with; the filling of a row is a document that is not predicted.

    Returns:
        `input_ids`, `position_ids` and `labels` (−100 for filling), each of shape
        (rows, length).

    Raises:
        TypeError: If a document is no sequence of whole numbers.
        ValueError: If there is none, one is empty, or one is longer than a row.

    Example:
        >>> table = packed([[5, 6, 7], [8, 9], [4, 3]], length=5)
        >>> table["input_ids"].tolist()
        [[5, 6, 7, 8, 9], [4, 3, 0, 0, 0]]
        >>> table["position_ids"].tolist()
        [[0, 1, 2, 0, 1], [0, 1, 0, 1, 2]]
    """
    tokens = _expect_documents(documents)
    longest = max(map(len, tokens))
    if longest > length:
        raise ValueError(
            f"A row must hold the longest document, {longest} tokens; got length={length}. Make "
            "rows longer, or cut documents into parts yourself: each part is then a document of "
            "its own, whose first token is not predicted."
        )
    rows = _rows(tokens, length)
    ids = torch.full((len(rows), length), pad, dtype=torch.long)
    places, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
    for row, members in enumerate(rows):
        start = 0
        for document in members:
            stop = start + len(document)
            ids[row, start:stop] = labels[row, start:stop] = document
            places[row, start:stop] = torch.arange(len(document))
            start = stop
        places[row, start:] = torch.arange(length - start)
    return {"input_ids": ids, "position_ids": places, "labels": labels}


def _rows(documents: Sequence[Tensor], length: int) -> list[list[Tensor]]:
    """Put documents into rows: the longest first, each where it leaves the least room."""
    rows: list[list[Tensor]] = []
    room: list[tuple[int, int]] = []  # what is free and in which row, ascending
    for document in sorted(documents, key=len, reverse=True):
        at = bisect_left(room, (len(document), -1))
        if at == len(room):
            free, row = length, len(rows)
            rows.append([])
        else:
            free, row = room.pop(at)
        rows[row].append(document)
        if free > len(document):
            insort(room, (free - len(document), row))
    return rows


def _expect_documents(documents: Iterable[Any]) -> list[Tensor]:
    """Return documents as vectors of whole numbers."""
    tokens = []
    for number, document in enumerate(documents):
        ids = torch.as_tensor(document)
        if ids.numel() == 0:
            raise ValueError(
                f"A document needs one token at least; number {number} is empty. Leave it out."
            )
        if ids.ndim != 1 or ids.is_floating_point() or ids.is_complex():
            raise TypeError(
                "A document is a sequence of token ids; number "
                f"{number} has shape {tuple(ids.shape)} and type {ids.dtype}. Pass what the "
                "tokenizer calls input_ids, one list a document."
            )
        tokens.append(ids.long().cpu())
    if not tokens:
        raise ValueError("One document at least is needed; got none. Check the data set.")
    return tokens
