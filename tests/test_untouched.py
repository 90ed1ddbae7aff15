"""Looking at a cost changes nothing of the user's, also where the look ends in an exception."""

import copy
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

import thalweg as tw
from cases import classes, normal, seeded


class Everything(nn.Module):
    """Tied, frozen and unused parameters, running statistics, dropout and a counter."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.dropout = nn.Dropout(0.3)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.idle = nn.Linear(2, 2)
        self.head = nn.Linear(4, 3)
        nn.init.constant_(self.head.bias, 0.25).requires_grad_(False)
        self.register_buffer("steps", torch.tensor(7))

    def forward(self, x):
        return self.head(self.dropout(self.norm(self.second(self.first(x).tanh()))))


class Drawing(Dataset):
    """A data set that draws from every global generator, and gives the same examples."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        torch.rand(1), random.random(), np.random.rand()  # noqa: NPY002
        return self.x[index], self.y[index]


@dataclass
class User:
    """What belongs to the user."""

    model: nn.Module
    x: torch.Tensor
    y: torch.Tensor
    loader: DataLoader
    loss: nn.Module

    def state(self) -> dict[str, Any]:
        """Return a comparable copy of everything that could be changed."""
        tensors = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
        return {
            "tensors": {name: t.detach().clone().numpy().tobytes() for name, t in tensors.items()},
            "identities": {name: (id(t), t.data_ptr()) for name, t in tensors.items()},
            "gradients": {
                n: None if p.grad is None else p.grad.tolist() for n, p in tensors.items()
            },
            "requires_grad": {name: t.requires_grad for name, t in tensors.items()},
            "modes": {name: module.training for name, module in self.model.named_modules()},
            "hooks": sum(len(m._forward_pre_hooks) for m in self.model.modules()),
            "data": (self.x.numpy().tobytes(), self.y.numpy().tobytes()),
            "loader": self.loader.generator.get_state().tolist(),
            "loss": (self.loss.reduction, self.loss.weight.dtype, self.loss.training),
            "torch": torch.get_rng_state().tolist(),
            "numpy": str(np.random.get_state()),  # noqa: NPY002
            "python": random.getstate(),
            "dtype": torch.get_default_dtype(),
            "threads": torch.get_num_threads(),
            "grad mode": torch.is_grad_enabled(),
            "autocast": torch.is_autocast_enabled("cpu"),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
        }


@pytest.fixture(params=[True, False], ids=["train mode", "evaluation mode"])
def user(request):
    model = seeded(Everything, 1)
    x, y = 0.5 + normal(12, 4, seed=2), classes(12, count=3, seed=3)
    model.train()
    functional.cross_entropy(model(x), y).backward()
    model.train(request.param)
    model.dropout.train()  # a mode of its own
    loader = DataLoader(
        Drawing(x, y), batch_size=5, shuffle=True, generator=torch.Generator().manual_seed(4)
    )
    return User(model, x, y, loader, nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0])))


def look(user, loss, data=None, **options):
    """Do everything that can be done with an objective."""
    theta = tw.ParameterSpace.of(user.model).flatten(user.model)
    objective = tw.ModelObjective(
        user.model,
        loss,
        {"train": (user.x, user.y), "valid": user.loader} if data is None else data,
        metrics={"error": tw.error_rate},
        penalty=lambda tensors: sum(t.square().sum() for t in tensors.values()),
        **options,
    )
    other = objective.space.flatten(seeded(Everything, 5))
    tw.profile(objective, tw.Line(theta, other), [0.0, 0.3, 1.0])
    tw.surface(objective, tw.Plane.random(objective.space, theta), [0.0, 0.5], [0.0])
    objective.value(theta)
    if objective.batch_norm != "recalibrate":
        objective.gradient(theta)
        objective.hvp(theta, other)


POLICIES = ("recalibrate", "interpolate", "stored", "batch")


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("dropout", [None, tw.MonteCarlo(2)], ids=["", "dropout"])
def test_everything_is_left_as_it_was(user, policy, dropout):
    before = user.state()
    look(user, user.loss, batch_norm=policy, dropout=dropout, batch_size=6)
    assert user.state() == before


def test_another_type_leaves_everything_as_it_was(user):
    before = user.state()
    look(user, user.loss, dtype=torch.float32, batch_norm="stored")
    assert user.state() == before


class Failing:
    """A loss that raises in the middle of a pass."""

    def __init__(self, calls):
        self.calls = calls

    def step(self, model, batch):
        torch.rand(3), random.random(), np.random.rand()  # noqa: NPY002
        self.calls -= 1
        if self.calls < 0:
            raise OSError("the loss fails")
        return functional.cross_entropy(model(batch[0]), batch[1], reduction="sum"), len(batch[1])


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("calls", [0, 1, 7, 20])
@pytest.mark.parametrize("dropout", [None, tw.MonteCarlo(2)], ids=["", "dropout"])
def test_everything_is_left_as_it_was_after_an_exception(user, policy, calls, dropout):
    before = user.state()
    with pytest.raises(OSError, match="the loss fails"):
        look(user, Failing(calls).step, batch_norm=policy, dropout=dropout, batch_size=6)
    assert user.state() == before


@pytest.mark.parametrize("derivative", ["gradient", "hvp"])
def test_derivatives_that_fail_leave_everything_as_it_was(user, derivative):
    before = user.state()
    objective = tw.ModelObjective(
        user.model, Failing(1).step, (user.x, user.y), batch_norm="stored", batch_size=6
    )
    theta = objective.space.flatten(user.model)
    with pytest.raises(OSError, match="the loss fails"):
        getattr(objective, derivative)(*[theta] * (1 + (derivative == "hvp")))
    assert user.state() == before


def test_data_that_fails_leaves_everything_as_it_was(user):
    class Breaking(Drawing):
        def __getitem__(self, index):
            if index == 8:
                raise OSError("the disk fails")
            return super().__getitem__(index)

    source = torch.Generator().manual_seed(6)
    loader = DataLoader(Breaking(user.x, user.y), batch_size=5, shuffle=True, generator=source)
    before, state = user.state(), source.get_state()
    with pytest.raises(OSError, match="the disk fails"):
        look(user, user.loss, data=loader)
    assert user.state() == before
    assert torch.equal(source.get_state(), state)


def test_the_objective_recovers_from_an_exception(user):
    failing = Failing(10_000)
    objective = tw.ModelObjective(user.model, failing.step, (user.x, user.y), batch_size=6)
    theta = objective.space.flatten(user.model)
    expected = objective.value(theta)
    failing.calls = 1
    with pytest.raises(OSError, match="the loss fails"):
        objective.value(theta)
    failing.calls = 10_000
    assert objective.value(theta) == expected


def test_points_and_directions_are_left_as_they_were(user):
    objective = tw.ModelObjective(
        user.model, user.loss, (user.x, user.y), batch_norm="stored", batch_size=6
    )
    theta = objective.space.flatten(user.model)
    vector = normal(objective.space.size, seed=7)
    before = theta.clone(), vector.clone()
    line = tw.Line(theta, vector)
    objective.evaluate(theta), objective.gradient(theta), objective.hvp(theta, vector)
    tw.profile(objective, line, [0.0, 0.5, 1.0])
    for given, kept in zip((theta, vector), before, strict=True):
        assert torch.equal(given, kept)
        assert given.grad is None
        assert not given.requires_grad


def test_what_training_draws_next_does_not_change(user):
    def next_draws(look_first):
        model = copy.deepcopy(user.model).train()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(8)
            if look_first:
                look(user, user.loss, batch_norm="batch", dropout=tw.MonteCarlo(2), batch_size=6)
            return model(user.x).tolist(), torch.rand(3).tolist()

    assert next_draws(True) == next_draws(False)
