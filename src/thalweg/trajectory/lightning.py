"""Recording under Lightning: a callback for its `Trainer`.

Needs `pip install 'thalweg[lightning]'`; the older package `pytorch_lightning` will do, too.
"""

import os
from operator import attrgetter
from typing import Any

from thalweg.objectives.nested import known_examples_in
from thalweg.trajectory.recorder import Recorder
from thalweg.trajectory.schedules import Schedule

try:
    from lightning.pytorch import Callback
except ImportError:
    from pytorch_lightning import Callback

__all__ = ["TrajectoryCallback"]


class TrajectoryCallback(Callback):
    """Records the trajectory of a Lightning run.

        trainer = Trainer(callbacks=[TrajectoryCallback("runs/mlp", tw.Every(epochs=1))])

    Losses are what `training_step` returns, averaged over accumulated batches; an epoch ends when
    Lightning says so; the first rank writes. A run that is resumed from a checkpoint goes on in its
    trajectory: what was recorded of steps after the checkpoint is replaced. With several optimisers
    (manual optimisation) the first one is followed.

    Args:
        folder: Where to.
        schedule: When to store a point; see `Recorder`.
        part: Name of the attribute of the LightningModule that is recorded, such as `"net"`, so
            that points fit that network alone; the whole module by default.
        options: Further arguments of `Recorder`.

    Attributes:
        recorder: The recorder, from the beginning of training.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        schedule: Schedule | None = None,
        *,
        part: str | None = None,
        **options: Any,
    ) -> None:
        self.recorder: Recorder | None = None
        self._folder = folder
        self._schedule = schedule
        self._part = part
        self._options = options

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Open the recorder; a checkpoint has been loaded by now."""
        model = pl_module if self._part is None else attrgetter(self._part)(pl_module)
        options = {"resume": trainer.global_step or None, **self._options}
        self.recorder = Recorder(
            self._folder, model, trainer.optimizers[0], self._schedule, **options
        )
        self.recorder.open()

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Tell of a mini-batch."""
        if self.recorder is not None and outputs is not None:
            loss = outputs["loss"] if isinstance(outputs, dict) else outputs
            # Lightning divides the loss by the number of batches that are accumulated.
            scale = trainer.accumulate_grad_batches if pl_module.automatic_optimization else 1
            self.recorder.step(loss * scale, known_examples_in(batch))

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Tell of the end of an epoch."""
        if self.recorder is not None:
            self.recorder.epoch(trainer.current_epoch + 1)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Store the last point."""
        self._close(None)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Store the last point, although training ended in an exception."""
        self._close(exception)

    def _close(self, error: BaseException | None) -> None:
        """Close the recorder, if it was opened."""
        if self.recorder is not None:
            self.recorder.close(error)
