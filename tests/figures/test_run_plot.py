import numpy as np
import pytest

from thalweg.figures import figure_of
from thalweg.figures.draw import render
from thalweg.figures.figure import Path, Sheet
from thalweg.figures.perspective import best_view, boxed, heights, hidden, limits_of, refined
from thalweg.records import Record, open_record, save_record
from thalweg.reports.page import report
from thalweg.results import Provenance, RunPoints, RunSurface

ALONG = np.array([0.0, 1.0, 2.5, 2.25, 4.0])
ACROSS = np.array([0.0, 1.0, -1.7, 0.5, 0.0])
MADE = Provenance(dtype="float64", device="cpu", objective={"function": "bowl", "parameters": 9})


def bowl(a, b):
    return 0.5 * (a - 4) ** 2 + b**2 + 0.25


def make(kind="ruled", **changes):
    across = np.linspace(-2, 2, 9)
    along = ALONG if kind == "ruled" else np.linspace(-1, 5, 7)
    off = np.zeros(5) if kind == "ruled" else np.array([0.0, 0.75, 0.0, 0.25, 0.0])
    table = bowl(along[:, None], across[None])
    run = RunPoints(10 * np.arange(5), ALONG, ACROSS, off, bowl(ALONG, ACROSS) + off)
    content = {
        "length": None if kind == "principal" else 4.0,
        "explained": [0.75, 0.125, 0.125] if kind == "principal" else [],
        "provenance": MADE,
        **changes,
    }
    return RunSurface(kind, along, across, table, run, **content)


def space(figure):
    return figure.panels[0].sheet


# What is shown


def test_a_ruled_surface_is_shown_in_space_as_a_map_and_with_its_distances():
    surface = make(curvature=[1.0, 0.5, -0.5, 0.0, 1.0])
    figure = figure_of(surface)
    sheet, flat, distances, bent = figure.panels
    assert sheet.sheet is not None
    assert flat.map is not None
    assert flat.map.equal
    off_line, off_surface = distances.curves
    np.testing.assert_array_equal(off_line.x, surface.run.step)
    np.testing.assert_array_equal(off_line.y, np.abs(ACROSS))
    np.testing.assert_array_equal(off_surface.y, 0)
    np.testing.assert_array_equal(bent.curves[0].y, surface.curvature)
    assert len(figure_of(make()).panels) == 3


def test_the_run_is_drawn_at_its_true_cost_at_every_point():
    for kind in ("ruled", "plane", "principal"):
        surface = make(kind)
        figure = figure_of(surface)
        run, *_ = space(figure).paths
        np.testing.assert_array_equal(run.x, ALONG)
        np.testing.assert_array_equal(run.y, ACROSS)
        np.testing.assert_array_equal(run.z, surface.run.loss["train"])
        (curve, *_) = figure.panels[1].curves
        np.testing.assert_array_equal((curve.x, curve.y), (ALONG, ACROSS))


def test_the_run_is_a_vertex_of_the_mesh_of_its_ruled_surface():
    sheet = space(figure_of(make()))
    vertices = {tuple(v) for v in np.stack([sheet.x, sheet.y, sheet.z], -1).reshape(-1, 3)}
    for t in (0, 1, 2, 4):
        assert (ALONG[t], ACROSS[t], bowl(ALONG[t], ACROSS[t])) in vertices
    # The values of a plane stay those of the plane, whatever the cost of the run.
    plane = make("plane")
    np.testing.assert_array_equal(space(figure_of(plane)).z, plane.loss["train"])


def test_rows_where_the_run_goes_back_are_left_out_and_counted():
    figure = figure_of(make())
    np.testing.assert_array_equal(space(figure).x[:, 0], [0, 1, 2.5, 4])
    assert "At 1 of 5 points the run goes back along the line" in figure.caption
    assert "goes back" not in figure_of(make("plane")).caption


def test_the_caption_says_which_surface_it_is_and_what_it_hides():
    ruled, plane, principal = (
        figure_of(make(kind)).caption for kind in ("ruled", "plane", "principal")
    )
    assert "Ruled surface S(t, b)" in ruled
    assert "the run lies on it" in ruled
    assert "The line is 4 long; the run is up to 1.7 from it." in ruled
    assert "off the plane" not in ruled
    assert "Plane S(a, b)" in plane
    assert "need not lie on the surface" in plane
    assert "It is up to 0.75 off the plane." in plane
    assert "explain 75 % and 12.5 % of the run's scatter" in principal
    assert "random walk" in principal
    assert "Model: bowl, 9 parameters." in ruled
    assert "7 × 9 points of the surface, 5 of the run, float64 on cpu." in plane


def test_a_plane_that_holds_the_run_says_so():
    run = make("ruled").run
    along = np.linspace(-1, 5, 7)
    across = np.linspace(-2, 2, 9)
    surface = RunSurface("plane", along, across, bowl(along[:, None], across[None]), run)
    assert "The run lies in the plane." in figure_of(surface).caption


def test_the_distance_off_a_plane_is_drawn_for_every_point():
    for kind in ("plane", "principal"):
        surface = make(kind)
        curves = {curve.label: curve for curve in figure_of(surface).panels[2].curves}
        label = "off the surface" if kind == "plane" else "off the plane"
        np.testing.assert_array_equal(curves[label].y, [0, 0.75, 0, 0.25, 0])


def test_a_principal_plane_comes_with_that_of_a_random_walk():
    (walk,) = figure_of(make("principal")).panels[-1].curves
    phase = np.pi * (np.arange(5) + 0.5) / 5
    np.testing.assert_allclose(walk.x / walk.x[0], np.cos(phase) / np.cos(phase[0]), atol=1e-12)
    assert np.ptp(walk.y) < np.ptp(walk.x)


def test_the_words_for_those_who_cannot_see_it_have_the_numbers():
    alt = figure_of(make("plane")).alt
    assert "along the run it goes from 8.25 to 0.25" in alt
    assert "0.75 off the surface" in alt


def test_a_flat_map_gets_scales_of_its_own_and_says_so():
    surface = make()
    run = surface.run
    thin = RunPoints(run.step, run.projection, run.across / 50, run.off, dict(run.loss))
    figure = figure_of(RunSurface("ruled", ALONG, surface.across / 50, dict(surface.loss), thin))
    assert not figure.panels[1].map.equal
    assert "axes of the map have scales of their own" in figure.caption
    assert "scales of their own" not in figure_of(surface).caption


def test_gaps_are_counted_and_a_single_row_is_refused():
    surface = make("plane")
    table = np.array(surface.loss["train"])
    table[2, 3] = np.nan
    broken = RunSurface("plane", surface.along, surface.across, table, surface.run)
    assert "1 of 63 values are gaps." in figure_of(broken).caption
    with pytest.raises(ValueError, match=r"two rows and two columns at least.*\(1, 9\)"):
        figure_of(RunSurface("plane", [0.0], surface.across, table[:1], surface.run))


# How it is drawn


@pytest.mark.parametrize("form", ["png", "pdf", "svg"])
@pytest.mark.parametrize("kind", ["ruled", "plane", "principal"])
def test_pictures_of_runs_are_drawn_and_have_the_same_bytes_each_time(kind, form):
    surface = make(kind)
    first, second = (render(figure_of(surface), form, caption=True) for _ in range(2))
    assert first == second
    assert len(first) > 5000


def test_gaps_logarithms_and_constants_are_drawn():
    surface = make("plane")
    table = np.array(surface.loss["train"])
    table[1, 1:4] = np.nan
    cases = {"gap": table, "constant": 0 * table + 2, "nothing": table * np.nan, "negative": -table}
    for values in cases.values():
        broken = RunSurface("plane", surface.along, surface.across, values, surface.run)
        for log in (False, True):
            assert b"<svg" in render(figure_of(broken, log=log), "svg")


def test_many_rows_are_thinned_in_space_alone():
    t = np.linspace(0, 4, 300)
    run = RunPoints(np.arange(300), t, np.sin(t), 0 * t, bowl(t, np.sin(t)))
    across = np.linspace(-2, 2, 5)
    figure = figure_of(RunSurface("ruled", t, across, bowl(t[:, None], across[None]), run))
    assert len(space(figure).x) == 90
    assert len(figure.panels[1].map.x) == 300
    assert "90 of the rows are drawn in space." in figure.caption
    assert not space(figure).paths[0].dots


def test_a_record_and_a_report_hold_pictures_of_runs(tmp_path):
    record = Record(
        study="runs", title="Runs", results={kind: make(kind) for kind in ("ruled", "plane")}
    )
    save_record(record, tmp_path / "record")
    opened = open_record(tmp_path / "record")
    for kind, surface in record.results.items():
        twin = opened.results[kind]
        assert isinstance(twin, RunSurface)
        assert isinstance(twin.run, RunPoints)
        assert twin.kind == kind
        np.testing.assert_array_equal(twin.run.off, surface.run.off)
        np.testing.assert_array_equal(twin.loss["train"], surface.loss["train"])
    page = report(tmp_path / "record", tmp_path / "page.html").read_text()
    assert page.count("<img") == 2
    assert "It is up to 0.75 off the plane." in page


# What the eye sees


def wall():
    """A flat floor with a wall across it at x = 2."""
    x, y = np.meshgrid(np.linspace(0, 4, 41), np.linspace(0, 4, 9), indexing="ij")
    return Sheet(x, y, np.where(np.abs(x - 2) < 0.15, 3.0, 0.0), "cost", box=(1.0, 1.0, 1.0))


def test_a_wall_hides_what_is_behind_it_from_the_eye():
    sheet = wall()
    points = tuple(np.array(c) for c in ([1.7, 2.3, 1.7], [2.0, 2.0, 2.0], [0.0, 0.0, 3.0]))
    np.testing.assert_array_equal(hidden(sheet, points, (20.0, 0.0)), [True, False, False])
    np.testing.assert_array_equal(hidden(sheet, points, (20.0, 180.0)), [False, True, False])
    assert not hidden(sheet, points, (89.0, 0.0)).any()


def test_a_path_on_the_sheet_is_not_hidden_by_the_sheet_that_it_lies_on():
    surface = make()
    sheet = space(figure_of(surface))
    run, line = sheet.paths
    for path in (run, line):
        assert not hidden(sheet, refined(path, False), (60.0, -60.0)).any()


def test_the_eye_is_where_it_sees_the_run():
    sheet = wall()
    behind = Path(np.full(9, 1.7), np.linspace(0, 4, 9), np.zeros(9), "run")
    view = best_view(sheet, behind)
    assert not hidden(sheet, (behind.x, behind.y, behind.z), view).any()
    assert hidden(sheet, (behind.x, behind.y, behind.z), (32.0, -45.0)).any()


def test_heights_and_boxes():
    values = np.array([0.01, 1.0, 0.0, np.inf])
    np.testing.assert_array_equal(heights(values, True), [-2, 0, np.nan, np.nan])
    np.testing.assert_array_equal(heights(values, False), [0.01, 1, 0, np.nan])
    sheet = wall()
    assert limits_of(sheet) == ((0, 4), (0, 4), (0, 3))
    np.testing.assert_allclose(boxed(sheet, [np.array([4.0])] * 3), [[1, 1, 4 / 3]])
