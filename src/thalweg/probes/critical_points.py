"""Telling minima, maxima and saddles apart, and what is none of them."""

import math
import time
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from thalweg.environment import provenance
from thalweg.objectives.curvature import Curvature, curvature
from thalweg.objectives.objective import Objective, expect_objective
from thalweg.probes.critical_point_search import expect_settings
from thalweg.probes.local_model import (
    NULL,
    LocalModel,
    gradient_rounding,
    local_model,
    norm_of,
    rounded_points,
    scale_of,
)
from thalweg.probes.null_space import PAIRS, NullSpaceProbe, null_space_probe
from thalweg.probes.spectrum import spectrum_of
from thalweg.progress import Progress, progress_bar
from thalweg.results.critical_point import CriticalPoint

__all__ = ["classify"]

_WHOLE = 2000  # up to so many parameters the whole Hessian is taken
_KRYLOV = 30
_FEW_PAIRS = 4  # of directions where each takes a pass over much data, and cannot settle it
_ROUNDINGS = 10.0
# A change this small, as a share of that of the largest curvature, must be visible in J for the
# cost to be called constant.
_VISIBLE = 1e-3


def classify(
    objective: Objective,
    theta: Tensor | ArrayLike,
    *,
    tolerance: float = 1e-6,
    scale: float | None = None,
    k: int = 10,
    progress: bool | Progress | None = None,
) -> CriticalPoint:
    """Return what kind of point θ is, with the evidence.

    1. **Is it critical?** The curvature predicts a critical point at the distance
       ‖abs(H)⁻¹ ∇J‖. It must be at most `tolerance` · ℓ, with ℓ = ‖θ‖ or `scale`, and where
       there is no curvature the gradient must be zero up to its rounding. So J → cJ, J → J + d
       and θ → cθ do not change the verdict, and a small gradient alone means nothing: far out
       on the logistic cost of separable data it is 1e-12, at points that are not critical.
    2. **What does the Hessian say?** Up to 2000 parameters all eigenvalues are computed, beyond
       that those at both ends. Eigenvalues of up to `zero` count as zero: 1e-6 of the largest,
       or what rounding, or the distance to the critical point, may have changed in them. One
       negative and one positive eigenvalue make a saddle; all positive, a minimum; all
       negative, a maximum.
    3. **What lies beyond?** Where eigenvalues are zero and the others have one sign, the cost is
       evaluated in the null space, on spheres of ten radii from ℓ/5120 to ℓ/10, minimised (or
       maximised) along the curved directions: the splitting lemma of Gromoll & Meyer (1969)
       says that its sign there decides. Directions are the two of a line, 48 around a circle, or
       32 random pairs and the axes in more dimensions: a way down that is narrower than these
       is not found.

    `"degenerate"` is a finding: along the null space the cost is constant in all directions that
    were tried, to an accuracy that would have shown a thousandth of the largest curvature.
    `"undetermined"` says that the numbers do not tell, because J is too coarse (float32), the
    gradient is down to its rounding while the point it would lead to is far, or too few
    eigenvalues are known.

    Args:
        objective: The cost J.
        theta: The point, shape (P,).
        tolerance: As above.
        scale: The length ℓ, in the units of θ; ‖θ‖ by default, or 1 where ‖θ‖ is below 1e-5.
        k: Number of eigenvalues at each end, for more than 2000 parameters.
        progress: None for a progress bar on a terminal, False for none.

    Raises:
        TypeError: If the first argument is no objective.
        ValueError: If a setting is out of range, or J or its gradient is not finite at θ.
        ParameterMismatchError: If θ has another shape.

    Example:
        >>> from thalweg import functions
        >>> at = (1.0, -2.0)
        >>> classify(functions.quartic_bowl(at), at, progress=False).kind
        'minimum'
        >>> point = classify(functions.quartic_saddle(at), at, progress=False)
        >>> point.kind, point.eigenvalues, point.index_interval
        ('saddle', array([0., 2.]), (0.0, 0.5))
        >>> classify(functions.quartic_bowl(at), (1.0, -1.9), progress=False).kind
        'not critical'

    Source: Goodfellow, Bengio & Courville (2016), section 4.3.1, for the second derivative test;
    Gromoll & Meyer (1969), "On differentiable functions with isolated critical points".
    """
    expect_objective(objective)
    expect_settings(tolerance, scale)
    if not k >= 1:
        raise ValueError(f"`k` must be 1 or more; got {k}. Ask for one eigenvalue at least.")
    place = objective.point(theta)
    clock = time.perf_counter()
    with progress_bar(progress) as report:
        report(0, 3, "gradient")
        question = _Question(objective, place, tolerance, scale_of(place, scale), k)
        answer = question.answered(report)
    probe, pairs = answer.probe, question.pairs
    empty = np.empty((0, 0))
    return CriticalPoint(
        kind=answer.kind,
        theta=place.double().cpu().numpy(),
        loss=question.point.value,
        gradient_norm=question.gradient_norm,
        eigenvalues=pairs.eigenvalues,
        residuals=pairs.residuals,
        zero=question.zero,
        index_fraction=question.index_fraction,
        index_interval=question.index_interval,
        displacement=question.model.displacement(),
        length=question.length,
        tolerance=tolerance,
        across=question.across if answer.kind != "not critical" else "",
        radius=np.empty(0) if probe is None else probe.radius,
        change=empty if probe is None else probe.change,
        resolution=empty if probe is None else probe.resolution,
        signs=np.empty(0) if probe is None else probe.signs,
        sign_changes=None if probe is None else probe.sign_changes,
        products=question.products,
        evidence=tuple(answer.evidence),
        provenance=provenance(
            objective.device,
            objective.dtype,
            time.perf_counter() - clock,
            objective=objective.describe(),
            section={"kind": "point", "eigenvalues": "all" if pairs.whole else f"{k} at each end"},
        ),
    )


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Eigenpairs of the Hessian: all, or those at both ends, which may be known for sure."""

    eigenvalues: np.ndarray[tuple[int, ...], np.dtype[np.float64]]
    residuals: np.ndarray[tuple[int, ...], np.dtype[np.float64]]
    vectors: Tensor
    whole: bool
    ends_known: bool = True


@dataclass(frozen=True, eq=False)
class _Answer:
    """A verdict with its reasons."""

    kind: str
    evidence: list[str] = field(default_factory=list)
    probe: NullSpaceProbe | None = None


class _Question:
    """What is known about a point."""

    def __init__(
        self, objective: Objective, theta: Tensor, tolerance: float, length: float, k: int
    ) -> None:
        self.objective, self.theta, self.length = objective, theta, length
        self.reach = tolerance * length
        self.point = curvature(objective, theta)
        self.gradient_norm = norm_of(self.point.gradient)
        if not (math.isfinite(self.point.value) and math.isfinite(self.gradient_norm)):
            raise ValueError(
                f"The cost and its gradient must be finite; at this point J is "
                f"{self.point.value:g} and the gradient has norm {self.gradient_norm:g}. Use a "
                "point from before the training diverged."
            )
        whole = len(theta) <= _WHOLE
        self.model = local_model(self.point, None if whole else _KRYLOV)
        self.products = self.model.products
        if whole:
            self.pairs = _all_pairs(self.model)
        else:
            objective.check(theta)
            self.pairs, used = _end_pairs(self.point, k)
            self.products += used
        values = self.pairs.eigenvalues
        self.largest = max(float(np.abs(values).max()), self.model.largest)
        self.zero = self._zero()
        self.positive = int((values > self.zero).sum())
        self.negative = int((values < -self.zero).sum())
        self.null = len(values) - self.positive - self.negative

    def _zero(self) -> float:
        """Return up to which size an eigenvalue may be zero."""
        eps = torch.finfo(self.objective.rounding).eps
        rounding = _ROUNDINGS * eps * math.sqrt(len(self.theta)) * self.largest
        top = self.pairs.vectors[int(np.abs(self.pairs.eigenvalues).argmax())].to(self.theta)
        image = self.point.product(top)
        for near in rounded_points(self.objective, self.theta):
            moved = (self.objective.hvp(near, top) - image).double().norm()
            rounding = max(rounding, _ROUNDINGS * float(moved))
        self.products += 3
        return max(NULL * self.largest, rounding, self._drift())

    def _drift(self) -> float:
        """Return by how much eigenvalues may differ at the critical point that is near."""
        step = self.model.along(self.model.newton()).to(self.theta)
        length = float(step.double().norm())
        if not 0 < length <= self.reach:
            return 0.0
        there = self.theta + 2 * step
        if self.model.whole:
            self.products += len(self.theta)
            here = self.model.vectors.T @ (self.model.eigenvalues[:, None] * self.model.vectors)
            change = curvature(self.objective, there).dense() - here
            return float(torch.linalg.matrix_norm(change, 2))
        ends = [self.pairs.vectors[0], self.pairs.vectors[-1]]
        self.products += 2 * len(ends)
        changes = [
            self.objective.hvp(there, v.to(there)) - self.point.product(v.to(there)) for v in ends
        ]
        return max(float(change.double().norm()) for change in changes)

    @property
    def index_fraction(self) -> float | None:
        """Share of negative eigenvalues, where all are known not to be zero."""
        low, high = self.index_interval
        return low if low == high else None

    @property
    def index_interval(self) -> tuple[float, float]:
        """Shares that are possible."""
        size = len(self.theta)
        return self.negative / size, (size - self.positive) / size

    @property
    def across(self) -> str:
        """Kind of the point among the directions with curvature."""
        if self.positive and self.negative:
            return "saddle"
        return "minimum" if self.positive else "maximum" if self.negative else ""

    def answered(self, report: Progress) -> _Answer:
        """Return the verdict."""
        report(1, 3, "Hessian")
        doubt = self._not_critical()
        if doubt is not None:
            return doubt
        report(2, 3, "null space")
        evidence = [self._gradient_words(), self._eigenvalue_words()]
        if self.across == "saddle":
            return _Answer("saddle", [*evidence, "There are ways up and ways down."])
        if self.null == 0 and self.pairs.whole:
            return _Answer(self.across, [*evidence, "They have one sign."])
        if self.null == 0 and self._ends_decide():
            return _Answer(self.across, [*evidence, "Both ends have one sign, so all have."])
        return self._beyond(evidence)

    def _not_critical(self) -> _Answer | None:
        """Return why the point is not critical, or cannot be said to be; None where it is."""
        displacement = self.model.displacement()
        loose = self.model.unexplained(self.reach)
        if displacement <= self.reach and loose == 0:
            return None
        rounding = gradient_rounding(self.objective, self.theta, self.point.gradient)
        if displacement <= self.reach and loose <= rounding:
            return None
        reasons = []
        if displacement > self.reach:
            reasons.append(
                f"By the curvature here a critical point is {displacement:.2g} away, more than "
                f"{self.reach:.2g}."
            )
        if loose > rounding:
            reasons.append(
                f"Where there is no curvature the gradient is {loose:.2g}, and its rounding "
                f"{rounding:.2g}: a slope."
            )
        if self.gradient_norm <= rounding:
            name = str(self.objective.rounding).removeprefix("torch.")
            reasons.append(
                f"But the gradient, {self.gradient_norm:.2g}, is no larger than its rounding in "
                f"{name}, {rounding:.2g}: compute in a wider type."
            )
            return _Answer("undetermined", reasons)
        reasons.append(f"The gradient has norm {self.gradient_norm:.2g}.")
        return _Answer("not critical", reasons)

    def _ends_decide(self) -> bool:
        """Tell whether the smallest eigenvalue in size is known to be beyond zero."""
        values, residuals = self.pairs.eigenvalues, self.pairs.residuals
        end = 0 if self.positive else -1
        return self.pairs.ends_known and bool(abs(values[end]) - residuals[end] > self.zero)

    def _beyond(self, evidence: list[str]) -> _Answer:
        """Ask the cost in the null space of the Hessian."""
        values = torch.from_numpy(self.pairs.eigenvalues.copy())
        flat = values.abs() <= self.zero
        if not bool(flat.any()):
            return _Answer("undetermined", [*evidence, "The ends are not known well enough."])
        null, curved = self.pairs.vectors[flat], self.pairs.vectors[~flat]
        slope = float((null.double() @ self.point.gradient.double().to(null.device)).norm())
        probe = null_space_probe(
            self.objective,
            self.theta,
            null,
            (values[~flat], curved),
            length=self.length,
            slope=slope,
            largest=self.largest,
            pairs=PAIRS if self.pairs.whole else _FEW_PAIRS,
        )
        up, down = int((probe.signs > 0).sum()), int((probe.signs < 0).sum())
        tried = len(probe.signs)
        evidence = [
            *evidence,
            f"Of {tried} directions in the null space the cost rises along {up}, falls along "
            f"{down}, and does not change as far as can be resolved along {tried - up - down}, at "
            f"distances from {probe.radius[0]:.2g} to {probe.radius[-1]:.2g}.",
        ]
        if probe.sign_changes:
            evidence.append(f"Its sign changes {probe.sign_changes} times around the point.")
        rises, falls = up > 0 or self.positive > 0, down > 0 or self.negative > 0
        if rises and falls:
            return _Answer("saddle", [*evidence, "There are ways up and ways down."], probe)
        if not self.pairs.whole:
            evidence.append(f"The other {len(self.theta) - len(values)} eigenvalues are unknown.")
            return _Answer("undetermined", evidence, probe)
        if up or down:
            return _Answer("minimum" if up else "maximum", evidence, probe)
        return self._constant(evidence, probe)

    def _constant(self, evidence: list[str], probe: NullSpaceProbe) -> _Answer:
        """Return the verdict where no change was resolved in the null space."""
        known = np.abs(probe.change) > probe.resolution
        visible = _VISIBLE * self.largest * probe.radius[-1] ** 2 / 2
        coarse = float(probe.resolution.min(axis=0).max())
        if known.any() or (self.largest > 0 and not probe.resolution[-1].max() <= visible):
            evidence.append(
                f"J is too coarse to tell: changes below {coarse:.2g} are not resolved. Compute in "
                "a wider type, or give the length to probe by `scale=`."
            )
            return _Answer("undetermined", evidence, probe)
        kind = {"minimum": "a minimum", "maximum": "a maximum"}.get(self.across)
        evidence.append(
            f"The cost is constant there, and {kind} across." if kind else "The cost is constant."
        )
        return _Answer("degenerate", evidence, probe)

    def _gradient_words(self) -> str:
        """Say why the point is critical."""
        return (
            f"The gradient has norm {self.gradient_norm:.2g}; by the curvature a critical point is "
            f"{self.model.displacement():.2g} away, at most {self.reach:.2g}."
        )

    def _eigenvalue_words(self) -> str:
        """Say what the eigenvalues are."""
        values = self.pairs.eigenvalues
        which = "" if self.pairs.whole else "known "
        return (
            f"Of {len(values)} {which}eigenvalues from {values[0]:.3g} to {values[-1]:.3g}, "
            f"{self.negative} are negative, {self.positive} positive and {self.null} zero (up to "
            f"{self.zero:.2g})."
        )


def _all_pairs(model: LocalModel) -> _Pairs:
    """Return all eigenpairs, with the residuals that rounding leaves."""
    eps = torch.finfo(torch.float64).eps
    bound = eps * model.largest * math.sqrt(len(model.eigenvalues))
    values = model.eigenvalues.numpy()
    return _Pairs(values, np.full(len(values), bound), model.vectors, True)


def _end_pairs(point: Curvature, k: int) -> tuple[_Pairs, int]:
    """Return eigenpairs at both ends of the spectrum, and the products that it took."""
    found = spectrum_of(point, k, progress=False)
    vectors = torch.from_numpy(found.eigenvectors.copy()).to(point.gradient)
    known = found.complete and bool(found.converged.all())
    pairs = _Pairs(found.eigenvalues, found.residuals, vectors, whole=False, ends_known=known)
    return pairs, found.products
