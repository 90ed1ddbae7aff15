"""Streamed data gives the numbers of resident data, is never held, and never changes unseen."""

import contextlib
import hashlib
import weakref

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
)

import thalweg as tw
from cases import MODELS, classes, normal, seeded
from thalweg.errors import NonDeterministicObjectiveError
from thalweg.objectives import batches, sources, streaming
from thalweg.objectives.batches import read_splits
from thalweg.objectives.nested import examples_in, map_tensors, tensors_in
from thalweg.objectives.streaming import StreamedBatches, recut

X, Y = normal(23, 3, seed=1), classes(23, count=3, seed=2)
PAIRS = TensorDataset(X, Y)
LOSS = nn.CrossEntropyLoss()


class Items(Dataset):
    """A map-style data set made by a function of the index."""

    def __init__(self, item=lambda i: (X[i], Y[i]), count=23):
        self.item = item
        self.count = count
        self.reads = []

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        self.reads.append(index)
        return self.item(index)


class Flow(IterableDataset):
    """A stream made by a function."""

    def __init__(self, start=lambda: zip(X, Y, strict=True)):
        self.start = start

    def __iter__(self):
        return iter(self.start())


class Part(IterableDataset):
    """A stream that workers share."""

    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        return ((X[i], Y[i]) for i in range(first, len(X), step))


def streamed(data, batch_size=None, dtype=torch.float64):
    (split,) = read_splits(data, batch_size, torch.device("cpu"), dtype, True)
    assert split.streamed
    return split


def resident(data, batch_size=None, dtype=torch.float64):
    (split,) = read_splits(data, batch_size, torch.device("cpu"), dtype, False)
    assert not split.streamed
    return split


def same(first, second):
    pairs = zip(tensors_in(list(first)), tensors_in(list(second)), strict=True)
    return all(torch.equal(a, b) and a.dtype == b.dtype for a, b in pairs)


def shuffling(**options):
    return DataLoader(
        PAIRS, batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(8), **options
    )


SOURCES = {
    "tensors": lambda: (X, Y),
    "arrays": lambda: (X.numpy(), Y.numpy()),
    "one tensor": lambda: X,
    "a mapping": lambda: {"x": X, "labels": Y},
    "nested inputs": lambda: ((X, X[:, :2]), Y),
    "a tensor data set": lambda: PAIRS,
    "items": Items,
    "items of mappings": lambda: Items(lambda i: {"x": X[i], "labels": int(Y[i])}),
    "a loader": lambda: DataLoader(PAIRS, batch_size=4),
    "a loader that drops": lambda: DataLoader(PAIRS, batch_size=4, drop_last=True),
    "a loader that shuffles": shuffling,
    "a loader of a subset": lambda: DataLoader(
        PAIRS,
        batch_size=4,
        sampler=SubsetRandomSampler([3, 1, 8, 5, 0], torch.Generator().manual_seed(9)),
    ),
    "a batch sampler": lambda: DataLoader(
        PAIRS,
        batch_sampler=BatchSampler(
            RandomSampler(PAIRS, generator=torch.Generator().manual_seed(9)), 4, False
        ),
    ),
    "ready batches": lambda: DataLoader(Items(lambda i: (X[i : i + 2], Y[i : i + 2])), None),
    "a stream": Flow,
    "a loader of a stream": lambda: DataLoader(Flow(), batch_size=5),
}


class TestBatches:
    @pytest.mark.parametrize("name", SOURCES)
    @pytest.mark.parametrize("batch_size", [None, 1, 3, 23, 99])
    def test_are_those_of_resident_data_in_every_pass(self, name, batch_size):
        right = resident(SOURCES[name](), batch_size, torch.float32)
        split = streamed(SOURCES[name](), batch_size, torch.float32)
        for _ in range(3):
            assert same(split.batches, right.batches)
        assert len(split.batches) == len(right.batches)
        assert split.lengths == right.lengths
        assert split.examples == right.examples
        assert split.sha256 == right.sha256
        assert split.uniform == right.uniform
        assert same([split.head(2)], [right.head(2)])

    @pytest.mark.parametrize(
        "name", ["a loader that shuffles", "a loader of a subset", "a batch sampler"]
    )
    def test_of_a_shuffle_are_those_that_the_loader_gives_first(self, name):
        assert same(streamed(SOURCES[name]()).batches, SOURCES[name]())
        assert same(resident(SOURCES[name]()).batches, SOURCES[name]())

    def test_of_a_shuffle_of_ready_batches(self):
        def loader():
            ready = Items(lambda i: (X[i : i + 2], Y[i : i + 2]), 12)
            return DataLoader(
                ready, batch_size=None, shuffle=True, generator=torch.Generator().manual_seed(3)
            )

        split = streamed(loader())
        assert same(split.batches, loader())
        assert same(split.batches, loader())

    @pytest.mark.parametrize("data", [DataLoader(PAIRS, batch_size=3), DataLoader(Part(), 3)])
    def test_of_workers(self, data):
        plain = streamed(data)
        fast = streamed(
            DataLoader(data.dataset, batch_size=3, num_workers=2)
            if not isinstance(data.dataset, Part)
            else DataLoader(Part(), batch_size=3, num_workers=2)
        )
        assert fast.examples == plain.examples == 23
        first, again = ([x for x, _ in fast.batches] for _ in range(2))
        assert same(first, again)
        rows = {tuple(row.tolist()) for x in first for row in x}
        assert rows == {tuple(row.tolist()) for row in X}

    def test_of_many_lengths(self):
        def collate(items):
            x = nn.utils.rnn.pad_sequence([x[: 1 + int(y)] for x, y in items], batch_first=True)
            return {"x": x, "labels": torch.stack([y for _, y in items]), "return_dict": True}

        def loader():
            return DataLoader(PAIRS, batch_size=2, collate_fn=collate)

        split, right = streamed(loader()), resident(loader())
        assert not split.uniform
        assert right.whole is None
        assert split.sha256 == right.sha256
        assert all(batch["return_dict"] is True for batch in split.batches)
        assert same(split.batches, right.batches)
        with pytest.raises(ValueError, match=r"`batch_size` cannot re-cut the batches of 'train'"):
            streamed(loader(), 3)

    def test_empty_ones_are_left_out(self):
        parts = [(X[:4], Y[:4]), (X[:0], Y[:0]), (X[4:], Y[4:])]
        loader = DataLoader(Items(parts.__getitem__, 3), batch_size=None)
        assert streamed(loader).lengths == (4, 19)

    def test_of_arrays_on_disk(self, tmp_path):
        table = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (23, 3))
        table[:] = X.numpy()
        table.flush()
        table = np.load(tmp_path / "x.npy", mmap_mode="r")
        split = streamed((table, Y.numpy()), 4)
        assert same(split.batches, resident((X.float(), Y), 4).batches)
        assert not np.shares_memory(next(iter(split.batches))[0].numpy(), table)

    def test_are_read_at_once_where_the_data_set_can_do_that(self):
        class Whole(Items):
            def __getitems__(self, indices):
                return [(X[i], Y[i]) for i in indices]

        data = Whole()
        list(streamed(data, 4).batches)
        assert set(data.reads) < set(range(23))  # those that were looked at twice, and no more

    def test_cannot_be_of_one_example_under_the_batch_policy(self):
        model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
        with pytest.raises(ValueError, match=r"needs two examples a batch at least.*batch of one"):
            tw.ModelObjective(model, LOSS, (X, Y), batch_size=11, batch_norm="batch", stream=True)

    @pytest.mark.parametrize(
        ("make", "error", "message"),
        [
            (lambda: (X[:0], Y[:0]), ValueError, r"one example at least; 'train' has none"),
            (lambda: Flow(list), ValueError, r"one example at least; 'train' has none"),
            (lambda: Items(None, 0), ValueError, r"one example at least; 'train' has none"),
            (lambda: (X, Y[:3]), ValueError, r"must have one length.*got \[3, 23\]"),
            (lambda: 3, TypeError, r"Data is a tensor.*'train' is a int"),
            (lambda: ("a", "b"), TypeError, r"must hold tensors; split 'train' gives tuple"),
            (lambda: Items(lambda i: "text"), TypeError, r"must hold tensors; split 'train'"),
            (
                lambda: Items(lambda i: (X[i], "word" * (i + 1))),
                TypeError,
                r"only constants that every batch shares.*Turn it into tensors",
            ),
            (
                lambda: DataLoader(
                    Flow(), 4, collate_fn=lambda items: (*default_collate(items), id(items))
                ),
                TypeError,
                r"only constants that every batch shares",
            ),
        ],
    )
    def test_of_what_is_no_data(self, make, error, message):
        with pytest.raises(error, match=message):
            streamed(make(), 4)

    def test_stream_is_yes_no_or_nothing(self):
        with pytest.raises(TypeError, match=r"`stream` is True, False or None; got 'yes'"):
            read_splits((X, Y), 4, torch.device("cpu"), torch.float64, "yes")


class TestChecksum:
    @pytest.mark.parametrize("held", [0, 100, 1 << 20])
    def test_is_that_of_columns_one_after_the_other(self, monkeypatch, held):
        monkeypatch.setattr(streaming, "_HELD_BYTES", held)
        columns = (X, Y, X[:, :1], Y.double())
        right = hashlib.sha256(b"".join(c.numpy().tobytes() for c in columns)).hexdigest()
        split = streamed(columns, 4)
        assert split.sha256 == right
        # What cannot be held is read once more: all later columns, three, one or none.
        assert split.batches.passes == {0: 4, 100: 4, 1 << 20: 1}[held]

    def test_changes_with_one_bit(self):
        other = X.clone()
        other[17, 1] = np.nextafter(float(other[17, 1]), np.inf)
        assert streamed((other, Y)).sha256 != streamed((X, Y)).sha256


class TestRecut:
    @pytest.mark.parametrize("size", [1, 2, 4, 7, 23, 40])
    @pytest.mark.parametrize("lengths", [[23], [1] * 23, [10, 10, 3], [2, 20, 1], [5, 0, 18]])
    def test_gives_the_same_examples(self, size, lengths):
        parts = list(zip(X.split(lengths), Y.split(lengths), strict=True))
        found = list(recut(parts, size))
        assert torch.equal(torch.cat([x for x, _ in found]), X)
        assert torch.equal(torch.cat([y for _, y in found]), Y)
        assert [len(y) for _, y in found[:-1]] == [size] * (len(found) - 1)
        assert 0 < len(found[-1][0]) <= size


class TestHeld:
    """What a pass has in memory at any time."""

    @pytest.fixture
    def ledger(self):
        class Ledger:
            alive, most, read = 0, 0, 0

            def hand_out(self, tensor):
                size = tensor.nbytes
                self.alive += size
                self.read += 1
                self.most = max(self.most, self.alive)
                weakref.finalize(tensor, self.forget, size)
                return tensor

            def forget(self, size):
                self.alive -= size

        return Ledger()

    @pytest.mark.parametrize("batch_size", [None, 7])
    def test_is_few_batches(self, ledger, batch_size):
        def ready(index):
            x = ledger.hand_out(torch.full((4, 1000), float(index)))
            return x, torch.full((4,), index % 3)

        loader = DataLoader(Items(ready, 50), batch_size=None)
        split = streamed(loader, batch_size, torch.float32)
        assert ledger.read >= 50
        for batch in split.batches:
            assert examples_in(batch) in (4, 7)
            del batch
        one = 4 * 1000 * 4
        assert ledger.most <= 4 * one
        assert ledger.alive == 0
        assert ledger.read > 100

    def test_is_nothing_after_a_pass_that_was_broken_off(self, ledger):
        loader = DataLoader(
            Items(lambda i: (ledger.hand_out(torch.zeros(4, 10) + i), Y[:4]), 20), batch_size=None
        )
        split = streamed(loader, dtype=torch.float32)
        for number, batch in enumerate(split.batches):
            del batch
            if number == 3:
                break
        assert ledger.alive == 0


# --- the same data in each pass -------------------------------------------------------------


def noise(scale=1e-3):
    return scale * torch.rand(3)


def unlucky(index):
    """Return an item that changes, and is not among those that are looked at twice."""
    return (X[index] + (noise() if index == 3 else 0), Y[index])


class Growing:
    """A stream that is longer, or shorter, every time."""

    def __init__(self, step):
        self.count = 12
        self.step = step

    def __call__(self):
        self.count += self.step
        return zip(X[: self.count], Y[: self.count], strict=True)


ONCE = iter(zip(X, Y, strict=True))
OTHER = {
    "shuffling with drop_last": (
        lambda: shuffling(drop_last=True),
        r"batch 0 is another one. It shuffles and drops the last batch.*Set drop_last=False",
    ),
    "a batch sampler that drops": (
        lambda: DataLoader(
            PAIRS, batch_sampler=BatchSampler(RandomSampler(PAIRS), 4, drop_last=True)
        ),
        r"It shuffles and drops the last batch",
    ),
    "a weighted sampler": (
        lambda: DataLoader(
            PAIRS, batch_size=4, sampler=WeightedRandomSampler(torch.arange(1.0, 24.0), 23)
        ),
        r"batch 0 is another one. Its sampler draws other examples.*Use shuffle=False",
    ),
    "sampling with replacement": (
        lambda: DataLoader(PAIRS, batch_size=4, sampler=RandomSampler(PAIRS, replacement=True)),
        r"Its sampler draws other examples",
    ),
    "augmentation of one item": (
        lambda: Items(unlucky),
        r"batch 0 is another one. Its items change from one reading to the next",
    ),
    "augmentation in a loader": (
        lambda: DataLoader(Items(unlucky), batch_size=4),
        r"Its sampler draws other examples, its transforms are random, or a file",
    ),
    "a random stream": (
        lambda: Flow(lambda: zip(torch.rand(8, 3), Y, strict=False)),
        r"batch 0 is another one. It draws at random, ends for good.*with a fixed seed",
    ),
    "a stream in random order by NumPy": (
        lambda: Flow(lambda: ((X[i], Y[i]) for i in np.random.permutation(23))),  # noqa: NPY002
        r"batch 0 is another one. It draws at random",
    ),
    "a stream that ends for good": (
        lambda: Flow(lambda: ONCE),
        r"it ends after 0 of 6 batches. It draws at random, ends for good",
    ),
    "a stream that grows": (lambda: Flow(Growing(4)), r"it goes on after 4 batches"),
    "a stream that shrinks": (lambda: Flow(Growing(-4)), r"it ends after 1 of 2 batches"),
}


class TestChangingData:
    @pytest.mark.parametrize("name", OTHER)
    def test_is_refused_in_the_second_pass(self, name):
        make, message = OTHER[name]
        with torch.random.fork_rng():
            torch.manual_seed(4)
            data = make()
            if isinstance(data, Flow):
                data = DataLoader(data, batch_size=4)
            split = streamed(data, None if isinstance(data, DataLoader) else 4)
            with pytest.raises(
                NonDeterministicObjectiveError,
                match=r"same examples in the same order; a later pass over 'train'.*" + message,
            ):
                list(split.batches)

    def test_written_to_by_the_user(self):
        x = X.clone()
        objective = tw.ModelObjective(nn.Linear(3, 3).double(), LOSS, (x, Y), stream=True)
        theta = normal(12, seed=3)
        before = objective.value(theta)
        x[20, 1] += 1e-9
        with pytest.raises(
            NonDeterministicObjectiveError, match=r"batch 0 is another.*written to since.*alone"
        ):
            objective.value(theta)
        x[20, 1] = X[20, 1]
        assert objective.value(theta) == before

    def test_of_swapped_labels(self):
        """The bytes are the same, the examples are not."""
        y = Y.clone()
        split = streamed((X, y), 4)
        y[[0, 1, 2, 3]] = Y[[1, 2, 3, 0]]
        assert not torch.equal(y, Y)
        with pytest.raises(NonDeterministicObjectiveError, match=r"batch 0 is another one"):
            list(split.batches)

    def test_of_another_shape(self):
        shapes = [(2, 6), (3, 4)]
        data = DataLoader(Flow(lambda: iter([torch.arange(12.0).view(shapes[0])])), batch_size=None)
        split = streamed(data)
        shapes.reverse()
        with pytest.raises(NonDeterministicObjectiveError, match=r"batch 0 is another one"):
            list(split.batches)

    def test_of_items_that_were_looked_at_twice(self):
        with pytest.raises(NonDeterministicObjectiveError, match=r"item 0 of 'train' changes"):
            streamed(Items(lambda i: (X[i] + noise(), Y[i])))

    def test_is_seen_by_the_check_of_an_objective(self):
        x = X.clone()
        objective = tw.ModelObjective(
            nn.Linear(3, 3).double(), LOSS, Items(lambda i: (x[i], Y[i])), batch_size=4, stream=True
        )
        x[22] += 1
        with pytest.raises(NonDeterministicObjectiveError, match=r"batch 5 is another one"):
            objective.check(normal(12, seed=3))

    @pytest.mark.parametrize("settings", [{}, {"num_workers": 1, "persistent_workers": True}])
    def test_a_shuffled_order_is_drawn_once(self, settings):
        data = DataLoader(PAIRS, batch_size=4, shuffle=True, **settings)
        with torch.random.fork_rng():
            torch.manual_seed(5)
            split = streamed(data)
            first = list(split.batches)
            torch.rand(17)
            assert same(first, split.batches)
            assert not same(first, streamed(data).batches)
            next(iter(data))
            assert same(first, split.batches)

    @pytest.mark.parametrize("name", ["a loader that shuffles", "a batch sampler"])
    def test_a_users_generators_are_put_back(self, name):
        loader = SOURCES[name]()
        drawer = loader.batch_sampler.sampler
        for _ in range(2):
            next(iter(loader))  # the user goes on with it
        state, everywhere = drawer.generator.get_state(), torch.get_rng_state()
        split = streamed(loader)
        list(split.batches)
        next(iter(split.batches))
        list(split.batches.spread(2, 1))
        assert torch.equal(state, drawer.generator.get_state())
        assert torch.equal(everywhere, torch.get_rng_state())

    def test_the_global_generators_are_put_back(self):
        split = streamed(Flow())
        torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1]  # noqa: NPY002
        list(split.batches)
        assert torch.equal(torch_state, torch.get_rng_state())
        assert np.array_equal(numpy_state, np.random.get_state()[1])  # noqa: NPY002


class TestFailingData:
    def test_says_that_it_is_the_data(self):
        broken = []

        def item(index):
            if index in broken:
                raise OSError("disk on fire\nand more")
            return X[index], Y[index]

        data = Items(item)
        split = streamed(data, 4)
        broken.append(9)
        with pytest.raises(
            RuntimeError,
            match=r"reading batch 2 of split 'train' failed in the data set itself "
            r"\(OSError: disk on fire\)\. Repair the data set",
        ) as caught:
            list(split.batches)
        assert isinstance(caught.value.__cause__, OSError)
        with pytest.raises(RuntimeError, match=r"reading 1 examples from number 9 on of split"):
            split.batches.pick([9])
        broken.clear()
        assert same(split.batches, resident((X, Y), 4).batches)

    def test_in_the_first_pass(self):
        def start():
            yield X[0], Y[0]
            raise KeyError("lost")

        with pytest.raises(RuntimeError, match=r"reading the first batch of split 'b' failed"):
            read_splits({"b": Flow(start)}, 4, torch.device("cpu"), torch.float32, True)

    def test_in_a_worker(self):
        class Bad(Dataset):
            def __len__(self):
                return 40

            def __getitem__(self, index):
                if index == 6:
                    raise ValueError("six")
                return X[index % 23], Y[index % 23]

        with pytest.raises(RuntimeError, match=r"batch 3 of split 'train' failed .*ValueError"):
            streamed(DataLoader(Bad(), batch_size=2, num_workers=1))


class TestPicking:
    @pytest.mark.parametrize(
        "name",
        ["tensors", "arrays", "items", "a loader", "a loader that shuffles", "a batch sampler"],
    )
    def test_gives_the_examples_at_places_of_a_pass(self, name):
        split = streamed(SOURCES[name](), 4)
        places = [20, 0, 7, 13]
        assert split.batches.pickable
        x, y = split.batches.pick(places)
        whole = [torch.cat(column) for column in zip(*split.batches, strict=True)]
        assert torch.equal(x, whole[0][places])
        assert torch.equal(y, whole[1][places])

    @pytest.mark.parametrize("name", ["a stream", "a loader of a stream", "ready batches"])
    def test_is_not_possible_everywhere(self, name):
        assert not streamed(SOURCES[name]()).batches.pickable

    @pytest.mark.parametrize("name", SOURCES)
    def test_a_spread_is_of_the_batches(self, name):
        split = streamed(SOURCES[name](), None)
        passes = split.batches.passes
        right = list(split.batches)
        found = list(split.spread(3, 2))
        assert 1 <= len(found) <= 3
        for index, batch in found:
            assert same([batch], [map_tensors(lambda t: t[:2], right[index])])
        picked = split.batches._source.picker is not None
        assert split.batches.passes == passes + (1 if picked else 2)
        if picked and len(right) >= 3:
            assert found[-1][0] >= len(right) // 2  # evenly spread
        else:
            assert [index for index, _ in found] == list(range(len(found)))


# --- when ------------------------------------------------------------------------------------


def free(monkeypatch, amount):
    monkeypatch.setattr(batches, "free_memory", lambda device: amount)


SIZE = X.nbytes + Y.nbytes  # 23 times 32 bytes


class TestDecision:
    @pytest.mark.parametrize("name", SOURCES)
    def test_follows_from_the_memory_that_is_free(self, monkeypatch, name):
        (split,) = read_splits(SOURCES[name](), 4, torch.device("cpu"), torch.float64)
        assert not split.streamed
        free(monkeypatch, 300)
        (split,) = read_splits(SOURCES[name](), 4, torch.device("cpu"), torch.float64)
        assert split.streamed
        assert "40% of the free memory" in split.batches.why

    @pytest.mark.parametrize("room", [SIZE - 1, SIZE])
    def test_at_the_limit(self, monkeypatch, room):
        free(monkeypatch, room / batches._RESIDENT_SHARE)
        for make in (lambda: (X, Y), Items, lambda: DataLoader(PAIRS, 4), Flow):
            (split,) = read_splits(make(), None, torch.device("cpu"), torch.float64)
            assert split.streamed == (room < SIZE)

    def test_counts_what_is_kept_after_the_cast(self):
        data = (X, Y, X.half(), X.numpy() > 0)
        assert sources.estimated_bytes(data, torch.float32) == 23 * (12 + 8 + 12 + 3)
        items = Items(lambda i: {"x": X[i].numpy(), "y": 3, "t": ["word", 1.5]})
        assert sources.estimated_bytes(items, torch.float32) == 23 * (12 + 8 + 8)
        assert sources.estimated_bytes(PAIRS, torch.float64) == SIZE
        assert sources.estimated_bytes(DataLoader(PAIRS, 4), torch.float64) == SIZE
        subset = DataLoader(PAIRS, 4, sampler=SubsetRandomSampler([1, 2]))
        assert sources.estimated_bytes(subset, torch.float64) == 2 * 32

    @pytest.mark.parametrize(
        "data", [Flow(), DataLoader(Flow(), 4), Items(lambda i: "text"), Items(None, 0), "no data"]
    )
    def test_is_open_where_nothing_tells(self, data):
        assert sources.estimated_bytes(data, torch.float32) is None

    def test_a_stream_that_proves_too_long_is_not_held(self, monkeypatch):
        free(monkeypatch, 1000)
        read = []

        def start():
            for i in range(23):
                read.append(i)
                yield X[i], Y[i]

        (split,) = read_splits(Flow(start), 4, torch.device("cpu"), torch.float64)
        assert split.streamed
        # Given up after the batch that was too much: 400 bytes are room for three of 128.
        assert read == [*range(16), *range(23)]

    def test_is_of_each_split(self, monkeypatch):
        free(monkeypatch, 2 * SIZE)
        data = {"train": (X, Y), "valid": (X[:5], Y[:5])}
        objective = tw.ModelObjective(nn.Linear(3, 3).double(), LOSS, data)
        assert [split.streamed for split in objective.splits] == [True, False]
        told = objective.describe()["splits"]
        assert [told[name]["streamed"] for name in data] == [True, False]
        right = tw.ModelObjective(nn.Linear(3, 3).double(), LOSS, data, stream=False)
        theta = normal(12, seed=1)
        assert objective.evaluate(theta) == right.evaluate(theta)

    def test_unknown_memory_is_enough(self, monkeypatch):
        free(monkeypatch, None)
        (split,) = read_splits((X, Y), 4, torch.device("cpu"), torch.float64)
        assert not split.streamed


# --- the same numbers ------------------------------------------------------------------------


def metrics():
    return {"again": LOSS, "error": tw.error_rate}


class TestNumbers:
    @pytest.mark.parametrize("name", MODELS)
    @pytest.mark.parametrize("batch_size", [None, 1, 4])
    def test_are_those_of_resident_data(self, name, batch_size):
        case = MODELS[name]
        right = case.objective(batch_size=batch_size, stream=False)
        objective = case.objective(batch_size=batch_size, stream=True)
        theta, vector = case.point(), case.point(3)
        objective.check(theta)
        assert objective.evaluate(theta) == right.evaluate(theta)
        assert objective.value(theta) == right.value(theta)
        assert torch.equal(objective.gradient(theta), right.gradient(theta))
        assert torch.equal(objective.hvp(theta, vector), right.hvp(theta, vector))

    @pytest.mark.parametrize("name", SOURCES)
    def test_of_every_kind_of_data(self, name):
        if name in ("one tensor", "a mapping", "items of mappings", "nested inputs"):
            pytest.skip("the model below takes a table and labels")
        settings = {"metrics": metrics(), "penalty": lambda t: 0.1 * t["0.weight"].square().sum()}
        right, objective = (
            tw.ModelObjective(
                seeded(lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)), 1),
                LOSS,
                {"train": SOURCES[name](), "valid": (X[:9], Y[:9])},
                stream=stream,
                **settings,
            )
            for stream in (False, True)
        )
        theta = normal(objective.space.size, seed=4)
        assert objective.evaluate(theta) == right.evaluate(theta)

    @pytest.mark.parametrize("policy", ["recalibrate", "interpolate", "stored", "batch"])
    def test_of_every_policy(self, policy):
        def build():
            return nn.Sequential(
                nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 4), nn.BatchNorm1d(4)
            )

        right, objective = (
            tw.ModelObjective(
                seeded(build, 1), LOSS, (X, Y), batch_norm=policy, batch_size=6, stream=stream
            )
            for stream in (False, True)
        )
        theta = objective.space.flatten(seeded(build, 2))
        found, expected = objective.value(theta), right.value(theta)
        # Moments of parts are merged where the data cannot be one batch: rounding differs.
        assert found == pytest.approx(expected, rel=1e-13 if policy == "recalibrate" else 0)

    def test_of_dropout(self):
        def build():
            return nn.Sequential(nn.Linear(3, 6), nn.Dropout(0.4), nn.Linear(6, 3))

        right, objective = (
            tw.ModelObjective(
                seeded(build, 1),
                LOSS,
                {"train": (X, Y), "valid": Items()},
                dropout=tw.MonteCarlo(3, seed=2),
                batch_size=5,
                stream=stream,
            )
            for stream in (False, True)
        )
        theta = objective.space.flatten(seeded(build, 2))
        passes = objective.splits[0].batches.passes
        assert objective.evaluate(theta) == right.evaluate(theta)
        assert objective.splits[0].batches.passes == passes + 1  # one reading serves all masks
        assert torch.equal(objective.gradient(theta), right.gradient(theta))

    @pytest.mark.parametrize("padded", [False, True])
    def test_of_a_models_own_loss(self, padded):
        class Tagger(nn.Module):
            def __init__(self):
                super().__init__()
                self.embedding, self.head = nn.Embedding(5, 4), nn.Linear(4, 5)

            def forward(self, tokens, labels):
                scores = self.head(self.embedding(tokens).tanh())
                return {"loss": nn.functional.cross_entropy(scores.movedim(-1, 1), labels)}

        tokens, labels = classes(20, 6, count=5, seed=7), classes(20, 6, count=5, seed=8)
        labels[torch.arange(20) % 3 == 0, 2:] = -100

        def collate(items):
            length = max(int((item["labels"] != -100).sum()) for item in items) if padded else 6
            return {k: torch.stack([item[k][:length] for item in items]) for k in items[0]}

        def loader():
            rows = Items(lambda i: {"tokens": tokens[i], "labels": labels[i]}, 20)
            return DataLoader(rows, batch_size=3, collate_fn=collate)

        right, objective = (
            tw.ModelObjective(seeded(Tagger, 1), None, loader(), stream=stream)
            for stream in (False, True)
        )
        theta = objective.space.flatten(seeded(Tagger, 2))
        assert objective.value(theta) == right.value(theta)
        counted = labels != -100
        with torch.no_grad():
            scores = seeded(Tagger, 2).head(seeded(Tagger, 2).embedding(tokens).tanh())
            terms = nn.functional.cross_entropy(scores[counted], labels[counted])
        assert objective.value(theta) == pytest.approx(float(terms), rel=1e-12)

    def test_single_examples_are_tried_together(self):
        """A model's own mean cannot be told from a sum by batches of one."""

        class Own(nn.Module):
            def __init__(self):
                super().__init__()
                self.head = nn.Linear(3, 3)

            def forward(self, x, labels):
                return {"loss": nn.functional.cross_entropy(self.head(x), labels)}

        data = {"x": X, "labels": Y}
        right, objective = (
            tw.ModelObjective(seeded(Own, 1), None, data, batch_size=1, stream=stream)
            for stream in (False, True)
        )
        theta = normal(12, seed=2)
        assert objective.value(theta) == right.value(theta)

    def test_of_half_precision(self):
        right, objective = (
            tw.ModelObjective(
                nn.Linear(3, 3), nn.MSELoss(), (X, X), dtype=torch.bfloat16, stream=stream
            )
            for stream in (False, True)
        )
        theta = normal(12, seed=2)
        assert objective.value(theta) == right.value(theta)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_batches_are_moved_to_a_device():
    split = next(iter(read_splits((X, Y), 4, torch.device("cuda"), torch.float32, True)))
    right = resident((X, Y), 4, torch.float32)
    for _ in range(2):
        found = [map_tensors(torch.Tensor.cpu, batch) for batch in split.batches]
        assert same(found, right.batches)
    assert split.head(3)[0].is_cuda


def test_a_pass_that_was_refused_leaves_the_generators_alone():
    generator = torch.Generator().manual_seed(7)
    loader = DataLoader(
        PAIRS, batch_size=4, sampler=RandomSampler(PAIRS, replacement=True, generator=generator)
    )
    split = streamed(loader)
    state = generator.get_state()
    with contextlib.suppress(NonDeterministicObjectiveError):
        list(split.batches)
    assert torch.equal(state, generator.get_state())
    assert isinstance(split.batches, StreamedBatches)
