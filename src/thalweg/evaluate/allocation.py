"""Keeping freed memory: activations that come and go need not come from the system each time."""

import torch

__all__ = ["keep_freed_memory"]

# Just below the largest block by which glibc lets itself be taught.
_LESSON = 31 << 20


def keep_freed_memory() -> None:
    """Let the C library keep the memory of freed tensors for the next ones.

    By default glibc gives what is free at the end of its heap back to the system as soon as it
    is twice the largest block that was ever mapped and freed (mallopt(3), `M_TRIM_THRESHOLD`).
    Activations of a few megabytes are then cleared by the system at every layer of every batch,
    which took a third of the time of a ResNet-20. One larger block, never touched and freed at
    once, teaches it better; other libraries are not impressed. It costs nothing.
    """
    torch.empty(_LESSON, dtype=torch.uint8)
