from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from thalweg.problems.boltzmann_machine import MPDBM, BoltzmannMachine
from thalweg.problems.convolutional_maxout import CONVOLUTIONAL_MAXOUT, convolutional_maxout
from thalweg.problems.data import digits
from thalweg.problems.networks import multilayer_perceptron
from thalweg.problems.recipes import MAXOUT, RELU, ExponentialDecay
from thalweg.training import train
from thalweg.training.costs import CROSS_ENTROPY, Adversarial, MultiPrediction


def data(seed=0, inputs=6, examples=40):
    draw = torch.Generator().manual_seed(seed)
    x = torch.rand(examples, inputs, generator=draw)
    return x, torch.randint(3, (examples,), generator=draw)


def perceptron(dropout=None):
    recipe = replace(RELU, hidden=(8, 7), init_ranges=(0.5, 0.5, 0.5), dropout=dropout)
    return multilayer_perceptron(recipe, 6, seed=0, outputs=3).double(), recipe


def test_adversarial_loss_by_hand():
    model, _ = perceptron()
    x, y = data()
    x = x.double()
    cost = Adversarial(epsilon=0.1, share=0.3)
    moved = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(cross_entropy(model(moved), y), moved)
    hostile = x + 0.1 * slope.sign()
    expected = 0.3 * cross_entropy(model(x), y) + 0.7 * cross_entropy(model(hostile), y)
    assert cost.loss(model, x, y).item() == pytest.approx(expected.item(), rel=1e-12)
    losses, wrong = cost.readings(model, x, y)
    assert losses.mean().item() == pytest.approx(expected.item(), rel=1e-12)
    assert torch.equal(wrong, model(hostile).argmax(1) != y)
    assert cost.terms(model, x, y).mean().item() == pytest.approx(expected.item(), rel=1e-12)
    assert expected.item() > cross_entropy(model(x), y).item()
    parameters = list(model.parameters())
    ours = torch.autograd.grad(cost.loss(model, x, y), parameters)
    theirs = torch.autograd.grad(expected, parameters)  # the adversarial examples are constants
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_both_passes_share_their_masks():
    model, _ = perceptron(dropout=((0.5, 2.0),) * 3)
    x, y = data()
    unmoved = Adversarial(epsilon=1e-12)  # then both passes see the same examples
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        both = unmoved.loss(model.train(), x.double(), y)
        torch.manual_seed(3)
        once = cross_entropy(model(x.double()), y)
    assert both.item() == pytest.approx(once.item(), rel=1e-9)


def test_adversarial_training_makes_adversarial_examples_less_hostile():
    pictures = digits(seed=0)
    recipe = replace(
        MAXOUT, hidden=(24, 24), pieces=2, init_ranges=(0.1,) * 3, dropout=None, epochs=15
    )
    cost, found = Adversarial(epsilon=0.1), {}
    x, y = pictures.splits["valid"]
    for name, trained_on in (("plain", CROSS_ENTROPY), ("adversarial", cost)):
        model = multilayer_perceptron(recipe, 64, seed=0)
        train(model, pictures.splits, recipe, seed=0, cost=trained_on)
        found[name] = float(cost.readings(model, x, y)[0].mean())
    assert found["adversarial"] < 0.9 * found["plain"]


def test_learning_rate_factors_belong_to_layers():
    x, y = torch.rand(20, 64, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 10
    recipe = replace(
        CONVOLUTIONAL_MAXOUT,
        channels=(2,),
        kernels=(3,),
        padding=(1,),
        pools=((2, 2),),
        hidden=5,
        init_range=0.2,
        norm_limits=None,
        rate_factors=(1e-9, 1.0, 1.0),
        dropout=None,
        epochs=1,
        batch_size=20,
        learning_rate=ExponentialDecay(initial=0.1, factor=1.0),
    )
    model = convolutional_maxout(recipe, (1, 8, 8), seed=0)
    before = [p.detach().clone() for p in model.parameters()]
    train(model, {"train": (x, y), "valid": (x, y)}, recipe, seed=0)
    moved = [
        float((a - b.detach()).abs().max()) for a, b in zip(before, model.parameters(), strict=True)
    ]
    assert max(moved[:2]) < 1e-8
    assert min(moved[2], moved[4]) > 1e-5
    with pytest.raises(ValueError, match="learning-rate factors for 3 layers"):
        train(
            torch.nn.Sequential(
                torch.nn.Linear(64, 5),
                *[torch.nn.Linear(5, 5)],
                torch.nn.Linear(5, 5),
                torch.nn.Linear(5, 10),
            ),
            {"train": (x, y), "valid": (x, y)},
            recipe,
            seed=0,
        )


def test_a_machine_learns_to_fill_in_and_to_classify():
    pictures = digits(seed=0)
    recipe = replace(
        MPDBM, hidden=(40, 40), iterations=4, nonzero=(8, 10), epochs=20, batch_size=50
    )
    x, y = pictures.splits["train"]
    model = BoltzmannMachine(recipe, x.mean(0), seed=0)
    found = train(model, pictures.splits, recipe, seed=0, cost=MultiPrediction())
    error = found.history.metrics["error"]["valid"]
    assert error[found.best_epoch] < 0.2
    loss = found.history.loss["valid"]
    assert loss[-1] < 0.9 * loss[0]
    for weight, limit in zip((model.w1, model.w2, model.w3), recipe.norm_limits, strict=True):
        assert np.all(weight.detach().norm(dim=1).numpy() <= limit * (1 + 1e-6))
    again = MultiPrediction().readings(model, x[:50], y[:50])[0]
    assert torch.equal(again, MultiPrediction().readings(model, x[:50], y[:50])[0])
