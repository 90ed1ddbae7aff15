"""Batches outside, points inside: parameters are written in place, shared work is done once.

Four levers on top of the plain way, each exact up to rounding:

- **First-layer reuse.** An affine layer fed by the data itself gives Σ_j w_j (W_j x + b_j) at
  θ = Σ_j w_j P_j: its products are computed once an anchor and combined for every point.
- **Folded normalisation.** Batch normalisation with given statistics is merged into the
  weights before it, as often as the point changes rather than for every batch.
- **Shortcuts.** Layers whose work can be put off until something reads it, or looked up (see
  `thalweg.evaluate.deferred`).
- **Channels-last.** Two-dimensional convolutions get their images in the layout they like.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from thalweg.anchors import write_combination
from thalweg.evaluate.deferred import Shortcut
from thalweg.evaluate.products import linear
from thalweg.evaluate.strategy import ModelStrategy, evaluations
from thalweg.evaluate.streamed import running_statistics
from thalweg.evaluate.tracing import Affine
from thalweg.objectives.batches import examples_in, map_tensors, narrow
from thalweg.objectives.model import ModelObjective
from thalweg.objectives.objective import Evaluation
from thalweg.results import Array
from thalweg.sections import Section

__all__ = ["Entry", "Resident", "bytes_of", "entry_inputs", "patched"]

# Outputs of the first layers that are kept for one block of the data.
_BLOCK_BYTES = 64 << 20


class Resident(ModelStrategy):
    """One model in memory whose parameters move from point to point.

    Args:
        objective: The cost.
        section: Its anchors are combined.
        anchors: Its anchors in the objective's type, on its device.
        first: The affine layers whose products are shared among the points.
        folded: Pairs of a layer and the normalisation that takes its output.
        overwriting: Rectifiers that may write to their input, for nobody else reads it.
        shortcuts: Layers that do their work in another way.
        channels_last: Whether images go through in channels-last layout.
        examples: Most examples of a pass; None for the batches of the objective.
    """

    rows = 64  # unless a plan knows better

    def __init__(
        self,
        objective: ModelObjective,
        section: Section,
        anchors: Sequence[Tensor],
        *,
        first: Sequence[Affine] = (),
        folded: Sequence[tuple[str, str]] = (),
        overwriting: Sequence[nn.ReLU] = (),
        shortcuts: Sequence[Shortcut] = (),
        channels_last: bool = False,
        examples: int | None = None,
    ) -> None:
        self.name = "first-layer reuse" if first else "sequential"
        self.objective = objective
        self.section = section
        self.anchors = anchors
        self.channels_last = channels_last
        self.examples = examples
        self.model = objective.forward_pass.model
        self._entries = {each.name: Entry(objective, each, anchors) for each in first}
        self._folded = [_Folded(self.model, *pair) for pair in folded]
        self._overwriting = [(each, each.inplace) for each in overwriting]
        self._shortcuts = tuple(shortcuts)
        self._flat = torch.empty_like(anchors[0])
        self._copied: list[tuple[Tensor, Tensor]] = []

    def evaluate(self, weights: Array) -> list[Evaluation]:
        """Return the evaluations at some points."""
        objective = self.objective
        rows = [[float(w) for w in row] for row in weights]
        with objective.passive():
            statistics = self._statistics(rows)
            objective.set_mode()
            shape = (len(objective.splits), len(rows), len(objective.forward_pass.criteria), 2)
            sums = torch.zeros(shape, dtype=torch.float64, device=objective.device)
            with self._in_place():
                for at, split in enumerate(objective.splits):
                    streamed = split.whole is None
                    self._pass_over(split.batches, rows, statistics, sums[at], streamed)
        return evaluations(objective, list(sums), self.anchors, weights)

    def trial(self, weights: Array, batch: Any) -> Tensor:
        """Return sums and counts for one batch, with the model's own running statistics."""
        objective = self.objective
        rows = [[float(w) for w in row] for row in weights]
        shape = (len(rows), len(objective.forward_pass.criteria), 2)
        total = torch.zeros(shape, dtype=torch.float64, device=objective.device)
        with objective.passive():
            objective.set_mode()
            with self._in_place():
                self._pass_over([batch], rows, [{} for _ in rows], total)
        return total

    def _statistics(self, rows: Sequence[Sequence[float]]) -> list[dict[str, Tensor]]:
        """Return the running statistics at some points that are not the model's own."""
        if self.objective.batch_norm not in ("recalibrate", "interpolate"):
            return [{} for _ in rows]
        return running_statistics(self.objective, self.section, self.anchors, rows)

    def _pass_over(
        self,
        batches: Any,
        rows: Sequence[Sequence[float]],
        statistics: Sequence[Mapping[str, Tensor]],
        sums: Tensor,
        streamed: bool = False,
    ) -> None:
        """Add up the criteria over some batches at every point, shape (rows, criteria, 2)."""
        for block in self._blocks(batches, streamed):
            for entry in self._entries.values():
                entry.clear()
            if self._entries:
                self._fill_entries(block)
            share = sum(map(examples_in, block)) / len(rows)
            for r, row in enumerate(rows):
                self._write(row, statistics[r])
                for index, batch in enumerate(block):
                    for entry in self._entries.values():
                        entry.select(index, row)
                    sums[r] += self.objective.forward_pass(batch, False)
                self.tick(share)

    def _blocks(self, batches: Any, streamed: bool) -> Iterator[list[Any]]:
        """Cut the data into pieces, and gather as many as the memory for a block allows."""
        block: list[Any] = []
        held = 0
        shared = sum(entry.bytes_an_example for entry in self._entries.values())
        for batch in batches:
            count = examples_in(batch)
            step = count if self.examples is None else min(self.examples, count)
            for start in range(0, count, max(1, step)):
                piece = batch if step == count else narrow(batch, start, start + step)
                if self.channels_last:
                    piece = map_tensors(_channels_last, piece)
                block.append(piece)
            held += count * shared + (bytes_of(batch) if streamed else 0)
            if held >= _BLOCK_BYTES:
                yield block
                block.clear()  # whoever took it is done: the next one comes into its place
                held = 0
        if block:
            yield block

    def _fill_entries(self, block: Sequence[Any]) -> None:
        """Compute the shared products of a block."""
        for batch in block:
            inputs = entry_inputs(self.objective, batch, list(self._entries))
            for name, entry in self._entries.items():
                entry.add(inputs[name])

    def _write(self, row: Sequence[float], statistics: Mapping[str, Tensor]) -> None:
        """Put the model at a point."""
        write_combination(self._flat, self.anchors, row)
        for target, source in self._copied:
            target.copy_(source)
        buffers = dict(self.model.named_buffers())
        for name, tensor in statistics.items():
            buffers[name].copy_(tensor)
        for pair in self._folded:
            pair.fold(self.channels_last)
        for shortcut in self._shortcuts:
            shortcut.moved()

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        """Let the model's parameters be views of one vector, and its layers take short cuts.

        Everything is put back: the model's own parameters, statistics and methods.
        """
        model, space = self.model, self.objective.space
        parameters = [(block, model.get_parameter(block.name)) for block in space.blocks]
        before = [parameter.data for _, parameter in parameters]
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        with ExitStack() as stack:
            for entry in self._entries.values():
                stack.enter_context(entry.patched())
            for pair in self._folded:
                stack.enter_context(pair.patched())
            for shortcut in self._shortcuts:
                stack.enter_context(patched(shortcut.layer, shortcut.forward))
                stack.callback(shortcut.released)
            try:
                for rectifier, _ in self._overwriting:
                    rectifier.inplace = True
                self._copied = []
                for block, parameter in parameters:
                    view = block.of(self._flat)
                    if self.channels_last and view.ndim == 4:
                        parameter.data = view.contiguous(memory_format=torch.channels_last)
                        self._copied.append((parameter.data, view))
                    else:
                        parameter.data = view
                yield
            finally:
                for rectifier, inplace in self._overwriting:
                    rectifier.inplace = inplace
                for (_, parameter), data in zip(parameters, before, strict=True):
                    parameter.data = data
                for name, buffer in model.named_buffers():
                    buffer.copy_(buffers[name])


def entry_inputs(objective: ModelObjective, batch: Any, names: Sequence[str]) -> dict[str, Tensor]:
    """Return what one batch feeds to some layers, running the model no further than the last."""
    modules = dict(objective.forward_pass.model.named_modules())
    found: dict[str, Tensor] = {}

    def see(name: str, given: Tensor) -> None:
        found[name] = given
        if len(found) == len(names):
            raise _Reached

    hooks = [
        modules[name].register_forward_pre_hook(lambda _, given, name=name: see(name, given[0]))
        for name in names
    ]
    try:
        objective.forward_pass(batch, False)
    except _Reached:
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return found


class _Reached(BaseException):
    """The pass has reached the last layer of interest. No `Exception`, which models may catch."""


class Entry:
    """An affine layer at the entry of the model, and its outputs at the anchors."""

    def __init__(self, objective: ModelObjective, at: Affine, anchors: Sequence[Tensor]) -> None:
        self.name = at.name
        self.layer = objective.forward_pass.model.get_submodule(at.name)
        prefix = f"{at.name}." if at.name else ""
        blocks = {b.name: b for b in objective.space.blocks}
        self.tensors = [
            {
                p: blocks[prefix + p].of(anchor)
                for p, _ in self.layer.named_parameters(recurse=False)
            }
            for anchor in anchors
        ]
        self.outputs: list[list[Tensor]] = []
        self._lengths: list[int] = []
        self.bytes_an_example = at.outputs * len(anchors) * objective.dtype.itemsize
        self._index = 0
        self._calls = 0
        self._row: Sequence[float] = ()
        self._combined: dict[torch.Size, Tensor] = {}

    def add(self, given: Tensor) -> None:
        """Compute the outputs for one batch, at every anchor."""
        with _unpatched(self.layer):
            outputs = [self._applied(tensors, given) for tensors in self.tensors]
        self.outputs.append(outputs)
        self._lengths.append(given.shape[0])

    def _applied(self, tensors: Mapping[str, Tensor], given: Tensor) -> Tensor:
        """Return the layer's output with given parameters."""
        if type(self.layer) is nn.Linear:
            return linear(given, tensors["weight"], tensors.get("bias"))
        output: Tensor = functional_call(self.layer, dict(tensors), (given,))
        return output

    def clear(self) -> None:
        """Forget the batches of the last block."""
        self.outputs, self._lengths = [], []

    def select(self, index: int, row: Sequence[float]) -> None:
        """Say which batch of the block comes next, and at which point."""
        self._index, self._row = index, row
        self._calls = 0

    def forward(self, given: Tensor) -> Tensor:
        """Combine the outputs at the anchors."""
        self._calls += 1
        if self._calls > 1 or given.shape[0] != self._lengths[self._index]:
            raise RuntimeError(
                "First-layer reuse needs a model that does the same for every batch; a layer "
                f"({type(self.layer).__name__}) that was called once for the first batch is "
                "called otherwise for another. Ask for strategy='plain'."
            )
        outputs = self.outputs[self._index]
        shape = outputs[0].shape
        if shape not in self._combined:
            self._combined[shape] = torch.empty_like(outputs[0])
        write_combination(self._combined[shape], outputs, self._row)
        return self._combined[shape]

    @contextmanager
    def patched(self) -> Iterator[None]:
        """Let the layer combine rather than compute."""
        with patched(self.layer, self.forward):
            yield
        self.clear()
        self._combined = {}


class _Folded:
    """A layer and the normalisation of its output, merged at every point."""

    def __init__(self, model: nn.Module, layer: str, norm: str) -> None:
        self.layer: Any = model.get_submodule(layer)
        self.norm: Any = model.get_submodule(norm)
        self.weight: Tensor | None = None
        self.bias: Tensor | None = None

    def fold(self, channels_last: bool) -> None:
        """Compute the merged weight (γ/σ) W and bias (γ/σ)(b − μ) + β."""
        layer, norm = self.layer, self.norm
        scale = torch.rsqrt(norm.running_var + norm.eps)
        scale = scale if norm.weight is None else scale * norm.weight
        weight = layer.weight * scale.view(-1, *[1] * (layer.weight.ndim - 1))
        shift = -norm.running_mean if layer.bias is None else layer.bias - norm.running_mean
        self.bias = shift * scale if norm.bias is None else shift * scale + norm.bias
        flat = channels_last and weight.ndim == 4
        self.weight = weight.contiguous(memory_format=torch.channels_last) if flat else weight

    def forward(self, given: Tensor) -> Tensor:
        """Apply the merged layer."""
        if isinstance(self.layer, nn.Linear):
            assert self.weight is not None
            return nn.functional.linear(given, self.weight, self.bias)
        output: Tensor = self.layer._conv_forward(given, self.weight, self.bias)
        return output

    @contextmanager
    def patched(self) -> Iterator[None]:
        """Let the layer do both, and the normalisation nothing."""
        with patched(self.layer, self.forward), patched(self.norm, lambda given: given):
            yield


@contextmanager
def patched(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Replace the forward of one instance."""
    vars(module)["forward"] = forward
    try:
        yield
    finally:
        vars(module).pop("forward", None)


@contextmanager
def _unpatched(module: nn.Module) -> Iterator[None]:
    """Give an instance the forward of its class back for a moment."""
    forward = vars(module).pop("forward", None)
    try:
        yield
    finally:
        if forward is not None:
            vars(module)["forward"] = forward


def bytes_of(batch: Any) -> int:
    """Return the bytes of all tensors of a batch."""
    total = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal total
        total += tensor.numel() * tensor.element_size()
        return tensor

    map_tensors(count, batch)
    return total


def _channels_last(tensor: Tensor) -> Tensor:
    """Return images in channels-last layout, and everything else as it is."""
    if tensor.ndim == 4 and tensor.is_floating_point():
        return tensor.contiguous(memory_format=torch.channels_last)
    return tensor
