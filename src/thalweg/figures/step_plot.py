"""The plot of steps from one point: the change of the cost, predicted and true."""

import numpy as np

from thalweg.figures.captions import (
    computed_words,
    data_words,
    joined,
    model_words,
    policy_words,
)
from thalweg.figures.elements import shown
from thalweg.figures.figure import Axis, Curve, Figure, Marker, Panel
from thalweg.results import Array, StepCurvature

__all__ = ["step_figure"]

_DENSE = 201  # points of the parabola
_DEEPEST = 1.6  # how far the straight line is drawn, in heights of the rest


def step_figure(step: StepCurvature) -> Figure:
    """Return the figure of steps from one point: true change against predictions."""
    furthest = float(step.step_size[-1]) if len(step.step_size) else 1.0
    dense = np.linspace(min(0.0, float(step.step_size[0])), furthest, _DENSE)
    second = -dense * step.slope + 0.5 * dense**2 * step.curvature
    actual = shown(step.actual, log=False)
    curves = (
        Curve(
            np.append(0.0, step.step_size) if dense[0] == 0 else step.step_size,
            np.append(0.0, actual) if dense[0] == 0 else actual,
            "true",
            dots=True,
        ),
        Curve(dense, second, "second order", rank=1),
        Curve(dense, _kept_low(dense, step, second, actual), "first order", rank=2),
    )
    optimal = step.optimal_step
    inside = dense[0] < optimal < furthest
    panel = Panel(
        x=Axis(f"step size ε (θ − ε d, d the {step.along})", limits=(float(dense[0]), furthest)),
        y=Axis("change of the cost J"),
        curves=curves,
        markers=(Marker(f"ε* = {optimal:.3g}", optimal),) if inside else (),
    )
    lost = int(np.sum(~np.isfinite(step.actual)))
    return Figure(
        title="A step: predicted and true change",
        caption=joined(
            data_words(step.provenance, {"train": step.actual}),
            model_words(step.provenance),
            policy_words(step.provenance),
            f"From J = {step.loss:.4g} with slope {step.slope:.4g} and curvature "
            f"{step.curvature:.4g} along d ({step.rayleigh:.4g} per squared length).",
            f"{_optimum_words(optimal)}{computed_words(step.provenance)}.",
            _eigen_words(step),
            f"{lost} of {len(step.actual)} true changes are not finite: gaps." if lost else "",
        ),
        rows=((panel,),),
        alt=_alt(step),
    )


def _kept_low(dense: Array, step: StepCurvature, second: Array, actual: Array) -> Array:
    """Return the straight prediction as far as it leaves the rest of the picture legible."""
    line = -dense * step.slope
    others = np.concatenate([second, actual[np.isfinite(actual)], [0.0]])
    low, high = others.min(), others.max()
    room = (_DEEPEST - 1) * (high - low)
    visible: Array = np.where((line >= low - room) & (line <= high + room), line, np.nan)
    return visible


def _optimum_words(optimal: float) -> str:
    """Say which step is predicted to be best."""
    if np.isinf(optimal):
        return "The curvature is not positive: every step is predicted to improve"
    return f"The prediction is lowest at ε* = {optimal:.3g}"


def _eigen_words(step: StepCurvature) -> str:
    """Say how much of the curvature the given eigenpairs account for."""
    if len(step.eigenvalues) == 0:
        return ""
    return (
        f"{len(step.eigenvalues)} eigenpairs hold {step.captured:.1%} of the squared length of d "
        f"and {step.explained:.4g} of its curvature."
    )


def _alt(step: StepCurvature) -> str:
    """Return the curves in words."""
    known = np.flatnonzero(np.isfinite(step.actual))
    if len(known) == 0:
        return "Line plot of the change of the cost over the step size. No finite value."
    first, last = known[0], known[-1]
    return "Line plot of the change of the cost over the step size. " + " ".join(
        f"At ε = {step.step_size[i]:.3g}: true {step.actual[i]:.4g}, predicted "
        f"{step.predicted[i]:.4g}."
        for i in sorted({first, last})
    )
