"""Lines that were not used to choose how values are interpolated: networks and closed forms.

The numbers in `thalweg.interpolation` come from perceptrons of MNIST with 1200 units and a
residual network; here are other sizes, activations, seeds and kinds of lines, and costs whose
shape is known, some of them meant to be hard.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from workloads import Block, digits_of_mnist, trained

import thalweg as tw
from thalweg.directions import random_directions
from thalweg.problems import data as data_sets


@dataclass(frozen=True)
class HeldOut:
    """A cost on a line.

    Attributes:
        name: What it is.
        kind: "network", or "closed form" where the cost is a formula of α.
        make: Builds the objective and the line.
    """

    name: str
    kind: str
    make: Callable[[], tuple[tw.Objective, tw.Line]]


def dense(*widths, activation=nn.ReLU):
    """Return a perceptron."""
    layers = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs), activation()]
    return nn.Sequential(*layers[:-1])


def convolutional():
    """Return a small network for images of 28 by 28, given as rows of 784 numbers."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 28, 28)),
        nn.Conv2d(1, 6, 5, 2),
        nn.ReLU(),
        nn.Conv2d(6, 12, 5, 2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(192, 10),
    )


def residual():
    """Return two residual blocks with batch normalisation, for the same images."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 28, 28)),
        Block(1, 6, 2),
        Block(6, 12, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 10),
    )


def mnist(count=2000):
    """Return some examples of MNIST, the last of those that the workloads take first."""
    (x, y), _ = digits_of_mnist(60_000)
    return x[-count:].contiguous(), y[-count:].contiguous()


def digits():
    """Return the small digits, all of them."""
    x, y = map(torch.cat, zip(*data_sets.digits().splits.values(), strict=True))
    return x, y


def network(name, build, data, rate, steps, ends, batch_norm=None):
    """Return a problem whose line is through points of trainings.

    Args:
        name: What it is.
        build: Makes the model.
        data: Returns inputs and classes.
        rate: Step size of the training.
        steps: Its number of steps.
        ends: "start to solution", "between solutions", "past the solution" (1.5 times as far) or
            "random direction" (filter-normalised, from one side of the solution to the other).
        batch_norm: What the statistics of normalisation are.
    """

    def make():
        x, y = data()
        (start, first), (_, second) = trained(name, build, (x, y), (11, 12), steps, rate)
        model = build()
        model.load_state_dict(first)
        objective = tw.ModelObjective(model, nn.CrossEntropyLoss(), (x, y), batch_norm=batch_norm)
        start, first, second = map(objective.space.flatten, (start, first, second))
        if ends == "start to solution":
            return objective, tw.Line(start, first)
        if ends == "between solutions":
            return objective, tw.Line(first, second)
        if ends == "past the solution":
            return objective, tw.Line(start, start + 1.5 * (first - start))
        (direction,) = random_directions(objective.space, first, 1, seed=13)
        return objective, tw.Line(first - direction, first + direction)

    return HeldOut(f"{name}, {ends}", "network", make)


def closed_form(name, cost):
    """Return a problem whose cost is a formula of α, as a function of one parameter."""

    def make():
        objective = tw.FunctionObjective(lambda theta: cost(theta[0]), size=1, name=name)
        ends = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
        return objective, tw.Line(ends[0], ends[1])

    return HeldOut(name, "closed form", make)


def chain(depth):
    """Return (1 − Πwᵢ)² on a line along which two of the factors change their sign."""

    def make():
        objective = tw.FunctionObjective(
            lambda w: (1 - w.prod()) ** 2, size=depth, name=f"chain-{depth}"
        )
        start = torch.linspace(0.5, 1.3, depth, dtype=torch.float64)
        signs = torch.ones(depth, dtype=torch.float64)
        signs[:2] = -1
        return objective, tw.Line(start, signs * start.flip(0))

    return HeldOut(f"chain of {depth} factors", "closed form", make)


def barrier(place, width, height=0.3):
    """Return a parabola with a barrier on it, Gaussian and of some standard deviation."""
    name = f"barrier of width {width:g} at {place:g}"
    return closed_form(
        name, lambda a: (1 - a) ** 2 + height * torch.exp(-0.5 * ((a - place) / width) ** 2)
    )


PERCEPTRON = "MNIST 784-120-60-10"
CONVOLUTIONAL = "MNIST convolutional"
TANH, SIGMOID = "digits 64-40-10 tanh", "digits 64-40-40-10 sigmoid"


def problems():
    """Return all problems, closed forms first."""

    def perceptron():
        return dense(784, 120, 60, 10)

    def few():
        return mnist(500)

    def tanh():
        return dense(64, 40, 10, activation=nn.Tanh)

    def sigmoid():
        return dense(64, 40, 40, 10, activation=nn.Sigmoid)

    ways = ("start to solution", "between solutions", "random direction")
    return [
        chain(3),
        chain(10),
        *(barrier(0.37, width) for width in (0.1, 0.03, 0.01, 0.003)),
        closed_form("kink, absolute value", lambda a: (a - 0.37).abs()),
        closed_form("kink on a slope", lambda a: (1 - a) ** 2 + 0.2 * torch.relu(a - 0.613)),
        closed_form("steep start exp(−60 α)", lambda a: torch.exp(-60 * a) + 0.1),
        closed_form("step, logistic of width 0.01", lambda a: torch.sigmoid((0.63 - a) / 0.01)),
        closed_form("waves, 7 of them", lambda a: 1 + a + 0.1 * torch.sin(14 * torch.pi * a)),
        *(network(TANH, tanh, digits, 0.1, 600, each) for each in ways),
        *(network(SIGMOID, sigmoid, digits, 0.5, 1500, each) for each in ways),
        *(network(PERCEPTRON, perceptron, mnist, 0.05, 400, each) for each in ways),
        network(PERCEPTRON, perceptron, mnist, 0.05, 400, "past the solution"),
        *(network(CONVOLUTIONAL, convolutional, few, 0.05, 300, each) for each in ways),
        network("MNIST residual", residual, few, 0.05, 200, "start to solution", "stored"),
        network("MNIST residual", residual, few, 0.05, 200, "between solutions", "stored"),
    ]
