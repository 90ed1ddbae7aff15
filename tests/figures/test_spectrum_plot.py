import numpy as np
import pytest

from thalweg.figures.draw import draw, render
from thalweg.figures.plots import figure_of
from thalweg.results import Provenance, SpectralDensity, Spectrum


def make_ends(smallest=(-2.0, -1.0), largest=(30.0, 4000.0), **facts):
    values = [*smallest, *largest]
    return Spectrum(
        values,
        np.full(len(values), 0.1),
        size=1000,
        ends="both",
        scale=max(map(abs, values)),
        loss=0.5,
        gradient_norm=0.01,
        provenance=Provenance(dtype="float32", device="cpu"),
        **facts,
    )


def make_all(values):
    values = np.sort(np.asarray(values, dtype=float))
    return Spectrum(values, 0 * values, size=len(values), scale=1.0)


def make_density(exact=False, size=500):
    nodes = np.array([[-1.0, 0.0, 5.0], [-1.2, 0.1, 5.0]])
    weights = np.array([[0.2, 0.7, 0.1], [0.1, 0.8, 0.1]])
    return SpectralDensity.of_nodes(nodes, weights, 0.05, exact, size=size)


def test_both_ends_by_their_rank_with_bands_of_residuals():
    figure = figure_of(make_ends())
    (panel,) = figure.panels
    largest, smallest = panel.curves
    np.testing.assert_array_equal(largest.y, [4000, 30])
    np.testing.assert_array_equal(smallest.y, [-2, -1])
    np.testing.assert_array_equal(largest.x, [1, 2])
    np.testing.assert_allclose(panel.bands[0].high - panel.bands[0].low, 0.2)
    assert (largest.label, smallest.label) == ("largest", "smallest")
    assert panel.y.linear_below == pytest.approx(0.4)
    assert "4 of 1000 eigenvalues" in figure.caption
    assert "Norm of the gradient 0.01" in figure.caption
    assert "missing" not in figure.caption


def test_what_is_not_settled_is_in_the_caption():
    caption = figure_of(make_ends(complete=False, tolerance=1e-9)).caption
    assert "4 have not converged" in caption
    assert "missing among them was not settled" in caption


@pytest.mark.parametrize(
    ("values", "log", "linear_below"),
    [
        ([1.0, 2.0, 3.0], False, None),
        ([2e-3, 1e-2, 10.0], True, None),
        ([-1.0, 0.0, 2.0], False, None),
        ([-1.0, 1e-3, 200.0], True, 0.02),
        ([0.0, 0.0, 0.0], False, None),
        ([7.0], False, None),
    ],
)
def test_the_scale_follows_from_the_values(values, log, linear_below):
    axis = figure_of(make_all(values)).panels[0].y
    assert axis.log == log
    assert axis.linear_below == (None if linear_below is None else pytest.approx(linear_below))
    assert not figure_of(make_all(values), log=False).panels[0].y.log


def test_a_density_has_a_logarithmic_scale_and_a_band():
    figure = figure_of(make_density())
    (panel,) = figure.panels
    assert panel.y.log
    (curve,), (band,) = panel.curves, panel.bands
    shown = np.isfinite(curve.y)
    assert np.all(band.low[shown] > 0)
    assert np.all(band.high[shown] >= curve.y[shown])
    assert "2 random vectors of 3 nodes each" in figure.caption
    assert "Below 0: 15.0% ± 5.0%" in figure.caption
    assert not figure_of(make_density(exact=True)).panels[0].bands
    assert not figure_of(make_density(), log=False).panels[0].y.log


CASES = {
    "ends": make_ends(),
    "largest": Spectrum([1.0, 2.0], [0, 0], size=9, ends="largest", scale=2.0),
    "smallest": Spectrum([-1.0, 2.0], [0, 0], size=9, ends="smallest", scale=2.0),
    "all": make_all(np.r_[np.zeros(70), -3e-5, 1e3]),
    "zeros": make_all(np.zeros(3)),
    "one": make_all([1.0]),
    "density": make_density(),
    "exact density": make_density(exact=True, size=3),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("log", [None, True, False])
def test_every_spectrum_is_drawn(name, log):
    assert b"<svg" in render(figure_of(CASES[name], log=log), "svg", caption=True)


def test_marks_on_both_sides_of_zero(tmp_path):
    assert draw(make_ends(), tmp_path / "spectrum.png").stat().st_size > 1000
