import copy
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

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


# --- derivatives ----------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 4, 11])
def test_gradient_is_that_of_the_full_batch(case, batch_size):
    theta = case.point()
    gradient = case.objective(batch_size=batch_size).gradient(theta)
    torch.testing.assert_close(
        gradient, torch.func.grad(full_batch(case))(theta), rtol=1e-11, atol=1e-13
    )


@pytest.mark.parametrize("batch_size", [4, 11])
def test_hvp_is_that_of_the_dense_hessian(case, batch_size):
    theta = case.point()
    with sdpa_kernel(SDPBackend.MATH):
        hessian = torch.func.jacrev(torch.func.grad(full_batch(case)))(theta)
    objective = case.objective(batch_size=batch_size)
    for seed in (13, 14):
        vector = normal(objective.space.size, seed=seed)
        torch.testing.assert_close(
            objective.hvp(theta, vector), hessian @ vector, rtol=1e-10, atol=1e-12
        )


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_hvp_is_that_of_torchs_hessian():
    case = MODELS["tied"]
    theta = case.point()
    objective = case.objective(batch_size=4)
    vector = normal(objective.space.size, seed=13)
    hessian = torch.func.hessian(full_batch(case))(theta)
    torch.testing.assert_close(
        objective.hvp(theta, vector), hessian @ vector, rtol=1e-10, atol=1e-12
    )


def test_hvp_is_symmetric_and_linear(case):
    theta, objective = case.point(), case.objective(batch_size=4)
    u, v = (normal(objective.space.size, seed=seed) for seed in (15, 16))
    hu, hv = objective.hvp(theta, u), objective.hvp(theta, v)
    assert float(u @ hv) == pytest.approx(float(v @ hu), rel=1e-9, abs=1e-12)
    torch.testing.assert_close(objective.hvp(theta, 2 * u - v), 2 * hu - hv, rtol=1e-9, atol=1e-12)


def test_gradient_is_the_slope_of_the_value():
    case = MODELS["sequences"]
    theta, objective = case.point(), case.objective(batch_size=4)
    direction = normal(objective.space.size, seed=17)
    h = 1e-5
    slope = (objective.value(theta + h * direction) - objective.value(theta - h * direction)) / (
        2 * h
    )
    assert float(objective.gradient(theta) @ direction) == pytest.approx(slope, rel=1e-8)


def test_derivatives_keep_type_and_shape(case):
    objective = case.objective(dtype=torch.float32)
    theta = case.point(dtype=torch.float32)
    for derivative in (objective.gradient(theta), objective.hvp(theta, theta)):
        assert derivative.dtype == torch.float32
        assert derivative.shape == (objective.space.size,)
        assert not derivative.requires_grad


def test_a_parameter_that_no_pass_reaches_has_gradient_zero():
    case = MODELS["unused"]
    objective = case.objective()
    gradient = objective.space.unflatten(objective.gradient(case.point()))
    assert torch.count_nonzero(gradient["idle.weight"]) == 0
    assert torch.count_nonzero(gradient["head.weight"]) > 0
    vector = torch.ones(objective.space.size, dtype=torch.float64)
    product = objective.space.unflatten(objective.hvp(case.point(), vector))
    assert torch.count_nonzero(product["idle.bias"]) == 0


def test_a_cost_that_does_not_move_has_derivative_zero(classification):
    objective = tw.ModelObjective(
        seeded(perceptron, 1), lambda out, y: (y * 1.0).mean(), classification
    )
    theta = objective.space.flatten(seeded(perceptron, 2))
    assert torch.count_nonzero(objective.gradient(theta)) == 0
    assert torch.count_nonzero(objective.hvp(theta, theta)) == 0


def test_a_cost_that_is_linear_has_curvature_zero(classification):
    x, y = classification
    model = seeded(lambda: nn.Linear(3, 1), 1)
    objective = tw.ModelObjective(model, lambda out, y: out.mean(), (x, y))
    theta = objective.space.flatten(model)
    torch.testing.assert_close(objective.gradient(theta), torch.cat([x.mean(0), torch.ones(1)]))
    assert torch.count_nonzero(objective.hvp(theta, theta)) == 0


def test_a_penalty_is_added_once_to_the_first_split():
    case = MODELS["tied"]
    theta = case.point()
    data = {"train": case.data(), "valid": case.data()}

    def decay(tensors):
        return 0.5 * sum((t**3).sum() for t in tensors.values())

    bare = tw.ModelObjective(case.model(), LOSS, data, batch_size=3)
    objective = tw.ModelObjective(case.model(), LOSS, data, batch_size=3, penalty=decay)
    extra = float(0.5 * (theta**3).sum())
    plain, penalised = bare.evaluate(theta), objective.evaluate(theta)
    assert penalised.loss["train"] == pytest.approx(plain.loss["train"] + extra, rel=1e-12)
    assert penalised.loss["valid"] == plain.loss["valid"]
    assert objective.value(theta) == penalised.loss["train"]
    vector = normal(objective.space.size, seed=18)
    torch.testing.assert_close(
        objective.gradient(theta), bare.gradient(theta) + 1.5 * theta**2, rtol=1e-11, atol=0
    )
    torch.testing.assert_close(
        objective.hvp(theta, vector),
        bare.hvp(theta, vector) + 3 * theta * vector,
        rtol=1e-11,
        atol=1e-13,
    )


def test_a_penalty_may_be_a_plain_number():
    case = MODELS["perceptron"]
    theta = case.point()
    objective = case.objective(penalty=lambda tensors: 0.1)
    assert objective.value(theta) == pytest.approx(case.objective().value(theta) + 0.1, rel=1e-14)
    torch.testing.assert_close(objective.gradient(theta), case.objective().gradient(theta))


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


# --- what is accepted -----------------------------------------------------------------------


class Output:
    """An output with attributes, as Hugging Face models return."""

    def __init__(self, logits, loss=None):
        self.logits = logits
        self.loss = loss


class ByName(nn.Module):
    """A model that takes its inputs by name."""

    def __init__(self, kind=Output):
        super().__init__()
        self.net = perceptron()
        self.kind = kind

    def forward(self, features, scale=None, labels=None):
        logits = self.net(features if scale is None else features * scale)
        loss = None if labels is None else functional.cross_entropy(logits, labels)
        return self.kind(logits=logits, loss=loss)


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = perceptron()

    def forward(self, x, shift):
        return self.net(x + shift)


def out_logits(out):
    return out["logits"] if isinstance(out, dict) else out.logits


def step(model, batch):
    logits = out_logits(model(batch["features"]))
    total = functional.cross_entropy(logits, batch["labels"], reduction="sum")
    return total, len(batch["labels"])


@pytest.fixture
def by_name(classification):
    x, y = classification
    return {"features": x, "labels": y}


def expected_at(theta, x, y):
    case = MODELS["perceptron"]
    return float(functional.cross_entropy(case.at(theta)(x), y).detach())


@pytest.mark.parametrize(
    "kind", [Output, SimpleNamespace, dict], ids=["object", "namespace", "dict"]
)
@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(),
        None,
        lambda out, y: functional.cross_entropy(out_logits(out), y),
        lambda out, y: functional.cross_entropy(out_logits(out), y, reduction="sum"),
        step,
    ],
    ids=["torch", "own", "mean", "sum", "step"],
)
def test_batches_and_outputs_by_name(by_name, kind, loss):
    model = seeded(lambda: ByName(kind), 1)
    objective = tw.ModelObjective(
        model, loss, by_name, metrics={"error": tw.error_rate}, batch_size=4
    )
    theta = MODELS["perceptron"].point()
    evaluation = objective.evaluate(theta)
    expected = expected_at(theta, by_name["features"], by_name["labels"])
    assert evaluation.loss["train"] == pytest.approx(expected, rel=1e-12)
    wrong = MODELS["perceptron"].at(theta)(by_name["features"]).argmax(1) != by_name["labels"]
    assert evaluation.metrics["error"]["train"] == pytest.approx(float(wrong.double().mean()))
    torch.testing.assert_close(
        objective.gradient(theta), MODELS["perceptron"].objective().gradient(theta)
    )


class Table(Dataset):
    """A map-style data set of dictionaries."""

    def __init__(self, columns):
        self.columns = columns

    def __len__(self):
        return len(self.columns["labels"])

    def __getitem__(self, index):
        return {name: column[index] for name, column in self.columns.items()}


class Stream(IterableDataset):
    """A data set that can only be read from start to end."""

    def __init__(self, *columns):
        self.columns = columns

    def __iter__(self):
        return zip(*self.columns, strict=True)


class LongStream(Stream):
    """A stream that knows its length."""

    def __len__(self):
        return len(self.columns[0])


class Pairs(Dataset):
    def __init__(self, *columns):
        self.columns = columns

    def __len__(self):
        return len(self.columns[0])

    def __getitem__(self, index):
        return tuple(column[index] for column in self.columns)


DATA = {
    "tensors": lambda x, y: (x, y),
    "arrays": lambda x, y: (x.numpy(), y.numpy()),
    "read-only arrays": lambda x, y: tuple(frozen_array(t) for t in (x, y)),
    "strided arrays": lambda x, y: (x.numpy()[::-1], y.numpy()[::-1]),
    "tensor data set": TensorDataset,
    "map-style": Pairs,
    "iterable": Stream,
    "iterable with length": LongStream,
    "loader": lambda x, y: DataLoader(TensorDataset(x, y), batch_size=3),
    "loader of pairs": lambda x, y: DataLoader(Pairs(x, y), batch_size=5),
    "loader of a stream": lambda x, y: DataLoader(LongStream(x, y), batch_size=5),
    "shuffling loader": lambda x, y: DataLoader(TensorDataset(x, y), batch_size=3, shuffle=True),
    "one split": lambda x, y: {"valid": (x, y)},
    "split of a loader": lambda x, y: {"valid": DataLoader(TensorDataset(x, y), batch_size=4)},
    "inputs as a tuple": lambda x, y: Pairs([(row,) for row in x], y),
    "list batches": lambda x, y: DataLoader(
        TensorDataset(x, y),
        batch_size=4,
        collate_fn=lambda items: [torch.stack(t) for t in zip(*items, strict=True)],
    ),
}


def frozen_array(tensor):
    array = tensor.numpy().copy()
    array.flags.writeable = False
    return array


@pytest.mark.parametrize("kind", DATA)
@pytest.mark.parametrize("batch_size", [None, 4])
def test_every_kind_of_data_gives_the_same_cost(kind, batch_size, classification):
    x, y = classification
    model = seeded(perceptron, 1)
    objective = tw.ModelObjective(model, LOSS, DATA[kind](x, y), batch_size=batch_size)
    theta = MODELS["perceptron"].point()
    assert objective.value(theta) == pytest.approx(expected_at(theta, x, y), rel=1e-12)


@pytest.mark.parametrize(
    "data",
    [
        lambda x, s, y: (x, s, y),
        lambda x, s, y: Pairs([(a, b) for a, b in zip(x, s, strict=True)], y),
    ],
    ids=["flat", "nested"],
)
def test_several_inputs(data, classification):
    x, y = classification
    shift = 0.5 + normal(11, 3, seed=30)
    model = seeded(TwoInputs, 1)
    objective = tw.ModelObjective(model, LOSS, data(x, shift, y), batch_size=4)
    theta = MODELS["perceptron"].point()
    assert objective.value(theta) == pytest.approx(expected_at(theta, x + shift, y), rel=1e-12)


def test_a_table_may_hold_further_inputs(by_name):
    table = Table({**by_name, "scale": torch.full((11, 1), 2.0, dtype=torch.float64)})
    objective = tw.ModelObjective(seeded(ByName, 1), LOSS, table, batch_size=4)
    theta = MODELS["perceptron"].point()
    expected = expected_at(theta, 2 * by_name["features"], by_name["labels"])
    assert objective.value(theta) == pytest.approx(expected, rel=1e-12)


def test_an_autoencoder_takes_its_input_as_target(classification):
    x, _ = classification
    model = seeded(perceptron, 1)
    objective = tw.ModelObjective(model, nn.MSELoss(), x, batch_size=4)
    expected = float(functional.mse_loss(model(x), x).detach())
    assert objective.value(objective.space.flatten(model)) == pytest.approx(expected, rel=1e-12)
    same = tw.ModelObjective(model, nn.MSELoss(), (x,))
    assert same.value(same.space.flatten(model)) == pytest.approx(expected, rel=1e-12)


def test_inputs_may_be_a_table_beside_the_target(classification):
    x, y = classification
    items = [({"features": row}, label) for row, label in zip(x, y, strict=True)]
    data = DataLoader(Pairs(*zip(*items, strict=True)), batch_size=4)
    objective = tw.ModelObjective(seeded(ByName, 1), LOSS, data)
    theta = MODELS["perceptron"].point()
    assert objective.value(theta) == pytest.approx(expected_at(theta, x, y), rel=1e-12)


def test_padded_batches_of_different_lengths():
    case = MODELS["sequences"]
    x, y = case.data()
    lengths = [5, 2, 3, 5, 1, 4, 2, 2, 5, 3, 4]
    items = [(a[:n], b[:n]) for a, b, n in zip(x, y, lengths, strict=True)]

    def pad(rows):
        return tuple(
            nn.utils.rnn.pad_sequence(list(c), batch_first=True) for c in zip(*rows, strict=True)
        )

    loader = DataLoader(Pairs(*zip(*items, strict=True)), batch_size=3, collate_fn=pad)
    objective = tw.ModelObjective(case.model(), case.loss("mean"), loader)
    theta = case.point()
    model, loss = case.at(theta), case.loss("sum").double()
    total = sum(float(loss(model(a[None]), b[None]).detach()) for a, b in items)
    assert objective.splits[0].whole is None
    assert objective.value(theta) == pytest.approx(
        total / sum(case.terms(b) for _, b in items), rel=1e-12
    )


def test_wrapped_models_are_unwrapped(classification):
    model = seeded(perceptron, 1)
    for wrapped in (
        nn.DataParallel(model),
        torch.compile(model, backend="eager"),
        torch.compile(nn.DataParallel(model), backend="eager"),
    ):
        objective = tw.ModelObjective(wrapped, LOSS, classification)
        assert objective.space.names == ("0.weight", "0.bias", "2.weight", "2.bias")
        theta = objective.space.flatten(wrapped)
        assert objective.value(theta) == pytest.approx(
            expected_at(theta, *classification), rel=1e-12
        )


def test_inputs_are_cast_and_classes_are_not(classification):
    x, y = classification
    objective = tw.ModelObjective(
        seeded(perceptron, 1).float(), LOSS, (x.half().numpy(), y.int().long()), dtype=torch.float64
    )
    inputs, target = objective.splits[0].batches[0]
    assert (inputs.dtype, target.dtype) == (torch.float64, torch.int64)
    torch.testing.assert_close(inputs, x.half().double())


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
    value = expected_at(theta, *classification)
    model = MODELS["perceptron"].at(theta)
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


# --- the check ------------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    ("loss", "name"),
    [(None, "the model's own loss"), (step, "step"), (nn.CrossEntropyLoss(), "CrossEntropyLoss")],
)
def test_the_description_names_the_loss(loss, name, by_name):
    assert tw.ModelObjective(seeded(ByName, 1), loss, by_name).describe()["loss"] == name
