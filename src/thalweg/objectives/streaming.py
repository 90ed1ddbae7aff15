"""Data that is read anew in each pass, for it is larger than the memory.

The first pass takes checksums: one over all examples, which goes into results, and a small one
of each batch (CRC-32, half a second for a gigabyte). Every later pass is compared with the small
ones batch by batch, so that no cost is ever a mean over other data than it says.

Each pass begins with other random numbers, so that data which is drawn at random gives itself
away at once; the user's generators are put back. A loader that shuffles, and leaves nothing out,
is read in the order of one shuffle.
"""

import itertools
import random
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import sha256
from typing import Any, NoReturn, final

import numpy as np
import torch
from torch import Tensor

from thalweg.errors import NonDeterministicObjectiveError
from thalweg.objectives.nested import (
    Batch,
    as_tensors,
    constants_in,
    examples_in,
    joined,
    map_tensors,
    narrow,
    raw_bytes,
    tensors_in,
)
from thalweg.objectives.random_state import preserved_generators, preserved_random_state
from thalweg.objectives.sources import Source

__all__ = ["StreamedBatches", "recut", "reject_uncuttable"]

# What is kept of the first batch, for everything that needs some example or other.
_HEAD_EXAMPLES = 256
_HEAD_BYTES = 32 << 20

# Bytes of later columns (labels, as a rule) that are held while the first is being summed.
_HELD_BYTES = 64 << 20

_END = object()


@final
class StreamedBatches:
    """Batches that can be iterated again and again, and are not held.

    Args:
        name: Name of the split.
        source: Where they come from.
        settle: Brings a tensor to the objective's device and type.
        batch_size: Examples a batch, to cut the batches of the source anew; None keeps them.
        why: Why the data is streamed, for plans.

    Attributes:
        lengths: Examples of each batch.
        sha256: Checksum of the examples, column by column.
        uniform: Whether all batches could be joined into one.
        head: The first examples, on the objective's device.
        passes: How many passes have begun, the one of the checksums included.

    Raises:
        TypeError: If batches hold no tensors, or other things that vary.
        ValueError: If there is no example, or batches that cannot be cut anew.
        RuntimeError: If the user's data fails; its own error is the cause.
    """

    def __init__(
        self,
        name: str,
        source: Source,
        settle: Callable[[Tensor], Tensor],
        batch_size: int | None = None,
        why: str = "it was asked for",
    ) -> None:
        self.name = name
        self.why = why
        self.passes = 0
        self._source = source
        self._settle = settle
        self._batch_size = batch_size
        self.lengths: tuple[int, ...] = ()
        self.uniform = True
        self._checks: list[int] = []
        self.head: Batch = None
        self.sha256 = self._first_pass()

    def __len__(self) -> int:
        """Number of batches."""
        return len(self.lengths)

    def __iter__(self) -> Iterator[Batch]:
        """Iterate over the batches on the objective's device, comparing them with the first pass.

        Raises:
            NonDeterministicObjectiveError: If they are others.
            RuntimeError: If the user's data fails.
        """
        count = 0
        for batch in self._cut():
            self._compare(count, batch)
            yield map_tensors(self._settle, batch)
            count += 1
        if count < len(self):
            self._refuse(f"it ends after {count} of {len(self)} batches")

    @property
    def examples(self) -> int:
        """Number of examples."""
        return sum(self.lengths)

    @property
    def pickable(self) -> bool:
        """Whether single examples can be had without a pass."""
        return self._source.picker is not None and self.uniform

    def pick(self, places: Sequence[int]) -> Batch:
        """Return the examples at some places of a pass as one batch.

        Raises:
            RuntimeError: If the user's data fails.
        """
        return map_tensors(self._settle, self._picked(self._picker(), places))

    def spread(self, most: int, examples: int) -> Iterator[tuple[int, Batch]]:
        """Iterate over the first examples of some batches, with the numbers of these.

        They are evenly spread over the data where examples can be picked, and the first
        batches where they come as they come.

        Args:
            most: Batches at most.
            examples: Examples of each at most.
        """
        if self._source.picker is None:
            for index, batch in enumerate(itertools.islice(self, most)):
                yield index, narrow(batch, 0, examples)
            return
        starts = list(itertools.accumulate(self.lengths, initial=0))
        picker = self._picker()
        for index in range(0, len(self), -(-len(self) // most)):
            whole = self.lengths[index]
            count = min(whole, examples) if self.uniform else whole
            batch = self._picked(picker, range(starts[index], starts[index] + count))
            if count == whole:
                self._compare(index, batch)
            yield index, map_tensors(self._settle, narrow(batch, 0, examples))

    # --- passes

    def _first_pass(self) -> str:
        """Read everything once; note what later passes must give, and return the checksum."""
        lengths: list[int] = []
        columns = _Columns()
        shapes: list[tuple[int, ...]] = []
        constants: list[Any] = []
        for batch in self._cut():
            count = examples_in(batch)
            if not lengths:
                constants, shapes = list(constants_in(batch)), _shapes(batch)
                size = sum(tensor.nbytes for tensor in tensors_in(batch)) // count
                some = min(_HEAD_EXAMPLES, max(2, _HEAD_BYTES // max(1, size)))
                head = map_tensors(torch.clone, narrow(batch, 0, some))
                self.head = map_tensors(self._settle, head)
            reject_uncuttable(constants, list(constants_in(batch)), self.name)
            self.uniform = self.uniform and _can_be_joined(batch, count, shapes)
            columns.add(batch)
            self._checks.append(_checksum(batch))
            lengths.append(count)
        if not lengths:
            raise ValueError(
                f"A split needs one example at least; {self.name!r} has none. Check the data set "
                "(and `drop_last`, which drops a batch that is not full)."
            )
        self.lengths = tuple(lengths)
        # What is too large to be held until its turn is read once more.
        return columns.digest(self._again)

    def _again(self) -> Iterator[Batch]:
        """Iterate over the batches on the host, comparing them with the first pass."""
        for index, batch in enumerate(self._cut()):
            self._compare(index, batch)
            yield batch

    def _cut(self) -> Iterator[Batch]:
        """Iterate over the batches on the host, in the size that was asked for."""
        if self._batch_size is None:
            return self._raw()
        return recut(self._alike(self._raw()), self._batch_size)

    def _alike(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Iterate over batches that can be joined, and raise for the first that cannot."""
        shapes: list[tuple[int, ...]] | None = None
        for batch in batches:
            shapes = _shapes(batch) if shapes is None else shapes
            if not _can_be_joined(batch, examples_in(batch), shapes):
                raise ValueError(
                    f"`batch_size` cannot re-cut the batches of {self.name!r}, whose tensors "
                    "differ in shape (padded sequences). Leave `batch_size` out, or set it in the "
                    "DataLoader."
                )
            yield batch

    def _raw(self) -> Iterator[Batch]:
        """Iterate over the batches of the source that have any example, as tensors."""
        number, self.passes = self.passes, self.passes + 1
        with preserved_generators(self._source.generators):
            with preserved_random_state():
                self._set_random_state(number)
                batches = self._guarded(lambda: iter(self._source.read()), "the first batch")
                batch = self._guarded(lambda: next(batches, _END), "the first batch")
            index = 0
            while batch is not _END:
                batch = as_tensors(batch, self.name)
                if examples_in(batch):
                    yield batch
                index += 1
                del batch  # so that the next one comes into its place
                batch = self._guarded(lambda: next(batches, _END), f"batch {index}")

    def _set_random_state(self, number: int) -> None:
        """Let each pass but the first begin with other random numbers."""
        if number:
            torch.manual_seed(number)
            random.seed(number)
            np.random.seed(number)  # noqa: NPY002 (data sets of users draw from it)
            for generator in self._source.generators:
                generator.manual_seed(number)

    def _picker(self) -> Callable[[Sequence[int]], Batch]:
        """Return a function from places in a pass to the examples there."""
        picker = self._source.picker
        assert picker is not None
        with preserved_random_state(), preserved_generators(self._source.generators):
            self._set_random_state(self.passes)
            chosen: Callable[[Sequence[int]], Batch]
            chosen = self._guarded(picker, "the order of the examples")
            return chosen

    def _picked(self, picker: Callable[[Sequence[int]], Batch], places: Sequence[int]) -> Batch:
        """Return the examples at some places, on the host."""
        what = f"{len(places)} examples from number {places[0]} on"
        return as_tensors(self._guarded(lambda: picker(places), what), self.name)

    def _guarded(self, work: Callable[[], Any], what: str) -> Any:
        """Do what runs the user's code, and say so where it fails."""
        try:
            return work()
        except Exception as error:
            detail = (str(error).splitlines() or [""])[0][:200]
            raise RuntimeError(
                "Data that is streamed must be readable from its beginning to its end in each "
                f"pass; reading {what} of split {self.name!r} failed in the data set itself "
                f"({type(error).__name__}: {detail}). Repair the data set; points that were "
                "finished and kept are not evaluated again."
            ) from error

    # --- comparing

    def _compare(self, index: int, batch: Batch) -> None:
        """Raise unless a batch is that of the first pass."""
        if index >= len(self):
            self._refuse(f"it goes on after {len(self)} batches")
        if _checksum(batch) != self._checks[index]:
            self._refuse(f"batch {index} is another one")

    def _refuse(self, difference: str) -> NoReturn:
        """Raise for a pass that differs from the first."""
        raise NonDeterministicObjectiveError(
            "Every pass over streamed data must give the same examples in the same order; a "
            f"later pass over {self.name!r} differs from the first: {difference}. "
            f"{self._source.suspect}"
        )


class _Columns:
    """The checksum of all examples, column by column, from batches that come side by side."""

    def __init__(self) -> None:
        self._digest = sha256()
        self._held: dict[int, list[bytes]] = {}
        self._bytes = 0
        self._count = 0

    def add(self, batch: Batch) -> None:
        """Add the first column of a batch, and hold the others as far as there is room."""
        first, *others = tensors_in(batch)
        if not self._count:
            self._count = 1 + len(others)
            self._held = {number: [] for number in range(1, self._count)}
        self._digest.update(raw_bytes(first))
        for number, tensor in enumerate(others, start=1):
            if number in self._held:
                self._held[number].append(raw_bytes(tensor).tobytes())
                self._bytes += tensor.nbytes
        while self._bytes > _HELD_BYTES and self._held:
            number, parts = self._held.popitem()
            self._bytes -= sum(map(len, parts))

    def digest(self, again: Callable[[], Iterable[Batch]]) -> str:
        """Return the checksum, reading the data again for every column that was not held."""
        for number in range(1, self._count):
            if number in self._held:
                for part in self._held.pop(number):
                    self._digest.update(part)
            else:
                for batch in again():
                    column = next(itertools.islice(tensors_in(batch), number, None))
                    self._digest.update(raw_bytes(column))
        return self._digest.hexdigest()


def recut(batches: Iterable[Batch], size: int) -> Iterator[Batch]:
    """Cut batches that can be joined into others of one size, holding what one of these takes.

    Example:
        >>> [len(part) for part in recut([torch.zeros(3), torch.zeros(4)], 2)]
        [2, 2, 2, 1]
    """
    held: list[Batch] = []
    count = 0
    for batch in batches:
        held.append(batch)
        count += examples_in(batch)
        if count < size:
            continue
        whole = joined(held) if len(held) > 1 else batch
        full = count - count % size
        for start in range(0, full, size):
            yield narrow(whole, start, start + size)
        held = [narrow(whole, full, count)] if full < count else []
        count -= full
    if held:
        yield joined(held)


def reject_uncuttable(first: Sequence[Any], others: Sequence[Any], name: str) -> None:
    """Raise for values that cannot be cut and joined along with the tensors of a batch.

    Args:
        first: What the first batch holds besides tensors.
        others: What another one does.
        name: Name of the split.

    Raises:
        TypeError: If there is anything but constants that both share.
    """
    listed = [value for value in first if isinstance(value, tuple | list) and value]
    varying = list(others) if list(others) != list(first) else []
    if listed or varying:
        raise TypeError(
            "A batch must hold tensors, and besides them only constants that every batch "
            f"shares; split {name!r} gives {str((listed + varying)[0])[:60]}, which goes with "
            "its examples. Turn it into tensors in the data set."
        )


def _shapes(batch: Batch) -> list[tuple[int, ...]]:
    """Return the shape of an example in every tensor of a batch."""
    return [tuple(tensor.shape[1:]) for tensor in tensors_in(batch)]


def _can_be_joined(batch: Batch, count: int, shapes: Sequence[tuple[int, ...]]) -> bool:
    """Tell whether a batch has one entry an example in every tensor, of the given shapes."""
    entries = all(tensor.shape[:1] == (count,) for tensor in tensors_in(batch))
    return entries and _shapes(batch) == shapes


def _checksum(batch: Batch) -> int:
    """Return the CRC-32 of the tensors of a batch and their shapes."""
    check = 0
    for tensor in tensors_in(batch):
        check = zlib.crc32(raw_bytes(tensor), check)
        check = zlib.crc32(str(tuple(tensor.shape)).encode(), check)
    return check
