"""Runs of small networks on handwritten digits with a cause that is known by construction."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thalweg.studies.planted_problems import Case, Planted

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = [
    "NETWORK_SETTINGS",
    "NO_GRADIENT",
    "NetworkSetting",
    "all_digits",
    "network_cases",
    "perceptron",
    "planted_networks",
    "trained",
]

_TRAIN = 1400  # of 1797 digits; the others are held out


@dataclass(frozen=True)
class NetworkSetting:
    """One variant: width, seed, and which optimiser where it is free."""

    seed: int
    width: int
    optimizer: str


NETWORK_SETTINGS = (
    NetworkSetting(0, 48, "sgd"),
    NetworkSetting(1, 96, "momentum"),
    NetworkSetting(2, 32, "adam"),
    NetworkSetting(20, 64, "momentum"),
    NetworkSetting(21, 40, "adam"),
    NetworkSetting(22, 80, "sgd"),
)
_RATES = {"sgd": 0.2, "momentum": 0.05, "adam": 2e-3}
NO_GRADIENT = frozenset({"plateau", "vanishing_gradient", "local_minimum", "saddle_point"})


def planted_networks(few: bool, folder: Path) -> Iterator[Case]:
    """Give the cases on digits; three kinds in two settings where these are to be few.

    Args:
        few: Whether to give few.
        folder: Where runs are recorded once a case is made; they are taken up from there.
    """
    settings = NETWORK_SETTINGS[::3] if few else NETWORK_SETTINGS
    yield from network_cases(_KINDS[::3] if few else _KINDS, settings, folder, "development")


def network_cases(
    kinds: Sequence[tuple[str, str | None, frozenset[str], Any]],
    settings: Sequence[NetworkSetting],
    folder: Path,
    part: str,
) -> Iterator[Case]:
    """Give some kinds of cases in some settings: name, what is planted, what else, how."""
    for setting in settings:
        for name, planted, also, make in kinds:
            title = f"{name}, width {setting.width}, {setting.optimizer}, seed {setting.seed}"
            place = folder / title.replace(" ", "-").replace(",", "")

            def made(
                make: Any = make, setting: NetworkSetting = setting, place: Path = place
            ) -> Planted:
                planted: Planted = make(setting, place)
                return planted

            yield Case(title, planted, made, also, part)


def all_digits() -> "tuple[Tensor, Tensor]":
    """Return images in [0, 1] and labels of all digits."""
    import torch
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)


def perceptron(
    setting: NetworkSetting, depth: int, unit: "Callable[[], nn.Module]", width: int | None = None
) -> "nn.Sequential":
    """Return a seeded network of some hidden layers."""
    import torch
    from torch import nn

    width = width or setting.width
    with torch.random.fork_rng():
        torch.manual_seed(setting.seed)
        layers: list[nn.Module] = []
        inputs = 64
        for _ in range(depth):
            layers += [nn.Linear(inputs, width), unit()]
            inputs = width
        return nn.Sequential(*layers, nn.Linear(inputs, 10))


def _optimizer(name: str, model: "nn.Module", rate: float | None) -> Any:
    """Return one of the optimisers."""
    import torch

    rate = _RATES[name] if rate is None else rate
    if name == "adam":
        return torch.optim.Adam(model.parameters(), lr=rate)
    return torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9 if name == "momentum" else 0)


def trained(
    setting: NetworkSetting,
    folder: Path,
    model: "nn.Module",
    steps: int,
    *,
    optimizer: str | None = None,
    rate: float | None = None,
    batch: int = 64,
    examples: int = _TRAIN,
    shuffled_labels: bool = False,
    snapshots: int = 24,
) -> Planted:
    """Train on digits, recorded, and return the run; with labels that mean nothing if so asked."""
    import torch
    from torch import nn

    from thalweg.objectives.model import ModelObjective
    from thalweg.trajectory.recorder import Recorder
    from thalweg.trajectory.schedules import Every
    from thalweg.trajectory.trajectory import Trajectory

    images, labels = all_digits()
    own = images[:examples], labels[:examples]
    if shuffled_labels:
        order = torch.randperm(examples, generator=torch.Generator().manual_seed(setting.seed))
        own = own[0], own[1][order]
    data: Mapping[str, Any] = {"train": own, "valid": (images[_TRAIN:], labels[_TRAIN:])}
    loss = nn.CrossEntropyLoss()
    mover = _optimizer(optimizer or setting.optimizer, model, rate)
    draw = torch.Generator().manual_seed(setting.seed)
    if not folder.exists():
        every = Every(steps=max(1, steps // snapshots))
        unfinished = folder.with_name(f"{folder.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed
        with Recorder(unfinished, model, mover, schedule=every, updates=True) as recorder:
            for _ in range(steps):
                chosen = torch.randperm(examples, generator=draw)[:batch]
                mover.zero_grad()
                value = loss(model(own[0][chosen]), own[1][chosen])
                value.backward()
                mover.step()
                recorder.step(loss=float(value.detach()), batch_size=batch)
        unfinished.rename(folder)
    return Planted(ModelObjective(model, loss, data), Trajectory.open(folder))


def _healthy(setting: NetworkSetting, folder: Path) -> Planted:
    from torch import nn

    return trained(setting, folder, perceptron(setting, 2, nn.ReLU), 700)


def _dead(setting: NetworkSetting, folder: Path) -> Planted:
    """Biases so far below that no rectified unit is on for any example."""
    import torch
    from torch import nn

    model = perceptron(setting, 2, nn.ReLU)
    with torch.no_grad():
        for layer in list(model.children())[:-1]:
            if isinstance(layer, nn.Linear):
                layer.bias.fill_(-15.0)
    return trained(setting, folder, model, 250)


def _vanishing(setting: NetworkSetting, folder: Path) -> Planted:
    from torch import nn

    depth = 10 + setting.seed % 4
    model = perceptron(setting, depth, nn.Sigmoid, 20)
    return trained(setting, folder, model, 300, optimizer="sgd", rate=0.1)


def _exploding(setting: NetworkSetting, folder: Path) -> Planted:
    """Weights several times too large for the depth: each layer multiplies the gradient."""
    import torch
    from torch import nn

    model = perceptron(setting, 9, nn.ReLU)
    with torch.no_grad():
        for layer in model.children():
            if isinstance(layer, nn.Linear):
                layer.weight.mul_(7.0)
    return trained(setting, folder, model, 150, optimizer="sgd", rate=0.01)


def _small_step(setting: NetworkSetting, folder: Path) -> Planted:
    from torch import nn

    model = perceptron(setting, 1, nn.Tanh)
    return trained(setting, folder, model, 400, optimizer="sgd", rate=2e-4)


def _large_step(setting: NetworkSetting, folder: Path) -> Planted:
    from torch import nn

    model = perceptron(setting, 1, nn.ReLU)
    return trained(setting, folder, model, 200, optimizer="sgd", rate=30.0, batch=_TRAIN)


def _noisy(setting: NetworkSetting, folder: Path) -> Planted:
    """Softmax regression, which is convex, at a rate that only single examples make too large."""
    model = perceptron(setting, 0, _nothing)
    return trained(setting, folder, model, 1500, optimizer="sgd", rate=0.5, batch=1)


def _nothing() -> "nn.Module":
    from torch import nn

    return nn.Identity()


def _overfitted(setting: NetworkSetting, folder: Path) -> Planted:
    from torch import nn

    model = perceptron(setting, 2, nn.ReLU)
    return trained(setting, folder, model, 1500, optimizer="sgd", rate=0.3, batch=30, examples=30)


_KINDS: tuple[tuple[str, str | None, frozenset[str], Any], ...] = (
    ("healthy digits", None, frozenset(), _healthy),
    ("dead units", "dead_units", NO_GRADIENT, _dead),
    (
        "vanishing gradient",
        "vanishing_gradient",
        NO_GRADIENT | {"step_too_small", "ill_conditioning"},
        _vanishing,
    ),
    (
        "exploding gradient",
        "exploding_gradient",
        frozenset({"step_too_large", "ill_conditioning", "gradient_noise", "dead_units"}),
        _exploding,
    ),
    ("small step on digits", "step_too_small", frozenset(), _small_step),
    (
        "large step on digits",
        "step_too_large",
        frozenset({"dead_units", "vanishing_gradient"}),
        _large_step,
    ),
    ("single examples", "gradient_noise", frozenset(), _noisy),
    ("thirty digits", "overfitting", frozenset({"no_critical_point"}), _overfitted),
)
