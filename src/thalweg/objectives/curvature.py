"""The cost to second order at one point: value, gradient, and products with its curvature."""

from collections.abc import Sequence
from typing import Literal

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from thalweg.objectives.function import FunctionObjective
from thalweg.objectives.objective import Objective

__all__ = ["Curvature", "CurvatureKind", "curvature"]

CurvatureKind = Literal["hessian", "gauss-newton"]


class Curvature:
    """What J does to second order at θ, over the whole first split: a linear operator.

    Made by `curvature`; everything that is about θ alone is computed once, so that further
    products cost less than the first.

    Attributes:
        objective: J.
        theta: The point, shape (P,).
        kind: Which matrix: the Hessian or the Gauss-Newton matrix.
        names: Names of the tensors that it is restricted to, in the order of θ; all by default.
        size: n, the number of their entries: the matrix is (n, n).
        method: How products are computed, in words.
        value: J(θ).
        gradient: ∇J(θ) restricted to these tensors, shape (n,), in the objective's type.
    """

    def __init__(
        self, objective: Objective, theta: Tensor, kind: CurvatureKind, names: tuple[str, ...]
    ) -> None:
        self.objective, self.theta, self.kind, self.names = objective, theta, kind, names
        blocks = [block for block in objective.space.blocks if block.name in names]
        self._places = torch.cat([torch.arange(block.start, block.stop) for block in blocks]).to(
            objective.device
        )
        self.size = len(self._places)
        formula = isinstance(objective, FunctionObjective) and objective.has_formula
        self.method = "formula" if formula else "double backward"
        self.value = objective.value(theta)
        self.gradient = objective.gradient(theta)[self._places]

    def products(self, vectors: Tensor) -> Tensor:
        """Return the products with k vectors, shape (k, n) for (k, n), in the objective's type."""
        full = self.embedded(vectors)
        rows = [self.objective.hvp(self.theta, each)[self._places] for each in full]
        return torch.stack(rows) if rows else full[:, self._places]

    def product(self, vector: Tensor) -> Tensor:
        """Return the product with one vector, shape (n,)."""
        return self.products(vector[None])[0]

    def embedded(self, vectors: Tensor) -> Tensor:
        """Return vectors of this operator as vectors of R^P, zero outside its tensors."""
        full = vectors.new_zeros((*vectors.shape[:-1], self.objective.space.size))
        full[..., self._places] = vectors
        return full

    def dense(self) -> Tensor:
        """Return the whole matrix, symmetrised, shape (n, n), float64 on the CPU."""
        unit = torch.eye(self.size, dtype=self.objective.dtype, device=self.objective.device)
        matrix = self.products(unit).double().cpu()
        return (matrix + matrix.T) / 2


def curvature(
    objective: Objective,
    theta: Tensor | ArrayLike,
    *,
    kind: CurvatureKind = "hessian",
    within: str | Sequence[str] | None = None,
) -> Curvature:
    """Return the cost to second order at a point.

    Args:
        objective: J.
        theta: Shape (P,).
        kind: `"hessian"` or `"gauss-newton"`.
        within: Names of tensors, or of layers (prefixes of names), to be restricted to.
    """
    point = objective.point(theta)
    names = tuple(block.name for block in objective.space.blocks)
    if within is not None:
        wanted = [within] if isinstance(within, str) else list(within)
        names = tuple(n for n in names if any(n == w or n.startswith(f"{w}.") for w in wanted))
    return Curvature(objective, point, kind, names)
