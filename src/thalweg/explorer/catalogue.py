"""The anchors that a reader can choose, by name: points of a run, solutions, eigenvectors.

    step 300                      the snapshot of that step
    solution better               a checkpoint that was given
    eigenvector 1 at step 300     of the Hessian there: 1 and 2 belong to the largest eigenvalues,
                                  −1 and −2 (written -1, -2) to the smallest

Eigenvectors are of unit length, so that coordinates along them are lengths. They are computed when
they are first needed, and kept, so that a section has the same anchors after a restart.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from thalweg.durable import write_atomically
from thalweg.errors import ParameterMismatchError
from thalweg.explorer.request_error import RequestError
from thalweg.objectives.objective import Objective
from thalweg.probes.spectrum import spectrum
from thalweg.progress import Progress
from thalweg.sections import Line, Plane, Section
from thalweg.space import remembered_buffers
from thalweg.trajectory.trajectory import Trajectory

__all__ = ["Catalogue", "Solution"]

_STEP = re.compile(r"step (0|[1-9][0-9]{0,17})")
_EIGENVECTOR = re.compile(r"eigenvector (-?[1-9]) at step (0|[1-9][0-9]{0,17})")
_AT_EACH_END = 2


@dataclass(frozen=True, eq=False)
class Solution:
    """A point that is not of the run.

    Attributes:
        theta: The point, shape (P,).
        file: Name of its file.
        sha256: Checksum of its file.
    """

    theta: Tensor
    file: str
    sha256: str


@dataclass(frozen=True, eq=False)
class Catalogue:
    """The anchors that a reader can choose.

    Args:
        objective: The cost.
        trajectory: The run.
        solutions: Name to point.
        folder: Where eigenvectors are kept.

    Raises:
        ParameterMismatchError: If the run is of another model.
        ValueError: If it has no points.
    """

    objective: Objective
    trajectory: Trajectory
    solutions: Mapping[str, Solution]
    folder: Path

    def __post_init__(self) -> None:
        run, space = self.trajectory, self.objective.space
        if len(run) == 0:
            raise ValueError("An explorer needs a run with points; this one has none. Record some.")
        mine = [tuple(block.shape) for block in space.blocks]
        its = mine if run.space is None else [tuple(block.shape) for block in run.space.blocks]
        if run.points.size != space.size or mine != its:
            raise ParameterMismatchError(
                "The run and the objective must have the same parameters; the run has "
                f"{run.points.size}, the objective {space.size}, or the shapes of their "
                f"{len(its)} and {len(mine)} tensors differ. Let the factory make the model that "
                "was trained."
            )

    @property
    def numbers(self) -> list[int]:
        """The eigenvectors that there are at each snapshot."""
        count = min(_AT_EACH_END, self.objective.space.size)
        return [*range(1, count + 1), *range(-count, 0)]

    def is_direction(self, name: str) -> bool:
        """Tell whether an anchor is a direction rather than a point."""
        return _EIGENVECTOR.fullmatch(name) is not None

    def mark(self, name: str) -> str:
        """Return something that changes where the content of an anchor does.

        Args:
            name: Of the anchor.

        Raises:
            RequestError: 400 if there is no such anchor.
        """
        if found := _EIGENVECTOR.fullmatch(name):
            if int(found[1]) in self.numbers:
                return self.mark(f"step {found[2]}")
        elif found := _STEP.fullmatch(name):
            index = self._index(int(found[1]))
            if index is not None:
                return float(self.trajectory.norm[index]).hex()
        elif name.startswith("solution "):
            solution = self.solutions.get(name.removeprefix("solution "))
            if solution is not None:
                return solution.sha256
        raise RequestError(
            400,
            "An anchor is 'step N' of a snapshot, 'solution NAME', or 'eigenvector K at step N' "
            f"with K of {', '.join(map(str, self.numbers))}; there is no {name[:60]!r}. Send names "
            "that /api/run lists, or start with --solution FILE.",
        )

    def section(self, names: tuple[str, ...], report: Progress) -> Section:
        """Return the line or plane of some anchors.

        Args:
            names: Two or three; all are points, or all but the first are directions.
            report: Shows progress of a spectrum.

        Raises:
            ValueError: If the anchors are on one line, or not finite.
            TrajectoryError: If a snapshot is damaged.
        """
        first = self._point(names[0])
        if not self.is_direction(names[1]):
            rest = [self._point(name) for name in names[1:]]
            if len(rest) == 1:
                return Line(first, rest[0], labels=(names[0], names[1]))
            return Plane.through(first, *rest, labels=(names[0], names[1], names[2]))
        known = remembered_buffers(first)
        along = [self._eigenvector(name, report) for name in names[1:]]
        if len(along) == 1:
            end = first + along[0].to(first)
            return Line(first, end, labels=(names[0], f"+ {names[1]}"), buffers=(known, known))
        rule = {"directions": "eigenvectors", "names": list(names[1:])}
        plane = Plane((first, along[0], along[1]), False, (names[0],), (known, {}, {}), rule)
        gram = plane.gram
        if np.linalg.det(gram) <= 1e-12 * gram[0, 0] * gram[1, 1]:
            raise ValueError(
                f"A plane needs two directions that differ; {names[1]} and {names[2]} do not. "
                "Choose another eigenvector."
            )
        return plane

    def described(self) -> dict[str, Any]:
        """Return the anchors as plain JSON."""
        run = self.trajectory
        columns = (run.step, run.loss, run.epoch, run.learning_rate)
        return {
            "snapshots": [
                {
                    "anchor": f"step {int(step)}",
                    "step": int(step),
                    "loss": float(loss),
                    "epoch": float(epoch),
                    "learning_rate": float(rate),
                }
                for step, loss, epoch, rate in zip(*columns, strict=True)
            ],
            "solutions": [
                {"anchor": f"solution {name}", "file": solution.file}
                for name, solution in self.solutions.items()
            ],
            "eigenvectors": self.numbers,
        }

    def _index(self, step: int) -> int | None:
        """Return which snapshot is of a step, or None."""
        at = int(np.searchsorted(self.trajectory.step, step))
        there = at < len(self.trajectory) and int(self.trajectory.step[at]) == step
        return at if there else None

    def _point(self, name: str) -> Tensor:
        """Return an anchor that is a point."""
        if name.startswith("solution "):
            return self.solutions[name.removeprefix("solution ")].theta
        index = self._index(int(name.removeprefix("step ")))
        assert index is not None  # its name has been looked up
        return self.trajectory.points.read(index)

    def _eigenvector(self, name: str, report: Progress) -> Tensor:
        """Return an anchor that is a direction, computed now or earlier."""
        found = _EIGENVECTOR.fullmatch(name)
        assert found is not None
        number, step = int(found[1]), found[2]
        path = self.folder / f"step-{step}.safetensors"
        vectors = _kept(path, self.mark(f"step {step}"))
        if vectors is None:
            at = self._point(f"step {step}")
            pairs = spectrum(self.objective, at, _AT_EACH_END, progress=report)
            vectors = torch.from_numpy(np.array(pairs.eigenvectors))
            # A sign of its own, or a plane could come back mirrored.
            largest = vectors.gather(1, vectors.abs().argmax(dim=1, keepdim=True))
            vectors *= torch.where(largest < 0, -1.0, 1.0)
            facts = {"mark": self.mark(f"step {step}")}
            write_atomically(path, safetensors.torch.save({"eigenvectors": vectors}, facts))
        # Ascending: the last belongs to the largest eigenvalue.
        return vectors[-number if number > 0 else -number - 1].clone()


def _kept(path: Path, mark: str) -> Tensor | None:
    """Return the eigenvectors that are kept, or None where there are none of this point."""
    if not path.exists():
        return None
    try:
        with safetensors.safe_open(path, "pt") as file:
            if (file.metadata() or {}).get("mark") != mark:
                return None
            vectors: Tensor = file.get_tensor("eigenvectors")
            return vectors
    except SafetensorError:
        return None  # they are computed again
