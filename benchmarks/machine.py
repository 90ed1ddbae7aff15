"""What a machine is and can do: its name, its limits, a clock and the memory of a process."""

import platform
import resource
import statistics
import time
from datetime import UTC, datetime
from pathlib import Path

import torch

import thalweg as tw


def clocked(work, device="cpu"):
    """Return what a piece of work returns, and its seconds, when its device has finished."""
    settle(device)
    clock = time.perf_counter()
    result = work()
    settle(device)
    return result, time.perf_counter() - clock


def settle(device):
    """Wait for work that a GPU has been given and has not yet done."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def limits(device="cpu"):
    """Return the rates of matrix products and of copies, in float32: what bounds everything."""
    on_gpu = torch.device(device).type == "cuda"
    size = 8192 if on_gpu else 1200
    a, b = torch.randn(2048, size, device=device), torch.randn(size, size, device=device)
    big = torch.randn((256 if on_gpu else 32) << 20, device=device)
    _ = a @ b, big.clone()  # the first time takes longer
    product, copy = [], []
    for _ in range(9):
        operations = 2 * a.shape[0] * size * size
        product.append(operations / clocked(lambda: a @ b, device)[1] / 1e9)
        copy.append(2 * big.numel() * 4 / clocked(big.clone, device)[1] / 1e9)
    return {"products (GFLOP/s)": statistics.median(product), "copies (GB/s)": max(copy)}


def peak_memory(device="cpu"):
    """Return the most memory that this process has held, in MiB: of the GPU, or of the host."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    # `getrusage` counts the parent in whose image a process was started; Linux knows better.
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    for line in lines:
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    kilobytes = 1024 if platform.system() == "Darwin" else 1
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / kilobytes / 1024


def forget_peak():
    """Count the most memory of this process from now on, where the system can."""
    place = Path("/proc/self/clear_refs")
    if place.exists():
        place.write_text("5")


def conditions(device="cpu"):
    """Return what a reader must know of the machine to judge a time."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.exists() else []
    names = [line.split(":")[1].strip() for line in lines if "model name" in line]
    facts = {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": (names or [platform.processor()])[0],
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "thalweg": tw.__version__,
        "python": platform.python_version(),
    }
    if torch.device(device).type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
        facts["cuda"] = torch.version.cuda
    return facts
