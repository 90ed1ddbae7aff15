import numpy as np
import pytest
import torch

import thalweg as tw
from cases import FUNCTIONS


@pytest.fixture(params=FUNCTIONS.values(), ids=FUNCTIONS)
def known(request):
    return request.param


@pytest.fixture(params=["start", "end"])
def theta(request, known):
    return getattr(known, request.param)


def test_value_gradient_and_hessian_are_those_of_the_formula(known, theta):
    objective = known.objective
    scale = 1 + abs(known.value(theta))
    assert objective.value(theta) == pytest.approx(known.value(theta), rel=1e-13, abs=1e-14)
    np.testing.assert_allclose(
        objective.gradient(theta), known.gradient(theta), rtol=1e-12, atol=1e-12 * scale
    )
    hessian = np.stack([objective.hvp(theta, e).numpy() for e in np.eye(len(theta))])
    np.testing.assert_allclose(hessian, known.hessian(theta), rtol=1e-11, atol=1e-12 * scale)


def test_evaluation_is_the_value_of_the_one_split(known, theta):
    evaluation = known.objective.evaluate(torch.from_numpy(theta))
    assert evaluation.loss == {"train": known.objective.value(theta)}
    assert (evaluation.metrics, evaluation.samples) == ({}, {})


def test_the_origin_of_the_chains_is_a_saddle():
    # Experiment D1: eigenvalues ±2 for two factors, a zero Hessian for three at the origin,
    # ±2k and 0 at (0, 0, k).
    def eigenvalues(name, place):
        objective = FUNCTIONS[name].objective
        return np.linalg.eigvalsh(np.stack([objective.hvp(place, e) for e in np.eye(len(place))]))

    np.testing.assert_allclose(eigenvalues("chain-2", [0.0, 0.0]), [-2, 2])
    np.testing.assert_array_equal(eigenvalues("chain-3", [0.0, 0.0, 0.0]), 0)
    np.testing.assert_allclose(eigenvalues("chain-3", [0.0, 0.0, 1.5]), [-3, 0, 3], atol=1e-12)


def test_a_solution_of_a_chain_has_one_eigenvalue():
    w = np.array([2.0, 0.25, -1.0, -4.0, 0.5])
    objective = FUNCTIONS["chain-5"].objective
    hessian = np.stack([objective.hvp(w, e) for e in np.eye(5)])
    assert objective.value(w) == 0
    np.testing.assert_allclose(
        np.linalg.eigvalsh(hessian), [0, 0, 0, 0, 2 * np.sum(w**-2)], atol=1e-9
    )


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.DoubleTensor])
def test_points_keep_float64(kind):
    objective = tw.FunctionObjective(lambda t: t[0], size=2, start=kind([0.1, 0.7]))
    assert objective.value(kind([0.1, 0.7])) == 0.1
    assert objective.start.tolist() == [0.1, 0.7]


def test_the_default_type_does_not_matter():
    objective = FUNCTIONS["quadratic-3"].objective
    theta = [0.1, 0.2, 0.7]
    before = objective.value(theta)
    torch.set_default_dtype(torch.float64)
    try:
        assert objective.value(theta) == before
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_point_given_read_only_is_no_reason_to_warn():
    theta = np.array([1.0, 2.0, 0.5])
    theta.flags.writeable = False
    assert FUNCTIONS["quadratic-3"].objective.value(theta) == pytest.approx(
        FUNCTIONS["quadratic-3"].value(theta)
    )


def test_the_point_and_its_gradient_are_left_alone():
    theta = torch.tensor([1.5, 0.5], dtype=torch.float64, requires_grad=True)
    objective = FUNCTIONS["chain-2"].objective
    objective.value(theta), objective.gradient(theta), objective.hvp(theta, theta)
    assert theta.grad is None
    assert theta.tolist() == [1.5, 0.5]


@pytest.mark.parametrize("context", [torch.inference_mode, torch.no_grad])
def test_derivatives_whatever_the_context(context):
    known = FUNCTIONS["chain-3"]
    with context():
        gradient = known.objective.gradient(torch.tensor(known.start))
        product = known.objective.hvp(torch.tensor(known.start), torch.ones(3))
    np.testing.assert_allclose(gradient, known.gradient(known.start), rtol=1e-12)
    np.testing.assert_allclose(product, known.hessian(known.start).sum(1), rtol=1e-12)


def test_linear_constant_and_partly_unused_functions_have_derivatives():
    linear = tw.FunctionObjective(lambda t: 3 * t[0] - 1, size=2)
    assert linear.gradient([0.4, 0.6]).tolist() == [3, 0]
    assert linear.hvp([0.4, 0.6], [1.0, 1.0]).tolist() == [0, 0]
    constant = tw.FunctionObjective(lambda t: torch.tensor(4.5), size=2)
    assert constant.value([0.4, 0.6]) == 4.5
    assert constant.gradient([0.4, 0.6]).tolist() == [0, 0]
    assert constant.hvp([0.4, 0.6], [1.0, 1.0]).tolist() == [0, 0]
    partial = tw.FunctionObjective(lambda t: t[1] ** 3, size=2)
    assert partial.hvp([0.4, 0.5], [1.0, 1.0]).tolist() == [0, 3]


def test_values_that_are_not_finite_are_values():
    objective = tw.FunctionObjective(lambda t: t.log().sum(), size=1)
    assert np.isnan(objective.value([-1.0]))
    assert objective.value([0.0]) == -np.inf


def test_a_plain_number_keeps_float64():
    objective = tw.FunctionObjective(lambda t: 0.1 + t[0].item(), size=1)
    assert objective.value([0.2]) == 0.1 + 0.2


def test_the_name_is_that_of_the_function_unless_given():
    def rosenbrock(t):
        return (1 - t[0]) ** 2 + 100 * (t[1] - t[0] ** 2) ** 2

    assert tw.FunctionObjective(rosenbrock, 2).describe() == {
        "function": "rosenbrock",
        "parameters": 2,
    }
    assert tw.FunctionObjective(rosenbrock, 2, name="valley").describe()["function"] == "valley"


def test_the_check_of_a_formula_passes():
    FUNCTIONS["chain-2"].objective.check(torch.ones(2))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: tw.FunctionObjective("x", 2), TypeError, "A function of θ is needed; got str"),
        (lambda: tw.FunctionObjective(torch.sum, 0), ValueError, "`size` must be 1 or more; got 0"),
        (
            lambda: tw.FunctionObjective(torch.sum, 2, start=[1.0]),
            tw.ParameterMismatchError,
            r"start must have shape \(2,\).*got \(1,\)",
        ),
        (
            lambda: tw.FunctionObjective(lambda t: t**2, 2).value([1.0, 2.0]),
            ValueError,
            r"must return one number.*shape \(2,\)\. Add `.sum\(\)`",
        ),
        (
            lambda: tw.FunctionObjective(lambda t: t[0].item(), 1).gradient([1.0]),
            TypeError,
            "must return a tensor where derivatives.*returns a float. Leave out",
        ),
        (
            lambda: tw.FunctionObjective(torch.sum, 2).value([1.0, float("nan")]),
            ValueError,
            "θ must be finite; entry 1 is nan",
        ),
        (
            lambda: tw.FunctionObjective(torch.sum, 2).hvp([1.0, 2.0], [1.0]),
            tw.ParameterMismatchError,
            r"vector must have shape \(2,\)",
        ),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
