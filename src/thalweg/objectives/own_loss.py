"""The loss that a model computes itself, as Hugging Face models do when given labels."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.objectives.batches import Split, examples_in, narrow
from thalweg.objectives.streaming import recut
from thalweg.objectives.terms import TRIAL_TOLERANCE, SumAndCount, count_of

__all__ = ["OwnLoss"]

_TRIAL_EXAMPLES = 32


class OwnLoss:
    """The `loss` in a model's own output, as Hugging Face models return it given labels.

    It is a mean over one of three numbers of terms: labels that are not −100, those labels
    after the first (language models shift them by one), or examples. `settle` finds out which.
    """

    needs_output = False

    def __init__(self) -> None:
        self.candidates: tuple[int, ...] = (0, 1, 2)
        self.tested = False

    def __call__(self, model: nn.Module, batch: Any, output: Any) -> SumAndCount:
        """Weigh the model's mean by its number of terms."""
        value = self._value(model, batch).double()
        count = self._counts(batch)[self.candidates[0]]
        # A mean over no terms is NaN; their sum is not.
        return value * count if count else torch.zeros_like(value), count_of(count, value)

    def settle(self, model: nn.Module, splits: Sequence[Split]) -> None:
        """Drop the candidates for which a batch is not the mean of two parts of it.

        Raises:
            ValueError: If none is left, or several are that weigh the batches differently.
        """
        for batch in _trial_batches(splits):
            if len(self.candidates) == 1 and self.tested:
                return  # one is left, which agrees with itself
            for trial in (batch, _with_few_labels(batch)):
                if len(self.candidates) > 1 or not self.tested:
                    self._narrow_down(model, trial)
        if not self._agree(batch for split in splits for batch in split.batches):
            raise ValueError(_OWN_COUNT_MESSAGE.format("cannot be told from these batches"))

    def _value(self, model: nn.Module, batch: Any) -> Tensor:
        """Return the scalar loss of the model."""
        output = model(**batch) if isinstance(batch, Mapping) else model(*batch)
        loss = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise ValueError(
                "With loss=None the model must return an output with a scalar `loss`; got "
                f"{type(output).__name__} without one. Pass a loss, or labels in the batch."
            )
        return loss.reshape(())

    def _counts(self, batch: Any) -> tuple[int, int, int]:
        """Return the three candidates for the number of terms."""
        examples = examples_in(batch)
        labels = _class_labels(batch)
        if labels is None:
            return examples, examples, examples
        counted = labels != -100
        shifted = counted[..., 1:] if labels.ndim > 1 else counted
        return int(counted.sum()), int(shifted.sum()), examples

    def _agree(self, batches: Iterable[Any]) -> bool:
        """Tell whether all candidates give the batches the same weights, up to a factor."""
        counts = [self._counts(batch) for batch in batches]
        rows = [[count[c] for count in counts] for c in self.candidates]
        return all(
            n * sum(rows[0]) == first * sum(row)
            for row in rows[1:]
            for n, first in zip(row, rows[0], strict=True)
        )

    def _narrow_down(self, model: nn.Module, batch: Any) -> None:
        """Try one batch against two parts of it."""
        examples = examples_in(batch)
        cut = max(1, examples // 3)
        parts = [narrow(batch, 0, cut), narrow(batch, cut, examples)]
        if examples < 2 or (self.tested and self._agree(parts)):
            return
        value = self._value(model, batch)
        whole = float(value)
        if not math.isfinite(whole) or whole == 0:
            return  # every mean of nothing is nothing
        values = [float(self._value(model, part)) for part in parts]
        tolerance = TRIAL_TOLERANCE.get(value.dtype, 1e-2) * abs(whole)
        fitting = []
        for candidate in self.candidates:
            counts = [self._counts(part)[candidate] for part in parts]
            total = sum(n * value for n, value in zip(counts, values, strict=True) if n)
            if sum(counts) and abs(total / sum(counts) - whole) <= tolerance:
                fitting.append(candidate)
        if not fitting:
            raise ValueError(
                _OWN_COUNT_MESSAGE.format(
                    "is neither the labels that are not -100 nor the examples"
                )
            )
        self.candidates, self.tested = tuple(fitting), True


_OWN_COUNT_MESSAGE = (
    "The number of terms that the model's own loss averages over must be known; it {}. Pass a "
    "loss `(model, batch) → (sum, count)`."
)


def _trial_batches(splits: Sequence[Split]) -> Iterator[Any]:
    """Iterate over batches of several examples, also where the evaluation takes single ones."""
    for split in splits:
        if split.whole is None and split.uniform:
            yield from recut(split.batches, _TRIAL_EXAMPLES)
        elif split.whole is None:
            yield from split.batches
        else:
            for start in range(0, split.examples, _TRIAL_EXAMPLES):
                yield narrow(split.whole, start, start + _TRIAL_EXAMPLES)


def _class_labels(batch: Any) -> Tensor | None:
    """Return the labels of a batch that a model takes by name, where they are classes."""
    labels = batch.get("labels") if isinstance(batch, Mapping) else None
    return labels if isinstance(labels, Tensor) and not labels.is_floating_point() else None


def _with_few_labels(batch: Any) -> Any:
    """Keep one label of a sequence in the first part of a batch and two in the rest.

    On whole sequences the candidates differ by so little that rounding could hide it.
    """
    labels = _class_labels(batch)
    if labels is None or labels.ndim < 2:
        return batch
    few = labels.clone()
    few[: max(1, len(few) // 3), 1:] = -100
    few[:, 2:] = -100
    return {**batch, "labels": few}
