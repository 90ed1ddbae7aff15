"""Searches for critical points: where each method goes, and what it says when it fails."""

from functools import partial

import numpy as np
import pytest
import torch

import thalweg as tw
from cases import MODELS, normal
from thalweg import functions
from thalweg.objectives.curvature import curvature
from thalweg.probes.local_model import local_model
from thalweg.results import CriticalPointSearch

find = partial(tw.find_critical_point, progress=False)
classify = partial(tw.classify, progress=False)

METHODS = ("newton", "damped-newton", "saddle-free-newton", "gradient-norm")
AT = (1.3, -0.7)
BESIDE = (1.6, -0.6)


def test_newton_takes_one_step_to_the_critical_point_of_any_quadratic():
    for eigenvalues in ([1.0, 2.0, 3.0], [-1.0, 2.0, 3.0], [-1.0, -2.0, -3.0]):
        centre = np.array([1.0, -2.0, 0.5])
        search = find(functions.quadratic(eigenvalues, centre), [3.0, 1.0, 2.0], "newton")
        assert (search.outcome, search.steps) == ("converged", 1)
        np.testing.assert_allclose(search.theta, centre, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("krylov", [None, 2])
def test_all_methods_find_a_minimum_that_is_near(method, krylov):
    form = functions.bowl(AT, 0.4)
    search = find(form, (2.0, 0.5), method, krylov=krylov)
    assert search.converged
    np.testing.assert_allclose(search.theta, AT, atol=2e-6)
    assert classify(form, search.theta).kind == "minimum"


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        ("newton", "saddle"),
        ("gradient-norm", "saddle"),
        ("damped-newton", "minimum"),
        ("saddle-free-newton", "minimum"),
    ],
)
def test_beside_a_saddle_methods_part(method, kind):
    form = functions.attractive_saddle(AT, 0.4)
    search = find(form, BESIDE, method)
    assert search.converged
    assert classify(form, search.theta).kind == kind
    if kind == "minimum":
        assert search.loss[-1] == pytest.approx(-0.25)
        assert np.all(np.diff(search.loss) < 1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_what_has_no_critical_point_does_not_converge(method):
    search = find(functions.separable_logistic(), [1.0, 2.0], method, steps=30)
    assert search.outcome == "not converged"
    assert "30 steps were taken" in search.reason


def test_a_gradient_flat_point_is_no_critical_point():
    # f' = (x − 3)² + 0.1 is least, and not zero, at x = 3, where f'' is zero.
    cubic = tw.FunctionObjective(lambda x: (x[0] - 3) ** 3 / 3 + 0.1 * (x[0] - 3), 1)
    search = find(cubic, [4.0], "gradient-norm")
    assert search.outcome == "gradient-flat point"
    assert "this is no critical point" in search.reason
    assert search.theta[0] == pytest.approx(3, abs=1e-3)
    assert search.gradient_norm[-1] == pytest.approx(0.1)
    assert classify(cubic, search.theta).kind == "not critical"


def test_the_norm_of_the_gradient_falls_in_a_search_for_it():
    search = find(functions.many_minima(), (1.0, 0.5), "gradient-norm")
    assert search.converged
    assert np.all(np.diff(search.gradient_norm) < 0)


@pytest.mark.parametrize("method", METHODS)
def test_degenerate_points_are_found(method):
    form = functions.quartic_bowl(AT, 0.4)
    search = find(form, BESIDE, method)
    assert search.converged
    assert classify(form, search.theta).kind == "minimum"


@pytest.mark.parametrize("factor", [1e-9, 1e9])
@pytest.mark.parametrize("method", METHODS)
def test_units_of_the_cost_do_not_matter(method, factor):
    form = functions.attractive_saddle(AT, 0.4)
    scaled = tw.FunctionObjective(lambda t: factor * form.f(t) + 3 * factor, 2)
    start = BESIDE
    one, other = find(form, start, method), find(scaled, start, method)
    assert one.converged
    assert other.converged
    np.testing.assert_allclose(one.theta, other.theta, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_what_has_converged_is_critical_and_what_is_critical_has_converged(method):
    forms = [functions.chain(3), functions.many_minima(), functions.terraces()]
    forms += [functions.monkey_saddle(AT, 0.3), functions.quartic_saddle(AT)]
    for form in forms:
        for seed in range(3):
            search = find(form, normal(form.space.size, seed=seed) + 0.5, method, steps=40)
            if np.abs(search.theta).max() < 1e6:
                critical = classify(form, search.theta).kind != "not critical"
                assert critical == search.converged


def test_the_way_is_told():
    form = functions.attractive_saddle(AT)
    search = find(form, BESIDE, keep_points=True)
    assert search.points.shape == (search.steps + 1, 2)
    np.testing.assert_allclose(np.linalg.norm(np.diff(search.points, axis=0), axis=1), search.step)
    np.testing.assert_allclose([form.value(p) for p in search.points], search.loss)
    np.testing.assert_allclose(
        [float(form.gradient(p).norm()) for p in search.points], search.gradient_norm
    )
    assert search.products == 2 * (search.steps + 1)
    np.testing.assert_array_equal(search.points[-1], search.theta)


def test_the_krylov_space_of_full_dimension_is_the_whole():
    case = MODELS["perceptron"]
    cost, theta = case.objective(), case.point()
    point = curvature(cost, theta)
    whole, krylov = local_model(point, None), local_model(point, cost.space.size - 1)
    assert krylov.displacement() == pytest.approx(whole.displacement(), rel=0.05)
    # Ritz values lie between the ends of the spectrum, and reach them.
    assert float(krylov.eigenvalues[-1]) == pytest.approx(float(whole.eigenvalues[-1]), rel=1e-6)
    residual = krylov.images @ krylov.vectors.T - torch.diag(krylov.eigenvalues)
    assert float(residual.abs().max()) < 1e-9


def test_a_krylov_space_is_enough_for_many_parameters():
    eigenvalues = np.concatenate([np.linspace(1, 2, 2998), [-1.0, -0.5]])
    centre = np.linspace(-1, 1, 3000)
    start = centre + 0.1 * normal(3000, seed=1).numpy()
    cost = functions.quadratic(eigenvalues, centre)
    search = find(cost, start, "gradient-norm", krylov=20)
    assert search.converged
    assert np.linalg.norm(search.theta - centre) <= 1e-4 * np.linalg.norm(centre)
    assert search.products <= 21 * (search.steps + 1)


def test_a_convex_model_is_solved():
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    x = normal(40, 3)
    y = x @ torch.tensor([[1.0], [2.0], [-1.0]], dtype=torch.float64) + 0.5 + normal(40, 1, seed=5)
    for dtype, close in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        cost = tw.ModelObjective(model, torch.nn.MSELoss(), (x, y), dtype=dtype)
        search = find(cost, cost.space.flatten(model))
        assert search.converged
        design = np.column_stack([x, np.ones(40)])
        solved = np.linalg.lstsq(design, y.numpy()[:, 0], rcond=None)[0]
        np.testing.assert_allclose(search.theta, solved, atol=close)
        assert classify(cost, search.theta).kind == "minimum"


def test_a_start_at_a_critical_point_is_an_end():
    search = find(functions.saddle(AT), AT)
    assert (search.outcome, search.steps, len(search.loss)) == ("converged", 0, 1)


def test_a_search_that_leaves_the_finite_says_so():
    root = tw.FunctionObjective(lambda x: x[0].log() * x[0], 1)
    search = find(root, [5.0], "newton")
    assert search.outcome == "not converged"
    assert "not finite" in search.reason


def test_bad_arguments_are_named():
    bowl = functions.bowl()
    with pytest.raises(ValueError, match=r"`method` must be one of 'newton'.*; got 'adam'"):
        find(bowl, AT, "adam")
    with pytest.raises(ValueError, match="`steps` must be 1 or more; got 0"):
        find(bowl, AT, steps=0)
    with pytest.raises(ValueError, match="`krylov` must be 1 or more; got 0"):
        find(bowl, AT, krylov=0)
    with pytest.raises(ValueError, match="`tolerance` must be a positive number; got nan"):
        find(bowl, AT, tolerance=float("nan"))
    with pytest.raises(TypeError, match="The first argument is an objective; got list"):
        find([1.0], AT)
    with pytest.raises(ValueError, match=r"`outcome` must be one of .*; got 'lost'"):
        CriticalPointSearch([0.0], [1.0], [1.0], outcome="lost")
