"""The cost on the plane of a run's principal components, with the run's shadow."""

import os
import time

import numpy as np

from thalweg.evaluate.points import table_of, tables_of
from thalweg.objectives.objective import Objective
from thalweg.probes.run_arguments import expect_across, expect_along, expect_run, symmetric
from thalweg.probes.run_costs import RunCosts, warn_non_finite
from thalweg.progress import Progress, progress_bar
from thalweg.results import Array, RunPoints, RunSurface
from thalweg.sections import Plane
from thalweg.trajectory.principal import Centre, principal_axes, rule_of
from thalweg.trajectory.trajectory import Trajectory

__all__ = ["principal_surface"]

_MARGIN = 0.1  # beyond the run, as a share of its extent


def principal_surface(
    objective: Objective,
    trajectory: Trajectory,
    center: Centre = "last",
    *,
    along: int = 41,
    across: int = 41,
    reach: float = 1.2,
    keep: str | os.PathLike[str] | None = None,
    progress: bool | Progress | None = None,
) -> RunSurface:
    """Return the cost on `Plane.principal(trajectory)`, with the run's shadow and what is hidden.

    The run is projected on the plane; its cost is the true one, `run.off` tells how far off the
    plane each point is, and `explained` what share of the run's scatter each component has.
    A random walk in many dimensions gives a smooth curve in such a plane, too, and 61 % and 15 %
    (`thalweg.trajectory.principal.random_walk_shares`).

    Args:
        objective: The cost.
        trajectory: The run.
        center: `"last"` or `"mean"`, as for `Plane.principal`.
        along: Number of coordinates along the first component, over the extent of the run.
        across: Number of coordinates along the second one, an odd number.
        reach: Largest of these as a multiple of the largest second coordinate of the run.
        keep: A folder where points are kept as they are finished, as for `thalweg.profile`.
        progress: None for a progress bar on a terminal, False for none.

    Raises:
        TypeError: If the arguments are no objective or trajectory.
        ValueError: If `along`, `across` or `reach` are too small, a point is not finite, or the
            run is on one line.
        ParameterMismatchError: If the run belongs to another space.

    Example:
        >>> import torch
        >>> from thalweg import FunctionObjective
        >>> bowl = FunctionObjective(lambda t: t @ t, size=2)
        >>> bend = torch.tensor([[3.0, 0.0], [2.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
        >>> picture = principal_surface(bowl, Trajectory.from_points(bend))
        >>> picture.run.loss["train"], bool(picture.run.off.max() < 1e-12)
        (array([9., 5., 0.]), True)
    """
    expect_run(objective, trajectory, None)
    expect_across(across, reach)
    expect_along(along)
    objective.point(trajectory.points.read(0), "A point of the trajectory")
    clock = time.perf_counter()
    with progress_bar(progress) as report:
        found = principal_axes(trajectory, center)
        rule = rule_of(found, center)
        plane = Plane((found.centre, *found.axes), False, (center,), (found.buffers, {}, {}), rule)
        first, second = found.coordinates.T
        rows, columns = (
            _extent(first, along),
            symmetric(reach * float(np.abs(second).max()), across),
        )
        costs = RunCosts(objective, trajectory, keep, report)
        costs.total = along * across + len(trajectory)
        table = table_of(columns, rows)[:, ::-1]  # row by row: the first component is slow
        mesh = costs.at(plane, plane.weights(table))
        run = costs.of_run()
    loss, metrics = tables_of(mesh, (along, across))
    warn_non_finite(loss, stacklevel=2)
    return RunSurface(
        kind="principal",
        along=rows,
        across=columns,
        loss=loss,
        metrics=metrics,
        run=RunPoints(
            trajectory.step.astype(np.float64),
            first,
            second,
            found.off,
            *tables_of(run, (len(run),)),
        ),
        explained=found.explained,
        provenance=costs.provenance(
            {"kind": "plane of the principal components of a run", "center": center},
            time.perf_counter() - clock,
        ),
    )


def _extent(values: Array, count: int) -> Array:
    """Return coordinates over the extent of a run, and a little beyond."""
    margin = _MARGIN * float(np.ptp(values))
    return np.linspace(values.min() - margin, values.max() + margin, count)
