import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import thalweg as tw
from thalweg.figures import figure_of, figures_of
from thalweg.figures.draw import _canvas
from thalweg.results import Displacement


def arc(points=13, height=1.0):
    """Return half an ellipse from 0 to 10."""
    angle = np.linspace(0, np.pi, points)
    return Displacement(
        step=10 * np.arange(points),
        projection=5 - 5 * np.cos(angle),
        distance=5 * height * np.sin(angle),
        norm=np.full(points, 20.0),
        length=10.0,
        chord=10.0,
        size=1234,
        storage="bfloat16",
        rounding=np.full(points, 0.125),
        labels=("start", "solution"),
    )


def test_it_shows_distance_over_projection_to_one_scale():
    figure = figure_of(arc(height=0.5))
    (panel,) = figure.panels
    run, walk = panel.curves
    np.testing.assert_array_equal(run.x, arc().projection)
    np.testing.assert_array_equal(run.y, arc(height=0.5).distance)
    assert run.dots
    assert panel.equal
    assert (panel.x.label, panel.y.label) == (
        "projection on the line (0 = start, 10 = solution)",
        "distance off the line",
    )
    assert [(m.label, m.x, m.y) for m in panel.markers] == [
        ("start", 0.0, 0.0),
        ("solution", 10.0, 0.0),
    ]
    assert (run.rank, walk.label, walk.rank) == (0, "random walk", 1)
    np.testing.assert_allclose(np.hypot(walk.x - 5, walk.y), 5, rtol=1e-12)
    assert (walk.x[0], walk.x[-1]) == (0, 10)


def test_the_caption_says_shares_storage_and_control():
    displacement = arc(height=0.5)
    caption = figure_of(displacement).caption
    assert "13 points, from step 0 to 120, both axes to one scale." in caption
    assert "1\u202f234 parameters" in caption
    least = np.nanmin(displacement.captured)
    assert f"captures at least {least:.1%} of the way from the start" in caption
    assert "and 87.5% of the norm of the parameters" in caption
    assert "the shape alone is no evidence" in caption
    assert "stored in bfloat16, which changes lengths by 0.12 at most" in caption
    assert "(5, 2.5), where it is furthest off the line" in figure_of(displacement).alt


def test_points_that_are_not_finite_are_gaps():
    points = torch.linspace(0, 1, 9).repeat(2, 1).T.clone()
    points[4] = math.nan
    figure = figure_of(tw.displacement(tw.Trajectory.from_points(points), progress=False))
    assert np.isnan(figure.panels[0].curves[0].y[4])
    assert "1 of 9 points are not finite: gaps." in figure.caption


def test_many_points_are_not_marked_and_one_is_not_joined():
    assert not figure_of(arc(points=300)).panels[0].curves[0].dots
    (run, _) = figure_of(Displacement([5], [1.0], [2.0], length=3.0)).panels[0].curves
    assert run.dots
    assert not run.joined


@pytest.mark.parametrize("height", [0.01, 1.0, 30.0, 0.0])
def test_a_unit_is_as_long_on_both_axes(height, tmp_path):
    path = tw.draw(arc(height=height), tmp_path / "arc.svg")
    assert path.read_bytes().startswith(b"<?xml")
    canvas = _canvas(figure_of(arc(height=height)))
    canvas.draw_without_rendering()
    (axes,) = canvas.axes
    origin, right, up = axes.transData.transform([(0, 0), (1, 0), (0, 1)])
    assert right[0] - origin[0] == pytest.approx(up[1] - origin[1], rel=1e-6)
    low, high = axes.get_ylim()
    assert low <= 0
    assert high >= 5 * height


def test_a_displacement_is_drawn_without_a_walk_where_there_is_no_length():
    figure = figure_of(Displacement([0, 1], [0.0, 1.0], [0.0, 2.0]))
    assert len(figure.panels[0].curves) == 1
    assert "Half-circle" not in figure.caption


def test_runs_about_one_line_are_in_one_panel():
    runs = {"low": arc(height=0.5), "high": arc(height=1.5)}
    figure = figure_of(runs)
    (panel,) = figure.panels
    high = panel.curves[1]
    np.testing.assert_array_equal(high.y, runs["high"].distance)
    assert [(c.label, c.rank) for c in panel.curves] == [
        ("low", 0),
        ("high", 1),
        ("random walk", 2),
    ]
    assert "from 2.5 (low) to 7.5 (high)" in figure.caption
    assert "low stays closest to the line, high goes furthest" in figure.alt


def test_runs_about_different_lines_are_not():
    other = replace(arc(), length=10.1)
    with pytest.raises(ValueError, match=r"need one line, .* those of 'a', 'b' are 10 long, 10\.1"):
        figure_of({"a": arc(), "b": other})
    with pytest.raises(ValueError, match=r"need one line, .* nothing"):
        figure_of({})
    with pytest.raises(TypeError, match="got dict"):
        figure_of({"a": arc(), "b": None})


def test_those_of_a_record_are_drawn_together():
    def titles(**results):
        return list(figures_of(tw.Record(study="s", results=results)))

    assert titles(a=arc(), b=arc(height=0.5)) == ["displacements"]
    assert titles(a=arc(), b=replace(arc(), length=10.1)) == ["a", "b"]
    assert titles(a=arc()) == ["a"]


def test_many_curves_are_listed_below_the_highest_first():
    runs = {f"run {i}": arc(height=i) for i in range(1, 6)}
    canvas = _canvas(figure_of(runs))
    (axes,) = canvas.axes
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == ["run 5", "run 4", "run 3", "run 2", "run 1", "random walk"]
    few = _canvas(figure_of(dict(list(runs.items())[:2])))
    assert few.axes[0].get_legend() is None
