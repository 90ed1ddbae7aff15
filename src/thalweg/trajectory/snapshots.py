"""Taking snapshots of a model: what belongs to one, and the update that is made from it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from thalweg.trajectory.arguments import expect_unchanged
from thalweg.trajectory.background import Background
from thalweg.trajectory.state import optimizer_state, random_state
from thalweg.trajectory.store import TrajectoryWriter

__all__ = ["Contents", "SnapshotTaker", "persistent_buffers"]


@dataclass(frozen=True)
class Contents:
    """What is stored with a point beside parameters and buffers.

    Attributes:
        updates: Whether the update that was made from it is.
        optimizer: The optimiser whose state is, or None.
        generators: The random generators of the user whose state is, with that of all global ones;
            None for no random state.
    """

    updates: bool
    optimizer: torch.optim.Optimizer | None
    generators: Mapping[str, torch.Generator] | None


class SnapshotTaker:
    """Takes snapshots of a model and hands them to a writer.

    Args:
        model: The plain model.
        parameters: Its trainable parameters by name.
        contents: What is stored beside.
        writer: Who writes; None on all ranks of a job but the first, where nothing is.
        background: Who writes while training goes on, or None.

    Attributes:
        stored_at: Step of the latest snapshot, or None.
    """

    def __init__(
        self,
        model: nn.Module,
        parameters: Mapping[str, nn.Parameter],
        contents: Contents,
        writer: TrajectoryWriter | None,
        background: Background | None,
    ) -> None:
        self.stored_at: int | None = None
        self._model = model
        self._parameters = parameters
        self._contents = contents
        self._writer = writer
        self._background = background
        self._versions: list[int] = []
        self._before: dict[str, Tensor] | None = None

    def take(self, step: int, epoch: float | None) -> None:
        """Store the point where the run is, unless it is stored already."""
        if self.stored_at == step and not self.moved_since():
            return
        expect_unchanged(self._model, self._parameters)
        if self._writer is None:
            self.remember(step)
            return
        others = persistent_buffers(self._model)
        facts: dict[str, str] = {}
        if self._contents.optimizer is not None:
            facts["optimizer"] = optimizer_state(self._contents.optimizer, others)
        if self._contents.generators is not None:
            facts["random"] = random_state(self._contents.generators, others)
        parameters = self._on_host(self._parameters)
        self.do(
            partial(
                self._writer.add_snapshot, step, epoch, parameters, self._on_host(others), facts
            )
        )
        self.remember(step)  # not before: an interrupt of the writing must not pass for a point

    def remember(self, step: int) -> None:
        """Take note that the point where the run is, is stored."""
        self.stored_at = step
        self._versions = [parameter._version for parameter in self._parameters.values()]
        if self._contents.updates and self._writer is not None:
            self._before = {n: p.detach().clone() for n, p in self._parameters.items()}

    def moved_since(self) -> bool:
        """Tell whether a parameter was written to since the latest snapshot."""
        now = [parameter._version for parameter in self._parameters.values()]
        return now != self._versions

    def take_update(self, step: int) -> None:
        """Store the update that was just made, if it was made from the latest snapshot."""
        if self._before is None or self._writer is None:
            return
        before, self._before = self._before, None
        if self.stored_at == step:
            update = {n: p.detach() - before[n] for n, p in self._parameters.items()}
            host = {name: tensor.cpu() for name, tensor in update.items()}
            self.do(partial(self._writer.add_update, step, host))

    def do(self, work: Callable[[], None]) -> None:
        """Do a piece of writing: now, or in the background after what was handed in before."""
        if self._background is not None:
            self._background.do(work)
        else:
            work()

    def finish(self) -> None:
        """Wait for what is being written in the background."""
        if self._background is not None:
            try:
                self._background.finish()
            finally:
                self._background.close()

    def _on_host(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return tensors on the CPU; copies, if they are written while training goes on."""
        copy = self._background is not None
        return {name: tensor.detach().to("cpu", copy=copy) for name, tensor in tensors.items()}


def persistent_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Return the buffers that belong to the state of a model, each under its first name."""
    kept: dict[str, Tensor] = {}
    for owner_name, owner in model.named_modules():
        for short, tensor in owner.named_buffers(recurse=False):
            if short not in owner._non_persistent_buffers_set:
                kept[f"{owner_name}.{short}" if owner_name else short] = tensor
    return kept
