"""The studies that come with the package, by name.

A study file imports nothing heavy when it is read, so that listing studies takes no time.
"""

import importlib
from pathlib import Path

from thalweg.source_files import run_file
from thalweg.studies.study import Study

__all__ = ["NAMES", "load_study", "study_file"]

NAMES = (
    "demo",
    "interp-relu",
    "interp-sigmoid",
    "interp-maxout",
    "interp-two-solutions",
    "interp-random-to-solution",
    "interp-two-starts",
    "interp-highres",
    "interp-adversarial-maxout",
    "interp-compare-activations",
    "interp-conv-cifar",
    "interp-mpdbm",
    "interp-lstm",
    "random-walk-control",
    "convex-hyperparameters",
    "projection-residual-maxout",
    "deep-linear-hessians",
    "surface-factored-linear",
    "surface-relu",
    "surface-adversarial-relu",
    "surface-adversarial-maxout",
    "surface-mpdbm",
    "surface-lstm",
    "critical-points",
    "newton-versus-descent",
    "saddle-escape",
    "quadratic-flow",
    "deep-linear-line",
    "curvature-steps",
    "obstacle-gallery",
)


def study_file(name: str) -> Path:
    """Return the file of a study that comes with the package.

    Raises:
        ValueError: If there is no such study.
    """
    if name not in NAMES:
        raise ValueError(
            f"A study is one of {', '.join(NAMES)}, or a file that ends in .py; got {name!r}. "
            "`thalweg list` tells what each one does."
        )
    return Path(__file__).with_name(name.replace("-", "_") + ".py")


def load_study(name: str) -> Study:
    """Return a study by its name, or from a file that defines `STUDY`.

    Args:
        name: One of `NAMES`, or the path of a Python file such as `thalweg copy` writes. The
            file is run.

    Raises:
        ValueError: If there is no such study, or the file defines none.
        FileNotFoundError: If there is no such file.
    """
    if not name.endswith(".py"):
        study_file(name)
        module = importlib.import_module(f"thalweg.studies.{name.replace('-', '_')}")
    else:
        module = run_file(Path(name), "A study file (as `thalweg copy` writes it)")
    study = getattr(module, "STUDY", None)
    if not isinstance(study, Study):
        raise ValueError(
            f"A study file defines STUDY = Study(...); {name} does not. See `thalweg copy demo`."
        )
    return study
