"""Searching for a critical point."""

import math
import time
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from thalweg.environment import provenance
from thalweg.objectives.curvature import Curvature, curvature
from thalweg.objectives.objective import Objective, expect_objective
from thalweg.probes.local_model import LocalModel, gradient_rounding, local_model, norm_of, scale_of
from thalweg.progress import Progress, progress_bar
from thalweg.results.critical_point_search import CriticalPointSearch

__all__ = ["SearchMethod", "expect_settings", "find_critical_point"]

SearchMethod = Literal["newton", "damped-newton", "saddle-free-newton", "gradient-norm"]

_WHOLE = 300  # up to so many parameters the whole Hessian is taken at each step
_KRYLOV = 40  # dimension of the Krylov space otherwise
_ACCEPTED = 1e-4  # share of the predicted gain that a step must bring
_POOR, _GOOD = 0.25, 0.75  # shares of it below and above which damping grows and shrinks
_GROWTH = 4.0
_MOST_TRIALS = 60
_FLAT = 1e-3  # ‖H g‖ below this share of λ ‖g‖: the Hessian does not see the gradient
_STALLED = 1e-9  # share of ‖g‖² below which a gain is none
_MOST_STALLS = 5


def find_critical_point(
    objective: Objective,
    theta: Tensor | ArrayLike,
    method: SearchMethod = "saddle-free-newton",
    *,
    tolerance: float = 1e-6,
    scale: float | None = None,
    steps: int = 100,
    krylov: int | None = None,
    keep_points: bool = False,
    progress: bool | Progress | None = None,
) -> CriticalPointSearch:
    """Search for a point of zero gradient.

    With eigenpairs λᵢ, vᵢ of the Hessian at θ, gᵢ = vᵢ·∇J and a damping μ ≥ 0, a step is
    s = Σ sᵢ vᵢ with

    - `"newton"`: sᵢ = −gᵢ/λᵢ, always taken in full. It goes to whatever critical point the
      quadratic model has: minima, maxima and saddles alike.
    - `"damped-newton"` (Levenberg 1944, Marquardt 1963): sᵢ = −gᵢ/(λᵢ + μ) with μ large enough
      that all λᵢ + μ are positive. It descends, and near a saddle it is slow to leave.
    - `"saddle-free-newton"` (Dauphin et al. 2014): sᵢ = −gᵢ/(abs(λᵢ) + μ). It descends, and
      saddles repel it along directions of negative curvature.
    - `"gradient-norm"`: sᵢ = −λᵢ gᵢ/(λᵢ² + μ), the Levenberg-Marquardt step for ½‖∇J‖², which
      finds critical points of any index. It can end in a gradient-flat point, a minimum of
      ‖∇J‖ where it is not zero; this is told apart by H ∇J ≈ 0 (Frye et al. 2021).

    All but the first control μ as a trust region does: a step is taken only where it brings some
    of the gain in J (or ½‖∇J‖²) that the quadratic model predicts. The search has converged where
    the displacement ‖abs(H)⁻¹ ∇J‖ is at most `tolerance` times a length of the problem, the
    condition under which `thalweg.classify` calls a point critical. That the point is a minimum
    is not implied: ask `classify`.

    Args:
        objective: The cost J.
        theta: Where to start, shape (P,).
        method: One of the four.
        tolerance: As above.
        scale: The length ℓ to compare with; ‖θ‖ by default, or 1 where ‖θ‖ is below 1e-5.
        steps: Largest number of steps.
        krylov: Dimension of the Krylov space of the gradient that the Hessian is restricted to at
            each step; by default the whole space for up to 300 parameters, else 40.
        keep_points: Whether to keep every point in the result.
        progress: None for a progress bar on a terminal, False for none.

    Returns:
        The last point, the way to it, and how the search ended: that it did not converge is a
        value, not an error.

    Raises:
        TypeError: If the first argument is no objective.
        ValueError: If a setting is out of range.
        ParameterMismatchError: If θ has another shape.

    Example:
        >>> from thalweg import functions
        >>> saddle = functions.attractive_saddle(at=(1.0, 2.0))
        >>> start = [1.5, 2.1]
        >>> found = find_critical_point(saddle, start, "newton", progress=False)
        >>> found.outcome, found.theta.round(3)  # the saddle
        ('converged', array([1., 2.]))
        >>> found = find_critical_point(saddle, start, progress=False)
        >>> found.outcome, found.theta.round(3)  # a minimum
        ('converged', array([1., 3.]))
    """
    expect_objective(objective)
    expect_settings(tolerance, scale)
    if method not in get_args(SearchMethod):
        raise ValueError(
            f"`method` must be one of {', '.join(map(repr, get_args(SearchMethod)))}; got "
            f"{method!r}. Choose one of them."
        )
    for name, count in (("steps", steps), ("krylov", krylov)):
        if count is not None and not count >= 1:
            raise ValueError(f"`{name}` must be 1 or more; got {count}. Allow for one at least.")
    point = objective.point(theta)
    if krylov is None and len(point) > _WHOLE:
        krylov = _KRYLOV
    clock = time.perf_counter()
    search = _Search(objective, method, tolerance, scale, krylov, keep_points)
    with progress_bar(progress) as report:
        outcome, reason = search.run(point, steps, report)
    return CriticalPointSearch(
        theta=_plain(search.points[-1]),
        loss=np.array(search.loss),
        gradient_norm=np.array(search.gradient_norm),
        displacement=np.array(search.displacement),
        step=np.array(search.step),
        method=method,
        outcome=outcome,
        reason=reason,
        tolerance=tolerance,
        length=scale_of(search.points[-1], scale),
        products=search.products,
        gradients=search.gradients,
        values=search.values,
        points=np.stack([_plain(p) for p in search.points]) if keep_points else np.empty((0, 0)),
        provenance=provenance(
            objective.device,
            objective.dtype,
            time.perf_counter() - clock,
            objective=objective.describe(),
            section={"kind": "search for a critical point", "method": method, "krylov": krylov},
        ),
    )


def expect_settings(tolerance: float, scale: float | None) -> None:
    """Raise unless tolerance and scale are positive numbers."""
    for name, number in (("tolerance", tolerance), ("scale", scale)):
        if number is not None and not 0 < number < math.inf:
            raise ValueError(
                f"`{name}` must be a positive number; got {number!r}. Distances are compared with "
                "it."
            )


@dataclass(eq=False)
class _Search:
    """One search: its settings, and the way it went."""

    objective: Objective
    method: SearchMethod
    tolerance: float
    scale: float | None
    krylov: int | None
    keep_points: bool
    points: list[Tensor] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    gradient_norm: list[float] = field(default_factory=list)
    displacement: list[float] = field(default_factory=list)
    step: list[float] = field(default_factory=list)
    products: int = 0
    gradients: int = 0
    values: int = 0
    damping: float = 0.0
    steepest: float = 0.0  # largest curvature seen
    stalls: int = 0

    def run(self, start: Tensor, steps: int, report: Progress) -> tuple[str, str]:
        """Take steps until one of the ends is reached; return outcome and reason."""
        point = curvature(self.objective, start)
        model = self._arrive(start, point)
        for done in range(steps + 1):
            report(done, steps, f"gradient norm {self.gradient_norm[-1]:.2g}")
            if self._converged(point, model):
                return "converged", (
                    f"By the curvature there, a critical point is {self.displacement[-1]:.2g} "
                    f"away, at most {self.tolerance:g} times the length {self._length():.3g}."
                )
            if done == steps:
                break
            following = self._next(point, model)
            if following is None:
                return self._end(point, "No step brings a gain that can be resolved.", stuck=True)
            step, point = following
            model = self._arrive(self.points[-1] + step, point, norm_of(step))
            if not math.isfinite(self.loss[-1]) or not math.isfinite(self.gradient_norm[-1]):
                return "not converged", "The cost or its gradient is not finite any more."
            if self.stalls >= _MOST_STALLS:
                return self._end(point, "The norm of the gradient falls no more.", stuck=True)
        return self._end(point, f"{steps} steps were taken.")

    def _arrive(self, theta: Tensor, point: Curvature, length: float | None = None) -> LocalModel:
        """Take note of a new point; return the cost around it to second order."""
        if length is not None:
            self.step.append(length)
        if not self.keep_points:
            self.points.clear()
        self.points.append(theta)
        norm = norm_of(point.gradient)
        self.loss.append(point.value)
        self.gradient_norm.append(norm)
        self.gradients += 1
        if not math.isfinite(norm):
            empty = torch.empty(0, dtype=torch.float64)
            self.displacement.append(math.nan)
            return LocalModel(empty, empty[None], empty[None], empty, False, 0)
        model = local_model(point, self.krylov)
        self.products += model.products
        self.steepest = max(self.steepest, model.largest)
        self.displacement.append(model.displacement())
        return model

    def _length(self) -> float:
        """Return the length that distances are compared with."""
        return scale_of(self.points[-1], self.scale)

    def _converged(self, point: Curvature, model: LocalModel) -> bool:
        """Tell whether a critical point is as close as was asked for."""
        reach = self.tolerance * self._length()
        if self.displacement[-1] > reach:
            return False
        loose = model.unexplained(reach)
        if loose == 0:
            return True
        self.gradients += 2
        return loose <= gradient_rounding(self.objective, self.points[-1], point.gradient)

    def _end(self, point: Curvature, reason: str, stuck: bool = False) -> tuple[str, str]:
        """Return outcome and reason of a search that has not converged."""
        norm = self.gradient_norm[-1]
        seen = norm_of(point.product(point.gradient))
        self.products += 1
        flat = seen <= _FLAT * self.steepest * norm
        if stuck and flat and self.method == "gradient-norm":
            share = seen / (self.steepest * norm) if self.steepest else 0.0
            return "gradient-flat point", (
                f"{reason} The gradient, of norm {norm:.2g}, is not zero, but the Hessian maps it "
                f"to {share:.1g} of what it could: this is no critical point."
            )
        if norm <= gradient_rounding(self.objective, self.points[-1], point.gradient):
            reason += " The gradient is down to its rounding: compute in a wider type."
        return "not converged", reason

    def _next(self, point: Curvature, model: LocalModel) -> tuple[Tensor, Curvature] | None:
        """Return the next step and the cost at its end, or None where there is none."""
        here = self.points[-1]
        if self.method == "newton":
            step = model.along(_newton(model)).to(here)
            return step, curvature(self.objective, here + step)
        if self.method == "gradient-norm":
            return self._smaller_gradient(here, point, model)
        return self._descent(here, point, model)

    def _descent(
        self, here: Tensor, point: Curvature, model: LocalModel
    ) -> tuple[Tensor, Curvature] | None:
        """Return a damped step that lowers J as the quadratic model says."""
        eps = torch.finfo(self.objective.rounding).eps
        # Eigenvalues that are zero but for rounding would make steps of any length.
        rounding = 10 * eps * math.sqrt(len(here)) * model.largest
        bent = _positive(model.eigenvalues, self.method).clamp_min(rounding)
        floor = self._least_damping(model)
        for _ in range(_MOST_TRIALS):
            along = -model.slopes / (bent + max(self.damping, floor))
            gain = -float(model.slopes @ along + (model.eigenvalues * along**2).sum() / 2)
            step = model.along(along).to(here)
            value = self.objective.value(here + step)
            self.values += 1
            if gain <= 8 * eps * (abs(point.value) + abs(value)):
                # J cannot tell any more; the gradient can.
                reached = curvature(self.objective, here + step)
                self.gradients += 1
                smaller = norm_of(reached.gradient) < self.gradient_norm[-1]
                return (step, reached) if smaller else None
            share = (point.value - value) / gain if math.isfinite(value) else -1.0
            self._adapt(share, floor, model.largest)
            if share >= _ACCEPTED:
                return step, curvature(self.objective, here + step)
        return None

    def _smaller_gradient(
        self, here: Tensor, point: Curvature, model: LocalModel
    ) -> tuple[Tensor, Curvature] | None:
        """Return a damped step that lowers ½‖∇J‖² as the linear model of the gradient says."""
        squares, slopes, directions = _normal_equations(point, model)
        half = self.gradient_norm[-1] ** 2 / 2
        top = float(squares.max())
        if not top > 0:
            return None
        for _ in range(_MOST_TRIALS):
            bent = squares + max(self.damping, top * (1e-30 if model.whole else 1e-15))
            along = -slopes / bent
            gain = -float(slopes @ along + (squares * along**2).sum() / 2)
            if not gain > 0:
                return None
            step = (along.to(directions) @ directions).to(here)
            reached = curvature(self.objective, here + step)
            self.gradients += 1
            fallen = half - norm_of(reached.gradient) ** 2 / 2
            share = fallen / gain if math.isfinite(fallen) else -1.0
            self._adapt(share, 0.0, top)
            if share >= _ACCEPTED:
                self.stalls = self.stalls + 1 if fallen <= _STALLED * half else 0
                return step, reached
        return None

    def _least_damping(self, model: LocalModel) -> float:
        """Return a damping with which no step is infinite."""
        if model.largest > 0:
            return 1e-12 * model.largest
        return self.gradient_norm[-1] / self._length()

    def _adapt(self, share: float, floor: float, largest: float) -> None:
        """Damp more after a step that brought little of what was predicted, less after a good."""
        if share < _POOR:
            self.damping = max(_GROWTH * self.damping, _GROWTH * floor, 1e-3 * largest)
        elif share > _GOOD:
            self.damping = self.damping / _GROWTH if self.damping > 1e-9 * largest else 0.0


def _newton(model: LocalModel) -> Tensor:
    """Return −gᵢ/λᵢ, and 0 where λᵢ is 0 but for rounding."""
    zero = 10 * torch.finfo(torch.float64).eps * model.largest
    curved = model.curved(zero)
    bent = torch.where(curved, model.eigenvalues, torch.ones_like(model.eigenvalues))
    return torch.where(curved, -model.slopes / bent, torch.zeros_like(bent))


def _positive(eigenvalues: Tensor, method: SearchMethod) -> Tensor:
    """Return curvatures that are positive, as the method makes them from eigenvalues."""
    if method == "saddle-free-newton":
        return eigenvalues.abs()
    lowest = float(eigenvalues.min())
    return eigenvalues + 1.5 * max(0.0, -lowest)


def _normal_equations(point: Curvature, model: LocalModel) -> tuple[Tensor, Tensor, Tensor]:
    """Return eigenvalues of VᵀHHV, the components of VᵀHg, and the directions of both."""
    if model.whole:
        return model.eigenvalues**2, model.eigenvalues * model.slopes, model.vectors
    gram = (model.images @ model.images.T).double().cpu()
    slopes = (model.images @ point.gradient.to(model.images)).double().cpu()
    squares, turn = torch.linalg.eigh(gram)
    return squares.clamp_min(0), turn.T @ slopes, turn.T.to(model.vectors) @ model.vectors


def _plain(vector: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Return a vector as a NumPy array."""
    array: np.ndarray[tuple[int, ...], np.dtype[np.float64]] = vector.double().cpu().numpy()
    return array
