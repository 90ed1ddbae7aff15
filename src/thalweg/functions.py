"""Costs in closed form, with known gradients, Hessians and critical points.

Each is a `FunctionObjective` whose gradient and Hessian are formulas, so that what is computed
can be compared with what is known. Functions of two variables take `at` and `turned`: with the
rotation R by that angle they are f(Rᵀ(θ − at)), so that their critical point is at `at`.

| function | cost | its critical point |
| --- | --- | --- |
| `bowl` | x² + 3y² | minimum |
| `saddle` | −x² + 3y² | saddle |
| `quartic_bowl` | x² + y⁴ | minimum; the Hessian is degenerate |
| `quartic_saddle` | x² − y⁴ | saddle; gradient and Hessian are those of the row above |
| `quartic_hill` | −x⁴ − y⁴ | maximum; the Hessian is zero |
| `monkey_saddle` | x³ − 3xy² | saddle with three ways down; the Hessian is zero |
| `flat` | 0 | degenerate |
| `quadratic` | ½ (θ − c)ᵀ H (θ − c) | by the signs of the eigenvalues |
| `chain` | (1 − Π w)² | saddles where two factors vanish; minima where Π w = 1 |
| `separable_logistic` | mean of log(1 + e^(−xᵢ·θ)) | none: the infimum 0 is not attained |
| `gaussian_precision` | ½ (β s² − ln β + ln 2π) | minimum at β = 1/s²; none for s = 0 |
| `mountain` | 1/(1 + x²) − 1/(1 + e^(−3(x−1))) | one maximum; none in two dimensions |
| `many_minima` | 0.15 ‖θ‖² + 0.35 sin 3x sin 3y + 0.2 cos 5x | many |
| `attractive_saddle` | x²/2 − y²/2 + y⁴/4 | saddle between two minima |
| `terraces` | −tanh 4(x+1) − tanh 4(x−1) + y²/2 | none: terraces of small slope |

Sources: Goodfellow, Vinyals & Saxe (2015), section 5 for `chain`; Goodfellow, Bengio & Courville
(2016), chapters 4 and 8, for critical points and for costs that have none; the pictures of
Dauphin et al. (2014) for `attractive_saddle`.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn.functional import softplus

from thalweg.objectives import FunctionObjective

__all__ = [
    "attractive_saddle",
    "bowl",
    "chain",
    "flat",
    "gaussian_precision",
    "many_minima",
    "monkey_saddle",
    "mountain",
    "quadratic",
    "quartic_bowl",
    "quartic_hill",
    "quartic_saddle",
    "saddle",
    "separable_logistic",
    "terraces",
]

# Value, gradient and Hessian of a function of x and y: one number, two, and (xx, xy, yy).
_Values = tuple[Tensor, tuple[Tensor, Tensor], tuple[Tensor, ...]]
_Jet = Callable[[Tensor, Tensor], _Values]

_ORIGIN = (0.0, 0.0)


# Critical points of every kind


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


def flat(size: int = 2) -> FunctionObjective:
    """Return the cost that is 0 everywhere: every point is critical, and degenerate."""
    return FunctionObjective(
        _flat, size, name="0", gradient=torch.zeros_like, hvp=lambda theta, v: torch.zeros_like(v)
    )


# What optimisers meet


def many_minima() -> FunctionObjective:
    """Return 0.15 (x² + y²) + 0.35 sin 3x sin 3y + 0.2 cos 5x: many bad minima.

    A picture of the worry that descent ends in a local minimum.
    """
    return _planar(_many_minima, "many minima", _ORIGIN, 0.0)


def attractive_saddle(at: ArrayLike = _ORIGIN, turned: float = 0.0) -> FunctionObjective:
    """Return x²/2 − y²/2 + y⁴/4: a saddle between minima at y = ±1, of cost −1/4.

    Descent from (1.5, 0.001) is drawn to the saddle along x and slow to leave it along y
    (Dauphin et al. 2014). Arguments as for `bowl`.
    """
    return _planar(_attractive_saddle, "x²/2 − y²/2 + y⁴/4", at, turned)


def terraces() -> FunctionObjective:
    """Return −tanh 4(x+1) − tanh 4(x−1) + y²/2: steep falls joined by terraces.

    At (0, 0) the slope is 8 sech²(4) = 0.0107 and the curvature along it is 0: flat, and no
    critical point.
    """
    return _planar(_terraces, "terraces", _ORIGIN, 0.0)


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


# Any dimension


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
    parts = {"jet": jet, "middle": middle, "turn": turn}
    return FunctionObjective(
        partial(_planar_value, **parts),
        2,
        name=name,
        gradient=partial(_planar_gradient, **parts),
        hvp=partial(_planar_product, **parts),
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


def _attractive_saddle(x: Tensor, y: Tensor) -> _Values:
    """Return x²/2 − y²/2 + y⁴/4 with its derivatives."""
    return x**2 / 2 - y**2 / 2 + y**4 / 4, (x, y**3 - y), (1 + 0 * x, 0 * x, 3 * y**2 - 1)


def _terraces(x: Tensor, y: Tensor) -> _Values:
    """Return the terraces with their derivatives."""
    steps = [(4 * (x + shift)).tanh() for shift in (1, -1)]
    # sech² = (1 − tanh)(1 + tanh) keeps its digits where it is small.
    slopes = [(1 - t) * (1 + t) for t in steps]
    return (
        y**2 / 2 - sum(steps),
        (-4 * sum(slopes), y),
        (32 * sum(t * s for t, s in zip(steps, slopes, strict=True)), 0 * x, 1 + 0 * x),
    )


def _flat(theta: Tensor) -> Tensor:
    """Return 0, whatever θ."""
    return 0 * theta.sum()


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
