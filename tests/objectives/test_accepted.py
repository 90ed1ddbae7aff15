from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import thalweg as tw
from cases import MODELS, normal, perceptron, seeded

LOSS = nn.CrossEntropyLoss()


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
