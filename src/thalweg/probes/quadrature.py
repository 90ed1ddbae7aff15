"""Gaussian quadrature of the spectrum of a symmetric operator, by Lanczos from random vectors."""

import numpy as np
import torch
from torch import Tensor

from thalweg.probes.lanczos import Products, finite
from thalweg.results import Array

__all__ = ["lanczos_quadrature"]


def lanczos_quadrature(products: Products, starts: Tensor, steps: int) -> tuple[Array, Array]:
    """Return nodes and weights of the spectrum as each start sees it.

    For a start v the nodes λ and weights w satisfy Σ w p(λ) = v·p(A) v / v·v for every polynomial
    p of degree 2 steps − 1 at most. They are the eigenvalues of the tridiagonal matrix of `steps`
    Lanczos steps with full orthogonalisation, and the squares of the *first components* of its
    eigenvectors. All starts go along together, so that each product is one of many vectors.

    Args:
        products: A symmetric operator.
        starts: Shape (b, n).
        steps: Nodes for each start; n at most.

    Returns:
        Nodes (ascending) and weights, shape (b, steps) each. Where a start needs fewer nodes, the
        others have weight 0.

    Raises:
        ValueError: If a product is not finite.

    Source: Ubaru, Chen & Saad (2017), algorithm 1; Ghorbani, Krishnan & Xiao (2019).
    """
    count, size = starts.shape
    basis = starts.new_zeros((count, steps, size))
    alpha, beta = np.zeros((count, steps)), np.zeros((count, steps))
    vectors = starts / torch.linalg.vector_norm(starts, dim=1, keepdim=True)
    scale = torch.zeros(count, dtype=starts.dtype, device=starts.device)
    for step in range(steps):
        basis[:, step] = vectors
        rest = finite(products(vectors))
        scale = torch.maximum(scale, torch.linalg.vector_norm(rest, dim=1))
        alpha[:, step] = (vectors * rest).sum(dim=1).double().cpu().numpy()
        held = basis[:, : step + 1]
        for _ in range(2):  # twice is enough
            along = torch.bmm(held, rest[:, :, None])
            rest = torch.baddbmm(rest[:, :, None], held.mT, along, alpha=-1)[:, :, 0]
        norms = torch.linalg.vector_norm(rest, dim=1)
        # An invariant space: what comes after it is rounding, and must not count.
        ended = norms <= 10 * torch.finfo(rest.dtype).eps * scale
        norms = torch.where(ended, torch.zeros_like(norms), norms)
        beta[:, step] = norms.double().cpu().numpy()
        vectors = torch.where(ended[:, None], torch.zeros_like(rest), rest / norms[:, None])
    nodes, weights = np.empty((count, steps)), np.empty((count, steps))
    for place in range(count):
        off = beta[place, :-1]
        matrix = np.diag(alpha[place]) + np.diag(off, 1) + np.diag(off, -1)
        nodes[place], components = np.linalg.eigh(matrix)
        weights[place] = components[0] ** 2
    # Nodes of rows that came after the end are zeros of the matrix, not of the spectrum.
    unused = weights <= np.finfo(np.float64).tiny
    weights[unused] = 0
    seen = np.where(unused, np.nan, nodes)
    nodes = np.where(unused, np.nanmax(seen, axis=1, keepdims=True), nodes)
    order = np.argsort(nodes, axis=1, kind="stable")
    return np.take_along_axis(nodes, order, 1), np.take_along_axis(weights, order, 1)
