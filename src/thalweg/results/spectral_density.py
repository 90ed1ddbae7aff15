"""How the eigenvalues of a Hessian are distributed."""

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from thalweg.results.frozen import Array, freeze, freeze_coordinates, rebuilt
from thalweg.results.provenance import Provenance

__all__ = ["SpectralDensity"]

_BEYOND, _FINE = 6.0, 3.0  # widths beyond the nodes; points to a width


@dataclass(frozen=True, eq=False)
class SpectralDensity:
    """The density of the eigenvalues λ of the Hessian of a cost at one point.

    Each random vector v ("probe") sees the eigenvalues with the weights (v·u)² of the
    eigenvectors u, and stochastic Lanczos quadrature stands for these by a few nodes and weights.
    Every node is widened to a normal distribution, and the mean over the probes is the density:

        φ(t) = mean over probes of Σ_i w_i N(t; λ_i, width²),   with Σ_i w_i = 1.

    Attributes:
        grid: Where the density is given, ascending, shape (g,).
        density: φ there, shape (g,); it integrates to 1.
        error: Standard error of its mean over the probes, shape (g,): 0 where it is exact, NaN
            for a single probe.
        nodes: Quadrature nodes of each probe, shape (probes, steps).
        weights: Their weights, shape (probes, steps).
        width: Standard deviation of the smoothing, in units of the eigenvalues.
        exact: Whether the nodes are all eigenvalues, so that nothing but the width is between
            this and the truth.
        size: n, the number of rows of the matrix.
        kind: `"hessian"` or `"gauss-newton"`.
        method: How it was computed, in words.
        products: Number of vectors that were multiplied by the matrix.
        seed: Seed of the probes.
        loss: J at the point.
        gradient_norm: Norm of the gradient there.
        provenance: What made this result.

    Example:
        >>> half = SpectralDensity.of_nodes([[-1.0, 1.0]], [[0.5, 0.5]], width=0.1, exact=True)
        >>> float(np.trapezoid(half.density, half.grid).round(6))
        1.0
        >>> half.share_below(0.0)
        (0.5, 0.0)
    """

    grid: Array
    density: Array
    error: Array
    nodes: Array
    weights: Array
    width: float
    exact: bool = False
    size: int = 0
    kind: str = "hessian"
    method: str = ""
    products: int = 0
    seed: int = 0
    loss: float = float("nan")
    gradient_norm: float = float("nan")
    provenance: Provenance = field(default_factory=Provenance)

    def __post_init__(self) -> None:
        freeze_coordinates(self, "grid")
        for name in ("density", "error"):
            freeze(self, name, (len(self.grid),))
        freeze(self, "nodes", (None, None))
        freeze(self, "weights", self.nodes.shape)

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuilt(self)

    @classmethod
    def of_nodes(
        cls, nodes: Any, weights: Any, width: float, exact: bool = False, **facts: Any
    ) -> "SpectralDensity":
        """Return the density of nodes and weights, smoothed.

        Args:
            nodes: Shape (probes, steps).
            weights: Shape (probes, steps), each row with the sum 1.
            width: Standard deviation of the smoothing; above 0.
            exact: Whether the nodes are all eigenvalues.
            facts: Further fields.

        Raises:
            ValueError: If the width is not above 0.
        """
        nodes, weights = (np.asarray(each, dtype=np.float64) for each in (nodes, weights))
        if not 0 < width < math.inf:
            raise ValueError(
                f"The width of the smoothing must be above 0; got {width}. Leave it out for "
                "a third of a per cent of the range."
            )
        low, high = nodes.min() - _BEYOND * width, nodes.max() + _BEYOND * width
        grid = np.linspace(low, high, math.ceil(_FINE * (high - low) / width) + 1)
        each = np.stack([_smooth(grid, *pair, width) for pair in zip(nodes, weights, strict=True)])
        return cls(
            grid, each.mean(axis=0), _error(each, exact), nodes, weights, width, exact, **facts
        )

    def smoothed(self, width: float) -> "SpectralDensity":
        """Return the same nodes with another smoothing; nothing is evaluated.

        Args:
            width: Standard deviation, in units of the eigenvalues.

        Raises:
            ValueError: If it is not above 0.
        """
        again = SpectralDensity.of_nodes(self.nodes, self.weights, width, self.exact)
        names = ("grid", "density", "error", "width")
        return replace(self, **{name: getattr(again, name) for name in names})

    def shares_below(self, threshold: float) -> Array:
        """Return the share of eigenvalues below a threshold that each probe sees, (probes,)."""
        shares: Array = (self.weights * (self.nodes < threshold)).sum(axis=1)
        return shares

    def limits_below(self, threshold: float) -> tuple[Array, Array]:
        """Return limits of the share of eigenvalues below a threshold as each probe sees it.

        Whatever the spectrum, between two neighbouring nodes of a Gauss quadrature there is a
        point below which the share is the sum of the weights up to there. So the share below a
        threshold is that of `shares_below` within the weight of the nearest node below, and of
        that above. Where a probe needed fewer nodes than there are, the share is exact.

        Args:
            threshold: In units of the eigenvalues.

        Returns:
            Lower and upper limits, shape (probes,) each.

        Source: Szegő (1939), Orthogonal polynomials, section 3.41 (separation theorem).

        Example:
            >>> three = SpectralDensity.of_nodes([[-1.0, 0.0, 2.0]], [[0.25, 0.5, 0.25]], width=1.0)
            >>> three.limits_below(1.0)
            (array([0.25]), array([1.]))
        """
        shares = self.shares_below(threshold)
        if self.exact:
            return shares, shares
        below = self.nodes < threshold
        nearest = np.where(below, self.nodes, -np.inf).max(axis=1, keepdims=True)
        next_up = np.where(below, np.inf, self.nodes).min(axis=1, keepdims=True)
        lower = (self.weights * (self.nodes < nearest)).sum(axis=1)
        upper = (self.weights * (self.nodes <= next_up)).sum(axis=1)
        ended = (self.weights == 0).any(axis=1)
        return np.where(ended, shares, lower), np.where(ended, shares, upper)

    def share_below(self, threshold: float) -> tuple[float, float]:
        """Return the share of eigenvalues below a threshold, and its standard error.

        The error is that of the probes alone; what the quadrature leaves open is `limits_below`.
        """
        shares = self.shares_below(threshold)
        return float(shares.mean()), float(_error(shares[:, None], self.exact)[0])


def _smooth(grid: Array, nodes: Array, weights: Array, width: float) -> Array:
    """Return a sum of normal distributions on a grid."""
    density = np.zeros(len(grid))
    for node, weight in zip(nodes, weights, strict=True):
        if weight > 0:
            density += weight * np.exp(-0.5 * ((grid - node) / width) ** 2)
    return density / (width * math.sqrt(2 * math.pi))


def _error(each: Array, exact: bool) -> Array:
    """Return the standard error of a mean over the probes."""
    if exact:
        return np.zeros(each.shape[1])
    if len(each) < 2:
        return np.full(each.shape[1], np.nan)
    error: Array = each.std(axis=0, ddof=1) / math.sqrt(len(each))
    return error
