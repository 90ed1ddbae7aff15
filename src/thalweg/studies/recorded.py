"""Trains a network and keeps its parameters after every epoch."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from thalweg.problems.data import DataSet
from thalweg.results import History
from thalweg.space import ParameterSpace
from thalweg.studies.interpolation import recipe_of, untrained
from thalweg.studies.study import Run
from thalweg.training import train
from thalweg.trajectory.trajectory import Trajectory

__all__ = ["RecordedRun", "train_recorded"]


@dataclass(frozen=True, eq=False)
class RecordedRun:
    """A network, and where it was after every epoch of its training.

    Attributes:
        model: The module.
        space: Its parameter space.
        data: The data set.
        trajectory: One point an epoch, the start first.
        history: Loss and error over the run; `best` is the epoch of the solution.
    """

    model: torch.nn.Module
    space: ParameterSpace
    data: DataSet
    trajectory: Trajectory
    history: History


def train_recorded(run: Run, *, seed: int) -> RecordedRun:
    """Train a network by its recipe, and keep one point an epoch."""
    recipe = recipe_of(run.settings)
    model, data = untrained(run, seed=seed)
    space = ParameterSpace.of(model)
    points: list[torch.Tensor] = []

    def after_epoch(done: int, total: int, message: str) -> None:
        points.append(space.flatten(model).cpu())
        run.report(done, total, message)

    splits = {name: data.splits[name] for name in ("train", "valid")}
    done = train(model, splits, recipe, seed=seed, progress=after_epoch, device=run.device)
    epochs = done.history.epoch
    batches = -(-len(splits["train"][1]) // recipe.batch_size)
    rates = np.append(done.learning_rate, np.nan)
    trajectory = replace(
        Trajectory.from_points(points, rates, done.history.loss["train"]),
        epoch=epochs,
        step=(epochs * batches).astype(np.int64),
        space=space,
    )
    return RecordedRun(model, space, data, trajectory, done.history)
