"""How a run came from its start to its end, told from some of its snapshots."""

import time
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from thalweg.anchors import distance
from thalweg.environment import provenance
from thalweg.evaluate import profile
from thalweg.grids import Uniform
from thalweg.measures import greatest_climb
from thalweg.measures.permutation_tests import order_p_value, sign_p_value
from thalweg.objectives.objective import Objective
from thalweg.probes.run_arguments import expect_run
from thalweg.results import Array, PathReading, Profile
from thalweg.sections import Line
from thalweg.stored import StoredPoint
from thalweg.trajectory.trajectory import Trajectory

__all__ = ["path_reading"]

_MOST_SNAPSHOTS = 30
_ON_LINE = 21  # points of the straight line
_MOST_BYTES = 512 << 20  # of points that are held together


def path_reading(
    objective: Objective,
    trajectory: Trajectory,
    snapshots: Sequence[int] | None = None,
    target: Tensor | ArrayLike | StoredPoint | None = None,
) -> PathReading:
    """Return what the path of a run tells, in numbers without a scale.

    With snapshots θ_1 … θ_n, the gradients g_i of J over all of the data there, and a target θ*:

    - the length Σ ‖θ_{i+1} − θ_i‖ over the chord ‖θ_n − θ_1‖, and how it grows with n;
    - the cosine of −g_i with the way θ* − θ_i;
    - the greatest climb of J on the straight line from θ_1 to θ_n, from 21 points;
    - an order test: is the path shorter (or longer) than other orders of the same points?
    - a random walk test: do displacements θ_{i+1} − θ_i follow −g_i, more than by accident?

    Shape alone is evidence of nothing, for a random walk has one, too (Goodfellow et al. 2015,
    appendix B). A verdict that rests on the path needs `order_p` small and `descends` true.

    Args:
        objective: J.
        trajectory: The run.
        snapshots: Numbers of the points to look at, ascending; by default all, or 30 evenly
            spaced from the first to the last where there are more.
        target: The point that progress is towards, shape (P,); the last snapshot by default.

    Returns:
        The readings. Snapshots from the first that is not finite on are left out. It takes a
        value and a gradient at each snapshot, and a value at each point of the line; what is in
        memory of the points is limited, and they are read again where they do not fit.

    Raises:
        TypeError: If the arguments are no objective and no trajectory.
        ValueError: If the numbers are not ascending numbers of points, or the first is not
            finite.
        ParameterMismatchError: If objective and trajectory differ in the number of parameters.

    Example:
        >>> from thalweg import FunctionObjective
        >>> bowl = FunctionObjective(lambda t: t.square().sum() / 2, size=2)
        >>> points = [torch.tensor([3.0, 4.0]) * 0.5**i for i in range(12)]
        >>> reading = path_reading(bowl, Trajectory.from_points(points))
        >>> round(reading.ratio, 12), round(reading.mean_alignment, 12), reading.aside
        (1.0, 1.0, 0.0)
        >>> reading.order_p, reading.descends, reading.relative_climb
        (0.002, True, 0.0)
    """
    expect_run(objective, trajectory, None)
    clock = time.perf_counter()
    numbers = _numbers(trajectory, snapshots)
    kept = _finite(trajectory, numbers)
    points = _Points(trajectory, kept)
    goal = objective.point(points[len(kept) - 1] if target is None else target, "target")
    loss, norms, heading, alignment, to_target = _at_points(objective, points, goal.double())
    table = points.distances()
    line = _line(objective, points, float(table[0, -1]))
    return PathReading(
        step=trajectory.step[kept].astype(np.float64),
        loss=loss,
        gradient_norm=norms,
        distance=table,
        to_target=to_target,
        heading=heading,
        alignment=alignment,
        order_p=order_p_value(table),
        alignment_p=sign_p_value(alignment),
        climb=_climb(line),
        line=line,
        target="last snapshot" if target is None else "given",
        lost=len(numbers) - len(kept),
        provenance=provenance(
            objective.device,
            objective.dtype,
            time.perf_counter() - clock,
            objective=objective.describe(),
            section={"kind": "snapshots", "points": len(trajectory), "looked_at": len(kept)},
        ),
    )


def _numbers(trajectory: Trajectory, snapshots: Sequence[int] | None) -> list[int]:
    """Return the numbers of the points to look at."""
    count = len(trajectory)
    if snapshots is None:
        return [int(i) for i in np.linspace(0, count - 1, min(count, _MOST_SNAPSHOTS)).round()]
    numbers = [int(number) for number in snapshots]
    if not numbers or numbers != sorted(set(numbers)) or numbers[0] < 0 or numbers[-1] >= count:
        raise ValueError(
            f"`snapshots` are ascending numbers of points, from 0 to {count - 1}; got "
            f"{numbers[:5]}{' …' if len(numbers) > 5 else ''}. Leave them out for up to "
            f"{_MOST_SNAPSHOTS} evenly spaced ones."
        )
    return numbers


def _finite(trajectory: Trajectory, numbers: Sequence[int]) -> list[int]:
    """Return the numbers of points before the first that is not finite."""
    kept = []
    for number in numbers:
        if not bool(torch.isfinite(trajectory.points.read(number)).all()):
            break
        kept.append(number)
    if not kept:
        raise ValueError(
            "A path begins at a finite point; the first snapshot holds NaN or infinity. Give "
            "`snapshots` from before the training diverged."
        )
    return kept


class _Points:
    """Some points of a trajectory, held as far as memory is meant for them."""

    def __init__(self, trajectory: Trajectory, numbers: Sequence[int]) -> None:
        self._source = trajectory.points
        self._numbers = numbers
        size = self._source.size * self._source.dtype.itemsize
        self._together = max(1, _MOST_BYTES // max(1, size))
        self._held: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> Tensor:
        """Return one point, shape (P,)."""
        if index not in self._held:
            if len(self._held) >= self._together:  # the oldest makes room
                del self._held[next(iter(self._held))]
            self._held[index] = self._source.read(self._numbers[index])
        return self._held[index]

    def distances(self) -> Array:
        """Return the distances of all points, shape (n, n)."""
        count = len(self)
        table = np.zeros((count, count))
        half = max(1, self._together // 2)  # rows are held while the others go by
        for first in range(0, count, half):
            rows = range(first, min(first + half, count))
            here = {i: self[i] for i in rows}
            for j in range(first, count):
                there = self[j]
                for i in rows:
                    if i < j:
                        table[i, j] = table[j, i] = distance(here[i], there)
        return table


def _at_points(
    objective: Objective, points: _Points, goal: Tensor
) -> tuple[Array, Array, Array, Array, Array]:
    """Return J, ‖g‖, heading, alignment and the distance to the target."""
    count = len(points)
    loss, norms, heading, to_target = np.full((4, count), np.nan)
    alignment = np.full(count - 1, np.nan)
    with np.errstate(all="ignore"):
        for i in range(count):
            given = points[i]
            here = objective.point(given).double()
            loss[i] = objective.value(given)
            gradient = objective.gradient(given).double()
            norms[i] = float(gradient.norm())
            way = goal - here
            to_target[i] = float(way.norm())
            heading[i] = _cosine(-gradient, way)
            if i + 1 < count:
                there = objective.point(points[i + 1]).double()
                alignment[i] = _cosine(-gradient, there - here)
    return loss, norms, heading, alignment, to_target


def _cosine(a: Tensor, b: Tensor) -> float:
    """Return the cosine between two vectors, NaN where one is zero or not finite."""
    lengths = float(a.norm()), float(b.norm())
    if not all(0 < length < float("inf") for length in lengths):
        return float("nan")
    return min(1.0, max(-1.0, float((a / lengths[0]) @ (b / lengths[1]))))


def _line(objective: Objective, points: _Points, chord: float) -> Profile | None:
    """Return J along the straight line from the first point to the last."""
    if not chord > 0:
        return None
    ends = Line(points[0], points[len(points) - 1], labels=("first", "last"))
    return profile(objective, ends, Uniform(0.0, 1.0, _ON_LINE), progress=False)


def _climb(line: Profile | None) -> float:
    """Return the greatest climb along the line, NaN where J is not finite on it."""
    if line is None or not np.isfinite(line.loss[line.first_split]).all():
        return float("nan")
    return greatest_climb(line).height
