"""Objectives that live in a user's file, named as `file.py:factory`."""

import importlib
from pathlib import Path
from types import ModuleType

from thalweg.objectives.objective import Objective
from thalweg.source_files import importable, run_file

__all__ = ["load_objective"]


def load_objective(address: str) -> Objective:
    """Return the objective that a user's factory makes.

    Args:
        address: `path/to/file.py:name` or `package.module:name`. The name is a function
            without arguments that returns an objective, or an objective. The file is run.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the address has no name, or the file does not define it.
        TypeError: If what it makes is no objective.
    """
    place, colon, name = address.rpartition(":")
    if not colon or not place or not name:
        raise ValueError(
            f"An objective is named as file.py:factory; got {address!r}. Write a function that "
            "returns a ModelObjective, and give its file and its name."
        )
    if place.endswith(".py"):
        module = run_file(Path(place), "A file with the objective")
    else:
        with importable(Path()):
            module = importlib.import_module(place)
    if not hasattr(module, name):
        defined = [key for key, value in vars(module).items() if _is_own(value, module)]
        raise ValueError(
            f"{place} must define {name!r}; it defines {', '.join(defined) or 'no function'}. "
            "Correct the name after the colon."
        )
    made = getattr(module, name)
    objective = made if isinstance(made, Objective) else made()
    if not isinstance(objective, Objective):
        raise TypeError(
            f"{address} must return an objective; it returns a {type(objective).__name__}. "
            "Return ModelObjective(model, loss, data)."
        )
    return objective


def _is_own(value: object, module: ModuleType) -> bool:
    """Tell whether a value was defined in a module rather than imported into it."""
    return callable(value) and getattr(value, "__module__", None) == module.__name__
