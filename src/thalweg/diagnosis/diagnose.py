"""The diagnosis of a run: which obstacles it met."""

import math
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from thalweg.diagnosis.alternatives import (
    Effort,
    look_around,
)
from thalweg.diagnosis.following import Following, follows
from thalweg.diagnosis.judge import judged
from thalweg.diagnosis.moving import movement_at
from thalweg.diagnosis.readings import Floor, Network, Path, Readings, Stretch
from thalweg.diagnosis.running import RunCosts, cost_at, costs_of, evenly_spread
from thalweg.environment import provenance
from thalweg.evaluate.along import profile
from thalweg.grids import Uniform
from thalweg.objectives.batches import Split
from thalweg.objectives.examples import (
    can_pick,
    random_examples,
    split_of,
    with_examples,
    with_splits,
)
from thalweg.objectives.model import ModelObjective
from thalweg.objectives.objective import Objective
from thalweg.probes.layer_signals import layer_signals
from thalweg.probes.path import path_reading
from thalweg.probes.run_arguments import expect_run
from thalweg.progress import Progress, progress_bar
from thalweg.results import Array, Diagnosis
from thalweg.sections import Line
from thalweg.trajectory.trajectory import Trajectory

__all__ = ["diagnose"]

_SNAPSHOTS = 60
_UPDATES = 200
_STRETCHES = 4
_EXAMPLES = 512  # of each of the subsamples
_FEW = 4  # data of fewer than this many subsamples is used whole
_LOOKS = 4  # snapshots at which the layers of a network are looked at
_WHOLE = 256  # parameters up to which the whole Hessian is taken
_KRYLOV = 16
# Losses that cannot be negative.
_NOT_NEGATIVE = ("CrossEntropyLoss", "MSELoss", "BCE", "NLLLoss", "cross_entropy", "mse_loss")


def diagnose(
    objective: Objective,
    trajectory: Trajectory,
    reference: Tensor | ArrayLike | None = None,
    floor: float | None = None,
    *,
    examples: int = _EXAMPLES,
    exact: bool = False,
    seed: int = 0,
    progress: bool | Progress | None = None,
) -> Diagnosis:
    """Say what stands between a run and a low cost, with the evidence.

    The run is cut into four stretches. At the start of each, the cost to second order says what
    the same steps would have reached without noise, what a smaller or a far larger constant step,
    and what saddle-free Newton steps; J is really evaluated there. What the run did not reach is
    charged to the cause that the first better one removes, in this order, so that the charges add
    up. What is left at a point at rest is a minimum, a plateau, or behind a barrier. Networks are
    asked for dead units and for gradients that vanish or explode over depth, and the held-out
    split for overfitting. A verdict on steps or on the path needs updates that follow the gradient
    of this cost, and says `"undetermined"` otherwise.

    The severity of an obstacle is the share of the possible progress, from J at the start down to
    the floor, that it takes, as a mean over the run. All readings are pure numbers: J → c J + d and
    θ → c θ change none.

    Args:
        objective: J; its first split is what the run minimised, a second one is held out.
        trajectory: The run; recorded updates (`Recorder(..., updates=True)`), or points one step
            apart, let steps be judged.
        reference: A better point, such as the end of another run, shape (P,).
        floor: A cost that is known to be reachable. Without, it is the lowest that was seen: of the
            run, of the reference, of all that was tried; 0 is an outer bound for losses that
            cannot be negative.
        examples: Size of the random subsamples: one for derivatives, one for J, one for held-out J;
            where the data has no more than four times as many examples, all of them are used.
        exact: Use all of the data for everything.
        seed: Seed of subsamples and of mini-batches.
        progress: None for a bar where standard error is a terminal, False for none, or a function.

    Raises:
        TypeError: If the arguments are no objective and no trajectory.
        ValueError: If the floor is not finite.
        ParameterMismatchError: If the run, or the reference, has other parameters.

    Source: Goodfellow (2015), Montreal deep learning summer school, closing table; Goodfellow,
    Bengio & Courville (2016), section 8.2; Dauphin et al. (2014) for saddle-free Newton steps.

    Example:
        >>> import torch, thalweg as tw
        >>> bowl = tw.FunctionObjective(lambda t: t[0] ** 2 + 3 * t[1] ** 2, size=2)
        >>> points = [torch.tensor([2.0, 1.0], dtype=torch.float64)]
        >>> for _ in range(100):
        ...     points.append(points[-1] - 1e-5 * bowl.gradient(points[-1]))
        >>> diagnosis = diagnose(bowl, tw.Trajectory.from_points(points, learning_rate=1e-5))
        >>> diagnosis.primary, diagnosis["gradient_noise"].verdict
        ('step_too_small', 'absent')
    """
    expect_run(objective, trajectory, None)
    if floor is not None and not math.isfinite(floor):
        raise ValueError(
            f"A floor is a finite cost; got {floor}. Leave it out where none is known."
        )
    clock = time.perf_counter()
    with progress_bar(progress) as report:
        readings = _Gathering(
            objective, trajectory, reference, floor, examples, exact, seed, report
        ).readings()
        findings = judged(readings)
    return Diagnosis(
        findings,
        step=readings.costs.step,
        loss=readings.costs.loss,
        floor=readings.floor.value,
        floor_source=readings.floor.source,
        possible=readings.possible,
        stretch=np.array([[s.first, s.last] for s in readings.stretches]).reshape(-1, 2),
        reached=_reached(readings.stretches),
        example_counts=readings.examples,
        provenance=provenance(
            objective.device,
            objective.dtype,
            time.perf_counter() - clock,
            objective=objective.describe(),
            section={"kind": "Diagnosis", "floor": floor, "seed": seed, "exact": exact},
        ),
    )


def _reached(stretches: Sequence[Stretch]) -> dict[str, Array]:
    """Return what was tried in the place of each stretch, to the J that it reached."""
    ways = [stretch.alternatives for stretch in stretches]
    reached = {
        "the run": [stretch.level for stretch in stretches],
        "without noise": [way.same for way in ways],
        "a smaller step": [way.smaller for way in ways],
        "a far larger step": [way.safe for way in ways],
        "Newton's steps": [way.newton for way in ways],
    }
    return {name: np.array(levels) for name, levels in reached.items()}


class _Gathering:
    """Gathers readings of one run."""

    def __init__(
        self,
        objective: Objective,
        trajectory: Trajectory,
        reference: Any,
        floor: float | None,
        examples: int,
        exact: bool,
        seed: int,
        report: Progress,
    ) -> None:
        self.objective, self.trajectory, self.report = objective, trajectory, report
        self.given_floor, self.seed = floor, seed
        self.reference = None if reference is None else objective.point(reference, "reference")
        self.probe, self.check, self.examples = _parts(objective, examples, exact, seed)
        self.judging = self.check
        if isinstance(objective, ModelObjective) and len(objective.splits) > 1:
            held_out, drawn = _held_out(objective, examples, exact, seed)
            own = self.check if isinstance(self.check, ModelObjective) else objective
            self.judging = with_splits(objective, own.splits[0], held_out)
            self.examples |= drawn
        self.effort = _effort(objective, self.examples)

    def readings(self) -> Readings:
        """Return all readings."""
        run = self.trajectory
        chosen = evenly_spread(run.step, _SNAPSHOTS)
        costs = costs_of(self.judging, run, chosen.tolist(), self.report)
        finite = costs.index[np.isfinite(costs.loss)].tolist()
        updates = evenly_spread(run.step, _UPDATES).tolist()
        following = follows(self.probe, run, updates)
        floor = self._floor(costs)
        length = self._length(finite)
        stretches = self._stretches(costs, following, floor, length)
        floor = self._lowered(floor, stretches)
        return Readings(
            costs=costs,
            floor=floor,
            following=following,
            stretches=stretches,
            ends_finite=math.isfinite(costs.last),
            path=self._path(costs, finite),
            to_reference=self._to_reference(finite),
            reference=math.nan if self.reference is None else cost_at(self.check, self.reference),
            ray=self._ray(finite, floor),
            growth=self._growth(finite),
            networks=self._networks(finite),
            examples=self.examples,
        )

    def _floor(self, costs: RunCosts) -> Floor:
        """Return what J could come down to, from the best to the poorest knowledge."""
        if self.given_floor is not None:
            return Floor(float(self.given_floor), "the given floor", True)
        best = costs.best
        source = "the best of the run"
        if self.reference is not None:
            there = cost_at(self.check, self.reference)
            if there < best:
                return Floor(there, "the reference", True)
        if isinstance(self.objective, ModelObjective) and best >= 0:
            name = str(self.objective._loss_name)
            if any(each in name for each in _NOT_NEGATIVE):
                return Floor(0.0, "0, below which this loss cannot fall", False)
        return Floor(best, source, True)

    def _lowered(self, floor: Floor, stretches: tuple[Stretch, ...]) -> Floor:
        """Return the floor, lowered to what was found on the way."""
        if self.given_floor is not None:
            return floor
        found = [floor.value]
        for stretch in stretches:
            ways = stretch.alternatives
            found += [v for v in (ways.same, ways.safe, ways.smaller, ways.newton) if v == v]
        if min(found) < floor.value:
            return Floor(min(found), "the best that was found", True)
        return floor

    def _length(self, finite: Sequence[int]) -> float:
        """Return a length of the problem: of the parameters, of the path, to the reference."""
        run = self.trajectory
        if not finite:
            return 1.0
        first, last = run[finite[0]].theta.double(), run[finite[-1]].theta.double()
        found = [float(first.norm()), float(last.norm()), float((last - first).norm())]
        if self.reference is not None:
            found.append(float((self.reference.double().cpu() - last.cpu()).norm()))
        return max(found) or 1.0

    def _stretches(
        self, costs: RunCosts, following: Following, floor: Floor, length: float
    ) -> tuple[Stretch, ...]:
        """Return the parts of the run, each with what else would have been reached."""
        marks = evenly_spread(costs.step.astype(np.int64), _STRETCHES + 1)
        found = []
        for done, (first, last) in enumerate(pairwise(marks)):
            self.report(done, len(marks) - 1, "what else would have been reached")
            if not math.isfinite(costs.loss[first]):
                break
            here, there = int(costs.index[first]), int(costs.index[last])
            around = np.unique(np.linspace(here, max(there - 1, here), 12).astype(int)).tolist()
            total = _examples_of(self.objective)
            point = self.trajectory[here]
            moved = movement_at(self.probe, total, point, following, around, self.seed)
            steps = int(costs.step[last] - costs.step[first])
            ways = look_around(
                self.probe,
                self.check,
                point.theta.to(self.objective.device),
                moved.optimizer,
                steps,
                floor.value,
                length,
                self.effort,
                last=last == marks[-1],
            )
            found.append(
                Stretch(
                    first=int(costs.step[first]),
                    last=int(costs.step[last]),
                    level=costs.settled(costs.step[first], costs.step[last]),
                    rate=moved.optimizer.effective,
                    noise=moved.noise,
                    product=moved.optimizer.rate * ways.start.largest,
                    limit=moved.optimizer.limit,
                    alternatives=ways,
                )
            )
        return tuple(found)

    def _networks(self, finite: Sequence[int]) -> tuple[Network, ...]:
        """Return the signals of a network at some snapshots."""
        if not isinstance(self.objective, ModelObjective) or not finite:
            return ()
        places = np.unique(np.linspace(0, len(finite) - 1, _LOOKS).astype(int))
        found = []
        for place in places:
            point = self.trajectory[finite[place]]
            signals = layer_signals(self.probe, point.theta)
            off = np.where(signals.hidden, signals.dead_share, 0.0)
            worst = int(off.argmax()) if len(off) else -1
            found.append(
                Network(
                    step=point.step,
                    attenuation=signals.attenuation.total,
                    depth=signals.attenuation.layers,
                    dead=float(off[worst]) if len(off) else 0.0,
                    layer=signals.layers[worst] if len(off) else "",
                )
            )
        return tuple(found)

    def _path(self, costs: RunCosts, finite: Sequence[int]) -> Path | None:
        """Return the way of the run."""
        if len(finite) < 5:
            return None
        few = [finite[i] for i in np.unique(np.linspace(0, len(finite) - 1, 13).astype(int))]
        found = path_reading(self.check, self.trajectory, few)
        if not found.chord > 0:
            return None
        third = found.length
        if len(few) == 13:  # through every third snapshot
            third = float(found.distance[range(0, 12, 3), range(3, 13, 3)].sum())
        fall = costs.loss[0] - costs.last
        climb = found.climb / fall if fall > 0 else math.inf
        return Path(found.ratio, third / found.chord, found.aside, climb)

    def _to_reference(self, finite: Sequence[int]) -> float | None:
        """Return how far J climbs on the straight line from the last point to the reference."""
        if self.reference is None or not finite:
            return None
        last = self.check.point(self.trajectory[finite[-1]].theta)
        line = profile(self.check, Line(last, self.reference), Uniform(0, 1, 33), progress=False)
        values = line.loss[line.first_split]
        return float(values.max() - values[0])

    def _ray(self, finite: Sequence[int], floor: Floor) -> float:
        """Return what is left of J at 64 θ where J falls all the way there, θ the last point."""
        if not finite:
            return math.nan
        theta = self.check.point(self.trajectory[finite[-1]].theta)
        values = [cost_at(self.check, theta * 2.0 ** (k / 2)) for k in range(13)]
        falls = all(b <= a for a, b in pairwise(values))  # equal where J is all rounding
        least = min(floor.value, values[-1])
        span = values[0] - least
        return (values[-1] - least) / span if falls and span > 0 else math.nan

    def _growth(self, finite: Sequence[int]) -> float:
        """Return the relative growth of ‖θ‖ over the second half of the run."""
        if len(finite) < 3:
            return math.nan
        middle = self.trajectory[finite[len(finite) // 2]].theta
        last = self.trajectory[finite[-1]].theta
        before = float(middle.double().norm())
        return float(last.double().norm()) / before - 1 if before > 0 else math.inf


def _examples_of(objective: Objective) -> int:
    """Return the number of examples of a cost, 0 for a closed form."""
    return objective.splits[0].examples if isinstance(objective, ModelObjective) else 0


def _parts(
    objective: Objective, examples: int, exact: bool, seed: int
) -> tuple[Objective, Objective, dict[str, int]]:
    """Return the cost for derivatives and the one that judges, on different examples."""
    if exact or not isinstance(objective, ModelObjective) or not can_pick(objective.splits[0]):
        return objective, objective, {}
    split = objective.splits[0]
    if split.examples <= _FEW * examples:
        return objective, objective, {}
    order = random_examples(split, seed)
    probe = with_examples(objective, order[:examples], examples)
    check = with_examples(objective, order[examples : 2 * examples], examples)
    return probe, check, {"derivatives": examples, "costs": examples}


def _held_out(
    objective: ModelObjective, examples: int, exact: bool, seed: int
) -> tuple[Split, dict[str, int]]:
    """Return the held-out split, or some of its examples."""
    held_out = objective.splits[1]
    if exact or not can_pick(held_out) or held_out.examples <= _FEW * examples:
        return held_out, {}
    chosen = random_examples(held_out, seed)[:examples]
    return split_of(held_out, chosen, examples), {"held-out costs": examples}


def _effort(objective: Objective, examples: dict[str, int]) -> Effort:
    """Return how much is spent on one point: a rule, so that it is the same everywhere."""
    size = objective.space.size
    if not isinstance(objective, ModelObjective):
        return Effort(None if size <= _WHOLE else 64, 300, 50)
    work = size * (examples.get("derivatives") or objective.splits[0].examples)
    if work <= 2e7:
        return Effort(None if size <= 64 else 24, 40, 2)
    return Effort(_KRYLOV, 8, 1)
