import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "docs/index.md")
LANGUAGE = "docs/language-models.md"


@pytest.mark.parametrize("page", PAGES)
def test_the_python_on_the_page_runs_as_it_stands(page, tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    assert blocks
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        exec(compile("\n".join(blocks), page, "exec"), {})
    drawn = re.findall(r'"([\w-]+\.pdf)"', "".join(blocks))
    assert "profile.pdf" in drawn
    assert all((tmp_path / name).read_bytes().startswith(b"%PDF") for name in drawn)


@pytest.mark.parametrize(
    "page",
    [
        "docs/critical-points.md",
        "docs/curvature-along-lines.md",
        "docs/curvature.md",
        "docs/displacement.md",
        "docs/engine.md",
        "docs/layer-signals.md",
        "docs/pictures.md",
        "docs/spectra.md",
        "docs/step-budget.md",
        "docs/trajectories.md",
    ],
)
def test_the_python_of_a_guide_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        exec(compile("\n".join(blocks), page, "exec"), {})
    assert len(blocks) > 1


def test_the_page_on_language_models_runs_from_top_to_bottom(tmp_path, monkeypatch):
    for package in ("transformers", "peft"):
        pytest.importorskip(package, reason="needs pip install 'thalweg[hf]'")
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / LANGUAGE).read_text(), re.DOTALL)
    assert len(blocks) == 3
    monkeypatch.chdir(tmp_path)
    names = {}
    with torch.random.fork_rng():
        for block in blocks:
            exec(compile(block, LANGUAGE, "exec"), names)
    assert names["objective"].space.size == 2 * 4 * (32 + 96)


def test_commands_on_the_page_exist():
    text = (ROOT / "README.md").read_text()
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`?make (\w+)`?", text)) <= targets
    commands = set(re.findall(r"(?:`|^)thalweg (\w+)", text, re.MULTILINE))
    assert commands == {"diagnose", "gallery", "list", "run", "profile"}


def test_ci_runs_the_command_of_the_readme():
    assert re.search(r"^make test$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text())
    assert not [link for link in links if "//" not in link and not (ROOT / link).exists()]


def test_contributing_is_short_and_the_vision_has_five_lines():
    assert len((ROOT / "CONTRIBUTING.md").read_text().splitlines()) < 100
    assert len(re.findall(r"^\d\. ", (ROOT / "VISION.md").read_text(), re.MULTILINE)) == 5
