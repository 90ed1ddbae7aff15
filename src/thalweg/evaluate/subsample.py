"""Estimating the cost along a section from some of the examples, with intervals.

The same examples serve all points (common random numbers), so that differences along the
section are far tighter than values. And where the exact cost is known at a few nodes, the
subsample needs to say only how the cost differs from what the nodes say, which varies little:

    Ĵ(c) = S(c) + Σ_k ℓ_k(c) [J(c_k) − S(c_k)]

with S the mean over the subsample and ℓ_k the Lagrange polynomials of the nodes c_k. Since S
has the mean J at every point, Ĵ has it too, however well or badly the polynomials fit: the nodes
are control variates (Owen 2013, section 8.9), and the interval needs to cover sampling alone.
Where examples weigh differently (class weights, ignored tokens), S is a ratio of two sums, and
has the mean J but for a bias of order 1/n beside its error of order 1/√n.

A question about a line, such as whether it has a barrier, is asked again with twice as many
examples until the interval answers it. The probability of error is divided evenly among the
looks before the last, at which all examples are there.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from thalweg.evaluate.confidence import simultaneous_multiplier
from thalweg.evaluate.questions import Answer, Question, Values, answered
from thalweg.evaluate.sweep import sweep
from thalweg.grids import Chebyshev
from thalweg.objectives.batches import examples_in, narrow
from thalweg.objectives.criteria import part_of_output
from thalweg.objectives.examples import can_pick, split_of
from thalweg.objectives.forward_pass import ForwardPass
from thalweg.objectives.model import ModelObjective
from thalweg.objectives.objective import Evaluation, Objective
from thalweg.objectives.terms import Criterion, SumAndCount
from thalweg.progress import Progress
from thalweg.results import Array, Estimate
from thalweg.sections import Section

__all__ = ["Subsample", "estimated"]

_BATCH = 4096  # examples of one pass over a subsample
_LEAST_GROUPS = 20  # fewer say too little about how skewed an estimate is


@dataclass(frozen=True)
class Subsample:
    """An estimate of the cost from some of the examples, asked for by name.

    Pass it as `estimate=` to `profile` or `surface`. The loss of the first split is estimated;
    the result has no other splits and no metrics, and its `estimate` holds the intervals.

    Attributes:
        examples: Examples to draw, without replacement; all of them if there are fewer.
        seed: Seed of the draw. Of two subsamples with one seed the smaller is part of the
            larger.
        nodes: Exact nodes along each coordinate; 0 for a plain subsample.
        groups: The examples are put into so many random groups, at least 20, whose spread gives
            the standard error.
        confidence: Probability with which the intervals hold for all points of the result at
            once, and with which the answer to a question is right.
        question: What is to be found out about a line, such as `BarrierAbove(0.01)`: the
            subsample is doubled until it is decided. The result's `estimate` has the answer.

    Example:
        >>> Subsample(2000, seed=0).nodes
        6

        The cost of a linear regression is convex, so that no line meets a barrier; 200 of its
        5000 examples are enough to say so.

        >>> import thalweg as tw
        >>> x = torch.linspace(-1, 1, 5000)[:, None]
        >>> cost = tw.ModelObjective(nn.Linear(1, 1), nn.MSELoss(), (x, x))
        >>> line = tw.Line(torch.tensor([0.5, 0.0]), torch.tensor([1.5, 0.0]))
        >>> how = Subsample(200, question=tw.BarrierAbove(0.01))
        >>> told = tw.profile(cost, line, estimate=how, progress=False).estimate
        >>> told.answer, told.examples
        ('no', 200)
    """

    examples: int = 2000
    seed: int = 0
    nodes: int = 6
    groups: int = 50
    confidence: float = 0.95
    question: Question | None = None

    def __post_init__(self) -> None:
        if not _LEAST_GROUPS <= self.groups <= self.examples:
            raise ValueError(
                f"A subsample needs {_LEAST_GROUPS} groups at least, and as many examples as "
                f"groups; got {self.examples} examples and {self.groups} groups. Try 2000 and 50."
            )
        if self.seed < 0:
            raise ValueError(f"`seed` must be 0 or more; got {self.seed}. Try 0.")
        if self.nodes != 0 and not 2 <= self.nodes <= 20:
            raise ValueError(
                f"`nodes` is 0, or 2 to 20 exact points; got {self.nodes}. Polynomials through "
                "more points are of no use here. Try 6."
            )
        if not 0 < self.confidence < 1:
            raise ValueError(
                f"`confidence` is a probability between 0 and 1; got {self.confidence}. Try 0.95."
            )
        if self.question is not None and not isinstance(self.question, Question):
            raise TypeError(
                "`question` is a `BarrierAbove` or a `ClimbAbove`; got "
                f"{type(self.question).__name__}. Use `BarrierAbove(0.01)`, or leave it out."
            )


def estimated(
    objective: Objective,
    section: Section,
    places: Array,
    how: Subsample,
    progress: bool | Progress | None,
) -> tuple[dict[str, Array], Estimate]:
    """Return the estimated loss of the first split at some places, and how sure it is.

    Args:
        objective: The cost.
        section: Its anchors are combined.
        places: Coordinates, shape (n,) or (n, k).
        how: The subsample.
        progress: None for a progress bar on a terminal, False for none.

    Raises:
        TypeError: If the cost is not that of a model on data.
        ValueError: If a policy ties the cost to its batches, examples cannot be picked, none of
            those drawn counts, or a question cannot be asked at these places.
    """
    objective = _expect_examples(objective)
    table = places.reshape(len(places), -1)
    ends = _expect_askable(how, section, table)
    total = objective.splits[0].examples
    looks = _looks(how, total)
    error = (1 - how.confidence) / max(1, sum(drawn < total for drawn in looks))
    nodes, shares = _nodes(table, how.nodes if looks[0] < total else 0)
    everywhere = np.concatenate([table, nodes])
    weights = section.weights(everywhere[:, 0] if table.shape[1] == 1 else everywhere)
    order = torch.from_numpy(np.random.default_rng(how.seed).permutation(total))
    groups = min(how.groups, looks[0])
    exact = _exact_values(objective, section, weights[len(table) :], progress)
    sums, counts = np.zeros((len(weights), groups)), np.zeros(groups)
    answer = Answer()
    for before, drawn in pairwise([0, *looks]):
        part = _grouped(objective, order[before:drawn], groups)
        rows = sweep(part, section, weights, progress=progress)
        sums += np.array([list(row.metrics["sum"].values()) for row in rows])
        counts += np.array(list(rows[0].metrics["count"].values()))  # the same at every point
        if not counts.any():
            continue
        value, deviations = _corrected(sums, counts, exact, shares, drawn / total)
        value += np.array([row.metrics["penalty"][""] for row in rows[: len(table)]])
        if how.question is not None:
            # At a node one polynomial is 1 and all others are 0.
            known = (np.count_nonzero(shares, axis=1) == 1) | (drawn == total)
            values = Values(table[:, 0], ends, value, deviations, known)
            answer = answered(how.question, values, 1 - error, how.seed)
        if answer.final:
            break
    if not counts.any():
        raise ValueError(
            f"A mean needs one term at least; the {drawn} examples drawn have none. Draw more, or "
            "check `ignore_index` and the weights of the loss."
        )
    estimate = Estimate(
        deviations=deviations,
        multiplier=simultaneous_multiplier(deviations, 1 - error, how.seed),
        confidence=how.confidence,
        examples=drawn,
        of=total,
        seed=how.seed,
        nodes=nodes if table.shape[1] > 1 else nodes[:, 0],
        question="" if how.question is None else str(how.question),
        answer=answer.word,
        interval=answer.interval,
    )
    return {objective.splits[0].name: value}, estimate


def _expect_askable(how: Subsample, section: Section, places: Array) -> Array:
    """Return the ends of the line that a question is about; raise where there is none."""
    if how.question is None:
        return np.empty(0)
    if places.shape[1] > 1:
        raise ValueError(
            "A question is about a line; got one about a surface. Ask it of `profile` on a line "
            "between the two points in question, or leave `question` out."
        )
    ends: Array = np.sort(section.places[[0, -1]])
    how.question.expect_points(places[:, 0], ends)
    return ends


def _looks(how: Subsample, total: int) -> list[int]:
    """Return how many examples are there at each look: without a question there is one."""
    looks = [min(how.examples, total)]
    while how.question is not None and looks[-1] < total:
        looks.append(min(2 * looks[-1], total))
    return looks


def _exact_values(
    objective: ModelObjective, section: Section, weights: Array, progress: bool | Progress | None
) -> Array:
    """Return the exact loss at the nodes, shape (K,)."""
    rows = sweep(_loss_alone(objective), section, weights, progress=progress)
    return np.array([next(iter(row.loss.values())) for row in rows])


@np.errstate(invalid="ignore")
def _corrected(
    sums: Array, counts: Array, exact: Array, shares: Array, drawn: float
) -> tuple[Array, Array]:
    """Return estimates at the points, shape (n,), and deviations of the groups, shape (g, n).

    Args:
        sums: Summed loss of each group at the points and then at the nodes, shape (n + K, g).
        counts: Number of terms of each group, shape (g,).
        exact: The exact loss at the nodes, shape (K,).
        shares: Lagrange polynomials of the nodes at the points, shape (n, K).
        drawn: Share of the examples that has been drawn.
    """
    points, groups, terms = len(shares), len(counts), counts.sum()
    residuals, known = sums[:points], np.zeros(points)
    # With all examples there is nothing to correct, and a node without a finite loss cannot.
    if drawn < 1 and np.isfinite(sums[points:]).all() and np.isfinite(exact).all():
        residuals, known = residuals - shares @ sums[points:], shares @ exact
    mean = residuals.sum(axis=1) / terms
    left = (1 - drawn) * groups / max(1, groups - 1)
    deviations = np.sqrt(left) * (residuals - mean[:, None] * counts).T / terms
    return mean + known, deviations


def _expect_examples(objective: Objective) -> ModelObjective:
    """Raise unless the cost is a mean over examples that can be picked."""
    if not isinstance(objective, ModelObjective):
        raise TypeError(
            "A subsample needs a cost that is a mean over examples; got "
            f"{type(objective).__name__}. Leave `estimate` out."
        )
    if objective.dropout is not None or objective.batch_norm in ("batch", "recalibrate"):
        policy = "dropout" if objective.dropout is not None else "batch_norm"
        raise ValueError(
            "A subsample needs examples whose loss does not depend on other examples; under "
            f"{policy}={getattr(objective, policy)!r} it does. Use batch_norm='stored' or "
            "'interpolate' without dropout, or leave `estimate` out."
        )
    split = objective.splits[0]
    if not can_pick(split):
        raise ValueError(
            "A subsample needs examples that can be picked one by one; those of "
            f"{split.name!r} differ in shape, or are streamed and come as they come. Pad them to "
            "one shape and give them by index (a Dataset with `__getitem__`), or leave `estimate` "
            "out."
        )
    return objective


def _nodes(places: Array, count: int) -> tuple[Array, Array]:
    """Return exact nodes on a table of Chebyshev's coordinates, and Lagrange's weights (n, K)."""
    dimensions = places.shape[1]
    if count == 0:
        return np.empty((0, dimensions)), np.zeros((len(places), 0))
    shares = np.ones((len(places), 1))
    axes = []
    for axis in places.T:
        low, high = float(axis.min()), float(axis.max())
        alone = low == high
        nodes = np.array([low]) if alone else Chebyshev(count, low, high).coordinates()
        axes.append(nodes)
        along = _lagrange(nodes, axis)
        shares = (shares[:, :, None] * along[:, None, :]).reshape(len(places), -1)
    mesh = np.meshgrid(*axes, indexing="ij")
    return np.stack([m.ravel() for m in mesh], axis=-1), shares


def _lagrange(nodes: Array, at: Array) -> Array:
    """Return the Lagrange polynomials of some nodes at some coordinates, shape (n, K)."""
    apart = at[:, None] - nodes
    polynomials = np.ones((len(at), len(nodes)))
    for k in range(len(nodes)):
        others = np.arange(len(nodes)) != k
        polynomials[:, k] = np.prod(apart[:, others] / (nodes[k] - nodes[others]), axis=1)
    return polynomials


class _OfGroup:
    """The part of a criterion that belongs to one group: a run of examples of each batch."""

    def __init__(self, criterion: Criterion, group: int, groups: int, device: torch.device) -> None:
        self.criterion = criterion
        self.group = group
        self.groups = groups
        self.device = device
        self.needs_output = criterion.needs_output

    def __call__(self, model: nn.Module, batch: Any, output: Any) -> SumAndCount:
        count = examples_in(batch)
        start, stop = (count * g // self.groups for g in (self.group, self.group + 1))
        if start == stop:  # a mean over nothing is NaN
            nothing = torch.zeros((), dtype=torch.float64, device=self.device)
            return nothing, nothing
        own = None if output is None else part_of_output(output, start, stop)
        return self.criterion(model, narrow(batch, start, stop), own)


class _GroupedCost(ModelObjective):
    """A cost whose criteria are groups of examples: it tells their sums and counts apart.

    Attributes:
        whole: The cost that the groups are part of.
    """

    whole: ModelObjective

    def check(self, theta: Any) -> None:
        """Raise unless the whole cost agrees with itself; cut up, groups are other groups."""
        self.whole.check(theta)

    def evaluation(
        self, sums: Sequence[Sequence[Tensor]], tensors: Mapping[str, Tensor]
    ) -> Evaluation:
        """Return sum and count of each group, and the penalty, as metrics."""
        total = sums[0][0].cpu()
        columns = {"sum": total[:, 0], "count": total[:, 1]}
        metrics = {
            name: {str(group): float(value) for group, value in enumerate(column)}
            for name, column in columns.items()
        }
        penalty = 0.0 if self.penalty is None else float(self.penalty_at(tensors))
        return Evaluation({self.splits[0].name: 0.0}, {**metrics, "penalty": {"": penalty}})


def _grouped(objective: ModelObjective, indices: Tensor, groups: int) -> _GroupedCost:
    """Return the cost on some examples, each random group of them as a criterion of its own."""
    # Groups must not depend on the order of the data: the indices are in random order.
    criterion = objective.forward_pass.criteria[0]
    own = object.__new__(_GroupedCost)
    vars(own).update(vars(objective))
    own.whole = objective
    own.splits = (split_of(objective.splits[0], indices, _BATCH),)
    criteria: Sequence[Criterion] = [
        _OfGroup(criterion, g, groups, objective.device) for g in range(groups)
    ]
    own.metrics = tuple(map(str, range(1, groups)))  # the first criterion is called the loss
    own.forward_pass = ForwardPass(objective.forward_pass.model, criteria)
    return own


def _loss_alone(objective: ModelObjective) -> ModelObjective:
    """Return the loss on the first split, without metrics, other splits and penalty."""
    own = copy.copy(objective)
    own.splits = objective.splits[:1]
    own.metrics = ()
    own.penalty = None
    own.forward_pass = ForwardPass(
        objective.forward_pass.model, objective.forward_pass.criteria[:1]
    )
    return own
