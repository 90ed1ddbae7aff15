import base64
import hashlib
import importlib
import json
import re
import subprocess
import sys
import xml.etree.ElementTree
from html.parser import HTMLParser

import numpy as np
import pytest

from hand_made_diagnoses import complete, healthy, open_questions, stuck
from thalweg.errors import RecordError
from thalweg.records import CheckedClaim, Record, save_record
from thalweg.reports.page import report
from thalweg.results import (
    Diagnosis,
    Evidence,
    Finding,
    History,
    Profile,
    Provenance,
    Surface,
)
from thalweg.results.diagnosis_table import in_order

MADE = Provenance(
    versions={"torch": "2.13.0"},
    dtype="float32",
    objective={"splits": {"train": {"examples": 50, "sha256": "abc123"}}, "penalty": None},
    section={"distances": [0.0, 1.5], "kind": "Line"},
)


def make_profile(seconds=1.25):
    made = Provenance(**{**vars(MADE), "seconds": seconds})
    return Profile(alpha=[0.0, 0.5, 1.0], loss=[2.0, 2.25, 0.5], provenance=made)


def make_record(**changes):
    content = {
        "study": "a-study-nobody-knows",
        "title": "Between <two> & three",
        "source": "Somebody (2015), figure 5",
        "scale": "smoke",
        "asked": {"points": 3, "window": [0.0, 1.0], "nothing": None, "empty": []},
        "results": {"line": make_profile(1.25), "other": make_profile(7.5)},
        "numbers": {"barrier": 0.31640625, "low": -1e-9, "monotone": False, "count": 12345},
        "claims": (
            CheckedClaim("It falls.", "reproduced", "climb 0"),
            CheckedClaim("It is <script>alert(1)</script>.", "not reproduced", 0.75),
        ),
        "summary": ("The first sentence.", "The second."),
        "provenance": {"seed": 7, "command": "thalweg run"},
        **changes,
    }
    return Record(**content)


VOID = {"meta", "img", "br", "link"}


class Page(HTMLParser):
    """Collect elements and text; fail where a tag is not closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.words = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip() and self.open[-1] not in ("style", "script"):
            self.words.append(data.strip())

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def written(what, tmp_path, **options):
    path = report(what, tmp_path / "report.html", **options)
    return path.read_text(encoding="utf-8")


def rows(page):
    """Return the tables as a mapping from one cell to the next."""
    return dict(zip(page.words, page.words[1:], strict=False))


def test_a_record_is_shown_with_all_its_parts(tmp_path):
    page = Page(written(make_record(), tmp_path))
    words = page.words
    assert "Between <two> & three" in words
    assert "a-study-nobody-knows · scale smoke" in words
    assert "After Somebody (2015), figure 5" in words
    assert "The first sentence." in words
    assert "1 of 2 claims reproduced" in words
    after = rows(page)
    assert after["It falls."] == "reproduced"
    assert after["reproduced"] == "climb 0"
    assert after["It is <script>alert(1)</script>."] == "not reproduced"
    assert after["not reproduced"] == "0.75"
    assert after["barrier"] == "0.316406"
    assert after["low"] == "−1e−09"
    assert after["monotone"] == "no"
    assert after["count"] == "12345"
    assert after["asked · points"] == "3"
    assert after["asked · window"] == "0, 1"
    assert after["command"] == "thalweg run"
    assert not {"asked · nothing", "asked · empty"} & set(words)


def test_what_results_share_is_said_once(tmp_path):
    after = rows(Page(written(make_record(), tmp_path)))
    assert after["objective · splits · train · sha256"] == "abc123"
    assert after["section · distances"] == "0, 1.5"
    assert after["line · seconds"] == "1.25"
    assert after["other · seconds"] == "7.5"
    assert "line · dtype" not in after
    assert "objective · penalty" not in after


def test_figures_are_pictures_with_words(tmp_path):
    page = Page(written(make_record(), tmp_path))
    pictures = page.all("img")
    assert len(pictures) == 2
    for picture, name in zip(pictures, ("line", "other"), strict=True):
        kind, data = picture["src"].split(",")
        assert kind == "data:image/svg+xml;base64"
        svg = xml.etree.ElementTree.fromstring(base64.b64decode(data))
        assert svg.tag == "{http://www.w3.org/2000/svg}svg"
        assert picture["alt"].startswith(f"Cost along the line from start to end ({name}). Line")
    assert any(
        w.startswith("Cost on train (50 examples). 3 points, float32. Study") for w in page.words
    )


def parted(text):
    """Return a page without its scripts, what they hold, and its own script."""
    scripts = re.findall(r"<script([^>]*)>(.*?)</script>", text, re.DOTALL)
    *data, (kind, own) = scripts
    assert kind == ""
    for attributes, _ in data:
        assert re.fullmatch(r' type="application/json" id="figure-\d+-\d+-data"', attributes)
    bare = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    return bare, [json.loads(content) for _, content in data], own


def test_the_page_asks_for_nothing_and_runs_its_own_script_alone(tmp_path):
    text = written([make_record(), make_profile()], tmp_path)
    bare, data, own = parted(text)
    assert len(data) == 3
    names = {name for name, _ in Page(text).elements}
    assert not names & {"link", "iframe", "object", "form", "base", "embed"}
    assert not re.search(r"https?://|//[a-z]|@import|url\(|javascript:", bare)
    # The name of a kind of element, which no browser loads, is the only address in the script.
    assert re.findall(r"https?://[^\s\"]*", own) == ["http://www.w3.org/2000/svg"]
    for word in (
        "fetch(",
        "XMLHttpRequest",
        "WebSocket",
        "import(",
        "eval(",
        "Function(",
        "innerHTML",
    ):
        assert word not in own
    for _, attributes in Page(text).elements:
        assert not any(name.startswith("on") or name == "style" for name in attributes)
    for link in Page(text).all("a"):
        assert re.match("#(chapter|figure)-", link["href"])


def test_the_policy_allows_this_style_this_script_and_pictures_only(tmp_path):
    text = written(make_record(), tmp_path)
    (policy,) = [m for m in Page(text).all("meta") if "http-equiv" in m]
    assert policy["http-equiv"] == "Content-Security-Policy"
    rules = dict(rule.strip().split(" ", 1) for rule in policy["content"].split(";"))
    style = re.search("<style>(.*?)</style>", text, re.DOTALL).group(1)
    digests = [
        base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        for content in (style, parted(text)[2])
    ]
    assert rules == {
        "default-src": "'none'",
        "style-src": f"'sha256-{digests[0]}'",
        "script-src": f"'sha256-{digests[1]}'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert "prefers-color-scheme: dark" in style
    assert "@media print" in style


def test_records_folders_and_results_go_into_one_page(tmp_path):
    folder = save_record(make_record(title="From a folder"), tmp_path / "run")
    surface = Surface(x=[0.0, 1.0], y=[0.0, 1.0], loss=np.ones((2, 2)))
    history = History(epoch=[0, 1], loss=[2.0, 1.0])
    items = (make_record(), str(folder), folder, make_profile(), surface, history)
    page = Page(written(iter(items), tmp_path, title="All <of> it"))
    assert page.words.count("All <of> it") == 2  # the tab and the heading
    assert page.words.count("From a folder") == 4  # contents and heading, twice
    assert page.words.count("Cost on a plane through parameter space") == 3  # and at the figure
    assert page.words.count("Cost during training") == 3
    targets = [section["id"] for section in page.all("section")]
    assert targets[0] == "side-by-side"
    links = [link["href"] for link in page.all("a") if link["href"].startswith("#chapter")]
    assert links == [f"#{target}" for target in targets[1:]]
    assert len(set(targets)) == 7


@pytest.mark.parametrize("form", [str, lambda folder: folder])
def test_one_folder_is_one_chapter(tmp_path, form):
    folder = save_record(make_record(), tmp_path / "run")
    page = Page(written(form(folder), tmp_path))
    assert len(page.all("section")) == 1
    assert page.all("nav") == []


def test_a_bare_record_and_no_record_make_a_page(tmp_path):
    page = Page(written(Record(study="bare"), tmp_path))
    assert page.words.count("bare") == 2  # as title, for want of one, and as name
    assert page.all("table") == []
    assert "There is nothing to show." in Page(written([], tmp_path)).words


def test_the_same_records_give_the_same_bytes(tmp_path):
    assert written(make_record(), tmp_path) == written(make_record(), tmp_path)


def test_everything_is_text_to_the_page(tmp_path):
    nasty = '"><script>alert(1)</script><img src=x onerror=y>'
    profile = Profile(
        alpha=[0.0, 1.0],
        loss={nasty: [1.0, 2.0]},
        labels=(nasty, nasty),
        provenance=Provenance(device=nasty, objective={nasty: nasty, "model": nasty}),
    )
    record = Record(
        study="nasty",
        title=nasty,
        source=nasty,
        scale=nasty,
        asked={nasty: nasty},
        results={"line": profile},
        numbers={nasty: nasty},
        claims=(CheckedClaim(nasty, "reproduced", nasty),),
        summary=(nasty,),
    )
    page = Page(written([record, profile], tmp_path, title=nasty))
    assert len(page.all("script")) == 3  # two figures and the page's own
    assert all(picture["src"].startswith("data:") for picture in page.all("img"))


def test_what_is_refused(tmp_path):
    with pytest.raises(TypeError, match=r"shows records, folders of records, .*; got float"):
        report([make_record(), 3.0], tmp_path / "report.html")
    with pytest.raises(TypeError, match=r"got int\. Pass one of these"):
        report(3, tmp_path / "report.html")
    with pytest.raises(RecordError, match=r"there is none in .*absent"):
        report(tmp_path / "absent", tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("missing", ["jinja2", "matplotlib.style"])
def test_without_the_extra_the_message_says_what_to_install(monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.delitem(sys.modules, "thalweg.figures.draw")
    monkeypatch.delitem(sys.modules, "thalweg.reports.page")
    monkeypatch.delitem(sys.modules, "thalweg.reports.chapters")
    with pytest.raises(ImportError, match=r"pip install 'thalweg\[report\]'"):
        importlib.import_module("thalweg.reports.page")


def test_results_are_measured_stored_and_shown_without_torch():
    code = (
        "import sys; import thalweg.measures, thalweg.records, thalweg.reports.page; "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_what_records_have_in_common_stands_side_by_side(tmp_path):
    one = make_record(title="One", results={"line": make_profile()}, numbers={"a": 1.5, "b": 2})
    two = make_record(title="Two", results={"line": make_profile()}, numbers={"a": 2.5, "c": 3})
    text = written([one, two], tmp_path)
    beside = text[text.index('id="side-by-side"') : text.index('id="chapter-1"')]
    page = Page(f"<main><section {beside.rsplit('<section', 1)[0]}</main>")
    copies = [figure["data-figure"] for figure in page.all("figure")]
    assert copies == ["figure-1-1-data", "figure-2-1-data"]
    assert page.words[-3:] == ["a", "1.5", "2.5"]  # what only one of them has is in its chapter
    assert not {"b", "c"} & set(page.words)
    assert "side-by-side" not in written([one, make_profile()], tmp_path)


def test_records_of_one_title_are_told_apart(tmp_path):
    page = Page(written([make_record(title="Same"), make_record(title="Same")], tmp_path))
    assert {"Same (1)", "Same (2)"} <= set(page.words)


def test_the_picture_that_matters_most_stands_first(tmp_path):
    results = {
        "history": History(epoch=[0, 1], loss=[2.0, 1.0]),
        "line": make_profile(),
        "map": Surface(x=[0.0, 1.0], y=[0.0, 1.0], loss=np.ones((2, 2))),
    }
    page = Page(written(make_record(results=results), tmp_path))
    alts = [picture["alt"].split(".")[0] for picture in page.all("img")]
    assert alts == [
        "Cost on a plane through parameter space",
        "Cost during training",
        "Cost along the line from start to end",
    ]


def diagnosis_page(make, tmp_path):
    record = Record(study="diagnosis", title="A run", results={"diagnosis": make()})
    return Page(written(record, tmp_path))


def test_a_diagnosis_begins_with_its_words_then_the_picture_then_the_table(tmp_path):
    text = written(Record(study="diagnosis", results={"diagnosis": stuck()}), tmp_path)
    places = [
        text.index("Gradient noise takes 62 % of the possible progress"),
        text.index("What to try: Raise the batch size from 8 to 64"),
        text.index("<figure "),
        text.index("Every obstacle"),
    ]
    assert places == sorted(places)


@pytest.mark.parametrize("make", [stuck, healthy, open_questions])
def test_every_obstacle_of_a_diagnosis_has_a_row(tmp_path, make):
    page = diagnosis_page(make, tmp_path)
    order = [each.title for each in in_order(make())]
    heads = [w for w in page.words[page.words.index("Every obstacle") :] if w in order]
    assert list(dict.fromkeys(heads)) == order
    verdicts = [a["class"].split()[1] for a in page.all("td") if "verdict" in a.get("class", "")]
    assert verdicts == [each.verdict for each in in_order(make())]


def test_the_evidence_unfolds_by_mouse_and_keyboard_and_is_open_for_the_primary(tmp_path):
    page = diagnosis_page(stuck, tmp_path)
    folds = [a for a in page.all("details") if a.get("class") == "evidence"]
    assert [("open" in fold) for fold in folds] == [True, False, False, False, False]
    assert len(page.all("summary")) >= len(folds)  # what a keyboard reaches
    for text in (*stuck()["gradient_noise"].rivals, stuck()["gradient_noise"].would_change):
        assert text in page.words
    assert "noise / descent = 0.94 of the step budget, over 0.5 (step 160)" in page.words


def test_folded_evidence_is_printed(tmp_path):
    text = written(stuck(), tmp_path)
    style = re.search("<style>(.*?)</style>", text, re.DOTALL).group(1)
    printed = "".join(re.findall(r"@media print \{(.*?)\n\}", style, re.DOTALL))
    assert "details::details-content { content-visibility: visible" in printed


def test_a_bare_diagnosis_and_one_in_a_record_say_the_same(tmp_path):
    bare = Page(written(stuck(), tmp_path)).words
    kept = diagnosis_page(stuck, tmp_path).words
    told = "Gradient noise takes 62 % of the possible progress (0.41 of J); 1 more in the way."
    assert told in bare
    assert told in kept
    begin = bare.index("Every obstacle")
    end = begin + bare[begin:].index("overfitting")
    length = end - begin
    at = kept.index("Every obstacle")
    assert bare[begin:end] == kept[at : at + length]


def test_the_words_of_a_diagnosis_are_text_to_the_page(tmp_path):
    nasty = "<script>alert(1)</script>"
    finding = Finding(
        "plateau",
        "present",
        0.5,
        evidence=(Evidence(nasty),),
        rivals=(nasty,),
        would_change=nasty,
        advice=nasty,
    )
    hostile = Diagnosis(complete([finding]), step=[0.0], loss=[1.0], floor_source=nasty)
    page = Page(written(hostile, tmp_path))
    assert len(page.all("script")) == 2  # a figure and the page's own
    assert page.words.count(nasty) >= 4
