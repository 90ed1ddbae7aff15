"""Running statistics of batch normalisation along a section.

The statistics are no parameters, and no linear function of them: a point of a section has
statistics of its own. Four policies say which ones are used.

| policy | statistics at θ |
| --- | --- |
| `"recalibrate"` | population mean and variance of the first split, computed at θ |
| `"interpolate"` | Σ_j w_j s_j, those of the anchors' networks with the section's weights |
| `"stored"` | those of the model as given |
| `"batch"` | those of each fixed batch, as during training |

Recalibration gives what `torch.optim.swa_utils.update_bn` gives with the whole split as one
batch, whatever the batch size of the evaluation: an average over small batches would change
with their size.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from thalweg.objectives.batches import Split

__all__ = [
    "BatchNormPolicy",
    "batch_norm_policy",
    "combined",
    "interpolated",
    "normalisation_layers",
    "population_statistics",
    "reject_single_examples",
]

BatchNormPolicy = Literal["recalibrate", "interpolate", "stored", "batch"]
_POLICIES: tuple[str, ...] = get_args(BatchNormPolicy)

# Above this many bytes for the largest input of a layer, the split is not passed as one batch.
_ONE_PASS_BYTES = 1 << 30

Statistics = dict[str, Tensor]


def normalisation_layers(model: nn.Module) -> dict[str, _BatchNorm]:
    """Return the batch-normalisation layers that keep running statistics, by name."""
    return {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, _BatchNorm) and layer.running_mean is not None
    }


def batch_norm_policy(policy: Any, model: nn.Module) -> BatchNormPolicy | None:
    """Check the batch_norm argument; None where the model has no such layers."""
    if policy is not None and policy not in _POLICIES:
        raise ValueError(
            f"`batch_norm` must be one of {', '.join(map(repr, _POLICIES))}; got {policy!r}. "
            "Leave it out for 'recalibrate'."
        )
    if policy == "batch" and any(isinstance(m, _BatchNorm) for m in model.modules()):
        return "batch"  # also of layers without running statistics
    if not normalisation_layers(model):
        return None
    chosen: BatchNormPolicy = "recalibrate" if policy is None else policy
    return chosen


def reject_single_examples(splits: Sequence[Split]) -> None:
    """Raise for batches that have no statistics of their own."""
    for split in splits:
        if min(split.lengths) < 2:
            raise ValueError(
                "batch_norm='batch' needs two examples a batch at least; split "
                f"{split.name!r} has a batch of one. Choose another `batch_size`."
            )


def interpolated(
    layers: Mapping[str, _BatchNorm],
    anchors: Sequence[Mapping[str, Tensor] | None],
    weights: Sequence[float],
    device: torch.device,
    dtype: torch.dtype,
) -> Statistics:
    """Return Σ_j w_j s_j of the stored statistics; directions (empty tables) add nothing.

    Beyond the ends of a section a combined variance may turn negative; it becomes NaN there,
    so that the loss does, too, rather than a number that means nothing.

    Raises:
        ValueError: If an anchor came without statistics.
    """
    statistics = combined(layers, anchors, weights, device, dtype)
    for name in layers:
        key = _key(name, "running_var")
        statistics[key] = torch.where(statistics[key] < 0, torch.nan, statistics[key])
    return statistics


def combined(
    layers: Mapping[str, _BatchNorm],
    anchors: Sequence[Mapping[str, Tensor] | None],
    weights: Sequence[float],
    device: torch.device,
    dtype: torch.dtype,
) -> Statistics:
    """Return Σ_j w_j s_j of the stored statistics, whatever comes out: also of derivatives."""
    statistics: Statistics = {}
    for name in layers:
        for part in ("running_mean", "running_var"):
            key = _key(name, part)
            total: Tensor | None = None
            for buffers, weight in zip(anchors, weights, strict=True):
                if weight == 0 or (buffers is not None and not buffers):
                    continue
                if buffers is None or key not in buffers:
                    raise ValueError(
                        "batch_norm='interpolate' combines the statistics of the anchors' "
                        f"networks; an anchor came without {key!r}. Make the points with "
                        "`space.flatten(model)`, or pass `buffers=(model_a, model_b)` to the "
                        "section."
                    )
                term = buffers[key].to(device, dtype)
                if weight != 1:
                    term = term * weight
                total = term if total is None else total + term
            statistics[key] = (
                torch.zeros_like(getattr(layers[name], part)) if total is None else total
            )
    return statistics


def population_statistics(
    layers: Mapping[str, _BatchNorm],
    split: Split,
    forward: Callable[[int, Any, Statistics], None],
    points: int = 1,
    buffer: Callable[[Tensor], Tensor] | None = None,
) -> list[Statistics]:
    """Return the mean and variance of each layer's input over all examples of a split.

    Layers come in the order in which a pass reaches them, each fed by layers that already use
    their population statistics, as in one pass over one batch that holds the whole split.
    Where that batch is too large for memory, the split is passed once for each layer instead,
    whatever the number of points: one reading of a batch serves all of them.

    Args:
        layers: The layers, with the buffers that `forward` swaps in.
        split: The split.
        forward: Runs one batch at one of the points, given by its number, with given statistics.
        points: How many points there are.
        buffer: Makes a buffer that can hold what passes write to it, such as a tensor with
            derivatives; None for plain ones.

    Returns:
        The statistics at each point.

    Raises:
        ValueError: If a layer is used more than once in a pass.
    """
    collectors = [_Collector(layers, partial(forward, point), buffer) for point in range(points)]
    order, size = collectors[0].trace(split.head(split.lengths[0]))
    if split.whole is not None and size * len(split.lengths) <= _ONE_PASS_BYTES:
        for collector in collectors:
            collector.see([split.whole], order)
            collector.use(order)
    else:
        for name in order:
            for batch in split.batches:
                for collector in collectors:
                    collector.see([batch], [name], stop=True)
            for collector in collectors:
                collector.use([name])
    return [collector.stored() for collector in collectors]


@dataclass
class _Moments:
    """Count, mean and sum of squared deviations for each channel, in float64."""

    count: int
    mean: Tensor
    squares: Tensor

    @property
    def variance(self) -> Tensor:
        """The biased variance."""
        return self.squares / self.count

    def __add__(self, other: "_Moments") -> "_Moments":
        """Merge with the moments of other examples (Chan et al. 1983)."""
        count = self.count + other.count
        shift = other.mean - self.mean
        squares = self.squares + other.squares + shift**2 * (self.count * other.count / count)
        return _Moments(count, self.mean + shift * (other.count / count), squares)

    @classmethod
    def of(cls, values: Tensor) -> "_Moments":
        """Return the moments over all axes but the second."""
        axes = [axis for axis in range(values.ndim) if axis != 1]
        shape = [1, -1] + [1] * (values.ndim - 2)
        mean = values.mean(axes, dtype=torch.float64)
        squares = (
            (values - mean.to(values.dtype).view(shape)).square().sum(axes, dtype=torch.float64)
        )
        count = values.numel() // values.shape[1]
        # The deviations were taken from the rounded mean; correct for that.
        squares = squares - count * (mean - mean.to(values.dtype)) ** 2
        return cls(count, mean, squares)


class _Reached(Exception):  # noqa: N818 (no error: it ends a pass at the layer of interest)
    """The pass has reached the last layer that was asked for."""


class _Collector:
    """Runs passes at one point in which layers report their input, and then use its statistics."""

    def __init__(
        self,
        layers: Mapping[str, _BatchNorm],
        forward: Callable[[Any, Statistics], None],
        buffer: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.layers = layers
        self.forward = forward
        self.moments: dict[str, _Moments] = {}
        # Buffers to write into, filled with the stored statistics.
        self.statistics: Statistics = {
            _key(name, part): getattr(layer, part).detach().clone()
            for name, layer in layers.items()
            for part in ("running_mean", "running_var")
        }
        if buffer is not None:
            self.statistics = {name: buffer(found) for name, found in self.statistics.items()}

    def trace(self, batch: Any) -> tuple[list[str], int]:
        """Return the layers in the order of a pass, and the bytes of the largest input."""
        order: list[str] = []
        sizes = [0]

        def see(name: str, values: Tensor) -> None:
            if name in order:
                raise ValueError(
                    "batch_norm='recalibrate' needs layers that are used once in a pass; "
                    f"{name!r} is used again. Choose 'stored' or 'batch'."
                )
            order.append(name)
            sizes.append(values.numel() * values.element_size())

        self._run([batch], self.layers, see)
        return order, max(sizes)

    def see(self, batches: Sequence[Any], names: Sequence[str], stop: bool = False) -> None:
        """Add the inputs of some layers to their moments.

        Args:
            batches: What to pass.
            names: The layers, in the order of a pass.
            stop: Whether the batches are but a part of the split, of which the last layer's
                input is all that is needed. Else each layer uses the moments at once.
        """

        def see(name: str, values: Tensor) -> None:
            moments = _Moments.of(values)  # with tangents, where the pass carries any
            known = self.moments.get(name)
            self.moments[name] = moments if known is None else known + moments
            if not stop:
                self.use([name])
            elif name == names[-1]:
                raise _Reached

        self._run(batches, names, see)

    def use(self, names: Sequence[str]) -> None:
        """Write the moments of some layers into the buffers that passes read."""
        for name in names:
            moments = self.moments[name]
            for part, found in (("running_mean", moments.mean), ("running_var", moments.variance)):
                buffer = self.statistics[_key(name, part)]
                buffer.copy_(found.to(buffer))

    def stored(self) -> Statistics:
        """Return the statistics as PyTorch stores them.

        It stores the unbiased variance, and normalises training batches by the biased.
        """
        statistics = dict(self.statistics)
        for name, moments in self.moments.items():
            unbiased = moments.variance * (moments.count / max(moments.count - 1, 1))
            layer = self.layers[name]
            statistics[_key(name, "running_mean")] = moments.mean.to(layer.running_mean)
            statistics[_key(name, "running_var")] = unbiased.to(layer.running_var)
        return statistics

    def _run(self, batches: Sequence[Any], names: Any, see: Callable[[str, Tensor], None]) -> None:
        """Pass batches through the model with hooks before some layers."""
        hooks = [
            self.layers[name].register_forward_pre_hook(
                lambda _, inputs, name=name: see(name, inputs[0])
            )
            for name in names
        ]
        try:
            for batch in batches:
                try:
                    self.forward(batch, self.statistics)
                except _Reached:
                    continue
        finally:
            for hook in hooks:
                hook.remove()


def _key(name: str, part: str) -> str:
    """Return the name of a buffer of a layer."""
    return f"{name}.{part}" if name else part
