"""Running a Python file that a user names, to get at what it defines."""

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

__all__ = ["importable", "run_file"]


def run_file(path: Path, wanted: str) -> ModuleType:
    """Run a file and return it as a module.

    It can import the files beside it and those in the current folder.

    Args:
        path: The file.
        wanted: What the file is needed for, for the message.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{wanted} is needed; there is none at {path}. Check the path.")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None  # a path that ends in .py always has a loader
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with importable(path.parent, Path()):
        spec.loader.exec_module(module)
    return module


@contextmanager
def importable(*folders: Path) -> Iterator[None]:
    """Let modules be imported from some folders as well, the first one first."""
    places = [str(folder.resolve()) for folder in folders]
    sys.path[:0] = places
    try:
        yield
    finally:
        for place in places:
            sys.path.remove(place)
