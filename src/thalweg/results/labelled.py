"""The numbers of a result with named axes, for xarray."""

from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from thalweg.results.frozen import Array, Losses, Metrics

if TYPE_CHECKING:
    import xarray

__all__ = ["import_xarray", "labelled"]


def labelled(
    loss: Losses, metrics: Metrics, dims: tuple[str, ...], coordinates: Mapping[str, Array]
) -> "xarray.Dataset":
    """Stack the splits of the loss and of each metric into one labelled dataset."""
    make = import_xarray().Dataset
    splits = list(loss)
    tables = {"loss": loss, **metrics}
    missing = np.full(next(iter(loss.values())).shape, np.nan)
    dataset: xarray.Dataset = make(
        {
            name: (("split", *dims), np.stack([table.get(s, missing) for s in splits]))
            for name, table in tables.items()
        },
        coords={"split": splits, **coordinates},
    )
    return dataset


def import_xarray() -> ModuleType:
    """Return xarray, or say how to get it."""
    try:
        import xarray
    except ImportError as error:
        raise ImportError(
            "to_xarray() needs xarray, which is not installed. "
            "Install it with `pip install 'thalweg[notebook]'`."
        ) from error
    return xarray
