"""What the figure of a diagnosis says."""

import numpy as np
import pytest

import thalweg as tw
from hand_made_diagnoses import STEPS, complete, healthy, open_questions, stuck
from thalweg.figures import figure_of
from thalweg.results import Diagnosis, Finding


def bars_of(figure):
    return {bar.label: bar for bar in figure.panels[1].bars}


class TestBars:
    def test_every_obstacle_has_one_the_primary_first(self):
        for make in (stuck, healthy, open_questions):
            assert set(bars_of(figure_of(make()))) == {each.title for each in make()}
        first, second, *_ = figure_of(stuck()).panels[1].bars
        assert (first.label, first.length, first.note) == ("gradient noise", 62.0, "62 %")
        assert (second.label, second.note) == ("step too small", "8 % (symptom)")

    def test_verdicts_are_told_apart_by_more_than_colour(self):
        bars = bars_of(figure_of(stuck()))
        assert bars["gradient noise"].look == "filled"
        assert (bars["plateau"].look, bars["plateau"].note) == ("hatched", "?")
        assert np.isnan(bars["plateau"].length)
        assert (bars["barrier"].look, bars["barrier"].length) == ("outline", 0.0)

    def test_the_axis_is_all_of_the_progress(self):
        assert figure_of(stuck()).panels[1].x.limits == (0.0, 100.0)


class TestCourse:
    def test_what_was_tried_begins_at_the_run_and_ends_where_it_got(self):
        run, noise, step, floor = figure_of(stuck()).panels[0].curves
        np.testing.assert_array_equal(run.x, STEPS)
        assert noise.label == "the same steps without noise"
        np.testing.assert_array_equal(noise.x[:2], [20.0, 40.0])
        np.testing.assert_allclose(noise.y[:2], [0.74, 0.55])
        assert np.isnan(noise.x[2])
        # The second stretch was not tried with this step.
        assert np.isnan(step.y[3:5]).all()
        np.testing.assert_array_equal(floor.y, [0.26, 0.26])

    def test_a_stretch_may_begin_between_the_evaluated_points(self):
        found = Diagnosis(
            complete([]),
            step=[0.0, 10.0, 20.0],
            loss=[3.0, np.nan, 1.0],
            stretch=[[10.0, 20.0]],
            reached={"run": [1.0], "longer steps": [0.5]},
        )
        attempt = figure_of(found).panels[0].curves[1]
        np.testing.assert_allclose(attempt.y, [2.0, 0.5])

    def test_what_was_tried_nowhere_is_not_listed(self):
        found = Diagnosis(
            complete([]),
            step=[0.0, 10.0],
            loss=[3.0, 1.0],
            stretch=[[0.0, 10.0]],
            reached={"run": [1.0], "a smaller step": [np.nan]},
        )
        panel = figure_of(found).panels[0]
        assert [curve.label for curve in panel.curves] == ["run"]
        assert not panel.listed

    def test_a_wide_range_has_a_logarithmic_scale_and_a_floor_of_0_is_said(self):
        figure = figure_of(healthy())
        assert figure.panels[0].y.log
        assert [curve.label for curve in figure.panels[0].curves] == [
            "run",
            "saddle-free Newton step",
        ]
        assert "The floor 0 is not above 0, and not shown on this scale" in figure.caption
        linear = figure_of(healthy(), log=False)
        assert [curve.label for curve in linear.panels[0].curves][-1] == "floor"
        assert "not shown" not in linear.caption

    def test_gaps_are_counted(self):
        assert "1 of 2 values are not finite" in figure_of(open_questions()).caption


class TestWords:
    @pytest.mark.parametrize(
        ("make", "title"),
        [
            (stuck, "In the way: gradient noise"),
            (healthy, "Nothing in the way"),
            (open_questions, "Nothing found in the way so far"),
        ],
    )
    def test_the_title_says_what_was_found(self, make, title):
        assert figure_of(make()).title == title

    def test_those_who_cannot_see_it_are_told_the_same(self):
        alt = figure_of(stuck()).alt
        assert alt.startswith("In the way: gradient noise. Line plot of the cost. run: 0.92 at")
        assert "Present: gradient noise 62 %, step too small 8 %;" in alt
        assert "undetermined: saddle point, plateau." in alt

    def test_the_caption_says_what_the_numbers_are_from(self):
        caption = figure_of(stuck()).caption
        assert "Gradient noise takes 62 %" in caption
        assert "512 examples for noise" in caption
        assert "Computed in float64." in caption


class TestDrawing:
    @pytest.mark.parametrize("make", [stuck, healthy, open_questions])
    @pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
    def test_it_is_drawn(self, make, suffix, tmp_path):
        path = tw.draw(make(), tmp_path / f"diagnosis.{suffix}", caption=True)
        assert path.stat().st_size > 5_000

    def test_bars_that_fill_the_axis_and_bars_of_unknown_length_are_drawn(self, tmp_path):
        findings = [
            Finding("plateau", "present", severity=1.0, cost=1.0),
            Finding("barrier", "present", severity=float("nan"), cost=float("nan")),
        ]
        full = Diagnosis(complete(findings), step=[0.0, 1.0], loss=[1.0, 1.0])
        assert tw.draw(full, tmp_path / "full.png").stat().st_size > 5_000

    def test_a_run_without_a_finite_cost_is_drawn(self, tmp_path):
        lost = Diagnosis(complete([]), step=[0.0, 1.0], loss=[np.nan, np.inf])
        assert "no finite value" in figure_of(lost).alt
        assert tw.draw(lost, tmp_path / "lost.png").stat().st_size > 5_000

    def test_the_same_diagnosis_gives_the_same_bytes(self, tmp_path):
        first, second = (tw.draw(stuck(), tmp_path / f"{k}.svg").read_bytes() for k in "ab")
        assert first == second
