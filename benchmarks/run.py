"""How fast points are evaluated, as ratios against the loop that one usually writes.

    python benchmarks/run.py [--scale smoke|full] [--only line plane ...] [--pairs 5]

Every round evaluates the same workload by each contestant in turn, and what counts is the median
over the rounds of the ratio within a round: single times mean little on a shared machine. The
usual loop costs the same at every point, so that of large workloads it is timed on some points,
spread over the section, and scaled; the table says on how many. Values must agree.

With `--peers .venv-peers/bin/python` the package loss-landscapes runs beside (see
`peer_loss_landscapes.py`). Results go to `benchmarks/results/` as JSON; `table.py` draws them.
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import contestants
import numpy as np
import torch
from workloads import WORKLOADS, mnist_plane

import thalweg as tw

HERE = Path(__file__).parent

# Points of a section on which the usual loop is timed at full scale; None for all.
TIMED = {"line": 17, "plane": None, "mnist-plane": 24, "resnet": 4, "lstm": 3}
TOLERANCE = {"line": 1e-3, "mnist-plane": 1e-2}


def clocked(work):
    """Return what a piece of work returns, and its seconds."""
    clock = time.perf_counter()
    result = work()
    return result, time.perf_counter() - clock


def a_round(workload, timed, peers):
    """Evaluate a workload once by every contestant; return seconds for the whole section."""
    weights = workload.weights()
    rows = np.arange(len(weights))
    if timed is not None and timed < len(rows):
        rows = np.unique(np.linspace(0, len(rows) - 1, timed).round().astype(int))
    usual, seconds = clocked(lambda: contestants.usual_loop(workload, weights[rows]))
    times = {"usual loop": seconds * len(weights) / len(rows)}
    result, times["exact"] = clocked(lambda: contestants.exact(workload))
    values = result.loss["train"].ravel()
    np.testing.assert_allclose(values[rows], usual, rtol=2e-5)
    found = {"exact": result}
    if workload.name in TOLERANCE:
        found["adaptive"], times["adaptive"] = clocked(
            lambda: contestants.adaptive(workload, TOLERANCE[workload.name])
        )
    if workload.name == "line":
        found["estimated"], times["estimated"] = clocked(lambda: contestants.estimated(workload))
    if peers and workload.name in ("line", "plane"):
        points = min(17, workload.points) if workload.name == "line" else workload.points
        told = contestants.loss_landscapes(workload, peers, points)
        times["loss-landscapes"] = told["seconds"] * len(weights)
        # Its steps end at the last point of the line; of a plane it takes other directions.
        if workload.name == "line":
            np.testing.assert_allclose(told["last"], values[-1], rtol=1e-4)
    return times, found


def only_adaptive_round(workload, timed):
    """As `a_round`, for a plane whose exact grid would take hours."""
    weights = workload.weights()
    rows = np.unique(np.linspace(0, len(weights) - 1, timed).round().astype(int))
    _, seconds = clocked(lambda: contestants.usual_loop(workload, weights[rows]))
    result, spent = clocked(lambda: contestants.adaptive(workload, TOLERANCE[workload.name]))
    usual = seconds * len(weights) / len(rows)
    return {"usual loop": usual, "adaptive": spent}, {"adaptive": result}


def checked(workload, found, small):
    """Compare estimates with dense exact values; return what was found, as words and numbers."""
    facts = {}
    if workload.name == "line":
        objective = workload.objective()
        line = workload.section(objective)
        truth = tw.profile(objective, line, tw.Uniform(0, 1, 41 if small else 401), progress=False)
        loss = truth.loss["train"]
        size = float(np.ptp(loss))
        profile = found["adaptive"]
        error = np.abs(profile.interpolate(truth.alpha) - loss).max() / size
        facts["adaptive"] = {
            "points": len(profile.alpha),
            "error": error,
            "bound": float(profile.interpolation.bound.max() / size),
            "dense points": len(loss),
        }
        exact, guess = found["exact"].loss["train"], found["estimated"]
        away = np.abs(guess.loss["train"] - exact)
        facts["estimated"] = {
            "error": float(away.max() / size),
            "half width": float(guess.estimate.half_width.max() / size),
            "holds": bool(np.all(away <= guess.estimate.half_width + 1e-6 * np.abs(exact))),
        }
    if workload.name == "mnist-plane":
        sparse = mnist_plane(small, examples=2_000)
        objective = sparse.objective()
        plane, dense = sparse.section(objective), tw.Uniform(0, 1, 21 if small else 101)
        truth = tw.surface(objective, plane, dense, dense, progress=False)
        surface = contestants.adaptive(sparse, TOLERANCE[workload.name])
        loss = truth.loss["train"]
        between = surface.interpolate(truth.x, truth.y)
        facts["adaptive"] = {
            "points": int(found["adaptive"].loss["train"].size),
            "error": float(np.abs(between - loss).max() / np.ptp(loss)),
            "bound": float(surface.interpolation.bound.max() / np.ptp(loss)),
            "dense points": loss.size,
            "examples of the check": len(sparse.data[0]),
        }
    return facts


def usual_variants(workload):
    """Return the seconds of the usual loop with other batches and workers, timed on few points."""
    weights = workload.weights()
    few = weights[:: max(1, len(weights) // 4)]
    variants = {}
    for size, workers in ((128, 2), (1000, 0), (1000, 2)):
        clock = time.perf_counter()
        contestants.usual_loop(workload, few, size, workers)
        spent = (time.perf_counter() - clock) / len(few) * len(weights)
        variants[f"batch {size}, {workers} workers"] = spent
    return variants


def limits():
    """Return the rate of matrix products and of copies of this machine."""
    a, b = torch.randn(2048, 1200), torch.randn(1200, 1200)
    big = torch.randn(32 << 20)
    product, copy = [], []
    for _ in range(9):
        product.append(2 * 2048 * 1200 * 1200 / clocked(lambda: a @ b)[1] / 1e9)
        copy.append(2 * big.numel() * 4 / clocked(big.clone)[1] / 1e9)
    return {"products (GFLOP/s)": statistics.median(product), "copies (GB/s)": max(copy)}


def memory(name, who, small):
    """Return the peak memory of a fresh process that runs one contestant, in MiB."""
    scale = "smoke" if small else "full"
    command = [sys.executable, __file__, "--memory", name, who, "--scale", scale]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(told.stdout.splitlines()[-1]) / 1024


def spend_memory(name, who, small):
    """Run one contestant for what it holds; print the peak in KiB."""
    workload = WORKLOADS[name](small)
    weights = workload.weights()
    if who == "usual loop":
        contestants.usual_loop(workload, weights[:2])
    elif who == "exact":
        objective = workload.objective()
        section = workload.section(objective)
        few = workload.coordinates()[:: max(1, workload.points // 4)]
        if len(workload.ends) == 2:
            tw.profile(objective, section, few, progress=False)
        else:
            tw.surface(objective, section, few, few, progress=False)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def conditions():
    """Return what the machine is."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.exists() else []
    names = [line.split(":")[1].strip() for line in lines if "model name" in line]
    cpu = (names or [platform.processor()])[0]
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": cpu,
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "thalweg": tw.__version__,
        "python": platform.python_version(),
    }


def main():
    """Run the rounds and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", choices=["smoke", "full"], default="smoke")
    parser.add_argument("--only", nargs="+", choices=list(WORKLOADS), default=list(WORKLOADS))
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--peers", type=Path, help="python of an environment with the peers")
    parser.add_argument("--output", type=Path, default=HERE / "results")
    parser.add_argument("--memory", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    small = options.scale == "smoke"
    if options.memory:
        spend_memory(*options.memory, small)
        return
    options.output.mkdir(parents=True, exist_ok=True)
    for name in options.only:
        workload = WORKLOADS[name](small)
        timed = None if small else TIMED[name]
        rounds, found = [], {}
        for number in range(options.pairs):
            if name == "mnist-plane":
                times, found = only_adaptive_round(workload, timed or 5)
            else:
                times, found = a_round(workload, timed, options.peers)
            rounds.append(times)
            said = ", ".join(f"{k} {v:.3g} s" for k, v in times.items())
            print(f"{name} {number + 1}/{options.pairs}: {said}", flush=True)
        facts = checked(workload, found, small)
        variants = usual_variants(workload) if name == "line" else {}
        plan = None
        if name != "mnist-plane":
            objective = workload.objective()
            grid = workload.coordinates()
            more = () if len(workload.ends) == 2 else (grid,)
            plan = tw.plan(objective, workload.section(objective), grid, *more).strategy
        result = {
            "name": name,
            "title": workload.title,
            "data": workload.data_name,
            "points": len(workload.weights()),
            "timed points of the usual loop": timed or len(workload.weights()),
            "strategy": plan,
            "rounds": rounds,
            "variants of the usual loop": variants,
            "checks": facts,
            "limits": limits(),
            "memory (MiB)": {who: memory(name, who, small) for who in ("usual loop", "exact")},
            "conditions": conditions(),
            "scale": options.scale,
        }
        place = options.output / f"{options.scale}-{name}.json"
        place.write_text(json.dumps(result, indent=1) + "\n")
        for who in rounds[0]:
            if who != "usual loop":
                ratios = [times["usual loop"] / times[who] for times in rounds]
                print(
                    f"{workload.title}: {who} {statistics.median(ratios):.2f}x "
                    f"({min(ratios):.2f} to {max(ratios):.2f})",
                    flush=True,
                )


if __name__ == "__main__":
    main()
