"""Recording under Hugging Face Transformers: a callback for its `Trainer`.

Needs `pip install 'thalweg[hf]'`.
"""

import os
from typing import Any

from torch import Tensor
from transformers import TrainerCallback

from thalweg.objectives.nested import known_examples_in
from thalweg.space import plain_module
from thalweg.trajectory.recorder import Recorder
from thalweg.trajectory.schedules import Schedule

__all__ = ["TrajectoryCallback"]


class TrajectoryCallback(TrainerCallback):
    """Records the trajectory of a run of Transformers' `Trainer`.

        recording = TrajectoryCallback("runs/gpt", tw.Every(steps=50))
        trainer = Trainer(model, args, callbacks=[recording])

    Losses are what the model returns as `loss` when it is trained; where the trainer computes
    another one (a label smoother, a `compute_loss_func`) they are not known, and left out. A run
    that is resumed from a checkpoint goes on in its trajectory: what was recorded of later steps is
    replaced. The first process writes; batch sizes are those of one process.

    Args:
        folder: Where to.
        schedule: When to store a point; see `Recorder`.
        options: Further arguments of `Recorder`.

    Attributes:
        recorder: The recorder, from the beginning of training.
    """

    def __init__(
        self, folder: str | os.PathLike[str], schedule: Schedule | None = None, **options: Any
    ) -> None:
        self.recorder: Recorder | None = None
        self._folder = folder
        self._schedule = schedule
        self._options = options
        self._hook: Any = None
        self._forget()

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Open the recorder; a checkpoint has been loaded by now."""
        self._close()  # of a run that ended in an exception, of which the trainer tells nobody
        model = plain_module(given["model"])
        options = {"resume": state.global_step or None, **self._options}
        self.recorder = Recorder(self._folder, model, given["optimizer"], self._schedule, **options)
        self.recorder.open()
        self._hook = model.register_forward_hook(self._see, with_kwargs=True)

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Tell of a step."""
        if self.recorder is None:
            return
        self.recorder.step(self._loss(), self._size or None, epoch=state.epoch)
        self._forget()
        if control.should_training_stop or state.global_step >= state.max_steps:
            self.recorder.snapshot()  # afterwards the trainer may load the best model

    def on_epoch_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Tell of the end of an epoch."""
        if self.recorder is not None:
            self.recorder.epoch(state.epoch)
            if control.should_training_stop:
                self.recorder.snapshot()

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Store the last point, unless it is stored."""
        self._close()

    def _see(self, model: Any, inputs: Any, named: dict[str, Any], output: Any) -> None:
        """Look at what the model returns while it is trained."""
        if not model.training:
            return
        loss = output.get("loss") if hasattr(output, "get") else getattr(output, "loss", None)
        self._losses.append(loss.detach().mean() if isinstance(loss, Tensor) else None)
        self._size += known_examples_in((named, inputs)) or 0
        # Then the model has divided by the items of all batches that are accumulated.
        self._shares = named.get("num_items_in_batch") is not None

    def _loss(self) -> Tensor | None:
        """Return the loss of a step."""
        known = [loss for loss in self._losses if loss is not None]
        if not known or len(known) < len(self._losses):
            return None
        total = known[0]
        for loss in known[1:]:
            total = total + loss
        return total if self._shares else total / len(known)

    def _forget(self) -> None:
        """Wait for the batches of the next step."""
        self._losses: list[Tensor | None] = []
        self._size = 0
        self._shares = False

    def _close(self) -> None:
        """Close the recorder and stop looking."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
        if self.recorder is not None:
            self.recorder.close()
