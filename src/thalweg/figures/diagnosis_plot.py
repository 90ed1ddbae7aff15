"""The plot of a diagnosis: what was tried in place of the run, and what each obstacle takes."""

import math
from collections.abc import Mapping
from typing import Literal

import numpy as np

from thalweg.figures.captions import computed_words, cost_label, joined, model_words, number
from thalweg.figures.elements import curve_alt, gaps, needs_log, shown, span
from thalweg.figures.figure import Axis, Bar, Curve, Figure, Panel
from thalweg.results import Array, Diagnosis, Finding
from thalweg.results.diagnosis_table import (
    cause_words,
    headline,
    in_order,
    progress_words,
    share_words,
)

__all__ = ["diagnosis_figure"]

_FEW_POINTS = 25  # so few that each is marked
_LOOKS: Mapping[str, Literal["filled", "outline", "hatched"]] = {
    "present": "filled",
    "absent": "outline",
    "undetermined": "hatched",
}


def diagnosis_figure(diagnosis: Diagnosis, log: bool | None) -> Figure:
    """Return the figure of a diagnosis: the cost over the run, and a bar for each obstacle."""
    attempts = list(diagnosis.reached.items())[1:]  # the first is the run itself
    tried = [(name, reached) for name, reached in attempts if np.isfinite(reached).any()]
    seen = np.concatenate([diagnosis.loss, *(values for _, values in tried)])
    log = needs_log(seen) if log is None else log
    table = {"run": diagnosis.loss}
    runs = (
        Curve(
            diagnosis.step,
            shown(diagnosis.loss, log),
            "run",
            dots=len(diagnosis.step) <= _FEW_POINTS,
        ),
    )
    others = tuple(
        _attempts(diagnosis, name, values, rank, log)
        for rank, (name, values) in enumerate(tried, start=1)
    )
    floor = _floor(diagnosis, len(others) + 1, log)
    course = Panel(
        x=Axis("step", limits=span(diagnosis.step)),
        y=Axis(cost_label(diagnosis.provenance), log),
        curves=(*runs, *others, *floor),
        height=0.9,
        listed=bool(others),
    )
    shares = Panel(
        x=Axis("share of the possible progress (%)", limits=(0.0, 100.0)),
        y=Axis(""),
        bars=tuple(_bar(diagnosis, finding) for finding in in_order(diagnosis)),
    )
    hidden = math.isfinite(diagnosis.floor) and not floor
    return Figure(
        title=_title(diagnosis),
        caption=joined(
            headline(diagnosis),
            progress_words(diagnosis),
            "Each attempt starts from the run, and takes the place of a stretch of it."
            if others
            else "",
            f"The floor {diagnosis.floor:.4g} is not above 0, and not shown on this scale."
            if hidden
            else "",
            "Filled: present; empty: absent; hatched: undetermined, its share may be any.",
            gaps(runs, table),
            model_words(diagnosis.provenance),
            f"Computed{computed_words(diagnosis.provenance).replace(', ', ' in ', 1)}."
            if computed_words(diagnosis.provenance)
            else "",
        ),
        rows=((course,), (shares,)),
        alt=f"{curve_alt('step', diagnosis.step, table)} {_alt(diagnosis)}",
    )


def _title(diagnosis: Diagnosis) -> str:
    """Return the heading."""
    if diagnosis.present:
        return f"In the way: {diagnosis.present[0].title}"
    if any(finding.verdict == "undetermined" for finding in diagnosis):
        return "Nothing found in the way so far"
    return "Nothing in the way"


def _attempts(diagnosis: Diagnosis, name: str, reached: Array, rank: int, log: bool) -> Curve:
    """Return what was tried in the place of each stretch, from the run to where it got."""
    first, last = diagnosis.stretch[:, 0], diagnosis.stretch[:, 1]
    known = np.isfinite(diagnosis.loss)
    begin = np.full(len(first), np.nan)
    if known.any():
        begin = np.interp(first, diagnosis.step[known], diagnosis.loss[known])
    gap = np.full(len(first), np.nan)
    x = np.stack([first, last, gap], axis=1).ravel()[:-1]
    # What was not tried has no beginning either.
    begin = np.where(np.isfinite(reached), begin, np.nan)
    y = np.stack([begin, reached, gap], axis=1).ravel()[:-1]
    return Curve(x, shown(y, log), name, rank, dots=True)


def _floor(diagnosis: Diagnosis, rank: int, log: bool) -> tuple[Curve, ...]:
    """Return the floor as a line, where it is known and can be shown."""
    ends = np.array([np.min(diagnosis.step, initial=0.0), np.max(diagnosis.step, initial=0.0)])
    level = shown(np.full(2, diagnosis.floor), log)
    return (Curve(ends, level, "floor", rank),) if np.isfinite(level).all() else ()


def _bar(diagnosis: Diagnosis, finding: Finding) -> Bar:
    """Return the bar of an obstacle."""
    note = {"absent": "", "undetermined": "?"}.get(finding.verdict, share_words(finding.severity))
    if finding.verdict == "present" and cause_words(diagnosis, finding):
        note += " (symptom)"
    length = 0.0 if finding.verdict == "absent" else 100 * finding.severity
    return Bar(finding.title, length, _LOOKS[finding.verdict], note)


def _alt(diagnosis: Diagnosis) -> str:
    """Return the bars in words."""
    told = []
    for verdict in _LOOKS:
        named = [
            f"{finding.title} {number(round(100 * finding.severity))} %"
            if verdict == "present" and math.isfinite(finding.severity)
            else finding.title
            for finding in in_order(diagnosis)
            if finding.verdict == verdict
        ]
        told += [f"{verdict}: {', '.join(named)}"] if named else []
    return f"Bars of what each obstacle takes. {'; '.join(told).capitalize()}."
