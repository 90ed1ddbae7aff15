"""Where the steps of a run went: descent, curvature and noise beside the true change."""

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from thalweg.results.frozen import Array, freeze, rebuilt
from thalweg.results.labelled import import_xarray
from thalweg.results.provenance import Provenance

if TYPE_CHECKING:
    import xarray

__all__ = ["StepBudget"]


def _unknown() -> Array:
    """Return what stands for numbers that were not given; it gets the length of the others."""
    return np.empty(0)


@dataclass(frozen=True, eq=False)
class StepBudget:
    """What updates of a run are expected to change in J, to second order, and what they did.

    An update u at θ, with the gradient g and the Hessian H of J there, has the expectation ū and
    the covariance Cov(u) over the mini-batch that it was computed from, given all that the
    optimiser remembers. To second order

        E[J(θ + u) − J(θ)] = gᵀū + ½ ūᵀHū + ½ tr(H Cov(u)) = descent + curvature + noise,

    which for plain SGD with step size ε and batch size B is −ε gᵀg + ½ ε² gᵀHg + ½ ε² tr(HΣ)/B.
    All arrays have one entry a snapshot, shape (n,); NaN where something is not known.

    Attributes:
        steps: Number of updates made before each snapshot, ascending.
        learning_rate: Learning rate ε of the update.
        batch_size: Examples B that its gradient was taken over.
        loss: J(θ).
        descent: gᵀū.
        curvature: ½ ūᵀHū; where the noise is NaN, it is in here.
        noise: ½ tr(H Cov(u)).
        actual: J(θ + u) − J(θ) for the update u that was made.
        full_gradient: J(θ + ū) − J(θ): the same step with the gradient over all examples.
        rounding: What rounding can have changed in `actual`, to first order.
        squared_update: uᵀu.
        cosine: Cosine of the angle between u and −g.
        squared_gradient: gᵀg.
        gradient_curvature: gᵀHg.
        largest_eigenvalue: λ_max of H, or of D^½ H D^½ under a diagonal preconditioner D.
        eigenvalue_error: Norm of its residual: some eigenvalue is no further off.
        stability_limit: ε λ_max up to which the optimiser converges on a quadratic cost.
        gradient_variance: tr Σ, the variance of the gradient of one example; of one update where
            the cost has no examples.
        gradient_variance_error: Standard error of it.
        curvature_variance: tr(HΣ).
        curvature_variance_error: Standard error of it.
        noise_error: Standard error of `noise`.
        loss_error: Standard error of `loss` as that of all the data, from its subsample; 0 where
            all the data was used.
        descent_error: Standard error of `descent`, likewise. To first order it is also that of
            `actual` and `full_gradient`.
        consistency: Slope of the updates over those expected, all snapshots together: 1 for an
            optimiser that follows this gradient, 0 for a random walk.
        consistency_error: Standard error of it.
        optimizer: The optimiser, in words.
        method: How expectation and covariance of the updates were found, in words.
        examples: Examples that the numbers are from; 0 where the cost has none.
        of: Examples that there are.
        provenance: What made this result.

    Sources: Goodfellow, Bengio & Courville (2016), section 4.3.1 and equation 8.10; McCandlish,
    Kaplan & Amodei (2018), "An empirical model of large-batch training", section 2.

    Example:
        >>> budget = StepBudget(
        ...     steps=[0, 10],
        ...     learning_rate=[0.5, 0.5],
        ...     descent=[-2.0, -0.5],
        ...     curvature=[0.5, 0.25],
        ...     noise=[0.25, 0.5],
        ...     actual=[-1.25, 0.25],
        ...     squared_gradient=[4.0, 1.0],
        ...     gradient_curvature=[4.0, 2.0],
        ... )
        >>> budget.predicted, budget.optimal_step, budget.uphill
        (array([-1.25,  0.25]), array([1. , 0.5]), 0.5)
    """

    steps: Array
    learning_rate: Array = field(default_factory=_unknown)
    batch_size: Array = field(default_factory=_unknown)
    loss: Array = field(default_factory=_unknown)
    descent: Array = field(default_factory=_unknown)
    curvature: Array = field(default_factory=_unknown)
    noise: Array = field(default_factory=_unknown)
    actual: Array = field(default_factory=_unknown)
    full_gradient: Array = field(default_factory=_unknown)
    rounding: Array = field(default_factory=_unknown)
    squared_update: Array = field(default_factory=_unknown)
    cosine: Array = field(default_factory=_unknown)
    squared_gradient: Array = field(default_factory=_unknown)
    gradient_curvature: Array = field(default_factory=_unknown)
    largest_eigenvalue: Array = field(default_factory=_unknown)
    eigenvalue_error: Array = field(default_factory=_unknown)
    stability_limit: Array = field(default_factory=_unknown)
    gradient_variance: Array = field(default_factory=_unknown)
    gradient_variance_error: Array = field(default_factory=_unknown)
    curvature_variance: Array = field(default_factory=_unknown)
    curvature_variance_error: Array = field(default_factory=_unknown)
    noise_error: Array = field(default_factory=_unknown)
    loss_error: Array = field(default_factory=_unknown)
    descent_error: Array = field(default_factory=_unknown)
    consistency: float = float("nan")
    consistency_error: float = float("nan")
    optimizer: str = ""
    method: str = ""
    examples: int = 0
    of: int = 0
    provenance: Provenance = field(default_factory=Provenance)

    def __post_init__(self) -> None:
        freeze(self, "steps", (None,))
        if np.any(np.diff(self.steps) <= 0):
            raise ValueError(
                "Snapshots are in the order of the run, each once; `steps` repeats or goes back. "
                "Sort them."
            )
        for name in self.names[1:]:
            if len(getattr(self, name)) == 0:
                object.__setattr__(self, name, np.full(len(self.steps), np.nan))
            freeze(self, name, (len(self.steps),))

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuilt(self)

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the arrays with one entry a snapshot; `steps` is the first."""
        return tuple(item.name for item in fields(self) if item.type is Array)

    @property
    def update_known(self) -> Array:
        """1 where an update is known and finite, else 0."""
        known: Array = np.isfinite(self.squared_update).astype(np.float64)
        return known

    @property
    def predicted(self) -> Array:
        """Expected change to second order: descent + curvature + noise."""
        inside = np.isnan(self.noise) & ~np.isnan(self.curvature)  # of the curvature
        change: Array = self.descent + self.curvature + np.where(inside, 0.0, self.noise)
        return change

    @property
    def optimal_step(self) -> Array:
        """ε* = gᵀg / gᵀHg, the best step along −g; infinite where gᵀHg ≤ 0."""
        bent = self.gradient_curvature
        with np.errstate(divide="ignore", invalid="ignore"):
            best: Array = np.where(bent <= 0, np.inf, self.squared_gradient / bent)
        return best

    @property
    def stability(self) -> Array:
        """ε λ_max, to be compared with `stability_limit`."""
        product: Array = self.learning_rate * self.largest_eigenvalue
        return product

    @property
    def simple_noise_scale(self) -> Array:
        """Batch size tr Σ / gᵀg at which noise is as long as the gradient (McCandlish et al.).

        Where g is of a subsample, what its own noise adds to gᵀg is taken off; infinite where
        nothing is left.
        """
        return self._ratio(self.gradient_variance, self.squared_gradient)

    @property
    def noise_scale(self) -> Array:
        """Batch size tr(HΣ) / gᵀHg at which noise costs as much as curvature (McCandlish et al.).

        As for `simple_noise_scale`; of no meaning where H is not positive along g and the noise.
        """
        return self._ratio(self.curvature_variance, self.gradient_curvature)

    @property
    def uphill_steps(self) -> int:
        """Number of updates that raised J by more than rounding can have done."""
        margin = np.where(np.isnan(self.rounding), 0.0, self.rounding)
        return int(np.sum(self.actual > margin))

    @property
    def counted_steps(self) -> int:
        """Number of updates whose change of J is known."""
        return int(np.sum(~np.isnan(self.actual)))

    @property
    def uphill(self) -> float:
        """Share of updates that raised J; for its interval see `thalweg.uphill_interval`."""
        return self.uphill_steps / self.counted_steps if self.counted_steps else float("nan")

    @property
    def variation(self) -> float:
        """Coefficient of variation of gᵀHg: standard deviation over the size of the mean."""
        known = self.gradient_curvature[np.isfinite(self.gradient_curvature)]
        mean = abs(float(known.mean())) if len(known) else 0.0
        return float(known.std(ddof=1)) / mean if len(known) > 1 and mean > 0 else float("nan")

    def to_xarray(self) -> "xarray.Dataset":
        """Return all arrays, and the predicted change, over the step.

        Raises:
            ImportError: If xarray is not installed (`pip install thalweg[notebook]`).
        """
        names = (*self.names[1:], "predicted", "optimal_step", "stability", "noise_scale")
        variables = {name: (("step",), getattr(self, name)) for name in names}
        dataset: xarray.Dataset = import_xarray().Dataset(variables, coords={"step": self.steps})
        return dataset

    def _ratio(self, spread: Array, size: Array) -> Array:
        """Return noise over signal, without what noise adds to the signal of a subsample."""
        if 0 < self.examples < self.of:
            left = 1 / self.examples - 1 / self.of
            size = size - spread * self.of / (self.of - 1) * left
        with np.errstate(divide="ignore", invalid="ignore"):
            scale: Array = np.where((size <= 0) & (spread > 0), np.inf, spread / size)
        return scale
