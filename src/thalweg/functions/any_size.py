"""Costs of any number of variables: quadratics, chains of factors, and a constant."""

from functools import partial

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from thalweg.objectives import FunctionObjective

__all__ = ["chain", "flat", "quadratic"]


def chain(depth: int) -> FunctionObjective:
    """Return J(w) = (1 − w₁ w₂ … w_n)², a deep linear network of one unit a layer.

    With P = Π w, P₋ᵢ the product without wᵢ, and P₋ᵢⱼ that without wᵢ and wⱼ (products, not
    quotients, so that zeros do no harm):

        ∂J/∂wᵢ = −2 (1 − P) P₋ᵢ,    Hᵢᵢ = 2 P₋ᵢ²,    Hᵢⱼ = 2 P₋ᵢ P₋ⱼ − 2 (1 − P) P₋ᵢⱼ.

    Its minima are all of Π w = 1. Its other critical points have two zero factors at least; the
    origin is a saddle, with a Hessian of zero from depth 3 on.

    Args:
        depth: n.

    Example:
        >>> chain(3).hvp([0.0, 0.0, 1.0], [1.0, 0.0, 0.0])
        tensor([ 0., -2.,  0.], dtype=torch.float64)

    Source: Goodfellow, Vinyals and Saxe 2015, section 5.
    """
    return FunctionObjective(
        _chain,
        depth,
        name=f"(1 − Π w)², depth {depth}",
        gradient=_chain_gradient,
        hvp=_chain_product,
    )


def flat(size: int = 2) -> FunctionObjective:
    """Return the cost that is 0 everywhere: every point is critical, and degenerate."""
    return FunctionObjective(
        _flat, size, name="0", gradient=torch.zeros_like, hvp=lambda theta, v: torch.zeros_like(v)
    )


def quadratic(
    hessian: ArrayLike, centre: ArrayLike | None = None, *, lowest: float = 0.0
) -> FunctionObjective:
    """Return J(θ) = ½ (θ − c)ᵀ H (θ − c) + lowest.

    Args:
        hessian: H, symmetric, shape (P, P); or its eigenvalues, shape (P,), for a diagonal H,
            which takes no (P, P) matrix.
        centre: c, shape (P,); the origin by default.
        lowest: J(c): the lowest value where H has no negative eigenvalue.

    Raises:
        ValueError: If H is not symmetric, or shapes do not fit.

    Example:
        >>> quadratic([2.0, -6.0], centre=[1.0, 1.0]).gradient([2.0, 0.0])
        tensor([2., 6.], dtype=torch.float64)
    """
    matrix = torch.as_tensor(hessian, dtype=torch.float64)
    size = len(matrix) if matrix.ndim else 0
    if tuple(matrix.shape) not in ((size,), (size, size)) or size == 0:
        raise ValueError(
            f"`hessian` must have shape (P, P) or, for eigenvalues, (P,); got "
            f"{tuple(matrix.shape)}. Pass a symmetric matrix or its eigenvalues."
        )
    if matrix.ndim == 2:
        skew = float((matrix - matrix.T).abs().max())
        if not skew <= 1e-10 * float(matrix.abs().max()):
            raise ValueError(
                f"`hessian` must be symmetric; it differs from its transpose by {skew:.3g}. Pass "
                "(H + Hᵀ)/2."
            )
        matrix = (matrix + matrix.T) / 2
    middle = (
        torch.zeros(size, dtype=torch.float64)
        if centre is None
        else torch.as_tensor(centre, dtype=torch.float64)
    )
    if tuple(middle.shape) != (size,):
        raise ValueError(
            f"`centre` must have shape ({size},), as many entries as `hessian` has rows; got "
            f"{tuple(middle.shape)}."
        )
    parts = {"matrix": matrix, "middle": middle}
    return FunctionObjective(
        partial(_quadratic, lowest=lowest, **parts),
        size,
        name="quadratic",
        gradient=partial(_quadratic_gradient, **parts),
        hvp=partial(_quadratic_product, matrix=matrix),
    )


# The formulas


def _chain(w: Tensor) -> Tensor:
    """Return (1 − Π w)²."""
    return (1 - w.prod()) ** 2


def _before_and_after(w: Tensor) -> tuple[Tensor, Tensor]:
    """Return for each factor the product of those before it, and of those after it."""
    one = w.new_ones(1)
    before = torch.cat([one, w[:-1].cumprod(0)])
    after = torch.cat([w[1:].flip(0).cumprod(0).flip(0), one])
    return before, after


def _chain_gradient(w: Tensor) -> Tensor:
    """Return −2 (1 − P) P₋ᵢ."""
    before, after = _before_and_after(w)
    return -2 * (1 - w.prod()) * before * after


def _chain_product(w: Tensor, v: Tensor) -> Tensor:
    """Return H v in depth steps: Σⱼ P₋ᵢⱼ vⱼ is the derivative of P₋ᵢ along v."""
    before, after = _before_and_after(w)
    # Derivatives of the products before and after each factor along v, by the product rule.
    before_v, after_v = torch.zeros_like(w), torch.zeros_like(w)
    for i in range(1, len(w)):
        before_v[i] = before_v[i - 1] * w[i - 1] + before[i - 1] * v[i - 1]
        after_v[-1 - i] = after_v[-i] * w[-i] + after[-i] * v[-i]
    without = before * after
    without_v = before_v * after + before * after_v
    return 2 * without * (without @ v) - 2 * (1 - w.prod()) * without_v


def _flat(theta: Tensor) -> Tensor:
    """Return 0, whatever θ."""
    return 0 * theta.sum()


def _quadratic(theta: Tensor, matrix: Tensor, middle: Tensor, lowest: float) -> Tensor:
    """Return ½ (θ − c)ᵀ H (θ − c) + lowest."""
    away = theta - middle
    return away @ _quadratic_product(theta, away, matrix) / 2 + lowest


def _quadratic_gradient(theta: Tensor, matrix: Tensor, middle: Tensor) -> Tensor:
    """Return H (θ − c)."""
    return _quadratic_product(theta, theta - middle, matrix)


def _quadratic_product(theta: Tensor, v: Tensor, matrix: Tensor) -> Tensor:
    """Return H v."""
    return matrix * v if matrix.ndim == 1 else matrix @ v
