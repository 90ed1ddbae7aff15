"""Tests that need no model of the noise: what was seen against rearrangements of itself."""

from itertools import permutations, product
from math import factorial

import numpy as np
from numpy.typing import ArrayLike

from thalweg.results import Array

__all__ = ["order_p_value", "sign_p_value"]

_DRAWN = 999
_MOST_LISTED = 1000  # so many rearrangements are gone through one by one
_SAME = 1e-9  # numbers that differ by rounding alone are ties


def order_p_value(distance: ArrayLike, seed: int = 0) -> float:
    """Return how surprising the length of a path would be if its points had no order.

    Under the null hypothesis every order of the same points is as likely. The length of the path
    through them, the sum of the distances of neighbours, is compared with those of all orders for
    up to six points, and of 999 random ones otherwise, this one among them. The value is
    two-sided: short paths (a run that goes somewhere) and long ones (one that jumps between two
    places) are both surprising. Shuffled points have a uniform p-value, up to ties.

    That an order carries information makes no descent of it: a random walk has an order, too.

    Args:
        distance: Distances between all points, in the order of the path, shape (n, n).
        seed: Seed of the random orders.

    Returns:
        The p-value, 1 for fewer than three points.

    Source: Phipson & Smyth (2010), "Permutation p-values should never be zero".

    Example:
        >>> place = np.arange(20.0)
        >>> order_p_value(abs(place[:, None] - place))
        0.002
    """
    table = np.asarray(distance, dtype=np.float64)
    count = len(table)
    if count < 3:
        return 1.0
    if factorial(count) <= _MOST_LISTED:
        orders = np.array(list(permutations(range(count))))
    else:
        draw = np.random.default_rng(seed)
        orders = draw.permuted(np.tile(np.arange(count), (_DRAWN, 1)), axis=1)
        orders = np.concatenate([np.arange(count)[None], orders])
    lengths = table[orders[:, :-1], orders[:, 1:]].sum(axis=1)
    return min(1.0, 2 * min(_share_below(lengths), _share_below(-lengths)))


def sign_p_value(values: ArrayLike, seed: int = 0) -> float:
    """Return how surprising a mean this large would be if every sign were a toss.

    Under the null hypothesis each value is as likely as its negative, given the others. One-sided:
    only a large positive mean is surprising. All patterns of signs are gone through for up to
    nine values, and 999 random ones otherwise, the one seen among them.

    Args:
        values: The values, shape (n,); NaN are left out.
        seed: Seed of the random signs.

    Returns:
        The p-value: at least 2⁻ⁿ, and 1 for no values.

    Source: Fisher (1935), "The design of experiments", section 21.

    Example:
        >>> sign_p_value([0.5, 0.25, 0.75])
        0.125
    """
    known = np.asarray(values, dtype=np.float64)
    known = known[np.isfinite(known)]
    if len(known) == 0:
        return 1.0
    if 2 ** len(known) <= _MOST_LISTED:
        signs = np.array(list(product((1.0, -1.0), repeat=len(known))))
    else:
        draw = np.random.default_rng(seed)
        signs = np.where(draw.random((_DRAWN, len(known))) < 0.5, -1.0, 1.0)
        signs = np.concatenate([np.ones((1, len(known))), signs])
    return _share_below(-(signs @ known))


def _share_below(statistics: Array) -> float:
    """Return the share of statistics that are no larger than the first one."""
    slack = _SAME * np.abs(statistics).max()
    return float(np.mean(statistics <= statistics[0] + slack))
