"""The machine that computes: its devices, and what a result was made with."""

import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch

from thalweg._version import __version__
from thalweg.results import Provenance

__all__ = ["provenance", "usable_device"]


def usable_device(name: torch.device | str) -> torch.device:
    """Return a device, after making sure that torch can compute on it here.

    Raises:
        ValueError: If there is no such device, or torch was built without support for it.

    Example:
        >>> usable_device("cpu")
        device(type='cpu')
    """
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"A device that torch can use here is needed; got {str(name)!r} ({reason}). "
            "Use 'cpu', or install a build of torch for your accelerator."
        ) from error
    return device


def provenance(
    device: torch.device,
    dtype: torch.dtype,
    seconds: float,
    *,
    objective: Mapping[str, Any] | None = None,
    section: Mapping[str, Any] | None = None,
) -> Provenance:
    """Return what makes a result on this machine, now.

    Args:
        device: Where it was computed.
        dtype: Type of the parameters.
        seconds: How long it took.
        objective: Plain facts about what was evaluated.
        section: Plain facts about where it was evaluated.

    Example:
        >>> made = provenance(torch.device("cpu"), torch.float64, 0.25)
        >>> made.dtype, made.seconds
        ('float64', 0.25)
    """
    return Provenance(
        versions={
            "thalweg": __version__,
            "torch": str(torch.__version__),
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        device=str(device),
        dtype=str(dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
        objective=objective or {},
        section=section or {},
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(seconds, 3),
    )
