"""Several records side by side: what is in the way of each, their numbers, their figures."""

from collections.abc import Sequence
from dataclasses import dataclass

from thalweg.reports.chapters import Chapter, Picture

__all__ = ["Comparison", "compared"]

_MOST_FIGURES = 6  # that are shown side by side; all of them are in the chapters


@dataclass(frozen=True)
class Comparison:
    """What the page says of several records at once.

    Attributes:
        names: What tells the records apart.
        rows: Name, and a value for each record.
        figures: A heading, and the picture of each record that has one.
    """

    names: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    figures: tuple[tuple[str, tuple[tuple[str, Picture], ...]], ...]


def compared(chapters: Sequence[Chapter]) -> Comparison | None:
    """Return the comparison of the records among some chapters, or None where none is to be made.

    Records are compared where two or more have a number, a diagnosis or a figure of one name.
    """
    some = [chapter for chapter in chapters if chapter.compared]
    names = _told_apart(some)
    rows = tuple(_rows(some))
    figures = tuple(_figures(some, names))
    if len(some) < 2 or not (rows or figures):
        return None
    return Comparison(names, rows, figures)


def _told_apart(chapters: Sequence[Chapter]) -> tuple[str, ...]:
    """Return the titles, with a number where two are alike."""
    titles = [chapter.title for chapter in chapters]
    return tuple(
        f"{title} ({titles[: k + 1].count(title)})" if titles.count(title) > 1 else title
        for k, title in enumerate(titles)
    )


def _rows(chapters: Sequence[Chapter]) -> list[tuple[str, tuple[str, ...]]]:
    """Return what two records or more have a word or a number for."""
    tables: list[dict[str, str]] = []
    for chapter in chapters:
        table = {}
        if chapter.diagnoses:
            table["in the way"] = chapter.diagnoses[0].headline
        if chapter.claims:
            table["claims"] = chapter.score
        tables.append(table | dict(chapter.numbers))
    names = dict.fromkeys(name for table in tables for name in table)
    return [
        (name, tuple(table.get(name, "–") for table in tables))
        for name in names
        if sum(name in table for table in tables) > 1
    ]


def _figures(
    chapters: Sequence[Chapter], names: Sequence[str]
) -> list[tuple[str, tuple[tuple[str, Picture], ...]]]:
    """Return the pictures of results that two records or more call by one name."""
    found: dict[str, list[tuple[str, Picture]]] = {}
    for chapter, name in zip(chapters, names, strict=True):
        for picture in chapter.pictures:
            found.setdefault(picture.name, []).append((name, picture))
    several = [pictures for pictures in found.values() if len(pictures) > 1]
    return [(each[0][1].title, tuple(each)) for each in several[:_MOST_FIGURES]]
