"""Costs at combinations of a run's points, a bounded number of which is in memory."""

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from thalweg.anchors import Anchor
from thalweg.environment import provenance
from thalweg.evaluate.points import rounding_error
from thalweg.evaluate.sweep import sweep
from thalweg.objectives.objective import Evaluation, Objective
from thalweg.progress import Progress
from thalweg.results import Array, Provenance
from thalweg.sections import Section
from thalweg.space import remembered_buffers
from thalweg.trajectory.trajectory import Trajectory

__all__ = [
    "Combinations",
    "KeptPoint",
    "RunCosts",
    "blocks_of",
    "points_at",
    "warn_non_finite",
]

# Few points at a time: each is an anchor in memory, and more of them are not faster (measured on a
# perceptron of 2 million parameters).
_MOST_POINTS = 2
_BYTES = 1 << 28


@dataclass(frozen=True, eq=False)
class KeptPoint:
    """A copy of one point of a run, and the buffers of its network as far as they are known."""

    theta: Tensor
    buffers: Mapping[str, Tensor] | None


@dataclass(frozen=True, eq=False)
class Combinations(Section):
    """All combinations Σ_j w_j P_j of some points; the weights are the coordinates.

    Attributes:
        anchors: m points.
        buffers: For each the buffers of its network, or None.
        labels: Their names.
    """

    anchors: tuple[Anchor, ...]
    buffers: tuple[Mapping[str, Tensor] | None, ...]
    labels: tuple[str, ...]

    @classmethod
    def of(cls, points: Sequence[KeptPoint]) -> "Combinations":
        """Return the combinations of some points."""
        return cls(
            tuple(point.theta for point in points),
            tuple(point.buffers for point in points),
            tuple(f"point {j}" for j in range(len(points))),
        )

    @classmethod
    def like(cls, section: Section) -> "Combinations":
        """Return the combinations of a section's anchors."""
        return cls(section.anchors, section.buffers, tuple(map(str, range(len(section.anchors)))))

    @property
    def dimension(self) -> int:
        """One coordinate for each point."""
        return len(self.anchors)

    @property
    def places(self) -> Array:
        """Each point has weight 1 at itself."""
        return np.eye(len(self.anchors))

    def weights(self, coordinates: ArrayLike) -> Array:
        """Return the coordinates, shape (n, m)."""
        return np.asarray(coordinates, dtype=np.float64).reshape(-1, len(self.anchors))


class RunCosts:
    """Costs at combinations of points of one run.

    Args:
        objective: The cost.
        trajectory: The run.
        keep: A folder where finished points are kept, or None.
        report: Shows progress.

    Attributes:
        total: Number of points that are going to be evaluated.
        error: What fewer bits in products cost, by split; empty where all are used.
    """

    def __init__(
        self,
        objective: Objective,
        trajectory: Trajectory,
        keep: str | os.PathLike[str] | None,
        report: Progress,
    ) -> None:
        self.objective = objective
        self.trajectory = trajectory
        self.keep = keep
        self.report = report
        self.total = 0
        self.error: dict[str, float] = {}
        self._done = 0

    def at(self, section: Section, weights: Array) -> list[Evaluation]:
        """Return the costs at some points of a section."""
        rows = sweep(self.objective, section, weights, progress=self._shown, keep=self.keep)
        if not self.error and self._done == 0:
            self.error = rounding_error(self.objective, Combinations.like(section), weights, rows)
        self._done += len(rows)
        return rows

    def of_run(self) -> list[Evaluation]:
        """Return the costs at the points of the run themselves, a few in memory at a time."""
        found: list[Evaluation] = []
        for block in blocks_of(self.trajectory):
            points = points_at(self.trajectory, block, [])
            found += self.at(Combinations.of([*points.values()]), np.eye(len(points)))
        return found

    def provenance(self, where: Mapping[str, Any], seconds: float) -> Provenance:
        """Return what made a result."""
        facts: dict[str, Any] = dict(self.objective.describe())
        facts |= {"precision_error": self.error} if self.error else {}
        points = self.trajectory.points
        kept = {"points": points.count, "points_dtype": str(points.dtype).removeprefix("torch.")}
        device, dtype = self.objective.device, self.objective.dtype
        return provenance(device, dtype, seconds, objective=facts, section={**where, **kept})

    def _shown(self, so_far: int, _: int, message: str) -> None:
        """Show how far all of it is."""
        self.report(min(self.total, self._done + so_far), self.total, f"run: {message}")


def blocks_of(trajectory: Trajectory) -> list[range]:
    """Cut a run into blocks of points that may be in memory together."""
    size = max(1, trajectory.points.size * trajectory.points.dtype.itemsize)
    count = max(1, min(_MOST_POINTS, _BYTES // size))
    return [range(at, min(at + count, len(trajectory))) for at in range(0, len(trajectory), count)]


def points_at(trajectory: Trajectory, block: range, further: Sequence[int]) -> dict[int, KeptPoint]:
    """Return copies of the points of a block, and of some further ones, by number."""
    stream = trajectory.stream(block.start, block.stop)
    found = {t: _kept(theta) for t, theta in zip(block, stream, strict=True)}
    for t in sorted({*further} - {*found}):
        found[t] = _kept(trajectory.points.read(t))
    return found


def _kept(theta: Tensor) -> KeptPoint:
    """Copy a point before the next one overwrites it."""
    return KeptPoint(theta.detach().clone(), remembered_buffers(theta))


def warn_non_finite(loss: Mapping[str, Array], stacklevel: int) -> None:
    """Count the points at which a loss is not finite in one warning."""
    for split, values in loss.items():
        bad = int(np.sum(~np.isfinite(values)))
        if bad:
            warnings.warn(
                f"The loss on {split!r} is not finite at {bad} of {values.size} points of the "
                "surface; they are kept as gaps. Give a smaller `reach`, or evaluate in float64. "
                "[non-finite-loss]",
                RuntimeWarning,
                stacklevel=stacklevel + 1,
            )
