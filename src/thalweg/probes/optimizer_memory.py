"""What an optimiser remembers before an update: recorded with the run, or told from its updates."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thalweg.probes.optimizer_rule import OptimizerRule
from thalweg.results import Array
from thalweg.space import ParameterSpace
from thalweg.trajectory.trajectory import Trajectory, TrajectoryPoint

__all__ = ["RecordedMemory", "momentum_before", "previous_point", "rates_at"]

# So many updates in a row tell Nesterov's buffer, whatever it was before them: what is wrong with
# it shrinks by μ/(1 + μ) < ½ with each.
_ENOUGH = 30


class RecordedMemory:
    """The state of an optimiser that was recorded with a point, as vectors of R^P.

    Args:
        state: Its `state_dict`.
        space: The parameters of the run.

    Attributes:
        order: Number of each tensor of the space in the optimiser; None where it cannot be told.
    """

    def __init__(self, state: Mapping[str, Any], space: ParameterSpace) -> None:
        self._entries: Mapping[Any, Mapping[str, Any]] = state["state"]
        self._groups = state["param_groups"]
        self._space = space
        order = [number for group in self._groups for number in group["params"]]
        if len(order) != len(space.blocks):  # those without a state may be frozen
            order = [number for number in order if self._entries.get(number)]
        fits = len(order) == len(space.blocks) and all(
            not isinstance(value, Tensor) or value.ndim == 0 or tuple(value.shape) == block.shape
            for number, block in zip(order, space.blocks, strict=False)
            for value in self._entries.get(number, {}).values()
        )
        self.order = order if fits else None

    @classmethod
    def of(cls, point: TrajectoryPoint) -> "RecordedMemory | None":
        """Return what was recorded with a point, or None where it is of no use."""
        state, space = point.optimizer_state, point.trajectory.space
        if state is None or space is None:
            return None
        found = cls(state, space)
        return None if found.order is None else found

    def vector(self, name: str, like: Tensor) -> Tensor | None:
        """Return one of the remembered vectors; None where no tensor has it yet."""
        assert self.order is not None
        kept = [self._entries.get(number, {}).get(name) for number in self.order]
        if all(part is None for part in kept):
            return None
        parts = [
            torch.zeros(block.size) if part is None else part.reshape(-1)
            for part, block in zip(kept, self._space.blocks, strict=True)
        ]
        return torch.cat([part.to(like) for part in parts])

    @property
    def updates(self) -> int:
        """Number of updates that it has made."""
        assert self.order is not None
        counts = [self._entries.get(number, {}).get("step", 0) for number in self.order]
        return int(max(float(count) for count in counts))

    def by_group(self, values: tuple[float, ...], like: Tensor) -> Tensor | None:
        """Return one value an entry of θ, from one a parameter group."""
        assert self.order is not None
        if len(values) != len(self._groups):
            return None
        group_of = {n: g for g, group in enumerate(self._groups) for n in group["params"]}
        parts = [
            torch.full((block.size,), values[group_of[number]], dtype=torch.float64)
            for number, block in zip(self.order, self._space.blocks, strict=True)
        ]
        return torch.cat(parts).to(like)


def rates_at(trajectory: Trajectory, index: int, rule: OptimizerRule) -> tuple[float, ...]:
    """Return the learning rates of the update from a point, one a parameter group."""
    logged: Array = trajectory.log.at(trajectory.step[[index]]).learning_rates[0]
    if len(logged) == len(rule.rates) > 1 and np.isfinite(logged).all():
        return tuple(map(float, logged))
    rate = float(trajectory.learning_rate[index])
    if np.isnan(rate):
        return rule.rates
    return (rate,) * len(rule.rates) if len(set(rule.rates)) == 1 else rule.rates


def previous_point(point: TrajectoryPoint) -> TrajectoryPoint | None:
    """Return the point one step before another, where it is there."""
    if point.index == 0 or point.trajectory.step[point.index - 1] != point.step - 1:
        return None
    return point.trajectory[point.index - 1]


def momentum_before(point: TrajectoryPoint, rule: OptimizerRule, like: Tensor) -> Tensor | None:
    """Return the momentum buffer before the update from a point, told from updates before it.

    Heavy ball: u = −ε b, so the last update is enough. Nesterov: u = −ε (d + μ b) with
    b = μ b₋ + d, so b = (μ b₋ − u/ε)/(1 + μ) from one update to the next.
    """
    before = _updates_before(point, 1 if not rule.nesterov else _ENOUGH)
    if not before or (rule.nesterov and len(before) < _ENOUGH and before[0].step != 0):
        return None
    buffer = None
    for each in before:
        update, (rate, *more) = each.update, rates_at(point.trajectory, each.index, rule)
        if update is None or (more and len({rate, *more}) > 1) or not rate > 0:
            return None
        pulled = -update.to(like) / rate
        if not rule.nesterov or (buffer is None and each.step != 0):
            buffer = pulled
        else:
            held = 0.0 if buffer is None else rule.momentum * buffer
            buffer = (held + pulled) / (1 + rule.momentum)
    return buffer


def _updates_before(point: TrajectoryPoint, most: int) -> list[TrajectoryPoint]:
    """Return the points of the last updates before a point, without a gap, in order."""
    found: list[TrajectoryPoint] = []
    before = previous_point(point)
    while before is not None and len(found) < most:
        found.insert(0, before)
        before = previous_point(before)
    return found
