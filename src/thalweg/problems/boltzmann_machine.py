"""The multi-prediction deep Boltzmann machine (Goodfellow, Mirza, Courville & Bengio 2013).

A deep Boltzmann machine is trained here as the network of its own mean-field updates: some of the
variables are hidden from inference, and the cost is how badly these are predicted after it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import (
    binary_cross_entropy_with_logits,
    linear,
    log_softmax,
    one_hot,
    softmax,
)

from thalweg.problems.recipes import LinearDecay, LinearMomentum, Training, require

__all__ = ["MPDBM", "BoltzmannMachine", "BoltzmannRecipe", "random_masks"]


@dataclass(frozen=True, kw_only=True)
class BoltzmannRecipe(Training):
    """A multi-prediction deep Boltzmann machine with two hidden layers; see also `Training`.

    Per-layer fields of `Training` have an entry for each of the three weight matrices.

    Attributes:
        hidden: Units of the two layers.
        bias: Initial biases of the two layers.
        nonzero: Non-zero initial weights, N(0, 1), of each unit of the first layer and of each
            label; all others are 0.
        init_range: Weights between the two layers start uniform in (−r, r).
        iterations: Mean-field iterations, 2 at least.

    Raises:
        ValueError: If a number is out of range.
    """

    hidden: tuple[int, int]
    bias: tuple[float, float] = (-0.710467, -0.393587)
    nonzero: tuple[int, int] = (15, 23)
    init_range: float = 0.00638830865761
    iterations: int = 14

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.hidden) == 2 and min(self.hidden) >= 1, "two layers", self.hidden)
        require(self.iterations >= 2, "`iterations` must be at least 2", self.iterations)
        for name in ("norm_limits", "rate_factors"):
            self._check_length(name)

    @property
    def layers(self) -> int:
        """Number of weight matrices."""
        return 3


MPDBM = BoltzmannRecipe(
    hidden=(2087, 3200),
    norm_limits=(1.809978, 2.666304, 5.175683),
    learning_rate=LinearDecay(initial=15.146493, start=1, saturate=868, factor=0.020379),
    momentum=LinearMomentum(initial=0.5, final=0.732716, start=1, saturate=2),
)
"""The MP-DBM that classifies MNIST (pylearn2, `papers/mpdbm/mpdbm.yaml`).

It has 8,352,689 parameters. The learning rate is as large as it is because the criterion is
divided by 784. The paper reports 0.88 % test error.
"""


class BoltzmannMachine(nn.Module):
    """A deep Boltzmann machine over pixels v and a label y, with two hidden layers.

    E(v, h₁, h₂, y) = −vᵀW₁h₁ − h₁ᵀW₂h₂ − h₂ᵀW₃y − bᵀv − c₁ᵀh₁ − c₂ᵀh₂ − dᵀy

    with v, h₁ and h₂ binary and y one-hot, on top of h₂. Weight matrices are stored as torch
    stores them, a row for each unit of the upper layer, so that `project_columns` limits them.

    Args:
        recipe: Sizes, initial values, and how often mean field iterates.
        means: Mean of each pixel over the training set, for the initial b; shape (pixels,).
        labels: Number of labels.
        seed: Seed of the initial weights. Global random state is neither used nor changed.

    Example:
        >>> machine = BoltzmannMachine(MPDBM, torch.full((784,), 0.1), seed=0)
        >>> sum(p.numel() for p in machine.parameters())
        8352689
    """

    def __init__(
        self, recipe: BoltzmannRecipe, means: Tensor, *, labels: int = 10, seed: int = 0
    ) -> None:
        super().__init__()
        self.iterations, self.labels = recipe.iterations, labels
        pixels, (lower, upper) = len(means), recipe.hidden
        draw = torch.Generator().manual_seed(seed)
        between = torch.empty(upper, lower).uniform_(
            -recipe.init_range, recipe.init_range, generator=draw
        )
        self.w1 = nn.Parameter(_sparse(lower, pixels, recipe.nonzero[0], draw))
        self.w2 = nn.Parameter(between)
        self.w3 = nn.Parameter(_sparse(labels, upper, recipe.nonzero[1], draw))
        self.b = nn.Parameter(torch.logit(means.float().clamp(1e-7, 1 - 1e-7)))
        self.c1 = nn.Parameter(torch.full((lower,), recipe.bias[0]))
        self.c2 = nn.Parameter(torch.full((upper,), recipe.bias[1]))
        self.d = nn.Parameter(torch.zeros(labels))

    def energy(self, v: Tensor, h1: Tensor, h2: Tensor, y: Tensor) -> Tensor:
        """Return E for rows of states, shape (n,)."""
        pairs = (
            (linear(v, self.w1) * h1).sum(1)
            + (linear(h1, self.w2) * h2).sum(1)
            + (linear(h2, self.w3) * y).sum(1)
        )
        return -(pairs + v @ self.b + h1 @ self.c1 + h2 @ self.c2 + y @ self.d)

    def infer(
        self, v: Tensor, y: Tensor, pixel_mask: Tensor, label_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return logits of all pixels and of the label, after mean field on what is not masked.

        h₁ is first found with doubled weights, for nothing comes from above yet, then h₂ with
        the label above it (the published code also passes h₁ up with doubled weights, and then
        overwrites that). Each iteration updates h₁ and y given h₂, the masked pixels, and h₂.
        Gradients flow through all of it, but not into b by the first guess of the masked pixels.

        Args:
            v: Pixels in [0, 1], shape (n, pixels).
            y: Labels, one-hot, shape (n, labels).
            pixel_mask: 1 where a pixel is hidden from inference, shape (n, pixels).
            label_mask: 1 where the label is, shape (n, 1).
        """
        seen = (1 - pixel_mask) * v
        given = (1 - label_mask) * y
        vh = pixel_mask * torch.sigmoid(self.b).detach() + seen
        h1 = torch.sigmoid(2 * linear(vh, self.w1) + self.c1)
        yh = label_mask * softmax(self.d, 0) + given
        h2 = torch.sigmoid(linear(h1, self.w2) + yh @ self.w3 + self.c2)
        for _ in range(self.iterations - 1):
            h1 = torch.sigmoid(linear(vh, self.w1) + h2 @ self.w2 + self.c1)
            label_logits = linear(h2, self.w3) + self.d
            yh = label_mask * softmax(label_logits, 1) + given
            pixel_logits = h1 @ self.w1 + self.b
            vh = pixel_mask * torch.sigmoid(pixel_logits) + seen
            h2 = torch.sigmoid(linear(h1, self.w2) + yh @ self.w3 + self.c2)
        return pixel_logits, label_logits

    def criterion(
        self, v: Tensor, labels: Tensor, pixel_mask: Tensor, label_mask: Tensor
    ) -> Tensor:
        """Return the multi-prediction criterion of each example, shape (n,).

        −log Q of what was masked, summed over the masked pixels and the masked label, divided by
        the number of pixels.

        Args:
            v: Pixels, shape (n, pixels).
            labels: Numbers of labels, shape (n,).
            pixel_mask: 1 where a pixel is a target, shape (n, pixels).
            label_mask: 1 where the label is, shape (n, 1).
        """
        y = one_hot(labels, self.labels).to(v)
        pixel_logits, label_logits = self.infer(v, y, pixel_mask, label_mask)
        pixels = binary_cross_entropy_with_logits(pixel_logits, v, reduction="none")
        label = -(log_softmax(label_logits, 1) * y).sum(1)
        return ((pixel_mask * pixels).sum(1) + label_mask[:, 0] * label) / v.shape[1]

    def classify(self, v: Tensor, *, multi_inference: bool = False) -> Tensor:
        """Return logits of the label, shape (n, labels), with all pixels seen.

        Args:
            v: Pixels, shape (n, pixels).
            multi_inference: Average each pixel with its own prediction in every iteration, which
                comes near to an average over all the inference problems of training (the
                multi-inference trick).
        """
        if not multi_inference:
            free = v.new_zeros(len(v), self.labels)
            return self.infer(v, free, torch.zeros_like(v), v.new_ones(len(v), 1))[1]
        mixed = 0.5 * v + 0.5 * torch.sigmoid(self.b)
        h1 = torch.sigmoid(2 * linear(mixed, self.w1) + self.c1)
        y = softmax(self.d, 0).expand(len(v), -1)
        h2 = torch.sigmoid(linear(h1, self.w2) + y @ self.w3 + self.c2)
        for _ in range(self.iterations - 1):
            h1 = torch.sigmoid(linear(mixed, self.w1) + h2 @ self.w2 + self.c1)
            logits = linear(h2, self.w3) + self.d
            y = softmax(logits, 1)
            mixed = 0.5 * torch.sigmoid(h1 @ self.w1 + self.b) + 0.5 * v
            h2 = torch.sigmoid(linear(h1, self.w2) + y @ self.w3 + self.c2)
        return logits


def random_masks(v: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Return masks of pixels and of the label, each 1 with probability ½, independently.

    Args:
        v: Pixels, shape (n, pixels).
        generator: On the CPU; None for torch's global random state.
    """
    device = v.device if generator is None else torch.device("cpu")
    pixels = torch.rand(v.shape, generator=generator, device=device) < 0.5
    label = torch.rand((len(v), 1), generator=generator, device=device) < 0.5
    return pixels.to(v), label.to(v)


def _sparse(units: int, inputs: int, nonzero: int, draw: torch.Generator) -> Tensor:
    """Return weights of which each unit has a few, standard normal, and 0 else."""
    count = min(nonzero, inputs)
    weight = torch.zeros(units, inputs)
    places = torch.rand(units, inputs, generator=draw).argsort(1)[:, :count]
    values = torch.randn(units, count, generator=draw)
    return weight.scatter_(1, places, values)
