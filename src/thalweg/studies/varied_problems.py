"""Planted runs that were a held-out part once: development since, for they were learnt from.

When they were looked at for the first time, 64 of 72 were diagnosed right, with no false alarm. A
canyon whose floor is concave, and saturated units whose steps vanish in rounding, were missed:
since then Newton's steps are damped, take slight curvature by its size, and a run that cannot move
for rounding follows its gradient.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thalweg.studies.planted_networks import (
    NO_GRADIENT,
    NetworkSetting,
    network_cases,
    perceptron,
    trained,
)
from thalweg.studies.planted_problems import (
    Case,
    FunctionSetting,
    Planted,
    descended,
    function_cases,
    normal_numbers,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["varied_functions", "varied_networks"]

_FUNCTION_SETTINGS = (
    FunctionSetting(1000, 6, 1.0, 0.0, 1.0),
    FunctionSetting(1001, 18, 5e-3, -2.0, 4.0),
    FunctionSetting(1002, 50, 40.0, 10.0, 0.5),
    FunctionSetting(1003, 100, 1.0, 0.0, 1.0),
)
_NETWORK_SETTINGS = (
    NetworkSetting(2000, 44, "momentum"),
    NetworkSetting(2001, 60, "adam"),
    NetworkSetting(2002, 90, "sgd"),
)


def varied_functions(few: bool) -> Iterator[Case]:
    """Give the cases on closed forms, in one setting only where these are to be few."""
    settings = _FUNCTION_SETTINGS[:1] if few else _FUNCTION_SETTINGS
    yield from function_cases(_FUNCTIONS, settings, "development")


def varied_networks(few: bool, folder: Path) -> Iterator[Case]:
    """Give the cases on digits; few kinds in one setting where these are to be few."""
    settings = _NETWORK_SETTINGS[:1] if few else _NETWORK_SETTINGS
    yield from network_cases(_NETWORKS[::4] if few else _NETWORKS, settings, folder, "development")


# Closed forms.


def _hilbert(setting: FunctionSetting) -> Planted:
    """A quadratic with the Hilbert matrix of 5 rows, κ = 5 · 10⁵, equal energy everywhere."""
    import torch

    place = torch.arange(1, 6, dtype=torch.float64)
    matrix = 1 / (place[:, None] + place - 1)
    values, columns = torch.linalg.eigh(matrix)
    start = columns @ (normal_numbers(setting, 5).sign() / values.sqrt())
    rate = float(1.2 / values[-1])
    return descended(setting, lambda t: 0.5 * t @ matrix @ t, start, rate, 200, floor=0.0)


def _canyon(setting: FunctionSetting) -> Planted:
    """A narrow canyon along the sum of all entries, with a flat floor that falls slowly."""
    import torch

    def cost(t: "Tensor") -> "Tensor":
        walls = t[1:] - t[:-1]
        floor = t.mean() - 3
        total: Tensor = 20 * walls.square().sum() + 0.5 * torch.log1p(floor.square())
        return total

    start = normal_numbers(setting) / 20 + 1
    return descended(setting, cost, start, 1 / 90, 150, floor=0.0)


def _noise_with_momentum(setting: FunctionSetting) -> Planted:
    """Logistic regression with decay, noisy gradients, momentum 0.9."""
    import torch

    inputs = normal_numbers(setting, 5 * setting.size**2).reshape(5 * setting.size, setting.size)

    def cost(t: "Tensor") -> "Tensor":
        margins = inputs @ t / setting.size**0.5
        return torch.nn.functional.softplus(-margins).mean() + 0.1 * t.square().mean()

    start = 3 * normal_numbers(setting)
    rate = 0.2 * setting.size
    return descended(setting, cost, start, rate, 400, momentum=0.9, noise=0.6 / setting.size**0.5)


def _ridge(setting: FunctionSetting) -> Planted:
    """A start on the ridge between two wells."""

    def cost(t: "Tensor") -> "Tensor":
        total: Tensor = 0.25 * (t[0] ** 2 - 1) ** 2 + 0.5 * t[1:].square().sum() / setting.size
        return total

    start = 0.3 * normal_numbers(setting)
    start[0] = 1e-6 * start[0].sign()
    return descended(setting, cost, start, 0.1, 120, floor=0.0)


def _saturated(setting: FunctionSetting) -> Planted:
    """A single sigmoid unit, saturated on the wrong side of all examples."""
    import torch

    inputs = normal_numbers(setting, 40 * setting.size).reshape(40, setting.size).abs() + 0.5
    inputs = inputs / setting.size
    best = torch.ones(setting.size, dtype=torch.float64)
    target = torch.sigmoid(inputs @ best)

    def cost(t: "Tensor") -> "Tensor":
        return (torch.sigmoid(inputs @ t) - target).square().mean()

    return descended(setting, cost, -30 * best, 1.0, 150, floor=0.0)


def _bumps(setting: FunctionSetting) -> Planted:
    """A bowl with waves: in the second trough from the lowest."""
    import torch

    def cost(t: "Tensor") -> "Tensor":
        total: Tensor = 0.05 * t.square().sum() + (1 - torch.cos(3 * t[0]))
        return total

    start = normal_numbers(setting) / setting.size**0.5
    start[0] = 4.6
    return descended(setting, cost, start, 0.1, 300, floor=0.0)


def _bounded_slopes(setting: FunctionSetting) -> Planted:
    """Log cosh, whose slope is bounded: a step past the limit jumps from side to side."""
    import torch

    def cost(t: "Tensor") -> "Tensor":
        return torch.log(torch.cosh(t + 0.2)).sum()

    return descended(setting, cost, normal_numbers(setting), 3.0, 80)


def _timid_with_noise(setting: FunctionSetting) -> Planted:
    import torch

    values = torch.linspace(0.5, 1.0, setting.size, dtype=torch.float64)

    def cost(t: "Tensor") -> "Tensor":
        total: Tensor = 0.5 * (values * (t - 2).square()).sum()
        return total

    start = 2 + normal_numbers(setting)
    return descended(setting, cost, start, 3e-4, 200, noise=0.02)


def _exponential_margins(setting: FunctionSetting) -> Planted:
    """Exponential losses of separable examples: the cost falls for ever."""
    import torch

    inputs = normal_numbers(setting, 120).reshape(30, 4)
    inputs[:, 1] = inputs[:, 1].abs() + 0.2
    start = 0.1 * normal_numbers(setting, 4)
    return descended(setting, lambda t: torch.exp(-inputs @ t).mean(), start, 0.1, 500)


def _sound_log_cosh(setting: FunctionSetting) -> Planted:
    import torch

    def cost(t: "Tensor") -> "Tensor":
        return torch.log(torch.cosh(t - 0.4)).sum()

    return descended(setting, cost, normal_numbers(setting), 0.7, 60)


def _sound_ridge_regression(setting: FunctionSetting) -> Planted:
    import torch

    inputs = normal_numbers(setting, 3 * setting.size**2).reshape(3 * setting.size, setting.size)
    target = inputs[:, 0] - inputs[:, -1]
    largest = float(torch.linalg.eigvalsh(inputs.T @ inputs)[-1]) / len(inputs) + 0.2

    def cost(t: "Tensor") -> "Tensor":
        return 0.5 * (inputs @ t - target).square().mean() + 0.1 * t.square().sum()

    start = normal_numbers(setting)
    return descended(setting, cost, start, 0.8 / largest, 80, momentum=0.5)


def _sound_slight_noise(setting: FunctionSetting) -> Planted:
    def cost(t: "Tensor") -> "Tensor":
        total: Tensor = 0.5 * (t + 1).square().sum()
        return total

    return descended(setting, cost, 4 * normal_numbers(setting), 0.1, 100, noise=0.05)


_FUNCTIONS: tuple[tuple[str, str | None, tuple[str, ...], Any], ...] = (
    ("Hilbert matrix", "ill_conditioning", (), _hilbert),
    ("canyon", "ill_conditioning", (), _canyon),
    ("noise with momentum", "gradient_noise", (), _noise_with_momentum),
    ("ridge between wells", "saddle_point", ("plateau",), _ridge),
    ("saturated unit", "plateau", ("saddle_point",), _saturated),
    ("waves on a bowl", "local_minimum", ("barrier",), _bumps),
    ("bounded slopes", "step_too_large", (), _bounded_slopes),
    ("timid with noise", "step_too_small", (), _timid_with_noise),
    (
        "exponential margins",
        "no_critical_point",
        ("step_too_small", "ill_conditioning"),
        _exponential_margins,
    ),
    ("sound log cosh", None, (), _sound_log_cosh),
    ("sound ridge regression", None, (), _sound_ridge_regression),
    ("sound, slight noise", None, (), _sound_slight_noise),
)


# Networks.


def _residual(setting: NetworkSetting) -> "nn.Module":
    """Return a seeded network with three residual blocks."""
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))

        def forward(self, x: "Tensor") -> "Tensor":
            out: Tensor = x + 0.5 * self.inner(x)
            return out

    with torch.random.fork_rng():
        torch.manual_seed(setting.seed)
        width = setting.width
        return nn.Sequential(
            nn.Linear(64, width), Block(width), Block(width), Block(width), nn.Linear(width, 10)
        )


def _sound_gelu(setting: NetworkSetting, folder: Path) -> Planted:
    from torch import nn

    return trained(setting, folder, perceptron(setting, 2, nn.GELU), 600)


def _sound_residual(setting: NetworkSetting, folder: Path) -> Planted:
    rate = {"sgd": 0.1, "momentum": 0.02, "adam": 1e-3}[setting.optimizer]
    return trained(setting, folder, _residual(setting), 500, rate=rate)


def _violent_adam(setting: NetworkSetting, folder: Path) -> Planted:
    from torch import nn

    model = perceptron(setting, 2, nn.Tanh)
    return trained(setting, folder, model, 200, optimizer="adam", rate=1.0, batch=1400)


def _timid_adam(setting: NetworkSetting, folder: Path) -> Planted:
    return trained(setting, folder, _residual(setting), 250, optimizer="adam", rate=4e-6)


def _single_with_momentum(setting: NetworkSetting, folder: Path) -> Planted:
    """Softmax regression, which is convex, on single examples with momentum."""
    from torch import nn

    model = perceptron(setting, 0, nn.Identity)
    return trained(setting, folder, model, 1500, optimizer="momentum", rate=0.05, batch=1)


def _deep_weak(setting: NetworkSetting, folder: Path) -> Planted:
    import torch
    from torch import nn

    model = perceptron(setting, 8, nn.Tanh, 24)
    with torch.no_grad():
        for layer in model.children():
            if isinstance(layer, nn.Linear):
                layer.weight.mul_(0.3)
    return trained(setting, folder, model, 300, optimizer="sgd", rate=0.1)


def _forty_digits(setting: NetworkSetting, folder: Path) -> Planted:
    from torch import nn

    model = perceptron(setting, 2, nn.GELU)
    return trained(setting, folder, model, 1000, optimizer="adam", rate=3e-3, batch=40, examples=40)


def _dead_second_layer(setting: NetworkSetting, folder: Path) -> Planted:
    import torch
    from torch import nn

    model = perceptron(setting, 2, nn.ReLU)
    with torch.no_grad():
        second = list(model.children())[2]
        assert isinstance(second, nn.Linear)
        second.bias.fill_(-12.0)
    return trained(setting, folder, model, 250)


_NETWORKS: tuple[tuple[str, str | None, frozenset[str], Any], ...] = (
    ("sound GELU", None, frozenset(), _sound_gelu),
    ("sound residual", None, frozenset(), _sound_residual),
    (
        "violent Adam",
        "step_too_large",
        frozenset({"dead_units", "vanishing_gradient"}),
        _violent_adam,
    ),
    ("timid Adam", "step_too_small", frozenset(), _timid_adam),
    ("single examples, momentum", "gradient_noise", frozenset(), _single_with_momentum),
    (
        "deep and weak",
        "vanishing_gradient",
        NO_GRADIENT | {"step_too_small", "ill_conditioning"},
        _deep_weak,
    ),
    ("forty digits", "overfitting", frozenset({"no_critical_point"}), _forty_digits),
    ("dead second layer", "dead_units", NO_GRADIENT, _dead_second_layer),
)
