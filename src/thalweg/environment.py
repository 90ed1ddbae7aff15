"""The machine that computes: its devices, and what a result was made with."""

import os
import platform
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from thalweg._version import __version__
from thalweg.results import Provenance

__all__ = ["free_memory", "provenance", "usable_device", "versions"]


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


def free_memory(device: torch.device) -> int | None:
    """Return the bytes that this process can still use, on the host and on a device.

    On the host that is what the system can give without swapping, and no more than the control
    group of the process (a container, a job) has left. Of host and device the smaller counts, for
    data passes through both.

    Returns:
        The bytes, or None where the system does not tell.

    Example:
        >>> free = free_memory(torch.device("cpu"))
        >>> free is None or free > 0
        True
    """
    rooms = [room for room in (_available(), *_control_groups()) if room is not None]
    if device.type == "cuda":
        rooms.append(torch.cuda.mem_get_info(device)[0])
    return min(rooms, default=None)


def _available() -> int | None:
    """Return the bytes of memory that the system can give without swapping."""
    try:
        table = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return int(table["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        pass
    try:  # half of all: other systems do not tell what they could give back
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, OSError, ValueError):
        return None


def _control_groups(
    root: Path = Path("/sys/fs/cgroup"), process: Path = Path("/proc/self/cgroup")
) -> Iterator[int]:
    """Iterate over what the control groups of this process have left, from the inside out."""
    try:
        lines = process.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, place = line.split(":", 2)
        if controllers == "":  # version 2 of control groups has one tree for everything
            top, limit, usage = root, "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            top, limit, usage = root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        folder = top / place.lstrip("/")
        for group in (folder, *folder.parents):
            if group.is_relative_to(top):
                yield from _room_in(group, limit, usage)


def _room_in(group: Path, limit: str, usage: str) -> Iterator[int]:
    """Return what one control group has left, if there is such a group and it has a limit."""
    try:
        room = int((group / limit).read_text()) - int((group / usage).read_text())
        table = (group / "memory.stat").read_text().splitlines()
    except (OSError, ValueError):  # without a limit it says "max"
        return
    counts = dict(line.split() for line in table)
    # Pages of files count as used, and are given back when there is need.
    yield max(0, room + int(counts.get("inactive_file", 0)))


def versions() -> dict[str, str]:
    """Return the versions of what computes here.

    Example:
        >>> sorted(versions())
        ['numpy', 'python', 'thalweg', 'torch']
    """
    return {
        "thalweg": __version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


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
        versions=versions(),
        device=str(device),
        dtype=str(dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
        objective=objective or {},
        section=section or {},
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(seconds, 3),
    )
