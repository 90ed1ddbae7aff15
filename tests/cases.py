"""Objectives with known answers: the one table that several test files use.

`FUNCTIONS` are closed forms with gradient and Hessian by hand. `MODELS` are small networks with
data; what is right for them is computed here a second time, with plain torch: `loop_loss` goes
through single examples in float64, `full_batch` is torch's own mean over everything at once.
No line or point of these tests goes through the origin, and no generator is the global one.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import thalweg as tw
from thalweg.trajectory.points import PointSource


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64).to(dtype)


def classes(*shape: int, count: int, seed: int = 0) -> Tensor:
    return torch.randint(count, shape, generator=generator(seed))


def seeded(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Build a model in float64 whose parameters depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build().double()


# --- closed forms ---------------------------------------------------------------------------


@dataclass(frozen=True)
class FunctionCase:
    """A cost with gradient and Hessian by hand, and two points that define a line."""

    name: str
    f: Callable[[Tensor], Tensor]
    start: np.ndarray
    end: np.ndarray
    value: Callable[[np.ndarray], float]
    gradient: Callable[[np.ndarray], np.ndarray]
    hessian: Callable[[np.ndarray], np.ndarray]

    @property
    def objective(self) -> tw.FunctionObjective:
        return tw.FunctionObjective(self.f, size=len(self.start), name=self.name)

    @property
    def line(self) -> tw.Line:
        return tw.Line(torch.from_numpy(self.start), torch.from_numpy(self.end))


def quadratic(size: int) -> FunctionCase:
    """½ (θ − c)ᵀ A (θ − c) + d with an indefinite A and a centre off the origin."""
    rng = np.random.default_rng(size)
    root = rng.normal(size=(size, size))
    matrix = root + root.T
    centre = 1 + rng.normal(size=size)
    shift = -0.75
    a, c = torch.from_numpy(matrix), torch.from_numpy(centre)
    return FunctionCase(
        name=f"quadratic-{size}",
        f=lambda t: 0.5 * (t - c) @ a @ (t - c) + shift,
        start=2 + rng.normal(size=size),
        end=-1 + rng.normal(size=size),
        value=lambda t: 0.5 * (t - centre) @ matrix @ (t - centre) + shift,
        gradient=lambda t: matrix @ (t - centre),
        hessian=lambda t: matrix,
    )


def chain(depth: int) -> FunctionCase:
    """(1 − Πwᵢ)²: a factored linear network of one weight a layer."""
    rng = np.random.default_rng(100 + depth)

    def without(w: np.ndarray, *left_out: int) -> float:
        return math.prod(float(x) for i, x in enumerate(w) if i not in left_out)

    def gradient(w: np.ndarray) -> np.ndarray:
        rest = 1 - without(w)
        return np.array([-2 * rest * without(w, i) for i in range(depth)])

    def hessian(w: np.ndarray) -> np.ndarray:
        rest = 1 - without(w)
        h = np.empty((depth, depth))
        for i in range(depth):
            for j in range(depth):
                h[i, j] = 2 * without(w, i) * without(w, j)
                if i != j:
                    h[i, j] -= 2 * rest * without(w, i, j)
        return h

    return FunctionCase(
        name=f"chain-{depth}",
        f=lambda w: (1 - w.prod()) ** 2,
        start=rng.uniform(0.4, 1.4, depth),
        end=rng.uniform(0.6, 1.3, depth) * np.where(np.arange(depth) < 2, -1, 1),
        value=lambda w: (1 - without(w)) ** 2,
        gradient=gradient,
        hessian=hessian,
    )


FUNCTIONS = {
    case.name: case for case in [*map(quadratic, (1, 2, 3, 7)), *map(chain, (2, 3, 5, 10))]
}


# --- networks -------------------------------------------------------------------------------


class Sequences(nn.Module):
    """Tokens to one score a class and place, shape (n, classes, places)."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(6, 3)
        self.head = nn.Linear(3, 6)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.embedding(tokens).tanh()).movedim(-1, 1)


class Tied(nn.Module):
    """An encoder and a decoder that share one matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(3, 3)
        self.middle = nn.Linear(3, 3)
        self.decoder = nn.Linear(3, 3)
        self.decoder.weight = self.encoder.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.middle(self.encoder(x).tanh()).tanh())


class Unused(nn.Module):
    """A layer that no pass reaches, and parameters in a mixed order."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.idle = nn.Linear(2, 2)
        self.head = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.head(x)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        mixed, _ = self.attention(x, x, x, need_weights=False)
        return self.head(mixed.mean(1))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 3, batch_first=True)
        self.head = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3))


def frozen() -> nn.Module:
    model = perceptron()
    model[0].weight.requires_grad_(False)
    model[2].bias.requires_grad_(False)
    return model


def convolution() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 2, 2),
        nn.Tanh(),
        nn.ConvTranspose2d(2, 3, 2, stride=2),
        nn.Flatten(),
        nn.Linear(48, 3),
    )


EXAMPLES = 11
CLASS_WEIGHTS = torch.tensor([0.5, 2.0, 1.25, 0.75, 3.0, 1.5])


@dataclass(frozen=True)
class ModelCase:
    """A network, its data and its loss; `terms` counts what one example adds to the mean."""

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], Tensor]
    target: Callable[[], Tensor]
    loss: Callable[[str], Any]
    terms: Callable[[Tensor], float]

    def model(self, seed: int = 1) -> nn.Module:
        return seeded(self.build, seed)

    def data(self) -> tuple[Tensor, Tensor]:
        return self.inputs(), self.target()

    def objective(self, reduction: str = "mean", **options: Any) -> tw.ModelObjective:
        options = {"dtype": torch.float64} | options
        return tw.ModelObjective(self.model(), self.loss(reduction), self.data(), **options)

    def point(self, seed: int = 2, dtype: torch.dtype = torch.float64) -> Tensor:
        """Return a point of the space away from the model's own."""
        model = self.model(seed)
        parts = [p.detach().flatten() for p in model.parameters() if p.requires_grad]
        return (torch.cat(parts) + 0.25).to(dtype)

    def at(self, theta: Tensor) -> nn.Module:
        """Return a copy of the model whose trainable parameters are those of a point."""
        model = copy.deepcopy(self.model()).eval()
        trainable = [p for p in model.parameters() if p.requires_grad]
        nn.utils.vector_to_parameters(theta.double().clone(), trainable)
        return model


def _cross_entropy(**options: Any) -> Callable[[str], Any]:
    return lambda reduction: nn.CrossEntropyLoss(reduction=reduction, **options)


def _classifier(name: str, build: Callable[[], nn.Module], *shape: int) -> ModelCase:
    return ModelCase(
        name,
        build,
        inputs=lambda: 0.3 + normal(EXAMPLES, *shape, seed=3),
        target=lambda: classes(EXAMPLES, count=3, seed=4),
        loss=_cross_entropy(),
        terms=lambda y: 1.0,
    )


MODELS = {
    case.name: case
    for case in [
        _classifier("perceptron", perceptron, 3),
        _classifier("tied", Tied, 3),
        _classifier("frozen", frozen, 3),
        _classifier("unused", Unused, 3),
        _classifier("convolution", convolution, 1, 3, 3),
        _classifier("attention", Attention, 5, 4),
        _classifier("recurrent", Recurrent, 5, 4),
        ModelCase(
            "weighted",
            perceptron,
            inputs=lambda: 0.3 + normal(EXAMPLES, 3, seed=3),
            target=lambda: classes(EXAMPLES, count=3, seed=4),
            loss=_cross_entropy(weight=CLASS_WEIGHTS[:3], ignore_index=1, label_smoothing=0.1),
            terms=lambda y: 0.0 if int(y) == 1 else float(CLASS_WEIGHTS[int(y)]),
        ),
        ModelCase(
            "sequences",
            Sequences,
            inputs=lambda: classes(EXAMPLES, 5, count=6, seed=5),
            target=lambda: classes(EXAMPLES, 5, count=6, seed=6),
            loss=_cross_entropy(weight=CLASS_WEIGHTS, ignore_index=0),
            terms=lambda y: float(CLASS_WEIGHTS.double()[y[y != 0]].sum()),
        ),
        ModelCase(
            "regression",
            lambda: nn.Sequential(nn.Linear(3, 5), nn.Sigmoid(), nn.Linear(5, 2)),
            inputs=lambda: normal(EXAMPLES, 3, seed=7),
            target=lambda: 2 + normal(EXAMPLES, 2, seed=8),
            loss=lambda reduction: nn.MSELoss(reduction=reduction),
            terms=lambda y: float(y.numel()),
        ),
        ModelCase(
            "binary",
            lambda: nn.Sequential(nn.Linear(3, 4), nn.Softplus(), nn.Linear(4, 1)),
            inputs=lambda: normal(EXAMPLES, 3, seed=9),
            target=lambda: classes(EXAMPLES, 1, count=2, seed=10).double(),
            loss=lambda reduction: nn.BCEWithLogitsLoss(
                reduction=reduction, pos_weight=torch.tensor([2.5])
            ),
            terms=lambda y: 1.0,
        ),
    ]
}


def loop_loss(case: ModelCase, theta: Tensor) -> float:
    """Go through single examples, sum in float64, divide once."""
    model = case.at(theta)
    loss = case.loss("sum").double()
    total, count = 0.0, 0.0
    with torch.no_grad():
        for x, y in zip(*case.data(), strict=True):
            total += float(loss(model(x[None]), y[None]))
            count += case.terms(y)
    return total / count


def full_batch(case: ModelCase) -> Callable[[Tensor], Tensor]:
    """Return J as a differentiable function of θ: torch's own mean over all of the data."""
    model = case.model().eval().requires_grad_(False)
    names = [n for n, p in case.model().named_parameters() if p.requires_grad]
    shapes = {n: p.shape for n, p in model.named_parameters()}
    x, y = case.data()
    loss = case.loss("mean").double()

    def value(theta: Tensor) -> Tensor:
        parts = theta.split([shapes[n].numel() for n in names])
        tensors = {n: part.view(shapes[n]) for n, part in zip(names, parts, strict=True)}
        return loss(torch.func.functional_call(model, tensors, (x,)), y)

    return value


# --- runs -----------------------------------------------------------------------------------


class Overwriting(PointSource):
    """Points in one buffer that each overwrites, as a reader of files may give them."""

    def __init__(self, points: Tensor) -> None:
        self.points = points
        self.count, self.size = points.shape
        self.dtype = points.dtype
        self.buffer = torch.empty(self.size, dtype=self.dtype)

    def read(self, index: int) -> Tensor:
        return self.buffer.copy_(self.points[index])
