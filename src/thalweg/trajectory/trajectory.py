"""The recorded points of one training run, read lazily."""

import operator
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from thalweg.errors import TrajectoryError
from thalweg.results import Array
from thalweg.space import ParameterSpace
from thalweg.trajectory.description import read_description
from thalweg.trajectory.index import Entry, read_index
from thalweg.trajectory.points import PointsInMemory, PointSource
from thalweg.trajectory.step_log import StepLog, read_log
from thalweg.trajectory.store import INDEX, STEPS
from thalweg.trajectory.stored_points import StoredSnapshots

__all__ = ["Trajectory", "TrajectoryPoint"]


@dataclass(frozen=True, eq=False)
class Trajectory:
    """The points θ(t) of one training run, with what was noted on the way.

    Points are read when they are asked for, so that a trajectory may be larger than memory:
    `trajectory[i].theta` reads one, `trajectory.stream()` gives all in order, one at a time.

    Attributes:
        points: Where the points come from.
        step: Number of updates made before each point, shape (T,), ascending.
        epoch: Epoch of each point as far as it was said, shape (T,), NaN where it was not.
        learning_rate: Learning rate of the update made from each point, shape (T,), or NaN.
        loss: Mini-batch loss at each point, shape (T,), or NaN.
        space: Names and shapes of the parameters, or None where only vectors are known.
        facts: What made the run: versions, seed, optimiser, as far as it was said.
        rounding: Length ‖θ − θ̂‖ of what storing took from each point θ by keeping it in a narrower
            type as θ̂, shape (T,); 0 where it was kept as it was, and NaN where θ is not finite.
            No distance between two points is off by more than the sum of theirs.
        norm: Euclidean norm of each point, shape (T,), or NaN.
        update_norm: Norm of the update made from each point, where it was recorded, or NaN.
        log: What was noted at every step, of those between the points, too.
        events: Step and text of what was told of on the way.

    Example:
        >>> import torch
        >>> walk = torch.tensor([[0.0, 0.0], [1.0, 0.5], [2.0, 0.0]], dtype=torch.float64)
        >>> trajectory = Trajectory.from_points(walk, learning_rate=0.1)
        >>> len(trajectory), trajectory[-1].step, trajectory[1].theta
        (3, 2, tensor([1.0000, 0.5000], dtype=torch.float64))
    """

    points: PointSource
    step: NDArray[np.int64]
    epoch: Array
    learning_rate: Array
    loss: Array
    space: ParameterSpace | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    rounding: Array = field(default_factory=lambda: np.empty(0))
    norm: Array = field(default_factory=lambda: np.empty(0))
    update_norm: Array = field(default_factory=lambda: np.empty(0))
    log: StepLog = field(default_factory=StepLog.empty)
    events: tuple[tuple[int, str], ...] = ()

    def __post_init__(self) -> None:
        unknown = {"rounding": 0.0, "norm": np.nan, "update_norm": np.nan}
        for name, value in unknown.items():
            if len(getattr(self, name)) != len(self):
                object.__setattr__(self, name, np.full(len(self), value))

    @classmethod
    def open(cls, folder: str | os.PathLike[str], *, skip_damaged: bool = False) -> "Trajectory":
        """Open the trajectory that a recorder has written, or is writing.

        Only the index and the log are read, and what is durable now is what is seen. Parameters are
        read, and checked, when they are asked for.

        Args:
            folder: What was recorded to.
            skip_damaged: Read and check everything now, and leave out what is damaged.

        Raises:
            TrajectoryError: If there is none, it was made by a newer version, or its description is
                damaged.

        Example:
            >>> import tempfile, torch
            >>> from thalweg.trajectory.recorder import Recorder
            >>> model = torch.nn.Linear(2, 1)
            >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     with Recorder(folder, model, optimizer) as recorder:
            ...         model(torch.ones(3, 2)).sum().backward()
            ...         optimizer.step()
            ...         recorder.step(loss=0.25, batch_size=3)
            ...     trajectory = Trajectory.open(folder)
            ...     change = trajectory[1].tensor("bias") - trajectory[0].tensor("bias")
            >>> trajectory.step, trajectory[0].learning_rate, trajectory.log.loss, change
            (array([0, 1]), 0.5, array([0.25]), tensor([-1.5000]))
        """
        folder = Path(folder)
        description = read_description(folder)
        index = read_index(folder / INDEX, _content(folder / INDEX))
        log = read_log(folder / STEPS, _content(folder / STEPS))
        entries = list(index.entries.values())
        points = StoredSnapshots(folder, description, entries)
        if skip_damaged:
            entries = _whole(points, entries)
            points = StoredSnapshots(folder, description, entries)
        step = np.array([entry.step for entry in entries], dtype=np.int64)
        there = log.at(step)
        return cls(
            points,
            step,
            _epochs(entries),
            there.learning_rate,
            there.loss,
            description.space,
            dict(description.facts),
            rounding=np.array([entry.rounding for entry in entries]),
            norm=np.array([entry.norm for entry in entries]),
            update_norm=np.array([entry.update_norm for entry in entries]),
            log=log,
            events=tuple(index.events),
        )

    @classmethod
    def from_points(
        cls,
        thetas: Tensor | Sequence[Tensor],
        learning_rate: ArrayLike | None = None,
        losses: ArrayLike | None = None,
    ) -> "Trajectory":
        """Make a trajectory of points in memory.

        Args:
            thetas: One point an update, shape (T, P); the type is kept.
            learning_rate: One for all, or one a point.
            losses: Loss at each point, shape (T,).
        """
        return cls.of(PointsInMemory(thetas), learning_rate, losses)

    @classmethod
    def of(
        cls,
        points: PointSource,
        learning_rate: ArrayLike | None = None,
        losses: ArrayLike | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> "Trajectory":
        """Make a trajectory of any points, one an update.

        Args:
            points: Where the points come from.
            learning_rate: One for all, or one a point.
            losses: Loss at each point, shape (T,).
            facts: What made the run.
        """
        return cls(
            points,
            np.arange(points.count),
            np.full(points.count, np.nan),
            _one_a_point(learning_rate, points.count),
            _one_a_point(losses, points.count),
            facts=dict(facts or {}),
        )

    def __len__(self) -> int:
        return self.points.count

    def __repr__(self) -> str:
        return f"Trajectory({len(self)} points of {self.points.size} parameters)"

    def __getitem__(self, index: int) -> "TrajectoryPoint":
        try:
            at = range(len(self))[operator.index(index)]  # counts from the end
        except TypeError:
            raise TypeError(
                f"A trajectory is asked for one point by its number; got {index!r}. Write "
                "`[trajectory[i] for i in range(0, len(trajectory), 2)]` for every other point."
            ) from None
        except IndexError:
            raise IndexError(
                f"The trajectory has {len(self)} points; got the number {index}. Points are "
                "counted from 0; which update each belongs to is in `trajectory.step`."
            ) from None
        return TrajectoryPoint(self, at)

    def __iter__(self) -> Iterator["TrajectoryPoint"]:
        return (self[index] for index in range(len(self)))

    @property
    def batch_size(self) -> Array:
        """Examples that the gradient of the update from each point was taken over, or NaN."""
        return self.log.at(self.step).batch_size

    @property
    def gradient_norm(self) -> Array:
        """Norm of the mini-batch gradient at each point, shape (T,), or NaN."""
        return self.log.at(self.step).gradient_norm

    def stream(self, start: int = 0, stop: int | None = None) -> Iterator[Tensor]:
        """Give the points in order, shape (P,) each; each may be overwritten by the next.

        To keep one, `clone` it: `torch.stack([theta.clone() for theta in trajectory.stream()])`.
        """
        return self.points.stream(start, stop)


@dataclass(frozen=True)
class TrajectoryPoint:
    """One point of a trajectory; its parameters are read when they are asked for."""

    trajectory: Trajectory
    index: int

    @property
    def theta(self) -> Tensor:
        """The parameters, shape (P,)."""
        return self.trajectory.points.read(self.index)

    def tensor(self, name: str) -> Tensor:
        """Return one tensor by its name in the model; on disk, nothing else is read.

        Raises:
            ValueError: If the points of this trajectory have no names.
            KeyError: If there is no such tensor.
        """
        if self.trajectory.space is None:
            raise ValueError(
                "Tensors have names in a trajectory that was recorded; this one is of vectors. "
                "Use `theta`."
            )
        return self.trajectory.points.tensor(self.index, name)

    @property
    def buffers(self) -> dict[str, Tensor]:
        """The buffers of the model at this point, as far as they were recorded."""
        return self.trajectory.points.buffers(self.index)

    @property
    def update(self) -> Tensor | None:
        """The update θ(t + 1) − θ(t) made from this point, shape (P,); None where it is unknown.

        It is what was recorded, or else the difference to the next point if that is one step away.
        """
        recorded = self.trajectory.points.update(self.index)
        after = self.index + 1
        if recorded is not None or after == len(self.trajectory):
            return recorded
        if self.trajectory.step[after] != self.step + 1:
            return None
        return self.trajectory[after].theta - self.theta

    @property
    def optimizer_state(self) -> dict[str, Any] | None:
        """The `state_dict` of the optimiser before the update from here; None if not recorded."""
        return self.trajectory.points.optimizer_state(self.index)

    @property
    def gradient_norm(self) -> float:
        """Norm of the mini-batch gradient here, or NaN."""
        return float(self.trajectory.gradient_norm[self.index])

    @property
    def update_norm(self) -> float:
        """Norm of the update made from here, if it was recorded, or NaN."""
        return float(self.trajectory.update_norm[self.index])

    @property
    def rounding(self) -> float:
        """Length of what storing took from this point."""
        return float(self.trajectory.rounding[self.index])

    @property
    def batch_size(self) -> float:
        """Number of examples of the update made from here, or NaN."""
        return float(self.trajectory.batch_size[self.index])

    @property
    def step(self) -> int:
        """Number of updates made before this point."""
        return int(self.trajectory.step[self.index])

    @property
    def epoch(self) -> float:
        """Epoch, or NaN."""
        return float(self.trajectory.epoch[self.index])

    @property
    def learning_rate(self) -> float:
        """Learning rate of the update made from here, or NaN."""
        return float(self.trajectory.learning_rate[self.index])

    @property
    def loss(self) -> float:
        """Mini-batch loss here, or NaN."""
        return float(self.trajectory.loss[self.index])


def _one_a_point(values: ArrayLike | None, count: int) -> Array:
    """Return one value a point; NaN where nothing is known."""
    given = np.asarray(np.nan if values is None else values, dtype=np.float64)
    return np.broadcast_to(given, (count,)).copy()


def _content(path: Path) -> bytes:
    """Return the bytes of a file that a recorder has written."""
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise TrajectoryError(
            f"A trajectory must be as it was written; {path} is missing. Restore it from a copy. "
            "Snapshots are plain safetensors files."
        ) from error


def _epochs(entries: Sequence[Entry]) -> Array:
    """Return the epoch of each point; before the first epoch that was told of it is 0."""
    told = [entry.epoch for entry in entries]
    if all(epoch is None for epoch in told):
        return np.full(len(told), np.nan)
    return np.array([0.0 if epoch is None else epoch for epoch in told])


def _whole(points: StoredSnapshots, entries: Sequence[Entry]) -> list[Entry]:
    """Return the snapshots that are as they were written; tell of the others."""
    whole, damaged = [], []
    for index, entry in enumerate(entries):
        try:
            points.check(index)
            whole.append(entry)
        except (TrajectoryError, OSError):
            damaged.append(entry.step)
    if damaged:
        warnings.warn(
            f"Snapshots must be as they were written; in {points.folder} those of steps "
            f"{', '.join(map(str, damaged))} are damaged and left out. Restore them from a copy. "
            "[damaged-trajectory]",
            RuntimeWarning,
            stacklevel=3,
        )
    return whole
