"""What reaches the layers of a network: gradients over depth, dead and saturated units."""

import math
import time
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from thalweg.environment import provenance
from thalweg.objectives.examples import can_pick, random_examples, with_examples
from thalweg.objectives.model import ModelObjective
from thalweg.objectives.objective import Objective, expect_objective
from thalweg.objectives.pieces import Sums
from thalweg.probes.activation_watch import SMALL, Activation, ActivationWatch, watching
from thalweg.results import LayerSignals

__all__ = ["layer_signals"]


def layer_signals(
    objective: Objective,
    theta: Tensor | ArrayLike,
    *,
    examples: int | None = None,
    seed: int = 0,
) -> LayerSignals:
    """Return how the gradient of J comes through the layers, and which units let nothing pass.

    One pass forward and backward over the first split. For each parameter tensor, in the order in
    which the network uses them, the norm of its gradient; for each activation layer h_l the norm
    of ∂J/∂h_l, whose change from the last layer to the first is the product of the Jacobians in
    between, and

    - dead units: the derivative of the activation is exactly 0 for every example (a ReLU that is
      off for all of them), so that no gradient reaches what comes before;
    - saturated units: it is below 1e-3 of its largest value for 99.9 % of the examples or more.
      Units of smooth activations are never dead: where rounding makes their derivative 0, they
      are saturated.

    Activations are found whether they are modules, functions or methods, in place or not: relu,
    relu6, leaky_relu, prelu, elu, selu, celu, gelu, silu, mish, sigmoid, tanh, their hard
    variants, softplus, softsign, logsigmoid, softshrink, threshold; a module without parameters
    that has such a name in that of its class (`NewGELUActivation`) is taken as a whole; and so is
    the maximum inside one with "Maxout" there, whose units are its pieces. What is written by
    hand (`x.clamp(min=0)`) is not found, nor what is inside one operator (an LSTM): see `unseen`. A
    module that is run several times in a pass is one layer. An activation whose value is the
    model's output counts units, but is no part of `attenuation`: what is left of the gradient
    beyond it is the loss's affair.

    Units are channels behind a convolution and features otherwise, over all positions and time
    steps. Policies are those of the objective; with recalibrated statistics ∂J/∂h_l is taken with
    the statistics held, ∂J/∂θ_l is that of `objective.gradient`, the penalty included.

    Args:
        objective: J, of a model.
        theta: The point, shape (P,).
        examples: How many examples to look at, drawn at random; all by default.
        seed: Seed of that draw.

    Returns:
        The signals. Batch size and order of the examples do not change them beyond rounding.

    Raises:
        TypeError: If the objective is not that of a model.
        ValueError: If `examples` is not between 1 and their number, or they cannot be drawn one
            by one.

    Sources:
        Glorot & Bengio (2010), "Understanding the difficulty of training deep feedforward neural
        networks", section 4.2; Goodfellow, Bengio & Courville (2016), sections 6.3.1 and 8.2.5.

    Example:
        >>> model = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1)).double()
        >>> data = (torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [0.0]]))
        >>> objective = ModelObjective(model, nn.MSELoss(), data)
        >>> signals = layer_signals(objective, [1.0, 1.0, 0.5, -3.0, 1.0, 1.0, 0.0])
        >>> signals.layers, signals.units, signals.dead  # the second unit is x − 3: off
        (('1',), array([2.]), array([1.]))
        >>> signals.tensors, signals.zero_share
        (('0.weight', '0.bias', '2.weight', '2.bias'), 0.42857142857142855)
    """
    expect_objective(objective)
    if not isinstance(objective, ModelObjective):
        raise TypeError(
            f"Layers are those of a model; got a {type(objective).__name__}, which has none. "
            "Make an objective with `ModelObjective(model, loss, data)`."
        )
    clock = time.perf_counter()
    looked_at = objective if examples is None else _subsample(objective, examples, seed)
    pieces = looked_at.pieces(theta, looked_at.space.blocks)
    names = looked_at.space.names
    leaves = dict(zip(names, pieces.leaves, strict=True))
    with pieces.context(), watching(looked_at, leaves) as watch:
        sums, count = Sums(pieces), 0.0
        for evaluate in pieces.all():
            with watch.passing():
                piece = evaluate(pieces.leaves)
            sums.see(piece)
            count += 0.0 if piece.count is None else float(piece.count)
            places = [(each, edge) for each in watch.activations.values() for edge in each.edges]
            if not piece.value.requires_grad:
                continue
            wanted: Any = [*pieces.leaves, *(edge for _, edge in places)]
            found = torch.autograd.grad(piece.value, wanted, allow_unused=True)
            sums.add(piece, found[: len(names)])
            for (activation, _), gradient in zip(places, found[len(names) :], strict=True):
                _add_squares(activation, gradient)
        loss, gradient = sums.value(), sums.vectors()
    facts = {**looked_at.describe(), **_drawn(looked_at, examples, seed)}
    return LayerSignals(
        **_by_tensor(looked_at, watch, looked_at.point(theta), gradient),
        **_by_layer(list(watch.activations.values()), count),
        small=SMALL,
        unseen=_unseen(looked_at.forward_pass.model),
        loss=loss,
        examples=looked_at.splits[0].examples,
        provenance=provenance(
            looked_at.device, looked_at.dtype, time.perf_counter() - clock, objective=facts
        ),
    )


def _subsample(objective: ModelObjective, examples: int, seed: int) -> ModelObjective:
    """Return the cost on some examples that are drawn at random."""
    split = objective.splits[0]
    if not 1 <= examples <= split.examples:
        raise ValueError(
            f"`examples` is between 1 and the {split.examples} of split {split.name!r}; got "
            f"{examples}. Leave it out for all of them."
        )
    if not can_pick(split):
        raise ValueError(
            f"A subsample needs examples that can be picked one by one; those of {split.name!r} "
            "cannot (sequences of different length, or data without numbers). Leave `examples` out."
        )
    return with_examples(objective, random_examples(split, seed)[:examples], max(split.lengths))


def _drawn(objective: ModelObjective, examples: int | None, seed: int) -> dict[str, Any]:
    """Return how the examples were drawn."""
    if examples is None:
        return {}
    return {"subsample": {"examples": objective.splits[0].examples, "seed": seed}}


def _add_squares(activation: Activation, gradient: Tensor | None) -> None:
    """Add the squares of the gradient at one call; None is zero."""
    norm = 0.0
    if gradient is not None:
        norm = float(torch.linalg.vector_norm(gradient, dtype=torch.float64))
    activation.squares = (activation.squares or 0.0) + norm**2


def _by_tensor(
    objective: ModelObjective, watch: ActivationWatch, theta: Tensor, gradient: Tensor
) -> dict[str, Any]:
    """Return what is told of each tensor, in the order of first use."""
    blocks = {block.name: block for block in objective.space.blocks}
    order = [*watch.first_use, *(name for name in blocks if name not in watch.first_use)]
    slopes = [blocks[name].of(gradient) for name in order]
    values = [blocks[name].of(theta.double()) for name in order]
    return {
        "tensors": order,
        "size": [blocks[name].size for name in order],
        "depth": [watch.first_use.get(name, math.nan) for name in order],
        "gradient_norm": [float(slope.norm()) for slope in slopes],
        "weight_norm": [float(value.norm()) for value in values],
        "zero": [int((slope == 0).sum()) for slope in slopes],
    }


def _by_layer(activations: list[Activation], count: float) -> dict[str, Any]:
    """Return what is told of each activation layer; gradients are divided by the terms of J."""
    return {
        "layers": [each.name for each in activations],
        "functions": [each.function for each in activations],
        "is_output": [float(each.is_output) for each in activations],
        "activation_gradient": [
            math.nan if each.squares is None else math.sqrt(each.squares) / count
            for each in activations
        ],
        "activation_size": [each.entries for each in activations],
        "units": [each.units for each in activations],
        "dead": [each.dead for each in activations],
        "saturated": [each.saturated for each in activations],
    }


def _unseen(model: nn.Module) -> tuple[str, ...]:
    """Return the recurrent modules: their activations are inside one operator."""
    fused = (nn.RNNBase, nn.RNNCellBase)
    return tuple(
        name or type(module).__name__
        for name, module in model.named_modules()
        if isinstance(module, fused)
    )
