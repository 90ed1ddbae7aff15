"""Gradient descent on a convex quadratic, whose points are made when they are read."""

from collections.abc import Iterator

import torch
from torch import Tensor

from thalweg.trajectory.points import PointSource
from thalweg.trajectory.trajectory import Trajectory

__all__ = ["QuadraticDescent", "quadratic_descent"]


def quadratic_descent(
    curvature: Tensor,
    solution: Tensor,
    *,
    learning_rate: float,
    momentum: float = 0.0,
    steps: int = 400,
) -> Trajectory:
    """Return the run of gradient descent with momentum on J = ½ Σ λ_i (θ_i − θ*_i)².

    It starts at 0 and takes v ← μ v − ε λ (θ − θ*), θ ← θ + v, each coordinate for itself. Without
    momentum θ_i(t) = (1 − (1 − ε λ_i)^t) θ*_i.

    Args:
        curvature: λ, shape (P,).
        solution: θ*, shape (P,).
        learning_rate: ε.
        momentum: μ.
        steps: Number of updates; there is one point more.

    Raises:
        ValueError: If the two vectors differ in shape, or `steps` is negative.

    Example:
        >>> run = quadratic_descent(
        ...     torch.tensor([1.0, 0.5]), torch.tensor([2.0, 2.0]), learning_rate=1.0, steps=2
        ... )
        >>> [point.tolist() for point in run.stream()]
        [[0.0, 0.0], [2.0, 1.0], [2.0, 1.5]]
    """
    if curvature.shape != solution.shape or curvature.ndim != 1 or steps < 0:
        raise ValueError(
            "Descent needs one curvature for each entry of the solution, and no negative number of "
            f"steps; got shapes {tuple(curvature.shape)} and {tuple(solution.shape)} and "
            f"steps={steps}. Give two vectors of one length."
        )
    points = QuadraticDescent(curvature, solution, learning_rate, momentum, steps)
    facts = {"kind": "quadratic descent", "momentum": momentum, "steps": steps}
    return Trajectory.of(points, learning_rate, facts=facts)


class QuadraticDescent(PointSource):
    """The points of a descent, made when they are read; any one at the cost of those before it.

    Args:
        curvature: λ, shape (P,).
        solution: θ*, shape (P,).
        learning_rate: ε.
        momentum: μ.
        steps: Number of updates.
    """

    def __init__(
        self,
        curvature: Tensor,
        solution: Tensor,
        learning_rate: float,
        momentum: float,
        steps: int,
    ) -> None:
        self.count, self.size, self.dtype = steps + 1, len(solution), solution.dtype
        self._solution = solution
        self._pull = learning_rate * curvature
        self._momentum = momentum

    def read(self, index: int) -> Tensor:
        """Return one point."""
        return next(self.stream(index, index + 1)).clone()

    def stream(self, start: int = 0, stop: int | None = None) -> Iterator[Tensor]:
        """Give points in order; each is overwritten by the next."""
        stop = self.count if stop is None else stop
        error = -self._solution  # θ − θ*
        velocity = torch.zeros_like(error)
        point = torch.empty_like(error)
        for index in range(stop):
            if index >= start:
                yield torch.add(error, self._solution, out=point)
            velocity.mul_(self._momentum).addcmul_(self._pull, error, value=-1)
            error.add_(velocity)
