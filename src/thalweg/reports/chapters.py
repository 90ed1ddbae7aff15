"""From records and results to what a page says of them: all in words and pictures."""

import base64
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from markupsafe import Markup

from thalweg.figures.draw import render
from thalweg.figures.figure import Figure
from thalweg.figures.plots import figure_of, figures_of
from thalweg.records import CheckedClaim, Record, Result, open_record
from thalweg.reports.figure_data import figure_json
from thalweg.results import Diagnosis, Finding, Profile, RunSurface, Surface
from thalweg.results.diagnosis_table import (
    cause_words,
    evidence_words,
    headline,
    in_order,
    progress_words,
    share_words,
    told_of,
)

__all__ = ["Chapter", "Obstacle", "Picture", "Verdicts", "chapter_of", "in_words"]

_POSTER_DPI = 220
# Which picture matters most, by the kind of its result; the others keep the order of the record.
_FIRST: tuple[type, ...] = (RunSurface, Diagnosis, Surface, Profile)


@dataclass(frozen=True)
class Picture:
    """A figure as the page shows it.

    Attributes:
        name: Name of its result in the record, by which pictures of records are compared.
        id: Its name in the page.
        title: Heading.
        source: Address that holds the picture of the print.
        alt: What it shows, in words.
        caption: Words below it.
        data: The figure as JSON, of which the page makes a live one.
    """

    name: str
    id: str
    title: str
    source: str
    alt: str
    caption: str
    data: Markup


@dataclass(frozen=True)
class Obstacle:
    """What the page says of one obstacle of a diagnosis."""

    title: str
    verdict: str
    cause: str
    share: str
    telling: str
    told: tuple[tuple[str, tuple[str, ...]], ...]
    open: bool


@dataclass(frozen=True)
class Verdicts:
    """What the page says of a diagnosis: the words first, then every obstacle."""

    headline: str
    progress: str
    advice: str
    obstacles: tuple[Obstacle, ...]


@dataclass(frozen=True)
class Chapter:
    """What the page says of one record or result.

    Attributes:
        title, subtitle, source, summary: Words.
        diagnoses: Of each diagnosis what is in the way.
        claims: The claims with their verdicts.
        pictures: The picture that matters most first.
        numbers, facts: Names and values.
        command: What makes such a record, or nothing.
        compared: Whether it is a record, which can be compared with others.
    """

    title: str
    subtitle: str = ""
    source: str = ""
    summary: tuple[str, ...] = ()
    diagnoses: tuple[Verdicts, ...] = ()
    claims: tuple[CheckedClaim, ...] = ()
    pictures: tuple[Picture, ...] = ()
    numbers: tuple[tuple[str, str], ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    command: str = ""
    compared: bool = False

    @property
    def score(self) -> str:
        """How many of the claims were reproduced."""
        right = sum(claim.verdict == "reproduced" for claim in self.claims)
        return f"{right} of {len(self.claims)} claims reproduced"


def chapter_of(item: Any, number: int) -> Chapter:
    """Return what the page says of one item, the number-th of the page.

    Raises:
        RecordError: If a folder holds no record, or a damaged one.
        TypeError: If it is neither a record, a folder nor a result.
    """
    if isinstance(item, str | os.PathLike):
        return _record_chapter(open_record(item), number)
    if isinstance(item, Record):
        return _record_chapter(item, number)
    if isinstance(item, Result):
        figure = figure_of(item)
        facts = tuple(_flat(asdict(item.provenance)))
        return Chapter(
            title=figure.title,
            diagnoses=_diagnoses([item]),
            pictures=(_picture("", f"figure-{number}-1", figure),),
            facts=facts,
        )
    raise TypeError(
        "A report shows records, folders of records, profiles, surfaces, diagnoses and other "
        f"results; got {type(item).__name__}. Pass one of these, or a list of them."
    )


def in_words(value: Any) -> str:
    """Return a plain value as the page shows it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}".replace("-", "−")
    if isinstance(value, list | tuple):
        return ", ".join(in_words(item) for item in value)
    return str(value)


def _record_chapter(record: Record, number: int) -> Chapter:
    """Return what the page says of a record."""
    made = {"asked": record.asked, **record.provenance}
    scale = f"scale {record.scale}" if record.scale else ""
    return Chapter(
        title=record.title or record.study,
        subtitle=" · ".join(word for word in (record.study, scale) if word),
        source=record.source,
        summary=record.summary,
        diagnoses=_diagnoses(record.results.values()),
        claims=record.claims,
        pictures=tuple(_pictures(record, number)),
        numbers=tuple((name, in_words(value)) for name, value in record.numbers.items()),
        facts=(*_flat(made), *_facts_of(record.results)),
        command=str(record.provenance.get("command") or ""),
        compared=True,
    )


def _pictures(record: Record, number: int) -> Iterator[Picture]:
    """Yield the pictures of a record, the one that matters most first."""
    figures = figures_of(record)
    kinds = {name: type(result) for name, result in record.results.items()}
    ranks = {
        name: _FIRST.index(kinds[name]) if kinds.get(name) in _FIRST else len(_FIRST)
        for name in figures
    }
    best = min(figures, key=lambda name: ranks[name], default=None)
    names = sorted(figures, key=lambda name: name != best)
    for place, name in enumerate(names, 1):
        yield _picture(name, f"figure-{number}-{place}", figures[name])


def _picture(name: str, place: str, figure: Figure) -> Picture:
    """Draw a figure into an address that holds the picture itself."""
    # Thousands of little faces take a browser longer as shapes than as dots.
    dots = any(panel.sheet is not None or panel.map is not None for panel in figure.panels)
    form: Literal["png", "svg"] = "png" if dots else "svg"
    kind = "image/png" if dots else "image/svg+xml"
    poster = base64.b64encode(render(figure, form, dpi=_POSTER_DPI)).decode()
    return Picture(
        name=name,
        id=place,
        title=figure.title,
        source=f"data:{kind};base64,{poster}",
        alt=figure.alt,
        caption=figure.caption,
        data=Markup(figure_json(figure)),  # which escapes what HTML would take for its own
    )


def _diagnoses(results: Iterable[Result]) -> tuple[Verdicts, ...]:
    """Return what the page says of the diagnoses among some results."""
    return tuple(
        Verdicts(
            headline(result),
            progress_words(result),
            result.present[0].advice if result.present else "",
            tuple(_obstacle(result, finding) for finding in in_order(result)),
        )
        for result in results
        if isinstance(result, Diagnosis)
    )


def _obstacle(diagnosis: Diagnosis, finding: Finding) -> Obstacle:
    """Return what the page says of one obstacle; what is known of the primary is seen at once."""
    return Obstacle(
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


def _flat(table: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Yield what is in nested tables, with the names on the way to it; skip what is empty."""
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name} · ")
        elif value is not None and value not in ("", []):
            yield f"{before}{name}", in_words(value)
