import importlib
import subprocess
import sys
import xml.etree.ElementTree
import zlib

import matplotlib
import numpy as np
import pytest

from thalweg.figures import Axis, Curve, Figure, Map, Marker, Panel, figure_of
from thalweg.figures.draw import _apart, _canvas, _levels, _plain_number, draw, render
from thalweg.results import Ends, History, Profile, Surface

ALPHA = np.linspace(-0.5, 1.5, 31)


def make_profile(scale=1.0):
    rng = np.random.default_rng(1)
    loss = {"train": scale * ((ALPHA - 1) ** 2 + 0.5), "valid": scale * ((ALPHA - 1) ** 2 + 0.6)}
    return Profile(
        alpha=ALPHA,
        loss=loss,
        metrics={"error": {"valid": np.abs(ALPHA) / 3}},
        samples={"train": loss["train"] + 0.01 * rng.normal(size=(4, 31))},
        ends=Ends(alpha=[0.0, 1.0], loss={name: [values[7], 0.5] for name, values in loss.items()}),
        labels=("start", "solution"),
    )


def make_zoom():
    alpha = np.concatenate((np.linspace(-0.5, 0.9, 15), np.linspace(0.99, 1.0, 20), [1.25, 1.5]))
    return Profile(alpha=alpha, loss=(alpha - 1) ** 2)


def make_surface(loss=None):
    x, y = np.linspace(-1, 2, 7), np.linspace(0, 1, 5)
    values = np.exp(3 * x[None, :] + y[:, None]) if loss is None else np.full((5, 7), loss)
    return Surface(
        x=x,
        y=y,
        loss=values,
        labels=("a", "b"),
        anchors=[[0.0, 0.0], [1.0, 0.0]],
        gram=[[4.0, 1.0], [1.0, 1.0]],
    )


def make_history():
    return History(epoch=[0, 1, 2], loss={"train": [3.0, 2.0, 1.0]}, best=2.0)


CASES = {
    "profile": (make_profile, None),
    "profile, log": (make_profile, True),
    "tiny, log": (lambda: make_profile(1e-9), True),
    "windows": (make_zoom, None),
    "windows, log": (make_zoom, True),
    "surface, log": (make_surface, True),
    "surface": (make_surface, False),
    "constant surface": (lambda: make_surface(2.0), None),
    "constant negative surface": (lambda: make_surface(-2.0), None),
    "surface of nothing": (lambda: make_surface(np.nan), None),
    "history": (make_history, None),
    "one point": (lambda: Profile(alpha=[0.5], loss=[1.0]), None),
    "no point": (lambda: Profile(alpha=[], loss=[]), None),
    "no value": (lambda: Profile(alpha=[0.5, 1.5], loss=[np.nan, np.inf]), None),
    "no value, log": (lambda: Profile(alpha=[0.5, 1.5], loss=[0.0, -1.0]), True),
    "dollars": (lambda: Profile(alpha=[0, 1], loss=[1, 2], labels=("$x", "$\\y{")), None),
}


def assert_is_picture(data, form):
    if form == "png":
        assert data.startswith(b"\x89PNG\r\n\x1a\n")
        assert data.endswith(b"IEND\xaeB`\x82")
    elif form == "pdf":
        assert data.startswith(b"%PDF-1.")
        assert data.rstrip().endswith(b"%%EOF")
    else:
        assert xml.etree.ElementTree.fromstring(data).tag == "{http://www.w3.org/2000/svg}svg"


@pytest.mark.parametrize(("make", "log"), CASES.values(), ids=CASES)
def test_every_kind_of_result_is_drawn(make, log):
    assert_is_picture(render(figure_of(make(), log=log), "svg"), "svg")


@pytest.mark.parametrize("make", [make_profile, make_surface, make_history])
@pytest.mark.parametrize("form", ["png", "pdf", "svg"])
def test_results_are_drawn_to_every_kind_of_file(tmp_path, make, form):
    path = tmp_path / f"figure.{form.upper()}"
    assert draw(make(), str(path), log=False) == path
    assert_is_picture(path.read_bytes(), form)
    assert list(tmp_path.iterdir()) == [path]


def test_the_check_of_these_tests_refuses_something_else():
    for form in ("png", "pdf"):
        with pytest.raises(AssertionError, match="startswith"):
            assert_is_picture(b"<html/>", form)
    with pytest.raises(AssertionError, match="html"):
        assert_is_picture(b"<html/>", "svg")


@pytest.mark.parametrize("form", ["png", "pdf", "svg"])
def test_the_same_figure_gives_the_same_bytes(form):
    assert render(figure_of(make_profile()), form) == render(figure_of(make_profile()), form)
    assert render(figure_of(make_surface()), form) == render(figure_of(make_surface()), form)


def test_a_picture_carries_its_title_and_caption():
    figure = figure_of(make_profile(), title="Über α", caption="31 points → on a line.")
    svg = render(figure, "svg").decode()
    assert figure.title in svg
    assert figure.caption in svg
    png = render(figure, "png")
    assert figure.caption.encode() in png
    assert figure.title.encode() in png
    pdf = render(figure, "pdf")
    assert figure.caption.encode("utf-16-be") in pdf.replace(b"\\(", b"(").replace(b"\\)", b")")


def test_fonts_are_embedded_as_outlines_that_can_be_edited():
    pdf = render(figure_of(make_profile()), "pdf")
    parts = [pdf]
    for piece in pdf.split(b"stream\n")[1::2]:
        try:
            parts.append(zlib.decompress(piece))
        except zlib.error:
            continue
    everything = b"".join(parts)
    assert b"/FontFile2" in everything
    assert b"/Type3" not in everything


def test_drawing_changes_no_setting_of_the_caller():
    with matplotlib.rc_context({"font.size": 31.0, "axes.facecolor": "red"}):
        before = dict(matplotlib.rcParams)
        odd = render(figure_of(make_profile()), "svg")
        assert dict(matplotlib.rcParams) == before
    assert odd == render(figure_of(make_profile()), "svg")


def test_drawing_needs_neither_pyplot_nor_torch():
    code = (
        "import sys; from thalweg.figures.draw import render; "
        "from thalweg.figures import figure_of; from thalweg.results import Profile; "
        "render(figure_of(Profile(alpha=[0, 1], loss=[2, 1])), 'svg'); "
        "print([m for m in ('matplotlib.pyplot', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_without_matplotlib_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.style", None)
    monkeypatch.delitem(sys.modules, "thalweg.figures.draw")
    with pytest.raises(ImportError, match=r"pip install 'thalweg\[plots\]'"):
        importlib.import_module("thalweg.figures.draw")


@pytest.mark.parametrize("name", ["figure.jpg", "figure", "figure.png.txt"])
def test_other_suffixes_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match=r"drawn to a \.png, \.pdf or \.svg file; got 'figure"):
        draw(make_profile(), tmp_path / name)


def test_a_finished_figure_is_drawn_as_it_is(tmp_path):
    figure = figure_of(make_profile())
    path = draw(figure, tmp_path / "figure.svg")
    assert path.read_bytes() == render(figure, "svg")
    with pytest.raises(ValueError, match="a finished Figure came with log=True"):
        draw(figure, tmp_path / "figure.svg", log=True)


def test_what_has_no_plot_is_refused(tmp_path):
    with pytest.raises(TypeError, match="shows a Profile, Surface, History, Displacement, Run"):
        draw([1.0, 2.0], tmp_path / "figure.png")


# What the canvas holds


def words(axes):
    return [text.get_text() for text in axes.texts if text.get_text()]


def test_curves_are_named_once_and_told_apart_without_colour():
    canvas = _canvas(figure_of(make_profile()))
    main, error = canvas.axes
    assert words(main) == ["train", "valid", "start", "solution"]
    assert words(error) == []
    drawn = {
        line.get_color(): line.get_linestyle() for line in main.lines if len(line.get_xdata()) > 2
    }
    assert len(drawn) == len(set(drawn.values())) == 2
    assert error.lines[0].get_color() == list(drawn)[1]
    assert (main.get_xlabel(), error.get_xlabel()) == ("", "α (0 = start, 1 = solution)")


def test_a_logarithmic_panel_has_logarithmic_axes():
    x = np.array([1.0, 10.0, 1000.0])
    panel = Panel(
        Axis("step", log=True), Axis("cost", log=True, limits=(0.5, 50)), (Curve(x, x, ""),)
    )
    (axes,) = _canvas(Figure("", "", ((panel,),))).axes
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert axes.get_ylim() == (0.5, 50)


def test_logarithmic_limits_have_no_margin():
    panel = Panel(Axis("step", log=True, limits=(1.0, 100.0)), Axis("cost"))
    (axes,) = _canvas(Figure("", "", ((panel,),))).axes
    assert axes.get_xlim() == (1.0, 100.0)


def test_names_that_would_overlap_go_higher_or_are_left_out():
    markers = tuple(Marker(f"name {k}", 0.5 + 0.001 * k) for k in range(4))
    panel = Panel(Axis("α", limits=(0.0, 1.0)), Axis("J"), markers=(Marker("far", 0.0), *markers))
    (axes,) = _canvas(Figure("", "", ((panel,),))).axes
    heights = {text.get_text(): text.xyann[1] for text in axes.texts}
    assert list(heights) == ["far", "name 0", "name 1", "name 2"]
    assert heights["far"] == heights["name 0"] < heights["name 1"] < heights["name 2"]
    assert len(axes.lines) == 5


def test_a_map_has_equal_scales_and_its_points():
    canvas = _canvas(figure_of(make_surface()))
    axes, scale = canvas.axes
    assert axes.get_aspect() == 1.0
    assert words(axes) == ["a", "b"]
    assert scale.get_xlabel() == "cost J"
    assert [tuple(line.get_xydata()[0]) for line in axes.lines] == [(0.0, 0.0), (2.0, 0.0)]


def test_a_very_tall_map_is_held_to_the_page():
    x, y = np.meshgrid([0.0, 1.0], [0.0, 90.0])
    panel = Panel(Axis("u"), Axis("v"), map=Map(x, y, x + y, "J"))
    height = _canvas(Figure("", "", ((panel,),))).get_size_inches()[1]
    assert height * 2.54 < 17


def test_long_titles_are_broken():
    figure = figure_of(make_history(), title="a " * 60)
    canvas = _canvas(figure)
    assert canvas.get_suptitle().count("\n") == 2


@pytest.mark.parametrize(
    ("places", "moved"),
    [
        ([], []),
        ([0.25, 0.75], [0.25, 0.75]),
        ([0.5, 0.55], [0.5, 0.7]),
        ([-1.0, 2.0], [0.0, 1.0]),
        ([0.9, 0.95, 0.99], [0.6, 0.8, 1.0]),
    ],
)
def test_names_of_curves_are_moved_apart(places, moved):
    assert _apart(places, 0.2) == pytest.approx(moved)


@pytest.mark.parametrize("low", [1e-9, 0.02, 0.2, 1.0, 3.7])
@pytest.mark.parametrize("factor", [1.0, 1.5, 10.0, 1e3, 1e7])
@pytest.mark.parametrize("log", [True, False])
def test_levels_hold_all_values(low, factor, log):
    levels = _levels(low, low * factor, log)
    assert levels[0] <= low
    assert levels[-1] >= low * factor
    assert np.all(np.diff(levels) > 0)
    assert 2 <= len(levels) <= 20


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.02, "0.02"),
        (300.0, "300"),
        (1e-3, "0.001"),
        (1e-4, "10⁻⁴"),
        (2e-6, "2·10⁻⁶"),
        (1e-12, "10⁻¹²"),
        (1e5, "10⁵"),
    ],
)
def test_numbers_of_logarithmic_scales(value, text):
    assert _plain_number(value) == text


def test_a_caption_is_written_below_the_picture_when_asked_for():
    figure = figure_of(make_history(), caption="Cost of a network. " * 12)
    bare, captioned = _canvas(figure), _canvas(figure, caption=True)
    assert captioned.get_supxlabel().startswith("Cost of a network.")
    assert bare.get_supxlabel() == ""
    assert captioned.get_figheight() > bare.get_figheight()
