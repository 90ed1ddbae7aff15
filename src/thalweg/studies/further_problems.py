"""Further planted runs of the development part: held out at first, and learnt from since.

When they were first looked at, 80 of 87 were diagnosed right. Tiny and noisy steps of Adam and
large Rosenbrock functions were not. Since then other steps of Adam are really steps of Adam, the
held-out cost must stay up to tell of overfitting, and more Newton steps are tried on closed forms.
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

__all__ = ["further_functions", "further_networks"]

_FUNCTION_SETTINGS = (
    FunctionSetting(100, 8, 1.0, 0.0, 1.0),
    FunctionSetting(101, 24, 2e-2, 3.0, 5.0),
    FunctionSetting(102, 64, 80.0, -1.0, 0.2),
    FunctionSetting(103, 150, 1.0, 0.0, 1.0),
)
_NETWORK_SETTINGS = (
    NetworkSetting(200, 56, "sgd"),
    NetworkSetting(201, 36, "momentum"),
    NetworkSetting(202, 72, "adam"),
)


def further_functions(few: bool) -> Iterator[Case]:
    """Give the cases on closed forms, in one setting only where these are to be few."""
    settings = _FUNCTION_SETTINGS[:1] if few else _FUNCTION_SETTINGS
    yield from function_cases(_FUNCTIONS, settings, "development")


def further_networks(few: bool, folder: Path) -> Iterator[Case]:
    """Give the cases on digits; few kinds in one setting where these are to be few."""
    settings = _NETWORK_SETTINGS[:1] if few else _NETWORK_SETTINGS
    yield from network_cases(_NETWORKS[::4] if few else _NETWORKS, settings, folder, "development")


# Closed forms.


def _rotation(setting: FunctionSetting, size: int) -> "Tensor":
    """Return a random orthogonal matrix, shape (size, size)."""
    import torch

    found: Tensor = torch.linalg.qr(normal_numbers(setting, size * size).reshape(size, size))[0]
    return found


def _rotated(setting: FunctionSetting, lowest: float) -> "tuple[Any, Tensor, Tensor]":
    """Return a quadratic with eigenvalues from 1 down to the lowest, these, and eigenvectors."""
    import math

    import torch

    values = torch.logspace(0, math.log10(lowest), setting.size, dtype=torch.float64)
    turn = _rotation(setting, setting.size)

    def cost(t: "Tensor") -> "Tensor":
        total: Tensor = 0.5 * (values * (turn @ (t - 1)).square()).sum()
        return total

    return cost, values, turn


def _rotated_valley(setting: FunctionSetting) -> Planted:
    """Equal energy along all eigenvectors of a rotated quadratic, κ = 3 · 10⁴, Nesterov's steps."""
    cost, values, turn = _rotated(setting, 1 / 3e4)
    start = 1 + turn.T @ (normal_numbers(setting).sign() / values.sqrt())
    return descended(setting, cost, start, 1.0, 100, momentum=0.5, nesterov=True, floor=0.0)


def _rosenbrock(setting: FunctionSetting) -> Planted:
    """The curved valley of Rosenbrock, in pairs of entries."""
    import torch

    def cost(t: "Tensor") -> "Tensor":
        x, y = t[0::2], t[1::2]
        total: Tensor = (100 * (y - x * x) ** 2 + (1 - x) ** 2).mean()
        return total

    pairs = setting.size // 2
    start = torch.tensor([-0.5, 0.3] * pairs, dtype=torch.float64)
    start = start + 0.1 * normal_numbers(setting, 2 * pairs)
    return descended(setting, cost, start, 1.5e-3 * pairs, 300, floor=0.0)


def _polynomials(setting: FunctionSetting) -> Planted:
    """Least squares in monomials up to degree 5, equal energy in all directions."""
    import torch

    grid = torch.linspace(-1, 1, 60, dtype=torch.float64)
    features = torch.stack([grid**k for k in range(6)], 1)
    values, columns = torch.linalg.eigh(features.T @ features / len(grid))
    best = columns @ (normal_numbers(setting, 6).sign() / values.sqrt())
    target = features @ best
    rate = float(1.5 / values[-1])

    def cost(t: "Tensor") -> "Tensor":
        total: Tensor = 0.5 * (features @ t - target).square().mean()
        return total

    return descended(setting, cost, torch.zeros(6, dtype=torch.float64), rate, 150, floor=0.0)


def _spurious_rectified(setting: FunctionSetting) -> Planted:
    """Two rectified units near a local minimum of their fit to six points; the best fit is exact.

    Swirszcz, Czarnecki & Pascanu (2016), section 4.
    """
    import torch

    x = torch.tensor([-1.0, 0, 1, 10, 11, 12], dtype=torch.float64)
    y = torch.tensor([5.0, 0, -1, -3, -4, -5], dtype=torch.float64)

    def cost(t: "Tensor") -> "Tensor":
        hidden = torch.relu(t[0:2] * x[:, None] + t[2:4])
        return (hidden @ t[4:6] + t[6] - y).square().sum()

    minimum = torch.tensor([-3.0, 1.0, 13 / 3, -10.0, 1.0, -1.0, -3.0], dtype=torch.float64)
    start = minimum + 0.03 * normal_numbers(setting, 7)
    return descended(setting, cost, start, 5e-4, 800, floor=0.0)


def _deceptive_wells(setting: FunctionSetting) -> Planted:
    """A broad well that is not the deepest, beside a narrow one that is."""
    import torch

    deep = torch.zeros(setting.size, dtype=torch.float64)
    deep[0] = 4.0

    def cost(t: "Tensor") -> "Tensor":
        broad = 0.1 * t.square().sum()
        total: Tensor = broad - 3 * torch.exp(-2 * (t - deep).square().sum())
        return total

    start = 0.5 * normal_numbers(setting) / setting.size**0.5
    start[0] = -2.0
    return descended(setting, cost, start, 1.0, 150, reference=deep)


def _far_from_a_well(setting: FunctionSetting) -> Planted:
    """A Gaussian well that is felt nowhere near the start."""
    import torch

    start = normal_numbers(setting)
    start = 7 * start / start.norm()
    return descended(
        setting,
        lambda t: 1 - torch.exp(-0.5 * (t - 0.1).square().sum()),
        start,
        0.5,
        200,
        floor=0.0,
    )


def _factorisation(setting: FunctionSetting) -> Planted:
    """A symmetric factorisation of rank 2, from near 0."""
    size = max(setting.size // 2, 3)
    turn = _rotation(setting, size)
    target = turn[:, :1] @ turn[:, :1].T + 0.6 * turn[:, 1:2] @ turn[:, 1:2].T

    def cost(t: "Tensor") -> "Tensor":
        factor = t.reshape(size, 2)
        return 0.25 * (factor @ factor.T - target).square().sum()

    start = 1e-6 * normal_numbers(setting, 2 * size)
    return descended(setting, cost, start, 0.2, 60, floor=0.0)


def _robust_noise(setting: FunctionSetting) -> Planted:
    """A robust regression whose gradients are noisy, at a constant rate."""
    import torch

    inputs = normal_numbers(setting, 4 * setting.size**2).reshape(4 * setting.size, setting.size)
    inputs = inputs / setting.size**0.5

    def cost(t: "Tensor") -> "Tensor":
        return (torch.sqrt(1 + (inputs @ (t - 1)).square()) - 1).mean()

    start = 1 + normal_numbers(setting)
    return descended(setting, cost, start, 5.0, 400, noise=0.3, floor=0.0)


def _no_minimum(setting: FunctionSetting) -> Planted:
    """Softplus losses of examples with wide margins, with momentum."""
    import torch

    inputs = normal_numbers(setting, 150).reshape(50, 3)
    inputs = inputs * torch.sign(inputs[:, :1] + 1e-9)
    inputs[:, 0] = inputs[:, 0] + 0.5

    def cost(t: "Tensor") -> "Tensor":
        return torch.nn.functional.softplus(-inputs @ t).mean()

    return descended(setting, cost, torch.zeros(3, dtype=torch.float64), 0.3, 300, momentum=0.5)


def _unstable_momentum(setting: FunctionSetting) -> Planted:
    cost, _, _ = _rotated(setting, 0.3)
    return descended(setting, cost, 1 + normal_numbers(setting), 4.1, 60, momentum=0.9)


def _timid(setting: FunctionSetting) -> Planted:
    """A well-conditioned quartic bowl, at a thousandth of a good step."""

    def cost(t: "Tensor") -> "Tensor":
        u = t + 0.5
        return 0.5 * u.square().sum() + 0.05 * u.square().square().sum()

    return descended(setting, cost, normal_numbers(setting), 5e-4, 150)


def _around_a_hill(setting: FunctionSetting) -> Planted:
    """A ring-shaped valley around a hill, from one side to the other."""
    import math

    import torch

    def cost(t: "Tensor") -> "Tensor":
        radius = torch.sqrt(t.square().sum() + 1e-6)
        return 0.6 * (radius - 2).square() + 0.6 * (1 - t[0] / radius)

    angle = 2.5 + 0.2 * math.tanh(float(normal_numbers(setting)[0]))
    start = 2 * torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)
    return descended(setting, cost, start, 0.15, 250)


def _sound_rotated(setting: FunctionSetting) -> Planted:
    cost, _, _ = _rotated(setting, 0.1)
    start = 1 + normal_numbers(setting)
    return descended(setting, cost, start, 0.5, 100, momentum=0.6, nesterov=True)


def _sound_quartic(setting: FunctionSetting) -> Planted:
    def cost(t: "Tensor") -> "Tensor":
        u = t - 0.3
        return 0.5 * u.square().sum() + 0.05 * u.square().square().sum()

    return descended(setting, cost, normal_numbers(setting), 0.3, 60)


def _sound_regression(setting: FunctionSetting) -> Planted:
    """Least squares with four examples for each entry, and what no entry explains."""
    import torch

    inputs = normal_numbers(setting, 4 * setting.size**2).reshape(4 * setting.size, setting.size)
    target = inputs.sum(1) + inputs.roll(1, 0)[:, 0]
    largest = float(torch.linalg.eigvalsh(inputs.T @ inputs)[-1]) / len(inputs)

    def cost(t: "Tensor") -> "Tensor":
        return 0.5 * (inputs @ t - target).square().mean()

    start = torch.zeros(setting.size, dtype=torch.float64)
    return descended(setting, cost, start, 1 / largest, 80)


_FUNCTIONS: tuple[tuple[str, str | None, tuple[str, ...], Any], ...] = (
    ("rotated valley, Nesterov", "ill_conditioning", (), _rotated_valley),
    ("Rosenbrock", "ill_conditioning", ("detour",), _rosenbrock),
    ("polynomials", "ill_conditioning", (), _polynomials),
    ("two rectified units", "local_minimum", ("barrier", "ill_conditioning"), _spurious_rectified),
    ("broad well beside a deep one", "barrier", ("local_minimum",), _deceptive_wells),
    ("far from a well", "plateau", ("saddle_point",), _far_from_a_well),
    ("symmetric factorisation", "saddle_point", ("plateau",), _factorisation),
    ("robust regression with noise", "gradient_noise", (), _robust_noise),
    ("wide margins", "no_critical_point", ("step_too_small", "ill_conditioning"), _no_minimum),
    ("momentum past the limit", "step_too_large", (), _unstable_momentum),
    ("timid steps", "step_too_small", (), _timid),
    ("around a hill", "detour", ("ill_conditioning", "saddle_point"), _around_a_hill),
    ("sound, rotated, Nesterov", None, (), _sound_rotated),
    ("sound quartic", None, (), _sound_quartic),
    ("sound regression", None, (), _sound_regression),
)


# Networks.


def _convolution(setting: NetworkSetting, channels: int = 8) -> "nn.Sequential":
    """Return a seeded convolutional network for digits of 8 by 8."""
    import torch
    from torch import nn

    with torch.random.fork_rng():
        torch.manual_seed(setting.seed)
        return nn.Sequential(
            nn.Unflatten(1, (1, 8, 8)),
            nn.Conv2d(1, channels, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(16 * channels, setting.width),
            nn.ReLU(),
            nn.Linear(setting.width, 10),
        )


def _sound_tanh(setting: NetworkSetting, folder: Path) -> Planted:
    from torch import nn

    return trained(setting, folder, perceptron(setting, 2, nn.Tanh), 600)


def _sound_convolution(setting: NetworkSetting, folder: Path) -> Planted:
    return trained(setting, folder, _convolution(setting), 500)


def _weak_tanh(setting: NetworkSetting, folder: Path) -> Planted:
    """Weights a third of what a deep network needs."""
    import torch
    from torch import nn

    model = perceptron(setting, 12, nn.Tanh, 24)
    with torch.no_grad():
        for layer in model.children():
            if isinstance(layer, nn.Linear):
                layer.weight.mul_(0.5)
    return trained(setting, folder, model, 300, optimizer="momentum", rate=0.02)


def _dead_convolution(setting: NetworkSetting, folder: Path) -> Planted:
    import torch
    from torch import nn

    model = _convolution(setting)
    with torch.no_grad():
        for layer in model.children():
            if isinstance(layer, nn.Conv2d) and layer.bias is not None:
                layer.bias.fill_(-10.0)
    return trained(setting, folder, model, 250)


def _labels_without_meaning(setting: NetworkSetting, folder: Path) -> Planted:
    return trained(
        setting, folder, _convolution(setting), 800, batch=60, examples=60, shuffled_labels=True
    )


def _timid_adam(setting: NetworkSetting, folder: Path) -> Planted:
    from torch import nn

    model = perceptron(setting, 1, nn.ReLU)
    return trained(setting, folder, model, 300, optimizer="adam", rate=2e-6)


def _violent_momentum(setting: NetworkSetting, folder: Path) -> Planted:
    from torch import nn

    model = perceptron(setting, 2, nn.Tanh)
    return trained(setting, folder, model, 200, optimizer="momentum", rate=5.0, batch=1400)


def _noisy_adam(setting: NetworkSetting, folder: Path) -> Planted:
    """Softmax regression, which is convex, with Adam on pairs of examples at a large rate."""
    from torch import nn

    model = perceptron(setting, 0, nn.Identity)
    return trained(setting, folder, model, 1200, optimizer="adam", rate=0.1, batch=2)


def _recurrent_explosion(setting: NetworkSetting, folder: Path) -> Planted:
    """One layer applied ten times, with weights that multiply the gradient each time."""
    import torch
    from torch import nn

    with torch.random.fork_rng():
        torch.manual_seed(setting.seed)
        cell, unit = nn.Linear(32, 32), nn.ReLU()
        with torch.no_grad():
            cell.weight.mul_(6.0)
        model = nn.Sequential(nn.Linear(64, 32), unit, *[cell, unit] * 10, nn.Linear(32, 10))
    return trained(setting, folder, model, 150, optimizer="sgd", rate=0.01)


_NETWORKS: tuple[tuple[str, str | None, frozenset[str], Any], ...] = (
    ("sound tanh", None, frozenset(), _sound_tanh),
    ("sound convolution", None, frozenset(), _sound_convolution),
    (
        "weak deep tanh",
        "vanishing_gradient",
        NO_GRADIENT | {"step_too_small", "ill_conditioning"},
        _weak_tanh,
    ),
    ("dead convolution", "dead_units", NO_GRADIENT, _dead_convolution),
    ("shuffled labels", "overfitting", frozenset({"no_critical_point"}), _labels_without_meaning),
    ("tiny steps of Adam", "step_too_small", frozenset(), _timid_adam),
    (
        "violent momentum",
        "step_too_large",
        frozenset({"dead_units", "vanishing_gradient"}),
        _violent_momentum,
    ),
    ("noisy Adam", "gradient_noise", frozenset(), _noisy_adam),
    (
        "one layer ten times",
        "exploding_gradient",
        frozenset({"step_too_large", "ill_conditioning", "gradient_noise", "dead_units"}),
        _recurrent_explosion,
    ),
)
