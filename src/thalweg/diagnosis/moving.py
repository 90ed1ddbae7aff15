"""How a run moved from a point: its rate, momentum and preconditioner, and its noise."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from thalweg.diagnosis.alternatives import Optimizer
from thalweg.diagnosis.following import Following
from thalweg.diagnosis.stepping import Moments
from thalweg.objectives.curvature import curvature
from thalweg.objectives.model import ModelObjective
from thalweg.objectives.objective import Objective
from thalweg.probes.gradient_noise import (
    Deviations,
    batch_share,
    deviations_of,
    mean_of_forms,
)
from thalweg.probes.optimizer_rule import OptimizerRule, optimizer_rule
from thalweg.results import Array
from thalweg.trajectory.trajectory import Trajectory, TrajectoryPoint

__all__ = ["Movement", "movement_at"]

_PRODUCTS = 4  # with deviations of gradients


@dataclass(frozen=True)
class Movement:
    """What is known of how a run moved from one of its points.

    Attributes:
        optimizer: Rate, momentum and preconditioner.
        noise: Share of the descent term that the noise term takes, over the time in which
            momentum forgets; NaN where it cannot be told.
    """

    optimizer: Optimizer
    noise: float


def movement_at(
    objective: Objective,
    examples: int,
    point: TrajectoryPoint,
    following: Following,
    updates: Sequence[int],
    seed: int,
) -> Movement:
    """Return how a run moved from a point.

    Args:
        objective: The cost that derivatives are taken of.
        examples: Examples of all the data; 0 for a closed form.
        point: The point.
        following: How updates follow the gradient.
        updates: Points around it whose updates may be looked at.
        seed: Seed of mini-batches.
    """
    run = point.trajectory
    rule = optimizer_rule(run.facts)
    rate = _near(run.learning_rate, point.index)
    if rule is None or rule.family == "other" or not math.isfinite(rate):
        optimizer = Optimizer(following.pull, following.momentum)
        stated = False
    else:
        momentum = rule.momentum if rule.family == "sgd" else 0.0
        share = 1 - rule.dampening if momentum else 1.0
        optimizer = Optimizer(rate * share, momentum, stated_limit=share * rule.stability_limit)
        stated = True
    if not isinstance(objective, ModelObjective):
        return Movement(optimizer, _noise_of_updates(objective, run, following, updates))
    batch = _near(run.batch_size, point.index)
    share = batch_share(batch, examples) if math.isfinite(batch) else math.nan
    theta = objective.point(point.theta)
    adaptive = rule if rule is not None and rule.family == "adam" else None
    drawn = None  # gradients of mini-batches, where they are spread and it matters
    if math.isfinite(share) and (adaptive or (share > 0 and (stated or not following.exact))):
        drawn = deviations_of(objective, theta, examples, seed)
    if adaptive:
        moments = _moments(theta, adaptive, drawn, share)
        square = objective.gradient(theta).square() + moments.noise
        scaling = (square.sqrt() + moments.eps).rsqrt()
        optimizer = replace(optimizer, scaling=scaling, moments=moments)
    if not stated and following.exact:
        return Movement(optimizer, 0.0)
    if not math.isfinite(share):
        return Movement(optimizer, math.nan)
    return Movement(optimizer, _noise_of_batches(objective, theta, optimizer, drawn, share))


def _near(values: Array, index: int) -> float:
    """Return the value at a point, or the nearest one that is known."""
    known = [abs(other - index) for other in range(len(values)) if math.isfinite(values[other])]
    if not known:
        return math.nan
    away = min(known)
    for other in (index - away, index + away):
        if 0 <= other < len(values) and math.isfinite(values[other]):
            return float(values[other])
    return math.nan


def _moments(theta: Tensor, rule: OptimizerRule, drawn: Deviations | None, share: float) -> Moments:
    """Return what Adam's preconditioner is made of, the noise of its mini-batches among it."""
    noise = torch.zeros_like(theta) if drawn is None else share * drawn.variances().to(theta)
    return Moments(rule.betas, rule.eps, noise)


def _noise_of_batches(
    objective: ModelObjective,
    theta: Tensor,
    optimizer: Optimizer,
    drawn: Deviations | None,
    share: float,
) -> float:
    """Return the noise term over the descent term, from gradients of random mini-batches."""
    if share == 0:
        return 0.0
    if drawn is None:
        return math.nan
    point = curvature(objective, theta)
    scale = torch.ones_like(theta) if optimizer.scaling is None else optimizer.scaling.square()
    some = drawn.vectors[:_PRODUCTS].to(theta) * scale
    bent, _ = mean_of_forms(some, point.product, None, _PRODUCTS, drawn.whole)
    gradient = point.gradient.double()
    descent = float(gradient @ (scale.double() * gradient))
    noise = 0.5 * optimizer.effective * share * bent
    return max(noise, 0.0) / descent if descent > 0 else math.inf


def _noise_of_updates(
    objective: Objective, run: Trajectory, following: Following, updates: Sequence[int]
) -> float:
    """Return the noise term over the descent term, from what updates differ from expected ones."""
    if not following.real:
        return math.nan
    if following.exact:
        return 0.0
    noise = descent = 0.0
    for number in updates:
        update = run[number].update
        if update is None:
            continue
        theta = objective.point(run[number].theta)
        gradient = objective.gradient(theta)
        update = update.to(gradient)
        expected = -following.pull * gradient
        before = run[number - 1].update if number and following.momentum else None
        if before is not None:
            expected = expected + following.momentum * before.to(gradient)
        rest = update - expected
        noise += 0.5 * float(rest.double() @ objective.hvp(theta, rest).double())
        descent += following.pull * float(gradient.double() @ gradient.double())
    # Momentum adds up 1/(1 − μ) steps: their noise adds up in squares, their descent in lengths.
    noise /= 1 - following.momentum
    return noise / descent if descent > 0 else math.inf
