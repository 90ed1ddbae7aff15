"""Choosing how to evaluate many points, and saying so before the work begins.

The choice follows rules, not timings, so that the same sweep is always done in the same way: it
can be resumed, or split over machines, and give the same bits. Each faster way is compared with
the plain one at two points of the section, on some examples, before it is used.
"""

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thalweg.anchors import Anchor, combine
from thalweg.evaluate.deferred import Shortcut
from thalweg.evaluate.products import DenseProduct, dense_products
from thalweg.evaluate.resident import Resident
from thalweg.evaluate.shortcuts import found_shortcuts
from thalweg.evaluate.stacked import StackedChain, Vectorised, chain_stack
from thalweg.evaluate.strategy import ModelStrategy, Plain, Strategy
from thalweg.evaluate.streamed import Streamed
from thalweg.evaluate.tensorwise import TensorByTensor, written_in_place
from thalweg.evaluate.tracing import Affine, Trace, dense_chain, folding_pairs, traced
from thalweg.objectives.batches import examples_in
from thalweg.objectives.model import ModelObjective
from thalweg.objectives.nested import few_of
from thalweg.objectives.objective import Objective
from thalweg.objectives.streaming import StreamedBatches
from thalweg.results import Array
from thalweg.sections import Section

__all__ = ["Choice", "Plan", "choose", "few_examples", "looked_into", "planned", "worth_sharing"]

# What is looked at, and compared: some examples, fewer where one is a sequence of many tokens.
_TRACED_EXAMPLES = 64
_TRACED_TOKENS = 256

# Products per entry of a layer's output from which on combining m stored outputs is cheaper:
# a term of a combination waits for memory as long as 8 to 16 terms of a product take.
_PRODUCTS_AN_ANCHOR = 16
_WORTH_SHARE = 0.02  # of the products of a pass

# Below this many operations a pass, starting them takes longer than doing them.
_SMALL_PASS = 2e6

# Convolutions like their activations to stay in the caches of a core: 64 images of a ResNet-20.
_CONVOLUTION_BYTES = 4 << 20

# Products after which points are finished together: the most that a killed sweep loses.
_TOGETHER_FLOPS = 2e13


@dataclass(frozen=True)
class Choice:
    """A way to evaluate many points, and why.

    Attributes:
        strategy: The way.
        reasons: What spoke for it, and against others, one sentence each.
        trace: What a batch does in the model, or None where there is no model.
    """

    strategy: Strategy
    reasons: tuple[str, ...]
    trace: Trace | None = None


@dataclass(frozen=True)
class Plan:
    """What a sweep is going to do: its strategy, and what it will take.

    Attributes:
        strategy: Name of the strategy.
        points: Points to evaluate; those of the first grid where points are placed as needed.
        passes: Passes over the data, over all splits and Monte-Carlo samples, one a point.
        examples: Examples of one pass, over all splits.
        rows: Points that are evaluated together, and kept together when finished.
        seconds: Estimated time, from a trial on one batch; reading streamed data comes on top.
        memory: Estimated bytes beside model and data: anchors and what is kept of the batches.
        reasons: Why this strategy, one sentence each.
        reads: How often streamed data is read anew for that, the most of all splits; 0 where
            all data stays in memory. What is looked at before the first point comes on top.
        most: Most points, where they are placed as needed; 0 for a fixed grid.
    """

    strategy: str
    points: int
    passes: int
    examples: int
    rows: int
    seconds: float
    memory: int
    reasons: tuple[str, ...] = ()
    reads: int = 0
    most: int = 0

    def __str__(self) -> str:
        at_first = f" at first, {self.most} at most" if self.most else ""
        for_these = f" for the first {self.points} points" if self.most else ""
        lines = [
            f"strategy   {self.strategy}",
            f"points     {self.points}{at_first}, {self.rows} together",
            f"passes     {self.passes} over {self.examples} examples",
            f"time       about {_duration(self.seconds)}{for_these}",
            f"memory     about {self.memory / 2**20:.0f} MiB beside model and data",
        ]
        if self.reads:
            lines.insert(3, f"reads      {self.reads} of the streamed data")
        return "\n".join([*lines, *(f"because    {reason}" for reason in self.reasons)])


def choose(
    objective: Objective, section: Section, given: Sequence[Anchor], weights: Array
) -> Choice:
    """Return the way to evaluate some rows.

    Args:
        objective: The cost.
        section: Its anchors are combined.
        given: Its anchors in the objective's type, on its device, or on disk.
        weights: One row a point, shape (n, m).
    """
    if isinstance(objective, ModelObjective) and written_in_place(objective, given):
        why = (
            "The parameters are sharded over ranks, each of which writes its own rows."
            if objective.sharding is not None
            else "The anchors stay on disk: one model and one tensor are in memory."
        )
        strategy = TensorByTensor(objective, section, given)
        return Choice(strategy, (why, *_streams(objective)))
    anchors = [objective.point(anchor, "An anchor") for anchor in given]
    plain = Plain(objective, section, anchors)
    if not isinstance(objective, ModelObjective):
        return Choice(plain, ("The cost is a formula: there is no data to share work on.",))
    streams = _streams(objective)
    usual = Streamed(objective, section, anchors) if streams else plain
    if objective.dropout is not None:
        why = "Monte-Carlo masks are drawn batch by batch, point by point."
        return Choice(usual, (why, *streams))
    if objective.batch_norm == "batch":
        why = "Statistics of batches are taken from the batches as they are."
        return Choice(usual, (why, *streams))
    batch = few_examples(objective)
    trials = weights[[len(weights) // 3, 2 * len(weights) // 3]]
    try:
        trace = looked_into(objective, anchors, trials, batch)
    except Exception as error:  # the user's model under observation may fail in any way
        why = f"{type(error).__name__}: {str(error).splitlines()[0][:80]}" if str(error) else ""
        return Choice(usual, (f"The model cannot be looked into ({why}).", *streams))
    reasons: list[str] = []
    for candidate, reason in _candidates(objective, section, anchors, trace, trials, batch):
        if isinstance(candidate, Resident):
            candidate.rows = _together(objective, trace, len(anchors))
        refused = _refused(candidate, plain, trials, batch)
        if refused is None:
            return Choice(candidate, (reason, *reasons, *streams), trace)
        reasons.append(f"Not {candidate.name}: {refused}")
    return Choice(usual, (*reasons, *streams), trace)


def planned(objective: Objective, choice: Choice, weights: Array) -> Plan:
    """Return what a sweep is going to take.

    Args:
        objective: The cost.
        choice: How it is done.
        weights: One row a point, shape (n, m).
    """
    strategy, points = choice.strategy, len(weights)
    itemsize = objective.dtype.itemsize
    memory = (weights.shape[1] + 1) * objective.space.size * itemsize
    if isinstance(strategy, TensorByTensor):
        memory = max(block.size for block in objective.space.blocks) * itemsize
    if not isinstance(objective, ModelObjective):
        seconds = _timed(lambda: strategy.evaluate(weights[:1])) * points
        return Plan(
            strategy.name, points, points, 0, strategy.rows, seconds, memory, choice.reasons
        )
    examples = sum(split.examples for split in objective.splits)
    samples = 1 if objective.dropout is None else objective.dropout.samples
    seconds = 0.0
    batch = objective.splits[0].head(_TIMED_EXAMPLES)
    if isinstance(strategy, ModelStrategy):
        one, two = (
            _timed(lambda n=n: strategy.trial(weights[[points // 2] * n], batch))
            for n in (1, 1 + _TIMED_ROWS)
        )
        a_point = max(two - one, 0.02 * two) / _TIMED_ROWS
        start = max(one - a_point, 0.0) * -(-points // strategy.rows)
        seconds = (a_point * points + start) * examples / examples_in(batch)
    else:
        a_pass = _timed(lambda: objective.try_batch(batch))
        seconds = a_pass * points * samples * examples / examples_in(batch)
    if choice.trace is not None:
        memory += 2 * choice.trace.widest * examples_in(batch) // max(1, choice.trace.examples)
    return Plan(
        strategy.name,
        points,
        points * samples,
        examples,
        strategy.rows,
        seconds,
        memory,
        choice.reasons,
        _reads(objective, strategy, points),
    )


# What ways of evaluation may differ by, of a sum and an example; else products are rounded.
_ALLOWED = {torch.float64: (1e-10, 1e-12), torch.float32: (1e-4, 1e-6)}

# What the estimate of the time is taken from.
_TIMED_ROWS = 2
_TIMED_EXAMPLES = 256


def _streams(objective: ModelObjective) -> tuple[str, ...]:
    """Say which splits are streamed, and why, one sentence each."""
    told = [
        f"The data of {split.name!r} is read anew for each group of points: {split.batches.why}."
        for split in objective.splits
        if isinstance(split.batches, StreamedBatches)
    ]
    layers = len(objective.normalisation_layers)
    if objective.splits[0].streamed and objective.batch_norm == "recalibrate":
        told.append(
            f"Recalibrating {layers} normalisations reads it once more for each of them; "
            "batch_norm='stored' or 'interpolate' does not."
        )
    return tuple(told)


def _reads(objective: ModelObjective, strategy: Strategy, points: int) -> int:
    """Return how often streamed data is read: the most of all splits."""
    groups = -(-points // strategy.rows)
    reads = groups if any(split.streamed for split in objective.splits) else 0
    if objective.splits[0].streamed and objective.batch_norm == "recalibrate":
        reads += groups * len(objective.normalisation_layers)
    return reads


def _together(objective: ModelObjective, trace: Trace, anchors: int) -> int:
    """Return how many points to finish together: many share more work, few are sooner safe."""
    examples = sum(split.examples for split in objective.splits)
    a_point = max(1.0, trace.flops / max(1, trace.examples) * examples)
    return int(max(4 * anchors, min(256, _TOGETHER_FLOPS // a_point)))


def few_examples(objective: ModelObjective) -> Any:
    """Return some examples of the first split, fewer where one is a sequence of many tokens."""
    batch = objective.splits[0].head(_TRACED_EXAMPLES)
    return few_of(batch, _TRACED_EXAMPLES, _TRACED_TOKENS)


def looked_into(
    objective: ModelObjective, anchors: Sequence[Tensor], trials: Array, batch: Any
) -> Trace:
    """Run some examples at two points and see what the layers do."""
    model = objective.forward_pass.model
    parameters = [(b, model.get_parameter(b.name)) for b in objective.space.blocks]
    before = [parameter.data for _, parameter in parameters]

    def run(which: int) -> None:
        theta = combine(anchors, trials[which])
        for block, parameter in parameters:
            parameter.data = block.of(theta)
        objective.forward_pass(batch, False)

    try:
        with objective.passive(grad=True):
            objective.set_mode()
            return traced(model, run, objective.space.names, examples_in(batch))
    finally:
        for (_, parameter), data in zip(parameters, before, strict=True):
            parameter.data = data


def _candidates(
    objective: ModelObjective,
    section: Section,
    anchors: Sequence[Tensor],
    trace: Trace,
    trials: Array,
    batch: Any,
) -> list[tuple[ModelStrategy, str]]:
    """Return the strategies worth trying, the best first, each with what speaks for it."""
    model, names = objective.forward_pass.model, objective.space.names
    exact = objective.dtype in (torch.float32, torch.float64)
    flops = trace.flops / max(1, trace.examples)
    worth = worth_sharing(trace, len(anchors))
    found: list[tuple[ModelStrategy, str]] = []
    statistics = objective.batch_norm in ("recalibrate", "interpolate")
    if exact and len(trace.first) == 1 and not statistics:
        chain = dense_chain(model, trace.first[0].name, names)
        stack = 0 if chain is None else chain_stack(objective, chain, 1024)
        if chain is not None and stack > 1:
            found.append(
                (
                    StackedChain(objective, section, anchors, chain, stack),
                    f"A chain of dense layers narrow enough for {stack} points in one product.",
                )
            )
    small = flops * objective.splits[0].examples < _SMALL_PASS
    if exact and objective.splits[0].uniform and not statistics and small:
        found.append(
            (
                Vectorised(objective, section, anchors, 32),
                "A pass is so small that starting its operations takes longest; 32 points "
                "share them.",
            )
        )
    shortcuts: tuple[Shortcut, ...] = ()
    if exact and not statistics:
        taken = [each.name for each in worth]
        shortcuts = found_shortcuts(objective, section, anchors, trials[:1], batch, taken)
        if objective.precision is None:
            busy = [each.layer for each in shortcuts] + [*map(model.get_submodule, taken)]
            shortcuts += tuple(dense_products(model, busy))
    if exact and (worth or trace.convolutional or shortcuts):
        found.append(_resident(objective, section, anchors, trace, worth, shortcuts, batch))
    found.append((Resident(objective, section, anchors), "The data is passed point by point."))
    return found


def worth_sharing(trace: Trace, anchors: int) -> list[Affine]:
    """Return the layers at the entry whose products are worth being computed once an anchor."""
    flops = trace.flops / max(1, trace.examples)
    return [
        each
        for each in trace.first
        if each.fan_in >= _PRODUCTS_AN_ANCHOR * anchors
        and 2 * each.fan_in * each.outputs >= _WORTH_SHARE * flops
    ]


def _resident(
    objective: ModelObjective,
    section: Section,
    anchors: Sequence[Tensor],
    trace: Trace,
    first: Sequence[Affine],
    shortcuts: Sequence[Shortcut],
    batch: Any,
) -> tuple[ModelStrategy, str]:
    """Return a strategy with the levers that this model allows, and what they are."""
    model, reasons = objective.forward_pass.model, []
    if first:
        shares = ", ".join(each.name or type(model).__name__ for each in first)
        reasons.append(
            f"The first layer ({shares}) is affine in θ and fed by the data: its products are "
            "computed once an anchor."
        )
    reasons += [each.reason for each in shortcuts if each.reason]
    if any(isinstance(each, DenseProduct) for each in shortcuts):
        reasons.append("Wide linear layers are multiplied by oneDNN.")
    if not trace.convolutional:
        chain = dense_chain(model, first[0].name, objective.space.names) if first else None
        strategy = Resident(
            objective,
            section,
            anchors,
            first=first,
            overwriting=() if chain is None else chain.rectifiers,
            shortcuts=shortcuts,
        )
        return strategy, " ".join(reasons)
    with objective.passive():
        objective.set_mode()
        pairs = folding_pairs(model, lambda: _discard(objective, batch), objective.space.names)
    pairs = tuple(pair for pair in pairs if pair[0] not in {each.name for each in first})
    reasons.append("Convolutions take their images in channels-last layout.")
    if pairs:
        reasons.append(f"{len(pairs)} normalisations are folded into the weights before them.")
    images = None
    if objective.device.type == "cpu":
        an_image = max(1, trace.widest // max(1, trace.examples))
        images = max(8, min(64, _CONVOLUTION_BYTES // an_image))
    strategy = Resident(
        objective,
        section,
        anchors,
        first=first,
        folded=pairs,
        shortcuts=shortcuts,
        channels_last=True,
        examples=images,
    )
    return strategy, " ".join(reasons)


def _discard(objective: ModelObjective, batch: Any) -> None:
    """Run a batch for what is seen on the way."""
    objective.forward_pass(batch, False)


def _refused(candidate: ModelStrategy, plain: Plain, weights: Array, batch: Any) -> str | None:
    """Say why a strategy cannot be used: it fails, or gives other numbers than the plain way."""
    objective = candidate.objective
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # torch warns where it can vectorise by a loop only
            fast = candidate.trial(weights, batch)
    except Exception as error:  # the user's model in an unusual setting may fail in any way
        return f"it fails here ({type(error).__name__}: {str(error).splitlines()[0][:80]})."
    with objective.passive():
        objective.set_mode()
        right = torch.stack(
            [
                objective.forward_pass.call(
                    objective.space.unflatten(combine(plain.anchors, row)), batch
                )
                for row in weights
            ]
        )
    return _difference(fast, right, objective.rounding)


def _difference(fast: Tensor, right: Tensor, dtype: torch.dtype) -> str | None:
    """Compare sums and counts of the loss; metrics may differ where rounding decides a tie."""
    relative, absolute = _ALLOWED.get(dtype, (2e-2, 1e-4))
    fast, right = fast.nan_to_num(), right.nan_to_num()
    allowed = relative * right[:, 0, 0].abs() + absolute * right[:, 0, 1]
    away = (fast[:, 0, 0] - right[:, 0, 0]).abs()
    if bool((away > allowed).any()) or not torch.equal(fast[:, :, 1], right[:, :, 1]):
        return f"its loss differs by {float(away.max()):.3g} from that of the plain way."
    return None


def _timed(work: Any) -> float:
    """Return the seconds of the quicker of two runs."""
    times = []
    for _ in range(2):
        clock = time.perf_counter()
        work()
        times.append(time.perf_counter() - clock)
    return float(np.min(times))


def _duration(seconds: float) -> str:
    """Return a length of time in words."""
    if seconds < 1:
        return "a second" if seconds > 0.1 else f"{1000 * seconds:.0f} ms"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
