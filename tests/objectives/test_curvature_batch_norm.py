"""Second derivatives under each policy of batch normalisation, against differences of the value."""

import copy

import pytest
import torch
from torch import nn

import thalweg as tw
from cases import classes, normal, seeded
from thalweg.objectives import pieces
from thalweg.objectives.curvature import curvature

LOSS = nn.CrossEntropyLoss()
DATA = 0.3 + normal(11, 3, seed=3), classes(11, count=3, seed=4)


def build():
    return nn.Sequential(
        nn.Linear(3, 4),
        nn.BatchNorm1d(4),
        nn.Tanh(),
        nn.Linear(4, 4, bias=False),
        nn.BatchNorm1d(4, affine=False),
        nn.Sigmoid(),
        nn.Linear(4, 3),
    )


def model_of(seed):
    model = seeded(build, seed)
    with torch.no_grad():
        for module in model:
            if isinstance(module, nn.BatchNorm1d):
                module.running_mean += 0.2
                module.running_var *= 1.7
                if module.affine:
                    module.weight += 0.3
                    module.bias -= 0.2
    return model


def objective_of(policy, **options):
    options = {"batch_size": 4} | options
    if policy == "batch":
        options["batch_size"] = 6
    return tw.ModelObjective(model_of(1), LOSS, DATA, batch_norm=policy, **options)


@pytest.mark.parametrize("policy", ["stored", "interpolate", "batch", "recalibrate"])
@pytest.mark.parametrize("dropout", [None, tw.MonteCarlo(2)], ids=["", "dropout"])
def test_is_the_second_difference_of_the_value(policy, dropout):
    objective = objective_of(policy, dropout=dropout)
    theta = objective.space.flatten(model_of(2))
    found = curvature(objective, theta)
    u = normal(found.size, seed=41)
    h = 1e-3

    def value(step):
        # What `interpolate` needs rides on the point, so the step is made in place.
        return objective.value(objective.space.flatten(model_of(2)).add_(step * u))

    values = {step: value(step * h) for step in range(-3, 4)}
    # Central differences of sixth order: truncation h⁶, rounding 1e-16 / h².
    slope = sum(c * (values[k] - values[-k]) for k, c in ((1, 45), (2, -9), (3, 1))) / (60 * h)
    bend = sum(c * (values[k] + values[-k]) for k, c in ((1, 270), (2, -27), (3, 2)))
    bend = (bend - 490 * values[0]) / (180 * h * h)
    assert found.value == pytest.approx(values[0], rel=1e-12)
    assert float(found.gradient @ u) == pytest.approx(slope, rel=1e-7, abs=1e-10)
    assert float(u @ found.product(u)) == pytest.approx(bend, rel=1e-6, abs=1e-8)
    dense = found.products(torch.eye(found.size))
    torch.testing.assert_close(dense, dense.T, rtol=1e-9, atol=1e-11)


def test_recalibrated_statistics_do_not_depend_on_the_batches():
    theta = objective_of("recalibrate").space.flatten(model_of(2))
    dense = [
        curvature(objective_of("recalibrate", batch_size=size), theta).dense() for size in (3, 11)
    ]
    torch.testing.assert_close(*dense, rtol=1e-10, atol=1e-12)


def test_what_recalibration_undoes_has_no_curvature():
    """A bias before a normalisation layer moves nothing once statistics follow it."""
    objective = objective_of("recalibrate")
    theta = objective.space.flatten(model_of(2))
    block = next(b for b in objective.space.blocks if b.name == "0.bias")
    found = curvature(objective, theta).dense()[block.start : block.stop]
    assert float(found.abs().max()) < 1e-13
    stored = curvature(objective_of("stored"), theta).dense()[block.start : block.stop]
    assert float(stored.abs().max()) > 1e-3


def test_gauss_newton_goes_through_the_statistics():
    objective = objective_of("recalibrate")
    theta = objective.space.flatten(model_of(2))
    found = curvature(objective, theta, kind="gauss-newton")
    # With all data in one batch in training mode, but for the unbiased variance: nearly the same.
    whole = tw.ModelObjective(model_of(1), LOSS, DATA, batch_norm="batch")
    near = curvature(whole, theta, kind="gauss-newton").dense()
    assert float((found.dense() - near).norm()) < 0.25 * float(near.norm())
    eigenvalues = torch.linalg.eigvalsh(found.dense())
    assert eigenvalues[0] > -1e-12 * eigenvalues[-1]


def test_statistics_are_left_as_they_were():
    model = model_of(1)
    before = copy.deepcopy(model.state_dict())
    for policy in ("stored", "batch", "recalibrate"):
        objective = tw.ModelObjective(model, LOSS, DATA, batch_norm=policy)
        kept = copy.deepcopy(objective.forward_pass.state_dict())
        theta = objective.space.flatten(model_of(2))
        found = curvature(objective, theta)
        assert torch.equal(found.product(theta), found.product(theta))
        assert all(torch.equal(t, kept[n]) for n, t in objective.forward_pass.state_dict().items())
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


def test_recalibration_holds_all_batches(monkeypatch):
    streamed = objective_of("recalibrate", stream=True)
    theta = objective_of("recalibrate").space.flatten(model_of(2))
    with pytest.raises(ValueError, match=r"hold all batches at once; split 'train' is streamed"):
        streamed.gradient(theta)
    monkeypatch.setattr(pieces, "memory_for_graphs", lambda device: 1000)
    with pytest.raises(ValueError, match=r"0 MiB are to be had. Use batch_norm='stored' or"):
        objective_of("recalibrate").gradient(theta)


def test_layers_of_another_class_are_refused():
    class Own(nn.BatchNorm1d):
        def forward(self, x):
            return super().forward(x) * 2

    def own():
        return nn.Sequential(nn.Linear(3, 3), Own(3))

    objective = tw.ModelObjective(seeded(own, 1), LOSS, DATA)
    with pytest.raises(ValueError, match=r"layers of torch.nn; '1' is a Own. Use batch_norm='st"):
        objective.gradient(objective.space.flatten(seeded(own, 2)))
