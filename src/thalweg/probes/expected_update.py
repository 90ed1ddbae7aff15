"""What an update is expected to be over the mini-batch that it is made of.

With the gradient d̂ of the mini-batch, of mean d, all that an optimiser here does to it is linear,
or close to it:

    u = ū − s (d̂ − d),

where s is a number, or has one entry a parameter. So the covariance of u is that of s d̂, and what
is left of ū without the gradient is what momentum and weight decay do by themselves.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.probes.optimizer_memory import (
    RecordedMemory,
    momentum_before,
    previous_point,
    rates_at,
)
from thalweg.probes.optimizer_rule import OptimizerRule
from thalweg.trajectory.trajectory import TrajectoryPoint

__all__ = ["ExpectedUpdate", "expected_update"]


@dataclass(frozen=True, eq=False)
class ExpectedUpdate:
    """The expectation of an update, as far as it can be told.

    Attributes:
        mean: ū, shape (P,), or None.
        response: s, a number or of shape (P,), or None.
        pull: −s d, the part of ū that follows the gradient; None where s is.
        preconditioner: The diagonal D of adaptive methods, shape (P,), or None.
        method: How they were found, in words.
    """

    mean: Tensor | None
    response: Tensor | float | None
    pull: Tensor | None
    preconditioner: Tensor | None = None
    method: str = ""


def expected_update(
    rule: OptimizerRule,
    point: TrajectoryPoint,
    theta: Tensor,
    gradient: Tensor,
    rate: float,
    spread: Tensor | None,
) -> ExpectedUpdate:
    """Return what the update from a point is expected to be.

    Args:
        rule: The optimiser.
        point: The point, which knows the run.
        theta: θ, in the type of the cost.
        gradient: g.
        rate: ε, where the parameter groups share it.
        spread: Variances of the entries of the mini-batch gradient, shape (P,), or None.
    """
    unknown = ExpectedUpdate(None, None, None, None, "updates as they were made")
    if rule.family == "other":
        return unknown
    memory = RecordedMemory.of(point)
    rates = rates_at(point.trajectory, point.index, rule)
    step = _by_entry((rate,) if len(set(rates)) == 1 else rates, memory, theta)
    decay = _by_entry(rule.decays, memory, theta)
    if step is None or decay is None or (isinstance(step, float) and math.isnan(step)):
        return unknown
    # Decoupled weight decay is beside the gradient, the other kind is part of it.
    pulled = gradient if rule.decoupled or _is_zero(decay) else gradient + decay * theta
    aside = -step * decay * theta if rule.decoupled and not _is_zero(decay) else None
    make = _of_sgd if rule.family == "sgd" else _of_adam
    found = make(rule, point, memory, pulled, step, spread)
    if aside is None or found.mean is None:
        return found
    return ExpectedUpdate(
        found.mean + aside, found.response, found.pull, found.preconditioner, found.method
    )


def _by_entry(
    values: tuple[float, ...], memory: RecordedMemory | None, like: Tensor
) -> Tensor | float | None:
    """Return a setting of parameter groups as a number, or one an entry; None if unknown."""
    if len(set(values)) == 1 or len(values) == 1:
        return values[0]
    return None if memory is None else memory.by_group(values, like)


def _is_zero(value: Tensor | float) -> bool:
    """Tell whether a setting does nothing."""
    return isinstance(value, float) and value == 0


def _of_sgd(
    rule: OptimizerRule,
    point: TrajectoryPoint,
    memory: RecordedMemory | None,
    pulled: Tensor,
    step: Tensor | float,
    spread: Tensor | None,
) -> ExpectedUpdate:
    """Return what an update of SGD is expected to be.

    Torch: b = μ b₋ + (1 − τ) d, at the first update b = d; u = −ε b, or −ε (d + μ b) for Nesterov.
    """
    if not rule.momentum:
        pull = -step * pulled
        return ExpectedUpdate(pull, step, pull, None, "gradient step")
    held = None if memory is None else memory.vector("momentum_buffer", pulled)
    first = point.step == 0 if memory is None else held is None
    method = "first update of momentum" if first else "recorded momentum"
    if not first and held is None:
        held, method = momentum_before(point, rule, pulled), "momentum told from earlier updates"
    share = 1.0 if first else 1 - rule.dampening
    response = step * (1 + rule.momentum * share if rule.nesterov else share)
    pull = -response * pulled
    if first:
        return ExpectedUpdate(pull, response, pull, None, method)
    if held is None:
        return ExpectedUpdate(None, response, pull, None, "updates as made: momentum unknown")
    drift = -step * rule.momentum * (rule.momentum if rule.nesterov else 1.0) * held
    return ExpectedUpdate(drift + pull, response, pull, None, method)


def _of_adam(
    rule: OptimizerRule,
    point: TrajectoryPoint,
    memory: RecordedMemory | None,
    pulled: Tensor,
    step: Tensor | float,
    spread: Tensor | None,
) -> ExpectedUpdate:
    """Return what an update of Adam is expected to be.

    Torch: m = β₁ m₋ + (1 − β₁) d, v = β₂ v₋ + (1 − β₂) d², u = −ε D m/(1 − β₁ᵗ) with
    D = 1/(√(v/(1 − β₂ᵗ)) + eps). In D the square d̂² of the mini-batch gradient is replaced by its
    expectation d² + Var d̂.
    """
    low, high = rule.betas
    count = point.step + 1 if memory is None else memory.updates + 1
    square = pulled.square() + (0.0 if spread is None else spread)
    second = None if memory is None else memory.vector("exp_avg_sq", pulled)
    if memory is not None and (second is not None or count == 1):
        mean_square = (1 - high) * square + (0.0 if second is None else high * second)
        largest = memory.vector("max_exp_avg_sq", pulled) if rule.amsgrad else None
        if largest is not None:
            mean_square = torch.maximum(mean_square, largest)
        mean_square = mean_square / (1 - high**count)
        method = "recorded moments"
    else:
        mean_square = square
        method = "preconditioner from the second moments of mini-batch gradients"
    scale = 1 / (mean_square.sqrt() + rule.eps)
    share = (1 - low) / (1 - low**count)
    response = step * share * scale
    pull = -response * pulled
    drift = None
    if memory is not None:
        first = memory.vector("exp_avg", pulled)
        drift = 0 * pull if first is None else -step * scale * low / (1 - low**count) * first
    elif count == 1:
        drift = 0 * pull
    else:
        drift = _carried(rule, point, step, count, pulled)
        method += ", momentum told from the update before" if drift is not None else ""
    if drift is None:
        words = f"updates as made: momentum unknown; {method}"
        return ExpectedUpdate(None, response, pull, scale, words)
    return ExpectedUpdate(drift + pull, response, pull, scale, method)


def _carried(
    rule: OptimizerRule,
    point: TrajectoryPoint,
    step: Tensor | float,
    count: int,
    like: Tensor,
) -> Tensor | None:
    """Return what Adam carries over from the update before, with D as it was there."""
    before = previous_point(point)
    if before is None:
        return None
    update, rates = before.update, rates_at(point.trajectory, before.index, rule)
    if update is None or len(set(rates)) > 1 or not rates[0] > 0 or len(set(rule.decays)) > 1:
        return None
    made = update.to(like)
    if rule.decoupled:
        made = made + rates[0] * rule.decays[0] * before.theta.to(like)
    low = rule.betas[0]
    carried: Tensor = step / rates[0] * low * (1 - low ** (count - 1)) / (1 - low**count) * made
    return carried
