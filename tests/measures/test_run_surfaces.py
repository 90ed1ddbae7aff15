import numpy as np
import pytest

from thalweg.measures.run_surfaces import leaving, obstacle_beside_line
from thalweg.results import Provenance, RunPoints, RunSurface


def picture(cost, across, kind="ruled", columns=21):
    """A surface whose cost is a function of the row t and of b, and a run on it."""
    across = np.asarray(across, dtype=float)
    rows = np.arange(len(across), dtype=float)
    b = np.linspace(-3, 3, columns)
    table = np.array([[cost(t, each) for each in b] for t in rows])
    true = [cost(t, each) for t, each in zip(rows, across, strict=True)]
    run = RunPoints(rows, rows, across, 0 * rows, true)
    return RunSurface(kind, rows, b, table, run, provenance=Provenance())


def test_a_valley_and_a_slope_are_no_obstacle():
    for cost in (lambda t, b: b**2, lambda t, b: 3 - b + t, lambda t, b: 2.0):
        np.testing.assert_array_equal(obstacle_beside_line(picture(cost, [0, 2, -2.5, 0])), 0)


def test_a_ridge_between_line_and_run_has_its_height():
    found = obstacle_beside_line(picture(lambda t, b: 5 - (abs(b) - 1.5) ** 2, [0, 2.25, -3, 0.5]))
    # The way to 0.5 climbs, but the run is at its top.
    np.testing.assert_allclose(found, [0, 5 - (5 - 0.75**2), 5 - (5 - 1.5**2), 0], atol=1e-12)


def test_a_ridge_on_the_other_side_or_beyond_the_run_does_not_count():
    wall = picture(lambda t, b: 10.0 if b < 0 or b > 2 else 1.0, [0, 1.7, 1.9])
    np.testing.assert_array_equal(obstacle_beside_line(wall), 0)


def test_a_gap_on_the_way_is_no_number():
    found = obstacle_beside_line(
        picture(lambda t, b: np.nan if t == 1 and 0 < b < 1 else 1.0, [0, 2.0, 2.0])
    )
    np.testing.assert_array_equal(np.isnan(found), [False, True, False])


def test_a_plane_is_refused_and_so_is_an_unknown_split():
    with pytest.raises(ValueError, match=r"lies on a ruled surface; got 'plane'"):
        obstacle_beside_line(picture(lambda t, b: b, [0, 1], "plane"))
    with pytest.raises(ValueError, match="`split` must be one of 'train'; got 'valid'"):
        obstacle_beside_line(picture(lambda t, b: b, [0, 1]), "valid")


def test_leaving_ends_where_the_run_is_farthest():
    found = leaving(picture(lambda t, b: b, [0, 1, -2, 1, 1.5, 2.5, 0]))
    np.testing.assert_array_equal(found, [True, True, False, False, True, False, False])
