"""The cost along a line or a curve."""

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from thalweg.interpolation import fit_curve
from thalweg.results.ends import Ends
from thalweg.results.estimate import Estimate
from thalweg.results.frozen import (
    Array,
    Losses,
    Metrics,
    freeze,
    freeze_coordinates,
    freeze_tables,
    of_split,
    read_only,
    rebuilt,
)
from thalweg.results.interpolation import Interpolation
from thalweg.results.labelled import labelled
from thalweg.results.provenance import Provenance

if TYPE_CHECKING:
    import xarray

__all__ = ["Profile"]


@dataclass(frozen=True, eq=False)
class Profile:
    """The cost along a one-dimensional section, at stated coordinates.

    A bare array given as `loss` (or a plain sequence) stands for the one split `"train"`.

    Attributes:
        alpha: Coordinates on the section, shape (n,), ascending.
        loss: Split to loss, shape (n,) each. The first split is the cost J.
        metrics: Metric to split to value, shape (n,) each.
        ends: The two ends of the section, or None for a result without them.
        samples: For a Monte-Carlo cost, split to the loss of each sample, shape (s, n); the
            same random numbers serve all n points, so that differences along the section
            are tighter than the values. Empty for an exact cost.
        slope: Split to the derivative of the loss with respect to α, shape (n,) each. Empty
            unless it was asked for.
        curvature: Split to the second derivative with respect to α, shape (n,) each. Empty
            unless it was asked for.
        speed: ‖dθ/dα‖ at each coordinate, shape (n,): the length of θ's way for a unit of α.
            Empty unless the curvature was asked for.
        labels: Names of the anchors, such as `("start", "solution")`.
        anchors: Coordinates of the anchors that lie on the section, in the order of `labels`.
        length: Euclidean distance between the two ends, or None.
        interpolation: How good the values between the points are, for an adaptive grid.
        estimate: How sure the loss is, where it was estimated from a subsample.
        provenance: What made this result.

    Example:
        >>> walk = Profile(alpha=[0.0, 0.5, 1.0], loss=[2.0, 2.25, 0.5])
        >>> walk.loss["train"]
        array([2.  , 2.25, 0.5 ])
        >>> walk.first_split
        'train'
    """

    alpha: Array
    loss: Losses
    metrics: Metrics = field(default_factory=dict)
    ends: Ends | None = None
    samples: Losses = field(default_factory=dict)
    slope: Losses = field(default_factory=dict)
    curvature: Losses = field(default_factory=dict)
    speed: Array = field(default_factory=lambda: np.empty(0))
    labels: tuple[str, ...] = ("start", "end")
    anchors: tuple[float, ...] = (0.0, 1.0)
    length: float | None = None
    interpolation: Interpolation | None = None
    estimate: Estimate | None = None
    provenance: Provenance = field(default_factory=Provenance)

    def __post_init__(self) -> None:
        freeze_coordinates(self, "alpha")
        points = len(self.alpha)
        freeze_tables(self, (points,))
        samples = {name: read_only(a, (None, points), name) for name, a in self.samples.items()}
        object.__setattr__(self, "samples", MappingProxyType(samples))
        for name in ("slope", "curvature"):
            table = getattr(self, name)
            frozen = {s: read_only(a, (points,), f"{name}[{s!r}]") for s, a in table.items()}
            object.__setattr__(self, name, MappingProxyType(frozen))
        freeze(self, "speed", (len(self.speed) and points,))

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuilt(self)

    @property
    def first_split(self) -> str:
        """Name of the split that is the cost J."""
        return next(iter(self.loss))

    def interpolate(self, alpha: ArrayLike, split: str | None = None) -> Array:
        """Return the loss between the evaluated points.

        The interpolant is that of `thalweg.interpolation.fit_curve`, which passes through every
        point: a spline of the loss or of its logarithm, whichever predicts the points better.
        Where the slope is known, splines that have it are among the candidates.

        Args:
            alpha: Coordinates between the first and the last point; NaN comes back elsewhere.
            split: Name of a split; the first one by default.

        Raises:
            ValueError: If the profile has no such split.

        Example:
            >>> walk = Profile(alpha=[0.0, 1.0, 2.0, 3.0], loss=[0.0, 1.0, 4.0, 9.0])
            >>> walk.interpolate([1.5]).round(6)
            array([2.25])
        """
        values = of_split(self, split)
        slope = self.slope.get(self.first_split if split is None else split)
        return fit_curve(self.alpha, values, slope)(alpha)

    def curvature_per_length(self, split: str | None = None) -> Array:
        """Return φ''/‖dθ/dα‖², the second derivative per squared length, shape (n,).

        On straight sections it is dᵀHd/dᵀd: a mean of the eigenvalues of H, weighted by the
        squared cosines of their eigenvectors with the section. On curves φ'' also holds ∇J·d²θ/dα².
        NaN where the section stands still.

        Args:
            split: Name of a split; the first one by default.

        Raises:
            ValueError: If the profile has no curvature, or no such split.
        """
        name = self.first_split if split is None else split
        if name not in self.curvature or len(self.speed) == 0:
            raise ValueError(
                "Curvature per length needs the curvature of that split and the speed; the "
                f"profile has it of {', '.join(map(repr, self.curvature)) or 'no split'}, not of "
                f"{name!r}. Use `curvature_along`."
            )
        scaled: Array = np.full(len(self.alpha), np.nan)
        return np.divide(self.curvature[name], self.speed**2, out=scaled, where=self.speed > 0)

    def standard_error(self, split: str | None = None) -> Array | None:
        """Return the standard error of a Monte-Carlo loss, or None where the loss is exact.

        Args:
            split: Name of a split; the first one by default.

        Returns:
            Sample standard deviation over the square root of the number of samples, shape
            (n,); None for an exact loss, NaN for a single sample.

        Raises:
            ValueError: If the profile has no such split.
        """
        of_split(self, split)
        name = self.first_split if split is None else split
        if name not in self.samples:
            return None
        drawn = self.samples[name]
        if len(drawn) < 2:
            return np.full(drawn.shape[1], np.nan)
        error: Array = drawn.std(axis=0, ddof=1) / np.sqrt(len(drawn))
        return error

    def to_xarray(self) -> "xarray.Dataset":
        """Return the same numbers with named axes: `loss(split, alpha)` and one variable a metric.

        Where slope and curvature are known, they are variables `slope(split, alpha)` and
        `curvature(split, alpha)`.

        Raises:
            ImportError: If xarray is not installed (`pip install thalweg[notebook]`).

        Example:
            >>> dataset = Profile(alpha=[0.0, 1.0], loss=[2.0, 1.0]).to_xarray()
            >>> float(dataset.loss.sel(split="train", alpha=1.0))
            1.0
        """
        dataset = labelled(self.loss, self.metrics, ("alpha",), {"alpha": self.alpha})
        if self.samples:
            stacked = np.stack(list(self.samples.values()))
            dataset["samples"] = (("sampled_split", "sample", "alpha"), stacked)
            dataset = dataset.assign_coords(sampled_split=list(self.samples))
        missing = np.full(len(self.alpha), np.nan)
        for name, table in (("slope", self.slope), ("curvature", self.curvature)):
            if table:
                stacked = np.stack([table.get(split, missing) for split in self.loss])
                dataset[name] = (("split", "alpha"), stacked)
        return dataset
