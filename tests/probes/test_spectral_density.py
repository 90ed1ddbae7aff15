import math

import numpy as np
import pytest
import torch

import thalweg as tw
from thalweg.functions import quadratic


def diagonal(values, scale=1.0):
    """A quadratic with these eigenvalues, centred off the origin, and a point."""
    weights = scale * torch.as_tensor(values, dtype=torch.float64)
    cost = tw.FunctionObjective(lambda t: 0.5 * (weights * (t - 1) ** 2).sum(), size=len(weights))
    return cost, np.full(len(weights), 2.0)


RNG = np.random.default_rng(0)
# A bulk, a group of negative ones and a few outliers.
VALUES = np.r_[RNG.normal(size=700), RNG.normal(size=200) - 8, [15.0, 15.0, 20.0]]


def distribution(density):
    """Return the distribution function on the grid."""
    steps = 0.5 * np.diff(density.grid) * (density.density[1:] + density.density[:-1])
    return np.r_[0, np.cumsum(steps)]


def test_the_mass_is_one():
    density = tw.spectral_density(*diagonal(VALUES), probes=4, steps=30)
    assert np.trapezoid(density.density, density.grid) == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(density.weights.sum(axis=1), 1, rtol=1e-10)
    assert density.products == 120
    assert not density.exact


def test_against_a_known_spectrum():
    density = tw.spectral_density(*diagonal(VALUES), probes=10, steps=60, width=0.3)
    smooth = np.zeros(len(density.grid))
    for value in VALUES:
        smooth += np.exp(-0.5 * ((density.grid - value) / 0.3) ** 2)
    smooth /= len(VALUES) * 0.3 * math.sqrt(2 * math.pi)
    # Within the standard errors of the random vectors, and in the whole.
    far = np.abs(density.density - smooth) > 4 * density.error + 1e-3 * smooth.max()
    assert far.mean() < 0.02
    assert np.trapezoid(np.abs(density.density - smooth), density.grid) < 0.1


def test_more_probes_bring_it_nearer():
    def error(probes, seed):
        density = tw.spectral_density(*diagonal(VALUES), probes=probes, steps=60, seed=seed)
        exact = np.searchsorted(np.sort(VALUES), density.grid) / len(VALUES)
        return np.abs(distribution(density) - exact).mean()

    few, many = (np.mean([error(probes, seed) for seed in range(4)]) for probes in (1, 16))
    assert many < 0.5 * few


def test_squares_of_the_whole_matrix_would_not_pass():
    # A known mistake: each node then has the same weight, and outliers that of the bulk.
    density = tw.spectral_density(*diagonal(VALUES), probes=10, steps=60)
    wrong = tw.SpectralDensity.of_nodes(
        density.nodes, np.full_like(density.weights, 1 / 60), density.width
    )
    share, error = density.share_below(-4.0)
    assert abs(share - 200 / 903) < 4 * error
    assert abs(wrong.share_below(-4.0)[0] - 200 / 903) > 0.1


def test_scaling_the_cost_scales_the_density():
    one = tw.spectral_density(*diagonal(VALUES), probes=3, steps=30)
    other = tw.spectral_density(*diagonal(VALUES, scale=2.0**-17), probes=3, steps=30)
    assert other.width == pytest.approx(2.0**-17 * one.width, rel=1e-12)
    np.testing.assert_allclose(other.grid, 2.0**-17 * one.grid, rtol=1e-12)
    np.testing.assert_allclose(2.0**-17 * other.density, one.density, atol=1e-4 * one.density.max())


def test_small_matrices_are_exact():
    density = tw.spectral_density(*diagonal([-1.0, 0.0, 2.0, 2.0]))
    np.testing.assert_allclose(density.nodes, [[-1, 0, 2, 2]])
    assert density.exact
    assert not density.error.any()
    assert density.share_below(-0.5) == (0.25, 0.0)


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_one_eigenvalue_alone(value):
    density = tw.spectral_density(*diagonal(np.full(300, value)), probes=2, steps=10)
    assert np.trapezoid(density.density, density.grid) == pytest.approx(1, abs=1e-6)
    assert density.grid[np.argmax(density.density)] == pytest.approx(value, abs=density.width)


def test_another_smoothing_evaluates_nothing():
    density = tw.spectral_density(*diagonal(VALUES), probes=2, steps=20)
    wide = density.smoothed(1.0)
    assert wide.width == 1.0
    np.testing.assert_array_equal(wide.nodes, density.nodes)
    assert wide.density.max() < density.density.max()
    assert wide.products == density.products
    with pytest.raises(ValueError, match="must be above 0; got 0"):
        density.smoothed(0)


def test_one_probe_has_no_error():
    density = tw.spectral_density(*diagonal(VALUES), probes=1, steps=20)
    assert np.isnan(density.error).all()
    assert math.isnan(density.share_below(0.0)[1])


def test_probes_that_do_not_fit_together_give_the_same(monkeypatch):
    whole = tw.spectral_density(*diagonal(VALUES), probes=5, steps=20)
    monkeypatch.setattr("thalweg.probes.spectral_density._BASIS_BYTES", 2 * 20 * 903 * 8)
    parts = tw.spectral_density(*diagonal(VALUES), probes=5, steps=20)
    np.testing.assert_allclose(parts.nodes[:, -1], whole.nodes[:, -1], rtol=1e-10)
    np.testing.assert_allclose(parts.density, whole.density, atol=1e-6)


def test_settings_out_of_range_are_refused():
    cost = diagonal(VALUES)
    with pytest.raises(ValueError, match="`probes` must be 1 or more; got 0"):
        tw.spectral_density(*cost, probes=0)
    with pytest.raises(ValueError, match="`steps` must be 1 or more; got 0"):
        tw.spectral_density(*cost, steps=0)
    with pytest.raises(ValueError, match="must be above 0; got -1"):
        tw.spectral_density(*cost, width=-1, probes=1, steps=2)
    with pytest.raises(ValueError, match="`probes` must be 2 or more; got 1"):
        tw.index_fraction(*cost, probes=1)
    with pytest.raises(ValueError, match="from 0 to below 1; got -1"):
        tw.index_fraction(*cost, threshold=-1)
    with pytest.raises(ValueError, match="between 0 and 1; got 95"):
        tw.trace(*cost, confidence=95)
    with pytest.raises(ValueError, match="`sketch` must be 0 or more; got -1"):
        tw.trace(*cost, sketch=-1)


# The index


def test_the_share_of_negative_eigenvalues():
    values = np.r_[np.full(300, 2.0), np.full(100, -1.0), np.zeros(600)]
    found = tw.index_fraction(*diagonal(values), probes=20, steps=10, confidence=0.99)
    assert found.interval[0] <= 0.1 <= found.interval[1]
    assert found.interval[1] - found.interval[0] < 0.06
    assert not found.exact
    scaled = tw.index_fraction(*diagonal(values, scale=1e-8), probes=20, steps=10)
    assert scaled.value == pytest.approx(found.value, abs=1e-6)


def test_rounding_about_zero_is_not_negative_and_a_small_matrix_is_exact():
    found = tw.index_fraction(*diagonal([-1.0, -1e-9, 0.0, 5.0]))
    assert (found.value, found.interval, found.exact) == (0.25, (0.25, 0.25), True)
    strict = tw.index_fraction(*diagonal([-1.0, -1e-9, 0.0, 5.0]), threshold=0.0)
    assert strict.value == 0.5


# The trace


@pytest.mark.parametrize("sketch", [0, 10])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_trace_of_a_quadratic_lies_in_its_interval(sketch, sign):
    rng = np.random.default_rng(5)
    root = rng.normal(size=(300, 300)) / 17
    turn = np.linalg.qr(root).Q
    matrix = sign * ((turn * np.r_[50.0, 40.0, 30.0, np.zeros(297)]) @ turn.T + root @ root.T)
    cost = quadratic(matrix, rng.normal(size=300))
    inside, widths = 0, []
    for seed in range(20):
        found = tw.trace(cost, np.ones(300), sketch=sketch, probes=20, seed=seed, confidence=0.9)
        inside += found.interval[0] <= np.trace(matrix) <= found.interval[1]
        widths.append(found.standard_error)
        assert found.products == 2 * sketch + 20
    assert inside >= 14  # of 18 expected: a binomial lies below 14 in 1 % of all cases
    assert np.mean(widths) < (8.0 if sketch else 30.0)


def test_the_sketch_takes_out_what_a_few_large_eigenvalues_do():
    rng = np.random.default_rng(6)
    turn = np.linalg.qr(rng.normal(size=(300, 300))).Q
    cost = quadratic((turn * np.r_[100.0, -50.0, np.full(298, 0.01)]) @ turn.T)
    plain = tw.trace(cost, np.ones(300), sketch=0, probes=30)
    better = tw.trace(cost, np.ones(300), sketch=5, probes=20)
    assert better.standard_error < 1e-3 * plain.standard_error
    assert better.value == pytest.approx(50 + 2.98, abs=1e-2)


def test_a_small_trace_is_exact():
    found = tw.trace(*diagonal([1.0, -5.0, 2.0]))
    assert (found.value, found.standard_error, found.exact) == (-2.0, 0.0, True)
    assert found.samples.shape == (0,)


def test_a_density_is_kept_in_a_record(tmp_path):
    density = tw.spectral_density(*diagonal(VALUES), probes=2, steps=10)
    tw.save_record(tw.Record(study="density", results={"density": density}), tmp_path)
    kept = tw.open_record(tmp_path).results["density"]
    np.testing.assert_array_equal(kept.density, density.density)
    assert kept.provenance == density.provenance
