"""Value and slope in one pass: closed forms, gradients, central differences, both modes."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import thalweg as tw
from cases import FUNCTIONS, MODELS, classes, normal, perceptron, seeded
from thalweg.errors import ParameterMismatchError
from thalweg.evaluate import along_tangent, sweep
from thalweg.evaluate.along_tangent import SlopeOfModel, choose_along_tangent
from thalweg.evaluate.strategy import Plain
from thalweg.objectives.batch_norm import combined
from thalweg.objectives.objective import Evaluation, Objective
from thalweg.objectives.tangents import moving_statistics

ALPHA = np.array([-0.4, 0.15, 0.5, 0.85, 1.3])
MODES = ["forward", "reverse"]
STEP = 1e-5


def profile(objective, section, grid=ALPHA, **options):
    return tw.profile(objective, section, grid, slope=True, progress=False, **options)


def differences(objective, section, split="train", at=ALPHA):
    """Return central differences of the plain profile."""
    grid = np.stack([at - STEP, at + STEP], axis=1)
    plain = tw.profile(objective, section, grid.ravel(), progress=False)
    values = plain.loss[split].reshape(grid.shape)
    return (values[:, 1] - values[:, 0]) / (2 * STEP)


def slopes_in(mode, objective, section, at=ALPHA, split="train"):
    """Return slopes in a mode of one's choice."""
    anchors = [objective.point(anchor) for anchor in section.anchors]
    rows = np.hstack([section.weights(at), section.slopes(at)])
    found = SlopeOfModel(objective, section, anchors, mode).evaluate(rows)
    return np.array([each.slopes[split] for each in found])


def curves(a, b, c):
    return {
        "line": tw.Line(a, b),
        "bezier": tw.BezierCurve([a, c, b]),
        "polyline": tw.Polyline([a, c, b], knots=[-0.2, 0.3, 1.1]),
    }


class Square(torch.autograd.Function):
    """An operator without a formula for forward mode."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient * ctx.saved_tensors[0]


class Squares(nn.Module):
    def forward(self, x):
        return Square.apply(x)


def squares():
    return nn.Sequential(nn.Linear(3, 4), Squares(), nn.Linear(4, 3))


class TestFunctions:
    @pytest.mark.parametrize("name", FUNCTIONS)
    def test_as_the_gradient_by_hand(self, name):
        known = FUNCTIONS[name]
        found = profile(known.objective, known.line)
        step = known.end - known.start
        points = [known.start + a * step for a in ALPHA]
        right = [known.gradient(point) @ step for point in points]
        np.testing.assert_allclose(found.slope["train"], right, rtol=1e-11, atol=1e-12)
        plain = tw.profile(known.objective, known.line, ALPHA, progress=False)
        np.testing.assert_allclose(found.loss["train"], plain.loss["train"], rtol=1e-14)
        assert found.provenance.objective["slope"] == "forward mode"

    @pytest.mark.parametrize("kind", ["bezier", "polyline"])
    def test_along_curves(self, kind):
        known = FUNCTIONS["chain-5"]
        a, b = torch.from_numpy(known.start), torch.from_numpy(known.end)
        section = curves(a, b, normal(5, seed=3))[kind]
        found = profile(known.objective, section)
        np.testing.assert_allclose(
            found.slope["train"], differences(known.objective, section), rtol=1e-8, atol=1e-8
        )

    def test_without_forward_mode_by_the_gradient(self):
        objective = tw.FunctionObjective(lambda t: Square.apply(t).sum() + t[0], size=2)
        line = tw.Line(torch.tensor([1.0, -2.0]), torch.tensor([3.0, 1.0]))
        found = profile(objective, line)
        # (1 + 2α)² + (−2 + 3α)² + (1 + 2α)
        np.testing.assert_allclose(found.slope["train"], 26 * ALPHA - 6, rtol=1e-13)
        assert found.provenance.objective["slope"] == "reverse mode"

    def test_a_formula_that_leaves_torch_is_refused(self):
        objective = tw.FunctionObjective(lambda t: float(t.square().sum()), size=1)
        line = tw.Line(torch.tensor([1.0]), torch.tensor([2.0]))
        with pytest.raises(TypeError, match="must return a tensor where derivatives"):
            profile(objective, line)

    def test_a_constant_has_none(self):
        objective = tw.FunctionObjective(lambda t: torch.tensor(3.0).double(), size=1)
        found = profile(objective, tw.Line(torch.tensor([1.0]), torch.tensor([2.0])))
        assert found.slope["train"].tolist() == [0.0] * len(ALPHA)

    def test_a_chain_rule_in_the_coordinate(self):
        """A symmetry: halving the knots doubles the slopes."""
        known = FUNCTIONS["chain-3"]
        points = [torch.from_numpy(known.start), torch.from_numpy(known.end), normal(3, seed=5)]
        wide = profile(known.objective, tw.Polyline(points), [0.25, 1.5])
        narrow = profile(known.objective, tw.Polyline(points, knots=[0, 0.5, 1]), [0.125, 0.75])
        np.testing.assert_array_equal(narrow.slope["train"], 2 * wide.slope["train"])


class TestModels:
    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("kind", ["line", "bezier", "polyline"])
    def test_as_the_gradient_times_the_tangent(self, case, kind, mode):
        objective = case.objective(batch_size=4)
        section = curves(*[case.point(seed) for seed in (2, 3, 4)])[kind]
        found = slopes_in(mode, objective, section)
        right = []
        for weights, rates in zip(section.weights(ALPHA), section.slopes(ALPHA), strict=True):
            theta, tangent = (
                sum(float(w) * anchor for w, anchor in zip(row, section.anchors, strict=True))
                for row in (weights, rates)
            )
            right.append(float(case.objective().gradient(theta) @ tangent))
        np.testing.assert_allclose(found, right, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(found, differences(objective, section), rtol=1e-6, atol=1e-8)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("mode", MODES)
    def test_values_are_the_plain_ones_to_the_bit(self, case, mode, dtype):
        if case.name == "recurrent" and mode == "forward" and dtype == torch.float32:
            pytest.skip("the fused LSTM of the processor has no forward mode")
        objective = case.objective(batch_size=4, dtype=dtype)
        line = tw.Line(case.point(2, dtype), case.point(3, dtype))
        anchors = list(line.anchors)
        rows = np.hstack([line.weights(ALPHA), line.slopes(ALPHA)])
        plain = Plain(objective, line, anchors).evaluate(line.weights(ALPHA))
        found = SlopeOfModel(objective, line, anchors, mode).evaluate(rows)
        for before, after in zip(plain, found, strict=True):
            if case.name == "attention" and mode == "forward":  # which is taken apart
                rounding = 4 * torch.finfo(dtype).eps
                assert after.loss["train"] == pytest.approx(before.loss["train"], rel=rounding)
            else:
                assert after.loss == before.loss

    def test_of_every_split_with_metrics_and_penalty(self):
        case = MODELS["tied"]
        x, y = case.data()

        def decay(tensors):
            return 0.5 * sum((t**3).sum() for t in tensors.values())

        objective = tw.ModelObjective(
            case.model(),
            nn.CrossEntropyLoss(),
            {"train": (x, y), "valid": (2 * x[:5], y[:5])},
            metrics={"error": tw.error_rate},
            penalty=decay,
            batch_size=3,
        )
        line = tw.Line(case.point(2), case.point(3))
        found = profile(objective, line)
        assert list(found.slope) == ["train", "valid"]
        plain = tw.profile(objective, line, ALPHA, progress=False)
        for split in ("train", "valid"):
            right = differences(objective, line, split)
            np.testing.assert_allclose(found.slope[split], right, rtol=1e-7, atol=1e-8)
            for mode in MODES:
                other = slopes_in(mode, objective, line, split=split)
                np.testing.assert_allclose(other, found.slope[split], rtol=1e-12)
            np.testing.assert_array_equal(
                found.metrics["error"][split], plain.metrics["error"][split]
            )

    @pytest.mark.parametrize("mode", MODES)
    def test_the_count_may_move_as_well(self, mode):
        """A mean whose weights depend on θ: the quotient rule."""

        def weighted(output, target):
            weights = output[:, 0].sigmoid()
            terms = functional.cross_entropy(output, target, reduction="none")
            return (weights * terms).sum(), weights.sum()

        case = MODELS["perceptron"]
        objective = tw.ModelObjective(case.model(), weighted, case.data(), batch_size=4)
        line = tw.Line(case.point(2), case.point(3))
        np.testing.assert_allclose(
            slopes_in(mode, objective, line), differences(objective, line), rtol=1e-7, atol=1e-9
        )

    def test_in_float32_to_its_rounding(self):
        case = MODELS["convolution"]
        line = tw.Line(case.point(2), case.point(3))
        right = profile(case.objective(), line).slope["train"]
        found = profile(case.objective(dtype=torch.float32, batch_size=4), line)
        np.testing.assert_allclose(found.slope["train"], right, rtol=1e-4, atol=1e-6)

    def test_masks_are_the_same(self):
        def dropped():
            return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(0.4), nn.Linear(8, 3))

        objective = tw.ModelObjective(
            seeded(dropped, 1),
            nn.CrossEntropyLoss(),
            MODELS["perceptron"].data(),
            dropout=tw.MonteCarlo(samples=3, seed=8),
            batch_size=4,
            penalty=lambda tensors: 0.1 * sum(t.square().sum() for t in tensors.values()),
        )
        size = objective.space.size
        line = tw.Line(normal(size, seed=21), normal(size, seed=22))
        right = differences(objective, line)
        for mode in MODES:
            found = slopes_in(mode, objective, line)
            np.testing.assert_allclose(found, right, rtol=1e-7, atol=1e-8)
        plain = tw.profile(objective, line, ALPHA, progress=False)
        np.testing.assert_array_equal(
            profile(objective, line).samples["train"], plain.samples["train"]
        )

    def test_a_loss_that_leaves_torch_is_refused(self):
        case = MODELS["perceptron"]
        objective = tw.ModelObjective(
            case.model(), lambda output, y: functional.cross_entropy(output, y).item(), case.data()
        )
        with pytest.raises(TypeError, match="must return a tensor where derivatives"):
            profile(objective, tw.Line(case.point(2), case.point(3)))


class TestReverseMode:
    def test_where_an_operator_has_no_forward_mode(self):
        objective = tw.ModelObjective(
            seeded(squares, 1), nn.CrossEntropyLoss(), MODELS["perceptron"].data(), batch_size=4
        )
        size = objective.space.size
        line = tw.Line(normal(size, seed=21), normal(size, seed=22))
        found = profile(objective, line)
        assert found.provenance.objective["slope"] == "reverse mode"
        np.testing.assert_allclose(
            found.slope["train"], differences(objective, line), rtol=1e-7, atol=1e-8
        )
        told = tw.plan(objective, line, ALPHA, slope=True)
        assert told.strategy == "value and slope, reverse mode"
        assert "You must implement the jvp function" in told.reasons[0]

    def test_where_a_metric_has_none(self):
        case = MODELS["perceptron"]
        objective = case.objective(
            metrics={"size": lambda output, y: Square.apply(output).sum(1)}, batch_size=4
        )
        line = tw.Line(case.point(2), case.point(3))
        found = profile(objective, line)
        assert found.provenance.objective["slope"] == "reverse mode"
        np.testing.assert_allclose(
            found.slope["train"], profile(case.objective(), line).slope["train"], rtol=1e-12
        )
        assert np.all(found.metrics["size"]["train"] > 0)

    def test_of_the_lstm_in_float32(self):
        """The fused LSTM of the processor has no forward mode in every build: either will do."""
        case = MODELS["recurrent"]
        line = tw.Line(case.point(2), case.point(3))
        found = profile(case.objective(dtype=torch.float32), line)
        right = profile(case.objective(), line)
        np.testing.assert_allclose(found.slope["train"], right.slope["train"], rtol=1e-4, atol=1e-6)

    def test_of_another_kind_of_objective(self):
        class Doubled(Objective):
            """Twice the cost of a formula."""

            def __init__(self, inner):
                self.inner = inner
                self.space, self.dtype, self.device = inner.space, inner.dtype, inner.device

            def evaluate(self, theta, anchor_buffers=None):
                return Evaluation({"train": self.value(theta)})

            def value(self, theta):
                return 2 * self.inner.value(theta)

            def gradient(self, theta):
                return 2 * self.inner.gradient(theta)

            def hvp(self, theta, vector):
                return 2 * self.inner.hvp(theta, vector)

            def check(self, theta):
                pass

            def describe(self):
                return {}

        known = FUNCTIONS["chain-3"]
        found = profile(Doubled(known.objective), known.line)
        right = profile(known.objective, known.line)
        np.testing.assert_allclose(found.slope["train"], 2 * right.slope["train"], rtol=1e-13)
        assert found.provenance.objective["slope"] == "reverse mode"


class OwnNorm(nn.BatchNorm1d):
    def forward(self, x):
        return super().forward(x) * 2


class TestNormalisation:
    """Running statistics move with α; their derivative counts."""

    @staticmethod
    def build():
        return nn.Sequential(
            nn.Conv2d(2, 3, 2),
            nn.BatchNorm2d(3),
            nn.Tanh(),
            nn.Flatten(),
            nn.BatchNorm1d(12, affine=False),
            nn.Linear(12, 4),
            nn.BatchNorm1d(4),
            nn.Linear(4, 3),
        )

    DATA = (0.5 + 2 * normal(14, 2, 3, 3, seed=3), classes(14, count=3, seed=4))

    def trained(self, seed, build=None):
        model = seeded(build or self.build, seed).train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for step in range(3):
            optimizer.zero_grad()
            x, y = (part[step : step + 9] for part in self.DATA)
            functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        return model

    def problem(self, policy, build=None, **options):
        first, second = (self.trained(seed, build) for seed in (1, 2))
        objective = tw.ModelObjective(
            first,
            nn.CrossEntropyLoss(),
            {"train": self.DATA, "valid": tuple(part[:5] for part in self.DATA)},
            batch_norm=policy,
            **options,
        )
        return objective, tw.Line(objective.space.flatten(first), objective.space.flatten(second))

    @pytest.mark.parametrize("batch_size", [5, 14])
    @pytest.mark.parametrize("policy", ["recalibrate", "interpolate", "stored", "batch"])
    def test_as_central_differences(self, policy, batch_size):
        objective, line = self.problem(policy, batch_size=batch_size)
        at = np.array([0.1, 0.45, 0.9])
        found = profile(objective, line, at)
        assert found.provenance.objective["slope"] == "forward mode"
        for split in ("train", "valid"):
            right = differences(objective, line, split, at)
            np.testing.assert_allclose(found.slope[split], right, rtol=1e-6, atol=1e-8)
            if policy != "recalibrate":
                np.testing.assert_allclose(
                    slopes_in("reverse", objective, line, at, split), right, rtol=1e-6, atol=1e-8
                )

    @pytest.mark.parametrize("policy", ["recalibrate", "interpolate", "stored", "batch"])
    def test_values_are_the_plain_ones_to_the_bit(self, policy):
        objective, line = self.problem(policy, batch_size=5)
        anchors = list(line.anchors)
        weights = line.weights([0.0, 0.35, 1.0])
        rows = np.hstack([weights, line.slopes([0.0, 0.35, 1.0])])
        plain = Plain(objective, line, anchors).evaluate(weights)
        found = SlopeOfModel(objective, line, anchors, "forward").evaluate(rows)
        assert [each.loss for each in found] == [each.loss for each in plain]

    def test_layer_by_layer_where_the_split_is_no_single_batch(self, monkeypatch):
        objective, line = self.problem("recalibrate", batch_size=5)
        at = np.array([0.1, 0.45, 0.9])
        right = profile(objective, line, at).slope["train"]
        monkeypatch.setattr("thalweg.objectives.batch_norm._ONE_PASS_BYTES", 0)
        found = profile(objective, line, at).slope["train"]
        np.testing.assert_allclose(found, right, rtol=1e-11)

    @pytest.mark.parametrize("policy", ["recalibrate", "interpolate"])
    def test_statistics_held_still_would_be_noticed(self, policy, monkeypatch):
        """A negative control."""
        objective, line = self.problem(policy)
        at = np.array([0.1, 0.45, 0.9])
        recalibrated = objective.recalibrated

        def still(*given):
            rates = combined(*given)
            return {name: torch.zeros_like(rate) for name, rate in rates.items()}

        def held(tensors):
            return {name: tensor.detach() for name, tensor in recalibrated(tensors).items()}

        monkeypatch.setattr(along_tangent, "combined", still)
        monkeypatch.setattr(objective, "recalibrated", held)
        found = profile(objective, line, at).slope["train"]
        assert not np.allclose(found, differences(objective, line, at=at), rtol=1e-2)

    def test_recomputed_statistics_need_forward_mode(self):
        def build():
            return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(18), Squares(), nn.Linear(18, 3))

        objective, line = self.problem("recalibrate", build)
        for ask in (profile, lambda *given: tw.plan(*given, slope=True)):
            with pytest.raises(ValueError, match=r"need forward-mode .* Use batch_norm='interpol"):
                ask(objective, line)
        objective, line = self.problem("interpolate", build)
        found = profile(objective, line, [0.3, 0.6])
        assert found.provenance.objective["slope"] == "reverse mode"
        right = differences(objective, line, at=found.alpha)
        np.testing.assert_allclose(found.slope["train"], right, rtol=1e-6)

    def test_layers_that_normalise_in_their_own_way_are_refused(self):
        def build():
            return nn.Sequential(nn.Flatten(), OwnNorm(18), nn.Linear(18, 3))

        with pytest.raises(ValueError, match="need batch-normalisation layers of torch"):
            profile(*self.problem("interpolate", build), [0.3, 0.6])
        found = profile(*self.problem("stored", build), [0.3, 0.6])
        assert np.all(np.isfinite(found.slope["train"]))

    def test_everything_is_put_back(self):
        objective, line = self.problem("interpolate")
        profile(objective, line, [0.3])
        layers = objective.normalisation_layers
        assert not any("forward" in vars(layer) for layer in layers.values())
        with pytest.raises(RuntimeError, match="on purpose"), moving_statistics(layers):
            raise RuntimeError("on purpose")
        assert not any("forward" in vars(layer) for layer in layers.values())
        assert torch.backends.mha.get_fastpath_enabled()


class TestKept:
    def problem(self):
        case = MODELS["perceptron"]
        x, y = case.data()
        objective = tw.ModelObjective(
            case.model(),
            nn.CrossEntropyLoss(),
            {"train": (x, y), "valid": (x[:4], y[:4])},
            dtype=torch.float32,
        )
        return objective, tw.Line(case.point(2), case.point(3))

    def test_points_come_back_with_the_same_bits(self, tmp_path, monkeypatch):
        objective, line = self.problem()
        right = profile(objective, line, tw.Uniform(0, 1, 9))
        profile(objective, line, tw.Uniform(0, 1, 5), keep=tmp_path)
        evaluated = []
        usual = SlopeOfModel.evaluate

        def counted(self, weights):
            evaluated.append(len(weights))
            return usual(self, weights)

        monkeypatch.setattr(SlopeOfModel, "evaluate", counted)
        found = profile(objective, line, tw.Uniform(0, 1, 9), keep=tmp_path)
        assert sum(evaluated) == 4
        for split in ("train", "valid"):
            np.testing.assert_array_equal(found.loss[split], right.loss[split])
            np.testing.assert_array_equal(found.slope[split], right.slope[split])

    def test_points_without_slopes_are_others(self, tmp_path):
        objective, line = self.problem()
        plain = tw.profile(objective, line, [0.25, 0.5], keep=tmp_path, progress=False)
        found = profile(objective, line, [0.25, 0.5], keep=tmp_path)
        assert len(list(tmp_path.glob("*.jsonl"))) == 2
        assert not plain.slope
        assert len(found.slope["valid"]) == 2

    def test_one_place_passed_at_two_speeds(self, tmp_path):
        objective, _ = self.problem()
        points = [MODELS["perceptron"].point(seed) for seed in (2, 3)]
        slow = profile(objective, tw.Polyline(points, knots=[0, 2]), [0.5], keep=tmp_path)
        fast = profile(objective, tw.Polyline(points, knots=[0, 1]), [0.25], keep=tmp_path)
        assert slow.loss["train"] == fast.loss["train"]
        assert 2 * slow.slope["train"] == fast.slope["train"]


class TestKnown:
    def test_slopes_are_taken_over(self, monkeypatch):
        case = MODELS["perceptron"]
        objective, line = case.objective(), tw.Line(case.point(2), case.point(3))
        first = profile(objective, line, tw.Uniform(0, 1, 5))
        right = profile(objective, line, tw.Uniform(0, 1, 9))
        rows = []
        usual = SlopeOfModel.evaluate
        monkeypatch.setattr(
            SlopeOfModel, "evaluate", lambda self, w: rows.extend(w) or usual(self, w)
        )
        second = profile(objective, line, tw.Uniform(0, 1, 9), known=first)
        assert len(rows) == 4
        np.testing.assert_array_equal(second.slope["train"], right.slope["train"])

    def test_a_profile_without_slopes_gives_its_coordinates(self):
        case = MODELS["perceptron"]
        objective, line = case.objective(), tw.Line(case.point(2), case.point(3))
        first = tw.profile(objective, line, [0.2, 0.6], progress=False)
        second = profile(objective, line, [0.4], known=first)
        assert second.alpha.tolist() == [0.2, 0.4, 0.6]
        right = profile(objective, line, [0.2, 0.4, 0.6])
        np.testing.assert_array_equal(second.slope["train"], right.slope["train"])
        third = tw.profile(objective, line, [0.5], known=second, progress=False)
        assert not third.slope
        assert third.alpha.tolist() == [0.2, 0.4, 0.5, 0.6]


def test_a_plan_says_what_is_done():
    case = MODELS["perceptron"]
    line = tw.Line(case.point(2), case.point(3))
    told = tw.plan(case.objective(), line, tw.Uniform(0, 1, 11), slope=True)
    assert told.strategy == "value and slope, forward mode"
    assert told.points == 11
    assert "dual numbers" in told.reasons[0]
    chain = FUNCTIONS["chain-3"]
    assert tw.plan(chain.objective, chain.line, slope=True).strategy.endswith("forward mode")


def test_a_gap_has_no_slope():
    objective = tw.FunctionObjective(lambda t: (t[0] - 0.5).log(), size=1)
    line = tw.Line(torch.tensor([0.0]), torch.tensor([1.0]))
    with pytest.warns(RuntimeWarning, match="not finite"):
        found = profile(objective, line, [0.25, 0.75, 1.0])
    assert np.isnan(found.loss["train"][0])
    np.testing.assert_allclose(found.slope["train"][1:], [4.0, 2.0], rtol=1e-14)


def test_adaptive_points_are_fewer_with_slopes():
    """Of five curves at two tolerances: never more points, and errors within the bound."""
    curves = [
        lambda t: torch.exp(-4 * t[0]) + 0.1 * (t[0] - 1) ** 2,
        lambda t: 0.02 + torch.exp(-((t[0] - 0.43) ** 2) / 0.02),
        lambda t: torch.sin(9 * t[0]) - 2.0,
        lambda t: torch.sigmoid(40 * (t[0] - 0.62)) + 0.3,
        lambda t: 1 / (1 + 25 * (t[0] - 0.3) ** 2),
    ]
    line = tw.Line(torch.tensor([0.0]), torch.tensor([1.0]))
    where = np.linspace(0, 1, 1001)
    for curve in curves:
        objective = tw.FunctionObjective(curve, size=1)
        truth = np.array([objective.value([a]) for a in where])
        for tolerance in (1e-2, 1e-3):
            plain = tw.profile(objective, line, tw.Adaptive(tolerance), progress=False)
            found = profile(objective, line, tw.Adaptive(tolerance))
            error = np.abs(found.interpolate(where) - truth).max()
            assert error <= tolerance * np.ptp(truth)
            assert error <= found.interpolation.bound.max()
            assert "Hermite" in found.interpolation.method
            assert len(found.alpha) <= len(plain.alpha)


def test_results_carry_slopes_everywhere(tmp_path):
    case = MODELS["perceptron"]
    x, y = case.data()
    objective = tw.ModelObjective(
        case.model(), nn.CrossEntropyLoss(), {"train": (x, y), "valid": (x[:4], y[:4])}
    )
    found = profile(objective, tw.Line(case.point(2), case.point(3)))
    record = tw.Record(study="slopes", results={"line": found})
    opened = tw.open_record(tw.save_record(record, tmp_path / "record")).results["line"]
    for other in (opened, copy.deepcopy(found)):
        for split in ("train", "valid"):
            np.testing.assert_array_equal(other.slope[split], found.slope[split])
    np.testing.assert_array_equal(opened.interpolate([0.3, 0.7]), found.interpolate([0.3, 0.7]))
    assert opened.provenance.objective["slope"] == "forward mode"


class TestRefused:
    def test_an_estimate(self):
        case = MODELS["perceptron"]
        line = tw.Line(case.point(2), case.point(3))
        with pytest.raises(ValueError, match=r"Slopes are exact: .* Leave out one of the two"):
            profile(case.objective(), line, [0.5], estimate=tw.Subsample(100))

    def test_a_plane(self):
        case = MODELS["perceptron"]
        objective = case.objective()
        plane = tw.Plane.through(*[case.point(seed) for seed in (2, 3, 4)])
        with pytest.raises(ValueError, match="profile needs a section of 1 dimension"):
            profile(objective, plane)
        with pytest.raises(ValueError, match="profile needs a section of 1 dimension"):
            tw.plan(objective, plane, slope=True)
        with pytest.raises(ValueError, match="A slope is taken along a section of one coordinate"):
            plane.slopes([[0.0, 0.0]])

    def test_rows_that_do_not_match(self):
        case = MODELS["perceptron"]
        line = tw.Line(case.point(2), case.point(3))
        weights = line.weights([0.1, 0.2])
        with pytest.raises(ValueError, match=r"2 points needs the derivatives .* got 1 rows"):
            sweep(case.objective(), line, weights, line.slopes([0.1]), progress=False)
        with pytest.raises(ValueError, match="Weights must be finite"):
            sweep(case.objective(), line, weights, np.full((2, 2), np.nan), progress=False)

    def test_a_section_of_another_space(self):
        case = MODELS["perceptron"]
        line = tw.Line(torch.zeros(3), torch.ones(3))
        with pytest.raises(ParameterMismatchError, match="An anchor must have shape"):
            profile(case.objective(), line)


def test_the_choice_is_that_of_the_operators():
    """The same model with and without the operator that has no forward mode."""
    data = MODELS["perceptron"].data()
    modes = []
    for build in (perceptron, squares):
        objective = tw.ModelObjective(seeded(build, 1), nn.CrossEntropyLoss(), data)
        line = tw.Line(normal(objective.space.size, seed=2), normal(objective.space.size, seed=3))
        modes.append(choose_along_tangent(objective, line, list(line.anchors)).strategy.mode)
    assert modes == MODES
