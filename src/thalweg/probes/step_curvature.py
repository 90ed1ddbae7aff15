"""Slope and curvature along a step: what it is predicted to gain, and what it gains."""

import time
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from thalweg.environment import provenance
from thalweg.objectives.curvature import curvature
from thalweg.objectives.objective import Objective, expect_objective
from thalweg.probes.rounding import change_rounding
from thalweg.results import Array, StepCurvature

__all__ = ["step_curvature"]

# Of ε*, where steps are not given: from nothing to where the prediction is back at zero, and on.
_SHARES = np.linspace(0.25, 2.5, 10)
# How far given eigenvectors may be from orthonormal.
_ORTHONORMAL = 1e-3


def step_curvature(
    objective: Objective,
    theta: Tensor | ArrayLike,
    direction: Tensor | ArrayLike | None = None,
    step_sizes: ArrayLike | None = None,
    *,
    multiples: ArrayLike | None = None,
    eigenpairs: tuple[ArrayLike | Tensor, ArrayLike | Tensor] | None = None,
) -> StepCurvature:
    """Return what steps θ − ε d are predicted to change in J to second order, and what they do.

    With gradient g and Hessian H over the whole first split,

        J(θ − ε d) − J(θ) ≈ −ε gᵀd + ½ ε² dᵀHd,        ε* = gᵀd/dᵀHd,

    where d = g unless a direction is given: then the first term is −ε gᵀg, and gᵀHg/gᵀg, a mean
    of the eigenvalues of H weighted by the squared cosines of g with their eigenvectors, says
    how much of it curvature takes back. Where dᵀHd ≤ 0 every step is predicted to improve, and
    ε* is infinite. It takes a gradient, one product with H, and a pass for every step size.

    Args:
        objective: J.
        theta: Where the step begins, shape (P,).
        direction: d, shape (P,); the gradient by default. The step is −ε d.
        step_sizes: ε, any number of them.
        multiples: Further step sizes as multiples of ε*, which are left out where it is
            infinite. By default, where no step sizes are given either, ten from ε*/4 to 5 ε*/2;
            where ε* is infinite these are multiples of abs(gᵀd/dᵀHd).
        eigenpairs: Eigenvalues of H, shape (k,), and orthonormal eigenvectors, shape (k, P):
            then the result says how much of dᵀHd each of them accounts for.

    Returns:
        The predictions, the true changes, and what rounding can have changed in these. A true
        change that is not finite is a value in it.

    Raises:
        ValueError: If a step size is not finite, or eigenvectors are not orthonormal.
        ParameterMismatchError: If θ or d is of another space.

    Source: Goodfellow, Bengio & Courville (2016), section 4.3.1, equations 4.8 to 4.10;
    Goodfellow (2015), slides of the Montreal deep learning summer school.

    Example:
        >>> from thalweg import FunctionObjective
        >>> bowl = FunctionObjective(lambda t: t[0] ** 2 + 3 * t[1] ** 2, size=2)
        >>> step = step_curvature(bowl, [1.0, 1.0], step_sizes=[0.1, 0.5])
        >>> step.slope, step.curvature, step.optimal_step
        (40.0, 224.0, 0.17857142857142858)
        >>> step.predicted.round(9), step.actual.round(9)
        (array([-2.88,  8.  ]), array([-2.88,  8.  ]))
    """
    expect_objective(objective)
    clock = time.perf_counter()
    point = objective.point(theta)
    at_point = curvature(objective, point)
    gradient = at_point.gradient
    along = gradient if direction is None else objective.point(direction, "direction")
    product = at_point.product(along)
    slope, bend = _dot(gradient, along), _dot(product, along)
    steps = _steps(step_sizes, multiples, slope, bend)
    here = at_point.value
    there = np.array([_value(objective, point, along, step) for step in steps])
    values, cosines = _decomposed(eigenpairs, along)
    return StepCurvature(
        step_size=steps,
        actual=there - here,
        rounding=change_rounding(objective, point, along, gradient, here, there, steps),
        loss=here,
        slope=slope,
        curvature=bend,
        squared_length=_dot(along, along),
        squared_gradient=_dot(gradient, gradient),
        along="gradient" if direction is None else "given direction",
        eigenvalues=values,
        cosines=cosines,
        provenance=_made(objective, at_point.method, time.perf_counter() - clock),
    )


def _dot(a: Tensor, b: Tensor) -> float:
    """Return aᵀb, summed in float64."""
    return float(a.double() @ b.double())


def _steps(
    given: ArrayLike | None, multiples: ArrayLike | None, slope: float, bend: float
) -> Array:
    """Return the step sizes, ascending."""
    unit = abs(slope / bend) if bend != 0 else 1.0
    unit = unit if np.isfinite(unit) and unit > 0 else 1.0
    if given is None and multiples is None:
        return _SHARES * unit
    steps, shares = (
        np.asarray([] if some is None else some, dtype=np.float64).reshape(-1)
        for some in (given, multiples)
    )
    if len(steps) + len(shares) == 0 or not np.isfinite(np.concatenate([steps, shares])).all():
        raise ValueError(
            "Step sizes and multiples are finite numbers, one at least; got "
            f"{steps.tolist()} and {shares.tolist()}. Leave out an infinite optimal step."
        )
    found: Array = np.sort(np.concatenate([steps, shares * unit if bend > 0 else []]))
    return found


def _value(objective: Objective, point: Tensor, along: Tensor, step: float) -> float:
    """Return J at the end of a step, NaN where the point itself overflows."""
    there = torch.sub(point, along, alpha=step)
    return objective.value(there) if bool(torch.isfinite(there).all()) else float("nan")


def _decomposed(eigenpairs: Any, along: Tensor) -> tuple[Array, Array]:
    """Return eigenvalues, and cosines of their eigenvectors with the direction."""
    if eigenpairs is None:
        return np.empty(0), np.empty(0)
    values = np.asarray(_plain(eigenpairs[0]), dtype=np.float64).reshape(-1)
    vectors = torch.as_tensor(_plain(eigenpairs[1]), dtype=torch.float64)
    if vectors.shape != (len(values), len(along)):
        raise ValueError(
            f"Eigenpairs are k values and vectors of shape (k, {len(along)}); got {len(values)} "
            f"values and vectors of shape {tuple(vectors.shape)}. Give one vector a row."
        )
    off = float((vectors @ vectors.T - torch.eye(len(values))).abs().max()) if len(values) else 0.0
    if not off <= _ORTHONORMAL:
        raise ValueError(
            f"Eigenvectors must be orthonormal within {_ORTHONORMAL:g}; their products are off by "
            f"{off:.3g}. Normalise them, and leave out what did not converge."
        )
    length = float(along.double().norm())
    cosines = (vectors @ along.double().cpu() / length).numpy() if length > 0 else 0 * values
    return values, cosines


def _plain(values: Any) -> Any:
    """Return a tensor on the CPU, and anything else as it is."""
    return values.detach().cpu() if isinstance(values, Tensor) else values


def _made(objective: Objective, method: str, seconds: float) -> Any:
    """Return what made a result."""
    facts = {**objective.describe(), "curvature": method}
    return provenance(objective.device, objective.dtype, seconds, objective=facts)
