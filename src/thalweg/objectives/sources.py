"""What a user may call data, as batches that can be read once or again and again.

Loaders are looked at before they are believed: some settings give other examples in each pass.
"""

import hashlib
import itertools
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    default_collate,
)

from thalweg.errors import NonDeterministicObjectiveError
from thalweg.objectives.nested import (
    Batch,
    as_tensors,
    examples_in,
    narrow,
    raw_bytes,
    rows_of,
    tensors_in,
)
from thalweg.objectives.random_state import preserved_generators, preserved_random_state

__all__ = ["Source", "TooLarge", "estimated_bytes", "is_tensor_mapping", "read_once", "source_of"]

_DEFAULT_BATCH = 1024  # measured: 512 to 2048 are equally fast on a CPU
_PROBED_ITEMS = 16

# What is likely behind a pass that gives other examples.
_WRITTEN = "Its tensors have been written to since, or the file behind them has. Leave them alone."
_CHANGING = (
    "Its items change from one reading to the next, as under random augmentation, or a file has "
    "changed. Use the data set without random transforms."
)
_DROPPING = (
    "It shuffles and drops the last batch, so each pass leaves out other examples. Set "
    "drop_last=False."
)
_DRAWING = (
    "Its sampler draws other examples, its transforms are random, or a file has changed. Use "
    "shuffle=False and a data set without augmentation."
)
_FLOWING = (
    "It draws at random, ends for good after one pass, or a file has changed. Let its `__iter__` "
    "start anew, with a fixed seed."
)


@dataclass(frozen=True)
class Source:
    """Where batches come from, again and again.

    Attributes:
        read: Starts a pass over the batches, as the user's data gives them.
        picker: Starts picking: returns a function from places in a pass to one batch of the
            examples there. None where examples come as they come.
        suspect: What is likely behind a pass that gives other examples, and what to do.
        generators: Generators of the user that a pass draws from.
    """

    read: Callable[[], Iterator[Batch]]
    picker: Callable[[], Callable[[Sequence[int]], Batch]] | None
    suspect: str
    generators: tuple[torch.Generator, ...] = ()


class TooLarge(Exception):  # noqa: N818 (no error: the data is streamed then)
    """The data takes more memory than it may."""


def source_of(data: Any, batch_size: int | None, name: str) -> Source:
    """Return where the batches of one split come from.

    Args:
        data: A tensor, array, or tuple or mapping of these; a Dataset or a DataLoader.
        batch_size: Examples a batch; None takes 1024. A DataLoader has a size of its own.
        name: Name of the split.

    Raises:
        TypeError: If it is no data.
        ValueError: If tensors differ in length.
        NonDeterministicObjectiveError: If single examples change when they are looked at again.
    """
    if isinstance(data, DataLoader):
        return _loader_source(data, name)
    size = batch_size or _DEFAULT_BATCH
    if isinstance(data, TensorDataset):
        data = data.tensors
    if _is_table(data):
        starts = range(0, _length(data, name), size)
        return Source(
            lambda: (rows_of(data, slice(start, start + size)) for start in starts),
            lambda: lambda places: rows_of(data, list(places)),
            _WRITTEN,
        )
    if isinstance(data, IterableDataset):
        return _loader_source(DataLoader(data, batch_size=size), name)
    if _is_map_style(data):
        _reject_random_items(data, name)
        runs = [range(at, min(at + size, len(data))) for at in range(0, len(data), size)]
        return Source(
            lambda: (default_collate(_fetched(data, run)) for run in runs),
            lambda: lambda places: default_collate(_fetched(data, places)),
            _CHANGING,
        )
    raise TypeError(
        "Data is a tensor, a tuple or mapping of tensors, a Dataset, a DataLoader, or a "
        f"mapping of split names to these; {name!r} is a {type(data).__name__}. "
        "For tensors pass the tuple `(x, y)`."
    )


def read_once(data: Any, batch_size: int | None, name: str, most: float) -> list[Batch]:
    """Return all batches of one split, after making sure that every pass would give them.

    Args:
        data: As for `source_of`.
        batch_size: As for `source_of`.
        name: Name of the split.
        most: Bytes that may be held.

    Raises:
        TooLarge: If that is not enough.
        NonDeterministicObjectiveError: If a second look at the data gives other examples.
    """
    if isinstance(data, IterableDataset):
        data = DataLoader(data, batch_size=batch_size or _DEFAULT_BATCH)
    source = source_of(data, batch_size, name)
    with preserved_generators(source.generators):
        batches = _gathered(source.read(), name, most)
        if isinstance(data, DataLoader) and not (_in_order(data) or _reshuffles(data)):
            again = (as_tensors(batch, name) for batch in source.read())
            if _fingerprints(batches) != _fingerprints(again):
                _refuse_loader(data, name)
        return batches


def _gathered(batches: Iterator[Batch], name: str, most: float) -> list[Batch]:
    """Return all batches that have any example, unless they take too much memory."""
    held, size = [], 0
    for raw in batches:
        batch = as_tensors(raw, name)
        size += sum(tensor.nbytes for tensor in tensors_in(batch))
        if size > most:
            raise TooLarge
        if examples_in(batch):
            held.append(batch)
    return held


def _refuse_loader(loader: DataLoader[Any], name: str) -> None:
    """Raise for a loader of which two passes differ."""
    cause = _drawn_by(loader)
    raise NonDeterministicObjectiveError(
        f"Every pass over the data must give the same examples; two passes over {name!r} "
        f"differ: {cause[0].lower()}{cause[1:]}"
    )


def _drawn_by(loader: DataLoader[Any]) -> str:
    """Say what is likely behind two passes of a loader that differ."""
    if isinstance(loader.dataset, IterableDataset):
        return _FLOWING
    shuffles = not isinstance(loader.sampler, SequentialSampler) or loader.batch_size is None
    drops = loader.drop_last or bool(getattr(loader.batch_sampler, "drop_last", False))
    return _DROPPING if drops and shuffles else _DRAWING


def estimated_bytes(data: Any, dtype: torch.dtype) -> int | None:
    """Estimate the memory that data takes from its first example; None where that tells nothing.

    Args:
        data: As for `source_of`.
        dtype: What floating-point tensors are cast to.
    """
    if isinstance(data, TensorDataset):
        data = data.tensors
    if _is_table(data):
        return _bytes_of(data, dtype)
    loader = data if isinstance(data, DataLoader) else None
    items: Any = data if loader is None else loader.dataset
    if not (_is_map_style(items) if loader is None else _is_indexed(items)) or len(items) == 0:
        return None
    # The sampler of a loader may give but a part; with a batch sampler it is not used.
    sampler: Any = None if loader is None else loader.sampler
    count = len(items if sampler is None else sampler)
    return _bytes_of(items[0], dtype) * count or None


def _bytes_of(value: Any, dtype: torch.dtype) -> int:
    """Return the bytes of tensors, arrays and numbers in a nested value, after the cast."""
    if isinstance(value, Tensor):
        floating = value.is_floating_point()
        return value.numel() * (dtype.itemsize if floating else value.element_size())
    if isinstance(value, np.ndarray):
        return value.size * (dtype.itemsize if value.dtype.kind == "f" else value.itemsize)
    if isinstance(value, Mapping):
        return sum(_bytes_of(part, dtype) for part in value.values())
    if isinstance(value, tuple | list):
        return sum(_bytes_of(part, dtype) for part in value)
    return 8 if isinstance(value, bool | int | float | np.generic) else 0


def _loader_source(loader: DataLoader[Any], name: str) -> Source:
    """Return the batches of a loader, after looking at single examples twice.

    One that shuffles is read in the order of one shuffle, so that every pass gives the same bits.
    """
    dataset, suspect = loader.dataset, _drawn_by(loader)
    drawers = (loader, loader.sampler, getattr(loader.batch_sampler, "sampler", None))
    drawn = {id(g): g for g in (getattr(drawer, "generator", None) for drawer in drawers)}
    generators = tuple(g for g in drawn.values() if isinstance(g, torch.Generator))
    if not _is_indexed(dataset):
        return Source(lambda: iter(loader), None, suspect, generators)
    with preserved_random_state(), preserved_generators(generators):
        _reject_random_items(dataset, name)
        _reject_random_collation(loader, name)
    order: Sequence[int] | None = None
    read = loader
    if _in_order(loader):
        order = range(len(dataset))  # type: ignore[arg-type]
    if _reshuffles(loader):
        with preserved_random_state(), preserved_generators(generators):
            runs = [array("q", run) for run in _indices(loader)]
        order, read = array("q", itertools.chain.from_iterable(runs)), _ordered(loader, runs)

    def picker() -> Callable[[Sequence[int]], Batch]:
        known = order
        if known is None:
            known = array("q", itertools.chain.from_iterable(_indices(loader)))
        return lambda places: loader.collate_fn(_fetched(dataset, [known[at] for at in places]))

    pickable = loader.batch_sampler is not None
    return Source(lambda: iter(read), picker if pickable else None, suspect, generators)


def _indices(loader: DataLoader[Any]) -> Iterable[Sequence[int]]:
    """Return the indices of each batch of a pass; what is drawn at random is drawn anew."""
    # A loader draws a number before its sampler does; so does one over the indices themselves.
    places: Any = range(len(loader.dataset))  # type: ignore[arg-type]
    cut: dict[str, Any] = {"batch_sampler": loader.batch_sampler, "collate_fn": list}
    if loader.batch_sampler is None:
        cut = {"batch_size": None, "sampler": loader.sampler, "collate_fn": lambda i: [i]}
    return DataLoader(places, generator=loader.generator, **cut)


def _ordered(loader: DataLoader[Any], runs: Sequence["array[int]"]) -> DataLoader[Any]:
    """Return a loader of the same batches in a fixed order."""
    cut: dict[str, Any] = {"batch_sampler": _Runs(runs)}
    if loader.batch_sampler is None:
        cut = {"batch_size": None, "sampler": [index for (index,) in runs]}
    return DataLoader(
        loader.dataset,
        **cut,
        collate_fn=loader.collate_fn,
        num_workers=loader.num_workers,
        prefetch_factor=loader.prefetch_factor,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
    )


@final
class _Runs:
    """The indices of each batch, as the lists that data sets expect, held as numbers."""

    def __init__(self, runs: Sequence["array[int]"]) -> None:
        self.runs = runs

    def __len__(self) -> int:
        return len(self.runs)

    def __iter__(self) -> Iterator[list[int]]:
        return (run.tolist() for run in self.runs)


def _in_order(loader: DataLoader[Any]) -> bool:
    """Tell whether a loader gives the examples of its data set from the first on."""
    standard = loader.batch_sampler is None or loader.batch_size is not None
    return standard and isinstance(loader.sampler, SequentialSampler)


def _reshuffles(loader: DataLoader[Any]) -> bool:
    """Tell whether each pass of a loader visits the same examples in another order."""
    if type(loader).__iter__ is not DataLoader.__iter__:
        return False  # it does as it likes
    standard = loader.batch_sampler is None or loader.batch_size is not None
    cut: Any = loader if standard else loader.batch_sampler
    if not _is_indexed(loader.dataset) or not (standard or type(cut) is BatchSampler):
        return False
    sampler = cut.sampler
    if type(sampler) is RandomSampler:
        same = not sampler.replacement and len(sampler) == len(loader.dataset)  # type: ignore[arg-type]
    else:
        same = type(sampler) is SubsetRandomSampler
    drops = cut.drop_last and cut.batch_size is not None and len(sampler) % cut.batch_size
    return same and not drops


def _fetched(dataset: Any, indices: Sequence[int]) -> list[Any]:
    """Return some items of a data set, at once where it can do that."""
    if callable(getattr(dataset, "__getitems__", None)):
        items: list[Any] = dataset.__getitems__(list(indices))
        return items
    return [dataset[index] for index in indices]


def _is_table(data: Any) -> bool:
    """Tell whether data is a tensor, or columns of tensors."""
    return isinstance(data, Tensor | np.ndarray | tuple) or is_tensor_mapping(data)


def _length(table: Any, name: str) -> int:
    """Return the number of examples of a table.

    Raises:
        TypeError: If it holds no tensors.
        ValueError: If they differ in length.
    """
    lengths = set(_lengths(table))
    if not lengths:
        as_tensors(table, name)
    if len(lengths) != 1:
        raise ValueError(
            f"The tensors of split {name!r} must have one length, the number of examples; "
            f"got {sorted(lengths)}. Put the examples along the first axis."
        )
    return lengths.pop()


def _lengths(table: Any) -> Iterator[int]:
    """Iterate over the lengths of the tensors and arrays of a table; a number has none."""
    if isinstance(table, Tensor | np.ndarray):
        yield table.shape[0] if table.ndim else 0
    elif isinstance(table, Mapping):
        yield from itertools.chain.from_iterable(map(_lengths, table.values()))
    elif isinstance(table, tuple | list):
        yield from itertools.chain.from_iterable(map(_lengths, table))


def _reject_random_items(dataset: Any, name: str) -> None:
    """Raise if reading an item twice gives two different items."""
    count = len(dataset)
    for index in sorted({int(i) for i in np.linspace(0, count - 1, min(count, _PROBED_ITEMS))}):
        first, again = _plain(dataset[index]), _plain(dataset[index])
        if first != again:
            raise NonDeterministicObjectiveError(
                "Every look at an example must give the same example; item "
                f"{index} of {name!r} changes from one reading to the next, as under random "
                "augmentation. Use the data set without random transforms."
            )


def _reject_random_collation(loader: DataLoader[Any], name: str) -> None:
    """Raise if putting the same items into a batch twice gives two different batches."""
    if loader.batch_sampler is None or loader.collate_fn is default_collate:
        return
    indices = next(iter(loader.batch_sampler), [])
    first, again = (
        _plain(loader.collate_fn([loader.dataset[i] for i in indices])) for _ in range(2)
    )
    if first != again:
        raise NonDeterministicObjectiveError(
            "The same examples must make the same batch; the `collate_fn` of "
            f"{name!r} makes two, as under random masking or mixing. Use one that draws nothing."
        )


def _is_map_style(data: Any) -> bool:
    """Tell whether something is a sequence of examples (but no plain list)."""
    return _is_indexed(data) and not isinstance(data, str | bytes | list | Mapping)


def _is_indexed(dataset: Any) -> bool:
    """Tell whether the data set of a loader is one of numbered items; that may be a list."""
    return (
        hasattr(dataset, "__getitem__")
        and hasattr(dataset, "__len__")
        and not isinstance(dataset, IterableDataset)
    )


def is_tensor_mapping(data: Any) -> bool:
    """Tell whether a mapping holds the columns of one split rather than several splits."""
    return (
        isinstance(data, Mapping)
        and bool(data)
        and all(isinstance(value, Tensor | np.ndarray) for value in data.values())
    )


def _fingerprints(batches: Iterable[Batch]) -> list[bytes]:
    """Return a sorted list with one digest an example, so that the order does not matter."""
    digests = []
    for batch in batches:
        for i in range(examples_in(batch)):
            example = b"".join(raw_bytes(t).tobytes() for t in tensors_in(narrow(batch, i, i + 1)))
            digests.append(hashlib.blake2b(example, digest_size=16).digest())
    return sorted(digests)


def _plain(item: Any) -> Any:
    """Return something comparable with == from an example of any structure."""
    if isinstance(item, Tensor):
        return (tuple(item.shape), raw_bytes(item).tobytes())
    if isinstance(item, np.ndarray):
        return (item.shape, item.tobytes())
    if isinstance(item, Mapping):
        return {key: _plain(value) for key, value in item.items()}
    if isinstance(item, tuple | list):
        return [_plain(value) for value in item]
    return item
