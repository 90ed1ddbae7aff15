"""Showing how far long work has come: on standard error, and only on a terminal."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Progress", "progress_bar"]

# Called with (steps done, steps in all, what is going on).
Progress = Callable[[int, int, str], None]


def _silent(done: int, total: int, message: str) -> None:
    """Show nothing."""


@contextmanager
def progress_bar(show: bool | Progress | None) -> Iterator[Progress]:
    """Yield a function that shows progress.

    Args:
        show: None for a bar where standard error is a terminal; False for none; or a
            function of one's own, which is passed through.

    Example:
        >>> with progress_bar(False) as report:
        ...     report(1, 10, "profile")
    """
    if callable(show):
        yield show
        return
    if show is False or not sys.stderr.isatty():
        yield _silent
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("", total=None)

        def report(done: int, total: int, message: str) -> None:
            bars.update(task, completed=done, total=total, description=message)

        yield report
