"""Intervals of means over independent random vectors."""

import math

from scipy import stats

from thalweg.results import Array

__all__ = ["expect_probes", "mean_interval"]


def expect_probes(probes: int, least: int, confidence: float = 0.95) -> None:
    """Raise where there are too few random vectors, or a confidence is none."""
    if probes < least:
        raise ValueError(
            f"`probes` must be {least} or more; got {probes}. They are random vectors; their "
            "spread tells how sure the result is."
        )
    if not 0 < confidence < 1:
        raise ValueError(
            f"`confidence` is a probability between 0 and 1; got {confidence}. The default is 0.95."
        )


def mean_interval(samples: Array, confidence: float) -> tuple[float, float, tuple[float, float]]:
    """Return mean, standard error and the interval of Student's t for independent samples.

    Args:
        samples: Shape (m,), two at least.
        confidence: Probability that the interval holds the expectation.
    """
    mean = float(samples.mean())
    error = float(samples.std(ddof=1)) / math.sqrt(len(samples))
    half = float(stats.t.ppf(0.5 + 0.5 * confidence, len(samples) - 1)) * error
    return mean, error, (mean - half, mean + half)
