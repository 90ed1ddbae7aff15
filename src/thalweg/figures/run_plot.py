"""The plot of a run on a surface: in space, as a map at true distances, and how far off it is."""

import numpy as np
from numpy.typing import NDArray

from thalweg.figures.captions import (
    computed_words,
    cost_label,
    data_words,
    joined,
    model_words,
    policy_words,
)
from thalweg.figures.elements import needs_log, shown, span
from thalweg.figures.figure import Axis, Curve, Figure, Map, Marker, Panel, Path, Sheet
from thalweg.figures.perspective import best_view, some
from thalweg.results import Array, RunSurface

__all__ = ["run_figure"]

_MOST_ROWS = 90  # that are drawn in space
_FEW_POINTS = 50  # so few that each is marked
_FLATTEST = 0.14  # shape of a map below which its axes get scales of their own
_ROUNDING = 1e-9  # share of a length that is no length
_SMALL = 0.55  # height of the panels below the map


def run_figure(surface: RunSurface, log: bool | None) -> Figure:
    """Return the figure of a run on a surface."""
    split = surface.first_split
    values, true = surface.loss[split], surface.run.loss[split]
    if min(values.shape) < 2:
        raise ValueError(
            "A picture of a run needs two rows and two columns at least; the surface has shape "
            f"{values.shape}. Record more points of the run."
        )
    log = needs_log(values) if log is None else log
    finite = np.concatenate((values[np.isfinite(values)], true[np.isfinite(true)]))
    rows = _forward(surface.along)
    x, y, z = _mesh(surface, values, rows)
    label = cost_label(surface.provenance)
    axes = Axis(_along_label(surface)), Axis(_across_label(surface))
    panels = [
        Panel(*_short(surface), sheet=_sheet(surface, (x, y, z), true, label, log)),
        Panel(
            *axes,
            curves=_curves(surface, x),
            markers=_ends(surface),
            map=Map(x, y, shown(z, log), label, log, equal=_equal(x, y)),
        ),
        _distance_panel(surface),
    ]
    panels += [_curvature_panel(surface)] if len(surface.curvature) else []
    panels += [_walk_panel(len(true))] if surface.kind == "principal" else []
    hidden = int(np.sum(~np.isfinite(shown(values, log))))
    return Figure(
        title=_title(surface),
        caption=joined(
            _surface_words(surface),
            _off_words(surface),
            data_words(surface.provenance, {split: values}),
            model_words(surface.provenance),
            policy_words(surface.provenance),
            f"{values.shape[0]} × {values.shape[1]} points of the surface, {len(true)} of the "
            f"run{computed_words(surface.provenance)}.",
            _row_words(surface, rows),
            "" if _equal(x, y) else "The axes of the map have scales of their own.",
            f"{hidden} of {values.size} values are gaps." if hidden else "",
        ),
        rows=tuple((panel,) for panel in panels),
        alt=_alt(surface, finite, true),
    )


def _forward(along: Array) -> NDArray[np.intp]:
    """Return the numbers of the rows that get ahead: where a run goes back its sheet would fold."""
    ahead = np.concatenate(([True], along[1:] > np.maximum.accumulate(along)[:-1]))
    return np.flatnonzero(ahead)


def _mesh(surface: RunSurface, values: Array, rows: NDArray[np.intp]) -> tuple[Array, Array, Array]:
    """Return the mesh of some rows; on a ruled surface its vertex next to the run is the run."""
    x = np.repeat(surface.along[rows, None], len(surface.across), axis=1)
    y = np.repeat(surface.across[None], len(rows), axis=0)
    z = values[rows].copy()
    if surface.kind == "ruled":
        here = np.arange(len(rows))
        nearest = np.abs(y - surface.run.across[rows, None]).argmin(axis=1)
        y[here, nearest] = surface.run.across[rows]
        z[here, nearest] = surface.run.loss[surface.first_split][rows]
    return x, y, z


def _sheet(
    surface: RunSurface, mesh: tuple[Array, Array, Array], true: Array, label: str, log: bool
) -> Sheet:
    """Return the surface in space, with the run and the line on it, from where both are seen."""
    x, y, z = (_thinned(each) for each in mesh)
    run = Path(
        surface.run.projection,
        surface.run.across,
        true,
        "run",
        dots=len(true) <= _FEW_POINTS,
        columns=_known(surface),
    )
    paths = [run]
    if surface.kind != "principal":
        rows = _forward(surface.along)
        line = surface.line_loss[surface.first_split][rows]
        paths.append(Path(surface.along[rows], 0 * line, line, "line", 1))
    height = run.z[[0, -1]]
    if surface.kind != "principal" and surface.length is not None:
        # The ends of the line, on it: the run may go on beyond its solution.
        height = np.interp([0.0, surface.length], paths[1].x, paths[1].z)
    places = tuple(
        (end.label, (end.x, float(end.y or 0.0), float(z)))
        for end, z in zip(_ends(surface), height, strict=False)
        if np.isfinite(shown(np.array([z]), log)[0])
    )
    width, depth = float(np.ptp(x)), float(np.ptp(y))
    longest = max(width, depth)
    box = (max(width / longest, 0.62), max(depth / longest, 0.62), 0.62)
    sheet = Sheet(x, y, z, label, log, tuple(paths), places, box)
    view = best_view(sheet, run)
    return Sheet(x, y, z, label, log, tuple(paths), places, box, view)


def _known(surface: RunSurface) -> tuple[tuple[str, Array], ...]:
    """Return what is known of each point of the run beside its place and its cost."""
    run, off = surface.run, ("off the surface", surface.run.off)
    line = () if surface.kind == "principal" else (("off the line", run.distance),)
    return (("updates", run.step), *line, off)


def _thinned(table: Array) -> Array:
    """Return some rows of a table that has many, the first and the last among them."""
    kept: Array = table[some(len(table), _MOST_ROWS)]
    return kept


def _curves(surface: RunSurface, x: Array) -> tuple[Curve, ...]:
    """Return the run and the line as they lie on the map."""
    dots = len(surface.run.step) <= _FEW_POINTS
    run = Curve(surface.run.projection, surface.run.across, "run", 0, dots)
    if surface.kind == "principal":
        return (run,)
    ends = np.array([float(x.min()), float(x.max())])
    return (run, Curve(ends, np.zeros(2), "line", 1))


def _ends(surface: RunSurface) -> tuple[Marker, ...]:
    """Return the two ends of the line, or those of the run where there is no line."""
    if surface.kind == "principal" or surface.length is None:
        run = surface.run
        return tuple(
            Marker(name, float(run.projection[t]), float(run.across[t]))
            for name, t in (("first", 0), ("last", -1))
        )
    places = zip(surface.labels, (0.0, surface.length), strict=False)
    low, high = float(surface.along.min()), float(surface.along.max())
    return tuple(Marker(name, a, 0.0) for name, a in places if low <= a <= high)


def _equal(x: Array, y: Array) -> bool:
    """Tell whether a map at true distances has a shape that can be read."""
    return bool(np.ptp(y) >= _FLATTEST * np.ptp(x))


def _distance_panel(surface: RunSurface) -> Panel:
    """Return how far from the line, and off the surface, each point of the run is."""
    run = surface.run
    dots = len(run.step) <= _FEW_POINTS
    curves = [Curve(run.step, run.off, "off the surface", 1, dots)]
    if surface.kind == "principal":
        curves = [Curve(run.step, run.off, "off the plane", 0, dots)]
    else:
        curves.insert(0, Curve(run.step, run.distance, "off the line", 0, dots))
    top = 1.08 * max(float(curve.y.max()) for curve in curves)
    limits = (-0.04 * top, top) if top > 0 else None
    return Panel(
        x=Axis("updates", limits=span(run.step)),
        y=Axis("off the plane" if len(curves) == 1 else "distance", limits=limits),
        curves=tuple(curves),
        height=_SMALL,
    )


def _curvature_panel(surface: RunSurface) -> Panel:
    """Return the curvature across the line, at the projection of each row."""
    ruled = surface.kind == "ruled"
    x = surface.run.step if ruled else surface.along
    label = "updates" if ruled else _along_label(surface)
    dots = len(x) <= _FEW_POINTS
    zero = Curve(x[[0, -1]], np.zeros(2), "", 2)
    return Panel(
        x=Axis(label, limits=span(x)),
        y=Axis("v'Hv across"),
        curves=(Curve(x, shown(surface.curvature, log=False), "on the line", 0, dots), zero),
        height=_SMALL,
    )


def _walk_panel(points: int) -> Panel:
    """Return what a random walk with as many points draws in its own principal plane: cosines."""
    phase = np.pi * (np.arange(points) + 0.5) / points
    first, second = (np.cos(k * phase) / np.sin(0.5 * np.pi * k / points) for k in (1, 2))
    scale = np.ptp(first)
    walk = Curve(-first / scale, second / scale, "random walk", 2, points <= _FEW_POINTS)
    return Panel(
        x=Axis("first principal component of a random walk"),
        y=Axis("second"),
        curves=(walk,),
        height=_SMALL,
    )


def _along_label(surface: RunSurface) -> str:
    """Return the label of the first axis."""
    if surface.kind == "principal":
        return "first principal component"
    first, last = (*surface.labels, "start", "end")[:2] if surface.labels else ("start", "end")
    return f"distance along {first} → {last}"


def _across_label(surface: RunSurface) -> str:
    """Return the label of the second axis."""
    principal = surface.kind == "principal"
    return "second principal component" if principal else "distance across"


def _short(surface: RunSurface) -> tuple[Axis, Axis]:
    """Return both axes with labels that fit into space."""
    principal = surface.kind == "principal"
    return Axis("first" if principal else "along"), Axis("second" if principal else "across")


def _title(surface: RunSurface) -> str:
    """Return the heading."""
    words = {
        "ruled": "The run on its ruled surface",
        "plane": "The run and the plane of its residual",
        "principal": "The run and its principal plane",
    }
    return words[surface.kind]


def _surface_words(surface: RunSurface) -> str:
    """Say which surface it is."""
    words = {
        "ruled": "Ruled surface S(t, b) = J(θᵢ + α(t) u + b v(t)), with v(t) the direction in "
        "which the run is off the line at projection α(t): b = 0 is the line, and the run lies "
        "on it.",
        "plane": "Plane S(a, b) = J(θᵢ + a u + b u₂), with u₂ the direction of the run's largest "
        "residual. The run is drawn at its projection on the plane and at its true cost, so it "
        "need not lie on the surface.",
        "principal": "Plane of the first two principal components of the run. The run is drawn at "
        "its projection on the plane and at its true cost, so it need not lie on the surface.",
    }
    line = "" if surface.kind == "principal" else " Dashed: the line."
    return (
        f"{words[surface.kind]} Orange: the run, faint where the surface hides it.{line} Lengths "
        "are distances between parameter vectors."
    )


def _off_words(surface: RunSurface) -> str:
    """Say how far the run is from the line and from the surface, and what is explained."""
    run = surface.run
    words = []
    if surface.length is not None:
        words.append(
            f"The line is {surface.length:.4g} long; the run is up to {run.distance.max():.4g} "
            "from it."
        )
    if len(surface.explained) >= 2:
        first, second = (100 * share for share in surface.explained[:2])
        words.append(
            f"The two components explain {first:.3g} % and {second:.3g} % of the run's scatter. "
            "Bottom: where a random walk of as many points in many dimensions would be, in its own "
            "principal plane, of which 61 % and 15 % are expected (Antognini & Sohl-Dickstein "
            "2018); a smooth curve alone is no finding."
        )
    if surface.kind != "ruled":
        far = run.off.max()
        inside = far <= _ROUNDING * run.distance.max()
        words.append(
            "The run lies in the plane." if inside else f"It is up to {far:.4g} off the plane."
        )
    return " ".join(words)


def _row_words(surface: RunSurface, rows: NDArray[np.intp]) -> str:
    """Say which rows are not drawn."""
    behind = np.maximum.accumulate(surface.along) - surface.along
    lost = int(np.sum(behind > _ROUNDING * np.ptp(surface.along)))
    back = (
        f"At {lost} of {len(surface.along)} points the run goes back along the line; their rows "
        "are not drawn."
        if lost
        else ""
    )
    fewer = f"{_MOST_ROWS} of the rows are drawn in space." if len(rows) > _MOST_ROWS else ""
    return joined(back, fewer)


def _alt(surface: RunSurface, finite: Array, true: Array) -> str:
    """Say in words what the picture shows."""
    if len(finite) == 0:
        return "Surface in space without a finite value."
    run, line = surface.run, surface.line_loss[surface.first_split]
    first, last, line = true[0], true[-1], line[np.isfinite(line)]
    ridge = ""
    if surface.kind != "principal" and len(line):
        ridge = f" On the line it is between {line.min():.4g} and {line.max():.4g}."
    far, off = f"{run.distance.max():.4g}", f"{run.off.max():.4g}"
    return (
        "Surface in space, the same as a contour map, and distances against updates. The cost is "
        f"between {finite.min():.4g} and {finite.max():.4g}; along the run it goes from "
        f"{first:.4g} to {last:.4g}, up to {far} from the first axis and {off} off the "
        f"surface.{ridge}"
    )
