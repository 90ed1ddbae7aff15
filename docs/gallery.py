"""Writes one page a study from the committed records: claims, numbers, figures."""

from pathlib import Path

from thalweg.figures.draw import draw
from thalweg.figures.plots import figures_of
from thalweg.records import open_record


def write(records, target):
    """Write the pages and figures of every record in a folder."""
    target.mkdir(exist_ok=True)
    names = sorted(path.parent.name for path in Path(records).glob("*/record.json"))
    for name in names:
        page(open_record(records / name), name, target)
    pages = "\n".join(names)
    (target / "index.md").write_text(
        "# Gallery\n\nEvery study below was run with one command on real data. Its record is in "
        "the repository (`docs/records`), and this page was drawn from it.\n\n"
        f"```{{toctree}}\n:maxdepth: 1\n\n{pages}\n```\n"
    )


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
