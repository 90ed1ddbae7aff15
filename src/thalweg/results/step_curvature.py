"""What a step is predicted to gain, from slope and curvature, and what it gains."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from thalweg.results.frozen import Array, freeze, rebuilt
from thalweg.results.labelled import import_xarray
from thalweg.results.provenance import Provenance

if TYPE_CHECKING:
    import xarray

__all__ = ["StepCurvature"]


@dataclass(frozen=True, eq=False)
class StepCurvature:
    """The cost of steps θ − ε d from one point: predicted to second order, and true.

    With gradient g and Hessian H at θ, J(θ − ε d) − J(θ) ≈ −ε gᵀd + ½ ε² dᵀHd. For d = g these
    are gᵀg and gᵀHg (Goodfellow, Bengio & Courville 2016, equation 4.9).

    Attributes:
        step_size: ε, ascending, shape (n,).
        actual: J(θ − ε d) − J(θ), shape (n,).
        rounding: What rounding can have changed in `actual`, to first order, shape (n,).
        loss: J(θ).
        slope: gᵀd: gᵀg for a step along the gradient.
        curvature: dᵀHd: gᵀHg for a step along the gradient.
        squared_length: dᵀd.
        squared_gradient: gᵀg.
        along: What d is, in words.
        eigenvalues: λ of the given eigenpairs of H, shape (k,); empty where none were given.
        cosines: Cosines of their eigenvectors with d, shape (k,).
        provenance: What made this result.

    Example:
        >>> step = StepCurvature(
        ...     step_size=[0.5], actual=[-1.0], slope=4.0, curvature=8.0, squared_length=4.0
        ... )
        >>> step.optimal_step, step.rayleigh, step.predicted
        (0.5, 2.0, array([-1.]))
    """

    step_size: Array
    actual: Array
    rounding: Array = field(default_factory=lambda: np.empty(0))
    loss: float = float("nan")
    slope: float = float("nan")
    curvature: float = float("nan")
    squared_length: float = float("nan")
    squared_gradient: float = float("nan")
    along: str = "gradient"
    eigenvalues: Array = field(default_factory=lambda: np.empty(0))
    cosines: Array = field(default_factory=lambda: np.empty(0))
    provenance: Provenance = field(default_factory=Provenance)

    def __post_init__(self) -> None:
        freeze(self, "step_size", (None,))
        if np.any(np.diff(self.step_size) < 0):
            raise ValueError(
                "Step sizes must ascend; `step_size` goes back. Sort them, and `actual` with them."
            )
        freeze(self, "actual", (len(self.step_size),))
        if len(self.rounding) == 0:  # not known
            object.__setattr__(self, "rounding", np.full(len(self.step_size), np.nan))
        freeze(self, "rounding", (len(self.step_size),))
        freeze(self, "eigenvalues", (None,))
        freeze(self, "cosines", (len(self.eigenvalues),))

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuilt(self)

    @property
    def rayleigh(self) -> float:
        """Curvature per squared length, dᵀHd/dᵀd: a weighted mean of the eigenvalues of H."""
        return self.curvature / self.squared_length if self.squared_length > 0 else float("nan")

    @property
    def optimal_step(self) -> float:
        """ε* = gᵀd/dᵀHd, which minimises the prediction.

        Infinite where dᵀHd ≤ 0: every step is predicted to improve, the longer the more.
        """
        if np.isnan(self.curvature):
            return float("nan")
        return self.slope / self.curvature if self.curvature > 0 else float("inf")

    @property
    def predicted(self) -> Array:
        """The change to second order, −ε gᵀd + ½ ε² dᵀHd, shape (n,)."""
        change: Array = self.first_order + 0.5 * self.step_size**2 * self.curvature
        return change

    @property
    def first_order(self) -> Array:
        """The change to first order, −ε gᵀd, shape (n,)."""
        change: Array = -self.step_size * self.slope
        return change

    @property
    def explained(self) -> float:
        """Curvature that the given eigenpairs account for: dᵀd Σ λ_i cos².

        All of dᵀHd = dᵀd Σ λ_i cos² where the spectrum is complete.
        """
        return float(self.squared_length * (self.eigenvalues * self.cosines**2).sum())

    @property
    def remainder(self) -> float:
        """Curvature that they leave, dᵀHd − `explained`."""
        return self.curvature - self.explained

    @property
    def captured(self) -> float:
        """Share Σ cos² of the squared length of d that lies in their span."""
        return float((self.cosines**2).sum())

    def to_xarray(self) -> "xarray.Dataset":
        """Return `actual`, `predicted`, `first_order` and `rounding` over the step size.

        Raises:
            ImportError: If xarray is not installed (`pip install thalweg[notebook]`).
        """
        names = ("actual", "predicted", "first_order", "rounding")
        variables = {name: (("step_size",), getattr(self, name)) for name in names}
        dataset: xarray.Dataset = import_xarray().Dataset(
            variables, coords={"step_size": self.step_size}
        )
        return dataset
