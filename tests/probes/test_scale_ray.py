"""Rays: costs without a critical point, and costs that have one."""

import numpy as np
import pytest
import torch
from torch import nn

import thalweg as tw
from cases import normal, seeded
from thalweg.functions import separable_logistic


def separable(count=40):
    x = normal(count, 2, seed=5)
    x = x + 0.5 * torch.sign(x[:, :1]) * torch.tensor([1.0, 0.0])
    return x, (x[:, 0] > 0).double()[:, None]


def logistic(data, model=None, penalty=None):
    model = nn.Linear(2, 1, bias=False).double() if model is None else model
    return tw.ModelObjective(model, nn.BCEWithLogitsLoss(), data, penalty=penalty)


def falls(ray):
    return tw.is_monotone(ray) and bool((ray.slope["train"] < 0).all())


class TestSeparable:
    def test_the_logistic_cost_falls_all_the_way(self):
        theta = torch.tensor([0.7, 0.9], dtype=torch.float64)
        ray = tw.scale_ray(separable_logistic(), theta)
        margins = np.array([[1.0, 0.5], [0.5, 1.0]]) @ theta.numpy()
        np.testing.assert_allclose(ray.alpha, 2.0 ** (np.arange(9) / 2))
        for c, loss, slope in zip(ray.alpha, ray.loss["train"], ray.slope["train"], strict=True):
            assert loss == pytest.approx(np.log1p(np.exp(-c * margins)).mean(), rel=1e-12)
            expected = (-margins / (1 + np.exp(c * margins))).mean()
            assert slope == pytest.approx(expected, rel=1e-12)
        assert falls(ray)
        gradient = separable_logistic().gradient(theta)
        assert ray.slope["train"][0] == pytest.approx(float(theta @ gradient), rel=1e-12)
        assert ray.ends is None
        assert ray.anchors == (1.0, 2.0)

    def test_a_homogeneous_network(self):
        """Two layers of ReLUs without biases: outputs grow with c²."""
        x, y = separable()
        model = seeded(
            lambda: nn.Sequential(
                nn.Linear(2, 8, bias=False), nn.ReLU(), nn.Linear(8, 1, bias=False)
            ),
            0,
        )
        objective = logistic((x, y), model)
        with torch.no_grad():  # |x₀| apart from its sign: every example is on its side
            model[0].weight.zero_()
            model[2].weight.zero_()
            model[0].weight[0, 0], model[0].weight[1, 0] = 1.0, -1.0
            model[2].weight[0, 0], model[2].weight[0, 1] = 1.5, -1.5
        theta = objective.space.flatten(model)
        ray = tw.scale_ray(objective, theta, largest=5.0)
        output = 1.5 * x[:, 0].numpy()
        expected = [np.log1p(np.exp(-np.abs(output) * c**2)).mean() for c in ray.alpha]
        # Torch's loss adds 1 and e^−z before the logarithm where it can: one rounding of 1.
        np.testing.assert_allclose(ray.loss["train"], expected, rtol=1e-10, atol=1e-15)
        assert falls(ray)


class TestNegativeControls:
    def test_weight_decay(self):
        objective = logistic(separable(), penalty=lambda t: 1e-3 * t["weight"].square().sum())
        ray = tw.scale_ray(objective, torch.tensor([3.0, 0.0]))
        assert not falls(ray)
        assert ray.loss["train"][-1] > ray.loss["train"].min()
        assert ray.slope["train"][-1] > 0

    def test_data_that_cannot_be_separated(self):
        x, y = separable()
        y = y.clone()
        y[:4] = 1 - y[:4]
        for model in (
            None,
            seeded(
                lambda: nn.Sequential(
                    nn.Linear(2, 8, bias=False), nn.ReLU(), nn.Linear(8, 1, bias=False)
                ),
                0,
            ),
        ):
            objective = logistic((x, y), model)
            size = objective.space.size
            ray = tw.scale_ray(objective, torch.full((size,), 0.5, dtype=torch.float64))
            assert not falls(ray)
            assert ray.slope["train"][-1] > 0

    def test_a_bowl(self):
        bowl = tw.FunctionObjective(lambda t: (t - 3).square().sum(), 2)
        ray = tw.scale_ray(bowl, [1.0, 1.0])
        assert ray.slope["train"][0] == pytest.approx(-8.0)
        assert not falls(ray)


class TestBadInput:
    def test_the_origin_has_no_ray(self):
        with pytest.raises(ValueError, match="a point that is not 0; θ is"):
            tw.scale_ray(separable_logistic(), [0.0, 0.0])

    @pytest.mark.parametrize("settings", [{"largest": 1.0}, {"points": 1}, {"largest": np.inf}])
    def test_scales_that_are_none(self, settings):
        with pytest.raises(ValueError, match="from c = 1 to a larger one, at 2 points or more"):
            tw.scale_ray(separable_logistic(), [1.0, 2.0], **settings)

    def test_no_objective(self):
        with pytest.raises(TypeError, match="first argument is an objective"):
            tw.scale_ray(lambda t: t, [1.0])
