"""Batches outside, points inside, and nothing else changed: for data that is read in each pass.

The plain way reads the data once a point, and under `batch_norm="recalibrate"` once a layer and
point besides. Here one reading serves all points of a group. What is computed at a point is what
the plain way computes, operation by operation, so the bits are the same.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from thalweg.anchors import combine
from thalweg.evaluate.strategy import Strategy
from thalweg.objectives.batches import examples_in
from thalweg.objectives.model import ModelObjective
from thalweg.objectives.objective import Evaluation
from thalweg.results import Array
from thalweg.sections import Section

__all__ = ["Streamed", "running_statistics"]


class Streamed(Strategy):
    """The plain way for streamed data: each batch goes through the model at every point.

    Args:
        objective: The cost.
        section: Its anchors are combined.
        anchors: Its anchors in the objective's type, on its device.
    """

    name = "plain"  # the same numbers by the same operations, so that points serve one another
    rows = 16  # few enough for a killed sweep to lose little

    def __init__(
        self, objective: ModelObjective, section: Section, anchors: Sequence[Tensor]
    ) -> None:
        self.objective = objective
        self.section = section
        self.anchors = anchors

    def evaluate(self, weights: Array) -> list[Evaluation]:
        """Return the evaluations at some points."""
        objective, samples = self.objective, self.objective.samples
        rows = [[float(w) for w in row] for row in weights]
        with objective.passive():
            statistics = running_statistics(objective, self.section, self.anchors, rows)
            objective.set_mode()
            shape = (len(rows), len(samples), len(objective.forward_pass.criteria), 2)
            sums = [torch.zeros(shape, dtype=torch.float64, device=objective.device)]
            sums += [torch.zeros_like(sums[0]) for _ in objective.splits[1:]]
            for at, split in enumerate(objective.splits):
                for index, batch in enumerate(split.batches):
                    for r, row in enumerate(rows):
                        tensors = {**self._parameters(row), **statistics[r]}
                        for sample in samples:
                            sums[at][r, sample] += objective.call(tensors, batch, sample, at, index)
                    self.tick(examples_in(batch))
            return [
                objective.evaluation([list(total[r]) for total in sums], self._parameters(row))
                for r, row in enumerate(rows)
            ]

    def _parameters(self, row: Sequence[float]) -> Mapping[str, Tensor]:
        """Return the named parameters at a point, which the model may write to."""
        return _parameters_at(self.objective, self.anchors, row)


def running_statistics(
    objective: ModelObjective,
    section: Section,
    anchors: Sequence[Tensor],
    rows: Sequence[Sequence[float]],
) -> list[dict[str, Tensor]]:
    """Return the running statistics at some points that are not the model's own.

    Under `batch_norm="recalibrate"` a reading of the data for each layer serves all points.

    Args:
        objective: The cost.
        section: Where the anchors' buffers are.
        anchors: The anchors in the objective's type, on its device.
        rows: The weights of each point.
    """
    if objective.batch_norm == "recalibrate":
        last: list[tuple[int, Mapping[str, Tensor]]] = []  # points come one after the other

        def parameters(point: int) -> Mapping[str, Tensor]:
            if not last or last[0][0] != point:
                last[:] = [(point, _parameters_at(objective, anchors, rows[point]))]
            return last[0][1]

        return objective.recalibrated_together(parameters, len(rows))
    return [objective.statistics_at({}, (section.buffers, row)) for row in rows]


def _parameters_at(
    objective: ModelObjective, anchors: Sequence[Tensor], row: Sequence[float]
) -> Mapping[str, Tensor]:
    """Return the named parameters at a point, in memory of their own."""
    return objective.space.unflatten(objective.point(combine(anchors, row)))
