"""Multilayer perceptrons as the studies train them: maxout units, scaled dropout, norm limits."""

import math
from collections import OrderedDict
from itertools import pairwise

import torch
from torch import Tensor, nn

from thalweg.problems.recipes import Recipe

__all__ = ["Maxout", "ScaledDropout", "multilayer_perceptron", "project_columns"]


class ScaledDropout(nn.Module):
    """Dropout whose scale need not be the inverse of the probability of keeping an input.

    In training mode every input is multiplied by `scale` with probability `include` and by 0
    otherwise, independently for each example and each entry. In evaluation mode the inputs
    pass unchanged. With `scale = 1 / include` this is the usual (inverted) dropout.

    Masks come from torch's global random state, as those of torch's own dropout do, and are
    the same for every floating-point type.

    Args:
        include: Probability of keeping an input, in (0, 1].
        scale: What a kept input is multiplied by, positive.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> dropout = ScaledDropout(include=0.8, scale=1.0)
        >>> dropout.eval()(torch.ones(3))
        tensor([1., 1., 1.])
    """

    def __init__(self, include: float, scale: float) -> None:
        super().__init__()
        if not (0 < include <= 1 and 0 < scale < math.inf):
            raise ValueError(
                "Dropout needs a probability `include` in (0, 1] and a positive, finite `scale`; "
                f"got include={include!r}, scale={scale!r}. Note that `include` is the "
                "probability of keeping an input, not of dropping it."
            )
        self.include = include
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """Return the inputs masked and scaled (training) or as they are (evaluation)."""
        if not self.training:
            return x
        # Drawn in one type for all, so that float64 sees the masks that float32 saw.
        kept = torch.rand(x.shape, dtype=torch.float32, device=x.device) < self.include
        return x * kept.to(x.dtype).mul_(self.scale)

    def extra_repr(self) -> str:
        """Return the settings, for the text form of the module."""
        return f"include={self.include}, scale={self.scale}"


class Maxout(nn.Module):
    """A layer of units that each return the largest of several affine functions.

    Unit u returns max over j < k of `weight[u·k + j] · x + bias[u·k + j]`, with k the number of
    pieces (Goodfellow et al. 2013, Maxout networks, section 3). Weights start as those of
    `torch.nn.Linear` do.

    Args:
        inputs: Size of the last axis of the input.
        units: Number of units.
        pieces: Number of affine functions of each unit.

    Raises:
        ValueError: If a size is not positive.

    Example:
        >>> layer = Maxout(inputs=2, units=1, pieces=2)
        >>> with torch.no_grad():
        ...     _ = layer.weight.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
        ...     _ = layer.bias.zero_()
        ...     layer(torch.tensor([[-3.0, 5.0]]))  # max(x, −x) = |x| of the first input
        tensor([[3.]])
    """

    def __init__(self, inputs: int, units: int, pieces: int) -> None:
        super().__init__()
        if min(inputs, units, pieces) < 1:
            raise ValueError(
                "A maxout layer needs at least one input, one unit and one piece; got "
                f"inputs={inputs}, units={units}, pieces={pieces}. Give positive sizes."
            )
        self.units = units
        self.pieces = pieces
        affine = nn.Linear(inputs, units * pieces)
        self.weight = affine.weight  # (units·pieces, inputs)
        self.bias = affine.bias  # (units·pieces,)

    def forward(self, x: Tensor) -> Tensor:
        """Return the largest piece of each unit: (..., inputs) to (..., units)."""
        pieces = nn.functional.linear(x, self.weight, self.bias)
        return pieces.reshape(*pieces.shape[:-1], self.units, self.pieces).amax(-1)

    def extra_repr(self) -> str:
        """Return the sizes, for the text form of the module."""
        return f"inputs={self.weight.shape[1]}, units={self.units}, pieces={self.pieces}"


def multilayer_perceptron(
    recipe: Recipe, inputs: int, *, seed: int | torch.Generator, outputs: int = 10
) -> nn.Sequential:
    """Return a new network with the layers and the initial parameters of a recipe.

    Everything but the batch axis of the input is flattened. The network returns logits; its
    softmax is part of the loss. Weights of layer l are uniform in (−r_l, r_l), biases 0. The
    limits on norms are not applied here, but by `thalweg.training.train`, to the start also.

    Modules are named `hidden1`, `relu1`, ..., `output`, with `dropout1`, `dropout2`, ... before
    the layers, so that a network has the same parameter names with and without dropout.

    Args:
        recipe: Sizes, activation, initial ranges and dropout.
        inputs: Entries of one example, such as 784 for images of 28 by 28.
        seed: Seed of the initial weights, or a generator on the CPU to draw them from. Global
            random state is neither used nor changed.
        outputs: Number of classes.

    Returns:
        The network, in training mode, in float32 on the CPU.

    Raises:
        ValueError: If there are no inputs or no outputs.

    Example:
        >>> from thalweg.problems.recipes import RELU
        >>> network = multilayer_perceptron(RELU, inputs=784, seed=1)
        >>> sum(p.numel() for p in network.parameters())
        2097528
        >>> network.output
        Linear(in_features=1532, out_features=10, bias=True)
    """
    if min(inputs, outputs) < 1:
        raise ValueError(
            "A network needs at least one input and one output; got "
            f"inputs={inputs}, outputs={outputs}. Give positive sizes."
        )
    generator = torch.Generator().manual_seed(seed) if isinstance(seed, int) else seed
    modules: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    sizes = (inputs, *recipe.hidden, outputs)
    for index, (before, after) in enumerate(pairwise(sizes)):
        number = index + 1
        if recipe.dropout is not None:
            modules[f"dropout{number}"] = ScaledDropout(*recipe.dropout[index])
        is_output = number == recipe.layers
        layer = _affine(recipe, before, after, is_output=is_output)
        _initialise(layer, recipe.init_ranges[index], generator)
        modules["output" if is_output else f"hidden{number}"] = layer
        if not is_output and recipe.activation != "maxout":
            activation = nn.ReLU() if recipe.activation == "relu" else nn.Sigmoid()
            modules[f"{recipe.activation}{number}"] = activation
    return nn.Sequential(modules)


def project_columns(weight: Tensor, limit: float) -> None:
    """Shrink in place every incoming weight vector that is longer than a limit.

    Each vector w becomes `w · min(‖w‖, limit) / (10⁻⁷ + ‖w‖)`, so that one below the limit
    changes by a relative 10⁻⁷ / ‖w‖ at most. (The vectors are columns where the weight matrix
    is written inputs by units, whence the name; torch stores them as rows.)

    Args:
        weight: Shape (units, inputs), or (units, ...) for kernels. A unit of a maxout layer
            has one vector for each piece.
        limit: Largest norm; infinity changes nothing.

    Raises:
        ValueError: If `weight` is no matrix or `limit` is not positive.

    Example:
        >>> weight = torch.tensor([[3.0, 4.0], [0.3, 0.4]])
        >>> project_columns(weight, limit=2.0)
        >>> weight
        tensor([[1.2000, 1.6000],
                [0.3000, 0.4000]])
    """
    if weight.dim() < 2 or not limit > 0:
        raise ValueError(
            "A norm limit needs a weight matrix (units, inputs) and a positive limit; got a "
            f"tensor of shape {tuple(weight.shape)} and {limit!r}. Leave biases out."
        )
    if limit == math.inf:
        return
    with torch.no_grad():
        axes = tuple(range(1, weight.dim()))
        norm = torch.linalg.vector_norm(weight, dim=axes, keepdim=True)
        weight.mul_(norm.clamp(max=limit) / (1e-7 + norm))


def _affine(recipe: Recipe, inputs: int, units: int, *, is_output: bool) -> nn.Linear | Maxout:
    """Return the affine or maxout layer of a recipe, with parameters still to be set."""
    # Built on the meta device, so that torch draws no default values from global random state.
    with torch.device("meta"):
        if recipe.activation == "maxout" and not is_output:
            layer: nn.Linear | Maxout = Maxout(inputs, units, recipe.pieces)
        else:
            layer = nn.Linear(inputs, units)
    return layer.to_empty(device="cpu").to(torch.float32)


def _initialise(layer: nn.Linear | Maxout, reach: float, generator: torch.Generator) -> None:
    """Set weights uniform in (−reach, reach) and biases to 0."""
    with torch.no_grad():
        layer.weight.uniform_(-reach, reach, generator=generator)
        layer.bias.zero_()
