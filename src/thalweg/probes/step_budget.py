"""Where the steps of a run go: what each is expected to change in the cost, and what it does."""

import math
import operator
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from thalweg.environment import provenance
from thalweg.objectives.curvature import Curvature, curvature
from thalweg.objectives.examples import can_pick, random_examples, with_examples
from thalweg.objectives.model import ModelObjective
from thalweg.objectives.objective import Objective
from thalweg.probes.expected_update import ExpectedUpdate, expected_update
from thalweg.probes.gradient_noise import (
    Deviations,
    batch_share,
    deviations_of,
    standard_error,
)
from thalweg.probes.optimizer_rule import PLAIN, OptimizerRule, optimizer_rule
from thalweg.probes.rounding import change_rounding
from thalweg.probes.run_arguments import expect_run
from thalweg.probes.step_terms import StepTerms
from thalweg.probes.update_regression import UpdateRegression, followed_rates
from thalweg.progress import Progress, progress_bar
from thalweg.results import StepBudget
from thalweg.space import remembered_buffers
from thalweg.trajectory.trajectory import Trajectory, TrajectoryPoint

__all__ = ["step_budget"]

_SNAPSHOTS = 12
_BATCH = 1024

_UNKNOWN_RULE = "not stated"


def step_budget(
    objective: Objective,
    trajectory: Trajectory,
    snapshots: Sequence[int] | None = None,
    *,
    examples: int | None = None,
    seed: int = 0,
    eigenvalue: bool = True,
    progress: bool | Progress | None = None,
) -> StepBudget:
    """Return what steps of a run are expected to change in J, and what they did.

    For the update u made at θ, with gradient g and Hessian H of the whole first split,

        E[J(θ + u) − J(θ)] ≈ gᵀū + ½ ūᵀHū + ½ tr(H Cov(u)) = descent + curvature + noise,

    where expectation ū and covariance are over the mini-batch of the step, given what the
    optimiser remembers. For plain SGD the terms are −ε gᵀg, ½ ε² gᵀHg and ½ ε² tr(HΣ)/B, with Σ
    the covariance of the gradient of one example, and (N − B)/(N − 1) of the last, for batches of
    B of N examples are drawn without replacement.

    SGD, with and without momentum (Nesterov's, too), Adam and AdamW are known by their rules,
    from what the recorder wrote: learning rate, batch size, the settings of the optimiser, its
    state (`optimizer_state=True`) or else the updates just before. What cannot be known is said
    in `StepBudget.method`, and the update that was made takes the place of the expected one, of
    which descent and curvature are then unbiased.

    Where the batch size is not known, or the cost has no examples, the noise is ½ δᵀHδ with
    δ = u − ū: one draw, unbiased. A snapshot takes about eight gradients over the data; λ_max
    another twelve products with H.

    Args:
        objective: J.
        trajectory: The run, with updates: `tw.Recorder(..., updates=True)`, or points one step
            apart.
        snapshots: Numbers of points of the trajectory; by default up to 12, evenly spread over
            those from which an update is known.
        examples: Take J, g and H from so many random examples, by name; None for all. What the
            draw may change is in `loss_error` and `descent_error`.
        seed: Seed of subsample, mini-batches and Lanczos vectors.
        eigenvalue: Whether to look for λ_max, by 12 Lanczos steps.
        progress: None for a bar where standard error is a terminal, False for none, or a function.

    Returns:
        The budget; NaN where a number is not known, or a point is not finite.

    Raises:
        TypeError: If the arguments are no objective and no trajectory.
        ValueError: If no update is known, or there is no such snapshot.
        ParameterMismatchError: If the run has other parameters than the objective.

    Sources: Goodfellow, Bengio & Courville (2016), sections 4.3.1 and 8.2.1; McCandlish et al.
    (2018), section 2, for the noise term and the noise scales; Cohen et al. (2021), "Gradient
    descent on neural networks typically occurs at the edge of stability", for ε λ_max and its
    limits.

    Example:
        >>> import thalweg as tw
        >>> bowl = tw.FunctionObjective(lambda t: t[0] ** 2 + 3 * t[1] ** 2, size=2)
        >>> theta, points = torch.tensor([2.0, 1.0], dtype=torch.float64), []
        >>> for _ in range(3):
        ...     points.append(theta)
        ...     theta = theta - 0.1 * bowl.gradient(theta)
        >>> budget = tw.step_budget(bowl, tw.Trajectory.from_points(points, learning_rate=0.1))
        >>> budget.descent.round(6), budget.curvature.round(6)
        (array([-5.2, -1.6]), array([1.24  , 0.2752]))
    """
    expect_run(objective, trajectory, None)
    began = time.perf_counter()
    chosen = _chosen(trajectory, snapshots)
    cost, total = _cost(objective, examples, seed)
    with progress_bar(progress) as report:
        run = _of_run(cost, total, trajectory, chosen, seed, eigenvalue)
        regression = run.regression
        rows = []
        for done, index in enumerate(chosen):
            report(done, len(chosen), f"steps: from {int(trajectory.step[index])}")
            rows.append(_row(run, trajectory[index]))
        report(len(chosen), len(chosen), "steps")
    if not any(np.isfinite(row.get("squared_update", math.nan)) for row in rows):
        _expect_updates(trajectory, chosen)
    slope, error = regression.slope()
    arrays = {
        name: [row.get(name, math.nan) for row in rows]
        for name in StepBudget(steps=np.zeros(1)).names[1:]
    }
    picked = cost.splits[0].examples if isinstance(cost, ModelObjective) else 0
    return StepBudget(
        steps=trajectory.step[chosen].astype(np.float64),
        **arrays,  # type: ignore[arg-type]
        consistency=slope,
        consistency_error=error,
        optimizer=run.rule.words if run.stated else f"{_UNKNOWN_RULE}: {run.rule.words}",
        method="; ".join(dict.fromkeys([*run.notes])),
        examples=picked,
        of=total,
        provenance=provenance(
            cost.device,
            cost.dtype,
            time.perf_counter() - began,
            objective=cost.describe(),
            section={"kind": "Steps", "points": [int(index) for index in chosen], "seed": seed},
        ),
    )


@dataclass(frozen=True, eq=False)
class _Run:
    """What is the same for all snapshots.

    Attributes:
        cost: J, maybe on a subsample.
        total: Examples that there are; 0 where the cost has none.
        rule: The optimiser.
        stated: Whether the run says which it was.
        rates: Learning rates that are not noted in the run, by the number of the point.
        seed: Seed of everything random.
        eigenvalue: Whether λ_max is wanted.
        regression: Updates over expected updates.
        notes: What was done, in words.
    """

    cost: Objective
    total: int
    rule: OptimizerRule
    stated: bool
    rates: dict[int, float]
    seed: int
    eigenvalue: bool
    regression: UpdateRegression
    notes: list[str]


def _chosen(trajectory: Trajectory, snapshots: Sequence[int] | None) -> list[int]:
    """Return the numbers of the points to look at."""
    count = len(trajectory)
    if snapshots is None:
        after = np.append(np.diff(trajectory.step) == 1, False)
        known = np.flatnonzero(after | np.isfinite(trajectory.update_norm))
        if len(known) == 0:
            raise _no_updates(trajectory)
        places = np.linspace(0, len(known) - 1, min(_SNAPSHOTS, len(known)))
        return [int(known[place]) for place in np.unique(places.round().astype(int))]
    try:
        numbers = [operator.index(number) for number in snapshots]
    except TypeError:
        raise TypeError(
            f"Snapshots are numbers of points of the trajectory; got {snapshots!r}. Write "
            "`snapshots=[0, 5, -2]`."
        ) from None
    if not numbers or not all(-count <= number < count for number in numbers):
        raise ValueError(
            f"Snapshots are numbers of the {count} points of the trajectory, one at least; got "
            f"{numbers}. Which step each point belongs to is in `trajectory.step`."
        )
    return sorted({number % count for number in numbers})


def _expect_updates(trajectory: Trajectory, chosen: Sequence[int]) -> None:
    """Raise where none of some points has an update; one that is not finite is one."""
    if all(trajectory[index].update is None for index in chosen):
        raise _no_updates(trajectory)


def _no_updates(trajectory: Trajectory) -> ValueError:
    """Return the error for a run without updates."""
    return ValueError(
        "A step budget needs the updates that were made; of the "
        f"{len(trajectory)} points of this run none was recorded with its update or one step "
        "before the next point. Record with `tw.Recorder(..., updates=True)`, or every step with "
        "`tw.Every(steps=1)`."
    )


def _cost(objective: Objective, examples: int | None, seed: int) -> tuple[Objective, int]:
    """Return J, on a subsample where one is asked for, and the number of all examples."""
    if not isinstance(objective, ModelObjective):
        if examples is not None:
            raise ValueError(
                "A subsample needs a cost that is a mean over examples; got "
                f"{type(objective).__name__}. Leave `examples` out."
            )
        return objective, 0
    split = objective.splits[0]
    if examples is None:
        return objective, split.examples
    if examples < 2:
        raise ValueError(f"`examples` must be 2 or more; got {examples}. Try 2000.")
    if not can_pick(split):
        raise ValueError(
            f"A subsample needs examples that can be picked one by one; those of {split.name!r} "
            "cannot. Leave `examples` out."
        )
    if examples >= split.examples:
        return objective, split.examples
    drawn = random_examples(split, seed)[:examples]
    return with_examples(objective, drawn, min(_BATCH, max(split.lengths))), split.examples


def _of_run(
    cost: Objective,
    total: int,
    trajectory: Trajectory,
    chosen: Sequence[int],
    seed: int,
    eigenvalue: bool,
) -> _Run:
    """Return what is the same for all snapshots; where no optimiser is named, ask the updates."""
    rule = optimizer_rule(trajectory.facts)
    regression, notes = UpdateRegression(), list[str]()
    rates: dict[int, float] = {}
    stated = rule is not None
    if rule is None:
        rule, rates, note = followed_rates(cost, [trajectory[i] for i in chosen], regression)
        notes += [note]
    return _Run(cost, total, rule, stated, rates, seed, eigenvalue, regression, notes)


def _row(run: _Run, point: TrajectoryPoint) -> dict[str, float]:
    """Return the numbers of one snapshot."""
    given = point.theta
    rate = run.rates.get(point.index, point.learning_rate)
    if math.isnan(rate) and run.stated:
        rate = run.rule.rates[0]
    row = {
        "learning_rate": rate,
        "batch_size": point.batch_size,
        "stability_limit": run.rule.stability_limit,
    }
    if not bool(torch.isfinite(given).all()):
        return row
    theta = run.cost.point(given)
    at = curvature(run.cost, given)
    gradient = at.gradient
    row["loss"] = at.value
    if not math.isfinite(at.value) or not bool(torch.isfinite(gradient).all()):
        return row
    update = _update(point, theta)
    noise = None
    if isinstance(run.cost, ModelObjective):
        noise = deviations_of(run.cost, given, run.total, run.seed)
        run.notes.append("mini-batches of unknown spread" if noise is None else noise.words)
    share = math.nan
    if run.total and not math.isnan(point.batch_size):
        share = batch_share(point.batch_size, run.total)
    spread = noise.variances() * share if noise is not None and share > 0 else None
    expected = expected_update(run.rule, point, theta, gradient, rate, spread)
    run.notes.append(expected.method)
    if run.stated or run.rule is PLAIN:
        run.regression.add(update, expected)
    terms = StepTerms(at, expected, noise, share, run.seed if run.eigenvalue else None)
    row |= terms.at_gradient()
    row |= (examples := terms.of_examples())
    row |= _sampling_errors(run, noise, update if expected.mean is None else expected.mean)
    if update is not None:
        row |= terms.of_update(update, examples)
        row |= _changes(run, given, at, update, expected)
    return row


def _update(point: TrajectoryPoint, theta: Tensor) -> Tensor | None:
    """Return the update in the type of the cost; None where it is not known or not finite."""
    update = point.update
    if update is None or not bool(torch.isfinite(update).all()):
        return None
    return update.to(theta)


def _changes(
    run: _Run, given: Tensor, at: Curvature, update: Tensor, expected: ExpectedUpdate
) -> dict[str, float]:
    """Return what the update and the expected one change, and what rounding may have."""
    there = _value(run.cost, given, update)
    rounding = change_rounding(
        run.cost, at.theta, update, at.gradient, at.value, np.array([there]), np.ones(1)
    )
    row = {"actual": there - at.value, "rounding": float(rounding[0])}
    if expected.mean is not None:
        row["full_gradient"] = _value(run.cost, given, expected.mean) - at.value
    return row


def _value(cost: Objective, given: Tensor, update: Tensor) -> float:
    """Return J after an update, with the statistics of the point before; NaN on overflow."""
    there = cost.point(given) + update
    if not bool(torch.isfinite(there).all()):
        return math.nan
    if (statistics := remembered_buffers(given)) is not None:
        cost.space.remember(there, statistics)
    return cost.value(there)


def _sampling_errors(
    run: _Run, noise: Deviations | None, update: Tensor | None
) -> dict[str, float]:
    """Return what drawing a subsample may have changed."""
    if noise is None or not isinstance(run.cost, ModelObjective):
        return {}
    found = run.cost.splits[0].examples
    row = {"loss_error": standard_error(noise.loss_variance(), found, run.total)}
    if update is not None:
        variance = noise.variance_along(update)
        row["descent_error"] = standard_error(variance, found, run.total)
    return row
