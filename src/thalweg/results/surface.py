"""The cost on a plane."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from thalweg.interpolation import fit_sheet
from thalweg.results.estimate import Estimate
from thalweg.results.frozen import (
    Array,
    Losses,
    Metrics,
    freeze,
    freeze_coordinates,
    freeze_tables,
    of_split,
    rebuilt,
)
from thalweg.results.interpolation import Interpolation
from thalweg.results.labelled import labelled
from thalweg.results.provenance import Provenance

if TYPE_CHECKING:
    import xarray

__all__ = ["Surface"]


@dataclass(frozen=True, eq=False)
class Surface:
    """The cost on a two-dimensional section, in matplotlib's order.

    Attributes:
        x: First coordinates, shape (columns,), ascending.
        y: Second coordinates, shape (rows,), ascending.
        loss: Split to loss, shape (rows, columns): `loss[split][i, j]` is at `x[j], y[i]`.
        metrics: Metric to split to values of the same shape.
        labels: Names of the anchors that are points of the plane.
        anchors: Their coordinates, shape (m, 2).
        gram: Inner products of the two directions of the plane, shape (2, 2). Distances in
            parameter space between points c and d of the plane are √((c−d)ᵀ gram (c−d)).
        interpolation: How good the values between the points are, for an adaptive grid.
        estimate: How sure the loss is, where it was estimated from a subsample.
        provenance: What made this result.

    Example:
        >>> bowl = Surface(x=[0.0, 1.0], y=[0.0, 1.0, 2.0], loss=[[0, 1], [1, 2], [4, 5]])
        >>> float(bowl.loss["train"][2, 1])
        5.0
    """

    x: Array
    y: Array
    loss: Losses
    metrics: Metrics = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    anchors: Array = field(default_factory=lambda: np.empty((0, 2)))
    gram: Array = field(default_factory=lambda: np.eye(2))
    interpolation: Interpolation | None = None
    estimate: Estimate | None = None
    provenance: Provenance = field(default_factory=Provenance)

    def __post_init__(self) -> None:
        freeze_coordinates(self, "x")
        freeze_coordinates(self, "y")
        freeze(self, "anchors", (None, 2))
        freeze(self, "gram", (2, 2))
        freeze_tables(self, (len(self.y), len(self.x)))

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuilt(self)

    @property
    def first_split(self) -> str:
        """Name of the split that is the cost J."""
        return next(iter(self.loss))

    def interpolate(self, x: ArrayLike, y: ArrayLike, split: str | None = None) -> Array:
        """Return the loss between the evaluated points, on the table of some coordinates.

        Args:
            x: First coordinates; NaN comes back outside the evaluated ones.
            y: Second coordinates.
            split: Name of a split; the first one by default.

        Returns:
            Shape (len(y), len(x)).

        Raises:
            ValueError: If the surface has no such split.
        """
        return fit_sheet(self.x, self.y, of_split(self, split))(x, y)

    def to_xarray(self) -> "xarray.Dataset":
        """Return the same numbers with named axes: `loss(split, y, x)`.

        Raises:
            ImportError: If xarray is not installed (`pip install thalweg[notebook]`).
        """
        return labelled(self.loss, self.metrics, ("y", "x"), {"y": self.y, "x": self.x})
