import numpy as np
import pytest

from thalweg.figures.draw import render
from thalweg.figures.plots import figure_of
from thalweg.records import Record, open_record, save_record
from thalweg.results import ConfusionMatrix

MATRIX = ConfusionMatrix(
    ("noise", "saddle", "none"), [[3, 1, 0], [0, 2, 0], [0, 0, 4]], [0, 1, 0], [6, 8, 0]
)


def test_shares_are_those_of_the_counts():
    assert (MATRIX.cases, MATRIX.right, MATRIX.healthy) == (10, 0.9, 1.0)
    assert MATRIX.false_alarms == pytest.approx(1 / 14)
    assert np.isnan(ConfusionMatrix(("none",), [[0]], [0], [0]).right)


def test_the_figure_says_what_was_taken_for_what():
    figure = figure_of(MATRIX)
    assert "1 of noise taken for saddle" in figure.caption
    assert "90.0% of 10 planted causes are named" in figure.alt
    assert figure.panels[0].grid.counts[0, 1] == 1


def test_a_matrix_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="`counts` must have shape"):
        ConfusionMatrix(("noise", "none"), [[1]], [0, 0], [0, 0])


def test_it_is_kept_and_drawn(tmp_path):
    record = Record(study="gallery", results={"held-out": MATRIX})
    save_record(record, tmp_path)
    kept = open_record(tmp_path).results["held-out"]
    assert np.array_equal(kept.counts, MATRIX.counts)
    assert render(figure_of(kept), "svg").count(b"<g") > 10
