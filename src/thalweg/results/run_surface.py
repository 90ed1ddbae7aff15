"""The cost on a surface that shows a training run: ruled, or a plane with the run's shadow."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from thalweg.results.frozen import (
    Array,
    Losses,
    Metrics,
    freeze,
    freeze_coordinates,
    freeze_tables,
    rebuilt,
)
from thalweg.results.labelled import labelled
from thalweg.results.provenance import Provenance

if TYPE_CHECKING:
    import xarray

__all__ = ["RunPoints", "RunSurface"]

_KINDS = ("ruled", "plane", "principal")


@dataclass(frozen=True, eq=False)
class RunPoints:
    """The points of a run: where each lies from a surface's point of view, and its true cost.

    Attributes:
        step: Number of updates made before each point, shape (T,).
        projection: Coordinate along the first axis, a length, shape (T,).
        across: Coordinate along the second axis, a length with a sign, shape (T,).
        off: Distance of each point from the surface, shape (T,): 0 where the surface contains
            the run, what is left after both axes where it is a plane.
        loss: Split to the cost at the points themselves, shape (T,) each.
        metrics: Metric to split to value, shape (T,) each.
    """

    step: Array
    projection: Array
    across: Array
    off: Array
    loss: Losses
    metrics: Metrics = field(default_factory=dict)

    def __post_init__(self) -> None:
        freeze(self, "step", (None,))
        points = len(self.step)
        for name in ("projection", "across", "off"):
            freeze(self, name, (points,))
        freeze_tables(self, (points,))

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuilt(self)

    @property
    def distance(self) -> Array:
        """Distance of each point from the first axis, shape (T,): √(across² + off²)."""
        return np.hypot(self.across, self.off)


@dataclass(frozen=True, eq=False)
class RunSurface:
    """The cost on a surface that shows a run, and the run at its true cost.

    Both coordinates are lengths: Euclidean distances between parameter vectors.

    Attributes:
        kind: `"ruled"`: S(t, b) = J(θ_i + α(t) u + b v(t)), which contains the line and the
            run. `"plane"`: S(a, b) = J(θ_i + a u + b u₂), with u₂ the direction of the largest
            residual. `"principal"`: the plane of the first two principal components.
        along: First coordinate of each row, shape (rows,). On a ruled surface row t is that of
            point t of the run, and `along` is its projection, which may go back.
        across: Second coordinate of each column, shape (columns,), ascending, 0 among them.
        loss: Split to loss, shape (rows, columns): `loss[split][i, j]` is at `along[i]`,
            `across[j]`. The first split is the cost J.
        metrics: Metric to split to values of the same shape.
        run: The points of the run.
        curvature: Curvature across the line, v'Hv at `(along[i], 0)`, shape (rows,); empty
            where it was not asked for.
        explained: Share of the run's scatter along each principal component, the largest first;
            empty for the other kinds.
        labels: What the ends of the line are called.
        length: Distance between the two ends of the line, or None for a principal plane.
        provenance: What made this result.

    Example:
        >>> run = RunPoints([0, 1, 2], [0, 1, 2], [0, 0.5, 0], [0, 0, 0], [4.0, 1.25, 0.0])
        >>> picture = RunSurface(
        ...     "ruled", [0, 1, 2], [-1, 0, 1], [[5, 4, 5], [2, 1, 2], [1, 0, 1]], run
        ... )
        >>> picture.line_loss["train"], picture.run.distance
        (array([4., 1., 0.]), array([0. , 0.5, 0. ]))
    """

    kind: str
    along: Array
    across: Array
    loss: Losses
    run: RunPoints
    metrics: Metrics = field(default_factory=dict)
    curvature: Array = field(default_factory=lambda: np.empty(0))
    explained: Array = field(default_factory=lambda: np.empty(0))
    labels: tuple[str, ...] = ("start", "end")
    length: float | None = None
    provenance: Provenance = field(default_factory=Provenance)

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise ValueError(
                f"`kind` must be one of {', '.join(map(repr, _KINDS))}; got {self.kind!r}. Name "
                "the surface that was evaluated."
            )
        freeze(self, "along", (None,))
        freeze_coordinates(self, "across")
        if not np.any(self.across == 0):
            raise ValueError(
                "The first axis must be on the surface; `across` has no 0. Use an odd number of "
                "coordinates that are symmetric about 0."
            )
        rows = len(self.along)
        freeze_tables(self, (rows, len(self.across)))
        freeze(self, "curvature", (rows if len(self.curvature) else 0,))
        freeze(self, "explained", (None,))
        if self.kind == "ruled" and not np.array_equal(self.along, self.run.projection):
            raise ValueError(
                "A ruled surface has one row for each point of the run, at its projection; "
                f"got {rows} rows for {len(self.run.step)} points, or other coordinates. Pass "
                "`run.projection` as `along`."
            )

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuilt(self)

    @property
    def first_split(self) -> str:
        """Name of the split that is the cost J."""
        return next(iter(self.loss))

    @property
    def line_loss(self) -> Mapping[str, Array]:
        """Split to loss on the first axis itself (b = 0), shape (rows,) each."""
        middle = int(np.flatnonzero(self.across == 0)[0])
        return MappingProxyType({split: table[:, middle] for split, table in self.loss.items()})

    def to_xarray(self) -> "xarray.Dataset":
        """Return the same numbers with named axes: `loss(split, row, across)`.

        The run is `run_loss(split, point)`, with its step, projection, across and off as
        coordinates of the points.

        Raises:
            ImportError: If xarray is not installed (`pip install thalweg[notebook]`).
        """
        dataset = labelled(self.loss, self.metrics, ("row", "across"), {"across": self.across})
        dataset = dataset.assign_coords(along=("row", self.along))
        missing = np.full(len(self.run.step), np.nan)
        stacked = np.stack([self.run.loss.get(split, missing) for split in self.loss])
        dataset["run_loss"] = (("split", "point"), stacked)
        places: dict[str, Any] = {
            name: ("point", getattr(self.run, name)) for name in ("step", "projection", "off")
        }
        return dataset.assign_coords(places | {"run_across": ("point", self.run.across)})
