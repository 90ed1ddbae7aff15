"""Points written into the objective's own model, tensor by tensor: one model and one tensor."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from thalweg.anchors import Anchor, combine
from thalweg.evaluate.strategy import Strategy
from thalweg.objectives.model import ModelObjective
from thalweg.objectives.objective import Evaluation, Objective
from thalweg.results import Array
from thalweg.sections import Section
from thalweg.stored import StoredPoint

__all__ = ["TensorByTensor", "checked_anchors", "placed", "written_in_place"]


class TensorByTensor(Strategy):
    """One point after the other, in the memory of one model.

    For anchors on disk, and for models that are sharded over ranks: no vector θ is ever made.

    Args:
        objective: The cost; the parameters of its own copy of the model are overwritten.
        section: Its anchors are combined.
        anchors: Its anchors: vectors in the objective's type, or points on disk.
    """

    name = "tensor by tensor"

    def __init__(
        self, objective: ModelObjective, section: Section, anchors: Sequence[Anchor]
    ) -> None:
        self.objective = objective
        self.section = section
        self.anchors = anchors

    def evaluate(self, weights: Array) -> list[Evaluation]:
        """Return the evaluations at some points."""
        with self.objective.passive():
            return [self.objective.evaluate_at(self.place([*map(float, r)])) for r in weights]

    def place(self, row: Sequence[float]) -> dict[str, Tensor]:
        """Put the model at a point; return the running statistics that it needs there."""
        self.objective.write(self.anchors, row)
        return self.objective.statistics_at({}, (self.section.buffers, row))


def written_in_place(objective: Objective, anchors: Sequence[Anchor]) -> bool:
    """Tell whether points are written into the objective's own model."""
    if not isinstance(objective, ModelObjective):
        return False
    on_disk = any(isinstance(anchor, StoredPoint) for anchor in anchors)
    return on_disk or objective.sharding is not None


def placed(
    objective: ModelObjective, section: Section, anchors: Sequence[Anchor], row: Sequence[float]
) -> Mapping[str, Tensor]:
    """Return parameters and statistics at a point; what is missing is the model's own."""
    if written_in_place(objective, anchors):
        return TensorByTensor(objective, section, anchors).place(row)
    return objective.tensors_at(combine(anchors, row), (section.buffers, row))


def checked_anchors(objective: Objective, section: Section, row: Array) -> list[Anchor]:
    """Return the anchors as the objective can use them, after checking both.

    Args:
        objective: The cost.
        section: Its anchors.
        row: Weights of the point at which two evaluations of the cost must agree.

    Raises:
        ParameterMismatchError: If an anchor is a point of another space.
        NonDeterministicObjectiveError: If two evaluations of one point disagree.
    """
    in_place = written_in_place(objective, section.anchors)
    anchors: list[Anchor] = []
    for anchor in section.anchors:
        if in_place and isinstance(anchor, StoredPoint):
            anchor.check(objective.space)
            anchors.append(anchor)
        else:
            anchors.append(objective.point(anchor, "An anchor"))
    if in_place:
        assert isinstance(objective, ModelObjective)
        objective.check_on(anchors, [*map(float, row)])
    else:
        objective.check(combine(anchors, row))
    return anchors
