"""The displacement of a run that is larger than memory may be: speed against the disk, and memory.

    python benchmarks/displacement.py [--scale smoke] [--folder FOLDER] [--output FOLDER]

Records 1,000 snapshots of 2 million parameters in float32 (8 GB; `smoke`: 20 of 20,000) and looks
in a process of its own, at files that the system has been told to forget: a plain sequential read
of all files, `tw.displacement`, and the read again. Bytes per second of the displacement, which
checks every checksum, are counted over both of its passes. Where the files cannot be forgotten
(macOS, a container) they may come from memory, and the result says so.

Results go to `benchmarks/results/displacement.json`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from machine import clocked, conditions, peak_memory

import thalweg as tw

HERE = Path(__file__).parent
SCALES = {"full": (1000, 2_000_000), "smoke": (20, 20_000)}  # snapshots, parameters
ROUNDS = 3


class Walker(torch.nn.Module):
    """One vector of parameters."""

    def __init__(self, parameters, generator):
        super().__init__()
        self.theta = torch.nn.Parameter(torch.randn(parameters, generator=generator))


def write(folder, snapshots, parameters):
    """Record a walk with a drift, one snapshot an update."""
    generator = torch.Generator().manual_seed(0)
    walker = Walker(parameters, generator)
    drift = 0.05 * torch.randn(parameters, generator=generator)
    with tw.Recorder(folder, walker, schedule=tw.Every(steps=1)) as recorder, torch.no_grad():
        for _ in range(snapshots - 1):
            walker.theta += drift + 0.5 * torch.randn(parameters, generator=generator)
            recorder.step()


def forget(paths):
    """Make the system drop files from memory; return whether it can."""
    if not hasattr(os, "posix_fadvise"):
        return False
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)
    return True


def read_plainly(paths):
    """Read all files from first to last byte."""
    room = memoryview(bytearray(8 << 20))
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            while file.readinto(room):
                pass


def measure(folder, rounds):
    """Return seconds of plain reads and of displacements, in turns, and the peak of memory."""
    run = tw.Trajectory.open(folder)
    paths = sorted(Path(folder, "snapshots").iterdir())
    times = {"plain read": [], "displacement": []}
    forgotten = True
    for _ in range(rounds):
        forgotten &= forget(paths)
        times["plain read"].append(clocked(lambda: read_plainly(paths))[1])
        forgotten &= forget(paths)
        found, seconds = clocked(lambda: tw.displacement(run, progress=False))
        times["displacement"].append(seconds)
    size = sum(path.stat().st_size for path in paths)
    return {
        "snapshots": len(paths),
        "parameters": run.points.size,
        "bytes": size,
        "files forgotten before each": forgotten,
        "seconds": times,
        "bytes a second": {
            "plain read": [size / t for t in times["plain read"]],
            "displacement": [2 * size / t for t in times["displacement"]],
        },
        "memory (MiB)": peak_memory(),
        "greatest distance": float(found.distance.max()),
        "conditions": conditions(),
    }


def apart(folder, rounds):
    """Measure in a process of its own, whose memory is that of the displacement alone."""
    command = [sys.executable, __file__, "--measure", str(folder), "--rounds", str(rounds)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"The measurement failed: {done.stderr[-2000:]}. Run it by hand.")
    return json.loads(done.stdout)


def sentence(found):
    """Return the result in words."""
    rates = {name: np.median(each) / 1e9 for name, each in found["bytes a second"].items()}
    source = "from disk" if found["files forgotten before each"] else "perhaps from memory"
    return (
        f"{found['snapshots']} snapshots of {found['parameters']:,} parameters "
        f"({found['bytes'] / 1e9:.2f} GB, {source}): displacement reads "
        f"{rates['displacement']:.2f} GB/s in each of two passes, a plain sequential read "
        f"{rates['plain read']:.2f} GB/s; peak memory {found['memory (MiB)']:.0f} MiB."
    )


def main():
    """Write the snapshots, measure, print and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", choices=SCALES, default="full")
    parser.add_argument("--folder", type=Path, help="where the snapshots go while it runs")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--output", type=Path, default=HERE / "results")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.rounds)))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        write(folder, *SCALES[options.scale])
        found = apart(folder, options.rounds)
    output = options.output / ("smoke" if options.scale == "smoke" else "")
    output.mkdir(parents=True, exist_ok=True)
    (output / "displacement.json").write_text(json.dumps(found, indent=1) + "\n")
    print(sentence(found))


if __name__ == "__main__":
    main()
