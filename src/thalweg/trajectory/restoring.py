"""Bringing a model to a recorded point, and telling whether it is at one."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from thalweg.errors import TrajectoryError
from thalweg.trajectory.description import DOCUMENT
from thalweg.trajectory.index import Entry, read_index
from thalweg.trajectory.state import set_random_state, unpacked
from thalweg.trajectory.store import INDEX
from thalweg.trajectory.stored_points import open_snapshot, state_of
from thalweg.trajectory.tensor_file import TensorFile

__all__ = ["entry_at", "expect_at", "restore"]


def entry_at(folder: Path, step: int | None) -> Entry | None:
    """Return what the index says about the snapshot of a step, by default the last one.

    Returns:
        The entry; None where there is no trajectory, or nothing in it yet.

    Raises:
        TrajectoryError: If there is no snapshot of that step.
    """
    if not (folder / DOCUMENT).exists() or not (folder / INDEX).exists():
        return None
    entries = read_index(folder / INDEX, (folder / INDEX).read_bytes()).entries
    if step is None:
        return entries[max(entries)] if entries else None
    if step not in entries:
        near = sorted(entries, key=lambda at: (abs(at - step), at))[:3]
        raise TrajectoryError(
            f"A run is restored to a recorded point; {folder} has none after {step} updates. "
            f"The nearest are after {', '.join(map(str, sorted(near))) or 'none'}."
        )
    return entries[step]


def restore(
    folder: Path,
    entry: Entry,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    generators: Mapping[str, torch.Generator] | None,
) -> None:
    """Put what is stored with a snapshot into a model, an optimiser and random generators.

    Args:
        folder: The folder of the trajectory.
        entry: Which snapshot.
        model: Gets parameters and buffers.
        optimizer: Gets its state, where that was stored.
        generators: Those of the user, which get their state with the global ones, where that was
            stored; None leaves all generators as they are.
    """
    with open_snapshot(folder, entry) as file:
        tensors = dict(model.named_parameters()) | dict(model.named_buffers())
        stored = {name: file.read(name) for name in file.names if name in tensors}
        state = state_of(file)
        facts = file.facts
    with torch.no_grad():
        for name, tensor in stored.items():
            tensors[name].copy_(tensor)
    if optimizer is not None and "optimizer" in facts:
        optimizer.load_state_dict(unpacked(facts["optimizer"], state))
    if generators is not None and "random" in facts:
        set_random_state(facts["random"], state, generators)


def expect_at(folder: Path, entry: Entry, parameters: Mapping[str, Tensor]) -> None:
    """Raise unless parameters are those of a snapshot, after they are rounded as it was.

    Raises:
        TrajectoryError: If they are others.
    """
    with open_snapshot(folder, entry) as file:
        if all(_same(file, name, parameters[name]) for name in parameters):
            return
    raise TrajectoryError(
        f"A run goes on from where its model is; {folder} holds a trajectory whose point after "
        f"{entry.step} updates has other parameters. Pass `resume=True` and call "
        "`recorder.restore()`, or pass `resume=N` after loading a checkpoint made after N "
        "updates; for a new run choose another folder."
    )


def _same(file: TensorFile, name: str, tensor: Tensor) -> bool:
    """Tell whether a tensor has the values of a stored one; NaN equals NaN."""
    stored = file.read(name)
    own = tensor.detach().cpu().to(stored.dtype)
    return bool(((own == stored) | (own.isnan() & stored.isnan())).all())
