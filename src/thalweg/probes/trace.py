"""The trace of a Hessian: the sum of its eigenvalues."""

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
from thalweg.probes.lanczos import finite, random_vectors
from thalweg.probes.spectrum import DENSE, checked_curvature, curvature_facts, finite_matrix
from thalweg.progress import Progress, progress_bar
from thalweg.results import Array, SpectralEstimate

__all__ = ["trace"]

_BLOCK = 16  # vectors that are multiplied at once


def trace(
    objective: Objective,
    theta: Tensor | ArrayLike,
    *,
    kind: CurvatureKind = "hessian",
    within: str | Sequence[str] | None = None,
    sketch: int = 10,
    probes: int = 20,
    confidence: float = 0.95,
    seed: int = 0,
    progress: bool | Progress | None = None,
) -> SpectralEstimate:
    """Return the trace of the Hessian H of J at a point, with its interval.

    Hutch++: with an orthonormal basis Q of the products with some random vectors, which holds
    most of what the few large eigenvalues do,

        tr H = tr Qᵀ H Q  +  E v·(I − QQᵀ) H (I − QQᵀ) v

    for random signs v. The first term is exact, and the spread of the second over its probes
    gives the interval. Up to n = 256 rows the trace is exact. The number of products is fixed, so
    no sign of the trace can end the sampling early.

    Args:
        objective: J.
        theta: The point, shape (P,).
        kind: `"hessian"` or `"gauss-newton"`.
        within: Names of tensors or layers to restrict the matrix to.
        sketch: Vectors for Q, two products each; 0 for Hutchinson's plain estimate.
        probes: Random signs, one product each; two at least.
        confidence: Probability with which the interval holds.
        seed: Seed of the random vectors.
        progress: None for a bar where standard error is a terminal, False for none, or a function.

    Raises:
        TypeError: If the first argument is no objective.
        ValueError: If a setting is out of range, or a product is not finite.

    Source: Hutchinson (1989); Meyer, Musco, Musco & Woodruff (2021), algorithm 1.

    Example:
        >>> from thalweg.functions import quadratic
        >>> trace(quadratic([[2.0, 0.0], [0.0, -1.0]]), [0.5, 1.0]).value
        1.0
    """
    expect_probes(probes, least=2, confidence=confidence)
    if sketch < 0:
        raise ValueError(f"`sketch` must be 0 or more; got {sketch}. 0 is Hutchinson's estimate.")
    began = time.perf_counter()
    operator = checked_curvature(objective, theta, kind, within)
    with progress_bar(progress) as report:
        if operator.size <= DENSE:
            report(0, operator.size, "whole matrix")
            value = float(np.trace(finite_matrix(operator)))
            known: dict[str, Any] = {"exact": True, "products": operator.size}
            return SpectralEstimate(
                "trace",
                value,
                0.0,
                (value, value),
                method=f"dense; {operator.method}",
                seed=seed,
                provenance=curvature_facts(operator, began, {"seed": seed})["provenance"],
                **known,
            )
        samples = _samples(operator, min(sketch, operator.size), probes, seed, report)
    value, error, interval = mean_interval(samples, confidence)
    return SpectralEstimate(
        "trace",
        value,
        error,
        interval,
        confidence,
        samples,
        method=f"{'Hutch++' if sketch else 'Hutchinson'}; {operator.method}",
        products=2 * min(sketch, operator.size) + probes,
        seed=seed,
        provenance=curvature_facts(operator, began, {"seed": seed})["provenance"],
    )


def _samples(operator: Curvature, sketch: int, probes: int, seed: int, report: Progress) -> Array:
    """Return what each probe says about the trace."""
    generator = torch.Generator().manual_seed(seed)
    like = operator.gradient
    basis, within = like.new_empty((0, len(like))), 0.0
    total = 2 * sketch + probes
    if sketch:
        drawn = random_vectors(sketch, like, generator)
        images = finite(operator.products(drawn))
        report(sketch, total, "trace")
        basis = torch.linalg.qr(images.double().T).Q.T.to(like.dtype).contiguous()
        within = _quotients(basis, finite(operator.products(basis))).sum()
    samples = np.empty(probes)
    for done in range(0, probes, _BLOCK):
        report(2 * sketch + done, total, "trace")
        signs = random_vectors(min(_BLOCK, probes - done), like, generator).sign()
        rest = signs - (signs @ basis.T) @ basis
        samples[done : done + len(rest)] = _quotients(rest, finite(operator.products(rest)))
    return within + samples


def _quotients(vectors: Tensor, products: Tensor) -> Array:
    """Return v·Hv for each vector, in float64."""
    return (vectors.double() * products.double()).sum(dim=1).cpu().numpy()
