"""An objective in closed form."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from thalweg.objectives.derivatives import gradient_at, products_at
from thalweg.objectives.objective import AnchorBuffers, Evaluation, Objective
from thalweg.objectives.pieces import FunctionPieces
from thalweg.space import ParameterSpace, TensorBlock, as_vector

__all__ = ["FunctionObjective"]


class FunctionObjective(Objective):
    """A cost given by a formula, θ ↦ J(θ), written in torch.

    For functions with known answers, for teaching and for tests. Everything is float64.

    Args:
        f: Takes a float64 vector of shape (size,) and returns one number. It must be
            differentiable by torch for `gradient` and `hvp`, unless these are given.
        size: P.
        start: A starting point for training runs, or None.
        name: What to call it in results; the name of `f` by default.
        gradient: θ ↦ ∇J(θ) as a formula, shape (P,), or None for automatic differentiation.
        hvp: (θ, v) ↦ H(θ) v as a formula, shape (P,), or None for automatic differentiation.

    Example:
        >>> chain = FunctionObjective(lambda w: (1 - w[0] * w[1]) ** 2, size=2)
        >>> chain.value([2.0, 1.0])
        1.0
        >>> chain.gradient([2.0, 1.0])
        tensor([2., 4.], dtype=torch.float64)
        >>> chain.hvp([0.0, 0.0], [1.0, 0.0])
        tensor([ 0., -2.], dtype=torch.float64)
        >>> exact = FunctionObjective(
        ...     lambda x: x[0] ** 3, 1, gradient=lambda x: 3 * x**2, hvp=lambda x, v: 6 * x * v
        ... )
        >>> exact.hvp([2.0], [1.0])
        tensor([12.], dtype=torch.float64)
    """

    def __init__(
        self,
        f: Callable[[Tensor], Tensor],
        size: int,
        start: ArrayLike | None = None,
        *,
        name: str | None = None,
        gradient: Callable[[Tensor], Tensor] | None = None,
        hvp: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        if not callable(f):
            raise TypeError(
                f"A function of θ is needed; got {type(f).__name__}. Pass for example "
                "`lambda theta: theta.square().sum()`."
            )
        if size < 1:
            raise ValueError(f"`size` must be 1 or more; got {size}. It is the length of θ.")
        self.f, self._gradient, self._hvp = f, gradient, hvp
        self.space = ParameterSpace.plain(size)
        self.dtype = torch.float64
        self.device = torch.device("cpu")
        self.name = name or getattr(f, "__name__", type(f).__name__)
        self.start = None if start is None else self.point(start, "start")

    def evaluate(self, theta: Tensor, anchor_buffers: AnchorBuffers | None = None) -> Evaluation:
        """Return J(θ) as the loss of the one split `"train"`."""
        return Evaluation({"train": self.value(theta)})

    def value(self, theta: Tensor | ArrayLike) -> float:
        """Return J(θ)."""
        with torch.no_grad():
            return float(self.scalar(self.point(theta)))

    @property
    def has_formula(self) -> bool:
        """Whether products with the Hessian are a formula, too."""
        return self._hvp is not None

    def gradient(self, theta: Tensor | ArrayLike) -> Tensor:
        """Return ∇J(θ), shape (P,), float64."""
        if self._gradient is None:
            return gradient_at(self, theta)
        with torch.no_grad():
            return self._vector(self._gradient(self.point(theta)), "gradient")

    def hvp(self, theta: Tensor | ArrayLike, vector: Tensor | ArrayLike) -> Tensor:
        """Return H(θ) v, float64: shape (P,), or (k, P) for a block of vectors."""
        if self._hvp is None:
            return products_at(self, theta, vector)
        given, place = as_vector(vector), self.point(theta)
        rows = [self.point(row, "vector") for row in (given if given.ndim == 2 else given[None])]
        with torch.no_grad():
            found = [self._vector(self._hvp(place, row), "hvp") for row in rows]
        return torch.stack(found) if given.ndim == 2 else found[0]

    def pieces(self, theta: Tensor | ArrayLike, blocks: Sequence[TensorBlock]) -> FunctionPieces:
        """Return the formula as the one piece that there is."""
        return FunctionPieces(self, self.point(theta))

    def check(self, theta: Tensor) -> None:
        """Do nothing: a formula has no data and no state to disagree about."""

    def describe(self) -> Mapping[str, Any]:
        """Return the name and the size."""
        return {"function": self.name, "parameters": self.space.size}

    def _vector(self, given: Any, what: str) -> Tensor:
        """Insist on a float64 vector of R^P as the value of a formula."""
        if not isinstance(given, Tensor) or given.shape != (self.space.size,):
            came = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
            raise ValueError(
                f"`{what}` must return a tensor of shape ({self.space.size},); that of "
                f"{self.name!r} returns {came}. Return one entry for each of θ."
            )
        return given.detach().to(self.dtype)

    def scalar(self, point: Tensor) -> Tensor:
        """Evaluate the formula and insist on one number."""
        given: Any = self.f(point)
        if not isinstance(given, Tensor) and torch.is_grad_enabled():
            raise TypeError(
                f"The function must return a tensor where derivatives are asked for; {self.name!r} "
                f"returns a {type(given).__name__}. Leave out `.item()` or `float()`."
            )
        # A plain number would be rounded to torch's default type.
        value = given if isinstance(given, Tensor) else torch.tensor(given, dtype=torch.float64)
        if value.numel() != 1:
            raise ValueError(
                f"The function must return one number; {self.name!r} returns shape "
                f"{tuple(value.shape)}. Add `.sum()` or `.mean()`."
            )
        return value.reshape(())
