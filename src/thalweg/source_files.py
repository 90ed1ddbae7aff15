"""Running a Python file that a user names, to get at what it defines."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

__all__ = ["run_file"]


def run_file(path: Path, wanted: str) -> ModuleType:
    """Run a file and return it as a module; files beside it can be imported by it.

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
    beside = str(path.parent.resolve())
    sys.path.insert(0, beside)
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(beside)
    return module
