"""Dropout at evaluation: off, or averaged over the same masks at every point."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from thalweg.objectives.random_state import preserved_random_state

__all__ = ["MonteCarlo", "dropout_policy"]


@dataclass(frozen=True)
class MonteCarlo:
    """Average the cost over sampled dropout masks, the same ones at every point.

    The expected dropout cost is a sum over all masks; a few samples estimate it. With fresh
    masks at every point the profile would be noise on top of the cost; with common random
    numbers it stays smooth, and differences along it are far tighter than its values.
    Sample s of batch i draws its masks from a seed made of (`seed`, s, i), so the estimate
    belongs to one batch size and one kind of device.

    Args:
        samples: Number of masks for each batch.
        seed: Seed of the masks.

    Raises:
        ValueError: If there is no sample, or the seed is negative.

    Example:
        >>> MonteCarlo(samples=5, seed=0)
        MonteCarlo(samples=5, seed=0)
    """

    samples: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.samples != int(self.samples) or self.samples < 1:
            raise ValueError(
                f"`samples` must be a whole number, 1 or more; got {self.samples}. Try 5."
            )
        if self.seed < 0:
            raise ValueError(f"`seed` must be 0 or more; got {self.seed}. Try 0.")

    @contextmanager
    def masks(self, sample: int, split: int, batch: int) -> Iterator[None]:
        """Seed the global generators for one batch, and put them back afterwards."""
        seed = np.random.SeedSequence((self.seed, sample, split, batch)).generate_state(2)
        with preserved_random_state():
            torch.manual_seed(int(seed[0]) << 32 | int(seed[1]))
            yield


def dropout_policy(dropout: Any) -> MonteCarlo | None:
    """Check the dropout argument."""
    if dropout is None or dropout == "off":
        return None
    if isinstance(dropout, MonteCarlo):
        return dropout
    raise ValueError(
        f"`dropout` must be None, 'off' or MonteCarlo(samples, seed); got {dropout!r}. "
        "For the network without dropout leave it out."
    )
