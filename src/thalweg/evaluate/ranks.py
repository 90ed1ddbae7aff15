"""Sharing the points of a sweep among the processes of a job.

A job is what `torchrun` starts: processes with ranks 0 to n − 1, on one machine or on many. The
points that are not finished yet are dealt out in pieces; every rank evaluates its share with its
own copy of the model, and all ranks get all values, in the same order and with the same bits as
one process would have found with as many threads.

Nothing is shared unless it is asked for: a training script under `torchrun` may call `profile`
on its first rank alone, or on each with another model, and no rank waits for another. The
commands `thalweg profile` and `thalweg surface` ask for it themselves; a script does so by

    with split_over_ranks():              # on every rank
        result = tw.profile(objective, line)

What ranks tell one another are Python numbers, so the network of the processors (gloo) serves
for accelerators, too. Where a script has set up `torch.distributed` already, that is used.
"""

import itertools
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import torch
import torch.distributed as dist

__all__ = ["Ranks", "current_ranks", "launched", "split_over_ranks"]

T = TypeVar("T")

_MEETING = timedelta(minutes=30)  # how long ranks wait for all to be there
_PATIENCE = timedelta(days=2)  # how long they wait for a point
_ROUND_SECONDS = 0.5  # they tell one another what they found about this often
_MOST_PIECES = 4096
_ADDRESS = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Ranks:
    """The processes that share a sweep, seen from one of them.

    Attributes:
        rank: This process, from 0.
        size: Number of processes; one shares nothing.
        group: Their process group; None for all processes of the job.
        together: Whether all ranks evaluate every point together, as those do that share a
            model, rather than each its own points.

    Example:
        >>> Ranks().share(5, 2, lambda start, stop: list(range(start, stop)))
        [0, 1, 2, 3, 4]
    """

    rank: int = 0
    size: int = 1
    group: Any = None
    together: bool = False

    def check(self, work: Callable[[], T]) -> T:
        """Do something on every rank, and raise on all where it fails on one.

        Returns:
            What came out on this rank.

        Raises:
            RuntimeError: If it failed on another rank; an error of this rank is raised as it is.
        """
        found: list[T] = []
        self.exchange(lambda: found.append(work()))
        return found[0]

    def exchange(self, work: Callable[[], T]) -> list[T]:
        """Do something on every rank, and raise on all where it fails on one.

        Returns:
            What came out on every rank, in the order of ranks.

        Raises:
            RuntimeError: If it failed on another rank; an error of this rank is raised as it is.
        """
        if self.size == 1:
            return [work()]
        found, failure = None, None
        try:
            found = work()
        except Exception as error:
            failure = error
        told: list[Any] = [None] * self.size
        words = None if failure is None else f"{type(failure).__name__}: {failure}"
        try:
            dist.all_gather_object(told, (words, found), group=self.group)
        except RuntimeError as error:
            if failure is not None:
                raise failure from error
            raise RuntimeError(
                f"Every rank must stay until the sweep is done; of {self.size} at least one has "
                "gone. Look for its message, and start all ranks again: where a folder for "
                "finished points was given, they are kept."
            ) from error
        if failure is not None:
            raise failure
        for rank, (other, _) in enumerate(told):
            if other is not None:
                raise RuntimeError(
                    f"Every rank must evaluate its share of the points; rank {rank} of "
                    f"{self.size} failed ({other}). Mend that, and start all ranks again."
                )
        return [result for _, result in told]

    def share(
        self,
        count: int,
        together: int,
        work: Callable[[int, int], Sequence[T]],
        seen: Callable[[int], None] = lambda done: None,
    ) -> list[T]:
        """Do a number of tasks, each on one rank, and return all results on all ranks.

        Which rank does which tasks follows from the three numbers alone.

        Args:
            count: Number of tasks.
            together: Most tasks of a piece.
            work: Does the tasks from `start` up to `stop`.
            seen: Called with the number of tasks that are done, as far as it is known here.
        """
        if self.together:
            return Ranks().share(count, together, work, seen)
        pieces = _pieces(count, together, self.size)
        own = pieces[self.rank :: self.size]
        results: list[Any] = [None] * count
        slots, at, stride, done = -(-len(pieces) // self.size), 0, 1, 0
        while at < slots:
            piece = partial(self._round, own[at : at + stride], work, seen, done)
            told = self.exchange(piece)
            for _, found in told:
                for start, part in found:
                    results[start : start + len(part)] = part
                    done += len(part)
            at += stride
            # All ranks have been told the same times, and so agree about the next round.
            slowest = max(seconds for seconds, _ in told)
            fitting = int(stride * _ROUND_SECONDS / max(slowest, 1e-6))
            stride = max(1, min(fitting, 4 * stride, _MOST_PIECES))
        return results

    def _round(
        self,
        pieces: Sequence[tuple[int, int]],
        work: Callable[[int, int], Sequence[T]],
        seen: Callable[[int], None],
        done: int,
    ) -> tuple[float, list[tuple[int, list[T]]]]:
        """Do some pieces; return the seconds that it took, and each start with its results."""
        clock = time.perf_counter()
        found = []
        for start, stop in pieces:
            found.append((start, list(work(start, stop))))
            done += stop - start
            seen(done)
        return time.perf_counter() - clock, found


def launched() -> bool:
    """Tell whether this process is one of several that `torchrun` (or its like) started."""
    return all(name in os.environ for name in _ADDRESS) and int(os.environ["WORLD_SIZE"]) > 1


@contextmanager
def split_over_ranks(group: Any = None) -> Iterator[None]:
    """Let the sweeps inside share their points among the ranks of a job.

    All ranks must do the same sweeps in the same order; that cost and points are the same is
    checked. Where `torchrun` has set up the environment and nobody has called
    `torch.distributed.init_process_group`, the first sweep does so, with gloo, and the end of
    the block takes it down; on machines with CUDA, `LOCAL_RANK` is the current device inside.
    Outside a job the block changes nothing.

    Args:
        group: A process group of `torch.distributed`, all of whose processes enter the block;
            None for all processes.

    Example:
        >>> with split_over_ranks():
        ...     current_ranks()
        Ranks(rank=0, size=1, group=None, together=False)
    """
    split = _Split(group)
    device = _own_device()
    before = _asked.set(split)
    try:
        yield
    finally:
        _asked.reset(before)
        split.leave()
        if device is not None:
            torch.cuda.set_device(device)


def current_ranks() -> Ranks:
    """Return the ranks that share the sweeps of this block, this process alone outside of one.

    Raises:
        ValueError: If this process is not in the group that shares.
        RuntimeError: If the ranks of the job do not find one another.
    """
    split = _asked.get()
    return Ranks() if split is None else split.ranks


class _Split:
    """The processes that share, met when they are first needed."""

    def __init__(self, group: Any) -> None:
        self.group = group
        self._ranks: Ranks | None = None
        self._started = False

    @property
    def ranks(self) -> Ranks:
        """The processes."""
        if self._ranks is None:
            self._ranks = self._met()
        return self._ranks

    def _met(self) -> Ranks:
        """Find the other processes."""
        if not dist.is_available() or not (dist.is_initialized() or launched()):
            return Ranks()
        if not dist.is_initialized():
            _start()
            self._started = True
        rank = dist.get_rank(self.group)
        if rank < 0:
            raise ValueError(
                "A process that shares a sweep must be in the group that does; rank "
                f"{dist.get_rank()} of the job is not. Enter `split_over_ranks(group)` on the "
                "processes of the group alone."
            )
        return Ranks(rank, dist.get_world_size(self.group), self.group)

    def leave(self) -> None:
        """Take down what was set up here."""
        if self._started and dist.is_initialized():
            dist.destroy_process_group()
        self._started = False


_asked: ContextVar[_Split | None] = ContextVar("thalweg_ranks", default=None)
_meetings = itertools.count()


def _start() -> None:
    """Set up `torch.distributed` from the environment."""
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    hosted = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    store: Any = dist.TCPStore(  # type: ignore[attr-defined]
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=rank == 0 and not hosted,
        timeout=_MEETING,
        wait_for_workers=False,
    )
    # The store outlives ranks that are restarted: what they left there must not be read again.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    name = f"thalweg/{attempt}/{next(_meetings)}"
    store = dist.PrefixStore(name, store)  # type: ignore[attr-defined]
    store.set(f"rank {rank}", "here")
    try:
        store.wait([f"rank {other}" for other in range(size)], _MEETING)
    except RuntimeError as error:
        raise RuntimeError(
            f"All {size} ranks of a job must sweep together; after {_MEETING} some have not come. "
            "Call it on every rank, or unset WORLD_SIZE to use this process alone."
        ) from error
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=_PATIENCE)


def _own_device() -> int | None:
    """Make the accelerator of this rank the current one; return the one before."""
    # A script that has set up the ranks itself has chosen their devices, too.
    if not launched() or not torch.cuda.is_available() or dist.is_initialized():
        return None
    before = torch.cuda.current_device()
    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    return before


def _pieces(count: int, together: int, size: int) -> list[tuple[int, int]]:
    """Cut tasks into pieces of at most `together`, about as many for every rank.

    >>> _pieces(10, 64, 2), _pieces(5, 2, 1), _pieces(1, 1, 4)
    ([(0, 5), (5, 10)], [(0, 2), (2, 4), (4, 5)], [(0, 1)])
    """
    if count == 0:
        return []
    if size == 1:
        length = together
    else:
        rounds = math.ceil(count / (together * size))
        length = math.ceil(count / (rounds * size))
    return [(start, min(start + length, count)) for start in range(0, count, length)]
