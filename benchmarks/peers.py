"""The same perceptron evaluated by another package, in an environment of its own.

    python -m venv .venv-peers
    .venv-peers/bin/pip install torch==2.13.0 numpy
    .venv-peers/bin/pip install --no-deps loss-landscapes==3.0.6 loss-landscape-3d==0.1.3

Called by `run.py` with the name of the package, a file of ends and data, the widths of the
perceptron, the number of points along each coordinate, and the number of threads. Prints one line
of JSON. Each package is used in the way that is fastest for it: loss-landscapes passes all
examples at once, as its `metrics.Loss` does, and loss-landscape-3d gets a `DataLoader` with a
batch of 1000.
"""

import itertools
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn


def perceptron(widths, state):
    """Return a ReLU network at some parameters, ready to be evaluated."""
    layers = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    model = nn.Sequential(*layers[:-1]).eval()
    model.load_state_dict(state)
    return model


def loss_landscapes(widths, ends, data, points):
    """Walk in equal steps: a line ends at its last anchor; a plane's steps are its own."""
    from loss_landscapes import linear_interpolation, planar_interpolation
    from loss_landscapes.metrics import Loss

    models = [perceptron(widths, end) for end in ends]
    walk = linear_interpolation if len(models) == 2 else planar_interpolation
    metric = Loss(nn.CrossEntropyLoss(), *data)
    values = walk(*models, metric, steps=points, deepcopy_model=True)
    # The first step is not at the start, and rows of a plane are walked to and fro: of all
    # values the end of a line alone is one that others evaluate too.
    return values.size, [float(values[-1])] if len(models) == 2 else []


def loss_landscape_3d(widths, ends, data, points):
    """Evaluate state dictionaries at the very coordinates of the workload."""
    from loss_landscape_3d import LossLandscapeCalculator

    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*data), batch_size=1000)
    model = perceptron(widths, ends[0])
    calculator = LossLandscapeCalculator(model, loader, nn.CrossEntropyLoss())
    # Float64 numbers of NumPy would turn the parameters into float64.
    alpha = [float(a) for a in np.linspace(0, 1, points)]
    if len(ends) == 2:
        values = calculator.calculate_1d_path(alpha, *ends)
    else:
        across, up = ({k: end[k] - ends[0][k] for k in end} for end in ends[1:])
        values = calculator.calculate(alpha, alpha, across, up, ends[0]).T
    return values.size, values.ravel().tolist()


PEERS = {"loss-landscapes": loss_landscapes, "loss-landscape-3d": loss_landscape_3d}


def peak_memory():
    """Return the most memory that this process has held, in KiB; None where nobody says."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), None)


def main():
    name, place = sys.argv[1:3]
    widths, points, threads = map(json.loads, sys.argv[3:])
    torch.set_num_threads(threads)
    ends, data = torch.load(place, weights_only=True)
    clock = time.perf_counter()
    with torch.no_grad():
        evaluated, values = PEERS[name](widths, ends, data, points)
    seconds = (time.perf_counter() - clock) / evaluated
    print(json.dumps({"seconds": seconds, "kilobytes": peak_memory(), "values": values}))


if __name__ == "__main__":
    main()
