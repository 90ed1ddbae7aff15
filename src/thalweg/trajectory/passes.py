"""What passes over the points of a run share: pieces in float64, and points that are finite."""

from collections.abc import Iterator

import torch
from torch import Tensor

from thalweg.trajectory.trajectory import Trajectory

__all__ = ["expect_finite", "pieces"]

_PIECE = 1 << 18  # entries that are in float64 at a time


def pieces(size: int, together: int = 2) -> Iterator[slice]:
    """Cut vectors into pieces that may be in float64.

    Args:
        size: Entries of a vector.
        together: Number of vectors that are cut at once.
    """
    step = max(1, 2 * _PIECE // together)
    return (slice(at, at + step) for at in range(0, size, step))


def expect_finite(trajectory: Trajectory, t: int, theta: Tensor) -> None:
    """Raise for a point with NaN or infinity in it.

    Args:
        trajectory: The run.
        t: Number of the point.
        theta: The point.

    Raises:
        ValueError: If an entry is not finite.
    """
    if not bool(torch.isfinite(theta).all()):
        where = int((~torch.isfinite(theta)).nonzero()[0, 0])
        raise ValueError(
            f"The points of a run must be finite; entry {where} of point {t} (step "
            f"{int(trajectory.step[t])}) is {float(theta[where])}. Use the points from before "
            "the training diverged."
        )
