import ast
import importlib.util
import inspect
import os
import re
from pathlib import Path

import pytest
import torch

import thalweg as tw
from thalweg.cli import main

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "docs/index.md")
LANGUAGE = "docs/language-models.md"
TUTORIALS = {  # what a page says in words of what it prints
    "barrier": [
        "greatest climb between start and solution: 0.0",
        "greatest climb on the way from line to run: 0.0",
        "barrier of height 0.",
    ],
    "slow": [
        "ill-conditioning: present",
        "share of steps that went uphill: 0%",
        "in the way: None",
    ],
    "two-solutions": ["not critical: ", "barrier on the curve 0.0"],
}


def executed():
    """The module that runs the pages of tutorials."""
    spec = importlib.util.spec_from_file_location("docs_executed", ROOT / "docs" / "executed.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
        "docs/report.md",
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
    assert commands == {"diagnose", "gallery", "list", "run", "profile", "report", "view"}


@pytest.mark.parametrize("page", TUTORIALS)
def test_a_tutorial_runs_and_comes_to_what_it_says(page, tmp_path):
    pytest.importorskip("sklearn", reason="needs pip install 'thalweg[data]'")
    text = (ROOT / "docs" / "tutorials" / f"{page}.md").read_text()
    here = Path.cwd()
    told = executed().executed(text, page, tmp_path / "drawn")
    assert Path.cwd() == here
    for words in TUTORIALS[page]:
        assert words in told
    wanted = [f"{page}-{name}" for name in re.findall(r'"([\w-]+\.png)"', text)]
    assert wanted
    for name in wanted:
        assert (tmp_path / "drawn" / name).read_bytes().startswith(b"\x89PNG")
        assert told.count(f"```{{figure}} drawn/{name}\n") == 1


def test_all_tutorials_are_tested_and_listed():
    found = {path.stem for path in (ROOT / "docs" / "tutorials").glob("*.md")}
    assert found == {*TUTORIALS, "index"}
    index = (ROOT / "docs" / "tutorials" / "index.md").read_text()
    assert all(f"\n{page}\n" in index for page in TUTORIALS)


def test_what_a_block_prints_and_draws_stands_below_it(tmp_path):
    text = (
        "# A page\n\n```python\nx = 2\nprint('one', x)\n```\n\nWords.\n\n"
        "```python\nimport thalweg as tw\n\n"
        "walk = tw.Profile(alpha=[0.0, 1.0], loss=[1.0, x])\n"
        "tw.draw(walk, 'walk.png')\n```\n"
    )
    told = executed().executed(text, "pages/page", tmp_path / "drawn")
    assert "print('one', x)\n```\n\n````text\none 2\n````\n\nWords." in told
    assert "```{figure} drawn/page-walk.png\n:width: 460px\n:alt: Cost along the line" in told
    assert [path.name for path in (tmp_path / "drawn").iterdir()] == ["page-walk.png"]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("1 / 0", "page, block 2: ZeroDivisionError: division by zero"),
        ("import warnings\n\nwarnings.warn('no', stacklevel=1)", "page, block 2: UserWarning: no"),
    ],
)
def test_a_block_that_raises_or_warns_ends_the_build(code, words, tmp_path):
    module, here, threads = executed(), os.getcwd(), torch.get_num_threads()
    text = f"```python\nx = 1\n```\n\n```python\n{code}\n```\n"
    with pytest.raises(module.BlockError, match=words):
        module.executed(text, "page", tmp_path)
    assert (os.getcwd(), torch.get_num_threads()) == (here, threads)


def nouns():
    """The code on the page of nouns: what makes each of them."""
    return re.findall(r"`([^`]+)`", (ROOT / "docs" / "nouns.md").read_text())


def test_the_names_on_the_page_of_nouns_exist():
    named = {name for code in nouns() for name in re.findall(r"\btw\.(\w+)", code)}
    assert len(named) > 40
    assert named <= set(tw.__all__)


def test_the_calls_on_the_page_of_nouns_could_be_made():
    calls = [
        call
        for code in nouns()
        if code.startswith("tw.")
        for call in ast.walk(ast.parse(code))
        if isinstance(call, ast.Call)
    ]
    for call in calls:
        made = tw
        for name in ast.unparse(call.func).removeprefix("tw.").split("."):
            made = getattr(made, name)
        named = {keyword.arg: None for keyword in call.keywords}
        inspect.signature(made).bind(*call.args, **named)
    assert len(calls) > 40


def test_the_commands_of_the_manual_are_those_that_there_are(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    there = set(re.search(r"\{([\w,]+)\}", re.sub(r"\s", "", text)).group(1).split(","))
    page = (ROOT / "docs" / "command-line.md").read_text()
    assert set(re.findall(r"^\| `thalweg (\w+)", page, re.MULTILINE)) == there


@pytest.mark.parametrize(
    "page", ["report", "nouns", "explorer", "tutorials/index", "tutorials/slow"]
)
def test_what_a_page_shows_and_links_to_is_there(page):
    path = ROOT / "docs" / f"{page}.md"
    text = path.read_text()
    shown = re.findall(r"\{figure\} (\S+)", text)
    linked = re.findall(r"\]\(([^)#]+\.md)\)", text)
    assert not [name for name in [*shown, *linked] if not (path.parent / name).exists()]
    assert all((path.parent / name).stat().st_size < 150_000 for name in shown)


def test_ci_runs_the_command_of_the_readme():
    assert re.search(r"^make test$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text())
    assert not [link for link in links if "//" not in link and not (ROOT / link).exists()]


def test_contributing_is_short_and_the_vision_has_five_lines():
    assert len((ROOT / "CONTRIBUTING.md").read_text().splitlines()) < 100
    assert len(re.findall(r"^\d\. ", (ROOT / "VISION.md").read_text(), re.MULTILINE)) == 5
