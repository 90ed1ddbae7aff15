"""Whether updates follow the gradient: their regression over the updates that are expected."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from thalweg.objectives.objective import Objective
from thalweg.probes.expected_update import ExpectedUpdate
from thalweg.probes.optimizer_rule import PLAIN, OptimizerRule
from thalweg.trajectory.trajectory import TrajectoryPoint

__all__ = ["UpdateRegression", "followed_rates"]

_PROPORTIONAL = 0.01  # what an update along −g may have beside it, as a share
_CLOSE, _SURE = 0.05, 4.0  # how far a slope may be from 1: itself, and in standard errors


class UpdateRegression:
    """Regression of what the gradient did to updates over what it is expected to do."""

    def __init__(self) -> None:
        self._along: list[float] = []
        self._square: list[float] = []
        self._alone = math.nan  # standard error from the entries of a single update

    def add(self, update: Tensor | None, expected: ExpectedUpdate) -> None:
        """Take one update; nothing where it or its expectation is not known."""
        if update is None or expected.mean is None or expected.pull is None:
            return
        pull = expected.pull.double()
        made = update.double() - (expected.mean.double() - pull)
        along, square = float(pull @ made), float(pull @ pull)
        if not (math.isfinite(along) and square > 0):
            return
        self._along.append(along)
        self._square.append(square)
        left = pull * (made - along / square * pull)
        self._alone = float(left.norm()) / square

    def slope(self) -> tuple[float, float]:
        """Return the slope and its standard error, from the spread between the snapshots."""
        count, total = len(self._along), sum(self._square)
        if not count:
            return math.nan, math.nan
        slope = sum(self._along) / total
        if count == 1:
            return slope, self._alone
        pairs = zip(self._along, self._square, strict=True)
        spread = sum((along - slope * square) ** 2 for along, square in pairs)
        return slope, math.sqrt(spread * count / (count - 1)) / total


def followed_rates(
    cost: Objective, points: Sequence[TrajectoryPoint], regression: UpdateRegression
) -> tuple[OptimizerRule, dict[int, float], str]:
    """Return the rule that a run without a named optimiser seems to follow.

    Args:
        cost: J.
        points: The snapshots.
        regression: Takes the updates over −ε g, where they do not follow that.

    Returns:
        Plain SGD, or an unknown rule; learning rates told from updates along −g, by the number
        of the point; and what was found, in words.
    """
    tried = UpdateRegression()
    rates: dict[int, float] = {}
    pairs: list[tuple[Tensor, ExpectedUpdate]] = []
    for point in points:
        update, theta = point.update, point.theta
        if update is None or not all(bool(torch.isfinite(v).all()) for v in (update, theta)):
            continue
        gradient = cost.gradient(theta)
        made = update.to(gradient)
        rate = point.learning_rate
        if math.isnan(rate):
            square = float(gradient.double() @ gradient.double())
            found = -float(made.double() @ gradient.double()) / square if square > 0 else math.nan
            beside = float((made + found * gradient).norm())
            if not (found > 0 and beside <= _PROPORTIONAL * float(made.norm())):
                continue
            rate = rates[point.index] = found
        pull = -rate * gradient
        pairs.append((made, ExpectedUpdate(pull, rate, pull)))
        tried.add(*pairs[-1])
    slope, error = tried.slope()
    error = 0.0 if math.isnan(error) else error
    if abs(slope - 1) <= max(_CLOSE, _SURE * error):
        note = "learning rate told from updates along the gradient" if rates else ""
        return PLAIN, rates, note or "updates consistent with gradient steps"
    for made, expected in pairs:
        regression.add(made, expected)
    return OptimizerRule("other", "unknown"), {}, "updates do not follow the gradient"
