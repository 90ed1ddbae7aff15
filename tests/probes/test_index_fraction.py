"""Intervals of the share of negative eigenvalues hold what quadrature leaves open."""

import numpy as np
import pytest

import thalweg as tw
from thalweg.functions import flat, quadratic

SIZE = 600
BULK = np.linspace(-0.5, 1.0, SIZE - 5) ** 3
EIGENVALUES = np.r_[BULK, 4.0, 5.0, 6.0, 8.0, -2.0]
_RNG = np.random.default_rng(7)
INDEX = {
    "mixed": EIGENVALUES,
    "crowd at zero": np.r_[0.01 * _RNG.normal(size=790), np.linspace(0.2, 1, 10)],
    "zeros": np.r_[np.zeros(600), np.linspace(-0.1, 1, 100)],
    "half": np.linspace(-1, 1, 500),
}


def diagonal(values=EIGENVALUES, factor=1.0):
    """Return a quadratic with these eigenvalues, and a point that is not its centre."""
    size = len(values)
    return quadratic(factor * np.asarray(values), np.ones(size)), np.full(size, 0.25)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("steps", [20, 60])
@pytest.mark.parametrize("name", ["mixed", "crowd at zero", "zeros", "half"])
def test_the_interval_holds_the_truth(name, steps, seed):
    """Also where quadrature cannot tell on which side of zero a crowd lies."""
    values = INDEX[name]
    found = tw.index_fraction(*diagonal(values), steps=steps, seed=seed, probes=8)
    truth = np.mean(values < -1e-3 * np.abs(values).max())
    assert found.interval[0] <= truth <= found.interval[1]
    assert 0 <= found.interval[0] <= found.value <= found.interval[1] <= 1


def test_the_spread_over_probes_alone_would_not():
    """The control: Student's interval around the share of whole nodes misses every time."""
    values = INDEX["crowd at zero"]
    truth = np.mean(values < -1e-3 * np.abs(values).max())
    missed = 0
    for seed in range(5):
        found = tw.index_fraction(*diagonal(values), steps=20, seed=seed, probes=8)
        missed += abs(found.value - truth) > 2.365 * found.standard_error
    assert missed >= 3


def test_clear_cases_are_narrow():
    values = np.r_[np.linspace(1, 2, 500), np.linspace(-2, -1, 100)]
    found = tw.index_fraction(*diagonal(values), probes=20)
    low, high = found.interval
    assert low <= 1 / 6 <= high
    assert high - low < 0.06


@pytest.mark.parametrize("factor", [1e-9, 1e9])
def test_a_cost_times_a_constant(factor):
    plain = tw.index_fraction(*diagonal(), probes=3, steps=20)
    scaled = tw.index_fraction(*diagonal(factor=factor), probes=3, steps=20)
    assert scaled.value == pytest.approx(plain.value, rel=1e-9)


def test_zero_curvature_is_not_negative():
    assert tw.index_fraction(flat(300), np.ones(300)).value == 0
    assert tw.index_fraction(flat(3), np.ones(3)).value == 0
