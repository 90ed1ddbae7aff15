"""The cost of a model on data."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.func import functional_call

from thalweg.anchors import Anchor, part_of, write_combination
from thalweg.environment import usable_device
from thalweg.objectives.agreement import MIXED_BATCH, RANDOM_MODEL, expect_agreement
from thalweg.objectives.arithmetic import (
    Arithmetic,
    arithmetic,
    arithmetic_policy,
    rounding_type,
)
from thalweg.objectives.batch_norm import (
    BatchNormPolicy,
    batch_norm_policy,
    interpolated,
    normalisation_layers,
    population_statistics,
    reject_single_examples,
)
from thalweg.objectives.batches import Split, examples_in, narrow, read_splits
from thalweg.objectives.criteria import criterion
from thalweg.objectives.derivatives import gradient_at, products_at
from thalweg.objectives.dropout import MonteCarlo, dropout_policy
from thalweg.objectives.forward_pass import ForwardPass, private_copy
from thalweg.objectives.nested import few_of
from thalweg.objectives.objective import AnchorBuffers, Evaluation, Objective
from thalweg.objectives.pieces import ModelPieces
from thalweg.objectives.random_state import preserved_random_state
from thalweg.objectives.sharding import local_rows, sharded, whole
from thalweg.objectives.terms import reject_no_terms, split_batch
from thalweg.space import ParameterSpace, TensorBlock, plain_module, remembered_buffers

__all__ = ["ModelObjective"]

# What an objective checks itself on: enough to see what is random, little beside a sweep.
_CHECKED_BATCHES = 32
_CHECKED_EXAMPLES = 32
_CHECKED_TOKENS = 512


class ModelObjective(Objective):
    """The total cost J(θ) of a model: its loss averaged over all terms of a data set.

    J is a sum and a count over every example, added up in float64 and divided once, so the
    batch size cannot change it. The model is copied: later training does not change this
    objective, and evaluating it does not touch the model, its buffers, mode, gradients or
    the global random state.

    Args:
        model: Any module. Its trainable tensors are the coordinates of θ; frozen ones and
            buffers stay as they are at this moment. Trainable tensors on the meta device take
            no memory but that of the copy here, which the points of a section are written to.
        loss: A torch loss; a function `(output, target)` of one number (mean or sum over
            examples, found out by experiment) or of the tuple (sum, count); a function
            `(model, batch) → (sum, count)`, told by a first parameter called
            `model` or a second called `batch`; or None
            for the `loss` in the model's own output. J is the mean over terms for
            `reduction="mean"` and `"sum"` alike.
        data: Tensors `(x, y)`, a mapping of tensors, a Dataset or a DataLoader, or a mapping
            of split names to these. The first split is J. Data is read once and kept on the
            device, unless it is streamed. A mapping of tensors is passed to the model by
            name, as Hugging Face models expect.
        metrics: Name to function, in the forms of `loss`; a function of (output, target) may
            also return one value an example.
        batch_size: Examples a pass; None keeps the batches of a DataLoader, else 1024.
        device: Where to evaluate; that of the model by default.
        dtype: Type of parameters and floating-point data; that of the model by default.
            Narrow zooms (Goodfellow et al. 2015, Fig. 4) need `torch.float64`.
        batch_norm: What running statistics are at θ, where the model has any:
            `"recalibrate"` (default; population statistics of the first split, computed at
            θ), `"interpolate"`, `"stored"` or `"batch"`.
        dropout: None for no dropout, or `MonteCarlo(samples, seed)` for an average over the
            same masks at every point.
        penalty: A function of the named tensors, such as weight decay; its value is added
            to J (the first split) once.
        shard: Keep a slice of every parameter on each rank of a job of `torchrun` (FSDP2), for
            models that one device cannot hold. All ranks evaluate every point together.
        precision: None for products with all bits of `dtype`, whatever torch's global switches
            allow; `"tf32"` or `"bfloat16"` for faster ones where the device has them. Results
            then hold the error that this brings, measured at three of their points.
        stream: True reads the data anew in each pass and never holds more than a few batches;
            False keeps it on the device; None streams a split that would take more than 40 %
            of the free memory. Streamed data is read once here, for its checksums, and every
            later pass is compared with them.

    Raises:
        TypeError: If model, loss or data are of no accepted kind.
        ValueError: If a split is empty, nothing is trainable, or a loss does not reduce.
        NonDeterministicObjectiveError: If a second pass over the data differs.
        RuntimeError: If reading streamed data fails in the data set.

    Example:
        >>> model = torch.nn.Linear(2, 1)
        >>> x, y = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]]), torch.zeros(3, 1)
        >>> objective = ModelObjective(model, torch.nn.MSELoss(), (x, y))
        >>> objective.value(torch.tensor([1.0, 1.0, 0.0]))
        3.0
        >>> objective.gradient(torch.tensor([1.0, 1.0, 0.0]))
        tensor([2.0000, 4.0000, 3.3333])
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Any,
        data: Any,
        *,
        metrics: Mapping[str, Any] | None = None,
        batch_size: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        batch_norm: BatchNormPolicy | None = None,
        dropout: MonteCarlo | Literal["off"] | None = None,
        penalty: Callable[[Mapping[str, Tensor]], Tensor] | None = None,
        shard: bool = False,
        precision: Arithmetic | None = None,
        stream: bool | None = None,
    ) -> None:
        model = plain_module(model)
        _reject_odd_settings(metrics, dtype)
        self.space = ParameterSpace.of(model)
        first = next(p for p in model.parameters() if p.requires_grad)
        where = "cpu" if first.is_meta else first.device
        self.device = usable_device(where if device is None else device)
        self.dtype = first.dtype if dtype is None else dtype
        criteria = [criterion(loss, "loss", _name_of(loss))]
        for name, metric in (metrics or {}).items():
            criteria.append(criterion(metric, "metric", name))
        self.metrics = tuple(metrics or {})
        self.penalty = penalty
        self.precision = arithmetic_policy(precision, self.dtype)
        self.dropout = dropout_policy(dropout)
        with self.passive():
            own = private_copy(model, self.device, self.dtype, self.space.names)
            self.forward_pass = ForwardPass(own, criteria)
            self.splits = read_splits(data, batch_size, self.device, self.dtype, stream)
            if (settle := getattr(criteria[0], "settle", None)) is not None:
                settle(self.forward_pass.model, self.splits)
        self.normalisation_layers = normalisation_layers(self.forward_pass.model)
        self.batch_norm = batch_norm_policy(batch_norm, self.forward_pass.model)
        self._loss_name = _name_of(loss)
        self._checked = False
        self._terms: dict[str, float] = {}
        self.sharding = sharded(self.forward_pass.model, self.device) if shard else None
        if self.batch_norm == "batch":
            reject_single_examples(self.splits)

    def evaluate(self, theta: Tensor, anchor_buffers: AnchorBuffers | None = None) -> Evaluation:
        """Return the loss and the metrics on every split at one point, from one pass."""
        with self.passive():
            return self.evaluate_at(self.tensors_at(theta, anchor_buffers))

    def evaluate_at(self, tensors: Mapping[str, Tensor]) -> Evaluation:
        """Return the loss and the metrics on every split, from one pass.

        Args:
            tensors: Parameters and running statistics in place of the model's own, by name.
                What is missing is the model's own.
        """
        sums = [
            self._sums(split.batches, tensors, self.samples, index)
            for index, split in enumerate(self.splits)
        ]
        return self.evaluation(sums, tensors)

    def evaluation(
        self, sums: Sequence[Sequence[Tensor]], tensors: Mapping[str, Tensor]
    ) -> Evaluation:
        """Divide sums by counts, and add the penalty: the end of every way to evaluate a point.

        Args:
            sums: For each split and each Monte-Carlo sample (one where the cost is exact) sum
                and count of every criterion, shape (criteria, 2), float64.
            tensors: The named parameters at the point, for the penalty.
        """
        loss: dict[str, float] = {}
        metrics: dict[str, dict[str, float]] = {name: {} for name in self.metrics}
        samples: dict[str, tuple[float, ...]] = {}
        for split, totals in zip(self.splits, sums, strict=True):
            drawn = [self._means(split, total) for total in totals]
            loss[split.name] = sum(means[0] for means in drawn) / len(drawn)
            for place, name in enumerate(self.metrics, start=1):
                metrics[name][split.name] = sum(m[place] for m in drawn) / len(drawn)
            if self.dropout is not None:
                samples[split.name] = tuple(means[0] for means in drawn)
        if self.penalty is not None:
            extra = float(self.penalty_at(tensors))
            first = self.splits[0].name
            loss[first] += extra
            samples = {
                name: tuple(v + extra for v in values) if name == first else values
                for name, values in samples.items()
            }
        return Evaluation(loss, metrics, samples)

    def value(self, theta: Tensor | ArrayLike) -> float:
        """Return J(θ): the loss on the first split."""
        with self.passive():
            tensors = self.tensors_at(theta, None)
            first = self.splits[0]
            sums = self._sums(first.batches, tensors, self.samples, 0)
            drawn = [self._means(first, total)[0] for total in sums]
            value = sum(drawn) / len(drawn)
            return value + (0.0 if self.penalty is None else float(self.penalty_at(tensors)))

    def gradient(self, theta: Tensor | ArrayLike) -> Tensor:
        """Return ∇J(θ) over the whole first split, shape (P,).

        Gradients of the summed loss are added up in float64 and divided by the count once. Under
        `batch_norm="recalibrate"` they go through the population statistics, with all batches in
        memory at once.

        Raises:
            ValueError: If parameters are sharded, or the number of terms depends on θ.
        """
        return gradient_at(self, theta)

    def hvp(self, theta: Tensor | ArrayLike, vector: Tensor | ArrayLike) -> Tensor:
        """Return H(θ) v over the whole first split, exact.

        For many products at one point use `thalweg.curvature`, which keeps what they share.

        Args:
            theta: θ, shape (P,).
            vector: Shape (P,), or (k, P) for a block of vectors, which share the passes.

        Returns:
            The products, in the shape of `vector`.

        Raises:
            ValueError: If parameters are sharded, or the number of terms depends on θ.
        """
        return products_at(self, theta, vector)

    def pieces(self, theta: Tensor | ArrayLike, blocks: Sequence[TensorBlock]) -> ModelPieces:
        """Return the batches under each mask of dropout, and the penalty."""
        return ModelPieces(self, theta, blocks)

    def check(self, theta: Tensor) -> None:
        """Raise unless the same batches give the same loss twice, and in two sizes.

        Up to 32 examples of each of up to 32 batches of the first split, evenly spread, are
        evaluated twice as they are and once in two parts; fewer where they are sequences, of
        512 tokens together. The first finds models that draw random numbers even in evaluation
        mode (functional dropout, stochastic depth), the second losses and layers that mix the
        examples of a batch. Once an objective has passed at a point where its loss is finite, it
        is not asked again.
        """
        if self._checked:
            return
        with self.passive():
            self._check_at(self.tensors_at(theta, None, allow_missing=True))

    def check_on(self, section_anchors: Sequence[Anchor], weights: Sequence[float]) -> None:
        """As `check`, at the point Σ_j w_j P_j that is written into this objective's model.

        Args:
            section_anchors: m points.
            weights: m numbers.
        """
        if not self._checked:
            with self.passive():
                self.write(section_anchors, weights)
                self._check_at(self.statistics_at({}, ([None], [1.0]), allow_missing=True))

    def _check_at(self, tensors: Mapping[str, Tensor]) -> None:
        """Raise unless the same batches give the same loss twice, and in two sizes."""
        finite = True
        names = ("loss", *self.metrics)
        for index, examples in self.splits[0].spread(_CHECKED_BATCHES, _CHECKED_EXAMPLES):
            batch = few_of(examples, _CHECKED_EXAMPLES, _CHECKED_TOKENS)
            (first,) = self._sums([batch], tensors, [0], 0, index)
            (again,) = self._sums([batch], tensors, [0], 0, index)
            finite = finite and bool(torch.isfinite(first).all())
            expect_agreement(first, again, names, self.rounding, RANDOM_MODEL)
            if self.dropout is None and self.batch_norm != "batch":
                cut = max(1, examples_in(batch) // 3)
                parts = [narrow(batch, 0, cut), narrow(batch, cut, examples_in(batch))]
                parts = [part for part in parts if examples_in(part)]
                (cut_up,) = self._sums(parts, tensors, [0], 0, index)
                expect_agreement(first, cut_up, names, self.rounding, MIXED_BATCH)
        self._checked = finite

    def describe(self) -> Mapping[str, Any]:
        """Return model, loss, policies and, for each split, its size and checksum."""
        dropout = self.dropout
        splits = {
            split.name: {
                "examples": split.examples,
                "terms": self._terms.get(split.name),
                "batches": len(split.batches),
                "streamed": split.streamed,
                "sha256": split.sha256,
            }
            for split in self.splits
        }
        return {
            "model": type(self.forward_pass.model).__name__,
            "parameters": self.space.size,
            "loss": self._loss_name,
            "metrics": list(self.metrics),
            "splits": splits,
            "batch_norm": self.batch_norm,
            "dropout": None
            if dropout is None
            else {"samples": dropout.samples, "seed": dropout.seed},
            "penalty": None if self.penalty is None else _name_of(self.penalty),
            "precision": self.precision,
        }

    @property
    def rounding(self) -> torch.dtype:
        """The type whose rounding the cost has: that of its products."""
        return rounding_type(self.dtype, self.precision)

    def in_full_precision(self) -> "ModelObjective":
        """Return the same cost with products in all bits of its type, sharing model and data."""
        own = copy.copy(self)
        own.precision = None
        return own

    @property
    def samples(self) -> range:
        """Numbers of the Monte-Carlo samples; one where the cost is exact."""
        return range(1 if self.dropout is None else self.dropout.samples)

    @contextmanager
    def passive(self, grad: bool = False) -> Iterator[None]:
        """Evaluate whatever context the caller is in: own arithmetic, random state put back."""
        with (
            torch.inference_mode(False),
            torch.set_grad_enabled(grad),
            arithmetic(self.device, self.precision),
            preserved_random_state(),
        ):
            yield

    def tensors_at(
        self,
        theta: Tensor | ArrayLike,
        anchor_buffers: AnchorBuffers | None,
        allow_missing: bool = False,
    ) -> dict[str, Tensor]:
        """Return parameters and running statistics at a point, by their names in the pass."""
        if anchor_buffers is None:
            anchor_buffers = ([remembered_buffers(theta)], [1.0])
        # A copy, because layers may write to their weights (an Embedding with `max_norm` does).
        point = self.point(theta)
        if self.sharding is None:
            tensors = self.space.unflatten(point.clone())
        else:
            self.write([point], [1.0])
            tensors = {}
        return tensors | self.statistics_at(tensors, anchor_buffers, allow_missing)

    def write(self, anchors: Sequence[Anchor], weights: Sequence[float]) -> None:
        """Overwrite the parameters of this objective's own model with Σ_j w_j P_j.

        They are written tensor by tensor, each rank of a sharded model its own rows, so that
        nothing but one tensor is held beside the model and the anchors.

        Args:
            anchors: m points.
            weights: m numbers.
        """
        model = self.forward_pass.model
        used = [(w, anchor) for w, anchor in zip(weights, anchors, strict=True) if w != 0]
        with torch.no_grad():
            for block in self.space.blocks:
                target, rows = local_rows(model.get_parameter(block.name))
                parts = (part_of(a, block, rows).to(self.device, self.dtype) for _, a in used)
                write_combination(target, parts, [w for w, _ in used])

    def try_batch(self, batch: Any) -> Tensor:
        """Return sums and counts of one batch with the model's own parameters, for a trial."""
        with self.passive():
            return self._sums([batch], self.statistics_at({}, ([None], [1.0]), True), [0], 0)[0]

    def statistics_at(
        self,
        parameters: Mapping[str, Tensor],
        anchor_buffers: AnchorBuffers,
        allow_missing: bool = False,
    ) -> dict[str, Tensor]:
        """Return the running statistics at a point that are not the model's own, by name.

        Args:
            parameters: The parameters there; what is missing is the model's own.
            anchor_buffers: Where the point lies on a section.
            allow_missing: Take the model's own where the anchors have none, or where others
                would take readings of streamed data.
        """
        if self.batch_norm == "recalibrate":
            # In a trial the model's own statistics do, and take no readings of the data.
            trial = allow_missing and self.splits[0].streamed
            return {} if trial else self.recalibrated(parameters)
        if self.batch_norm == "interpolate":
            if allow_missing and anchor_buffers[0][0] is None:
                return {}
            return interpolated(self.normalisation_layers, *anchor_buffers, self.device, self.dtype)
        if self.batch_norm == "batch":  # written to by each pass, so not the model's own
            return self.own_statistics()
        return {}

    def own_statistics(self) -> dict[str, Tensor]:
        """Return copies of the model's own statistics; layers in training mode write to them."""
        return {
            f"{name}.{part}" if name else part: buffer.clone()
            for name, layer in self.normalisation_layers.items()
            for part, buffer in layer.named_buffers(recurse=False)
        }

    def recalibrated(
        self,
        parameters: Mapping[str, Tensor],
        buffer: Callable[[Tensor], Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Return population statistics of the first split at a point, with dropout off.

        Args:
            parameters: The named parameters at a point; where they carry tangents, so do the
                statistics.
            buffer: Makes a buffer that can hold those; None where a plain one can.
        """
        return self.recalibrated_together(lambda point: parameters, 1, buffer)[0]

    def recalibrated_together(
        self,
        parameters: Callable[[int], Mapping[str, Tensor]],
        points: int,
        buffer: Callable[[Tensor], Tensor] | None = None,
    ) -> list[dict[str, Tensor]]:
        """Return population statistics of the first split at some points, with dropout off.

        One reading of a batch serves all points.

        Args:
            parameters: Returns the named parameters at a point, given by its number.
            points: How many points there are.
            buffer: As for `recalibrated`.
        """
        model = self.forward_pass.model

        def forward(point: int, batch: Any, statistics: dict[str, Tensor]) -> None:
            tensors = {**parameters(point), **statistics}
            inputs, named, _ = split_batch(batch)
            if self.forward_pass.needs_output:
                functional_call(model, tensors, inputs, named)
            else:
                self.forward_pass.call(tensors, batch)

        model.eval()
        return population_statistics(
            self.normalisation_layers, self.splits[0], forward, points, buffer
        )

    def _means(self, split: Split, sums: Tensor) -> list[float]:
        """Return the mean of the loss and of every metric over one split."""
        sums = sums.cpu()
        for name, row in zip(("loss", *self.metrics), sums, strict=True):
            reject_no_terms(name, split.name, float(row[1]))
        self._terms[split.name] = float(sums[0, 1])
        return [float(row[0] / row[1]) for row in sums]

    def _sums(
        self,
        batches: Any,
        tensors: Mapping[str, Tensor],
        samples: Sequence[int],
        split_index: int,
        first_index: int = 0,
    ) -> list[Tensor]:
        """Return sum and count of every criterion for each sample, shape (criteria, 2)."""
        self.set_mode()
        shape = (len(samples), len(self.forward_pass.criteria), 2)
        totals = torch.zeros(shape, dtype=torch.float64, device=self.device)
        if self.sharding is None:
            for index, batch in enumerate(batches, start=first_index):
                for place, sample in enumerate(samples):
                    totals[place] += self.call(tensors, batch, sample, split_index, index)
            return list(totals)
        self.sharding.share(
            batches,
            totals,
            lambda number, batch: [
                self.call(tensors, batch, sample, split_index, first_index + number)
                for sample in samples
            ],
        )
        return list(totals)

    def call(
        self,
        tensors: Mapping[str, Tensor],
        batch: Any,
        sample: int,
        split_index: int,
        index: int,
        loss_only: bool = False,
    ) -> Tensor:
        """Run one batch, under the masks that belong to it where dropout is on."""
        if self.dropout is None:
            return self.forward_pass.call(tensors, batch, loss_only)
        with self.dropout.masks(sample, split_index, index):
            return self.forward_pass.call(tensors, batch, loss_only)

    def set_mode(self) -> None:
        """Put the copy in the mode that the policies ask for."""
        self.forward_pass.train(self.dropout is not None)
        for layer in self.normalisation_layers.values():
            layer.train(self.batch_norm == "batch")

    def penalty_at(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return the penalty of the parameters alone, as a float64 scalar."""
        assert self.penalty is not None
        model = self.forward_pass.model
        own = {
            name: tensors[name] if name in tensors else whole(model.get_parameter(name))
            for name in self.space.names
        }
        given: Any = self.penalty(own)
        value = given if isinstance(given, Tensor) else torch.tensor(given, dtype=torch.float64)
        if value.numel() != 1:
            raise ValueError(
                f"A penalty must return one number; got shape {tuple(value.shape)}. Add `.sum()`."
            )
        return value.double().reshape(())


def _reject_odd_settings(metrics: Any, dtype: Any) -> None:
    """Raise for metrics without names and for a type that is none of torch's."""
    if metrics is not None and not isinstance(metrics, Mapping):
        raise TypeError(
            "`metrics` maps names to functions, such as {'error': thalweg.error_rate}; got "
            f"{type(metrics).__name__}. Give each metric a name."
        )
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise TypeError(
            f"`dtype` is a floating-point type of torch; got {dtype!r}. Use torch.float64."
        )


def _name_of(loss: Any) -> str:
    """Return what a loss is called in results and messages."""
    if loss is None:
        return "the model's own loss"
    if isinstance(loss, nn.Module):
        return type(loss).__name__
    return getattr(loss, "__name__", type(loss).__name__)
