"""An objective in closed form."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from thalweg.objectives.derivatives import gradient_at, products_at
from thalweg.objectives.objective import AnchorBuffers, Evaluation, Objective
from thalweg.objectives.pieces import FunctionPieces
from thalweg.space import ParameterSpace, TensorBlock

__all__ = ["FunctionObjective"]


class FunctionObjective(Objective):
    """A cost given by a formula, θ ↦ J(θ), written in torch.

    For functions with known answers, for teaching and for tests. Everything is float64.

    Args:
        f: Takes a float64 vector of shape (size,) and returns one number. It must be
            differentiable by torch for `gradient` and `hvp`.
        size: P.
        start: A starting point for training runs, or None.
        name: What to call it in results; the name of `f` by default.

    Example:
        >>> chain = FunctionObjective(lambda w: (1 - w[0] * w[1]) ** 2, size=2)
        >>> chain.value([2.0, 1.0])
        1.0
        >>> chain.gradient([2.0, 1.0])
        tensor([2., 4.], dtype=torch.float64)
        >>> chain.hvp([0.0, 0.0], [1.0, 0.0])
        tensor([ 0., -2.], dtype=torch.float64)
    """

    def __init__(
        self,
        f: Callable[[Tensor], Tensor],
        size: int,
        start: ArrayLike | None = None,
        *,
        name: str | None = None,
    ) -> None:
        if not callable(f):
            raise TypeError(
                f"A function of θ is needed; got {type(f).__name__}. Pass for example "
                "`lambda theta: theta.square().sum()`."
            )
        if size < 1:
            raise ValueError(f"`size` must be 1 or more; got {size}. It is the length of θ.")
        self.f = f
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

    def gradient(self, theta: Tensor | ArrayLike) -> Tensor:
        """Return ∇J(θ), shape (P,), float64."""
        return gradient_at(self, theta)

    def hvp(self, theta: Tensor | ArrayLike, vector: Tensor | ArrayLike) -> Tensor:
        """Return H(θ) v, float64: shape (P,), or (k, P) for a block of vectors."""
        return products_at(self, theta, vector)

    def pieces(self, theta: Tensor | ArrayLike, blocks: Sequence[TensorBlock]) -> FunctionPieces:
        """Return the formula as the one piece that there is."""
        return FunctionPieces(self, self.point(theta))

    def check(self, theta: Tensor) -> None:
        """Do nothing: a formula has no data and no state to disagree about."""

    def describe(self) -> Mapping[str, Any]:
        """Return the name and the size."""
        return {"function": self.name, "parameters": self.space.size}

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
