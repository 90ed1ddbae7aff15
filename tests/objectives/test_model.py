import copy
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

import thalweg as tw
from cases import MODELS, classes, full_batch, loop_loss, normal, perceptron, seeded

REDUCTIONS = ("mean", "sum")
LOSS = nn.CrossEntropyLoss()


# --- the value, against a loop over single examples -----------------------------------------


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_value_in_float64_is_that_of_a_loop(case, reduction):
    theta = case.point()
    value = case.objective(reduction, batch_size=4).value(theta)
    assert value == pytest.approx(loop_loss(case, theta), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_value_in_float32_is_that_of_a_float64_loop(case, reduction):
    theta = case.point(dtype=torch.float32)
    value = case.objective(reduction, dtype=torch.float32, batch_size=4).value(theta)
    assert value == pytest.approx(loop_loss(case, theta), rel=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 10, 11, 64, None])
def test_batch_size_changes_nothing(case, batch_size):
    theta = case.point()
    whole = float(full_batch(case)(theta).detach())
    assert case.objective(batch_size=batch_size).value(theta) == pytest.approx(whole, rel=1e-12)


@settings(max_examples=25)
@given(cuts=st.lists(st.integers(1, 10), unique=True, max_size=10).map(sorted))
def test_any_cut_of_the_data_gives_the_same_value(cuts):
    case = MODELS["sequences"]
    x, y = case.data()
    ends = [0, *cuts, len(x)]
    parts = [(x[a:b], y[a:b]) for a, b in itertools.pairwise(ends)]
    loader = DataLoader(Ready(parts), batch_size=None)
    objective = tw.ModelObjective(case.model(), case.loss("mean"), loader)
    theta = case.point()
    assert len(objective.splits[0].batches) == len(parts)
    assert objective.value(theta) == pytest.approx(loop_loss(case, theta), rel=1e-12)


class Ready(Dataset):
    """Batches that are made already."""

    def __init__(self, parts):
        self.parts = parts

    def __len__(self):
        return len(self.parts)

    def __getitem__(self, index):
        return self.parts[index]


def test_permuting_the_examples_changes_nothing(case):
    x, y = case.data()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(11))
    assert not torch.equal(order, torch.arange(len(x)))
    shuffled = tw.ModelObjective(case.model(), case.loss("mean"), (x[order], y[order]))
    theta = case.point()
    assert shuffled.value(theta) == pytest.approx(loop_loss(case, theta), rel=1e-12)


def test_permuting_hidden_units_changes_nothing(classification):
    objective = tw.ModelObjective(seeded(perceptron, 1), LOSS, classification)
    theta = objective.space.flatten(seeded(perceptron, 2))
    order = torch.tensor([2, 0, 3, 1])
    tensors = objective.space.unflatten(theta.clone())
    tensors["0.weight"] = tensors["0.weight"][order]
    tensors["0.bias"] = tensors["0.bias"][order]
    tensors["2.weight"] = tensors["2.weight"][:, order]
    permuted = objective.space.flatten(tensors)
    assert not torch.equal(permuted, theta)
    assert objective.value(permuted) == pytest.approx(objective.value(theta), rel=1e-12)


def test_rescaling_a_relu_layer_changes_nothing(classification):
    model = seeded(lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3)), 1)
    objective = tw.ModelObjective(model, LOSS, classification)
    theta = objective.space.flatten(model)
    tensors = objective.space.unflatten(theta.clone())
    for name, factor in {"0.weight": 8.0, "0.bias": 8.0, "2.weight": 1 / 8}.items():
        tensors[name] = tensors[name] * factor
    rescaled = objective.space.flatten(tensors)
    assert objective.value(rescaled) == pytest.approx(objective.value(theta), rel=1e-12)


def test_the_same_point_gives_the_same_bits_twice(case):
    objective = case.objective(batch_size=3)
    theta = case.point()
    assert objective.value(theta) == objective.value(theta)
    assert objective.evaluate(theta).loss["train"] == objective.value(theta)


def test_the_zero_head_gives_the_logarithm_of_the_number_of_classes():
    case = MODELS["perceptron"]
    objective = case.objective()
    tensors = objective.space.unflatten(case.point())
    tensors["2.weight"].zero_()
    tensors["2.bias"].fill_(0.7)
    assert objective.value(objective.space.flatten(tensors)) == pytest.approx(np.log(3), rel=1e-14)


def test_a_float64_objective_sees_steps_that_float32_cannot():
    case = MODELS["regression"]
    theta, step = case.point(), 1e-10 * normal(case.objective().space.size, seed=12)
    fine, coarse = case.objective(), case.objective(dtype=torch.float32)
    slope = float(fine.gradient(theta) @ step)
    change = fine.value(theta + step) - fine.value(theta)
    assert change == pytest.approx(slope, rel=1e-3)
    assert coarse.value(theta + step) - coarse.value(theta) != pytest.approx(slope, rel=1e-1)


def test_a_non_finite_loss_is_a_value(classification):
    model = seeded(perceptron, 1)
    objective = tw.ModelObjective(model, lambda out, y: out.log().sum(1).mean(), classification)
    theta = objective.space.flatten(model)
    assert np.isnan(objective.value(theta))
    tensors = objective.space.unflatten(theta.clone())
    tensors["2.bias"] = tensors["2.bias"] + 50
    x = classification[0]
    shifted = copy.deepcopy(model)
    shifted.load_state_dict(tensors)
    assert objective.value(objective.space.flatten(shifted)) == pytest.approx(
        float(shifted(x).detach().log().sum(1).mean()), rel=1e-12
    )


# --- splits and metrics ---------------------------------------------------------------------


def test_splits_and_metrics_come_from_their_own_data():
    case = MODELS["perceptron"]
    (x, y), theta = case.data(), case.point()
    model = case.at(theta)
    valid = (normal(7, 3, seed=20), classes(7, count=3, seed=21))
    objective = tw.ModelObjective(
        case.model(),
        LOSS,
        {"train": (x, y), "valid": valid},
        metrics={"error": tw.error_rate, "confidence": confidence},
        batch_size=4,
    )
    evaluation = objective.evaluate(theta)
    with torch.no_grad():
        for split, (inputs, target) in {"train": (x, y), "valid": valid}.items():
            out = model(inputs)
            expected = {
                "loss": float(functional.cross_entropy(out, target)),
                "error": float((out.argmax(1) != target).double().mean()),
                "confidence": float(out.softmax(1).amax(1).mean()),
            }
            assert evaluation.loss[split] == pytest.approx(expected["loss"], rel=1e-12)
            for name in ("error", "confidence"):
                assert evaluation.metrics[name][split] == pytest.approx(expected[name], rel=1e-12)


def confidence(out, y):
    return out.softmax(1).amax(1)


def test_a_metric_may_be_called_loss():
    case = MODELS["perceptron"]
    theta = case.point()
    objective = case.objective(metrics={"loss": tw.error_rate})
    assert objective.value(theta) == pytest.approx(loop_loss(case, theta), rel=1e-12)
    evaluation = objective.evaluate(theta)
    assert evaluation.loss["train"] != evaluation.metrics["loss"]["train"]


def test_metrics_need_no_gradient():
    case = MODELS["perceptron"]
    objective = case.objective(metrics={"plain": lambda out, y: float(out.detach().mean())})
    torch.testing.assert_close(
        objective.gradient(case.point()), case.objective().gradient(case.point())
    )


# --- independence ---------------------------------------------------------------------------


def test_training_on_changes_neither_objective_nor_point(classification):
    model = seeded(perceptron, 1)
    objective = tw.ModelObjective(model, LOSS, classification)
    theta = objective.space.flatten(model)
    before = objective.value(theta), theta.clone()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert (objective.value(theta), True) == (before[0], torch.equal(theta, before[1]))
    assert objective.value(objective.space.flatten(model)) != before[0]


def test_frozen_tensors_stay_as_they_were_at_the_start(classification):
    case = MODELS["frozen"]
    model = case.model()
    objective = tw.ModelObjective(model, LOSS, classification)
    theta = case.point()
    before = objective.value(theta)
    with torch.no_grad():
        model[0].weight.mul_(3)
    assert objective.value(theta) == before


@pytest.mark.parametrize("kind", ["tensors", "arrays"])
def test_changing_the_data_in_place_changes_nothing(kind, classification):
    x, y = classification
    x = x.clone()
    data = (x, y) if kind == "tensors" else (x.numpy(), y.numpy())
    objective = tw.ModelObjective(seeded(perceptron, 1), LOSS, data)
    theta = MODELS["perceptron"].point()
    before = objective.value(theta)
    x.add_(3)
    assert objective.value(theta) == before


def test_an_objective_can_be_copied(classification):
    objective = tw.ModelObjective(seeded(perceptron, 1), LOSS, classification)
    theta = MODELS["perceptron"].point()
    assert copy.deepcopy(objective).value(theta) == objective.value(theta)


@pytest.mark.parametrize("context", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_the_callers_context_does_not_matter(context, classification):
    theta = MODELS["perceptron"].point()
    expected = MODELS["perceptron"].objective().gradient(theta)
    model = MODELS["perceptron"].at(theta)
    value = float(LOSS(model(classification[0]), classification[1]).detach())
    with context():
        objective = tw.ModelObjective(model, LOSS, classification)
        here = objective.space.flatten(model)
        assert torch.is_inference_mode_enabled() == (context is torch.inference_mode)
        torch.testing.assert_close(objective.gradient(here), expected)
        assert objective.value(here) == pytest.approx(value, rel=1e-12)


def test_autocast_does_not_coarsen_the_cost(classification):
    objective = tw.ModelObjective(seeded(perceptron, 1).float(), LOSS, classification)
    theta = MODELS["perceptron"].point(dtype=torch.float32)
    before = objective.value(theta)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert objective.value(theta) == before


def test_layers_that_write_to_their_weights_leave_the_point_alone():
    model = seeded(lambda: nn.Embedding(5, 3, max_norm=0.5), 1)
    data = (torch.arange(5), normal(5, 3, seed=31))
    objective = tw.ModelObjective(model, nn.MSELoss(), data)
    theta = objective.space.flatten(model) + 3
    before = theta.clone()
    first = objective.value(theta)
    objective.gradient(theta)
    assert torch.equal(theta, before)
    assert objective.value(theta) == first


# --- the description ------------------------------------------------------------------------


def test_the_description_says_what_was_evaluated():
    case = MODELS["sequences"]
    objective = tw.ModelObjective(
        case.model(),
        case.loss("mean"),
        {"train": case.data(), "valid": case.data()},
        metrics={"error": tw.error_rate},
        batch_size=4,
        dropout=tw.MonteCarlo(2, seed=5),
        penalty=sum_of_squares,
    )
    objective.evaluate(case.point())
    facts = objective.describe()
    assert facts["model"] == "Sequences"
    assert facts["parameters"] == objective.space.size
    assert facts["loss"] == "CrossEntropyLoss"
    assert facts["metrics"] == ["error"]
    assert facts["dropout"] == {"samples": 2, "seed": 5}
    assert facts["penalty"] == "sum_of_squares"
    assert facts["batch_norm"] is None
    train = facts["splits"]["train"]
    assert (train["examples"], train["batches"]) == (11, 3)
    assert train["terms"] == pytest.approx(sum(case.terms(y) for y in case.target()))
    assert train["sha256"] == facts["splits"]["valid"]["sha256"]


def sum_of_squares(tensors):
    return sum(t.square().sum() for t in tensors.values())


def step(model, batch):
    return LOSS(model(batch[0]), batch[1]) * len(batch[1]), len(batch[1])


class Own(nn.Module):
    """A model that returns its own loss."""

    def __init__(self):
        super().__init__()
        self.net = perceptron()

    def forward(self, x, y):
        return {"loss": LOSS(self.net(x), y)}


@pytest.mark.parametrize(
    ("build", "loss", "name"),
    [
        (Own, None, "the model's own loss"),
        (perceptron, step, "step"),
        (perceptron, nn.CrossEntropyLoss(), "CrossEntropyLoss"),
        (perceptron, functional.cross_entropy, "cross_entropy"),
    ],
)
def test_the_description_names_the_loss(build, loss, name, classification):
    assert tw.ModelObjective(seeded(build, 1), loss, classification).describe()["loss"] == name
