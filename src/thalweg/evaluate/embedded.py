"""An embedding and the projection after it, computed once a word rather than once a token.

The projection of a token's embedding, W e + b, depends on the word alone. So at every point each
word that occurs is projected once, and tokens look it up. (On a line it would be a quadratic form
in the section's weights, with tables that serve all points; but where words occur often, one
product a point is next to nothing, and holding those tables is not.)
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from thalweg.evaluate.deferred import Deferred, Source, deferred, rows_shown
from thalweg.evaluate.recurrent import (
    input_bias,
    recurrent_layers,
    run_recurrent,
    starting_state,
)

__all__ = ["Embedded", "Projected", "embedded_words"]

# Words that are projected in one product: their temporary stays small.
_WORDS_A_PRODUCT = 1024


class Embedded:
    """An embedding that remembers its tokens until something reads its output.

    Args:
        layer: The embedding.
    """

    reason = ""  # by itself it saves nothing

    def __init__(self, layer: nn.Embedding) -> None:
        self.layer = layer

    def forward(self, input: Tensor) -> Tensor:
        """Return vectors that are looked up when they are read."""
        weight = self.layer.weight
        source = Source(
            lambda: functional.embedding(input, weight),
            input,
            self.layer.embedding_dim,
            self,
            lambda rows: self.forward(input.reshape(-1)[rows]),
        )
        return deferred(input.shape, weight.dtype, source)

    def moved(self) -> None:
        """Nothing is kept."""

    released = moved


class Projected:
    """A linear or recurrent layer that looks up the projections of words.

    Args:
        layer: The layer.

    Attributes:
        embedding: The embedding that feeds it, once it has met one.
    """

    def __init__(self, layer: nn.Linear | nn.RNNBase) -> None:
        self.layer = layer
        self.reason = (
            f"What a {type(layer).__name__} makes of an embedding is computed once a word, and "
            "looked up for every token."
        )
        self.embedding: Embedded | None = None
        self._table: Tensor | None = None
        self._known: Tensor | None = None

    def forward(self, input: Tensor, hx: Any = None) -> Any:
        """Return the layer's output, from projections of words where words come in."""
        tokens = self._tokens(input)
        layer = self.layer
        if tokens is None:
            plain: Any = type(layer).forward
            return plain(layer, input, hx) if isinstance(layer, nn.RNNBase) else plain(layer, input)
        if isinstance(layer, nn.RNNBase):
            start = starting_state(layer, input, hx)
            return run_recurrent(layer, self._projections(tokens), tokens, start)
        return self._projections(tokens)[tokens]

    def moved(self) -> None:
        """Forget the projections at the last point."""
        if self._known is not None:
            self._known.zero_()

    def released(self) -> None:
        """Give the table back."""
        self._table = self._known = None

    @property
    def table_bytes(self) -> int:
        """Bytes of the projections of all words."""
        assert self.embedding is not None
        words, weight = self.embedding.layer.num_embeddings, self._weight_and_bias()[0]
        return words * weight.shape[0] * weight.element_size()

    def _tokens(self, given: Tensor) -> Tensor | None:
        """Return the words whose embeddings are given, or None if other things are."""
        if not isinstance(given, Deferred) or given.source.table is not None:
            return None
        rows, maker = rows_shown(given, -1), given.source.maker
        if rows is None or not isinstance(maker, Embedded):
            return None
        if isinstance(self.layer, nn.RNNBase) and (rows.ndim != 2 or not len(rows)):
            return None
        if self.embedding not in (None, maker):
            return None
        self.embedding = maker
        given.source.expect_unchanged()
        return given.source.inputs.reshape(-1)[rows]

    def _projections(self, tokens: Tensor) -> Tensor:
        """Return a table of projections, shape (words, features), with those of some tokens."""
        assert self.embedding is not None
        vectors = self.embedding.layer.weight
        weight, bias = self._weight_and_bias()
        if self._table is None or self._known is None:
            self._table = vectors.new_empty(len(vectors), weight.shape[0])
            self._known = torch.zeros(len(vectors), dtype=torch.bool, device=vectors.device)
        flat = tokens.reshape(-1)
        # `index_select`, unlike brackets, knows no words below zero.
        missing = torch.unique(flat[~self._known.index_select(0, flat)])
        for words in missing.split(_WORDS_A_PRODUCT):
            self._table[words] = functional.linear(vectors[words], weight, bias)
        self._known[missing] = True
        return self._table

    def _weight_and_bias(self) -> tuple[Tensor, Tensor | None]:
        """Return what the embedding is projected by, at the point where the model is."""
        if isinstance(self.layer, nn.RNNBase):
            return self.layer.get_parameter("weight_ih_l0"), input_bias(self.layer)
        return self.layer.weight, self.layer.bias


def embedded_words(model: nn.Module, device: torch.device) -> list[Embedded | Projected]:
    """Return the embeddings of a model, and the layers that may project what they put out.

    An embedding with `max_norm` writes to its weights when it is called, and is left alone. On a
    GPU, the steps of recurrent layers are left to its own kernels.
    """
    embeddings = [
        Embedded(module)
        for module in model.modules()
        if type(module) is nn.Embedding
        and "forward" not in vars(module)
        and module.max_norm is None
    ]
    if not embeddings:
        return []
    linear = [
        module
        for module in model.modules()
        if type(module) is nn.Linear and "forward" not in vars(module)
    ]
    recurrent = recurrent_layers(model) if device.type == "cpu" else ()
    return [*embeddings, *map(Projected, linear), *map(Projected, recurrent)]
