"""The training of classifiers: momentum, dropout, norm limits, early stopping."""

import math
import time
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from thalweg.environment import provenance, usable_device
from thalweg.problems.networks import project_columns
from thalweg.problems.recipes import Training
from thalweg.progress import Progress
from thalweg.results import History, Provenance
from thalweg.training.checkpoint import Kept, TrainingCheckpoint
from thalweg.training.costs import CROSS_ENTROPY, TrainingCost
from thalweg.training.trained import Trained, copied_state, seeded_masks
from thalweg.trajectory.recorder import Recorder

__all__ = ["train"]

Splits = Mapping[str, tuple[Tensor, Tensor]]
# Split to (loss, error rate).
_Reading = dict[str, tuple[float, float]]

# The activations of a wide layer for this many examples stay in the cache of a CPU.
_EVALUATION_BATCH = 1000


def train(
    model: nn.Module,
    splits: Splits,
    recipe: Training,
    *,
    seed: int,
    cost: TrainingCost = CROSS_ENTROPY,
    epochs: int | None = None,
    patience: int | None = None,
    progress: Progress | None = None,
    recorder: Recorder | None = None,
    checkpoint: TrainingCheckpoint | None = None,
    device: str | torch.device = "cpu",
) -> Trained:
    """Train a classifier in place with a recipe's schedules, limits and stopping rule.

    Each epoch goes through the training examples once, in a fresh order, in mini-batches (the
    last one is smaller where the sizes ask for it). With gradient g of the mean cross-entropy
    of a batch, learning rate ε and momentum μ, an update is

        v ← μ v − ε g,    θ ← θ + v,

    after which `project_columns` is applied to every weight matrix, where the recipe limits
    norms; it is also applied once before the first update. After each epoch the loss and error
    rate of every split are evaluated over all its examples in evaluation mode, with sums in
    float64. Training stops after `epochs`, or when the error rate on `"valid"` has reached no
    new minimum for `patience` epochs. (The procedure of Goodfellow et al. 2015, appendix A.)

    The order of the examples and the dropout masks follow from `seed`; the global random state
    is used for the masks and put back. On one machine with one number of threads, the same
    seed gives the same bits.

    Args:
        model: Returns logits, shape (batch, classes). Which network it is, is not checked
            against the recipe; only its number of weight matrices has to fit `norm_limits`.
        splits: Name to (inputs, labels); `"train"` and `"valid"` are required. Floating inputs
            are cast to the type of the parameters.
        recipe: Schedules, batch size, norm limits, and the values of `epochs` and `patience`
            where these are None.
        seed: Seed of the order of the examples and of the dropout masks.
        cost: What is minimised instead of the cross-entropy, and what is read off after an epoch.
        epochs: Largest number of epochs.
        patience: Epochs without a new minimum after which training stops.
        progress: Called as `progress(epoch, epochs, message)` after each evaluation, the one of
            the start (epoch 0) included; the model then holds the parameters of that epoch.
        recorder: A `thalweg.Recorder` of the model, not yet open, that is told of every step and
            epoch. Its first point is the start as `Trained` has it.
        checkpoint: Where the state is kept after each epoch. What an interrupted training with the
            same facts left there is taken up, with the same bits as without the interruption.
        device: Where to train, the CPU or a CUDA device; the model is moved there.

    Returns:
        Start, solution and history. The model itself is left with the parameters of the last
        epoch, in evaluation mode.

    Raises:
        ValueError: If a split is missing, empty or of unequal lengths, a count is below 1, the
            model has nothing to train, or its number of weight matrices does not fit the recipe.
        FloatingPointError: If the loss on the training split is not finite after an epoch.

    Example:
        >>> from dataclasses import replace
        >>> from thalweg.problems.networks import multilayer_perceptron
        >>> from thalweg.problems.recipes import RELU
        >>> inputs = torch.eye(10).repeat(8, 1)
        >>> splits = dict.fromkeys(("train", "valid"), (inputs, inputs.argmax(1)))
        >>> recipe = replace(RELU, hidden=(32, 32), dropout=None, batch_size=5, epochs=9)
        >>> model = multilayer_perceptron(recipe, inputs=10, seed=1)
        >>> trained = train(model, splits, recipe, seed=1)
        >>> round(float(trained.history.loss["train"][0]), 6), trained.epochs
        (2.302585, 9)
    """
    began = time.perf_counter()
    epochs = recipe.epochs if epochs is None else epochs
    patience = recipe.patience if patience is None else patience
    _check(splits, epochs, patience)
    device = usable_device(device)
    model.to(device)
    descent = _Descent(model, recipe, seed, cost, recorder)
    data = _placed(splits, device, descent.dtype)
    descent.project()

    start = copied_state(model)
    solution, best_epoch, lowest = start, 0, math.inf
    readings: list[_Reading] = []
    first, earlier = 0, 0.0
    kept = None if checkpoint is None else checkpoint.load()
    if kept is not None:
        descent.restore(kept)
        start, solution = dict(kept.states["start"]), dict(kept.states["solution"])
        best_epoch, lowest, earlier = (kept.numbers[k] for k in ("best", "lowest", "seconds"))
        readings = [{k: (v[0], v[1]) for k, v in each.items()} for each in kept.numbers["readings"]]
        first = kept.numbers["epoch"] + 1
    if first - best_epoch > patience:  # it had stopped
        first = epochs + 1
    with nullcontext() if recorder is None or first > epochs else recorder:
        for epoch in range(first, epochs + 1):
            if epoch > 0:
                descent.run_epoch(*data["train"])
            if recorder is not None:
                recorder.epoch(epoch)
            reading = {name: _evaluate(model, cost, *data[name]) for name in data}
            readings.append(reading)
            loss, error = reading["train"][0], reading["valid"][1]
            if not math.isfinite(loss):
                raise _not_finite(loss, epoch, descent.rates)
            if error < lowest:
                solution, best_epoch, lowest = copied_state(model), epoch, error
            if checkpoint is not None:
                numbers: dict[str, Any] = {"epoch": epoch, "best": best_epoch, "lowest": lowest}
                numbers |= {"readings": readings, "seconds": earlier + time.perf_counter() - began}
                ends = {"start": start, "solution": solution}
                checkpoint.save(numbers | descent.numbers, ends | descent.states)
            if progress is not None:
                progress(epoch, epochs, f"train loss {loss:.4g}, validation error {error:.2%}")
            if epoch - best_epoch >= patience:
                break
    model.eval()
    made = provenance(device, descent.dtype, earlier + time.perf_counter() - began)
    return Trained(
        start=start,
        solution=solution,
        best_epoch=best_epoch,
        history=_history(readings, best_epoch, made),
        learning_rate=np.array(descent.rates),
        momentum=np.array(descent.momenta),
    )


class _Descent:
    """The parameters of a model on their way down: velocities, schedules, random numbers."""

    def __init__(
        self,
        model: nn.Module,
        recipe: Training,
        seed: int,
        cost: TrainingCost,
        recorder: Recorder | None,
    ) -> None:
        self.model, self.cost = model, cost
        self.recorder = recorder
        self.recipe = recipe
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        if not self.parameters:
            raise ValueError(
                "Training needs a model with trainable parameters; this one has none. "
                "Set `requires_grad` on what is to be trained."
            )
        self.velocities = [torch.zeros_like(p) for p in self.parameters]
        self.limited = _limited(self.parameters, recipe)
        self.factors = _rate_factors(self.parameters, recipe)
        self.random = torch.Generator().manual_seed(seed)
        self.updates = 0
        self.rates: list[float] = []
        self.momenta: list[float] = []

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the parameters."""
        return self.parameters[0].dtype

    @property
    def numbers(self) -> dict[str, Any]:
        """What is to be kept of it beside tensors."""
        return {"updates": self.updates, "rates": self.rates, "momenta": self.momenta}

    @property
    def states(self) -> dict[str, dict[str, Tensor]]:
        """Tensors that are to be kept of it."""
        velocities = {str(k): each for k, each in enumerate(self.velocities)}
        random = {"order": self.random.get_state()}
        return {"model": self.model.state_dict(), "velocities": velocities, "random": random}

    def restore(self, kept: Kept) -> None:
        """Go on from what was kept."""
        self.model.load_state_dict(dict(kept.states["model"]))
        with torch.no_grad():
            for k, each in enumerate(self.velocities):
                each.copy_(kept.states["velocities"][str(k)])
        self.random.set_state(kept.states["random"]["order"])
        self.updates = kept.numbers["updates"]
        self.rates, self.momenta = [*kept.numbers["rates"]], [*kept.numbers["momenta"]]

    def project(self) -> None:
        """Apply the norm limits."""
        for weight, limit in self.limited:
            project_columns(weight, limit)

    def run_epoch(self, x: Tensor, y: Tensor) -> None:
        """Go through the examples once, in a fresh order."""
        epoch = len(self.rates) + 1
        self.rates.append(self.recipe.learning_rate.at(epoch=epoch, updates=self.updates))
        self.momenta.append(self.recipe.momentum.at(epoch=epoch))
        order = torch.randperm(len(y), generator=self.random).to(y.device)
        mask_seed = int(torch.randint(2**62, (), generator=self.random))
        self.model.train()
        # One seed an epoch: what `progress` draws in between cannot change the masks.
        with seeded_masks(y.device, mask_seed):
            for batch in torch.split(order, self.recipe.batch_size):
                self._update(x[batch], y[batch], epoch)

    def _update(self, x: Tensor, y: Tensor, epoch: int) -> None:
        """Take one step of gradient descent with momentum on a mini-batch."""
        rate = self.recipe.learning_rate.at(epoch=epoch, updates=self.updates)
        loss = self.cost.loss(self.model, x, y)
        # A parameter that the loss does not depend on has gradient 0.
        gradients = torch.autograd.grad(loss, self.parameters, materialize_grads=True)
        with torch.no_grad():
            moving = zip(self.parameters, self.velocities, gradients, self.factors, strict=True)
            for p, v, g, factor in moving:
                v.mul_(self.momenta[-1]).sub_(g, alpha=rate * factor)
                p.add_(v)
        self.project()
        self.updates += 1
        if self.recorder is not None:
            self.recorder.step(loss, len(y), learning_rate=rate)


def _limited(parameters: list[nn.Parameter], recipe: Training) -> list[tuple[Tensor, float]]:
    """Pair every trainable weight matrix with its norm limit, in the order of the model."""
    if recipe.norm_limits is None:
        return []
    weights = [p for p in parameters if p.dim() > 1]
    if len(weights) != len(recipe.norm_limits):
        raise ValueError(
            f"The recipe limits the norms of {len(recipe.norm_limits)} layers, so the model must "
            f"have as many trainable weight matrices; it has {len(weights)}. Build it with "
            "`multilayer_perceptron` from this recipe, or set `norm_limits=None`."
        )
    return list(zip(weights, recipe.norm_limits, strict=True))


def _rate_factors(parameters: list[nn.Parameter], recipe: Training) -> list[float]:
    """Return what the learning rate of every parameter is multiplied by: biases as weights."""
    if recipe.rate_factors is None:
        return [1.0] * len(parameters)
    layer, factors = -1, []
    for parameter in parameters:
        layer += parameter.dim() > 1
        if not 0 <= layer < len(recipe.rate_factors):
            raise ValueError(
                f"The recipe has learning-rate factors for {len(recipe.rate_factors)} layers, each "
                "a weight matrix followed by its bias; the model has other ones. Build it from "
                "this recipe, or set `rate_factors=None`."
            )
        factors.append(recipe.rate_factors[layer])
    return factors


def _check(splits: Splits, epochs: int, patience: int) -> None:
    """Raise unless there is something to train on, to validate with, and to do."""
    for name in ("train", "valid"):
        if name not in splits:
            raise ValueError(
                f'Training needs the splits "train" and "valid"; got {sorted(splits)}. '
                f'Add "{name}".'
            )
    for name, (x, y) in splits.items():
        if len(x) != len(y) or not len(y):
            raise ValueError(
                "A split needs as many labels as inputs, at least one of each; "
                f"{name!r} has {len(x)} inputs and {len(y)} labels. Check how it was cut."
            )
    if min(epochs, patience) < 1:
        raise ValueError(
            "Training needs at least one epoch and a patience of at least one; got "
            f"epochs={epochs}, patience={patience}. Give positive numbers."
        )


def _placed(splits: Splits, device: torch.device, dtype: torch.dtype) -> Splits:
    """Move all data to the device, floating inputs to the type of the parameters; train first."""
    names = ["train", *(name for name in splits if name != "train")]
    placed = {}
    for name in names:
        x, y = splits[name]
        x = x.to(device, dtype) if x.is_floating_point() else x.to(device)
        placed[name] = (x, y.to(device))
    return placed


def _evaluate(model: nn.Module, cost: TrainingCost, x: Tensor, y: Tensor) -> tuple[float, float]:
    """Return mean loss and error rate over all examples of a split, in evaluation mode."""
    model.eval()
    total = torch.zeros(2, dtype=torch.float64, device=y.device)
    with torch.no_grad():
        for first in range(0, len(y), _EVALUATION_BATCH):
            labels = y[first : first + _EVALUATION_BATCH]
            losses, wrong = cost.readings(model, x[first : first + _EVALUATION_BATCH], labels)
            total[0] += losses.sum(dtype=torch.float64)
            total[1] += wrong.sum()
    loss, error = (total / len(y)).tolist()
    return loss, error


def _not_finite(loss: float, epoch: int, rates: list[float]) -> FloatingPointError:
    """Say when the loss was lost, and what to change."""
    when, advice = "at the start", "Check the inputs and the initial parameters"
    if epoch > 0:
        when = f"after epoch {epoch} at learning rate {rates[-1]:.6g}"
        advice = "Lower the initial learning rate of the recipe, or its `norm_limits`"
    return FloatingPointError(
        f"The loss on the training split must stay finite; it is {loss} {when}. {advice}."
    )


def _history(readings: list[_Reading], best: int, made: Provenance) -> History:
    """Turn the readings of epochs 0 to n into one table for each split."""
    names = list(readings[0])
    loss = {name: np.array([reading[name][0] for reading in readings]) for name in names}
    error = {name: np.array([reading[name][1] for reading in readings]) for name in names}
    return History(
        epoch=np.arange(len(readings), dtype=np.float64),
        loss=loss,
        metrics={"error": error},
        best=best,
        provenance=made,
    )
