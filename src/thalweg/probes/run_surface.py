"""The cost on surfaces that show a run: the ruled surface that contains it, and planes."""

import os
import time
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from thalweg.anchors import combine
from thalweg.evaluate.points import tables_of
from thalweg.objectives.objective import Evaluation, Objective
from thalweg.probes.run_arguments import (
    expect_across,
    expect_along,
    expect_run,
    flat_ends,
    symmetric,
)
from thalweg.probes.run_costs import (
    Combinations,
    KeptPoint,
    RunCosts,
    blocks_of,
    points_at,
    warn_non_finite,
)
from thalweg.probes.run_geometry import RunGeometry, geometry_of, residual
from thalweg.progress import Progress, progress_bar
from thalweg.results import Array, RunPoints, RunSurface
from thalweg.sections import Line
from thalweg.trajectory.passes import pieces
from thalweg.trajectory.trajectory import Trajectory

__all__ = ["ruled_surface", "run_plane"]

Keep = str | os.PathLike[str] | None


def ruled_surface(
    objective: Objective,
    trajectory: Trajectory,
    line: Line | None = None,
    *,
    across: int = 41,
    reach: float = 1.2,
    curvature: bool = False,
    keep: Keep = None,
    progress: bool | Progress | None = None,
) -> RunSurface:
    """Return the cost on the ruled surface that contains both the line and the run.

    With u the unit vector of the line from θ_i to θ_f, α(t) the projection of the point θ(t) on
    it, r(t) the residual and v(t) = ± r(t)/‖r(t)‖, it is

        S(t, b) = J(θ_i + α(t) u + b v(t)).

    At b = 0 it is the cost on the line, and at b = ± ‖r(t)‖ that of the run itself: the run
    lies *on* this surface, which no plane can promise. The sign of v(t) is chosen such that it
    turns by no more than a right angle from one point to the next; where the residual is mere
    rounding, as at the ends, the direction is that of the neighbour. Every point of the surface
    is a combination of the three points θ_i, θ_f and θ(t), so it is evaluated like any section.
    A few points of the run are in memory at a time, so that it may be larger than memory.

    Args:
        objective: The cost.
        trajectory: The run.
        line: The line; that from the first point of the run to the last by default.
        across: Number of values of b, an odd number.
        reach: Largest b as a multiple of the largest distance of the run from the line.
        curvature: Whether to take the curvature v'Hv of the line, across it towards the run, at
            every projection: one Hessian-vector product over all of the data for each point.
        keep: A folder where points are kept as they are finished, as for `thalweg.profile`.
        progress: None for a progress bar on a terminal, False for none.

    Returns:
        One row for each point of the run, in the order of the run, and one column for each b.

    Raises:
        TypeError: If the arguments are no objective, trajectory or line.
        ValueError: If `across` or `reach` are too small, a point is not finite, or the run
            never leaves the line, so that there is no direction across.
        ParameterMismatchError: If the run belongs to another space.
        NonDeterministicObjectiveError: If two evaluations of one point disagree.

    Example:
        >>> from thalweg import FunctionObjective, Trajectory
        >>> bowl = FunctionObjective(lambda t: t[0] ** 2 + 3 * t[1] ** 2, size=2)
        >>> bend = torch.tensor([[2.0, 0.0], [1.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
        >>> picture = ruled_surface(bowl, Trajectory.from_points(bend), across=3, reach=1.0)
        >>> picture.loss["train"]
        array([[7., 4., 7.],
               [4., 1., 4.],
               [3., 0., 3.]])
        >>> picture.run.projection, picture.run.across, picture.run.loss["train"]
        (array([0., 1., 2.]), array([0., 1., 0.]), array([4., 4., 0.]))

    Source: the pictures of Goodfellow, Vinyals & Saxe (2015), figure 7 right.
    """
    return _Picture(objective, trajectory, line, across, reach, keep, progress).ruled(curvature)


def run_plane(
    objective: Objective,
    trajectory: Trajectory,
    line: Line | None = None,
    *,
    along: int = 41,
    across: int = 41,
    reach: float = 1.2,
    curvature: bool = False,
    keep: Keep = None,
    progress: bool | Progress | None = None,
) -> RunSurface:
    """Return the cost on the plane of the line and the largest residual, with the run's shadow.

    With u the unit vector of the line, r(t) the residual of the point θ(t), and t* the point
    with the largest one, it is

        S(a, b) = J(θ_i + a u + b u₂),    u₂ = r(t*)/‖r(t*)‖.

    The run is projected on the plane, to (α(t), r(t)·u₂); its cost is the true one, and `off`
    tells how far off the plane each point is: there the surface says nothing about the run.
    `ruled_surface` has no such gap.

    Args:
        objective: The cost.
        trajectory: The run.
        line: The line; that from the first point of the run to the last by default.
        along: Number of values of a, from −0.1 to 1.2 times the length of the line, or as far
            as the run goes where that is farther; 0 and the length are always among them.
        across: Number of values of b, an odd number.
        reach: Largest b as a multiple of the largest distance of the run from the line.
        curvature: Whether to take the curvature u₂'Hu₂ of the line at every a.
        keep: A folder where points are kept as they are finished, as for `thalweg.profile`.
        progress: None for a progress bar on a terminal, False for none.

    Raises:
        TypeError: If the arguments are no objective, trajectory or line.
        ValueError: If `along`, `across` or `reach` are too small, a point is not finite, or the
            run never leaves the line, so that it spans no plane.
        ParameterMismatchError: If the run belongs to another space.
        NonDeterministicObjectiveError: If two evaluations of one point disagree.

    Example:
        >>> from thalweg import FunctionObjective, Trajectory
        >>> bowl = FunctionObjective(lambda t: t @ t, size=3)
        >>> bend = [[2.0, 0, 0], [1.5, 1.0, 0], [0.5, 0.0, 0.5], [0, 0, 0]]
        >>> run = Trajectory.from_points(torch.tensor(bend, dtype=torch.float64))
        >>> run_plane(bowl, run, along=3, across=3).run.off
        array([0. , 0. , 0.5, 0. ])

    Source: the second axis of the authors' own plots (Goodfellow, Vinyals & Saxe 2015).
    """
    picture = _Picture(objective, trajectory, line, across, reach, keep, progress)
    return picture.plane(along, curvature)


class _Picture:
    """One run, one line, and the cost to be looked at around them."""

    def __init__(
        self,
        objective: Objective,
        trajectory: Trajectory,
        line: Line | None,
        across: int,
        reach: float,
        keep: Keep,
        progress: bool | Progress | None,
    ) -> None:
        expect_run(objective, trajectory, line)
        expect_across(across, reach)
        objective.point(trajectory.points.read(0), "A point of the trajectory")
        self.objective = objective
        self.trajectory = trajectory
        self.keep = keep
        self.progress = progress
        self.clock = time.perf_counter()
        self.ends = _ends_of(trajectory, line)
        self.labels = ("start", "end") if line is None else line.labels
        self.columns, self.reach = across, reach

    def ruled(self, curvature: bool) -> RunSurface:
        """Evaluate the ruled surface, a few points of the run at a time."""
        with progress_bar(self.progress) as report:
            g = self._geometry(report)
            b = symmetric(self.reach * float(g.distance.max()), self.columns)
            rows: list[Evaluation] = []
            run: list[Evaluation] = []
            bent: list[float] = []
            costs = self._costs(report, len(self.trajectory) * (len(b) + 1))
            for block in blocks_of(self.trajectory):
                points = points_at(self.trajectory, block, [int(m) for m in g.source[block]])
                if curvature:
                    bent += [self._curvature(g, g.share[t], g.source[t], points) for t in block]
                section = Combinations.of([*self.ends, *points.values()])
                weights = [_ruling(g, t, b, [*points]) for t in block]
                found = costs.at(section, np.vstack(weights))
                for start in range(0, len(found), len(b) + 1):
                    rows += found[start : start + len(b)]
                    run.append(found[start + len(b)])
        return self._result("ruled", g, g.projection, b, rows, run, (g.across, 0 * g.across), bent)

    def plane(self, along: int, curvature: bool) -> RunSurface:
        """Evaluate the plane, and the points of the run."""
        expect_along(along)
        with progress_bar(self.progress) as report:
            g = self._geometry(report)
            b = symmetric(self.reach * float(g.distance.max()), self.columns)
            farthest = int(np.argmax(np.where(g.own, g.distance, 0.0)))
            share = _along(g, along)
            points = points_at(self.trajectory, range(0), [farthest])
            costs = self._costs(report, len(share) * len(b) + len(self.trajectory))
            bent = [self._curvature(g, s, farthest, points) for s in share if curvature]
            weights = [_combination(s, b / g.across[farthest], g.share[farthest]) for s in share]
            section = Combinations.of([*self.ends, points[farthest]])
            rows = costs.at(section, np.vstack(weights))
            place = self._shadow(g, points[farthest].theta, farthest, report)
            run = costs.of_run()
        return self._result("plane", g, share * g.length, b, rows, run, place, bent)

    def _geometry(self, report: Progress) -> RunGeometry:
        """Return where the points are, in one pass over the run."""
        types = (self.trajectory.points.dtype, self.ends[1].theta.dtype, self.objective.dtype)
        eps = max(torch.finfo(dtype).eps for dtype in types)
        return geometry_of(self.trajectory, [end.theta for end in self.ends], eps, report)

    def _costs(self, report: Progress, total: int) -> RunCosts:
        """Return what evaluates the cost."""
        self.costs = RunCosts(self.objective, self.trajectory, self.keep, report)
        self.costs.total = total
        return self.costs

    def _shadow(
        self, g: RunGeometry, theta: Tensor, farthest: int, report: Progress
    ) -> tuple[Array, Array]:
        """Return the second coordinate of every point, and its distance from the plane."""
        count = len(self.trajectory)
        across, off = np.zeros(count), np.zeros(count)
        ends = [end.theta for end in self.ends]
        share, length = g.share[farthest], g.across[farthest]
        for t, point in enumerate(self.trajectory.stream()):
            for piece in pieces(len(point)):
                axis = residual(theta, ends, share, piece) / length
                across[t] += float(residual(point, ends, g.share[t], piece) @ axis)
            square = 0.0
            for piece in pieces(len(point)):
                axis = residual(theta, ends, share, piece) / length
                left = residual(point, ends, g.share[t], piece) - across[t] * axis
                square += float(left @ left)
            off[t] = np.sqrt(square)
            report(t + 1, count, "distance of the run from the plane")
        across[farthest], off[farthest] = length, 0.0  # it spans the plane
        return across, off

    def _curvature(
        self, g: RunGeometry, share: float, source: int, points: Mapping[int, KeptPoint]
    ) -> float:
        """Return v'Hv on the line, with v the direction of one point of the run."""
        ends = [end.theta for end in self.ends]
        theta = points[source].theta
        parts = [residual(theta, ends, g.share[source], piece) for piece in pieces(len(theta))]
        direction = (torch.cat(parts) / g.distance[source]).to(self.objective.dtype)
        product = self.objective.hvp(combine(ends, [1 - share, share]), direction)
        v = direction.to(product).double()
        return float(v @ product.double()) / float(v @ v)

    def _result(
        self,
        kind: str,
        g: RunGeometry,
        along: Array,
        across: Array,
        rows: Sequence[Evaluation],
        run: Sequence[Evaluation],
        place: tuple[Array, Array],
        bent: Sequence[float],
    ) -> RunSurface:
        """Put everything into one result."""
        loss, metrics = tables_of(rows, (len(along), len(across)))
        true_loss, true_metrics = tables_of(run, (len(run),))
        warn_non_finite(loss, stacklevel=3)
        steps = self.trajectory.step.astype(np.float64)
        where = {"kind": f"{kind} surface of a run", "labels": list(self.labels)}
        return RunSurface(
            kind=kind,
            along=along,
            across=across,
            loss=loss,
            metrics=metrics,
            run=RunPoints(steps, g.projection, *place, true_loss, true_metrics),
            curvature=np.array(bent),
            labels=self.labels,
            length=g.length,
            provenance=self.costs.provenance(where, time.perf_counter() - self.clock),
        )


def _ruling(g: RunGeometry, t: int, b: Array, numbers: Sequence[int]) -> Array:
    """Return the weights of the points of one ruling, and of the point of the run last.

    Args:
        g: Where the points are.
        t: Number of the point.
        b: Coordinates on the ruling.
        numbers: The points that come after both ends among the anchors.
    """
    source = int(g.source[t])
    three = _combination(g.share[t], b / (g.side[source] * g.distance[source]), g.share[source])
    table = np.zeros((len(b) + 1, 2 + len(numbers)))
    table[:-1, [0, 1, 2 + numbers.index(source)]] = three
    table[-1, 2 + numbers.index(t)] = 1.0
    return table


def _combination(share: float, k: Array, of_source: float) -> Array:
    """Return weights of θ_i, θ_f and θ_m for the point of the line plus k r_m, shape (n, 3).

    At k = 1 and the projection of θ_m itself they are (0, 0, 1) exactly.
    """
    return np.stack([(1 - share) - k * (1 - of_source), share - k * of_source, k], axis=-1)


def _along(g: RunGeometry, count: int) -> Array:
    """Return the rows of the plane as shares of the line, both ends exactly among them."""
    low, high = min(-0.1, g.share.min() - 0.05), max(1.2, g.share.max() + 0.05)
    return np.union1d(np.linspace(low, high, count), [0.0, 1.0])


def _ends_of(trajectory: Trajectory, line: Line | None) -> tuple[KeptPoint, KeptPoint]:
    """Return both ends in memory."""
    if line is None:
        points = points_at(trajectory, range(0), [0, len(trajectory) - 1])
        return points[0], points[len(trajectory) - 1]
    flat = flat_ends(line, trajectory.points.size)
    start, end = (KeptPoint(p, b) for p, b in zip(flat, line.buffers, strict=True))
    return start, end
