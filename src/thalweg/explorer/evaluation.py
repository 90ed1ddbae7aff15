"""Costs at points of one section, through the engine, and kept by it."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from thalweg.evaluate.identity import identity_of, probed
from thalweg.evaluate.kept import KeptPoints
from thalweg.evaluate.points import made
from thalweg.evaluate.sweep import prepared, sweep
from thalweg.explorer.coordinates import Place
from thalweg.objectives.objective import Evaluation, Objective
from thalweg.progress import Progress
from thalweg.results import Array, Provenance
from thalweg.sections import Line, Plane, Section

__all__ = ["OpenSection", "Outline"]

_MOST_TOGETHER = 16  # points of a portion: between two of them newer requests go ahead


@dataclass(frozen=True, eq=False)
class Outline:
    """What a result about a section says besides its points.

    Attributes:
        labels: Names of the anchors that are points of the section.
        places: Their coordinates, shape (m,) or (m, 2).
        length: Of a line.
        gram: Inner products of the directions of a plane.
        provenance: What makes the results.
    """

    labels: tuple[str, ...]
    places: Array
    length: float | None
    gram: Array
    provenance: Provenance

    def described(self) -> dict[str, Any]:
        """Return names and places of the anchors, and the lengths of the section, as JSON."""
        line = self.length is not None
        return {
            "labels": list(self.labels),
            "places": self.places.tolist(),
            **({"length": self.length} if line else {"gram": self.gram.tolist()}),
        }


class OpenSection:
    """A section whose points can be evaluated: checked, and with its way of evaluation chosen.

    The way is chosen at points that depend on the kind of the section alone, so that it is the
    same after a restart, and finished points are found again.

    Args:
        objective: The cost.
        section: A `Line` or `Plane`.
        folder: Where finished points are kept, as by `profile(..., keep=folder)`.

    Attributes:
        outline: What its results say besides its points.
        together: How many points to evaluate at a time.

    Raises:
        NonDeterministicObjectiveError: If two evaluations of one point disagree.
        RecordError: If the kept points are of another cost that only looks the same.
        OSError: If the folder cannot be written to.

    Example:
        >>> import tempfile, torch
        >>> from thalweg import FunctionObjective
        >>> bowl = FunctionObjective(lambda t: t[0] ** 2, size=1)
        >>> line = Line(torch.tensor([1.0]), torch.tensor([3.0]))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     section = OpenSection(bowl, line, folder)
        ...     [found] = section.evaluate([(0.5,)], False)
        ...     section.close()
        >>> found.loss["train"]
        4.0
    """

    def __init__(
        self, objective: Objective, section: Section, folder: str | os.PathLike[str]
    ) -> None:
        self._objective, self._section = objective, section
        # Off the ends, where a start gives every class the same score.
        some = np.linspace(0.1, 0.9, 7)
        weights = section.weights(some if section.dimension == 1 else np.stack([some, 1 - some], 1))
        self._ready = prepared(objective, section, weights)
        anchors, strategy = self._ready.anchors, self._ready.choice.strategy
        identity = identity_of(objective, section, anchors, strategy.name)
        self._kept = KeptPoints(folder, identity, probed(objective, section, anchors))
        self.together = min(strategy.rows, _MOST_TOGETHER)
        self.outline = Outline(
            section.labels[: len(section.places)],
            section.places,
            section.length if isinstance(section, Line) else None,
            section.gram if isinstance(section, Plane) else np.eye(2),
            made(objective, section, 0.0),
        )

    def known(self, places: Sequence[Place]) -> dict[Place, Evaluation]:
        """Return what is finished of some points."""
        if not places:
            return {}
        found = zip(places, map(self._kept.get, self._weights(places)), strict=True)
        return {place: evaluation for place, evaluation in found if evaluation is not None}

    def evaluate(self, places: Sequence[Place], progress: bool | Progress) -> list[Evaluation]:
        """Evaluate some points unless they are kept, and keep them before they are told of.

        Args:
            places: Their coordinates.
            progress: Shows how far it is; False for nothing.
        """
        found = self.known(places)
        missing = [place for place in places if place not in found]
        if missing:
            weights = self._weights(missing)
            rows = sweep(
                self._objective, self._section, weights, progress=progress, ready=self._ready
            )
            self._kept.add(weights, rows)
            found |= dict(zip(missing, rows, strict=True))
        return [found[place] for place in places]

    def close(self) -> None:
        """Flush what is kept, and let the file go."""
        self._kept.close()

    def _weights(self, places: Sequence[Place]) -> Array:
        """Return the weights of the anchors at some points, shape (n, m)."""
        coordinates = np.array(places, dtype=np.float64)
        return self._section.weights(
            coordinates[:, 0] if coordinates.shape[1] == 1 else coordinates
        )
