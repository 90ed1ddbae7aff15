"""Factored linear networks of one unit a layer along a line: critical points, exactly.

On the line from a to b the product Π w_i is a polynomial P(α) of degree n, and the cost
(1 − P)² one of degree 2n. Its critical points are the roots of P = 1 (solutions, J = 0) and those
of P′: all of them are known, and none can be missed by a grid.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.polynomial import polynomial
from numpy.typing import ArrayLike

from thalweg.results import Array

__all__ = ["ChainLine", "chain_on_line"]

# A root counts as real where its imaginary part is below this share of its size: that of two
# roots that meet is of the order of the square root of rounding.
_REAL = 1e-7


@dataclass(frozen=True, eq=False)
class ChainLine:
    """What stands on a line of a factored linear network.

    Attributes:
        coefficients: Of P(α), from the constant up, shape (n + 1,).
        solutions: α with P = 1, ascending.
        minima: α of further local minima, where J > 0, ascending.
        maxima: α of local maxima, ascending.

    Example:
        >>> line = chain_on_line([2.0, 0.5], [0.5, 2.0])
        >>> line.solutions.round(12), line.maxima, line.minima
        (array([0., 1.]), array([0.5]), array([], dtype=float64))
        >>> float(line.loss(0.5))
        0.31640625
    """

    coefficients: Array
    solutions: Array
    minima: Array
    maxima: Array

    def loss(self, alpha: ArrayLike) -> Array:
        """Return J = (1 − P)² at some coordinates."""
        values: Array = (1 - polynomial.polyval(np.asarray(alpha, float), self.coefficients)) ** 2
        return values

    def derivatives(self, alpha: ArrayLike) -> tuple[Array, Array]:
        """Return J′ = −2 (1 − P) P′ and J″ = 2 P′² − 2 (1 − P) P″ at some coordinates."""
        at = np.asarray(alpha, dtype=np.float64)
        first = polynomial.polyder(self.coefficients)
        rest = 1 - polynomial.polyval(at, self.coefficients)
        slope = polynomial.polyval(at, first)
        bend = polynomial.polyval(at, polynomial.polyder(first))
        return -2 * rest * slope, 2 * slope**2 - 2 * rest * bend


def chain_on_line(start: ArrayLike, end: ArrayLike) -> ChainLine:
    """Return the critical points of (1 − Π w_i)² on the line from a to b, at all real α.

    Args:
        start: a, shape (n,).
        end: b, shape (n,). Where it is a solution (Π b_i = 1) its root α = 1 is divided out
            exactly, and the others are found without it.

    Raises:
        ValueError: If the two differ in length, or have less than two entries.

    Source: Goodfellow, Vinyals & Saxe (2015), section 5, figures 9 and 10.
    """
    a, b = (np.asarray(point, dtype=np.float64).reshape(-1) for point in (start, end))
    if len(a) != len(b) or len(a) < 2:
        raise ValueError(
            "A line of a chain joins two points of two weights at least; got "
            f"{len(a)} and {len(b)}. Give one weight a layer."
        )
    product: Any = np.ones(1)
    for low, high in zip(a, b, strict=True):
        product = polynomial.polymul(product, [low, high - low])
    product = np.append(product, np.zeros(len(a) + 1 - len(product)))  # w that do not move
    above = product - np.eye(1, len(product))[0]
    ends = []
    if np.prod(b) == 1:
        above = polynomial.polydiv(above, [-1.0, 1.0])[0]
        ends = [1.0]
    solutions = np.unique(np.append(_real_roots(above), ends))
    slope = polynomial.polyder(product)
    turning = _real_roots(slope)
    rest = 1 - polynomial.polyval(turning, product)
    bend = rest * polynomial.polyval(turning, polynomial.polyder(slope))
    beyond = np.abs(rest) > 1e-9  # else it is a solution at which P turns
    return ChainLine(
        product, solutions, np.unique(turning[beyond & (bend < 0)]), turning[beyond & (bend > 0)]
    )


def _real_roots(coefficients: Array) -> Array:
    """Return the real roots of a polynomial, ascending."""
    trimmed = polynomial.polytrim(coefficients)
    if len(trimmed) < 2:
        return np.empty(0)
    roots = polynomial.polyroots(trimmed)
    real: Array = np.sort(roots.real[np.abs(roots.imag) <= _REAL * (1 + np.abs(roots))])
    return real
