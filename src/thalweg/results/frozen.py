"""How a result holds its numbers: read-only float64 arrays of the shapes that it states."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Array",
    "Losses",
    "Metrics",
    "freeze",
    "freeze_coordinates",
    "freeze_tables",
    "of_split",
    "read_only",
    "rebuilt",
]

Array = NDArray[np.float64]
Losses = Mapping[str, Array]
Metrics = Mapping[str, Mapping[str, Array]]


def of_split(result: Any, split: str | None) -> Array:
    """Return the loss of one split, the first by default."""
    name = result.first_split if split is None else split
    if name not in result.loss:
        known = ", ".join(repr(known) for known in result.loss)
        raise ValueError(f"`split` must be one of {known}; got {name!r}. Name one of these.")
    values: Array = result.loss[name]
    return values


def read_only(values: ArrayLike, shape: tuple[int | None, ...], name: str) -> Array:
    """Copy to a read-only float64 array of the stated shape (None: any length)."""
    array: Array = np.array(values, dtype=np.float64)
    fits = array.ndim == len(shape) and all(
        want is None or want == have for want, have in zip(shape, array.shape, strict=True)
    )
    if not fits:
        wanted = "(" + ", ".join("any" if n is None else str(n) for n in shape) + ")"
        raise ValueError(
            f"`{name}` must have shape {wanted}; got {array.shape}. "
            "Give one value per coordinate of the grid."
        )
    array.flags.writeable = False
    return array


def freeze(result: object, name: str, shape: tuple[int | None, ...]) -> None:
    """Replace one field by its read-only array."""
    object.__setattr__(result, name, read_only(getattr(result, name), shape, name))


def freeze_coordinates(result: object, name: str, points: int | None = None) -> None:
    """Replace one field by its read-only array, which must be finite and ascend strictly."""
    freeze(result, name, (points,))
    values: Array = getattr(result, name)
    if not np.all(np.isfinite(values)):
        raise ValueError(
            f"Coordinates must be finite; `{name}` holds NaN or infinity. "
            "Give the points at which the cost was evaluated."
        )
    if np.any(np.diff(values) <= 0):
        raise ValueError(
            f"Coordinates must ascend strictly; `{name}` repeats or goes back. "
            "Sort the coordinates and remove the repeated ones."
        )


def freeze_tables(result: Any, shape: tuple[int, ...]) -> None:
    """Replace `loss` and `metrics` by read-only tables of read-only arrays."""
    loss = result.loss if isinstance(result.loss, Mapping) else {"train": result.loss}
    if not loss:
        raise ValueError("A result needs the loss of one split at least; `loss` is empty.")
    frozen = {split: read_only(a, shape, f"loss[{split!r}]") for split, a in loss.items()}
    metrics = {
        metric: MappingProxyType(
            {s: read_only(a, shape, f"metrics[{metric!r}][{s!r}]") for s, a in table.items()}
        )
        for metric, table in result.metrics.items()
    }
    object.__setattr__(result, "loss", MappingProxyType(frozen))
    object.__setattr__(result, "metrics", MappingProxyType(metrics))


def rebuilt(result: Any) -> tuple[Any, ...]:
    """Say how to copy or pickle a result: read-only tables cannot be, plain ones can."""
    content = {field.name: _plain(getattr(result, field.name)) for field in fields(result)}
    kind: Callable[..., Any] = type(result)
    return partial(kind, **content), ()


def _plain(value: Any) -> Any:
    """Turn read-only tables into plain dictionaries."""
    if isinstance(value, MappingProxyType):
        return {key: _plain(item) for key, item in value.items()}
    return value
