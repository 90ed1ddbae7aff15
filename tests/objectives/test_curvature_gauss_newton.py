"""The Gauss-Newton matrix against Jᵀ H J with all three matrices dense."""

import pytest
import torch
from torch import nn

import thalweg as tw
from cases import MODELS, full_batch, normal, seeded
from thalweg.objectives.curvature import curvature

NAMES = ["perceptron", "tied", "frozen", "unused", "weighted", "sequences", "regression", "binary"]


def dense_gauss_newton(case, theta):
    """Return Jᵀ H J over all of the data as one batch, from dense J and H."""
    model, (x, y) = case.at(theta).requires_grad_(False), case.data()
    names = [n for n, p in case.model().named_parameters() if p.requires_grad]
    shapes = {n: p.shape for n, p in model.named_parameters()}

    def output(point):
        parts = point.split([shapes[n].numel() for n in names])
        tensors = {n: part.view(shapes[n]) for n, part in zip(names, parts, strict=True)}
        return torch.func.functional_call(model, tensors, (x,))

    z = output(theta)
    jacobian = torch.autograd.functional.jacobian(output, theta).reshape(-1, len(theta))
    loss = case.loss("mean").double()
    hessian = torch.autograd.functional.hessian(
        lambda flat: loss(flat.view(z.shape), y), z.flatten()
    )
    return jacobian.T @ hessian @ jacobian


@pytest.mark.parametrize("memory", [None, 0], ids=["kept", "anew"])
@pytest.mark.parametrize("name", NAMES)
def test_is_that_of_dense_matrices(name, memory):
    case = MODELS[name]
    theta, objective = case.point(), case.objective(batch_size=4)
    found = curvature(objective, theta, kind="gauss-newton", memory=memory)
    dense = found.dense()
    torch.testing.assert_close(dense, dense_gauss_newton(case, theta), rtol=1e-10, atol=1e-12)
    eigenvalues = torch.linalg.eigvalsh(dense)
    assert eigenvalues[0] > -1e-13 * eigenvalues[-1]  # convex losses
    assert found.value == pytest.approx(objective.value(theta), rel=1e-13)
    torch.testing.assert_close(found.gradient, objective.gradient(theta), rtol=1e-11, atol=1e-14)


def test_is_the_hessian_where_the_model_is_linear_in_theta():
    case = MODELS["perceptron"]
    x, y = case.data()
    model = seeded(lambda: nn.Linear(3, 3), 1)
    objective = tw.ModelObjective(model, nn.CrossEntropyLoss(), (x, y), batch_size=4)
    theta = objective.space.flatten(seeded(lambda: nn.Linear(3, 3), 2))
    found, hessian = (curvature(objective, theta, kind=k) for k in ("gauss-newton", "hessian"))
    torch.testing.assert_close(found.dense(), hessian.dense(), rtol=1e-11, atol=1e-14)


def test_is_not_the_hessian_elsewhere():
    case = MODELS["perceptron"]
    found = curvature(case.objective(), case.point(), kind="gauss-newton").dense()
    hessian = torch.autograd.functional.hessian(full_batch(case), case.point())
    assert float((found - hessian).norm()) > 0.1 * float(hessian.norm())


def test_restricted_and_with_a_penalty():
    case = MODELS["perceptron"]
    theta = case.point()
    objective = case.objective(
        batch_size=4, penalty=lambda t: 0.5 * sum((p**3).sum() for p in t.values())
    )
    found = curvature(objective, theta, kind="gauss-newton", within="2")
    whole = dense_gauss_newton(case, theta) + torch.diag(3 * theta)
    torch.testing.assert_close(found.dense(), whole[16:, 16:], rtol=1e-10, atol=1e-12)


def test_a_loss_that_is_no_function_of_the_output():
    case = MODELS["perceptron"]

    def step(model, batch):
        x, y = batch
        return nn.functional.cross_entropy(model(x), y, reduction="sum"), torch.tensor(len(y))

    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x):
            return {"logits": self.layer(x), "extra": x}

    alone = tw.ModelObjective(case.model(), step, case.data())
    with pytest.raises(ValueError, match=r"calls the model itself. Pass a loss `\(output, target"):
        curvature(alone, case.point(), kind="gauss-newton")
    model = seeded(Named, 1)
    own = tw.ModelObjective(model, lambda out, y: out["logits"][:, 0].mean(), case.data())
    with pytest.raises(ValueError, match=r"a loss of one tensor; the model returns dict, of which"):
        curvature(own, own.space.flatten(model), kind="gauss-newton")
    torchs = tw.ModelObjective(model, nn.CrossEntropyLoss(), case.data())
    theta = torchs.space.flatten(model)
    found, hessian = (curvature(torchs, theta, kind=k) for k in ("gauss-newton", "hessian"))
    torch.testing.assert_close(found.dense(), hessian.dense(), rtol=1e-11, atol=1e-14)
    formula = tw.FunctionObjective(lambda t: t.prod(), 2)
    with pytest.raises(ValueError, match=r"a FunctionObjective has none. Use kind='hessian'"):
        curvature(formula, [1.0, 2.0], kind="gauss-newton")
    with pytest.raises(ValueError, match=r"computed by 'double backward'; got method='finite"):
        curvature(torchs, theta, kind="gauss-newton", method="finite differences")


def test_single_precision():
    case = MODELS["perceptron"]
    exact = curvature(case.objective(), case.point(), kind="gauss-newton")
    objective = case.objective(dtype=torch.float32)
    single = curvature(objective, case.point().float(), kind="gauss-newton")
    vector = normal(31, seed=33)
    away = single.product(vector.float()).double() - exact.product(vector)
    assert float(away.norm()) < 1e-5 * float(exact.dense().norm() * vector.norm())
