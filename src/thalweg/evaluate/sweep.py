"""Evaluating an objective at every row of a weight matrix."""

from thalweg.evaluate.planning import choose
from thalweg.objectives.objective import Evaluation, Objective
from thalweg.progress import Progress, progress_bar
from thalweg.results import Array
from thalweg.sections import Section, combine

__all__ = ["sweep"]


def sweep(
    objective: Objective,
    section: Section,
    weights: Array,
    *,
    progress: bool | Progress | None = None,
) -> list[Evaluation]:
    """Evaluate an objective at each row of a weight matrix.

    Args:
        objective: The cost.
        section: Its anchors are combined.
        weights: One row a point, shape (n, m).
        progress: None for a progress bar on a terminal, False for none.
    """
    anchors = [objective.point(anchor, "An anchor") for anchor in section.anchors]
    # In the middle, for ends are special: where a start gives every class the same score, or a
    # solution has no cost at all, a wrong mean cannot be told from a right one.
    objective.check(combine(anchors, weights[len(weights) // 2]))
    strategy = choose(objective, section, anchors, weights).strategy
    rows: list[Evaluation] = []
    with progress_bar(progress) as report:
        for start in range(0, len(weights), strategy.rows):
            rows += strategy.evaluate(weights[start : start + strategy.rows])
            report(len(rows), len(weights), f"{section.kind}: cost at {len(weights)} points")
    return rows
