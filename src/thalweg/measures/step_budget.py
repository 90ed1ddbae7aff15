"""What the steps of a run say when they are counted."""

from thalweg.measures.proportions import proportion_interval
from thalweg.results import StepBudget

__all__ = ["uphill_interval"]


def uphill_interval(budget: StepBudget, confidence: float = 0.95) -> tuple[float, float]:
    """Return an interval for the share of steps that raise J.

    It is the exact interval of Clopper and Pearson (1934), with the snapshots as independent draws
    from the steps of the run.

    Args:
        budget: The budget of some steps.
        confidence: Share of intervals that hold the true share, at least.

    Returns:
        Lower and upper limit; 0 and 1 where no change is known.

    Example:
        >>> budget = StepBudget(steps=[0, 1, 2, 3], actual=[-1.0, -0.5, 0.1, -0.1])
        >>> low, high = uphill_interval(budget)
        >>> budget.uphill, round(low, 3), round(high, 3)
        (0.25, 0.006, 0.806)
    """
    if not budget.counted_steps:
        return 0.0, 1.0
    return proportion_interval(budget.uphill_steps, budget.counted_steps, confidence)
