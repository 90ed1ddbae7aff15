"""Which layers of a model take a shorter way: found by trying, on some examples."""

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from thalweg.evaluate.deferred import Shortcut
from thalweg.evaluate.embedded import Projected, embedded_words
from thalweg.evaluate.resident import Resident, entry_inputs
from thalweg.evaluate.scores import wide_heads
from thalweg.objectives.batches import examples_in
from thalweg.objectives.model import ModelObjective
from thalweg.results import Array
from thalweg.sections import Section

__all__ = ["found_shortcuts"]

# Share of the projections that must be saved.
_WORTH_SHARE = 0.5

# The most that the projections of all words may take.
_TABLE_BYTES = 256 << 20

# Batches whose words are counted.
_COUNTED_BATCHES = 64


def found_shortcuts(
    objective: ModelObjective,
    section: Section,
    anchors: Sequence[Tensor],
    weights: Array,
    batch: Any,
    taken: Sequence[str] = (),
) -> tuple[Shortcut, ...]:
    """Return the shortcuts that a model has a use for.

    Every layer that may have one is given it, some examples are passed, and those remain that
    saved work.

    Args:
        objective: The cost.
        section: Its anchors are combined.
        anchors: Its anchors in the objective's type, on its device.
        weights: The row of a point, shape (1, m).
        batch: Some examples of the first batch.
        taken: Names of layers that are dealt with in another way.
    """
    model = objective.forward_pass.model
    others = {id(model.get_submodule(name)) for name in taken}
    scale = objective.splits[0].lengths[0] / max(1, examples_in(batch))

    def tried(shortcuts: Sequence[Any]) -> bool:
        if not shortcuts:
            return False
        try:
            Resident(objective, section, anchors, shortcuts=shortcuts).trial(weights, batch)
        except Exception:  # a model may not bear what is no tensor with entries
            return False
        return True

    words = [s for s in embedded_words(model, objective.device) if id(s.layer) not in others]
    projected = [s for s in words if isinstance(s, Projected)]
    found: list[Shortcut] = []
    if projected and tried(words):
        used = [s for s in projected if s.embedding is not None and _saves(objective, s)]
        found += dict.fromkeys(s.embedding for s in used if s.embedding is not None)
        found += used
    others |= {id(shortcut.layer) for shortcut in found}
    heads = [s for s in wide_heads(model) if id(s.layer) not in others]
    if tried(heads):
        found += [s for s in heads if s.pays(scale)]
    for shortcut in [*words, *heads]:
        shortcut.released()
    return tuple(found)


def _saves(objective: ModelObjective, projected: Projected) -> bool:
    """Tell whether words occur so often that projecting each once is a gain."""
    if projected.embedding is None or projected.table_bytes > _TABLE_BYTES:
        return False
    modules = objective.forward_pass.model.named_modules()
    name = next(name for name, module in modules if module is projected.embedding.layer)
    seen: list[Tensor] = []
    with objective.passive():
        objective.set_mode()
        for _, batch in objective.splits[0].spread(_COUNTED_BATCHES, sys.maxsize):
            seen.append(entry_inputs(objective, batch, [name])[name].reshape(-1))
    tokens = torch.cat(seen)
    return len(torch.unique(tokens)) <= (1 - _WORTH_SHARE) * len(tokens)
