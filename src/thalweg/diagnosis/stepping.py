"""The steps of an optimiser with the full gradient, as another run from a point would take them."""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["AdaptiveSteps", "ConstantSteps", "Moments"]


@dataclass(frozen=True, eq=False)
class Moments:
    """What Adam's preconditioner is made of, beside the full gradient.

    Attributes:
        betas: β₁ and β₂.
        eps: What is added to the root of the second moment.
        noise: Variance of each entry of a mini-batch gradient, shape (P,): full gradients alone
            would make the second moments, which the run had from mini-batches, too small.
    """

    betas: tuple[float, float]
    eps: float
    noise: Tensor


class ConstantSteps:
    """Gradient descent with momentum, under a constant preconditioner."""

    def __init__(self, rate: float, momentum: float, scaling: Tensor | None) -> None:
        self.rate, self.momentum = rate, momentum
        self.metric = None if scaling is None else scaling.square()
        self.velocity: Tensor | None = None

    def update(self, gradient: Tensor) -> Tensor:
        """Return the next update, shape (P,)."""
        pull = -self.rate * (gradient if self.metric is None else self.metric * gradient)
        moved = pull if self.velocity is None else self.momentum * self.velocity + pull
        self.velocity = moved
        return moved


class AdaptiveSteps:
    """Adam, begun anew at the point."""

    def __init__(self, rate: float, moments: Moments) -> None:
        self.rate, self.moments = rate, moments
        self.first = torch.zeros_like(moments.noise)
        self.second = torch.zeros_like(moments.noise)
        self.steps = 0

    def update(self, gradient: Tensor) -> Tensor:
        """Return the next update, shape (P,)."""
        low, high = self.moments.betas
        self.steps += 1
        self.first = low * self.first + (1 - low) * gradient
        self.second = high * self.second + (1 - high) * gradient.square()
        mean = self.first / (1 - low**self.steps)
        square = self.second / (1 - high**self.steps) + self.moments.noise
        return -self.rate * mean / (square.sqrt() + self.moments.eps)
