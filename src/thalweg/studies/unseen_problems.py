"""Planted runs of families on which nothing about the diagnosis was chosen.

Other functions, other networks and other ways to move than those of the development part: what
the diagnosis says of these is what it can be expected to say of a new problem. That each cause is
there was checked from the costs of the runs alone.
"""

import math
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

__all__ = ["unseen_functions", "unseen_networks"]

_FUNCTION_SETTINGS = (
    FunctionSetting(5000, 7, 1.0, 0.0, 1.0),
    FunctionSetting(5001, 16, 3e-3, 1.0, 5.0),
    FunctionSetting(5002, 40, 25.0, -4.0, 0.3),
    FunctionSetting(5003, 90, 1.0, 0.0, 1.0),
)
_NETWORK_SETTINGS = (
    NetworkSetting(6000, 40, "momentum"),
    NetworkSetting(6001, 56, "sgd"),
    NetworkSetting(6002, 72, "adam"),
)


def unseen_functions(few: bool) -> Iterator[Case]:
    """Give the cases on closed forms, in one setting only where these are to be few."""
    settings = _FUNCTION_SETTINGS[:1] if few else _FUNCTION_SETTINGS
    yield from function_cases(_FUNCTIONS, settings, "held-out")


def unseen_networks(few: bool, folder: Path) -> Iterator[Case]:
    """Give the cases on digits; few kinds in one setting where these are to be few."""
    settings = _NETWORK_SETTINGS[:1] if few else _NETWORK_SETTINGS
    yield from network_cases(_NETWORKS[::4] if few else _NETWORKS, settings, folder, "held-out")


# Closed forms.


def _two_clusters(setting: FunctionSetting) -> Planted:
    """Rotated quadratic with eigenvalues 1 and 10⁻⁴, half of the energy in each of the two."""
    import torch

    size = setting.size
    columns = torch.linalg.qr(normal_numbers(setting, size * size).reshape(size, size)).Q
    values = torch.ones(size, dtype=torch.float64)
    values[: size // 2] = 1e-4
    share = torch.where(values < 0.5, 0.5 / (size // 2), 0.5 / (size - size // 2))
    start = columns @ (2 * share / values).sqrt()

    def cost(t: "Tensor") -> "Tensor":
        total: Tensor = 0.5 * (values * (columns.T @ t).square()).sum()
        return total

    return descended(setting, cost, start, 1.2, 150, floor=0.0)


def _correlated_inputs(setting: FunctionSetting) -> Planted:
    """Least squares on inputs that are nearly the same; what tells them apart is half of J."""
    import torch

    size = min(setting.size, 30)
    common = normal_numbers(setting, 200).reshape(200, 1)
    own = normal_numbers(setting, 200 * size + 200)[200:].reshape(200, size)
    inputs = common + 0.05 * own
    values, columns = torch.linalg.eigh(inputs.T @ inputs / 200)
    energy = torch.full_like(values, 1 / (size - 1))
    energy[-1] = 1.0
    best = columns @ (energy / values).sqrt()

    def cost(t: "Tensor") -> "Tensor":
        total: Tensor = 0.5 * (inputs @ (t - best)).square().mean()
        return total

    start = torch.zeros(size, dtype=torch.float64)
    return descended(setting, cost, start, float(1.5 / values[-1]), 200, floor=0.0)


def _noisy_location(setting: FunctionSetting) -> Planted:
    """The centre of a cloud under pseudo-Huber losses; noise keeps J up by half of the gain."""
    import torch

    cloud = normal_numbers(setting, 20 * setting.size).reshape(20, setting.size)

    def cost(t: "Tensor") -> "Tensor":
        total: Tensor = ((1 + (t - cloud).square()).sqrt() - 1).mean(0).sum()
        return total

    middle = cloud.median(0).values
    for _ in range(300):
        middle = middle - torch.func.grad(cost)(middle)
    start = middle + 0.6 * normal_numbers(setting).sign()
    floor, rate = float(cost(middle)), 0.3
    noise = math.sqrt(2 * (float(cost(start)) - floor) / (setting.size * rate))
    return descended(setting, cost, start, rate, 300, noise=noise, floor=floor)


def _on_two_ridges(setting: FunctionSetting) -> Planted:
    """Double wells, two of them begun on their ridges, the others near their bottoms."""

    def cost(t: "Tensor") -> "Tensor":
        total: Tensor = 0.25 * (t.square() - 1).square().sum()
        return total

    start = 1 + 0.05 * normal_numbers(setting)
    start[:2] = 1e-9
    return descended(setting, cost, start, 0.2, 80, floor=0.0)


def _missed_pulses(setting: FunctionSetting) -> Planted:
    """Places of narrow pulses, guessed where no pulse is."""
    import torch

    grid = torch.linspace(-10, 10, 401, dtype=torch.float64)
    right = torch.linspace(-4, -2, 4, dtype=torch.float64)

    def pulses(places: "Tensor") -> "Tensor":
        return torch.exp(-8 * (grid - places[:, None]).square()).sum(0)

    target = pulses(right)

    def cost(t: "Tensor") -> "Tensor":
        return (torch.exp(-8 * (grid - t[:, None]).square()).mean(0) * 4 - target).square().mean()

    start = torch.full((4,), 5.0, dtype=torch.float64) + 1e-3 * normal_numbers(setting, 4)
    start = start + torch.arange(4, dtype=torch.float64)
    return descended(setting, cost, start, 0.5, 100, floor=0.0)


def _ripples(setting: FunctionSetting) -> Planted:
    """Rastrigin's function: at rest two ripples away from the lowest one."""
    import torch

    def cost(t: "Tensor") -> "Tensor":
        waves = 3 * (1 - torch.cos(2 * math.pi * t[:2]))
        total: Tensor = waves.sum() + t.square().sum()
        return total

    start = 0.1 * normal_numbers(setting)
    start[0] = 2.08
    return descended(setting, cost, start, 0.008, 150, floor=0.0)


def _tilted_well(setting: FunctionSetting) -> Planted:
    """The higher of two wells, with the lower one known."""
    import torch

    def cost(t: "Tensor") -> "Tensor":
        total: Tensor = (t[0] ** 2 - 1) ** 2 + 0.35 * t[0] + 0.5 * t[1:].square().sum()
        return total

    start = 0.3 * normal_numbers(setting) / setting.size**0.5
    start[0] = 1.25
    lower = torch.zeros(setting.size, dtype=torch.float64)
    lower[0] = -1.0417
    return descended(setting, cost, start, 0.08, 150, reference=lower)


def _horseshoe(setting: FunctionSetting) -> Planted:
    """A valley bent into most of a circle of radius 2, which falls as the square of the angle."""
    import torch

    def cost(t: "Tensor") -> "Tensor":
        radius, angle = t[:2].norm(), torch.atan2(t[1], t[0])
        total: Tensor = 1.2 * (radius - 2).square() + 0.3 * angle.square()
        return total + 0.4 * t[2:].square().sum()

    start = 0.2 * normal_numbers(setting) / setting.size**0.5
    angle = torch.tensor(2.7, dtype=torch.float64)
    start[0], start[1] = 2 * torch.cos(angle), 2 * torch.sin(angle)
    return descended(setting, cost, start, 0.3, 100, floor=0.0)


def _unstable_logistic(setting: FunctionSetting) -> Planted:
    """Ridge and logistic losses together, with a step half as long again as the limit."""
    import torch

    inputs = normal_numbers(setting, 5 * setting.size**2).reshape(5 * setting.size, setting.size)

    def cost(t: "Tensor") -> "Tensor":
        total: Tensor = _softplus(-inputs @ t).mean() + 0.5 * (t - 0.5).square().sum()
        return total

    hessian = torch.func.hessian(cost)(torch.full((setting.size,), 0.3).double())
    largest = float(torch.linalg.eigvalsh(hessian)[-1])
    return descended(setting, cost, normal_numbers(setting), 3.0 / largest, 50)


def _softplus(x: "Tensor") -> "Tensor":
    import torch

    return torch.nn.functional.softplus(x)


def _timid_quartic(setting: FunctionSetting) -> Planted:
    def cost(t: "Tensor") -> "Tensor":
        away = t + 1
        total: Tensor = 0.5 * away.square().sum() + 0.05 * away.pow(4).sum()
        return total

    return descended(setting, cost, normal_numbers(setting), 8e-4, 150)


def _thin_margin(setting: FunctionSetting) -> Planted:
    """Two classes a little apart along one input, beside noise in another: J falls for ever."""
    import torch

    label = torch.where(torch.arange(60) % 2 == 0, 1.0, -1.0).double()
    noise = normal_numbers(setting, 60)
    inputs = torch.stack([0.08 * label, noise], 1) * label[:, None]

    def cost(t: "Tensor") -> "Tensor":
        return _softplus(-inputs @ t).mean()

    return descended(setting, cost, 0.1 * normal_numbers(setting, 2), 4.0, 500)


def _sound_location(setting: FunctionSetting) -> Planted:
    cloud = normal_numbers(setting, 20 * setting.size).reshape(20, setting.size)

    def cost(t: "Tensor") -> "Tensor":
        total: Tensor = ((1 + (t - cloud).square()).sqrt() - 1).mean(0).sum()
        return total

    return descended(setting, cost, 2 * normal_numbers(setting), 1.0, 80)


def _sound_clusters(setting: FunctionSetting) -> Planted:
    import torch

    values = torch.where(torch.arange(setting.size) % 2 == 0, 1.0, 0.3).double()

    def cost(t: "Tensor") -> "Tensor":
        total: Tensor = 0.5 * (values * (t - 1).square()).sum()
        return total

    return descended(setting, cost, normal_numbers(setting), 1.1, 60)


def _sound_logistic(setting: FunctionSetting) -> Planted:
    inputs = normal_numbers(setting, 6 * setting.size**2).reshape(6 * setting.size, setting.size)

    def cost(t: "Tensor") -> "Tensor":
        return _softplus(-inputs @ t / setting.size**0.5).mean() + 0.05 * t.square().mean()

    start = 2 * normal_numbers(setting)
    return descended(setting, cost, start, 2.5 * setting.size, 120, nesterov=True, momentum=0.6)


_FUNCTIONS: tuple[tuple[str, str | None, tuple[str, ...], Any], ...] = (
    ("two clusters", "ill_conditioning", (), _two_clusters),
    ("correlated inputs", "ill_conditioning", (), _correlated_inputs),
    ("noisy location", "gradient_noise", (), _noisy_location),
    ("on two ridges", "saddle_point", ("plateau",), _on_two_ridges),
    ("missed pulses", "plateau", ("saddle_point",), _missed_pulses),
    ("ripples", "local_minimum", ("barrier",), _ripples),
    ("tilted well", "barrier", ("local_minimum",), _tilted_well),
    ("horseshoe", "detour", ("ill_conditioning", "saddle_point"), _horseshoe),
    ("unstable logistic", "step_too_large", (), _unstable_logistic),
    ("timid quartic", "step_too_small", (), _timid_quartic),
    ("thin margin", "no_critical_point", ("step_too_small", "ill_conditioning"), _thin_margin),
    ("sound location", None, (), _sound_location),
    ("sound clusters", None, (), _sound_clusters),
    ("sound logistic", None, (), _sound_logistic),
)


# Networks.


def _pooled(setting: NetworkSetting, unit: "type[nn.Module]") -> "nn.Sequential":
    """Return a seeded convolutional network that averages over places."""
    import torch
    from torch import nn

    with torch.random.fork_rng():
        torch.manual_seed(setting.seed)
        channels = max(8, setting.width // 4)
        return nn.Sequential(
            nn.Unflatten(1, (1, 8, 8)),
            *(nn.Conv2d(1, channels, 3, padding=1), unit()),
            *(nn.Conv2d(channels, 2 * channels, 3, padding=1), unit()),
            *(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(32 * channels, 10)),
        )


def _sound_pooled(setting: NetworkSetting, folder: Path) -> Planted:
    from torch import nn

    rate = {"sgd": 0.2, "momentum": 0.03, "adam": 2e-3}[setting.optimizer]
    return trained(setting, folder, _pooled(setting, nn.SiLU), 400, rate=rate)


def _sound_wide(setting: NetworkSetting, folder: Path) -> Planted:
    from torch import nn

    return trained(setting, folder, perceptron(setting, 1, nn.GELU, 160), 400)


def _leaping(setting: NetworkSetting, folder: Path) -> Planted:
    from torch import nn

    model = perceptron(setting, 3, nn.ELU)
    return trained(setting, folder, model, 150, optimizer="sgd", rate=15.0, batch=1400)


def _creeping(setting: NetworkSetting, folder: Path) -> Planted:
    from torch import nn

    model = _pooled(setting, nn.Tanh)
    return trained(setting, folder, model, 250, optimizer="sgd", rate=1e-4)


def _one_by_one(setting: NetworkSetting, folder: Path) -> Planted:
    """Single examples, at a rate at which all of them together would be stable."""
    from torch import nn

    model = perceptron(setting, 1, nn.Softsign)
    return trained(setting, folder, model, 1500, optimizer="sgd", rate=1.0, batch=1)


def _amplified(setting: NetworkSetting, folder: Path) -> Planted:
    """Twelve layers without bends, each of which multiplies the gradient more than twice."""
    import torch
    from torch import nn

    model = perceptron(setting, 12, nn.Identity)
    with torch.no_grad():
        for layer in model.children():
            if isinstance(layer, nn.Linear):
                layer.weight.mul_(4.0)
    return trained(setting, folder, model, 120, optimizer="sgd", rate=1e-3)


def _dwindling(setting: NetworkSetting, folder: Path) -> Planted:
    from torch import nn

    model = perceptron(setting, 14, nn.Tanh, 16)
    for layer in model.children():
        if isinstance(layer, nn.Linear):
            layer.weight.data.mul_(0.6)
    return trained(setting, folder, model, 300, optimizer="sgd", rate=0.2)


def _few_digits(setting: NetworkSetting, folder: Path) -> Planted:
    from torch import nn

    model = perceptron(setting, 3, nn.Tanh)
    return trained(setting, folder, model, 1000, optimizer="adam", rate=4e-3, batch=35, examples=35)


def _dead_pooled(setting: NetworkSetting, folder: Path) -> Planted:
    import torch
    from torch import nn

    model = _pooled(setting, nn.ReLU)
    second = list(model.children())[3]
    assert isinstance(second, nn.Conv2d)
    assert second.bias is not None
    with torch.no_grad():
        second.bias.fill_(-10.0)
    return trained(setting, folder, model, 200)


_NETWORKS: tuple[tuple[str, str | None, frozenset[str], Any], ...] = (
    ("sound pooled", None, frozenset(), _sound_pooled),
    ("sound wide", None, frozenset(), _sound_wide),
    (
        "leaping",
        "step_too_large",
        frozenset({"dead_units", "vanishing_gradient"}),
        _leaping,
    ),
    ("creeping", "step_too_small", frozenset(), _creeping),
    ("one by one", "gradient_noise", frozenset(), _one_by_one),
    (
        "amplified",
        "exploding_gradient",
        frozenset({"step_too_large", "ill_conditioning", "gradient_noise", "dead_units"}),
        _amplified,
    ),
    (
        "dwindling",
        "vanishing_gradient",
        NO_GRADIENT | {"step_too_small", "ill_conditioning"},
        _dwindling,
    ),
    ("few digits", "overfitting", frozenset({"no_critical_point"}), _few_digits),
    ("dead pooled", "dead_units", NO_GRADIENT, _dead_pooled),
)
