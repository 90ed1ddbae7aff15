"""Writes one page a study from the committed records, and a table of all claims."""

from pathlib import Path

from thalweg.figures.draw import draw
from thalweg.figures.plots import figures_of
from thalweg.records import open_record


def write(records, target):
    """Write the pages and figures of every record in a folder."""
    target.mkdir(exist_ok=True)
    names = sorted(path.parent.name for path in Path(records).glob("*/record.json"))
    found = {name: open_record(records / name) for name in names}
    for name, record in found.items():
        page(record, name, target)
    pages = "\n".join(names)
    (target / "index.md").write_text(
        "# Results\n\nEvery study below was run with one command. Its record is in the repository "
        "(`docs/records`), and this page and the figures were drawn from it. Claims that did not "
        "reproduce stay, with their numbers.\n\n"
        f"{table(found)}\n\n```{{toctree}}\n:maxdepth: 1\n:hidden:\n\n{pages}\n```\n"
    )


def table(records):
    """Return a row for every claim of every record: source, claim, number, verdict, command."""
    held = sum(claim.verdict == "reproduced" for r in records.values() for claim in r.claims)
    total = sum(len(record.claims) for record in records.values())
    lines = [
        f"{held} of {total} claims are reproduced, by {len(records)} studies.",
        "",
        "| study | source | claim | measured | verdict |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, record in records.items():
        for number, claim in enumerate(record.claims):
            first = f"[{record.title}]({name}.md), `{_command(record)}`" if not number else ""
            source = record.source if not number else ""
            cells = (first, source, claim.text, claim.measured, _strong(claim.verdict))
            lines.append("| " + " | ".join(_cell(text) for text in cells) + " |")
    return "\n".join(lines)


def _strong(verdict):
    """Return a verdict, marked where the claim does not hold."""
    return verdict if verdict == "reproduced" else f"**{verdict}**"


def _cell(text):
    """Return a text as a cell of a table."""
    return text.replace("|", "\\|")


def page(record, name, target):
    """Write the page of one record."""
    lines = [f"# {record.title}", "", f"*{record.source}*", ""]
    lines += [f"- {sentence}" for sentence in record.summary]
    lines += ["", "## Claims", "", "| verdict | claim | measured |", "| --- | --- | --- |"]
    lines += [f"| {c.verdict} | {c.text} | {c.measured} |" for c in record.claims]
    lines += ["", "## Figures", ""]
    for key, figure in figures_of(record).items():
        picture = f"{name}-{key}.png"
        draw(figure, target / picture)
        lines += [f"```{{figure}} {picture}", ":width: 460px", f":alt: {figure.title}", ""]
        lines += [figure.caption, "```", ""]
    lines += ["## Numbers", "", "| quantity | value |", "| --- | --- |"]
    lines += [f"| `{key}` | {_short(value)} |" for key, value in record.numbers.items()]
    made = ", ".join(f"{key}: {value}" for key, value in record.provenance.items())
    asked = ", ".join(f"{key}: {value}" for key, value in record.asked.items())
    lines += ["", "## How it was made", "", f"Settings: {asked}.", "", f"Made by: {made}.", ""]
    lines += ["Make your own:", "", "```sh", _command(record), "```", ""]
    (target / f"{name}.md").write_text("\n".join(lines))


def _command(record):
    """Return the command that makes such a record."""
    return f"thalweg run {record.study} --scale {record.scale} --seed {record.asked['seed']}"


def _short(value):
    """Write a number with six digits."""
    return f"{value:.6g}" if isinstance(value, float) else value
