import base64
import json
import math

import numpy as np

from thalweg.figures.figure import Axis, Bar, Figure, Grid, Map, Panel
from thalweg.figures.plots import figure_of
from thalweg.reports.figure_data import figure_json
from thalweg.results import Profile


def numbers(told):
    return np.frombuffer(base64.b64decode(told["$float64"]), dtype="<f8")


def test_numbers_come_back_to_the_last_bit():
    alpha, loss = np.linspace(-0.1, 1.3, 7), np.array([2.0, np.nan, np.inf, 1 / 3, 0.0, -1e-300, 5])
    told = json.loads(figure_json(figure_of(Profile(alpha=alpha, loss=loss))))
    curve = told["rows"][0][0]["curves"][0]
    np.testing.assert_array_equal(numbers(curve["x"]), alpha)
    shown = numbers(curve["y"])
    assert np.isnan(shown[1])
    assert shown[3] == 1 / 3
    assert (curve["label"], curve["rank"]) == ("train", 0)


def test_tables_tell_their_shape_and_keep_the_order_of_rows():
    table = np.arange(6.0).reshape(2, 3)
    flat = Map(table, table, table.T.copy().T, "cost J")
    panel = Panel(Axis("x"), Axis("y"), map=flat)
    told = json.loads(figure_json(Figure("", "", ((panel,),))))["rows"][0][0]["map"]
    assert told["shape"] == [2, 3]
    assert numbers(told["values"]).tolist() == [0, 1, 2, 3, 4, 5]
    grid = Panel(Axis(""), Axis(""), grid=Grid(("a",), ("b", "c"), np.array([[1.0, 2.0]])))
    told = json.loads(figure_json(Figure("", "", ((grid,),))))["rows"][0][0]["grid"]
    assert (told["shape"], told["rows"]) == ([1, 2], ["a"])


def test_what_is_not_finite_has_a_name():
    bars = tuple(Bar("b", length) for length in (math.nan, math.inf, -math.inf, 2.5))
    text = figure_json(Figure("", "", ((Panel(Axis(""), Axis(""), bars=bars),),)))
    told = json.loads(text, parse_constant=lambda name: 1 / 0)  # strict JSON has no NaN
    lengths = [bar["length"] for bar in told["rows"][0][0]["bars"]]
    assert lengths == [{"$float": "NaN"}, {"$float": "Infinity"}, {"$float": "-Infinity"}, 2.5]


def test_nothing_in_it_can_end_a_script():
    nasty = "</script><!--\u2028&amp;"
    text = figure_json(Figure(nasty, nasty, (), alt=nasty))
    assert not set(text) & set("<>&\u2028\u2029")
    assert json.loads(text)["title"] == nasty
