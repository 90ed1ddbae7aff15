"""What the plots of layer signals and of paths say."""

import numpy as np
import pytest

import thalweg as tw
from thalweg.figures.plots import figure_of


def signals(**changes):
    content = {
        "tensors": ("0.weight", "0.bias", "2.weight"),
        "size": [4, 1, 9],
        "depth": [0, 0, 1],
        "gradient_norm": [2.0, 0.0, 6.0],
        "weight_norm": [1.0, 1.0, 1.0],
        "zero": [1, 1, 0],
        "layers": ("1", "3", "5"),
        "functions": ("relu", "relu", "tanh"),
        "activation_gradient": [1.0, 2.0, 4.0],
        "activation_size": [4, 4, 4],
        "units": [4, 4, 4],
        "dead": [1, 0, 0],
        "saturated": [0, 0, 2],
        "unseen": ("memory",),
    }
    return tw.LayerSignals(**(content | changes))


def path(**changes):
    table = abs(np.arange(4.0)[:, None] - np.arange(4.0))
    content = {
        "step": [0, 1, 2, 3],
        "loss": [4.0, 3.0, 2.0, 1.0],
        "distance": table,
        "heading": [0.5, 0.7, 0.9, np.nan],
        "alignment": [0.6, 0.8, 1.0],
        "climb": 0.3,
        "line": tw.Profile(alpha=[0.0, 0.5, 1.0], loss=[4.0, 4.3, 1.0]),
    }
    return tw.PathReading(**(content | changes))


class TestLayerSignals:
    def test_three_panels(self):
        gradients, activations, units = figure_of(signals()).panels
        (dots,) = gradients.curves
        assert not dots.joined
        np.testing.assert_array_equal(dots.y, [1.0, np.nan, 2.0])  # RMS; 0 is a gap
        assert dots.x[0] < 0 < dots.x[1]  # side by side at depth 0
        assert dots.x[2] == 1.0
        np.testing.assert_array_equal(activations.curves[0].y, [0.25, 0.5, 1.0])
        assert [curve.label for curve in units.curves] == ["dead", "saturated"]
        dead, saturated = units.bands
        assert np.nanmax(dead.high) == 25.0
        assert np.nanmax(saturated.high) == 50.0
        # One bar each: two corners and a gap for each layer, NaN where there is nothing.
        assert np.isfinite(dead.high).sum() == np.isfinite(saturated.high).sum() == 2
        assert (units.markers[0].label, units.markers[0].x) == ("1", 1.0)

    def test_words(self):
        figure = figure_of(signals())
        assert "the norm of the gradient is multiplied by 0.25, 0.5 ± " in figure.caption
        assert "14.3% of the parameters have a gradient of exactly 0" in figure.caption
        assert "1 of 3 tensors are all of that kind: gaps." in figure.caption
        assert "Not seen: what is inside memory." in figure.caption
        assert "1: 1 of 4 dead, 0 saturated." in figure.alt
        assert "3: " not in figure.alt

    def test_without_activations(self):
        none = signals(
            layers=(), functions=(), activation_gradient=[], activation_size=[], units=[], dead=[],
            saturated=[],
        )  # fmt: skip
        assert len(figure_of(none).panels) == 1

    @pytest.mark.filterwarnings("error")
    def test_it_can_be_drawn(self, tmp_path):
        tw.draw(signals(), tmp_path / "signals.svg")
        assert "dead" in (tmp_path / "signals.svg").read_text()
        quiet = signals(dead=[0, 0, 0], saturated=[0, 0, 0], activation_gradient=[np.nan] * 3)
        tw.draw(quiet, tmp_path / "quiet.svg")


class TestPath:
    def test_two_panels(self):
        costs, angles = figure_of(path()).panels
        np.testing.assert_allclose(costs.curves[0].x, [0, 1 / 3, 2 / 3, 1])
        assert [curve.label for curve in costs.curves] == ["path", "straight line"]
        assert [curve.label for curve in angles.curves] == ["to the last", "to the next"]
        assert not costs.y.log
        assert figure_of(path(), log=True).panels[0].y.log

    def test_words(self):
        caption = figure_of(path(lost=2, target="given")).caption
        assert (
            "4 snapshots; length over chord 1, greatest climb on the straight line 0.1" in caption
        )
        assert "mean cosine 0.8 ± 0.12" in caption
        assert "2 snapshots at the end are left out: not finite." in caption

    def test_a_single_point(self, tmp_path):
        alone = tw.PathReading(step=[3], loss=[1.0], distance=[[0.0]])
        assert len(figure_of(alone).panels[0].curves) == 1
        tw.draw(alone, tmp_path / "alone.svg")

    def test_it_can_be_drawn(self, tmp_path):
        tw.draw(path(), tmp_path / "path.svg")
        assert "to the next" in (tmp_path / "path.svg").read_text()
