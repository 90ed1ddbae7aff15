"""Tensors that are computed when they are read, and by some readers need not be.

A layer that would write a large table can return one of these instead. It looks like the table:
it has its shape and type, and can be transposed, reshaped and cut, which moves nothing. A reader
that knows a shorter way takes it; whatever else reads it gets the table itself. So a model may do
with it what it likes: the numbers are right, for every batch, and no analysis of the model's code
is needed. Only what is gained depends on the model.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._pytree import tree_map

__all__ = ["Deferred", "Shortcut", "Source", "deferred", "rows_shown"]


class Shortcut(Protocol):
    """A layer of a model that does its work in another way while points are evaluated.

    Attributes:
        reason: What it saves, for plans; empty where that is told elsewhere.
    """

    reason: str

    @property
    def layer(self) -> nn.Module:
        """Return the layer."""
        ...

    @property
    def forward(self) -> Callable[..., Any]:
        """Return what the layer does instead."""
        ...

    def moved(self) -> None:
        """Forget what was computed for the last point."""
        ...

    def released(self) -> None:
        """Give back the memory that is held between batches."""
        ...


@dataclass(eq=False)
class Source:
    """Where the entries of a deferred tensor come from.

    Attributes:
        compute: Writes the table, in the shape that the layer would give it.
        inputs: What the table is computed from; changing it in the meantime is an error.
        width: Entries of a row of the table.
        maker: The object that made it, by which readers know it.
        again: Returns a deferred tensor of some rows of the table, as a copy of them.
        readers: Functions that have a shorter way, which may still answer `NotImplemented`.
        table: The table, once something has read it.
    """

    compute: Callable[[], Tensor]
    inputs: Tensor
    width: int
    maker: object
    again: Callable[[Tensor], Tensor]
    readers: Mapping[Any, Callable[..., Any]] = field(default_factory=dict)
    table: Tensor | None = None
    _version: int = field(init=False)

    def __post_init__(self) -> None:
        self._version = self.inputs._version

    def values(self) -> Tensor:
        """Return the table."""
        if self.table is None:
            self.expect_unchanged()
            self.table = self.compute().contiguous()
        return self.table

    def expect_unchanged(self) -> None:
        """Raise if the inputs were written to after the layer was called."""
        if self.inputs._version != self._version:
            raise RuntimeError(
                "A layer whose output is computed when it is read needs an input that stays as it "
                "is; the model writes to it in place afterwards. Ask for strategy='plain'."
            )


class Deferred(Tensor):
    """A view of a table that is not written yet. Its strides tell which entries it shows.

    Attributes:
        source: Where its entries come from.
    """

    source: Source

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Answer by a shorter way where there is one, else from the table."""
        kwargs = kwargs or {}
        first = args[0] if args else None
        if isinstance(first, Deferred):
            answer = _short_answer(first, function, args, kwargs)
            if answer is not NotImplemented:
                return answer
        args, kwargs = tree_map(_written, (args, kwargs))
        return function(*args, **kwargs)


def deferred(places: tuple[int, ...], dtype: torch.dtype, source: Source) -> Deferred:
    """Return a tensor of one row for each of some places, computed when it is read."""
    return _view(torch.empty(*places, source.width, dtype=dtype, device="meta"), source)


def rows_shown(view: Deferred, axis: int) -> Tensor | None:
    """Return which row of the table each place of a view shows, or None if it cuts rows.

    Args:
        view: A view of a table of rows, such as one row of scores a position.
        axis: The axis along which the entries of a row lie.

    Returns:
        Numbers of rows, in the shape of the view without that axis.
    """
    with torch._C.DisableTorchFunctionSubclass():
        sizes, strides, offset = list(view.size()), list(view.stride()), view.storage_offset()
        entries = view.untyped_storage().nbytes() // view.element_size()
    width = view.source.width
    size, stride = sizes.pop(axis), strides.pop(axis)
    # The stride of an axis of one place says nothing.
    strides = [0 if n == 1 else s for n, s in zip(sizes, strides, strict=True)]
    if size != width or stride != 1 or any(s % width for s in (offset, *strides)):
        return None
    rows = torch.arange(entries // width, device=view.source.inputs.device)
    return rows.as_strided(sizes, [s // width for s in strides], offset // width)


def _view(places: Tensor, source: Source) -> Deferred:
    """Return a deferred tensor that shows given places of the table."""
    view = places.as_subclass(Deferred)
    view.source = source
    return view


def _written(value: Any) -> Any:
    """Return the entries of a deferred tensor, and anything else as it is."""
    if not isinstance(value, Deferred):
        return value
    table = value.source.values()
    with torch._C.DisableTorchFunctionSubclass():
        size, stride, offset = value.size(), value.stride(), value.storage_offset()
    return table.as_strided(size, stride, offset)


def _short_answer(given: Deferred, function: Any, args: Any, kwargs: Any) -> Any:
    """Return what a function gives without the table, or `NotImplemented`."""
    if function == _DEVICE:
        return given.source.inputs.device
    if function in _METADATA:
        with torch._C.DisableTorchFunctionSubclass():
            return function(*args, **kwargs)
    if function in _REARRANGEMENTS:
        return _rearranged(given, function, args, kwargs)
    if _CASTS.get(function) == given.dtype:
        return given
    if function is functional.dropout and not kwargs.get("training", True):
        return given
    # A table that is there may have been written to: from then on it alone is right.
    if function in given.source.readers and given.source.table is None:
        given.source.expect_unchanged()
        return given.source.readers[function](*args, **kwargs)
    return NotImplemented


def _rearranged(given: Deferred, function: Any, args: Any, kwargs: Any) -> Any:
    """Return other places of the same table, or of a copy of its rows, or `NotImplemented`."""
    try:
        with torch._C.DisableTorchFunctionSubclass():
            places = function(*args, **kwargs)
            same = places.untyped_storage()._cdata == given.untyped_storage()._cdata
    except Exception:  # an index of another kind, or a wrong shape: the table tells
        return NotImplemented
    if places.dtype != given.dtype:
        return NotImplemented
    if same:
        return _view(places, given.source)
    rows = rows_shown(given, -1)
    if function not in _COPIES or rows is None or given.source.table is not None:
        return NotImplemented
    given.source.expect_unchanged()
    return function(given.source.again(rows), *args[1:], **kwargs)


def _of_tensors(*names: str) -> frozenset[Any]:
    """Return methods of tensors and functions of torch by their names."""
    return frozenset(
        getattr(home, name) for home in (Tensor, torch) for name in names if hasattr(home, name)
    )


_DEVICE: Any = Tensor.device.__get__
_METADATA = _of_tensors(
    "__len__", "dim", "element_size", "is_complex", "is_floating_point", "numel", "size", "stride"
) | {
    getattr(Tensor, name).__get__
    for name in ("dtype", "is_sparse", "layout", "ndim", "requires_grad", "shape")
}
_REARRANGEMENTS = _of_tensors(
    "__getitem__",
    "contiguous",
    "flatten",
    "moveaxis",
    "movedim",
    "narrow",
    "permute",
    "reshape",
    "select",
    "squeeze",
    "swapaxes",
    "swapdims",
    "transpose",
    "unflatten",
    "unsqueeze",
    "view",
) | {getattr(Tensor, name).__get__ for name in ("mH", "mT")}
_COPIES = _of_tensors("contiguous", "flatten", "reshape")  # where strides do not do
_CASTS = {Tensor.float: torch.float32, Tensor.double: torch.float64}
