"""How the gradient varies from example to example, from seeded mini-batches of the data.

The examples of the first split are put into random groups. The deviation of a group's gradient
from that of all groups together, times the root of its size, has the covariance Σ of the gradient
of one example (but for what drawing without replacement takes, which is put back): so the mean
of its square is tr Σ, and that of its product with H is tr(HΣ), without bias.

The gradient of a mini-batch of B of N examples, drawn without replacement as in an epoch, then
has the covariance (N − B)/(N − 1) Σ/B (Cochran 1977, section 2.5).
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.objectives.examples import can_pick, random_examples, with_examples
from thalweg.objectives.model import ModelObjective
from thalweg.objectives.second_order import gradient_of
from thalweg.probes.local_model import krylov_space

__all__ = [
    "Deviations",
    "KnownSpace",
    "batch_share",
    "deviations_of",
    "mean_of_forms",
    "standard_error",
]

_GROUPS = 32
_LEAST_GROUPS = 4
_BYTES = 1 << 30  # of gradients held at once
_STREAMED_EXAMPLES = 64  # of a group, where the data is read anew in each pass
_NOTHING = 1e-24  # of squared lengths: what is left of a vector in a space up to rounding


@dataclass(frozen=True, eq=False)
class Deviations:
    """Draws with mean 0 and the covariance Σ of the gradient of one example.

    Attributes:
        vectors: One draw a row, shape (k, P).
        losses: The same of the loss of one example, shape (k,), float64.
        whole: Whether these are all the examples one by one, so that means are exact.
        words: Where they are from.
    """

    vectors: Tensor
    losses: Tensor
    whole: bool
    words: str

    def variances(self) -> Tensor:
        """Return the diagonal of Σ, shape (P,)."""
        return self.vectors.square().mean(0)

    def trace(self) -> tuple[float, float]:
        """Return tr Σ and its standard error."""
        squares = torch.stack([row.double().square().sum() for row in self.vectors]).cpu()
        return _mean_and_error(squares, self.whole)

    def variance_along(self, vector: Tensor) -> float:
        """Return vᵀΣv."""
        along = self.vectors.double() @ vector.double()
        return float(along.square().mean())

    def loss_variance(self) -> float:
        """Return the variance of the loss of one example."""
        return float(self.losses.square().mean())


def batch_share(batch_size: float, examples: int) -> float:
    """Return the factor of Σ in the covariance of a mini-batch gradient: (N − B)/((N − 1) B)."""
    if batch_size >= examples:
        return 0.0
    return (examples - batch_size) / ((examples - 1) * batch_size)


def deviations_of(
    objective: ModelObjective, theta: Any, examples: int, seed: int
) -> Deviations | None:
    """Return how gradients of examples deviate at a point; None where it cannot be told.

    Args:
        objective: J, maybe on a subsample.
        theta: The point, with the statistics that came with it.
        examples: N, of all the data.
        seed: Seed of the groups.
    """
    split = objective.splits[0]
    found = split.examples
    if found < 2:
        return None
    room = _BYTES // (objective.space.size * objective.dtype.itemsize)
    groups = max(_LEAST_GROUPS, min(_GROUPS, room))
    batches_matter = objective.batch_norm in ("batch", "recalibrate")
    if can_pick(split):
        largest = _STREAMED_EXAMPLES if split.streamed else max(split.lengths)
        size = max(min(-(-found // groups), largest), 2 if batches_matter else 1)
        drawn = random_examples(split, seed)[: groups * size]
        if batches_matter and len(drawn) % size == 1:  # one example alone has no statistics
            drawn = drawn[:-1]
        cost = with_examples(objective, drawn, size)
        sizes: Sequence[int] = cost.splits[0].lengths
        words = f"{len(sizes)} random mini-batches of {size}"
    else:
        cost, sizes = copy.copy(objective), split.lengths
        words = f"{len(sizes)} batches of the data as they come"
    if batches_matter and objective.batch_norm != "batch":
        cost.batch_norm = "batch"  # a training step takes the statistics of its mini-batch
    if len(sizes) < 2 or len(sizes) > max(_LEAST_GROUPS, room):
        return None
    vectors, losses = _of_groups(cost, theta, sizes, examples)
    whole = len(sizes) == examples and not batches_matter
    return Deviations(vectors, losses, whole, words)


def _of_groups(
    cost: ModelObjective, theta: Any, sizes: Sequence[int], examples: int
) -> tuple[Tensor, Tensor]:
    """Return scaled deviations of gradients and losses of the batches of a cost."""
    pieces = cost.pieces(theta, cost.space.blocks)
    masks = len(cost.samples)
    k = len(sizes)
    vectors = torch.zeros(k, cost.space.size, dtype=cost.dtype, device=cost.device)
    losses = torch.zeros(k, dtype=torch.float64, device=cost.device)
    counts = torch.zeros_like(losses)
    with pieces.context():
        for number, evaluate in enumerate(pieces.all()):
            piece = evaluate(pieces.leaves)
            if piece.count is None:  # a penalty is the same for all
                continue
            group = number // masks
            losses[group] += piece.value.detach()
            counts[group] += piece.count
            parts = gradient_of(piece, pieces.leaves)
            start = 0
            for leaf, part in zip(pieces.leaves, parts, strict=True):
                stop = start + leaf.numel()
                if part is not None:
                    vectors[group, start:stop] += part.detach().reshape(-1)
                start = stop
    with torch.no_grad():
        total = counts.sum()
        mean = vectors.sum(0, dtype=torch.float64) / total
        number_of = torch.tensor(sizes, dtype=torch.float64, device=cost.device)
        # Deviation of the summed gradient from what its terms have on average, per example.
        terms = total / number_of.sum()
        scale = number_of.sqrt() * math.sqrt(k / (k - 1) * (examples - 1) / examples)
        factor = scale / (number_of * terms)
        vectors -= (counts[:, None] * mean).to(vectors.dtype)
        vectors *= factor[:, None].to(vectors.dtype)
        losses = (losses - counts * (losses.sum() / total)) * factor
    return vectors, losses.cpu()


@dataclass(frozen=True, eq=False)
class KnownSpace:
    """A space in which a symmetric operator A is known, that of a few Lanczos steps.

    Attributes:
        basis: Orthonormal rows q, shape (m, P).
        images: A q, shape (m, P).
    """

    basis: Tensor
    images: Tensor

    @classmethod
    def around(cls, product: Callable[[Tensor], Tensor], start: Tensor, steps: int) -> "KnownSpace":
        """Return the Krylov space of a vector."""
        return cls(*krylov_space(product, start, steps))

    def largest(self) -> tuple[float, float]:
        """Return the largest Ritz value and the norm of its residual; NaN where A is not finite."""
        inner = (self.basis @ self.images.T).double().cpu()
        if not bool(torch.isfinite(inner).all()):
            return math.nan, math.nan
        values, turn = torch.linalg.eigh((inner + inner.T) / 2)
        top = turn[:, -1].to(self.basis)
        residual = (top @ self.images).double() - float(values[-1]) * (top @ self.basis).double()
        return float(values[-1]), float(residual.norm())

    def forms(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Split xᵀA x for some vectors x: what the space tells of it, and what of x is outside.

        With x = q + r, q in the space, xᵀA x = qᵀA q + 2 rᵀA q + rᵀA r; the last is not told.
        """
        inside = vectors @ self.basis.T
        outside = vectors - inside @ self.basis
        again = outside @ self.basis.T  # rounding leaves some of it
        inside, outside = inside + again, outside - again @ self.basis
        known = (inside * (vectors + outside).matmul(self.images.T)).sum(1)
        return known.double().cpu(), outside


def mean_of_forms(
    vectors: Tensor,
    product: Callable[[Tensor], Tensor],
    space: KnownSpace | None,
    products: int,
    whole: bool,
) -> tuple[float, float]:
    """Return the mean of xᵀA x over some draws x, and its standard error.

    A few of the draws are multiplied with A. What a space tells of all of them is a control
    variate: only what is outside of it is left to those few (as in Hutch++, Meyer et al. 2021).

    Args:
        vectors: The draws, in random order, shape (k, P).
        product: x ↦ A x.
        space: Where A is known, or None.
        products: Most products.
        whole: Whether the draws are all that there are.
    """
    count = len(vectors)
    if space is None:
        known, outside = torch.zeros(count, dtype=torch.float64), vectors
    else:
        known, outside = space.forms(vectors)
    chosen = min(products, count)
    lengths, left = (rows.double().square().sum(1).cpu() for rows in (vectors, outside))
    if bool((left <= _NOTHING * lengths).all()):
        return _mean_and_error(known, whole)
    rest = torch.stack([(row.double() @ product(row).double()).cpu() for row in outside[:chosen]])
    if chosen == count:
        return _mean_and_error(known + rest, whole)
    mean, error = _mean_and_error(known, whole)
    more, own = _mean_and_error(rest, False)
    return mean + more, math.hypot(error, own * math.sqrt(1 - chosen / count))


def _mean_and_error(values: Tensor, whole: bool) -> tuple[float, float]:
    """Return a mean and its standard error, 0 where the values are all that there are."""
    mean = float(values.mean())
    if whole:
        return mean, 0.0
    if len(values) < 2:
        return mean, math.nan
    return mean, float(values.std()) / math.sqrt(len(values))


def standard_error(variance: float, examples: int, of: int) -> float:
    """Return the standard error of a mean over some of all examples, drawn without replacement."""
    if examples >= of:
        return 0.0
    return math.sqrt(max(0.0, variance) * batch_share(examples, of))
