"""The command that lets a reader look at the cost around a recorded run: `view`."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from thalweg.cli.diagnosis import RunFolder
from thalweg.cli.folders import OwnFolder, say
from thalweg.cli.sections import Factory, names_of, stated

if TYPE_CHECKING:
    from thalweg.explorer.catalogue import Solution
    from thalweg.space import ParameterSpace

__all__ = ["view"]

Solutions = Annotated[
    tyro.conf.UseAppendAction[tuple[Path, ...]], tyro.conf.arg(metavar="CHECKPOINT")
]


def view(
    run: RunFolder,
    /,
    *,
    objective: Factory,
    solution: Solutions = (),
    port: int = 0,
    no_browser: bool = False,
    output: OwnFolder = None,
    trust_pickle: bool = False,
) -> int:
    """Explore the cost on lines and planes of a recorded run, in the browser; print the address.

    More points are evaluated where the reader looks. Ctrl-C ends it; everything that was evaluated
    is kept, and the same command goes on from there.

    Args:
        run: The folder that the run was recorded to.
        objective: A function without arguments that returns the objective.
        solution: Parameters of another point to draw lines and planes to; may be given repeatedly.
        port: Of this machine's own address 127.0.0.1; 0 for any that is free.
        no_browser: Open no browser.
        output: Where points and records are kept; RUN/explorer by default.
        trust_pickle: Load checkpoints that could run code.
    """
    import webbrowser

    from thalweg.explorer.catalogue import Catalogue
    from thalweg.explorer.explorer import Explorer
    from thalweg.explorer.server import ExplorerServer
    from thalweg.explorer.store import Store, fingerprint
    from thalweg.factories import load_objective
    from thalweg.trajectory.trajectory import Trajectory

    trajectory = Trajectory.open(run)
    cost = load_objective(objective)
    others = _solutions(cost.space, solution, trust_pickle)
    folder = output or run / "explorer"
    catalogue = Catalogue(cost, trajectory, others, folder / "eigenvectors")
    store = Store(folder, fingerprint(cost, trajectory))
    asked: dict[str, Any] = {"run": run.resolve().name, "objective": objective}
    explorer = Explorer(catalogue, store, asked)
    try:
        with ExplorerServer(explorer, port) as server, _ended_by_signals():
            explorer.start()
            print(server.address, flush=True)
            say("Ctrl-C ends this; what was evaluated is kept.")
            if not no_browser:
                webbrowser.open(server.address)
            server.serve_forever()
    except KeyboardInterrupt:
        say("Finishing the points that are being evaluated ...")
    finally:
        explorer.stop()
    say(f"Points and records are in {folder}; `thalweg report {folder / 'records'}/*` shows them.")
    return 0


def _solutions(
    space: "ParameterSpace", paths: tuple[Path, ...], trust_pickle: bool
) -> "dict[str, Solution]":
    """Return the points that are not of the run, by name."""
    from thalweg.explorer.catalogue import Solution

    names = names_of(paths)
    if len(set(names)) < len(names):
        raise ValueError(
            f"Each solution needs a name of its own; those given are called {', '.join(names)}. "
            "Give each file once, or rename one."
        )
    return {
        name: Solution(space.flatten(path, trust_pickle=trust_pickle), told["file"], told["sha256"])
        for name, path, told in zip(names, paths, stated(paths), strict=True)
    }


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let the signal that asks a process to end do what Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
