"""The cases of the other tests on every device there is: the same code, the same numbers."""

import numpy as np
import pytest
import torch
from torch import nn

import thalweg as tw
from cases import normal, seeded
from thalweg.evaluate.planning import choose
from thalweg.evaluate.sweep import sweep

ALPHA = np.array([-0.5, 0.0, 0.3, 1.0, 1.25])


@pytest.fixture(
    params=[
        "cpu",
        pytest.param(
            "cuda",
            marks=pytest.mark.skipif(
                not torch.cuda.is_available(), reason="torch finds no CUDA device here"
            ),
        ),
    ]
)
def device(request):
    return request.param


def test_values_gradients_and_products(case, device):
    here, there = case.objective(), case.objective(device=device)
    theta, vector = case.point(), case.point(5)
    assert there.value(theta) == pytest.approx(here.value(theta), rel=1e-11)
    for name in ("gradient", "hvp"):
        arguments = (theta,) if name == "gradient" else (theta, vector)
        found, right = (getattr(cost, name)(*arguments) for cost in (there, here))
        assert found.device.type == device
        torch.testing.assert_close(found.cpu(), right, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_lines_and_planes_by_the_chosen_strategy(case, device, dtype):
    here = case.objective()
    there = case.objective(device=device, dtype=dtype)
    for section, places in (
        (tw.Line(case.point(2), case.point(3)), ALPHA),
        (
            tw.Plane.through(case.point(2), case.point(3), case.point(4)),
            np.array([[0.0, 0.0], [0.5, 0.25], [1.0, -0.5]]),
        ),
    ):
        weights = section.weights(places)
        right = [here.value(section.point(*np.atleast_1d(place))) for place in places]
        found = [row.loss["train"] for row in sweep(there, section, weights, progress=False)]
        rounding = 1e-11 if dtype == torch.float64 else 2e-5
        np.testing.assert_allclose(found, right, rtol=rounding, atol=rounding)


@pytest.mark.parametrize("policy", ["recalibrate", "interpolate", "stored", "batch"])
def test_policies_for_statistics(device, policy):
    def build():
        return nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3)
        )

    ends = [seeded(build, seed) for seed in (1, 2)]
    ends[1][1].running_var *= 3.0
    data = 0.3 + normal(11, 1, 6, 6, seed=3), torch.arange(11) % 3
    losses = []
    for where in ("cpu", device):
        objective = tw.ModelObjective(
            ends[0], nn.CrossEntropyLoss(), data, device=where, batch_norm=policy, batch_size=4
        )
        section = tw.Line(*map(objective.space.flatten, ends))
        rows = sweep(objective, section, section.weights(ALPHA), progress=False)
        losses.append([row.loss["train"] for row in rows])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-10)


def test_masks_are_the_same_at_every_point_and_in_every_run(device):
    model = seeded(lambda: nn.Sequential(nn.Linear(3, 50), nn.Dropout(0.5), nn.Linear(50, 2)), 1)
    data = normal(20, 3, seed=3), torch.arange(20) % 2
    objective = tw.ModelObjective(
        model, nn.CrossEntropyLoss(), data, device=device, dropout=tw.MonteCarlo(3, seed=2)
    )
    theta = objective.space.flatten(model)
    assert objective.value(theta) == objective.value(theta)
    assert objective.value(theta) != pytest.approx(objective.value(theta + 0.5), abs=1e-6)


def test_kept_points_are_found_again_on_the_same_kind_of_device(device, tmp_path):
    model = seeded(lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), 1)
    data = normal(20, 3, seed=3), torch.arange(20) % 2
    found = []
    for _ in range(2):
        objective = tw.ModelObjective(model, nn.CrossEntropyLoss(), data, device=device)
        line = tw.Line(*(normal(26, seed=seed) for seed in (5, 6)))
        found.append(tw.profile(objective, line, ALPHA, keep=tmp_path, progress=False))
    assert found[0].loss["train"].tolist() == found[1].loss["train"].tolist()
    assert found[0].provenance.device.startswith(device)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
def test_fewer_bits_bring_the_error_that_the_result_states(device, precision):
    model = seeded(lambda: nn.Sequential(nn.Linear(30, 40), nn.ReLU(), nn.Linear(40, 5)), 1)
    x, y = normal(64, 30, seed=3).float(), torch.arange(64) % 5
    objective = tw.ModelObjective(
        model.float(), nn.CrossEntropyLoss(), (x, y), device=device, precision=precision
    )
    line = tw.Line(*(0.2 * normal(objective.space.size, seed=seed) for seed in (5, 6)))
    found = tw.profile(objective, line, ALPHA, progress=False)
    exact = tw.profile(objective.in_full_precision(), line, ALPHA, progress=False)
    away = abs(found.loss["train"] - exact.loss["train"])
    stated = found.provenance.objective["precision_error"]["train"]
    assert stated == pytest.approx(max(away[[0, 2, 4]]), rel=1e-2, abs=1e-7)
    assert away.max() < 0.05


def test_the_plan_is_made_on_the_device(device):
    model = seeded(lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), 1)
    data = normal(20, 3, seed=3), torch.arange(20) % 2
    objective = tw.ModelObjective(model, nn.CrossEntropyLoss(), data, device=device)
    line = tw.Line(*(normal(26, seed=seed) for seed in (5, 6)))
    choice = choose(objective, line, line.anchors, line.weights(ALPHA))
    assert choice.strategy.name == "stacked products"
