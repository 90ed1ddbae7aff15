"""What kind of point a point is."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from thalweg.results.frozen import Array, freeze, rebuilt
from thalweg.results.provenance import Provenance

__all__ = ["KINDS", "CriticalPoint"]

KINDS = ("minimum", "maximum", "saddle", "degenerate", "undetermined", "not critical")


@dataclass(frozen=True, eq=False)
class CriticalPoint:
    """What the gradient, the Hessian and what lies beyond them say about a point.

    Attributes:
        kind: `"minimum"`: the cost falls in no direction and rises in some. `"maximum"`: the
            same for −J. `"saddle"`: there are ways up and ways down. `"degenerate"`: the
            Hessian is singular, and along its null space the cost is constant as far as its
            arithmetic can tell (a valley floor, a plateau); `across` names the rest.
            `"undetermined"`: the numbers do not tell, and `evidence` says what is missing.
            `"not critical"`: the gradient is small or large, but real.
        theta: The point, shape (P,).
        loss: J.
        gradient_norm: ‖∇J‖.
        eigenvalues: Those of the Hessian that were computed, ascending: all P of them, or some
            at both ends.
        residuals: ‖H v − λ v‖ of each.
        zero: Eigenvalues of up to this size count as zero.
        index_fraction: Share of negative eigenvalues, or None where they are not all known.
        index_interval: The shares that are possible; zero eigenvalues may be of either sign.
        displacement: ‖abs(H)⁻¹ ∇J‖: how far off a critical point is by the curvature here.
        length: The length ℓ that distances are compared with.
        tolerance: A point is critical where `displacement` is at most `tolerance` times ℓ.
        across: Kind of the point among the directions with curvature: `"minimum"`,
            `"maximum"`, `"saddle"`, or `""` where there is no curvature at all.
        radius: Distances at which the null space of the Hessian was probed, ascending, shape
            (r,); empty where the Hessian decides.
        change: J − J₀ there, for d directions and minimised (or maximised) over the directions
            with curvature, shape (r, d).
        resolution: Changes of up to this size mean nothing, shape (r, d).
        signs: Sign of the change in each direction, 0 where it is not resolved, shape (d,).
        sign_changes: Changes of sign around a circle, for a null space of two dimensions.
        products: Number of Hessian-vector products that it took.
        evidence: The reasons in words, one sentence each.
        provenance: What made this result.

    Example:
        >>> CriticalPoint("saddle", theta=[0, 0], loss=1.0, eigenvalues=[-2, 2]).size
        2
    """

    kind: str
    theta: Array
    loss: float = float("nan")
    gradient_norm: float = float("nan")
    eigenvalues: Array = field(default_factory=lambda: np.empty(0))
    residuals: Array = field(default_factory=lambda: np.empty(0))
    zero: float = 0.0
    index_fraction: float | None = None
    index_interval: tuple[float, float] = (0.0, 1.0)
    displacement: float = float("nan")
    length: float = float("nan")
    tolerance: float = float("nan")
    across: str = ""
    radius: Array = field(default_factory=lambda: np.empty(0))
    change: Array = field(default_factory=lambda: np.empty((0, 0)))
    resolution: Array = field(default_factory=lambda: np.empty((0, 0)))
    signs: Array = field(default_factory=lambda: np.empty(0))
    sign_changes: int | None = None
    products: int = 0
    evidence: tuple[str, ...] = ()
    provenance: Provenance = field(default_factory=Provenance)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(
                f"`kind` must be one of {', '.join(map(repr, KINDS))}; got {self.kind!r}. Name "
                "what the point is."
            )
        freeze(self, "theta", (None,))
        freeze(self, "eigenvalues", (None,))
        if len(self.residuals) == 0:  # not known
            object.__setattr__(self, "residuals", np.full(len(self.eigenvalues), np.nan))
        freeze(self, "residuals", (len(self.eigenvalues),))
        freeze(self, "radius", (None,))
        freeze(self, "signs", (None,))
        for name in ("change", "resolution"):
            freeze(self, name, (len(self.radius), len(self.signs)))

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuilt(self)

    @property
    def size(self) -> int:
        """Number P of parameters."""
        return len(self.theta)

    def __str__(self) -> str:
        """Return the kind with its reasons."""
        return f"{self.kind}: " + " ".join(self.evidence)
