"""Instructions that the Python around the arithmetic takes for one point of a line.

    python benchmarks/instructions.py

Callgrind counts the instructions of a sweep of n points and of one of 2n, on networks so small
that arithmetic costs next to nothing; the difference, divided by n, is what one more point takes.
Unlike a time it repeats to less than a percent on a busy machine, so that a change of a few
percent can be seen. Every count is of a fresh copy of one process (`fork`), which spares the
minute that valgrind needs to import torch. Counts depend on Python, torch and the C library: only
those of one installation can be compared.

Needs `valgrind`; takes about two minutes. Results go to `benchmarks/results/instructions.json`.
"""

import argparse
import gc
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
POINTS = 64
ROUNDS = 2
FIXED = {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def sweeps():
    """Return what is counted: name to a function that evaluates a line of some points."""
    import numpy as np
    import torch
    from torch import nn

    import thalweg as tw
    from thalweg.evaluate.resident import Resident
    from thalweg.evaluate.stacked import StackedChain, Vectorised
    from thalweg.evaluate.strategy import Plain
    from thalweg.evaluate.tracing import Affine, dense_chain

    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    x, y = torch.randn(8, 4, generator=generator), torch.arange(8) % 2
    cost = tw.ModelObjective(model, nn.CrossEntropyLoss(), (x, y))
    ends = torch.randn(2, cost.space.size, generator=generator)
    line, anchors = tw.Line(*ends), list(ends)
    first = Affine("0", fan_in=4, outputs=3)
    chain = dense_chain(cost.forward_pass.model, "0", cost.space.names)
    formula = tw.FunctionObjective(lambda w: (1 - w.prod()) ** 2, size=3)
    between = tw.Line(torch.tensor([0.5, 1.0, 1.5]), torch.tensor([1.5, -1.0, -0.5]))
    strategies = {
        "formula": Plain(formula, between, list(between.anchors)),
        "plain": Plain(cost, line, anchors),
        "sequential": Resident(cost, line, anchors),
        "first-layer reuse": Resident(cost, line, anchors, first=[first]),
        "stacked products": StackedChain(cost, line, anchors, chain, 16),
        "vmap": Vectorised(cost, line, anchors, 16),
    }

    def evaluate(strategy, points):
        alpha = np.linspace(0, 1, points)
        weights = np.stack([1 - alpha, alpha], axis=-1)
        for start in range(0, points, strategy.rows):
            strategy.evaluate(weights[start : start + strategy.rows])

    def driven(points):
        tw.profile(formula, between, tw.Uniform(0, 1, points), progress=False)

    counted = {
        name: lambda points, strategy=strategy: evaluate(strategy, points)
        for name, strategy in strategies.items()
    }
    return counted | {"formula, with the driver": driven}


def count_here():
    """Count every sweep in copies of this process, which runs under callgrind."""
    import torch

    counted = sweeps()
    for sweep in counted.values():
        sweep(POINTS)  # what is done once is done before
    gc.collect()
    gc.freeze()
    for name, sweep in counted.items():
        for points in (POINTS, 2 * POINTS):
            child = os.fork()
            if child == 0:
                torch._C._valgrind_toggle()
                sweep(points)
                torch._C._valgrind_toggle_and_dump_stats()
                os._exit(0)
            if os.waitpid(child, 0)[1]:
                sys.exit(f"The sweep {name!r} must run; it failed with {points} points.")
            print(f"{name}\t{points}\t{child}", flush=True)


def counts():
    """Run a process under callgrind; return instructions by sweep and number of points."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["valgrind", "--tool=callgrind", "--collect-atstart=no"]
        command += [f"--callgrind-out-file={folder}/out.%p", sys.executable, __file__, "--count"]
        told = subprocess.run(
            command, capture_output=True, text=True, check=False, env={**os.environ, **FIXED}
        )
        if told.returncode:
            raise RuntimeError(f"Callgrind must run here; it failed: {told.stderr[-600:]}")
        found = {}
        for line in told.stdout.splitlines():
            name, points, child = line.split("\t")
            found.setdefault(name, {})[int(points)] = total(Path(folder) / f"out.{child}.1")
    return found


def total(place):
    """Return the instructions that a file of callgrind counts."""
    found = re.search(r"^(?:summary|totals):\s*(\d+)", place.read_text(), re.MULTILINE)
    if found is None:
        raise ValueError(
            f"A count of callgrind has a line `totals:`; {place} has none. Look at how valgrind "
            "was called."
        )
    return int(found.group(1))


def a_point(found):
    """Return the instructions of one more point."""
    return (found[2 * POINTS] - found[POINTS]) / POINTS


def instructions_table(results):
    """Return the counts as a Markdown table, line by line."""
    lines = [
        "Of a perceptron 4-3-2 on 8 examples, or a formula of 3 parameters: instructions that one "
        "more point of a line takes, and by how much they differed between two counts.",
        "",
        "| way | instructions a point | difference |",
        "| --- | --- | --- |",
    ]
    for name, each in results["instructions a point"].items():
        apart = (max(each) - min(each)) / min(each)
        lines.append(f"| {name} | {min(each):,.0f} | {100 * apart:.2f} % |")
    return lines


def main():
    """Count, print the table and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=HERE / "results")
    parser.add_argument("--count", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.count:
        count_here()
        return
    if shutil.which("valgrind") is None:
        print("Nothing is counted: `valgrind` is needed and is not on the path. Install it.")
        return
    from machine import conditions

    rounds = [counts() for _ in range(ROUNDS)]
    results = {
        "instructions a point": {
            name: [a_point(each[name]) for each in rounds] for name in rounds[0]
        },
        "counts": rounds,
        "points": POINTS,
        "conditions": conditions(),
    }
    options.output.mkdir(parents=True, exist_ok=True)
    place = options.output / "instructions.json"
    place.write_text(json.dumps(results, indent=1) + "\n")
    print("\n".join(instructions_table(results)))


if __name__ == "__main__":
    main()
