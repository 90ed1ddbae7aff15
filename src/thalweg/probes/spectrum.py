"""The eigenvalues of a Hessian at the ends of its spectrum, or all of them."""

import time
from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from thalweg.environment import provenance
from thalweg.objectives.curvature import Curvature, CurvatureKind, curvature
from thalweg.objectives.objective import Objective, expect_objective
from thalweg.probes.lanczos import Ends, extreme_eigenpairs, finite, measured, random_vectors
from thalweg.progress import Progress, progress_bar
from thalweg.results import Array, Spectrum

__all__ = [
    "DENSE",
    "checked_curvature",
    "curvature_facts",
    "finite_matrix",
    "spectrum",
    "spectrum_of",
]

# Up to this size the whole matrix takes less time than Lanczos: its products are all made at once.
DENSE = 256
_BASIS_BYTES = 2**31


def spectrum(
    objective: Objective,
    theta: Tensor | ArrayLike,
    k: int = 10,
    *,
    kind: CurvatureKind = "hessian",
    within: str | Sequence[str] | None = None,
    ends: Ends = "both",
    tolerance: float = 1e-3,
    limit: int = 1000,
    search_missed: bool = True,
    seed: int = 0,
    vectors: bool = True,
    progress: bool | Progress | None = None,
) -> Spectrum:
    """Return the k largest and the k smallest eigenvalues of the Hessian H of J at a point.

    Largest and smallest algebraically, never by magnitude. Up to n = 256 rows the whole matrix is
    computed, and with n ≤ 2k all of its eigenvalues are returned. Beyond, Lanczos: with full
    orthogonalisation, so that no eigenvalue comes twice; with a second run from a random vector,
    orthogonal to everything found, so that no copy of a multiple eigenvalue is left out; and with
    residuals ‖H v − λ v‖ from products of their own. What has not converged is returned as well,
    with its residual: see `Spectrum.converged`.

    Args:
        objective: J.
        theta: The point, shape (P,).
        k: Eigenvalues at each end.
        kind: `"hessian"`, or `"gauss-newton"` for that matrix.
        within: Names of tensors or layers to restrict the matrix to.
        ends: `"both"`; `"largest"` or `"smallest"` for one of them, in fewer products.
        tolerance: Residual to reach, as a share of the largest magnitude of an eigenvalue. The
            error of an eigenvalue is smaller: about the square of its residual, divided by the
            distance to the next.
        limit: Most products with vectors; each takes several passes over the data.
        search_missed: Whether to search for copies of multiple eigenvalues, and to take residuals
            from products of their own. Without, it takes about half of the products, the result
            is not `complete`, and residuals are those of the recurrence.
        seed: Seed of the random vectors.
        vectors: Whether to keep the eigenvectors, P numbers each.
        progress: None for a bar where standard error is a terminal, False for none, or a function.

    Raises:
        TypeError: If the first argument is no objective.
        ValueError: If k, the tolerance or the limit are out of range, or a product is not finite.
        NonDeterministicObjectiveError: If two evaluations of the objective disagree.

    Source: Lanczos (1950); Wu & Simon (2000) for restarts, Kuczyński & Woźniakowski (1992) for
    what a random start may miss.

    Example:
        >>> from thalweg.objectives import FunctionObjective
        >>> saddle = FunctionObjective(lambda w: (1 - w[0] * w[1]) ** 2, size=2)
        >>> found = spectrum(saddle, [0.0, 0.0])
        >>> found.eigenvalues, found.ends
        (array([-2.,  2.]), 'all')
    """
    _expect_settings(k, ends, tolerance, limit)
    return spectrum_of(
        checked_curvature(objective, theta, kind, within),
        k,
        ends=ends,
        tolerance=tolerance,
        limit=limit,
        search_missed=search_missed,
        seed=seed,
        vectors=vectors,
        progress=progress,
    )


def spectrum_of(
    operator: Curvature,
    k: int,
    *,
    ends: Ends = "both",
    tolerance: float = 1e-3,
    limit: int = 1000,
    search_missed: bool = True,
    seed: int = 0,
    vectors: bool = True,
    progress: bool | Progress | None = None,
) -> Spectrum:
    """Return the spectrum of an operator that is there already; as `spectrum` otherwise."""
    began = time.perf_counter()
    size = operator.size
    wanted = 2 * k if ends == "both" else k
    if limit < 2 * min(wanted, size):
        raise ValueError(
            f"Two products for each of {min(wanted, size)} eigenvalues are the least; got "
            f"limit={limit}. Raise `limit`, or ask for a smaller `k`."
        )
    with progress_bar(progress) as report:
        if size <= wanted or (size <= DENSE and size + wanted <= limit):
            report(0, size, "whole matrix")
            values, rows, residuals, scale = _dense(operator, k, ends)
            complete, used, method = True, size + len(values), "dense"
        else:
            generator = torch.Generator().manual_seed(seed)
            start = random_vectors(1, operator.gradient, generator)[0]
            room = _BASIS_BYTES // (size * start.element_size())
            pairs = extreme_eigenpairs(
                operator.products,
                start,
                k,
                ends=ends,
                tolerance=tolerance,
                limit=limit,
                basis=min(room, 300),
                search_missed=search_missed,
                generator=generator,
                report=report,
            )
            values, rows, residuals = pairs.values, pairs.vectors, pairs.residuals
            scale, complete, used = pairs.scale, pairs.complete, pairs.products
            method = "Lanczos, full orthogonalisation"
    kept = operator.embedded(rows).double().cpu().numpy() if vectors else np.empty((0, 0))
    return Spectrum(
        eigenvalues=values,
        residuals=residuals,
        eigenvectors=kept,
        size=size,
        ends="all" if len(values) == size else ends,
        tolerance=tolerance,
        scale=scale,
        complete=complete,
        method=f"{method}; {operator.method}",
        products=used,
        **curvature_facts(operator, began, {"seed": seed}),
    )


def _expect_settings(k: int, ends: str, tolerance: float, limit: int) -> None:
    """Raise where a setting is out of range."""
    if k < 1:
        raise ValueError(f"`k` must be 1 or more; got {k}. It counts eigenvalues at each end.")
    if ends not in get_args(Ends):
        raise ValueError(
            f"`ends` is 'both', 'largest' or 'smallest'; got {ends!r}. Choose one of them."
        )
    if not 0 < tolerance < 1:
        raise ValueError(
            f"`tolerance` is a share between 0 and 1; got {tolerance}. The default is 1e-3."
        )
    if limit < 2:
        raise ValueError(f"`limit` must be 2 or more; got {limit}. It counts products.")


def _dense(operator: Curvature, k: int, ends: Ends) -> tuple[Array, Tensor, Array, float]:
    """Return the wanted pairs from the whole matrix, residuals from products of their own."""
    values, vectors = np.linalg.eigh(finite_matrix(operator))
    size = len(values)
    low = 0 if ends == "largest" else min(k, size)
    high = 0 if ends == "smallest" else min(k, size)
    chosen = np.arange(size) if low + high >= size else np.r_[0:low, size - high : size]
    rows = torch.from_numpy(vectors[:, chosen].T.copy()).to(operator.gradient)
    _, residuals, _ = measured(operator.products, rows)
    return values[chosen], rows, residuals, float(np.abs(values).max())


def finite_matrix(operator: Curvature) -> Array:
    """Return the whole matrix, or raise where it is not finite."""
    return finite(operator.dense()).numpy()


def checked_curvature(
    objective: Objective,
    theta: Tensor | ArrayLike,
    kind: CurvatureKind,
    within: str | Sequence[str] | None,
) -> Curvature:
    """Return the operator, once the objective has agreed with itself at the point."""
    expect_objective(objective)
    point = objective.point(theta)
    objective.check(point)
    return curvature(objective, point, kind=kind, within=within)


def curvature_facts(operator: Curvature, began: float, asked: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that all results about one operator share."""
    whole = len(operator.names) == len(operator.objective.space.names)
    section = {"kind": "Point", "matrix": operator.kind, **asked}
    section |= {} if whole else {"within": list(operator.names)}
    return {
        "kind": operator.kind,
        "loss": operator.value,
        "gradient_norm": float(operator.gradient.double().norm()),
        "provenance": provenance(
            operator.objective.device,
            operator.objective.dtype,
            time.perf_counter() - began,
            objective=operator.objective.describe(),
            section=section,
        ),
    }
