"""Recording the trajectory of any training loop, with two lines in it."""

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor, nn

from thalweg.space import plain_module
from thalweg.trajectory.arguments import (
    expect_usable,
    expect_whole,
    folder_of,
    settings_of,
)
from thalweg.trajectory.background import Background
from thalweg.trajectory.description import Description
from thalweg.trajectory.losses import Losses, LossJump
from thalweg.trajectory.restoring import entry_at, expect_at, restore
from thalweg.trajectory.schedules import Logarithmic, Moment, Schedule
from thalweg.trajectory.snapshots import Contents, SnapshotTaker
from thalweg.trajectory.store import TrajectoryWriter
from thalweg.trajectory.untold import warn_of_epochs
from thalweg.trajectory.watch import OptimizerWatch, Update, plain_optimizer

__all__ = ["Recorder"]


class Recorder:
    """Records the points, steps and events of a training run into a folder.

    Of every step it notes loss, learning rates, batch size, epoch and, where asked for, the norm of
    the gradient; whenever the schedule says so it stores all parameters and buffers. The point
    before the first step and the last one are always stored, the latter also where the block ends
    in an exception. `Trajectory.open` reads the folder, at any time.

    What is due at a step is on the disk when `step` returns: a process that is killed, or a machine
    that loses its power, takes nothing of it. Numbers of steps outlive the process at once, and the
    machine with the next snapshot or after ten seconds.

    It only looks. Model, gradients, optimiser and random state are left as they are.

    Args:
        folder: Where to; it is made if need be.
        model: What is trained, in whatever wrappers: `torch.compile`, data parallel.
        optimizer: What trains it; None where parameters are moved by other means, and every call of
            `step` is one update.
        schedule: When to store a point: `Every`, `Logarithmic`, `At`, `Around`, joined by `|`.
        dtype: Type that parameters are stored in: float64, float32, bfloat16 or float16; that of
            the model by default. What rounding took is noted with each point. A tensor that
            float16 cannot hold is kept in float32.
        gradient_norm: Whether to note the Euclidean norm of the gradient at every step, as the
            optimiser is given it: after unscaling and clipping.
        updates: Whether to store with each point the update that was made from it, and its norm.
            This keeps a copy of the parameters from a snapshot to the step after it.
        optimizer_state: Whether to store the state of the optimiser with each point.
        random_state: Whether to store the state of all global random generators with each point;
            or a mapping of names to further generators, such as that of a `DataLoader`.
        background: Whether to write by a thread of its own. `step` then returns before what is due
            is on the disk; an error comes with a later step, or at the end.
        loss_jump: Where given, a loss above this many times its running mean is an event.
        resume: How to go on with the trajectory that the folder may hold already. None: only if the
            model is at its last point. True: from the last point, to which `restore` brings model
            and optimiser. A number: from this many updates, after which the caller's own checkpoint
            was made. What was recorded of later steps is replaced.
        facts: Plain facts that are kept with the trajectory, such as the seed.

    Attributes:
        folder: The folder.
        schedule: When points are stored.

    Raises:
        TypeError: If model, optimiser or facts are of no use.
        ValueError: If the type of storage is none of the four, or `resume` is negative.

    Example:
        >>> import tempfile
        >>> from thalweg.trajectory.schedules import Every
        >>> from thalweg.trajectory.trajectory import Trajectory
        >>> model = nn.Linear(3, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with Recorder(folder, model, optimizer, Every(steps=2)) as recorder:
        ...         for _ in range(5):
        ...             loss = model(torch.ones(4, 3)).square().mean()
        ...             loss.backward()
        ...             optimizer.step()
        ...             recorder.step(loss=loss.item())
        ...     [point.step for point in Trajectory.open(folder)]
        [0, 2, 4, 5]
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None = None,
        schedule: Schedule | None = None,
        *,
        dtype: torch.dtype | None = None,
        gradient_norm: bool = False,
        updates: bool = False,
        optimizer_state: bool = False,
        random_state: bool | Mapping[str, torch.Generator] = False,
        background: bool = False,
        loss_jump: float | None = None,
        resume: bool | int | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder = folder_of(folder)
        self.schedule = Logarithmic() if schedule is None else schedule
        self._model = plain_module(model)
        self._optimizer = plain_optimizer(optimizer)
        expect_usable(self.schedule, dtype, optimizer_state, self._optimizer, resume)
        made_with = {"optimizer": settings_of(self._optimizer), "schedule": repr(self.schedule)}
        self._description = Description.of(self._model, dtype, {**made_with, **(facts or {})})
        named = dict(self._model.named_parameters())
        self._parameters = {name: named[name] for name in self._description.space.names}
        expect_whole(self._parameters)
        self._generators = random_state if isinstance(random_state, Mapping) else {}
        self._contents = Contents(
            updates,
            self._optimizer if optimizer_state else None,
            None if random_state is False else self._generators,
        )
        self._in_background = background
        self._resume = resume
        self._watch = OptimizerWatch(
            self._optimizer, [*self._parameters.values()], gradient_norm, self._before_update
        )
        self._losses = Losses()
        self._jumps = None if loss_jump is None else LossJump(loss_jump)
        self._is_open = False

    def open(self) -> None:
        """Take the folder, and store the point before the first step; `with` does this.

        Raises:
            OSError: If the folder cannot be written to.
            TrajectoryError: If another recorder has it, what it holds is damaged, or the model is
                not at the last point of the trajectory that it holds.
            ParameterMismatchError: If it holds the trajectory of another model.
        """
        first = not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0
        groups = len(self._optimizer.param_groups) if self._optimizer else 1
        self._writer = TrajectoryWriter(self.folder, self._description, groups) if first else None
        background = Background() if self._in_background and first else None
        self._snapshots = SnapshotTaker(
            self._model, self._parameters, self._contents, self._writer, background
        )
        asked = self._resume
        self._steps = 0 if asked is None or isinstance(asked, bool) else int(asked)
        self._epoch: float | None = None
        self._event: int | None = None
        self._begun = False
        self._failed = False
        self._is_open = True
        try:
            if self._writer is not None:
                self._find_place(self._writer)
            self._watch.attach()
        except BaseException:
            self._failed = True
            self.close()
            raise

    def close(self, error: BaseException | None = None) -> None:
        """Store the last point, and let the folder go; `with` does this.

        Args:
            error: Why the run ended, if by an error. One of the recorder's own is then told of in
                a note to it.
        """
        if not self._is_open:
            return
        self._watch.detach()
        try:
            with ExitStack() as at_last:
                if self._writer is not None:
                    at_last.callback(self._writer.close)
                at_last.callback(self._snapshots.finish)
                if self._begun and not self._failed and not self._watch.is_half_made:
                    if self._watch.made:  # a step whose end the loop did not come to tell of
                        self._count(self._watch.take(), None, None)
                    # What was put into the model since the point was stored is no point of the run.
                    if self._snapshots.stored_at != self._steps:
                        self._snapshots.take(self._steps, self._epoch)
            if error is None and self._steps and self._epoch is None:
                warn_of_epochs(self.schedule)
        except Exception as mine:
            if error is None:
                raise
            error.add_note(f"The last point was not recorded: {mine}")
        finally:
            self._is_open = False

    def __enter__(self) -> Self:
        """Open the recorder."""
        self.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the recorder."""
        self.close(error)

    @property
    def steps(self) -> int:
        """Number of updates made so far."""
        self._expect_open()
        return self._steps

    def step(
        self,
        loss: float | Tensor | None = None,
        batch_size: int | None = None,
        *,
        learning_rate: float | None = None,
        epoch: float | None = None,
    ) -> None:
        """Tell of a step, after the optimiser's; call it last in the body of the loop.

        Where the optimiser did not step, the batch was one of several whose gradients are
        accumulated: their losses are averaged, weighted by their sizes if those are told. A batch
        whose gradient `GradScaler` threw away does not count. An update that the loop does not tell
        of counts as a step when the next one is made.

        Args:
            loss: Mini-batch loss, before the update.
            batch_size: Number of examples.
            learning_rate: Rate of the update, where there is no optimiser to ask.
            epoch: Epoch as the loop counts it, whole or not; see also `epoch()`.

        Raises:
            OSError: If what is due cannot be written.
            TrajectoryError: If the model has got other parameters since the recorder was made.
        """
        self._expect_open()
        value = None if loss is None else float(loss.detach() if isinstance(loss, Tensor) else loss)
        update = self._watch.take()
        if update is None and self._watch.gradient_is_lost():
            self._losses.take()
            return
        self._losses.add(value, batch_size)
        if update is None:
            return
        self._guarded(lambda: self._step(update, learning_rate, epoch))

    def epoch(self, number: float | None = None) -> None:
        """Tell that an epoch has ended.

        Args:
            number: Epochs that have ended; one more than before by default.
        """
        self._expect_open()
        self._epoch = float((self._epoch or 0) + 1 if number is None else number)
        self._guarded(self._end_epoch)

    def event(self, text: str) -> None:
        """Note that something happened here, which `Around` may have snapshots follow."""
        self._expect_open()
        self._guarded(self._begin)
        self._guarded(lambda: self._note(text))
        self._guarded(self._take_if_due)

    def snapshot(self) -> None:
        """Store the point where the run is now, whatever the schedule says."""
        self._expect_open()
        self._guarded(self._begin)
        self._guarded(lambda: self._snapshots.take(self._steps, self._epoch))

    def restore(self, step: int | None = None) -> int:
        """Bring the model to a recorded point, and go on from there.

        Parameters and buffers are put into the model, and the states of optimiser and random
        generators where they were stored; learning-rate schedulers, `GradScaler` and the position
        in the data are the loop's own. In the folder of a new run this does nothing.

        Args:
            step: Number of updates before that point; the last one by default.

        Returns:
            Number of updates made before it.

        Raises:
            TrajectoryError: If there is no such point, or it is damaged.
            ValueError: If the run has gone on already.
        """
        self._expect_open()
        if self._begun and self._steps:
            raise ValueError(
                f"A run is restored before its first step; this one has made {self._steps} "
                "updates. Call `restore` first, or open another recorder with `resume=True`."
            )
        if self._begun:
            return 0
        entry = entry_at(self.folder, step)
        if entry is not None and (entry.step or self._writer is not None):
            # The generators of other ranks are not those of the first, which were stored.
            generators = self._generators if self._writer is not None else None
            restore(self.folder, entry, self._model, self._optimizer, generators)
            self._steps, self._epoch = entry.step, entry.epoch
            self._watch.forget()
        return self._steps

    # --- what it does with it

    def _step(self, update: Update, rate: float | None, epoch: float | None) -> None:
        """Write what is due after an update."""
        self._begin(moved=True)
        self._count(update, rate, epoch)
        self._snapshots.take_update(self._steps - 1)
        self._take_if_due()

    def _count(self, update: Update | None, rate: float | None, epoch: float | None) -> None:
        """Note the numbers of the update that was just made, and that there was one."""
        loss, batch_size = self._losses.take()
        self._epoch = self._epoch if epoch is None else float(epoch)
        norm = update.gradient_norm if update else None
        rates = (update.rates if update else ()) or (None if rate is None else float(rate),)
        step, self._steps = self._steps, self._steps + 1
        if self._writer is not None:
            self._writer.add_row((step, self._epoch, batch_size, loss, norm, *rates))
        if self._jumps is not None and loss is not None and self._jumps.seen(loss):
            self._note("loss jump")

    def _note(self, text: str) -> None:
        """Write an event."""
        self._event = self._steps
        if self._writer is not None:
            self._snapshots.do(partial(self._writer.add_event, self._steps, text))

    def _take_if_due(self, epoch: float | None = None) -> None:
        """Take a snapshot if the schedule says so."""
        if self.schedule.due(Moment(self._steps, epoch, self._event)):
            self._snapshots.take(self._steps, self._epoch)

    def _end_epoch(self) -> None:
        """Say the epoch of the point where the run is, or store the point if it is due."""
        self._begin()
        assert self._epoch is not None
        if self._snapshots.stored_at == self._steps and self._writer is not None:
            self._snapshots.do(partial(self._writer.add_epoch, self._steps, self._epoch))
        self._take_if_due(self._epoch)

    def _before_update(self) -> None:
        """Make sure that a stored point is the one that the update is made from."""
        self._guarded(self._begin)
        untold = self._watch.take() if self._watch.made else None
        if untold is not None:  # the loop went on without `step`
            self._guarded(lambda: self._step(untold, None, None))
        if self._snapshots.stored_at == self._steps:
            self._guarded(lambda: self._snapshots.take(self._steps, self._epoch))

    # --- going on with a trajectory

    def _find_place(self, writer: TrajectoryWriter) -> None:
        """Begin a new trajectory, or find out where the one that is there goes on."""
        entries = writer.index.entries
        if not entries:
            self._begin()
            return
        if self._resume is None or isinstance(self._resume, bool):
            self._steps = max(entries)
        if self._resume is None or self._resume is False:
            expect_at(self.folder, entries[self._steps], self._parameters)

    def _begin(self, moved: bool = False) -> None:
        """Go on from where the model is, once; what was recorded of later steps is replaced.

        Where nothing has told of an update before it was made, the model has `moved` on already.
        """
        if self._begun:
            return
        if self._writer is not None and self._writer.index.entries:
            entry = self._writer.index.entries.get(self._steps)
            if entry is not None and not moved:
                expect_at(self.folder, entry, self._parameters)
                self._snapshots.remember(self._steps)
            self._epoch = self._epoch if entry is None else entry.epoch
            self._writer.resume(self._steps)
        self._begun = True
        if not moved:
            self._snapshots.take(self._steps, self._epoch)

    def _guarded(self, work: Callable[[], None]) -> None:
        """Do what may fail; after a failure the last point is not tried again."""
        try:
            work()
        except Exception:
            self._failed = True
            raise
        self._failed = False

    def _expect_open(self) -> None:
        """Raise unless the recorder is open."""
        if not self._is_open:
            raise ValueError(
                "A recorder is used while it is open; this one is not. Write `with tw.Recorder(…) "
                "as recorder:` around the loop."
            )
