"""What the cost does along directions in which its Hessian is zero.

Where the Hessian is singular it decides nothing: x² + y⁴ and x² − y⁴ have the same gradient and
Hessian at the origin. By the splitting lemma (Gromoll & Meyer 1969) J is there, in suitable
coordinates, a sum of the quadratic form in the directions with curvature and of a function h of
the null space alone,

    h(u) = J(θ + u + s(u)),    s(u) such that the gradient along the curved directions is 0,

so the kind of the point follows from the sign of h − J₀ on small spheres and from the signs of
the eigenvalues. Without s(u), points such as that of (y − x²)(y − 3x²) would pass for minima: it
rises along both axes, and falls along y = 2x².
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from thalweg.objectives.objective import Objective
from thalweg.probes.local_model import rounded_points
from thalweg.results import Array

__all__ = ["PAIRS", "NullSpaceProbe", "null_space_probe"]

# Distances as shares of ℓ, from where quartic changes are near rounding to where ℓ is felt.
_RADII: Array = np.ldexp(0.1, np.arange(-9, 1))
_ANGLES = 48  # around a circle
PAIRS = 32  # pairs of opposite directions in more dimensions
_AXES = 16  # up to so many dimensions their axes are tried too
_ROUNDINGS = 8.0
_CORRECTIONS = 12
_SETTLED = 0.1  # share of the change below which what is left to minimise is of no matter


@dataclass(frozen=True, eq=False)
class NullSpaceProbe:
    """Changes of the cost on spheres in the null space.

    Attributes:
        radius: Shape (r,), ascending.
        change: h − J₀, shape (r, d).
        resolution: Changes of up to this size mean nothing, shape (r, d).
        signs: Sign in each direction, at the smallest two radii that tell, shape (d,).
        circle: Whether the directions go round a circle.
        evaluations: Number of values and of gradients of J.
    """

    radius: Array
    change: Array
    resolution: Array
    signs: Array
    circle: bool
    evaluations: int

    @property
    def sign_changes(self) -> int | None:
        """Changes of sign around the circle, or None where there is none."""
        if not self.circle:
            return None
        known = self.signs[self.signs != 0]
        return int(np.sum(known != np.roll(known, 1)))


def null_space_probe(
    objective: Objective,
    theta: Tensor,
    null: Tensor,
    curved: tuple[Tensor, Tensor],
    *,
    length: float,
    slope: float,
    largest: float,
    pairs: int = PAIRS,
) -> NullSpaceProbe:
    """Return what the cost does on spheres in the null space of its Hessian.

    Directions are the two of a line, 48 around a circle, or 32 random pairs of opposite ones
    (seeded) and the axes of up to 16 dimensions.

    Args:
        objective: J.
        theta: The point, shape (P,).
        null: Orthonormal rows that span the null space, shape (d, P).
        curved: Eigenvalues and eigenvectors (rows) with curvature, of one sign.
        length: ℓ.
        slope: Norm of the gradient in the null space, which is taken for zero.
        largest: Largest size of an eigenvalue.
        pairs: Number of random pairs of directions.
    """
    coefficients = _directions(len(null), pairs)
    eps = torch.finfo(objective.rounding).eps
    # The point itself may be a little off: what the curved directions still give is no change.
    theta, value, base, evaluations = _settled(objective, theta, math.nan, curved, 0.0)
    near = [objective.value(place) for place in rounded_points(objective, theta)]
    noise = _ROUNDINGS * max(abs(each - value) for each in near)
    evaluations += len(near)
    radii: Array = length * _RADII
    shape = (len(radii), len(coefficients))
    change, resolution = np.zeros(shape), np.zeros(shape)
    for j, row in enumerate(coefficients):
        direction = (row.to(null) @ null).to(theta)
        for i, radius in enumerate(radii):
            place = theta + radius * direction
            moved = eps * float(place.double().norm())  # what rounding of θ may move
            rounding = noise + _ROUNDINGS * (eps * abs(value) + largest * moved**2 / 2)
            _, found, left, count = _settled(objective, place, value, curved, rounding)
            change[i, j] = found - value
            rounding += _ROUNDINGS * eps * abs(found)
            resolution[i, j] = rounding + 2 * (base + left) + 2 * slope * radius
            evaluations += count
    change = np.where(np.isfinite(change), change, 0.0)
    signs = np.array([_sign(*pair) for pair in zip(change.T, resolution.T, strict=True)])
    return NullSpaceProbe(radii, change, resolution, signs, len(null) == 2, evaluations)


def _directions(size: int, pairs: int) -> Tensor:
    """Return unit vectors in a space of some dimensions, as rows."""
    if size == 1:
        return torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    if size == 2:
        # Off the axes, where functions of even and odd powers have their zeros.
        angles = 2 * math.pi * (torch.arange(_ANGLES, dtype=torch.float64) + 0.37) / _ANGLES
        return torch.stack([angles.cos(), angles.sin()], 1)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(pairs, size, generator=generator, dtype=torch.float64)
    drawn = drawn / drawn.norm(dim=1, keepdim=True)
    if size <= _AXES:
        drawn = torch.cat([drawn, torch.eye(size, dtype=torch.float64)])
    return torch.cat([drawn, -drawn])


def _settled(
    objective: Objective,
    place: Tensor,
    value: float,
    curved: tuple[Tensor, Tensor],
    rounding: float,
) -> tuple[Tensor, float, float, int]:
    """Follow the curved directions to where the gradient along them is zero.

    It is enough to be so close that what is left matters neither to rounding nor to the change
    from a value. Returns the place, J there, what may be left to gain, and how many evaluations
    it took.
    """
    eigenvalues, vectors = curved
    found, count, left = objective.value(place), 1, math.inf
    if len(eigenvalues) == 0:
        return place, found, 0.0, count
    for _ in range(_CORRECTIONS):
        slopes = (vectors @ objective.gradient(place).to(vectors)).double().cpu()
        before, left = left, float((slopes**2 / eigenvalues.abs()).sum() / 2)
        count += 1
        if left <= rounding / 4 or left <= _SETTLED * abs(found - value):
            return place, found, left, count
        if not left < before / 2:  # down to rounding, or too far out for these curvatures
            return place, found, min(left, before) if left < math.inf else math.inf, count
        step = (-slopes / eigenvalues).to(vectors) @ vectors
        place = place + step.to(place)
        found = objective.value(place)
        count += 1
    return place, found, left, count


def _sign(change: Array, resolution: Array) -> float:
    """Return the sign at the smallest radius that tells and that the next one bears out."""
    known = np.where(np.abs(change) > resolution, np.sign(change), 0.0)
    for near, far in itertools.pairwise(known):
        if near != 0 and near == far:
            return float(near)
    return 0.0
