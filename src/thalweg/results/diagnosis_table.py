"""A diagnosis in words: what is in the way, the evidence, and what to try."""

import math
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from thalweg.results.diagnosis import Diagnosis, Evidence, Finding

__all__ = [
    "cause_words",
    "diagnosis_table",
    "evidence_words",
    "headline",
    "in_order",
    "progress_words",
    "share_words",
    "told_of",
]

_WIDTH = 100  # columns of a terminal
_OBSTACLE, _VERDICT, _SHARE = 25, 14, 7  # columns of the table; the rest is evidence
_LABEL = 16  # column at which the words of a finding start


def diagnosis_table(diagnosis: "Diagnosis", width: int = _WIDTH) -> str:
    """Return a diagnosis as plain text that a person can act on.

    The first line says what costs most. Then comes a row for each obstacle, what is in the way
    first and what is not last, with its most telling evidence; then all of the evidence on what is
    in the way, with what to try; then what would settle the undetermined.

    Args:
        diagnosis: What to tell.
        width: Columns of the page, 60 or more.

    Returns:
        Lines of at most `width` characters; the same as `print(diagnosis)` shows.

    Raises:
        ValueError: If the page is too narrow for the table.

    Example:
        >>> from thalweg.results import OBSTACLES, Diagnosis, Finding
        >>> findings = {key: Finding(key, "absent") for key in OBSTACLES}
        >>> findings["plateau"] = Finding("plateau", "present", severity=0.4, cost=0.8)
        >>> told = diagnosis_table(Diagnosis(findings, step=[0, 10], loss=[2.0, 1.8]))
        >>> told.splitlines()[0]
        'Plateau takes 40 % of the possible progress (0.8 of J).'
    """
    if width < 60:
        raise ValueError(
            f"The table of a diagnosis needs 60 columns; got width={width}. Leave it at {_WIDTH}."
        )
    parts = [
        textwrap.wrap(headline(diagnosis), width),
        textwrap.wrap(progress_words(diagnosis), width),
        ["", *_row("obstacle", "verdict", "share", "most telling evidence", width)],
        *(_finding_row(diagnosis, finding, width) for finding in in_order(diagnosis)),
        *(_details(diagnosis, finding, width) for finding in diagnosis.present),
        _open_questions(diagnosis, width),
    ]
    return "\n".join(line.rstrip() for part in parts for line in part)


def headline(diagnosis: "Diagnosis") -> str:
    """Say in one sentence what is in the way.

    Args:
        diagnosis: What to tell.
    """
    if diagnosis.present:
        first = diagnosis.present[0]
        others = len(diagnosis.present) - 1
        if math.isnan(first.severity):
            said = f"{_capital(first.title)} is in the way; how much it takes is not known"
        else:
            said = f"{_capital(first.title)} takes {share_words(first.severity)} of the possible "
            said += f"progress ({first.cost:.3g} of J)"
        # The rest of the table says which.
        return f"{said}{f'; {others} more in the way' if others else ''}."
    absent = sum(finding.verdict == "absent" for finding in diagnosis)
    undetermined = len(diagnosis.findings) - absent
    if not undetermined:
        return f"Nothing stands in the way: all {absent} obstacles are absent."
    if not absent:
        return f"What is in the way is undetermined, for each of {undetermined} obstacles."
    return (
        f"Nothing was found in the way, but {undetermined} of {absent + undetermined} obstacles "
        "are undetermined."
    )


def progress_words(diagnosis: "Diagnosis") -> str:
    """Say what the shares are of, and what the numbers are from; nothing where nothing is known.

    Args:
        diagnosis: What to tell.
    """
    words = []
    if math.isfinite(diagnosis.possible):
        source = f" ({diagnosis.floor_source})" if diagnosis.floor_source else ""
        words.append(
            f"Possible progress: {diagnosis.possible:.4g} of J, down to {diagnosis.floor:.4g}"
            f"{source}."
        )
    if diagnosis.example_counts:
        counts = (
            f"{count} examples for {what}" for what, count in diagnosis.example_counts.items()
        )
        words.append(f"From a subsample: {', '.join(counts)}.")
    return " ".join(words)


def in_order(diagnosis: "Diagnosis") -> tuple["Finding", ...]:
    """Return all findings: what is in the way, the primary first, then undetermined, then absent.

    Args:
        diagnosis: Where they are.
    """
    rest = (
        finding
        for verdict in ("undetermined", "absent")
        for finding in diagnosis
        if finding.verdict == verdict
    )
    return (*diagnosis.present, *rest)


def share_words(severity: float) -> str:
    """Return a share of the possible progress in words, such as `"62 %"`.

    Args:
        severity: From 0 to 1, or NaN.
    """
    if math.isnan(severity):
        return "?"
    if 0 < severity < 0.005:
        return "< 1 %"
    return f"{100 * severity:.0f} %"


def cause_words(diagnosis: "Diagnosis", finding: "Finding") -> str:
    """Return of what an obstacle is a symptom; nothing where it is its own cause.

    Args:
        diagnosis: Where the cause is found.
        finding: The verdict on the obstacle.
    """
    if not finding.symptom_of:
        return ""
    return f"a symptom of {diagnosis[finding.symptom_of].title}"


def evidence_words(evidence: "Evidence") -> str:
    """Return a reading with the step at which it was taken.

    Args:
        evidence: The reading.
    """
    return evidence.text if evidence.step is None else f"{evidence.text} (step {evidence.step})"


def told_of(finding: "Finding") -> Iterator[tuple[str, Sequence[str]]]:
    """Yield what is known of an obstacle, by what it is: evidence, rivals, and what to do.

    Args:
        finding: The verdict on the obstacle.
    """
    yield "evidence", [evidence_words(each) for each in finding.evidence]
    yield "not instead", finding.rivals
    yield "would change", [finding.would_change] if finding.would_change else []
    yield "try", [finding.advice] if finding.advice else []


def _finding_row(diagnosis: "Diagnosis", finding: "Finding", width: int) -> list[str]:
    """Return the row of one obstacle."""
    telling = [cause_words(diagnosis, finding), *map(evidence_words, finding.evidence[:1])]
    share = "" if finding.verdict == "absent" else share_words(finding.severity)
    words = "; ".join(word for word in telling if word)
    return _row(finding.title, finding.verdict, share, words, width)


def _row(obstacle: str, verdict: str, share: str, evidence: str, width: int) -> list[str]:
    """Return one row of the table; evidence that is long goes on in lines below."""
    begin = f"{obstacle:<{_OBSTACLE}}{verdict:<{_VERDICT}}{share:>{_SHARE - 2}}  "
    return _hung(begin, evidence, width)


def _details(diagnosis: "Diagnosis", finding: "Finding", width: int) -> list[str]:
    """Return all that is known of an obstacle that is in the way."""
    share = "its share is not known"
    if not math.isnan(finding.severity):
        share = f"{share_words(finding.severity)} of the possible progress"
    facts = (finding.verdict, cause_words(diagnosis, finding), share)
    said = f"{_capital(finding.title)}: {', '.join(fact for fact in facts if fact)}."
    lines = ["", *textwrap.wrap(said, width)]
    for label, texts in told_of(finding):
        for i, text in enumerate(texts):
            lines += _hung(f"  {'' if i else label:<{_LABEL - 2}}", text, width)
    return lines


def _open_questions(diagnosis: "Diagnosis", width: int) -> list[str]:
    """Return the undetermined obstacles, those that the same thing would settle together."""
    settled_by: dict[str, list[str]] = {}
    for finding in diagnosis:
        if finding.verdict == "undetermined":
            settled_by.setdefault(finding.would_change, []).append(finding.title)
    if not settled_by:
        return []
    lines = ["", "Undetermined, and what would settle it:"]
    for what, titles in settled_by.items():
        lines += textwrap.wrap(
            f"{', '.join(titles)}: {what or 'not known.'}",
            width,
            initial_indent="  ",
            subsequent_indent="    ",
        )
    return lines


def _hung(begin: str, text: str, width: int) -> list[str]:
    """Return words that begin at a column, and go on at it."""
    lines: Iterable[str] = textwrap.wrap(text, width - len(begin)) or [""]
    blank = " " * len(begin)
    return [f"{blank if i else begin}{line}" for i, line in enumerate(lines)]


def _capital(words: str) -> str:
    """Return words with a capital."""
    return f"{words[:1].upper()}{words[1:]}"
