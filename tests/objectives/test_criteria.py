import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional

import thalweg as tw
from cases import CLASS_WEIGHTS, EXAMPLES, classes, normal, seeded
from thalweg.objectives.criteria import criterion

WEIGHT = CLASS_WEIGHTS[:3].double()


class Identity(nn.Module):
    """A model whose output is one example a row: what goes in, times its one parameter."""

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.factor * x


def mean_of(loss, data, batch_size=4, **options):
    model = Identity().double()
    objective = tw.ModelObjective(model, loss, data, batch_size=batch_size, **options)
    return objective.value(torch.tensor([1.5], dtype=torch.float64))


# --- torch's own losses ---------------------------------------------------------------------

LOGITS = normal(EXAMPLES, 3, seed=1)
PLACES = normal(EXAMPLES, 3, 5, seed=2)
LABELS = classes(EXAMPLES, count=3, seed=3)
PLACE_LABELS = classes(EXAMPLES, 5, count=3, seed=4)
PROBABILITIES = normal(EXAMPLES, 3, seed=5).softmax(1)
SIGNS = 2.0 * classes(EXAMPLES, 3, count=2, seed=6).double() - 1
BITS = classes(EXAMPLES, 3, count=2, seed=7).double()
REAL = 0.5 + normal(EXAMPLES, 3, seed=8)

TORCH_LOSSES = {
    "cross entropy": (nn.CrossEntropyLoss, {}, LOGITS, LABELS),
    "weights": (nn.CrossEntropyLoss, {"weight": WEIGHT}, LOGITS, LABELS),
    "ignored": (nn.CrossEntropyLoss, {"ignore_index": 1}, LOGITS, LABELS),
    "smooth and weighted": (
        nn.CrossEntropyLoss,
        {"weight": WEIGHT, "ignore_index": 2, "label_smoothing": 0.2},
        LOGITS,
        LABELS,
    ),
    "places": (nn.CrossEntropyLoss, {"weight": WEIGHT, "ignore_index": 0}, PLACES, PLACE_LABELS),
    "negative ignored index": (
        nn.CrossEntropyLoss,
        {"weight": WEIGHT, "ignore_index": -100},
        LOGITS,
        torch.where(LABELS == 1, -100, LABELS),
    ),
    "probabilities": (nn.CrossEntropyLoss, {"weight": WEIGHT}, LOGITS, PROBABILITIES),
    "nll": (nn.NLLLoss, {"weight": WEIGHT, "ignore_index": 1}, LOGITS, LABELS),
    "mse": (nn.MSELoss, {}, LOGITS, REAL),
    "l1": (nn.L1Loss, {}, LOGITS, REAL),
    "smooth l1": (nn.SmoothL1Loss, {"beta": 0.3}, LOGITS, REAL),
    "huber": (nn.HuberLoss, {"delta": 0.3}, LOGITS, REAL),
    "bce": (nn.BCELoss, {}, PROBABILITIES / 2, BITS),
    "bce with logits": (nn.BCEWithLogitsLoss, {"pos_weight": WEIGHT}, LOGITS, BITS),
    "kl": (nn.KLDivLoss, {"reduction": "batchmean"}, LOGITS, PROBABILITIES),
    "kl of places": (
        nn.KLDivLoss,
        {"reduction": "batchmean", "log_target": True},
        PLACES,
        PLACES.log_softmax(1),
    ),
    "poisson": (nn.PoissonNLLLoss, {}, LOGITS, BITS),
    "soft margin": (nn.SoftMarginLoss, {}, LOGITS, SIGNS),
    "hinge": (nn.HingeEmbeddingLoss, {}, LOGITS, SIGNS),
    "multi margin": (nn.MultiMarginLoss, {"weight": WEIGHT}, LOGITS, LABELS),
    "multi label": (nn.MultiLabelSoftMarginLoss, {"weight": WEIGHT}, LOGITS, BITS),
}


@pytest.mark.parametrize("name", TORCH_LOSSES)
def test_torchs_mean_whatever_the_batches(name):
    kind, options, inputs, target = TORCH_LOSSES[name]
    expected = float(kind(**options)(1.5 * inputs, target))
    for batch_size in (1, 4, 11):
        assert mean_of(kind(**options), (inputs, target), batch_size) == pytest.approx(
            expected, rel=1e-12
        )


@pytest.mark.parametrize("name", [name for name in TORCH_LOSSES if not name.startswith("kl")])
def test_a_sum_is_divided_by_the_terms_of_the_mean(name):
    kind, options, inputs, target = TORCH_LOSSES[name]
    expected = float(kind(**options)(1.5 * inputs, target))
    value = mean_of(kind(**options, reduction="sum"), (inputs, target))
    assert value == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    "function",
    [
        functional.cross_entropy,
        partial(functional.cross_entropy, weight=WEIGHT, ignore_index=2),
        partial(functional.cross_entropy, reduction="sum"),
        functional.nll_loss,
        partial(functional.nll_loss, ignore_index=0),
    ],
)
def test_torchs_functions_are_its_losses(function):
    mean = partial(function, reduction="mean")
    expected = float(mean(1.5 * LOGITS, LABELS))
    assert mean_of(function, (LOGITS, LABELS), 3) == pytest.approx(expected, rel=1e-12)


def test_class_weights_follow_the_type_of_the_objective():
    loss = nn.CrossEntropyLoss(weight=CLASS_WEIGHTS[:3].float())
    model = seeded(lambda: nn.Linear(3, 3), 1).float()
    for dtype in (torch.float64, torch.float32):
        objective = tw.ModelObjective(model, loss, (LOGITS, LABELS), dtype=dtype)
        theta = objective.space.flatten(model)
        expected = float(loss.double()(model.double()(LOGITS), LABELS).detach())
        assert objective.value(theta) == pytest.approx(expected, rel=1e-6)
        model, loss = model.float(), loss.float()


def test_the_users_loss_is_not_changed():
    loss = nn.CrossEntropyLoss(weight=CLASS_WEIGHTS[:3].float())
    mean_of(loss, (LOGITS, LABELS))
    assert loss.reduction == "mean"
    assert loss.weight.dtype == torch.float32


# --- functions that a user writes -----------------------------------------------------------


def squares(out, y, reduction):
    return functional.mse_loss(out, y, reduction=reduction)


def rows_mean(out, y):
    return (out - y).square().sum(1).mean()


def rows_sum(out, y):
    return (out - y).square().sum()


EXPECTED_ROWS = float((1.5 * LOGITS - REAL).square().sum(1).mean())


class Rows(nn.Module):
    def forward(self, out, y):
        return rows_mean(out, y)


class Caller:
    def __call__(self, out, y):
        return rows_sum(out, y)


class Unheeding(nn.MSELoss):
    """A subclass that does not heed `reduction`."""

    def forward(self, out, y):
        return rows_mean(out, y)


@pytest.mark.parametrize(
    "loss",
    [
        rows_mean,
        rows_sum,
        lambda out, y: (rows_sum(out, y), len(out)),
        lambda out, y: (float(rows_sum(out.detach(), y)), torch.tensor(len(out))),
        lambda out, y: rows_mean(out, y).item(),
        lambda out, y: rows_mean(out, y)[None],
        Rows(),
        Caller(),
        Unheeding(),
        lambda model, batch: (rows_sum(model(batch[0]), batch[1]), len(batch[1])),
        lambda net, pair: (rows_sum(net(pair[0]), pair[1]), len(pair[1])),
        lambda classifier, batch: (rows_sum(classifier(batch[0]), batch[1]), len(batch[1])),
    ],
)
@pytest.mark.parametrize("batch_size", [1, 4, 11])
def test_a_users_function_is_a_mean_over_examples(loss, batch_size):
    assert mean_of(loss, (LOGITS, REAL), batch_size) == pytest.approx(EXPECTED_ROWS, rel=1e-12)


def shifted_hinge_sum(out, shift):
    return out.clamp(min=0).sum() + shift.sum()


@pytest.mark.parametrize("first", [0.0, math.nan, math.inf])
def test_a_first_batch_that_tells_nothing_decides_nothing(first):
    # The first batch of four costs 0, NaN or infinity; a sum taken for a mean there would make
    # the cost of all that follows four times as large.
    x = torch.tensor([-1.0] * 4 + [1.0, 2.0, 3.0, 4.0], dtype=torch.float64)[:, None]
    none = torch.zeros(8, 1)
    shift = none.clone()
    shift[:4] = first
    data = {"first": (x, shift), "then": (x, none)}
    objective = tw.ModelObjective(Identity().double(), shifted_hinge_sum, data, batch_size=4)
    loss = objective.evaluate(torch.tensor([1.5])).loss
    assert loss["then"] == pytest.approx(1.5 * 10 / 8, rel=1e-12)
    assert loss["first"] == pytest.approx(loss["then"] + first, nan_ok=True)


def test_one_example_first_decides_nothing():
    data = {"train": (LOGITS[:1], REAL[:1]), "valid": (LOGITS, REAL)}
    objective = tw.ModelObjective(Identity().double(), rows_sum, data)
    assert objective.evaluate(torch.tensor([1.5])).loss["valid"] == pytest.approx(EXPECTED_ROWS)


def test_a_metric_that_starts_at_zero_is_still_understood():
    def wrong(out, y):
        return (out.argmax(1) != y).sum()

    labels = (1.5 * LOGITS).argmax(1)
    labels[4:] = (labels[4:] + 1) % 3
    objective = tw.ModelObjective(
        Identity().double(),
        nn.CrossEntropyLoss(),
        (LOGITS, labels),
        metrics={"wrong": wrong},
        batch_size=4,
    )
    metrics = objective.evaluate(torch.tensor([1.5])).metrics
    assert metrics["wrong"]["train"] == pytest.approx(7 / 11)


def test_gradients_of_a_users_function_need_no_value_first():
    objective = tw.ModelObjective(Identity().double(), rows_sum, (LOGITS, REAL), batch_size=4)
    expected = float((2 * (1.5 * LOGITS - REAL) * LOGITS).sum() / EXAMPLES)
    assert float(objective.gradient([1.5])) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("loss", "error", "message"),
    [
        (
            "mse",
            TypeError,
            "A loss is a torch.nn loss or a function; .* is a str. Pass for example",
        ),
        (
            nn.MSELoss(reduction="none"),
            ValueError,
            "must return one number a batch.*reduction='none'",
        ),
        (nn.CTCLoss(), TypeError, "called as .output, target.; 'CTCLoss' needs other arguments"),
        (nn.TripletMarginLoss(), TypeError, "'TripletMarginLoss' needs other arguments. Pass"),
        (
            lambda out, y: (out - y).square().mean(1),
            ValueError,
            r"must return one number a batch; .*returns shape \(4,\)\. Use reduction",
        ),
        (
            lambda out, y: (out - y).square().mean().sqrt(),
            ValueError,
            "number of terms that .* averages over must be known.*neither the mean.*nor the sum",
        ),
        (torch.dist, ValueError, "number of terms that 'dist' averages over must be known"),
        (lambda out: out.sum(), TypeError, "called as .output, target.; that failed.*`model`"),
        (
            lambda model, batch: torch.tensor(1.0),
            ValueError,
            "must return the tuple .sum, count.; got Tensor",
        ),
        (
            lambda model, batch: (1.0, 2, 3),
            ValueError,
            "must return the tuple .sum, count.; got a tuple of 3",
        ),
        (
            lambda model, batch: (torch.ones(3), 2),
            ValueError,
            r"one sum and one count; got shapes \(3,\) and \(\)\. Add",
        ),
        (
            lambda out, y: (0.0, 0),
            ValueError,
            "A mean needs one term at least; 'loss' counts none on",
        ),
    ],
)
def test_losses_that_cannot_be_used(loss, error, message):
    with pytest.raises(error, match=message):
        mean_of(loss, (LOGITS, REAL))


# --- the error rate -------------------------------------------------------------------------


def rate(output, target):
    wrong, count = tw.error_rate(output, target)
    assert (wrong.dtype, count.dtype) == (torch.float64, torch.float64)
    return float(wrong / count)


def test_error_rate_of_classes():
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 4.0], [5.0, 6.0, 1.0], [0.0, 0.0, 1.0]])
    assert rate(logits, torch.tensor([0, 1, 1, 2])) == 0.25
    assert rate({"logits": logits}, torch.tensor([1, 1, 1, 2])) == 0.5
    assert rate(SimpleNamespace(logits=logits), torch.tensor([0, 2, 1, 2])) == 0.0


def test_error_rate_of_class_probabilities():
    target = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.2, 0.7]])
    assert rate(torch.tensor([[3.0, 1.0, 0.0], [3.0, 1.0, 0.0]]), target) == 0.5


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool])
@pytest.mark.parametrize("column", [True, False])
def test_error_rate_of_one_logit(shape, dtype, column):
    logits = torch.tensor([2.0, -1.0, 3.0, -4.0]).reshape(shape if column else (4, 1))
    target = torch.tensor([1, 1, 1, 0]).to(dtype).reshape(shape)
    assert rate(logits, target) == 0.25


def test_error_rate_of_places_counts_neither_padding_nor_less():
    logits = torch.zeros(2, 3, 4)
    logits[:, 1] = 1.0
    target = torch.tensor([[1, 1, 0, -100], [1, 2, -100, -100]])
    assert rate(logits, target) == pytest.approx(2 / 5)


@pytest.mark.parametrize(
    ("logits", "target"),
    [
        (torch.full((2, 3), math.nan), torch.tensor([0, 1])),
        (torch.full((2, 3), math.nan), torch.eye(3)[:2]),
        (torch.full((2,), math.nan), torch.tensor([0, 1])),
        (torch.full((2, 1), math.nan), torch.tensor([0.0, 1.0])),
    ],
)
def test_nan_is_always_wrong(logits, target):
    assert rate(logits, target) == 1.0


def test_a_metric_is_called_so_in_messages():
    with pytest.raises(
        TypeError, match=r"A metric is a torch.nn loss or a function; 'error' is a int"
    ):
        criterion(3, "metric", "error")
