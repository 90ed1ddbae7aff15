"""The training of recurrent language models: truncated back-propagation with carried state."""

import math
import time
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from thalweg.environment import provenance, usable_device
from thalweg.problems.lstm import LanguageModel, LanguageRecipe, chunks, stream_loss
from thalweg.progress import Progress
from thalweg.results import History
from thalweg.training.checkpoint import TrainingCheckpoint
from thalweg.training.classifiers import Splits
from thalweg.training.trained import Trained, copied_state, seeded_masks
from thalweg.trajectory.recorder import Recorder

__all__ = ["train_language_model"]


def train_language_model(
    model: LanguageModel,
    splits: Splits,
    recipe: LanguageRecipe,
    *,
    seed: int,
    progress: Progress | None = None,
    recorder: Recorder | None = None,
    checkpoint: TrainingCheckpoint | None = None,
    device: str | torch.device = "cpu",
) -> Trained:
    """Train a language model in place, from the first to the last token of its streams.

    Each epoch starts with a state of zeros, and carries it, without gradients, from one piece of
    `unroll` time steps to the next. The gradient of a piece is that of the *sum over its steps* of
    the mean over the streams of −log p; it is scaled down where its norm is above `clip`, and
    followed by plain gradient descent. After each epoch the mean −log p of every split is
    evaluated without dropout, with the state carried through. (Zaremba, Sutskever & Vinyals 2014.)

    Args:
        model: The model.
        splits: Name to (tokens, followers), both of shape (streams, time); `"train"` and
            `"valid"` are required.
        recipe: Schedule, length of pieces, and the norm to clip at.
        seed: Seed of the dropout masks; the global random state is used for them and put back.
        progress: Called as `progress(epoch, epochs, message)` after each evaluation.
        recorder: A `thalweg.Recorder` of the model, not yet open.
        checkpoint: Where the state is kept after each epoch, for an interrupted training to go on.
        device: Where to train; the model is moved there.

    Returns:
        Start, the epoch with the lowest loss on `"valid"`, and the history, with the perplexity
        exp(mean −log p) as its metric.

    Raises:
        ValueError: If a split is missing.
        FloatingPointError: If the loss is not finite after an epoch.
    """
    for name in ("train", "valid"):
        if name not in splits:
            raise ValueError(
                f'Training needs the splits "train" and "valid"; got {sorted(splits)}. '
                f'Add "{name}".'
            )
    began = time.perf_counter()
    device = usable_device(device)
    model.to(device)
    data = {name: (x.to(device), y.to(device)) for name, (x, y) in splits.items()}
    start = copied_state(model)
    solution, best, lowest = start, 0, math.inf
    draw = torch.Generator().manual_seed(seed)
    rates: list[float] = []
    losses: dict[str, list[float]] = {name: [] for name in data}
    first, updates, earlier = 0, 0, 0.0
    kept = None if checkpoint is None else checkpoint.load()
    if kept is not None:
        model.load_state_dict(dict(kept.states["model"]))
        start, solution = dict(kept.states["start"]), dict(kept.states["solution"])
        draw.set_state(kept.states["random"]["masks"])
        best, lowest, earlier = (kept.numbers[k] for k in ("best", "lowest", "seconds"))
        rates, losses = kept.numbers["rates"], kept.numbers["losses"]
        first, updates = kept.numbers["epoch"] + 1, kept.numbers["updates"]
    with nullcontext() if recorder is None or first > recipe.epochs else recorder:
        for epoch in range(first, recipe.epochs + 1):
            if epoch > 0:
                rates.append(recipe.rate(epoch))
                mask_seed = int(torch.randint(2**62, (), generator=draw))
                with seeded_masks(device, mask_seed):
                    updates += _run_epoch(model, *data["train"], recipe, rates[-1], recorder)
            if recorder is not None:
                recorder.epoch(epoch)
            model.eval()
            with torch.no_grad():
                for name, pair in data.items():
                    total, count = stream_loss(model, *pair)
                    losses[name].append(float(total) / count)
            if not math.isfinite(losses["train"][-1]):
                raise FloatingPointError(
                    f"The loss must stay finite; it is {losses['train'][-1]} after epoch {epoch}. "
                    "Lower the learning rate of the recipe, or the norm at which it clips."
                )
            if losses["valid"][-1] < lowest:
                solution, best, lowest = copied_state(model), epoch, losses["valid"][-1]
            if checkpoint is not None:
                numbers: dict[str, Any] = {"epoch": epoch, "updates": updates, "rates": rates}
                numbers |= {"best": best, "lowest": lowest, "losses": losses}
                numbers["seconds"] = earlier + time.perf_counter() - began
                ends = {"start": start, "solution": solution, "model": model.state_dict()}
                checkpoint.save(numbers, {**ends, "random": {"masks": draw.get_state()}})
            if progress is not None:
                said = f"perplexity {math.exp(losses['train'][-1]):.1f}, validation "
                progress(epoch, recipe.epochs, said + f"{math.exp(losses['valid'][-1]):.1f}")
    loss = {name: np.array(values) for name, values in losses.items()}
    dtype = next(model.parameters()).dtype
    history = History(
        epoch=np.arange(recipe.epochs + 1, dtype=np.float64),
        loss=loss,
        metrics={"perplexity": {name: np.exp(values) for name, values in loss.items()}},
        best=best,
        provenance=provenance(device, dtype, earlier + time.perf_counter() - began),
    )
    return Trained(start, solution, best, history, np.array(rates), np.zeros(len(rates)))


def _run_epoch(
    model: LanguageModel,
    tokens: Tensor,
    followers: Tensor,
    recipe: LanguageRecipe,
    rate: float,
    recorder: Recorder | None,
) -> int:
    """Go through the streams once; return the number of updates."""
    updates = 0
    parameters = list(model.parameters())
    state = None
    model.train()
    for x, y in chunks(tokens, followers, recipe.unroll):
        logits, after = model(x, state)
        mean = cross_entropy(logits.flatten(0, 1), y.flatten())
        gradients = torch.autograd.grad(mean * x.shape[1], parameters)
        norm = torch.linalg.vector_norm(
            torch.stack([torch.linalg.vector_norm(each) for each in gradients])
        )
        scale = torch.clamp(recipe.clip / (norm + 1e-12), max=1.0)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.sub_(gradient * (rate * scale))
        state = tuple((h.detach(), c.detach()) for h, c in after)
        updates += 1
        if recorder is not None:
            recorder.step(mean, x.numel(), learning_rate=rate)
    return updates
