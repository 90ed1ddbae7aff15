"""How fast points are evaluated, as ratios against the loop that one usually writes.

    python benchmarks/run.py [--scale smoke|full] [--only line plane ...] [--pairs 5]
    python benchmarks/run.py --device cuda

Every round evaluates the same workload by each contestant in turn, and what counts is the median
over the rounds of the ratio within a round: single times mean little on a shared machine. The
usual loop costs the same at every point, so that of large workloads it is timed on some points,
spread over the section, and scaled; the table says on how many. Values must agree.

With `--peers .venv-peers/bin/python` other packages run beside (see `peers.py`). Results go to
`benchmarks/results/` as JSON, those of the smoke scale to a folder of their own below it;
`table.py` draws them. The full scale takes about 25 minutes on 2 cores, and ten more for the first
time: what adaptive sections are compared with is evaluated densely once, and kept in a temporary
folder.

On a GPU the usual loop runs there too, with its data on the host, as one usually has it; clocks
stop when the GPU has finished, memory is that of the GPU, and products are float32 (no TF32).
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import contestants
import numpy as np
import torch
from machine import clocked, conditions, forget_peak, limits, peak_memory
from peers import PEERS
from workloads import WORKLOADS, mnist_plane

import thalweg as tw

HERE = Path(__file__).parent

# Thalweg's ways of each workload. The exact grid of the large plane would take hours on a CPU.
WAYS = {
    "line": ("exact", "adaptive", "estimated"),
    "plane": ("exact",),
    "mnist-plane": ("adaptive",),
    "resnet": ("exact",),
    "lstm": ("exact",),
}
# Points of a section on which the usual loop is timed at full scale, and points along each
# coordinate for peers, which are among those of the section.
TIMED = {"line": 6, "plane": 300, "mnist-plane": 12, "resnet": 2, "lstm": 2}
PEERS_POINTS = {"line": 6, "plane": 11, "mnist-plane": 3}
# Points on which the variants of the usual loop are timed, beside the usual loop itself.
VARIED = {"line": 2, "plane": 20, "mnist-plane": 2, "resnet": 1, "lstm": 1}
VARIANTS = {
    "batch 128": (128, 0),
    "batch 128, 2 workers": (128, 2),
    "batch 1000": (1000, 0),
    "batch 1000, 2 workers": (1000, 2),
}
ON_GPU = ["line", "plane", "resnet"]


def spread(points, count):
    """Return some numbers below `points`, from first to last, evenly spread."""
    return np.unique(np.linspace(0, points - 1, min(count, points)).round().astype(int))


def a_round(workload, timed, ways, peers=None, device="cpu"):
    """Evaluate a workload once by every contestant.

    Returns:
        Seconds for the whole section by contestant; what thalweg's ways have found; and the peak
        memory of peers.
    """
    weights = workload.weights()
    rows = spread(len(weights), timed)
    usual, seconds = clocked(
        lambda: contestants.usual_loop(workload, weights[rows], device=device), device
    )
    times, found, memory = {"usual loop": seconds * len(weights) / len(rows)}, {}, {}
    for way in ways:
        work = contestants.WAYS[way]
        found[way], times[way] = clocked(lambda work=work: work(workload, device), device)
        if way != "estimated":  # of which `checked` says how far it is off
            points = contestants.weights_of(workload, found[way])
            values = found[way].loss["train"].ravel()
            contestants.expect_agreement(way, points, values, weights[rows], usual)
    if peers and workload.name in PEERS_POINTS:
        count = min(PEERS_POINTS[workload.name], workload.points)
        for name in PEERS:
            answer = contestants.peer(name, workload, peers, count)
            times[name], memory[name] = answer.seconds * len(weights), answer.memory
            if len(answer.values):
                contestants.expect_agreement(
                    name,
                    answer.points,
                    answer.values,
                    weights[rows],
                    usual,
                    contestants.PEER_ROUNDING,
                )
    return times, found, memory


def checked(workload, found, small, device="cpu"):
    """Compare what is not exact everywhere with dense exact values, as shares of the range."""
    facts = {}
    if "estimated" in found:
        exact, guess = found["exact"].loss["train"], found["estimated"]
        away, size = np.abs(guess.loss["train"] - exact), np.ptp(exact)
        facts["estimated"] = {
            "error": float(away.max() / size),
            "half width": float(guess.estimate.half_width.max() / size),
            "holds": bool(np.all(away <= guess.estimate.half_width + 1e-6 * np.abs(exact))),
        }
    if "adaptive" not in found:
        return facts
    points = found["adaptive"].loss["train"].size
    if len(workload.ends) == 3:  # a dense table of all examples would take hours
        workload = mnist_plane(small, examples=2_000)
        found = {"adaptive": contestants.adaptive(workload, device)}
    result = found["adaptive"]
    loss, between = dense_truth(workload, result, small, device)
    error, size = np.abs(between - loss).max(), np.ptp(loss)
    facts["adaptive"] = {
        "points": points,
        "tolerance": workload.tolerance,
        "error": float(error / size),
        "bound": float(result.interpolation.bound.max() / size),
        "converged": result.interpolation.converged,
        "dense points": loss.size,
        "examples of the check": len(workload.data[0]),
    }
    return facts


def dense_truth(workload, result, small, device="cpu"):
    """Return exact values on a dense grid, and those of an adaptive result there.

    Points are kept between runs, for a cost that has not changed has the same dense values.
    """
    keep = Path(tempfile.gettempdir()) / "thalweg-bench-dense"
    if len(workload.ends) == 2:
        grid = tw.Uniform(0, 1, 41 if small else 401)
        truth = contestants.evaluated(workload, grid, device, keep)
        return truth.loss["train"], result.interpolate(truth.alpha)
    grid = tw.Uniform(0, 1, 21 if small else 101)
    truth = contestants.evaluated(workload, grid, device, keep)
    return truth.loss["train"], result.interpolate(truth.x, truth.y)


def usual_variants(workload, count, device="cpu"):
    """Return the seconds a point of the usual loop with several batches and workers."""
    weights = workload.weights()
    few = weights[spread(len(weights), count)]
    seconds = {}
    for name, (size, workers) in VARIANTS.items():
        _, spent = clocked(
            lambda size=size, workers=workers: contestants.usual_loop(
                workload, few, size, workers, device
            ),
            device,
        )
        seconds[name] = spent / len(few)
    return seconds


def memory(name, who, scale, device="cpu"):
    """Return the peak memory of a fresh process that runs one contestant, in MiB."""
    command = [sys.executable, __file__, "--memory", name, who]
    command += ["--scale", scale, "--device", device]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(told.stdout.splitlines()[-1])


def spend_memory(workload, who, device="cpu"):
    """Run one contestant for what it holds, on some points; return the peak in MiB."""
    forget_peak()  # reading the data may have taken more
    if who == "usual loop":
        contestants.usual_loop(workload, workload.weights()[:1], device=device)
    else:
        few = workload.coordinates()[spread(workload.points, 5)]
        contestants.evaluated(workload, few, device)
    return peak_memory(device)


def warm_up(device="cpu"):
    """Let torch, SciPy and the device do what they do once a process."""
    small = WORKLOADS["line"](True)
    for way in contestants.WAYS.values():
        way(small, device)
    contestants.usual_loop(small, small.weights()[:1], device=device)


def strategy_of(workload, device="cpu"):
    """Return the strategy that thalweg chooses for the whole grid."""
    objective, grid = workload.objective(device=device), workload.coordinates()
    grids = [grid] * (len(workload.ends) - 1)
    return tw.plan(objective, workload.section(objective), *grids).strategy


def measured(name, options):
    """Run the rounds of one workload; return all that the table needs."""
    small, device = options.scale == "smoke", options.device
    workload = WORKLOADS[name](small)
    points = len(workload.weights())
    timed = min(points, 25 if small else TIMED[name])
    rounds, found, peers_memory = [], {}, {}
    for number in range(options.pairs):
        times, found, peers_memory = a_round(workload, timed, WAYS[name], options.peers, device)
        rounds.append(times)
        said = ", ".join(f"{who} {seconds:.3g} s" for who, seconds in times.items())
        print(f"{name} {number + 1}/{options.pairs}: {said}", flush=True)
    every, first = workload.operations()
    return {
        "name": name,
        "title": workload.title,
        "data": workload.data_name,
        "examples": len(workload.data[0]),
        "points": points,
        "anchors": len(workload.ends),
        "timed points of the usual loop": timed,
        "strategy": strategy_of(workload, device),
        "operations an example": {"all layers": every, "first layer": first},
        "rounds": rounds,
        "seconds a point of the usual loop": usual_variants(workload, VARIED[name], device),
        "checks": checked(workload, found, small, device),
        "limits": limits(device),
        "memory (MiB)": {
            who: memory(name, who, options.scale, device) for who in options.remembered
        }
        | peers_memory,
        "conditions": conditions(device),
        "scale": options.scale,
        "device": torch.device(device).type,
    }


def parsed():
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", choices=["smoke", "full"], default="smoke")
    parser.add_argument("--only", nargs="+", choices=list(WORKLOADS))
    parser.add_argument("--pairs", type=int, help="5 at full scale, 1 at smoke scale")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--peers", type=Path, help="python of an environment with the peers")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--memory", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    small, cpu = options.scale == "smoke", torch.device(options.device).type == "cpu"
    options.only = options.only or (list(WORKLOADS) if cpu else ON_GPU)
    options.pairs = options.pairs or (1 if small else 5)
    options.output = options.output or HERE / "results" / ("smoke" if small else "")
    if not cpu and options.peers:
        parser.error("Peers run on the CPU; leave --peers out with another device.")
    return options


def main():
    """Run the rounds and write the results."""
    options = parsed()
    torch.backends.cudnn.allow_tf32 = False  # of products it is torch's default
    if options.memory:
        name, who = options.memory
        print(spend_memory(WORKLOADS[name](options.scale == "smoke"), who, options.device))
        return
    options.output.mkdir(parents=True, exist_ok=True)
    warm_up(options.device)
    for number, name in enumerate(options.only):
        # Fresh processes take their time; that they work is seen at the first small workload.
        small_again = number and options.scale == "smoke"
        options.remembered = () if small_again else ("usual loop", "thalweg")
        result = measured(name, options)
        on = "" if result["device"] == "cpu" else f"-{result['device']}"
        place = options.output / f"{name}{on}.json"
        place.write_text(json.dumps(result, indent=1) + "\n")
        for who in WAYS[name]:
            ratios = [times["usual loop"] / times[who] for times in result["rounds"]]
            print(
                f"{result['title']}: {who} {statistics.median(ratios):.2f}x "
                f"({min(ratios):.2f} to {max(ratios):.2f})",
                flush=True,
            )


if __name__ == "__main__":
    main()
