"""Who evaluates: the loop that one usually writes, peers, and thalweg in its ways.

Building the objective, checking it and choosing a strategy are part of thalweg's time, making a
`DataLoader` is part of the loop's. A value that is not the usual loop's is refused, whoever gives
it: a wrong number is quickly had.
"""

import json
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional
from workloads import Workload

import thalweg as tw

# What sums in float32, in another order or layout, may differ by, relative to the value.
ROUNDING = 2e-5
# A peer takes means of batches in float32, and may walk along the line step by step.
PEER_ROUNDING = 1e-4


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


def exact(workload: Workload, device="cpu"):
    """Evaluate every point of the uniform grid."""
    return evaluated(workload, workload.coordinates(), device)


def adaptive(workload: Workload, device="cpu"):
    """Evaluate where the cost bends, to the tolerance of the workload."""
    return evaluated(workload, tw.Adaptive(workload.tolerance), device)


def estimated(workload: Workload, device="cpu", examples=2000, nodes=6):
    """Estimate every point of the uniform grid from common examples and exact nodes."""
    objective = workload.objective(device=device)
    how = tw.Subsample(min(examples, len(workload.data[0]) // 2), seed=0, nodes=nodes)
    line = workload.section(objective)
    return tw.profile(objective, line, workload.coordinates(), estimate=how, progress=False)


def evaluated(workload: Workload, grid, device="cpu", keep=None):
    """Return the profile or the surface of a workload on a grid."""
    objective = workload.objective(device=device)
    section = workload.section(objective)
    if len(workload.ends) == 2:
        return tw.profile(objective, section, grid, progress=False, keep=keep)
    return tw.surface(objective, section, grid, grid, progress=False, keep=keep)


WAYS = {"exact": exact, "adaptive": adaptive, "estimated": estimated}


@dataclass(frozen=True)
class PeersAnswer:
    """What a peer took, and what it found.

    Attributes:
        seconds: Time of one point.
        memory: Most memory that its process held, in MiB, or None where that is not known.
        points: Weights of the ends at points that others evaluate too, one row a point.
        values: Values there.
    """

    seconds: float
    memory: float | None
    points: np.ndarray
    values: np.ndarray


def peer(name, workload: Workload, python: Path, points: int) -> PeersAnswer:
    """Run another package in its own environment on some points along each coordinate."""
    weights = [tensor for key, tensor in workload.ends[0].items() if key.endswith("weight")]
    widths = [weights[0].shape[1], *(weight.shape[0] for weight in weights)]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "workload.pt"
        torch.save((workload.ends, workload.data), place)
        script = Path(__file__).with_name("peers.py")
        numbers = [json.dumps(widths), points, torch.get_num_threads()]
        command = [python, script, name, place, *numbers]
        told = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if told.returncode:
        raise RuntimeError(
            f"The peer {name} must run in {python}, and failed: {told.stderr.strip()[-400:]} "
            "Set it up with `make bench PEERS=1`, or leave `--peers` out."
        )
    answer = json.loads(told.stdout.splitlines()[-1])
    memory, alpha = answer["kilobytes"], np.linspace(0, 1, points)
    places = workload.weights_at(*[alpha] * (len(workload.ends) - 1))
    values = np.array(answer["values"])
    # What a peer tells are all values in our order, the last alone, or none of these points.
    places = places[len(places) - len(values) :]
    return PeersAnswer(answer["seconds"], None if memory is None else memory / 1024, places, values)


def weights_of(workload: Workload, result) -> np.ndarray:
    """Return the weights of the ends at the points of a result, in the order of its losses."""
    if len(workload.ends) == 2:
        return workload.weights_at(result.alpha)
    return workload.weights_at(result.x, result.y)


def expect_agreement(who, points, values, usual_points, usual, rounding=ROUNDING):
    """Raise unless somebody's values are the usual loop's, wherever both have evaluated.

    Args:
        who: Whose values they are.
        points: Weights of the ends, one row a point.
        values: Values there.
        usual_points: Likewise for the usual loop.
        usual: Its values.
        rounding: What they may differ by, relative to the value.
    """
    # Two ways to compute a coordinate may differ in its last bit.
    rows = {tuple(row): number for number, row in enumerate(np.round(points, 9).tolist())}
    keys = [tuple(row) for row in np.round(usual_points, 9).tolist()]
    common = [number for number, key in enumerate(keys) if key in rows]
    if not common:
        raise ValueError(
            f"The points of {who!r} and of the usual loop must have one in common; none of "
            f"{len(keys)} is. Time the usual loop at the ends of the section too."
        )
    np.testing.assert_allclose(
        [values[rows[keys[number]]] for number in common],
        np.asarray(usual)[common],
        rtol=rounding,
        err_msg=f"The values of {who!r} must be those of the usual loop; they are not. Find out "
        "which is right before a time is reported.",
    )
