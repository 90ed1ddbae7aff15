"""Leaving the user's random numbers as they were."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ["preserved_generators", "preserved_random_state"]


@contextmanager
def preserved_random_state() -> Iterator[None]:
    """Restore the global generators of Python, NumPy and torch (every device) on leaving.

    Data sets and models draw from them: loaders for shuffling, transforms for augmentation,
    dropout for masks. Looking at a cost must not change what training draws next, also when
    the look ends in an exception.
    """
    python_state = random.getstate()
    numpy_state = np.random.get_state()  # noqa: NPY002 (the user's generator, to put it back)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002


@contextmanager
def preserved_generators(generators: Sequence[torch.Generator]) -> Iterator[None]:
    """Restore some generators of the user's on leaving, such as that of a DataLoader."""
    states = [generator.get_state() for generator in generators]
    try:
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
