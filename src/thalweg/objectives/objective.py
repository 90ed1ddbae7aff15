"""What every objective can do."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from thalweg.errors import ParameterMismatchError
from thalweg.space import ParameterSpace, TensorBlock, all_finite, as_vector
from thalweg.stored import StoredPoint

if TYPE_CHECKING:
    from thalweg.objectives.pieces import Pieces

__all__ = ["AnchorBuffers", "Evaluation", "Objective", "expect_objective"]

# For each anchor of a section the buffers of its network, and the weights of one point.
AnchorBuffers = tuple[Sequence[Mapping[str, Tensor] | None], Sequence[float]]


@dataclass(frozen=True)
class Evaluation:
    """Everything one pass over the data gives at one point.

    Attributes:
        loss: Split to loss.
        metrics: Metric to split to value.
        samples: For a Monte-Carlo cost, split to the loss of each sample; else empty.
        slopes: Where they were asked for, split to the derivative of the loss along the section.
        curvatures: Where they were asked for, split to its second derivative.
    """

    loss: Mapping[str, float]
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    samples: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    slopes: Mapping[str, float] = field(default_factory=dict)
    curvatures: Mapping[str, float] = field(default_factory=dict)


class Objective(ABC):
    """A cost J: R^P → R, exact and deterministic over a stated finite data set.

    Attributes:
        space: The parameter space of θ.
        dtype: Floating-point type of the evaluation.
        device: Where it is evaluated.
    """

    space: ParameterSpace
    dtype: torch.dtype
    device: torch.device

    @abstractmethod
    def evaluate(self, theta: Tensor, anchor_buffers: AnchorBuffers | None = None) -> Evaluation:
        """Return the loss and the metrics on every split at one point.

        Args:
            theta: The point, shape (P,).
            anchor_buffers: Where the point lies on a section, for policies that combine the
                statistics of the anchors' networks.
        """

    @abstractmethod
    def value(self, theta: Tensor | ArrayLike) -> float:
        """Return J(θ): the loss on the first split."""

    @abstractmethod
    def gradient(self, theta: Tensor | ArrayLike) -> Tensor:
        """Return ∇J(θ), shape (P,)."""

    @abstractmethod
    def hvp(self, theta: Tensor | ArrayLike, vector: Tensor | ArrayLike) -> Tensor:
        """Return the product of the Hessian of J at θ with a vector, or with each of a block.

        Args:
            theta: θ, shape (P,).
            vector: Shape (P,), or (k, P) for a block, whose vectors share the passes.
        """

    def pieces(self, theta: Tensor | ArrayLike, blocks: Sequence[TensorBlock]) -> "Pieces":
        """Return what derivatives of J are made of, around a point.

        Args:
            theta: θ, shape (P,).
            blocks: The tensors that move.

        Raises:
            TypeError: If this kind of objective has none.
        """
        raise TypeError(
            "Curvature needs an objective that can be taken apart; got "
            f"{type(self).__name__}. Use ModelObjective or FunctionObjective."
        )

    @property
    def has_formula(self) -> bool:
        """Whether products with the Hessian are a formula that was given."""
        return False

    @property
    def ways(self) -> dict[Any, Any]:
        """Ways to second derivatives that were found to work here; filled by `curvature`."""
        found: dict[Any, Any] = vars(self).setdefault("_ways", {})
        return found

    @abstractmethod
    def check(self, theta: Tensor) -> None:
        """Raise unless two evaluations of one point agree.

        Raises:
            NonDeterministicObjectiveError: Names the cause as far as it can be told.
        """

    @abstractmethod
    def describe(self) -> Mapping[str, Any]:
        """Return plain facts about the objective, for the provenance of results."""

    @property
    def rounding(self) -> torch.dtype:
        """The type whose rounding the cost has."""
        return self.dtype

    def point(self, theta: Tensor | ArrayLike | StoredPoint, name: str = "θ") -> Tensor:
        """Return a vector of R^P in the type and on the device of this objective.

        Raises:
            TypeError: If it holds no numbers.
            ParameterMismatchError: If it has another shape.
            ValueError: If it is not finite.
        """
        given = theta.flat() if isinstance(theta, StoredPoint) else as_vector(theta)
        vector = given.to(self.device, self.dtype)
        if tuple(vector.shape) != (self.space.size,):
            raise ParameterMismatchError(
                f"{name} must have shape ({self.space.size},), one entry for each trainable "
                f"parameter; got {tuple(vector.shape)}. Use `objective.space.flatten(model)`."
            )
        if not all_finite(vector):
            where = int((~torch.isfinite(vector)).nonzero()[0, 0])
            raise ValueError(
                f"{name} must be finite; entry {where} is {float(vector[where])}. Use a point "
                "from before the training diverged."
            )
        return vector


def expect_objective(objective: Any) -> None:
    """Raise unless the first argument is an objective; a model is the likely mistake.

    Args:
        objective: What was passed.

    Raises:
        TypeError: If it is none.
    """
    if not isinstance(objective, Objective):
        raise TypeError(
            f"The first argument is an objective; got {type(objective).__name__}. Make one with "
            "`ModelObjective(model, loss, data)`."
        )
