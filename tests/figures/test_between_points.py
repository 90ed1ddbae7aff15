"""What lies between the points, and how sure it is, is drawn and said."""

from dataclasses import replace

import numpy as np

from thalweg.figures import figure_of
from thalweg.figures.draw import render
from thalweg.interpolation import fit_curve, fit_sheet
from thalweg.results import Estimate, Interpolation, Profile, Provenance, Surface

NODES = np.array([-0.5, -0.3, 0.1, 0.4, 0.9, 1.5])


def adaptive(**changes):
    loss = 0.5 + (NODES - 1.0) ** 2
    curve = fit_curve(NODES, loss)
    between = Interpolation(
        curve.method, 1e-3, 0.002, np.full(len(NODES) - 1, 0.01), resolution=0.6, converged=True
    )
    content = {"alpha": NODES, "loss": {"train": loss, "valid": loss + 1}, **changes}
    return Profile(interpolation=changes.pop("interpolation", between), **content)


def test_a_curve_goes_through_points_that_were_placed():
    profile = adaptive()
    figure = figure_of(profile)
    (panel,) = figure.panels
    smooth, _, dots, _ = panel.curves
    assert [(c.label, c.rank, c.dots, c.joined) for c in panel.curves] == [
        ("train", 0, False, True),
        ("valid", 1, False, True),
        ("", 0, True, False),
        ("", 1, True, False),
    ]
    assert len(smooth.x) > 400
    assert set(NODES) <= set(smooth.x)
    np.testing.assert_allclose(smooth.y, 0.5 + (smooth.x - 1) ** 2, atol=1e-12)
    np.testing.assert_array_equal(dots.x, NODES)
    np.testing.assert_array_equal(dots.y, profile.loss["train"])
    (band,) = panel.bands
    np.testing.assert_allclose(band.high - band.low, 0.02, atol=1e-12)
    assert band.label == "bound between the points"
    assert "6 points. Between the points a" in figure.caption
    assert "expected to err by 0.002 at most; a structure narrower than 0.6" in figure.caption


def test_a_tolerance_that_was_not_met_is_told():
    between = replace(adaptive().interpolation, converged=False)
    figure = figure_of(replace(adaptive(), interpolation=between))
    assert "at most, more than the tolerance of 0.001 asks;" in figure.caption


def test_a_curve_ends_where_values_are_not_finite():
    loss = np.where(NODES == 0.1, np.nan, 1.0 + NODES)
    bound = np.array([0.01, np.inf, np.inf, 0.01, 0.01])
    between = replace(adaptive().interpolation, bound=bound)
    (panel,) = figure_of(Profile(alpha=NODES, loss=loss, interpolation=between)).panels
    inside = (panel.curves[0].x > -0.3) & (panel.curves[0].x < 0.4)
    assert np.isnan(panel.curves[0].y[inside]).all()
    assert np.isfinite(panel.curves[0].y[~inside]).all()


def test_an_estimate_has_the_band_of_its_intervals():
    deviations = np.array([[0.1, 0.0, 0.2], [-0.1, 0.0, 0.1]])
    sure = Estimate(deviations, 2.0, 0.9, examples=2000, of=60_000, nodes=np.array([0.0, 1.0]))
    loss = np.array([2.0, 1.0, 3.0])
    profile = Profile(alpha=[0.0, 0.5, 1.0], loss=loss, estimate=sure)
    figure = figure_of(profile)
    (band,) = figure.panels[0].bands
    np.testing.assert_allclose(band.high, loss + sure.half_width)
    np.testing.assert_allclose(band.low, loss - sure.half_width)
    assert band.label == "90 % at all points at once"
    assert "Estimated from 2\u202f000 of 60\u202f000 examples and the exact cost at 2 points" in (
        figure.caption
    )
    assert "(±0.45 at most) hold at all points at once with 90 % confidence" in figure.caption


def test_the_answer_to_a_question_is_told():
    sure = Estimate([[0.1, 0.2], [-0.1, 0.1]], 2.0, question="Is it 1?", answer="no")
    figure = figure_of(Profile(alpha=[0.0, 1.0], loss=[2.0, 1.0], estimate=sure))
    assert figure.caption.endswith("with 95 % confidence. Is it 1? No.")


def test_an_adaptive_surface_is_drawn_smoothly():
    x, y = np.array([0.0, 0.4, 0.7, 1.0]), np.array([-1.0, -0.2, 0.5, 1.0, 2.0])
    z = 1.0 + x**2 + (y[:, None] - 0.5) ** 2
    sheet = fit_sheet(x, y, z)
    between = Interpolation(sheet.method, 1e-2, 0.01, sheet.bound, 0.5, True)
    surface = Surface(x=x, y=y, loss=z, interpolation=between)
    figure = figure_of(surface, log=False)
    plane = figure.panels[0].map
    assert plane.values.shape == (121, 121)
    np.testing.assert_allclose(plane.values, 1 + plane.x**2 + (plane.y - 0.5) ** 2, atol=1e-9)
    assert "4 × 5 points. Between the points a" in figure.caption
    plain = figure_of(replace(surface, interpolation=None), log=False)
    assert plain.panels[0].map.values.shape == (5, 4)


def test_fewer_bits_in_products_are_told_with_what_they_cost():
    facts = {"precision": "bfloat16", "precision_error": {"train": 0.00123, "valid": 0.0004}}
    made = Provenance(dtype="float32", device="cuda:0", objective=facts)
    profile = Profile(alpha=[0.0, 1.0], loss=[1.0, 2.0], provenance=made)
    assert (
        "2 points, float32 on cuda:0, products in bfloat16 (which changes the cost by up to "
        "0.0012 at the points tried)." in figure_of(profile).caption
    )


def test_a_curve_with_points_is_one_curve_and_needs_no_name():
    one = figure_of(replace(adaptive(), loss=adaptive().loss["train"]))
    two = figure_of(adaptive())
    drawn = [render(figure, "svg") for figure in (one, two)]
    assert len(drawn[0]) < len(drawn[1])
    assert drawn[0] == render(one, "svg")


def test_gaps_are_counted_among_the_evaluated_values():
    loss = np.where(NODES == 0.1, -1.0, 1.0 + NODES)
    figure = figure_of(replace(adaptive(), loss=loss), log=True)
    assert "1 of 6 values are not above 0" in figure.caption
