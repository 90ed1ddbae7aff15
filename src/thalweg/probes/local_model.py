"""The cost to second order in the eigenvectors of its Hessian, and how small a gradient is.

A gradient has no scale of its own: J → cJ and θ → cθ change it at will. What does not change is
how far off the critical point is that the curvature at hand predicts,

    displacement = ‖abs(H)⁻¹ ∇J‖,

compared with a length ℓ of the problem: ‖θ‖, unless the caller knows better. Far out on the
logistic cost of separable data gradient and Hessian are both as small as one likes, and the
displacement is not. Where the curvature is zero, a gradient must be zero up to its rounding.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.objectives.curvature import Curvature
from thalweg.objectives.objective import Objective
from thalweg.space import all_finite

__all__ = [
    "NULL",
    "LocalModel",
    "gradient_rounding",
    "krylov_space",
    "local_model",
    "norm_of",
    "rounded_points",
    "scale_of",
]

# Eigenvalues below this share of the largest decide nothing: what lies beyond second order does.
NULL = 1e-6
_SMALLEST_NORM = 1e-5  # a θ that is shorter has no length to compare with
_ROUNDINGS = 10.0  # how many times its measured rounding a number must exceed to be real
_TRIALS = 2


@dataclass(frozen=True, eq=False)
class LocalModel:
    """Eigenpairs of the Hessian, all or those of a Krylov space of the gradient.

    Attributes:
        eigenvalues: λᵢ, or Ritz values, ascending, shape (m,), float64.
        vectors: Unit vectors vᵢ as rows, shape (m, P).
        images: H vᵢ as rows, shape (m, P).
        slopes: vᵢ·∇J, shape (m,), float64.
        whole: Whether these are all.
        products: Number of Hessian-vector products that it took.
    """

    eigenvalues: Tensor
    vectors: Tensor
    images: Tensor
    slopes: Tensor
    whole: bool
    products: int

    @property
    def largest(self) -> float:
        """Largest size of an eigenvalue."""
        return float(self.eigenvalues.abs().max()) if len(self.eigenvalues) else 0.0

    def curved(self, zero: float | None = None) -> Tensor:
        """Tell which directions have a curvature that counts, shape (m,)."""
        zero = NULL * self.largest if zero is None else zero
        return self.eigenvalues.abs() > zero

    def along(self, coefficients: Tensor) -> Tensor:
        """Return Σ cᵢ vᵢ, shape (P,)."""
        return coefficients.to(self.vectors) @ self.vectors

    def newton(self) -> Tensor:
        """Return the coefficients −gᵢ/λᵢ of the step to the critical point, shape (m,)."""
        curved = self.curved()
        bent = torch.where(curved, self.eigenvalues, torch.ones_like(self.eigenvalues))
        return torch.where(curved, -self.slopes / bent, torch.zeros_like(bent))

    def displacement(self) -> float:
        """Return the length of that step."""
        return norm_of(self.newton())

    def unexplained(self, reach: float) -> float:
        """Return the norm of the gradient where curvature does not explain it.

        Args:
            reach: A displacement that is still small; a slope of up to λᵢ times it is explained.
        """
        loose = ~self.curved() & (self.slopes.abs() > self.eigenvalues.abs() * reach)
        return norm_of(self.slopes[loose])


def local_model(point: Curvature, krylov: int | None) -> LocalModel:
    """Return eigenpairs of the Hessian at a point.

    Args:
        point: The cost to second order there.
        krylov: Dimension of the Krylov space of the gradient, or None for the whole space.
    """
    if krylov is None or krylov >= point.size:
        matrix = point.dense()
        eigenvalues, columns = torch.linalg.eigh(matrix)
        vectors = columns.T
        return LocalModel(
            eigenvalues,
            vectors,
            eigenvalues[:, None] * vectors,
            vectors @ point.gradient.double().cpu(),
            True,
            point.size,
        )
    start = point.gradient
    if not float(start.norm()) > 0:  # any start shows the Hessian as well
        start = torch.randn(point.size, generator=torch.Generator().manual_seed(0)).to(start)
    basis, images = krylov_space(point.product, start, krylov)
    inner = (basis @ images.T).double().cpu()
    eigenvalues, turn = torch.linalg.eigh((inner + inner.T) / 2)
    turned = turn.T.to(basis)
    vectors = turned @ basis
    slopes = (vectors @ point.gradient.to(basis)).double().cpu()
    return LocalModel(eigenvalues, vectors, turned @ images, slopes, False, len(basis))


def krylov_space(
    product: Callable[[Tensor], Tensor], start: Tensor, steps: int
) -> tuple[Tensor, Tensor]:
    """Return an orthonormal basis of the Krylov space of a vector, and its image, a row each."""
    basis = start.new_empty((min(steps, len(start)), len(start)))
    images = torch.empty_like(basis)
    vector = start / start.norm()
    count = 0
    while count < len(basis) and all_finite(vector):
        basis[count] = vector
        rest = images[count] = product(vector)
        count += 1
        known = basis[:count]
        size = float(rest.norm())
        for _ in range(2):  # twice is enough to be orthogonal to rounding
            rest = rest - (known @ rest) @ known
        if not float(rest.norm()) > 1e3 * torch.finfo(rest.dtype).eps * size:
            break  # the space is invariant: it holds all that the gradient can reach
        vector = rest / rest.norm()
    return basis[:count], images[:count]


def scale_of(theta: Tensor, scale: float | None) -> float:
    """Return the length ℓ that distances are compared with."""
    if scale is not None:
        return scale
    norm = norm_of(theta)
    return norm if norm > _SMALLEST_NORM else 1.0


def gradient_rounding(objective: Objective, theta: Tensor, gradient: Tensor) -> float:
    """Return what the gradient may owe to rounding, from its change under rounding of θ."""
    moved = [objective.gradient(near) for near in rounded_points(objective, theta)]
    measured = max(norm_of(each - gradient) for each in moved)
    eps = torch.finfo(objective.rounding).eps
    return _ROUNDINGS * (measured + eps * norm_of(gradient))


def norm_of(vector: Tensor) -> float:
    """Return the Euclidean norm of a vector whose squares may be too small for float64."""
    largest = float(vector.abs().max()) if len(vector) else 0.0
    if not 0 < largest < math.inf:
        return largest
    return largest * float((vector.double() / largest).norm())


def rounded_points(objective: Objective, theta: Tensor) -> list[Tensor]:
    """Return points that differ from θ by a unit in the last place of each entry."""
    generator = torch.Generator().manual_seed(0)
    eps = torch.finfo(objective.rounding).eps
    signs = torch.randint(2, (_TRIALS, len(theta)), generator=generator) * 2 - 1
    return [theta * (1 + eps * sign.to(theta)) for sign in signs]
