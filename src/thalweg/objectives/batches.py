"""Reading a data set once, checking that it stays the same, and keeping it in memory.

A split becomes a list of batches of tensors on the objective's device. What peers get wrong
here decides the cost: batches that are left out or differ from pass to pass (shuffling with
`drop_last`, random augmentation), and batches of unequal size whose means are averaged.
"""

import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
    default_collate,
)

from thalweg.errors import NonDeterministicObjectiveError

__all__ = ["Split", "examples_in", "map_tensors", "narrow", "read_splits"]

_DEFAULT_BATCH = 1024  # measured: 512 to 2048 are equally fast on a CPU
_PROBED_ITEMS = 16

Batch = Any  # a tensor, or a tuple, list or mapping of such


@dataclass(frozen=True, eq=False)
class Split:
    """One split of the data, resident in memory.

    Attributes:
        name: Its name, such as `"train"`.
        batches: The batches, in order, on the objective's device.
        whole: All examples as one batch, of which `batches` are views; None where tensors of
            different batches differ in shape (padded sequences).
        sha256: Checksum of the examples in order, before any cast; it does not depend on
            the batch size.
    """

    name: str
    batches: tuple[Batch, ...]
    whole: Batch | None
    sha256: str

    @property
    def examples(self) -> int:
        """Number of examples."""
        return sum(examples_in(batch) for batch in self.batches)


def read_splits(
    data: Any, batch_size: int | None, device: torch.device, dtype: torch.dtype
) -> tuple[Split, ...]:
    """Return the splits of whatever a user calls data.

    Args:
        data: A tensor or tuple of tensors, a mapping of tensors (one split called
            `"train"`); a `Dataset` or `DataLoader` (likewise); or a mapping of split names
            to any of these.
        batch_size: Examples a batch; None keeps the batches of a `DataLoader`, and takes
            1024 for everything else.
        device: Where the batches go.
        dtype: What floating-point tensors are cast to.

    Raises:
        TypeError: If something is no data.
        ValueError: If a split is empty, or its tensors differ in length.
        NonDeterministicObjectiveError: If a second look at the data gives other examples.
    """
    named = data if isinstance(data, Mapping) and not _is_tensor_table(data) else {"train": data}
    if not named:
        raise ValueError("Data needs one split at least; got an empty mapping. Add 'train'.")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"`batch_size` must be 1 or more; got {batch_size}. Use 1024.")
    return tuple(
        _read_split(str(name), part, batch_size, device, dtype) for name, part in named.items()
    )


def map_tensors(function: Callable[[Tensor], Tensor], batch: Batch) -> Batch:
    """Apply a function to every tensor of a nested batch, keeping its containers."""
    if isinstance(batch, Tensor):
        return function(batch)
    if isinstance(batch, Mapping):
        return {key: map_tensors(function, value) for key, value in batch.items()}
    if isinstance(batch, tuple | list):
        return _like(batch, [map_tensors(function, value) for value in batch])
    return batch


def _like(container: Any, parts: list[Any]) -> Any:
    """Return parts in a container of the same kind: list, tuple or named tuple."""
    if isinstance(container, list):
        return parts
    return type(container)(*parts) if hasattr(container, "_fields") else tuple(parts)


def examples_in(batch: Batch) -> int:
    """Return the number of examples of a batch: the length of its first tensor."""
    for tensor in _tensors(batch):
        if tensor.ndim:
            return tensor.shape[0]
    return 1


def narrow(batch: Batch, start: int, stop: int) -> Batch:
    """Return the examples from `start` up to `stop`, as views."""
    count = examples_in(batch)
    return map_tensors(lambda t: t[start:stop] if t.ndim and t.shape[0] == count else t, batch)


def _read_split(
    name: str, data: Any, batch_size: int | None, device: torch.device, dtype: torch.dtype
) -> Split:
    """Read one split, cut it into batches and move them to the device."""
    batches = [_as_tensors(batch, name) for batch in _batches(data, batch_size, name)]
    batches = [batch for batch in batches if examples_in(batch)]
    if not batches:
        raise ValueError(
            f"A split needs one example at least; {name!r} has none. Check the data set "
            "(and `drop_last`, which drops a batch that is not full)."
        )
    _reject_uncuttable(batches, name)
    digest = hashlib.sha256()
    for column in _columns(batches):
        digest.update(column)

    def settle(tensor: Tensor) -> Tensor:
        return tensor.to(device, dtype if tensor.is_floating_point() else tensor.dtype)

    whole = _joined(batches)
    if whole is None:
        if batch_size is not None and isinstance(data, DataLoader):
            raise ValueError(
                f"`batch_size` cannot re-cut the batches of {name!r}, whose tensors differ in "
                "shape (padded sequences). Leave `batch_size` out, or set it in the DataLoader."
            )
        settled = tuple(map_tensors(settle, batch) for batch in batches)
        return Split(name, settled, None, digest.hexdigest())
    whole = map_tensors(settle, whole)
    if batch_size is None:
        ends = list(itertools.accumulate(examples_in(batch) for batch in batches))
    else:
        ends = [*range(batch_size, examples_in(whole), batch_size), examples_in(whole)]
    cuts = itertools.pairwise([0, *ends])
    views = tuple(narrow(whole, start, stop) for start, stop in cuts)
    return Split(name, views, whole, digest.hexdigest())


def _batches(data: Any, batch_size: int | None, name: str) -> Iterator[Batch]:
    """Iterate over the batches of any accepted kind of data."""
    if isinstance(data, DataLoader):
        yield from _from_loader(data, name)
        return
    size = batch_size or _DEFAULT_BATCH
    if isinstance(data, TensorDataset):
        data = data.tensors
    if isinstance(data, Tensor | np.ndarray | tuple) or _is_tensor_table(data):
        whole = _as_tensors(data, name)
        lengths = {tensor.shape[0] if tensor.ndim else 0 for tensor in _tensors(whole)}
        if len(lengths) != 1:
            raise ValueError(
                f"The tensors of split {name!r} must have one length, the number of examples; "
                f"got {sorted(lengths)}. Put the examples along the first axis."
            )
        for start in range(0, examples_in(whole), size):
            yield narrow(whole, start, start + size)
    elif isinstance(data, IterableDataset):
        yield from _from_loader(DataLoader(data, batch_size=size), name)
    elif _is_map_style(data):
        _reject_random_items(data, name)
        for start in range(0, len(data), size):
            items = [data[i] for i in range(start, min(start + size, len(data)))]
            yield default_collate(items)
    else:
        raise TypeError(
            "Data is a tensor, a tuple or mapping of tensors, a Dataset, a DataLoader, or a "
            f"mapping of split names to these; {name!r} is a {type(data).__name__}. "
            "For tensors pass the tuple `(x, y)`."
        )


def _from_loader(loader: DataLoader[Any], name: str) -> list[Batch]:
    """Return one pass over a loader, after making sure that every pass gives the same examples."""
    drawers = (loader, loader.sampler, getattr(loader.batch_sampler, "sampler", None))
    generators = [getattr(drawer, "generator", None) for drawer in drawers]
    states = [(g, g.get_state()) for g in generators if isinstance(g, torch.Generator)]
    try:
        return _checked_pass(loader, name)
    finally:
        for generator, state in states:
            generator.set_state(state)


def _checked_pass(loader: DataLoader[Any], name: str) -> list[Batch]:
    """Read a loader once, and a second time where its settings allow other examples."""
    batches = list(loader)
    if _is_map_style(loader.dataset):
        _reject_random_items(loader.dataset, name)
        _reject_random_collation(loader, name)
    sampler = loader.sampler
    shuffles = not isinstance(sampler, SequentialSampler)
    # A loader with a batch sampler of its own has no batch size, and its sampler is not used.
    standard = loader.batch_sampler is None or loader.batch_size is not None
    if standard and not shuffles:
        return batches  # the same order and the same examples, whatever is dropped at the end
    if isinstance(sampler, RandomSampler) and not sampler.replacement and _covers(loader):
        return batches  # another order of the same examples: the same cost
    if _fingerprints(batches) != _fingerprints(list(loader)):
        dropping = loader.drop_last or bool(getattr(loader.batch_sampler, "drop_last", False))
        cause = (
            "it shuffles and drops the last batch, so each pass leaves out other examples. "
            "Set drop_last=False"
            if dropping
            else "its sampler draws other examples, or its transforms are random. Use "
            "shuffle=False and a data set without augmentation"
        )
        raise NonDeterministicObjectiveError(
            f"Every pass over the data must give the same examples; two passes over {name!r} "
            f"differ: {cause}."
        )
    return batches


def _covers(loader: DataLoader[Any]) -> bool:
    """Tell whether one pass of a shuffling loader visits every example."""
    samples = len(loader.sampler)  # type: ignore[arg-type]
    if samples != len(loader.dataset):  # type: ignore[arg-type]
        return False
    return not loader.drop_last or loader.batch_size is None or samples % loader.batch_size == 0


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


def _reject_uncuttable(batches: Sequence[Batch], name: str) -> None:
    """Raise for values that cannot be cut and joined along with the tensors of a batch."""
    others = [list(_other_values(batch)) for batch in batches]
    listed = [value for value in others[0] if isinstance(value, tuple | list) and value]
    varying = [value for values in others if values != others[0] for value in values]
    if listed or varying:
        raise TypeError(
            "A batch must hold tensors, and besides them only constants that every batch "
            f"shares; split {name!r} gives {str((listed + varying)[0])[:60]}, which goes with "
            "its examples. Turn it into tensors in the data set."
        )


def _is_map_style(data: Any) -> bool:
    """Tell whether something is a sequence of examples (but no plain list)."""
    return (
        hasattr(data, "__getitem__")
        and hasattr(data, "__len__")
        and not isinstance(data, str | bytes | list | Mapping | IterableDataset)
    )


def _is_tensor_table(data: Any) -> bool:
    """Tell whether a mapping holds the columns of one split rather than several splits."""
    return (
        isinstance(data, Mapping)
        and bool(data)
        and all(isinstance(value, Tensor | np.ndarray) for value in data.values())
    )


def _as_tensors(batch: Batch, name: str) -> Batch:
    """Turn NumPy arrays into tensors, and reject what holds no tensor at all."""
    if isinstance(batch, np.ndarray):
        return torch.from_numpy(np.array(batch))
    if isinstance(batch, Mapping):
        batch = {key: _as_tensors(v, name) if _holds(v) else v for key, v in batch.items()}
    elif isinstance(batch, tuple | list):
        parts = [_as_tensors(v, name) if _holds(v) else v for v in batch]
        batch = _like(batch if isinstance(batch, tuple) else (), parts)
    if next(_tensors(batch), None) is None:
        raise TypeError(
            f"A batch must hold tensors; split {name!r} gives {type(batch).__name__} without "
            "any. Convert the examples to tensors, or pass a loss `(model, batch) → (sum, "
            "count)` with batches that hold tensors."
        )
    return batch


def _holds(value: Any) -> bool:
    """Tell whether a part of a batch is, or may hold, tensors."""
    return isinstance(value, Tensor | np.ndarray | Mapping | tuple | list) and (
        isinstance(value, Tensor | np.ndarray)
        or any(_holds(v) for v in (value.values() if isinstance(value, Mapping) else value))
    )


def _tensors(batch: Batch) -> Iterator[Tensor]:
    """Iterate over the tensors of a nested batch."""
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, Mapping):
        for value in batch.values():
            yield from _tensors(value)
    elif isinstance(batch, tuple | list):
        for value in batch:
            yield from _tensors(value)


def _other_values(batch: Batch) -> Iterator[Any]:
    """Iterate over what is no tensor in a nested batch; a sequence without tensors is one."""
    if isinstance(batch, Mapping | tuple | list) and _holds(batch):
        for value in batch.values() if isinstance(batch, Mapping) else batch:
            yield from _other_values(value)
    elif not isinstance(batch, Tensor):
        yield batch


def _columns(batches: Sequence[Batch]) -> Iterator[bytes]:
    """Iterate over the bytes of the examples, column by column, whatever the batch size."""
    for column in zip(*(list(_tensors(batch)) for batch in batches), strict=True):
        for part in column:
            yield _bytes(part)


def _bytes(tensor: Tensor) -> bytes:
    """Return the bytes of a tensor of any type."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def _fingerprints(batches: Sequence[Batch]) -> list[bytes]:
    """Return a sorted list with one digest an example, so that the order does not matter."""
    digests = []
    for batch in batches:
        for i in range(examples_in(batch)):
            example = b"".join(
                _bytes(t) for t in _tensors(narrow(_as_tensors(batch, ""), i, i + 1))
            )
            digests.append(hashlib.blake2b(example, digest_size=16).digest())
    return sorted(digests)


def _plain(item: Any) -> Any:
    """Return something comparable with == from an example of any structure."""
    if isinstance(item, Tensor):
        return (tuple(item.shape), _bytes(item))
    if isinstance(item, np.ndarray):
        return (item.shape, item.tobytes())
    if isinstance(item, Mapping):
        return {key: _plain(value) for key, value in item.items()}
    if isinstance(item, tuple | list):
        return [_plain(value) for value in item]
    return item


def _joined(batches: Sequence[Batch]) -> Batch | None:
    """Join batches into one, or return None where their tensors differ in shape."""
    columns = list(zip(*(list(_tensors(batch)) for batch in batches), strict=True))
    counts = [examples_in(batch) for batch in batches]
    for column in columns:
        if len({tuple(part.shape[1:]) for part in column}) > 1:
            return None
        if any(
            part.ndim == 0 or part.shape[0] != n for part, n in zip(column, counts, strict=True)
        ):
            return None
    # Also a single part is copied: later changes of the user's tensors must not reach it.
    joined = iter([torch.cat(column) for column in columns])
    return map_tensors(lambda _: next(joined), batches[0])
