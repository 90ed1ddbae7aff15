"""Predicted and true change of steps: closed forms, dense Hessians, eigenpairs, bad input."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

import thalweg as tw
from cases import FUNCTIONS, MODELS, full_batch
from thalweg.errors import ParameterMismatchError
from thalweg.functions import quadratic


class TestQuadratic:
    """On a quadratic the second order is exact."""

    @pytest.mark.parametrize("size", [1, 2, 3, 7])
    def test_the_prediction_is_the_truth(self, size):
        known = FUNCTIONS[f"quadratic-{size}"]
        point = known.start + 0.3 * known.end
        found = tw.step_curvature(known.objective, point, step_sizes=[-0.3, 0.01, 0.5, 2.0])
        np.testing.assert_allclose(found.predicted, found.actual, rtol=1e-10, atol=1e-10)
        g, h = known.gradient(point), known.hessian(point)
        assert found.slope == pytest.approx(g @ g, rel=1e-13)
        assert found.curvature == pytest.approx(g @ h @ g, rel=1e-12)
        assert found.rayleigh == pytest.approx(g @ h @ g / (g @ g), rel=1e-12)
        assert found.loss == pytest.approx(known.value(point))

    def test_the_optimal_step(self):
        bowl = quadratic(np.diag([4.0, 1.0]), [1.0, -2.0])
        found = tw.step_curvature(bowl, [2.0, 1.0], multiples=[1.0, 2.0])
        # g = (4, 3): gᵀg = 25, gᵀHg = 64 + 9
        assert found.optimal_step == pytest.approx(25 / 73)
        np.testing.assert_allclose(found.actual, [-(25**2) / (2 * 73), 0.0], atol=1e-13)
        assert found.explained == 0.0
        assert found.remainder == pytest.approx(73)

    def test_a_complete_spectrum_explains_everything(self):
        known = FUNCTIONS["quadratic-7"]
        values, vectors = np.linalg.eigh(known.hessian(known.start))
        whole = tw.step_curvature(
            known.objective, known.start, step_sizes=[0.1], eigenpairs=(values, vectors.T)
        )
        assert whole.captured == pytest.approx(1.0, rel=1e-12)
        assert whole.explained == pytest.approx(whole.curvature, rel=1e-12)
        assert abs(whole.remainder) <= 1e-10 * abs(whole.curvature)
        top = torch.from_numpy(vectors.T[-2:].copy())
        part = tw.step_curvature(
            known.objective, known.start, step_sizes=[0.1], eigenpairs=(values[-2:], top)
        )
        g = known.gradient(known.start)
        right = sum(values[i] * (vectors[:, i] @ g) ** 2 for i in (-2, -1))
        assert part.explained == pytest.approx(right, rel=1e-12)
        assert 0 < part.captured < 1
        assert part.remainder == pytest.approx(part.curvature - right)

    def test_where_curvature_is_not_positive_every_step_improves(self):
        saddle = quadratic(np.diag([-1.0, 2.0]), [0.5, 0.5])
        found = tw.step_curvature(saddle, [1.5, 0.5])
        assert found.optimal_step == math.inf
        assert (found.predicted < 0).all()
        assert (np.diff(found.predicted) < 0).all()
        kept = tw.step_curvature(saddle, [1.5, 0.5], step_sizes=[0.1], multiples=[1.0])
        assert kept.step_size.tolist() == [0.1]  # a multiple of infinity is no step

    def test_at_a_critical_point(self):
        found = tw.step_curvature(quadratic(np.eye(2), [1.0, 1.0]), [1.0, 1.0])
        assert found.slope == found.curvature == 0.0
        assert math.isnan(found.rayleigh)
        assert not found.actual.any()

    def test_scaling_the_cost(self):
        """A symmetry: of 3 J the slope is 9 times, the curvature 27 times, ε* a third."""
        known = FUNCTIONS["chain-3"]
        one = tw.step_curvature(known.objective, known.start, step_sizes=[0.1])
        three = tw.FunctionObjective(lambda w: 3 * known.f(w), size=3)
        found = tw.step_curvature(three, known.start, step_sizes=[0.1 / 3])
        assert found.slope == pytest.approx(9 * one.slope)
        assert found.curvature == pytest.approx(27 * one.curvature)
        assert found.rayleigh == pytest.approx(3 * one.rayleigh)
        np.testing.assert_allclose(found.actual, 3 * one.actual, rtol=1e-12)


class TestModels:
    @pytest.mark.parametrize("direction", [False, True])
    def test_as_the_dense_hessian(self, case, direction):
        objective, theta = case.objective(batch_size=4), case.point()
        value = full_batch(case)
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            h = torch.autograd.functional.hessian(value, theta)
            g = torch.autograd.functional.jacobian(value, theta)
        d = case.point(7) - theta if direction else g
        found = tw.step_curvature(objective, theta, d if direction else None, [0.3])
        assert found.slope == pytest.approx(float(g @ d), rel=1e-10)
        assert found.curvature == pytest.approx(float(d @ h @ d), rel=1e-9)
        assert found.squared_length == pytest.approx(float(d @ d), rel=1e-12)
        assert found.squared_gradient == pytest.approx(float(g @ g), rel=1e-10)
        right = float(value(theta - 0.3 * d) - value(theta))
        np.testing.assert_allclose(found.actual, right, rtol=1e-10, atol=1e-14)

    def test_the_prediction_is_of_second_order(self):
        """Halving the step divides what is missed by eight; first order is the negative control."""
        case = MODELS["regression"]
        found = tw.step_curvature(case.objective(), case.point(), step_sizes=[0.01, 0.02])
        missed = np.abs(found.predicted - found.actual)
        assert missed[1] / missed[0] == pytest.approx(8, rel=0.1)
        first = np.abs(found.first_order - found.actual)
        assert first[1] / first[0] == pytest.approx(4, rel=0.1)

    def test_rounding_bounds_the_difference_in_float32(self):
        case = MODELS["convolution"]
        right = tw.step_curvature(case.objective(), case.point(), step_sizes=[1e-3, 0.1])
        found = tw.step_curvature(
            case.objective(dtype=torch.float32), case.point(), step_sizes=[1e-3, 0.1]
        )
        assert (np.abs(found.actual - right.actual) <= found.rounding).all()
        assert (found.rounding < 1e-4).all()
        assert (right.rounding < 1e-12).all()

    def test_recalibrated_statistics_move_with_the_step(self):
        model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)).double()
        objective = tw.ModelObjective(model, nn.CrossEntropyLoss(), MODELS["perceptron"].data())
        theta = objective.space.flatten(model)
        found = tw.step_curvature(objective, theta, step_sizes=[1e-3, 2e-3])
        missed = found.actual - found.predicted
        assert (np.abs(missed) < 1e-2 * np.abs(found.actual)).all()
        assert missed[1] / missed[0] == pytest.approx(8, rel=0.05)  # of third order


class TestResult:
    def step(self):
        return tw.step_curvature(FUNCTIONS["chain-3"].objective, FUNCTIONS["chain-3"].start)

    def test_a_record_holds_it(self, tmp_path):
        found = self.step()
        tw.save_record(tw.Record(study="a", results={"step": found}), tmp_path)
        opened = tw.open_record(tmp_path).results["step"]
        np.testing.assert_array_equal(opened.actual, found.actual)
        assert opened.optimal_step == found.optimal_step
        assert copy.deepcopy(found).slope == found.slope

    def test_named_axes(self):
        found = self.step()
        dataset = found.to_xarray()
        np.testing.assert_array_equal(dataset.predicted.values, found.predicted)

    def test_steps_must_ascend(self):
        with pytest.raises(ValueError, match="Step sizes must ascend"):
            tw.StepCurvature(step_size=[1.0, 0.5], actual=[0.0, 0.0])

    def test_an_overflow_is_a_value(self):
        known = FUNCTIONS["chain-3"]
        found = tw.step_curvature(known.objective, known.start, step_sizes=[0.1, 1e308])
        assert np.isfinite(found.actual).tolist() == [True, False]


class TestBadInput:
    def test_of_steps(self):
        known = FUNCTIONS["chain-3"]
        for steps in ([], [math.inf], [0.1, math.nan]):
            with pytest.raises(ValueError, match="Step sizes and multiples are finite numbers"):
                tw.step_curvature(known.objective, known.start, step_sizes=steps)

    def test_of_eigenpairs(self):
        known = FUNCTIONS["chain-3"]
        with pytest.raises(ValueError, match=r"vectors of shape \(k, 3\)"):
            tw.step_curvature(known.objective, known.start, eigenpairs=([1.0], np.eye(3)))
        with pytest.raises(ValueError, match="must be orthonormal"):
            tw.step_curvature(known.objective, known.start, eigenpairs=(np.ones(3), 2 * np.eye(3)))

    def test_of_points(self):
        known = FUNCTIONS["chain-3"]
        with pytest.raises(ParameterMismatchError, match="direction must have shape"):
            tw.step_curvature(known.objective, known.start, [1.0, 2.0])
        with pytest.raises(TypeError, match="The first argument is an objective"):
            tw.step_curvature(nn.Linear(2, 1), [1.0, 2.0])
