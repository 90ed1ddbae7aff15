"""The networks on which products with the Hessian are timed, and the unit: a plain gradient."""

import torch
from torch import nn


def perceptron(width=1200):
    """784-1200-1200-10: two million parameters."""
    return nn.Sequential(
        nn.Linear(784, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, 10),
    )


def small():
    """The perceptron of the smoke scale."""
    return perceptron(20)


def convolution():
    """Two convolutions with pooling, for images that come as rows of 784."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 28, 28)),
        nn.Conv2d(1, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(512, 10),
    )


NETWORKS = {"perceptron": perceptron, "convolution": convolution, "small": small}


def plain_gradient(model, batches):
    """Return the gradient of the mean over all examples, as a loop of one's own computes it."""
    parameters = list(model.parameters())
    total = [torch.zeros_like(p) for p in parameters]
    for x, y in batches:
        loss = nn.functional.cross_entropy(model(x), y, reduction="sum")
        for whole, part in zip(total, torch.autograd.grad(loss, parameters), strict=True):
            whole.add_(part)
    count = sum(len(y) for _, y in batches)
    return torch.cat([part.reshape(-1) for part in total]) / count
