"""Whether a recorder can do what it is asked for."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from thalweg.errors import TrajectoryError
from thalweg.trajectory.schedules import Schedule

__all__ = ["expect_unchanged", "expect_usable", "expect_whole", "folder_of", "settings_of"]

_TYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def expect_usable(
    schedule: Any, dtype: Any, state: bool, optimizer: torch.optim.Optimizer | None, resume: Any
) -> None:
    """Raise for arguments that are of no use."""
    if not isinstance(schedule, Schedule):
        raise TypeError(
            f"A schedule is needed; got {type(schedule).__name__}. Write `tw.Every(steps=100)`."
        )
    if dtype is not None and dtype not in _TYPES:
        raise ValueError(
            f"Parameters are stored in one of {', '.join(map(str, _TYPES))}; got {dtype}. Choose "
            "one of these, or leave `dtype` out for the model's own."
        )
    if state and optimizer is None:
        raise ValueError(
            "The state of an optimiser is stored where there is one; got optimizer=None. Pass the "
            "optimiser, or leave `optimizer_state` out."
        )
    if resume is not None and (not hasattr(resume, "__index__") or resume < 0):
        raise ValueError(
            f"A run goes on from a whole number of updates; got resume={resume!r}. Pass True for "
            "the last recorded point, or the number of updates before your checkpoint."
        )


def folder_of(folder: Any) -> Path:
    """Return the folder to record to."""
    if not isinstance(folder, str | os.PathLike):
        raise TypeError(
            f"The first argument is the folder to record to; got {type(folder).__name__}. Write "
            '`tw.Recorder("runs/mlp", model, optimizer)`.'
        )
    return Path(folder)


def expect_whole(parameters: Mapping[str, nn.Parameter]) -> None:
    """Raise for parameters of which this process has a part only."""
    for name, parameter in parameters.items():
        if hasattr(parameter, "full_tensor"):
            raise TypeError(
                f"A recorder needs whole parameters; {name!r} is sharded over processes. Train "
                "with DistributedDataParallel, or record a checkpoint of gathered parameters."
            )


def expect_unchanged(model: nn.Module, parameters: Mapping[str, nn.Parameter]) -> None:
    """Raise where a model no longer trains the parameters that are recorded."""
    now = dict(model.named_parameters())
    changed = [
        f"{name!r} was replaced" for name in parameters if now.get(name) is not parameters[name]
    ]
    changed += [
        f"{name!r} is trained, too"
        for name, parameter in now.items()
        if parameter.requires_grad and name not in parameters
    ]
    if changed:
        raise TrajectoryError(
            "A trajectory is of the same parameters from its first point to its last; since the "
            f"recorder was made, {changed[0]}. Make the recorder when the model is as it will be "
            "trained, and record what comes after a change into a folder of its own."
        )


def settings_of(optimizer: torch.optim.Optimizer | None) -> dict[str, Any] | None:
    """Return the name and the plain settings of an optimiser."""
    if optimizer is None:
        return None
    groups = [
        {
            key: value
            for key, value in group.items()
            if isinstance(value, bool | int | float | str | tuple) and key != "params"
        }
        for group in optimizer.param_groups
    ]
    return {"name": type(optimizer).__name__, "groups": groups}
