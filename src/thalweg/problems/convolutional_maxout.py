"""The convolutional maxout network of Goodfellow et al. (2013), and the numbers that define it."""

import math
from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from thalweg.problems.networks import Maxout, ScaledDropout
from thalweg.problems.recipes import LinearDecay, LinearMomentum, Training, require

__all__ = [
    "CONVOLUTIONAL_MAXOUT",
    "ConvolutionalRecipe",
    "MaxoutConvolution",
    "convolutional_maxout",
]


@dataclass(frozen=True, kw_only=True)
class ConvolutionalRecipe(Training):
    """A network of convolutional maxout layers, a dense one and a softmax; see also `Training`.

    Per-layer fields of `Training` and `dropout` have one entry for each convolutional layer, one
    for the dense one, and one for the softmax. Max-pooling windows may overhang the border.

    Attributes:
        channels: Output channels of each convolutional layer.
        pieces: Affine pieces of each of their units.
        kernels: Side of the kernel of each.
        padding: Zeros put around the input of each.
        pools: Side and stride of the max-pooling window of each.
        hidden: Units of the dense layer.
        hidden_pieces: Affine pieces of each of these.
        init_range: All weights start uniform in (−r, r); biases start at 0.
        dropout: Per layer (p, s), as for `Recipe`. None for no dropout at all.

    Raises:
        ValueError: If a field has not the right length, or a number is out of range.
    """

    channels: tuple[int, ...]
    pieces: int
    kernels: tuple[int, ...]
    padding: tuple[int, ...]
    pools: tuple[tuple[int, int], ...]
    hidden: int
    hidden_pieces: int
    init_range: float
    dropout: tuple[tuple[float, float], ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        count = len(self.channels)
        for name in ("kernels", "padding", "pools"):
            value = getattr(self, name)
            require(len(value) == count, f"`{name}` must have {count} entries", value)
        for name in ("norm_limits", "rate_factors", "dropout"):
            self._check_length(name)
        require(
            0 < self.init_range < math.inf,
            "`init_range` must be positive and finite",
            self.init_range,
        )

    @property
    def layers(self) -> int:
        """Number of layers with weights."""
        return len(self.channels) + 2


CONVOLUTIONAL_MAXOUT = ConvolutionalRecipe(
    channels=(96, 192, 192),
    pieces=2,
    kernels=(8, 8, 5),
    padding=(4, 3, 3),
    pools=((4, 2), (4, 2), (2, 2)),
    hidden=500,
    hidden_pieces=5,
    init_range=0.005,
    norm_limits=(0.9, 1.9365, 1.9365, 1.9, 1.9365),
    rate_factors=(0.05, 0.05, 0.05, 1.0, 1.0),
    dropout=((0.8, 1.0), (0.5, 2.0), (0.5, 2.0), (0.5, 2.0), (0.5, 2.0)),
    learning_rate=LinearDecay(initial=0.17, start=1, saturate=500, factor=0.01),
    momentum=LinearMomentum(initial=0.5, final=0.6, start=1, saturate=250),
    batch_size=128,
)
"""The network for CIFAR-10 (pylearn2, `papers/maxout/cifar10_no_aug_valid.yaml`).

It has 16,247,830 parameters, and reaches 11.68 % test error once it was trained again on all
50,000 examples; the file says 12.01 % on the validation split.
"""


class MaxoutConvolution(nn.Module):
    """A convolution whose output channels are each the largest of several pieces.

    Channel c is max over j < k of piece c·k + j, as in `thalweg.problems.networks.Maxout`.

    Args:
        inputs: Input channels.
        channels: Output channels.
        pieces: Pieces of each.
        kernel: Side of the kernel.
        padding: Zeros around the input.

    Example:
        >>> MaxoutConvolution(3, 4, 2, kernel=8, padding=4)(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 4, 33, 33])
    """

    def __init__(self, inputs: int, channels: int, pieces: int, kernel: int, padding: int) -> None:
        super().__init__()
        self.pieces, self.padding = pieces, padding
        affine = nn.Conv2d(inputs, channels * pieces, kernel)
        self.weight, self.bias = affine.weight, affine.bias

    def forward(self, x: Tensor) -> Tensor:
        """Return the largest pieces: (n, inputs, h, w) to (n, channels, h', w')."""
        found = nn.functional.conv2d(x, self.weight, self.bias, padding=self.padding)
        n, _, height, width = found.shape
        return found.reshape(n, -1, self.pieces, height, width).amax(2)


def convolutional_maxout(
    recipe: ConvolutionalRecipe, shape: tuple[int, int, int], *, seed: int, outputs: int = 10
) -> nn.Sequential:
    """Return a new network with the layers and the initial parameters of a recipe.

    Inputs of any shape with as many entries are accepted, such as flat rows. The largest piece is
    taken first, then the largest of the pooling window. The network returns logits.

    Args:
        recipe: What to build.
        shape: Channels, height and width of an input.
        seed: Seed of the initial weights. Global random state is neither used nor changed.
        outputs: Number of classes.

    Returns:
        The network, in training mode, in float32 on the CPU.

    Example:
        >>> network = convolutional_maxout(CONVOLUTIONAL_MAXOUT, (3, 32, 32), seed=0)
        >>> sum(p.numel() for p in network.parameters())
        16247830
    """
    generator = torch.Generator().manual_seed(seed)
    modules: OrderedDict[str, nn.Module] = OrderedDict(shape=_Shaped(shape))
    inputs, *sides = shape

    def drop(number: int) -> None:
        if recipe.dropout is not None:
            modules[f"dropout{number}"] = ScaledDropout(*recipe.dropout[number - 1])

    layers = zip(recipe.channels, recipe.kernels, recipe.padding, recipe.pools, strict=True)
    for number, (channels, kernel, padding, (window, stride)) in enumerate(layers, start=1):
        drop(number)
        modules[f"convolution{number}"] = MaxoutConvolution(
            inputs, channels, recipe.pieces, kernel, padding
        )
        modules[f"pool{number}"] = nn.MaxPool2d(window, stride, ceil_mode=True)
        sides = [-(-(side + 2 * padding - kernel + 1 - window) // stride) + 1 for side in sides]
        inputs = channels
    modules["flatten"] = nn.Flatten()
    number = len(recipe.channels) + 1
    drop(number)
    modules[f"hidden{number}"] = Maxout(
        inputs * math.prod(sides), recipe.hidden, recipe.hidden_pieces
    )
    drop(number + 1)
    modules["output"] = nn.Linear(recipe.hidden, outputs)
    network = nn.Sequential(modules)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() > 1:
                parameter.uniform_(-recipe.init_range, recipe.init_range, generator=generator)
            else:
                parameter.zero_()
    return network


class _Shaped(nn.Module):
    """Gives each example its shape."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        """Return examples of the shape."""
        return x.reshape(-1, *self.shape)
