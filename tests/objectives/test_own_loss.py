import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader

import thalweg as tw
from cases import EXAMPLES, classes, normal, seeded

INPUTS, REAL = normal(EXAMPLES, 3, seed=1), 0.5 + normal(EXAMPLES, 3, seed=8)


class Language(nn.Module):
    """A tiny language model that returns its own loss, reduced in one of three ways."""

    def __init__(self, rule="shifted", empty=math.nan, kind=SimpleNamespace):
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.head = nn.Linear(4, 7)
        self.rule = rule
        self.empty = empty
        self.kind = kind

    def terms(self, input_ids, labels):
        """Return the losses of all places and which of them count."""
        logits = self.head(self.embedding(input_ids))
        if self.rule == "shifted":
            logits, labels = logits[:, :-1], labels[:, 1:]
        losses = functional.cross_entropy(logits.movedim(-1, 1), labels, reduction="none")
        return losses, labels != -100

    def forward(self, input_ids, labels=None):
        losses, counted = self.terms(input_ids, labels)
        if self.rule == "examples":
            loss = ((losses * counted).sum(1) / counted.sum(1)).mean()
        elif counted.any():
            loss = losses[counted].mean()
        else:
            loss = losses.sum() * 0 + self.empty
        return self.kind(loss=loss)


def padded(lengths, places=6):
    ids = classes(len(lengths), places, count=7, seed=9)
    labels = ids.clone()
    for row, length in enumerate(lengths):
        labels[row, length:] = -100
    return {"input_ids": ids, "labels": labels}


LENGTHS = {
    "full": [6] * 11,
    "padded": [6, 2, 3, 5, 4, 2, 6, 3, 2, 5, 4],
    "padded late": [6] * 8 + [2, 3, 2],
    "padded batch by batch": [6] * 4 + [3] * 4 + [2] * 3,
}


def token_mean(model, table):
    losses, counted = model.terms(**table)
    if model.rule == "examples":
        return float(((losses * counted).sum(1) / counted.sum(1)).mean())
    return float((losses * counted).sum() / counted.sum())


@pytest.mark.parametrize("rule", ["shifted", "counted", "examples"])
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("batch_size", [1, 3, 4, 64])
@pytest.mark.parametrize("kind", [SimpleNamespace, dict])
def test_own_losses_weigh_what_they_average_over(rule, lengths, batch_size, kind):
    model = seeded(lambda: Language(rule, kind=kind), 1)
    table = padded(LENGTHS[lengths])
    objective = tw.ModelObjective(model, None, table, batch_size=batch_size)
    other = seeded(lambda: Language(rule), 2)
    with torch.no_grad():
        expected = token_mean(other, table)
    theta = objective.space.flatten(other)
    assert objective.value(theta) == pytest.approx(expected, rel=1e-12)
    assert objective.value(theta) == objective.value(theta)
    objective.check(theta)


@pytest.mark.parametrize("empty", [math.nan, 0.0])
def test_a_batch_without_labels_adds_nothing(empty):
    table = padded([6, 2, 3, 0, 0, 0, 4, 5])
    model = seeded(lambda: Language(empty=empty), 1)
    objective = tw.ModelObjective(model, None, table, batch_size=3)
    with torch.no_grad():
        expected = token_mean(model, table)
    assert objective.value(objective.space.flatten(model)) == pytest.approx(expected, rel=1e-12)


def test_float32_is_enough_to_tell_the_shift():
    table = padded([40, 39, 38, 40, 36, 40], places=40)
    model = seeded(Language, 1).float()
    objective = tw.ModelObjective(model, None, table, batch_size=2)
    with torch.no_grad():
        expected = token_mean(seeded(Language, 1), table)
    assert objective.value(objective.space.flatten(model)) == pytest.approx(expected, rel=1e-6)


def test_padded_batches_of_different_lengths():
    table = padded(LENGTHS["padded"])
    rows = [slice(0, 3), slice(3, 7), slice(7, 11)]
    widths = [6, 6, 5]
    parts = [{k: t[r, :w] for k, t in table.items()} for r, w in zip(rows, widths, strict=True)]
    model = seeded(Language, 1)
    objective = tw.ModelObjective(model, None, DataLoader(parts, batch_size=None))
    with torch.no_grad():
        expected = token_mean(model, table)
    assert objective.splits[0].whole is None
    assert objective.value(objective.space.flatten(model)) == pytest.approx(expected, rel=1e-12)


def test_a_first_batch_without_labels_decides_nothing():
    # A model that returns 0 for it: any mean of nothing is 0, so that nothing is learnt.
    table = padded([0, 0, 0, 0, 6, 2, 3, 5])
    parts = [{k: t[:4, :4] for k, t in table.items()}, {k: t[4:] for k, t in table.items()}]
    model = seeded(lambda: Language("counted", empty=0.0), 1)
    objective = tw.ModelObjective(model, None, DataLoader(parts, batch_size=None))
    with torch.no_grad():
        expected = token_mean(model, table)
    assert objective.splits[0].whole is None
    assert objective.value(objective.space.flatten(model)) == pytest.approx(expected, rel=1e-12)


def test_a_diverged_model_may_have_a_space_of_points_that_have_not():
    model, table = seeded(Language, 1), padded(LENGTHS["full"])
    with torch.no_grad():
        model.head.bias.fill_(torch.nan)
        expected = token_mean(seeded(Language, 2), table)
    objective = tw.ModelObjective(model, None, table, batch_size=4)
    theta = objective.space.flatten(seeded(Language, 2))
    assert objective.value(theta) == pytest.approx(expected, rel=1e-12)


class Pair(nn.Module):
    """A model of positional inputs that returns its own loss."""

    def __init__(self, reduction="mean"):
        super().__init__()
        self.net = nn.Linear(3, 3)
        self.reduction = reduction

    def forward(self, x, y):
        return {"loss": functional.mse_loss(self.net(x), y, reduction=self.reduction)}


def test_own_losses_of_models_with_positional_inputs():
    model = seeded(Pair, 1)
    objective = tw.ModelObjective(model, None, (INPUTS, REAL), batch_size=4)
    expected = float(model(INPUTS, REAL)["loss"].detach())
    assert objective.value(objective.space.flatten(model)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("build", "data", "message"),
    [
        (lambda: Pair("sum"), (INPUTS, REAL), "is neither the labels .* nor the examples. Pass"),
        (lambda: Pair("none"), (INPUTS, REAL), "output with a scalar `loss`; got dict without one"),
        (lambda: nn.Bilinear(3, 3, 1), (INPUTS, REAL), "scalar `loss`; got Tensor without one"),
    ],
)
def test_own_losses_that_cannot_be_used(build, data, message):
    with pytest.raises(ValueError, match=message):
        tw.ModelObjective(seeded(build, 1), None, data)


def test_own_losses_whose_count_cannot_be_told():
    # Every token costs the same under a zero head, so no experiment can tell the means apart.
    model = seeded(Language, 1)
    nn.init.zeros_(model.head.weight)
    nn.init.zeros_(model.head.bias)
    model.head.bias.data.fill_(0.3)
    model.rule = "counted"
    with pytest.raises(ValueError, match=r"cannot be told from these batches. Pass"):
        tw.ModelObjective(model, None, padded(LENGTHS["padded"]), batch_size=4)
