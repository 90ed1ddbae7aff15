import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import thalweg as tw
from cases import MODELS, classes, normal, seeded

PROBABILITY = 0.4


def dropping():
    return nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Dropout(PROBABILITY), nn.Linear(6, 3))


@pytest.fixture
def model():
    return seeded(dropping, 1)


@pytest.fixture
def line(model):
    space = tw.ParameterSpace.of(model)
    return tw.Line(space.flatten(seeded(dropping, 2)), space.flatten(seeded(dropping, 3)))


def objective_of(model, data, samples=4, seed=0, **options):
    return tw.ModelObjective(
        model, nn.CrossEntropyLoss(), data, dropout=tw.MonteCarlo(samples, seed), **options
    )


def test_dropout_is_off_unless_asked_for(model, line, classification):
    x, y = classification
    for policy in (None, "off"):
        objective = tw.ModelObjective(model.train(), nn.CrossEntropyLoss(), (x, y), dropout=policy)
        value = objective.value(objective.space.flatten(model))
        expected = functional.cross_entropy(model.eval()(x), y)
        assert value == pytest.approx(float(expected.detach()), rel=1e-12)


def test_every_point_has_the_same_masks(model, line, classification):
    # With fresh masks at every point the curve jumps by the spread of the samples; a smooth one
    # has second differences of the order of the step squared.
    objective = objective_of(model, classification, samples=3)
    alpha = np.linspace(0.3, 0.7, 41)
    smooth = tw.profile(objective, line, alpha).loss["train"]
    fresh = np.array(
        [
            objective_of(model, classification, samples=3, seed=seed).value(line.point(a))
            for seed, a in enumerate(alpha)
        ]
    )
    assert np.abs(np.diff(smooth, 2)).max() < 1e-3
    assert np.abs(np.diff(fresh, 2)).max() > 100 * np.abs(np.diff(smooth, 2)).max()


def test_samples_are_reproducible_and_differ(model, line, classification):
    objective = objective_of(model, classification)
    theta = line.point(0.4)
    samples = objective.evaluate(theta).samples["train"]
    assert len(set(samples)) == 4
    assert objective.evaluate(theta).samples["train"] == samples
    assert objective_of(model, classification).evaluate(theta).samples["train"] == samples
    more = objective_of(model, classification, samples=6).evaluate(theta).samples["train"]
    assert more[:4] == samples
    other = objective_of(model, classification, seed=1).evaluate(theta).samples["train"]
    assert not set(other) & set(samples)


def test_the_loss_is_the_mean_of_the_samples_with_its_standard_error(model, line, classification):
    objective = objective_of(model, classification, samples=5)
    profile = tw.profile(objective, line, [0.2, 0.5, 1.1])
    samples = profile.samples["train"]
    assert samples.shape == (5, 3)
    np.testing.assert_allclose(profile.loss["train"], samples.mean(0), rtol=1e-14)
    np.testing.assert_allclose(
        profile.standard_error(), samples.std(0, ddof=1) / np.sqrt(5), rtol=1e-14
    )


def test_a_sample_is_what_torch_gives_under_the_same_seed(model, classification):
    x, y = classification
    objective = objective_of(model, (x, y), samples=2, seed=9)
    theta = objective.space.flatten(model)
    model.train()
    for sample, value in enumerate(objective.evaluate(theta).samples["train"]):
        with tw.MonteCarlo(2, seed=9).masks(sample, split=0, batch=0):
            expected = functional.cross_entropy(model(x), y)
        assert value == pytest.approx(float(expected.detach()), rel=1e-12)


def test_batches_and_splits_have_masks_of_their_own(model):
    x, y = normal(1, 3, seed=4).expand(8, 3), classes(1, count=3, seed=5).expand(8)
    objective = objective_of(model, {"a": (x, y), "b": (x, y)}, samples=1, batch_size=4)
    theta = objective.space.flatten(model)
    evaluation = objective.evaluate(theta)
    assert evaluation.loss["a"] != evaluation.loss["b"]
    half = objective_of(model, (x[:4], y[:4]), samples=1, batch_size=4)
    assert half.value(theta) != evaluation.loss["a"]


class Gated(nn.Module):
    """Three inputs, each kept or dropped: 2³ masks an example."""

    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout(PROBABILITY)
        self.head = nn.Linear(3, 1)

    def forward(self, x):
        return self.head(self.dropout(x))


def test_the_expectation_is_that_over_all_masks():
    # Enumerated exactly, with variance; 2000 samples, bound at 4 standard errors.
    model, samples = seeded(Gated, 1), 2000
    x, y = 1 + normal(1, 3, seed=6), normal(1, 1, seed=7)
    values, chances = [], []
    for mask in itertools.product([0.0, 1.0], repeat=3):
        kept = torch.tensor(mask, dtype=torch.float64)
        out = model.head(x * kept / (1 - PROBABILITY))
        values.append(float((out - y).square().detach()))
        chances.append(np.prod([1 - PROBABILITY if m else PROBABILITY for m in mask]))
    mean = np.dot(chances, values)
    deviation = np.sqrt(np.dot(chances, (np.array(values) - mean) ** 2))
    objective = tw.ModelObjective(model, nn.MSELoss(), (x, y), dropout=tw.MonteCarlo(samples, 0))
    drawn = np.array(objective.evaluate(objective.space.flatten(model)).samples["train"])
    assert set(np.round(drawn, 9)) == set(np.round(values, 9))
    assert abs(drawn.mean() - mean) < 4 * deviation / np.sqrt(samples)
    without = float((model.head(x) - y).square().detach())
    assert abs(drawn.mean() - without) > 8 * deviation / np.sqrt(samples)


def test_gradient_and_hvp_are_those_of_the_sampled_cost(model, line, classification):
    objective = objective_of(model, classification, samples=3, batch_size=4)
    theta = line.point(0.4)
    direction = normal(objective.space.size, seed=8)
    h = 1e-5
    slope = (objective.value(theta + h * direction) - objective.value(theta - h * direction)) / (
        2 * h
    )
    assert float(objective.gradient(theta) @ direction) == pytest.approx(slope, rel=1e-8)
    change = (
        objective.gradient(theta + h * direction) - objective.gradient(theta - h * direction)
    ) / (2 * h)
    torch.testing.assert_close(objective.hvp(theta, direction), change, rtol=1e-6, atol=1e-9)


def test_a_penalty_moves_every_sample(model, line, classification):
    theta = line.point(0.4)
    bare = objective_of(model, {"a": classification, "b": classification})
    objective = objective_of(
        model, {"a": classification, "b": classification}, penalty=lambda tensors: 2.0
    )
    plain, moved = bare.evaluate(theta).samples, objective.evaluate(theta).samples
    np.testing.assert_allclose(moved["a"], np.array(plain["a"]) + 2, rtol=1e-14)
    assert moved["b"] == plain["b"]
    assert objective.value(theta) == pytest.approx(np.mean(moved["a"]), rel=1e-14)


def test_metrics_are_averaged_over_the_same_masks(model, line, classification):
    def loss_again(out, y):
        return functional.cross_entropy(out, y, reduction="none")

    objective = objective_of(model, classification, metrics={"again": loss_again}, batch_size=4)
    evaluation = objective.evaluate(line.point(0.4))
    assert evaluation.metrics["again"]["train"] == pytest.approx(
        evaluation.loss["train"], rel=1e-12
    )


def test_dropout_leaves_batch_norm_and_recalibration_alone(classification):
    def build():
        return nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.BatchNorm1d(4), nn.Linear(4, 3))

    objective = objective_of(seeded(build, 1), classification, batch_norm="recalibrate")
    exact = tw.ModelObjective(seeded(build, 1), nn.CrossEntropyLoss(), classification)
    theta = objective.space.flatten(seeded(build, 2))
    samples = np.array(objective.evaluate(theta).samples["train"])
    assert len(set(samples)) == 4
    assert objective.recalibrated(objective.space.unflatten(theta))["2.running_var"].tolist() == (
        exact.recalibrated(exact.space.unflatten(theta))["2.running_var"].tolist()
    )


def test_a_model_without_dropout_has_equal_samples(classification):
    case = MODELS["perceptron"]
    samples = objective_of(case.model(), classification).evaluate(case.point()).samples["train"]
    assert len(set(samples)) == 1
    assert samples[0] == case.objective().value(case.point())


@pytest.mark.parametrize("samples", [0, -1, 2.5])
def test_samples_must_be_a_count(samples):
    with pytest.raises(ValueError, match=f"`samples` must be a whole number.*got {samples}. Try 5"):
        tw.MonteCarlo(samples)


def test_a_seed_is_not_negative():
    with pytest.raises(ValueError, match=r"`seed` must be 0 or more; got -1. Try 0"):
        tw.MonteCarlo(5, seed=-1)


def test_another_policy_is_refused(model, classification):
    with pytest.raises(ValueError, match=r"must be None, 'off' or MonteCarlo.*got 0.5. For the"):
        tw.ModelObjective(model, nn.CrossEntropyLoss(), classification, dropout=0.5)
