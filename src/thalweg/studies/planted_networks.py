"""Runs of small networks on handwritten digits with a cause that is known by construction."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thalweg.studies.planted_problems import Case, Planted

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["planted_networks"]

_TRAIN = 1400  # of 1797 digits; the others are held out


@dataclass(frozen=True)
class _Setting:
    """One variant: width, seed, and which optimiser where it is free."""

    seed: int
    width: int
    optimizer: str
    part: str


_SETTINGS = (
    _Setting(0, 48, "sgd", "development"),
    _Setting(1, 96, "momentum", "development"),
    _Setting(2, 32, "adam", "development"),
    _Setting(20, 64, "momentum", "held-out"),
    _Setting(21, 40, "adam", "held-out"),
    _Setting(22, 80, "sgd", "held-out"),
)
_RATES = {"sgd": 0.2, "momentum": 0.05, "adam": 2e-3}
_NO_GRADIENT = frozenset({"plateau", "vanishing_gradient", "local_minimum", "saddle_point"})


def planted_networks(few: bool, folder: Path) -> Iterator[Case]:
    """Give the cases on digits; three kinds, one setting of each part, where these are to be few.

    Args:
        few: Whether to give few.
        folder: Where runs are recorded once a case is made; they are taken up from there.
    """
    for setting in _SETTINGS[::3] if few else _SETTINGS:
        for name, planted, also, make in _KINDS[::3] if few else _KINDS:
            title = f"{name}, width {setting.width}, {setting.optimizer}, seed {setting.seed}"
            place = folder / title.replace(" ", "-").replace(",", "")

            def made(make: Any = make, setting: _Setting = setting, place: Path = place) -> Planted:
                planted: Planted = make(setting, place)
                return planted

            yield Case(title, planted, made, frozenset(also), setting.part)


def _digits() -> "tuple[Tensor, Tensor]":
    """Return images in [0, 1] and labels of all digits."""
    import torch
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)


def _perceptron(
    setting: _Setting, depth: int, unit: "Callable[[], nn.Module]", width: int | None = None
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


def _trained(
    setting: _Setting,
    folder: Path,
    model: "nn.Module",
    steps: int,
    *,
    optimizer: str | None = None,
    rate: float | None = None,
    batch: int = 64,
    examples: int = _TRAIN,
) -> Planted:
    """Train on digits, recorded, and return the run."""
    import torch
    from torch import nn

    from thalweg.objectives.model import ModelObjective
    from thalweg.trajectory.recorder import Recorder
    from thalweg.trajectory.schedules import Every
    from thalweg.trajectory.trajectory import Trajectory

    images, labels = _digits()
    own = images[:examples], labels[:examples]
    data: Mapping[str, Any] = {"train": own, "valid": (images[_TRAIN:], labels[_TRAIN:])}
    loss = nn.CrossEntropyLoss()
    mover = _optimizer(optimizer or setting.optimizer, model, rate)
    draw = torch.Generator().manual_seed(setting.seed)
    if not folder.exists():
        every = Every(steps=max(1, steps // 24))
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


def _healthy(setting: _Setting, folder: Path) -> Planted:
    from torch import nn

    return _trained(setting, folder, _perceptron(setting, 2, nn.ReLU), 700)


def _dead(setting: _Setting, folder: Path) -> Planted:
    """Biases so far below that no rectified unit is on for any example."""
    import torch
    from torch import nn

    model = _perceptron(setting, 2, nn.ReLU)
    with torch.no_grad():
        for layer in list(model.children())[:-1]:
            if isinstance(layer, nn.Linear):
                layer.bias.fill_(-15.0)
    return _trained(setting, folder, model, 250)


def _vanishing(setting: _Setting, folder: Path) -> Planted:
    from torch import nn

    depth = 10 + setting.seed % 4
    model = _perceptron(setting, depth, nn.Sigmoid, 20)
    return _trained(setting, folder, model, 300, optimizer="sgd", rate=0.1)


def _exploding(setting: _Setting, folder: Path) -> Planted:
    """Weights several times too large for the depth: each layer multiplies the gradient."""
    import torch
    from torch import nn

    model = _perceptron(setting, 9, nn.ReLU)
    with torch.no_grad():
        for layer in model.children():
            if isinstance(layer, nn.Linear):
                layer.weight.mul_(7.0)
    return _trained(setting, folder, model, 150, optimizer="sgd", rate=0.01)


def _small_step(setting: _Setting, folder: Path) -> Planted:
    from torch import nn

    model = _perceptron(setting, 1, nn.Tanh)
    return _trained(setting, folder, model, 400, optimizer="sgd", rate=2e-4)


def _large_step(setting: _Setting, folder: Path) -> Planted:
    from torch import nn

    model = _perceptron(setting, 1, nn.ReLU)
    return _trained(setting, folder, model, 200, optimizer="sgd", rate=30.0, batch=_TRAIN)


def _noisy(setting: _Setting, folder: Path) -> Planted:
    """Softmax regression, which is convex, at a rate that only single examples make too large."""
    model = _perceptron(setting, 0, _nothing)
    return _trained(setting, folder, model, 1500, optimizer="sgd", rate=0.5, batch=1)


def _nothing() -> "nn.Module":
    from torch import nn

    return nn.Identity()


def _overfitted(setting: _Setting, folder: Path) -> Planted:
    from torch import nn

    model = _perceptron(setting, 2, nn.ReLU)
    return _trained(setting, folder, model, 1500, optimizer="sgd", rate=0.3, batch=30, examples=30)


_KINDS: tuple[tuple[str, str | None, frozenset[str], Any], ...] = (
    ("healthy digits", None, frozenset(), _healthy),
    ("dead units", "dead_units", _NO_GRADIENT, _dead),
    (
        "vanishing gradient",
        "vanishing_gradient",
        _NO_GRADIENT | {"step_too_small", "ill_conditioning"},
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
