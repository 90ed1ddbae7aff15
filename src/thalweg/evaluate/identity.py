"""What makes two sweeps sweeps of the same cost, so that a finished point of one serves the other.

The value at a point depends on its weights and on everything listed here: the anchors, the model
and what in it does not move, the loss, the metrics, the penalty, the examples, the policies, the
type and kind of device, the versions, and the way of evaluation. All of it goes into one digest.

What J does not depend on stays out, although it may change the last bits: the size of the
batches, the order of the examples, the number of threads. Where batches matter (`batch_norm=
"batch"`, Monte-Carlo dropout) size and order count.

Code can change in ways that no digest sees. So every digest goes with a probe: sums of the loss
over a few examples at one point, which must come out again, up to rounding.
"""

import hashlib
import itertools
import math
import platform
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thalweg._version import __version__
from thalweg.anchors import Anchor, combine
from thalweg.errors import NonDeterministicObjectiveError
from thalweg.evaluate.fingerprint import digest_of, facts_of, module_facts, tensor_facts
from thalweg.evaluate.tensorwise import placed
from thalweg.objectives.agreement import Disagreement, expect_agreement
from thalweg.objectives.batches import Split, examples_in, map_tensors, narrow
from thalweg.objectives.function import FunctionObjective
from thalweg.objectives.model import ModelObjective
from thalweg.objectives.nested import joined
from thalweg.objectives.objective import Objective
from thalweg.objectives.own_loss import OwnLoss
from thalweg.objectives.sharding import whole
from thalweg.sections import Section

__all__ = ["Identity", "Probe", "identity_of", "probed"]

# What was summed, with sum and count.
Probe = Mapping[str, tuple[float, float]]

_PROBED_EXAMPLES = 64
_PROBED_SINGLY = 8  # of sequences that cannot be joined
_PROBED_BATCHES = 2
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")

_digests: weakref.WeakKeyDictionary[Split, "_Digests"] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Identity:
    """What the value at a point depends on besides its weights.

    Attributes:
        facts: Part to plain facts, or to the checksum of what is long.
        dtype: Type of the evaluation, which sets what rounding is.
    """

    facts: Mapping[str, Any]
    dtype: torch.dtype = torch.float64

    @property
    def digest(self) -> str:
        """SHA-256 of the facts."""
        return digest_of(dict(self.facts))

    def differences(self, other: Mapping[str, Any]) -> list[str]:
        """Return the names of the parts in which other facts differ."""
        names = sorted({*self.facts, *other})
        return [name for name in names if self.facts.get(name) != other.get(name)]

    def disagreement(self, kept: Probe, now: Probe) -> str | None:
        """Say in what two probes differ beyond rounding, or return None."""
        if set(kept) != set(now):
            return f"it was probed by {sorted(kept)}, and is now by {sorted(now)}"
        rule = Disagreement("The cost must be the one whose points were kept", "")
        for name, (total, count) in kept.items():
            first, second = (torch.tensor([pair]).double() for pair in (kept[name], now[name]))
            if not all(map(math.isfinite, (total, *now[name]))):
                same = str(first.tolist()) == str(second.tolist())
                if not same:
                    return f"{name} was {total / count:.9g}, and is now {now[name][0]:.9g}"
                continue
            try:
                expect_agreement(first, second, [name], self.dtype, rule)
            except NonDeterministicObjectiveError:
                value = now[name][0] / now[name][1]
                return f"{name} was {total / count:.9g}, and is now {value:.9g}"
        return None


def identity_of(
    objective: Objective, section: Section, anchors: Sequence[Anchor], strategy: str
) -> Identity:
    """Return what the values of a sweep depend on.

    Args:
        objective: The cost.
        section: Where the anchors' buffers are.
        anchors: The anchors in the objective's type.
        strategy: Name of the way of evaluation.
    """
    facts: dict[str, Any] = {
        "objective": facts_of(type(objective)),
        "anchors": [_anchor_facts(anchor, objective.dtype) for anchor in anchors],
        "buffers": [
            None if table is None else {n: tensor_facts(t) for n, t in sorted(table.items())}
            for table in section.buffers
        ],
        "dtype": str(objective.dtype),
        "device": objective.device.type,
        "strategy": strategy,
        "versions": {
            "thalweg": __version__,
            "torch": str(torch.__version__),
            "numpy": np.__version__,
            "python": ".".join(platform.python_version_tuple()[:2]),
        },
    }
    if isinstance(objective, ModelObjective):
        facts |= _model_facts(objective)
    elif isinstance(objective, FunctionObjective):
        facts["function"] = [objective.name, objective.space.size, facts_of(objective.f)]
    else:
        facts["state"] = digest_of(facts_of(vars(objective)))
    # What is not short is told by its checksum: the facts head a file that people read.
    short = {
        key: value if len(str(value)) <= 1000 else digest_of(value) for key, value in facts.items()
    }
    return Identity(short, objective.rounding)


def probed(objective: Objective, section: Section, anchors: Sequence[Anchor]) -> Probe:
    """Return sums of the loss over a few examples at the mean of the anchors.

    Which examples is told by their content, so that neither the order of the data nor the size
    of the batches matters where J does not depend on them.
    """
    row = [1.0 / len(anchors)] * len(anchors)
    if not isinstance(objective, ModelObjective):
        loss = objective.evaluate(combine(anchors, row), (section.buffers, row)).loss
        return {f"loss on {split!r}": (value, 1.0) for split, value in loss.items()}
    probe: dict[str, tuple[float, float]] = {}
    with objective.passive():
        tensors = placed(objective, section, anchors, row)
        objective.set_mode()
        for index, split in enumerate(objective.splits):
            total = torch.zeros(2, dtype=torch.float64, device=objective.device)
            for number, batch in _examples(split, _batches_matter(objective)):
                if objective.dropout is None:
                    total += objective.forward_pass.call(tensors, batch, True)[0]
                else:
                    with objective.dropout.masks(0, index, number):
                        total += objective.forward_pass.call(tensors, batch, True)[0]
            probe[f"loss on {split.name!r}"] = (float(total[0]), float(total[1]))
        if objective.penalty is not None:
            probe["penalty"] = (float(objective.penalty_at(tensors)), 1.0)
    return probe


def _anchor_facts(anchor: Anchor, dtype: torch.dtype) -> list[Any]:
    """Return type, shape and checksum of an anchor: the same in memory and on disk."""
    if isinstance(anchor, Tensor):
        return tensor_facts(anchor)
    digest = hashlib.sha256()
    for block in anchor.space.blocks:
        values = anchor.tensor(block).to(dtype).contiguous().view(-1)
        digest.update(values.view(torch.uint8).numpy().data)
    return [str(dtype), list(anchor.shape), digest.hexdigest()]


def _model_facts(objective: ModelObjective) -> dict[str, Any]:
    """Return what the cost of a model depends on besides θ."""
    sharding, space = objective.sharding, objective.space
    model = objective.forward_pass.model if sharding is None else sharding.blueprint
    layout = [(block.name, block.shape) for block in space.blocks], dict(space.aliases)
    loss, *metrics = (_criterion_facts(c, objective.dtype) for c in objective.forward_pass.criteria)
    ordered = _batches_matter(objective)
    return {
        "model": {"class": type(model).__name__, "sha256": digest_of(module_facts(model))},
        "parameters": {"count": space.size, "sha256": digest_of(facts_of(layout))},
        "fixed": digest_of({n: tensor_facts(t) for n, t in _fixed(objective).items()}),
        "loss": loss,
        "metrics": [[name, fact] for name, fact in zip(objective.metrics, metrics, strict=True)],
        "penalty": None if objective.penalty is None else digest_of(facts_of(objective.penalty)),
        "precision": objective.precision,
        "batch_norm": objective.batch_norm,
        "dropout": None if objective.dropout is None else str(objective.dropout),
        "data": [
            [split.name, split.examples, _digests_of(split).told(ordered)]
            for split in objective.splits
        ],
    }


def _batches_matter(objective: ModelObjective) -> bool:
    """Tell whether the cost depends on how the data is cut into batches."""
    return objective.batch_norm == "batch" or objective.dropout is not None


def _fixed(objective: ModelObjective) -> dict[str, Tensor]:
    """Return the frozen tensors and the buffers that the cost depends on."""
    model, space = objective.forward_pass.model, objective.space
    moving = {*space.names, *space.aliases}
    if objective.batch_norm != "stored":  # then the model's own statistics are not used
        moving |= {
            f"{name}.{part}" if name else part
            for name in objective.normalisation_layers
            for part in _STATISTICS
        }
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: whole(tensor) for name, tensor in sorted(tensors.items()) if name not in moving}


def _criterion_facts(criterion: Any, dtype: torch.dtype) -> Any:
    """Return facts about what the user gave as loss or metric."""
    if isinstance(criterion, OwnLoss):
        return "the model's own loss"
    given = getattr(criterion, "function", None)
    facts = facts_of(getattr(criterion, "terms", given), dtype)
    name = getattr(given, "__name__", type(getattr(criterion, "terms", given)).__name__)
    per_example = getattr(criterion, "per_example", None)
    return [name, digest_of([type(criterion).__name__, facts, per_example])]


@dataclass(frozen=True, eq=False)
class _Digests:
    """One digest an example, shape (examples, 16), and where the batches end.

    Of streamed data also the examples with the smallest digests, in the order of these.
    """

    examples: Any
    lengths: tuple[int, ...]
    probe: tuple[Any, ...] = ()

    def told(self, ordered: bool) -> str:
        """Return one checksum of the examples, with or without their order and batches."""
        digest = hashlib.sha256((self.examples if ordered else self.examples[self._order]).data)
        if ordered:
            digest.update(str(self.lengths).encode())
        return digest.hexdigest()

    def chosen(self, count: int) -> list[int]:
        """Return the examples with the smallest digests, in the order of these."""
        return [int(i) for i in self._order[:count]]

    @property
    def _order(self) -> Any:
        """The examples by ascending digests."""
        keys = self.examples.view(">u8")
        return np.lexsort((keys[:, 1], keys[:, 0]))


def _digests_of(split: Split) -> _Digests:
    """Return the digests of a split, which is never written to; they are taken once."""
    if split not in _digests:
        batches = split.batches if split.whole is None else (split.whole,)
        rows, probe = bytearray(), list[tuple[bytes, int, Any]]()
        for batch in batches:
            found = _batch_digests(batch)
            if split.streamed:
                probe = _smallest(probe, found, batch, len(rows) // 16, split.uniform)
            rows += b"".join(found)
        table = np.frombuffer(rows, dtype=np.uint8).reshape(-1, 16)
        _digests[split] = _Digests(table, split.lengths, tuple(each for _, _, each in probe))
    return _digests[split]


def _smallest(
    known: list[tuple[bytes, int, Any]], digests: list[bytes], batch: Any, start: int, uniform: bool
) -> list[tuple[bytes, int, Any]]:
    """Return the examples with the smallest digests of those known and those of a batch.

    Args:
        known: Digest, number and example, the smallest first.
        digests: One for each example of the batch.
        batch: What is going to be forgotten.
        start: Number of its first example.
        uniform: Whether examples have one shape.
    """
    count = _PROBED_EXAMPLES if uniform else _PROBED_SINGLY
    candidates = [(digest, start + at, None) for at, digest in enumerate(digests)]
    chosen = sorted([*known, *candidates], key=lambda each: each[:2])[:count]
    return [
        (digest, number, _alone(batch, number - start) if example is None else example)
        for digest, number, example in chosen
    ]


def _alone(batch: Any, at: int) -> Any:
    """Return a copy of one example, so that the rest of its batch can be forgotten."""
    return map_tensors(torch.clone, narrow(batch, at, at + 1))


def _batch_digests(batch: Any) -> list[bytes]:
    """Return one digest for each example of a batch."""
    count = examples_in(batch)
    columns: list[Tensor] = []
    shared: list[Any] = []

    def sort_out(tensor: Tensor) -> Tensor:
        if tensor.ndim and tensor.shape[0] == count:
            columns.append(tensor)
            shared.append([str(tensor.dtype), list(tensor.shape[1:])])
        else:
            shared.append(tensor_facts(tensor))
        return tensor

    # The containers count, too, for a model may take its inputs by name.
    frame = map_tensors(lambda tensor: sort_out(tensor).new_empty(0).cpu(), batch)
    start = hashlib.blake2b(digest_of([facts_of(frame), shared]).encode(), digest_size=16)
    digests = []
    for at in range(0, count, 4096):
        parts = [_bytes_by_row(column[at : at + 4096]) for column in columns]
        for i in range(min(4096, count - at)):
            digest = start.copy()
            for part in parts:
                digest.update(part[i].data)
            digests.append(digest.digest())
    return digests


def _bytes_by_row(column: Tensor) -> Any:
    """Return the bytes of each example, shape (examples, bytes)."""
    rows = column.detach().cpu().contiguous().view(column.shape[0], column[0].numel())
    if not rows.numel():
        return np.zeros((column.shape[0], 0), dtype=np.uint8)
    return rows.view(torch.uint8).numpy()


def _examples(split: Split, ordered: bool) -> list[tuple[int, Any]]:
    """Return numbered batches of a few examples for the probe."""
    if ordered:
        return list(enumerate(itertools.islice(split.batches, _PROBED_BATCHES)))
    digests = _digests_of(split)
    if split.streamed and split.uniform:
        return [(0, joined(list(digests.probe)))]
    if split.streamed:
        return list(enumerate(digests.probe))
    if split.whole is not None:
        index = torch.tensor(digests.chosen(_PROBED_EXAMPLES))
        count = split.examples

        def pick(tensor: Tensor) -> Tensor:
            return tensor[index.to(tensor.device)] if tensor.shape[:1] == (count,) else tensor

        return [(0, map_tensors(pick, split.whole))]
    ends = np.cumsum(digests.lengths)
    found = []
    batches = list(split.batches)
    for example in digests.chosen(_PROBED_SINGLY):
        batch = int(np.searchsorted(ends, example, side="right"))
        at = example - int(ends[batch] - digests.lengths[batch])
        found.append((batch, narrow(batches[batch], at, at + 1)))
    return found
