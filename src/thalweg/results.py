"""What the probes return: frozen dataclasses of NumPy arrays and plain values.

This module is the waist of the package. Everything that computes with torch ends here, and
everything that measures, stores, draws or reports starts here, so nothing below this line
imports torch: a result can be stored, redrawn and questioned on a machine without it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thalweg.interpolation import fit_curve, fit_sheet

if TYPE_CHECKING:
    import xarray

__all__ = [
    "Array",
    "Ends",
    "Estimate",
    "History",
    "Interpolation",
    "Profile",
    "Provenance",
    "Surface",
]

Array = NDArray[np.float64]
Losses = Mapping[str, Array]
Metrics = Mapping[str, Mapping[str, Array]]


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What made a result: enough for two people to compare their pictures.

    Attributes:
        versions: Package name to version, of everything that touches the numbers.
        device: Where the objective was evaluated, such as `"cpu"` or `"cuda:0"`.
        dtype: Floating-point type of parameters and data, such as `"float32"`.
        threads: Number of CPU threads torch was allowed.
        objective: What was evaluated: model, loss, policies, and per split the number of
            examples, the number of terms in the mean and a checksum of the data.
        section: Where it was evaluated: kind, anchors, distances, rule of the directions.
        created: Time of the evaluation, ISO 8601 with time zone.
        seconds: Wall-clock time that the evaluation took.
    """

    versions: Mapping[str, str] = field(default_factory=dict)
    device: str = ""
    dtype: str = ""
    threads: int = 0
    objective: Mapping[str, Any] = field(default_factory=dict)
    section: Mapping[str, Any] = field(default_factory=dict)
    created: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, eq=False)
class Ends:
    """The two ends of a section, evaluated whether or not the grid holds them.

    Attributes:
        alpha: Coordinates of the two ends, shape (2,), ascending.
        loss: Split to loss at the two ends, shape (2,) each.
        metrics: Metric to split to value at the two ends, shape (2,) each.
    """

    alpha: Array
    loss: Losses
    metrics: Metrics = field(default_factory=dict)

    def __post_init__(self) -> None:
        _freeze_coordinates(self, "alpha", 2)
        _freeze_tables(self, (2,))

    def __reduce__(self) -> tuple[Any, ...]:
        return _reduce(self)


@dataclass(frozen=True, eq=False)
class Interpolation:
    """How good the values between the evaluated points are.

    Attributes:
        method: The interpolant, such as `"cubic spline of log J"`.
        tolerance: What was asked for, as a share of the range of the loss.
        expected: Largest error that is expected between the points, in units of the loss.
        bound: For each interval (or cell) what the error should not exceed, in units of the
            loss; for a line shape (n − 1,), for a surface (rows − 1, columns − 1). It is an
            estimate from how well the points predict one another, no proof.
        resolution: Width of the widest interval: what is narrower may have been missed.
        converged: Whether the tolerance was met within the number of points allowed.
    """

    method: str
    tolerance: float
    expected: float
    bound: Array
    resolution: float
    converged: bool

    def __post_init__(self) -> None:
        bound = np.asarray(self.bound, dtype=np.float64)
        _freeze(self, "bound", (None,) * bound.ndim)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reduce(self)


@dataclass(frozen=True, eq=False)
class Estimate:
    """How sure an estimated loss is.

    The examples were drawn at random and put into g groups; a group's deviation from the mean
    at every point tells how much values, and differences between points, would vary from one
    draw to another. For a surface the points are counted row by row.

    Attributes:
        deviations: For each group and point, scaled such that the covariance of the estimated
            values is `deviations.T @ deviations`, shape (g, n).
        multiplier: Standard errors that cover all points at once, with the stated confidence.
        confidence: Probability with which the intervals hold, and the answer is right.
        examples: Examples that were drawn.
        of: Examples that there are.
        seed: Seed of the draw.
        nodes: Coordinates at which the exact loss was evaluated, shape (K,) or (K, 2).
        question: What was asked, in words; empty where nothing was.
        answer: `"yes"`, `"no"`, or `"undetermined"` where a loss is not finite.
        interval: Lower and upper limit of the barrier or climb asked about.

    Example:
        >>> sure = Estimate(deviations=[[0.3, 0.4], [-0.3, -0.3]], multiplier=2.0)
        >>> sure.half_width.round(3), round(float(sure.difference(0, 1)), 3)
        (array([0.849, 1.   ]), 0.2)
    """

    deviations: Array
    multiplier: float
    confidence: float = 0.95
    examples: int = 0
    of: int = 0
    seed: int = 0
    nodes: Array = field(default_factory=lambda: np.empty(0))
    question: str = ""
    answer: str = ""
    interval: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        _freeze(self, "deviations", (None, None))
        nodes = np.asarray(self.nodes, dtype=np.float64)
        _freeze(self, "nodes", (None,) * nodes.ndim)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reduce(self)

    @property
    def standard_error(self) -> Array:
        """Standard error of the value at each point, shape (n,)."""
        error: Array = np.sqrt((self.deviations**2).sum(axis=0))
        return error

    @property
    def half_width(self) -> Array:
        """Half the width of the intervals that hold at all points at once, shape (n,)."""
        return self.multiplier * self.standard_error

    def difference(self, i: Any, j: Any) -> Array:
        """Return half the width of the interval of value i − value j.

        It holds for a difference that was named beforehand, not for the largest that is found.

        Args:
            i: Number of a point, or several.
            j: Likewise.
        """
        apart = self.deviations[:, i] - self.deviations[:, j]
        half: Array = self.multiplier * np.sqrt((apart**2).sum(axis=0))
        return half


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
    labels: tuple[str, ...] = ("start", "end")
    anchors: tuple[float, ...] = (0.0, 1.0)
    length: float | None = None
    interpolation: Interpolation | None = None
    estimate: Estimate | None = None
    provenance: Provenance = field(default_factory=Provenance)

    def __post_init__(self) -> None:
        _freeze_coordinates(self, "alpha")
        points = len(self.alpha)
        _freeze_tables(self, (points,))
        samples = {name: _read_only(a, (None, points), name) for name, a in self.samples.items()}
        object.__setattr__(self, "samples", MappingProxyType(samples))
        slope = {s: _read_only(a, (points,), f"slope[{s!r}]") for s, a in self.slope.items()}
        object.__setattr__(self, "slope", MappingProxyType(slope))

    def __reduce__(self) -> tuple[Any, ...]:
        return _reduce(self)

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
        values = _of_split(self, split)
        slope = self.slope.get(self.first_split if split is None else split)
        return fit_curve(self.alpha, values, slope)(alpha)

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
        _of_split(self, split)
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

        Where the slope is known, it is the variable `slope(split, alpha)`.

        Raises:
            ImportError: If xarray is not installed (`pip install thalweg[notebook]`).

        Example:
            >>> dataset = Profile(alpha=[0.0, 1.0], loss=[2.0, 1.0]).to_xarray()
            >>> float(dataset.loss.sel(split="train", alpha=1.0))
            1.0
        """
        dataset = _dataset(self.loss, self.metrics, ("alpha",), {"alpha": self.alpha})
        if self.samples:
            stacked = np.stack(list(self.samples.values()))
            dataset["samples"] = (("sampled_split", "sample", "alpha"), stacked)
            dataset = dataset.assign_coords(sampled_split=list(self.samples))
        if self.slope:
            missing = np.full(len(self.alpha), np.nan)
            stacked = np.stack([self.slope.get(split, missing) for split in self.loss])
            dataset["slope"] = (("split", "alpha"), stacked)
        return dataset


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
        _freeze_coordinates(self, "x")
        _freeze_coordinates(self, "y")
        _freeze(self, "anchors", (None, 2))
        _freeze(self, "gram", (2, 2))
        _freeze_tables(self, (len(self.y), len(self.x)))

    def __reduce__(self) -> tuple[Any, ...]:
        return _reduce(self)

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
        return fit_sheet(self.x, self.y, _of_split(self, split))(x, y)

    def to_xarray(self) -> "xarray.Dataset":
        """Return the same numbers with named axes: `loss(split, y, x)`.

        Raises:
            ImportError: If xarray is not installed (`pip install thalweg[notebook]`).
        """
        return _dataset(self.loss, self.metrics, ("y", "x"), {"y": self.y, "x": self.x})


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
        _freeze(self, "epoch", (None,))
        _freeze_tables(self, (len(self.epoch),))

    def __reduce__(self) -> tuple[Any, ...]:
        return _reduce(self)

    @property
    def first_split(self) -> str:
        """Name of the split that is the cost J."""
        return next(iter(self.loss))

    def to_xarray(self) -> "xarray.Dataset":
        """Return the same numbers with named axes: `loss(split, epoch)`.

        Raises:
            ImportError: If xarray is not installed (`pip install thalweg[notebook]`).
        """
        return _dataset(self.loss, self.metrics, ("epoch",), {"epoch": self.epoch})


def _of_split(result: Any, split: str | None) -> Array:
    """Return the loss of one split, the first by default."""
    name = result.first_split if split is None else split
    if name not in result.loss:
        known = ", ".join(repr(known) for known in result.loss)
        raise ValueError(f"`split` must be one of {known}; got {name!r}. Name one of these.")
    values: Array = result.loss[name]
    return values


def _read_only(values: ArrayLike, shape: tuple[int | None, ...], name: str) -> Array:
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


def _freeze(result: object, name: str, shape: tuple[int | None, ...]) -> None:
    """Replace one field by its read-only array."""
    object.__setattr__(result, name, _read_only(getattr(result, name), shape, name))


def _freeze_coordinates(result: object, name: str, points: int | None = None) -> None:
    """Replace one field by its read-only array, which must be finite and ascend strictly."""
    _freeze(result, name, (points,))
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


def _freeze_tables(result: Any, shape: tuple[int, ...]) -> None:
    """Replace `loss` and `metrics` by read-only tables of read-only arrays."""
    loss = result.loss if isinstance(result.loss, Mapping) else {"train": result.loss}
    if not loss:
        raise ValueError("A result needs the loss of one split at least; `loss` is empty.")
    frozen = {split: _read_only(a, shape, f"loss[{split!r}]") for split, a in loss.items()}
    metrics = {
        metric: MappingProxyType(
            {s: _read_only(a, shape, f"metrics[{metric!r}][{s!r}]") for s, a in table.items()}
        )
        for metric, table in result.metrics.items()
    }
    object.__setattr__(result, "loss", MappingProxyType(frozen))
    object.__setattr__(result, "metrics", MappingProxyType(metrics))


def _dataset(
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


def _reduce(result: Any) -> tuple[Any, ...]:
    """Say how to copy or pickle a result: read-only tables cannot be, plain ones can."""
    content = {field.name: _plain(getattr(result, field.name)) for field in fields(result)}
    kind: Callable[..., Any] = type(result)
    return partial(kind, **content), ()


def _plain(value: Any) -> Any:
    """Turn read-only tables into plain dictionaries."""
    if isinstance(value, MappingProxyType):
        return {key: _plain(item) for key, item in value.items()}
    return value
