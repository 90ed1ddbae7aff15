import numpy as np

from thalweg.figures.figure import Axis, Band, Curve, Figure, Marker, Panel
from thalweg.figures.perspective import some
from thalweg.figures.printable import printable


def figure_of(curve, bands=(), markers=()):
    panel = Panel(Axis("x"), Axis("y"), curves=(curve,), bands=bands, markers=markers)
    return Figure("a title", "a caption", ((panel,),))


def test_short_curves_stay_as_they_are():
    x = np.linspace(0, 1, 6000)
    curve = Curve(x, x**2, "short", dots=True)
    kept = printable(figure_of(curve)).panels[0].curves[0]
    assert kept.x is curve.x
    assert kept.dots


def test_long_curves_keep_their_ends_spikes_and_gaps():
    x = np.linspace(2, 3, 200_001)
    y = np.sin(20 * x)
    y[77_777], y[123_456], y[150_000] = 5.0, -7.0, np.nan
    kept = printable(figure_of(Curve(x, y, "long", dots=True))).panels[0].curves[0]
    assert len(kept.x) < 8000
    assert not kept.dots
    assert (kept.x[0], kept.x[-1]) == (2.0, 3.0)
    assert np.nanmax(kept.y) == 5.0
    assert np.nanmin(kept.y) == -7.0
    assert x[150_000] in kept.x[np.isnan(kept.y)]
    assert np.all(np.diff(kept.x) > 0)
    assert set(kept.y[np.isfinite(kept.y)]) <= set(y)


def test_a_band_keeps_what_matters_to_either_edge():
    x = np.linspace(0, 1, 50_000)
    low, high = -np.ones_like(x), np.ones_like(x)
    low[11_111], high[22_222] = -3.0, 4.0
    band = Band(x, low, high, "interval")
    kept = printable(figure_of(Curve(x[:2], x[:2], ""), bands=(band,))).panels[0].bands[0]
    assert (kept.low.min(), kept.high.max()) == (-3.0, 4.0)
    assert len(kept.x) == len(kept.low) == len(kept.high) < 15_000


def test_a_curve_without_a_number_is_no_trouble():
    x = np.linspace(0, 1, 10_000)
    kept = printable(figure_of(Curve(x, x * np.nan, "nothing"))).panels[0].curves[0]
    assert np.isnan(kept.y).all()


def test_names_leave_room_for_what_they_name():
    x = np.linspace(0, 1, 3)
    figure = figure_of(
        Curve(x, x, "n" * 300), markers=(Marker("short", 0.5), Marker("m" * 80, 1.0))
    )
    panel = printable(figure).panels[0]
    assert panel.curves[0].label == "n" * 29 + "…"
    assert [marker.label for marker in panel.markers] == ["short", "m" * 29 + "…"]


def test_of_many_rows_the_ends_are_kept():
    assert some(5, 8).tolist() == [0, 1, 2, 3, 4]
    kept = some(1000, 64)
    assert len(kept) == 64
    assert (kept[0], kept[-1]) == (0, 999)
