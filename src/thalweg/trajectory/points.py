"""Where the points of a trajectory come from: read one at a time, in the order of the run."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["PointSource", "PointsInMemory"]


class PointSource(ABC):
    """The points θ(t) of a run, each read when it is asked for.

    Attributes:
        count: Number of points.
        size: Number of parameters P.
        dtype: Floating-point type that the points are kept in.
    """

    count: int
    size: int
    dtype: torch.dtype

    @abstractmethod
    def read(self, index: int) -> Tensor:
        """Return one point, shape (P,), in the type it is kept in.

        Args:
            index: From 0 to `count` − 1.
        """

    def stream(self, start: int = 0, stop: int | None = None) -> Iterator[Tensor]:
        """Give points in order, one in memory at a time; each may be overwritten by the next.

        Args:
            start: Index of the first.
            stop: Index after the last; all by default.
        """
        for index in range(start, self.count if stop is None else stop):
            yield self.read(index)

    def tensor(self, index: int, name: str) -> Tensor:
        """Return one named tensor of one point.

        Raises:
            KeyError: If there is none of that name.
        """
        raise KeyError(f"Points that are vectors have no tensor {name!r}. Use `read`.")

    def buffers(self, index: int) -> dict[str, Tensor]:
        """Return the buffers of the model at one point; none where they are not kept."""
        return {}

    def update(self, index: int) -> Tensor | None:
        """Return the update made from one point, shape (P,), or None where it is not kept."""
        return None

    def optimizer_state(self, index: int) -> dict[str, Any] | None:
        """Return the state of the optimiser at one point, or None where it is not kept."""
        return None


class PointsInMemory(PointSource):
    """Points that are given as the rows of a matrix.

    Args:
        points: One row a point, shape (T, P).

    Raises:
        ValueError: If they are no matrix of floating-point numbers, or no vectors of one size.
    """

    def __init__(self, points: Tensor | Sequence[Tensor]) -> None:
        if not isinstance(points, Tensor):
            points = _stacked([*points]) if len(points) else torch.empty(0)
        if points.ndim != 2 or not points.is_floating_point():
            raise ValueError(
                "Points are the rows of a matrix of floating-point numbers; got shape "
                f"{tuple(points.shape)} and {points.dtype}. Stack vectors of shape (P,), and "
                "convert whole numbers with `.double()`."
            )
        self._points = points.detach()
        self.count, self.size = points.shape
        self.dtype = points.dtype

    def read(self, index: int) -> Tensor:
        """Return one row."""
        return self._points[index]


def _stacked(points: Sequence[Any]) -> Tensor:
    """Return some vectors as the rows of a matrix."""
    shapes = {tuple(point.shape) if isinstance(point, Tensor) else None for point in points}
    if len(shapes) != 1 or None in shapes:
        kinds = sorted({type(point).__name__ for point in points} - {"Tensor"})
        came = " and ".join(kinds) or " and ".join(str(shape) for shape in sorted(shapes, key=str))
        raise ValueError(
            f"Points are vectors of one size, one at least; got {came or 'none'}. Make them of "
            "modules with `space.flatten(model)`."
        )
    return torch.stack([*points])
