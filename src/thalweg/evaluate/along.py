"""Profiles and surfaces: the cost at the coordinates of a grid."""

import math
import os
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from thalweg.anchors import distance
from thalweg.evaluate.adaptive import refined_line, refined_table
from thalweg.evaluate.along_curvature import choose_along_curvature
from thalweg.evaluate.along_tangent import choose_along_tangent
from thalweg.evaluate.planning import Plan, choose, planned
from thalweg.evaluate.points import SectionPoints, made, rounding_error, table_of, tables_of
from thalweg.evaluate.subsample import Subsample, estimated
from thalweg.grids import Adaptive, Grid, Uniform, coordinates
from thalweg.objectives.objective import Objective, expect_objective
from thalweg.progress import Progress
from thalweg.results import Array, Ends, Profile, Surface
from thalweg.sections import Line, Plane, Section

__all__ = ["curvature_along", "plan", "profile", "surface"]


def profile(
    objective: Objective,
    section: Section,
    grid: Grid | Sequence[float] | Array = Uniform(0.0, 1.0, 51),  # noqa: B008 (frozen)
    *,
    progress: bool | Progress | None = None,
    keep: str | os.PathLike[str] | None = None,
    known: Profile | None = None,
    estimate: Subsample | None = None,
    slope: bool = False,
    curvature: bool = False,
) -> Profile:
    """Return the total cost along a one-dimensional section.

    J(θ(α)) is evaluated at every coordinate of the grid, over all of the data, on every
    split, with every metric (Goodfellow et al. 2015, section 2). The two ends of the section
    are evaluated as well where the grid leaves them out, for barriers are measured from them.
    Before that the objective is checked: two evaluations of one point must agree.

    Args:
        objective: The cost.
        section: A `Line`, `BezierCurve` or `Polyline` in the objective's space.
        grid: Coordinates: a grid, or numbers that ascend strictly.
        progress: None for a progress bar on a terminal, False for none.
        keep: A folder where points are kept as they are finished. The same sweep, and a finer
            one, goes on from there after an interruption; None keeps nothing.
        known: An earlier profile of the same cost along the same section: its points are part
            of the result and are not evaluated again, so that a profile can be refined.
        estimate: A `Subsample`, to estimate the cost rather than to evaluate it: then the result
            holds the loss of the first split alone, and says how sure it is. It may ask a
            question, and then stops as soon as that is answered.
        slope: Whether to return dJ/dα as well, for every split (see below).
        curvature: Whether to return dJ/dα and d²J/dα² as well, as `curvature_along` does.

    Returns:
        The profile. A loss that is not finite is a value in it, counted in a warning. With an
        `Adaptive` grid it says how good the values between its points are.

    With `slope=True` the result has `slope[split]`, the directional derivative ∇J(θ)·t along
    the tangent t = dθ/dα = Σ_j w_j'(α) P_j. Value and slope come from one pass in forward mode
    (dual numbers; Griewank and Walther 2008, chapter 3), which costs about three plain ones, or,
    where an operator of the model knows no forward mode, from a pass and a gradient in reverse
    mode; `provenance.objective["slope"]` says which. Statistics of batch normalisation and
    Monte-Carlo masks are those of the values: statistics that move with α count in the slope.
    What torch's autograd takes for constant (straight-through estimators, `.detach()`) is
    constant here. At a corner of a `Polyline` the slope is that of the piece that begins there.
    Interpolation makes use of slopes. An `Adaptive` grid then needs fewer points (7 to 14
    instead of 9 to 17), but each of them costs as much as three: that pays only where slopes
    are wanted anyway.

    Raises:
        ValueError: If the section has two dimensions, or the grid is none; if derivatives are
            wanted with `batch_norm="recalibrate"` and an operator of the model has no rule for
            them.
        ParameterMismatchError: If the section belongs to another space.
        NonDeterministicObjectiveError: If two evaluations of one point disagree.
        OSError: If `keep` cannot be written to.
        RecordError: If the kept points are of another cost that only looks the same.

    Example:
        >>> from thalweg import FunctionObjective, Line, Plane
        >>> chain = FunctionObjective(lambda w: (1 - w[0] * w[1]) ** 2, size=2)
        >>> between = Line(torch.tensor([2.0, 0.5]), torch.tensor([0.5, 2.0]))
        >>> profile(chain, between, [0.0, 0.5, 1.0]).loss["train"]
        array([0.        , 0.31640625, 0.        ])
        >>> profile(chain, between, [0.25, 0.75], slope=True).slope["train"]
        array([ 0.94921875, -0.94921875])
    """
    expect_objective(objective)
    _expect_dimension(section, 1, "profile")
    on_section = np.isfinite(section.places)
    alpha, ends = _line_coordinates(section, grid)
    clock = time.perf_counter()
    where: dict[str, Any] = {
        "labels": tuple(n for n, on in zip(section.labels, on_section, strict=True) if on),
        "anchors": tuple(float(place) for place in section.places[on_section]),
        "length": section.length if isinstance(section, Line) else None,
    }
    if estimate is not None:
        _expect_estimable(estimate, keep, known, grid)
        _expect_no_slope(slope or curvature)
        loss, sure = estimated(objective, section, alpha, estimate, progress)
        _warn_non_finite(loss, [f"alpha = {a:.6g}" for a in alpha])
        return Profile(
            alpha=alpha,
            loss=loss,
            estimate=sure,
            provenance=made(objective, section, time.perf_counter() - clock),
            **where,
        )
    points = SectionPoints(objective, section, progress, keep, 2 if curvature else int(slope))
    if known is not None:
        points.learn(known)
        alpha = np.union1d(alpha, known.alpha)
    points(np.union1d(alpha, ends))
    interpolation = None
    if isinstance(grid, Adaptive):
        alpha, interpolation = refined_line(grid, points, alpha, _rounding(objective))
    at_grid, at_ends = points(alpha), points(ends)
    loss, metrics = tables_of(at_grid)
    _warn_non_finite(loss, [f"alpha = {a:.6g}" for a in alpha])
    names = list(at_grid[0].samples)
    facts = _facts(rounding_error(objective, section, alpha, at_grid))
    facts |= points.derivatives
    return Profile(
        alpha=alpha,
        loss=loss,
        metrics=metrics,
        ends=Ends(ends, *tables_of(at_ends)),
        samples={name: np.array([row.samples[name] for row in at_grid]).T for name in names},
        slope=_derivatives([row.slopes for row in at_grid]) if slope or curvature else {},
        curvature=_derivatives([row.curvatures for row in at_grid]) if curvature else {},
        speed=_speed(section, alpha) if curvature else np.empty(0),
        interpolation=interpolation,
        provenance=made(objective, section, time.perf_counter() - clock, facts),
        **where,
    )


def curvature_along(
    objective: Objective,
    section: Section,
    grid: Grid | Sequence[float] | Array = Uniform(0.0, 1.0, 51),  # noqa: B008 (frozen)
    *,
    progress: bool | Progress | None = None,
    keep: str | os.PathLike[str] | None = None,
    known: Profile | None = None,
) -> Profile:
    """Return the cost along a section with its first and second derivative, from one pass.

    With φ(α) = J(θ(α)), tangent t = dθ/dα and acceleration a = d²θ/dα², at every coordinate

        φ' = ∇J·t,        φ'' = tᵀ H t + ∇J·a,

    exactly, over all of the data, on every split. On a `Line` and on the pieces of a `Polyline`
    a = 0, so that φ'' is the curvature of J in the direction of the section, and
    φ''/‖t‖² its curvature per squared length, a weighted mean of the eigenvalues of H
    (`Profile.curvature_per_length`).

    It is short for `profile(..., curvature=True)`. Tensors that carry two derivatives go through
    the model (a Taylor series of second order; Griewank and Walther 2008, chapter 13), without a
    graph. The first layer's products are computed once an anchor where it is affine and fed by
    the data, so that on a perceptron a point costs about as much as a gradient does. Where an
    operator has no rule, or the two ways disagree on some examples, the gradient of every batch
    is differentiated once more along t, which costs about six;
    `provenance.objective["curvature"]` says which: `"Taylor pass"` or `"double backward"`.

    What autograd takes for constant is constant here: a piecewise linear network has no curvature
    where its units switch, although the mean of many examples bends there.

    Args:
        objective: The cost.
        section: A `Line`, `BezierCurve` or `Polyline` in the objective's space.
        grid: Coordinates: a grid, or numbers that ascend strictly.
        progress: None for a progress bar on a terminal, False for none.
        keep: A folder where points are kept as they are finished, as for `profile`.
        known: An earlier profile, as for `profile`; of use where it has curvatures.

    Returns:
        A profile with `slope`, `curvature` and `speed`.

    Raises:
        ValueError: As for `profile`; also if statistics are recomputed at every point
            (`batch_norm="recalibrate"`) and an operator has no rule.
        ParameterMismatchError: If the section belongs to another space.
        NonDeterministicObjectiveError: If two evaluations of one point disagree.

    Example:
        >>> from thalweg import FunctionObjective, Line
        >>> bowl = FunctionObjective(lambda t: t[0] ** 2 + 3 * t[1] ** 2, size=2)
        >>> line = Line(torch.tensor([1.0, 1.0]), torch.tensor([3.0, 1.0]))
        >>> along = curvature_along(bowl, line, [0.0, 0.5])
        >>> along.slope["train"], along.curvature["train"]
        (array([4., 8.]), array([8., 8.]))
        >>> along.curvature_per_length()  # the eigenvalue of that direction
        array([2., 2.])
    """
    return profile(
        objective, section, grid, progress=progress, keep=keep, known=known, curvature=True
    )


def surface(
    objective: Objective,
    plane: Section,
    x: Grid | Sequence[float] | Array = Uniform(-1.0, 1.0, 25),  # noqa: B008 (frozen)
    y: Grid | Sequence[float] | Array = Uniform(-1.0, 1.0, 25),  # noqa: B008 (frozen)
    *,
    progress: bool | Progress | None = None,
    keep: str | os.PathLike[str] | None = None,
    known: Surface | None = None,
    estimate: Subsample | None = None,
) -> Surface:
    """Return the total cost on a plane, `loss[split][i, j]` at `x[j], y[i]`.

    Args:
        objective: The cost.
        plane: A `Plane` in the objective's space.
        x: First coordinates: a grid, or numbers that ascend strictly.
        y: Second coordinates.
        progress: None for a progress bar on a terminal, False for none.
        keep: A folder where points are kept as they are finished, as for `profile`.
        known: An earlier surface of the same cost on the same plane, to be refined: its columns
            and rows are part of the result, and its points are not evaluated again.
        estimate: A `Subsample`, to estimate the cost, as for `profile`.

    Raises:
        ValueError: If the section is no plane, or a grid is none.
        ParameterMismatchError: If the plane belongs to another space.
        NonDeterministicObjectiveError: If two evaluations of one point disagree.
        OSError: If `keep` cannot be written to.
        RecordError: If the kept points are of another cost that only looks the same.

    Example:
        >>> from thalweg import FunctionObjective, Line, Plane
        >>> bowl = FunctionObjective(lambda t: t[0] ** 2 + 3 * t[1] ** 2, size=2)
        >>> o, u, v = torch.zeros(2), torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
        >>> surface(bowl, Plane.through(o, u, v), [0.0, 2.0], [-1.0, 0.0, 1.0]).loss["train"]
        array([[3., 7.],
               [0., 4.],
               [3., 7.]])
    """
    expect_objective(objective)
    _expect_dimension(plane, 2, "surface")
    xs, ys, places = _plane_coordinates(x, y)
    clock = time.perf_counter()
    interpolation, sure, facts = None, None, dict[str, Any]()
    loss: dict[str, Array]
    metrics: dict[str, dict[str, Array]] = {}
    if estimate is not None:
        _expect_estimable(estimate, keep, known, x, y)
        loss, sure = estimated(objective, plane, places, estimate, progress)
    else:
        points = SectionPoints(objective, plane, progress, keep)
        if known is not None:
            points.learn(known)
            xs, ys = np.union1d(xs, known.x), np.union1d(ys, known.y)
            places = table_of(xs, ys)
        if isinstance(x, Adaptive) and isinstance(y, Adaptive):

            def table(across: Array, up: Array) -> Array:
                values = next(iter(tables_of(points(table_of(across, up)))[0].values()))
                return values.reshape(len(up), len(across))

            found = refined_table(x, y, table, (xs, ys), _rounding(objective))
            xs, ys, interpolation = found
            places = table_of(xs, ys)
        elif isinstance(x, Adaptive) or isinstance(y, Adaptive):
            raise ValueError(
                "A surface is adaptive along both coordinates or along none; got one of each. "
                "Pass `Adaptive` for x and for y."
            )
        rows = points(places)
        loss, metrics = tables_of(rows)
        facts = _facts(rounding_error(objective, plane, places, rows))
    _warn_non_finite(loss, [f"({a:.6g}, {b:.6g})" for a, b in places])
    shape = len(ys), len(xs)
    anchors = plane.places
    return Surface(
        x=xs,
        y=ys,
        loss={split: values.reshape(shape) for split, values in loss.items()},
        metrics={m: {s: v.reshape(shape) for s, v in t.items()} for m, t in metrics.items()},
        labels=plane.labels[: len(anchors)],
        anchors=anchors,
        gram=plane.gram if isinstance(plane, Plane) else np.eye(2),
        interpolation=interpolation,
        estimate=sure,
        provenance=made(objective, plane, time.perf_counter() - clock, facts),
    )


def plan(
    objective: Objective,
    section: Section,
    x: Grid | Sequence[float] | Array | None = None,
    y: Grid | Sequence[float] | Array | None = None,
    *,
    slope: bool = False,
    curvature: bool = False,
) -> Plan:
    """Say what `profile` or `surface` is going to do with the same arguments, and do not do it.

    The model is looked into and the chosen strategy tried on a few examples, which takes a few
    passes over one batch; the time is estimated from that trial.

    Args:
        objective: The cost.
        section: A line or curve, or a plane.
        x: The grid; that of `profile` or `surface` by default.
        y: Second grid, for a plane.
        slope: Whether `profile` will be asked for slopes.
        curvature: Whether it will be asked for curvatures.

    Returns:
        Strategy, points, passes over the data, estimated time and memory, and the reasons.

    Example:
        >>> from thalweg import FunctionObjective, Line, Plane
        >>> chain = FunctionObjective(lambda w: (1 - w[0] * w[1]) ** 2, size=2)
        >>> between = Line(torch.tensor([2.0, 0.5]), torch.tensor([0.5, 2.0]))
        >>> plan(chain, between, Uniform(0, 1, 11)).points
        11
    """
    expect_objective(objective)
    if isinstance(section, Section) and section.dimension == 2 and not (slope or curvature):
        usual = Uniform(-1.0, 1.0, 25)
        points = _plane_coordinates(usual if x is None else x, usual if y is None else y)[2]
        weights = section.weights(points)
    else:
        _expect_dimension(section, 1, "profile")
        if y is not None:
            raise ValueError(
                f"A second grid belongs to a plane; the section is a {section.kind}. Leave `y` "
                "out, or pass a `Plane`."
            )
        grid = Uniform(0.0, 1.0, 51) if x is None else x
        places = np.union1d(*_line_coordinates(section, grid))
        weights = section.weights(places)
    if curvature:
        choice = choose_along_curvature(objective, section, section.anchors)
        weights = np.hstack([weights, section.slopes(places), section.accelerations(places)])
    elif slope:
        choice = choose_along_tangent(objective, section, section.anchors)
        weights = np.hstack([weights, section.slopes(places)])
    else:
        choice = choose(objective, section, section.anchors, weights)
    plan = planned(objective, choice, weights)
    placed = [grid.limit for grid in (x, y) if isinstance(grid, Adaptive)]
    return replace(plan, most=math.prod(placed)) if placed else plan


def _facts(error: Mapping[str, float]) -> dict[str, Any]:
    """Return what fewer bits in products cost, as facts for the provenance."""
    return {"precision_error": error} if error else {}


def _line_coordinates(
    section: Section, grid: Grid | Sequence[float] | Array
) -> tuple[Array, Array]:
    """Return the coordinates of the grid, and those of the two ends."""
    ends = section.places[[0, -1]]
    return _snapped(coordinates(grid), ends), ends


def _plane_coordinates(
    x: Grid | Sequence[float] | Array, y: Grid | Sequence[float] | Array
) -> tuple[Array, Array, Array]:
    """Return both coordinates, and the points of their table, shape (rows · columns, 2)."""
    xs, ys = coordinates(x), coordinates(y)
    return xs, ys, table_of(xs, ys)


def _rounding(objective: Objective) -> float:
    """Return the relative rounding error of a cost: that of its terms, whose sum is in float64."""
    return 4 * torch.finfo(objective.rounding).eps


def _expect_estimable(estimate: Any, keep: Any, known: Any, *grids: Any) -> None:
    """Raise for what an estimate cannot do: be kept, refined or placed as it goes."""
    if not isinstance(estimate, Subsample):
        raise TypeError(
            f"`estimate` is a `Subsample`; got {type(estimate).__name__}. Use "
            "`Subsample(2000, seed=0)`, or leave it out to evaluate exactly."
        )
    came = {
        "`keep`": keep is not None,
        "`known`": known is not None,
        "an adaptive grid": any(isinstance(grid, Adaptive) for grid in grids),
    }
    if any(came.values()):
        raise ValueError(
            "An estimate is made at the points of a fixed grid, and is neither kept nor refined; "
            f"got {' and '.join(name for name, there in came.items() if there)} with it. Leave "
            "that out, or evaluate exactly."
        )


def _expect_no_slope(slope: bool) -> None:
    """Raise for slopes of an estimate."""
    if slope:
        raise ValueError(
            "Slopes are exact: they are taken over all of the data; got `slope=True` or "
            "`curvature=True` with an estimate. Leave out one of the two."
        )


def _expect_dimension(section: Section, dimension: int, what: str) -> None:
    """Raise unless the section has the dimension that a function draws."""
    if not isinstance(section, Section) or section.dimension != dimension:
        came = section.kind if isinstance(section, Section) else type(section).__name__
        other = "a `Line`, `BezierCurve` or `Polyline`" if dimension == 1 else "a `Plane`"
        raise ValueError(
            f"A {what} needs a section of {dimension} dimension{'s' * (dimension > 1)}; got "
            f"{came}. Pass {other}."
        )


def _snapped(alpha: Array, ends: Array) -> Array:
    """Move coordinates that miss an end by rounding alone onto it.

    A grid such as −0.25 to 2 in steps of 0.05 meets 0 at 5.6e-17. Without this the end would be
    a second point beside it, and the slope between the two would be rounding error.
    """
    snapped = alpha.copy()
    for end in ends:
        snapped[np.abs(alpha - end) <= 1e-12 * max(1.0, float(np.abs(ends).max()))] = end
    return snapped if np.all(np.diff(snapped) > 0) else alpha


def _derivatives(rows: Sequence[Mapping[str, float]]) -> dict[str, Array]:
    """Turn slopes or curvatures into arrays by split."""
    return {split: np.array([row[split] for row in rows]) for split in rows[0]}


def _speed(section: Section, alpha: Array) -> Array:
    """Return ‖dθ/dα‖ at some coordinates, shape (n,).

    The derivatives v of the weights sum to zero, so that ‖Σ v_j P_j‖² = −½ Σ_ij v_i v_j d_ij² with
    the distances d of the anchors.
    """
    if isinstance(section, Line):
        return np.full(len(alpha), section.length)
    anchors = section.anchors
    squares = np.array([[distance(a, b) ** 2 for b in anchors] for a in anchors])
    rates = section.slopes(alpha)
    speed: Array = np.sqrt((-0.5 * ((rates @ squares) * rates).sum(axis=1)).clip(0))
    return speed


def _warn_non_finite(loss: dict[str, Array], places: Sequence[str]) -> None:
    """Count the points at which a loss is not finite in one warning."""
    for split, values in loss.items():
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            warnings.warn(
                f"The loss on {split!r} is not finite at {len(bad)} of {len(values)} points, the "
                f"first at {places[bad[0]]}; they are kept as gaps. Shorten the section or "
                "evaluate in float64. [non-finite-loss]",
                RuntimeWarning,
                stacklevel=_outside_package(),
            )


def _outside_package() -> int:
    """Return the stack level of the first caller outside this package."""
    frame, level = sys._getframe(1), 1
    package = __name__.rpartition(".")[0]
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(package):
        frame, level = frame.f_back, level + 1
    return level
