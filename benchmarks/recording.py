"""What recording costs a training run, in time and on disk, and whether it outlives being killed.

    python benchmarks/recording.py [--scale smoke|full] [--rounds 9] [--kills 200]

The network is the MNIST perceptron 784-1200-1200-10, trained by SGD with momentum on batches of
100. Every round trains the same block of steps twice from the same state, with and without a
recorder, in turns; what counts is the median over the rounds of the ratio within a round. Beside it
stands the share of time that was spent inside the recorder's own calls, which a busy machine
disturbs less (the norm of the gradient is taken in the optimiser's step: it is in the ratio alone).
Blocks are 20 steps, of which there are 12 times as many rounds; a block that ends an epoch is an
epoch long, and its recorder stores one point. The points before the
first step and after the last one are stored outside the clock.

`--kills` starts that many recording processes, kills each at a random moment, and looks whether the
trajectory opens, holds every point that was reported, and goes on to the same end.

Results go to `benchmarks/results/recording.json`, those of the smoke scale to a folder below.
"""

import argparse
import copy
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
from kills import killed
from machine import clocked, conditions
from torch import nn
from workloads import digits_of_mnist, perceptron

import thalweg as tw

HERE = Path(__file__).parent
BATCH = 100
NEVER = tw.At(steps=())
# What costs little at every step is seen in many short blocks: a machine is seldom as fast as it
# was a second ago.
SHORT, MORE = 20, 12

# Name: what a recorder is asked for, and whether the block is an epoch.
WAYS = {
    "loss and learning rate": ({"schedule": NEVER}, False),
    "loss, learning rate, gradient norm": ({"schedule": NEVER, "gradient_norm": True}, False),
    "a point every epoch": ({"schedule": tw.Every(epochs=1)}, True),
    "a point every epoch, bfloat16": (
        {"schedule": tw.Every(epochs=1), "dtype": torch.bfloat16},
        True,
    ),
    "a point every epoch, with optimiser and random state": (
        {"schedule": tw.Every(epochs=1), "optimizer_state": True, "random_state": True},
        True,
    ),
    "a point every 100 steps": ({"schedule": tw.Every(steps=100)}, True),
    "a point every 100 steps, with updates": (
        {"schedule": tw.Every(steps=100), "updates": True},
        True,
    ),
    "a point every 100 steps, in the background": (
        {"schedule": tw.Every(steps=100), "background": True},
        True,
    ),
}


class Run:
    """A network, its optimiser and its data; blocks of steps are trained from one state."""

    def __init__(self, small):
        (self.x, self.y), self.data = digits_of_mnist(2_000 if small else 60_000)
        self.widths = (784, 40, 40, 10) if small else (784, 1200, 1200, 10)
        self.epoch = len(self.x) // BATCH
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.model = perceptron(*self.widths)
        self.optimizer = torch.optim.SGD(self.model.parameters(), 0.05, momentum=0.9)
        self.block(20)  # momentum is there, and torch has done what it does once
        self.start = copy.deepcopy((self.model.state_dict(), self.optimizer.state_dict()))

    def rewind(self):
        """Go back to the state that every block starts from."""
        self.model.load_state_dict(self.start[0])
        self.optimizer.load_state_dict(copy.deepcopy(self.start[1]))

    def block(self, steps, recorder=None, ends_epoch=False):
        """Train some steps; return the seconds spent in the recorder's own calls."""
        order = torch.randperm(len(self.x), generator=torch.Generator().manual_seed(1))
        own = 0.0
        for number in range(steps):
            batch = order[(number % self.epoch) * BATCH :][:BATCH]
            self.optimizer.zero_grad()
            loss = nn.functional.cross_entropy(self.model(self.x[batch]), self.y[batch])
            loss.backward()
            self.optimizer.step()
            value = loss.item()
            if recorder is not None:
                began = time.perf_counter()
                recorder.step(loss=value, batch_size=BATCH)
                own += time.perf_counter() - began
        if recorder is not None and ends_epoch:
            began = time.perf_counter()
            recorder.epoch()
            own += time.perf_counter() - began
        return own


def a_round(run, options, steps, ends_epoch, recorded_first):
    """Train one block with and one without a recorder; return seconds, and those of its own."""
    seconds, own = {}, 0.0
    for recorded in (recorded_first, not recorded_first):
        run.rewind()
        if not recorded:
            _, seconds["without"] = clocked(lambda: run.block(steps))
            continue
        with tempfile.TemporaryDirectory() as folder:
            recorder = tw.Recorder(folder, run.model, run.optimizer, **options)
            with recorder:
                own, seconds["with"] = clocked(lambda r=recorder: run.block(steps, r, ends_epoch))
    return {**seconds, "own calls": own}


def sizes(run, options, steps, ends_epoch):
    """Return the bytes of a point, of a step, and of an update, of a short run."""
    run.rewind()
    with tempfile.TemporaryDirectory() as folder:
        with tw.Recorder(folder, run.model, run.optimizer, **options) as recorder:
            run.block(steps, recorder, ends_epoch)
        place = Path(folder)
        points = [path.stat().st_size for path in place.glob("snapshots/*.safetensors")]
        updates = [path.stat().st_size for path in place.glob("updates/*.safetensors")]
        return {
            "bytes a point": max(points),
            "bytes an update": max(updates, default=0),
            "bytes a step": (place / "steps.csv").stat().st_size / steps,
        }


def reading(run, points):
    """Return the rates at which a trajectory is streamed, and its files are read by themselves."""
    with tempfile.TemporaryDirectory() as folder:
        with tw.Recorder(folder, run.model, run.optimizer, tw.Every(steps=1)) as recorder:
            run.block(points, recorder)
        trajectory = tw.Trajectory.open(folder)
        files = sorted((Path(folder) / "snapshots").iterdir())
        total = sum(path.stat().st_size for path in files)

        def plainly():
            room = memoryview(bytearray(max(path.stat().st_size for path in files)))
            for path in files:
                with open(path, "rb", buffering=0) as file:
                    file.readinto(room)

        def streamed():
            for _ in trajectory.stream():
                pass

        rates = {"plain read (GB/s)": [], "stream (GB/s)": []}
        for _ in range(5):
            rates["plain read (GB/s)"].append(total / clocked(plainly)[1] / 1e9)
            rates["stream (GB/s)"].append(total / clocked(streamed)[1] / 1e9)
        return {name: statistics.median(each) for name, each in rates.items()} | {
            "points": len(trajectory)
        }


def measured(options):
    """Run the rounds of every way; return all that a table needs."""
    small = options.scale == "smoke"
    run = Run(small)
    ways = {}
    for name, (asked, ends_epoch) in WAYS.items():
        steps = run.epoch if ends_epoch else min(SHORT, run.epoch)
        rounds = []
        for number in range(options.rounds * (1 if ends_epoch else MORE)):
            rounds.append(a_round(run, asked, steps, ends_epoch, number % 2 == 0))
        ratios = [each["with"] / each["without"] - 1 for each in rounds]
        own = [each["own calls"] / each["with"] for each in rounds]
        ways[name] = {
            "steps of a block": steps,
            "rounds": rounds,
            "share (median)": statistics.median(ratios),
            "share (range)": [min(ratios), max(ratios)],
            "share of own calls (median)": statistics.median(own),
            **sizes(run, asked, min(steps, 100), ends_epoch),
        }
        told = ways[name]
        print(
            f"{name}: {told['share (median)']:+.2%} ({min(ratios):+.2%} to {max(ratios):+.2%}), "
            f"own calls {told['share of own calls (median)']:.2%}, "
            f"{told['bytes a point'] / 1e6:.3g} MB a point",
            flush=True,
        )
    result = {
        "network": "-".join(map(str, run.widths)),
        "parameters": sum(p.numel() for p in run.model.parameters()),
        "data": run.data,
        "batch": BATCH,
        "steps of an epoch": run.epoch,
        "ways": ways,
        "reading": reading(run, 5 if small else 60),
        "conditions": conditions(),
        "scale": options.scale,
    }
    print(", ".join(f"{name} {value:.3g}" for name, value in result["reading"].items()))
    return result


def main():
    """Run the rounds and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", choices=["smoke", "full"], default="smoke")
    parser.add_argument("--rounds", type=int, help="9 at full scale, 1 at smoke scale")
    parser.add_argument("--kills", type=int, help="200 at full scale, 3 at smoke scale")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    small = options.scale == "smoke"
    options.rounds = options.rounds or (1 if small else 9)
    kills = (3 if small else 200) if options.kills is None else options.kills
    output = options.output or HERE / "results" / ("smoke" if small else "")
    output.mkdir(parents=True, exist_ok=True)
    result = measured(options)
    if kills:
        result["kills"] = killed(kills)
        print(", ".join(f"{name} {value}" for name, value in result["kills"].items()))
    (output / "recording.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
