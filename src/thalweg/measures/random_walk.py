"""The random walk as control: its displacement in closed form, and what tells a run from it."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import chdtr, chdtrc, stdtr

from thalweg.results import Array, Displacement

__all__ = [
    "RandomWalkEvidence",
    "excess_over_random_walk",
    "random_walk_displacement",
    "random_walk_evidence",
]

_FEWEST_TURNS = 8
_SAME_POINT = 1e-6  # as a share of the length of the line
_INNER = 0.05  # share of a walk at each of its ends where the arch is too low to be told


def random_walk_displacement(
    size: int, step: ArrayLike, end: int, deviation: float = 1.0
) -> tuple[Array, Array]:
    """Return the displacement of a random walk in many dimensions, seen from x_0 and x_T.

    For a walk with steps N(0, σ² I) in d dimensions, as d grows,

        t ≤ T:  α(t) = (t/T) σ √(d T),   β(t) = σ √(d t (1 − t/T)),
        t > T:  α(t) = σ √(d T),         β(t) = σ √(d (t − T)),

    which is a half-circle of radius σ √(d T)/2, followed by a straight line upwards. A walk of
    finite d departs from it by a share of about 1/√d.

    Args:
        size: Number of dimensions d.
        step: Numbers of steps t, shape (n,).
        end: Step T at which the line ends.
        deviation: Standard deviation σ of one coordinate of one step.

    Returns:
        Projections α and distances β, shape (n,) each.

    Raises:
        ValueError: If `end` is below 1, or a step is negative.

    Source: Goodfellow, Vinyals & Saxe (2015), figure 11, which shows the walk; the closed form
    is that of a Brownian bridge.

    Example:
        >>> projection, distance = random_walk_displacement(1000, [450, 900, 1000], end=900)
        >>> projection.round(1), distance.round(1)
        (array([474.3, 948.7, 948.7]), array([474.3,   0. , 316.2]))
    """
    t = np.asarray(step, dtype=np.float64)
    if end < 1 or np.any(t < 0):
        raise ValueError(
            "The line ends after one step at least, and no number of steps is negative; got "
            f"end={end} and steps from {t.min(initial=0):g}. Count steps from the start."
        )
    until = np.minimum(t, end)
    projection: Array = deviation * np.sqrt(size * end) * until / end
    variance = until * (1 - until / end) + np.maximum(t - end, 0)
    distance: Array = deviation * np.sqrt(size * variance)
    return projection, distance


def excess_over_random_walk(
    displacement: Displacement, clock: Literal["squares", "steps"] = "squares"
) -> Array:
    """Return the distance off the line in units of a random walk with the same ends.

    A random walk between the same two points, at distance L, is off the line by L √(s (1 − s))
    when a share s of it is done, and by L √(s − 1) beyond the end. The excess is β over that: about
    1 for a random walk, however long its steps are; below it for a run that keeps closer to
    its line, above it for a detour.

    How much of a walk is done is told by the sum of squares of the updates,
    s(t) = Σ_{i<t} ‖u_i‖² / Σ_{i<T} ‖u_i‖², because the variances of independent steps add up. So
    steps may differ in length, and points may be any number of steps apart.

    Args:
        displacement: Of a run, seen from a line between two of its points.
        clock: `"squares"`, or `"steps"` for the share (step − step_a)/(step_b − step_a), which
            suits a walk whose steps are all alike.

    Returns:
        The excess at each point, shape (T,); NaN at the two ends and before the first.

    Raises:
        ValueError: If the ends of the line are no points of the run, or `clock` is something else.

    Example:
        >>> t = np.arange(11)
        >>> along, off = random_walk_displacement(10**6, t, end=10)
        >>> same = Displacement(
        ...     t, along, off, to_end=np.hypot(along[-1] - along, off), length=along[-1]
        ... )
        >>> excess_over_random_walk(same, clock="steps").round(6)[[0, 1, 5, 9, 10]]
        array([nan,  1.,  1.,  1., nan])
    """
    done = _share_done(displacement, clock)
    inside = (done > 0) & (done < 1)
    beyond = done > 1
    variance = np.full(done.shape, np.nan)
    variance[inside] = done[inside] * (1 - done[inside])
    variance[beyond] = done[beyond] - 1
    excess: Array = displacement.distance / (displacement.length * np.sqrt(variance))
    return excess


@dataclass(frozen=True)
class RandomWalkEvidence:
    """Whether a run differs from a random walk, and in what.

    Attributes:
        verdict: `"not a random walk"`, `"no evidence"` that it is none, or `"too few points"`.
        mean_cosine: Mean cosine between consecutive updates; 0 for a random walk.
        span: Squared distance of the ends over the sum of squares of the updates; 1 for a
            random walk, up to the number of updates for a straight run.
        bulge: Mean of β² over that of a random walk of the same steps; 1 for a random walk of
            many dimensions.
        effective_dimension: 1 over the mean square of the cosines: the number of dimensions of a
            random walk whose updates are as far from orthogonal.
        p_cosine: Probability of a mean cosine as far from 0, if it were a random walk.
        p_span: The same for `span`.
        p_bulge: The same for `bulge`.
        significance: Probability below which one of the three is evidence.
    """

    verdict: str
    mean_cosine: float
    span: float
    bulge: float
    effective_dimension: float
    p_cosine: float
    p_span: float
    p_bulge: float
    significance: float


def random_walk_evidence(
    displacement: Displacement, significance: float = 1e-4
) -> RandomWalkEvidence:
    """Tell whether anything in the displacement of a run is unlike a random walk.

    The arch of distance over projection is not: a random walk has it as well. Three things are
    tested between the two ends of the line, each against a walk with independent, symmetric
    steps of any lengths:

    - Consecutive updates of a walk are as often at an acute angle as at an obtuse one. The mean
      of their cosines is put to Student's t test, which needs no number of dimensions.
    - The squared distance of the ends is the sum of the squared updates, to a share of √(2/d).
    - So is the squared distance off the line, against the half-circle of a walk of these steps.

    The last two depend on the dimension in which the run moves at random, which for a real run
    is far below P and is not known. It is taken from the cosines, whose mean square is 1/d for a
    walk in d dimensions; for steps that are not isotropic d is the number of dimensions that
    matter, and the probabilities are approximate. Not tested: the cost, the gradient, the shape
    of the arch beyond its mean height, and correlations over more than one update but for what
    they add up to.

    Points that were rounded to a narrow type are off by independent errors, which lengthen the
    updates, and let each take back some of the one before. All that `displacement.rounding` may
    explain is given to the random walk: a run that is stored too coarsely is no evidence.

    "No evidence" does not say that a run is a random walk. "Not a random walk" does not say that
    it is good.

    Args:
        displacement: Of a run, seen from a line between two of its points.
        significance: Probability below which one of the three is evidence.

    Raises:
        TypeError: If it is no displacement.
        ValueError: If the ends of the line are no points of the run, or `significance` is no
            probability.
    """
    if not isinstance(displacement, Displacement):
        raise TypeError(
            "The evidence is taken from a Displacement; got "
            f"{type(displacement).__name__}. Pass `thalweg.displacement(trajectory)`."
        )
    if not 0 < significance < 1:
        raise ValueError(
            f"`significance` is a probability between 0 and 1; got {significance}. The smaller it "
            "is, the rarer is a false alarm."
        )
    first, last = _ends_of(displacement)
    length = displacement.update_length[first:last]
    cosine = displacement.update_cosine[first : max(last - 1, first)]
    cosine = cosine[np.isfinite(cosine)]
    squares = float((length**2).sum())
    if len(cosine) < _FEWEST_TURNS or not np.isfinite(squares):
        nan = float("nan")
        return RandomWalkEvidence("too few points", nan, nan, nan, nan, nan, nan, nan, significance)
    smallest = 1 / max(displacement.size, 1)  # mean square of cosines, if all dimensions matter
    dimension = 1 / max(float(np.mean(cosine**2)), smallest)
    span = displacement.length**2 / squares
    bulge = _bulge(displacement, squares)
    rounding = np.nan_to_num(displacement.rounding[first : last + 1]) ** 2
    coarse = min(0.99, float((rounding[1:] + rounding[:-1]).sum()) / squares)
    found = (
        _p_zero_mean(cosine + min(coarse, max(0.0, -float(cosine.mean())))),
        _p_chi_square(dimension, dimension * _nearest_to_one(span, coarse)),
        _p_chi_square(dimension - 1, dimension * _nearest_to_one(bulge, coarse)),
    )
    verdict = "not a random walk" if min(found) < significance else "no evidence"
    return RandomWalkEvidence(
        verdict, float(cosine.mean()), span, bulge, dimension, *found, significance
    )


def _nearest_to_one(ratio: float, coarse: float) -> float:
    """Return a ratio to squared updates, a share of which may be rounding, as near to a walk."""
    return max(ratio, min(1.0, ratio / (1 - coarse)))


def _bulge(displacement: Displacement, squares: float) -> float:
    """Return the mean of β² over that of a walk, away from its ends."""
    done = _share_done(displacement, "squares")
    inner = (done > _INNER) & (done < 1 - _INNER) & np.isfinite(displacement.distance)
    if not inner.any():
        return 1.0
    variance = squares * done[inner] * (1 - done[inner])
    return float(np.mean(displacement.distance[inner] ** 2 / variance))


def _p_zero_mean(values: Array) -> float:
    """Return the two-sided probability of a mean as far from 0, by Student's t test.

    It is at least that of signs which are all alike, by chance alone: in one dimension the cosines
    of a walk are ±1, and have no spread when that comes about.
    """
    count, mean = len(values), float(values.mean())
    if mean == 0:
        return 1.0
    error = float(values.std(ddof=1)) / np.sqrt(count)
    by_chance = 2.0 ** (1 - count)
    return max(by_chance, float(2 * stdtr(count - 1, -abs(mean) / error)) if error else 0.0)


def _p_chi_square(freedom: float, value: float) -> float:
    """Return the two-sided probability of a χ² as extreme; 1 where nothing is free to vary."""
    if freedom < 0.5:
        return 1.0
    return float(min(1.0, 2 * min(chdtr(freedom, value), chdtrc(freedom, value))))


def _share_done(displacement: Displacement, clock: str) -> Array:
    """Return how much of the way between the ends of the line is done at each point."""
    first, last = _ends_of(displacement)
    if clock == "steps":
        passed = displacement.step
    elif clock == "squares":
        passed = np.concatenate(([0.0], np.cumsum(displacement.update_length**2)))
    else:
        raise ValueError(f"`clock` is 'squares' or 'steps'; got {clock!r}. Choose one of these.")
    done: Array = (passed - passed[first]) / (passed[last] - passed[first])
    return np.where(np.arange(len(done)) < first, np.nan, done)


def _ends_of(displacement: Displacement) -> tuple[int, int]:
    """Return the numbers of the points at the two ends of the line."""
    room = _SAME_POINT * displacement.length + np.nan_to_num(displacement.rounding)
    at_start = np.flatnonzero(displacement.from_start <= room)
    at_end = np.flatnonzero(displacement.to_end <= room)
    if len(at_start) == 0 or len(at_end) == 0 or at_end[-1] <= at_start[0]:
        raise ValueError(
            "A run is compared with a random walk on a line from one of its points to a later one; "
            "the ends of this line are no such points. Take the displacement with "
            "`Line(trajectory[i].theta, trajectory[j].theta)`, or without a line."
        )
    # Where storage is coarse there are several: of them the nearest, and the earliest of these.
    at_start = at_start[at_start < at_end[-1]]
    first = int(at_start[np.argmin(displacement.from_start[at_start])])
    at_end = at_end[at_end > first]
    return first, int(at_end[np.argmin(displacement.to_end[at_end])])
