"""Closed forms against automatic differentiation, and against what is known of them."""

import math

import numpy as np
import pytest
import torch

import thalweg as tw
from cases import FUNCTIONS, normal
from thalweg import functions
from thalweg.objectives.curvature import curvature

_MATRIX = np.array([[2.0, 1.0, 0.5], [1.0, -3.0, 0.25], [0.5, 0.25, 1.0]])
FORMS = {
    **{
        name: getattr(functions, name)(at=(0.7, -1.2), turned=0.4)
        for name in (
            *("bowl", "saddle", "quartic_bowl", "quartic_saddle", "quartic_hill"),
            *("monkey_saddle", "attractive_saddle"),
        )
    },
    "many_minima": functions.many_minima(),
    "terraces": functions.terraces(),
    "flat": functions.flat(3),
    "mountain-1": functions.mountain(),
    "mountain-2": functions.mountain(2),
    "logistic": functions.separable_logistic([[1.0, 0.5], [0.2, 1.0], [2.0, -0.1]]),
    "precision": functions.gaussian_precision(0.7),
    "precision-0": functions.gaussian_precision(),
    **{f"chain-{depth}": functions.chain(depth) for depth in (1, 2, 3, 5, 10)},
    "quadratic": functions.quadratic(_MATRIX, centre=[1.0, 2.0, -1.0], lowest=0.5),
    "eigenvalues": functions.quadratic([1.0, -2.0, 0.0], centre=[1.0, 2.0, -1.0], lowest=0.5),
}


@pytest.fixture(params=FORMS.values(), ids=FORMS)
def form(request):
    return request.param


@pytest.mark.parametrize("seed", range(3))
def test_derivatives_are_those_of_automatic_differentiation(form, seed):
    size = form.space.size
    theta, vector = normal(size, seed=seed) + 0.3, normal(size, seed=10 + seed)
    if "precision" in form.name:
        theta = theta.abs()
    plain = tw.FunctionObjective(form.f, size)
    torch.testing.assert_close(form.gradient(theta), plain.gradient(theta), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        form.hvp(theta, vector), plain.hvp(theta, vector), rtol=1e-11, atol=1e-11
    )
    assert curvature(form, theta).method == "formula"
    assert curvature(plain, theta).method != "formula"


@pytest.mark.parametrize("depth", [2, 3, 5, 10])
@pytest.mark.parametrize("zeros", [0, 1, 2, 3])
def test_chains_are_exact_where_factors_are_zero(depth, zeros):
    known = FUNCTIONS[f"chain-{depth}"]
    w = known.end.copy()
    w[:zeros] = 0
    chain = functions.chain(depth)
    np.testing.assert_allclose(chain.gradient(w), known.gradient(w), rtol=1e-13, atol=1e-15)
    hessian = np.stack([chain.hvp(w, axis).numpy() for axis in np.eye(depth)])
    np.testing.assert_allclose(hessian, known.hessian(w), rtol=1e-13, atol=1e-15)


def test_a_turned_function_is_the_function_turned():
    at, angle = np.array([0.7, -1.2]), 0.4
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    place = np.array([0.3, 0.9])
    turned, plain = functions.monkey_saddle(at, angle), functions.monkey_saddle()
    assert turned.value(at + turn @ place) == pytest.approx(plain.value(place), rel=1e-13)
    np.testing.assert_allclose(
        turned.gradient(at + turn @ place), turn @ plain.gradient(place).numpy()
    )
    assert float(turned.gradient(at).norm()) == 0


def test_a_diagonal_quadratic_takes_no_matrix():
    size = 1_000_000
    large = functions.quadratic(torch.linspace(-1, 1, size), centre=torch.full((size,), 0.5))
    theta = torch.full((size,), 1.5, dtype=torch.float64)
    torch.testing.assert_close(large.gradient(theta), torch.linspace(-1, 1, size).double())


def test_what_is_known_of_them():
    assert functions.mountain().value([-0.058]) == pytest.approx(0.956, abs=5e-4)
    slopes = [float(functions.mountain().gradient([x])[0]) for x in (-0.0585, -0.0575)]
    assert slopes[0] > 0 > slopes[1]
    # 8 sech²(4), from the formula.
    assert float(-functions.terraces().gradient([0.0, 0.0])[0]) == pytest.approx(
        8 / math.cosh(4) ** 2, rel=1e-12
    )
    far = functions.separable_logistic([[1.0]])
    assert far.value([40.0]) == pytest.approx(math.exp(-40), rel=1e-12)
    assert float(far.gradient([40.0])[0]) == pytest.approx(-math.exp(-40), rel=1e-12)
    assert functions.gaussian_precision().value([1e6]) < -5
    assert functions.attractive_saddle().value([0.0, 1.0]) == -0.25
    assert functions.chain(2).value([2.0, 0.125]) == 0.5625


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"`hessian` must be symmetric; it differs .* by 1"):
        functions.quadratic([[1.0, 1.0], [0.0, 1.0]])
    with pytest.raises(ValueError, match=r"must have shape \(P, P\) or, for eigenvalues, \(P,\)"):
        functions.quadratic(np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"`centre` must have shape \(2,\)"):
        functions.quadratic(np.eye(2), centre=[1.0])
    with pytest.raises(ValueError, match="`at` must hold the two coordinates"):
        functions.bowl(at=(1.0, 2.0, 3.0))
    with pytest.raises(ValueError, match="`size` 1 or 2; got 3"):
        functions.mountain(3)
    with pytest.raises(ValueError, match=r"`margins` must have shape \(examples, P\)"):
        functions.separable_logistic([1.0, 2.0])


def test_a_formula_of_the_wrong_shape_is_named():
    wrong = tw.FunctionObjective(lambda t: t @ t, 2, gradient=lambda t: t[:1], name="bowl")
    with pytest.raises(ValueError, match=r"`gradient` must return .* shape \(2,\); that of 'bowl'"):
        wrong.gradient([1.0, 2.0])
    wrong = tw.FunctionObjective(lambda t: t @ t, 2, hvp=lambda t, v: 2.0)
    with pytest.raises(ValueError, match=r"`hvp` must return .* returns float"):
        wrong.hvp([1.0, 2.0], [1.0, 0.0])
