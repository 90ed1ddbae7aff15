"""Scores over many classes, computed where the loss reads them, a few positions at a time.

A language model gives every position one score a word. The table of a whole batch (4480 positions
of 10,000 words: 180 MB) is made of fresh pages by one product, copied by the loss, and given back
to the system. Pieces of it take the same memory again and again.
"""

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from thalweg.evaluate.deferred import Source, deferred, rows_shown
from thalweg.evaluate.products import linear

__all__ = ["WideHead", "wide_heads"]

# Below 32 MiB the C library keeps what is freed, above it goes back to the system. Measured with
# 10,000 words: 512 to 2048 positions are equally fast, 256 are slower where threads are disturbed.
_PIECE_BYTES = 20 << 20
_FEWEST_POSITIONS = 256

# A table of fewer bytes is kept by the C library as it is.
_WORTH_BYTES = 16 << 20
_WORTH_CLASSES = 256

_CROSS_ENTROPY = inspect.signature(functional.cross_entropy)


class WideHead:
    """A linear layer whose output goes straight into a cross-entropy.

    Args:
        layer: The layer.
    """

    def __init__(self, layer: nn.Linear) -> None:
        self.layer = layer
        self.reason = (
            f"Scores of {layer.out_features} classes are computed a few positions at a time, "
            "where the loss reads them."
        )
        self._pieces = self._wholes = self._bytes = 0

    def forward(self, given: Tensor) -> Tensor:
        """Return scores that are computed when they are read."""
        layer = self.layer
        readers = {functional.cross_entropy: lambda *a, **k: self._cross_entropy(given, a, k)}
        source = Source(
            lambda: self._whole(given),
            given,
            layer.out_features,
            self,
            lambda rows: self.forward(given.reshape(-1, given.shape[-1])[rows]),
            readers,
        )
        scores = deferred(given.shape[:-1], given.dtype, source)
        self._bytes = max(self._bytes, scores.numel() * scores.element_size())
        return scores

    def moved(self) -> None:
        """Nothing is kept."""

    released = moved

    def pays(self, scale: float) -> bool:
        """Tell whether tables are large, and all that were met were read in pieces.

        Args:
            scale: Examples of a batch of the objective, for each of the batch that was met.
        """
        in_pieces = self._pieces > 0 and self._wholes == 0
        return in_pieces and self._bytes * scale >= _WORTH_BYTES

    def _whole(self, given: Tensor) -> Tensor:
        """Return the table, for readers of another kind."""
        self._wholes += 1
        return functional.linear(given, self.layer.weight, self.layer.bias)

    def _cross_entropy(self, given: Tensor, args: Any, kwargs: Any) -> Any:
        """Return the cross-entropy, from a few positions at a time."""
        call = _CROSS_ENTROPY.bind(*args, **kwargs)
        call.apply_defaults()
        scores, target, weight = (call.arguments[n] for n in ("input", "target", "weight"))
        reduction, ignored = call.arguments["reduction"], call.arguments["ignore_index"]
        settled = call.arguments["size_average"] is None and call.arguments["reduce"] is None
        averages = reduction == "sum" or (reduction == "mean" and weight is None)
        positions = rows_shown(scores, 1 if scores.ndim > 1 else 0)
        if (
            positions is None
            or not settled
            or not (averages or reduction == "none")
            or target.is_floating_point()
            or target.shape != positions.shape
        ):
            return NotImplemented
        self._pieces += 1
        inputs = given.reshape(-1, given.shape[-1])
        rows, wanted = positions.reshape(-1), target.reshape(-1)
        terms = torch.empty(wanted.shape, dtype=given.dtype, device=given.device)
        step = self._positions_a_piece(given.element_size())
        for start in range(0, len(rows), step):
            piece = slice(start, start + step)
            terms[piece] = functional.cross_entropy(
                linear(inputs[rows[piece]], self.layer.weight, self.layer.bias),
                wanted[piece],
                weight,
                ignore_index=ignored,
                reduction="none",
                label_smoothing=call.arguments["label_smoothing"],
            )
        if reduction == "none":
            return terms.view(target.shape)
        return terms.sum() if reduction == "sum" else terms.sum() / (wanted != ignored).sum()

    def _positions_a_piece(self, itemsize: int) -> int:
        """Return how many positions to score at a time."""
        return max(_FEWEST_POSITIONS, _PIECE_BYTES // (self.layer.out_features * itemsize))


def wide_heads(model: nn.Module) -> list[WideHead]:
    """Return the linear layers with so many outputs that they may be scores of classes."""
    return [
        WideHead(module)
        for module in model.modules()
        if type(module) is nn.Linear
        and "forward" not in vars(module)
        and module.out_features >= _WORTH_CLASSES
    ]
