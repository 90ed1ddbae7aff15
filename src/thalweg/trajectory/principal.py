"""Principal components of a run that need not fit into memory."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from thalweg.results import Array
from thalweg.space import remembered_buffers
from thalweg.trajectory.passes import expect_finite, pieces
from thalweg.trajectory.trajectory import Trajectory

__all__ = ["Centre", "PrincipalAxes", "principal_axes", "random_walk_shares", "rule_of"]

Centre = Literal["last", "mean"]

_BYTES = 1 << 28  # of the points that are in memory together
_FLAT = 1e-10  # share of the scatter below which there is no second axis


@dataclass(frozen=True, eq=False)
class PrincipalAxes:
    """The two directions along which a run is scattered most.

    Attributes:
        centre: The point that the axes go through, shape (P,).
        axes: Two unit vectors that are orthogonal, shape (P,) each.
        explained: Share of Σ‖θ(t) − c‖² along every component, descending, shape (T,).
        coordinates: Where the points are on the plane, shape (T, 2).
        off: How far each point is from the plane, shape (T,).
        buffers: Those that the centre remembers, or None.
    """

    centre: Tensor
    axes: tuple[Tensor, Tensor]
    explained: Array
    coordinates: Array
    off: Array
    buffers: Mapping[str, Tensor] | None


def principal_axes(trajectory: Trajectory, center: Centre) -> PrincipalAxes:
    """Return the first two principal components of a run.

    The eigenvectors of the T × T matrix of inner products (float64, from blocks of points) say how
    the points combine to the axes, so no more than a block of points is in memory.

    Args:
        trajectory: The run.
        center: `"last"`: deviations from the last point (Li et al. 2017); `"mean"`: from the mean.

    Raises:
        TypeError: If there is no trajectory.
        ValueError: If `center` is neither, a point is not finite, or all points are on a line.
    """
    if not isinstance(trajectory, Trajectory):
        raise TypeError(
            f"Principal components are those of a trajectory; got {type(trajectory).__name__}. Use "
            "`Trajectory.open(folder)`, or `Trajectory.from_points(thetas)`."
        )
    if center not in ("last", "mean"):
        raise ValueError(
            f"`center` must be 'last' or 'mean'; got {center!r}. Li et al. (2017) use 'last'."
        )
    if len(trajectory) < 3:
        raise ValueError(
            f"A principal plane needs three points that are not on one line; the run has "
            f"{len(trajectory)}. Use `Line`, or record more points."
        )
    last = trajectory.points.read(len(trajectory) - 1)
    buffers = remembered_buffers(last) if center == "last" else None
    last = last.detach().clone()
    gram = _gram(trajectory, last)
    if center == "mean":
        gram = gram - gram.mean(axis=0) - gram.mean(axis=1)[:, None] + gram.mean()
    values, vectors = np.linalg.eigh(gram)
    values, vectors = np.clip(values[::-1], 0, None), vectors[:, ::-1]
    total = float(values.sum())
    if not values[1] > _FLAT * total:
        raise ValueError(
            "A principal plane needs a run that is not on one line; its second component has "
            f"{values[1] / total if total else 0:.2g} of the scatter. Use `Line`."
        )
    count = len(trajectory)
    mean = np.full(count, 1 / count) if center == "mean" else np.eye(count)[-1]
    # Σ_t w_t (θ_t − c) with c = Σ_s m_s θ_s, as weights of the differences from the last point.
    weights = vectors[:, :2] - mean[:, None] * vectors[:, :2].sum(axis=0)
    centre, first, second = _combined(trajectory, last, np.column_stack([mean, weights]))
    centre += last.double()
    axes = _orthonormal(first, second)
    coordinates, off = _places(trajectory, centre, axes)
    signs = np.where(coordinates[-1, 0] >= coordinates[0, 0], 1.0, -1.0), _upward(coordinates[:, 1])
    dtype = torch.promote_types(last.dtype, torch.float32)
    return PrincipalAxes(
        centre=(last if center == "last" else centre).to(dtype),
        axes=(float(signs[0]) * axes[0].to(dtype), signs[1] * axes[1].to(dtype)),
        explained=values / total,
        coordinates=coordinates * [float(signs[0]), signs[1]],
        off=off,
        buffers=buffers,
    )


def random_walk_shares(count: int) -> Array:
    """Return what the components of a random walk in many dimensions explain, descending.

    About their mean, T points of a walk with independent steps have the shares
    ∝ 1/(1 − cos(πk/T)), k = 1, 2, …, which tend to 6/(πk)²: 61 %, 15 %, 7 %. Their coordinates
    are cosines, so the plane shows a smooth curve where there is no structure at all.

    Args:
        count: Number of points T.

    Source: Antognini & Sohl-Dickstein (2018), PCA of high dimensional random walks.
    """
    k = np.arange(1, count)
    values = 1 / (1 - np.cos(np.pi * k / count))
    shares: Array = values / values.sum()
    return shares


def _gram(trajectory: Trajectory, origin: Tensor) -> Array:
    """Return the inner products of all θ(t) − θ_origin, shape (T, T), float64."""
    count, size = len(trajectory), len(origin)
    together = max(1, _BYTES // max(1, 2 * size * origin.element_size()))
    blocks = [range(at, min(at + together, count)) for at in range(0, count, together)]
    gram = np.zeros((count, count))
    for number, rows in enumerate(blocks):
        first = _block(trajectory, rows, origin)
        for columns in blocks[number:]:
            second = first if columns == rows else _block(trajectory, columns, origin)
            product = torch.zeros(len(rows), len(columns), dtype=torch.float64)
            for piece in pieces(size, len(rows) + len(columns)):
                a, b = (
                    each[:, piece].double() - origin[piece].double() for each in (first, second)
                )
                product += a @ b.T
            gram[rows.start : rows.stop, columns.start : columns.stop] = product.numpy()
            gram[columns.start : columns.stop, rows.start : rows.stop] = product.numpy().T
    return gram


def _block(trajectory: Trajectory, numbers: range, origin: Tensor) -> Tensor:
    """Return copies of some points, shape (B, P)."""
    block = torch.empty(len(numbers), len(origin), dtype=origin.dtype)
    for t, theta in zip(numbers, trajectory.stream(numbers.start, numbers.stop), strict=True):
        expect_finite(trajectory, t, theta)
        block[t - numbers.start].copy_(theta)
    return block


def _combined(trajectory: Trajectory, origin: Tensor, weights: Array) -> list[Tensor]:
    """Return Σ_t w_tk (θ(t) − θ_origin) for each column k, float64."""
    sums = [torch.zeros(len(origin), dtype=torch.float64) for _ in weights.T]
    for theta, row in zip(trajectory.stream(), weights, strict=True):
        for piece in pieces(len(origin)):
            part = theta[piece].double() - origin[piece].double()
            for total, weight in zip(sums, row, strict=True):
                total[piece].add_(part, alpha=float(weight))
    return sums


def _orthonormal(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return two unit vectors that are orthogonal beyond rounding."""
    first = first / torch.linalg.vector_norm(first)
    for _ in range(2):
        second = second - (second @ first) * first
        second = second / torch.linalg.vector_norm(second)
    return first, second


def _places(
    trajectory: Trajectory, centre: Tensor, axes: tuple[Tensor, Tensor]
) -> tuple[Array, Array]:
    """Return the coordinates of all points, and their distances from the plane."""
    coordinates, off = np.zeros((len(trajectory), 2)), np.zeros(len(trajectory))
    for t, theta in enumerate(trajectory.stream()):
        for piece in pieces(len(centre)):
            part = theta[piece].double() - centre[piece]
            coordinates[t] += [float(part @ axis[piece]) for axis in axes]
        square = 0.0
        for piece in pieces(len(centre)):
            part = theta[piece].double() - centre[piece]
            for axis, coordinate in zip(axes, coordinates[t], strict=True):
                part = part - float(coordinate) * axis[piece]
            square += float(part @ part)
        off[t] = np.sqrt(square)
    return coordinates, off


def _upward(values: Array) -> float:
    """Return the sign that makes the largest of some values positive."""
    return 1.0 if values[np.abs(values).argmax()] >= 0 else -1.0


def rule_of(found: PrincipalAxes, center: Centre) -> dict[str, Any]:
    """Return plain facts about principal axes: what they explain, and what they leave out."""
    return {
        "directions": "principal components",
        "center": center,
        "explained": [float(share) for share in found.explained[:2]],
        "off": [float(f"{distance:.6g}") for distance in found.off],
        "coordinates": [[float(f"{c:.6g}") for c in row] for row in found.coordinates],
    }
