"""What classifiers are trained on: cross-entropy, with adversarial examples, multi-prediction."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from thalweg.problems.boltzmann_machine import BoltzmannMachine, random_masks

__all__ = [
    "CROSS_ENTROPY",
    "Adversarial",
    "CrossEntropy",
    "MultiPrediction",
    "TrainingCost",
]


class TrainingCost(Protocol):
    """What is minimised, and what is read off after an epoch."""

    def loss(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the mean loss of a mini-batch in training mode; masks by torch's generator."""

    def readings(self, model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of each example in evaluation mode, and whether its label is missed."""


@dataclass(frozen=True)
class CrossEntropy:
    """The cross-entropy of the softmax of what the model returns."""

    def loss(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the mean over a mini-batch."""
        return cross_entropy(model(x), y)

    def readings(self, model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return losses and errors of examples."""
        logits = model(x)
        return cross_entropy(logits, y, reduction="none"), logits.argmax(1) != y


CROSS_ENTROPY = CrossEntropy()


@dataclass(frozen=True)
class Adversarial:
    """Cross-entropy on examples, mixed with that on adversarial ones.

    a·J(x) + (1 − a)·J(x + ε sign ∂J/∂x), where the adversarial example is a constant for the
    gradient of the parameters, and shares the dropout masks of the example that it is made from.
    The error rate is that on adversarial examples.

    Attributes:
        epsilon: ε, the size of the change of each entry of an input.
        share: a, the weight of the unchanged examples.

    Source: Goodfellow, Shlens & Szegedy (2015), Explaining and harnessing adversarial examples,
    section 6.
    """

    epsilon: float = 0.25
    share: float = 0.5

    def loss(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the mean over a mini-batch."""
        state = _mask_state(x.device)
        x = x.detach().requires_grad_()
        clean = cross_entropy(model(x), y)
        (slope,) = torch.autograd.grad(clean, x, retain_graph=True)
        _set_mask_state(x.device, state)
        hostile = cross_entropy(model(self._changed(x, slope)), y)
        return self.share * clean + (1 - self.share) * hostile

    def readings(self, model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return losses and errors on adversarial examples."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            clean = cross_entropy(model(x), y, reduction="none")
            (slope,) = torch.autograd.grad(clean.sum(), x)
        with torch.no_grad():
            logits = model(self._changed(x, slope))
            hostile = cross_entropy(logits, y, reduction="none")
        losses = self.share * clean.detach() + (1 - self.share) * hostile
        return losses, logits.argmax(1) != y

    def terms(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss of each example, with gradients for the parameters where these ask."""
        with torch.enable_grad():
            moved = x.detach().requires_grad_()
            (slope,) = torch.autograd.grad(cross_entropy(model(moved), y, reduction="sum"), moved)
        clean = cross_entropy(model(x), y, reduction="none")
        hostile = cross_entropy(model(self._changed(x, slope)), y, reduction="none")
        return self.share * clean + (1 - self.share) * hostile

    def _changed(self, x: Tensor, slope: Tensor) -> Tensor:
        """Return adversarial examples."""
        return x.detach() + self.epsilon * slope.sign()


@dataclass(frozen=True)
class MultiPrediction:
    """The multi-prediction criterion of a `BoltzmannMachine`.

    In training, pixels are drawn from their grey levels and masks anew at every presentation. What
    is read off: the criterion of grey levels under masks that are the same in every epoch, and
    whether the label inferred from all pixels is wrong.

    Attributes:
        seed: Seed of the masks that are read off with.
    """

    seed: int = 0

    def loss(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the mean over a mini-batch."""
        assert isinstance(model, BoltzmannMachine)
        v = (torch.rand_like(x) < x).to(x)
        return model.criterion(v, y, *random_masks(v)).mean()

    def readings(self, model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return criteria and errors of examples."""
        assert isinstance(model, BoltzmannMachine)
        masks = random_masks(x, torch.Generator().manual_seed(self.seed))
        return model.criterion(x, y, *masks), model.classify(x).argmax(1) != y


def _mask_state(device: torch.device) -> Tensor:
    """Return the state of the generator that masks come from."""
    if device.type == "cuda":
        return torch.cuda.get_rng_state(device)
    return torch.get_rng_state()


def _set_mask_state(device: torch.device, state: Tensor) -> None:
    """Put it back, so that the same masks come again."""
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)
