"""How the eigenvalues of a Hessian are distributed, and how many of them are negative."""

import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from thalweg.objectives.curvature import Curvature, CurvatureKind
from thalweg.objectives.objective import Objective
from thalweg.probes.intervals import expect_probes, mean_interval
from thalweg.probes.lanczos import random_vectors
from thalweg.probes.quadrature import lanczos_quadrature
from thalweg.probes.spectrum import DENSE, checked_curvature, curvature_facts, finite_matrix
from thalweg.progress import Progress, progress_bar
from thalweg.results import Array, SpectralDensity, SpectralEstimate

__all__ = ["index_fraction", "spectral_density"]

# The width that Ghorbani et al. use where the range of the spectrum is 1; as a share of the range
# it is the same for J and for cJ.
_WIDTH = math.sqrt(1e-5)
_ROUNDING = 1e-6  # nodes that differ by less are one eigenvalue
_BASIS_BYTES = 2**30  # of all bases that go along together


def spectral_density(
    objective: Objective,
    theta: Tensor | ArrayLike,
    *,
    kind: CurvatureKind = "hessian",
    within: str | Sequence[str] | None = None,
    probes: int = 10,
    steps: int = 80,
    width: float | None = None,
    seed: int = 0,
    progress: bool | Progress | None = None,
) -> SpectralDensity:
    """Return the density of the eigenvalues of the Hessian of J at a point.

    Stochastic Lanczos quadrature: from each of several random vectors v some Lanczos steps with
    full orthogonalisation give nodes λ_i and weights w_i, the squared first components of the
    eigenvectors of the tridiagonal matrix, and

        φ(t) = mean over v of Σ_i w_i N(t; λ_i, σ²).

    Up to n = 256 rows the whole matrix is computed and all of its eigenvalues are the nodes.

    Args:
        objective: J.
        theta: The point, shape (P,).
        kind: `"hessian"` or `"gauss-newton"`.
        within: Names of tensors or layers to restrict the matrix to.
        probes: Random vectors; the standard error falls with their square root.
        steps: Lanczos steps from each, so `probes` · `steps` products.
        width: σ. By default √(1e-5) of the range of the nodes (of the magnitude of an only
            eigenvalue; 1 for a matrix of zeros), which makes densities of J and cJ alike.
        seed: Seed of the probes.
        progress: None for a bar where standard error is a terminal, False for none, or a function.

    Raises:
        TypeError: If the first argument is no objective.
        ValueError: If a setting is out of range, or a product is not finite.

    Source: Ghorbani, Krishnan & Xiao (2019), section 2, whose σ² is 1e-5 max(1, range).

    Example:
        >>> from thalweg.functions import quadratic
        >>> bowl = quadratic([[2.0, 0.0], [0.0, -1.0]])
        >>> found = spectral_density(bowl, [0.5, 1.0])
        >>> found.nodes, found.exact, found.share_below(0.0)
        (array([[-1.,  2.]]), True, (0.5, 0.0))
    """
    expect_probes(probes, least=1)
    if steps < 1:
        raise ValueError(f"`steps` must be 1 or more; got {steps}. 80 resolve 0.3 % of the range.")
    began = time.perf_counter()
    operator = checked_curvature(objective, theta, kind, within)
    with progress_bar(progress) as report:
        if operator.size <= DENSE:
            report(0, operator.size, "whole matrix")
            nodes = np.linalg.eigvalsh(finite_matrix(operator))[None]
            weights = np.full_like(nodes, 1 / operator.size)
            exact, used, method = True, operator.size, "dense"
        else:
            nodes, weights = _quadrature(operator, probes, min(steps, operator.size), seed, report)
            exact, used, method = False, nodes.size, "stochastic Lanczos quadrature"
    if width is None:
        extent, size = float(np.ptp(nodes)), float(np.abs(nodes).max())
        width = _WIDTH * (extent if extent > _ROUNDING * size else size) or 1.0
    return SpectralDensity.of_nodes(
        nodes,
        weights,
        width,
        exact,
        size=operator.size,
        method=f"{method}; {operator.method}",
        products=used,
        seed=seed,
        **curvature_facts(operator, began, {"seed": seed}),
    )


def index_fraction(
    objective: Objective,
    theta: Tensor | ArrayLike,
    *,
    kind: CurvatureKind = "hessian",
    within: str | Sequence[str] | None = None,
    threshold: float = 1e-3,
    probes: int = 10,
    steps: int = 80,
    confidence: float = 0.95,
    seed: int = 0,
    progress: bool | Progress | None = None,
) -> SpectralEstimate:
    """Return the share of negative eigenvalues of the Hessian of J at a point, with its interval.

    Negative is what lies below − `threshold` · (largest magnitude of an eigenvalue), so that the
    many eigenvalues that are zero but for rounding do not count, and J and cJ have the same index.
    From all eigenvalues up to n = 256 rows; beyond, from the quadrature of `spectral_density`.

    Quadrature cannot resolve eigenvalues near zero: its nodes lie about (range / steps) apart, so
    that of a crowd of eigenvalues around the threshold it does not tell how many are on which
    side. The value counts whole nodes. The interval does not trust it: the share that a random
    vector sees lies, whatever the spectrum, between the weights of the nodes below the threshold
    without the nearest one, and those with the next one above; the limits are the one-sided ones
    of Student's t for these two over the probes. Where it is wide, more `steps` make it narrow,
    or a `threshold` that is no longer within the crowd.

    Args:
        objective: J.
        theta: The point, shape (P,).
        kind: `"hessian"` or `"gauss-newton"`.
        within: Names of tensors or layers to restrict the matrix to.
        threshold: A share of the largest magnitude, at least 0.
        probes: Random vectors, two at least.
        steps: Lanczos steps from each.
        confidence: Probability with which the interval holds.
        seed: Seed of the probes.
        progress: As for `spectral_density`.

    Raises:
        TypeError: If the first argument is no objective.
        ValueError: If a setting is out of range, or a product is not finite.

    Source: Dauphin et al. (2014), section 3, for the index; Ghorbani et al. (2019); Szegő (1939),
    section 3.41, for what quadrature leaves open.

    Example:
        >>> from thalweg.functions import quadratic
        >>> index_fraction(quadratic([[2.0, 0.0], [0.0, -1.0]]), [0.5, 1.0]).value
        0.5
    """
    expect_probes(probes, least=2, confidence=confidence)
    if not 0 <= threshold < 1:
        raise ValueError(
            f"`threshold` is a share of the largest magnitude, from 0 to below 1; got {threshold}. "
            "The default is 1e-3."
        )
    density = spectral_density(
        objective,
        theta,
        kind=kind,
        within=within,
        probes=probes,
        steps=steps,
        seed=seed,
        progress=progress,
    )
    scale = float(np.abs(density.nodes).max())
    shares = density.shares_below(-threshold * scale)
    facts: dict[str, Any] = {
        "method": density.method,
        "products": density.products,
        "seed": seed,
        "provenance": density.provenance,
    }
    name = "share of negative eigenvalues"
    if density.exact:
        value = float(shares[0])
        return SpectralEstimate(name, value, 0.0, (value, value), exact=True, **facts)
    value, error, _ = mean_interval(shares, confidence)
    least, most = density.limits_below(-threshold * scale)
    low = mean_interval(least, confidence)[2][0]
    high = mean_interval(most, confidence)[2][1]
    interval = (max(low, 0.0), min(high, 1.0))
    return SpectralEstimate(name, value, error, interval, confidence, shares, **facts)


def _quadrature(
    operator: Curvature, probes: int, steps: int, seed: int, report: Progress
) -> tuple[Array, Array]:
    """Return nodes and weights of all probes, as many at once as the memory allows."""
    like = operator.gradient
    together = max(1, _BASIS_BYTES // (steps * operator.size * like.element_size()))
    generator = torch.Generator().manual_seed(seed)
    found = []
    for done in range(0, probes, together):
        report(done, probes, "random vectors")
        starts = random_vectors(min(together, probes - done), like, generator)
        found.append(lanczos_quadrature(operator.products, starts, steps))
    nodes, weights = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return nodes, weights
