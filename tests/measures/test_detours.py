import math
from dataclasses import replace

import numpy as np
import pytest

from thalweg.measures import (
    detour_ratio,
    greatest_distance,
    least_captured_share,
    overshoot,
)
from thalweg.results import Displacement

# By hand: from (0, 0) by (3, 4), (8, 6), (12, 5) to (10, 0), on the line to (10, 0).
BEND = Displacement(
    step=[0, 10, 20, 40, 80],
    projection=[0, 3, 8, 12, 10],
    distance=[0, 4, 6, 5, 0],
    norm=[0, 16, 24, 13, 10],
    to_end=[10, math.sqrt(65), math.sqrt(40), math.sqrt(29), 0],
    update_length=[5, math.sqrt(29), math.sqrt(17), math.sqrt(29)],
    length=10,
    chord=10,
)


def test_measures_of_a_bend_by_hand():
    assert detour_ratio(BEND) == pytest.approx((5 + 2 * math.sqrt(29) + math.sqrt(17)) / 10)
    assert greatest_distance(BEND) == 6
    assert greatest_distance(BEND, share=True) == pytest.approx(0.6)
    assert least_captured_share(BEND) == pytest.approx(0.6)
    assert least_captured_share(BEND, of="parameters") == pytest.approx(1 - 5 / 13)
    assert overshoot(BEND) == pytest.approx(0.2)
    assert BEND.furthest == 2


def test_shares_are_not_known_where_there_is_nothing_to_share():
    assert np.flatnonzero(np.isnan(BEND.captured)).tolist() == [0]
    assert np.flatnonzero(np.isnan(BEND.distance_share)).tolist() == [0]


def test_a_distance_that_is_squared_gives_another_share():
    wrong = replace(BEND, distance=BEND.distance**2)
    assert least_captured_share(wrong) < 0.3


def test_scale_changes_lengths_and_no_shares():
    names = ("projection", "distance", "norm", "to_end", "update_length", "length", "chord")
    large = replace(BEND, **{name: 7 * getattr(BEND, name) for name in names})
    for measure in (
        detour_ratio,
        overshoot,
        least_captured_share,
        lambda d: least_captured_share(d, of="parameters"),
        lambda d: greatest_distance(d, share=True),
    ):
        assert measure(large) == pytest.approx(measure(BEND), rel=1e-12)
    assert greatest_distance(large) == pytest.approx(42)


def test_points_that_are_not_finite_are_left_out():
    lost = replace(BEND, distance=[0, 4, np.nan, 5, 0], projection=[0, 3, np.nan, 12, 10])
    assert greatest_distance(lost) == 5
    assert lost.furthest == 3
    assert overshoot(lost) == pytest.approx(0.2)


def test_runs_that_return_or_stay():
    still = replace(BEND, update_length=np.zeros(4), chord=0.0)
    assert math.isnan(detour_ratio(still))
    assert detour_ratio(replace(BEND, chord=0.0)) == math.inf
    assert overshoot(replace(BEND, projection=[0, 1, 2, 3, 10])) == 0


def test_what_cannot_be_measured_is_refused():
    nothing = replace(BEND, distance=np.full(5, np.nan), projection=np.full(5, np.nan))
    for measure in (greatest_distance, overshoot):
        with pytest.raises(ValueError, match="one finite point at least"):
            measure(nothing)
    with pytest.raises(ValueError, match=r"known at no point of this run\. Give a run that moves"):
        least_captured_share(nothing)
    with pytest.raises(ValueError, match="of the 'way' or of the 'parameters'; got of='norm'"):
        least_captured_share(BEND, of="norm")
