"""Leaving the user's random numbers as they were."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ["preserved_random_state"]


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
