"""The command line: `thalweg demo`, `run`, `profile` and so on.

Standard output carries data (a folder, a table), standard error what is said about it. Exit
codes: 0 done; 1 done, but a claim was not reproduced; 2 bad usage or bad input; 130 interrupted;
141 nobody reads the output any more.
Each command imports what it needs when it is called, so that `--version` and `list` are quick.

Under `torchrun` the processes share the points of `profile` and `surface`; the first of them
prints and writes, and does every other command alone.
"""

import io
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import tyro

from thalweg._version import __version__
from thalweg.cli.diagnosis import diagnose
from thalweg.cli.explorer import view
from thalweg.cli.folders import rank_here, say
from thalweg.cli.sections import profile, surface
from thalweg.cli.spectra import spectrum
from thalweg.cli.studies import check, copy, demo, gallery, list_studies, report, run

__all__ = ["main"]

# What an interrupted command leaves behind.
_TRAINED = "Training and points that had finished are kept; the same command goes on from there."
_POINTS = "Nothing was written but finished points; the same command goes on from there."
_KEPT = {"run": _TRAINED, "demo": _TRAINED, "profile": _POINTS, "surface": _POINTS, "view": _POINTS}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    shared = arguments[:1] in (["profile"], ["surface"])
    if rank_here() > 0:  # of several processes, the first speaks
        if not shared:
            return 0  # and does alone what cannot be shared
        warnings.simplefilter("ignore")
    if arguments in (["--version"], ["-V"]):
        print(f"thalweg {__version__}")
        return 0
    if isinstance(sys.stdout, io.TextIOWrapper):  # a pipe may know no Greek
        sys.stdout.reconfigure(errors="replace")
    commands: dict[str, Any] = {
        "demo": demo,
        "gallery": gallery,
        "list": list_studies,
        "run": run,
        "check": check,
        "copy": copy,
        "profile": profile,
        "surface": surface,
        "spectrum": spectrum,
        "diagnose": diagnose,
        "view": view,
        "report": report,
    }
    try:
        with _split() if shared else nullcontext():
            code: int = tyro.extras.subcommand_cli_from_dict(
                commands,
                args=arguments,
                prog="thalweg",
                description="Show what stands between an optimiser and a low cost.",
                config=(tyro.conf.FlagCreatePairsOff,),
            )
            return code
    except KeyboardInterrupt:
        if rank_here() == 0:
            say(f"Interrupted. {_KEPT.get(arguments[0], 'Nothing was written.')}")
        return 130
    except BrokenPipeError:  # as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:  # code of the user's runs in here, so anything may come
        if os.environ.get("THALWEG_TRACEBACK"):
            traceback.print_exc()
        say(f"thalweg{f' (rank {rank_here()})' if rank_here() else ''}: {_described(error)}")
        return 2


def _split() -> AbstractContextManager[None]:
    """Let the processes of a job share the points of a sweep."""
    if "WORLD_SIZE" not in os.environ:
        return nullcontext()
    from thalweg.evaluate.ranks import split_over_ranks

    return split_over_ranks()


def _described(error: Exception) -> str:
    """Return the message of an error; of one that is not ours, also its kind and its place."""
    if isinstance(error, ArithmeticError | ImportError | OSError | TypeError | ValueError):
        return str(error)
    last = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"{type(error).__name__}: {error} ({Path(last.filename).name}, line {last.lineno}). "
        "THALWEG_TRACEBACK=1 shows how it came to that."
    )
