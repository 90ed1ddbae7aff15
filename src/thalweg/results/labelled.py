"""The numbers of a result with named axes, for xarray."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from thalweg.results.frozen import Array, Losses, Metrics

if TYPE_CHECKING:
    import xarray

__all__ = ["labelled"]


def labelled(
    loss: Losses, metrics: Metrics, dims: tuple[str, ...], coordinates: Mapping[str, Array]
) -> "xarray.Dataset":
    """Stack the splits of the loss and of each metric into one labelled dataset."""
    try:
        import xarray
    except ImportError as error:
        raise ImportError(
            "to_xarray() needs xarray, which is not installed. "
            "Install it with `pip install 'thalweg[notebook]'`."
        ) from error
    splits = list(loss)
    tables = {"loss": loss, **metrics}
    missing = np.full(next(iter(loss.values())).shape, np.nan)
    return xarray.Dataset(
        {
            name: (("split", *dims), np.stack([table.get(s, missing) for s in splits]))
            for name, table in tables.items()
        },
        coords={"split": splits, **coordinates},
    )
