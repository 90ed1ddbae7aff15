"""Value, slope and curvature along sections: closed forms, Hessians, differences, both ways."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import thalweg as tw
from cases import FUNCTIONS, MODELS, classes, full_batch, normal, seeded
from thalweg.evaluate import along_curvature, jet_rules
from thalweg.evaluate.along_curvature import TAYLOR, TWICE, TwiceDifferentiated
from thalweg.evaluate.strategy import Plain
from thalweg.objectives.objective import Evaluation, Objective

ALPHA = np.array([-0.4, 0.15, 0.5, 0.85, 1.3])


def along(objective, section, grid=ALPHA, **options):
    return tw.curvature_along(objective, section, grid, progress=False, **options)


def way(found):
    return found.provenance.objective["curvature"]


def differences(objective, section, split="train", at=ALPHA):
    """Return second differences of the plain profile, their leading error removed (Richardson)."""
    found = []
    for step in (2e-3, 1e-3):
        grid = np.unique(np.concatenate([at - step, at, at + step]))
        plain = tw.profile(objective, section, grid, progress=False)
        values = dict(zip(plain.alpha, plain.loss[split], strict=True))
        found.append([(values[a - step] - 2 * values[a] + values[a + step]) / step**2 for a in at])
    return (4 * np.array(found[1]) - np.array(found[0])) / 3


def twice(objective, section, at=ALPHA):
    """Return evaluations by differentiated gradients."""
    anchors = [objective.point(anchor) for anchor in section.anchors]
    rows = np.hstack([section.weights(at), section.slopes(at), section.accelerations(at)])
    return TwiceDifferentiated(objective, section, anchors).evaluate(rows)


def sections(a, b, c):
    return {
        "line": tw.Line(a, b),
        "bezier": tw.BezierCurve([a, c, b]),
        "polyline": tw.Polyline([a, c, b], knots=[-0.2, 0.3, 1.1]),
    }


class Square(torch.autograd.Function):
    """x², whose gradient torch is told to be that of x² (`honest`) or of 3 x² (else)."""

    @staticmethod
    def forward(ctx, x, factor):
        ctx.save_for_backward(x)
        ctx.factor = factor
        return x * x

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return 2 * ctx.factor * gradient * x, None


class Squares(nn.Module):
    def __init__(self, factor=1.0):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return Square.apply(x, self.factor)


class Inverse(nn.Module):
    """An operator without a rule of second order."""

    def forward(self, x):
        tables = 9 * torch.eye(4).to(x) + x[:, :, None] * x[:, None]
        return (torch.linalg.inv(tables) @ x[:, :, None])[:, :, 0]


def inverse():
    return nn.Sequential(nn.Linear(3, 4), Inverse(), nn.Linear(4, 3))


def problem(build, seed=1, loss=None, **options):
    """Return an objective of three inputs and classes, and a line."""
    options = {"batch_size": 4} | options
    objective = tw.ModelObjective(
        seeded(build, seed), loss or nn.CrossEntropyLoss(), MODELS["perceptron"].data(), **options
    )
    size = objective.space.size
    return objective, tw.Line(0.5 * normal(size, seed=21), 0.5 * normal(size, seed=22))


class TestFunctions:
    @pytest.mark.parametrize("name", FUNCTIONS)
    def test_as_the_hessian_by_hand(self, name):
        known = FUNCTIONS[name]
        found = along(known.objective, known.line)
        step = known.end - known.start
        points = [known.start + a * step for a in ALPHA]
        right = [step @ known.hessian(point) @ step for point in points]
        np.testing.assert_allclose(found.curvature["train"], right, rtol=1e-11, atol=1e-12)
        np.testing.assert_allclose(
            found.slope["train"], [known.gradient(p) @ step for p in points], rtol=1e-11, atol=1e-12
        )
        np.testing.assert_allclose(
            found.curvature_per_length(), np.array(right) / (step @ step), rtol=1e-11, atol=1e-12
        )
        assert way(found) == TAYLOR

    def test_along_a_bent_curve(self):
        """J∘θ is a polynomial in t: its derivatives are those of its coefficients."""
        a, c, b = (torch.tensor(p).double() for p in ([1.0, 2.0], [0.5, -1.0], [3.0, 1.5]))
        bowl = tw.FunctionObjective(lambda t: 2 * t[0] ** 2 - t[0] * t[1] + 0.5 * t[1], size=2)
        found = along(bowl, tw.BezierCurve([a, c, b]))
        x, y = (
            np.polynomial.Polynomial(
                [float(a[i]), 2 * float(c[i] - a[i]), float(a[i] - 2 * c[i] + b[i])]
            )
            for i in (0, 1)
        )
        value = 2 * x**2 - x * y + 0.5 * y
        for order, mine in enumerate((found.loss, found.slope, found.curvature)):
            right = value.deriv(order)(ALPHA) if order else value(ALPHA)
            np.testing.assert_allclose(mine["train"], right, rtol=1e-12, atol=1e-12)
        speed = np.hypot(x.deriv()(ALPHA), y.deriv()(ALPHA))
        np.testing.assert_allclose(found.speed, speed, rtol=1e-12)

    def test_scaling_the_coordinate(self):
        """A symmetry: halving the knots makes the curvature four times as large."""
        known = FUNCTIONS["chain-3"]
        points = [torch.from_numpy(known.start), torch.from_numpy(known.end), normal(3, seed=5)]
        wide = along(known.objective, tw.Polyline(points), [0.25, 1.5])
        narrow = along(known.objective, tw.Polyline(points, knots=[0, 0.5, 1]), [0.125, 0.75])
        np.testing.assert_array_equal(narrow.curvature["train"], 4 * wide.curvature["train"])
        np.testing.assert_allclose(
            narrow.curvature_per_length(), wide.curvature_per_length(), rtol=1e-12
        )

    def test_an_operator_without_a_rule(self):
        def f(t):
            return torch.linalg.det(torch.stack([t, t.sin() + 1])) + t[0] ** 2

        objective = tw.FunctionObjective(f, size=2)
        line = tw.Line(torch.tensor([1.0, -2.0]), torch.tensor([3.0, 1.0]))
        found = along(objective, line)
        assert way(found) == TWICE
        np.testing.assert_allclose(
            found.curvature["train"], differences(objective, line), rtol=1e-6, atol=1e-6
        )

    def test_constants_and_linear_costs(self):
        line = tw.Line(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 1.0]))
        for f in (lambda t: torch.tensor(3.0).double(), lambda t: 2 * t[0] - t[1]):
            found = along(tw.FunctionObjective(f, size=2), line)
            assert found.curvature["train"].tolist() == [0.0] * len(ALPHA)

    def test_a_formula_that_leaves_torch_is_refused(self):
        objective = tw.FunctionObjective(lambda t: float(t.square().sum()), size=1)
        with pytest.raises(TypeError, match="must return a tensor where derivatives"):
            along(objective, tw.Line(torch.tensor([1.0]), torch.tensor([2.0])))

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
        found, right = (
            along(Doubled(known.objective), known.line),
            along(known.objective, known.line),
        )
        np.testing.assert_allclose(
            found.curvature["train"], 2 * right.curvature["train"], rtol=1e-13
        )
        assert way(found) == TWICE


class TestModels:
    @pytest.mark.parametrize("kind", ["line", "bezier", "polyline"])
    def test_as_the_dense_hessian(self, case, kind):
        objective = case.objective(batch_size=4)
        section = sections(*[case.point(seed) for seed in (2, 3, 4)])[kind]
        found = along(objective, section)
        assert way(found) == TAYLOR
        value, rows = full_batch(case), []
        weights = (section.weights(ALPHA), section.slopes(ALPHA), section.accelerations(ALPHA))
        for each in zip(*weights, strict=True):
            theta, tangent, bend = (
                sum(float(w) * anchor for w, anchor in zip(row, section.anchors, strict=True))
                for row in each
            )
            with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
                hessian = torch.autograd.functional.hessian(value, theta)
                gradient = torch.autograd.functional.jacobian(value, theta)
            rows.append(float(tangent @ hessian @ tangent + gradient @ bend))
        np.testing.assert_allclose(found.curvature["train"], rows, rtol=1e-10, atol=1e-11)

    def test_both_ways_agree(self, case):
        objective = case.objective(batch_size=3)
        section = tw.BezierCurve([case.point(seed) for seed in (2, 4, 3)])
        found = along(objective, section)
        right = twice(objective, section)
        for name, mine in (("slopes", found.slope), ("curvatures", found.curvature)):
            other = [getattr(each, name)["train"] for each in right]
            np.testing.assert_allclose(mine["train"], other, rtol=1e-10, atol=1e-12)

    def test_as_second_differences(self, case):
        objective = case.objective()
        line = tw.Line(case.point(2), case.point(3))
        np.testing.assert_allclose(
            # Second differences lose digits by their step squared: 1e-16/1e-6, times J.
            along(objective, line).curvature["train"],
            differences(objective, line),
            rtol=1e-6,
            atol=1e-8,
        )

    def test_values_and_slopes_are_those_without(self, case):
        objective = case.objective(batch_size=4)
        line = tw.Line(case.point(2), case.point(3))
        found = along(objective, line)
        right = Plain(objective, line, list(line.anchors)).evaluate(line.weights(ALPHA))
        np.testing.assert_allclose(
            found.loss["train"], [each.loss["train"] for each in right], rtol=1e-14
        )
        slopes = tw.profile(objective, line, ALPHA, slope=True, progress=False).slope["train"]
        np.testing.assert_allclose(found.slope["train"], slopes, rtol=1e-12, atol=1e-13)

    def test_one_way_to_ask(self):
        case = MODELS["perceptron"]
        line = tw.Line(case.point(2), case.point(3))
        asked = tw.profile(case.objective(), line, ALPHA, curvature=True, progress=False)
        found = along(case.objective(), line)
        np.testing.assert_array_equal(asked.curvature["train"], found.curvature["train"])
        assert asked.slope["train"].tolist() == found.slope["train"].tolist()

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
        found = along(objective, line)
        other = twice(objective, line)
        assert way(found) == TAYLOR
        plain = tw.profile(objective, line, ALPHA, progress=False)
        for split in ("train", "valid"):
            right = differences(objective, line, split)
            np.testing.assert_allclose(found.curvature[split], right, rtol=1e-6, atol=1e-7)
            mine = [each.curvatures[split] for each in other]
            np.testing.assert_allclose(mine, found.curvature[split], rtol=1e-11)
            np.testing.assert_array_equal(
                found.metrics["error"][split], plain.metrics["error"][split]
            )

    def test_the_count_may_move_as_well(self):
        """A mean whose weights depend on θ: the quotient rule, twice."""

        def weighted(output, target):
            weights = output[:, 0].sigmoid()
            terms = functional.cross_entropy(output, target, reduction="none")
            return (weights * terms).sum(), weights.sum()

        case = MODELS["perceptron"]
        objective = tw.ModelObjective(case.model(), weighted, case.data(), batch_size=4)
        line = tw.Line(case.point(2), case.point(3))
        found = along(objective, line)
        right = differences(objective, line)
        np.testing.assert_allclose(found.curvature["train"], right, rtol=1e-6, atol=1e-8)
        other = [each.curvatures["train"] for each in twice(objective, line)]
        np.testing.assert_allclose(other, found.curvature["train"], rtol=1e-11)

    @pytest.mark.parametrize("size", [1, 3, 11])
    def test_batches_may_be_cut_anywhere(self, size):
        case = MODELS["convolution"]
        line = tw.Line(case.point(2), case.point(3))
        found, whole = along(case.objective(batch_size=size), line), along(case.objective(), line)
        np.testing.assert_allclose(
            found.curvature["train"], whole.curvature["train"], rtol=1e-12, atol=1e-13
        )

    def test_in_float32_to_its_rounding(self):
        """Each of a few hundred products rounds by 6e-8 of terms of the size of the largest."""
        case = MODELS["convolution"]
        line = tw.Line(case.point(2), case.point(3))
        right = along(case.objective(), line).curvature["train"]
        found = along(case.objective(dtype=torch.float32, batch_size=4), line)
        most = np.abs(right).max()
        np.testing.assert_allclose(found.curvature["train"], right, rtol=0, atol=300 * 6e-8 * most)

    def test_masks_are_the_same(self):
        def dropped():
            return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(0.4), nn.Linear(8, 3))

        objective, line = problem(dropped, dropout=tw.MonteCarlo(samples=3, seed=8))
        found = along(objective, line)
        plain = tw.profile(objective, line, ALPHA, progress=False)
        np.testing.assert_allclose(found.samples["train"], plain.samples["train"], rtol=1e-14)
        right = differences(objective, line)
        np.testing.assert_allclose(found.curvature["train"], right, rtol=1e-6, atol=1e-8)
        other = [each.curvatures["train"] for each in twice(objective, line)]
        np.testing.assert_allclose(other, found.curvature["train"], rtol=1e-11)

    def test_a_wide_first_layer_is_shared(self):
        def wide():
            return nn.Sequential(
                nn.Linear(70, 9), nn.ReLU(), nn.Linear(9, 5), nn.SiLU(), nn.Linear(5, 3)
            )

        x, y = normal(40, 70, seed=3), classes(40, count=3, seed=4)
        objective = tw.ModelObjective(
            seeded(wide, 1),
            nn.CrossEntropyLoss(),
            {"a": (x, y), "b": (x[:9], y[:9])},
            batch_size=16,
        )
        ends = [0.3 * normal(objective.space.size, seed=seed) for seed in (5, 6, 7)]
        told = tw.plan(objective, tw.Line(*ends[:2]), ALPHA, curvature=True)
        assert told.strategy.endswith("first-layer reuse")
        for section in sections(*ends).values():
            found = along(objective, section)
            other = twice(objective, section)
            for split in ("a", "b"):
                np.testing.assert_allclose(
                    found.curvature[split], [e.curvatures[split] for e in other], rtol=1e-10
                )

    def test_maxout_and_layer_normalisation(self):
        def build():
            from thalweg.problems.networks import Maxout

            return nn.Sequential(Maxout(3, 5, 2), nn.LayerNorm(5), nn.GELU(), nn.Linear(5, 3))

        objective, line = problem(build)
        found = along(objective, line)
        assert way(found) == TAYLOR
        other = [each.curvatures["train"] for each in twice(objective, line)]
        np.testing.assert_allclose(found.curvature["train"], other, rtol=1e-10, atol=1e-12)


class TestFallback:
    def test_where_an_operator_has_no_rule(self):
        objective, line = problem(inverse, batch_size=11)
        found = along(objective, line)
        assert way(found) == TWICE
        np.testing.assert_allclose(
            found.curvature["train"], differences(objective, line), rtol=1e-6, atol=1e-7
        )
        told = tw.plan(objective, line, ALPHA, curvature=True)
        assert told.strategy == f"value, slope and curvature, {TWICE}"
        assert "linalg_inv" in told.reasons[0]

    def test_an_honest_function_of_ones_own_passes(self):
        objective, line = problem(
            lambda: nn.Sequential(nn.Linear(3, 4), Squares(), nn.Linear(4, 3))
        )
        found = along(objective, line)
        assert way(found) == TAYLOR
        np.testing.assert_allclose(
            found.curvature["train"], differences(objective, line), rtol=1e-6, atol=1e-7
        )

    def test_a_gradient_of_ones_own_is_kept(self):
        """A straight-through estimator: what autograd is told counts, not the formula."""
        objective, line = problem(
            lambda: nn.Sequential(nn.Linear(3, 4), Squares(3.0), nn.Linear(4, 3))
        )
        found = along(objective, line)
        assert way(found) == TWICE
        tangent = line.end - line.start
        # `hvp` takes finite differences here, for such a gradient is that of no cost.
        model = seeded(lambda: nn.Sequential(nn.Linear(3, 4), Squares(3.0), nn.Linear(4, 3)), 1)
        x, y = MODELS["perceptron"].data()

        def cost(theta):
            tensors = objective.space.unflatten(theta)
            output = torch.func.functional_call(model, tensors, (x.to(theta),))
            return functional.cross_entropy(output, y)

        right = []
        for a in ALPHA:
            place = ((1 - a) * line.start + a * line.end).to(objective.dtype).requires_grad_()
            (gradient,) = torch.autograd.grad(cost(place), place, create_graph=True)
            (told,) = torch.autograd.grad(gradient @ tangent.to(gradient), place)
            right.append(float(told @ tangent.to(told)))
        np.testing.assert_allclose(found.curvature["train"], right, rtol=1e-10)

    @pytest.mark.parametrize("name", ["tanh", "addmm", "_log_softmax"])
    def test_a_wrong_rule_is_noticed(self, monkeypatch, name):
        """The negative control: with a wrong rule the other way is taken, and is right."""
        case = MODELS["perceptron"]
        line = tw.Line(case.point(2), case.point(3))
        right = along(case.objective(), line)
        operator = getattr(torch.ops.aten, name)
        rule = jet_rules.RULES[operator]

        def wrong(func, args, kwargs):
            found = rule(func, args, kwargs)
            second = found.second if found.second is not None else torch.zeros_like(found.value)
            return type(found)(found.value, found.first, second * 1.001 + 1e-5)

        monkeypatch.setitem(jet_rules.RULES, operator, wrong)
        found = along(case.objective(), line)
        assert way(right) == TAYLOR
        assert way(found) == TWICE
        np.testing.assert_allclose(found.curvature["train"], right.curvature["train"], rtol=1e-11)
        told = tw.plan(case.objective(), line, ALPHA, curvature=True)
        assert "it differs by" in told.reasons[0]

    def test_of_the_lstm_in_float32(self):
        """The fused LSTM of the processor has no rule: either way will do."""
        case = MODELS["recurrent"]
        line = tw.Line(case.point(2), case.point(3))
        found = along(case.objective(dtype=torch.float32), line)
        right = along(case.objective(), line).curvature["train"]
        np.testing.assert_allclose(
            found.curvature["train"], right, rtol=0, atol=1e-4 * np.abs(right).max()
        )

    def test_a_loss_that_leaves_torch_is_refused(self):
        case = MODELS["perceptron"]
        objective = tw.ModelObjective(
            case.model(), lambda output, y: functional.cross_entropy(output, y).item(), case.data()
        )
        with pytest.raises(TypeError, match="must return a tensor where derivatives"):
            along(objective, tw.Line(case.point(2), case.point(3)))


def normalised():
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


class TestNormalisation:
    """Running statistics move with α; both of their derivatives count."""

    DATA = (0.5 + 2 * normal(14, 2, 3, 3, seed=3), classes(14, count=3, seed=4))

    def trained(self, seed, build=normalised):
        model = seeded(build, seed).train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for step in range(3):
            optimizer.zero_grad()
            x, y = (part[step : step + 9] for part in self.DATA)
            functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        return model

    def problem(self, policy, build=normalised, bent=False, **options):
        models = [self.trained(seed, build) for seed in (1, 2, 3)]
        objective = tw.ModelObjective(
            models[0],
            nn.CrossEntropyLoss(),
            {"train": self.DATA, "valid": tuple(part[:5] for part in self.DATA)},
            batch_norm=policy,
            **{"batch_size": 7} | options,
        )
        points = [objective.space.flatten(model) for model in models]
        if bent:
            return objective, tw.BezierCurve([points[0], points[2], points[1]])
        return objective, tw.Line(*points[:2])

    @pytest.mark.parametrize("policy", ["recalibrate", "interpolate", "stored", "batch"])
    @pytest.mark.parametrize("bent", [False, True])
    def test_as_second_differences(self, policy, bent):
        objective, section = self.problem(policy, bent=bent)
        at = np.array([0.2, 0.5, 0.8])
        found = along(objective, section, at)
        assert way(found) == TAYLOR
        for split in ("train", "valid"):
            right = differences(objective, section, split, at)
            np.testing.assert_allclose(found.curvature[split], right, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("policy", ["interpolate", "stored", "batch"])
    def test_both_ways_agree(self, policy):
        objective, section = self.problem(policy, bent=True)
        at = np.array([0.2, 0.5, 0.8])
        found, other = along(objective, section, at), twice(objective, section, at)
        for split in ("train", "valid"):
            mine = [each.curvatures[split] for each in other]
            np.testing.assert_allclose(mine, found.curvature[split], rtol=1e-9)

    def test_recalibrated_layer_by_layer(self, monkeypatch):
        """Where one pass over all of the data does not fit, the statistics are the same."""
        from thalweg.objectives import batch_norm

        objective, line = self.problem("recalibrate")
        right = along(objective, line)
        monkeypatch.setattr(batch_norm, "_ONE_PASS_BYTES", 0)
        found = along(self.problem("recalibrate")[0], line)
        np.testing.assert_allclose(found.curvature["train"], right.curvature["train"], rtol=1e-9)

    def test_recalibrated_without_rules_is_refused(self):
        def build():
            return nn.Sequential(
                nn.Flatten(), nn.Linear(18, 4), nn.BatchNorm1d(4), Inverse(), nn.Linear(4, 3)
            )

        objective, line = self.problem("recalibrate", build, batch_size=None)
        with pytest.raises(ValueError, match="Curvature through recomputed statistics needs"):
            along(objective, line)

    def test_nothing_of_the_model_changes(self):
        model = self.trained(1)
        before, mode = copy.deepcopy(model.state_dict()), model.training
        objective = tw.ModelObjective(model, nn.CrossEntropyLoss(), self.DATA, batch_norm="batch")
        inner = copy.deepcopy(objective.forward_pass.model.state_dict())
        point = objective.space.flatten(model)
        state = torch.random.get_rng_state()
        along(objective, tw.Line(point, point + 0.1))
        assert model.training is mode
        assert torch.equal(torch.random.get_rng_state(), state)
        for name, tensor in before.items():
            assert torch.equal(tensor, model.state_dict()[name])
            assert torch.equal(inner[name], objective.forward_pass.model.state_dict()[name])


class TestKept:
    def test_an_interrupted_sweep_keeps_derivatives(self, tmp_path):
        case = MODELS["perceptron"]
        line = tw.Line(case.point(2), case.point(3))
        right = along(case.objective(), line)
        along(case.objective(), line, ALPHA[:3], keep=tmp_path)
        calls = []
        objective = case.objective()
        original = along_curvature.TaylorOfModel.evaluate

        def counted(self, weights):
            calls.append(len(weights))
            return original(self, weights)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(along_curvature.TaylorOfModel, "evaluate", counted)
            found = along(objective, line, keep=tmp_path)
        assert sum(calls) == 2
        for name in ("loss", "slope", "curvature"):
            np.testing.assert_array_equal(
                getattr(found, name)["train"], getattr(right, name)["train"]
            )

    def test_known_points_serve_where_they_have_curvatures(self):
        case = MODELS["perceptron"]
        line = tw.Line(case.point(2), case.point(3))
        slopes = tw.profile(case.objective(), line, ALPHA, slope=True, progress=False)
        right = along(case.objective(), line)
        for known in (slopes, right):
            found = along(case.objective(), line, [0.0, 0.5, 1.0], known=known)
            assert set(ALPHA) < set(found.alpha)
            at = np.isin(found.alpha, ALPHA)
            np.testing.assert_array_equal(found.curvature["train"][at], right.curvature["train"])

    def test_a_record_holds_them(self, tmp_path):
        case = MODELS["perceptron"]
        found = along(case.objective(), tw.Line(case.point(2), case.point(3)))
        tw.save_record(tw.Record(study="a", results={"line": found}), tmp_path)
        opened = tw.open_record(tmp_path).results["line"]
        np.testing.assert_array_equal(opened.curvature["train"], found.curvature["train"])
        np.testing.assert_array_equal(opened.speed, found.speed)
        assert copy.deepcopy(found).curvature["train"].tolist() == found.curvature["train"].tolist()


class TestBadInput:
    def test_losses_that_are_not_finite_are_values(self):
        objective = tw.FunctionObjective(lambda t: t[0].log(), size=1)
        line = tw.Line(torch.tensor([1.0]), torch.tensor([3.0]))
        with pytest.warns(RuntimeWarning, match="not finite at 1 of 3"):
            found = along(objective, line, [-1.0, 0.0, 1.0])
        assert np.isnan(found.loss["train"]).tolist() == [True, False, False]
        np.testing.assert_allclose(found.curvature["train"][1:], [-4.0, -4.0 / 9])

    def test_an_estimate_has_none(self):
        case = MODELS["perceptron"]
        line = tw.Line(case.point(2), case.point(3))
        with pytest.raises(ValueError, match="`curvature=True` with an estimate"):
            tw.profile(
                case.objective(),
                line,
                [0.0, 1.0],
                estimate=tw.Subsample(2000, seed=0),
                curvature=True,
            )

    def test_a_plane_has_none(self):
        known = FUNCTIONS["chain-3"]
        a, b = torch.from_numpy(known.start), torch.from_numpy(known.end)
        with pytest.raises(ValueError, match="needs a section of 1 dimension"):
            along(known.objective, tw.Plane.through(a, b, normal(3, seed=1)))

    def test_a_profile_without_it_says_so(self):
        plain = tw.profile(FUNCTIONS["chain-3"].objective, FUNCTIONS["chain-3"].line, [0.0, 1.0])
        with pytest.raises(ValueError, match="Curvature per length needs the curvature"):
            plain.curvature_per_length()
        assert dict(plain.curvature) == {}

    def test_sections_know_their_accelerations(self):
        points = [normal(2, seed=seed) for seed in range(4)]
        curve = tw.BezierCurve(points)
        t, step = np.array([0.2, 0.7]), 1e-4
        right = (curve.weights(t + step) - 2 * curve.weights(t) + curve.weights(t - step)) / step**2
        np.testing.assert_allclose(curve.accelerations(t), right, atol=1e-6)
        assert not tw.Line(*points[:2]).accelerations(t).any()
        assert not tw.BezierCurve(points[:2]).accelerations(t).any()
        assert tw.Polyline(points).accelerations(t).shape == (2, 4)


class TestReuse:
    """What is shared among points is checked like everything else."""

    class Odd(nn.Module):
        """Calls its first layer once for up to 64 examples, and in two halves for more."""

        def __init__(self):
            super().__init__()
            self.first, self.head = nn.Linear(70, 9), nn.Linear(9, 3)

        def forward(self, x):
            parts = [x] if len(x) <= 64 else [x[:7], x[7:]]
            return self.head(torch.cat([self.first(part) for part in parts]).tanh())

    def test_a_model_that_changes_with_the_batch_is_refused(self):
        objective = tw.ModelObjective(
            seeded(self.Odd, 1),
            nn.CrossEntropyLoss(),
            (normal(70, 70, seed=3), classes(70, count=3, seed=4)),
        )
        size = objective.space.size
        line = tw.Line(0.3 * normal(size, seed=5), 0.3 * normal(size, seed=6))
        with pytest.raises(RuntimeError, match="called otherwise for another"):
            along(objective, line)
