"""Arithmetic of Taylor polynomials of second order, on tensors.

A number that moves with one coordinate h is known by its value, first and second derivative at
h = 0. Of f(x) and x·y these are

    f(x)  = (f, f′ x₁, f″ x₁² + f′ x₂),      x·y = (x₀y₀, x₁y₀ + x₀y₁, x₂y₀ + 2 x₁y₁ + x₀y₂),

and the second holds for every product that is linear in both factors: of matrices, by a kernel.
So one pass over an expression gives its value and two derivatives, exactly (Griewank and Walther
2008, chapter 13). A derivative that is zero everywhere is None, and costs nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "Product",
    "Taylor",
    "composed",
    "constant",
    "log_softmax",
    "normalised",
    "plus",
    "product",
    "selected",
    "softmax",
    "square",
    "times",
    "total",
    "weighted",
]

Part = Tensor | None
Product = Callable[[Any, Any], Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Taylor:
    """A tensor and its first and second derivative, of one shape; None where they are zero."""

    value: Tensor
    first: Part = None
    second: Part = None

    def each(self, linear: Callable[[Tensor], Tensor]) -> "Taylor":
        """Apply a linear function."""
        return Taylor(
            linear(self.value),
            None if self.first is None else linear(self.first),
            None if self.second is None else linear(self.second),
        )


def constant(value: Any) -> Taylor:
    """Return what does not move as a polynomial; one stays as it is."""
    return value if isinstance(value, Taylor) else Taylor(value)


def _sum(*terms: Part) -> Part:
    """Return the sum of those terms that are not zero."""
    found: Part = None
    for term in terms:
        if term is not None:
            found = term if found is None else found + term
    return found


def _like(part: Part, value: Tensor) -> Part:
    """Return a derivative in the shape and type of its value."""
    return None if part is None else part.to(value.dtype).expand(value.shape)


def plus(x: Any, y: Any, scale: Any = 1) -> Taylor:
    """Return x + scale·y, for polynomials, tensors or numbers."""
    x, y = constant(x), constant(y)
    value = x.value + (y.value if scale == 1 else scale * y.value)
    parts = []
    for a, b in ((x.first, y.first), (x.second, y.second)):
        scaled = b if b is None or scale == 1 else scale * b
        parts.append(_like(_sum(a, scaled), value))
    return Taylor(value, *parts)


def product(multiply: Product, x: Any, y: Any) -> Taylor:
    """Return a product that is linear in both of its factors."""
    x, y = constant(x), constant(y)
    value = multiply(x.value, y.value)

    def of(a: Part, b: Part) -> Part:
        return None if a is None or b is None else multiply(a, b)

    first = _sum(of(x.first, y.value), of(x.value, y.first))
    second, cross = _sum(of(x.second, y.value), of(x.value, y.second)), of(x.first, y.first)
    if cross is not None:
        second = 2 * cross if second is None else torch.add(second, cross, alpha=2)
    return Taylor(value, _like(first, value), _like(second, value))


def times(x: Any, y: Any) -> Taylor:
    """Return the product entry by entry."""
    return product(lambda a, b: a * b, x, y)


def square(x: Taylor) -> Taylor:
    """Return x²."""
    return composed(x, x.value.square(), 2 * x.value, torch.full_like(x.value, 2.0))


def composed(x: Taylor, value: Tensor, slope: Tensor, bend: Part = None) -> Taylor:
    """Return f(x), entry by entry, from f, f′ and f″ at the value of x.

    Args:
        x: Where f is taken.
        value: f.
        slope: f′.
        bend: f″; None where it is zero everywhere.
    """
    first = None if x.first is None else slope * x.first
    second = None if x.second is None else slope * x.second
    if bend is not None and x.first is not None:
        second = _sum(second, bend * x.first.square())
    return Taylor(value, first, second)


def selected(x: Taylor, value: Tensor, chosen: Tensor) -> Taylor:
    """Return a function that passes some entries on and is flat at the others.

    Args:
        x: Its argument.
        value: Its value.
        chosen: Where it is the identity, as booleans; or its slope.
    """
    return x.each(lambda part: part * chosen) if value is None else composed(x, value, chosen)


def total(x: Taylor, dims: Sequence[int], keep: bool = True) -> Taylor:
    """Return the sum over some axes."""
    return x.each(lambda part: part.sum(tuple(dims), keepdim=keep))


def weighted(x: Taylor, weight: Any) -> Taylor:
    """Return x with its entries multiplied by a constant, or as it is where that is None."""
    return x if weight is None else times(x, weight)


def log_softmax(x: Taylor, dim: int, given: Tensor | None = None) -> Taylor:
    """Return x − log Σ exp x along an axis.

    With the probabilities p that it stands for, the normaliser moves by the mean of x₁ under p,
    and its second derivative is the mean of x₂ plus the variance of x₁.

    Args:
        x: Scores.
        dim: The axis.
        given: The value, where it is known.
    """
    value = torch.log_softmax(x.value, dim) if given is None else given
    if x.first is None and x.second is None:
        return Taylor(value)
    shares = value.exp()

    def mean(part: Tensor) -> Tensor:
        return (shares * part).sum(dim, keepdim=True)

    first = None if x.first is None else x.first - mean(x.first)
    second = None if x.second is None else x.second - mean(x.second)
    if first is not None:
        spread = mean(first.square())
        second = -spread.expand(value.shape) if second is None else second - spread
    return Taylor(value, first, second)


def softmax(x: Taylor, dim: int, value: Tensor) -> Taylor:
    """Return exp x / Σ exp x along an axis, whose value is known."""
    # Entries that are masked by −∞ have no share, and no logarithm.
    logs = log_softmax(x, dim, torch.log_softmax(x.value, dim).nan_to_num(0.0, neginf=-torch.inf))
    first = None if logs.first is None else value * logs.first
    second = None if logs.second is None else value * logs.second
    if logs.first is not None:
        second = _sum(second, value * logs.first.square())
    return Taylor(value, first, second)


def _inverse_root(x: Taylor) -> Taylor:
    """Return x^(−1/2)."""
    root = x.value.rsqrt()
    return composed(x, root, -0.5 * root**3, 0.75 * root**5)


def normalised(
    x: Taylor, mean: Taylor, variance: Taylor, eps: float, weight: Any, bias: Any
) -> tuple[Taylor, Taylor]:
    """Return γ (x − μ) (σ² + ε)^(−1/2) + β, and the factor (σ² + ε)^(−1/2)."""
    scale = _inverse_root(plus(variance, eps))
    found = times(plus(x, mean, -1), scale)
    if weight is not None:
        found = times(found, weight)
    return (found if bias is None else plus(found, bias)), scale
