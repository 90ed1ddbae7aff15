"""The extreme eigenvalues of a symmetric operator that is known by its products alone.

Lanczos with full orthogonalisation, so that no eigenvalue comes twice; restarted with the best
vectors (thick restart) where the basis would outgrow its room. A Krylov space holds one vector
for each distinct eigenvalue at most, so copies of a multiple eigenvalue would be missed: once all
wanted pairs have converged, a chain from a fresh random vector searches what is orthogonal to
everything so far, until what it has *not* found cannot be there.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from thalweg.progress import Progress
from thalweg.results import Array

__all__ = [
    "Eigenpairs",
    "Ends",
    "Products",
    "extreme_eigenpairs",
    "finite",
    "measured",
    "random_vectors",
]

# Takes vectors, shape (b, n), and returns the products with them, shape (b, n).
Products = Callable[[Tensor], Tensor]
Ends = Literal["both", "largest", "smallest"]

_SAFETY = 0.9  # of the tolerance, at which estimates of residuals count as converged
_EACH_STEP, _SOME_STEPS = 100, 4  # of the basis: up to here every step is looked at; beyond, some
_PATIENCE = 4  # times as many products as it took to find something, for what was missed
_BLOCK, _PIECE = 16, 1 << 16  # vectors that are multiplied at once; entries that are combined
# A random unit vector has a square component of at least this / n along any given direction, with
# a probability of 99 % (χ² with one degree of freedom).
_LEAST_COMPONENT = 1.57e-4
_INSIDE = 1e-3  # a vector is in a space up to this part of it


@dataclass(frozen=True, eq=False)
class Eigenpairs:
    """Some eigenvalues with their vectors, and how good they are.

    Attributes:
        values: Ascending, shape (m,).
        vectors: Of unit length, shape (m, n), one a row.
        residuals: ‖A v − λ v‖ of each, shape (m,): from a product with v and in float64; where
            missed ones were not searched for, what the products with the basis leave at most.
        scale: Largest magnitude of an eigenvalue that was seen.
        complete: Whether nothing that should be among the values is missing, with a probability
            of 99 %: neither copies of multiple eigenvalues nor others. False where that would
            take more than four times as many products as the search had taken.
        products: Number of vectors that were multiplied.
    """

    values: Array
    vectors: Tensor
    residuals: Array
    scale: float
    complete: bool
    products: int


def extreme_eigenpairs(
    products: Products,
    start: Tensor,
    k: int,
    *,
    ends: Ends = "both",
    tolerance: float = 1e-3,
    limit: int = 1000,
    basis: int = 200,
    search_missed: bool = True,
    generator: torch.Generator,
    report: Progress,
) -> Eigenpairs:
    """Return k eigenpairs at one end of the spectrum, or at each.

    Algebraically largest and smallest: magnitudes play no role. The number of products is about
    that of one Krylov space which holds all wanted pairs, one for the residual of each, and what
    it takes to rule out that something was missed.

    Args:
        products: A symmetric operator.
        start: A vector of its type and device, shape (n,), such as a random one.
        k: Pairs at each end; all n where these are fewer.
        ends: `"both"`, `"largest"` or `"smallest"`.
        tolerance: Residuals to reach, as a share of the largest magnitude of an eigenvalue.
        limit: Most products; at least two for each wanted pair.
        basis: Most vectors that are held; more than the wanted ones by ten at least.
        search_missed: Whether to go on until nothing can have been missed. Without, the values
            and residuals are those of the recurrence, and no product is spent on them.
        generator: For further random vectors.
        report: Shows progress.

    Raises:
        ValueError: If a product is not finite.

    Source: Wu & Simon (2000), thick restart; Kuczyński & Woźniakowski (1992), random starts.
    """
    size = len(start)
    wanted = min(size, k if ends != "both" else 2 * k)
    search = _Search(products, start, min(size, max(basis, wanted + 10)), generator)
    complete, patience = False, 0
    while True:
        search.step()
        last = search.used + wanted >= limit
        full = search.count == search.capacity
        if search.count < wanted or not (last or full or search.is_due):
            continue
        values, vectors = search.ritz()
        scale = float(np.abs(values).max())
        chosen = _ends_of(len(values), k, ends)
        parts = search.residual_parts(vectors[:, chosen])
        good = parts.sum(axis=0) <= _SAFETY * tolerance * scale
        report(int(good.sum()), wanted, f"eigenvalues ({search.used} products)")
        if search.count == size:  # nothing is left to be missed
            complete = True
            break
        if not good.all():
            search.advance(parts[:, ~good])
        elif not search_missed:
            break
        else:
            verdict = search.verdict(values, vectors, chosen, ends, tolerance * scale)
            complete = verdict == "complete"
            patience = patience or _PATIENCE * search.used
            last = last or search.used >= patience
            search.look_further(values[chosen], afresh=verdict == "another")
        if last or complete:
            break
        if full:
            search.restart(values, vectors, chosen)
    values, vectors = search.ritz()
    chosen = _ends_of(len(values), k, ends)
    found = search.combined(vectors[:, chosen])
    if not search_missed:
        parts = search.residual_parts(vectors[:, chosen])
        scale = float(np.abs(values).max())
        return Eigenpairs(values[chosen], found, parts.sum(axis=0), scale, complete, search.used)
    exact, residuals, found = measured(products, found)
    return Eigenpairs(
        values=exact,
        vectors=found,
        residuals=residuals,
        scale=float(max(np.abs(values).max(), np.abs(exact).max())),
        complete=complete,
        products=search.used + len(chosen),
    )


def measured(products: Products, vectors: Tensor) -> tuple[Array, Array, Tensor]:
    """Return Rayleigh quotients, residuals and vectors in ascending order, from real products.

    Args:
        products: A symmetric operator.
        vectors: About of unit length, shape (m, n).
    """
    quotients, residuals = np.empty(len(vectors)), np.empty(len(vectors))
    for first in range(0, len(vectors), _BLOCK):
        block = vectors[first : first + _BLOCK]
        for place, pair in enumerate(zip(block, finite(products(block)), strict=True), first):
            vector, product = (each.double() for each in pair)
            square = float(vector @ vector)
            quotients[place] = float(vector @ product) / square
            rest = product - quotients[place] * vector
            residuals[place] = float(rest.norm()) / math.sqrt(square)
    order = np.argsort(quotients, kind="stable")
    if not np.array_equal(order, np.arange(len(order))):
        vectors = vectors[torch.from_numpy(order).to(vectors.device)]
    return quotients[order], residuals[order], vectors


def random_vectors(count: int, like: Tensor, generator: torch.Generator) -> Tensor:
    """Return standard normal vectors, shape (count, n), the same ones on every device."""
    size = like.shape[-1]
    # One by one, so that the vectors do not depend on how many are drawn at once.
    drawn = [torch.randn(size, generator=generator, dtype=torch.float32) for _ in range(count)]
    return torch.stack(drawn).to(like.device, like.dtype)


def finite(products: Tensor) -> Tensor:
    """Return products, or raise where they are not finite."""
    if not bool(torch.isfinite(products).all()):
        raise ValueError(
            "The curvature must be finite; a product with it holds NaN or infinity. Use a point "
            "from before the training diverged, or a cost that is twice differentiable there "
            "(√ and the norm are not at 0)."
        )
    return products


def _ends_of(count: int, k: int, ends: Ends) -> NDArray[np.intp]:
    """Return the numbers of the wanted ones among ascending values."""
    low = np.arange(min(k, count)) if ends != "largest" else np.arange(0)
    high = np.arange(max(count - k, 0), count) if ends != "smallest" else np.arange(0)
    return np.union1d(low, high).astype(np.intp)


@dataclass(eq=False)
class _Chain:
    """What the products with a basis left outside of it: a vector, and how much each left."""

    vector: Tensor
    shares: Array


class _Search:
    """A growing orthonormal basis Q with A Q = Q M + Σ p sᵀ, summed over chains (p, s)."""

    def __init__(
        self, products: Products, start: Tensor, capacity: int, generator: torch.Generator
    ) -> None:
        self.products, self.generator, self.capacity = products, generator, capacity
        self.rows = start.new_empty((capacity, len(start)))
        self.matrix = np.zeros((capacity, capacity))
        self.count, self.used, self.scale = 0, 0, 0.0
        # Logarithm of how much a component of a random vector must grow to be noticed.
        self.needed = 0.5 * math.log(len(start) / _LEAST_COMPONENT)
        self.chains: list[_Chain] = []
        self.current: _Chain | None = _Chain(start, np.zeros(capacity))  # which one goes on
        # The chain that searches for what was missed: what was known before it, its place in the
        # basis, its length.
        self.searching: _Chain | None = None
        self.known: Array | None = None
        self.blocking: _Chain | None = None  # another chain, without which the search is stuck
        self.first, self.steps = 0, 0
        self._since = 0

    @property
    def is_due(self) -> bool:
        """Tell whether the Ritz values are worth a look."""
        return self.count <= _EACH_STEP or self._since >= _SOME_STEPS or self.current is None

    def step(self) -> None:
        """Add the next vector of the current chain, or a random one, to the basis."""
        place = self.count
        vector = self._fresh() if self.current is None else self.current.vector
        if self.chains and self.current is not self.chains[-1]:  # it waited, and rounding went on
            vector, _ = self._off_basis(vector)
        unit = self.rows[place] = vector / torch.linalg.vector_norm(vector)
        product = finite(self.products(self.rows[place : place + 1]))[0]
        self.used, self.count, self._since = self.used + 1, place + 1, self._since + 1
        self.scale = max(self.scale, float(torch.linalg.vector_norm(product)))
        product, along = self._off_basis(product)
        product, more = self._off_basis(product)  # once would let errors grow from step to step
        along, left = along + more, float(torch.linalg.vector_norm(product))
        self.matrix[place, : place + 1] = self.matrix[: place + 1, place] = along
        searches = self.current is self.searching
        self.chains = [chain for chain in self.chains if chain is not self.current]
        for chain in self.chains:
            chain.vector -= (unit @ chain.vector) * unit
        self.current = None
        if left > 10 * torch.finfo(product.dtype).eps * self.scale:  # else it is invariant
            self.current = _Chain(product, np.eye(1, self.capacity, place)[0])
            self.chains.append(self.current)
        if searches:
            self.steps, self.searching = self.steps + 1, self.current

    def _off_basis(self, vector: Tensor) -> tuple[Tensor, Array]:
        """Return what of a vector is orthogonal to the basis, and its components in it."""
        basis = self.rows[: self.count]
        along = basis @ vector
        return torch.addmv(vector, basis.T, along, alpha=-1), along.double().cpu().numpy()

    def _fresh(self) -> Tensor:
        """Return a random unit vector that is orthogonal to the basis."""
        vector = random_vectors(1, self.rows, self.generator)[0]
        for _ in range(3):  # what is left may be little where the basis is nearly everything
            vector = self._off_basis(vector)[0]
            vector /= torch.linalg.vector_norm(vector)
        return vector

    def ritz(self) -> tuple[Array, Array]:
        """Return Ritz values, ascending, and their vectors in the basis."""
        self._since = 0
        values, vectors = np.linalg.eigh(self.matrix[: self.count, : self.count])
        return values, vectors

    def residual_parts(self, vectors: Array) -> Array:
        """Return what each chain adds to the residuals of vectors in the basis at most."""
        parts = np.zeros((len(self.chains), vectors.shape[1]))
        for part, chain in zip(parts, self.chains, strict=True):
            norm = float(torch.linalg.vector_norm(chain.vector))
            part[:] = norm * np.abs(chain.shares[: self.count] @ vectors)
        return parts

    def advance(self, parts: Array) -> None:
        """Go on with the chain that adds most to some residuals."""
        self.current = self.chains[int(parts.max(axis=1).argmax())] if len(parts) else None

    def combined(self, weights: Array) -> Tensor:
        """Return combinations of the basis, shape (m, n) for weights of shape (count, m)."""
        mixed = torch.from_numpy(weights.T.copy()).to(self.rows.device, self.rows.dtype)
        return mixed @ self.rows[: self.count]

    def look_further(self, wanted: Array, afresh: bool) -> None:
        """Go on with the search for what was missed, or begin another one."""
        if not afresh:
            self.current = self.searching if self.blocking is None else self.blocking
        else:
            self.current = None
            self.known, self.searching = wanted, None
            self.first, self.steps = self.count, 0

    def verdict(
        self, values: Array, vectors: Array, chosen: NDArray[np.intp], ends: Ends, margin: float
    ) -> str:
        """Say whether what was found is `"complete"`, or a chain goes `"on"`, or `"another"`.

        Args:
            values: The Ritz values of the whole basis, ascending.
            vectors: Their vectors in the basis.
            chosen: Which of them are wanted; all of these have converged.
            ends: Which ends are wanted.
            margin: How far beyond the last wanted value something missed would have to be.
        """
        found = values[chosen]
        if self.known is None or np.abs(found - self.known).max() > margin:
            return "another"  # the chain found something: there may be more of its kind
        if self.searching is None:  # its space is invariant: it has met every eigenvalue there is
            return "complete"
        # The space of the chain, without the wanted vectors.
        n, own = self.count, vectors[:, chosen]
        space = np.eye(n)[:, self.first :] - own @ own[self.first :].T
        space, sizes, _ = np.linalg.svd(space, full_matrices=False)
        space = space[:, sizes > _INSIDE]
        others, mixed = np.linalg.eigh(space.T @ self.matrix[:n, :n] @ space)
        mixed = space @ mixed
        parts = self.residual_parts(mixed)
        # What is wanted is set apart, so the others lie between these.
        rest = np.append(np.delete(values, chosen), others)
        low_end, high_end = rest.min(), rest.max()
        extent = others[-1] - others[0]
        if (self.steps - 1) * math.acosh(3) >= self.needed + 1:
            # Something further away would have been noticed by now, however little of it there is.
            low_end = max(low_end, others[0] - extent)
            high_end = min(high_end, others[-1] + extent)
        low = len(chosen) if ends == "smallest" else len(chosen) // 2 * (ends == "both")
        self.blocking = None
        clear = True
        if ends != "smallest":
            room = found[low] + margin
            clear = self._nothing_above(others[::-1], parts[:, ::-1], room, low_end, margin)
        if clear and ends != "largest":
            room = margin - found[low - 1]
            clear = self._nothing_above(-others, parts, room, -high_end, margin)
        return "complete" if clear else "on"

    def _nothing_above(
        self, own: Array, parts: Array, room: float, lowest: float, margin: float
    ) -> bool:
        """Tell whether an eigenvalue beyond `room` would have been noticed by the chain.

        A chain of degree d holds the vector T_d(A) w, a Chebyshev polynomial that is small from
        the lowest eigenvalue up to a Ritz value ϑ. Had the random w met an eigenvalue μ > ϑ, the
        Rayleigh quotient of that vector were above ϑ, unless
            (μ − ϑ)/(ϑ − lowest) T_d(1 + 2 (μ − ϑ)/(ϑ − lowest))² w_μ² ≤ 1.
        Ritz values that have converged are passed over, for one degree each: the error of a value
        is at most its residual, and at most the square of that over the distance to the next.

        Args:
            own: Ritz values of the chain, descending; at most `room`.
            parts: What each chain adds to their residuals at most.
            room: The least eigenvalue that must not be missed.
            lowest: The other end of what is not wanted.
            margin: How far `room` is beyond the last wanted value.
        """
        for passed, top in enumerate(own):
            spread = top - lowest
            gap = (room - top) / spread if spread > 0 else 0.0
            degree = self.steps - 1 - passed
            if gap > 0 and degree >= 0:
                grown = degree * math.acosh(1 + 2 * gap) - math.log(2) + 0.5 * math.log(gap)
                if grown >= self.needed:
                    return True
            error = float(parts[:, passed].sum())
            next_one = own[passed + 1] if passed + 1 < len(own) else -math.inf
            if min(error, error**2 / max(top - next_one, 1e-300)) > room - top:
                largest = self.chains[int(parts[:, passed].argmax())]
                # A copy of the last wanted value: no degree helps, it must converge.
                if room - top <= 2 * margin and largest is not self.searching:
                    self.blocking = largest
                break
        return False

    def restart(self, values: Array, vectors: Array, chosen: NDArray[np.intp]) -> None:
        """Replace the basis by its best half: the wanted Ritz vectors first, then the next."""
        keep = min(max(len(chosen) + 5, self.capacity // 2), self.capacity - 4)
        others = np.setdiff1d(np.arange(len(values)), chosen)
        # The nearest ones to a wanted value are the next to come.
        apart = np.abs(values[others, None] - values[chosen]).min(axis=1)
        others = others[np.argsort(apart, kind="stable")][: keep - len(chosen)]
        order = np.concatenate([chosen, others])
        weights = vectors[:, order]
        mixed = torch.from_numpy(weights.T.copy()).to(self.rows.device, self.rows.dtype)
        for begin in range(0, self.rows.shape[1], _PIECE):
            piece = self.rows[: self.count, begin : begin + _PIECE]
            self.rows[: len(order), begin : begin + _PIECE] = mixed @ piece
        for chain in self.chains:
            shares = chain.shares[: self.count] @ weights
            chain.shares[:] = 0
            chain.shares[: len(order)] = shares
        self.count = len(order)
        self.matrix[:] = 0
        np.fill_diagonal(self.matrix[: self.count, : self.count], values[order])
        self.first = min(self.first, len(chosen))
