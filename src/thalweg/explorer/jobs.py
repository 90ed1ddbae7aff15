"""The queue: what readers wait for, the newest first, and no point twice."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from thalweg.explorer.coordinates import Place, coarse_first
from thalweg.explorer.definitions import Definition
from thalweg.explorer.evaluation import Outline
from thalweg.explorer.request_error import RequestError
from thalweg.explorer.store import Asked
from thalweg.objectives.objective import Evaluation

__all__ = ["Job", "Jobs", "SectionPoints", "places_of"]

_MOST_JOBS = 200


@dataclass(eq=False)
class SectionPoints:
    """What is known about a section, and what is asked for.

    Attributes:
        definition: The section.
        wanted: All points that were asked for, in order.
        known: Points with what was found there, in the order in which they came.
        outline: What its results say besides its points; None until it was opened.
        looked_at: Whether a reader waits for it to be opened.
        failure: Why it cannot be evaluated, or nothing.
        seconds: Time that its points took since the start.
        recorded: Number of points when its record was written.
    """

    definition: Definition
    wanted: dict[Place, None] = field(default_factory=dict)
    known: dict[Place, Evaluation] = field(default_factory=dict)
    outline: Outline | None = None
    looked_at: bool = False
    failure: str = ""
    seconds: float = 0.0
    recorded: int = 0


@dataclass(eq=False)
class Job:
    """One request that is not done.

    Attributes:
        asked: The request.
        section: Where its points are.
        rest: Points that have not been looked at, the next one last.
    """

    asked: Asked
    section: SectionPoints
    rest: list[Place]

    @property
    def waiting(self) -> int:
        """Number of its points that are not evaluated."""
        return sum(place not in self.section.known for place in self.rest)


class Jobs:
    """What is waiting: the newest request first, for that is where a reader is looking now.

    A point of two requests is evaluated by whichever comes first, and passed over by the other.

    Args:
        most: Number of points that may wait.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._jobs: list[Job] = []

    def __iter__(self) -> Iterator[Job]:
        """Iterate, the next one first."""
        return reversed(self._jobs)

    def __len__(self) -> int:
        """Number of jobs."""
        return len(self._jobs)

    def waiting_in(self, section: SectionPoints) -> int:
        """Return how many points of a section wait; those that are being evaluated count."""
        if not any(job.section is section for job in self._jobs):
            return 0
        return len(section.wanted) - len(section.known)

    @property
    def waiting(self) -> int:
        """Number of points that wait."""
        sections = {id(job.section): job.section for job in self._jobs}
        return sum(len(each.wanted) - len(each.known) for each in sections.values())

    def expect_room(self, new: int, seconds: float) -> None:
        """Raise where so many more points cannot wait.

        Args:
            new: How many there would be more.
            seconds: What a point takes, for saying when to come back.

        Raises:
            RequestError: 429, or 400 where they can never wait all at once.
        """
        if new > self.most:
            raise RequestError(
                400,
                f"At most {self.most} points may wait; {new} are asked for at once. Ask for less.",
            )
        waiting = self.waiting
        if waiting + new > self.most or len(self._jobs) >= _MOST_JOBS:
            later = min(60, max(1, math.ceil(seconds * (waiting + new - self.most))))
            raise RequestError(
                429,
                f"At most {self.most} points in {_MOST_JOBS} requests may wait; {waiting} in "
                f"{len(self._jobs)} do, and {new} more were asked for. Ask again in {later} s.",
                {"Retry-After": str(later)},
            )

    def add(self, job: Job) -> None:
        """Put a job before all others."""
        self._jobs.append(job)

    def again(self, section: SectionPoints, asked: Asked) -> Job | None:
        """Put a job that is waiting already before all others; return it, or None."""
        for job in self._jobs:
            if job.section is section and job.asked.axes == asked.axes:
                self._jobs.remove(job)
                self._jobs.append(job)
                return job
        return None

    def remove(self, job: Job) -> None:
        """Take a job away."""
        self._jobs.remove(job)

    def drop(self, section: SectionPoints) -> None:
        """Take away all jobs of a section."""
        self._jobs = [job for job in self._jobs if job.section is not section]

    @staticmethod
    def take(job: Job, most: int) -> list[Place]:
        """Take the next points of a job that are not known; none where it is done."""
        taken: list[Place] = []
        while job.rest and len(taken) < most:
            place = job.rest.pop()
            if place not in job.section.known:
                taken.append(place)
        return taken


def places_of(asked: Asked) -> list[Place]:
    """Return the points of a request, the next first: a line begins with both of its anchors."""
    ends: list[Place] = [(0.0,), (1.0,)] if len(asked.axes) == 1 else []
    return [*dict.fromkeys([*ends, *coarse_first(asked.axes)])]
