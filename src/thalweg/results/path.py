"""How a run came from its start to its end: readings without a scale."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from thalweg.results.frozen import Array, freeze, rebuilt
from thalweg.results.profile import Profile
from thalweg.results.provenance import Provenance

__all__ = ["PathReading"]

_ASIDE = 0.1  # a cosine below: descent leads elsewhere
_DESCENT = 0.01  # p-value up to which steps along −g are no accident


@dataclass(frozen=True, eq=False)
class PathReading:
    """Some snapshots of a run: how they lie, and where the full gradient points there.

    All properties but `length`, `chord` and `lengths` are unchanged under J → c J + d and under
    θ → c θ + a.

    Attributes:
        step: Number of updates made before each snapshot, shape (n,).
        loss: J there, shape (n,).
        gradient_norm: ‖g‖ there, shape (n,).
        distance: Distances between all of them, shape (n, n).
        to_target: Distance of each to the target, shape (n,).
        heading: Cosine between −g and the way to the target, shape (n,); NaN where one of them
            is zero.
        alignment: Cosine between −g at a snapshot and the way to the next one, shape (n − 1,).
        order_p: Two-sided p-value of the length of the path among other orders of its points:
            small where the order carries information, as in a run and in a random walk.
        alignment_p: One-sided p-value of the mean alignment among random signs: small where
            displacements follow −g, as in a run and not in a random walk.
        climb: Greatest climb of J along the straight line from first to last snapshot, NaN
            where it is not finite there.
        line: J along that line; None for a single snapshot, or where both are one point.
        target: What the target is, in words.
        lost: Snapshots that were left out at the end, from the first that is not finite.
        provenance: What made this result.

    Example:
        >>> reading = PathReading(
        ...     step=[0, 1, 2],
        ...     loss=[3.0, 2.0, 1.0],
        ...     distance=[[0, 3, 5], [3, 0, 4], [5, 4, 0]],
        ...     alignment=[0.6, 1.0],
        ... )
        >>> reading.length, reading.ratio, round(reading.mean_alignment, 3)
        (7.0, 1.4, 0.8)
    """

    step: Array
    loss: Array
    gradient_norm: Array = field(default_factory=lambda: np.empty(0))
    distance: Array = field(default_factory=lambda: np.empty((0, 0)))
    to_target: Array = field(default_factory=lambda: np.empty(0))
    heading: Array = field(default_factory=lambda: np.empty(0))
    alignment: Array = field(default_factory=lambda: np.empty(0))
    order_p: float = 1.0
    alignment_p: float = 1.0
    climb: float = float("nan")
    line: Profile | None = None
    target: str = "last snapshot"
    lost: int = 0
    provenance: Provenance = field(default_factory=Provenance)

    def __post_init__(self) -> None:
        freeze(self, "step", (None,))
        count = len(self.step)
        if count == 0:
            raise ValueError("A path has one point at least; `step` is empty. Give snapshots.")
        freeze(self, "loss", (count,))
        if np.size(self.distance) == 0:
            object.__setattr__(self, "distance", np.full((count, count), np.nan))
        freeze(self, "distance", (count, count))
        counts = dict.fromkeys(("gradient_norm", "to_target", "heading"), count)
        for name, length in (counts | {"alignment": count - 1}).items():
            if len(getattr(self, name)) == 0:  # not known
                object.__setattr__(self, name, np.full(length, np.nan))
            freeze(self, name, (length,))

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuilt(self)

    @property
    def chords(self) -> Array:
        """Distance from each snapshot to the next, shape (n − 1,)."""
        found: Array = self.distance[np.arange(len(self.step) - 1), np.arange(1, len(self.step))]
        return found

    @property
    def length(self) -> float:
        """Length of the path, chord by chord: the run was at least as long.

        Between snapshots noise has cancelled, so this is the length of what remained. How far it
        depends on their number is told by `roughness`.
        """
        return float(self.chords.sum())

    @property
    def chord(self) -> float:
        """Distance of the last snapshot from the first."""
        return float(self.distance[0, -1])

    @property
    def ratio(self) -> float:
        """Length over chord: 1 for a straight path, NaN where it comes back or stands still."""
        return self.length / self.chord if self.chord > 0 else float("nan")

    @property
    def lengths(self) -> dict[int, float]:
        """Length of the path through every k-th snapshot and the last, by number of chords."""
        last = len(self.step) - 1
        found: dict[int, float] = {}
        stride = 1
        while stride <= last:
            places = np.append(np.arange(0, last, stride), last)
            found[len(places) - 1] = float(self.distance[places[:-1], places[1:]].sum())
            stride *= 2
        return found

    @property
    def roughness(self) -> float:
        """Exponent r of length ∝ (number of chords)^r, from the finest half of the strides.

        0 for a smooth path, whose length is what it is, and ½ for a random walk, whose length
        is a matter of how often one looks. NaN for fewer than five snapshots.
        """
        table = [(n, s) for n, s in self.lengths.items() if n >= 2 and s > 0][:3]
        if len(table) < 2:
            return float("nan")
        (many, long), (few, short) = table[0], table[-1]
        return float(np.log(long / short) / np.log(many / few))

    @property
    def aside(self) -> float:
        """Share of the path (by length) that begins where −g and the way on have a cosine < 0.1.

        NaN where no cosine is known.
        """
        known = np.isfinite(self.heading[:-1])
        travelled = self.chords[known]
        total = travelled.sum()
        below = travelled[self.heading[:-1][known] < _ASIDE].sum()
        return float(below / total) if total > 0 else float("nan")

    @property
    def relative_climb(self) -> float:
        """Greatest climb along the straight line over J_start − J_end; NaN where J did not fall."""
        fall = self.loss[0] - self.loss[-1]
        return float(self.climb / fall) if fall > 0 else float("nan")

    @property
    def mean_alignment(self) -> float:
        """Mean cosine between −g at a snapshot and the way to the next one."""
        known = self.alignment[np.isfinite(self.alignment)]
        return float(known.mean()) if len(known) else float("nan")

    @property
    def alignment_error(self) -> float:
        """Standard error of that mean; NaN for fewer than two displacements."""
        known = self.alignment[np.isfinite(self.alignment)]
        return float(known.std(ddof=1) / np.sqrt(len(known))) if len(known) > 1 else float("nan")

    @property
    def walk_error(self) -> float:
        """Largest standard deviation of the mean under a random walk of any shape, 1/√n.

        Its mean is 0 there. Isotropic steps in P dimensions have 1/√(n P).
        """
        count = int(np.isfinite(self.alignment).sum())
        return float(1 / np.sqrt(count)) if count else float("nan")

    @property
    def descends(self) -> bool:
        """Whether displacements follow the gradient more than a random walk would: p ≤ 0.01.

        False is no evidence to the contrary: with fewer than seven displacements no pattern
        is that surprising.
        """
        return self.alignment_p <= _DESCENT
