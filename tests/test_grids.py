import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thalweg import Uniform, Zoom
from thalweg.grids import coordinates

numbers = st.floats(-10, 10).filter(lambda x: x == 0 or abs(x) > 1e-3)


@st.composite
def uniform(draw):
    start, stop = sorted(draw(st.lists(numbers, min_size=2, max_size=2, unique=True)))
    if stop - start < 1e-3:
        stop = start + 1
    return Uniform(start, stop, draw(st.integers(2, 300)))


@given(uniform())
def test_uniform_grids_ascend_in_even_steps_between_their_exact_ends(grid):
    alpha = grid.coordinates()
    assert (alpha[0], alpha[-1], len(alpha)) == (grid.start, grid.stop, grid.points)
    width = (grid.stop - grid.start) / (grid.points - 1)
    np.testing.assert_allclose(np.diff(alpha), width, rtol=1e-9)


@given(uniform(), st.lists(uniform(), max_size=3))
def test_zooms_hold_every_coordinate_of_every_grid_once(overview, windows):
    alpha = Zoom(overview, tuple(windows)).coordinates()
    for grid in (overview, *windows):
        nearest = np.abs(alpha[:, None] - grid.coordinates()).min(0)
        assert nearest.max() < 1e-13
    # No two of them differ by rounding alone: the finest grid is far coarser than that.
    assert np.diff(alpha).min() > 1e-15
    np.testing.assert_array_equal(coordinates(Zoom(overview, tuple(windows))), alpha)


@pytest.mark.parametrize(
    ("overview", "window", "points"),
    [
        (Uniform(0, 1, 51), Uniform(0.9, 1, 6), 51),
        (Uniform(-0.2, 1.2, 15), Uniform(0, 0.1, 6), 19),
        (Uniform(0, 1, 4), Uniform(1 / 3, 1, 5), 6),
    ],
)
def test_coordinates_that_differ_by_rounding_are_one(overview, window, points):
    alpha = Zoom(overview, (window,)).coordinates()
    assert len(alpha) == points
    assert {window.start, window.stop} <= set(alpha)


def test_the_default_zoom_is_that_of_figure_4():
    alpha = Zoom().coordinates()
    assert len(alpha) == 51 + 200 + 200 - 2
    np.testing.assert_allclose(np.diff(alpha[:200]), 0.01 / 199, rtol=1e-9)
    np.testing.assert_allclose(np.diff(alpha[-200:]), 0.01 / 199, rtol=1e-9)


def test_the_grids_of_the_paper():
    np.testing.assert_allclose(Uniform(0, 19 / 9, 20).coordinates(), np.arange(20) / 9, rtol=1e-14)
    np.testing.assert_allclose(Uniform(0, 1, 200).coordinates(), np.arange(200) / 199, rtol=1e-14)


@pytest.mark.parametrize("grid", [[0.5], (0, 1), np.array([-1.0, 0.25, 3.0]), range(4)])
def test_plain_sequences_are_grids(grid):
    alpha = coordinates(grid)
    assert alpha.dtype == np.float64
    np.testing.assert_array_equal(alpha, list(grid))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Uniform(1, 0, 5),
            r"from a smaller to a larger finite coordinate; got 1 to 0. Swap",
        ),
        (lambda: Uniform(0, 0, 5), r"from a smaller to a larger"),
        (lambda: Uniform(0, np.inf, 5), r"finite coordinate; got 0 to inf"),
        (lambda: Uniform(np.nan, 1, 5), r"finite coordinate; got nan to 1"),
        (lambda: Uniform(0, 1, 1), r"needs 2 points at least; got 1. Ask for more"),
        (lambda: Uniform(0, 1, 2.5), r"needs 2 points at least; got 2.5"),
        (lambda: coordinates([]), r"one number or more; got an array of shape \(0,\). Use"),
        (lambda: coordinates([[0, 1]]), r"one number or more; got an array of shape \(1, 2\)"),
        (lambda: coordinates(0.5), r"one number or more; got an array of shape \(\)"),
        (lambda: coordinates([0, 0]), r"finite and ascend strictly; got \[0. 0.\]. Sort them"),
        (lambda: coordinates([1, 0]), r"finite and ascend strictly"),
        (lambda: coordinates([0, np.nan]), r"finite and ascend strictly"),
        (lambda: coordinates([0, np.inf]), r"finite and ascend strictly"),
        (lambda: coordinates(Uniform(1, 1 + 2e-15, 51)), r"finite and ascend strictly"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
