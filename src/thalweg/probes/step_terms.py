"""The numbers of one step: what gradient, Hessian and noise say of it."""

import math

import torch
from torch import Tensor

from thalweg.objectives.curvature import Curvature
from thalweg.probes.expected_update import ExpectedUpdate
from thalweg.probes.gradient_noise import Deviations, KnownSpace, mean_of_forms
from thalweg.probes.lanczos import random_vectors

__all__ = ["StepTerms"]

_LANCZOS = 12  # steps for the largest eigenvalue
# Products for what curvature does to noise: fewer where Lanczos has told most of it.
_PRODUCTS, _PRODUCTS_BESIDE = 4, 2


class StepTerms:
    """What is known at one snapshot, and the numbers that follow.

    Args:
        at: J to second order.
        expected: The expected update.
        noise: How gradients of examples deviate, or None.
        share: Factor of Σ in the covariance of the mini-batch gradient, or NaN.
        seed: Seed of the Lanczos start, or None where λ_max is not wanted.
    """

    def __init__(
        self,
        at: Curvature,
        expected: ExpectedUpdate,
        noise: Deviations | None,
        share: float,
        seed: int | None,
    ) -> None:
        self.at, self.expected, self.noise, self.share = at, expected, noise, share
        self.root = None
        if expected.preconditioner is not None:
            self.root = expected.preconditioner.sqrt()
        self.space = None if seed is None else self._known_space(seed)

    def at_gradient(self) -> dict[str, float]:
        """Return what is known without an update."""
        gradient = self.at.gradient
        row = {
            "squared_gradient": _dot(gradient, gradient),
            "gradient_curvature": _dot(gradient, self.at.product(gradient)),
        }
        if self.space is not None:
            row["largest_eigenvalue"], row["eigenvalue_error"] = self.space.largest()
        return row

    def of_examples(self) -> dict[str, float]:
        """Return how the gradient varies from example to example."""
        if self.noise is None:
            return {}
        row = {}
        row["gradient_variance"], row["gradient_variance_error"] = self.noise.trace()
        row["curvature_variance"], row["curvature_variance_error"] = self._forms(self.noise.vectors)
        return row

    def of_update(self, update: Tensor, examples: dict[str, float]) -> dict[str, float]:
        """Return the terms of an update.

        Args:
            update: u.
            examples: What `of_examples` returned.
        """
        gradient, mean = self.at.gradient, self.expected.mean
        length = math.sqrt(_dot(update, update) * _dot(gradient, gradient))
        slope = _dot(gradient, update)
        row = {
            "squared_update": _dot(update, update),
            "cosine": -slope / length if length > 0 else math.nan,
        }
        row |= self._noise(update, examples)
        along = update if mean is None else mean
        row["descent"] = _dot(gradient, along)
        row["curvature"] = 0.5 * _dot(along, self.at.product(along))
        known = row.get("noise", math.nan)
        if mean is None and not math.isnan(known):
            row["curvature"] -= known
        return row

    def _noise(self, update: Tensor, examples: dict[str, float]) -> dict[str, float]:
        """Return the noise term, from examples where that is possible, else from one draw."""
        response = self.expected.response
        if response is None:
            return {}
        if self.share == 0:
            return {"noise": 0.0, "noise_error": 0.0}
        if self.noise is not None and not math.isnan(self.share):
            if isinstance(response, float):
                mean, error = (
                    response**2 * examples[name]
                    for name in ("curvature_variance", "curvature_variance_error")
                )
            else:
                mean, error = self._forms(response * self.noise.vectors)
            return {"noise": 0.5 * self.share * mean, "noise_error": 0.5 * self.share * error}
        if self.expected.mean is None:
            return {}
        draw = update - self.expected.mean
        row = {"noise": 0.5 * _dot(draw, self.at.product(draw))}
        if self.noise is None and isinstance(response, float) and response != 0:
            row["gradient_variance"] = _dot(draw, draw) / response**2
            row["curvature_variance"] = 2 * row["noise"] / response**2
        return row

    def _forms(self, vectors: Tensor) -> tuple[float, float]:
        """Return the mean of xᵀHx over some draws, and its standard error."""
        assert self.noise is not None
        scaled = vectors if self.root is None else vectors / self.root
        products = _PRODUCTS if self.space is None else _PRODUCTS_BESIDE
        return mean_of_forms(scaled, self._product, self.space, products, self.noise.whole)

    def _product(self, vector: Tensor) -> Tensor:
        """Return H v, or D^½ H D^½ v under a preconditioner."""
        if self.root is None:
            return self.at.product(vector)
        return self.root * self.at.product(self.root * vector)

    def _known_space(self, seed: int) -> KnownSpace:
        """Return the Krylov space of the gradient and a random vector, half of each."""
        gradient = self.at.gradient if self.root is None else self.root * self.at.gradient
        generator = torch.Generator().manual_seed(seed)
        start = random_vectors(1, gradient, generator)[0]
        start = start / start.norm()
        length = gradient.norm()
        return KnownSpace.around(
            self._product, start + gradient / length if length > 0 else start, _LANCZOS
        )


def _dot(a: Tensor, b: Tensor) -> float:
    """Return aᵀb, summed in float64."""
    return float(a.double() @ b.double())
