"""The recorded points of one training run, read lazily."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from thalweg.results import Array
from thalweg.space import ParameterSpace
from thalweg.trajectory.points import PointsInMemory, PointSource

__all__ = ["Trajectory", "TrajectoryPoint"]


@dataclass(frozen=True, eq=False)
class Trajectory:
    """The points θ(t) of one training run, with what was noted on the way.

    Points are read when they are asked for, so that a trajectory may be larger than memory:
    `trajectory[i].theta` reads one, `trajectory.stream()` gives all in order, one at a time.

    Attributes:
        points: Where the points come from.
        step: Number of updates made before each point, shape (T,), ascending.
        epoch: Epoch of each point as far as it was said, shape (T,), NaN where it was not.
        learning_rate: Learning rate of the update made from each point, shape (T,), or NaN.
        loss: Mini-batch loss at each point, shape (T,), or NaN.
        space: Names and shapes of the parameters, or None where only vectors are known.
        facts: What made the run: versions, seed, optimiser, as far as it was said.

    Example:
        >>> walk = torch.tensor([[0.0, 0.0], [1.0, 0.5], [2.0, 0.0]], dtype=torch.float64)
        >>> trajectory = Trajectory.from_points(walk, learning_rate=0.1)
        >>> len(trajectory), trajectory[-1].step, trajectory[1].theta
        (3, 2, tensor([1.0000, 0.5000], dtype=torch.float64))
    """

    points: PointSource
    step: NDArray[np.int64]
    epoch: Array
    learning_rate: Array
    loss: Array
    space: ParameterSpace | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_points(
        cls,
        thetas: Tensor | Sequence[Tensor],
        learning_rate: ArrayLike | None = None,
        losses: ArrayLike | None = None,
    ) -> "Trajectory":
        """Make a trajectory of points in memory.

        Args:
            thetas: One point an update, shape (T, P); the type is kept.
            learning_rate: One for all, or one a point.
            losses: Loss at each point, shape (T,).
        """
        points = PointsInMemory(thetas)
        unknown = np.full(points.count, np.nan)
        return cls(
            points,
            np.arange(points.count),
            unknown,
            _one_a_point(learning_rate, points.count),
            _one_a_point(losses, points.count),
        )

    def __len__(self) -> int:
        return self.points.count

    def __getitem__(self, index: int) -> "TrajectoryPoint":
        at = range(len(self))[index]  # counts from the end, and raises past it
        return TrajectoryPoint(self, at)

    def __iter__(self) -> Iterator["TrajectoryPoint"]:
        return (self[index] for index in range(len(self)))

    def stream(self, start: int = 0, stop: int | None = None) -> Iterator[Tensor]:
        """Give the points in order, shape (P,) each; each may be overwritten by the next."""
        return self.points.stream(start, stop)


@dataclass(frozen=True)
class TrajectoryPoint:
    """One point of a trajectory; its parameters are read when they are asked for."""

    trajectory: Trajectory
    index: int

    @property
    def theta(self) -> Tensor:
        """The parameters, shape (P,)."""
        return self.trajectory.points.read(self.index)

    @property
    def step(self) -> int:
        """Number of updates made before this point."""
        return int(self.trajectory.step[self.index])

    @property
    def epoch(self) -> float:
        """Epoch, or NaN."""
        return float(self.trajectory.epoch[self.index])

    @property
    def learning_rate(self) -> float:
        """Learning rate of the update made from here, or NaN."""
        return float(self.trajectory.learning_rate[self.index])

    @property
    def loss(self) -> float:
        """Mini-batch loss here, or NaN."""
        return float(self.trajectory.loss[self.index])


def _one_a_point(values: ArrayLike | None, count: int) -> Array:
    """Return one value a point; NaN where nothing is known."""
    given = np.asarray(np.nan if values is None else values, dtype=np.float64)
    return np.broadcast_to(given, (count,)).copy()
