"""Which points a request asks for, and what a request may look like."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thalweg.explorer.coordinates import Ticks, coarse_first, ticks_of
from thalweg.explorer.definitions import define
from thalweg.explorer.request_error import RequestError
from thalweg.explorer.strict_json import decoded, encoded, number_in

RANGES = st.tuples(st.floats(-50, 50), st.floats(1e-6, 60), st.integers(2, 300))


@given(RANGES)
def test_coordinates_cover_what_is_asked_for_with_about_as_many_points(asked):
    start, width, points = asked
    stop = start + width
    coordinates = Ticks.covering(start, stop, points).coordinates
    step = coordinates[1] - coordinates[0]
    assert coordinates[0] <= start < coordinates[0] + step
    assert coordinates[-1] - step < stop <= coordinates[-1]
    assert points / 1.5 - 1 <= len(coordinates) <= points * 1.4143 + 3


@given(RANGES, RANGES)
def test_of_two_grids_the_finer_holds_the_coarser_where_they_overlap(one, other):
    grids = [Ticks.covering(s, s + w, n) for s, w, n in (one, other)]
    fine, coarse = sorted(grids, key=lambda ticks: ticks.exponent)
    inside = fine.coordinates
    both = [c for c in coarse.coordinates if inside[0] <= c <= inside[-1]]
    assert set(both) <= set(inside)


@given(RANGES)
def test_coordinates_are_exact(asked):
    start, width, points = asked
    ticks = Ticks.covering(start, start + width, points)
    scale = Fraction(2) ** ticks.exponent
    exact = [m * scale for m in range(ticks.first, ticks.last + 1)]
    assert [Fraction(c) for c in ticks.coordinates] == exact
    assert 1 - Fraction(ticks.coordinates[0]) == Fraction(1 - ticks.coordinates[0]) or width < 1e-3


@given(st.integers(-6, 2), st.integers(-40, 40), st.integers(1, 30))
def test_every_point_comes_once_and_those_of_coarser_grids_come_first(exponent, first, count):
    ticks = Ticks(exponent, first, first + count)
    order = [x for (x,) in coarse_first((ticks,))]
    assert sorted(order) == list(ticks.coordinates)
    half = [x for x in order if x / 2.0 ** (exponent + 1) == int(x / 2.0 ** (exponent + 1))]
    assert order[: len(half)] == half


def test_a_table_comes_coarse_first_too():
    order = coarse_first((Ticks(-1, 0, 2), Ticks(-1, 0, 2)))
    assert order[:4] == [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)]
    assert len(order) == len(set(order)) == 9
    assert not any(str(c) == "-0.0" for place in order for c in place)


@pytest.mark.parametrize(
    ("content", "dimension", "message"),
    [
        ({}, 1, "needs the fields from, to, points; got none"),
        ({"from": 0, "to": 1, "points": 3, "more": 1}, 1, "got from, to, points, more"),
        ({"from": 0, "to": 1, "points": 1}, 1, "'points' must be a number from 2 to 1025; got 1"),
        ({"from": 0, "to": 1, "points": 2000}, 1, "from 2 to 1025; got 2000"),
        ({"from": 0, "to": 1, "points": 3.5}, 1, "whole number; got 3.5"),
        ({"from": 0, "to": 1, "points": True}, 1, "got true"),
        ({"from": "0", "to": 1, "points": 3}, 1, "'from' must be a number .*; got a string"),
        ({"from": 0, "to": 1e5, "points": 3}, 1, "from -4096 to 4096; got 100000"),
        ({"from": 0, "to": 10**400, "points": 3}, 1, "from -4096 to 4096; got 1000"),
        ({"from": 0, "to": 1e400, "points": 3}, 1, "from -4096 to 4096; got inf"),
        ({"from": 1, "to": 0, "points": 3}, 1, "'to' must be above 'from'"),
        ({"from": 1, "to": 1, "points": 3}, 1, "'to' must be above 'from'"),
        ({"from": 1, "to": 1 + 1e-13, "points": 3}, 1, "Zoom out"),
        ({"from": 0, "to": 1, "points": 3}, 2, "needs the fields x, y, columns, rows"),
        ({"x": 1, "y": {}, "columns": 2, "rows": 2}, 2, "'x' must be a JSON object; got a number"),
        (
            {"x": {"from": 0, "to": 1}, "y": {"from": 0}, "columns": 2, "rows": 2},
            2,
            "'y' needs the fields from, to; got from",
        ),
        (
            {"x": {"from": 0, "to": 1}, "y": {"from": 0, "to": 1}, "columns": 130, "rows": 2},
            2,
            "'columns' must be a number from 2 to 129; got 130",
        ),
    ],
)
def test_what_is_no_refinement_is_refused(content, dimension, message):
    with pytest.raises(RequestError, match=message) as refused:
        ticks_of(content, dimension)
    assert refused.value.status == 400


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "needs the fields kind, anchors"),
        ({"kind": "curve", "anchors": []}, "'kind' is line or plane; got 'curve'"),
        ({"kind": ["line"], "anchors": []}, "'kind' is line or plane"),
        ({"kind": "line", "anchors": ["a"]}, "needs 2 different anchors"),
        ({"kind": "line", "anchors": ["a", "a"]}, "needs 2 different anchors"),
        ({"kind": "line", "anchors": ["a", 3]}, "needs 2 different anchors"),
        ({"kind": "line", "anchors": [["a"], ["b"]]}, "needs 2 different anchors"),
        ({"kind": "plane", "anchors": ["a", "b"]}, "needs 3 different anchors"),
        ({"kind": "plane", "anchors": ["a", "b", "direction"]}, "the point first; got a, b"),
        ({"kind": "line", "anchors": ["direction", "a"]}, "an eigenvector, the point first"),
    ],
)
def test_what_defines_no_section_is_refused(content, message):
    with pytest.raises(RequestError, match=message):
        define(content, str.upper, "direction".__eq__)


def test_the_same_definition_has_the_same_id():
    content = {"kind": "line", "anchors": ["a", "b"], "from": 0, "to": 1, "points": 3}
    one, look = define(content, str.upper, "direction".__eq__)
    other, nothing = define({"anchors": ["a", "b"], "kind": "line"}, str.upper, lambda name: False)
    changed, _ = define({"anchors": ["a", "b"], "kind": "line"}, str.lower, lambda name: False)
    assert one.id == other.id != changed.id
    assert (look, nothing) == ({"from": 0, "to": 1, "points": 3}, {})


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "must be JSON"),
        (b"{", "must be JSON"),
        (b'{"a": NaN}', "NaN is not JSON"),
        (b'{"a": 1, "a": 2}', "a key comes twice"),
        (b'"\xff"', "must be JSON"),
        (b"[" * 100_000, "must be JSON"),
        (b"[1]", "one JSON object; got an array"),
        (b"null", "one JSON object; got null"),
    ],
)
def test_what_is_no_json_object_is_refused(body, message):
    with pytest.raises(RequestError, match=message):
        decoded(body)


def test_numbers_that_are_not_finite_are_words():
    told = encoded({"loss": (float("nan"), float("inf"), -float("inf"), 0.1), "none": None})
    assert told == b'{"loss":["NaN","Infinity","-Infinity",0.1],"none":null}'


def test_a_number_within_bounds_is_taken():
    assert number_in({"a": 3}, "a", 4, least=2) == 3.0
