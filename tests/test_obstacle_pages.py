"""Every obstacle has a page of one structure, and a picture."""

import re
from pathlib import Path

import pytest

from thalweg.results import OBSTACLES

NAMES = [key.replace("_", "-") for key in OBSTACLES]
DOCS = Path(__file__).parent.parent / "docs"
SECTIONS = [
    "What it looks like",
    "How it is measured",
    "What looks alike",
    "What to do",
    "Limits",
    "Source",
]


def page_of(key):
    return (DOCS / "obstacles" / f"{key.replace('_', '-')}.md").read_text()


@pytest.mark.parametrize("key", OBSTACLES)
def test_the_page_has_the_sections_and_the_title_of_the_obstacle(key):
    text = page_of(key)
    assert text.splitlines()[0].lower() == f"# {OBSTACLES[key]}".lower()
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == SECTIONS


@pytest.mark.parametrize("key", OBSTACLES)
def test_the_picture_is_there_small_and_told_in_words(key):
    name = f"{key.replace('_', '-')}.png"
    assert f"```{{figure}} ../images/obstacles/{name}\n" in page_of(key)
    assert len(re.search(r":alt: (.*)", page_of(key)).group(1)) > 40
    picture = (DOCS / "images" / "obstacles" / name).read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) < 60_000


@pytest.mark.parametrize("key", OBSTACLES)
def test_the_guide_leads_to_the_page(key):
    guide = (DOCS / "diagnosis.md").read_text()
    name = key.replace("_", "-")
    assert f"(obstacles/{name}.md)" in guide
    assert f"\nobstacles/{name}\n" in guide


@pytest.mark.parametrize(
    "page", ["diagnosis", *(f"obstacles/{k.replace('_', '-')}" for k in OBSTACLES)]
)
def test_links_between_pages_lead_somewhere(page):
    path = DOCS / f"{page}.md"
    links = re.findall(r"\]\(([^)#]+\.md)\)", path.read_text())
    assert not [link for link in links if not (path.parent / link).exists()]


@pytest.mark.parametrize("key", OBSTACLES)
def test_thresholds_are_called_by_their_names(key):
    thresholds = pytest.importorskip("thalweg.diagnosis.thresholds", reason="no diagnosis here")
    named = set(re.findall(r"`([A-Z_]{4,})`", page_of(key)))
    assert named <= set(thresholds.__all__)
