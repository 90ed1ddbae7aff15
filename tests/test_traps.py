"""Traps that tools for loss landscapes fall into, one test each.

Each test shows that our number is right, and, where that is cheap, that the wrong way gives
another number here, so that the test could fail.
"""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, TensorDataset

import thalweg as tw
from cases import EXAMPLES, MODELS, Attention, Tied, classes, full_batch, loop_loss, normal, seeded
from thalweg.directions import random_directions

LOSS = nn.CrossEntropyLoss()
CASE = MODELS["perceptron"]
THETA = CASE.point()


def normalised():
    return nn.Sequential(
        nn.Linear(3, 6),
        nn.BatchNorm1d(6),
        nn.Tanh(),
        nn.Linear(6, 4),
        nn.BatchNorm1d(4),
        nn.Linear(4, 3),
    )


@pytest.fixture
def ends():
    """Two networks whose running statistics differ."""
    models = [seeded(normalised, seed).train() for seed in (1, 2)]
    for shift, model in enumerate(models):
        for step in range(20):
            model(3 * shift + (1 + shift) * normal(16, 3, seed=100 + step))
    return [model.eval() for model in models]


def batches(size=4):
    x, y = CASE.data()
    return [(x[i : i + size], y[i : i + size]) for i in range(0, len(x), size)]


def test_trap_01_running_statistics_left_from_one_end(ends, classification):
    x, y = classification
    space = tw.ParameterSpace.of(ends[0])
    line = tw.Line(space.flatten(ends[0]), space.flatten(ends[1]))
    objective = tw.ModelObjective(ends[0], LOSS, (x, y), batch_norm="interpolate")
    own = [float(LOSS(model(x), y).detach()) for model in ends]
    assert tw.profile(objective, line, [0.5]).ends.loss["train"] == pytest.approx(own, rel=1e-12)
    left = copy.deepcopy(ends[0])
    left.load_state_dict(dict(ends[1].named_parameters()), strict=False)
    assert abs(float(LOSS(left(x), y).detach()) - own[1]) > 0.01


def test_trap_02_a_variance_moved_as_if_it_were_a_weight(ends, classification):
    x, y = classification
    model = ends[0]
    objective = tw.ModelObjective(model, LOSS, (x, y), batch_norm="interpolate")
    plane = tw.Plane.random(objective.space, objective.space.flatten(model), seed=3)
    grid = tw.Uniform(-3, 3, 5)
    assert np.isfinite(tw.surface(objective, plane, grid, grid).loss["train"]).all()
    moved = copy.deepcopy(model)
    moved[1].running_var -= 3 * normal(6, seed=4).abs() * moved[1].running_var.norm()
    assert not torch.isfinite(LOSS(moved(x), y))


def test_trap_03_statistics_that_depend_on_how_the_data_is_shared_out(ends, classification):
    x, y = classification
    theta = tw.ParameterSpace.of(ends[0]).flatten(ends[1])
    losses = {
        tw.ModelObjective(ends[0], LOSS, (x, y), batch_size=n).value(theta) for n in (2, 3, 11)
    }
    assert max(losses) - min(losses) < 1e-12
    hidden = ends[1][0](x).detach()
    shards = torch.stack([part.var(0) for part in (hidden[:4], hidden[4:])]).mean(0)
    assert float((shards - hidden.var(0)).abs().max()) > 0.01


def test_trap_04_the_mean_of_batch_means():
    model = CASE.at(THETA)
    wrong = np.mean([float(LOSS(model(x), y).detach()) for x, y in batches()])
    right = loop_loss(CASE, THETA)
    assert CASE.objective(batch_size=4).value(THETA) == pytest.approx(right, rel=1e-12)
    assert abs(wrong - right) > 1e-3


def test_trap_05_the_first_batch_in_place_of_the_data():
    model = CASE.at(THETA)
    x, y = batches()[0]
    value = CASE.objective(batch_size=4).value(THETA)
    assert value == pytest.approx(loop_loss(CASE, THETA), rel=1e-12)
    assert abs(float(LOSS(model(x), y).detach()) - value) > 1e-3


def test_trap_06_a_sum_over_batches_in_place_of_the_mean():
    vector = normal(CASE.objective().space.size, seed=5)
    whole = CASE.objective(batch_size=EXAMPLES).hvp(THETA, vector)
    single = CASE.objective(batch_size=1).hvp(THETA, vector)
    torch.testing.assert_close(single, whole, rtol=1e-11, atol=1e-13)
    hessian = torch.func.jacrev(torch.func.grad(full_batch(CASE)))(THETA)
    torch.testing.assert_close(single, hessian @ vector, rtol=1e-10, atol=1e-12)


def test_trap_07_a_sum_or_a_token_mean_multiplied_by_the_batch_size():
    case = MODELS["sequences"]
    theta = case.point()
    right = loop_loss(case, theta)
    for reduction in ("mean", "sum"):
        value = case.objective(reduction, batch_size=4).value(theta)
        assert value == pytest.approx(right, rel=1e-12)
    model, (x, y) = case.at(theta), case.data()
    mean = case.loss("mean").double()
    cuts = range(0, EXAMPLES, 4)
    parts = [
        (float(mean(model(x[i : i + 4]), y[i : i + 4]).detach()), len(x[i : i + 4])) for i in cuts
    ]
    assert abs(sum(value * n for value, n in parts) / EXAMPLES - right) > 1e-3


def test_trap_08_dropout_left_on(classification):
    x, y = classification
    build = lambda: nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 3))  # noqa: E731
    model = seeded(build, 1).train()
    objective = tw.ModelObjective(model, LOSS, (x, y))
    value = objective.value(objective.space.flatten(model))
    with tw.MonteCarlo(1).masks(0, 0, 0):
        left_on = float(LOSS(model(x), y).detach())
    assert value == pytest.approx(float(LOSS(model.eval()(x), y).detach()), rel=1e-12)
    assert abs(left_on - value) > 1e-2


class FunctionalDropout(nn.Module):
    """Dropout that `eval()` does not reach."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 3)

    def forward(self, x):
        return functional.dropout(self.head(x), 0.2)


def test_trap_09_functional_dropout_ignores_eval(classification):
    objective = tw.ModelObjective(seeded(FunctionalDropout, 1), LOSS, classification)
    line = tw.Line(torch.ones(12), torch.zeros(12))
    with pytest.raises(tw.NonDeterministicObjectiveError, match="look for functional dropout"):
        tw.profile(objective, line)
    fixed = tw.ModelObjective(
        seeded(FunctionalDropout, 1), LOSS, classification, dropout=tw.MonteCarlo(3)
    )
    assert len(set(tw.profile(fixed, line, [0.5]).samples["train"][:, 0])) == 3


class Jittered(Dataset):
    """Random augmentation."""

    def __init__(self, x, y):
        self.x, self.y = x, y
        self.source = torch.Generator().manual_seed(6)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        noise = torch.randn(3, generator=self.source, dtype=torch.float64)
        return self.x[index] + 0.1 * noise, self.y[index]


def test_trap_10_a_loader_that_shuffles_drops_or_augments(classification):
    pairs = TensorDataset(*classification)
    source = torch.Generator().manual_seed(7)
    for data, message in [
        (
            DataLoader(pairs, 4, shuffle=True, drop_last=True, generator=source),
            "Set drop_last=False",
        ),
        (Jittered(*classification), "changes from one reading to the next"),
        (DataLoader(Jittered(*classification), 4), "changes from one reading to the next"),
    ]:
        with pytest.raises(tw.NonDeterministicObjectiveError, match=message):
            tw.ModelObjective(CASE.model(), LOSS, data)
    shuffled = DataLoader(pairs, 4, shuffle=True, generator=source)
    value = tw.ModelObjective(CASE.model(), LOSS, shuffled).value(THETA)
    assert value == pytest.approx(loop_loss(CASE, THETA), rel=1e-12)


class RandomAt(nn.Module):
    """A model that draws random numbers for one example alone."""

    def __init__(self, chosen):
        super().__init__()
        self.net = CASE.model()
        self.chosen = chosen

    def forward(self, x):
        noise = torch.rand(len(x), 1, dtype=x.dtype)
        return self.net(x) * torch.where((x == self.chosen).all(1, keepdim=True), noise, 1.0)


@pytest.mark.parametrize("index", range(0, EXAMPLES, 2))
def test_trap_11_a_check_that_looks_at_one_batch(index, classification):
    x, y = classification
    objective = tw.ModelObjective(seeded(lambda: RandomAt(x[index]), 1), LOSS, (x, y), batch_size=2)
    with pytest.raises(tw.NonDeterministicObjectiveError, match="draws random numbers"):
        objective.check(THETA)


def test_trap_12_a_state_dict_is_an_alias(classification):
    model = CASE.model()
    objective = tw.ModelObjective(model, LOSS, classification)
    alias = model.state_dict()
    theta = objective.space.flatten(alias)
    before = objective.value(theta)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(-3)
    assert objective.value(theta) == before
    assert objective.value(objective.space.flatten(alias)) != pytest.approx(before, rel=1e-2)


def test_trap_13_the_model_changed_by_the_measurement(classification):
    model = CASE.model().train()
    model[0].bias.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    objective = tw.ModelObjective(model, LOSS, classification)
    theta = objective.space.flatten(model)
    tw.profile(objective, tw.Line(theta, theta + 1), [0.0, 0.5, 1.0])
    objective.gradient(theta)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert [p.requires_grad for p in model.parameters()] == [True, False, True, True]
    assert all(p.grad is None for p in model.parameters())
    assert model.training


def test_trap_14_frozen_parameters_are_moved_or_the_rest_frozen():
    case = MODELS["frozen"]
    start, end = case.point(2), case.point(3)
    assert len(start) == 16
    profile = tw.profile(case.objective(), tw.Line(start, end), [0.0, 0.4, 1.0])
    expected = [loop_loss(case, (1 - a) * start + a * end) for a in (0.0, 0.4, 1.0)]
    np.testing.assert_allclose(profile.loss["train"], expected, rtol=1e-12)
    assert torch.equal(case.at(end)[0].weight, case.model()[0].weight)


def test_trap_15_tied_weights_counted_by_name():
    model = seeded(Tied, 1)
    space = tw.ParameterSpace.of(model)
    assert space.size == 27
    assert sum(t.numel() for t in model.state_dict().values()) == 36
    case = MODELS["tied"]
    theta = case.point()
    objective = case.objective()
    step = torch.zeros(27, dtype=torch.float64)
    step[:9] = 0.5  # the shared matrix: both of its uses move
    moved = case.at(theta)
    with torch.no_grad():
        moved.encoder.weight.add_(0.5)
    x, y = case.data()
    assert moved.decoder.weight is moved.encoder.weight
    assert objective.value(theta + step) == pytest.approx(
        float(LOSS(moved(x), y).detach()), rel=1e-12
    )


def test_trap_16_parameters_without_a_gradient():
    case = MODELS["unused"]
    objective = case.objective()
    gradient = objective.gradient(case.point())
    assert gradient.shape == (19,)
    idle = objective.space.unflatten(gradient)["idle.weight"]
    assert torch.count_nonzero(idle) == 0
    assert objective.hvp(case.point(), torch.ones(19)).shape == (19,)


def test_trap_17_the_end_point_left_out():
    line = tw.Line(CASE.point(2), CASE.point(3))
    profile = tw.profile(CASE.objective(), line, tw.Uniform(0, 1, 5))
    assert profile.alpha.tolist() == [0, 0.25, 0.5, 0.75, 1]
    for place, theta in ((0, line.start), (-1, line.end)):
        assert profile.loss["train"][place] == pytest.approx(loop_loss(CASE, theta), rel=1e-12)


PLANE = tw.Plane.through(CASE.point(2), CASE.point(3), CASE.point(4))
X, Y = np.array([-0.4, 0.1, 0.3, 1.1]), np.array([0.0, 0.2, 0.9])


def test_trap_18_every_second_row_shifted():
    loss = tw.surface(CASE.objective(), PLANE, X, Y).loss["train"]
    for i, y in enumerate(Y):
        row = [loop_loss(CASE, PLANE.point(x, y)) for x in X]
        np.testing.assert_allclose(loss[i], row, rtol=1e-12)
        assert np.abs(np.diff(row)).min() > 1e-3


def test_trap_19_coordinates_that_are_not_those_evaluated():
    surface = tw.surface(CASE.objective(), PLANE, tw.Uniform(-1, 1, 4), tw.Uniform(-1, 1, 3))
    assert surface.loss["train"].shape == (3, 4)
    np.testing.assert_allclose(surface.x, [-1, -1 / 3, 1 / 3, 1], rtol=1e-15)
    for i, j in ((0, 3), (2, 0), (1, 2)):
        theta = PLANE.point(surface.x[j], surface.y[i])
        assert surface.loss["train"][i, j] == pytest.approx(loop_loss(CASE, theta), rel=1e-12)


def test_trap_20_walking_the_line_by_repeated_addition():
    start, end = (1 + normal(500, seed=s, dtype=torch.float32) for s in (8, 9))
    exact = end.double()
    line = tw.Line(start, end)
    walked, step = start.clone(), (end - start) / 1000
    for _ in range(1000):
        walked += step
    assert torch.equal(line.point(1.0), end)
    middle = 0.001 * start.double() + 0.999 * exact
    direct = float((line.point(0.999).double() - middle).abs().max())
    drift = float((walked.double() - exact).abs().max())
    assert direct < 1e-6
    assert drift > 10 * direct


def test_trap_21_filter_normalisation_of_biases_or_copied_weights(ends):
    model = ends[0]
    nn.init.zeros_(model[0].bias)
    space = tw.ParameterSpace.of(model)
    theta = space.flatten(model)
    for biases in (False, True):
        (direction,) = random_directions(space, theta, 1, biases=biases)
        assert torch.isfinite(direction).all()
        tensors = space.unflatten(direction)
        assert torch.count_nonzero(tensors["0.bias"]) == 0
        assert bool(tensors["1.weight"].any()) == biases
        cosine = float(direction @ theta / direction.norm() / theta.norm())
        assert abs(cosine) < 0.9


def flat_filters():
    """Return the space of one matrix of 40 rows, and a point with rows of different lengths."""
    space = tw.ParameterSpace.of(nn.Linear(5, 40, bias=False))
    rows = torch.logspace(-2, 2, 40, dtype=torch.float64)[:, None] * normal(40, 5, seed=10)
    return space, rows.flatten()


def cosine(u, v):
    return float(u @ v / u.norm() / v.norm())


def test_trap_22_orthogonal_first_and_then_normalised():
    space, theta = flat_filters()
    assert abs(cosine(*random_directions(space, theta, 2, seed=11))) < 1e-14
    u, v = normal(2, 200, seed=11)
    v = v - (u @ v) / (u @ u) * u
    norms = theta.view(40, 5).norm(dim=1, keepdim=True)
    u, v = (
        (d.view(40, 5) / d.view(40, 5).norm(dim=1, keepdim=True) * norms).flatten() for d in (u, v)
    )
    assert abs(cosine(u, v)) > 1e-3


def test_trap_23_gram_schmidt_without_the_norm():
    space, theta = flat_filters()
    for normalize in ("filter", "layer", "none"):
        u, v = random_directions(space, theta, 2, normalize=normalize, seed=12)
        assert abs(cosine(u, v)) < 1e-13
    u, v = normal(2, 200, seed=12)
    assert abs(cosine(u, v - (u @ v) * u)) > 0.5


def test_trap_24_directions_drawn_from_zero_to_one():
    space = tw.ParameterSpace.plain(2000)
    (direction,) = random_directions(space, torch.ones(2000), 1, normalize="none", seed=13)
    shares = [
        float((drawn > 0).double().mean())
        for drawn in (direction, torch.rand(2000, generator=torch.Generator().manual_seed(13)))
    ]
    assert abs(shares[0] - 0.5) < 4 * 0.5 / 2000**0.5
    assert shares[1] > 0.99


def test_trap_25_points_drawn_on_a_plane_that_they_are_not_on():
    surface = tw.surface(CASE.objective(), PLANE, [0.0, 1.0], [0.0, 1.0])
    for (x, y), anchor in zip(surface.anchors, PLANE.anchors, strict=True):
        assert float((PLANE.point(x, y) - anchor).norm()) == 0
        drawn = surface.loss["train"][int(y), int(x)]
        assert drawn == pytest.approx(loop_loss(CASE, anchor), rel=1e-12)


@pytest.mark.filterwarnings("ignore:The loss on 'train' is not finite:RuntimeWarning")
def test_trap_26_a_surface_edited_for_beauty():
    objective = tw.FunctionObjective(lambda t: t[0].log() - 1 / t[1].clamp(min=0), 2)
    plane = tw.Plane.through([0.0, 0.0], [1.0, 0.0], [0.0, 1.0])
    loss = tw.surface(objective, plane, [-1.0, 0.5], [-1.0, 0.0, 2.0]).loss["train"]
    np.testing.assert_array_equal(np.isnan(loss[:, 0]), True)
    assert loss[0, 1] == loss[1, 1] == -np.inf
    assert loss[2, 1] == np.log(0.5) - 0.5


def test_trap_27_unknown_batches_skipped_in_silence():
    texts = [("some", "words"), ("more", "words")]
    for data, error in [
        (DataLoader(texts, batch_size=1), TypeError),
        ([object()], TypeError),
        ({"train": 3.5}, TypeError),
        ((), TypeError),
    ]:
        with pytest.raises(error, match=r"must hold tensors|Data is a tensor"):
            tw.ModelObjective(CASE.model(), LOSS, data)
    with pytest.raises(ValueError, match="one example at least"):
        tw.ModelObjective(CASE.model(), LOSS, (torch.empty(0, 3), classes(0, count=3)))


def test_trap_34_fused_attention_has_no_second_derivative():
    case = MODELS["attention"]
    assert case.build is Attention
    theta, vector = case.point(), normal(95, seed=14)
    point = theta.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(full_batch(case)(point), point, create_graph=True)
    with pytest.raises(RuntimeError, match=r"derivative for .* is not implemented"):
        torch.autograd.grad(gradient @ vector, point)
    objective, h = case.objective(), 1e-5
    change = objective.gradient(theta + h * vector) - objective.gradient(theta - h * vector)
    torch.testing.assert_close(objective.hvp(theta, vector), change / (2 * h), rtol=1e-6, atol=1e-9)
