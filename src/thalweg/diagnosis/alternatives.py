"""What else could have been done from a point of a run, and how far it would really have got.

Each proposal comes from the cost to second order in the Krylov space of the gradient (all of R^P
where it is small), or from steps that are really taken; what counts is J at the proposed point.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from thalweg.diagnosis.running import cost_at
from thalweg.diagnosis.stepping import AdaptiveSteps, ConstantSteps, Moments
from thalweg.objectives.curvature import curvature
from thalweg.objectives.objective import Objective
from thalweg.probes.local_model import LocalModel, local_model, norm_of
from thalweg.results import Array
from thalweg.space import all_finite

__all__ = ["Alternatives", "Effort", "Optimizer", "Place", "look_around"]

# Shares of the largest curvature that are added to all of it where a Newton step goes too far.
_DAMPINGS = (0.0, *(10.0 ** (-k / 2) for k in range(8, -1, -1)))
_GROWTHS = 14  # of a step along negative curvature, fourfold each
_FEWER = 4.0  # by which a step that turned out unsafe is divided
_ATTEMPTS = 7
_ENOUGH = 1e-3  # share of what is left: a Newton step that gains less ends the search
_AT_ONCE = 0.05  # share of what is left: less has been gained where an escape comes at once
_VALLEY = 20.0  # times smaller than the largest is the curvature along a valley
_ARRIVAL = 6  # dimension of the Krylov space that tells the curvature where a step leads
_NEGATIVE = 1e-3  # share of the largest size of an eigenvalue from which on one is negative


@dataclass(frozen=True)
class Effort:
    """How much may be spent on one point.

    Attributes:
        krylov: Dimension of the Krylov space of the gradient; None for the whole space.
        steps: Gradient steps that are really taken at most.
        newton: Newton steps at most.
    """

    krylov: int | None
    steps: int
    newton: int


@dataclass(frozen=True, eq=False)
class Optimizer:
    """How a run moved, as far as it is known.

    Attributes:
        rate: Learning rate ε, or NaN.
        momentum: μ, 0 without.
        scaling: Square root of the diagonal preconditioner, shape (P,); None without.
        moments: What Adam makes that of; None for other optimisers.
        stated_limit: The ε λ_max up to which its rule is stable, where the rule is known.
    """

    rate: float
    momentum: float = 0.0
    scaling: Tensor | None = None
    moments: Moments | None = None
    stated_limit: float | None = None

    @property
    def limit(self) -> float:
        """The ε λ_max up to which such steps converge on a quadratic cost."""
        return 2 * (1 + self.momentum) if self.stated_limit is None else self.stated_limit

    @property
    def effective(self) -> float:
        """The rate at which a slowly changing gradient moves the parameters, ε/(1 − μ)."""
        return self.rate / (1 - self.momentum)

    def steps(self, rate: float, momentum: float) -> ConstantSteps | AdaptiveSteps:
        """Return steps of its kind at another rate and momentum."""
        if self.moments is not None:
            return AdaptiveSteps(rate, self.moments)
        return ConstantSteps(rate, momentum, self.scaling)


@dataclass(frozen=True)
class Place:
    """A point in numbers that do not depend on the units of J and θ, once divided by `left`.

    Attributes:
        loss: J.
        largest: Largest eigenvalue that was seen, of the preconditioned Hessian where there is
            a preconditioner.
        smallest: Smallest one.
        promised: What the step to the minimum of the local model would gain, ½ Σ cᵢ²/abs(λᵢ) over
            directions with curvature, in J.
        length: A length of the problem.
        gradient_norm: ‖g‖.
        negative: Whether an eigenvalue is negative beyond rounding.
        in_valleys: Share of `promised` that lies in directions whose curvature is below a
            twentieth of the largest.
    """

    loss: float
    largest: float
    smallest: float
    promised: float
    length: float
    gradient_norm: float
    negative: bool
    in_valleys: float

    def reach_of(self, way: float) -> float:
        """Return what a step of a length could change J by at most, to second order.

        Args:
            way: The length, if it is longer than that of the problem.
        """
        length = max(self.length, way)
        bend = max(abs(self.largest), abs(self.smallest))
        return self.gradient_norm * length + 0.5 * bend * length**2


@dataclass(frozen=True)
class Alternatives:
    """Where a run was at the start of a stretch, and what J other ways reached in its place.

    Attributes:
        start: The place itself.
        same: J after the same steps with the full gradient, or NaN where there is no rate.
        safe: J after a tenth of the steps with the longest safe step, or NaN.
        safe_rate: That step ε.
        safe_throughout: J after all of the steps with it, or NaN.
        smaller: J after the steps with a shorter, safe step where the own one is past the limit
            of stability; NaN elsewhere.
        newton: J after saddle-free Newton steps.
        by_negative: What these gained along negative curvature, in J.
        by_positive: What they gained otherwise.
        end: The place that they reached; None where it was not looked at.
        way: How far away that is.
    """

    start: Place
    same: float
    safe: float
    safe_rate: float
    safe_throughout: float
    smaller: float
    newton: float
    by_negative: float
    by_positive: float
    end: Place | None
    way: float


@dataclass(frozen=True, eq=False)
class _Space:
    """A cost in scaled coordinates φ = θ/s: derivatives of one part of the data, J of another."""

    probe: Objective
    check: Objective
    scaling: Tensor | None
    length: float

    def value(self, theta: Tensor) -> float:
        return cost_at(self.check, theta)

    def moved(self, theta: Tensor, step: Tensor) -> Tensor:
        """Return θ + s ⊙ step."""
        return theta + (step if self.scaling is None else self.scaling * step).to(theta)

    def distance(self, here: Tensor, there: Tensor) -> float:
        """Return the distance of two points in the scaled coordinates."""
        between = there - here
        return norm_of(between if self.scaling is None else between / self.scaling)

    def model(self, theta: Tensor, krylov: int | None) -> LocalModel:
        """Return the cost to second order in the scaled coordinates."""
        point = curvature(self.probe, theta)
        if self.scaling is None:
            return local_model(point, krylov)
        return local_model(_Scaled(point, self.scaling), krylov)  # type: ignore[arg-type]


class _Scaled:
    """A curvature under a diagonal scaling s: S H S, with the gradient S g."""

    def __init__(self, point: object, scaling: Tensor) -> None:
        self._point, self._scaling = point, scaling
        self.size = len(scaling)

    @property
    def gradient(self) -> Tensor:
        found: Tensor = self._point.gradient  # type: ignore[attr-defined]
        return self._scaling * found

    def product(self, vector: Tensor) -> Tensor:
        found: Tensor = self._point.product(self._scaling * vector)  # type: ignore[attr-defined]
        return self._scaling * found

    def dense(self) -> Tensor:
        found: Tensor = self._point.dense()  # type: ignore[attr-defined]
        scaling = self._scaling.double().cpu()
        return scaling[:, None] * found * scaling


def look_around(
    probe: Objective,
    check: Objective,
    theta: Tensor,
    optimizer: Optimizer,
    horizon: int,
    floor: float,
    length: float,
    effort: Effort,
    last: bool,
) -> Alternatives:
    """Return how far other ways get from a point.

    Args:
        probe: The cost that derivatives are taken of.
        check: The cost that proposals are judged by: the same, or one on other examples.
        theta: The point.
        optimizer: How the run moved from there.
        horizon: Steps that the run took in this stretch.
        floor: What J could come down to.
        length: A length of the problem.
        effort: How much may be spent.
        last: Whether to look closer at the place that Newton's steps reach.
    """
    space = _Space(probe, check, optimizer.scaling, length)
    theta = probe.point(theta)
    model = space.model(theta, effort.krylov)
    start = _place(space, theta, model)
    known = math.isfinite(optimizer.rate) and optimizer.rate > 0
    same = _same_steps(space, theta, model, optimizer, horizon, effort) if known else math.nan
    # Adam's preconditioner shrinks with the gradient: smaller steps are tried well below its limit.
    product = optimizer.limit if optimizer.moments is None else 2.0
    limit = product / start.largest if start.largest > 0 else math.inf
    smaller = math.nan
    if known and optimizer.rate > limit:
        shorter = 0.5 * limit
        steps = min(horizon, effort.steps)
        moves = optimizer.steps(shorter, optimizer.momentum)
        smaller = _descended(space, theta, moves, steps, guarded=False)[0]
    safe, throughout, safe_rate = _longer_step(space, theta, start, optimizer, horizon, effort)
    newton = _newton(space, theta, model, floor, effort)
    return Alternatives(
        start=start,
        same=same,
        safe=safe,
        safe_rate=safe_rate,
        safe_throughout=throughout,
        smaller=smaller,
        newton=newton.level,
        by_negative=newton.by_negative,
        by_positive=newton.by_positive,
        end=_place(space, newton.theta, space.model(newton.theta, effort.krylov)) if last else None,
        way=space.distance(theta, newton.theta),
    )


def _place(space: _Space, theta: Tensor, model: LocalModel) -> Place:
    """Return a point in numbers, from the cost to second order."""
    curved = model.curved()
    values, slopes = model.eigenvalues[curved], model.slopes[curved]
    gradient = norm_of(model.slopes)
    top = float(model.eigenvalues.max()) if len(model.eigenvalues) else 0.0
    low = float(model.eigenvalues.min()) if len(model.eigenvalues) else 0.0
    if not model.whole:
        low = min(low, 0.0)
    gains = 0.5 * slopes**2 / values.abs()
    low_ones = values.abs() < model.largest / _VALLEY
    return Place(
        loss=space.value(theta),
        largest=top,
        smallest=low,
        promised=float(gains.sum()),
        length=space.length,
        gradient_norm=gradient,
        negative=low < -_NEGATIVE * model.largest and model.largest > 0,
        in_valleys=float(gains[low_ones].sum() / gains.sum()) if float(gains.sum()) > 0 else 0.0,
    )


def _same_steps(
    space: _Space,
    theta: Tensor,
    model: LocalModel,
    optimizer: Optimizer,
    horizon: int,
    effort: Effort,
) -> float:
    """Return J after the same steps with the full gradient: taken, or by the local model."""
    steps = min(horizon, effort.steps)
    moves = optimizer.steps(optimizer.rate, optimizer.momentum)
    taken = _descended(space, theta, moves, steps, guarded=False)[0]
    if horizon <= effort.steps:
        return taken
    far = _modelled(model, optimizer, horizon)
    modelled = space.value(space.moved(theta, model.along(torch.from_numpy(far))))
    return min(taken, modelled)


def _modelled(model: LocalModel, optimizer: Optimizer, steps: int) -> Array:
    """Return where steps of gradient descent with momentum lead on the local model, shape (m,)."""
    rate, momentum = optimizer.rate, optimizer.momentum
    values, slopes = model.eigenvalues.numpy(), model.slopes.numpy()
    one_step = np.zeros((len(values), 3, 3))  # of (y, v, 1): v ← μ v − ε (λ y + c), y ← y + v
    one_step[:, 1] = np.stack([-rate * values, np.full_like(values, momentum), -rate * slopes], 1)
    one_step[:, 0] = one_step[:, 1] + np.array([1.0, 0.0, 0.0])
    one_step[:, 2, 2] = 1.0
    with np.errstate(over="ignore", invalid="ignore"):
        found: Array = np.linalg.matrix_power(one_step, steps)[:, 0, 2]
    return found


def _descended(
    space: _Space,
    theta: Tensor,
    moves: ConstantSteps | AdaptiveSteps,
    steps: int,
    guarded: bool = True,
) -> tuple[float, Tensor | None]:
    """Take gradient steps; return J and where, or None where J rose and that is guarded."""
    level = space.value(theta)
    looked = 1
    for done in range(1, steps + 1):
        theta = theta + moves.update(space.probe.gradient(theta)).to(theta)
        if not all_finite(theta):
            return math.inf, None
        if done in (looked, steps):
            looked *= 2
            before, level = level, space.value(theta)
            if guarded and not level <= before + 1e-9 * abs(before):
                return level, None
    return level, theta


def _longer_step(
    space: _Space,
    theta: Tensor,
    start: Place,
    optimizer: Optimizer,
    horizon: int,
    effort: Effort,
) -> tuple[float, float, float]:
    """Return J after a tenth of the steps with the longest safe step, after all, and that step.

    Safe is a step with which J falls all the way and which is stable where it leads to. It starts
    at 1/λ_max, and is divided where it is not: the curvature may grow on the way. Of Adam, whose
    preconditioner goes along with the curvature, it is asked that J falls all the way.
    """
    own = optimizer.effective
    if not (math.isfinite(own) and own > 0):
        return math.nan, math.nan, math.nan
    rate = 1 / start.largest if start.largest > 0 else 1e6 * own
    steps = min(horizon, effort.steps)
    tenth = min(max(min(horizon, 10), horizon // 10), steps)
    for _ in range(_ATTEMPTS):
        moves = optimizer.steps(rate, 0.0)
        level, there = _descended(space, theta, moves, tenth)
        if there is not None:
            throughout, there = _descended(space, there, moves, steps - tenth)
        if there is not None:
            if optimizer.moments is not None:
                return level, throughout, rate
            steepest = float(space.model(there, _ARRIVAL).eigenvalues.max())
            if rate <= own or rate * steepest <= 1 + 1e-6:
                return level, throughout, rate
            rate = min(rate / 2, 1 / steepest)
            continue
        rate /= _FEWER
    return math.nan, math.nan, rate


@dataclass(frozen=True, eq=False)
class _Descent:
    """Where Newton's steps led, to which J, and what they gained along which curvature."""

    theta: Tensor
    level: float
    by_negative: float
    by_positive: float


def _newton(
    space: _Space, theta: Tensor, model: LocalModel, floor: float, effort: Effort
) -> _Descent:
    """Take saddle-free Newton steps.

    What follows an escape is gained by it where next to nothing had been gained before, and
    nothing but the escape would have gained any more.
    """
    level = space.value(theta)
    least = _AT_ONCE * max(level - floor, 0.0)
    gained = {"negative": 0.0, "positive": 0.0}
    escaped = False
    for number in range(effort.newton):
        if number:
            model = space.model(theta, effort.krylov)
        enough = level - _ENOUGH * max(level - floor, 0.0)
        down = _downhill(space, theta, level, model)
        out = _escape(space, theta, level, model, floor)
        how, (better, there) = min(
            (("positive", down), ("negative", out)), key=lambda each: each[1][0]
        )
        if not better < enough or there is None:
            break
        if how == "negative" and _promise_of(model) > least:
            how = "positive"  # no saddle point, but a slope that bends down
        stuck = gained["positive"] <= least and not down[0] < enough
        escaped |= how == "negative" and stuck
        gained["negative" if escaped else how] += level - better
        theta, level = there, better
    return _Descent(theta, level, gained["negative"], gained["positive"])


def _promise_of(model: LocalModel) -> float:
    """Return what the slope along the most negative curvature promises, ½ c²/abs(λ)."""
    return 0.5 * float(model.slopes[0]) ** 2 / abs(float(model.eigenvalues[0]))


def _downhill(
    space: _Space, theta: Tensor, level: float, model: LocalModel
) -> tuple[float, Tensor | None]:
    """Return J, and where, after the best damped Newton step, escapes left out.

    The floor of a valley may bend either way: curvature that is no more than a trace of the
    largest is taken by its size.
    """
    taken = model.curved() & (model.eigenvalues > -_NEGATIVE * model.largest)
    values = torch.where(taken, model.eigenvalues.abs(), torch.ones_like(model.eigenvalues))
    slopes = torch.where(taken, -model.slopes, torch.zeros_like(values))
    damped = (values + damping * model.largest for damping in _DAMPINGS)
    return _best(space, theta, (model.along(slopes / each) for each in damped), level)


def _escape(
    space: _Space, theta: Tensor, level: float, model: LocalModel, floor: float
) -> tuple[float, Tensor | None]:
    """Return J, and where, after the best step along the most negative curvature."""
    if not len(model.eigenvalues):
        return math.inf, None
    lowest = float(model.eigenvalues[0])
    if not lowest < -_NEGATIVE * model.largest:
        return math.inf, None
    unit = math.sqrt(max(level - floor, 0.0) / -lowest) / 64
    if not unit > 0:
        return math.inf, None
    vector = model.vectors[0] * (-1.0 if float(model.slopes[0]) > 0 else 1.0)
    sizes = [unit * 4.0 ** (k / 2) for k in range(_GROWTHS)]
    tries = [
        _best(space, theta, (sign * size * vector for size in sizes), level) for sign in (1.0, -1.0)
    ]
    return min(tries, key=lambda each: each[0])


def _best(
    space: _Space, theta: Tensor, steps: Iterable[Tensor], level: float
) -> tuple[float, Tensor | None]:
    """Return the lowest J over steps, and where; stop once it gets worse again."""
    best: tuple[float, Tensor | None] = (math.inf, None)
    for step in steps:
        there = space.moved(theta, step)
        value = space.value(there)
        if value < best[0]:
            best = (value, there)
        elif best[0] < level:
            break
    return best
