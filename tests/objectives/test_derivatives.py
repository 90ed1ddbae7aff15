import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import thalweg as tw
from cases import MODELS, full_batch, normal, perceptron, seeded

LOSS = nn.CrossEntropyLoss()


@pytest.mark.parametrize("batch_size", [1, 4, 11])
def test_gradient_is_that_of_the_full_batch(case, batch_size):
    theta = case.point()
    gradient = case.objective(batch_size=batch_size).gradient(theta)
    torch.testing.assert_close(
        gradient, torch.func.grad(full_batch(case))(theta), rtol=1e-11, atol=1e-13
    )


@pytest.mark.parametrize("batch_size", [4, 11])
def test_hvp_is_that_of_the_dense_hessian(case, batch_size):
    theta = case.point()
    with sdpa_kernel(SDPBackend.MATH):
        hessian = torch.func.jacrev(torch.func.grad(full_batch(case)))(theta)
    objective = case.objective(batch_size=batch_size)
    for seed in (13, 14):
        vector = normal(objective.space.size, seed=seed)
        torch.testing.assert_close(
            objective.hvp(theta, vector), hessian @ vector, rtol=1e-10, atol=1e-12
        )


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_hvp_is_that_of_torchs_hessian():
    case = MODELS["tied"]
    theta = case.point()
    objective = case.objective(batch_size=4)
    vector = normal(objective.space.size, seed=13)
    hessian = torch.func.hessian(full_batch(case))(theta)
    torch.testing.assert_close(
        objective.hvp(theta, vector), hessian @ vector, rtol=1e-10, atol=1e-12
    )


def test_hvp_is_symmetric_and_linear(case):
    theta, objective = case.point(), case.objective(batch_size=4)
    u, v = (normal(objective.space.size, seed=seed) for seed in (15, 16))
    hu, hv = objective.hvp(theta, u), objective.hvp(theta, v)
    assert float(u @ hv) == pytest.approx(float(v @ hu), rel=1e-9, abs=1e-12)
    torch.testing.assert_close(objective.hvp(theta, 2 * u - v), 2 * hu - hv, rtol=1e-9, atol=1e-12)


def test_gradient_is_the_slope_of_the_value():
    case = MODELS["sequences"]
    theta, objective = case.point(), case.objective(batch_size=4)
    direction = normal(objective.space.size, seed=17)
    h = 1e-5
    slope = (objective.value(theta + h * direction) - objective.value(theta - h * direction)) / (
        2 * h
    )
    assert float(objective.gradient(theta) @ direction) == pytest.approx(slope, rel=1e-8)


def test_derivatives_keep_type_and_shape(case):
    objective = case.objective(dtype=torch.float32)
    theta = case.point(dtype=torch.float32)
    for derivative in (objective.gradient(theta), objective.hvp(theta, theta)):
        assert derivative.dtype == torch.float32
        assert derivative.shape == (objective.space.size,)
        assert not derivative.requires_grad


def test_a_parameter_that_no_pass_reaches_has_gradient_zero():
    case = MODELS["unused"]
    objective = case.objective()
    gradient = objective.space.unflatten(objective.gradient(case.point()))
    assert torch.count_nonzero(gradient["idle.weight"]) == 0
    assert torch.count_nonzero(gradient["head.weight"]) > 0
    vector = torch.ones(objective.space.size, dtype=torch.float64)
    product = objective.space.unflatten(objective.hvp(case.point(), vector))
    assert torch.count_nonzero(product["idle.bias"]) == 0


def test_a_cost_that_does_not_move_has_derivative_zero(classification):
    objective = tw.ModelObjective(
        seeded(perceptron, 1), lambda out, y: (y * 1.0).mean(), classification
    )
    theta = objective.space.flatten(seeded(perceptron, 2))
    assert torch.count_nonzero(objective.gradient(theta)) == 0
    assert torch.count_nonzero(objective.hvp(theta, theta)) == 0


def test_a_cost_that_is_linear_has_curvature_zero(classification):
    x, y = classification
    model = seeded(lambda: nn.Linear(3, 1), 1)
    objective = tw.ModelObjective(model, lambda out, y: out.mean(), (x, y))
    theta = objective.space.flatten(model)
    torch.testing.assert_close(objective.gradient(theta), torch.cat([x.mean(0), torch.ones(1)]))
    assert torch.count_nonzero(objective.hvp(theta, theta)) == 0


def test_a_penalty_is_added_once_to_the_first_split():
    case = MODELS["tied"]
    theta = case.point()
    data = {"train": case.data(), "valid": case.data()}

    def decay(tensors):
        return 0.5 * sum((t**3).sum() for t in tensors.values())

    bare = tw.ModelObjective(case.model(), LOSS, data, batch_size=3)
    objective = tw.ModelObjective(case.model(), LOSS, data, batch_size=3, penalty=decay)
    extra = float(0.5 * (theta**3).sum())
    plain, penalised = bare.evaluate(theta), objective.evaluate(theta)
    assert penalised.loss["train"] == pytest.approx(plain.loss["train"] + extra, rel=1e-12)
    assert penalised.loss["valid"] == plain.loss["valid"]
    assert objective.value(theta) == penalised.loss["train"]
    vector = normal(objective.space.size, seed=18)
    torch.testing.assert_close(
        objective.gradient(theta), bare.gradient(theta) + 1.5 * theta**2, rtol=1e-11, atol=0
    )
    torch.testing.assert_close(
        objective.hvp(theta, vector),
        bare.hvp(theta, vector) + 3 * theta * vector,
        rtol=1e-11,
        atol=1e-13,
    )


def test_a_penalty_may_be_a_plain_number():
    case = MODELS["perceptron"]
    theta = case.point()
    objective = case.objective(penalty=lambda tensors: 0.1)
    assert objective.value(theta) == pytest.approx(case.objective().value(theta) + 0.1, rel=1e-14)
    torch.testing.assert_close(objective.gradient(theta), case.objective().gradient(theta))
