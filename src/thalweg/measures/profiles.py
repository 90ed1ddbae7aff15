"""What stands between the ends of a line: climbs, barriers, minima and shape of a profile.

Every measure looks at the points that were sampled, and at nothing between them. A feature
narrower than the spacing of the grid is not seen, so each docstring says on which side of the
truth its number lies. A Monte-Carlo cost wiggles; give its noise as `tolerance`.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from thalweg.results import Array, Profile

__all__ = [
    "Barrier",
    "Climb",
    "Minimum",
    "barrier",
    "convex_share",
    "greatest_climb",
    "initial_steepness",
    "interior_minima",
    "is_monotone",
]

Interval = tuple[float, float]


@dataclass(frozen=True)
class Climb:
    """The largest increase of the loss while walking in the direction of growing α.

    Attributes:
        height: How far the loss rises, in units of the loss; 0 if it never does.
        foot: Coordinate from which it rises.
        top: Coordinate up to which it rises; equal to `foot` when the height is 0.
    """

    height: float
    foot: float
    top: float


class Barrier(float):
    """The highest excess of the loss over a baseline between the two ends of a line.

    It is the height itself, a number in units of the loss, which also knows its place.

    Attributes:
        alpha: Coordinate at which it is reached.
        baseline: What was subtracted, `"linear"` or `"mean"`.

    Example:
        >>> wall = Barrier(0.25, alpha=0.5, baseline="linear")
        >>> wall + 1, wall.height, wall.alpha
        (1.25, 0.25, 0.5)
    """

    alpha: float
    baseline: str
    __slots__ = ("alpha", "baseline")

    def __new__(cls, height: float, alpha: float, baseline: str) -> "Barrier":
        """Make the number, and write its place beside it."""
        made = super().__new__(cls, height)
        made.alpha = alpha
        made.baseline = baseline
        return made

    def __getnewargs__(self) -> tuple[float, float, str]:  # type: ignore[override]
        return (float(self), self.alpha, self.baseline)

    @property
    def height(self) -> float:
        """The excess, as a plain number."""
        return float(self)

    def __repr__(self) -> str:
        return f"Barrier(height={self.height!r}, alpha={self.alpha!r}, baseline={self.baseline!r})"


@dataclass(frozen=True)
class Minimum:
    """A local minimum strictly inside the sampled range.

    Attributes:
        alpha: Its coordinate; the middle of a flat bottom.
        loss: The loss there.
        depth: Its prominence: how far the loss must rise, on the easier side, before it can
            fall below this minimum or the range ends.
    """

    alpha: float
    loss: float
    depth: float


def greatest_climb(
    profile: Profile, split: str | None = None, between: Interval | None = None
) -> Climb:
    """Return the largest increase of the loss met while walking from start to end.

    This is the maximum of `J(b) − J(a)` over coordinates a ≤ b, the *maximum draw-up*. It is
    zero exactly when the sampled losses never increase, as Goodfellow et al. (2015, section 3)
    report for most networks between initialisation and solution. Lucas et al. (2021) call the
    same number min-Δ.

    Args:
        profile: At least two points, all with a finite loss.
        split: Name of a split; the first one, the cost J, by default.
        between: Closed interval of coordinates to look at; all of them by default.

    Returns:
        The climb. Of several equal ones it has the first top, and the foot nearest to it.
        Since only grid points are seen, the true one is at least as high.

    Raises:
        ValueError: If there are fewer than two points, or a loss is not finite.

    Example:
        >>> walk = Profile(alpha=[0.0, 0.5, 1.0], loss=[2.0, 2.25, 0.5])
        >>> greatest_climb(walk)
        Climb(height=0.25, foot=0.0, top=0.5)
    """
    alpha, loss = _points(profile, split, between, least=2)
    rise = loss - np.minimum.accumulate(loss)
    top = int(np.argmax(rise))
    before = loss[top::-1]  # walked backwards, so that argmin finds the nearest foot
    foot = top - int(np.argmin(before))
    if rise[top] == 0.0:
        foot = top
    return Climb(height=float(rise[top]), foot=float(alpha[foot]), top=float(alpha[top]))


def is_monotone(
    profile: Profile,
    tolerance: float = 0.0,
    split: str | None = None,
    between: Interval | None = None,
) -> bool:
    """Return whether the loss falls all the way, up to a stated climb.

    This is Δ-monotonicity (Lucas et al. 2021): `J(b) − J(a) ≤ Δ` for all sampled a < b, with
    Δ = `tolerance`; that is, the greatest climb is no higher than the tolerance.

    Args:
        profile: At least two points, all with a finite loss.
        tolerance: Climb that is forgiven, in units of the loss, at least 0.
        split: Name of a split; the first one by default.
        between: Closed interval of coordinates to look at; all of them by default.

    Returns:
        True for a monotone profile. A finer grid can turn True into False, never the reverse.

    Raises:
        ValueError: If the tolerance is negative, there are fewer than two points, or a loss is
            not finite.

    Example:
        >>> walk = Profile(alpha=[0.0, 0.5, 1.0], loss=[2.0, 2.25, 0.5])
        >>> is_monotone(walk), is_monotone(walk, tolerance=0.25)
        (False, True)
    """
    _check_tolerance(tolerance)
    return greatest_climb(profile, split, between).height <= tolerance


def barrier(
    profile: Profile,
    split: str | None = None,
    baseline: Literal["linear", "mean"] = "linear",
) -> Barrier:
    """Return the barrier between the two ends of a line.

    With t the coordinate counted from 0 at the first end to 1 at the second, and J₀, J₁ the
    losses there, this is the maximum over the points from end to end, both included, of

    - `J − [(1 − t) J₀ + t J₁]` for the linear baseline (Entezari et al. 2022), and of
    - `J − (J₀ + J₁) / 2` for the mean (Frankle et al. 2020).

    The ends are those of `profile.ends`, which then count as points; without them, the grid
    points at the first and the last of `profile.anchors`.

    Args:
        profile: A profile between two points of parameter space. For the barrier of a metric,
            make a profile of it: `Profile(alpha=…, loss=profile.metrics["error"])`.
        split: Name of a split; the first one by default.
        baseline: What to measure the loss against.

    Returns:
        The barrier. Its height is never negative: the linear baseline is met at both ends,
        and the mean lies `|J₀ − J₁| / 2` below the higher end. Since only sampled points are
        seen, the true one is at least as high.

    Raises:
        ValueError: If the baseline is unknown, the ends are not among the points, or a loss
            is not finite.

    Example:
        Between the solutions (1, 1) and (−1, −1) of J(w) = (1 − w₁ w₂)² the line crosses the
        saddle at the origin.

        >>> alpha = np.linspace(0.0, 1.0, 5)
        >>> barrier(Profile(alpha=alpha, loss=(1 - (1 - 2 * alpha) ** 2) ** 2))
        Barrier(height=1.0, alpha=0.5, baseline='linear')
    """
    if baseline not in ("linear", "mean"):
        raise ValueError(
            f"`baseline` must be 'linear' or 'mean'; got {baseline!r}. "
            "Name one of the two definitions."
        )
    alpha, loss = _from_end_to_end(profile, split)
    t = (alpha - alpha[0]) / (alpha[-1] - alpha[0])
    first, last = loss[0], loss[-1]
    # (1 − t) J₀ + t J₁ is exact at both ends, which J₀ + t (J₁ − J₀) is not.
    reference = (1 - t) * first + t * last if baseline == "linear" else 0.5 * first + 0.5 * last
    excess = loss - reference
    top = int(np.argmax(excess))
    return Barrier(float(excess[top]), alpha=float(alpha[top]), baseline=baseline)


def interior_minima(
    profile: Profile,
    tolerance: float = 0.0,
    split: str | None = None,
    between: Interval | None = None,
) -> tuple[Minimum, ...]:
    """Return the local minima strictly inside the sampled range that are deep enough.

    The depth of a minimum is its prominence. Walk from it to the left until something lower
    is met or the range ends, and note the highest rise above it; do the same to the right;
    the depth is the smaller of the two. An equally low point is not lower, so two equal
    minima are measured against what lies around both.

    Args:
        profile: At least one point, all with a finite loss.
        tolerance: Minima of at most this depth are left out, in units of the loss.
        split: Name of a split; the first one by default.
        between: Closed interval of coordinates to look at; all of them by default.

    Returns:
        The minima in ascending order of α. A flat bottom counts once. The lowest point of a
        profile that ends on the way down is at the edge of the range, hence not a minimum.

    Raises:
        ValueError: If the tolerance is negative, there is no point, or a loss is not finite.

    Example:
        >>> walk = Profile(alpha=[0.0, 0.5, 1.0, 1.5, 2.0], loss=[3.0, 1.0, 1.5, 0.0, 2.0])
        >>> for minimum in interior_minima(walk):
        ...     print(minimum)
        Minimum(alpha=0.5, loss=1.0, depth=0.5)
        Minimum(alpha=1.5, loss=0.0, depth=2.0)
    """
    _check_tolerance(tolerance)
    alpha, loss = _points(profile, split, between, least=1)
    starts = np.flatnonzero(np.concatenate(([True], np.diff(loss) != 0)))
    stops = np.append(starts[1:], len(loss)) - 1
    level = loss[starts]  # one value per run of equal losses
    bottoms = np.flatnonzero((level[1:-1] < level[:-2]) & (level[1:-1] < level[2:])) + 1
    found = []
    for i in bottoms:
        depth = min(_rise(level[i::-1]), _rise(level[i:]))
        if depth > tolerance:
            middle = 0.5 * (alpha[starts[i]] + alpha[stops[i]])
            found.append(Minimum(alpha=float(middle), loss=float(level[i]), depth=depth))
    return tuple(found)


def convex_share(
    profile: Profile,
    tolerance: float = 0.0,
    split: str | None = None,
    between: Interval | None = None,
) -> float:
    """Return the share of interior grid points at which the profile is convex.

    At three neighbouring points a < b < c the second divided difference is

        J[a, b, c] = ( (J(c) − J(b)) / (c − b) − (J(b) − J(a)) / (b − a) ) / (c − a),

    half the mean second derivative, whatever the spacing. A point counts as convex when
    J[a, b, c] ≥ −`tolerance`. A profile of a convex function has share 1.

    Args:
        profile: At least three points, all with a finite loss.
        tolerance: Concavity that is forgiven, in units of the loss over α squared. On a
            straight stretch only rounding decides the sign, so 0 suits curved profiles.
        split: Name of a split; the first one by default.
        between: Closed interval of coordinates to look at; all of them by default.

    Returns:
        A number from 0 to 1. It is a share of points, so a grid that is denser somewhere
        weighs that part more.

    Raises:
        ValueError: If the tolerance is negative, there are fewer than three points, or a loss
            is not finite.

    Example:
        >>> alpha = np.array([-1.0, -0.5, 0.0, 1.0, 3.0])
        >>> convex_share(Profile(alpha=alpha, loss=alpha**2))
        1.0
        >>> round(convex_share(Profile(alpha=alpha, loss=alpha**3 / 3)), 3)
        0.667
    """
    _check_tolerance(tolerance)
    alpha, loss = _points(profile, split, between, least=3)
    slope = np.diff(loss) / np.diff(alpha)
    second = np.diff(slope) / (alpha[2:] - alpha[:-2])
    return float(np.mean(second >= -tolerance))


def initial_steepness(profile: Profile, split: str | None = None) -> float:
    """Return how steep the line starts, as a share of its steepest stretch.

    This is |slope of the first segment| over the largest |slope| of any segment between the
    two ends. A small share means that the profile is flat near its start, as Goodfellow et
    al. (2015, section 3) observe near the initialisation. It does not change when the loss
    is shifted or scaled.

    Args:
        profile: A profile between two points of parameter space. The ends are found as for
            `barrier`; what lies outside of them is not looked at.
        split: Name of a split; the first one by default.

    Returns:
        A number from 0 to 1; 0 for a constant profile. The slope is the mean over the first
        segment, so the narrower that segment, the nearer to the slope at the start.

    Raises:
        ValueError: If the ends are not among the points, or a loss is not finite.

    Example:
        >>> initial_steepness(Profile(alpha=[0.0, 0.5, 0.75, 1.0], loss=[2.0, 1.9, 0.5, 0.1]))
        0.0357...
    """
    alpha, loss = _from_end_to_end(profile, split)
    slope = np.abs(np.diff(loss) / np.diff(alpha))
    steepest = slope.max()
    return float(slope[0] / steepest) if steepest > 0 else 0.0


def _points(
    profile: Profile, split: str | None, between: Interval | None, least: int
) -> tuple[Array, Array]:
    """Return the finite points of one split inside a closed interval."""
    alpha, loss = profile.alpha, profile.loss[_known_split(profile, split)]
    place = ""
    if between is not None:
        low, high = between
        inside = (alpha >= low) & (alpha <= high)
        alpha, loss = alpha[inside], loss[inside]
        place = f" between alpha = {low:g} and {high:g}"
    if len(alpha) < least:
        points = "point" if least == 1 else "points"
        raise ValueError(
            f"This measure needs at least {least} {points}; the profile has {len(alpha)}{place}. "
            "Evaluate a finer or longer grid."
        )
    _check_finite(alpha, loss)
    return alpha, loss


def _from_end_to_end(profile: Profile, split: str | None) -> tuple[Array, Array]:
    """Return the finite points of one split from the first end to the second, both included."""
    name = _known_split(profile, split)
    loss = profile.loss[name]
    if profile.ends is not None:
        if name not in profile.ends.loss:
            raise ValueError(
                f"The ends need a loss for every split; they have none for {name!r}. "
                "Evaluate the ends together with the profile."
            )
        tips, tip_loss = profile.ends.alpha, profile.ends.loss[name]
    else:
        tips, tip_loss = _ends_on_the_grid(profile, loss)
    inside = (profile.alpha > tips[0]) & (profile.alpha < tips[1])
    alpha = np.concatenate((tips[:1], profile.alpha[inside], tips[1:]))
    loss = np.concatenate((tip_loss[:1], loss[inside], tip_loss[1:]))
    _check_finite(alpha, loss)
    return alpha, loss


def _ends_on_the_grid(profile: Profile, loss: Array) -> tuple[Array, Array]:
    """Return coordinates and losses of the grid points at the first and last anchor."""
    tips = np.array(sorted((profile.anchors[0], profile.anchors[-1])) if profile.anchors else [])
    at = np.flatnonzero(np.isin(profile.alpha, tips))
    if len(at) != 2:
        wanted = " and ".join(f"{tip:g}" for tip in tips) or "two anchors"
        raise ValueError(
            f"The two ends, alpha = {wanted}, must be among the points; {len(at)} of them "
            "are on the grid and the profile has no `ends`. "
            "Put both ends on the grid, or evaluate the profile with its ends."
        )
    return profile.alpha[at], loss[at]


def _rise(walk: Array) -> float:
    """Return the highest rise above the first value before a value lower than it."""
    lower = np.flatnonzero(walk < walk[0])
    return float(np.max(walk[: lower[0]] if len(lower) else walk) - walk[0])


def _known_split(profile: Profile, split: str | None) -> str:
    """Return the name of a split that the profile has; the first one for None."""
    if split is None:
        return profile.first_split
    if split not in profile.loss:
        known = ", ".join(repr(name) for name in profile.loss)
        raise ValueError(
            f"`split` must be one of {known}; got {split!r}. "
            "Name one of these, or evaluate the profile on that split too."
        )
    return split


def _check_finite(alpha: Array, loss: Array) -> None:
    """Refuse losses that are NaN or infinite."""
    bad = np.flatnonzero(~np.isfinite(loss))
    if len(bad):
        raise ValueError(
            f"Every loss must be finite; it is not at {len(bad)} of {len(loss)} points, the "
            f"first at alpha = {alpha[bad[0]]:g}. Shorten the line or evaluate in float64."
        )


def _check_tolerance(tolerance: float) -> None:
    """Refuse a tolerance that is negative or NaN."""
    if not tolerance >= 0:
        raise ValueError(
            f"`tolerance` must be at least 0; got {tolerance}. Give a height in units of the loss."
        )
