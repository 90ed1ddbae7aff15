"""The same perceptron evaluated by loss-landscapes 3.0.6, in an environment of its own.

    python -m venv .venv-peers
    .venv-peers/bin/pip install torch numpy
    .venv-peers/bin/pip install --no-deps loss-landscapes==3.0.6

It passes all examples at once, as its `metrics.Loss` does, and walks along the line in steps.
"""

import itertools
import json
import resource
import sys
import time

import loss_landscapes
import torch
from loss_landscapes.metrics import Loss

place, widths, points, threads = sys.argv[1], json.loads(sys.argv[2]), *map(int, sys.argv[3:5])
torch.set_num_threads(threads)
ends, data = torch.load(place, weights_only=True)
models = []
for end in ends:
    layers = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [torch.nn.Linear(inputs, outputs), torch.nn.ReLU()]
    models.append(torch.nn.Sequential(*layers[:-1]).eval())
    models[-1].load_state_dict(end)
metric = Loss(torch.nn.CrossEntropyLoss(), *data)
line = len(models) == 2
walk = loss_landscapes.linear_interpolation if line else loss_landscapes.planar_interpolation
clock = time.perf_counter()
with torch.no_grad():
    values = walk(*models, metric, steps=points, deepcopy_model=True)
seconds = (time.perf_counter() - clock) / values.size
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"seconds": seconds, "last": float(values.ravel()[-1]), "kilobytes": memory}))
