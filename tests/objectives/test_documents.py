import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import thalweg as tw

LISTS = [[5, 6, 7, 1], [8, 9], [4], [3, 2, 1]]


def documents_of(table):
    """Read the documents of a packed table back: each run of positions that has labels."""
    found = []
    for ids, places, labels in zip(*(t.tolist() for t in table.values()), strict=True):
        for token, place, label in zip(ids, places, labels, strict=True):
            if label == -100:
                continue
            assert token == label
            if place == 0:
                found.append([])
            assert len(found[-1]) == place
            found[-1].append(token)
    return sorted(found)


@pytest.mark.parametrize("side", ["right", "left"])
def test_padding(side):
    table = tw.padded(LISTS, side=side, pad=11)
    fill = {"right": lambda d, x: [*d, *x], "left": lambda d, x: [*x, *d]}[side]
    lacks = [4 - len(document) for document in LISTS]
    pairs = list(zip(LISTS, lacks, strict=True))
    assert table["input_ids"].tolist() == [fill(d, [11] * n) for d, n in pairs]
    assert table["attention_mask"].tolist() == [fill([1] * len(d), [0] * n) for d, n in pairs]


@given(st.lists(st.lists(st.integers(1, 50), min_size=1, max_size=9), min_size=1, max_size=40))
def test_packing_keeps_every_document_whole_and_wastes_little(documents):
    length = 9
    table = tw.packed(documents, length)
    assert documents_of(table) == sorted(documents)
    rows, tokens = len(table["input_ids"]), sum(map(len, documents))
    assert {tuple(t.shape) for t in table.values()} == {(rows, length)}
    # Best fit never leaves two rows that would fit into one.
    filled = (table["labels"] != -100).sum(1)
    assert rows == 1 or int(filled.sort().values[:2].sum()) > length
    assert rows <= max(1, 2 * tokens // length)


def test_the_same_documents_in_another_order_are_packed_alike():
    one, other = tw.packed(LISTS, 5), tw.packed(LISTS[::-1], 5)
    assert documents_of(one) == documents_of(other)
    assert one["input_ids"].shape == other["input_ids"].shape == (2, 5)


def test_lists_arrays_and_tensors_are_documents():
    kinds = [LISTS, [np.array(d, dtype=np.int32) for d in LISTS], map(torch.tensor, LISTS)]
    tables = [tw.packed(kind, 6) for kind in kinds]
    assert all(torch.equal(t["input_ids"], tables[0]["input_ids"]) for t in tables)
    assert {t.dtype for table in tables for t in table.values()} == {torch.long}


@pytest.mark.parametrize("make", [tw.padded, lambda documents: tw.packed(documents, 8)])
@pytest.mark.parametrize(
    ("documents", "error", "message"),
    [
        ([], ValueError, r"One document at least is needed; got none. Check"),
        ([[1], []], ValueError, r"one token at least; number 1 is empty. Leave it out"),
        ([[1.5]], TypeError, r"token ids; number 0 has shape \(1,\) and type torch.float32. Pass"),
        ([[[1, 2]]], TypeError, r"number 0 has shape \(1, 2\) and type torch.int64"),
        ([3], TypeError, r"number 0 has shape \(\)"),
    ],
)
def test_what_is_no_document(make, documents, error, message):
    with pytest.raises(error, match=message):
        make(documents)


def test_a_row_holds_the_longest_document():
    with pytest.raises(ValueError, match=r"longest document, 4 tokens; got length=3. Make rows"):
        tw.packed(LISTS, 3)


def test_filling_goes_to_one_of_two_sides():
    with pytest.raises(ValueError, match=r"`side` is 'right' or 'left'; got 'both'. Leave it"):
        tw.padded(LISTS, side="both")
