"""What a way to evaluate many points is, and the plain one that defines what is right."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from thalweg.anchors import combine
from thalweg.objectives.model import ModelObjective
from thalweg.objectives.objective import Evaluation, Objective
from thalweg.results import Array
from thalweg.sections import Section

__all__ = ["ModelStrategy", "Plain", "Strategy", "evaluations"]


class Strategy(ABC):
    """A way to evaluate an objective at rows of a weight matrix.

    Every strategy gives the numbers of `Plain` up to rounding. The value at a point does not
    depend on the points that are evaluated with it, so that a sweep can be cut anywhere, over
    time and over machines, and give the same bits.

    Attributes:
        name: What it is called in plans and results.
        rows: How many points it likes to evaluate together.
        tick: Called in the middle of an evaluation with the number of examples that have just
            been done, as a mean over its points, so that long ones can show how far they are.
    """

    name: str
    rows: int = 1
    tick: Callable[[float], None] = staticmethod(lambda examples: None)

    @abstractmethod
    def evaluate(self, weights: Array) -> list[Evaluation]:
        """Return the evaluations at some points.

        Args:
            weights: One row a point, shape (n, m); n is at most `rows`.
        """


class ModelStrategy(Strategy):
    """A strategy for the cost of a model on data, which can be tried on one batch."""

    objective: ModelObjective

    @abstractmethod
    def trial(self, weights: Array, batch: Any) -> Tensor:
        """Return sums and counts for one batch, with the model's own running statistics.

        Args:
            weights: One row a point, shape (n, m).
            batch: A batch of the objective's data.

        Returns:
            Sum and count of every criterion, shape (n, criteria, 2), float64.
        """


class Plain(Strategy):
    """One point after the other: combine the anchors, pass over the data, go on."""

    name = "plain"

    def __init__(self, objective: Objective, section: Section, anchors: Sequence[Tensor]) -> None:
        self.objective = objective
        self.section = section
        self.anchors = anchors

    def evaluate(self, weights: Array) -> list[Evaluation]:
        """Return the evaluations at some points."""
        return [
            self.objective.evaluate(
                combine(self.anchors, row), (self.section.buffers, [float(w) for w in row])
            )
            for row in weights
        ]


def evaluations(
    objective: ModelObjective, sums: Sequence[Tensor], anchors: Sequence[Tensor], weights: Array
) -> list[Evaluation]:
    """Return evaluations from sums and counts: the end of every strategy that shares passes.

    Args:
        objective: The cost.
        sums: For each split sum and count of every criterion at every point, shape
            (rows, criteria, 2).
        anchors: The anchors, for the penalty.
        weights: One row a point, shape (rows, m).
    """
    penalised = objective.penalty is not None
    return [
        objective.evaluation(
            [[total[r]] for total in sums],
            objective.space.unflatten(combine(anchors, row)) if penalised else {},
        )
        for r, row in enumerate(weights)
    ]
