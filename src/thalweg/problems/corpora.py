"""Texts as streams of tokens: Penn Treebank, Tiny Shakespeare, and a text made by chance."""

import gzip
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thalweg.problems.data import DataSet, checksum_of, fetch

__all__ = ["VOCABULARY", "chance_text", "penn_treebank", "streams_of", "tiny_shakespeare"]

VOCABULARY = 10_000
"""Words of the Penn Treebank in Mikolov's version, the end of a sentence among them."""

_STREAMS = 20


def penn_treebank(*, words: int | None = None, valid_words: int | None = None) -> DataSet:
    """Return the Penn Treebank in Mikolov's version, as 20 streams of words for each split.

    Ends of lines are the word `<eos>`; words are numbered in the order in which the training text
    brings them. The text is sold by the Linguistic Data Consortium: it is read from
    `$THALWEG_DATA/ptb/` and never downloaded.

    Args:
        words: Words of the training text, counted from the first; None for all 929,589.
        valid_words: The same of the validation text.

    Returns:
        The splits `"train"`, `"valid"` and `"test"`: words and the words that follow them, both
        of shape (20, tokens).

    Raises:
        DataUnavailableError: If the files are in no folder.
        ValueError: If a file is not the original one, or too few words are asked for.
    """
    paths = fetch("ptb")
    texts = {
        name: gzip.decompress(paths[f"ptb.{name}.txt.gz"].read_bytes())
        .decode()
        .replace("\n", " <eos> ")
        .split()
        for name in ("train", "valid", "test")
    }
    numbers: dict[str, int] = {}
    for word in texts["train"]:
        numbers.setdefault(word, len(numbers))
    cut = {"train": words, "valid": valid_words, "test": None}
    return _numbered("ptb", {name: text[: cut[name]] for name, text in texts.items()}, numbers)


def tiny_shakespeare(*, characters: int | None = None) -> DataSet:
    """Return the characters of Tiny Shakespeare, nine tenths of them for training.

    For those who do not have the Penn Treebank: 65 distinct characters, 1,115,394 in all, free.

    Args:
        characters: Characters of the training text, counted from the first; None for all.

    Returns:
        The splits `"train"` and `"valid"`: characters and those that follow them, both of shape
        (20, tokens).

    Raises:
        DataUnavailableError: If the file is in no folder and cannot be downloaded.
        ValueError: If the file is not the original one, or too few characters are asked for.
    """
    text = fetch("tinyshakespeare")["input.txt"].read_text(encoding="utf-8")
    border = len(text) * 9 // 10
    numbers = {letter: place for place, letter in enumerate(sorted(set(text)))}
    texts = {"train": text[:border][:characters], "valid": text[border:]}
    return _numbered("tinyshakespeare", texts, numbers)


def chance_text(*, seed: int = 0, tokens: int = 5000, vocabulary: int = 24) -> DataSet:
    """Return a text in which every token is followed by one of few others, by chance.

    A Markov chain: from each token lead three arrows, with probabilities 0.6, 0.3 and 0.1, so
    that the entropy of the next token is 0.898 nats for those who know the chain. It needs no
    data at all.

    Args:
        seed: Seed of chain and text.
        tokens: Tokens for training; a fourth as many are for validation.
        vocabulary: Number of distinct tokens.

    Returns:
        The splits `"train"` and `"valid"`, of shape (20, tokens).

    Example:
        >>> {name: tuple(x.shape) for name, (x, y) in chance_text().splits.items()}
        {'train': (20, 249), 'valid': (20, 61)}
    """
    draw = np.random.default_rng(seed)
    arrows = np.stack([draw.permutation(vocabulary)[:3] for _ in range(vocabulary)])
    choices = draw.choice(3, size=tokens + tokens // 4, p=(0.6, 0.3, 0.1))
    text, here = [], 0
    for choice in choices:
        here = int(arrows[here, choice])
        text.append(here)
    numbers = {token: token for token in range(vocabulary)}
    return _numbered("chance", {"train": text[:tokens], "valid": text[tokens:]}, numbers)


def streams_of(tokens: Tensor, streams: int = _STREAMS) -> tuple[Tensor, Tensor]:
    """Cut a text into contiguous streams, and pair each token with the one that follows it.

    Args:
        tokens: Numbers of tokens, shape (n,).
        streams: How many streams; what is left over at the end of the text is left out.

    Returns:
        Tokens and followers, both of shape (streams, n // streams − 1).

    Raises:
        ValueError: If a stream would have no token with a follower.

    Example:
        >>> streams_of(torch.arange(7), streams=2)
        (tensor([[0, 1],
                [3, 4]]), tensor([[1, 2],
                [4, 5]]))
    """
    length = len(tokens) // streams
    if length < 2:
        raise ValueError(
            f"Each of {streams} streams needs two tokens at least; got {len(tokens)} in all. Give "
            "a longer text."
        )
    cut = tokens[: streams * length].reshape(streams, length)
    return cut[:, :-1].contiguous(), cut[:, 1:].contiguous()


def _numbered(name: str, texts: Mapping[str, Sequence[Any]], numbers: Mapping[Any, int]) -> DataSet:
    """Return texts as a data set of streams."""
    splits = {
        split: streams_of(torch.tensor([numbers[token] for token in text]))
        for split, text in texts.items()
    }
    words = f"{len(numbers):,} distinct tokens, {_STREAMS} streams"
    return DataSet(name, splits, words, checksum_of(splits))
