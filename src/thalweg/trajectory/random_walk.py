"""The control of every trajectory: a random walk of the same dimension."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.trajectory.points import PointSource
from thalweg.trajectory.trajectory import Trajectory

__all__ = ["RandomWalk", "random_walk"]

_MOST_KEPT = 8  # points that are kept to start again from


def random_walk(
    size: int, steps: int = 1000, seed: int = 0, *, dtype: torch.dtype = torch.float64
) -> Trajectory:
    """Return a random walk: x_0 = 0 and x_{t+1} = x_t + N(0, I).

    What is said of a trajectory because of its shape must not hold for this one. With the last
    point as "solution" it gives an arch of distance over projection that looks like that of a
    training run (Goodfellow et al. 2015, Fig. 11); `thalweg.random_walk_displacement` is its
    closed form. The points are made when they are read, so that a walk in a million dimensions
    takes the memory of a few points; each reading gives the same bits.

    Args:
        size: Number of dimensions d.
        steps: Number of steps; there is one point more.
        seed: Seed of the steps.
        dtype: Type of the points; float32 takes half the time.

    Raises:
        ValueError: If `size` is below 1 or `steps` below 0.

    Example:
        >>> walk = random_walk(3, steps=100, seed=1)
        >>> len(walk), walk[0].theta.tolist()
        (101, [0.0, 0.0, 0.0])
        >>> bool((walk[40].theta == walk[40].theta).all())
        True
    """
    if size < 1 or steps < 0:
        raise ValueError(
            "A random walk has one dimension at least, and no negative number of steps; got "
            f"size={size}, steps={steps}. Give positive numbers."
        )
    points = RandomWalk(size, steps, seed, dtype)
    facts = {"kind": "random walk", "size": size, "steps": steps, "seed": seed}
    return Trajectory.of(points, facts=facts)


@dataclass(frozen=True, eq=False)
class _Place:
    """A place to go on from: a point, and the random numbers of the next step."""

    point: Tensor
    state: Tensor


class RandomWalk(PointSource):
    """The points of a random walk, made when they are read.

    Some points on the way are kept together with the state of the generator, so that a single
    point is found without going all the way from the start.

    Args:
        size: Number of dimensions.
        steps: Number of steps.
        seed: Seed of the steps.
        dtype: Type of the points.
    """

    def __init__(self, size: int, steps: int, seed: int, dtype: torch.dtype) -> None:
        self.count, self.size, self.dtype = steps + 1, size, dtype
        self._apart = -(-self.count // _MOST_KEPT)
        start = torch.Generator().manual_seed(seed).get_state()
        self._kept = {0: _Place(torch.zeros(size, dtype=dtype), start)}

    def read(self, index: int) -> Tensor:
        """Return one point, at the cost of the steps from the last one that was kept."""
        return next(self.stream(index, index + 1)).clone()

    def stream(self, start: int = 0, stop: int | None = None) -> Iterator[Tensor]:
        """Give points in order; each is overwritten by the next."""
        stop = self.count if stop is None else stop
        known = max(place for place in [*self._kept] if place <= start)
        generator = torch.Generator()
        generator.set_state(self._kept[known].state)
        point = self._kept[known].point.clone()
        step = torch.empty_like(point)
        for index in range(known, stop):
            if index % self._apart == 0 and index not in self._kept:
                self._kept[index] = _Place(point.clone(), generator.get_state())
            if index >= start:
                yield point
            if index + 1 < stop:
                point += step.normal_(generator=generator)
