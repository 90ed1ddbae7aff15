"""The cost over a training run."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from thalweg.results.frozen import (
    Array,
    Losses,
    Metrics,
    freeze,
    freeze_tables,
    rebuilt,
)
from thalweg.results.labelled import labelled
from thalweg.results.provenance import Provenance

if TYPE_CHECKING:
    import xarray

__all__ = ["History"]


@dataclass(frozen=True, eq=False)
class History:
    """The cost over a training run, epoch by epoch (Goodfellow et al. 2015, Fig. 1 right).

    Attributes:
        epoch: Epochs after which the cost was evaluated, shape (n,); 0 is the start.
        loss: Split to loss, shape (n,) each; the first split is the cost J.
        metrics: Metric to split to value, shape (n,) each.
        best: Epoch whose parameters were kept as the solution, or None.
        provenance: What made this result.
    """

    epoch: Array
    loss: Losses
    metrics: Metrics = field(default_factory=dict)
    best: float | None = None
    provenance: Provenance = field(default_factory=Provenance)

    def __post_init__(self) -> None:
        freeze(self, "epoch", (None,))
        freeze_tables(self, (len(self.epoch),))

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuilt(self)

    @property
    def first_split(self) -> str:
        """Name of the split that is the cost J."""
        return next(iter(self.loss))

    def to_xarray(self) -> "xarray.Dataset":
        """Return the same numbers with named axes: `loss(split, epoch)`.

        Raises:
            ImportError: If xarray is not installed (`pip install thalweg[notebook]`).
        """
        return labelled(self.loss, self.metrics, ("epoch",), {"epoch": self.epoch})
