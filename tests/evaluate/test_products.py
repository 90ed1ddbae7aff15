"""Products by oneDNN are products, and are left alone where they would be something else."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import thalweg as tw
from cases import normal, seeded
from thalweg.evaluate import products
from thalweg.evaluate.planning import choose
from thalweg.evaluate.products import dense_products, linear
from thalweg.evaluate.strategy import Plain


@pytest.fixture
def called(monkeypatch):
    """How often oneDNN was asked, where this machine and this torch have it."""
    if not products._for_onednn(torch.zeros(1)):
        pytest.skip("torch has no oneDNN product for this processor")
    calls = []
    usual = torch.ops.mkldnn._linear_pointwise

    class Counting:
        @staticmethod
        def _linear_pointwise(*given):
            calls.append(tuple(given[0].shape))
            return usual(*given)

    monkeypatch.setattr(torch.ops, "mkldnn", Counting)
    return calls


def wide(bias=True):
    """A chain that is too wide to be stacked."""
    return seeded(
        lambda: nn.Sequential(
            nn.Linear(80, 700),
            nn.ReLU(),
            nn.Linear(700, 96, bias=bias),
            nn.Tanh(),
            nn.Linear(96, 3),
        ),
        1,
    ).float()


@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_it_is_the_product(called, bias):
    given, weight = 0.5 + normal(200, 80, seed=1).float(), normal(70, 80, seed=2).float()
    shift = normal(70, seed=3).float() if bias else None
    found = linear(given, weight, shift)
    right = functional.linear(
        given.double(), weight.double(), None if shift is None else shift.double()
    )
    torch.testing.assert_close(found.double(), right, rtol=1e-4, atol=1e-4)
    assert called == [(200, 80)]
    strided = given.t().contiguous().t()
    torch.testing.assert_close(linear(strided, weight, shift), found)
    assert torch.equal(linear(given, weight, shift), found)


def test_where_it_would_be_something_else(called):
    weight = normal(70, 80, seed=2)
    with torch.no_grad():
        linear(normal(200, 80), weight, None)  # float64
        linear(normal(3, 80).float(), weight.float(), None)  # few rows
        linear(normal(200, 2, 80).float(), weight.float(), None)  # more axes
        with torch.autocast("cpu", torch.bfloat16):
            assert linear(normal(200, 80).float(), weight.float(), None).dtype == torch.bfloat16
    leaf = weight.float().requires_grad_()
    linear(normal(200, 80).float(), leaf, None).sum().backward()
    assert leaf.grad is not None
    assert called == []


@pytest.mark.parametrize("bias", [True, False])
def test_a_line_over_a_wide_chain(called, bias):
    model = wide(bias)
    x, y = normal(300, 80, seed=3).float(), torch.arange(300) % 3
    objective = tw.ModelObjective(model, nn.CrossEntropyLoss(), (x, y), batch_size=128)
    line = tw.Line(*(0.1 * normal(objective.space.size, seed=s).float() for s in (5, 6)))
    weights = line.weights([-0.25, 0.0, 0.4, 1.0])
    choice = choose(objective, line, line.anchors, weights)
    assert "multiplied by oneDNN" in " ".join(choice.reasons)
    called.clear()
    found = choice.strategy.evaluate(weights)
    assert (128, 700) in called
    right = Plain(objective, line, line.anchors).evaluate(weights)
    np.testing.assert_allclose(
        [row.loss["train"] for row in found], [row.loss["train"] for row in right], rtol=1e-5
    )
    alone = choice.strategy.evaluate(weights[2:3])
    assert alone[0] == found[2]  # the bits do not depend on the company
    assert "forward" not in vars(objective.forward_pass.model[2])


def test_which_layers_have_a_choice():
    model = wide()
    narrow = model[4]
    layers = [product.layer for product in dense_products(model, [model[0]])]
    if products._for_onednn(model[0].weight):
        assert layers == [model[2]]
    assert narrow not in layers
    assert dense_products(model.double(), []) == []


def test_fewer_bits_asked_for_by_name_are_left_to_torch(called):
    x, y = normal(300, 80, seed=3).float(), torch.arange(300) % 3
    objective = tw.ModelObjective(wide(), nn.CrossEntropyLoss(), (x, y), precision="tf32")
    line = tw.Line(*(0.1 * normal(objective.space.size, seed=s).float() for s in (5, 6)))
    choice = choose(objective, line, line.anchors, line.weights([0.2, 0.7]))
    assert "oneDNN" not in " ".join(choice.reasons)
