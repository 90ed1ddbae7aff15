"""The way of a search for a critical point."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from thalweg.results.frozen import Array, freeze, rebuilt
from thalweg.results.provenance import Provenance

__all__ = ["OUTCOMES", "CriticalPointSearch"]

OUTCOMES = ("converged", "not converged", "gradient-flat point")


@dataclass(frozen=True, eq=False)
class CriticalPointSearch:
    """Where a search for a point of zero gradient went, and whether it found one.

    Attributes:
        theta: The last point, shape (P,).
        loss: J at the start and after each of n steps, shape (n + 1,).
        gradient_norm: ‖∇J‖ there, shape (n + 1,).
        displacement: ‖abs(H)⁻¹ ∇J‖ there: how far off a critical point is by the curvature at
            hand, shape (n + 1,).
        step: Lengths of the steps, shape (n,).
        method: Name of the method.
        outcome: `"converged"`; `"not converged"`; or `"gradient-flat point"`: the gradient is
            not zero, but the Hessian does not see it, H ∇J ≈ 0, so that ‖∇J‖ has a minimum
            there. It is no critical point.
        reason: Why the search ended, one sentence.
        tolerance: It has converged where `displacement` is at most `tolerance` times ℓ.
        length: ℓ at the last point.
        products: Number of Hessian-vector products.
        gradients: Number of gradients.
        values: Number of further values of J.
        points: All points, shape (n + 1, P), where they were asked for; else shape (0, P).
        provenance: What made this result.

    Example:
        >>> search = CriticalPointSearch(theta=[0.0], loss=[1.0, 0.0], gradient_norm=[2.0, 0.0])
        >>> search.steps, search.converged
        (1, False)
    """

    theta: Array
    loss: Array
    gradient_norm: Array
    displacement: Array = field(default_factory=lambda: np.empty(0))
    step: Array = field(default_factory=lambda: np.empty(0))
    method: str = ""
    outcome: str = "not converged"
    reason: str = ""
    tolerance: float = float("nan")
    length: float = float("nan")
    products: int = 0
    gradients: int = 0
    values: int = 0
    points: Array = field(default_factory=lambda: np.empty((0, 0)))
    provenance: Provenance = field(default_factory=Provenance)

    def __post_init__(self) -> None:
        if self.outcome not in OUTCOMES:
            raise ValueError(
                f"`outcome` must be one of {', '.join(map(repr, OUTCOMES))}; got "
                f"{self.outcome!r}. Name how the search ended."
            )
        freeze(self, "theta", (None,))
        freeze(self, "loss", (None,))
        count = len(self.loss)
        for name, length in (("displacement", count), ("step", count - 1)):
            if len(getattr(self, name)) == 0:  # not known
                object.__setattr__(self, name, np.full(length, np.nan))
            freeze(self, name, (length,))
        freeze(self, "gradient_norm", (count,))
        if np.size(self.points) == 0:
            object.__setattr__(self, "points", np.empty((0, len(self.theta))))
        freeze(self, "points", (None, len(self.theta)))

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuilt(self)

    @property
    def steps(self) -> int:
        """Number of steps."""
        return len(self.step)

    @property
    def converged(self) -> bool:
        """Whether a critical point was found."""
        return self.outcome == "converged"
