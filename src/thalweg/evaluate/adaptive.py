"""Adaptive sections: evaluating where the curve bends."""

from collections.abc import Callable, Sequence

import numpy as np

from thalweg.grids import Adaptive
from thalweg.interpolation import fit_curve, fit_sheet
from thalweg.objectives.objective import Evaluation
from thalweg.results import Array, Interpolation

__all__ = ["refined_line", "refined_table"]


def refined_line(
    grid: Adaptive,
    evaluate: Callable[[Array], Sequence[Evaluation]],
    known: Array | None = None,
    rounding: float = 0.0,
) -> tuple[Array, Interpolation]:
    """Choose coordinates on a line until the interpolant of the cost is good enough.

    Args:
        grid: What is wanted.
        evaluate: Returns the evaluations at ascending coordinates. What it has been asked for
            before it need not compute again. Slopes are made use of where they have any.
        known: Coordinates that are evaluated in any case, such as those of an earlier result.
        rounding: Relative rounding error of the cost; nothing smaller is looked for.

    Returns:
        All coordinates, and how good the values between them are.
    """
    alpha = grid.coordinates() if known is None else np.union1d(grid.coordinates(), known)
    while True:
        rows = evaluate(alpha)
        curve = fit_curve(alpha, _first(rows), _first_slopes(rows))
        widths = np.diff(alpha)
        allowed = max(grid.tolerance * _range(curve.y), rounding * _size(curve.y))
        # Next to a value that is not finite nothing can be expected: such intervals are halved
        # until they are as narrow as any, and no further.
        unknown = ~np.isfinite(curve.expected)
        wanting = np.where(unknown, False, curve.expected > allowed)
        wanting |= (widths > grid.widest * (1 + 1e-12)) | (unknown & (widths > grid.widest / 4))
        room = grid.limit - len(alpha)
        if not wanting.any() or room <= 0:
            break
        urgent = np.where(wanting, np.where(unknown, np.inf, curve.expected), -1.0)
        chosen = np.argsort(-urgent, kind="stable")[: min(room, int(wanting.sum()))]
        alpha = np.union1d(alpha, (alpha[chosen] + alpha[chosen + 1]) / 2)
    return alpha, Interpolation(
        method=curve.method,
        tolerance=grid.tolerance,
        expected=_most(curve.expected),
        bound=curve.bound,
        resolution=float(widths.max()),
        converged=not wanting.any(),
    )


def refined_table(
    x: Adaptive,
    y: Adaptive,
    evaluate: Callable[[Array, Array], Array],
    known: tuple[Array, Array] | None = None,
    rounding: float = 0.0,
) -> tuple[Array, Array, Interpolation]:
    """Choose columns and rows of a table until the interpolant of the cost is good enough.

    Whole columns are added where the cost bends along x, whole rows where it bends along y.

    Args:
        x: What is wanted along x.
        y: What is wanted along y; the smaller of the two tolerances holds.
        evaluate: Returns the cost on a table of coordinates, shape (rows, columns).
        known: Columns and rows that are evaluated in any case, such as those of an earlier
            result.
        rounding: Relative rounding error of the cost; nothing smaller is looked for.

    Returns:
        Both coordinates, and how good the values between them are.
    """
    tolerance = min(x.tolerance, y.tolerance)
    axes = [x.coordinates(), y.coordinates()]
    if known is not None:
        axes = [np.union1d(own, others) for own, others in zip(axes, known, strict=True)]
    while True:
        sheet = fit_sheet(axes[0], axes[1], evaluate(axes[0], axes[1]))
        # What the two directions add to the error of a cell has no common sign.
        allowed = max(tolerance * _range(sheet.z), rounding * _size(sheet.z)) / np.sqrt(2)
        added = False
        wanting_any = False
        for axis, (grid, expected) in enumerate(((x, sheet.expected_x), (y, sheet.expected_y))):
            nodes = axes[axis]
            widths = np.diff(nodes)
            unknown = ~np.isfinite(expected)
            wanting = np.where(unknown, widths > grid.widest / 4, expected > allowed)
            wanting |= widths > grid.widest * (1 + 1e-12)
            wanting_any |= bool(wanting.any())
            room = grid.limit - len(nodes)
            if wanting.any() and room > 0:
                urgent = np.where(wanting, np.where(unknown, np.inf, expected), -1.0)
                chosen = np.argsort(-urgent, kind="stable")[: min(room, int(wanting.sum()))]
                axes[axis] = np.union1d(nodes, (nodes[chosen] + nodes[chosen + 1]) / 2)
                added = True
        if not added:
            break
    together = float(np.hypot(_most(sheet.expected_x), _most(sheet.expected_y)))
    return (
        axes[0],
        axes[1],
        Interpolation(
            method=sheet.method,
            tolerance=tolerance,
            expected=together,
            bound=sheet.bound,
            resolution=float(max(np.diff(nodes).max() for nodes in axes)),
            converged=not wanting_any,
        ),
    )


def _first(rows: Sequence[Evaluation]) -> Array:
    """Return the losses on the first split."""
    return np.array([next(iter(row.loss.values())) for row in rows])


def _first_slopes(rows: Sequence[Evaluation]) -> Array | None:
    """Return the slopes of the losses on the first split, or None where they are not known."""
    split = next(iter(rows[0].loss))
    if not all(split in row.slopes for row in rows):
        return None
    return np.array([row.slopes[split] for row in rows])


def _range(values: Array) -> float:
    """Return maximum minus minimum of what is finite."""
    finite = values[np.isfinite(values)]
    return float(np.ptp(finite)) if len(finite) else 0.0


def _size(values: Array) -> float:
    """Return the largest absolute value of what is finite."""
    return float(np.abs(values[np.isfinite(values)]).max(initial=0.0))


def _most(errors: Array) -> float:
    """Return the largest of some errors that are known; infinity where none is."""
    finite = errors[np.isfinite(errors)]
    return float(finite.max()) if len(finite) else float("inf")
