"""Everything that verdicts are made of: plain numbers, gathered before any verdict."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from thalweg.diagnosis.alternatives import Alternatives
from thalweg.diagnosis.following import Following
from thalweg.diagnosis.running import RunCosts

__all__ = ["Floor", "Network", "Path", "Readings", "Stretch"]


@dataclass(frozen=True)
class Floor:
    """What J could come down to.

    Attributes:
        value: The level that progress is measured down to.
        source: Where it comes from, in words.
        known: Whether a point, or the caller, vouches for it; an outer bound is not known.
    """

    value: float
    source: str
    known: bool


@dataclass(frozen=True)
class Stretch:
    """A part of the run: what it reached, and what else would have been reached.

    Attributes:
        first: Its first step.
        last: Its last step.
        level: J by its end.
        rate: Effective learning rate ε/(1 − μ) at its start, or NaN.
        noise: Share of the descent term that the noise of the updates eats; NaN where unknown.
        product: ε λ_max at its start, and `limit` up to which such steps are stable.
        alternatives: Where it began, and how far other ways got.
    """

    first: int
    last: int
    level: float
    rate: float
    noise: float
    product: float
    limit: float
    alternatives: Alternatives

    @property
    def length(self) -> int:
        """Number of steps."""
        return self.last - self.first


@dataclass(frozen=True)
class Path:
    """The way of the run: its length over the chord, for all snapshots and for a few of them."""

    ratio: float
    coarse_ratio: float
    misaligned: float
    climb: float


@dataclass(frozen=True)
class Network:
    """Signals of a network at one snapshot.

    Attributes:
        step: Where.
        attenuation: Factor of the back-propagated gradient from the last hidden activation to
            the first; NaN where there are fewer than two.
        depth: Number of hidden activations.
        dead: Largest share of units of a layer that are off for all examples.
        layer: Which layer that is.
    """

    step: int
    attenuation: float
    depth: int
    dead: float
    layer: str


@dataclass(frozen=True, eq=False)
class Readings:
    """All that was read.

    Attributes:
        costs: J at snapshots.
        floor: What J could come down to.
        following: How updates follow the gradient.
        stretches: The parts of the run.
        ends_finite: Whether the last point, and J there, are finite.
        path: The way of the run; None with too few snapshots.
        to_reference: How far J climbs above its start on the straight line from the last point to
            the reference; None without one.
        reference: J there, or NaN.
        ray: Share of J above the floor that is left at 64 θ, θ the last point, if J falls all the
            way there; NaN otherwise.
        growth: Relative growth of ‖θ‖ over the second half.
        networks: Signals at snapshots; empty for a closed form.
        examples: Examples of the subsamples, by what they are for.
    """

    costs: RunCosts
    floor: Floor
    following: Following
    stretches: tuple[Stretch, ...]
    ends_finite: bool
    path: Path | None = None
    to_reference: float | None = None
    reference: float = math.nan
    ray: float = math.nan
    growth: float = math.nan
    networks: tuple[Network, ...] = ()
    examples: Mapping[str, int] = field(default_factory=dict)

    @property
    def left(self) -> float:
        """Share of the possible progress that is left at the end; in J where none was possible."""
        return (self.costs.last - self.floor.value) / (self.possible or 1.0)

    @property
    def top(self) -> float:
        """J that progress is measured from: the start, or what a run that rose stays at."""
        values = sorted(float(value) for value in self.costs.loss)
        if not math.isfinite(values[-1]):
            return self.costs.start
        return max(self.costs.start, values[len(values) // 2])

    @property
    def possible(self) -> float:
        """Progress that was possible, in J."""
        return self.top - self.floor.value

    @property
    def diverged(self) -> bool:
        """Whether J left all bounds."""
        last = self.costs.last
        return not math.isfinite(last) or (
            self.possible > 0 and last - self.floor.value > 10 * self.possible
        )
