"""Evaluating an objective at every row of a weight matrix: each point once, by any process."""

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from thalweg.anchors import Anchor
from thalweg.evaluate.allocation import keep_freed_memory
from thalweg.evaluate.along_curvature import choose_along_curvature
from thalweg.evaluate.along_tangent import choose_along_tangent
from thalweg.evaluate.identity import Identity, identity_of, probed
from thalweg.evaluate.kept import KeptPoints
from thalweg.evaluate.planning import Choice, choose
from thalweg.evaluate.ranks import Ranks, current_ranks
from thalweg.evaluate.strategy import Strategy
from thalweg.evaluate.tensorwise import checked_anchors
from thalweg.objectives.model import ModelObjective
from thalweg.objectives.objective import Evaluation, Objective
from thalweg.progress import Progress, progress_bar
from thalweg.results import Array
from thalweg.sections import Section

__all__ = ["Prepared", "prepared", "sweep"]


@dataclass(frozen=True)
class Prepared:
    """What is settled before the first point of a section, and holds for all of its points.

    Attributes:
        anchors: The anchors as the objective can use them, checked.
        choice: How points are evaluated.
    """

    anchors: Sequence[Anchor]
    choice: Choice


def prepared(objective: Objective, section: Section, weights: Array, order: int = 0) -> Prepared:
    """Check objective and anchors, and choose how to evaluate points of a section.

    Args:
        objective: The cost.
        section: Its anchors are combined.
        weights: Some of the points, one row each: ways of evaluation are compared there.
        order: How many derivatives are wanted: 0, 1 (slopes) or 2 (curvatures as well).

    Raises:
        RuntimeError: If another rank failed.
    """
    weights, ranks = _expect_weights(weights, section), _ranks_of(objective)
    keep_freed_memory()
    # In the middle, for ends are special: where a start gives every class the same score, or a
    # solution has no cost at all, a wrong mean cannot be told from a right one.
    middle = weights[len(weights) // 2]
    anchors = ranks.check(lambda: checked_anchors(objective, section, middle))
    if order > 0:
        choose_along = choose_along_tangent if order == 1 else choose_along_curvature
        return Prepared(anchors, ranks.check(lambda: choose_along(objective, section, anchors)))
    return Prepared(anchors, ranks.check(lambda: choose(objective, section, anchors, weights)))


def sweep(
    objective: Objective,
    section: Section,
    weights: Array,
    slopes: Array | None = None,
    accelerations: Array | None = None,
    *,
    progress: bool | Progress | None = None,
    keep: str | os.PathLike[str] | None = None,
    ready: Prepared | None = None,
) -> list[Evaluation]:
    """Evaluate an objective at each row of a weight matrix.

    Inside `thalweg.evaluate.ranks.split_over_ranks` the points are shared among the ranks of a
    job, and every rank gets all values.

    Args:
        objective: The cost.
        section: Its anchors are combined.
        weights: One row a point, shape (n, m).
        slopes: Derivatives of the weights along the section, shape (n, m), such as
            `section.slopes(coordinates)`: then the slope of every loss is evaluated, too.
        accelerations: Second derivatives of the weights, shape (n, m), such as
            `section.accelerations(coordinates)`: then its curvature is, as well.
        progress: None for a progress bar on a terminal, False for none. Of several ranks the
            first alone shows any.
        keep: A folder where points are kept as they are finished, and taken from where they
            are finished already; None for neither.
        ready: What `prepared` has settled for this objective and section; None to do so now.

    Raises:
        ValueError: If a weight is not finite, or there is not one for each anchor.
        OSError: If the folder cannot be written to.
        RecordError: If the cost has changed in a way that its identity does not show.
        RuntimeError: If another rank failed.
    """
    weights = _expect_weights(weights, section)
    if len(weights) == 0:
        return []
    ranks = _ranks_of(objective)
    if ready is None:
        order = 0 if slopes is None else 1 if accelerations is None else 2
        ready = prepared(objective, section, weights, order)
    anchors, strategy = ready.anchors, ready.choice.strategy
    # Derivatives belong to the point: one place may be passed in several directions.
    rates = [
        _expect_slopes(each, weights, section)
        for each in (slopes, accelerations)
        if each is not None
    ]
    weights = np.hstack([weights, *rates])
    with ExitStack() as stack:
        kept: KeptPoints | None = None
        found: dict[int, Evaluation] = {}
        if keep is not None or ranks.size > 1:
            kept, found = _found(objective, section, anchors, strategy, weights, keep, ranks)
        if kept is not None:
            stack.enter_context(kept)
        missing = _first_of_each([row for row in range(len(weights)) if row not in found], weights)
        report = stack.enter_context(progress_bar(progress if ranks.rank == 0 else False))
        title = f"{section.kind}: cost at {len(weights)} points, {strategy.name}"
        shown = _Shown(report, title, len(weights), len(weights) - len(missing))
        examples = _examples_of(objective)

        def evaluate(start: int, stop: int) -> list[Evaluation]:
            rows = weights[missing[start:stop]]
            strategy.tick = lambda count: shown.passed((stop - start) * count / examples)
            values = strategy.evaluate(rows)
            if kept is not None:
                kept.add(rows, values)
            return values

        values = ranks.share(len(missing), strategy.rows, evaluate, shown.finished)
    found |= dict(zip(missing, values, strict=True))
    by_weights = {weights[row].tobytes(): value for row, value in found.items()}
    return [by_weights[row.tobytes()] for row in weights]


class _Shown:
    """How far a sweep is, in points: those finished, and those that are being passed over."""

    def __init__(self, report: Progress, title: str, total: int, already: int) -> None:
        self.report = report
        self.title = title
        self.total = total
        self.already = already
        self._finished = 0
        self._passed = 0.0
        self.finished(0)

    def finished(self, points: int) -> None:
        """Show that a number of points is finished."""
        self._finished, self._passed = points, 0.0
        self.report(self.already + points, self.total, self.title)

    def passed(self, points: float) -> None:
        """Show that some examples of a group of points are done, worth so many points."""
        self._passed += points
        so_far = min(self.total, self.already + self._finished + int(self._passed))
        self.report(so_far, self.total, self.title)


def _examples_of(objective: Objective) -> int:
    """Return the number of examples of one pass, over all splits."""
    if not isinstance(objective, ModelObjective):
        return 1
    return max(1, sum(split.examples for split in objective.splits))


def _expect_weights(weights: Array, section: Section) -> Array:
    """Return a weight matrix of float64, after making sure that it is one."""
    rows = np.ascontiguousarray(weights, dtype=np.float64)
    if rows.ndim != 2 or rows.shape[1] != len(section.anchors):
        raise ValueError(
            f"Each point needs one weight for each of the {len(section.anchors)} anchors; got an "
            f"array of shape {rows.shape}. Use `section.weights(coordinates)`."
        )
    if not np.isfinite(rows).all():
        raise ValueError(
            "Weights must be finite; those of point "
            f"{int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])} are not. Check the "
            "coordinates."
        )
    return rows


def _ranks_of(objective: Objective) -> Ranks:
    """Return the processes that are at this sweep, whether they share points or a model."""
    sharding = objective.sharding if isinstance(objective, ModelObjective) else None
    return current_ranks() if sharding is None else Ranks(*sharding.place, together=True)


def _expect_slopes(slopes: Array, weights: Array, section: Section) -> Array:
    """Return derivatives of the weights, after making sure that each point has them."""
    rows = _expect_weights(slopes, section)
    if rows.shape != weights.shape:
        raise ValueError(
            f"Each of {len(weights)} points needs the derivatives of its weights; got "
            f"{len(rows)} rows. Use `section.slopes(coordinates)` at the same coordinates."
        )
    return rows


def _found(
    objective: Objective,
    section: Section,
    anchors: Sequence[Anchor],
    strategy: Strategy,
    weights: Array,
    keep: str | os.PathLike[str] | None,
    ranks: Ranks,
) -> tuple[KeptPoints | None, dict[int, Evaluation]]:
    """Open what is kept; return it with the points that some rank found finished.

    Raises:
        ValueError: If the ranks have different costs or points.
    """
    opened: list[KeptPoints] = []

    def look() -> tuple[Identity, bytes, dict[int, Evaluation]]:
        identity = identity_of(objective, section, anchors, strategy.name)
        probe = None if keep is None else probed(objective, section, anchors)
        # Ranks that evaluate every point together need it written down once.
        if keep is None or probe is None or (ranks.together and ranks.rank > 0):
            return identity, weights.tobytes(), {}
        kept = KeptPoints(keep, identity, probe, ranks.rank)
        opened.append(kept)
        values = [(i, kept.get(row)) for i, row in enumerate(weights)]
        return identity, weights.tobytes(), {i: v for i, v in values if v is not None}

    try:
        told = ranks.exchange(look)
        first, points, _ = told[0]
        for rank, (other, others, _) in enumerate(told):
            differing = first.differences(other.facts) + ["points"] * (others != points)
            if differing:
                raise ValueError(
                    "Ranks that share a sweep must have the same cost and the same points; rank "
                    f"{rank} differs from the first in: {', '.join(differing)}. Build both from "
                    "the same files and seeds on every rank."
                )
    except BaseException:
        for kept in opened:
            kept.close()
        raise
    found: dict[int, Evaluation] = {}
    for _, _, finished in reversed(told):
        found |= finished
    return (opened[0] if opened else None), found


def _first_of_each(rows: Sequence[int], weights: Array) -> list[int]:
    """Return the first row of each point, in order: a section may meet a point twice."""
    first: dict[bytes, int] = {}
    for row in rows:
        first.setdefault(weights[row].tobytes(), row)
    return list(first.values())
