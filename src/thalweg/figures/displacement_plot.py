"""The plot of a displacement: distance off the line against projection on it."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from thalweg.figures.captions import computed_words, joined, number
from thalweg.figures.elements import shown
from thalweg.figures.figure import Axis, Curve, Figure, Marker, Panel
from thalweg.results import Array, Displacement

__all__ = ["displacement_figure", "displacements_figure", "share_a_line"]

_MOST_DOTS = 100  # so few points that each is marked
_ARC = 201  # points along the half-circle
_SAME = 1e-9  # lengths of one line, computed anew for each run, agree so closely


def displacement_figure(displacement: Displacement) -> Figure:
    """Return the figure of a displacement, with the arch of a random walk as its control."""
    start, end = (*displacement.labels, "start", "end")[:2]
    points = len(displacement.step)
    run = Curve(
        shown(displacement.projection, log=False),
        shown(displacement.distance, log=False),
        "run",
        dots=points <= _MOST_DOTS,
    )
    walk = _half_circle(displacement.length)
    curves = (run,) if walk is None else (run, walk)
    panel = Panel(
        x=Axis(f"projection on the line (0 = {start}, {displacement.length:.4g} = {end})"),
        y=Axis("distance off the line"),
        curves=curves if points > 1 else (replace(run, joined=False), *curves[1:]),
        markers=(Marker(start, 0.0, 0.0), Marker(end, float(displacement.length), 0.0)),
        equal=True,
    )
    lost = int(np.sum(~np.isfinite(displacement.distance)))
    return Figure(
        title=f"Distance off the line from {start} to {end}",
        caption=joined(
            f"{points} points{_between(displacement)}, both axes to one scale.",
            _size_words(displacement),
            _captured_words(displacement),
            ""
            if walk is None
            else "Half-circle: a random walk with the same ends, in many "
            "dimensions; the shape alone is no evidence.",
            _storage_words(displacement),
            f"{lost} of {points} points are not finite: gaps." if lost else "",
        ),
        rows=((panel,),),
        alt=_alt(displacement),
    )


def displacements_figure(displacements: Mapping[str, Displacement]) -> Figure:
    """Return the figure of several runs about one line, by their names.

    Raises:
        ValueError: If there is none, or they are about lines with other ends.
    """
    if not share_a_line(displacements):
        raise ValueError(
            "Runs in one panel need one line, with the same names and length; those of "
            f"{', '.join(map(repr, displacements)) or 'nothing'} are "
            f"{', '.join(f'{each.length:.6g} long' for each in displacements.values())}. "
            "Draw them one by one."
        )
    first = next(iter(displacements.values()))
    alone = displacement_figure(first)
    (panel,) = alone.panels
    walks = tuple(curve for curve in panel.curves if curve.label == "random walk")
    runs = tuple(
        Curve(
            shown(each.projection, log=False),
            shown(each.distance, log=False),
            name,
            rank=rank,
        )
        for rank, (name, each) in enumerate(displacements.items())
    )
    behind = tuple(replace(walk, rank=len(runs)) for walk in walks)
    tops = {name: float(np.nanmax(each.distance)) for name, each in displacements.items()}
    least, most = min(tops, key=tops.__getitem__), max(tops, key=tops.__getitem__)
    return Figure(
        title=alone.title,
        caption=joined(
            f"{len(runs)} runs about one line of length {first.length:.4g}, both axes to one "
            "scale.",
            f"Greatest distance off it from {tops[least]:.4g} ({least}) to {tops[most]:.4g} "
            f"({most}).",
            "Half-circle: a random walk with the same ends, in many dimensions." if walks else "",
        ),
        rows=((replace(panel, curves=(*runs, *behind)),),),
        alt=f"Line plot of distance over projection for {len(runs)} runs. {least} stays closest to "
        f"the line, {most} goes furthest off it.",
    )


def share_a_line(displacements: Mapping[str, Displacement]) -> bool:
    """Tell whether some runs are about one line: its ends have the same names and distance."""
    lines = list(displacements.values())
    return bool(lines) and all(
        each.labels == lines[0].labels
        and abs(each.length - lines[0].length) <= _SAME * abs(lines[0].length)
        and np.isfinite(each.distance).any()
        for each in lines
    )


def _half_circle(length: float) -> Curve | None:
    """Return the displacement of a random walk with the same ends: β² = α (L − α)."""
    if not np.isfinite(length):
        return None
    # Evenly spaced in angle, so that the curve is smooth where it is steep.
    along = 0.5 * length * (1 - np.cos(np.linspace(0, np.pi, _ARC)))
    off: Array = np.sqrt(along * (length - along).clip(0))
    return Curve(along, off, "random walk", rank=1)


def _between(displacement: Displacement) -> str:
    """Return from which step to which."""
    if len(displacement.step) < 2:
        return ""
    return f", from step {number(displacement.step[0])} to {number(displacement.step[-1])}"


def _size_words(displacement: Displacement) -> str:
    """Return length of the line, the greatest distance, and the number of parameters."""
    size = f"{displacement.size:,} parameters; ".replace(",", "\u202f") if displacement.size else ""
    greatest = np.nanmax(displacement.distance, initial=0.0)
    return (
        f"Euclidean norms over {size}length of the line {displacement.length:.4g}, greatest "
        f"distance off it {greatest:.4g}."
    )


def _captured_words(displacement: Displacement) -> str:
    """Return the least captured shares, in both readings."""
    captured, share = displacement.captured, displacement.distance_share
    words = []
    if np.isfinite(captured).any():
        least = np.nanmin(captured)
        words.append(f"{least:.1%} of the way from the start (|α|/‖θ − θ_start‖)")
    if np.isfinite(share).any():
        least = 1 - np.nanmax(share)
        words.append(f"{least:.1%} of the norm of the parameters (1 − β/‖θ‖)")
    return f"The line captures at least {' and '.join(words)}." if words else ""


def _storage_words(displacement: Displacement) -> str:
    """Return what storage and arithmetic were, and what the first may have changed."""
    if not displacement.storage:
        return ""
    computed = computed_words(displacement.provenance).removeprefix(", ")
    computed = f", computed in {computed}" if computed else ""
    if displacement.storage == "float64" or not np.isfinite(displacement.rounding).any():
        return f"Points stored in {displacement.storage}{computed}."
    most = np.nanmax(displacement.rounding)
    return (
        f"Points stored in {displacement.storage}, which changes lengths by {most:.2g} at most for "
        f"a run in a wider type{computed}."
    )


def _alt(displacement: Displacement) -> str:
    """Return the curve in words."""
    known = np.flatnonzero(np.isfinite(displacement.distance))
    if len(known) == 0:
        return "Line plot of distance over projection. No finite point."
    first, top, last = (
        f"({displacement.projection[i]:.4g}, {displacement.distance[i]:.4g})"
        for i in (known[0], displacement.furthest, known[-1])
    )
    return (
        "Line plot of distance over projection. "
        f"The run goes from {first} by way of {top}, where it is furthest off the line, to {last}."
    )
