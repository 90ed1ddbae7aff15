"""The report: one HTML file that holds everything it shows and asks for nothing else.

It has no scripts and no addresses, and tells the browser to refuse both, so it can be opened
anywhere, mailed, printed and kept.
"""

import base64
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from thalweg._version import __version__
from thalweg.records import CheckedClaim, Record, Result, open_record, write_atomically

try:
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    from thalweg.figures.draw import render
except ImportError as error:
    raise ImportError(
        "A report needs jinja2 and matplotlib, which are not both installed. "
        "Install them with `pip install 'thalweg[report]'`."
    ) from error

from thalweg.figures.figure import Figure
from thalweg.figures.plots import figure_of, figures_of
from thalweg.results import Diagnosis, Finding
from thalweg.results.diagnosis_table import (
    cause_words,
    evidence_words,
    headline,
    in_order,
    progress_words,
    share_words,
    told_of,
)

__all__ = ["report"]

Reportable = Record | Result | str | os.PathLike[str]


def report(
    what: Reportable | Iterable[Reportable],
    path: str | os.PathLike[str],
    *,
    title: str = "What stands in the way",
) -> Path:
    """Write a report of records and results to one HTML file.

    For each record it has title, source, summary in plain words, claims with their verdicts,
    figures with captions, numbers, and what made them; of a diagnosis what is in the way, in words,
    and every obstacle with its evidence. It is readable on a phone, in the
    dark and on paper. The same input gives the same bytes.

    Args:
        what: Records, folders of records, or bare results; one of them or several. A record
            may be of a study that this version does not know.
        path: The file to write, such as `"report.html"`.
        title: Heading of the page.

    Returns:
        The path of the file.

    Raises:
        ImportError: If jinja2 or matplotlib is not installed (`pip install 'thalweg[report]'`).
        RecordError: If a folder holds no record, or a damaged one.
        TypeError: If something is neither a record, a folder nor a result.

    Example:
        >>> import tempfile
        >>> from thalweg.results import Profile
        >>> walk = Profile(alpha=[0.0, 0.5, 1.0], loss=[2.0, 2.25, 0.5])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     page = report(walk, f"{folder}/report.html")
        ...     "Cost along the line from start to end" in page.read_text(encoding="utf-8")
        True
    """
    items: Any = what if _is_several(what) else [what]
    chapters = [_chapter(item) for item in items]
    style = _asset("page.css")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["words"] = _words
    text = environment.from_string(_asset("page.html.jinja")).render(
        title=title,
        chapters=chapters,
        style=Markup(style),  # our own file, so it needs no escaping
        style_digest=digest,
        version=__version__,
    )
    path = Path(path)
    write_atomically(path, text.encode())
    return path


@dataclass(frozen=True)
class _Picture:
    """A figure as the page shows it."""

    source: str
    alt: str
    caption: str


@dataclass(frozen=True)
class _Obstacle:
    """What the page says of one obstacle of a diagnosis."""

    title: str
    verdict: str
    cause: str
    share: str
    telling: str
    told: tuple[tuple[str, tuple[str, ...]], ...]
    open: bool


@dataclass(frozen=True)
class _Verdicts:
    """What the page says of a diagnosis: the words first, then every obstacle."""

    headline: str
    progress: str
    advice: str
    obstacles: tuple[_Obstacle, ...]


@dataclass(frozen=True)
class _Chapter:
    """What the page says of one record or result; all in words."""

    title: str
    subtitle: str = ""
    source: str = ""
    summary: tuple[str, ...] = ()
    diagnoses: tuple[_Verdicts, ...] = ()
    claims: tuple[CheckedClaim, ...] = ()
    pictures: tuple[_Picture, ...] = ()
    numbers: tuple[tuple[str, str], ...] = ()
    facts: tuple[tuple[str, str], ...] = ()

    @property
    def score(self) -> str:
        """How many of the claims were reproduced."""
        right = sum(claim.verdict == "reproduced" for claim in self.claims)
        return f"{right} of {len(self.claims)} claims reproduced"


def _is_several(what: Any) -> bool:
    """Return whether several things were given: a name is one thing, and so is a diagnosis."""
    return isinstance(what, Iterable) and not isinstance(what, str | os.PathLike | Result)


def _chapter(item: Any) -> _Chapter:
    """Return what the page says of one item."""
    if isinstance(item, str | os.PathLike):
        return _record_chapter(open_record(item))
    if isinstance(item, Record):
        return _record_chapter(item)
    if isinstance(item, Result):
        figure = figure_of(item)
        facts = tuple(_flat(asdict(item.provenance)))
        return _Chapter(
            title=figure.title,
            diagnoses=_diagnoses([item]),
            pictures=(_picture(figure),),
            facts=facts,
        )
    raise TypeError(
        "A report shows records, folders of records, profiles, surfaces, diagnoses and other "
        f"results; got {type(item).__name__}. Pass one of these, or a list of them."
    )


def _record_chapter(record: Record) -> _Chapter:
    """Return what the page says of a record."""
    made = {"asked": record.asked, **record.provenance}
    scale = f"scale {record.scale}" if record.scale else ""
    return _Chapter(
        title=record.title or record.study,
        subtitle=" · ".join(word for word in (record.study, scale) if word),
        source=record.source,
        summary=record.summary,
        diagnoses=_diagnoses(record.results.values()),
        claims=record.claims,
        pictures=tuple(_picture(figure) for figure in figures_of(record).values()),
        numbers=tuple((name, _words(value)) for name, value in record.numbers.items()),
        facts=(*_flat(made), *_facts_of(record.results)),
    )


def _diagnoses(results: Iterable[Result]) -> tuple[_Verdicts, ...]:
    """Return what the page says of the diagnoses among some results."""
    return tuple(
        _Verdicts(
            headline(result),
            progress_words(result),
            result.present[0].advice if result.present else "",
            tuple(_obstacle(result, finding) for finding in in_order(result)),
        )
        for result in results
        if isinstance(result, Diagnosis)
    )


def _obstacle(diagnosis: Diagnosis, finding: Finding) -> _Obstacle:
    """Return what the page says of one obstacle; what is known of the primary is seen at once."""
    return _Obstacle(
        title=finding.title,
        verdict=finding.verdict,
        cause=cause_words(diagnosis, finding),
        share="" if finding.verdict == "absent" else share_words(finding.severity),
        telling=evidence_words(finding.evidence[0]) if finding.evidence else "",
        told=tuple((label, tuple(texts)) for label, texts in told_of(finding) if texts),
        open=finding.obstacle == diagnosis.primary,
    )


def _facts_of(results: Mapping[str, Result]) -> Iterator[tuple[str, str]]:
    """Yield what made the results: what all of them share, then what is peculiar to each."""
    facts = {name: dict(_flat(asdict(each.provenance))) for name, each in results.items()}
    first, *others = facts.values() or [{}]
    shared = {k: v for k, v in first.items() if all(other.get(k) == v for other in others)}
    yield from shared.items()
    for name, table in facts.items():
        for key, value in table.items():
            if key not in shared:
                yield f"{name} · {key}", value


def _picture(figure: Figure) -> _Picture:
    """Draw a figure into an address that holds the picture itself."""
    picture = base64.b64encode(render(figure, "svg")).decode()
    return _Picture(f"data:image/svg+xml;base64,{picture}", figure.alt, figure.caption)


def _flat(table: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Yield what is in nested tables, with the names on the way to it; skip what is empty."""
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name} · ")
        elif value is not None and value not in ("", []):
            yield f"{before}{name}", _words(value)


def _words(value: Any) -> str:
    """Return a plain value as the page shows it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}".replace("-", "−")
    if isinstance(value, list | tuple):
        return ", ".join(_words(item) for item in value)
    return str(value)


def _asset(name: str) -> str:
    """Return the text of a file of this package."""
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
