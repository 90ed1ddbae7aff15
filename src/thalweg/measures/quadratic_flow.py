"""Gradient flow on a quadratic, in closed form: what a spectrum does to a run."""

import numpy as np
from numpy.typing import ArrayLike

from thalweg.results import Array

__all__ = ["flow_factor", "quadratic_flow"]


def flow_factor(eigenvalue: ArrayLike, time: ArrayLike) -> Array:
    """Return λ′(t) = (1 − e^(−λt))/λ: how far the flow gets along one eigenvector.

    It is t at λ = 0, tends to 1/λ (Newton's step) where λ > 0, and grows exponentially where
    λ < 0: the flow flees from saddles.

    Args:
        eigenvalue: λ, of any shape.
        time: t, of a shape that goes with it.

    Source: Goodfellow (2015), slides of the Montreal deep learning summer school.

    Example:
        >>> flow_factor([0.0, 2.0, -1.0], 3.0).round(4)
        array([ 3.    ,  0.4988, 19.0855])
    """
    rate, t = np.broadcast_arrays(*(np.asarray(v, dtype=np.float64) for v in (eigenvalue, time)))
    factor: Array = np.array(t)
    np.divide(-np.expm1(-rate * t), rate, out=factor, where=rate != 0)
    return factor


def quadratic_flow(
    hessian: ArrayLike, gradient: ArrayLike, start: ArrayLike, time: ArrayLike
) -> Array:
    """Return the points of gradient flow on J(θ) = J₀ + gᵀ(θ − θ₀) + ½ (θ − θ₀)ᵀ H (θ − θ₀).

    With H = Q Λ Qᵀ the solution of dθ/dt = −g − H (θ − θ₀) is

        θ(t) = θ₀ − Q diag(λ′_i(t)) Qᵀ g.

    Args:
        hessian: H, symmetric, shape (n, n).
        gradient: g at the start, shape (n,).
        start: θ₀, shape (n,).
        time: Times, shape (T,).

    Returns:
        Points, shape (T, n).

    Raises:
        ValueError: If H is not symmetric.

    Source: Goodfellow (2015), slides of the Montreal deep learning summer school.

    Example:
        >>> quadratic_flow([[2.0, 0.0], [0.0, -1.0]], [2.0, -0.1], [1.0, 0.1], [0.0, 1.0]).round(4)
        array([[1.    , 0.1   ],
               [0.1353, 0.2718]])
    """
    matrix = np.asarray(hessian, dtype=np.float64)
    if not np.allclose(matrix, matrix.T, rtol=1e-10, atol=1e-12):
        off = float(np.abs(matrix - matrix.T).max())
        raise ValueError(
            f"A Hessian is symmetric; the given matrix differs from its transpose by {off:.3g}. "
            "Pass (H + Hᵀ)/2."
        )
    values, vectors = np.linalg.eigh(matrix)
    factors = flow_factor(values, np.asarray(time, dtype=np.float64).reshape(-1, 1))
    moved = factors * (vectors.T @ np.asarray(gradient, dtype=np.float64))
    points: Array = np.asarray(start, dtype=np.float64) - moved @ vectors.T
    return points
