"""The LSTM language model with dropout of Zaremba, Sutskever & Vinyals (2014)."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from thalweg.problems.recipes import require

__all__ = ["LARGE", "MEDIUM", "SMALL", "LanguageModel", "LanguageRecipe", "stream_loss"]

State = tuple[tuple[Tensor, Tensor], ...]

_CHUNK = 35  # tokens of each stream whose logits are held at once


@dataclass(frozen=True, kw_only=True)
class LanguageRecipe:
    """A recurrent language model and how it is trained, in numbers.

    Attributes:
        units: Units of each layer, and of the embedding.
        layers: LSTM layers.
        init_range: All parameters, biases among them, start uniform in (−r, r).
        unroll: Time steps through which gradients flow back.
        dropout: Probability of dropping an input of a layer; recurrent connections keep all.
        learning_rate: Rate of the first epochs.
        constant_epochs: Epochs at that rate; after them it is divided once an epoch.
        decay: What it is divided by.
        epochs: Passes over the text.
        clip: Largest norm of a gradient; longer ones are scaled down to it.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> [round(SMALL.rate(epoch), 3) for epoch in (1, 4, 5, 6)]
        [1.0, 1.0, 0.5, 0.25]
    """

    units: int
    init_range: float
    unroll: int
    dropout: float
    constant_epochs: int
    decay: float
    epochs: int
    clip: float
    layers: int = 2
    learning_rate: float = 1.0

    def __post_init__(self) -> None:
        for name in ("units", "layers", "unroll", "constant_epochs", "epochs"):
            require(getattr(self, name) >= 1, f"`{name}` must be at least 1", getattr(self, name))
        require(0 <= self.dropout < 1, "`dropout` must lie in [0, 1)", self.dropout)
        for name in ("init_range", "learning_rate", "clip"):
            require(getattr(self, name) > 0, f"`{name}` must be positive", getattr(self, name))
        require(self.decay >= 1, "`decay` must be at least 1", self.decay)

    def rate(self, epoch: int) -> float:
        """Return the learning rate in an epoch, counted from 1."""
        return self.learning_rate * self.decay ** -max(0, epoch - self.constant_epochs)


SMALL = LanguageRecipe(
    units=200,
    init_range=0.1,
    unroll=20,
    dropout=0.0,
    constant_epochs=4,
    decay=2.0,
    epochs=13,
    clip=5.0,
)
"""The small model, without dropout: 4,653,200 parameters, test perplexity about 115."""

MEDIUM = LanguageRecipe(
    units=650,
    init_range=0.05,
    unroll=35,
    dropout=0.5,
    constant_epochs=6,
    decay=1.2,
    epochs=39,
    clip=5.0,
)
"""The medium model: 19,780,400 parameters, test perplexity about 83."""

LARGE = LanguageRecipe(
    units=1500,
    init_range=0.04,
    unroll=35,
    dropout=0.65,
    constant_epochs=14,
    decay=1.15,
    epochs=55,
    clip=10.0,
)
"""The large model: 66,034,000 parameters, test perplexity about 79."""


class LanguageModel(nn.Module):
    """Embedding, LSTM layers and a softmax, with dropout on what is not recurrent.

    Dropout is applied to the input of every LSTM layer and of the softmax, with inverted scaling,
    and never on the way from one time step to the next.

    Args:
        recipe: Sizes and initial range.
        vocabulary: Number of distinct tokens.
        seed: Seed of the initial parameters. Global random state is neither used nor changed.

    Example:
        >>> model = LanguageModel(SMALL, 10_000, seed=0)
        >>> sum(p.numel() for p in model.parameters())
        4653200
    """

    def __init__(self, recipe: LanguageRecipe, vocabulary: int, *, seed: int) -> None:
        super().__init__()
        units = recipe.units
        self.embedding = nn.Embedding(vocabulary, units)
        self.cells = nn.ModuleList(
            nn.LSTM(units, units, batch_first=True) for _ in range(recipe.layers)
        )
        self.dropout = nn.Dropout(recipe.dropout)
        self.output = nn.Linear(units, vocabulary)
        draw = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.uniform_(-recipe.init_range, recipe.init_range, generator=draw)

    def forward(self, tokens: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Return logits of the next token at each place, and the state after the last one.

        Args:
            tokens: Shape (streams, time).
            state: What the call before returned; None for zeros.
        """
        hidden, after = self.embedding(tokens), []
        for number, cell in enumerate(self.cells):
            hidden, last = cell(self.dropout(hidden), None if state is None else state[number])
            after.append(last)
        return self.output(self.dropout(hidden)), tuple(after)


def stream_loss(
    model: nn.Module, tokens: Tensor, followers: Tensor, chunk: int = _CHUNK
) -> tuple[Tensor, int]:
    """Return the summed negative log-likelihood of whole streams, and how many tokens that are.

    The state is carried from the first to the last token of each stream, so that the result does
    not depend on `chunk`, nor on how many streams are read at once.

    Args:
        model: A `LanguageModel`.
        tokens: Shape (streams, time).
        followers: The token after each, in the same shape.
        chunk: Time steps whose logits are held at once.
    """
    total = torch.zeros((), dtype=torch.float64, device=tokens.device)
    state: State | None = None
    for x, y in chunks(tokens, followers, chunk):
        logits, state = model(x, state)
        each = cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none")
        total = total + each.sum(dtype=torch.float64)
    return total, tokens.numel()


def chunks(tokens: Tensor, followers: Tensor, length: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Cut streams into pieces of some time steps, one after the other."""
    for first in range(0, tokens.shape[1], length):
        yield tokens[:, first : first + length], followers[:, first : first + length]
