"""What a training run leaves, and what loops that make one share."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from thalweg.results import Array, History

__all__ = ["Trained", "copied_state", "seeded_masks"]


@dataclass(frozen=True, eq=False)
class Trained:
    """The two ends of a training run, and what happened between them.

    Attributes:
        start: State dict after the norm limits were applied to the initial parameters, before
            the first update; on the CPU.
        solution: State dict at the epoch with the lowest error rate on the validation split (of a
            language model: the lowest loss), the earliest of several; on the CPU.
        best_epoch: That epoch; 0 is the start.
        history: Loss and error rate (or perplexity) of every split after epochs 0 to n.
        learning_rate: Rate of the first update of epochs 1 to n, shape (n,).
        momentum: Momentum in epochs 1 to n, shape (n,).
    """

    start: Mapping[str, Tensor]
    solution: Mapping[str, Tensor]
    best_epoch: int
    history: History
    learning_rate: Array
    momentum: Array

    @property
    def epochs(self) -> int:
        """Number of epochs that were run."""
        return len(self.learning_rate)


@contextmanager
def seeded_masks(device: torch.device, seed: int) -> Iterator[None]:
    """Seed the global generator of one device, and put its state back on leaving."""
    # Not `torch.manual_seed`: that would reseed every other device as well.
    cuda = device.type == "cuda"
    generator = torch.cuda.default_generators[device.index] if cuda else torch.default_generator
    state = generator.get_state()
    generator.manual_seed(seed)
    try:
        yield
    finally:
        generator.set_state(state)


def copied_state(model: nn.Module) -> dict[str, Tensor]:
    """Copy the state dict to the CPU."""
    return {name: t.detach().to("cpu", copy=True) for name, t in model.state_dict().items()}
