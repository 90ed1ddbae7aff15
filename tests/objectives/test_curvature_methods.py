"""Ways to second derivatives: each against the dense Hessian, and which is taken when."""

import numpy as np
import pytest
import torch
from torch import nn

import thalweg as tw
from cases import FUNCTIONS, MODELS, classes, full_batch, normal, seeded
from thalweg.objectives.curvature import curvature


class _Cube(torch.autograd.Function):
    """x³ with a backward pass in plain torch, which can be differentiated again."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, slope):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * slope


class _CubeOnce(_Cube):
    """x³ that says that its backward pass cannot be differentiated."""

    backward = staticmethod(torch.autograd.function.once_differentiable(_Cube.backward))


class _CubeWrong(_Cube):
    """x³ whose backward pass uses a number without a graph: wrong, and silently so."""

    @staticmethod
    def backward(ctx, slope):
        (x,) = ctx.saved_tensors
        return 3 * x.detach() ** 2 * slope


class _CubeForward(torch.autograd.Function):
    """x³ with a forward derivative, and a backward pass that cannot be differentiated."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        ctx.save_for_forward(x)
        return x**3

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, slope):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * slope

    @staticmethod
    def jvp(ctx, rate):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * rate


class Cubed(nn.Module):
    def __init__(self, function=None):
        super().__init__()
        self.first, self.second, self.function = nn.Linear(3, 4), nn.Linear(4, 3), function

    def forward(self, x):
        hidden = self.first(x)
        return self.second(hidden**3 if self.function is None else self.function.apply(hidden))


DATA = 0.3 + normal(7, 3, seed=3), classes(7, count=3, seed=4)


def cubed(function=None, **options):
    model = seeded(lambda: Cubed(function), 1)
    objective = tw.ModelObjective(model, nn.CrossEntropyLoss(), DATA, batch_size=4, **options)
    return objective, objective.space.flatten(seeded(lambda: Cubed(function), 2))


def test_forward_over_reverse_is_the_dense_hessian():
    for name in ("perceptron", "tied", "weighted", "convolution"):
        case = MODELS[name]
        theta, objective = case.point(), case.objective(batch_size=4)
        found = curvature(objective, theta, method="forward over reverse")
        hessian = torch.autograd.functional.hessian(full_batch(case), theta)
        torch.testing.assert_close(found.dense(), hessian, rtol=1e-10, atol=1e-12)
        assert found.method == "forward over reverse"
        assert found.error is None


@pytest.mark.parametrize("name", ["chain-3", "quadratic-3"])
def test_ways_agree_on_formulas(name):
    known = FUNCTIONS[name]
    for method in ("double backward", "forward over reverse", "finite differences"):
        found = curvature(known.objective, known.start, method=method)
        tolerance = 1e-11 if found.error is None else 1e-7
        np.testing.assert_allclose(
            found.dense(), known.hessian(known.start), rtol=tolerance, atol=tolerance
        )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_finite_differences_say_how_far_off_they_are(dtype):
    case = MODELS["regression"]
    theta = case.point()
    exact = curvature(case.objective(batch_size=4), theta)
    objective = case.objective(batch_size=4, dtype=dtype)
    found = curvature(objective, theta.to(dtype), method="finite differences")
    vector = normal(exact.size, seed=31)
    right = exact.product(vector)
    away = float((found.product(vector.to(dtype)).double() - right).norm() / right.norm())
    assert found.error is not None
    assert away < 3 * found.error
    # ε^(2/3): what a step of ε^(1/3) leaves of truncation and of rounding, some dozen times over.
    assert found.error < 30 * torch.finfo(dtype).eps ** (2 / 3)
    assert found.method == "central finite differences of gradients"
    assert torch.count_nonzero(found.product(torch.zeros(exact.size))) == 0


def test_finite_differences_converge_as_the_square_of_the_step():
    from thalweg.objectives.finite_differences import difference

    known = FUNCTIONS["chain-3"]
    theta = torch.from_numpy(known.start)
    vector = normal(3, seed=32)
    right = torch.from_numpy(known.hessian(known.start)) @ vector
    errors = [
        float(
            (
                difference(
                    lambda t: torch.from_numpy(known.gradient(t[0].detach().numpy())),
                    [theta],
                    [vector],
                    widen,
                )
                - right
            ).norm()
        )
        for widen in (2000.0, 1000.0)
    ]
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.05)


@pytest.mark.parametrize(
    ("function", "method"),
    [
        (_Cube, "double backward"),
        (_CubeForward, "forward over reverse (double backward fails: _CubeForward forbids"),
        (
            _CubeOnce,
            "central finite differences of gradients (double backward fails: _CubeOnce",
        ),
        (
            _CubeWrong,
            "central finite differences of gradients (double backward fails: the second "
            "derivative of _CubeWrong is not that of its first",
        ),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_way_is_found_out_and_reported(function, method, dtype):
    plain, theta = cubed()
    objective, _ = cubed(function, dtype=dtype)
    found = curvature(objective, theta.to(dtype))
    assert found.method.startswith(method)
    right = curvature(plain, theta).dense()
    exact = found.error is None
    tolerance = {torch.float64: 1e-12 if exact else 1e-7, torch.float32: 1e-5 if exact else 2e-3}
    scale = float(right.abs().max())
    torch.testing.assert_close(found.dense(), right, rtol=0, atol=tolerance[dtype] * scale)
    vector = torch.ones(len(theta), dtype=dtype)
    assert torch.equal(objective.hvp(theta.to(dtype), vector), found.product(vector))


def test_a_wrong_second_derivative_would_be_taken_without_the_comparison():
    objective, theta = cubed(_CubeWrong)
    leaves = objective.space.unflatten(theta.clone())
    leaves = {name: tensor.requires_grad_() for name, tensor in leaves.items()}
    model = seeded(lambda: Cubed(_CubeWrong), 1)
    out = torch.func.functional_call(model, leaves, (DATA[0],))
    cost = nn.functional.cross_entropy(out, DATA[1])
    gradients = torch.autograd.grad(cost, list(leaves.values()), create_graph=True)
    slope = sum(gradient.sum() for gradient in gradients)
    products = torch.autograd.grad(slope, list(leaves.values()))  # without an error
    wrong = torch.cat([product.reshape(-1) for product in products])
    right = curvature(objective, theta).product(torch.ones_like(theta))
    assert float((wrong - right).norm()) > 0.1 * float(right.norm())


def test_a_way_that_is_not_to_be_had():
    objective, theta = cubed(_CubeOnce)
    for method in ("double backward", "forward over reverse"):
        with pytest.raises(ValueError, match=rf"{method}' needs .*leave `method` out"):
            curvature(objective, theta, method=method)
    with pytest.raises(ValueError, match=r"'double backward' needs operators that have"):
        curvature(objective, theta, kind="gauss-newton")
