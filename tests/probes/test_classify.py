"""Kinds of points: known ones, under every symmetry, and what must not pass."""

import math
from functools import partial

import numpy as np
import pytest
import torch

import thalweg as tw
from cases import MODELS, normal
from thalweg import functions
from thalweg.figures import figure_of
from thalweg.results import CriticalPoint

classify = partial(tw.classify, progress=False)

AT = (1.3, -0.7)
KINDS = {
    "bowl": "minimum",
    "saddle": "saddle",
    "quartic_bowl": "minimum",
    "quartic_saddle": "saddle",
    "quartic_hill": "maximum",
    "monkey_saddle": "saddle",
}


@pytest.fixture(params=KINDS)
def name(request):
    return request.param


def moved(name, at=AT, turned=0.0, factor=1.0, shift=0.0, stretch=1.0):
    """Return the closed form as c f(R(θ/s − at)) + d, by automatic differentiation."""
    form = getattr(functions, name)(at, turned)
    return tw.FunctionObjective(lambda t: factor * form.f(t / stretch) + shift, 2)


def test_known_points_have_their_kind(name):
    form = getattr(functions, name)
    for at in (AT, (0.0, 0.0), (100.0, -40.0)):
        for turned in (0.0, 0.9):
            assert classify(form(at, turned), at).kind == KINDS[name]


@pytest.mark.parametrize("factor", [1e-8, 3.0, 1e7])
@pytest.mark.parametrize("shift", [0.0, -5.0, 1e4])
def test_units_and_offset_of_the_cost_do_not_matter(name, factor, shift):
    # The change must stay above the rounding of the offset: 1e4 hides a cost of 1e-8.
    if factor < 1 and shift:
        shift *= factor
    assert classify(moved(name, factor=factor, shift=shift), AT).kind == KINDS[name]


@pytest.mark.parametrize("stretch", [1e-3, 7.0, 1e5])
def test_units_of_the_parameters_do_not_matter(name, stretch):
    at = np.array(AT) * stretch
    assert classify(moved(name, stretch=stretch), at).kind == KINDS[name]
    off = at + stretch * np.array([0.1, 0.2])
    assert classify(moved(name, stretch=stretch), off).kind == "not critical"


@pytest.mark.parametrize("sign", [1, -1])
def test_minima_of_the_negative_are_maxima(name, sign):
    swapped = {"minimum": "maximum", "maximum": "minimum"}
    kind = KINDS[name] if sign > 0 else swapped.get(KINDS[name], KINDS[name])
    assert classify(moved(name, factor=sign), AT).kind == kind


def test_close_to_a_critical_point_is_the_same_kind(name):
    for away in ((1e-9, 0.0), (-3e-8, 1e-8), (0.0, 2e-7)):
        place = np.array(AT) + away
        assert classify(getattr(functions, name)(AT, 0.3), place).kind == KINDS[name]


def test_a_turn_off_a_saddle_of_order_three_is_no_minimum():
    # x² + y³: beside the origin the Hessian is positive, at it there is a way down.
    cubic = tw.FunctionObjective(lambda t: (t[0] - 1) ** 2 + (t[1] - 2) ** 3, 2)
    for away in (0.0, 1e-9, 1e-8, 1e-7, 1e-6):
        assert classify(cubic, [1.0, 2.0 + away]).kind == "saddle"


def test_the_monkey_saddle_has_six_changes_of_sign():
    found = classify(functions.monkey_saddle(AT, 0.2), AT)
    assert found.sign_changes == 6
    assert (found.signs > 0).sum() == (found.signs < 0).sum() == 24
    np.testing.assert_array_equal(found.eigenvalues, 0)
    assert found.index_fraction is None
    assert found.index_interval == (0.0, 1.0)


def test_a_star_of_order_four_has_eight():
    # Re (x + iy)⁴, moved.
    star = tw.FunctionObjective(lambda t: _star(t[0] - 1, t[1] - 2), 2)
    found = classify(star, [1.0, 2.0])
    assert (found.kind, found.sign_changes) == ("saddle", 8)


def _star(x, y):
    return x**4 - 6 * x**2 * y**2 + y**4


def test_the_two_of_lee_differ_in_kind_alone():
    one, other = (getattr(functions, f"quartic_{n}")(AT) for n in ("bowl", "saddle"))
    first, second = classify(one, AT), classify(other, AT)
    np.testing.assert_array_equal(first.eigenvalues, second.eigenvalues)
    assert first.gradient_norm == second.gradient_norm == 0
    assert (first.kind, second.kind) == ("minimum", "saddle")


def test_flat_is_degenerate():
    found = classify(functions.flat(), AT)
    assert (found.kind, found.across) == ("degenerate", "")
    assert classify(functions.flat(5), np.arange(5.0)).kind == "degenerate"


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_a_solution_of_a_chain_is_a_valley_floor(depth):
    w = np.array([2.0, 0.5, -4.0, -0.5, 0.5])[:depth]
    w[-1] = 1 / np.prod(w[:-1])
    found = classify(functions.chain(depth), w)
    assert (found.kind, found.across) == ("degenerate", "minimum")
    assert found.eigenvalues[-1] == pytest.approx(2 * np.sum(w**-2.0))
    assert found.index_interval == (0.0, (depth - 1) / depth)
    # Beside it, where the cost is not yet 0, it is the same.
    search = tw.find_critical_point(functions.chain(depth), w * 1.01, progress=False)
    assert classify(functions.chain(depth), search.theta).kind == "degenerate"


@pytest.mark.parametrize("depth", [3, 4, 5, 10])
def test_the_origin_of_a_chain_is_a_saddle_without_negative_eigenvalues(depth):
    # At depth n the cost is 1 − 2 Π w: n-th order, and too flat to be seen from depth 5 or so.
    found = classify(functions.chain(depth), np.zeros(depth))
    np.testing.assert_array_equal(found.eigenvalues, 0)
    assert found.kind == ("saddle" if depth < 10 else "degenerate")


def test_the_saddle_on_the_axis_of_a_chain():
    found = classify(functions.chain(3), [0.0, 0.0, 1.5])
    np.testing.assert_allclose(found.eigenvalues, [-3, 0, 3], atol=1e-12)
    assert (found.kind, found.index_interval) == ("saddle", (1 / 3, 2 / 3))


# What must not pass


@pytest.mark.parametrize("t", [3.0, 10.0, 30.0, 100.0, 300.0])
def test_far_out_on_separable_data_is_not_critical(t):
    cost = functions.separable_logistic()
    found = classify(cost, [t, t])
    assert found.kind == "not critical"
    if t >= 30:
        assert found.gradient_norm < 1e-12
        # An offset may hide the cost, but not its gradient.
        above = tw.FunctionObjective(lambda x: cost.f(x) + 1, 2)
        assert classify(above, [t, t]).kind == "not critical"


@pytest.mark.parametrize("slope", [1.0, 1e-6, 1e-12])
def test_a_slope_is_not_critical_however_small(slope):
    plain = tw.FunctionObjective(lambda t: 3 + slope * t[0], 2)
    assert classify(plain, AT).kind == "not critical"
    gutter = tw.FunctionObjective(lambda t: slope * t[0] + (t[1] + 0.7) ** 2, 2)
    assert classify(gutter, AT).kind == "not critical"


def test_terraces_and_mountains_have_no_critical_point():
    assert classify(functions.terraces(), [0.0, 0.0]).kind == "not critical"
    assert classify(functions.gaussian_precision(), [1e9]).kind == "not critical"
    for y in (0.0, 10.0, 30.0):
        assert classify(functions.mountain(2), [-0.0579, y]).kind == "not critical"


@pytest.mark.parametrize("share", [1e-3, 1e-6, 1e-9])
def test_a_narrow_saddle_is_no_minimum(share):
    narrow = functions.quadratic(np.diag([1.0, -share, 0.5]), centre=[1.0, 2.0, 3.0])
    found = classify(narrow, [1.0, 2.0, 3.0])
    assert found.kind == "saddle"


def test_rising_along_both_axes_is_not_enough():
    # Peano: (y − x²)(y − 3x²) falls along y = 2x².
    peano = tw.FunctionObjective(
        lambda t: (t[1] - 1 - (t[0] - 2) ** 2) * (t[1] - 1 - 3 * (t[0] - 2) ** 2), 2
    )
    assert classify(peano, [2.0, 1.0]).kind == "saddle"
    hill = tw.FunctionObjective(lambda t: -peano.f(t), 2)
    assert classify(hill, [2.0, 1.0]).kind == "saddle"


def test_a_bent_valley_is_degenerate_and_a_bent_bowl_is_not():
    valley = tw.FunctionObjective(lambda t: (t[1] - (t[0] - 2) ** 2) ** 2, 2)
    assert classify(valley, [2.0, 0.0]).kind == "degenerate"
    bowl = tw.FunctionObjective(lambda t: valley.f(t) + (t[0] - 2) ** 4, 2)
    assert classify(bowl, [2.0, 0.0]).kind == "minimum"


def test_coarse_costs_are_undetermined_rather_than_wrong():
    # x² ± y⁴ on top of a cost whose rounding hides the second term.
    def rounded(t, sign, offset):
        return (t[0] - 1) ** 2 + 1e-9 * sign * (t[1] - 2) ** 4 + offset

    for sign in (1, -1):
        # A thousandth of the curvature across would be seen on top of 1e8, and not on 1e12.
        for offset, kind in ((1e8, "degenerate"), (1e12, "undetermined")):
            coarse = tw.FunctionObjective(partial(rounded, sign=sign, offset=offset), 2)
            found = classify(coarse, [1.0, 2.0])
            assert found.kind == kind
        assert "too coarse to tell" in str(found)


def linear_regression(dtype, exponent):
    """A network J = mean (w₁ − 1)² + s (w₂ − 1)⁴, as the cost of a model."""

    class Powers(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.zeros(2))

        def forward(self, x):
            away = self.w - 1
            return x * away[0] ** 2 + exponent * away[1] ** 4

    data = torch.ones(4, 1), torch.zeros(4, 1)
    return tw.ModelObjective(Powers(), lambda o, y: (o - y).sum(), data, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("strength", "kind"), [(1.0, "minimum"), (-1.0, "saddle")])
def test_models_are_classified_in_their_own_type(dtype, strength, kind):
    cost = linear_regression(dtype, strength)
    assert classify(cost, torch.ones(2)).kind == kind
    assert classify(cost, torch.tensor([1.0, 1.5])).kind == "not critical"


def test_a_model_in_float32_is_never_wrong():
    # A convex cost with a flat direction for each class: what float32 tells may be less than
    # what float64 tells, but is no other kind.
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 3)
    data = normal(60, 3, dtype=torch.float32), torch.arange(60) % 3
    costs = {
        dtype: tw.ModelObjective(model, torch.nn.CrossEntropyLoss(), data, dtype=dtype)
        for dtype in (torch.float64, torch.float32)
    }
    exact = costs[torch.float64]
    search = tw.find_critical_point(exact, exact.space.flatten(model), progress=False)
    assert classify(exact, search.theta).kind == "degenerate"
    assert classify(costs[torch.float32], search.theta).kind in ("degenerate", "undetermined")


def test_the_users_model_is_left_alone():
    model = MODELS["perceptron"].model()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    cost = tw.ModelObjective(model, torch.nn.CrossEntropyLoss(), MODELS["perceptron"].data())
    random = torch.get_rng_state()
    classify(cost, cost.space.flatten(model))
    assert torch.equal(random, torch.get_rng_state())
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


# Many parameters: the ends of the spectrum


def large(lowest):
    """A quadratic of 3000 parameters with a gap at each end of its spectrum."""
    eigenvalues = np.linspace(1.0, 2.0, 3000)
    eigenvalues[:2] = lowest
    centre = np.linspace(-1, 1, 3000)
    return functions.quadratic(eigenvalues, centre), centre


@pytest.mark.parametrize(("lowest", "kind"), [(0.5, "minimum"), (-0.5, "saddle")])
def test_the_ends_of_the_spectrum_decide_where_they_can(lowest, kind):
    cost, centre = large(lowest)
    found = classify(cost, centre, k=3)
    assert found.kind == kind
    assert len(found.eigenvalues) < 100
    assert found.eigenvalues[0] == pytest.approx(lowest, abs=1e-6)
    assert classify(cost, centre + 0.1, k=3).kind == "not critical"


def test_unknown_eigenvalues_in_the_middle_are_undetermined():
    cost, centre = large(0.0)
    found = classify(cost, centre, k=3)
    assert found.kind == "undetermined"
    assert "eigenvalues are unknown" in str(found)
    assert found.index_fraction is None


# Arguments and results


def test_the_length_can_be_given():
    bowl = functions.bowl()
    assert classify(bowl, [1e-3, 0.0]).kind == "not critical"
    assert classify(bowl, [1e-3, 0.0], scale=1e4).kind == "minimum"
    assert classify(bowl, [1e-3, 0.0], tolerance=2.0).kind == "minimum"


def test_bad_arguments_are_named():
    bowl = functions.bowl()
    with pytest.raises(ValueError, match="`tolerance` must be a positive number; got 0"):
        classify(bowl, AT, tolerance=0)
    with pytest.raises(ValueError, match="`scale` must be a positive number; got -1"):
        classify(bowl, AT, scale=-1.0)
    with pytest.raises(ValueError, match="`k` must be 1 or more; got 0"):
        classify(bowl, AT, k=0)
    with pytest.raises(TypeError, match="The first argument is an objective; got Linear"):
        classify(torch.nn.Linear(2, 2), AT)
    with pytest.raises(ValueError, match="must be finite; at this point J is nan"):
        classify(functions.gaussian_precision(), [-1.0])
    with pytest.raises(ValueError, match=r"`kind` must be one of 'minimum'.*; got 'pit'"):
        CriticalPoint("pit", [0.0])


def test_results_are_kept_in_records_and_drawn(tmp_path):
    found = classify(functions.monkey_saddle(AT), AT)
    search = tw.find_critical_point(functions.bowl(AT), (2.0, 1.0), progress=False)
    tw.save_record(tw.Record(study="points", results={"p": found, "s": search}), tmp_path)
    kept = tw.open_record(tmp_path).results
    assert (kept["p"].kind, kept["p"].evidence) == (found.kind, found.evidence)
    assert kept["p"].index_interval == (0.0, 1.0)
    np.testing.assert_array_equal(kept["p"].change, found.change)
    np.testing.assert_array_equal(kept["s"].loss, search.loss)
    figure = figure_of(kept["p"])
    assert figure.title == "A point that is a saddle"
    assert len(figure.panels) == 2
    assert "Its sign changes 6 times" in figure.caption
    panels = figure_of(kept["s"]).panels
    assert [panel.y.label for panel in panels] == ["cost J", "norm"]
    tw.draw(kept["s"], tmp_path / "search.svg")
    assert math.isfinite(found.provenance.seconds)
