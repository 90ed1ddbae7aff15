"""Whether a run follows the gradient of this cost, and how: the gate of all verdicts on steps.

Consecutive updates are regressed on the update before and on the gradient,

    u(t) ≈ μ u(t − 1) − k ε(t) g(t),

with k = 1 for gradient descent on this cost. A random walk has k = 0; snapshots in random order
have no order, which a permutation test tells.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from thalweg.diagnosis.thresholds import FOLLOWS, ORDERED
from thalweg.measures.permutation_tests import order_p_value
from thalweg.objectives.objective import Objective
from thalweg.probes.path import path_reading
from thalweg.results import Array
from thalweg.space import all_finite
from thalweg.trajectory.trajectory import Trajectory

__all__ = ["Following", "follows"]

_EXACT = 1e-2  # share of the squared updates that a regression may leave unexplained


@dataclass(frozen=True)
class Following:
    """How updates follow the gradient.

    Attributes:
        pull: k ε: the rate at which they do, or NaN.
        error: Its standard error.
        momentum: μ, as far as two updates in a row are known; else 0.
        unexplained: Share of the squared updates that the regression leaves.
        updates: How many updates it is from.
        descends: Whether the way between snapshots goes down the gradient: where no update is
            known, that must do.
        ordered: Level at which the order of the snapshots is told from a random one (p value);
            NaN where updates were recorded, which need no order.
    """

    pull: float
    error: float
    momentum: float
    unexplained: float
    updates: int
    ordered: float
    descends: bool = False

    @property
    def known(self) -> bool:
        """Whether updates are known."""
        return self.updates > 0 and math.isfinite(self.pull)

    @property
    def real(self) -> bool:
        """Whether the updates follow the gradient of this cost beyond doubt."""
        if self.descends:
            return True
        if not self.known or self.pull <= 0:
            return False
        if self.unexplained < _EXACT:
            return True
        return not self.shuffled and self.pull > FOLLOWS * self.error

    @property
    def shuffled(self) -> bool:
        """Whether the order of the snapshots says nothing."""
        return self.ordered > ORDERED

    @property
    def exact(self) -> bool:
        """Whether nothing but the gradient and the momentum is in the updates."""
        return self.known and self.pull > 0 and self.unexplained < _EXACT


def follows(objective: Objective, trajectory: Trajectory, chosen: Sequence[int]) -> Following:
    """Return how the updates from some snapshots follow the gradient."""
    rows: list[tuple[float, ...]] = []
    size = 1
    recorded = not np.isnan(trajectory.update_norm[list(chosen)]).all()
    for number in chosen:
        update = trajectory[number].update
        theta = trajectory[number].theta
        if update is None or not (all_finite(update) and all_finite(theta)):
            continue
        gradient = objective.gradient(theta).double().cpu()
        if not all_finite(gradient):
            continue
        before = _update_before(trajectory, number)
        rows.append(_products(update.double().cpu(), gradient, before))
        size = len(theta)
    rests = _rate_at_rest(objective, trajectory, chosen)
    if rests is not None:
        return Following(rests, 0.0, 0.0, 0.0, len(rows), math.nan)
    if not rows:
        descends = _descends(objective, trajectory, chosen)
        return Following(math.nan, math.nan, 0.0, math.nan, 0, math.nan, descends)
    pull, error, momentum, unexplained = _regressed(np.array(rows), size)
    ordered = math.nan if recorded else _order(trajectory, chosen)
    found = Following(pull, error, momentum, unexplained, len(rows), ordered)
    if found.real or not recorded:
        return found
    return replace(found, descends=_descends(objective, trajectory, chosen))


def _descends(objective: Objective, trajectory: Trajectory, chosen: Sequence[int]) -> bool:
    """Tell whether the way between snapshots, in their order, goes down the gradient."""
    if len(chosen) < 2:
        return False
    path = path_reading(objective, trajectory)
    return bool(path.descends and path.order_p <= ORDERED)


def _rate_at_rest(
    objective: Objective, trajectory: Trajectory, chosen: Sequence[int]
) -> float | None:
    """Return ε where all updates, and all ε g, vanish in the rounding of the parameters."""
    rates = []
    for number in chosen:
        point = trajectory[number]
        rate = float(trajectory.learning_rate[number])
        if point.update is None or not math.isfinite(rate):
            continue
        rounding = torch.finfo(point.theta.dtype).eps * point.theta.abs()
        expected = rate * objective.gradient(point.theta).to(point.theta)
        if not bool((torch.maximum(point.update.abs(), expected.abs()) <= rounding).all()):
            return None
        rates.append(rate)
    return float(np.median(rates)) if rates else None


def _update_before(trajectory: Trajectory, number: int) -> Tensor | None:
    """Return the update made just before a snapshot, where the one before is a step away."""
    if number == 0 or trajectory.step[number - 1] != trajectory.step[number] - 1:
        return None
    found = trajectory[number - 1].update
    if found is None or not all_finite(found):
        return None
    return found.double().cpu()


def _products(update: Tensor, gradient: Tensor, before: Tensor | None) -> tuple[float, ...]:
    """Return u·u, u·(−g), g·g, and u·b, b·(−g), b·b of the update before, of a unit length of u."""
    unit = float(update.norm()) or 1.0
    steep = -gradient
    older = torch.zeros_like(update) if before is None else before / unit
    update = update / unit
    pairs = (
        (update, update),
        (update, steep / unit),
        (steep / unit, steep / unit),
        (update, older),
        (older, steep / unit),
        (older, older),
    )
    return tuple(float(a @ b) for a, b in pairs)


def _regressed(rows: Array, size: int) -> tuple[float, float, float, float]:
    """Return pull, its standard error, momentum, and the unexplained share."""
    uu, us, ss, ub, bs, bb = rows.T
    matrix = np.array([[ss.sum(), bs.sum()], [bs.sum(), bb.sum()]])
    right = np.array([us.sum(), ub.sum()])
    if not (ss.sum() > 0 and uu.sum() > 0):  # nothing pulls, or nothing moves
        return math.nan, math.nan, 0.0, 1.0
    single = us.sum() / ss.sum()
    left_single = float((uu - 2 * single * us + single**2 * ss).sum() / uu.sum())
    pull, momentum, left = float(single), 0.0, left_single
    determinant = matrix[0, 0] * matrix[1, 1] - matrix[0, 1] ** 2
    if determinant > 1e-9 * matrix[0, 0] * matrix[1, 1] and left_single > _EXACT:
        both = np.linalg.solve(matrix, right)
        rest = uu - 2 * (both[0] * us + both[1] * ub)
        rest = rest + both[0] ** 2 * ss + 2 * both[0] * both[1] * bs + both[1] ** 2 * bb
        share = float(rest.sum() / uu.sum())
        if share < 0.9 * left_single and 0 < both[1] < 1:
            pull, momentum, left = float(both[0]), float(both[1]), share
    left = max(left, 0.0)
    # Deviations of the updates along the gradient: as they come, and as P of them make them.
    deviations = us - momentum * bs - pull * ss
    seen = math.sqrt(float((deviations**2).sum())) / ss.sum()
    spread = math.sqrt(left * float(uu.sum()) / (len(rows) * size) / ss.sum())
    return pull, max(seen, spread), momentum, left


def _order(trajectory: Trajectory, chosen: Sequence[int]) -> float:
    """Return the level at which the order of snapshots differs from a random one."""
    kept = list(chosen[:: max(1, -(-len(chosen) // 40))])
    points = torch.stack([trajectory[number].theta.double().cpu() for number in kept])
    points = points[torch.isfinite(points).all(dim=1)]
    if len(points) < 5:  # 24 orders and fewer tell nothing at this level
        return 0.0
    apart = torch.cdist(points, points).numpy()
    return order_p_value(apart)
