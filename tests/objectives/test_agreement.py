import pytest
import torch
from torch import nn
from torch.nn import functional

import thalweg as tw
from cases import MODELS, classes, normal, perceptron, seeded

LOSS = nn.CrossEntropyLoss()


class Spy(nn.Module):
    """Counts its passes."""

    def __init__(self, passes):
        super().__init__()
        self.net = perceptron()
        self.passes = passes

    def __deepcopy__(self, memo):
        copied = Spy(self.passes).double()
        copied.load_state_dict(self.state_dict())
        return copied

    def forward(self, x):
        self.passes.append(len(x))
        return self.net(x)


def test_the_check_runs_once_and_looks_at_no_more_than_32_batches():
    passes = []
    data = (normal(90, 3, seed=32), classes(90, count=3, seed=33))
    objective = tw.ModelObjective(seeded(lambda: Spy(passes), 1), LOSS, data, batch_size=2)
    theta = MODELS["perceptron"].point()
    objective.check(theta)
    assert 0 < len(passes) <= 4 * 32
    seen = len(passes)
    objective.check(theta)
    assert len(passes) == seen


def test_a_check_where_the_loss_is_not_finite_does_not_count(classification):
    def mixing(out, y):
        return (out - out.mean(0)).square().sum(), len(out)

    objective = tw.ModelObjective(seeded(perceptron, 1), mixing, classification)
    theta = MODELS["perceptron"].point()
    huge = torch.full_like(theta, 1e200)
    objective.check(huge)
    with pytest.raises(tw.NonDeterministicObjectiveError, match="cut into batches"):
        objective.check(theta)


def test_single_examples_pass_the_check(classification):
    tw.ModelObjective(seeded(perceptron, 1), LOSS, classification, batch_size=1).check(
        MODELS["perceptron"].point()
    )


def test_the_check_finds_a_loss_that_mixes_examples_at_a_special_start():
    # At a start whose head is zero all examples cost the same, so that a wrong mean looks right.
    x, y = MODELS["perceptron"].data()
    weight = torch.tensor([1.0, 5.0, 25.0], dtype=torch.float64)

    def weighted_mean(out, target):
        return functional.cross_entropy(out, target, weight=weight)

    objective = tw.ModelObjective(seeded(perceptron, 1), weighted_mean, (x, y))
    theta = MODELS["perceptron"].point()
    start = theta.clone()
    for name, tensor in objective.space.unflatten(start).items():
        if name.startswith("2."):
            tensor.zero_()
    with pytest.raises(
        (ValueError, tw.NonDeterministicObjectiveError), match="ignore_index or weight"
    ):
        tw.profile(objective, tw.Line(start, theta), [0.0, 0.5, 1.0])
