"""Every strategy gives the numbers of the plain way, wherever a sweep is cut."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

import thalweg as tw
from cases import MODELS, Tied, classes, normal, seeded
from thalweg.anchors import combine, write_combination
from thalweg.evaluate.planning import choose
from thalweg.evaluate.resident import Resident
from thalweg.evaluate.stacked import StackedChain, Vectorised
from thalweg.evaluate.strategy import Plain
from thalweg.evaluate.tracing import Affine, dense_chain, folding_pairs

ALPHA = np.array([-0.75, 0.0, 0.3, 0.625, 1.0, 1.5, 2.25])


def sections(space, points):
    """Return sections through three points, with rows of weights off and on the anchors."""
    a, b, c = points
    plane = tw.Plane.through(a, b, c)
    around = tw.Plane.random(space, a, seed=5)
    curve = tw.BezierCurve([a, c, b])
    xy = np.stack([ALPHA, ALPHA[::-1] ** 2 - 0.5], axis=-1)
    return {
        "line": (tw.Line(a, b), tw.Line(a, b).weights(ALPHA)),
        "plane": (plane, plane.weights(xy)),
        "random": (around, around.weights(xy)),
        "curve": (curve, curve.weights(ALPHA)),
    }


def points(case):
    return [case.point(seed) for seed in (2, 3, 4)]


def losses(evaluations, split="train"):
    return np.array([each.loss[split] for each in evaluations])


def candidates(objective, section, weights):
    """Return every strategy that can be built for an objective, also those not chosen."""
    anchors = [objective.point(anchor) for anchor in section.anchors]
    model, names = objective.forward_pass.model, objective.space.names
    found = [Plain(objective, section, anchors), Resident(objective, section, anchors)]
    found.append(choose(objective, section, anchors, weights).strategy)
    found.append(Vectorised(objective, section, anchors, 3))
    trace = choose(objective, section, anchors, weights).trace
    if trace is not None and trace.first:
        found.append(Resident(objective, section, anchors, first=trace.first))
        chain = dense_chain(model, trace.first[0].name, names)
        if chain is not None:
            found += [StackedChain(objective, section, anchors, chain, k) for k in (1, 3, 16)]
    found.append(Resident(objective, section, anchors, channels_last=True, examples=3))
    return found


class TestSameNumbers:
    @pytest.mark.parametrize("kind", ["line", "plane", "random", "curve"])
    @pytest.mark.parametrize("name", sorted(MODELS))
    def test_as_the_plain_way(self, name, kind):
        case = MODELS[name]
        objective = case.objective(batch_size=4)
        section, weights = sections(objective.space, points(case))[kind]
        expected = None
        for strategy in candidates(objective, section, weights):
            if isinstance(strategy, Vectorised) and name in ("attention", "recurrent"):
                continue  # torch vectorises their operations slowly, and says so in a warning
            found = losses(strategy.evaluate(weights))
            expected = found if expected is None else expected
            np.testing.assert_allclose(found, expected, rtol=1e-12, err_msg=strategy.name)
        rows = [[float(w) for w in row] for row in weights]
        by_value = [objective.value(combine(section.anchors, row)) for row in rows]
        np.testing.assert_allclose(expected, by_value, rtol=1e-13)

    def test_of_every_split_metric_and_penalty(self):
        case = MODELS["perceptron"]
        x, y = case.data()
        objective = tw.ModelObjective(
            case.model(),
            nn.CrossEntropyLoss(),
            {"train": (x, y), "valid": (x[:3] * 2, y[:3])},
            metrics={"error": tw.error_rate, "norm": lambda output, target: output.norm(dim=-1)},
            penalty=lambda tensors: 0.01 * sum(t.square().sum() for t in tensors.values()),
            batch_size=5,
        )
        section, weights = sections(objective.space, points(case))["plane"]
        expected, *others = [s.evaluate(weights) for s in candidates(objective, section, weights)]
        assert len(others) >= 6
        for found in others:
            for right, other in zip(expected, found, strict=True):
                for split in ("train", "valid"):
                    assert other.loss[split] == pytest.approx(right.loss[split], rel=1e-12)
                    for metric in ("error", "norm"):
                        assert other.metrics[metric][split] == pytest.approx(
                            right.metrics[metric][split], rel=1e-12
                        )

    def test_ends_are_the_ends_to_the_bit(self):
        case = MODELS["convolution"]
        objective = case.objective(dtype=torch.float32)
        a, b, _ = (point.float() for point in points(case))
        line = tw.Line(a, b)
        at_ends = line.weights([0.0, 1.0])
        sequential = Resident(objective, line, [a, b])
        assert losses(sequential.evaluate(at_ends)).tolist() == [
            objective.value(a),
            objective.value(b),
        ]


class TestCuts:
    """The bits of a point do not depend on what is evaluated with it."""

    @pytest.mark.parametrize("name", ["perceptron", "convolution", "regression", "attention"])
    def test_wherever_a_sweep_is_cut(self, name):
        case = MODELS[name]
        objective = case.objective(dtype=torch.float32, batch_size=4)
        section, weights = sections(objective.space, [p.float() for p in points(case)])["plane"]
        for strategy in candidates(objective, section, weights):
            if isinstance(strategy, Vectorised) and name == "attention":
                continue
            whole = losses(strategy.evaluate(weights))
            single = [losses(strategy.evaluate(weights[i : i + 1]))[0] for i in range(len(weights))]
            assert whole.tolist() == single, strategy.name
            backwards = losses(strategy.evaluate(weights[::-1].copy()))[::-1]
            assert whole.tolist() == backwards.tolist(), strategy.name

    def test_in_a_stack_of_a_larger_network(self):
        model = seeded(lambda: nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 10)), 1)
        data = (normal(300, 64, seed=1), classes(300, count=10, seed=2))
        objective = tw.ModelObjective(model, nn.CrossEntropyLoss(), data, dtype=torch.float32)
        ends = [normal(objective.space.size, seed=s).float() * 0.2 for s in (3, 4)]
        line = tw.Line(*ends)
        weights = line.weights(np.linspace(-0.5, 1.5, 23))
        chosen = choose(objective, line, ends, weights)
        assert isinstance(chosen.strategy, StackedChain)
        whole = losses(chosen.strategy.evaluate(weights))
        parts = [losses(chosen.strategy.evaluate(weights[i : i + 5])) for i in range(0, 23, 5)]
        assert whole.tolist() == np.concatenate(parts).tolist()


class TestLeavesAlone:
    def test_the_private_model(self):
        model = normalised_network()
        objective = images_objective(model, batch_norm="recalibrate")
        line = images_line(objective)
        weights = line.weights(ALPHA)
        private = objective.forward_pass.model
        before = {name: t.clone() for name, t in private.state_dict().items()}
        forwards = [vars(m).get("forward") for m in private.modules()]
        chosen = choose(objective, line, list(line.anchors), weights)
        chosen.strategy.evaluate(weights)
        after = private.state_dict()
        assert all(torch.equal(after[name], t) for name, t in before.items())
        assert [vars(m).get("forward") for m in private.modules()] == forwards
        assert not any(p.requires_grad for p in private.parameters())
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in private.modules())

    def test_the_private_model_after_a_failure(self):
        class Fragile(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(3, 3)
                self.broken = False

            def forward(self, x):
                if self.broken:
                    raise ArithmeticError("broken on purpose")
                return self.layer(x)

        data = (normal(7, 3), classes(7, count=3))
        objective = tw.ModelObjective(Fragile().double(), nn.CrossEntropyLoss(), data)
        line = tw.Line(*(normal(12, seed=s) for s in (1, 2)))
        strategy = Resident(
            objective, line, list(line.anchors), first=[Affine("layer", fan_in=3, outputs=3)]
        )
        private = objective.forward_pass.model
        kept = private.layer.weight.data_ptr()
        private.broken = True
        with pytest.raises(ArithmeticError, match="broken on purpose"):
            strategy.evaluate(line.weights(ALPHA))
        private.broken = False
        assert private.layer.weight.data_ptr() == kept
        assert "forward" not in vars(private.layer)
        right = Plain(objective, line, line.anchors).evaluate(line.weights(ALPHA))
        found = strategy.evaluate(line.weights(ALPHA))
        np.testing.assert_allclose(losses(found), losses(right), rtol=1e-12)


def normalised_network(seed=1):
    def build():
        return nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Conv2d(4, 4, 3, padding=1),
            nn.BatchNorm2d(4, affine=False),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(4 * 36, 3),
            nn.BatchNorm1d(3),
        )

    model = seeded(build, seed)
    with torch.no_grad():
        for number, layer in enumerate(model):
            if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
                layer.running_mean.copy_(normal(layer.num_features, seed=number))
                layer.running_var.copy_(0.5 + normal(layer.num_features, seed=number + 9) ** 2)
    return model.eval()


def images_objective(model, **options):
    data = (1 + normal(10, 2, 6, 6, seed=3), classes(10, count=3, seed=4))
    return tw.ModelObjective(model, nn.CrossEntropyLoss(), data, batch_size=4, **options)


def images_line(objective):
    return tw.Line(*(objective.space.flatten(normalised_network(seed)) for seed in (2, 3)))


class TestNormalisation:
    @pytest.fixture(autouse=True)
    def _no_pass_is_small(self, monkeypatch):
        monkeypatch.setattr("thalweg.evaluate.planning._SMALL_PASS", 0)

    @pytest.mark.parametrize("policy", ["recalibrate", "interpolate", "stored", "batch"])
    def test_of_every_policy(self, policy):
        objective = images_objective(normalised_network(), batch_norm=policy)
        line = images_line(objective)
        weights = line.weights([-0.1, 0.0, 0.4, 1.0, 1.1])
        chosen = choose(objective, line, list(line.anchors), weights)
        assert chosen.strategy.name == ("plain" if policy == "batch" else "sequential")
        right = Plain(objective, line, line.anchors).evaluate(weights)
        np.testing.assert_allclose(
            losses(chosen.strategy.evaluate(weights)), losses(right), rtol=1e-11
        )

    def test_is_folded_where_one_layer_feeds_it(self):
        objective = images_objective(normalised_network(), batch_norm="stored")
        batch = objective.splits[0].batches[0]
        pairs = folding_pairs(
            objective.forward_pass.model,
            lambda: objective.forward_pass(batch, False),
            objective.space.names,
        )
        assert pairs == (("0", "1"), ("3", "4"), ("7", "8"))

    def test_is_refused_where_the_output_goes_elsewhere_too(self):
        class Leaky(nn.Module):
            """The convolution's output is used before and after normalisation."""

            def __init__(self):
                super().__init__()
                self.conv = nn.Conv2d(2, 3, 3)
                self.norm = nn.BatchNorm2d(3)

            def forward(self, x):
                h = self.conv(x)
                return (self.norm(h) + h).mean((2, 3))

        model = seeded(Leaky, 1)
        objective = images_objective(model.eval(), batch_norm="stored")
        line = tw.Line(*(normal(objective.space.size, seed=s) for s in (5, 6)))
        weights = line.weights(ALPHA)
        chosen = choose(objective, line, list(line.anchors), weights)
        assert any("its loss differs" in reason for reason in chosen.reasons)
        right = Plain(objective, line, line.anchors).evaluate(weights)
        np.testing.assert_allclose(
            losses(chosen.strategy.evaluate(weights)), losses(right), rtol=1e-12
        )


def first_layers(model, data, loss=None, **options):
    """Return the names of the layers whose products would be shared."""
    loss = nn.CrossEntropyLoss() if loss is None else loss
    objective = tw.ModelObjective(model.double(), loss, data, **options)
    line = tw.Line(*(normal(objective.space.size, seed=s) for s in (1, 2)))
    chosen = choose(objective, line, list(line.anchors), line.weights(ALPHA))
    return [] if chosen.trace is None else [each.name for each in chosen.trace.first]


TABLE = (normal(9, 6, seed=1), classes(9, count=3, seed=2))


class TestFirstLayers:
    def test_are_found_behind_what_has_no_parameters(self):
        model = nn.Sequential(nn.Unflatten(1, (1, 6)), nn.Flatten(), nn.Linear(6, 3))
        assert first_layers(model, TABLE) == ["2"]

    def test_in_two_branches(self):
        class Branches(nn.Module):
            def __init__(self):
                super().__init__()
                self.left, self.right = nn.Linear(4, 3), nn.Linear(2, 3)
                self.head = nn.Linear(3, 3)

            def forward(self, x):
                return self.head((self.left(x[:, :4]) + self.right(x[:, 4:])).tanh())

        assert first_layers(Branches(), TABLE) == ["left", "right"]

    def test_not_a_layer_that_is_called_twice(self):
        class Twins(nn.Module):
            def __init__(self):
                super().__init__()
                self.shared, self.head = nn.Linear(3, 4), nn.Linear(4, 3)

            def forward(self, x):
                return self.head(self.shared(x[:, :3]) * self.shared(x[:, 3:]))

        assert first_layers(Twins(), TABLE) == []

    def test_not_a_layer_that_a_metric_calls_again(self):
        def perturbed(model, batch):
            x, y = batch
            return functional.cross_entropy(model(x + 1), y, reduction="sum"), len(y)

        model = nn.Sequential(nn.Linear(6, 3))
        assert first_layers(model, TABLE) == ["0"]
        assert first_layers(model, TABLE, metrics={"shifted": perturbed}) == []

    def test_not_behind_units_that_are_dead_at_every_point(self):
        """The same bits at two points prove nothing: the layer's input does depend on θ."""

        class Dead(nn.Module):
            def __init__(self):
                super().__init__()
                self.first, self.second = nn.Linear(6, 4), nn.Linear(4, 3)

            def forward(self, x):
                return self.second(torch.relu(self.first(x) - 1e9))

        assert first_layers(Dead(), TABLE) == ["first"]

    def test_not_behind_a_dependence_without_gradient(self):
        class Chosen(nn.Module):
            def __init__(self):
                super().__init__()
                self.scores, self.head = nn.Linear(6, 6), nn.Linear(6, 3)

            def forward(self, x):
                picked = functional.one_hot(self.scores(x).argmax(1), 6)
                return self.head(picked.to(x))

        assert first_layers(Chosen(), TABLE) == ["scores"]

    def test_not_with_a_frozen_or_a_parametrised_weight(self):
        frozen = nn.Sequential(nn.Linear(6, 3))
        frozen[0].bias.requires_grad_(False)
        assert first_layers(frozen, TABLE) == []
        assert first_layers(nn.Sequential(weight_norm(nn.Linear(6, 3))), TABLE) == []

    def test_not_a_layer_of_the_users_own_kind(self):
        class Squared(nn.Linear):
            def forward(self, x):
                return functional.linear(x, self.weight**2, self.bias)

        assert first_layers(nn.Sequential(Squared(6, 3)), TABLE) == []

    def test_of_a_tied_matrix_are_right_for_its_other_use(self):
        model = seeded(Tied, 1)
        data = (normal(9, 3, seed=1), classes(9, count=3, seed=2))
        objective = tw.ModelObjective(model, nn.CrossEntropyLoss(), data)
        line = tw.Line(*(normal(objective.space.size, seed=s) for s in (1, 2)))
        weights = line.weights(ALPHA)
        reuse = Resident(
            objective, line, list(line.anchors), first=[Affine("encoder", fan_in=3, outputs=3)]
        )
        right = Plain(objective, line, line.anchors).evaluate(weights)
        np.testing.assert_allclose(losses(reuse.evaluate(weights)), losses(right), rtol=1e-12)

    def test_that_are_called_otherwise_for_another_batch_are_an_error(self):
        class Moody(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(6, 3)

            def forward(self, x):
                return self.layer(x) + (self.layer(2 * x) if bool(x[0, 0] > 5) else 0)

        x, y = TABLE
        x = x.clone()
        x[6, 0] = 6.0
        objective = tw.ModelObjective(Moody().double(), nn.CrossEntropyLoss(), (x, y), batch_size=3)
        line = tw.Line(*(normal(objective.space.size, seed=s) for s in (1, 2)))
        strategy = Resident(
            objective, line, list(line.anchors), first=[Affine("layer", fan_in=6, outputs=3)]
        )
        with pytest.raises(RuntimeError, match="does the same for every batch"):
            strategy.evaluate(line.weights(ALPHA))


class TestChains:
    def chain(self, model):
        return dense_chain(model.eval(), "0", [n for n, _ in model.named_parameters()])

    def test_of_layers_and_activations(self):
        model = nn.Sequential(
            nn.Linear(4, 5), nn.ReLU(), nn.Dropout(), nn.Linear(5, 6, bias=False), nn.GELU()
        )
        chain = self.chain(model)
        assert [s if isinstance(s, str) else type(s).__name__ for s in chain.stages] == [
            "ReLU",
            "Dropout",
            "3",
            "GELU",
        ]

    @pytest.mark.parametrize(
        "tail",
        [
            [nn.Softmax(dim=1)],
            [nn.LayerNorm(5)],
            [nn.PReLU()],
            [nn.BatchNorm1d(5)],
            [nn.Unflatten(1, (5, 1)), nn.Flatten()],
        ],
        ids=lambda tail: type(tail[0]).__name__,
    )
    def test_of_nothing_that_looks_at_more_than_one_feature(self, tail):
        assert self.chain(nn.Sequential(nn.Linear(4, 5), *tail, nn.Linear(5, 3))) is None

    def test_of_nothing_with_a_side_path(self):
        class Residual(nn.Module):
            def __init__(self):
                super().__init__()
                self.add_module("0", nn.Linear(4, 4))
                self.add_module("1", nn.Linear(4, 4))

            def forward(self, x):
                h = getattr(self, "0")(x)
                return h + getattr(self, "1")(torch.relu(h))

        assert self.chain(Residual()) is None

    def test_written_as_functions(self):
        class Written(nn.Module):
            def __init__(self):
                super().__init__()
                self.add_module("0", nn.Linear(4, 5))
                self.add_module("1", nn.Linear(5, 3))

            def forward(self, x):
                h = functional.leaky_relu(getattr(self, "0")(x), negative_slope=0.3)
                return getattr(self, "1")(h.tanh())

        model = seeded(Written, 1)
        objective = tw.ModelObjective(
            model, nn.CrossEntropyLoss(), (normal(9, 4), classes(9, count=3))
        )
        line = tw.Line(*(normal(objective.space.size, seed=s) for s in (1, 2)))
        weights = line.weights(ALPHA)
        chosen = choose(objective, line, list(line.anchors), weights)
        assert isinstance(chosen.strategy, StackedChain)
        right = Plain(objective, line, line.anchors).evaluate(weights)
        np.testing.assert_allclose(
            losses(chosen.strategy.evaluate(weights)), losses(right), rtol=1e-12
        )


@pytest.mark.parametrize("name", ["attention", "recurrent"])
def test_what_torch_vectorises_slowly_is_not_vectorised(name):
    objective = MODELS[name].objective()
    section, weights = sections(objective.space, points(MODELS[name]))["line"]
    chosen = choose(objective, section, list(section.anchors), weights)
    assert not isinstance(chosen.strategy, Vectorised)
    assert any(reason.startswith("Not vmap: it fails here") for reason in chosen.reasons)


def test_a_wrong_strategy_is_refused(monkeypatch):
    """The comparison with the plain way can fail: a lever that is wrong is not used."""
    case = MODELS["perceptron"]
    objective = case.objective()
    section, weights = sections(objective.space, points(case))["line"]
    anchors = list(section.anchors)
    assert isinstance(choose(objective, section, anchors, weights).strategy, StackedChain)
    honest = StackedChain._entries

    def wrong(self, batch):
        return honest(self, batch) * (1 + 1e-6)

    monkeypatch.setattr(StackedChain, "_entries", wrong)
    chosen = choose(objective, section, anchors, weights)
    assert not isinstance(chosen.strategy, StackedChain)
    assert any("Not stacked products: its loss differs" in reason for reason in chosen.reasons)


@pytest.mark.parametrize("weights", [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [-0.3, 1.3]])
def test_a_combination_in_place_is_that_of_sections(weights):
    anchors = [normal(50, seed=s).float() for s in (1, 2)]
    out = normal(50, seed=3).float()
    write_combination(out, anchors, weights)
    assert torch.equal(out, combine(anchors, weights))


def test_a_model_that_cannot_be_looked_into_is_evaluated_plainly():
    class Guarded(nn.Module):
        """Works on tensors without gradients only."""

        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(6, 3)

        def forward(self, x):
            return torch.from_numpy(self.layer(x).numpy()) + 0

    objective = tw.ModelObjective(
        copy.deepcopy(Guarded()).double(), nn.CrossEntropyLoss(), TABLE, dtype=torch.float64
    )
    line = tw.Line(*(normal(objective.space.size, seed=s) for s in (1, 2)))
    chosen = choose(objective, line, list(line.anchors), line.weights(ALPHA))
    assert isinstance(chosen.strategy, Plain)
    assert "cannot be looked into" in chosen.reasons[0]
