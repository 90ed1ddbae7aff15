"""The cost of a causal language model: the mean cross-entropy of every token that it predicts."""

import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from thalweg.objectives.batches import Split, narrow
from thalweg.objectives.documents import IGNORED
from thalweg.objectives.output_head import Measure, at_positions
from thalweg.objectives.terms import SumAndCount, count_of

__all__ = ["NextToken", "token_error_rate"]

_CHUNK = 256  # measured with cross-entropy on a CPU; 128 to 1024 are equally fast

# How far the loss of a token may move when tokens change that it must not see.
_UNMOVED = {torch.float64: 1e-9, torch.float32: 1e-4}
_COARSE = 2e-2


@dataclass(frozen=True)
class NextToken:
    """The loss of a causal language model: how well it predicts each token from those before.

    J = −(1/N) Σ log p_θ(xₜ | x_<t) over all N predicted tokens of all documents, whatever the
    batches; exp J is the perplexity. Terms are computed in float32 at least and summed in
    float64. Pass it as the loss of `ModelObjective`, for a Transformers model or any module
    that returns logits of shape (rows, length, vocabulary), or an output that holds them as
    `logits`.

    A batch is a mapping with `input_ids`, shape (rows, length), and where wanted

    - `attention_mask`, shape (rows, length): 0 for filling, on the right or on the left;
    - `position_ids`: where they start anew, another document begins (see `packed`);
    - `labels`: what is to be predicted, at the place of the token itself; −100 for what does
      not count, such as a prompt. Without them every token counts.

    All but labels and masks of mere filling goes to the model by name. A batch may also be
    the tensor of token ids alone. A token counts if its label does and the token before it is
    of the same document, so the first of each does not: put a token for the beginning before
    it if it should.

    Filling on the left is moved to the right, where no token sees it. The cache of keys and
    values, with which Transformers lets packed documents see each other, is switched off. An
    objective makes sure that no token is predicted from later ones or from another document.

    Args:
        positions: How many positions to make logits for at a time. Where a model's output head
            is a module of its own and nothing is done to the logits after it, no larger table
            is ever made by a pass; under derivatives all logits of a batch stay in memory, as
            in training.

    Raises:
        TypeError: If a batch holds no token ids.
        ValueError: If tokens see what they must not, or shapes do not fit.

    Example:
        >>> class Bigram(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.table = torch.nn.Embedding(4, 4)
        ...
        ...     def forward(self, input_ids):
        ...         return self.table(input_ids)
        >>> from thalweg import ModelObjective
        >>> data = {"input_ids": torch.tensor([[0, 1, 2, 3]])}
        >>> objective = ModelObjective(Bigram(), NextToken(), data)
        >>> round(objective.value(torch.zeros(16)), 6)  # log 4: every token is as likely
        1.386294
    """

    positions: int = _CHUNK

    def __post_init__(self) -> None:
        if self.positions < 1:
            raise ValueError(
                f"`positions` must be 1 or more; got {self.positions}. Leave it out for {_CHUNK}."
            )

    def __call__(self, model: nn.Module, batch: Any) -> SumAndCount:
        """Return the summed cross-entropy of a batch and the number of tokens predicted."""
        terms = _measured(model, batch, _cross_entropy, self.positions)
        return terms.double().sum(), count_of(terms.numel(), terms)

    def settle(self, model: nn.Module, splits: Sequence[Split]) -> None:
        """Make sure that tokens are predicted from those before them in their document alone.

        Some tokens of a row are changed, and the loss of those that must not see them compared:
        the last token that is predicted, and what stands before a document that is not the first.

        Raises:
            ValueError: If a model sees what it must not.
        """
        if (row := _first_row(splits, _counted)) is not None:
            last = int(_counted(row)[0].nonzero().max())
            self._expect_blind(model, row, slice(last, last + 1), slice(last + 1), _LOOKS_AHEAD)
        if (row := _first_row(splits, _after_another)) is not None:
            predicted = int(_after_another(row)[0].nonzero().min())
            begin = int((~_follows(row))[0, :predicted].nonzero().max())
            self._expect_blind(model, row, slice(begin), slice(begin, None), _SEES_OTHERS)

    def _expect_blind(
        self, model: nn.Module, row: Any, changed: slice, predicted: slice, message: str
    ) -> None:
        """Raise if what is predicted depends on the tokens that are changed."""
        ids = _ids(row)
        low, high = ids.min(), ids.max()  # other tokens need not be in the vocabulary
        other = ids.clone()
        other[:, changed] = torch.where(ids[:, changed] == low, high, low)
        places, targets = _targets(row)
        seen = torch.zeros_like(ids, dtype=torch.bool)
        seen[:, predicted] = True
        seen = seen.flatten()[places + 1]
        before, after = (
            at_positions(model, inputs, ids.shape, places, targets, _cross_entropy, self.positions)[
                seen
            ]
            for inputs in (_inputs(model, row), _inputs(model, _with_ids(row, other)))
        )
        away = float((after - before).abs().max())
        allowed = _UNMOVED.get(before.dtype, _COARSE) if _is_exact(model) else _COARSE
        if away > allowed * (1 + float(before.abs().max())):
            raise ValueError(message.format(name=type(model).__name__, away=away))


_LOOKS_AHEAD = (
    "A token must be predicted from those before it; in {name} the loss of earlier tokens moves "
    "by {away:.3g} when the last token changes. Use a causal language model."
)
_SEES_OTHERS = (
    "Packed documents must not see each other; in {name} the loss of one moves by {away:.3g} when "
    "the tokens of another change. Use a model that tells documents by their position_ids "
    "(Transformers 4.53 or later, attention of kind 'sdpa' or 'eager', no cache), or pass "
    "`thalweg.padded(documents)`."
)


def token_error_rate(model: nn.Module, batch: Any) -> SumAndCount:
    """Return the number of tokens that are not the likeliest one, and the number predicted.

    A metric for `ModelObjective(metrics={"error": token_error_rate})` beside `NextToken`,
    with the same batches and the same tokens. It takes a pass of its own, so the cost with it
    takes twice the time.
    """
    wrong = _measured(model, batch, _misses, _CHUNK)
    return wrong.double().sum(), count_of(wrong.numel(), wrong)


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return one cross-entropy a token, in float32 at least."""
    exact = logits if logits.dtype == torch.float64 else logits.float()
    return functional.cross_entropy(exact, targets, reduction="none")


def _misses(logits: Tensor, targets: Tensor) -> Tensor:
    """Tell for each token whether another one is likelier; NaN has no winner."""
    return (logits.argmax(-1) != targets) | logits.isnan().any(-1)


def _measured(model: nn.Module, batch: Any, measure: Measure, chunk: int) -> Tensor:
    """Return a measure of every predicted token of a batch, shape (n,)."""
    batch = _filled_right(batch)
    places, targets = _targets(batch)
    shape = _ids(batch).shape
    return at_positions(model, _inputs(model, batch), shape, places, targets, measure, chunk)


def _ids(batch: Any) -> Tensor:
    """Return the token ids of a batch, shape (rows, length)."""
    ids = batch.get("input_ids") if isinstance(batch, Mapping) else batch
    if not isinstance(ids, Tensor) or ids.is_floating_point():
        came = f"the keys {sorted(batch)}" if isinstance(batch, Mapping) else type(batch).__name__
        raise TypeError(
            "A batch for NextToken is a mapping with whole numbers called 'input_ids', or a tensor "
            f"of them; got {came}. Make it with `thalweg.padded(documents)` or "
            "`thalweg.packed(documents, length)`."
        )
    if ids.ndim != 2:
        raise ValueError(
            f"Token ids must have shape (rows, length); got {tuple(ids.shape)}. Put one document "
            "a row."
        )
    return ids


def _part(batch: Any, name: str) -> Tensor | None:
    """Return one more table of a batch in the shape of the token ids, or None."""
    value = batch.get(name) if isinstance(batch, Mapping) else None
    if value is None or (name == "attention_mask" and value.ndim == 4):
        return None
    shape = _ids(batch).shape
    if value.shape != shape:
        raise ValueError(
            f"`{name}` must have the shape of the token ids, {tuple(shape)}; got "
            f"{tuple(value.shape)}. Make both with `thalweg.padded` or `thalweg.packed`."
        )
    return value  # type: ignore[no-any-return]


def _labels(batch: Any) -> Tensor:
    """Return the labels of a batch: the tokens themselves where there are none."""
    labels = _part(batch, "labels")
    return _ids(batch) if labels is None else labels


def _counted(batch: Any) -> Tensor:
    """Tell which tokens of a batch are predicted, shape (rows, length)."""
    counted = _labels(batch) != IGNORED
    counted = counted & _follows(batch)
    if (mask := _part(batch, "attention_mask")) is not None:
        counted[:, 1:] &= (mask[:, 1:] != 0) & (mask[:, :-1] != 0)
    return counted


def _follows(batch: Any) -> Tensor:
    """Tell which tokens have one of their document before them, shape (rows, length)."""
    follows = torch.ones_like(_ids(batch), dtype=torch.bool)
    follows[:, :1] = False
    if (positions := _part(batch, "position_ids")) is not None:
        follows[:, 1:] = positions[:, 1:] == positions[:, :-1] + 1
    return follows


def _after_another(batch: Any) -> Tensor:
    """Tell which predicted tokens have another document before their own, shape (rows, length)."""
    begins = ~_follows(batch)
    begins[:, :1] = False
    if (mask := _part(batch, "attention_mask")) is not None:
        begins[:, 1:] &= (mask[:, 1:] != 0) & (mask[:, :-1] != 0)
    return _counted(batch) & (begins.cumsum(1) > 0)


def _targets(batch: Any) -> tuple[Tensor, Tensor]:
    """Return the flat positions to predict from, shape (n,), and what comes next there."""
    at = _counted(batch).flatten().nonzero()[:, 0]
    return at - 1, _labels(batch).flatten()[at]


def _first_row(splits: Sequence[Split], tell: Callable[[Any], Tensor]) -> Any:
    """Return the first row that has a token of some kind, as a batch of its own, or None."""
    for batch in map(_filled_right, itertools.chain(*(split.batches for split in splits))):
        having = tell(batch).any(1).nonzero()
        if len(having):
            row = int(having[0])
            return narrow(batch, row, row + 1)
    return None


def _inputs(model: nn.Module, batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a model for one batch."""
    if not isinstance(batch, Mapping):
        return (batch,), {}
    named = {name: value for name, value in batch.items() if name != "labels"}
    base: Any = getattr(model, "get_base_model", lambda: model)()  # inside adapters of PEFT
    accepted = inspect.signature(base.forward).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in accepted.values())
    caches = hasattr(getattr(model, "config", None), "use_cache")
    if "use_cache" in accepted or (takes_any and caches):
        named.setdefault("use_cache", False)
    mask = _part(batch, "attention_mask")
    # Filling on the right needs no mask, for no token sees what comes after it. With one
    # attention is slower, packed documents see each other, and where a row of it leaves nothing
    # to see (behind a short document, in a window) Transformers makes NaN in float64.
    if mask is not None and bool((mask[:, 1:] <= mask[:, :-1]).all()):
        del named["attention_mask"]
    return (), named


def _filled_right(batch: Any) -> Any:
    """Move filling on the left to the right, with everything that belongs to the tokens.

    The cost of a causal model is the same; positions count from the first token, also in a
    model that cannot be told them, and no mask is needed.
    """
    mask = _part(batch, "attention_mask")
    if mask is None or bool((mask[:, 0] != 0).all()):
        return batch
    ids = _ids(batch)
    lead = ((mask != 0).cumsum(1) == 0).sum(1, keepdim=True)
    order = (torch.arange(ids.shape[1], device=ids.device) + lead) % ids.shape[1]

    def move(value: Any) -> Any:
        of_tokens = isinstance(value, Tensor) and value.shape == ids.shape
        return value.gather(1, order) if of_tokens else value

    return {name: move(value) for name, value in batch.items()}


def _with_ids(row: Any, ids: Tensor) -> Any:
    """Return a row with other tokens."""
    return {**row, "input_ids": ids} if isinstance(row, Mapping) else ids


def _is_exact(model: nn.Module) -> bool:
    """Tell whether a model computes in single precision at least."""
    types = {p.dtype for p in model.parameters() if p.is_floating_point()}
    return types <= set(_UNMOVED)
