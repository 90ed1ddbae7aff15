"""Some eigenvalues of a Hessian, or all of them."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thalweg.results.frozen import Array, freeze, rebuilt
from thalweg.results.provenance import Provenance

__all__ = ["Spectrum"]


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Eigenvalues λ of the Hessian H of a cost at one point, each with its residual.

    For the symmetric H an exact eigenvalue lies within ‖H v − λ v‖ of λ. They are ordered
    algebraically: the last is the largest, the first the smallest of what was asked for,
    whatever their magnitudes.

    Attributes:
        eigenvalues: Ascending, shape (m,).
        residuals: ‖H v − λ v‖ for each, from a product with v of unit length, shape (m,).
        eigenvectors: Of unit length, one a row, shape (m, P), so that they can be directions of
            sections; zero outside the tensors that the matrix was restricted to. Shape (0, 0)
            where they were not kept.
        size: n, the number of rows of the matrix.
        ends: Which eigenvalues these are: `"all"`, or at which ends, `"both"`, `"largest"` or
            `"smallest"`.
        tolerance: Residual that counts as converged, as a share of `scale`.
        scale: Largest magnitude of an eigenvalue that was seen.
        complete: Whether it was made sure, with 99 % probability, that nothing is missing that
            should be among these, such as copies of a multiple eigenvalue.
        kind: Which matrix: `"hessian"` or `"gauss-newton"`.
        method: How it was computed, in words.
        products: Number of vectors that were multiplied by the matrix.
        loss: J at the point.
        gradient_norm: Norm of the gradient there, in the tensors of the matrix. Away from a
            critical point the curvature alone says little.
        provenance: What made this result.

    Example:
        >>> saddle = Spectrum([-2.0, 0.0, 2.0], residuals=[0.0, 1e-9, 0.5], scale=2.0)
        >>> saddle.converged
        array([ True,  True, False])
    """

    eigenvalues: Array
    residuals: Array
    eigenvectors: Array = field(default_factory=lambda: np.empty((0, 0)))
    size: int = 0
    ends: str = "all"
    tolerance: float = 1e-3
    scale: float = float("nan")
    complete: bool = True
    kind: str = "hessian"
    method: str = ""
    products: int = 0
    loss: float = float("nan")
    gradient_norm: float = float("nan")
    provenance: Provenance = field(default_factory=Provenance)

    def __post_init__(self) -> None:
        freeze(self, "eigenvalues", (None,))
        count = len(self.eigenvalues)
        if count == 0:
            raise ValueError(
                "A spectrum has one eigenvalue at least; `eigenvalues` is empty. Ask for k ≥ 1."
            )
        if np.any(np.diff(self.eigenvalues) < 0):
            raise ValueError(
                "Eigenvalues ascend; those given do not. Sort them, and their residuals alike."
            )
        freeze(self, "residuals", (count,))
        freeze(self, "eigenvectors", (count if np.size(self.eigenvectors) else None, None))

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuilt(self)

    @property
    def converged(self) -> NDArray[np.bool_]:
        """Whether each residual is at most `tolerance` · `scale`, shape (m,)."""
        good: NDArray[np.bool_] = self.residuals <= self.tolerance * self.scale
        return good
