"""What the figures of steps and of profiles with derivatives say."""

import numpy as np
import pytest

import thalweg as tw
from cases import FUNCTIONS
from thalweg.figures import figure_of


def step(**options):
    valley = tw.FunctionObjective(lambda t: (t[0] ** 4 + t[1] ** 2 + t[2] ** 2) / 4, size=3)
    return tw.step_curvature(valley, [1.0, 2.0, -1.0], **options)


class TestSteps:
    def test_true_and_predicted_begin_at_nothing(self):
        found = step()
        figure = figure_of(found)
        true, second, first = figure.panels[0].curves
        assert [true.label, second.label, first.label] == ["true", "second order", "first order"]
        for curve in (true, second, first):
            assert (curve.x[0], curve.y[0]) == (0.0, 0.0)
        np.testing.assert_array_equal(true.y[1:], found.actual)
        assert second.y[-1] == pytest.approx(found.predicted[-1])
        assert figure.panels[0].markers[0].x == found.optimal_step
        assert f"ε* = {found.optimal_step:.3g}" in figure.caption

    def test_no_optimum_is_marked_where_there_is_none(self):
        saddle = tw.FunctionObjective(lambda t: -(t[0] ** 2), size=1)
        figure = figure_of(tw.step_curvature(saddle, [1.0]))
        assert figure.panels[0].markers == ()
        assert "every step is predicted to improve" in figure.caption

    def test_backward_steps_and_gaps(self):
        figure = figure_of(step(step_sizes=[-0.2, 0.1, 1e150]))
        assert "1 of 3 true changes are not finite" in figure.caption
        assert figure.panels[0].curves[0].x[0] == -0.2

    def test_eigenpairs_are_in_the_caption(self):
        figure = figure_of(step(eigenpairs=([1.0], [[1.0, 0.0, 0.0]])))
        assert "1 eigenpairs hold" in figure.caption

    def test_it_is_drawn(self, tmp_path):
        assert tw.draw(step(), tmp_path / "step.png").stat().st_size > 10_000


class TestProfiles:
    def test_slope_and_curvature_have_panels(self, tmp_path):
        known = FUNCTIONS["chain-3"]
        plain = figure_of(tw.profile(known.objective, known.line, [0.0, 0.5, 1.0], progress=False))
        found = tw.curvature_along(known.objective, known.line, [0.0, 0.5, 1.0], progress=False)
        figure = figure_of(found)
        assert len(figure.rows) == len(plain.rows) + 2
        labels = [panel.y.label for panel in figure.panels]
        assert labels[1:3] == ["slope dJ/dα", "curvature d²J/dα²"]
        np.testing.assert_array_equal(figure.panels[2].curves[0].y, found.curvature["train"])
        assert tw.draw(found, tmp_path / "line.png").stat().st_size > 10_000
