"""Runs with a cause that is known by construction, on closed forms and on small networks.

Each case says what is planted, what else may rightly be called present beside it, and to which
part it belongs: thresholds of the diagnosis were chosen on the development part alone.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from thalweg.objectives.objective import Objective
    from thalweg.trajectory.trajectory import Trajectory

__all__ = ["Case", "Planted", "planted_functions"]


@dataclass(frozen=True, eq=False)
class Planted:
    """What a diagnosis is given.

    Attributes:
        objective: J.
        trajectory: The run.
        floor: A cost that is known to be reachable, or None.
        reference: A better point, or None.
    """

    objective: "Objective"
    trajectory: "Trajectory"
    floor: float | None = None
    reference: "Tensor | None" = None


@dataclass(frozen=True)
class Case:
    """A planted problem.

    Attributes:
        name: Its name.
        planted: Key of the obstacle, or None where nothing is wrong.
        make: Makes the run.
        also: Further obstacles that are there by the same construction.
        part: `"development"` or `"held-out"`.
    """

    name: str
    planted: str | None
    make: Callable[[], Planted]
    also: frozenset[str] = frozenset()
    part: str = "development"


@dataclass(frozen=True)
class _Setting:
    """One variant: sizes, units, seed."""

    seed: int
    size: int
    cost: float  # J → cost · J + offset
    offset: float
    length: float  # θ → length · θ
    part: str


_SETTINGS = (
    _Setting(0, 10, 1.0, 0.0, 1.0, "development"),
    _Setting(1, 40, 1e-3, 0.0, 1.0, "development"),
    _Setting(2, 4, 1.0, 5.0, 10.0, "development"),
    _Setting(3, 120, 300.0, 0.0, 1.0, "development"),
    _Setting(10, 16, 50.0, -2.0, 1.0, "held-out"),
    _Setting(11, 6, 1e-2, 0.0, 0.1, "held-out"),
    _Setting(12, 60, 1.0, 0.0, 3.0, "held-out"),
    _Setting(13, 200, 10.0, 1.0, 1.0, "held-out"),
)


def planted_functions(few: bool) -> Iterator[Case]:
    """Give the cases on closed forms; one setting of each part where these are to be few."""
    for setting in _SETTINGS[::4] if few else _SETTINGS:
        for name, planted, also, make in _KINDS:
            title = f"{name}, {setting.size} entries, seed {setting.seed}"

            def made(
                make: "Callable[[_Setting], Planted]" = make, setting: _Setting = setting
            ) -> Planted:
                return make(setting)

            yield Case(title, planted, made, frozenset(also), setting.part)


def _run(
    setting: _Setting,
    cost: "Callable[[Tensor], Tensor]",
    start: "Tensor",
    rate: float,
    steps: int,
    *,
    momentum: float = 0.0,
    noise: float = 0.0,
    floor: float | None = None,
    reference: "Tensor | None" = None,
) -> Planted:
    """Descend a cost in the units of a setting; learning rates are in units of the cost itself."""
    import torch

    from thalweg.objectives.function import FunctionObjective
    from thalweg.trajectory.trajectory import Trajectory

    c, offset, length = setting.cost, setting.offset, setting.length
    objective = FunctionObjective(lambda t: c * cost(t / length) + offset, size=len(start))
    draw = torch.Generator().manual_seed(1000 + setting.seed)
    step = rate * length**2 / c
    theta, velocity = start.double() * length, torch.zeros(len(start), dtype=torch.float64)
    points = [theta]
    for _ in range(steps):
        gradient = objective.gradient(theta)
        if noise:
            random = torch.randn(len(theta), generator=draw, dtype=torch.float64)
            gradient = gradient + noise * c / length * random
        velocity = momentum * velocity - step * gradient
        theta = theta + velocity
        points.append(theta)
        if not bool(torch.isfinite(theta).all()) or float(theta.norm()) > 1e30:
            break
    return Planted(
        objective,
        Trajectory.from_points(torch.stack(points), learning_rate=step),
        None if floor is None else c * floor + offset,
        None if reference is None else reference.double() * length,
    )


def _normal(setting: _Setting, size: int | None = None) -> "Tensor":
    """Return standard normal numbers of a setting."""
    import torch

    draw = torch.Generator().manual_seed(setting.seed)
    return torch.randn(size or setting.size, generator=draw, dtype=torch.float64)


def _quadratic(values: "Tensor") -> "Callable[[Tensor], Tensor]":
    """Return ½ Σ λ θ²."""

    def cost(t: "Tensor") -> "Tensor":
        total: Tensor = 0.5 * (values * t * t).sum()
        return total

    return cost


def _spread(setting: _Setting, lowest: float) -> "Tensor":
    """Return eigenvalues from 1 down to the lowest, evenly on a logarithmic scale."""
    import torch

    return torch.logspace(0, math.log10(lowest), setting.size, dtype=torch.float64)


def _ill_conditioned(setting: _Setting) -> Planted:
    """Equal energy along all eigenvectors, κ = 10⁴, the step near its limit."""
    values = _spread(setting, 1e-4)
    start = _normal(setting).sign() / values.sqrt()
    return _run(setting, _quadratic(values), start, 1.8, 300)


def _ill_conditioned_momentum(setting: _Setting) -> Planted:
    values = _spread(setting, 1e-6)
    start = _normal(setting).sign() / values.sqrt()
    return _run(setting, _quadratic(values), start, 1.0, 300, momentum=0.9)


def _noise_floor(setting: _Setting) -> Planted:
    values = _spread(setting, 0.3)
    start = 0.3 * _normal(setting)
    return _run(setting, _quadratic(values), start, 0.2, 400, noise=2.0, floor=0.0)


def _noise_from_above(setting: _Setting) -> Planted:
    values = _spread(setting, 0.3)
    return _run(setting, _quadratic(values), _normal(setting), 0.3, 300, noise=1.5)


def _saddle_of_two(setting: _Setting) -> Planted:
    """Two factors near 0: stuck for most of the steps."""
    start = 1e-4 * _normal(setting, 2)
    return _run(setting, lambda t: (1 - t[0] * t[1]) ** 2, start, 0.05, 90, floor=0.0)


def _saddle_of_three(setting: _Setting) -> Planted:
    import torch

    small = 1e-3 * _normal(setting, 2)
    start = torch.cat([small, torch.tensor([0.5], dtype=torch.float64)])
    return _run(setting, lambda t: (1 - t.prod()) ** 2, start, 0.1, 70, floor=0.0)


def _saddle_of_matrices(setting: _Setting) -> Planted:
    """A deep linear network of two small layers: half of the squared distance to a target."""
    size = 3
    target = _normal(setting, 9).reshape(size, size)
    target = target / target.norm()
    start = 1e-5 * _normal(setting, 2 * size * size)

    def cost(t: "Tensor") -> "Tensor":
        first, second = t[:9].reshape(size, size), t[9:].reshape(size, size)
        total: Tensor = 0.5 * (second @ first - target).square().sum()
        return total

    return _run(setting, cost, start, 0.2, 40, floor=0.0)


def _flat_saddle(setting: _Setting) -> Planted:
    start = 0.08 + 0.02 * _normal(setting, 5).abs()
    return _run(setting, lambda t: (1 - t.prod()) ** 2, start, 0.05, 400, floor=0.0)


def _tilted_wells(t: "Tensor") -> "Tensor":
    """Two wells along the first entry, the one near −1 the deeper, a bowl along the others."""
    return (t[0] ** 2 - 1) ** 2 + 0.3 * t[0] + 0.5 * (t[1:] ** 2).sum()


_DEEP = -1.0355  # where the deeper well is lowest; its cost is -0.3054
_DEEPEST = -0.30543


def _worse_minimum(setting: _Setting) -> Planted:
    start = 0.5 * _normal(setting)
    start[0] = 0.8
    return _run(setting, _tilted_wells, start, 0.05, 250, floor=_DEEPEST)


def _barrier(setting: _Setting) -> Planted:
    import torch

    start = 0.5 * _normal(setting)
    start[0] = 0.7
    better = torch.zeros_like(start)
    better[0] = _DEEP
    return _run(setting, _tilted_wells, start, 0.05, 250, reference=better)


def _too_small(setting: _Setting) -> Planted:
    return _run(setting, _quadratic(_spread(setting, 0.2)), _normal(setting), 1e-4, 300)


def _too_large(setting: _Setting) -> Planted:
    return _run(setting, _quadratic(_spread(setting, 0.2)), _normal(setting), 2.15, 60)


def _bounded_oscillation(setting: _Setting) -> Planted:
    """Past the limit at the minimum, within quartic walls: it never settles."""
    values = _spread(setting, 0.5)

    def cost(t: "Tensor") -> "Tensor":
        return 0.5 * (values * t * t).sum() + 0.05 * (t**4).sum()

    return _run(setting, cost, 0.5 * _normal(setting), 2.4, 200)


def _detour(setting: _Setting) -> Planted:
    """A mountain on the straight way, that the run goes around."""
    import torch

    aside = 0.05 * (1 + abs(float(_normal(setting)[0])))
    start = torch.tensor([-2.0, aside], dtype=torch.float64)

    def cost(t: "Tensor") -> "Tensor":
        bowl = 0.15 * ((t[0] - 2) ** 2 + t[1] ** 2)
        total: Tensor = bowl + 4 * torch.exp(-1.0 * (t[0] ** 2 + t[1] ** 2))
        return total

    return _run(setting, cost, start, 0.05, 700)


def _separable(setting: _Setting) -> Planted:
    """Logistic regression on data that a line through the origin separates."""
    import torch

    draw = torch.Generator().manual_seed(setting.seed)
    count = 40
    inputs = torch.randn(count, 2, generator=draw, dtype=torch.float64)
    inputs[:, 0] = inputs[:, 0].abs() + 0.3  # with the label in it, so that θ = (1, 0) separates
    start = 0.01 * _normal(setting, 2)
    return _run(setting, lambda t: torch.log1p(torch.exp(-inputs @ t)).mean(), start, 0.5, 600)


def _healthy(setting: _Setting) -> Planted:
    return _run(setting, _quadratic(_spread(setting, 0.2)), _normal(setting), 1.0, 80)


def _healthy_momentum(setting: _Setting) -> Planted:
    values = _spread(setting, 0.05)
    return _run(setting, _quadratic(values), _normal(setting), 0.5, 150, momentum=0.8)


def _healthy_little_noise(setting: _Setting) -> Planted:
    values = _spread(setting, 0.2)
    return _run(setting, _quadratic(values), 3 * _normal(setting), 0.3, 150, noise=0.1)


def _healthy_logistic(setting: _Setting) -> Planted:
    """Logistic regression with weight decay, whose minimum is finite."""
    import torch

    inputs = _normal(setting, 80).reshape(40, 2)

    def cost(t: "Tensor") -> "Tensor":
        return torch.log1p(torch.exp(-inputs @ t)).mean() + 0.05 * t.square().sum()

    return _run(setting, cost, 2 + _normal(setting, 2), 1.0, 150)


_KINDS: tuple[tuple[str, str | None, tuple[str, ...], Any], ...] = (
    ("ill-conditioned quadratic", "ill_conditioning", (), _ill_conditioned),
    ("ill-conditioned, momentum", "ill_conditioning", (), _ill_conditioned_momentum),
    ("noise floor", "gradient_noise", (), _noise_floor),
    ("noise, from above", "gradient_noise", (), _noise_from_above),
    ("saddle of two factors", "saddle_point", ("plateau",), _saddle_of_two),
    ("saddle of three factors", "saddle_point", ("plateau",), _saddle_of_three),
    ("saddle of matrices", "saddle_point", ("plateau",), _saddle_of_matrices),
    ("flat saddle of depth 5", "plateau", ("saddle_point",), _flat_saddle),
    ("worse minimum", "local_minimum", ("barrier",), _worse_minimum),
    ("barrier", "barrier", ("local_minimum",), _barrier),
    ("step far too small", "step_too_small", (), _too_small),
    ("step past the limit", "step_too_large", (), _too_large),
    ("oscillation between walls", "step_too_large", (), _bounded_oscillation),
    ("detour", "detour", ("ill_conditioning",), _detour),
    ("separable", "no_critical_point", ("step_too_small", "ill_conditioning"), _separable),
    ("healthy quadratic", None, (), _healthy),
    ("healthy, momentum", None, (), _healthy_momentum),
    ("healthy, little noise", None, (), _healthy_little_noise),
    ("healthy logistic", None, (), _healthy_logistic),
)
