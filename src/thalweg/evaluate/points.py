"""The points of a section, evaluated when they are asked for, and each of them once."""

import json
import os
from typing import Any

import torch

from thalweg.environment import provenance
from thalweg.evaluate.sweep import sweep
from thalweg.objectives.objective import Evaluation, Objective
from thalweg.progress import Progress
from thalweg.results import Array, Profile, Provenance
from thalweg.sections import Section

__all__ = ["SectionPoints", "made"]


class SectionPoints:
    """The points of a section that have been evaluated, each of them once."""

    def __init__(
        self,
        objective: Objective,
        section: Section,
        progress: bool | Progress | None,
        keep: str | os.PathLike[str] | None,
        slope: bool = False,
    ) -> None:
        self.objective = objective
        self.section = section
        self.progress = progress
        self.keep = keep
        self.slope = slope
        self._rows: dict[bytes, Evaluation] = {}

    def __call__(self, places: Array) -> list[Evaluation]:
        """Return the evaluations at some coordinates, shape (n,) or (n, k)."""
        keys = [place.tobytes() for place in places]
        missing = [i for i, key in enumerate(keys) if key not in self._rows]
        if missing:
            weights = self.section.weights(places[missing])
            slopes = self.section.slopes(places[missing]) if self.slope else None
            found = sweep(
                self.objective,
                self.section,
                weights,
                slopes,
                progress=self.progress,
                keep=self.keep,
            )
            self._rows |= {keys[i]: row for i, row in zip(missing, found, strict=True)}
        return [self._rows[key] for key in keys]

    def learn(self, earlier: Profile) -> None:
        """Take over the points of an earlier profile, after making sure that it is of this cost.

        Where slopes are wanted and it has none, its points are evaluated again.

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
        if differing:
            raise ValueError(
                "`known` must be a profile of the same cost along the same section; it differs in "
                f"{', '.join(differing)}. Leave it out to evaluate all points."
            )
        if self.slope and not earlier.slope:
            return
        for i, alpha in enumerate(earlier.alpha):
            self._rows[alpha.tobytes()] = Evaluation(
                {split: float(values[i]) for split, values in earlier.loss.items()},
                {
                    metric: {split: float(values[i]) for split, values in table.items()}
                    for metric, table in earlier.metrics.items()
                },
                {
                    split: tuple(float(v) for v in drawn[:, i])
                    for split, drawn in earlier.samples.items()
                },
                {split: float(values[i]) for split, values in earlier.slope.items()},
            )


def _plain(facts: Any) -> str:
    """Return facts in one form, whether they come from memory or from a record."""
    return json.dumps(facts, sort_keys=True, default=dict)


def made(
    objective: Objective, section: Section, seconds: float, slope: str | None = None
) -> Provenance:
    """Return what made a result; `slope` is the mode of differentiation, where there was one."""
    first = section.anchors[0].double()
    where = {
        "kind": section.kind,
        "labels": list(section.labels),
        # A plane around one point has directions among its anchors: they have no place.
        "distances": [
            float(torch.linalg.vector_norm(anchor.double() - first))
            for anchor in section.anchors[: len(section.places)]
        ],
        **section.details,
    }
    facts = {**objective.describe()}
    if slope is not None:
        facts["slope"] = f"{slope} mode"
    return provenance(objective.device, objective.dtype, seconds, objective=facts, section=where)
