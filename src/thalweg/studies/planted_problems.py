"""Runs with a cause that is known by construction, on closed forms and on small networks.

Each case says what is planted, what else may rightly be called present beside it, and to which
part it belongs: thresholds of the diagnosis were chosen on the development part alone. Here are
the families of that part; those of the other are in `thalweg.studies.unseen_problems`.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from thalweg.objectives.objective import Objective
    from thalweg.trajectory.trajectory import Trajectory

__all__ = [
    "FUNCTION_SETTINGS",
    "Case",
    "FunctionSetting",
    "Planted",
    "descended",
    "function_cases",
    "normal_numbers",
    "planted_functions",
]


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
class FunctionSetting:
    """One variant: sizes, units, seed."""

    seed: int
    size: int
    cost: float  # J → cost · J + offset
    offset: float
    length: float  # θ → length · θ


FUNCTION_SETTINGS = (
    FunctionSetting(0, 10, 1.0, 0.0, 1.0),
    FunctionSetting(1, 40, 1e-3, 0.0, 1.0),
    FunctionSetting(2, 4, 1.0, 5.0, 10.0),
    FunctionSetting(3, 120, 300.0, 0.0, 1.0),
    FunctionSetting(10, 16, 50.0, -2.0, 1.0),
    FunctionSetting(11, 6, 1e-2, 0.0, 0.1),
    FunctionSetting(12, 60, 1.0, 0.0, 3.0),
    FunctionSetting(13, 200, 10.0, 1.0, 1.0),
)


def planted_functions(few: bool) -> Iterator[Case]:
    """Give the cases on closed forms, in two settings only where these are to be few."""
    settings = FUNCTION_SETTINGS[::4] if few else FUNCTION_SETTINGS
    yield from function_cases(_KINDS, settings, "development")


def function_cases(
    kinds: Sequence[tuple[str, str | None, Sequence[str], Any]],
    settings: Sequence[FunctionSetting],
    part: str,
) -> Iterator[Case]:
    """Give some kinds of cases in some settings: name, what is planted, what else, how."""
    for setting in settings:
        for name, planted, also, make in kinds:
            title = f"{name}, {setting.size} entries, seed {setting.seed}"

            def made(
                make: "Callable[[FunctionSetting], Planted]" = make,
                setting: FunctionSetting = setting,
            ) -> Planted:
                return make(setting)

            yield Case(title, planted, made, frozenset(also), part)


def descended(
    setting: FunctionSetting,
    cost: "Callable[[Tensor], Tensor]",
    start: "Tensor",
    rate: float,
    steps: int,
    *,
    momentum: float = 0.0,
    nesterov: bool = False,
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
        gradient = objective.gradient(theta + momentum * velocity if nesterov else theta)
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


def normal_numbers(setting: FunctionSetting, size: int | None = None) -> "Tensor":
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


def _spread(setting: FunctionSetting, lowest: float) -> "Tensor":
    """Return eigenvalues from 1 down to the lowest, evenly on a logarithmic scale."""
    import torch

    return torch.logspace(0, math.log10(lowest), setting.size, dtype=torch.float64)


def _ill_conditioned(setting: FunctionSetting) -> Planted:
    """Equal energy along all eigenvectors, κ = 10⁴, the step near its limit."""
    values = _spread(setting, 1e-4)
    start = normal_numbers(setting).sign() / values.sqrt()
    return descended(setting, _quadratic(values), start, 1.8, 300)


def _ill_conditioned_momentum(setting: FunctionSetting) -> Planted:
    values = _spread(setting, 1e-6)
    start = normal_numbers(setting).sign() / values.sqrt()
    return descended(setting, _quadratic(values), start, 1.0, 300, momentum=0.9)


def _noise_floor(setting: FunctionSetting) -> Planted:
    values = _spread(setting, 0.3)
    start = 0.3 * normal_numbers(setting)
    return descended(setting, _quadratic(values), start, 0.2, 400, noise=2.0, floor=0.0)


def _noise_from_above(setting: FunctionSetting) -> Planted:
    values = _spread(setting, 0.3)
    return descended(setting, _quadratic(values), normal_numbers(setting), 0.3, 300, noise=1.5)


def _saddle_of_two(setting: FunctionSetting) -> Planted:
    """Two factors near 0: stuck for most of the steps."""
    start = 1e-4 * normal_numbers(setting, 2)
    return descended(setting, lambda t: (1 - t[0] * t[1]) ** 2, start, 0.05, 90, floor=0.0)


def _saddle_of_three(setting: FunctionSetting) -> Planted:
    import torch

    small = 1e-3 * normal_numbers(setting, 2)
    start = torch.cat([small, torch.tensor([0.5], dtype=torch.float64)])
    return descended(setting, lambda t: (1 - t.prod()) ** 2, start, 0.1, 70, floor=0.0)


def _saddle_of_matrices(setting: FunctionSetting) -> Planted:
    """A deep linear network of two small layers: half of the squared distance to a target."""
    size = 3
    target = normal_numbers(setting, 9).reshape(size, size)
    target = target / target.norm()
    start = 1e-5 * normal_numbers(setting, 2 * size * size)

    def cost(t: "Tensor") -> "Tensor":
        first, second = t[:9].reshape(size, size), t[9:].reshape(size, size)
        total: Tensor = 0.5 * (second @ first - target).square().sum()
        return total

    return descended(setting, cost, start, 0.2, 40, floor=0.0)


def _flat_saddle(setting: FunctionSetting) -> Planted:
    start = 0.08 + 0.02 * normal_numbers(setting, 5).abs()
    return descended(setting, lambda t: (1 - t.prod()) ** 2, start, 0.05, 400, floor=0.0)


def _tilted_wells(t: "Tensor") -> "Tensor":
    """Two wells along the first entry, the one near −1 the deeper, a bowl along the others."""
    total: Tensor = (t[0] ** 2 - 1) ** 2 + 0.3 * t[0] + 0.5 * (t[1:] ** 2).sum()
    return total


_DEEP = -1.0355  # where the deeper well is lowest; its cost is -0.3054
_DEEPEST = -0.30543


def _beside(setting: FunctionSetting) -> "Tensor":
    """Return a start whose distance from the valley does not grow with its dimension."""
    shrink: float = max(setting.size / 10, 1.0) ** -0.5
    return 0.5 * shrink * normal_numbers(setting)


def _worse_minimum(setting: FunctionSetting) -> Planted:
    start = _beside(setting)
    start[0] = 0.8
    return descended(setting, _tilted_wells, start, 0.05, 250, floor=_DEEPEST)


def _barrier(setting: FunctionSetting) -> Planted:
    import torch

    start = _beside(setting)
    start[0] = 0.7
    better = torch.zeros_like(start)
    better[0] = _DEEP
    return descended(setting, _tilted_wells, start, 0.05, 250, reference=better)


def _too_small(setting: FunctionSetting) -> Planted:
    return descended(setting, _quadratic(_spread(setting, 0.2)), normal_numbers(setting), 1e-4, 300)


def _too_large(setting: FunctionSetting) -> Planted:
    return descended(setting, _quadratic(_spread(setting, 0.2)), normal_numbers(setting), 2.15, 60)


def _bounded_oscillation(setting: FunctionSetting) -> Planted:
    """Past the limit at the minimum, within quartic walls: it never settles."""
    values = _spread(setting, 0.5)

    def cost(t: "Tensor") -> "Tensor":
        total: Tensor = 0.5 * (values * t * t).sum() + 0.05 * (t**4).sum()
        return total

    return descended(setting, cost, 0.5 * normal_numbers(setting), 2.4, 200)


def _detour(setting: FunctionSetting) -> Planted:
    """A mountain on the straight way, that the run goes around."""
    import torch

    aside = 0.05 * (1 + abs(float(normal_numbers(setting)[0])))
    start = torch.tensor([-2.0, aside], dtype=torch.float64)

    def cost(t: "Tensor") -> "Tensor":
        bowl = 0.15 * ((t[0] - 2) ** 2 + t[1] ** 2)
        total: Tensor = bowl + 4 * torch.exp(-1.0 * (t[0] ** 2 + t[1] ** 2))
        return total

    return descended(setting, cost, start, 0.05, 700)


def _separable(setting: FunctionSetting) -> Planted:
    """Logistic regression on data that a line through the origin separates."""
    import torch

    draw = torch.Generator().manual_seed(setting.seed)
    count = 40
    inputs = torch.randn(count, 2, generator=draw, dtype=torch.float64)
    inputs[:, 0] = inputs[:, 0].abs() + 0.3  # with the label in it, so that θ = (1, 0) separates
    start = 0.01 * normal_numbers(setting, 2)
    return descended(setting, lambda t: torch.log1p(torch.exp(-inputs @ t)).mean(), start, 0.5, 600)


def _healthy(setting: FunctionSetting) -> Planted:
    return descended(setting, _quadratic(_spread(setting, 0.2)), normal_numbers(setting), 1.0, 80)


def _healthy_momentum(setting: FunctionSetting) -> Planted:
    values = _spread(setting, 0.05)
    return descended(setting, _quadratic(values), normal_numbers(setting), 0.5, 150, momentum=0.8)


def _healthy_little_noise(setting: FunctionSetting) -> Planted:
    values = _spread(setting, 0.2)
    return descended(setting, _quadratic(values), 3 * normal_numbers(setting), 0.3, 150, noise=0.1)


def _healthy_logistic(setting: FunctionSetting) -> Planted:
    """Logistic regression with weight decay, whose minimum is finite."""
    import torch

    inputs = normal_numbers(setting, 80).reshape(40, 2)

    def cost(t: "Tensor") -> "Tensor":
        return torch.log1p(torch.exp(-inputs @ t)).mean() + 0.05 * t.square().sum()

    return descended(setting, cost, 2 + normal_numbers(setting, 2), 1.0, 150)


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
