"""The explorer: sections that readers look at, and the one thread that evaluates their points.

Readers (any number of threads) ask and look; whatever they ask for is noted on the disk before it
is answered. One thread opens sections and evaluates points, a small portion at a time, the newest
request first. So torch is never run by two threads at a time, two readers who ask for the same
point get the same evaluation, and a reader who goes away takes nothing with him.
"""

import secrets
import threading
import time
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from thalweg.errors import first_line
from thalweg.explorer.catalogue import Catalogue
from thalweg.explorer.coordinates import Place, Ticks, ticks_of
from thalweg.explorer.definitions import Definition, define
from thalweg.explorer.evaluation import OpenSection
from thalweg.explorer.jobs import Job, Jobs, SectionPoints, places_of
from thalweg.explorer.outcome import record_of
from thalweg.explorer.request_error import RequestError
from thalweg.explorer.store import Asked, Store
from thalweg.objectives.model import ModelObjective
from thalweg.objectives.objective import Evaluation
from thalweg.records import save_record

__all__ = ["Explorer"]

_MOST_WAITING = 20_000  # points
_MOST_OPEN = 4  # sections: each holds its anchors in memory
_RECORD_SHARE = 20.0  # pause between two writings of records, in times of one of them
_RECORD_SECONDS = 5.0


@dataclass(frozen=True, eq=False)
class _Task:
    """What the thread does next: evaluate some points, or open the section where there are none."""

    section: SectionPoints
    places: tuple[Place, ...] = ()
    job: Job | None = None


class Explorer:
    """Sections of one run and one cost, evaluated where readers look.

    Args:
        catalogue: The anchors, with the cost and the run.
        store: Where everything is kept; it is closed by `stop`.
        asked: What records say was asked for, such as the name of the run.
        most_waiting: Number of points that may wait.

    Attributes:
        life: A word for this start of the server: points are counted anew after the next.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        store: Store,
        asked: Mapping[str, Any] | None = None,
        *,
        most_waiting: int = _MOST_WAITING,
    ) -> None:
        self.life = secrets.token_hex(4)
        self._catalogue, self._store = catalogue, store
        self._asked = dict(asked or {})
        self._changed = threading.Condition()
        self._jobs = Jobs(most_waiting)
        self._sections = {name: SectionPoints(d) for name, d in store.sections.items()}
        self._opened: OrderedDict[str, OpenSection] = OrderedDict()
        self._running: _Task | None = None
        self._told = (0, 0, "")
        self._evaluated = 0
        self._seconds_a_point = 0.0
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._recorded = time.monotonic()
        self._writing = 0.0  # seconds that it took last
        for section in self._sections.values():
            section.failure = self._unavailable(section.definition)
        for request in store.asked:
            self._take_up(request)

    # --- what readers ask

    def run(self) -> dict[str, Any]:
        """Return what the run is, and the anchors that can be chosen."""
        cost = self._catalogue.objective
        facts = cost.describe()
        metrics = list(cost.metrics) if isinstance(cost, ModelObjective) else []
        return {
            **self._asked,
            "life": self.life,
            "parameters": cost.space.size,
            "device": str(cost.device),
            "dtype": str(cost.dtype).removeprefix("torch."),
            "splits": list(facts.get("splits", {"train": None})),
            "metrics": metrics,
            **self._catalogue.described(),
        }

    def define(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """Define a section, unless it is there already, and ask for its first points.

        Args:
            content: As `thalweg.explorer.definitions.define` takes it.

        Returns:
            Its id, and what `refine` returns where points were asked for.

        Raises:
            RequestError: If it defines nothing, or the queue is full.
        """
        definition, look = define(content, self._catalogue.mark, self._catalogue.is_direction)
        axes = ticks_of(look, definition.dimension) if look else ()
        with self._changed:
            if definition.id not in self._sections:
                self._store.add_section(definition)
                self._sections[definition.id] = SectionPoints(definition)
            told = self._ask(definition.id, axes) if axes else {"section": definition.id}
        return {**told, **definition.described()}

    def refine(self, name: str, content: Mapping[str, Any]) -> dict[str, Any]:
        """Ask for points of a section.

        Args:
            name: Its id.
            content: As `thalweg.explorer.coordinates.ticks_of` takes it.

        Returns:
            The coordinates as they were rounded, and how many of the points are new.

        Raises:
            RequestError: If there is no such section, the request is none, or the queue is full.
        """
        axes = ticks_of(content, self._section(name).definition.dimension)
        with self._changed:
            return self._ask(name, axes)

    def section(self, name: str, after: int = 0) -> dict[str, Any]:
        """Return the points of a section, and the requests that wait.

        Args:
            name: Its id.
            after: How many of its points the reader has already.

        Raises:
            RequestError: 404 if there is no such section.
        """
        section = self._section(name)
        with self._changed:
            if section.outline is None and not section.looked_at and not section.failure:
                section.looked_at = True
                self._changed.notify_all()
            rows = list(section.known.items())[after:]
            jobs = [self._job_told(job) for job in self._jobs if job.section is section]
            summary = self._summary(name, section)
            outline = section.outline
        places = [place for place, _ in rows]
        axes = ("alpha",) if section.definition.dimension == 1 else ("x", "y")
        return {
            "life": self.life,
            **summary,
            **({} if outline is None else outline.described()),
            "after": after,
            **{axis: [place[i] for place in places] for i, axis in enumerate(axes)},
            **_columns([evaluation for _, evaluation in rows]),
            "jobs": jobs,
        }

    def progress(self) -> dict[str, Any]:
        """Return what is being done, and what waits."""
        with self._changed:
            task = self._running
            done, total, message = self._told
            running = None
            if task is not None:
                running = {
                    "section": task.section.definition.id,
                    "request": None if task.job is None else task.job.asked.number,
                    "points": len(task.places),
                    "done": done,
                    "of": total,
                    "doing": message,
                }
            return {
                "life": self.life,
                "running": running,
                "waiting": self._jobs.waiting,
                "most_waiting": self._jobs.most,
                "evaluated": self._evaluated,
                "seconds_a_point": self._seconds_a_point,
                "jobs": [self._job_told(job) for job in self._jobs],
                "sections": [self._summary(name, each) for name, each in self._sections.items()],
            }

    # --- its life

    def start(self) -> None:
        """Start to evaluate."""
        self._thread = threading.Thread(target=self._work, name="thalweg-explorer", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Finish the points that are being evaluated, write the records, and let the folder go."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        for opened in self._opened.values():
            opened.close()
        self._opened.clear()
        self._store.close()

    # --- inside, with the lock held

    def _section(self, name: str) -> SectionPoints:
        """Return a section."""
        with self._changed:
            if name in self._sections:
                return self._sections[name]
        raise RequestError(
            404, f"A section must have been defined; {name!r} is not. POST it to /api/sections."
        )

    def _ask(self, name: str, axes: tuple[Ticks, ...]) -> dict[str, Any]:
        """Queue what is new of some points."""
        section = self._sections[name]
        unavailable = self._unavailable(section.definition)
        if unavailable:
            raise RequestError(409, unavailable)
        asked = Asked(0, name, axes)
        places = places_of(asked)
        new = [place for place in places if place not in section.wanted]
        told: dict[str, Any] = {
            "section": name,
            "asked": len(places),
            "new": len(new),
            "request": None,
        }
        each = [ticks.described() for ticks in axes]
        told["grid"] = each[0] if len(each) == 1 else {"x": each[0], "y": each[1]}
        earlier = self._jobs.again(section, asked)
        if earlier is not None:
            return {**told, "request": earlier.asked.number}
        if all(place in section.known for place in places):
            return told
        self._jobs.expect_room(len(new), self._seconds_a_point)
        request = self._store.add_request(name, axes)
        section.failure = ""
        self._take_up(request)
        self._changed.notify_all()
        return {**told, "request": request.number}

    def _take_up(self, request: Asked) -> None:
        """Want the points of a request, and queue it unless it is done."""
        section = self._sections[request.section]
        places = places_of(request)
        section.wanted |= dict.fromkeys(places)
        if request.number not in self._store.done and not section.failure:
            self._jobs.add(Job(request, section, places[::-1]))

    def _unavailable(self, definition: Definition) -> str:
        """Say why the anchors of a section cannot be had, or nothing."""
        try:
            same = tuple(map(self._catalogue.mark, definition.anchors)) == definition.marks
        except RequestError as refusal:
            return str(refusal)
        if same:
            return ""
        return (
            f"The anchors of a section must be as they were; among {', '.join(definition.anchors)} "
            "one has changed since. Define the section anew."
        )

    def _summary(self, name: str, section: SectionPoints) -> dict[str, Any]:
        """Return what a section is, and how far it is."""
        state = "failed" if section.failure else "closed" if section.outline is None else "open"
        if state == "closed" and (section.looked_at or self._jobs.waiting_in(section)):
            state = "opening"
        told = {
            "section": name,
            "kind": section.definition.kind,
            "anchors": list(section.definition.anchors),
            "state": state,
            "count": len(section.known),
            "waiting": self._jobs.waiting_in(section),
        }
        return {**told, "message": section.failure} if section.failure else told

    def _job_told(self, job: Job) -> dict[str, Any]:
        """Return what is known about a job."""
        running = self._running is not None and self._running.job is job
        under_way = len(self._running.places) if running and self._running is not None else 0
        return {
            "request": job.asked.number,
            "section": job.asked.section,
            "waiting": job.waiting + under_way,
            "running": running,
        }

    def _next(self) -> _Task | None:
        """Return what to do next, or None."""
        for section in self._sections.values():
            if section.looked_at and section.outline is None and not section.failure:
                return _Task(section)
        for job in [*self._jobs]:
            section = job.section
            opened = self._opened.get(section.definition.id)
            if opened is None:
                return _Task(section, job=job)
            if places := self._jobs.take(job, opened.together):
                return _Task(section, tuple(places), job)
            self._settle(job)
        return None

    def _settle(self, job: Job) -> None:
        """Take away a job that is done."""
        self._jobs.remove(job)
        try:
            self._store.add_done(job.asked.number)
        except OSError as error:  # then it is looked through once more after the next start
            self._warn_unkept(error)

    # --- the thread

    def _work(self) -> None:
        """Do one thing after the other until told to stop."""
        while True:
            with self._changed:
                task = None if self._stopping else self._next()
                due = self._records_due()
                if task is None and not self._stopping and not due:
                    self._changed.wait(_RECORD_SECONDS if self._unrecorded() else None)
                    continue
                self._running, self._told = task, (0, 0, "")
                stopping = self._stopping
            if task is not None:
                self._do(task)
            if stopping or due:
                self._write_records()
            if stopping:
                return

    def _do(self, task: _Task) -> None:
        """Open a section, or evaluate points of it; an error is told to its readers."""
        section, began = task.section, time.perf_counter()
        try:
            found: Mapping[Place, Evaluation]
            if task.places:
                opened = self._opened[section.definition.id]
                self._opened.move_to_end(section.definition.id)
                evaluations = opened.evaluate(task.places, self._show)
                found = dict(zip(task.places, evaluations, strict=True))
            else:
                opened = self._open(section)
                with self._changed:
                    asked = [*section.wanted]
                found = opened.known(asked)
        except Exception as error:  # code of the user's runs in here, so anything may come
            self._fail(section, error)
            return
        seconds = time.perf_counter() - began
        with self._changed:
            section.known.update(found)
            section.outline = opened.outline
            section.looked_at = False
            if not task.places:  # what was done, and is no longer kept, is not waited for
                rest = [p for job in self._jobs if job.section is section for p in job.rest]
                section.wanted = dict.fromkeys([*section.known, *rest])
            if task.places:
                section.seconds += seconds
                self._evaluated += len(task.places)
                self._seconds_a_point = seconds / len(task.places)
            self._running = None
            self._changed.notify_all()

    def _open(self, section: SectionPoints) -> OpenSection:
        """Open a section, and close the one that was not used for longest if there are many."""
        name = section.definition.id
        self._show(0, 0, "opening")
        made = self._catalogue.section(section.definition.anchors, self._show)
        while len(self._opened) >= _MOST_OPEN:
            self._opened.popitem(last=False)[1].close()
        opened = OpenSection(self._catalogue.objective, made, self._store.points)
        self._opened[name] = opened
        return opened

    def _show(self, done: int, total: int, message: str) -> None:
        """Take note of how far the thread is."""
        self._told = (done, total, message)

    def _fail(self, section: SectionPoints, error: Exception) -> None:
        """Tell of an error, and give up what waits: it is tried again when it is asked for."""
        told = first_line(error)
        own = isinstance(error, ArithmeticError | OSError | ValueError)
        with self._changed:
            section.failure = told if own else f"{type(error).__name__}: {told}"
            section.wanted = dict.fromkeys(section.known)
            section.looked_at = False
            self._jobs.drop(section)
            opened = self._opened.pop(section.definition.id, None)
            self._running = None
        if opened is not None:
            opened.close()

    def _unrecorded(self) -> list[SectionPoints]:
        """Return the sections that have points that are not in their records."""
        return [each for each in self._sections.values() if len(each.known) > each.recorded]

    def _records_due(self) -> bool:
        """Tell whether records should be written now: seldom where that takes long."""
        pause = max(_RECORD_SECONDS, _RECORD_SHARE * self._writing)
        return time.monotonic() - self._recorded >= pause and bool(self._unrecorded())

    def _write_records(self) -> None:
        """Write the records of sections that have new points."""
        began = time.monotonic()
        with self._changed:
            due = [replace(each, known=dict(each.known)) for each in self._unrecorded()]
        for copy in due:
            assert copy.outline is not None  # it has points
            name, count = copy.definition.id, len(copy.known)
            try:
                record = record_of(
                    copy.definition, copy.outline, copy.known, self._asked, copy.seconds
                )
                if record is not None:
                    save_record(record, self._store.record(name))
            except Exception as error:  # points matter more than records, and are kept already
                self._warn_unkept(error)
            self._sections[name].recorded = count
        self._recorded = time.monotonic()
        self._writing = self._recorded - began

    def _warn_unkept(self, error: Exception) -> None:
        """Say that a file could not be written; the points themselves are kept by the engine."""
        reason = getattr(error, "strerror", None) or first_line(error)
        warnings.warn(
            f"An explorer needs a folder that can be written to; {self._store.folder} cannot for "
            f"now ({reason}). Make room: records are written again when there are "
            "new points. [explorer-not-kept]",
            RuntimeWarning,
            stacklevel=2,
        )


def _columns(rows: list[Evaluation]) -> dict[str, Any]:
    """Return losses and metrics as columns."""
    if not rows:
        return {"loss": {}, "metrics": {}}
    first = rows[0]
    return {
        "loss": {split: [row.loss[split] for row in rows] for split in first.loss},
        "metrics": {
            metric: {split: [row.metrics[metric][split] for row in rows] for split in table}
            for metric, table in first.metrics.items()
        },
    }
