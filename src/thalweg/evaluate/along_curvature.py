"""Value, slope and curvature: φ(α) = J(θ(α)) with its first and second derivative in α.

On a section θ(α) = Σ_j w_j(α) P_j, with tangent t = Σ_j w_j' P_j and acceleration
a = Σ_j w_j'' P_j,

    φ' = ∇J·t,        φ'' = tᵀ H t + ∇J·a,

and a = 0 on straight sections. A point is a row of 3m numbers: its weights and their two
derivatives. J is a sum S over a count C, whose derivatives are added up over the batches in
float64, so that φ' = (S' − J C')/C and φ'' = (S'' − 2 φ' C' − J C'')/C.

Two ways give these numbers. A Taylor pass sends tensors with two derivatives through the model
(`thalweg.evaluate.jets`): one pass over the data, without a graph to keep. Its cost is that of the
products: those of the first layer, where it is affine and fed by the data, are computed once an
anchor and combined at every point. Where an operator has no rule, the gradient of every batch is
differentiated along the tangent once more. Before the first is used, it is compared with the
second on some examples.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thalweg.anchors import Anchor, combine, write_combination
from thalweg.errors import first_line
from thalweg.evaluate.jets import Jet, taylor_of
from thalweg.evaluate.planning import Choice, few_examples, looked_into, worth_sharing
from thalweg.evaluate.resident import Entry, bytes_of, entry_inputs, patched
from thalweg.evaluate.strategy import ModelStrategy, Strategy
from thalweg.evaluate.tracing import Affine
from thalweg.objectives.batch_norm import combined
from thalweg.objectives.batches import examples_in
from thalweg.objectives.function import FunctionObjective
from thalweg.objectives.model import ModelObjective
from thalweg.objectives.objective import Evaluation, Objective
from thalweg.objectives.tangents import moving_statistics, unfused
from thalweg.results import Array
from thalweg.sections import Section

__all__ = ["TAYLOR", "TWICE", "choose_along_curvature", "way_of"]

TAYLOR, TWICE = "Taylor pass", "double backward"

# Data and outputs of the first layers that are kept for one block.
_BLOCK_BYTES = 64 << 20

_COMPARED_EXAMPLES = 32
# What both ways may differ by, as a share of the largest of value, slope and curvature.
_ALLOWED = {torch.float64: 1e-8, torch.float32: 1e-3}
_ALLOWED_IN_HALF = 0.1


def choose_along_curvature(
    objective: Objective, section: Section, given: Sequence[Anchor]
) -> Choice:
    """Return the way to evaluate values with slopes and curvatures.

    Args:
        objective: The cost.
        section: Its anchors are combined.
        given: Its anchors.

    Raises:
        ValueError: If the parameters are sharded over ranks, or if statistics are recomputed at
            every point and an operator has no rule of second order.
    """
    if isinstance(objective, ModelObjective) and objective.sharding is not None:
        raise ValueError(
            "Curvatures need all parameters in one place; those of this model are sharded over "
            "ranks. Leave `shard` out."
        )
    anchors = [objective.point(anchor, "An anchor") for anchor in given]
    middle = section.places[[0, -1]].mean(keepdims=True)
    ways = (section.weights, section.slopes, section.accelerations)
    row = np.concatenate([way(middle)[0] for way in ways])
    if isinstance(objective, FunctionObjective):
        refused = _refused_by_function(objective, _points(anchors, row))
        way = TAYLOR if refused is None else TWICE
        return Choice(CurvatureOfFunction(objective, section, anchors, way), (_reason(refused),))
    if not isinstance(objective, ModelObjective):
        why = "A cost of another kind has a gradient and Hessian-vector products alone."
        return Choice(CurvatureByProducts(objective, section, anchors), (why,))
    refused = _refused_by_model(objective, _points(anchors, row))
    if refused is None:
        first = _shared(objective, section, anchors, row)
        why = (
            f" The products of the first layer ({', '.join(each.name for each in first)}) are "
            "computed once an anchor."
            if first
            else ""
        )
        strategy = TaylorOfModel(objective, section, anchors, first)
        return Choice(strategy, (_reason(None) + why,))
    if objective.batch_norm == "recalibrate":
        raise ValueError(
            "Curvature through recomputed statistics needs a rule of second order for every "
            f"operator of the model ({refused}). Use batch_norm='interpolate', 'stored' or 'batch'."
        )
    return Choice(TwiceDifferentiated(objective, section, anchors), (_reason(refused),))


def way_of(choice: Choice) -> str:
    """Return how a choice made by `choose_along_curvature` differentiates."""
    way: str = choice.strategy.way  # type: ignore[attr-defined]
    return way


class CurvatureByProducts(Strategy):
    """Gradient and Hessian-vector product of J: what any objective can do.

    They are those of the first split, and so are slope and curvature.
    """

    way = TWICE
    name = f"value, slope and curvature, {TWICE}"

    def __init__(self, objective: Objective, section: Section, anchors: Sequence[Tensor]) -> None:
        self.objective = objective
        self.section = section
        self.anchors = anchors

    def evaluate(self, weights: Array) -> list[Evaluation]:
        """Return values, slopes and curvatures at some rows."""
        found = []
        for row in weights:
            theta, tangent, bend = _points(self.anchors, row)
            place = list(map(float, row[: len(self.anchors)]))
            values = self.objective.evaluate(theta, (self.section.buffers, place))
            slope, curvature = _by_products(self.objective, theta, tangent, bend)
            split = next(iter(values.loss))
            found.append(replace(values, slopes={split: slope}, curvatures={split: curvature}))
        return found


class CurvatureOfFunction(Strategy):
    """Value, slope and curvature of a formula."""

    def __init__(
        self, objective: FunctionObjective, section: Section, anchors: Sequence[Tensor], way: str
    ) -> None:
        self.name = f"value, slope and curvature, {way}"
        self.objective = objective
        self.section = section
        self.anchors = anchors
        self.way = way

    def evaluate(self, weights: Array) -> list[Evaluation]:
        """Return values, slopes and curvatures at some rows."""
        found = []
        for row in weights:
            points = _points(self.anchors, row)
            if self.way == TAYLOR:
                value, slope, curvature = _taylor_of_function(self.objective, points)
            else:
                value = self.objective.value(points[0])
                slope, curvature = _by_products(self.objective, *points)
            found.append(
                Evaluation(
                    {"train": value}, slopes={"train": slope}, curvatures={"train": curvature}
                )
            )
        return found


class TaylorOfModel(ModelStrategy):
    """Value, slope and curvature of the cost of a model on every split, by Taylor passes.

    Args:
        objective: The cost.
        section: Its anchors are combined.
        anchors: Its anchors in the objective's type, on its device.
        first: The affine layers whose products are shared among the points.
    """

    way = TAYLOR
    rows = 16

    def __init__(
        self,
        objective: ModelObjective,
        section: Section,
        anchors: Sequence[Tensor],
        first: Sequence[Affine] = (),
    ) -> None:
        self.name = f"value, slope and curvature, {TAYLOR}"
        if first:
            self.name += ", first-layer reuse"
        self.objective = objective
        self.section = section
        self.anchors = anchors
        self._entries = {each.name: Entry(objective, each, anchors) for each in first}
        self._reached: list[str] = []  # layers at the entry, in this pass
        self._at: tuple[int, list[list[float]]] = 0, []  # number of the batch, and its weights

    def evaluate(self, weights: Array) -> list[Evaluation]:
        """Return values, slopes and curvatures at some rows."""
        objective = self.objective
        shape = (len(weights), len(objective.samples), 3, len(objective.forward_pass.criteria), 2)
        sums = [
            torch.zeros(shape, dtype=torch.float64, device=objective.device)
            for _ in objective.splits
        ]
        with objective.passive(), unfused():
            statistics = [self._statistics(row) for row in weights]
            objective.set_mode()
            with self._combining():
                for index, split in enumerate(objective.splits):
                    self._pass_over(split.batches, index, weights, statistics, sums[index])
            return [
                self._evaluation([total[r] for total in sums], row) for r, row in enumerate(weights)
            ]

    def trial(self, weights: Array, batch: Any) -> Tensor:
        """Return sums and counts for one batch, with the model's own running statistics."""
        return self.derivatives_on(weights, batch)[:, 0]

    def derivatives_on(self, weights: Array, batch: Any) -> Tensor:
        """Return the same with their derivatives, shape (n, 3, criteria, 2)."""
        objective = self.objective
        shape = (len(weights), 1, 3, len(objective.forward_pass.criteria), 2)
        sums = torch.zeros(shape, dtype=torch.float64, device=objective.device)
        with objective.passive(), unfused():
            statistics = [objective.own_statistics() for _ in weights]
            objective.set_mode()
            with self._combining():
                self._pass_over([batch], 0, weights, statistics, sums, samples=[0])
        return sums[:, 0]

    def _pass_over(
        self,
        batches: Any,
        split: int,
        rows: Array,
        statistics: Sequence[dict[str, Tensor]],
        sums: Tensor,
        samples: Sequence[int] | range | None = None,
    ) -> None:
        """Add up the criteria and their derivatives over some batches at every row."""
        objective = self.objective
        samples = objective.samples if samples is None else samples
        start = 0
        for block in self._blocks(batches):
            for batch in block if self._entries else ():
                inputs = entry_inputs(objective, batch, list(self._entries))
                for name, entry in self._entries.items():
                    entry.add(inputs[name])
            share = sum(map(examples_in, block)) / len(rows)
            for r, row in enumerate(rows):
                tensors = _jets(objective, self.anchors, row) | statistics[r]
                for place, batch in enumerate(block):
                    self._at, self._reached = (place, row.reshape(3, -1).tolist()), []
                    for number, sample in enumerate(samples):
                        found = objective.call(tensors, batch, sample, split, start + place)
                        sums[r, number] += torch.stack(taylor_of(found))
                self.tick(share)
            start += len(block)
            for entry in self._entries.values():
                entry.clear()

    def _blocks(self, batches: Any) -> Iterator[list[Any]]:
        """Gather as many batches as the memory for a block allows."""
        block: list[Any] = []
        held = 0
        shared = sum(entry.bytes_an_example for entry in self._entries.values())
        for batch in batches:
            block.append(batch)
            held += examples_in(batch) * shared + bytes_of(batch)
            if held >= _BLOCK_BYTES:
                yield block
                block, held = [], 0
        if block:
            yield block

    @contextmanager
    def _combining(self) -> Iterator[None]:
        """Let the layers at the entry combine what is known at the anchors."""
        with ExitStack() as stack:
            for entry in self._entries.values():
                stack.enter_context(
                    patched(entry.layer, lambda given, entry=entry: self._combined(entry, given))
                )
                stack.callback(entry.clear)
            yield

    def _combined(self, entry: Entry, given: Tensor) -> Tensor:
        """Return the output of a layer and its derivatives: combinations by the weights'."""
        place, rows = self._at
        again = entry.name in self._reached
        if again or given.shape[0] != entry.outputs[place][0].shape[0]:
            raise RuntimeError(
                "First-layer reuse needs a model that does the same for every batch; "
                f"{entry.name!r}, which was called once for the first batch, is called otherwise "
                "for another. Use `objective.gradient` and `objective.hvp` instead."
            )
        self._reached.append(entry.name)
        parts: list[Any] = []
        for order, row in enumerate(rows):
            if order > 0 and not any(row):
                parts.append(None)
                continue
            part = torch.empty_like(entry.outputs[place][0])
            write_combination(part, entry.outputs[place], row)
            parts.append(part)
        found: Tensor = Jet(*parts)
        return found

    def _statistics(self, row: Array) -> dict[str, Tensor]:
        """Return the running statistics at a point that are not the model's own."""
        objective, buffers = self.objective, self.section.buffers
        if objective.batch_norm == "recalibrate":
            return objective.recalibrated(_jets(objective, self.anchors, row), Jet)
        if objective.batch_norm == "interpolate":
            layers, device, dtype = (
                objective.normalisation_layers,
                objective.device,
                objective.dtype,
            )
            orders = [
                combined(layers, buffers, each, device, dtype)
                for each in row.reshape(3, -1).tolist()
            ]
            return {name: Jet(*(order[name] for order in orders)) for name in orders[0]}
        return objective.statistics_at({}, (buffers, list(map(float, row[: len(self.anchors)]))))

    def _evaluation(self, sums: Sequence[Tensor], row: Array) -> Evaluation:
        """Divide the sums of every split, (samples, 3, criteria, 2), by their counts."""
        objective = self.objective
        theta = _points(self.anchors, row)[0]
        found = objective.evaluation(
            [list(s[:, 0]) for s in sums], objective.space.unflatten(theta)
        )
        slopes, curvatures = {}, {}
        for split, total in zip(objective.splits, sums, strict=True):
            rates = [_quotients(*each[:, 0]) for each in total]
            slopes[split.name], curvatures[split.name] = (
                sum(each[order] for each in rates) / len(rates) for order in (0, 1)
            )
        if objective.penalty is not None:
            extra = taylor_of(objective.penalty_at(_jets(objective, self.anchors, row)))
            name = objective.splits[0].name
            slopes[name] += float(extra[1])
            curvatures[name] += float(extra[2])
        return replace(found, slopes=slopes, curvatures=curvatures)


class TwiceDifferentiated(ModelStrategy):
    """Value, slope and curvature of the cost of a model, from gradients that are differentiated.

    Args:
        objective: The cost.
        section: Its anchors are combined.
        anchors: Its anchors in the objective's type, on its device.
    """

    way = TWICE
    name = f"value, slope and curvature, {TWICE}"

    def __init__(
        self, objective: ModelObjective, section: Section, anchors: Sequence[Tensor]
    ) -> None:
        self.objective = objective
        self.section = section
        self.anchors = anchors

    def evaluate(self, weights: Array) -> list[Evaluation]:
        """Return values, slopes and curvatures at some rows."""
        return [self._at(row) for row in weights]

    def trial(self, weights: Array, batch: Any) -> Tensor:
        """Return sums and counts for one batch, with the model's own running statistics."""
        objective, found = self.objective, []
        for row in weights:
            points = _points(self.anchors, row)
            _twice_on(objective, points, batch)
            with objective.passive():
                tensors = objective.own_statistics() | objective.space.unflatten(points[0])
                found.append(objective.call(tensors, batch, 0, 0, 0))
        return torch.stack(found)

    def _at(self, row: Array) -> Evaluation:
        """Evaluate as it is done without derivatives; then differentiate every batch twice."""
        objective, buffers = self.objective, self.section.buffers
        theta, *directions = _points(self.anchors, row)
        weights, *rates = row.reshape(3, -1).tolist()
        found = objective.evaluate(theta, (buffers, weights))
        moves = objective.batch_norm == "interpolate"
        layers = objective.normalisation_layers if moves else {}
        with objective.passive(grad=True), unfused(), moving_statistics(layers, twice=True):
            space = objective.space
            tensors = space.unflatten(theta.clone())
            tensors |= objective.statistics_at(tensors, (buffers, weights))
            moving = [space.unflatten(direction) for direction in directions]
            if moves:
                for table, each in zip(moving, rates, strict=True):
                    table.update(combined(layers, buffers, each, objective.device, objective.dtype))
            leaves = {name: tensors[name].detach().requires_grad_() for name in moving[0]}
            tensors |= leaves
            along = [(leaf, moving[0][name], moving[1][name]) for name, leaf in leaves.items()]
            objective.set_mode()
            slopes, curvatures = {}, {}
            for index, split in enumerate(objective.splits):
                pairs = [
                    self._rates(split.batches, tensors, along, sample, index)
                    for sample in objective.samples
                ]
                slopes[split.name], curvatures[split.name] = (
                    sum(pair[order] for pair in pairs) / len(pairs) for order in (0, 1)
                )
            if objective.penalty is not None:
                name = objective.splits[0].name
                first, second = _twice_along(objective.penalty_at(tensors), along)
                slopes[name] += float(first)
                curvatures[name] += float(second)
        return replace(found, slopes=slopes, curvatures=curvatures)

    def _rates(
        self, batches: Any, tensors: Mapping[str, Tensor], along: Any, sample: int, split: int
    ) -> tuple[float, float]:
        """Return slope and curvature of the mean over some batches."""
        total = torch.zeros((3, 2), dtype=torch.float64, device=self.objective.device)
        for index, batch in enumerate(batches):
            pair = self.objective.call(tensors, batch, sample, split, index, True)[0]
            total += _three(pair, along)
        return _quotients(*total)


def _points(anchors: Sequence[Tensor], row: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return point, tangent and acceleration."""
    theta, tangent, bend = (combine(anchors, each) for each in row.reshape(3, -1))
    return theta, tangent, bend


def _jets(objective: ModelObjective, anchors: Sequence[Tensor], row: Array) -> dict[str, Tensor]:
    """Return the named parameters with their derivatives."""
    tables = [
        objective.space.unflatten(combine(anchors, each)) if order == 0 or each.any() else None
        for order, each in enumerate(row.reshape(3, -1))
    ]
    assert tables[0] is not None
    return {
        name: Jet(value, *(None if table is None else table[name] for table in tables[1:]))
        for name, value in tables[0].items()
    }


def _quotients(value: Tensor, first: Tensor, second: Tensor) -> tuple[float, float]:
    """Return both derivatives of S/C from those of the pair (S, C)."""
    mean = value[0] / value[1]
    slope = (first[0] - mean * first[1]) / value[1]
    curvature = (second[0] - 2 * slope * first[1] - mean * second[1]) / value[1]
    return float(slope), float(curvature)


def _three(pair: Tensor, along: Any) -> Tensor:
    """Return sum and count of a batch with their derivatives, shape (3, 2)."""
    columns = [torch.stack([each.detach(), *_twice_along(each, along)]) for each in pair]
    return torch.stack(columns, dim=1)


def _twice_along(value: Tensor, along: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, Tensor]:
    """Return both derivatives of a scalar along a curve, products summed in float64.

    Args:
        value: The scalar.
        along: Leaf, tangent and acceleration of everything that moves.
    """
    zero = torch.zeros((), dtype=torch.float64, device=value.device)
    leaves = [leaf for leaf, _, _ in along]

    def gradients(scalar: Tensor) -> Sequence[Tensor]:
        if not scalar.requires_grad:  # nothing that moves was used
            return [torch.zeros_like(leaf) for leaf in leaves]
        return torch.autograd.grad(
            scalar, leaves, create_graph=True, allow_unused=True, materialize_grads=True
        )

    def times(found: Sequence[Tensor], which: int) -> Tensor:
        products = [
            (gradient.double() * each[which].double()).sum()
            for gradient, each in zip(found, along, strict=True)
        ]
        return torch.stack(products).sum() if products else zero

    once = gradients(value)
    slope = times(once, 1)
    curvature = times(gradients(slope), 1) + times(once, 2)
    return slope.detach(), curvature.detach()


def _by_products(
    objective: Objective, theta: Tensor, tangent: Tensor, bend: Tensor
) -> tuple[float, float]:
    """Return slope and curvature from a gradient and a Hessian-vector product."""
    gradient = objective.gradient(theta).double()
    product = objective.hvp(theta, tangent).double()
    slope = float(gradient @ tangent.double())
    return slope, float(product @ tangent.double() + gradient @ bend.double())


def _taylor_of_function(
    objective: FunctionObjective, points: tuple[Tensor, Tensor, Tensor]
) -> tuple[float, float, float]:
    """Evaluate a formula with a jet."""
    # With gradients on, for then a formula that leaves torch half-way is refused; since nothing
    # requires any, no graph is recorded.
    with torch.inference_mode(False), torch.enable_grad():
        value, slope, curvature = taylor_of(objective.scalar(Jet(*points)))
    return float(value), float(slope), float(curvature)


def _refused_by_function(
    objective: FunctionObjective, points: tuple[Tensor, Tensor, Tensor]
) -> str | None:
    """Say why a formula has no Taylor pass, or return None."""
    try:
        found = _taylor_of_function(objective, points)
    except (NotImplementedError, RuntimeError) as error:
        return first_line(error)
    right = (objective.value(points[0]), *_by_products(objective, *points))
    return _difference(torch.tensor(found), torch.tensor(right), objective.dtype)


def _refused_by_model(
    objective: ModelObjective, points: tuple[Tensor, Tensor, Tensor]
) -> str | None:
    """Say why a model has no Taylor pass, or return None, from a few examples of each split."""
    for split in objective.splits:
        batch = split.head(_COMPARED_EXAMPLES)
        try:
            found = _taylor_on(objective, points, batch)
            # With gradients on, for then a loss that leaves torch half-way is refused.
            _taylor_on(objective, points, batch, loss_only=True)
        except (NotImplementedError, RuntimeError) as error:
            return first_line(error)
        refused = _difference(found, _twice_on(objective, points, batch), objective.rounding)
        if refused is not None:
            return refused
    return None


def _taylor_on(
    objective: ModelObjective, points: Sequence[Tensor], batch: Any, loss_only: bool = False
) -> Tensor:
    """Return sum and count of the loss on a batch with their derivatives, shape (3, 2)."""
    tables = [objective.space.unflatten(point) for point in points]
    with objective.passive(grad=loss_only), unfused():
        tensors = objective.own_statistics()
        tensors |= {name: Jet(*(table[name] for table in tables)) for name in tables[0]}
        objective.set_mode()
        found = objective.call(tensors, batch, 0, 0, 0, loss_only)
        return torch.stack(taylor_of(found))[:, 0]


def _twice_on(objective: ModelObjective, points: Sequence[Tensor], batch: Any) -> Tensor:
    """Return the same from gradients that are differentiated."""
    theta, tangents, bends = (objective.space.unflatten(point.clone()) for point in points)
    with objective.passive(grad=True), unfused():
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in theta.items()}
        along = [(leaf, tangents[name], bends[name]) for name, leaf in leaves.items()]
        objective.set_mode()
        tensors = objective.own_statistics() | leaves
        return _three(objective.call(tensors, batch, 0, 0, 0, True)[0], along)


def _difference(found: Tensor, right: Tensor, dtype: torch.dtype) -> str | None:
    """Say that two ways disagree, or return None."""
    if not bool(torch.isfinite(right).all()):
        return "the cost is not finite where its rules would be checked"
    scale = float(right.abs().max())
    away = float((found - right).abs().nan_to_num(torch.inf).max())
    if away <= _ALLOWED.get(dtype, _ALLOWED_IN_HALF) * scale:
        return None
    return f"it differs by {away:.3g} from {TWICE}, of {scale:.3g}"


def _shared(
    objective: ModelObjective, section: Section, anchors: Sequence[Tensor], row: Array
) -> Sequence[Affine]:
    """Return the layers at the entry whose products are worth sharing, and can be."""
    if objective.dropout is not None or objective.batch_norm == "batch":
        return ()
    ends, batch = section.weights(section.places[[0, -1]]), few_examples(objective)
    try:
        trace = looked_into(objective, anchors, ends, batch)
        first = worth_sharing(trace, len(anchors))
        found, right = (
            TaylorOfModel(objective, section, anchors, each).derivatives_on(row[None], batch)[0]
            for each in (first, ())
        )
    except Exception:  # the user's model under observation may fail in any way
        return ()
    return first if _difference(found[:, 0], right[:, 0], objective.rounding) is None else ()


def _reason(refused: str | None) -> str:
    """Say why a way was taken."""
    if refused is None:
        return "Value, slope and curvature come from one pass with Taylor polynomials."
    return f"A Taylor pass is not to be had here ({refused}): gradients are differentiated."
