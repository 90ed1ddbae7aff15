"""Planted runs that were a held-out part once: development since, for they were learnt from.

When they were looked at for the first time, 67 of 83 were diagnosed right. A search that began at a
saddle point, and steps that climb although they are within the limit of stability where they begin,
were missed; of classes far apart next to nothing was left to reach, so that nothing was in the way;
and outliers have minima between them.
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
    from collections.abc import Callable

    from torch import Tensor, nn

__all__ = ["mixed_functions", "mixed_networks"]

_FUNCTION_SETTINGS = (
    FunctionSetting(3000, 8, 1.0, 0.0, 1.0),
    FunctionSetting(3001, 20, 2e-2, 3.0, 0.2),
    FunctionSetting(3002, 46, 70.0, -5.0, 2.0),
    FunctionSetting(3003, 110, 1.0, 0.0, 1.0),
)
_NETWORK_SETTINGS = (
    NetworkSetting(4000, 52, "sgd"),
    NetworkSetting(4001, 36, "momentum"),
    NetworkSetting(4002, 84, "adam"),
)


def mixed_functions(few: bool) -> Iterator[Case]:
    """Give the cases on closed forms, in one setting only where these are to be few."""
    settings = _FUNCTION_SETTINGS[:1] if few else _FUNCTION_SETTINGS
    yield from function_cases(_FUNCTIONS, settings, "development")


def mixed_networks(few: bool, folder: Path) -> Iterator[Case]:
    """Give the cases on digits; few kinds in one setting where these are to be few."""
    settings = _NETWORK_SETTINGS[:1] if few else _NETWORK_SETTINGS
    yield from network_cases(_NETWORKS[::4] if few else _NETWORKS, settings, folder, "development")


# Closed forms.


def _string(setting: FunctionSetting) -> Planted:
    """A string of 60 beads, half of its energy in its two slowest modes."""
    import torch

    place = torch.arange(1, 61, dtype=torch.float64)
    modes = torch.sin(math.pi * place[:, None] * place / 61) * math.sqrt(2 / 61)
    values = 4 * torch.sin(math.pi * place / 122).square()
    energy = torch.full_like(values, 0.5 / 58)
    energy[:2] = 0.25
    start = modes @ ((2 * energy / values).sqrt() * normal_numbers(setting, 60).sign())

    def cost(t: "Tensor") -> "Tensor":
        total: Tensor = 0.5 * (torch.diff(t).square().sum() + t[0] ** 2 + t[-1] ** 2)
        return total

    return descended(setting, cost, start, 0.45, 80, floor=0.0)


def _chained_valley(setting: FunctionSetting) -> Planted:
    """Rosenbrock's function in a chain, from the origin, on the floor of its valley."""

    def cost(t: "Tensor") -> "Tensor":
        walls, along = t[1:] - t[:-1].square(), 1 - t[:-1]
        total: Tensor = (100 * walls.square() + along.square()).mean()
        return total

    start = 0.02 * normal_numbers(setting, 8).abs()
    return descended(setting, cost, start, 9e-3, 250, floor=0.0)


def _noisy_counts(setting: FunctionSetting) -> Planted:
    """Poisson regression; noise alone keeps J up by half of what there is to gain."""
    import torch

    size = min(setting.size, 40)
    inputs = normal_numbers(setting, 6 * size * size).reshape(6 * size, size) / size**0.5
    truth = 0.5 * torch.cos(torch.arange(size, dtype=torch.float64))
    counts = torch.exp(inputs @ truth)

    def cost(t: "Tensor") -> "Tensor":
        logs = inputs @ t
        total: Tensor = (torch.exp(logs) - counts * logs).mean()
        return total

    hessian = inputs.T @ (counts[:, None] * inputs) / len(inputs)
    rate = 0.4 / float(torch.linalg.eigvalsh(hessian)[-1])
    start = truth + 0.4 * normal_numbers(setting, size)
    floor = float(cost(truth))
    noise = math.sqrt(2 * (float(cost(start)) - floor) / (size * rate))
    return descended(setting, cost, start, rate, 300, noise=noise, floor=floor)


def _second_eigenvector(setting: FunctionSetting) -> Planted:
    """The search for the first eigenvector of a matrix, begun at the second one, a saddle."""
    import torch

    size = min(setting.size, 30)
    columns = torch.linalg.qr(normal_numbers(setting, size * size).reshape(size, size)).Q
    values = torch.linspace(0.1, 0.5, size, dtype=torch.float64)
    values[-1], values[-2] = 1.0, 0.7
    matrix = columns @ torch.diag(values) @ columns.T

    def cost(t: "Tensor") -> "Tensor":
        total: Tensor = 0.25 * (t @ t) ** 2 - 0.5 * t @ matrix @ t
        return total

    start = 0.7**0.5 * columns[:, -2] + 1e-8 * columns[:, -1]
    return descended(setting, cost, start, 0.3, 200, floor=-0.25)


def _all_outliers(setting: FunctionSetting) -> Planted:
    """Robust regression by Geman and McClure, from where every example is an outlier."""
    import torch

    inputs = normal_numbers(setting, 5 * setting.size**2).reshape(5 * setting.size, setting.size)
    inputs = inputs / setting.size**0.5

    def cost(t: "Tensor") -> "Tensor":
        misses = (inputs @ t).square()
        total: Tensor = (misses / (1 + misses)).mean()
        return total

    start = 3e3 * torch.ones(setting.size, dtype=torch.float64)
    return descended(setting, cost, start, 1.0, 120, floor=0.0)


def _wrong_frequency(setting: FunctionSetting) -> Planted:
    """The frequency of a sine, sought from beyond the next side lobe."""
    import torch

    time = torch.linspace(0, 2, 200, dtype=torch.float64)
    right = 9.0 + 0.5 * torch.sin(torch.tensor(float(setting.seed)))

    def cost(t: "Tensor") -> "Tensor":
        gap = torch.sin(t[0] * time) - torch.sin(right * time)
        return gap.square().mean() + 0.05 * t[1:].square().mean()

    start = normal_numbers(setting, 4) / 4
    start[0] = right + 4.4
    return descended(setting, cost, start, 1.0, 200, floor=0.0)


def _two_wells(setting: FunctionSetting) -> Planted:
    """A bowl with a shallow well where the run begins, and a deep one elsewhere: the reference."""
    import torch

    first = torch.zeros(setting.size, dtype=torch.float64)
    first[0] = 1.5
    second = -first

    def cost(t: "Tensor") -> "Tensor":
        shallow = torch.exp(-2 * (t - first).square().sum())
        deep = torch.exp(-2 * (t - second).square().sum())
        return 0.02 * t.square().sum() - 0.5 * shallow - deep

    start = first + 0.25 * normal_numbers(setting) / setting.size**0.5
    return descended(setting, cost, start, 0.3, 200, reference=second)


def _half_a_ring(setting: FunctionSetting) -> Planted:
    """Around a hill on a ring whose floor falls steadily to the other side."""
    import torch

    def cost(t: "Tensor") -> "Tensor":
        radius = t[:2].norm()
        total: Tensor = 1.5 * (radius - 1).square() + 0.4 * (1 - t[0] / radius)
        return total + 0.5 * t[2:].square().sum()

    start = 0.2 * normal_numbers(setting) / setting.size**0.5
    angle = torch.tensor(0.93 * math.pi, dtype=torch.float64)
    start[0], start[1] = torch.cos(angle), torch.sin(angle)
    return descended(setting, cost, start, 0.25, 70, floor=0.0)


def _divergence(setting: FunctionSetting) -> Planted:
    """Least squares with a step ten percent past the limit."""
    import torch

    inputs = normal_numbers(setting, 4 * setting.size**2).reshape(4 * setting.size, setting.size)
    largest = float(torch.linalg.eigvalsh(inputs.T @ inputs)[-1]) / len(inputs)

    def cost(t: "Tensor") -> "Tensor":
        return 0.5 * (inputs @ (t - 1)).square().mean()

    return descended(setting, cost, normal_numbers(setting), 2.2 / largest, 60, floor=0.0)


def _timid_momentum(setting: FunctionSetting) -> Planted:
    """Logistic regression with decay; even with momentum the step is 1/500 of the limit."""
    inputs = normal_numbers(setting, 5 * setting.size**2).reshape(5 * setting.size, setting.size)

    def cost(t: "Tensor") -> "Tensor":
        return _softplus(-inputs @ t / setting.size**0.5).mean() + 0.05 * t.square().mean()

    start = 2 * normal_numbers(setting)
    return descended(setting, cost, start, 8e-4 * setting.size, 150, momentum=0.9)


def _softplus(x: "Tensor") -> "Tensor":
    import torch

    return torch.nn.functional.softplus(x)


def _three_classes(setting: FunctionSetting) -> Planted:
    """Softmax regression of three classes far apart: J falls for ever."""
    import torch

    label = torch.arange(45) % 3
    angle = 2 * math.pi * label / 3
    inputs = torch.stack([angle.cos(), angle.sin(), torch.ones(45)], 1).double()
    inputs = inputs + 0.1 * normal_numbers(setting, 135).reshape(45, 3)

    def cost(t: "Tensor") -> "Tensor":
        return torch.nn.functional.cross_entropy(inputs @ t.reshape(3, 3), label)

    return descended(setting, cost, 0.1 * normal_numbers(setting, 9), 2.0, 600)


def _sound_counts(setting: FunctionSetting) -> Planted:
    import torch

    size = min(setting.size, 40)
    inputs = normal_numbers(setting, 6 * size * size).reshape(6 * size, size) / size**0.5
    counts = torch.exp(0.5 * inputs[:, 0])

    def cost(t: "Tensor") -> "Tensor":
        logs = inputs @ t
        total: Tensor = (torch.exp(logs) - counts * logs).mean()
        return total

    largest = float(torch.linalg.eigvalsh(inputs.T @ (counts[:, None] * inputs))[-1]) / len(inputs)
    start = 0.5 * normal_numbers(setting, size)
    return descended(setting, cost, start, 0.7 / largest, 120)


def _sound_factors(setting: FunctionSetting) -> Planted:
    """Two factors of a full matrix, from well-conditioned factors."""
    import torch

    target = torch.diag(torch.tensor([1.0, 1.4, 1.8], dtype=torch.float64))

    def cost(t: "Tensor") -> "Tensor":
        return 0.5 * (t[:9].reshape(3, 3) @ t[9:].reshape(3, 3) - target).square().sum()

    eye = torch.eye(3, dtype=torch.float64).reshape(-1)
    start = torch.cat([eye, eye]) * 0.8 + 0.1 * normal_numbers(setting, 18)
    return descended(setting, cost, start, 0.12, 100)


def _sound_heavy_ball(setting: FunctionSetting) -> Planted:
    import torch

    values = torch.linspace(0.2, 1.0, setting.size, dtype=torch.float64)

    def cost(t: "Tensor") -> "Tensor":
        total: Tensor = 0.5 * (values * (t + 3).square()).sum()
        return total

    return descended(setting, cost, normal_numbers(setting), 0.6, 100, momentum=0.7)


_FUNCTIONS: tuple[tuple[str, str | None, tuple[str, ...], Any], ...] = (
    ("string of beads", "ill_conditioning", (), _string),
    ("chained valley", "ill_conditioning", ("detour",), _chained_valley),
    ("noisy counts", "gradient_noise", (), _noisy_counts),
    ("second eigenvector", "saddle_point", ("plateau",), _second_eigenvector),
    ("all outliers", "plateau", ("saddle_point",), _all_outliers),
    ("wrong frequency", "local_minimum", ("barrier",), _wrong_frequency),
    ("two wells in a bowl", "barrier", ("local_minimum",), _two_wells),
    ("half a ring", "detour", ("ill_conditioning", "saddle_point"), _half_a_ring),
    ("divergence", "step_too_large", (), _divergence),
    ("timid momentum", "step_too_small", (), _timid_momentum),
    (
        "three classes",
        "no_critical_point",
        ("step_too_small", "ill_conditioning"),
        _three_classes,
    ),
    ("sound counts", None, (), _sound_counts),
    ("sound factors", None, (), _sound_factors),
    ("sound heavy ball", None, (), _sound_heavy_ball),
)


# Networks.


def _scaled(model: "nn.Sequential", factor: float) -> "nn.Sequential":
    """Multiply the weights of all linear layers."""
    import torch
    from torch import nn

    with torch.no_grad():
        for layer in model.children():
            if isinstance(layer, nn.Linear):
                layer.weight.mul_(factor)
    return model


def _normalised(
    setting: NetworkSetting, depth: int, unit: "Callable[[], nn.Module]"
) -> "nn.Module":
    """Return a network whose hidden layers are normalised by example."""
    from torch import nn

    layers: list[nn.Module] = []
    for layer in perceptron(setting, depth, unit).children():
        layers.append(layer)
        if isinstance(layer, nn.Linear) and layer.out_features != 10:
            layers.append(nn.LayerNorm(layer.out_features))
    return nn.Sequential(*layers)


def _sound_normalised(setting: NetworkSetting, folder: Path) -> Planted:
    from torch import nn

    return trained(setting, folder, _normalised(setting, 2, nn.SiLU), 500)


def _sound_wide_batches(setting: NetworkSetting, folder: Path) -> Planted:
    from torch import nn

    model = perceptron(setting, 3, nn.ELU)
    return trained(setting, folder, model, 400, batch=256)


def _violent_momentum(setting: NetworkSetting, folder: Path) -> Planted:
    from torch import nn

    model = perceptron(setting, 2, nn.Softsign)
    return trained(setting, folder, model, 200, optimizer="momentum", rate=5.0, batch=1400)


def _timid_network(setting: NetworkSetting, folder: Path) -> Planted:
    from torch import nn

    model = _normalised(setting, 2, nn.ReLU)
    return trained(setting, folder, model, 250, optimizer="momentum", rate=1e-5)


def _pairs(setting: NetworkSetting, folder: Path) -> Planted:
    """Two examples at a time, at a rate at which all of them together would be stable."""
    from torch import nn

    model = perceptron(setting, 1, nn.Tanh)
    return trained(setting, folder, model, 1200, optimizer="momentum", rate=0.1, batch=2)


def _explosion(setting: NetworkSetting, folder: Path) -> Planted:
    """Leaky units and weights that multiply the gradient about fourfold in each of ten layers."""
    from torch import nn

    model = _scaled(perceptron(setting, 10, nn.LeakyReLU), 10.0)
    return trained(setting, folder, model, 150, optimizer="sgd", rate=0.01)


def _faded(setting: NetworkSetting, folder: Path) -> Planted:
    from torch import nn

    model = _scaled(perceptron(setting, 9, nn.Hardtanh, 28), 0.35)
    return trained(setting, folder, model, 300, optimizer="momentum", rate=0.02)


def _fifty_digits(setting: NetworkSetting, folder: Path) -> Planted:
    from torch import nn

    model = perceptron(setting, 3, nn.ELU)
    return trained(
        setting, folder, model, 1200, optimizer="momentum", rate=0.05, batch=50, examples=50
    )


def _dead_by_sign(setting: NetworkSetting, folder: Path) -> Planted:
    """A rectified layer whose weights are all negative, above one that is never negative."""
    import torch
    from torch import nn

    model = perceptron(setting, 3, nn.ReLU)
    third = list(model.children())[4]
    assert isinstance(third, nn.Linear)
    with torch.no_grad():
        third.weight.copy_(-third.weight.abs())
        third.bias.fill_(-0.5)
    return trained(setting, folder, model, 250)


_NETWORKS: tuple[tuple[str, str | None, frozenset[str], Any], ...] = (
    ("sound normalised", None, frozenset(), _sound_normalised),
    ("sound wide batches", None, frozenset(), _sound_wide_batches),
    (
        "violent momentum",
        "step_too_large",
        frozenset({"dead_units", "vanishing_gradient"}),
        _violent_momentum,
    ),
    ("timid network", "step_too_small", frozenset(), _timid_network),
    ("pairs of examples", "gradient_noise", frozenset(), _pairs),
    (
        "explosion",
        "exploding_gradient",
        frozenset({"step_too_large", "ill_conditioning", "gradient_noise", "dead_units"}),
        _explosion,
    ),
    (
        "faded",
        "vanishing_gradient",
        NO_GRADIENT | {"step_too_small", "ill_conditioning"},
        _faded,
    ),
    ("fifty digits", "overfitting", frozenset({"no_critical_point"}), _fifty_digits),
    ("dead by sign", "dead_units", NO_GRADIENT, _dead_by_sign),
)
