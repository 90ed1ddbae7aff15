import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.optim.swa_utils import update_bn

import thalweg as tw
from cases import classes, normal, seeded
from thalweg.objectives import batch_norm

LOSS = nn.CrossEntropyLoss()
EXAMPLES = 14


def dense():
    return nn.Sequential(
        nn.Linear(4, 6),
        nn.BatchNorm1d(6),
        nn.Tanh(),
        nn.Linear(6, 5),
        nn.BatchNorm1d(5, momentum=None),
        nn.ReLU(),
        nn.Linear(5, 3),
    )


def convolutional():
    return nn.Sequential(
        nn.BatchNorm2d(2, affine=False),
        nn.Conv2d(2, 3, 2),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(12, 4),
        nn.BatchNorm1d(4),
        nn.Linear(4, 3),
    )


class Nested(nn.Module):
    """Layers whose order in a pass is not their order in the module."""

    def __init__(self):
        super().__init__()
        self.last = nn.BatchNorm1d(4)
        self.body = nn.ModuleDict({"norm": nn.BatchNorm1d(4), "map": nn.Linear(4, 4)})
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.last(self.body["map"](self.body["norm"](x).tanh())))


SHAPES = {dense: (4,), convolutional: (2, 3, 3), Nested: (4,)}


@pytest.fixture(params=SHAPES, ids=["dense", "convolutional", "nested"])
def build(request):
    return request.param


@pytest.fixture
def data(build):
    return 0.5 + 2 * normal(EXAMPLES, *SHAPES[build], seed=3), classes(EXAMPLES, count=3, seed=4)


def trained(build, seed, data):
    """Return a model with statistics of its own, as after a few steps of training."""
    model = seeded(build, seed).train()
    x, y = data
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(3):
        optimizer.zero_grad()
        LOSS(model(x[step : step + 7]), y[step : step + 7]).backward()
        optimizer.step()
    return model


def own_loss(model, data):
    """Return a network's own evaluation loss."""
    model = copy.deepcopy(model).eval()
    with torch.no_grad():
        return float(LOSS(model(data[0]), data[1]))


def recalibrated_loss(model, data, at=None):
    """Return the loss of a network after torch's own recalibration on the whole of `data`."""
    model = copy.deepcopy(model)
    update_bn([data[0]], model)
    return own_loss(model, data if at is None else at)


def at_point(build, theta):
    model = seeded(build, 0)
    nn.utils.vector_to_parameters(theta, model.parameters())
    return model


ALPHA = np.array([-0.1, 0.0, 0.4, 1.0, 1.05])


@pytest.fixture
def ends(build, data):
    return trained(build, 1, data), trained(build, 2, data)


def line_between(ends):
    space = tw.ParameterSpace.of(ends[0])
    return tw.Line(*(space.flatten(model) for model in ends))


def profile_of(model, data, line, **options):
    objective = tw.ModelObjective(model, LOSS, data, **options)
    return tw.profile(objective, line, ALPHA).loss["train"]


@pytest.mark.parametrize("batch_size", [1, 4, 13, None])
def test_recalibrate_gives_the_network_with_recomputed_statistics(build, data, ends, batch_size):
    line = line_between(ends)
    loss = profile_of(ends[0], data, line, batch_size=batch_size)
    expected = [recalibrated_loss(at_point(build, line.point(a)), data) for a in ALPHA]
    np.testing.assert_allclose(loss, expected, rtol=1e-11)


def test_recalibrate_is_the_default(data, ends):
    line = line_between(ends)
    default = tw.ModelObjective(ends[0], LOSS, data)
    assert default.batch_norm == default.describe()["batch_norm"] == "recalibrate"
    np.testing.assert_array_equal(
        profile_of(ends[0], data, line),
        profile_of(ends[0], data, line, batch_norm="recalibrate"),
    )


@pytest.mark.parametrize("batch_size", [1, 4, 14])
def test_recalibrate_layer_by_layer_is_the_same(monkeypatch, build, data, ends, batch_size):
    line = line_between(ends)
    at_once = profile_of(ends[0], data, line, batch_size=batch_size)
    monkeypatch.setattr(batch_norm, "_ONE_PASS_BYTES", 0)
    layer_by_layer = profile_of(ends[0], data, line, batch_size=batch_size)
    np.testing.assert_allclose(layer_by_layer, at_once, rtol=1e-12)


def test_recalibrate_in_float32(build, data, ends):
    line = line_between(ends)
    loss = profile_of(ends[0], data, line, dtype=torch.float32, batch_size=4)
    expected = [recalibrated_loss(at_point(build, line.point(a)), data) for a in ALPHA]
    np.testing.assert_allclose(loss, expected, rtol=2e-5)


def test_statistics_are_those_of_the_first_split(build, data, ends):
    other = (normal(9, *data[0].shape[1:], seed=5), classes(9, count=3, seed=6))
    objective = tw.ModelObjective(ends[0], LOSS, {"train": data, "valid": other}, batch_size=4)
    theta = line_between(ends).point(0.4)
    expected = recalibrated_loss(at_point(build, theta), data, at=other)
    assert objective.evaluate(theta).loss["valid"] == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("mean", [1e4, 1e6])
def test_statistics_of_inputs_far_from_zero_do_not_cancel(mean):
    # The one-pass formula E x² − (E x)² loses every digit here in float32, and at 1e6 the mean
    # itself is rounded by a good part of the standard deviation.
    x = (mean + normal(500, 2, seed=7)).float()
    model = seeded(lambda: nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 1)), 1).float()
    objective = tw.ModelObjective(model, nn.MSELoss(), (x, torch.zeros(500, 1)), batch_size=64)
    tensors = objective.tensors_at(objective.space.flatten(model), None)
    exact = x.double()
    torch.testing.assert_close(tensors["0.running_mean"].double(), exact.mean(0), rtol=1e-7, atol=0)
    torch.testing.assert_close(tensors["0.running_var"].double(), exact.var(0), rtol=1e-6, atol=0)


def test_interpolate_and_stored_give_each_network_its_own_loss(data, ends):
    line = line_between(ends)
    for policy, model, where in [
        ("interpolate", ends[0], [0, 1]),
        ("stored", ends[0], [0]),
        ("stored", ends[1], [1]),
    ]:
        objective = tw.ModelObjective(model, LOSS, data, batch_norm=policy, batch_size=4)
        ends_of = tw.profile(objective, line, ALPHA).ends.loss["train"]
        expected = [own_loss(end, data) for end in ends]
        for place in where:
            assert ends_of[place] == pytest.approx(expected[place], rel=1e-12)


def test_interpolate_combines_the_statistics_with_the_weights(build, data, ends):
    line = line_between(ends)
    loss = profile_of(ends[0], data, line, batch_norm="interpolate", batch_size=4)
    for alpha, value in zip(ALPHA, loss, strict=True):
        model = at_point(build, line.point(alpha))
        tables = [end.state_dict() for end in ends]
        mixed = {
            name: (1 - alpha) * tables[0][name] + alpha * tables[1][name]
            for name in tables[0]
            if "running" in name
        }
        model.load_state_dict(mixed, strict=False)
        assert value == pytest.approx(own_loss(model, data), rel=1e-12)


def test_stored_uses_those_of_the_model_as_given(build, data, ends):
    line = line_between(ends)
    loss = profile_of(ends[1], data, line, batch_norm="stored", batch_size=4)
    for alpha, value in zip(ALPHA, loss, strict=True):
        model = at_point(build, line.point(alpha))
        statistics = {n: t for n, t in ends[1].state_dict().items() if "running" in n}
        model.load_state_dict(statistics, strict=False)
        assert value == pytest.approx(own_loss(model, data), rel=1e-12)


@pytest.mark.parametrize("batch_size", [4, 7, 14])
def test_batch_is_training_mode_on_the_fixed_batches(build, data, ends, batch_size):
    line, (x, y) = line_between(ends), data
    loss = profile_of(ends[0], data, line, batch_norm="batch", batch_size=batch_size)
    for alpha, value in zip(ALPHA, loss, strict=True):
        model = at_point(build, line.point(alpha)).train()
        parts = [(x[i : i + batch_size], y[i : i + batch_size]) for i in range(0, 14, batch_size)]
        with torch.no_grad():
            total = sum(float(LOSS(model(a), b)) * len(b) for a, b in parts)
        assert value == pytest.approx(total / 14, rel=1e-12)


def test_the_four_policies_differ_between_the_ends(data, ends):
    line = line_between(ends)
    curves = [
        profile_of(ends[0], data, line, batch_norm=policy, batch_size=4)
        for policy in ("recalibrate", "interpolate", "stored", "batch")
    ]
    middle = [curve[2] for curve in curves]
    assert np.abs(np.subtract.outer(middle, middle) + np.eye(4)).min() > 1e-4


@pytest.mark.parametrize("policy", ["stored", "interpolate", "batch"])
def test_derivatives_under_fixed_statistics(data, ends, policy):
    objective = tw.ModelObjective(ends[0], LOSS, data, batch_norm=policy, batch_size=7)
    theta = objective.space.flatten(ends[0])
    direction = normal(objective.space.size, seed=8)
    h = 1e-6

    def moved(step):
        # What `interpolate` needs rides on the point, so the step is made in place.
        place = objective.space.flatten(ends[0])
        return place.add_(step * direction)

    slope = (objective.value(moved(h)) - objective.value(moved(-h))) / (2 * h)
    assert float(objective.gradient(theta) @ direction) == pytest.approx(slope, rel=1e-6)
    change = (objective.gradient(moved(h)) - objective.gradient(moved(-h))) / (2 * h)
    torch.testing.assert_close(objective.hvp(theta, direction), change, rtol=1e-5, atol=1e-7)


def test_evaluating_changes_no_statistics(data, ends):
    before = [copy.deepcopy(model.state_dict()) for model in ends]
    line = line_between(ends)
    for policy in ("recalibrate", "interpolate", "stored", "batch"):
        objective = tw.ModelObjective(ends[0], LOSS, data, batch_norm=policy, batch_size=4)
        first = objective.evaluate(line.anchors[0], (line.buffers, [1.0, 0.0]))
        tw.profile(objective, line, ALPHA)
        again = objective.evaluate(line.anchors[0], (line.buffers, [1.0, 0.0]))
        assert first == again
    for model, table in zip(ends, before, strict=True):
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, table[name])


def test_a_negative_variance_gives_nan_rather_than_a_number(data, ends):
    with torch.no_grad():
        for name, tensor in ends[0].named_buffers():
            if "running_var" in name:
                tensor.mul_(1e-3)
    objective = tw.ModelObjective(ends[0], LOSS, data, batch_norm="interpolate")
    with pytest.warns(RuntimeWarning, match="is not finite at 1 of 2 points"):
        profile = tw.profile(objective, line_between(ends), [-1.0, 0.5])
    assert np.isnan(profile.loss["train"][0])


def test_buffers_may_be_given_as_models_or_tables(data, ends):
    space = tw.ParameterSpace.of(ends[0])
    points = [space.flatten(model).clone() for model in ends]  # a clone remembers nothing
    expected = profile_of(ends[0], data, line_between(ends), batch_norm="interpolate")
    wrapped = torch.compile(ends[1], backend="eager")
    for buffers in (ends, (ends[0].state_dict(), wrapped), [dict(e.named_buffers()) for e in ends]):
        line = tw.Line(*points, buffers=tuple(buffers))
        np.testing.assert_array_equal(
            profile_of(ends[0], data, line, batch_norm="interpolate"), expected
        )


def test_a_plane_of_directions_uses_the_statistics_of_its_centre(data, ends):
    objective = tw.ModelObjective(ends[0], LOSS, data, batch_norm="interpolate", batch_size=4)
    plane = tw.Plane.random(objective.space, objective.space.flatten(ends[0]), seed=3)
    surface = tw.surface(objective, plane, [0.0, 0.5], [-0.25, 0.0])
    assert surface.loss["train"][1, 0] == pytest.approx(own_loss(ends[0], data), rel=1e-12)
    stored = tw.ModelObjective(ends[0], LOSS, data, batch_norm="stored", batch_size=4)
    np.testing.assert_allclose(
        surface.loss["train"],
        tw.surface(stored, plane, [0.0, 0.5], [-0.25, 0.0]).loss["train"],
        rtol=1e-12,
    )


def test_layers_without_running_statistics_need_the_batch_policy():
    model = seeded(
        lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, track_running_stats=False)), 1
    )
    x, y = normal(12, 4, seed=9), classes(12, count=3, seed=10)
    objective = tw.ModelObjective(model, LOSS, (x, y), batch_size=6)
    theta = objective.space.flatten(model)
    assert objective.batch_norm is None
    with pytest.raises(tw.NonDeterministicObjectiveError, match=r"use batch_norm='batch'"):
        objective.check(theta)
    fixed = tw.ModelObjective(model, LOSS, (x, y), batch_size=6, batch_norm="batch")
    fixed.check(theta)
    with torch.no_grad():
        expected = np.mean([float(LOSS(model(x[i : i + 6]), y[i : i + 6])) for i in (0, 6)])
    assert fixed.value(theta) == pytest.approx(expected, rel=1e-12)


def test_models_without_such_layers_have_no_policy():
    for policy in (None, "recalibrate", "batch"):
        model = seeded(lambda: nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3)), 1)
        objective = tw.ModelObjective(
            model, LOSS, (normal(2, 4), classes(2, count=3)), batch_norm=policy
        )
        assert objective.batch_norm is None


def test_statistics_by_a_step_function(data, ends):
    def step(model, batch):
        x, y = batch
        return functional.cross_entropy(model(x), y, reduction="sum"), len(y)

    line = line_between(ends)
    objective = tw.ModelObjective(ends[0], step, data, batch_size=4)
    np.testing.assert_allclose(
        tw.profile(objective, line, ALPHA).loss["train"],
        profile_of(ends[0], data, line),
        rtol=1e-12,
    )


def test_a_single_example_keeps_a_finite_variance():
    model = seeded(lambda: nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3)), 1)
    objective = tw.ModelObjective(model, LOSS, (normal(1, 4), classes(1, count=3)))
    assert np.isfinite(objective.value(objective.space.flatten(model)))


class Twice(nn.Module):
    """One layer used twice in a pass."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.norm(self.norm(x).tanh()))


SMALL = (normal(6, 4, seed=11), classes(6, count=3, seed=12))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: tw.ModelObjective(seeded(dense, 1), LOSS, SMALL, batch_norm="frozen"),
            r"must be one of 'recalibrate', 'interpolate', 'stored', 'batch'; got 'frozen'. Leave",
        ),
        (
            lambda: tw.ModelObjective(
                seeded(dense, 1), LOSS, SMALL, batch_norm="batch", batch_size=5
            ),
            r"needs two examples a batch at least; split 'train' has a batch of one. Choose",
        ),
        (
            lambda: tw.ModelObjective(seeded(Twice, 1), LOSS, SMALL).value(torch.ones(23)),
            r"used once in a pass; 'norm' is used again. Choose 'stored' or 'batch'",
        ),
        (
            lambda: tw.ModelObjective(
                seeded(dense, 1), LOSS, SMALL, batch_norm="interpolate"
            ).value(tw.ParameterSpace.of(seeded(dense, 1)).flatten(seeded(dense, 1)).clone()),
            r"an anchor came without '1.running_mean'. Make the points with `space.flatten",
        ),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_layer_that_uses_itself_twice_may_keep_stored_statistics():
    model = seeded(Twice, 1)
    objective = tw.ModelObjective(model, LOSS, SMALL, batch_norm="stored")
    assert objective.value(objective.space.flatten(model)) == pytest.approx(
        own_loss(model, SMALL), rel=1e-12
    )
