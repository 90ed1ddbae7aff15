"""What the probes of a run are asked for: checks, the ends of a line, coordinates across it."""

from typing import Any

import numpy as np
from torch import Tensor

from thalweg.errors import ParameterMismatchError
from thalweg.objectives.objective import expect_objective
from thalweg.results import Array
from thalweg.sections import Line
from thalweg.stored import StoredPoint
from thalweg.trajectory.trajectory import Trajectory

__all__ = ["expect_across", "expect_along", "expect_run", "flat_ends", "symmetric"]


def expect_run(objective: Any, trajectory: Any, line: Any) -> None:
    """Raise unless the arguments are what they should be."""
    expect_objective(objective)
    if not isinstance(trajectory, Trajectory):
        raise TypeError(
            f"The second argument is a trajectory; got {type(trajectory).__name__}. Use "
            "`Trajectory.open(folder)`, or `Trajectory.from_points(thetas)`."
        )
    if line is not None and not isinstance(line, Line):
        raise TypeError(
            f"`line` is a `Line`; got {type(line).__name__}. Leave it out for the line from the "
            "first point of the run to the last."
        )
    if len(trajectory) == 0:
        raise ValueError("A picture of a run needs points; the trajectory has none. Record some.")


def expect_across(across: int, reach: float) -> None:
    """Raise unless the coordinates across have a middle and an extent."""
    if across < 3 or across % 2 == 0:
        raise ValueError(
            f"`across` must be an odd number of 3 or more, so that the line is in the middle; got "
            f"{across}. Give {max(3, across + 1)}."
        )
    if not (np.isfinite(reach) and reach > 0):
        raise ValueError(
            f"`reach` must be a positive number; got {reach}. 1.2 shows a fifth more than the run "
            "needs."
        )


def expect_along(along: int) -> None:
    """Raise unless there are two rows at least."""
    if along < 2:
        raise ValueError(
            f"`along` must be 2 or more; got {along}. It is the number of rows of the surface."
        )


def flat_ends(line: Line, size: int) -> list[Tensor]:
    """Return both ends of a line in memory, shape (P,) each, after making sure of their size."""
    ends = [end.flat() if isinstance(end, StoredPoint) else end for end in line.anchors]
    if len(ends[0]) != size:
        raise ParameterMismatchError(
            f"Line and run must have the same parameters; the line has {len(ends[0])}, the run "
            f"{size}. Make both of the same model."
        )
    return ends


def symmetric(farthest: float, count: int) -> Array:
    """Return an odd number of coordinates about 0, 0 exactly among them."""
    half = np.linspace(0, farthest, count // 2 + 1)
    return np.concatenate((-half[:0:-1], half))
