"""A cost as a sum of pieces that can be differentiated one after another.

J(θ) = (Σ Sᵢ) / (Σ Cᵢ) + Σ Rⱼ: sums and counts of batches, and what is added undivided (a penalty;
a formula has nothing else). Derivatives of J are the same combination of derivatives of pieces, so
whatever differentiates a piece, differentiates the cost.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from thalweg.objectives.graph_memory import bytes_saved, memory_for_graphs
from thalweg.objectives.nested import few_of, tensors_in
from thalweg.objectives.tangents import moving_statistics, unfused
from thalweg.objectives.terms import prediction, reject_no_terms
from thalweg.space import TensorBlock

if TYPE_CHECKING:
    from thalweg.objectives.function import FunctionObjective
    from thalweg.objectives.model import ModelObjective

__all__ = ["FunctionPieces", "ModelPieces", "Piece", "Pieces", "Sums"]

# What a method is tried on: enough to reach every operator, little beside one product.
_TRIED_EXAMPLES = 8
_TRIED_TOKENS = 64


@dataclass(frozen=True)
class Piece:
    """One piece of a cost at one point, with its graph.

    Attributes:
        value: A float64 scalar.
        count: Number of terms; None for what is added to J undivided.
        outputs: The model's outputs that `value` is a function of, where they were asked for.
    """

    value: Tensor
    count: Tensor | None
    outputs: tuple[Tensor, ...] = ()


# Evaluates a piece where the tensors that move have given values.
Evaluate = Callable[[Sequence[Tensor]], Piece]


class Pieces(ABC):
    """The pieces of a cost around one point, as functions of the tensors that move.

    Attributes:
        leaves: Those tensors, in the order of θ, with gradients required.
        device: Where they are.
        fixed_storages: Addresses of memory that pieces use and that is there anyway.
    """

    leaves: tuple[Tensor, ...]
    device: torch.device
    fixed_storages: frozenset[int]

    @property
    def size(self) -> int:
        """Number of entries that move."""
        return sum(leaf.numel() for leaf in self.leaves)

    @property
    @abstractmethod
    def count(self) -> int:
        """Number of pieces."""

    @abstractmethod
    def context(self) -> AbstractContextManager[None]:
        """Return what pieces are to be evaluated and differentiated inside."""

    @abstractmethod
    def all(self, outputs: bool = False) -> Iterator[Evaluate]:
        """Iterate over all pieces, always in the same order.

        Args:
            outputs: Whether pieces are to hold the model's outputs.
        """

    @abstractmethod
    def few(self, outputs: bool = False) -> Evaluate:
        """Return a small piece that takes the same operators, for trials."""

    @abstractmethod
    def expect_terms(self, count: Tensor) -> None:
        """Raise where J is a mean over nothing."""

    def split(self, vector: Tensor) -> list[Tensor]:
        """Return the parts of flat vectors, shape (..., n), in the shapes of the leaves."""
        parts = torch.split(vector, [leaf.numel() for leaf in self.leaves], dim=-1)
        return [
            part.reshape(*vector.shape[:-1], *leaf.shape)
            for part, leaf in zip(parts, self.leaves, strict=True)
        ]


class Sums:
    """Adds up pieces, and vectors that are derivatives of them, in float64; divides once.

    Args:
        pieces: What is added up.
        shape: Shape of the vectors before the entries of θ: () or (k,).
    """

    def __init__(self, pieces: Pieces, shape: tuple[int, ...] = ()) -> None:
        self.pieces = pieces
        self._shape = (*shape, pieces.size)
        self._values = {False: self._zeros(), True: self._zeros()}  # divided or not: added
        self._vectors: dict[bool, Tensor] = {}
        self._count = self._zeros()

    def see(self, piece: Piece) -> None:
        """Add the value of a piece, and the number of its terms: once for each."""
        self._values[piece.count is None] += piece.value.detach()
        if piece.count is not None:
            self._count += piece.count

    def add(self, piece: Piece, parts: Sequence[Tensor | None], row: int | None = None) -> None:
        """Add a vector in parts of the shapes of the leaves; None is zero.

        Args:
            piece: Whose vector it is.
            parts: The vector, or all of them along a first axis.
            row: Which of several vectors it is.
        """
        undivided = piece.count is None
        if undivided not in self._vectors:
            self._vectors[undivided] = self._zeros(*self._shape)
        total = self._vectors[undivided]
        total = total if row is None else total[row]
        start = 0
        for leaf, part in zip(self.pieces.leaves, parts, strict=True):
            stop = start + leaf.numel()
            if part is not None:
                total[..., start:stop] += part.detach().reshape(*total.shape[:-1], -1)
            start = stop

    def value(self) -> float:
        """Return J."""
        return float(self._combined(self._values))

    def vectors(self) -> Tensor:
        """Return the vectors of J, float64."""
        return self._combined(self._vectors) if self._vectors else self._zeros(*self._shape)

    def _zeros(self, *shape: int) -> Tensor:
        """Return zeros to add to."""
        return torch.zeros(shape, dtype=torch.float64, device=self.pieces.device)

    def _combined(self, totals: dict[bool, Tensor]) -> Tensor:
        """Divide what is to be divided, and add the rest."""
        divided, added = totals.get(False), totals.get(True)
        self.pieces.expect_terms(self._count)
        if divided is not None and float(self._count):
            divided = divided / self._count
        if divided is None or added is None:
            only = added if divided is None else divided
            assert only is not None
            return only
        return divided + added


class FunctionPieces(Pieces):
    """The one piece of a formula."""

    def __init__(self, objective: "FunctionObjective", theta: Tensor) -> None:
        self.objective = objective
        self.device = objective.device
        with torch.inference_mode(False):
            self.leaves = (theta.detach().clone().requires_grad_(),)
        self.fixed_storages = frozenset({self.leaves[0].untyped_storage().data_ptr()})

    @property
    def count(self) -> int:
        """One."""
        return 1

    @contextmanager
    def context(self) -> Iterator[None]:
        """Let graphs be recorded, whatever the caller's context."""
        with torch.inference_mode(False), torch.enable_grad():
            yield

    def all(self, outputs: bool = False) -> Iterator[Evaluate]:
        """Iterate over the one piece."""
        yield self.few(outputs)

    def few(self, outputs: bool = False) -> Evaluate:
        """Return the one piece."""
        if outputs:
            raise ValueError(
                "The Gauss-Newton matrix needs a loss that is a function of a model's output; "
                "a FunctionObjective has none. Use kind='hessian'."
            )
        return lambda tensors: Piece(self.objective.scalar(tensors[0]).double(), None)

    def expect_terms(self, count: Tensor) -> None:
        """Do nothing: a formula is no mean."""


class ModelPieces(Pieces):
    """The batches of the first split, each under each mask of dropout, and the penalty.

    Args:
        objective: The cost.
        theta: The point, with the statistics that came with it.
        blocks: The tensors that move.

    Raises:
        ValueError: If parameters are sharded.
    """

    def __init__(
        self, objective: "ModelObjective", theta: Any, blocks: Sequence[TensorBlock]
    ) -> None:
        if objective.sharding is not None:
            raise ValueError(
                "Derivatives need all parameters in one place; those of this model are sharded "
                "over ranks. Leave `shard` out."
            )
        self.objective = objective
        self.device = objective.device
        # Statistics that move with θ are computed with the pieces.
        self.recalibrates = objective.batch_norm == "recalibrate"
        if self.recalibrates and objective.splits[0].streamed:
            raise ValueError(
                "Derivatives through recalibrated statistics hold all batches at once; split "
                f"{objective.splits[0].name!r} is streamed. Use batch_norm='stored' or 'batch', "
                "or stream=False."
            )
        with objective.passive():
            if self.recalibrates:
                self.tensors = objective.space.unflatten(objective.point(theta).clone())
            else:
                self.tensors = objective.tensors_at(theta, None)
            self.names = tuple(block.name for block in blocks)
            self.leaves = tuple(self.tensors[n].detach().requires_grad_() for n in self.names)
        fixed = [*self.tensors.values(), *objective.forward_pass.state_dict().values()]
        if (whole := objective.splits[0].whole) is not None:
            fixed += tensors_in(whole)
        self.fixed_storages = frozenset(t.untyped_storage().data_ptr() for t in fixed)

    @property
    def count(self) -> int:
        """Number of batches times masks, and the penalty."""
        objective = self.objective
        batches = len(objective.splits[0].batches) * len(objective.samples)
        return (1 if self.recalibrates else batches) + (objective.penalty is not None)

    @contextmanager
    def context(self) -> Iterator[None]:
        """Let operators be ones that have second derivatives."""
        objective = self.objective
        modules = objective.forward_pass.model.modules()
        recurrent = any(isinstance(module, nn.RNNBase) for module in modules)
        with ExitStack() as stack:
            stack.enter_context(objective.passive(grad=True))
            stack.enter_context(unfused())
            if recurrent and self.device.type == "cuda":  # cuDNN has first derivatives alone
                flags: Any = torch.backends.cudnn.flags
                stack.enter_context(flags(enabled=False))
            if self.recalibrates:
                layers = objective.normalisation_layers
                stack.enter_context(moving_statistics(layers, twice=True))
            yield

    def all(self, outputs: bool = False) -> Iterator[Evaluate]:
        """Iterate over batches and masks, and the penalty after them."""
        objective = self.objective
        if self.recalibrates:
            yield self._recalibrated(outputs)
        else:
            for index, batch in enumerate(objective.splits[0].batches):
                for sample in objective.samples:
                    yield self._of(batch, sample, index, outputs)
        if objective.penalty is not None:
            yield self._penalty

    def few(self, outputs: bool = False) -> Evaluate:
        """Return a piece of a few examples."""
        few = few_of(self.objective.splits[0].head(_TRIED_EXAMPLES), _TRIED_EXAMPLES, _TRIED_TOKENS)
        return self._of(few, 0, 0, outputs)

    def expect_terms(self, count: Tensor) -> None:
        """Raise where no term counts."""
        reject_no_terms("loss", self.objective.splits[0].name, float(count))

    def _of(self, batch: Any, sample: int, index: int, outputs: bool) -> Evaluate:
        """Return one batch under one mask."""
        return lambda tensors: self._run(self._placed(tensors), batch, sample, index, outputs)

    def _placed(self, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return everything by name, with what moves at its place."""
        return self.tensors | dict(zip(self.names, tensors, strict=True))

    def _run(
        self, tensors: dict[str, Tensor], batch: Any, sample: int, index: int, outputs: bool
    ) -> Piece:
        """Pass one batch under one mask."""
        objective = self.objective
        objective.set_mode()
        loss = objective.forward_pass.criteria[0]
        if outputs and not loss.needs_output:
            raise ValueError(
                "The Gauss-Newton matrix needs a loss that is a function of the model's output "
                "alone; this one calls the model itself. Pass a loss `(output, target)`, or use "
                "kind='hessian'."
            )
        dropout = objective.dropout
        with nullcontext() if dropout is None else dropout.masks(sample, 0, index):
            (value, count), output = objective.forward_pass.call_apart(tensors, batch)
        if count.requires_grad:
            raise ValueError(
                "Derivatives need a number of terms that does not depend on θ; the count of this "
                "loss does. Return a count that is detached, or put what depends on θ into the sum."
            )
        if outputs and not (isinstance(output, Tensor) or getattr(loss, "of_prediction", False)):
            raise ValueError(
                "The Gauss-Newton matrix needs a loss of one tensor; the model returns "
                f"{type(output).__name__}, of which {objective.describe()['loss']} may use any "
                "part. Use one of torch's losses, or let the model return a tensor."
            )
        return Piece(value, count, (prediction(output),) if outputs else ())

    def _recalibrated(self, outputs: bool) -> Evaluate:
        """Return all batches as one piece: they share statistics that move with θ."""
        self._expect_room()

        def evaluate(tensors: Sequence[Tensor]) -> Piece:
            objective = self.objective
            placed = self._placed(tensors)
            placed |= objective.recalibrated(placed)
            pieces = [
                self._run(placed, batch, sample, index, outputs)
                for index, batch in enumerate(objective.splits[0].batches)
                for sample in objective.samples
            ]
            return Piece(
                torch.stack([piece.value for piece in pieces]).sum(),
                torch.stack([piece.count for piece in pieces if piece.count is not None]).sum(),
                tuple(output for piece in pieces for output in piece.outputs),
            )

        return evaluate

    def _expect_room(self) -> None:
        """Raise where the graph of all batches is too large for memory, told from a few."""
        split = self.objective.splits[0]
        piece = self.few()(self.leaves)
        saved = bytes_saved([piece.value.grad_fn], self.fixed_storages)
        examples = min(_TRIED_EXAMPLES, split.lengths[0])
        # Twice: statistics are collected in a pass of their own; and twice for the second order.
        needed = 4 * saved * split.examples // examples
        room = memory_for_graphs(self.device)
        del piece
        if needed > room:
            raise ValueError(
                "Derivatives through recalibrated statistics hold all batches at once, which "
                f"takes about {needed >> 20} MiB; {room >> 20} MiB are to be had. Use "
                "batch_norm='stored' or 'batch', or fewer examples."
            )

    def _penalty(self, tensors: Sequence[Tensor]) -> Piece:
        """Return the penalty."""
        return Piece(self.objective.penalty_at(self._placed(tensors)), None)
