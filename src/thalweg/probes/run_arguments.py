"""Checks of what the pictures of a run are asked for."""

from typing import Any

import numpy as np

from thalweg.objectives.objective import Objective
from thalweg.sections import Line
from thalweg.trajectory.trajectory import Trajectory

__all__ = ["expect_across", "expect_run"]


def expect_run(objective: Any, trajectory: Any, line: Any) -> None:
    """Raise unless the arguments are what they should be."""
    if not isinstance(objective, Objective):
        raise TypeError(
            f"The first argument is an objective; got {type(objective).__name__}. Make one with "
            "`ModelObjective(model, loss, data)`."
        )
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
