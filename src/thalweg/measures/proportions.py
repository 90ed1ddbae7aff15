"""Shares that were counted, and how sure they are."""

from scipy.special import betaincinv

__all__ = ["proportion_interval"]


def proportion_interval(counted: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return an interval for the probability of an event that occurred some times of many.

    It is the exact one of Clopper and Pearson (1934): whatever the probability is, it is missed
    by no more than a share 1 − confidence of such intervals.

    Args:
        counted: How often the event occurred.
        total: Out of how many independent draws, one at least.
        confidence: Share of intervals that hold the probability, at least.

    Raises:
        ValueError: If the counts fit no draws, or the confidence is no share.

    Example:
        >>> low, high = proportion_interval(5, 10)
        >>> round(low, 4), round(high, 4)
        (0.1871, 0.8129)
    """
    if not (0 <= counted <= total and total >= 1 and 0 < confidence < 1):
        raise ValueError(
            "An interval needs 0 ≤ counted ≤ total, one draw at least, and a confidence between 0 "
            f"and 1; got {counted} of {total} at {confidence:g}. Check what was counted."
        )
    tail = (1 - confidence) / 2
    low = 0.0 if counted == 0 else float(betaincinv(counted, total - counted + 1, tail))
    high = 1.0 if counted == total else float(betaincinv(counted + 1, total - counted, 1 - tail))
    return low, high
