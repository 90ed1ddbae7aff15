"""Reading a data set, checking that it stays the same, and keeping it in memory where it fits.

A split becomes a list of batches of tensors on the objective's device, or batches that are read
anew in each pass (`thalweg.objectives.streaming`). What peers get wrong here decides the cost:
batches that are left out or differ from pass to pass (shuffling with `drop_last`, random
augmentation), and batches of unequal size whose means are averaged.
"""

import hashlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from thalweg.environment import free_memory
from thalweg.objectives.nested import (
    Batch,
    constants_in,
    examples_in,
    joined,
    map_tensors,
    narrow,
    raw_bytes,
    tensors_in,
)
from thalweg.objectives.sources import (
    TooLarge,
    estimated_bytes,
    is_tensor_mapping,
    read_once,
    source_of,
)
from thalweg.objectives.streaming import StreamedBatches, reject_uncuttable

__all__ = ["Split", "examples_in", "map_tensors", "narrow", "read_splits"]

# Data larger than this share of the free memory is streamed: while it is read and joined it
# takes its size twice, and the evaluation needs some room, too.
_RESIDENT_SHARE = 0.4


@dataclass(frozen=True, eq=False)
class Split:
    """One split of the data, resident in memory or streamed.

    Attributes:
        name: Its name, such as `"train"`.
        batches: The batches, in order, on the objective's device; streamed ones can be iterated
            again and again, and are not held.
        whole: All examples as one batch, of which `batches` are views; None where the data is
            streamed, and where tensors of different batches differ in shape (padded sequences).
        sha256: Checksum of the examples in order, before any cast; it does not depend on
            the batch size.
    """

    name: str
    batches: tuple[Batch, ...] | StreamedBatches
    whole: Batch | None
    sha256: str

    @property
    def streamed(self) -> bool:
        """Whether the data is read anew in each pass."""
        return isinstance(self.batches, StreamedBatches)

    @property
    def uniform(self) -> bool:
        """Whether all batches could be joined into one: an example has one shape."""
        if isinstance(self.batches, StreamedBatches):
            return self.batches.uniform
        return self.whole is not None

    @property
    def lengths(self) -> tuple[int, ...]:
        """Number of examples of each batch."""
        if isinstance(self.batches, StreamedBatches):
            return self.batches.lengths
        return tuple(examples_in(batch) for batch in self.batches)

    @property
    def examples(self) -> int:
        """Number of examples."""
        return sum(self.lengths)

    def head(self, examples: int) -> Batch:
        """Return the first examples, or fewer where the first batch has fewer."""
        first = self.batches.head if isinstance(self.batches, StreamedBatches) else self.batches[0]
        return narrow(first, 0, examples)

    def spread(self, most: int, examples: int) -> Iterator[tuple[int, Batch]]:
        """Iterate over the first examples of some batches, with the numbers of these.

        They are evenly spread over the data; the first batches of data that is streamed and
        comes as it comes.

        Args:
            most: Batches at most.
            examples: Examples of each at most.
        """
        if isinstance(self.batches, StreamedBatches):
            yield from self.batches.spread(most, examples)
            return
        for index in range(0, len(self.batches), -(-len(self.batches) // most)):
            yield index, narrow(self.batches[index], 0, examples)


def read_splits(
    data: Any,
    batch_size: int | None,
    device: torch.device,
    dtype: torch.dtype,
    stream: bool | None = None,
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
        stream: Whether the data is read anew in each pass rather than held; None streams what
            takes more than 40 % of the free memory of the device (and of the host).

    Raises:
        TypeError: If something is no data.
        ValueError: If a split is empty, or its tensors differ in length.
        NonDeterministicObjectiveError: If a second look at the data gives other examples.
    """
    named = data if isinstance(data, Mapping) and not is_tensor_mapping(data) else {"train": data}
    if not named:
        raise ValueError("Data needs one split at least; got an empty mapping. Add 'train'.")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"`batch_size` must be 1 or more; got {batch_size}. Use 1024.")
    if stream not in (None, True, False):
        raise TypeError(
            f"`stream` is True, False or None; got {stream!r}. Leave it out to have it decided."
        )
    return tuple(
        _read_split(str(name), part, batch_size, device, dtype, stream)
        for name, part in named.items()
    )


def _read_split(
    name: str,
    data: Any,
    batch_size: int | None,
    device: torch.device,
    dtype: torch.dtype,
    stream: bool | None,
) -> Split:
    """Read one split into memory, or arrange for it to be streamed."""
    if stream:
        return _streamed(name, data, batch_size, device, dtype, "it was asked for")
    room, why = math.inf, ""
    if stream is None:
        free = free_memory(device)
        room = math.inf if free is None else _RESIDENT_SHARE * free
        estimate = estimated_bytes(data, dtype) or 0
        size = f"about {estimate / 2**30:.3g} GiB, " if estimate else ""
        share = f"{_RESIDENT_SHARE:.0%} of the free memory"
        why = f"it takes {size}more than {room / 2**30:.3g} GiB, {share}"
        if estimate > room:
            return _streamed(name, data, batch_size, device, dtype, why)
    try:
        return _resident(name, data, batch_size, device, dtype, room)
    except TooLarge:
        return _streamed(name, data, batch_size, device, dtype, why)


def _streamed(
    name: str,
    data: Any,
    batch_size: int | None,
    device: torch.device,
    dtype: torch.dtype,
    why: str,
) -> Split:
    """Return a split that is read anew in each pass, after a first pass for its checksums."""
    source = source_of(data, batch_size, name)

    def settle(tensor: Tensor) -> Tensor:
        if tensor.is_floating_point():
            tensor = tensor.to(dtype)
        if device.type == "cuda" and tensor.device.type == "cpu":
            # From pinned memory the copy runs beside the device's work on the last batch.
            return tensor.pin_memory().to(device, non_blocking=True)
        return tensor.to(device)

    size = batch_size if isinstance(data, DataLoader) else None  # the others have it already
    batches = StreamedBatches(name, source, settle, size, why)
    return Split(name, batches, None, batches.sha256)


def _resident(
    name: str,
    data: Any,
    batch_size: int | None,
    device: torch.device,
    dtype: torch.dtype,
    room: float,
) -> Split:
    """Read one split, cut it into batches and move them to the device.

    Raises:
        TooLarge: If it takes more memory than there is room for.
    """
    batches = read_once(data, batch_size, name, room)
    if not batches:
        raise ValueError(
            f"A split needs one example at least; {name!r} has none. Check the data set "
            "(and `drop_last`, which drops a batch that is not full)."
        )
    constants = list(constants_in(batches[0]))
    for batch in batches:
        reject_uncuttable(constants, list(constants_in(batch)), name)
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


def _columns(batches: Sequence[Batch]) -> Iterator[Any]:
    """Iterate over the bytes of the examples, column by column, whatever the batch size."""
    for column in zip(*(list(tensors_in(batch)) for batch in batches), strict=True):
        for part in column:
            yield raw_bytes(part)


def _joined(batches: list[Batch]) -> Batch | None:
    """Join batches into one, or return None where their tensors differ in shape."""
    columns = list(zip(*(list(tensors_in(batch)) for batch in batches), strict=True))
    counts = [examples_in(batch) for batch in batches]
    for column in columns:
        if len({tuple(part.shape[1:]) for part in column}) > 1:
            return None
        if any(
            part.ndim == 0 or part.shape[0] != n for part, n in zip(column, counts, strict=True)
        ):
            return None
    # Also a single part is copied: later changes of the user's tensors must not reach it.
    return joined(batches)
