"""What is evaluated: models, data and ends, as a user would have them.

Ends come from a short training, kept in a temporary folder, so that every run of a machine
evaluates the same sections. Real data is used where `THALWEG_DATA` names it, else noise of the
same shape: that changes the values, not the work.
"""

import hashlib
import itertools
import lzma
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import thalweg as tw
from thalweg.problems import data as data_sets


@dataclass(frozen=True)
class Workload:
    """A cost, and the section that it is evaluated on."""

    name: str
    title: str
    build: Callable[[], nn.Module]
    data: tuple[torch.Tensor, torch.Tensor]
    ends: tuple[dict[str, torch.Tensor], ...]
    points: int  # along each coordinate
    data_name: str
    batch_norm: str | None = None
    tolerance: float = 1e-3  # of an adaptive grid

    def objective(self, **options) -> tw.ModelObjective:
        return tw.ModelObjective(
            self.build(), nn.CrossEntropyLoss(), self.data, batch_norm=self.batch_norm, **options
        )

    def section(self, objective):
        anchors = [objective.space.flatten(end) for end in self.ends]
        return tw.Line(*anchors) if len(anchors) == 2 else tw.Plane.through(*anchors)

    def coordinates(self) -> np.ndarray:
        return tw.Uniform(0, 1, self.points).coordinates()

    def weights(self) -> np.ndarray:
        """Return one row a point: a line's from end to end, a plane's row by row."""
        alpha = self.coordinates()
        return self.weights_at(alpha) if len(self.ends) == 2 else self.weights_at(alpha, alpha)

    def weights_at(self, x, y=None) -> np.ndarray:
        """Return the weights of the ends on other coordinates, in the same order."""
        if y is None:
            return np.stack([1 - x, x], axis=-1)
        across, up = (c.ravel() for c in np.meshgrid(x, y))
        return np.stack([1 - across - up, across, up], axis=-1)

    def operations(self) -> tuple[int, int]:
        """Return the operations of the matrix products of one example: all, and the first layer's.

        A multiplication and an addition count as two. The first layer is the one that meets the
        data, whose products can be shared among the points.
        """
        model, example = self.build().eval(), self.data[0][:1]
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(example)
        first = next(model.children())
        with FlopCounterMode(display=False) as entry, torch.no_grad():
            first(example)
        return counter.get_total_flops(), entry.get_total_flops()


def perceptron(*widths):
    """Return a ReLU network."""
    layers = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Block(nn.Module):
    """Two convolutions with a shortcut."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride > 1 or inputs != outputs:
            convolution = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(convolution, nn.BatchNorm2d(outputs))

    def forward(self, x):
        h = torch.relu(self.first_norm(self.first(x)))
        return torch.relu(self.second_norm(self.second(h)) + self.shortcut(x))


def residual_network():
    """Return a network like ResNet-20."""
    layers = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    inputs = 16
    for outputs, stride in ((16, 1), (32, 2), (64, 2)):
        for number in range(3):
            layers.append(Block(inputs, outputs, stride if number == 0 else 1))
            inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


class LanguageModel(nn.Module):
    """Two LSTM layers over words; scores with classes on axis 1."""

    def __init__(self, words=10_000, units=650):
        super().__init__()
        self.embedding = nn.Embedding(words, units)
        self.lstm = nn.LSTM(units, units, num_layers=2, batch_first=True)
        self.head = nn.Linear(units, words)

    def forward(self, tokens):
        return self.head(self.lstm(self.embedding(tokens))[0]).movedim(-1, 1)


def trained(name, build, data, seeds, steps, rate, batch=128):
    """Return starts and solutions, one pair a seed, from a short training (kept on disk)."""
    facts = [name, seeds, steps, rate, batch, tuple(data[0].shape), float(data[0].double().sum())]
    digest = hashlib.sha256(str(facts).encode()).hexdigest()[:16]
    place = Path(tempfile.gettempdir()) / f"thalweg-bench-{digest}.pt"
    if place.exists():
        return torch.load(place, weights_only=True)
    with torch.random.fork_rng(devices=[]):
        pairs = [trained_once(build, data, seed, steps, rate, batch) for seed in seeds]
    torch.save(pairs, place)
    return pairs


def trained_once(build, data, seed, steps, rate, batch):
    """Return a start and a solution."""
    torch.manual_seed(seed)
    model = build()
    start = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), rate, momentum=0.9)
    model.train()
    for _ in range(steps):
        index = torch.randint(len(data[0]), (batch,))
        loss = nn.functional.cross_entropy(model(data[0][index]), data[1][index])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
    end = {key: value.clone() for key, value in model.state_dict().items()}
    # Statistics of normalisation stay those of the end, for every way of evaluating.
    start |= {key: end[key] for key in end if "running" in key or "tracked" in key}
    return start, end


def digits_of_mnist(count):
    """Return MNIST's training examples, or noise in their shape."""
    try:
        splits = data_sets.mnist(download=False).splits
        x, y = (torch.cat(both) for both in zip(splits["train"], splits["valid"], strict=True))
        return (x[:count].contiguous(), y[:count].contiguous()), "MNIST"
    except tw.DataUnavailableError:
        generator = torch.Generator().manual_seed(0)
        x = torch.rand(count, 784, generator=generator)
        return (x, torch.randint(0, 10, (count,), generator=generator)), "noise"


def images(count):
    """Return CIFAR-10 images, or noise in their shape."""
    folder = os.environ.get("THALWEG_DATA")
    file = Path(folder or ".") / "cifar10" / "data_batch_1.bin.xz"
    if folder and file.exists():
        raw = np.frombuffer(lzma.decompress(file.read_bytes()), np.uint8).reshape(-1, 3073)[:count]
        pixels = torch.from_numpy(raw[:, 1:].reshape(-1, 3, 32, 32).copy()).float() / 255
        return (pixels - 0.5, torch.from_numpy(raw[:, 0].astype(np.int64))), "CIFAR-10"
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(count, 3, 32, 32, generator=generator) - 0.5
    return (x, torch.randint(0, 10, (count,), generator=generator)), "noise"


def mnist_line(small):
    """Return the line from a start to a solution of the MNIST perceptron."""
    data, name = digits_of_mnist(2_000 if small else 60_000)
    widths = (784, 40, 40, 10) if small else (784, 1200, 1200, 10)

    def build():
        return perceptron(*widths)

    (pair,) = trained(f"line{widths}", build, data, (0,), 60 if small else 900, 0.05)
    title = f"line, MLP {'-'.join(map(str, widths))}, {len(data[0])} examples"
    return Workload("line", title, build, data, pair, 7 if small else 51, name)


def small_plane(small):
    """Return the plane through a start and two solutions of a small perceptron."""
    x, y = map(torch.cat, zip(*data_sets.digits().splits.values(), strict=True))

    def build():
        return perceptron(64, 100, 28, 10)

    first, second = trained("plane", build, (x, y), (0, 1), 600, 0.1)
    ends = (first[0], first[1], second[1])
    title = f"plane, MLP 64-100-28-10, {len(x)} examples"
    return Workload("plane", title, build, (x, y), ends, 5 if small else 51, "digits")


def mnist_plane(small, examples=10_000):
    """Return the plane through a start and two solutions of the MNIST perceptron."""
    data, name = digits_of_mnist(500 if small else examples)
    widths = (784, 40, 40, 10) if small else (784, 1200, 1200, 10)

    def build():
        return perceptron(*widths)

    first, second = trained(f"plane{widths}", build, data, (0, 1), 60 if small else 600, 0.05)
    ends = (first[0], first[1], second[1])
    title = f"plane, MLP {'-'.join(map(str, widths))}, {len(data[0])} examples"
    points = 7 if small else 51
    return Workload("mnist-plane", title, build, data, ends, points, name, tolerance=1e-2)


def residual_line(small):
    """Return a line of a residual network, with the statistics of its solution."""
    data, name = images(40 if small else 10_000)
    steps, batch = (2, 16) if small else (60, 128)
    (pair,) = trained("resnet", residual_network, data, (0,), steps, 0.05, batch)

    def build():
        model = residual_network()
        model.load_state_dict(pair[1])
        return model.eval()

    title = f"line, ResNet-20-like, {len(data[0])} images"
    return Workload("resnet", title, build, data, pair, 3 if small else 11, name, "stored")


def language_line(small):
    """Return a line of an LSTM language model, on random words."""
    generator = torch.Generator().manual_seed(0)
    words, units, rows = (50, 16, 12) if small else (10_000, 650, 512)
    tokens = torch.randint(0, words, (rows, 36), generator=generator)
    data = (tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())

    def build():
        return LanguageModel(words, units)

    (pair,) = trained(f"lstm{words},{units}", build, data, (0,), 3, 0.5, batch=16)
    title = f"line, LSTM with 2 x {units} units, {words} words, {data[0].numel()} tokens"
    return Workload("lstm", title, build, data, pair, 3 if small else 7, "noise")


WORKLOADS = {
    "line": mnist_line,
    "plane": small_plane,
    "mnist-plane": mnist_plane,
    "resnet": residual_line,
    "lstm": language_line,
}
