"""How sure several estimates are at once, from what a few random groups say about each.

An estimate that rests on n examples of a heavy-tailed loss is skewed: it falls short of the truth
often and by little, and exceeds it seldom and by much. Worse, its standard error is small
whenever it falls short. Student's quantiles do not know this, so the distribution of
(estimate − truth) / (standard error) is taken from the groups themselves, by drawing as many
of them with replacement again and again: the bootstrap-t (Efron & Tibshirani 1993, chapter
12.5), which is right to second order. Its quantiles are never taken to be nearer than Student's.

Nothing that is drawn can speak for what was not: where so few examples carry the mean that a
draw may miss them all, no interval holds. Control variates take most of that weight away.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from thalweg.results import Array

__all__ = ["limits_of_largest", "simultaneous_multiplier"]

_REDRAWN = 4000
_AT_ONCE = 512  # estimates whose redrawn values are in memory together: 16 MB

# Standard errors below this share of the largest are rounding: the estimate is exact there.
_ROUNDING = 1e-9

# A redrawn sample may miss every group in which an estimate varies: no finite quantile then.
_LEAST_VARIANCE = 1e-12


def simultaneous_multiplier(deviations: Array, confidence: float, seed: int) -> float:
    """Return how many standard errors cover all estimates at once.

    Args:
        deviations: For each group and estimate, shape (g, n), as in `thalweg.Estimate`.
        confidence: Probability with which all intervals are to hold.
        seed: Seed of the redrawing.

    Example:
        >>> deviations = np.random.default_rng(1).normal(size=(50, 20))
        >>> simultaneous_multiplier(deviations, 0.95, seed=0) > 2.5  # of one estimate: 2.01
        True
    """
    largest: Array = np.zeros(_REDRAWN)
    for _, ratios in _redrawn(deviations, seed):
        largest = np.maximum(largest, np.abs(ratios).max(axis=1))
    quantile = float(np.quantile(largest, confidence))
    return max(quantile, _student(len(deviations), (1 + confidence) / 2))


def limits_of_largest(
    values: Array, deviations: Array, exact: NDArray[np.bool_], confidence: float, seed: int
) -> tuple[float, float]:
    """Return an interval of the largest of several quantities, given their estimates.

    Each side errs with at most half of the probability left. The lower limit is the largest of
    lower limits that hold for all quantities at once. The upper limit is the largest of upper
    limits that need to hold one by one only: the true maximum is one of the quantities, and the
    limit can fall below it only if that one's own does (Berger 1982).

    An estimate that came out the same in every group says nothing about how it varies, unless it
    is known to be exact: it has no limits.

    Args:
        values: The estimates, shape (n,).
        deviations: For each group and estimate, shape (g, n).
        exact: Which of them are known without error, shape (n,).
        confidence: Probability with which the interval is to hold.
        seed: Seed of the redrawing.

    Example:
        >>> rng = np.random.default_rng(1)
        >>> spread, exact = rng.normal(size=(50, 2)) / 50, np.array([False, False])
        >>> low, high = limits_of_largest(np.array([1.0, 0.2]), spread, exact, 0.9, seed=0)
        >>> low < 1.0 < high
        True
    """
    error = (1 - confidence) / 2
    errors = np.sqrt((deviations**2).sum(axis=0))
    least = _student(len(deviations), 1 - error)
    largest: Array = np.zeros(_REDRAWN)
    silent = (errors == 0) & ~exact
    uppers = np.where(silent, np.inf, values)
    for at, ratios in _redrawn(deviations, seed):
        largest = np.maximum(largest, ratios.max(axis=1))
        below = np.minimum(np.quantile(ratios, error, axis=0), -least)
        uppers[at] = values[at] - below * errors[at]
    lowers = values - max(float(np.quantile(largest, 1 - error)), least) * errors
    lowers[silent] = -np.inf
    return float(lowers.max()), float(uppers.max())


def _student(groups: int, probability: float) -> float:
    """Return a quantile of Student's distribution for the mean of some groups."""
    from scipy import stats

    return float(stats.t.ppf(probability, max(1, groups - 1)))


def _redrawn(deviations: Array, seed: int) -> Iterator[tuple[NDArray[np.intp], Array]]:
    """Yield places of inexact estimates, and their (mean / standard error), groups redrawn."""
    errors = np.sqrt((deviations**2).sum(axis=0))
    finite = np.isfinite(errors)
    known = np.flatnonzero(finite & (errors > _ROUNDING * errors[finite].max(initial=0.0)))
    groups = len(deviations)
    # Not the stream that the examples were drawn by.
    rng = np.random.default_rng([seed, 1])
    drawn = rng.integers(groups, size=(_REDRAWN, groups)) + groups * np.arange(_REDRAWN)[:, None]
    times = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape).astype(float)
    for start in range(0, len(known), _AT_ONCE):
        at = known[start : start + _AT_ONCE]
        shares = deviations[:, at] / errors[at]
        sums = times @ shares
        variance = times @ shares**2 - sums**2 / groups
        yield at, sums / np.sqrt(np.maximum(variance, _LEAST_VARIANCE))
