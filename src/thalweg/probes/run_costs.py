"""Costs at combinations of a run's points, a bounded number of which is in memory."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from thalweg.anchors import Anchor
from thalweg.objectives.objective import Evaluation
from thalweg.results import Array
from thalweg.sections import Section
from thalweg.space import remembered_buffers
from thalweg.trajectory.trajectory import Trajectory

__all__ = ["Combinations", "KeptPoint", "blocks_of", "points_at", "tables_of", "warn_non_finite"]

# Few points at a time: each is an anchor, and some ways of evaluation do work for every anchor.
_MOST_POINTS = 4
_BYTES = 1 << 28


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
    def of(
        cls,
        points: Sequence[Tensor],
        buffers: Sequence[Mapping[str, Tensor] | None] | None = None,
    ) -> "Combinations":
        """Return the combinations of some points, with the buffers that they remember."""
        remembered = [remembered_buffers(p) for p in points] if buffers is None else buffers
        return cls(
            tuple(points), tuple(remembered), tuple(f"point {j}" for j in range(len(points)))
        )

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


@dataclass(frozen=True, eq=False)
class KeptPoint:
    """A copy of one point of a run, and the buffers of its network as far as they are known."""

    theta: Tensor
    buffers: Mapping[str, Tensor] | None


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


def tables_of(
    rows: Sequence[Evaluation], shape: tuple[int, ...]
) -> tuple[dict[str, Array], dict[str, dict[str, Array]]]:
    """Turn evaluations into arrays of a shape, by split, and by metric and split."""
    first = rows[0]
    loss = {s: np.array([row.loss[s] for row in rows]).reshape(shape) for s in first.loss}
    metrics = {
        m: {s: np.array([row.metrics[m][s] for row in rows]).reshape(shape) for s in table}
        for m, table in first.metrics.items()
    }
    return loss, metrics


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
