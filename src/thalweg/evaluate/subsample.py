"""Estimating the cost along a section from some of the examples, with intervals.

The same examples serve all points (common random numbers), so that differences along the
section are far tighter than values. And where the exact cost is known at a few nodes, the
subsample needs to say only how the cost differs from what the nodes say, which varies little:

    Ĵ(c) = S(c) + Σ_k ℓ_k(c) [J(c_k) − S(c_k)]

with S the mean over the subsample and ℓ_k the Lagrange polynomials of the nodes c_k. Since S
has the mean J at every point, Ĵ has it too, however well or badly the polynomials fit: the nodes
are control variates (Owen 2013, section 8.9), and the interval needs to cover sampling alone.
"""

import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from thalweg.evaluate.sweep import sweep
from thalweg.grids import Chebyshev
from thalweg.objectives.batches import Split, examples_in, map_tensors, narrow
from thalweg.objectives.forward_pass import ForwardPass
from thalweg.objectives.model import ModelObjective
from thalweg.objectives.objective import Evaluation, Objective
from thalweg.objectives.streaming import StreamedBatches
from thalweg.objectives.terms import Criterion, SumAndCount
from thalweg.progress import Progress
from thalweg.results import Array, Estimate
from thalweg.sections import Section, combine

__all__ = ["Subsample", "estimated"]

_BATCH = 4096  # examples of one pass over a subsample


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
        groups: The examples are put into so many random groups, whose spread gives the
            standard error.
        confidence: Probability with which the intervals hold for all points of the result at
            once.

    Example:
        >>> Subsample(2000, seed=0).nodes
        6
    """

    examples: int = 2000
    seed: int = 0
    nodes: int = 6
    groups: int = 50
    confidence: float = 0.95

    def __post_init__(self) -> None:
        if self.examples < 2 or not 2 <= self.groups <= self.examples:
            raise ValueError(
                "A subsample needs two groups at least, and as many examples as groups; got "
                f"{self.examples} examples and {self.groups} groups. Try 2000 and 50."
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
        ValueError: If a policy ties the cost to its batches, or examples cannot be picked.
    """
    objective = _expect_examples(objective)
    table = places.reshape(len(places), -1)
    nodes, shares = _nodes(table, how.nodes)
    total = objective.splits[0].examples
    drawn = min(how.examples, total)
    everywhere = np.concatenate([table, nodes])
    weights = section.weights(everywhere[:, 0] if table.shape[1] == 1 else everywhere)
    order = np.random.default_rng(how.seed).permutation(total)[:drawn]
    objective.check(combine([objective.point(a) for a in section.anchors], weights[0]))
    part = _grouped(objective, torch.from_numpy(order), min(how.groups, drawn))
    rows = sweep(part, section, weights, progress=progress)
    sums = np.array([list(row.metrics["sum"].values()) for row in rows])
    counts = np.array(list(rows[0].metrics["count"].values()))  # the same at every point
    residuals = sums[: len(table)] - shares @ sums[len(table) :]
    value = residuals.sum(axis=1) / counts.sum()
    if len(nodes):
        exact = sweep(_loss_alone(objective), section, weights[len(table) :], progress=progress)
        value = value + shares @ np.array([next(iter(row.loss.values())) for row in exact])
    if objective.penalty is not None:
        value = value + _penalties(objective, section, weights[: len(table)])
    centred = residuals - (residuals.sum(axis=1) / counts.sum())[:, None] * counts
    groups = len(counts)
    left = max(0.0, 1 - drawn / total) * groups / (groups - 1)
    deviations = np.sqrt(left) * centred.T / counts.sum()
    estimate = Estimate(
        deviations=deviations,
        multiplier=_multiplier(deviations, how),
        confidence=how.confidence,
        examples=drawn,
        of=total,
        seed=how.seed,
        nodes=nodes if table.shape[1] > 1 else nodes[:, 0],
    )
    return {objective.splits[0].name: value}, estimate


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
    pickable = (
        split.batches.pickable if isinstance(split.batches, StreamedBatches) else split.uniform
    )
    if not pickable:
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

    def __init__(self, criterion: Criterion, group: int, groups: int) -> None:
        self.criterion = criterion
        self.group = group
        self.groups = groups
        self.needs_output = criterion.needs_output

    def __call__(self, model: nn.Module, batch: Any, output: Any) -> SumAndCount:
        count = examples_in(batch)
        start, stop = (count * g // self.groups for g in (self.group, self.group + 1))
        own = narrow(output, start, stop) if isinstance(output, Tensor) else output
        return self.criterion(model, narrow(batch, start, stop), own)


class _GroupedCost(ModelObjective):
    """A cost whose criteria are groups of examples: it tells their sums and counts apart."""

    def evaluation(
        self, sums: Sequence[Sequence[Tensor]], tensors: Mapping[str, Tensor]
    ) -> Evaluation:
        """Return sum and count of each group as metrics."""
        total = sums[0][0].cpu()
        columns = {"sum": total[:, 0], "count": total[:, 1]}
        return Evaluation(
            {"train": float(total[:, 0].sum() / total[:, 1].sum())},
            {
                name: {str(group): float(value) for group, value in enumerate(column)}
                for name, column in columns.items()
            },
        )


def _grouped(objective: ModelObjective, indices: Tensor, groups: int) -> _GroupedCost:
    """Return the cost on some examples, each random group of them as a criterion of its own."""
    split = objective.splits[0]
    total = split.examples
    # Groups must not depend on the order of the data: the indices are in random order.
    if isinstance(split.batches, StreamedBatches):
        picked = split.batches.pick(indices.tolist())
    else:
        picked = map_tensors(
            lambda t: t[indices.to(t.device)] if t.ndim and t.shape[0] == total else t, split.whole
        )
    batches = tuple(narrow(picked, at, at + _BATCH) for at in range(0, len(indices), _BATCH))
    criterion = objective.forward_pass.criteria[0]
    own = object.__new__(_GroupedCost)
    vars(own).update(vars(_loss_alone(objective)))
    digest = hashlib.sha256(f"{split.sha256} {indices.tolist()}".encode()).hexdigest()
    own.splits = (Split(split.name, batches, picked, digest),)
    criteria: Sequence[Criterion] = [_OfGroup(criterion, g, groups) for g in range(groups)]
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


def _penalties(objective: ModelObjective, section: Section, weights: Array) -> Array:
    """Return the penalty at each point, which has no examples."""
    anchors = [objective.point(anchor) for anchor in section.anchors]
    with objective.passive():
        return np.array(
            [
                float(objective.penalty_at(objective.space.unflatten(combine(anchors, row))))
                for row in weights
            ]
        )


def _multiplier(deviations: Array, how: Subsample) -> float:
    """Return how many standard errors cover all points at once with the confidence asked for.

    The largest of the studentised deviations is drawn by signing the groups at random (the wild
    bootstrap), and widened as Student's distribution is against the normal one, for the
    standard errors come from as many groups.
    """
    from scipy import stats

    groups = len(deviations)
    errors = np.sqrt((deviations**2).sum(axis=0))
    known = errors > 1e-9 * errors.max(initial=0.0)
    student = float(stats.t.ppf((1 + how.confidence) / 2, groups - 1))
    normal = float(stats.norm.ppf((1 + how.confidence) / 2))
    if not known.any():
        return student
    shares = deviations[:, known] / errors[known]
    signs = np.random.default_rng(how.seed).standard_normal((2000, groups))
    largest = np.abs(signs @ shares).max(axis=1)
    return max(student, float(np.quantile(largest, how.confidence)) * student / normal)
