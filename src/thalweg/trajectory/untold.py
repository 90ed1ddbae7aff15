"""What a loop should have told its recorder, and did not."""

import warnings

from thalweg.trajectory.schedules import AnyOf, Every, Schedule

__all__ = ["warn_of_epochs"]


def warn_of_epochs(schedule: Schedule) -> None:
    """Warn, where points are due at the ends of epochs, that none was told of.

    Args:
        schedule: When points were to be stored.
    """
    if _by_epochs(schedule):
        warnings.warn(
            "`Every(epochs=…)` stores a point where the loop says that an epoch ended; this one "
            "did not. Call `recorder.epoch()` there. [untold-epochs]",
            RuntimeWarning,
            stacklevel=4,
        )


def _by_epochs(schedule: Schedule) -> bool:
    """Tell whether a schedule has to know of epochs."""
    if isinstance(schedule, AnyOf):
        return any(_by_epochs(each) for each in schedule.schedules)
    return isinstance(schedule, Every) and schedule.epochs is not None
