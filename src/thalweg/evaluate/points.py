"""The points of a section, evaluated when they are asked for, and each of them once."""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from thalweg.anchors import distance
from thalweg.environment import provenance
from thalweg.evaluate.along_curvature import way_of
from thalweg.evaluate.along_tangent import mode_of
from thalweg.evaluate.sweep import Prepared, prepared, sweep
from thalweg.objectives.model import ModelObjective
from thalweg.objectives.objective import Evaluation, Objective
from thalweg.progress import Progress
from thalweg.results import Array, Profile, Provenance, Surface
from thalweg.sections import Section

__all__ = ["SectionPoints", "made", "rounding_error", "table_of", "tables_of"]


class SectionPoints:
    """The points of a section that have been evaluated, each of them once."""

    def __init__(
        self,
        objective: Objective,
        section: Section,
        progress: bool | Progress | None,
        keep: str | os.PathLike[str] | None,
        order: int = 0,
    ) -> None:
        self.objective = objective
        self.section = section
        self.progress = progress
        self.keep = keep
        self.order = order
        self._rows: dict[bytes, Evaluation] = {}
        self._ready: Prepared | None = None

    @property
    def derivatives(self) -> dict[str, str]:
        """How slopes and curvatures are found, as facts for the provenance."""
        if self.order == 0:
            return {}
        choice = self._prepared(self.section.weights(self.section.places[:1])).choice
        if self.order == 1:
            return {"slope": f"{mode_of(choice)} mode"}
        return dict.fromkeys(("slope", "curvature"), way_of(choice))

    def _prepared(self, weights: Array) -> Prepared:
        """Return what holds for all points, settled once."""
        if self._ready is None:
            self._ready = prepared(self.objective, self.section, weights, self.order)
        return self._ready

    def __call__(self, places: Array) -> list[Evaluation]:
        """Return the evaluations at some coordinates, shape (n,) or (n, k)."""
        keys = [place.tobytes() for place in places]
        missing = [i for i, key in enumerate(keys) if key not in self._rows]
        if missing:
            weights = self.section.weights(places[missing])
            rates = (self.section.slopes, self.section.accelerations)[: self.order]
            found = sweep(
                self.objective,
                self.section,
                weights,
                *(rate(places[missing]) for rate in rates),
                progress=self.progress,
                keep=self.keep,
                ready=self._prepared(weights),
            )
            self._rows |= {keys[i]: row for i, row in zip(missing, found, strict=True)}
        return [self._rows[key] for key in keys]

    def learn(self, earlier: Profile | Surface) -> None:
        """Take over the points of an earlier result, after making sure that it is of this cost.

        Where derivatives are wanted that it does not have, its points are evaluated again.

        Raises:
            ValueError: If it is not.
        """
        own = made(self.objective, self.section, 0.0)
        mine, its = own.objective, earlier.provenance.objective
        differing = [n for n in mine if n != "splits" and _plain(mine[n]) != _plain(its.get(n))]
        splits = {name: split["sha256"] for name, split in mine.get("splits", {}).items()}
        theirs = {name: split["sha256"] for name, split in its.get("splits", {}).items()}
        differing += ["data"] if splits != theirs else []
        if _plain(own.section) != _plain(earlier.provenance.section):
            differing.append("section")
        differing += ["being an estimate"] if earlier.estimate is not None else []
        if differing:
            raise ValueError(
                "`known` must be a result for the same cost on the same section; it differs in "
                f"{', '.join(differing)}. Leave it out to evaluate all points."
            )
        if isinstance(earlier, Profile):
            known = int(bool(earlier.slope)) + int(bool(earlier.curvature))
            if known < self.order:
                return
            places, samples = earlier.alpha, earlier.samples
            slopes, curvatures = earlier.slope, earlier.curvature
        else:
            places, samples, slopes, curvatures = table_of(earlier.x, earlier.y), {}, {}, {}
        loss = {split: values.ravel() for split, values in earlier.loss.items()}
        metrics = {
            metric: {split: values.ravel() for split, values in table.items()}
            for metric, table in earlier.metrics.items()
        }
        for i, place in enumerate(places):
            self._rows[place.tobytes()] = Evaluation(
                {split: float(values[i]) for split, values in loss.items()},
                {m: {s: float(v[i]) for s, v in table.items()} for m, table in metrics.items()},
                {s: tuple(float(v) for v in drawn[:, i]) for s, drawn in samples.items()},
                {split: float(values[i]) for split, values in slopes.items()},
                {split: float(values[i]) for split, values in curvatures.items()},
            )


def table_of(x: Array, y: Array) -> Array:
    """Return the points of a table row by row, shape (rows · columns, 2)."""
    across, up = np.meshgrid(x, y)
    return np.stack([across.ravel(), up.ravel()], axis=-1)


def tables_of(
    rows: Sequence[Evaluation], shape: tuple[int, ...] = (-1,)
) -> tuple[dict[str, Array], dict[str, dict[str, Array]]]:
    """Turn evaluations into arrays by split, and by metric and split.

    Args:
        rows: Evaluations, one at least.
        shape: Shape of the arrays; by default one entry for each.
    """
    first = rows[0]
    loss = {s: np.array([row.loss[s] for row in rows]).reshape(shape) for s in first.loss}
    metrics = {
        m: {s: np.array([row.metrics[m][s] for row in rows]).reshape(shape) for s in table}
        for m, table in first.metrics.items()
    }
    return loss, metrics


def _plain(facts: Any) -> str:
    """Return facts in one form, whether they come from memory or from a record."""
    return json.dumps(facts, sort_keys=True, default=dict)


def rounding_error(
    objective: Objective, section: Section, places: Array, rows: Sequence[Evaluation]
) -> dict[str, float]:
    """Return what fewer bits in products cost: the largest error at three points, by split.

    Args:
        objective: The cost; empty is returned where it uses all bits.
        section: Its anchors are combined.
        places: Coordinates that have been evaluated, shape (n,) or (n, k).
        rows: What was found there.
    """
    if not isinstance(objective, ModelObjective) or objective.precision is None:
        return {}
    some = sorted({0, len(places) // 2, len(places) - 1})
    weights = section.weights(places[some])
    right = sweep(objective.in_full_precision(), section, weights, progress=False)
    return {
        split: max(
            abs(rows[i].loss[split] - row.loss[split]) for i, row in zip(some, right, strict=True)
        )
        for split in right[0].loss
    }


def made(
    objective: Objective,
    section: Section,
    seconds: float,
    found: Mapping[str, Any] | None = None,
) -> Provenance:
    """Return what made a result.

    Args:
        objective: The cost.
        section: Where it was evaluated.
        seconds: How long that took.
        found: Further facts about the evaluation, such as how slopes were differentiated.
    """
    first = section.anchors[0]
    where = {
        "kind": section.kind,
        "labels": list(section.labels),
        # A plane around one point has directions among its anchors: they have no place.
        "distances": [distance(first, anchor) for anchor in section.anchors[: len(section.places)]],
        **section.details,
    }
    facts = {**objective.describe(), **(found or {})}
    return provenance(objective.device, objective.dtype, seconds, objective=facts, section=where)
