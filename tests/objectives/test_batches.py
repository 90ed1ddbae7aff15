import contextlib
import hashlib
from collections import namedtuple

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
)

from cases import classes, normal
from thalweg.errors import NonDeterministicObjectiveError
from thalweg.objectives.batches import examples_in, map_tensors, narrow, read_splits
from thalweg.objectives.nested import few_of
from thalweg.objectives.random_state import preserved_random_state

X, Y = normal(10, 3, seed=1), classes(10, count=3, seed=2)
PAIRS = TensorDataset(X, Y)
Row = namedtuple("Row", "inputs label")


def read(data, batch_size=None, dtype=torch.float64):
    with preserved_random_state():  # loaders without a generator draw from the global one
        torch.manual_seed(6)
        (split,) = read_splits(data, batch_size, torch.device("cpu"), dtype)
    return split


class Items(Dataset):
    """A map-style data set made by a function of the index."""

    def __init__(self, item, count=10):
        self.item = item
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return self.item(index)


class Numbers(IterableDataset):
    """A stream made by a function."""

    def __init__(self, stream):
        self.stream = stream

    def __iter__(self):
        return self.stream()


# --- reading --------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 3, 5, 10, 99, None])
def test_batches_are_all_of_the_examples_in_order(batch_size):
    split = read((X, Y), batch_size)
    assert split.examples == 10
    assert torch.equal(torch.cat([x for x, _ in split.batches]), X)
    assert torch.equal(torch.cat([y for _, y in split.batches]), Y)
    sizes = [len(x) for x, _ in split.batches]
    assert max(sizes) == min(batch_size or 1024, 10)
    assert all(size == sizes[0] for size in sizes[:-1])


def test_batches_are_views_of_the_whole():
    split = read((X, Y), 4)
    assert split.batches[1][0].data_ptr() == split.whole[0][4:].data_ptr()
    assert not np.shares_memory(split.whole[0].numpy(), X.numpy())


def test_a_loaders_batches_are_kept_unless_cut_again():
    loader = DataLoader(PAIRS, batch_size=4)
    assert [len(y) for _, y in read(loader).batches] == [4, 4, 2]
    assert [len(y) for _, y in read(loader, 3).batches] == [3, 3, 3, 1]


def test_a_dropped_batch_stays_dropped():
    split = read(DataLoader(PAIRS, batch_size=4, drop_last=True))
    assert split.examples == 8


def test_splits_keep_their_order_and_names():
    splits = read_splits({"b": (X, Y), "a": PAIRS}, None, torch.device("cpu"), torch.float64)
    assert [split.name for split in splits] == ["b", "a"]


def test_empty_batches_are_left_out():
    parts = [(X[:4], Y[:4]), (X[:0], Y[:0]), (X[4:], Y[4:])]
    split = read(DataLoader(Items(parts.__getitem__, 3), batch_size=None))
    assert [len(y) for _, y in split.batches] == [4, 6]


def test_named_tuples_and_tables_keep_their_kind():
    split = read(Items(lambda i: Row(X[i], Y[i])), 4)
    assert [len(batch.label) for batch in split.batches] == [4, 4, 2]
    split = read(Items(lambda i: {"x": X[i], "y": Y[i]}), 4)
    assert torch.equal(split.batches[1]["x"], X[4:8])


def test_constants_that_every_batch_shares_are_kept():
    def collate(items):
        x, y = default_collate(items)
        return {"x": x, "y": y, "return_dict": True, "mask": None}

    split = read(DataLoader(PAIRS, batch_size=4, collate_fn=collate), 3)
    assert all(b["return_dict"] is True and b["mask"] is None for b in split.batches)


def test_items_may_be_arrays_and_numbers():
    split = read(Items(lambda i: (X[i].numpy(), int(Y[i]))), 4)
    assert torch.equal(split.whole[1], Y)


# --- the checksum ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        (X, Y),
        PAIRS,
        Items(lambda i: (X[i], Y[i])),
        DataLoader(PAIRS, batch_size=3),
        (X.numpy(), Y.numpy()),
    ],
)
@pytest.mark.parametrize("batch_size", [None, 1, 4])
def test_checksum_is_that_of_the_examples_whatever_the_batches(data, batch_size):
    expected = hashlib.sha256(X.numpy().tobytes() + Y.numpy().tobytes()).hexdigest()
    assert read(data, batch_size, dtype=torch.float32).sha256 == expected


def test_checksum_changes_with_the_examples():
    other = Y.clone()
    other[7] = (other[7] + 1) % 3
    assert len({read(d).sha256 for d in ((X, Y), (X, other), (X.flip(0), Y.flip(0)))}) == 3


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float16, torch.bfloat16])
def test_checksum_of_any_type(dtype):
    assert len(read((X > 0).to(dtype)).sha256) == 64


# --- data that stays the same ---------------------------------------------------------------


def collate_rows(items):
    return default_collate(items)


SAME = {
    "in order": DataLoader(PAIRS, batch_size=4),
    "in order, dropping": DataLoader(PAIRS, batch_size=4, drop_last=True),
    "shuffled": DataLoader(PAIRS, batch_size=4, shuffle=True),
    "shuffled, nothing to drop": DataLoader(PAIRS, batch_size=5, shuffle=True, drop_last=True),
    "a subset in random order": DataLoader(
        PAIRS, batch_size=4, sampler=SubsetRandomSampler([1, 5, 7])
    ),
    "batch sampler": DataLoader(
        PAIRS, batch_sampler=BatchSampler(RandomSampler(PAIRS), 4, drop_last=False)
    ),
    "batch sampler in order": DataLoader(
        PAIRS, batch_sampler=BatchSampler(SequentialSampler(PAIRS), 4, drop_last=True)
    ),
    "collate function": DataLoader(PAIRS, batch_size=4, shuffle=True, collate_fn=collate_rows),
    "batches ready made": DataLoader(
        Items(lambda i: (X[i : i + 2], Y[i : i + 2])), batch_size=None
    ),
    "stream": DataLoader(Numbers(lambda: iter(zip(X, Y, strict=True))), batch_size=4),
}


@pytest.mark.parametrize("name", SAME)
def test_loaders_that_give_the_same_examples_are_accepted(name):
    assert read(SAME[name]).examples > 0


def drawn(noise):
    """Return items that a random transform changes at each reading."""
    return Items(lambda i: (X[i] + noise(), Y[i]))


SOURCE = torch.Generator().manual_seed(3)
NUMPY_SOURCE = np.random.default_rng(4)


def noisy_collate(items):
    x, y = default_collate(items)
    return x + torch.rand(1, generator=SOURCE), y


def random_stream():
    return iter(torch.rand(8, 2, generator=SOURCE))


OTHER = {
    "shuffling with drop_last": (
        DataLoader(PAIRS, batch_size=4, shuffle=True, drop_last=True),
        r"two passes over 'train' differ: it shuffles and drops .*Set drop_last=False",
    ),
    "batch sampler that drops": (
        DataLoader(PAIRS, batch_sampler=BatchSampler(RandomSampler(PAIRS), 4, drop_last=True)),
        r"it shuffles and drops the last batch.*Set drop_last=False",
    ),
    "weighted sampler": (
        DataLoader(PAIRS, batch_size=4, sampler=WeightedRandomSampler(torch.arange(1.0, 11.0), 10)),
        r"its sampler draws other examples.*Use shuffle=False",
    ),
    "sampling with replacement": (
        DataLoader(PAIRS, batch_size=4, sampler=RandomSampler(PAIRS, replacement=True)),
        r"its sampler draws other examples",
    ),
    "a random part": (
        DataLoader(PAIRS, batch_size=2, sampler=RandomSampler(PAIRS, num_samples=4)),
        r"its sampler draws other examples",
    ),
    "random augmentation": (
        drawn(lambda: torch.rand(3, generator=SOURCE)),
        r"item 0 of 'train' changes from one reading to the next.*Use the data set without",
    ),
    "random augmentation by NumPy, in a loader": (
        DataLoader(drawn(NUMPY_SOURCE.normal), batch_size=4),
        r"item 0 of 'train' changes",
    ),
    "random collation": (
        DataLoader(PAIRS, batch_size=4, collate_fn=noisy_collate),
        r"The same examples must make the same batch; the `collate_fn` of 'train'.*draws nothing",
    ),
    "random stream": (Numbers(random_stream), r"two passes over 'train' differ"),
    "stream that ends for good": (
        Numbers(iter(zip(X, Y, strict=True)).__iter__),
        r"two passes over 'train' differ",
    ),
}


@pytest.mark.parametrize("name", OTHER)
def test_data_that_changes_is_refused(name):
    data, message = OTHER[name]
    with pytest.raises(NonDeterministicObjectiveError, match=message):
        read(data)


@pytest.mark.parametrize(
    "make",
    [
        lambda g: DataLoader(PAIRS, batch_size=4, shuffle=True, generator=g),
        lambda g: DataLoader(PAIRS, batch_size=4, sampler=RandomSampler(PAIRS, generator=g)),
        lambda g: DataLoader(
            PAIRS, batch_sampler=BatchSampler(RandomSampler(PAIRS, generator=g), 4, False)
        ),
        lambda g: DataLoader(
            PAIRS, batch_size=4, sampler=WeightedRandomSampler(torch.ones(10), 10, generator=g)
        ),
    ],
)
def test_a_users_generator_is_put_back(make):
    source = torch.Generator().manual_seed(5)
    loader = make(source)
    next(iter(loader))
    state = source.get_state()
    with contextlib.suppress(NonDeterministicObjectiveError):
        read(loader)
    assert torch.equal(source.get_state(), state)


# --- what is refused ------------------------------------------------------------------------


def ragged(items):
    return torch.stack([x for x, _ in items]), torch.stack([y for _, y in items])


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ({}, ValueError, r"needs one split at least; got an empty mapping. Add 'train'"),
        ((X[:0], Y[:0]), ValueError, r"one example at least; 'train' has none. Check the data set"),
        (Items(None, 0), ValueError, r"one example at least; 'train' has none"),
        (DataLoader(PAIRS, batch_size=20, drop_last=True), ValueError, r"`drop_last`, which drops"),
        ((X, Y[:4]), ValueError, r"must have one length, .*got \[4, 10\]. Put the examples"),
        (3, TypeError, r"Data is a tensor.*'train' is a int. For tensors pass the tuple"),
        ([X, Y], TypeError, r"'train' is a list. For tensors pass the tuple `\(x, y\)`"),
        ({"train": (X, Y), "valid": "file"}, TypeError, r"'valid' is a str"),
        (Items(lambda i: "text"), TypeError, r"A batch must hold tensors; split 'train' gives"),
        (
            Items(lambda i: (X[i], "word" * i)),
            TypeError,
            r"only constants that every batch shares.*goes with its examples. Turn it into tensors",
        ),
        (
            DataLoader(
                Items(lambda i: (X[i], i), 4),
                batch_size=2,
                collate_fn=lambda items: (torch.stack([x for x, _ in items]), items[0][1]),
            ),
            TypeError,
            r"only constants that every batch shares; split 'train' gives 2, which goes with",
        ),
    ],
)
def test_what_is_no_data(data, error, message):
    with pytest.raises(error, match=message):
        read(data)


def test_a_batch_size_below_one():
    with pytest.raises(ValueError, match=r"`batch_size` must be 1 or more; got 0. Use 1024"):
        read((X, Y), 0)


def test_padded_batches_cannot_be_cut_again():
    parts = [(normal(2, n, seed=n), Y[:2]) for n in (3, 4)]
    loader = DataLoader(Items(parts.__getitem__, 2), batch_size=None)
    assert read(loader).whole is None
    with pytest.raises(ValueError, match=r"`batch_size` cannot re-cut.*Leave `batch_size` out"):
        read(loader, 3)


def test_a_number_beside_the_examples_keeps_the_batches_apart():
    def collate(items):
        return (*default_collate(items), torch.tensor(2.0 * len(items)))

    split = read(DataLoader(PAIRS, batch_size=4, collate_fn=collate))
    assert split.whole is None
    assert [float(batch[2]) for batch in split.batches] == [8, 8, 4]
    assert split.examples == 10


# --- nested batches -------------------------------------------------------------------------


def test_map_tensors_keeps_containers():
    batch = {"a": [X, (Y, None)], "b": Row(X, "text")}
    doubled = map_tensors(lambda t: 2 * t, batch)
    assert isinstance(doubled["a"], list)
    assert isinstance(doubled["a"][1], tuple)
    assert doubled["a"][1][1] is None
    assert type(doubled["b"]) is Row
    assert doubled["b"].label == "text"
    assert torch.equal(doubled["b"].inputs, 2 * X)


def test_narrow_cuts_what_has_one_entry_an_example():
    batch = {"x": X, "y": Y, "table": normal(4, 4), "scale": torch.tensor(2.0)}
    part = narrow(batch, 3, 7)
    assert torch.equal(part["x"], X[3:7])
    assert torch.equal(part["y"], Y[3:7])
    assert part["table"].shape == (4, 4)
    assert part["scale"].ndim == 0


def test_few_examples_are_fewer_where_they_are_sequences():
    tokens = classes(100, 30, count=9)
    for batch in ((tokens, tokens), {"x": tokens.int(), "scale": torch.tensor(2.0)}):
        assert examples_in(few_of(batch, 64, 300)) == 10
        assert examples_in(few_of(batch, 7, 300)) == 7
        assert examples_in(few_of(batch, 64, 31)) == 4
        assert examples_in(few_of(batch, 1000, 10_000)) == 100
    assert examples_in(few_of((X, Y), 8, 300)) == 8
    assert examples_in(few_of((tokens.to(torch.uint8), tokens[:, 0]), 64, 300)) == 64
    assert torch.equal(few_of((tokens, Y), 64, 300)[0], tokens[:10])


def test_examples_are_counted_by_the_first_tensor_that_has_any():
    assert examples_in((torch.tensor(1.0), X)) == 10
    assert examples_in({"a": None, "b": Y[:4]}) == 4
    assert examples_in(torch.tensor(1.0)) == 1
