"""The report in a real browser: what is drawn, what can be done with it, what it never does."""

import csv
import io

import numpy as np
import pytest

from browsers import Watched, browser
from hand_made_diagnoses import stuck
from thalweg.records import Record
from thalweg.reports.page import report
from thalweg.results import History, Profile, RunPoints, RunSurface, Surface

BRIGHT = """
([selector, number]) => {
  const canvas = document.querySelectorAll(selector)[number];
  const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
  const colours = new Set();
  for (let k = 0; k < data.length; k += 4) {
    if (data[k + 3] > 250) colours.add((data[k] << 16) | (data[k + 1] << 8) | data[k + 2]);
  }
  return colours.size;
}
"""


@pytest.fixture(scope="module")
def chromium():
    with browser() as running:
        yield running


def run_surface():
    along = np.linspace(0.0, 4.0, 13)
    across = np.linspace(-1.0, 1.0, 11)
    off = np.sin(along * np.pi / 4) * 0.7
    loss = 3 - 0.6 * along[:, None] + across[None] ** 2
    run = RunPoints(np.arange(13) * 10, along, off, 0 * off, 3 - 0.6 * along + off**2)
    return RunSurface("ruled", along, across, loss, run, length=4.0)


def profile():
    alpha = np.linspace(0.0, 1.0, 41)
    return Profile(
        alpha=alpha,
        loss={"train": 2.4 - 1.9 * alpha + 0.5 * np.sin(6 * alpha), "valid": 2.3 - 1.6 * alpha},
    )


def page_of(chromium, tmp_path, results, **options):
    record = Record(study="a-study", title="A run", results=results, numbers={"climb": 0.25})
    path = report(record, tmp_path / "report.html")
    return Watched(chromium, path.as_uri(), **options)


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_every_figure_comes_to_life_without_a_word(chromium, tmp_path, width, dark):
    results = {
        "run": run_surface(),
        "line": profile(),
        "history": History(epoch=[0, 1, 2], loss={"train": [2.0, 1.0, 0.5]}),
        "map": Surface(x=[0.0, 1.0, 2.0], y=[0.0, 1.0], loss=np.arange(6.0).reshape(2, 3)),
        "diagnosis": stuck(),
    }
    watched = page_of(chromium, tmp_path, results, width=width, dark=dark)
    page = watched.alive()
    assert page.locator("figure[data-error]").count() == 0
    assert page.locator("figure.alive").count() == 5
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    watched.check_quiet()


def test_the_surface_is_drawn_and_turns(chromium, tmp_path):
    watched = page_of(chromium, tmp_path, {"run": run_surface()})
    page = watched.alive()
    assert page.evaluate(BRIGHT, [".space canvas", 0]) > 200  # a blank one has a few at most

    def picture():
        return page.evaluate("document.querySelector('.space canvas').toDataURL()")

    before = picture()
    page.locator(".space .stage").focus()
    page.keyboard.press("ArrowLeft")
    watched.until(lambda: picture() != before)
    turned = picture()
    page.get_by_role("button", name="reset view").click()
    watched.until(lambda: picture() != turned)
    watched.check_quiet()


def test_a_blank_canvas_has_no_colours(chromium, tmp_path):
    page = page_of(chromium, tmp_path, {"run": run_surface()}).alive()
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<canvas class=blank></canvas>')")
    assert page.evaluate(BRIGHT, [".blank", 0]) == 0


def test_the_run_is_read_by_keyboard_and_pointer(chromium, tmp_path):
    page = page_of(chromium, tmp_path, {"run": run_surface()}).alive()
    page.locator(".space .stage").focus()
    for _ in range(3):
        page.keyboard.press("PageDown")
    spoken = page.locator(".space [aria-live]").inner_text()
    assert "run: point 3 of 13" in spoken
    assert "updates: 20" in spoken
    assert f"off the line: {0.7 * np.sin(np.pi / 6):.4g}" in spoken
    box = page.locator(".space canvas").bounding_box()
    tip = page.locator(".space .tip")
    page.keyboard.press("Escape")
    for share in np.linspace(0.3, 0.7, 9):  # somewhere there the pointer is on the surface
        page.mouse.move(box["x"] + share * box["width"], box["y"] + 0.5 * box["height"])
        if tip.is_visible():
            break
    assert "cost J" in tip.inner_text()


def test_a_profile_zooms_switches_and_bends(chromium, tmp_path):
    page = page_of(chromium, tmp_path, {"line": profile()}).alive()
    figure = page.locator("figure").first
    panel = figure.locator(".panel").first

    def marks():
        return panel.locator(".axes text").all_text_contents()

    whole = marks()
    box = panel.locator("svg[role=presentation]").bounding_box()
    page.mouse.move(box["x"] + 0.4 * box["width"], box["y"] + 0.5 * box["height"])
    tip = panel.locator(".tip")
    assert "train" in tip.inner_text()
    assert "valid" in tip.inner_text()
    page.mouse.down()
    page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 0.5 * box["height"], steps=4)
    page.mouse.up()
    assert marks() != whole
    panel.get_by_role("button", name="show all").click()
    assert marks() == whole
    valid = panel.get_by_role("button", name="valid")
    valid.click()
    assert valid.get_attribute("aria-pressed") == "false"
    assert panel.locator(".curve").count() == 1
    valid.click()
    assert panel.locator(".curve").count() == 2
    panel.get_by_role("button", name="log scale").click()
    assert marks() != whole
    panel.locator(".stage").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert "train: " in panel.locator("[aria-live]").inner_text()


FLAT = 2.302585092994046


@pytest.mark.parametrize(
    "loss",
    [[FLAT, np.nextafter(FLAT, 3), FLAT], [0.0, 0.0, 0.0], [np.nan] * 3, [1e300, -1e300, 1e300]],
)
def test_a_cost_that_hardly_changes_or_is_no_number_is_drawn(chromium, tmp_path, loss):
    results = {
        "line": Profile(alpha=[0.0, 0.5, 1.0], loss=loss),
        "map": Surface(x=[0.0, 0.5, 1.0], y=[0.0, 1.0], loss=[loss, loss]),
    }
    watched = page_of(chromium, tmp_path, results)
    page = watched.alive()
    stage = page.locator(".panel .stage").first
    stage.focus()
    for _ in range(60):
        page.keyboard.press("+")
    page.keyboard.press("0")
    assert page.locator("figure[data-error]").count() == 0
    watched.check_quiet()


def test_the_keys_of_the_browser_stay_with_it(chromium, tmp_path):
    page = page_of(chromium, tmp_path, {"line": profile(), "run": run_surface()}).alive()
    kept = """
    (selector) => {
      const event = new KeyboardEvent("keydown", { key: "0", ctrlKey: true, cancelable: true });
      document.querySelector(selector).dispatchEvent(event);
      return event.defaultPrevented;
    }
    """
    assert page.evaluate(kept, ".panel:not(.space) .stage") is False
    assert page.evaluate(kept, ".space .stage") is False


def test_numbers_are_saved_as_they_are(chromium, tmp_path):
    page = page_of(chromium, tmp_path, {"line": profile()}).alive()
    with page.expect_download() as waiting:
        page.get_by_role("button", name="data (CSV)").first.click()
    path = tmp_path / "saved.csv"
    waiting.value.save_as(path)
    rows = [
        row
        for row in csv.DictReader(io.StringIO(path.read_text(encoding="utf-8")))
        if row["what"] == "train"
    ]
    assert [float(row["y"]) for row in rows] == profile().loss["train"].tolist()


NASTY = """</script><script>window.bad=1</script><img src=x onerror="window.bad=1">'"&\u2028"""


def test_nothing_in_a_record_is_run(chromium, tmp_path):
    lines = Profile(
        alpha=[0.0, 0.5, 1.0, 1.5],
        loss={NASTY: [1.0, np.nan, np.inf, 2.0], "=1+1": [1.0, -np.inf, 2.0, 3.0]},
        labels=(NASTY, NASTY),
    )
    record = Record(
        study="nasty",
        title=NASTY,
        summary=(NASTY,),
        results={"line": lines},
        numbers={NASTY: NASTY},
        provenance={"command": f"thalweg run 'a b' --x {NASTY}"},
    )
    path = report([record, record], tmp_path / 'it\'s "quoted" & more.html', title=NASTY)
    watched = Watched(chromium, path.as_uri())
    page = watched.alive()
    assert page.evaluate("window.bad") is None
    assert page.title() == NASTY
    assert page.locator("img[src=x]").count() == 0
    assert NASTY in page.locator(".panel .key").first.text_content()
    assert page.locator("figure[data-error]").count() == 0
    watched.check_quiet()


def test_a_million_points_keep_their_spike(chromium, tmp_path):
    alpha = np.linspace(0.0, 1.0, 1_000_000)
    loss = 1 + alpha**2
    loss[654_321] = 9.0
    watched = page_of(chromium, tmp_path, {"line": Profile(alpha=alpha, loss=loss)})
    page = watched.alive()
    path = page.locator(".curve path").first
    drawn = path.get_attribute("d")
    assert len(drawn) < 200_000
    heights = [float(part.split(" ")[1]) for part in drawn.replace("M", "L").split("L")[1:]]
    assert min(heights) < 0.4 * np.median(heights)
    watched.check_quiet()


def test_without_scripts_and_on_paper_the_posters_show(chromium, tmp_path):
    results = {"run": run_surface(), "line": profile()}
    still = page_of(chromium, tmp_path, results, scripts=False).page
    assert still.locator("figure .poster").first.is_visible()
    page = page_of(chromium, tmp_path, results).alive()
    assert not page.locator("figure .poster").first.is_visible()
    page.emulate_media(media="print")
    assert page.locator("figure .poster").first.is_visible()
    assert not page.locator("figure .live").first.is_visible()


def test_a_watched_page_that_complains_or_asks_is_noticed(chromium, tmp_path):
    path = tmp_path / "bad.html"
    path.write_text("<img src='missing.png'><script>console.log('hear me')</script>")
    watched = Watched(chromium, path.as_uri())
    with pytest.raises(AssertionError, match=r"complains: .*hear me"):
        watched.check_quiet()
    watched.complaints.clear()
    with pytest.raises(AssertionError, match=r"asks for .*missing\.png"):
        watched.check_quiet()


@pytest.fixture(scope="module")
def asked(chromium, tmp_path_factory):
    """Give what evaluates an expression in the script of a page."""
    path = report(Record(study="a-study"), tmp_path_factory.mktemp("script") / "report.html")
    return Watched(chromium, path.as_uri()).page.evaluate


NAMES = "linearMarks, logMarks, written, writtenMarks, scale, extent, padded"


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("linearMarks(0, 1, 5)", [0, 0.2, 0.4, 0.6, 0.8, 1]),
        ("linearMarks(-0.3, 0.3, 3)", [-0.2, 0, 0.2]),
        ("linearMarks(2, 2, 5)", [2]),
        ("linearMarks(2.302585092994046, 2.3025850929940463, 5)", [2.302585092994046]),
        ("linearMarks(1e9, 1e9 + 1e-6, 5)", [1e9]),
        ("logMarks(1e-4, 1e2, 10)", [1e-4, 1e-3, 1e-2, 1e-1, 1, 10, 100]),
        ("logMarks(0.5, 6, 5)", [0.5, 1, 2, 5]),
        ("writtenMarks([0, 0.25, 0.5])", ["0", "0.25", "0.5"]),
        ("writtenMarks([-1e-7, 2e6])", ["−1e−7", "2e6"]),
        ("written(NaN)", "not a number"),
        ("written(-Infinity)", "−∞"),
        ("[scale({low: 1, high: 100, log: true}).at(10)]", [0.5]),
        ("[scale({low: -8, high: 8, linearBelow: 1}).at(0)]", [0.5]),
        ("extent([[3, NaN, -1], [Infinity, 0]], false)", [-1, 3]),
        ("extent([[0, -1, NaN]], true)", None),
        ("padded([1, 100], true, 0.5)", [0.1, 1000]),
        ("padded([0, 0], false)", [-0.5, 0.5]),
    ],
)
def test_numbers_on_axes_are_as_people_write_them(asked, expression, expected):
    found = asked(f"(({{{NAMES}}}) => {expression})(thalweg.scales)")
    words = expected is None or isinstance(expected, str) or isinstance(found[0], str)
    assert found == (expected if words else pytest.approx(expected))


def test_a_refined_table_is_bilinear_and_keeps_its_gaps(asked):
    found = asked(
        "(({values, shape}) => [[...values].map((v) => (isNaN(v) ? null : v)), shape])"
        "(thalweg.scales.refined([0, 2, 4, 6, 8, NaN], [2, 3], [2, 2]))"
    )
    # Rows of 0 2 4 and 6 8 and a gap, with one more between each two.
    assert found[1] == [3, 5]
    assert found[0] == [0, 1, 2, 3, 4, 3, 4, 5, None, None, 6, 7, 8, None, None]


def test_a_thinned_path_breaks_at_a_gap(asked):
    drawn = asked(
        "(() => { const x = Float64Array.from({length: 9000}, (_, k) => k);"
        "const y = x.map((v) => (v === 4000 ? NaN : 1));"
        "return thalweg.flat.drawn(x, y, (v) => v, (v) => v, 0, 9000, 100); })()"
    )
    assert drawn.count("M") == 2
