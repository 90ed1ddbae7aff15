"""Value and slope: dJ/dα along a section, evaluated together with J.

On a section θ(α) = Σ_j w_j(α) P_j the slope is the directional derivative ∇J(θ)·t along the
tangent t = Σ_j w_j'(α) P_j. Here a point is a row of 2m numbers: its weights, and their
derivatives. J is a sum S over a count C, so its slope is (S' − J C') / C, with S' and C' added up
over the batches in float64.

Forward mode passes over the data once and costs about three plain passes. Where an operator has
no forward mode (the fused LSTM of the CPU, an `autograd.Function` without `jvp`), the value comes
from a plain pass, and the slope from the gradient of every batch times the tangent.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from thalweg.anchors import Anchor, combine
from thalweg.errors import first_line
from thalweg.evaluate.planning import Choice
from thalweg.evaluate.strategy import ModelStrategy, Strategy
from thalweg.objectives.batch_norm import combined
from thalweg.objectives.function import FunctionObjective
from thalweg.objectives.model import ModelObjective
from thalweg.objectives.objective import AnchorBuffers, Evaluation, Objective
from thalweg.objectives.tangents import dual, dual_numbers, moving_statistics, parts, unfused
from thalweg.results import Array
from thalweg.sections import Section

__all__ = ["Mode", "choose_along_tangent", "mode_of"]

Mode = Literal["forward", "reverse"]

_TRIED_EXAMPLES = 64


def choose_along_tangent(objective: Objective, section: Section, given: Sequence[Anchor]) -> Choice:
    """Return the way to evaluate values with slopes.

    Args:
        objective: The cost.
        section: Its anchors are combined.
        given: Its anchors.

    Raises:
        ValueError: If the parameters are sharded over ranks, or if statistics are recomputed at
            every point and there is no forward mode.
    """
    if isinstance(objective, ModelObjective) and objective.sharding is not None:
        raise ValueError(
            "Slopes need all parameters in one place; those of this model are sharded over ranks. "
            "Leave `shard` out."
        )
    anchors = [objective.point(anchor, "An anchor") for anchor in given]
    theta = combine(anchors, [1 / len(anchors)] * len(anchors))
    tangent = anchors[-1] - anchors[0]
    if isinstance(objective, FunctionObjective):
        refused = _refused_by_function(objective, theta, tangent)
        mode: Mode = "forward" if refused is None else "reverse"
        return Choice(SlopeOfFunction(objective, section, anchors, mode), (_reason(refused),))
    if not isinstance(objective, ModelObjective):
        why = "A cost of another kind has a gradient alone: its product with the tangent is taken."
        return Choice(SlopeByGradient(objective, section, anchors), (why,))
    refused = _refused_by_model(objective, theta, tangent)
    if refused is None:
        return Choice(SlopeOfModel(objective, section, anchors, "forward"), (_reason(None),))
    if objective.batch_norm == "recalibrate":
        raise ValueError(
            "Slopes through recomputed statistics need forward-mode differentiation; an operator "
            f"of the model has none ({refused}). Use batch_norm='interpolate', 'stored' or "
            "'batch', or give the operator a `jvp`."
        )
    return Choice(SlopeOfModel(objective, section, anchors, "reverse"), (_reason(refused),))


def mode_of(choice: Choice) -> Mode:
    """Return how a choice made by `choose_along_tangent` differentiates."""
    strategy = choice.strategy
    assert isinstance(strategy, SlopeByGradient | SlopeOfFunction | SlopeOfModel)
    return strategy.mode


class SlopeByGradient(Strategy):
    """The value, and the gradient of J times the tangent: what any objective can do.

    The gradient is that of the first split, and so is the slope.
    """

    mode: Mode = "reverse"
    name = "value and slope, reverse mode"

    def __init__(self, objective: Objective, section: Section, anchors: Sequence[Tensor]) -> None:
        self.objective = objective
        self.section = section
        self.anchors = anchors

    def evaluate(self, weights: Array) -> list[Evaluation]:
        """Return values and slopes at some rows of weights and their derivatives."""
        found = []
        for row in weights:
            theta, tangent, place, _ = _at(self.section, self.anchors, row)
            values = self.objective.evaluate(theta, place)
            slope = float(self.objective.gradient(theta).double() @ tangent.double())
            found.append(replace(values, slopes={next(iter(values.loss)): slope}))
        return found


class SlopeOfFunction(Strategy):
    """Value and slope of a formula."""

    def __init__(
        self, objective: FunctionObjective, section: Section, anchors: Sequence[Tensor], mode: Mode
    ) -> None:
        self.name = f"value and slope, {mode} mode"
        self.objective = objective
        self.section = section
        self.anchors = anchors
        self.mode: Mode = mode

    def evaluate(self, weights: Array) -> list[Evaluation]:
        """Return values and slopes at some rows of weights and their derivatives."""
        found = []
        for row in weights:
            theta, tangent, *_ = _at(self.section, self.anchors, row)
            if self.mode == "forward":
                value, slope = _function_forward(self.objective, theta, tangent)
            else:
                value = self.objective.value(theta)
                slope = float(self.objective.gradient(theta) @ tangent)
            found.append(Evaluation({"train": value}, slopes={"train": slope}))
        return found


class SlopeOfModel(ModelStrategy):
    """Value and slope of the cost of a model, on every split.

    Args:
        objective: The cost.
        section: Its anchors are combined.
        anchors: Its anchors in the objective's type, on its device.
        mode: `"forward"` for dual numbers, `"reverse"` for gradients.
    """

    def __init__(
        self, objective: ModelObjective, section: Section, anchors: Sequence[Tensor], mode: Mode
    ) -> None:
        self.name = f"value and slope, {mode} mode"
        self.objective = objective
        self.section = section
        self.anchors = anchors
        self.mode: Mode = mode

    def evaluate(self, weights: Array) -> list[Evaluation]:
        """Return values and slopes at some rows of weights and their derivatives."""
        evaluate = self._forward if self.mode == "forward" else self._reverse
        return [evaluate(*_at(self.section, self.anchors, row)) for row in weights]

    def trial(self, weights: Array, batch: Any) -> Tensor:
        """Return sums and counts for one batch, with the model's own running statistics."""
        found = []
        for row in weights:
            theta, tangent, *_ = _at(self.section, self.anchors, row)
            if self.mode == "forward":
                found.append(_tried_forward(self.objective, theta, tangent, batch))
            else:
                found.append(_tried_reverse(self.objective, theta, tangent, batch))
        return torch.stack(found)

    def _forward(
        self, theta: Tensor, tangent: Tensor, place: AnchorBuffers, motion: AnchorBuffers
    ) -> Evaluation:
        """Pass over the data once, with dual numbers."""
        objective, slopes = self.objective, {}
        with objective.passive(), dual_numbers(), _statistics_of(objective):
            tensors = _dual_tensors(objective, theta, tangent, place, motion)
            objective.set_mode()
            sums: list[list[Tensor]] = []
            for index, split in enumerate(objective.splits):
                pairs = [
                    self._dual_sums(split.batches, tensors, sample, index)
                    for sample in objective.samples
                ]
                sums.append([total for total, _ in pairs])
                slopes[split.name] = sum(_quotient(*pair) for pair in pairs) / len(pairs)
            fixed = {name: parts(tensor)[0] for name, tensor in tensors.items()}
            found = objective.evaluation(sums, fixed)
            if objective.penalty is not None:
                slopes[objective.splits[0].name] += float(parts(objective.penalty_at(tensors))[1])
        return replace(found, slopes=slopes)

    def _dual_sums(
        self, batches: Any, tensors: dict[str, Tensor], sample: int, split: int
    ) -> tuple[Tensor, Tensor]:
        """Return sums and counts of all criteria, and those of the tangents, (criteria, 2)."""
        shape = len(self.objective.forward_pass.criteria), 2
        total = torch.zeros(shape, dtype=torch.float64, device=self.objective.device)
        change = torch.zeros_like(total)
        for index, batch in enumerate(batches):
            values, tangents = parts(self.objective.call(tensors, batch, sample, split, index))
            total += values
            change += tangents
        return total, change

    def _reverse(
        self, theta: Tensor, tangent: Tensor, place: AnchorBuffers, motion: AnchorBuffers
    ) -> Evaluation:
        """Evaluate as it is done without slopes; then take the gradient of every batch."""
        objective = self.objective
        found = objective.evaluate(theta, place)
        with objective.passive(grad=True), unfused(), _statistics_of(objective):
            tensors, moving = _leaves(objective, theta, tangent, place, motion)
            objective.set_mode()
            slopes = {}
            for index, split in enumerate(objective.splits):
                drawn = found.samples.get(split.name)
                extra = _penalty(objective, tensors) if index == 0 else torch.zeros(())
                means = [found.loss[split.name]] if drawn is None else drawn
                rates = [
                    self._rate(
                        split.batches, tensors, moving, mean - float(extra.detach()), sample, index
                    )
                    for sample, mean in enumerate(means)
                ]
                slopes[split.name] = sum(rates) / len(rates) + float(_along(extra, moving))
        return replace(found, slopes=slopes)

    def _rate(
        self,
        batches: Any,
        tensors: dict[str, Tensor],
        moving: Sequence[tuple[Tensor, Tensor]],
        mean: float,
        sample: int,
        split: int,
    ) -> float:
        """Return (S' − J C') / C over some batches."""
        change = torch.zeros((), dtype=torch.float64, device=self.objective.device)
        count = torch.zeros_like(change)
        for index, batch in enumerate(batches):
            pair = self.objective.call(tensors, batch, sample, split, index, True)[0]
            change += _along(pair[0] - mean * pair[1], moving)
            count += pair[1].detach()
        return float(change / count)


def _at(
    section: Section, anchors: Sequence[Tensor], row: Array
) -> tuple[Tensor, Tensor, AnchorBuffers, AnchorBuffers]:
    """Return point and tangent, and how the anchors' statistics combine to either."""
    weights, rates = ([float(w) for w in half] for half in row.reshape(2, -1))
    return (
        combine(anchors, weights),
        combine(anchors, rates),
        (section.buffers, weights),
        (section.buffers, rates),
    )


def _quotient(total: Tensor, change: Tensor) -> float:
    """Return the derivative of the mean of the loss from sums, counts and their tangents."""
    mean = total[0, 0] / total[0, 1]
    return float((change[0, 0] - mean * change[0, 1]) / total[0, 1])


def _statistics_of(objective: ModelObjective) -> Any:
    """Let statistics that move with θ be differentiated; others are constants."""
    moves = objective.batch_norm in ("interpolate", "recalibrate")
    return moving_statistics(objective.normalisation_layers if moves else {})


def _motion_of_statistics(objective: ModelObjective, motion: AnchorBuffers) -> dict[str, Tensor]:
    """Return the derivatives of interpolated statistics: combinations by the weights' slopes."""
    layers, device, dtype = objective.normalisation_layers, objective.device, objective.dtype
    return combined(layers, *motion, device, dtype)


def _dual_tensors(
    objective: ModelObjective,
    theta: Tensor,
    tangent: Tensor,
    place: AnchorBuffers,
    motion: AnchorBuffers,
) -> dict[str, Tensor]:
    """Return parameters and running statistics as dual numbers."""
    tensors = objective.space.unflatten(dual(theta.clone(), tangent))
    if objective.batch_norm == "recalibrate":
        return tensors | objective.recalibrated(tensors)
    fixed = objective.statistics_at(objective.space.unflatten(theta), place)
    if objective.batch_norm != "interpolate":
        return tensors | fixed
    rates = _motion_of_statistics(objective, motion)
    return tensors | {name: dual(tensor, rates[name]) for name, tensor in fixed.items()}


def _leaves(
    objective: ModelObjective,
    theta: Tensor,
    tangent: Tensor,
    place: AnchorBuffers,
    motion: AnchorBuffers,
) -> tuple[dict[str, Tensor], list[tuple[Tensor, Tensor]]]:
    """Return what a pass needs, and what of it moves: pairs of a leaf and its tangent."""
    tensors = objective.space.unflatten(theta.clone())
    tensors |= objective.statistics_at(tensors, place)
    rates = objective.space.unflatten(tangent)
    if objective.batch_norm == "interpolate":
        rates |= _motion_of_statistics(objective, motion)
    leaves = {name: tensors[name].detach().requires_grad_() for name in rates}
    return tensors | leaves, [(leaves[name], rate) for name, rate in rates.items()]


def _along(value: Tensor, moving: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Return the derivative of a scalar along the tangent, its products summed in float64."""
    if not value.requires_grad:  # nothing that moves was used
        return torch.zeros((), dtype=torch.float64, device=value.device)
    leaves = [leaf for leaf, _ in moving]
    gradients = torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True)
    products = [
        (gradient.double() * rate.double()).sum()
        for gradient, (_, rate) in zip(gradients, moving, strict=True)
    ]
    return torch.stack(products).sum()


def _penalty(objective: ModelObjective, tensors: dict[str, Tensor]) -> Tensor:
    """Return the penalty, zero where there is none."""
    return torch.zeros(()) if objective.penalty is None else objective.penalty_at(tensors)


def _function_forward(
    objective: FunctionObjective, theta: Tensor, tangent: Tensor
) -> tuple[float, float]:
    """Evaluate a formula with dual numbers."""
    # With gradients on, for then a formula that leaves torch half-way is refused; since nothing
    # requires any, no graph is recorded.
    with torch.inference_mode(False), torch.enable_grad(), dual_numbers():
        value, slope = parts(objective.scalar(dual(theta.clone(), tangent)))
    return float(value), float(slope)


def _refused_by_function(
    objective: FunctionObjective, theta: Tensor, tangent: Tensor
) -> str | None:
    """Say why a formula has no forward mode, or return None."""
    try:
        _function_forward(objective, theta, tangent)
    except (NotImplementedError, RuntimeError) as error:
        return first_line(error)
    return None


def _refused_by_model(objective: ModelObjective, theta: Tensor, tangent: Tensor) -> str | None:
    """Say why a model has no forward mode, or return None, from a few examples of each split."""
    try:
        for split in objective.splits:
            batch = split.head(_TRIED_EXAMPLES)
            _tried_forward(objective, theta, tangent, batch)
            # With gradients on, for then a loss that leaves torch half-way is refused.
            _tried_forward(objective, theta, tangent, batch, loss_only=True)
    except (NotImplementedError, RuntimeError) as error:
        return first_line(error)
    return None


def _tried_forward(
    objective: ModelObjective,
    theta: Tensor,
    tangent: Tensor,
    batch: Any,
    loss_only: bool = False,
) -> Tensor:
    """Return sums and counts of one batch, from a pass with dual numbers."""
    with objective.passive(grad=loss_only), dual_numbers():
        tensors = objective.own_statistics()
        tensors |= objective.space.unflatten(dual(theta.clone(), tangent))
        objective.set_mode()
        return parts(objective.forward_pass.call(tensors, batch, loss_only))[0]


def _tried_reverse(objective: ModelObjective, theta: Tensor, tangent: Tensor, batch: Any) -> Tensor:
    """Return sums and counts of one batch, after taking a gradient."""
    with objective.passive(grad=True), unfused():
        rates = objective.space.unflatten(tangent)
        leaves = {
            name: tensor.detach().requires_grad_()
            for name, tensor in objective.space.unflatten(theta.clone()).items()
        }
        tensors = objective.own_statistics() | leaves
        objective.set_mode()
        pair = objective.forward_pass.call(tensors, batch, True)[0]
        _along(pair[0], [(leaves[name], rates[name]) for name in leaves])
        with torch.no_grad():
            return objective.forward_pass.call(tensors, batch)


def _reason(refused: str | None) -> str:
    """Say why a mode was taken."""
    if refused is None:
        return "Value and slope come from one pass with dual numbers, which costs about three."
    return f"Forward mode is not to be had here ({refused}): slopes come from gradients."
