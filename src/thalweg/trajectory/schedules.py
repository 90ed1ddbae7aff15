"""When a recorder takes a snapshot: every so often, on a logarithmic scale, at steps, at events."""

import math
from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from operator import index

__all__ = ["AnyOf", "Around", "At", "Every", "Logarithmic", "Moment", "Schedule"]


@dataclass(frozen=True)
class Moment:
    """Where a run is when a schedule is asked.

    Attributes:
        step: Number of updates made.
        epoch: The epoch, where one has just ended; None in the middle of an epoch.
        event: Step of the latest event; None before the first.
    """

    step: int
    epoch: float | None = None
    event: int | None = None


class Schedule(ABC):
    """When to take a snapshot. Schedules are joined by `|`.

    The first point of a run, before its first step, and the last one are always kept.
    """

    @abstractmethod
    def due(self, now: Moment) -> bool:
        """Tell whether a snapshot is due.

        Args:
            now: Where the run is.
        """

    def __or__(self, other: "Schedule") -> "AnyOf":
        return AnyOf((self, other))


@dataclass(frozen=True)
class AnyOf(Schedule):
    """When one of several schedules says so.

    Attributes:
        schedules: The schedules.

    Example:
        >>> schedule = Every(steps=4) | At(steps=(1,))
        >>> [step for step in range(1, 10) if schedule.due(Moment(step))]
        [1, 4, 8]
    """

    schedules: tuple[Schedule, ...]

    def due(self, now: Moment) -> bool:
        """Tell whether a snapshot is due."""
        return any(schedule.due(now) for schedule in self.schedules)


@dataclass(frozen=True)
class Every(Schedule):
    """Every so many steps, or every so many epochs, of which `recorder.epoch()` tells the end.

    Attributes:
        steps: Number of steps between two snapshots.
        epochs: Number of epochs; one of the two is given.

    Raises:
        ValueError: If not just one is given, or it is no whole number of at least 1.

    Example:
        >>> Every(steps=100).due(Moment(200)), Every(epochs=1).due(Moment(200))
        (True, False)
    """

    steps: int | None = None
    epochs: int | None = None

    def __post_init__(self) -> None:
        given = [number for number in (self.steps, self.epochs) if number is not None]
        if len(given) != 1 or not _is_count(given[0]):
            raise ValueError(
                "Every needs a whole number of steps or of epochs, at least 1; got "
                f"steps={self.steps}, epochs={self.epochs}. Write `Every(steps=100)`; two "
                "schedules are joined by `|`."
            )

    def due(self, now: Moment) -> bool:
        """Tell whether a snapshot is due."""
        if self.steps is not None:
            return now.step % self.steps == 0
        assert self.epochs is not None
        return now.epoch is not None and math.floor(now.epoch + 1e-6) % self.epochs == 0


@dataclass(frozen=True)
class Logarithmic(Schedule):
    """At steps that lie evenly on a logarithmic scale: the integers nearest to 10^(k/n).

    The first steps of a run change most, so they are looked at most closely; a run of ten million
    steps leaves 71 snapshots with n = 10.

    Attributes:
        per_decade: Number n of snapshots from one power of ten to the next.

    Raises:
        ValueError: If it is no whole number of at least 1.

    Example:
        >>> [step for step in range(1, 1001) if Logarithmic(per_decade=3).due(Moment(step))]
        [1, 2, 5, 10, 22, 46, 100, 215, 464, 1000]
    """

    per_decade: int = 10

    def __post_init__(self) -> None:
        if not _is_count(self.per_decade):
            raise ValueError(
                "A logarithmic schedule needs a whole number, at least one snapshot a decade; got "
                f"per_decade={self.per_decade}. Give a positive number."
            )

    def due(self, now: Moment) -> bool:
        """Tell whether a snapshot is due."""
        if now.step < 1:
            return False
        near = round(self.per_decade * math.log10(now.step))
        return any(
            round(10.0 ** (k / self.per_decade)) == now.step for k in (near - 1, near, near + 1)
        )


@dataclass(frozen=True)
class At(Schedule):
    """At given steps.

    Attributes:
        steps: The steps.

    Example:
        >>> At(steps=[10, 500]).due(Moment(500))
        True
    """

    steps: Collection[int]

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", frozenset(self.steps))

    def due(self, now: Moment) -> bool:
        """Tell whether a snapshot is due."""
        return now.step in self.steps


@dataclass(frozen=True)
class Around(Schedule):
    """Dense around events: those whose steps are known beforehand, and those that come up.

    `recorder.event("warm-up over")` tells of one; with `Recorder(…, loss_jump=2.0)` a loss above
    twice its running mean is one, too. What comes up cannot be recorded before it has, so `before`
    is for events that are known.

    Attributes:
        events: Steps of events that are known beforehand.
        before: Steps before such an event.
        after: Steps after any event.
        every: Steps between two snapshots.

    Raises:
        ValueError: If a number is too small.

    Example:
        >>> schedule = Around(events=(100,), before=2, after=4, every=2)
        >>> [step for step in range(200) if schedule.due(Moment(step))]
        [98, 100, 102, 104]
        >>> [step for step in range(50, 60) if Around(after=2).due(Moment(step, event=51))]
        [51, 52, 53]
    """

    events: tuple[int, ...] = ()
    before: int = 0
    after: int = 50
    every: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "events", tuple(self.events))
        if min(self.before, self.after) < 0 or self.every < 1:
            raise ValueError(
                "Steps around an event are counted from 0, and steps between snapshots from 1; got "
                f"before={self.before}, after={self.after}, every={self.every}. Change them."
            )

    def due(self, now: Moment) -> bool:
        """Tell whether a snapshot is due."""
        came_up = now.event is not None and self._near(now.step - now.event, before=0)
        return came_up or any(self._near(now.step - at, self.before) for at in self.events)

    def _near(self, after: int, before: int) -> bool:
        """Tell whether a step is in the dense part around an event."""
        return -before <= after <= self.after and after % self.every == 0


def _is_count(number: object) -> bool:
    """Tell whether something is a whole number of at least 1."""
    return hasattr(number, "__index__") and index(number) >= 1
