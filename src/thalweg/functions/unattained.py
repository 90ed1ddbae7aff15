"""Costs that descent lowers for ever: there is no minimum to arrive at."""

import math
from functools import partial

import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn.functional import softplus

from thalweg.objectives import FunctionObjective

__all__ = ["gaussian_precision", "mountain", "separable_logistic"]


def gaussian_precision(residual: float = 0.0) -> FunctionObjective:
    """Return the cost of a Gaussian's precision, J(β) = ½ (β s² − ln β + ln 2π).

    With a perfect fit, s = 0, it falls without bound as β grows, and there is no critical point;
    otherwise its minimum is at β = 1/s² (Goodfellow et al. 2016, section 8.2). It is NaN for
    negative β.

    Args:
        residual: s, the root of the mean squared residual.

    Example:
        >>> gaussian_precision(residual=0.5).gradient([4.0])
        tensor([0.], dtype=torch.float64)
    """
    square = float(residual) ** 2
    return FunctionObjective(
        lambda b: (b[0] * square - b[0].log() + math.log(2 * math.pi)) / 2,
        1,
        name="Gaussian precision",
        gradient=lambda b: (square - 1 / b) / 2,
        hvp=lambda b, v: v / b**2 / 2,
    )


def mountain(size: int = 1) -> FunctionObjective:
    """Return h(x) = 1/(1 + x²) − 1/(1 + exp(−3(x − 1))), or h(x) + ½ e^(−y) in two dimensions.

    Its one critical point is the top at x = −0.058. To the left it falls to 0, to the right to
    −1: descent from the wrong side goes on for ever without finding a low cost. In two
    dimensions it has no critical point at all and is bounded below (after Goodfellow et al.
    2016, Fig. 8.4).

    Args:
        size: 1 or 2.

    Example:
        >>> round(mountain().value([-0.058]), 3)
        0.956
    """
    if size not in (1, 2):
        raise ValueError(f"A mountain has `size` 1 or 2; got {size}. Choose one of them.")
    return FunctionObjective(
        _mountain,
        size,
        name="mountain",
        gradient=_mountain_gradient,
        hvp=lambda theta, v: _mountain_curvature(theta) * v,
    )


def separable_logistic(margins: ArrayLike = ((1.0, 0.5), (0.5, 1.0))) -> FunctionObjective:
    """Return the logistic cost of data that a line separates: its infimum 0 is not attained.

    J(θ) = mean of log(1 + exp(−xᵢ·θ)), where xᵢ is the input of example i times its label ±1.
    Where all xᵢ·θ are positive the cost, its gradient and its Hessian all decay like
    exp(−min xᵢ·θ): the gradient is as small as one likes, at points that are not critical.

    Args:
        margins: The signed inputs, shape (examples, P).

    Example:
        >>> far = separable_logistic().gradient([20.0, 20.0])
        >>> bool(0 < far.norm() < 1e-12)
        True
    """
    rows = torch.as_tensor(margins, dtype=torch.float64)
    if rows.ndim != 2 or 0 in rows.shape:
        raise ValueError(
            f"`margins` must have shape (examples, P); got {tuple(rows.shape)}. Give one row of "
            "signed inputs for each example."
        )
    parts = {"rows": rows}
    return FunctionObjective(
        partial(_logistic, **parts),
        rows.shape[1],
        name="separable logistic",
        gradient=partial(_logistic_gradient, **parts),
        hvp=partial(_logistic_product, **parts),
    )


# The formulas


def _mountain(theta: Tensor) -> Tensor:
    """Return h(x), plus ½ e^(−y) in two dimensions."""
    height = 1 / (1 + theta[0] ** 2) - torch.sigmoid(3 * (theta[0] - 1))
    return height if len(theta) == 1 else height + (-theta[1]).exp() / 2


def _mountain_gradient(theta: Tensor) -> Tensor:
    """Return the slopes of the mountain."""
    x = theta[0]
    step = torch.sigmoid(3 * (x - 1)) * torch.sigmoid(-3 * (x - 1))
    slope = -2 * x / (1 + x**2) ** 2 - 3 * step
    return torch.stack([slope, *(-(-theta[1:]).exp() / 2)])


def _mountain_curvature(theta: Tensor) -> Tensor:
    """Return the diagonal of the Hessian of the mountain, which is all of it."""
    x = theta[0]
    up, down = torch.sigmoid(3 * (x - 1)), torch.sigmoid(-3 * (x - 1))
    bend = (6 * x**2 - 2) / (1 + x**2) ** 3 - 9 * up * down * (down - up)
    return torch.stack([bend, *((-theta[1:]).exp() / 2)])


def _logistic(theta: Tensor, rows: Tensor) -> Tensor:
    """Return the mean of log(1 + exp(−xᵢ·θ))."""
    # `threshold` keeps softplus exact for all margins.
    return softplus(-(rows @ theta), threshold=1e4).mean()


def _logistic_gradient(theta: Tensor, rows: Tensor) -> Tensor:
    """Return −mean of σ(−xᵢ·θ) xᵢ."""
    return -torch.sigmoid(-(rows @ theta)) @ rows / len(rows)


def _logistic_product(theta: Tensor, v: Tensor, rows: Tensor) -> Tensor:
    """Return the mean of σ(m) σ(−m) (xᵢ·v) xᵢ with the margins m = xᵢ·θ."""
    margins = rows @ theta
    return (torch.sigmoid(margins) * torch.sigmoid(-margins) * (rows @ v)) @ rows / len(rows)
