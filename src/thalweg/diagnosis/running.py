"""What a run was, as far as the diagnosis needs it: its snapshots, costs and settings."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from thalweg.objectives.model import ModelObjective
from thalweg.objectives.objective import Objective
from thalweg.progress import Progress
from thalweg.results import Array
from thalweg.space import all_finite
from thalweg.trajectory.trajectory import Trajectory

__all__ = ["RunCosts", "cost_at", "costs_of", "evenly_spread"]


def cost_at(objective: Objective, theta: Tensor) -> float:
    """Return J(θ), infinite where θ or J is not finite."""
    if not all_finite(theta):
        return math.inf
    value = objective.value(theta)
    return value if math.isfinite(value) else math.inf


def evenly_spread(steps: NDArray[np.int64], most: int) -> NDArray[np.intp]:
    """Return which snapshots are nearest to evenly spread steps, first and last among them."""
    if len(steps) <= most:
        return np.arange(len(steps))
    wanted = np.linspace(steps[0], steps[-1], most)
    nearest = np.abs(steps[None, :] - wanted[:, None]).argmin(axis=1)
    return np.unique(nearest).astype(np.intp)


@dataclass(frozen=True, eq=False)
class RunCosts:
    """J at snapshots of a run.

    Attributes:
        index: Which points of the trajectory, shape (n,), ascending.
        step: Their steps, shape (n,).
        loss: J there, shape (n,); infinite from where the run had diverged.
        held_out: The same on the second split; empty without one.
    """

    index: NDArray[np.intp]
    step: Array
    loss: Array
    held_out: Array

    @property
    def start(self) -> float:
        """J at the first snapshot."""
        return float(self.loss[0])

    @property
    def last(self) -> float:
        """J at the last snapshot."""
        return float(self.loss[-1])

    @property
    def best(self) -> float:
        """The lowest J."""
        return float(self.loss.min())

    @property
    def steps(self) -> float:
        """Number of steps from the first to the last snapshot."""
        return float(self.step[-1] - self.step[0])

    def settled(self, first: float, last: float) -> float:
        """Return the level of J by the end of a stretch: the mean over its last quarter."""
        inside = (self.step > last - 0.25 * (last - first)) & (self.step <= last)
        values = self.loss[inside] if inside.any() else self.loss[self.step <= last][-1:]
        return float(values.mean())


def costs_of(
    objective: Objective, trajectory: Trajectory, chosen: Sequence[int], report: Progress
) -> RunCosts:
    """Return J at some points of a trajectory, on two splits where the cost has them."""
    losses, held_out = [], []
    for done, number in enumerate(chosen):
        report(done, len(chosen), "cost along the run")
        theta = trajectory[number].theta.to(objective.device)
        if not isinstance(objective, ModelObjective) or len(objective.splits) < 2:
            losses.append(cost_at(objective, theta))
            continue
        first, second = _costs_at(objective, theta)
        losses.append(first)
        held_out.append(second)
    index = np.asarray(chosen, dtype=np.intp)
    step = trajectory.step[index].astype(np.float64)
    return RunCosts(index, step, np.array(losses), np.array(held_out))


def _costs_at(objective: ModelObjective, theta: Tensor) -> tuple[float, float]:
    """Return J on two splits, infinite where θ or J is not finite."""
    if not all_finite(theta):
        return math.inf, math.inf
    loss = objective.evaluate(objective.point(theta)).loss
    first, second = (loss[split.name] for split in objective.splits)
    return (first if math.isfinite(first) else math.inf), (
        second if math.isfinite(second) else math.inf
    )
