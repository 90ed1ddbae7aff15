"""Many points in one pass: products of stacked matrices, and `torch.func.vmap`.

For a small model most of the time of a pass goes into starting its operations, not into
computing them. Stacked, they start once for several points.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from thalweg.evaluate.resident import bytes_of, entry_inputs
from thalweg.evaluate.strategy import ModelStrategy, evaluations
from thalweg.evaluate.tracing import DenseChain
from thalweg.objectives.batches import Split, narrow
from thalweg.objectives.model import ModelObjective
from thalweg.objectives.objective import Evaluation
from thalweg.objectives.streaming import recut
from thalweg.objectives.terms import target_of
from thalweg.results import Array
from thalweg.sections import Section

__all__ = ["StackedChain", "Vectorised", "chain_stack"]

# Activations of one stack: what fits into the caches of a core, or fills a GPU.
_STACK_BYTES = {"cpu": 4 << 20, "cuda": 512 << 20}
_MOST_STACKED = 64
_EXAMPLES = 2048  # of one pass
_PIECE_BYTES = 64 << 20  # of streamed examples, which are gathered for it


class StackedChain(ModelStrategy):
    """Stacked products for a chain of linear layers, with features first.

    The activations of k points and n examples form a table (k, features, n). In this layout
    every layer is one batched product, W h + b with b broadcast, and softmax runs along an
    axis that is not the innermost, which is several times as fast. The first layer's products
    are computed once an anchor: (w ⊗ 1)·(W_j x + b_j).

    Args:
        objective: The cost.
        section: Its anchors are combined.
        anchors: Its anchors in the objective's type, on its device.
        chain: The model, as a chain.
        stack: Number k of points in one product.
    """

    name = "stacked products"
    rows = 256

    def __init__(
        self,
        objective: ModelObjective,
        section: Section,
        anchors: Sequence[Tensor],
        chain: DenseChain,
        stack: int,
    ) -> None:
        self.objective = objective
        self.anchors = torch.stack(list(anchors))
        self.chain = chain
        self.stack = stack
        self._blocks = {block.name: block for block in objective.space.blocks}
        stages = [stage for stage in chain.stages if isinstance(stage, str)]
        start = min((self._blocks[f"{name}.weight"].start for name in stages), default=0)
        stop = objective.space.size
        self._moving = self.anchors[:, start:stop] if stages else self.anchors[:, :0]
        self._offset = start

    def evaluate(self, weights: Array) -> list[Evaluation]:
        """Return the evaluations at some points."""
        objective = self.objective
        with objective.passive():
            objective.set_mode()
            sums = [self._pass_over(_pieces(split), weights).cpu() for split in objective.splits]
        return evaluations(objective, sums, list(self.anchors), weights)

    def trial(self, weights: Array, batch: Any) -> Tensor:
        """Return sums and counts for one batch."""
        with self.objective.passive():
            self.objective.set_mode()
            return self._pass_over([batch], weights)

    def _pass_over(self, batches: Any, weights: Array) -> Tensor:
        """Return sum and count of every criterion at every point, shape (rows, criteria, 2)."""
        objective = self.objective
        # The last stack is filled up, so that a point is computed in the same shape, and to
        # the same bits, wherever it stands.
        lack = -len(weights) % self.stack
        padded = torch.from_numpy(weights).to(objective.device, objective.dtype)
        padded = torch.cat([padded, padded[-1:].expand(lack, -1)])
        shape = (len(padded), len(objective.forward_pass.criteria), 2)
        total = torch.zeros(shape, dtype=torch.float64, device=objective.device)
        for batch in batches:
            entries = self._entries(batch)
            for start in range(0, len(padded), self.stack):
                rows = padded[start : start + self.stack]
                predicted = self._predicted(rows, entries)
                total[start : start + self.stack] += self._criteria(predicted, batch)
        return total[: len(weights)]

    def _entries(self, batch: Any) -> Tensor:
        """Return the first layer's outputs at the anchors, features first: (m, features, n)."""
        name = self.chain.first
        given = entry_inputs(self.objective, batch, [name])[name]
        outputs = torch.stack(
            [torch.mm(self._of(f"{name}.weight", anchor), given.t()) for anchor in self.anchors]
        )
        if f"{name}.bias" in self._blocks:
            outputs += torch.stack([self._of(f"{name}.bias", a) for a in self.anchors])[..., None]
        return outputs

    def _of(self, name: str, vector: Tensor) -> Tensor:
        """Return one tensor of a point."""
        return self._blocks[name].of(vector)

    def _predicted(self, rows: Tensor, entries: Tensor) -> Tensor:
        """Return the outputs of the model at a stack of points, shape (k, outputs, n)."""
        count = len(rows)
        features, examples = entries.shape[1:]
        hidden = _combined(rows, entries.view(len(entries), -1)).view(count, features, examples)
        point = _combined(rows, self._moving)
        for stage in self.chain.stages:
            if not isinstance(stage, str):
                # A linear layer's output is nobody else's, so that it can be written to.
                hidden = hidden.relu_() if isinstance(stage, nn.ReLU) else stage(hidden)
                continue
            weight = self._stacked(f"{stage}.weight", point)
            if f"{stage}.bias" in self._blocks:
                bias = self._stacked(f"{stage}.bias", point)[..., None]
                hidden = torch.baddbmm(bias, weight, hidden)
            else:
                hidden = torch.bmm(weight, hidden)
        return hidden

    def _stacked(self, name: str, point: Tensor) -> Tensor:
        """Return one tensor at a stack of points, shape (k, ...)."""
        block = self._blocks[name]
        part = point[:, block.start - self._offset : block.stop - self._offset]
        return part.reshape(len(point), *block.shape)

    def _criteria(self, predicted: Tensor, batch: Any) -> Tensor:
        """Return sum and count of every criterion for a stack, shape (k, criteria, 2)."""
        model = self.objective.forward_pass.model
        columns = []
        for criterion in self.objective.forward_pass.criteria:
            fast = _cross_entropy(criterion, predicted, batch)
            if fast is None:
                outputs = [table.t().contiguous() for table in predicted]
                pairs = [criterion(model, batch, output) for output in outputs]
                fast = torch.stack([torch.stack(pair) for pair in pairs])
            columns.append(fast)
        return torch.stack(columns, dim=1)


def _pieces(split: Split) -> Iterator[Any]:
    """Cut a split into few large pieces: a small model has room for them."""
    pieces = math.ceil(split.examples / _EXAMPLES)
    step = math.ceil(split.examples / pieces)
    if split.whole is None:
        head = split.head(1)
        step = min(step, max(1, _PIECE_BYTES // max(1, bytes_of(head))))
        yield from recut(split.batches, step) if split.uniform else split.batches
        return
    for start in range(0, split.examples, step):
        yield narrow(split.whole, start, start + step)


def _combined(rows: Tensor, vectors: Tensor) -> Tensor:
    """Return Σ_j w_j v_j for each row, by elementwise operations: exact where w is 0 or 1."""
    total = rows[:, :1] * vectors[0]
    for j in range(1, len(vectors)):
        total.addcmul_(rows[:, j : j + 1], vectors[j])
    return total


def _cross_entropy(criterion: Any, predicted: Tensor, batch: Any) -> Tensor | None:
    """Return sums and counts of torch's cross-entropy over classes on axis 1, or None."""
    loss = getattr(criterion, "terms", None)
    if type(loss) is not nn.CrossEntropyLoss or loss.weight is not None:
        return None
    target = target_of(batch)
    if target.ndim != 1 or target.is_floating_point() or criterion.per_example:
        return None
    terms = functional.cross_entropy(
        predicted,
        target.expand(len(predicted), -1),
        ignore_index=loss.ignore_index,
        label_smoothing=loss.label_smoothing,
        reduction="none",
    )
    count = (target != loss.ignore_index).double().sum()
    return torch.stack([terms.sum(1, dtype=torch.float64), count.expand(len(predicted))], dim=1)


def chain_stack(objective: ModelObjective, chain: DenseChain, examples: int) -> int:
    """Return how many points one stack holds: what keeps its activations in fast memory."""
    blocks = {block.name: block for block in objective.space.blocks}
    names = [chain.first, *(stage for stage in chain.stages if isinstance(stage, str))]
    widest = max(blocks[f"{name}.weight"].shape[0] for name in names)
    a_point = widest * examples * objective.dtype.itemsize
    room = _STACK_BYTES.get(objective.device.type, _STACK_BYTES["cuda"])
    return max(1, min(_MOST_STACKED, room // max(1, a_point)))


class Vectorised(ModelStrategy):
    """Many points per pass for any small model, by `torch.func.vmap` over its parameters.

    Args:
        objective: The cost.
        section: Its anchors are combined.
        anchors: Its anchors in the objective's type, on its device.
        stack: Number of points in one pass.
    """

    name = "vmap"
    rows = 256

    def __init__(
        self, objective: ModelObjective, section: Section, anchors: Sequence[Tensor], stack: int
    ) -> None:
        self.objective = objective
        self.anchors = torch.stack(list(anchors))
        self.stack = stack

    def evaluate(self, weights: Array) -> list[Evaluation]:
        """Return the evaluations at some points."""
        objective = self.objective
        with objective.passive():
            objective.set_mode()
            sums = [self._pass_over(_pieces(split), weights).cpu() for split in objective.splits]
        return evaluations(objective, sums, list(self.anchors), weights)

    def trial(self, weights: Array, batch: Any) -> Tensor:
        """Return sums and counts for one batch."""
        with self.objective.passive():
            self.objective.set_mode()
            return self._pass_over([batch], weights)

    def _pass_over(self, batches: Any, weights: Array) -> Tensor:
        """Return sum and count of every criterion at every point, shape (rows, criteria, 2)."""
        objective = self.objective
        lack = -len(weights) % self.stack
        padded = torch.from_numpy(weights).to(objective.device, objective.dtype)
        padded = torch.cat([padded, padded[-1:].expand(lack, -1)])
        points = _combined(padded, self.anchors)
        shape = (len(padded), len(objective.forward_pass.criteria), 2)
        total = torch.zeros(shape, dtype=torch.float64, device=objective.device)
        for batch in batches:
            for start in range(0, len(points), self.stack):

                def one(point: Tensor, batch: Any = batch) -> Tensor:
                    tensors = objective.space.unflatten(point)
                    named = {f"model.{name}": tensor for name, tensor in tensors.items()}
                    sums: Tensor = functional_call(objective.forward_pass, named, (batch, False))
                    return sums

                stop = start + self.stack
                total[start:stop] += torch.func.vmap(one)(points[start:stop])
        return total[: len(weights)]
