"""Evaluated points as ordinary results, and as a record that `thalweg report` reads."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from thalweg.evaluate.points import tables_of
from thalweg.explorer.coordinates import Place
from thalweg.explorer.definitions import Definition
from thalweg.explorer.evaluation import Outline
from thalweg.objectives.objective import Evaluation
from thalweg.records import Record
from thalweg.results import Ends, Profile, Surface

__all__ = ["full_table", "record_of"]


def record_of(
    definition: Definition,
    outline: Outline,
    known: Mapping[Place, Evaluation],
    asked: Mapping[str, Any],
    seconds: float,
) -> Record | None:
    """Return the record of a section, or None where its points make no result yet.

    Args:
        definition: The section.
        outline: What its results say besides its points.
        known: Its points.
        asked: What the record says was asked for.
        seconds: Time that the evaluation took.

    Returns:
        A record with a `Profile` of all points of a line, or a `Surface` of the points of a plane
        that make up a full table (`full_table`).
    """
    made = replace(outline.provenance, seconds=seconds)
    result = _profile(outline, known) if definition.kind == "line" else _surface(outline, known)
    if result is None:
        return None
    result = replace(result, provenance=made)
    return Record(
        study="explorer",
        title=definition.title,
        asked={**asked, **definition.described()},
        results={"profile" if definition.kind == "line" else "surface": result},
        numbers={"evaluated_points": len(known)},
        provenance={"created": made.created},
    )


def full_table(places: Iterable[Place]) -> tuple[list[float], list[float]]:
    """Return columns and rows of a table all of whose points are among some given ones.

    Columns and rows that lack most points are given up first, until none lacks any: not always
    the largest table there is, but all of it where the points form one.

    Args:
        places: (x, y) of each point.

    Example:
        >>> full_table([(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (0.5, 0.0)])
        ([0.0, 1.0], [0.0, 1.0])
    """
    points = np.array([*places], dtype=np.float64).reshape(-1, 2)
    (x, column), (y, row) = (np.unique(points[:, i], return_inverse=True) for i in (0, 1))
    there = np.zeros((len(y), len(x)), dtype=bool)
    there[row, column] = True
    columns, rows = np.arange(len(x)), np.arange(len(y))
    while not (table := there[np.ix_(rows, columns)]).all():
        in_columns, in_rows = table.mean(axis=0), table.mean(axis=1)
        if in_columns.min() < in_rows.min():
            columns = np.delete(columns, in_columns.argmin())
        else:
            rows = np.delete(rows, in_rows.argmin())
    return x[columns].tolist(), y[rows].tolist()


def _profile(outline: Outline, known: Mapping[Place, Evaluation]) -> Profile | None:
    """Return all points of a line, or None where there are not two."""
    alpha = sorted(place[0] for place in known)
    if len(alpha) < 2:
        return None
    rows = [known[a,] for a in alpha]
    loss, metrics = tables_of(rows)
    ends = None
    if (0.0,) in known and (1.0,) in known:
        ends = Ends(np.array([0.0, 1.0]), *tables_of([known[0.0,], known[1.0,]]))
    return Profile(
        alpha=np.array(alpha),
        loss=loss,
        metrics=metrics,
        ends=ends,
        samples={name: np.array([r.samples[name] for r in rows]).T for name in rows[0].samples},
        labels=outline.labels,
        anchors=tuple(float(place) for place in outline.places),
        length=outline.length,
    )


def _surface(outline: Outline, known: Mapping[Place, Evaluation]) -> Surface | None:
    """Return a full table of points of a plane, or None where there is none of two by two."""
    x, y = full_table(known)
    if len(x) < 2 or len(y) < 2:
        return None
    loss, metrics = tables_of([known[a, b] for b in y for a in x], (len(y), len(x)))
    return Surface(
        x=np.array(x),
        y=np.array(y),
        loss=loss,
        metrics=metrics,
        labels=outline.labels,
        anchors=outline.places,
        gram=outline.gram,
    )
