"""Who evaluates: the loop that one usually writes, a peer, and thalweg in its ways.

Building the objective, checking it and choosing a strategy are part of thalweg's time, making a
`DataLoader` is part of the loop's.
"""

import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional
from workloads import Workload

import thalweg as tw


def usual_loop(workload: Workload, weights, batch_size=128, workers=0, device="cpu"):
    """Set the parameters with `load_state_dict` and pass a `DataLoader`, point by point."""
    model = workload.build().eval().to(device)
    ends = [{k: v.to(device) for k, v in end.items()} for end in workload.ends]
    data = torch.utils.data.TensorDataset(*workload.data)
    loader = torch.utils.data.DataLoader(data, batch_size=batch_size, num_workers=workers)
    losses = []
    for row in weights:
        state = dict(ends[-1])
        for name, _ in model.named_parameters():
            parts = [float(w) * end[name] for w, end in zip(row, ends, strict=True)]
            state[name] = sum(parts[1:], parts[0])
        model.load_state_dict(state)
        total, count = 0.0, 0
        with torch.no_grad():
            for x, y in loader:
                output = model(x.to(device))
                total += functional.cross_entropy(output, y.to(device), reduction="sum").item()
                count += y.numel()
        losses.append(total / count)
    return np.array(losses)


def exact(workload: Workload, device=None):
    """Evaluate every point of the uniform grid."""
    objective = workload.objective(device=device)
    section, alpha = workload.section(objective), workload.coordinates()
    if len(workload.ends) == 2:
        return tw.profile(objective, section, alpha, progress=False)
    return tw.surface(objective, section, alpha, alpha, progress=False)


def adaptive(workload: Workload, tolerance):
    """Evaluate where the cost bends."""
    objective = workload.objective()
    section, grid = workload.section(objective), tw.Adaptive(tolerance)
    if len(workload.ends) == 2:
        return tw.profile(objective, section, grid, progress=False)
    return tw.surface(objective, section, grid, grid, progress=False)


def estimated(workload: Workload, examples=2000, nodes=6):
    """Estimate every point of the uniform grid from common examples and exact nodes."""
    objective = workload.objective()
    how = tw.Subsample(min(examples, len(workload.data[0]) // 2), seed=0, nodes=nodes)
    line = workload.section(objective)
    return tw.profile(objective, line, workload.coordinates(), estimate=how, progress=False)


def loss_landscapes(workload: Workload, python: Path, points: int) -> dict[str, float]:
    """Run loss-landscapes in its own environment; return its seconds a point and last loss."""
    weights = [tensor for name, tensor in workload.ends[0].items() if name.endswith("weight")]
    widths = [weights[0].shape[1], *(weight.shape[0] for weight in weights)]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "workload.pt"
        torch.save((workload.ends, workload.data), place)
        script = Path(__file__).with_name("peer_loss_landscapes.py")
        command = [python, script, place, json.dumps(widths), points, torch.get_num_threads()]
        told = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    return json.loads(told.stdout.splitlines()[-1])
