"""What the interpolation studies share: a trained network and its costs."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from thalweg.errors import RecordError
from thalweg.objectives.criteria import error_rate
from thalweg.objectives.dropout import MonteCarlo
from thalweg.objectives.model import ModelObjective
from thalweg.problems.data import DataSet
from thalweg.records import Record, open_record, save_record, write_atomically
from thalweg.results import History
from thalweg.space import ParameterSpace
from thalweg.studies import trainings
from thalweg.studies.study import Run
from thalweg.studies.trainings import Training
from thalweg.training.checkpoint import TrainingCheckpoint
from thalweg.trajectory.recorder import Recorder
from thalweg.trajectory.schedules import Every
from thalweg.trajectory.trajectory import Trajectory

__all__ = [
    "Network",
    "cost_of",
    "random_point",
    "train_network",
    "train_recorded",
    "untrained",
]


@dataclass(frozen=True, eq=False)
class Network:
    """A network between the start and the end of its training.

    Attributes:
        model: The module.
        space: Its parameter space.
        data: The data set.
        start: θ before training, after the norm limits were applied once.
        solution: θ at the epoch with the lowest validation error.
        history: Loss and error over the run.
    """

    model: torch.nn.Module
    space: ParameterSpace
    data: DataSet
    start: Tensor
    solution: Tensor
    history: History


def untrained(run: Run, *, seed: int) -> tuple[torch.nn.Module, DataSet]:
    """Return a fresh network and its data."""
    made = trainings.perceptron(run, seed)
    return made.model, made.data


def train_network(run: Run, *, seed: int, training: Training | None = None) -> Network:
    """Train a network, or take up the result of an earlier run with the same settings.

    Both ends are written to `start-SEED.safetensors` and `solution-SEED.safetensors` as soon
    as they are known.

    Args:
        run: Settings and folder.
        seed: Seed of everything, and the number of the files.
        training: What to train; None for the perceptron of the settings.
    """
    return _trained(run, seed, training, None)


def train_recorded(
    run: Run, *, seed: int, updates: bool = False, training: Training | None = None
) -> tuple[Network, Trajectory]:
    """As `train_network`; return also the run, one point an epoch, the start first.

    Its points are in `trajectory-SEED`, with the update made from each where that is asked for.
    """
    folder = run.folder / f"trajectory-{seed}"
    network = _trained(run, seed, training, folder, updates)
    return network, Trajectory.open(folder)


def _trained(
    run: Run, seed: int, training: Training | None, record: Path | None, updates: bool = False
) -> Network:
    """Train a network, and record its run into a folder, unless both was done before."""
    training = training or trainings.perceptron(run, seed)
    model, data = training.model, training.data
    space = ParameterSpace.of(model)
    asked = {**training.facts, "data": data.checksum, "device": run.device}
    files = [run.folder / f"{end}-{seed}.safetensors" for end in ("start", "solution")]
    if record is not None:
        asked["recorded"] = True
        asked |= {"updates": True} if updates else {}
        files.append(record / "index.jsonl")
    kept = run.folder / f"training-{seed}"
    history = _finished(kept, asked, files)
    if history is None:
        checkpoint = TrainingCheckpoint(run.folder / f"unfinished-{seed}.safetensors", asked)
        recorder = None if record is None else _recorder(record, training, checkpoint, updates)
        done = training.train(progress=run.report, recorder=recorder, checkpoint=checkpoint)
        history = done.history
        run.folder.mkdir(parents=True, exist_ok=True)
        for end, state in zip(files, (done.start, done.solution), strict=False):
            write_atomically(end, safetensors.torch.save(dict(state)))
        sums = {file.name: sha256(file.read_bytes()).hexdigest() for file in files}
        save_record(
            Record(
                study="training",
                title="Training of a network",
                asked=asked,
                results={"history": history},
                provenance={"parameters": sums},
            ),
            kept,
        )
        checkpoint.remove()
    start, solution = (space.flatten(file) for file in files[:2])
    return Network(model, space, data, start, solution, history)


def _recorder(
    record: Path, training: Training, checkpoint: TrainingCheckpoint, updates: bool
) -> Recorder:
    """Return a recorder that goes on where an interrupted training was, or begins anew."""
    begun = checkpoint.load()
    if begun is None:  # what is there is of other settings
        shutil.rmtree(record, ignore_errors=True)
    return Recorder(
        record,
        training.model,
        schedule=Every(epochs=1),
        updates=updates,
        resume=None if begun is None else begun.numbers["updates"],
        facts={"seed": training.facts["seed"], "data": training.data.checksum},
    )


def cost_of(
    run: Run,
    network: Network | tuple[torch.nn.Module, DataSet],
    *,
    splits: tuple[str, ...] = ("train", "valid"),
    dtype: torch.dtype = torch.float32,
    dropout: MonteCarlo | None = None,
) -> ModelObjective:
    """Return the total cost of a network: mean cross-entropy over whole splits."""
    model, data = (network.model, network.data) if isinstance(network, Network) else network
    return ModelObjective(
        model,
        torch.nn.CrossEntropyLoss(),
        {name: data.splits[name] for name in splits},
        metrics={"error": error_rate},
        device=run.device,
        dtype=dtype,
        dropout=dropout,
    )


def random_point(space: ParameterSpace, seed: int) -> Tensor:
    """Return a draw from N(0, I) in the whole parameter space, shape (P,), float32."""
    return torch.randn(space.size, generator=torch.Generator().manual_seed(seed))


def _finished(folder: Path, asked: Mapping[str, Any], files: list[Path]) -> History | None:
    """Return the history of a finished training with the same settings and intact files."""
    try:
        record = open_record(folder)
    except RecordError:
        return None
    history = record.results.get("history")
    same = json.dumps(dict(record.asked), sort_keys=True) == json.dumps(asked, sort_keys=True)
    intact = all(
        path.is_file()
        and sha256(path.read_bytes()).hexdigest() == record.provenance["parameters"].get(path.name)
        for path in files
    )
    return history if same and intact and isinstance(history, History) else None
