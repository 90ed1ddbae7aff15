"""What the interpolation studies share: a trained network, its costs, and numbers of a line."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from thalweg.errors import RecordError
from thalweg.measures.profiles import (
    barrier,
    convex_share,
    greatest_climb,
    initial_steepness,
    interior_minima,
)
from thalweg.objectives.criteria import error_rate
from thalweg.objectives.dropout import MonteCarlo
from thalweg.objectives.model import ModelObjective
from thalweg.problems import recipes
from thalweg.problems.data import DataSet, digits, mnist
from thalweg.problems.networks import multilayer_perceptron
from thalweg.problems.recipes import Recipe
from thalweg.records import Record, open_record, save_record, write_atomically
from thalweg.results import History, Profile
from thalweg.space import ParameterSpace
from thalweg.studies.study import Run
from thalweg.training import train

__all__ = [
    "Network",
    "cost_of",
    "line_numbers",
    "random_point",
    "share_at_the_bottom",
    "train_network",
    "untrained",
    "window_numbers",
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


def recipe_of(settings: Mapping[str, Any]) -> Recipe:
    """Return the recipe that settings name, with the fields that they replace."""
    recipe: Recipe = getattr(recipes, settings["recipe"])
    fields = ("hidden", "pieces", "epochs", "patience", "init_ranges")
    return replace(recipe, **{name: settings[name] for name in fields if name in settings})


def data_of(settings: Mapping[str, Any]) -> DataSet:
    """Return the data set that settings name."""
    if settings["data"] == "digits":
        return digits(seed=0)
    return mnist(examples=settings.get("examples", 50_000))


def untrained(run: Run, *, seed: int) -> tuple[torch.nn.Module, DataSet]:
    """Return a fresh network and its data."""
    data = data_of(run.settings)
    inputs = data.splits["train"][0].shape[1]
    return multilayer_perceptron(recipe_of(run.settings), inputs, seed=seed), data


def train_network(run: Run, *, seed: int) -> Network:
    """Train a network, or take up the result of an earlier run with the same settings.

    Both ends are written to `start-SEED.safetensors` and `solution-SEED.safetensors` as soon
    as they are known.
    """
    recipe = recipe_of(run.settings)
    model, data = untrained(run, seed=seed)
    space = ParameterSpace.of(model)
    asked = {"recipe": asdict(recipe), "seed": seed, "data": data.checksum, "device": run.device}
    files = [run.folder / f"{end}-{seed}.safetensors" for end in ("start", "solution")]
    kept = run.folder / f"training-{seed}"
    history = _finished(kept, asked, files)
    if history is None:
        done = train(
            model,
            {name: data.splits[name] for name in ("train", "valid")},
            recipe,
            seed=seed,
            progress=run.report,
            device=run.device,
        )
        history = done.history
        run.folder.mkdir(parents=True, exist_ok=True)
        for path, state in zip(files, (done.start, done.solution), strict=True):
            write_atomically(path, safetensors.torch.save(dict(state)))
        sums = {path.name: sha256(path.read_bytes()).hexdigest() for path in files}
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
    start, solution = (space.flatten(path) for path in files)
    return Network(model, space, data, start, solution, history)


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


def line_numbers(profile: Profile, prefix: str = "") -> dict[str, float]:
    """Boil a profile down to numbers, for its first split between the two ends.

    The greatest climb is given in units of the cost, and as a share of the difference between
    the highest and the lowest cost between the ends.
    """
    between = (profile.anchors[0], profile.anchors[-1])
    assert profile.ends is not None
    loss = profile.loss[profile.first_split]
    inside = loss[(profile.alpha >= between[0]) & (profile.alpha <= between[1])]
    first, last = profile.ends.loss[profile.first_split]
    highest, lowest = max(inside.max(), first, last), min(inside.min(), first, last)
    span = highest - lowest
    climb = greatest_climb(profile, between=between)
    minima = interior_minima(profile, tolerance=1e-3 * span, between=between)
    steepest = _steepest_place(profile, between)
    try:
        beyond = convex_share(profile, between=(steepest, between[1]))
    except ValueError:  # fewer than three points beyond it
        beyond = float("nan")
    numbers = {
        "points": len(profile.alpha),
        "loss_start": first,
        "loss_end": last,
        "highest": highest,
        "lowest": lowest,
        "span": span,
        "climb": climb.height,
        "climb_share": climb.height / span if span > 0 else 0.0,
        "barrier": barrier(profile).height,
        "barrier_alpha": barrier(profile).alpha,
        "barrier_mean": barrier(profile, baseline="mean").height,
        "minima": len(minima),
        "convex_share": convex_share(profile, between=between),
        "steepness": initial_steepness(profile),
        "steepest": steepest,
        "convex_beyond": beyond,
        "distance": profile.length or 0.0,
    }
    return {prefix + name: float(value) for name, value in numbers.items()}


def window_numbers(profile: Profile, prefix: str) -> dict[str, float]:
    """Boil down a profile of a part of a line: how far it climbs, and how often it turns.

    A smooth stretch turns once at most; every further minimum is a bump.
    """
    loss = profile.loss[profile.first_split]
    span = float(loss.max() - loss.min())
    climb = greatest_climb(profile)
    minima = interior_minima(profile, tolerance=1e-6 * span)
    peaks = interior_minima(Profile(profile.alpha, {"train": -loss}), tolerance=1e-6 * span)
    numbers = {
        "points": len(loss),
        "loss_start": loss[0],
        "loss_end": loss[-1],
        "span": span,
        "climb": climb.height,
        "climb_share": climb.height / span if span > 0 else 0.0,
        "minima": len(minima),
        "bumps": len(peaks),
    }
    return {prefix + name: float(value) for name, value in numbers.items()}


def share_at_the_bottom(history: History) -> float:
    """Return the share of epochs at whose end nine tenths of the fall of the cost were done."""
    loss = history.loss[history.first_split]
    done = loss[0] - loss
    return float((done[1:] >= 0.9 * done.max()).mean())


def _steepest_place(profile: Profile, between: tuple[float, float]) -> float:
    """Return the coordinate after the steepest fall between two ends."""
    inside = (profile.alpha >= between[0]) & (profile.alpha <= between[1])
    alpha, loss = profile.alpha[inside], profile.loss[profile.first_split][inside]
    return float(alpha[1 + int(np.argmin(np.diff(loss) / np.diff(alpha)))])


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
