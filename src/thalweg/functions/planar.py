"""Costs of two variables, with critical points of every kind at a place of one's choice."""

import math
from collections.abc import Callable
from functools import partial

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from thalweg.objectives import FunctionObjective

__all__ = [
    "attractive_saddle",
    "bowl",
    "many_minima",
    "monkey_saddle",
    "quartic_bowl",
    "quartic_hill",
    "quartic_saddle",
    "saddle",
    "terraces",
]

# Value, gradient and Hessian of a function of x and y: one number, two, and (xx, xy, yy).
_Values = tuple[Tensor, tuple[Tensor, Tensor], tuple[Tensor, ...]]
_Jet = Callable[[Tensor, Tensor], _Values]

_ORIGIN = (0.0, 0.0)


def bowl(at: ArrayLike = _ORIGIN, turned: float = 0.0) -> FunctionObjective:
    """Return x² + 3y²: a minimum.

    Args:
        at: Where the minimum is.
        turned: Angle by which the axes are turned, in radians.

    Example:
        >>> bowl(at=(1.0, -2.0)).gradient([2.0, -1.0])
        tensor([2., 6.], dtype=torch.float64)
    """
    return _planar(_bowl, "x² + 3y²", at, turned)


def saddle(at: ArrayLike = _ORIGIN, turned: float = 0.0) -> FunctionObjective:
    """Return −x² + 3y²: a saddle. Arguments as for `bowl`."""
    return _planar(_saddle, "−x² + 3y²", at, turned)


def quartic_bowl(at: ArrayLike = _ORIGIN, turned: float = 0.0) -> FunctionObjective:
    """Return x² + y⁴: a minimum that the Hessian diag(2, 0) does not tell.

    Arguments as for `bowl`.
    """
    return _planar(_quartic_bowl, "x² + y⁴", at, turned)


def quartic_saddle(at: ArrayLike = _ORIGIN, turned: float = 0.0) -> FunctionObjective:
    """Return x² − y⁴: a saddle with the gradient and Hessian of the minimum of x² + y⁴.

    Arguments as for `bowl`.
    """
    return _planar(_quartic_saddle, "x² − y⁴", at, turned)


def quartic_hill(at: ArrayLike = _ORIGIN, turned: float = 0.0) -> FunctionObjective:
    """Return −x⁴ − y⁴: a maximum with a Hessian of zero. Arguments as for `bowl`."""
    return _planar(_quartic_hill, "−x⁴ − y⁴", at, turned)


def monkey_saddle(at: ArrayLike = _ORIGIN, turned: float = 0.0) -> FunctionObjective:
    """Return x³ − 3xy²: three ways down and three up, six changes of sign around the point.

    Arguments as for `bowl`.
    """
    return _planar(_monkey_saddle, "x³ − 3xy²", at, turned)


def attractive_saddle(at: ArrayLike = _ORIGIN, turned: float = 0.0) -> FunctionObjective:
    """Return x²/2 − y²/2 + y⁴/4: a saddle between minima at y = ±1, of cost −1/4.

    Descent from (1.5, 0.001) is drawn to the saddle along x and slow to leave it along y
    (Dauphin et al. 2014). Arguments as for `bowl`.
    """
    return _planar(_attractive_saddle, "x²/2 − y²/2 + y⁴/4", at, turned)


def many_minima() -> FunctionObjective:
    """Return 0.15 (x² + y²) + 0.35 sin 3x sin 3y + 0.2 cos 5x: many bad minima.

    A picture of the worry that descent ends in a local minimum.
    """
    return _planar(_many_minima, "many minima", _ORIGIN, 0.0)


def terraces() -> FunctionObjective:
    """Return −tanh 4(x+1) − tanh 4(x−1) + y²/2: steep falls joined by terraces.

    At (0, 0) the slope is 8 sech²(4) = 0.0107 and the curvature along it is 0: flat, and no
    critical point.
    """
    return _planar(_terraces, "terraces", _ORIGIN, 0.0)


# The formulas


def _planar(jet: _Jet, name: str, at: ArrayLike, turned: float) -> FunctionObjective:
    """Return f(Rᵀ(θ − at)) as an objective, for a function of x and y."""
    middle = torch.as_tensor(at, dtype=torch.float64)
    if tuple(middle.shape) != (2,):
        raise ValueError(
            f"`at` must hold the two coordinates of the critical point; got shape "
            f"{tuple(middle.shape)}. Pass for example at=(1.0, 2.0)."
        )
    cosine, sine = math.cos(turned), math.sin(turned)
    turn = torch.tensor([[cosine, -sine], [sine, cosine]], dtype=torch.float64)
    return FunctionObjective(
        partial(_planar_value, jet=jet, middle=middle, turn=turn),
        2,
        name=name,
        gradient=partial(_planar_gradient, jet=jet, middle=middle, turn=turn),
        hvp=partial(_planar_product, jet=jet, middle=middle, turn=turn),
    )


def _planar_value(theta: Tensor, jet: _Jet, middle: Tensor, turn: Tensor) -> Tensor:
    """Return f(Rᵀ(θ − at))."""
    x, y = turn.T @ (theta - middle)
    return jet(x, y)[0]


def _planar_gradient(theta: Tensor, jet: _Jet, middle: Tensor, turn: Tensor) -> Tensor:
    """Return R ∇f."""
    x, y = turn.T @ (theta - middle)
    return turn @ torch.stack(jet(x, y)[1])


def _planar_product(theta: Tensor, v: Tensor, jet: _Jet, middle: Tensor, turn: Tensor) -> Tensor:
    """Return R ∇²f Rᵀ v."""
    x, y = turn.T @ (theta - middle)
    xx, xy, yy = jet(x, y)[2]
    a, b = turn.T @ v
    return turn @ torch.stack([xx * a + xy * b, xy * a + yy * b])


def _bowl(x: Tensor, y: Tensor) -> _Values:
    """Return x² + 3y² with its derivatives."""
    return x**2 + 3 * y**2, (2 * x, 6 * y), (2 + 0 * x, 0 * x, 6 + 0 * x)


def _saddle(x: Tensor, y: Tensor) -> _Values:
    """Return −x² + 3y² with its derivatives."""
    return 3 * y**2 - x**2, (-2 * x, 6 * y), (-2 + 0 * x, 0 * x, 6 + 0 * x)


def _quartic_bowl(x: Tensor, y: Tensor) -> _Values:
    """Return x² + y⁴ with its derivatives."""
    return x**2 + y**4, (2 * x, 4 * y**3), (2 + 0 * x, 0 * x, 12 * y**2)


def _quartic_saddle(x: Tensor, y: Tensor) -> _Values:
    """Return x² − y⁴ with its derivatives."""
    return x**2 - y**4, (2 * x, -4 * y**3), (2 + 0 * x, 0 * x, -12 * y**2)


def _quartic_hill(x: Tensor, y: Tensor) -> _Values:
    """Return −x⁴ − y⁴ with its derivatives."""
    return -(x**4) - y**4, (-4 * x**3, -4 * y**3), (-12 * x**2, 0 * x, -12 * y**2)


def _monkey_saddle(x: Tensor, y: Tensor) -> _Values:
    """Return x³ − 3xy² with its derivatives."""
    return x**3 - 3 * x * y**2, (3 * x**2 - 3 * y**2, -6 * x * y), (6 * x, -6 * y, -6 * x)


def _attractive_saddle(x: Tensor, y: Tensor) -> _Values:
    """Return x²/2 − y²/2 + y⁴/4 with its derivatives."""
    return x**2 / 2 - y**2 / 2 + y**4 / 4, (x, y**3 - y), (1 + 0 * x, 0 * x, 3 * y**2 - 1)


def _many_minima(x: Tensor, y: Tensor) -> _Values:
    """Return the cost with many minima with its derivatives."""
    sx, cx, sy, cy = (3 * x).sin(), (3 * x).cos(), (3 * y).sin(), (3 * y).cos()
    return (
        0.15 * (x**2 + y**2) + 0.35 * sx * sy + 0.2 * (5 * x).cos(),
        (0.3 * x + 1.05 * cx * sy - (5 * x).sin(), 0.3 * y + 1.05 * sx * cy),
        (
            0.3 - 3.15 * sx * sy - 5 * (5 * x).cos(),
            3.15 * cx * cy,
            0.3 - 3.15 * sx * sy,
        ),
    )


def _terraces(x: Tensor, y: Tensor) -> _Values:
    """Return the terraces with their derivatives."""
    steps = (4 * (x + torch.tensor([1.0, -1.0], dtype=x.dtype))).tanh()
    # sech² = (1 − tanh)(1 + tanh) keeps its digits where it is small.
    slopes = (1 - steps) * (1 + steps)
    bend = 32 * (steps * slopes).sum()
    return y**2 / 2 - steps.sum(), (-4 * slopes.sum(), y), (bend, 0 * x, 1 + 0 * x)
