"""From results to figures: what the plot of a profile, a surface or a history shows.

The kind of plot follows from the type of the result, so no study contains plotting code.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from thalweg.figures.captions import (
    between_words,
    computed_words,
    cost_label,
    data_words,
    estimate_words,
    joined,
    model_words,
    number,
    policy_words,
    run_words,
    section_words,
)
from thalweg.figures.figure import Axis, Band, Curve, Figure, Map, Marker, Panel
from thalweg.records import Record, Result
from thalweg.results import Array, History, Profile, Surface

__all__ = ["figure_of", "figures_of"]

# A surface over more than two decades shows nothing but its rim on a linear scale.
_AUTOMATIC_LOG = 100.0
# A panel of its own for a stretch of the grid that is this much denser than the rest.
_DENSER, _WINDOW_POINTS, _WINDOW_WIDTH, _MOST_WINDOWS = 4.0, 10, 0.25, 3
_FEW_POINTS = 25  # so few that each is marked
# Along a line, and along each axis of a map, where an interpolant is drawn.
_DENSE, _DENSE_MAP = 401, 121
_METRIC_HEIGHT, _WINDOW_HEIGHT = 0.5, 0.6


def figure_of(
    result: Result, *, log: bool | None = None, title: str | None = None, caption: str | None = None
) -> Figure:
    """Return what the plot of a result shows.

    - `Profile`: the cost against α, one curve a split, the anchors as named lines, a band of
      ± 2 standard errors where the cost is a Monte-Carlo estimate, a panel for each metric,
      and one for each stretch of the grid that is far denser than the rest.
    - `Surface`: contours of the cost J at true distances in parameter space. The coordinates
      c become lengths Rᵀ c with the Cholesky factor R Rᵀ = gram, so nothing is sheared.
    - `History`: the cost against the epoch, with the epoch that was kept.

    Values that are not finite, and on a logarithmic scale those not above 0, are gaps; the
    caption counts them.

    Args:
        result: What to show.
        log: Whether the cost has a logarithmic scale. By default it has not, except for a
            surface whose values are positive and span more than two decades.
        title: Heading; by default one that fits the type.
        caption: Words below the figure; by default data, policies and seeds as far as the
            provenance knows them.

    Raises:
        TypeError: If there is no plot for this type.
        ValueError: If a surface has a single row or column, or its directions span no plane,
            so that distances on it are not defined.

    Example:
        >>> figure = figure_of(Profile(alpha=[0.0, 0.5, 1.0], loss=[2.0, 2.25, 0.5]))
        >>> figure.panels[0].x.label, figure.panels[0].y.label
        ('α (0 = start, 1 = end)', 'cost J')
    """
    if isinstance(result, Profile):
        figure = _profile_figure(result, bool(log))
    elif isinstance(result, Surface):
        figure = _surface_figure(result, log)
    elif isinstance(result, History):
        figure = _history_figure(result, bool(log))
    else:
        raise TypeError(
            f"A plot shows a Profile, a Surface or a History; got {type(result).__name__}. "
            "Pass one of these, or build a `Figure` yourself."
        )
    heading = figure.title if title is None else title
    return Figure(
        title=heading,
        caption=figure.caption if caption is None else caption,
        rows=figure.rows,
        alt=f"{heading}. {figure.alt}" if heading else figure.alt,
    )


def figures_of(record: Record, *, log: bool | None = None) -> dict[str, Figure]:
    """Return the figure of each result of a record, by the name of the result.

    Figures that would have the same title get the name of their result in it, and all
    captions say which run of which study they belong to.

    Args:
        record: As `open_record` gives it.
        log: As for `figure_of`.
    """
    figures = {name: figure_of(result, log=log) for name, result in record.results.items()}
    titles = [figure.title for figure in figures.values()]
    for name, figure in figures.items():
        if titles.count(figure.title) > 1:
            title = f"{figure.title} ({name})"
            figures[name] = figure_of(record.results[name], log=log, title=title)
    run = run_words(record)
    return {
        name: replace(figure, caption=joined(figure.caption, run))
        for name, figure in figures.items()
    }


# Profiles


def _profile_figure(profile: Profile, log: bool) -> Figure:
    """Return the figure of a profile: cost, windows, metrics."""
    limits = _span(profile.alpha)
    main = Panel(
        x=Axis(_alpha_label(profile), limits=limits),
        y=Axis(cost_label(profile.provenance), log),
        curves=_profile_curves(profile, log),
        bands=_bands(profile, log),
        markers=(*_anchors_within(profile, limits), *_end_points(profile, limits, log)),
    )
    rows: list[tuple[Panel, ...]] = [(main,)]
    for name, table in profile.metrics.items():
        rows.append((_metric_panel(name, table, profile.loss, profile.alpha, main),))
    windows = _windows(profile.alpha)
    if windows:
        rows.append(tuple(_window_panel(main, window) for window in windows))
    named = len(profile.labels) > 1
    ends = f"from {profile.labels[0]} to {profile.labels[-1]}" if named else ""
    cost = "Cost with dropout" if profile.samples else "Cost"
    length = (
        "" if profile.length is None else f"Length {ends or 'of the line'}: {profile.length:.4g}."
    )
    return Figure(
        title=f"{cost} {_stretch(profile)} the line {ends}" if named else f"{cost} along a line",
        caption=joined(
            data_words(profile.provenance, profile.loss),
            model_words(profile.provenance),
            policy_words(profile.provenance),
            section_words(profile.provenance),
            length,
            f"{len(profile.alpha)} points{computed_words(profile.provenance)}.",
            between_words(profile.interpolation),
            estimate_words(profile.estimate),
            _band_words(profile),
            _gaps(main.curves, profile.loss),
        ),
        rows=tuple(rows),
        alt=_curve_alt("α", profile.alpha, profile.loss),
    )


def _profile_curves(profile: Profile, log: bool) -> tuple[Curve, ...]:
    """Return one curve a split; through points that were placed goes what lies between them."""
    if profile.interpolation is None:
        return _curves(profile.alpha, profile.loss, log)
    dense = _between(profile.alpha)
    drawn = {split: profile.interpolate(dense, split) for split in profile.loss}
    smooth = [replace(curve, dots=False) for curve in _curves(dense, drawn, log)]
    points = [
        replace(curve, label="", dots=True, joined=False)
        for curve in _curves(profile.alpha, profile.loss, log)
    ]
    return (*smooth, *points)


def _between(nodes: Array) -> Array:
    """Return coordinates dense enough for a smooth curve, the evaluated ones among them."""
    return np.union1d(nodes, np.linspace(nodes[0], nodes[-1], _DENSE))


def _stretch(profile: Profile) -> str:
    """Say which part of a line is shown, where it is less than half of it."""
    limits = _span(profile.alpha)
    first, last = profile.anchors[0], profile.anchors[-1]
    if limits is None or 2 * (limits[1] - limits[0]) > last - first:
        return "along"
    low, high = limits
    return f"from α = {low:g} to {high:g} on"


def _alpha_label(profile: Profile) -> str:
    """Return the label of the α axis, with what its ends mean."""
    named = [(a, label) for a, label in _named(profile.anchors, profile.labels) if np.isfinite(a)]
    if not 0 < len(named) <= 3:
        return "α"
    return "α (" + ", ".join(f"{number(a)} = {label}" for a, label in named) + ")"


def _anchors_within(profile: Profile, limits: tuple[float, float] | None) -> tuple[Marker, ...]:
    """Return the anchors that lie in the range shown."""
    if limits is None:
        return ()
    named = _named(profile.anchors, profile.labels)
    return tuple(Marker(label, float(a)) for a, label in named if limits[0] <= a <= limits[1])


def _end_points(
    profile: Profile, limits: tuple[float, float] | None, log: bool
) -> tuple[Marker, ...]:
    """Return the cost at the two ends of the section, which the grid may have missed."""
    if profile.ends is None or limits is None:
        return ()
    loss = _shown(profile.ends.loss[profile.first_split], log)
    return tuple(
        Marker("", float(a), float(j))
        for a, j in zip(profile.ends.alpha, loss, strict=True)
        if limits[0] <= a <= limits[1] and np.isfinite(j)
    )


def _named(places: Iterable[Any], labels: tuple[str, ...]) -> list[tuple[Any, str]]:
    """Return places with their names; the name is empty where there are fewer names."""
    places = list(places)
    return list(zip(places, [*labels, *[""] * len(places)], strict=False))


def _windows(alpha: Array) -> list[tuple[float, float]]:
    """Return the stretches of a grid that are far denser than the rest."""
    step = np.diff(alpha)
    if len(step) == 0:
        return []
    dense = step < step.max() / _DENSER
    edges = np.flatnonzero(np.diff(np.concatenate(([False], dense, [False])).astype(int)))
    found = []
    for start, stop in edges.reshape(-1, 2):  # segments start .. stop − 1
        inside = float(np.median(step[start:stop]))
        # A point of the overview just outside of the window belongs to the overview.
        fine = start + np.flatnonzero(step[start:stop] < _DENSER * inside)
        first, last = fine[0], fine[-1] + 1
        beside = step[[i for i in (first - 1, last) if 0 <= i < len(step)]]
        width = (alpha[last] - alpha[first]) / (alpha[-1] - alpha[0])
        # A grid that grows denser little by little, such as Chebyshev's, has no window.
        abrupt = bool(np.all(beside >= _DENSER * inside))
        if last - first >= _WINDOW_POINTS and width < _WINDOW_WIDTH and abrupt:
            found.append((float(alpha[first]), float(alpha[last])))
    return found if len(found) <= _MOST_WINDOWS else []


def _window_panel(main: Panel, window: tuple[float, float]) -> Panel:
    """Return the cost J inside a window, on a scale of its own."""
    curve = main.curves[0]
    inside = (curve.x >= window[0]) & (curve.x <= window[1])
    y = curve.y[inside]
    # Over less than a decade a logarithmic scale shows the same shape, with worse numbers.
    log = main.y.log and bool(np.nanmax(y, initial=0) > 10 * np.nanmin(y, initial=np.inf))
    return Panel(
        x=Axis("α", limits=window),
        y=Axis("cost J", log),
        curves=(Curve(curve.x[inside], y, curve.label, curve.rank),),
        bands=tuple(
            Band(b.x[inside], b.low[inside], b.high[inside], b.label, b.rank)
            for b in main.bands
            if b.rank == curve.rank
        ),
        markers=tuple(
            Marker("", marker.x, marker.y)
            for marker in main.markers
            if window[0] <= marker.x <= window[1]
        ),
        title=f"{number(window[0])} ≤ α ≤ {number(window[1])}",
        height=_WINDOW_HEIGHT,
    )


def _bands(profile: Profile, log: bool) -> tuple[Band, ...]:
    """Return how sure each loss is: from samples, from a subsample, or between the points."""
    found = []
    for rank, (split, loss) in enumerate(profile.loss.items()):
        alpha, half, label = _uncertainty(profile, split)
        if half is None or not np.any(np.isfinite(half) & (half > 0)):
            continue
        middle = loss if alpha is profile.alpha else profile.interpolate(alpha, split)
        if not np.any(np.isfinite(half) & np.isfinite(_shown(middle, log))):
            continue
        low, high = _shown(middle - half, log), _shown(middle + half, log)
        if log:  # a lower edge at or below 0 is no gap: the band reaches down a decade
            floor = np.nanmin(_shown(middle, log)) / 10
            low = np.where(np.isfinite(high) & ~np.isfinite(low), floor, low)
        found.append(Band(alpha, low, high, label, rank))
    return tuple(found)


def _uncertainty(profile: Profile, split: str) -> tuple[Array, Array | None, str]:
    """Return coordinates, half the width of the interval there (or None), and what it means."""
    error = profile.standard_error(split)
    if error is not None:
        return profile.alpha, 2 * error, "± 2 standard errors"
    if split != profile.first_split:
        return profile.alpha, None, ""
    if profile.estimate is not None:
        share = f"{100 * profile.estimate.confidence:g} % at all points at once"
        return profile.alpha, profile.estimate.half_width, share
    if profile.interpolation is None:
        return profile.alpha, None, ""
    dense = _between(profile.alpha)
    interval = np.searchsorted(profile.alpha, dense, side="right") - 1
    bound = profile.interpolation.bound
    return dense, bound[np.clip(interval, 0, len(bound) - 1)], "bound between the points"


def _band_words(profile: Profile) -> str:
    """Return the sentence about the Monte-Carlo samples."""
    counts = sorted({len(drawn) for drawn in profile.samples.values()})
    if not counts:
        return ""
    if counts == [1]:
        return "The cost is one Monte-Carlo sample, so its error is not known."
    several = " or ".join(str(count) for count in counts)
    return (
        f"Band: ± 2 standard errors of the mean over {several} Monte-Carlo samples, the same "
        "random numbers at every point."
    )


# Surfaces


def _surface_figure(surface: Surface, log: bool | None) -> Figure:
    """Return the figure of a surface, at true distances."""
    values = surface.loss[surface.first_split]
    if min(values.shape) < 2:
        raise ValueError(
            "A map needs two rows and two columns at least; the surface has shape "
            f"{values.shape}. Evaluate more points, or a profile."
        )
    finite = values[np.isfinite(values)]
    if log is None:
        log = bool(len(finite)) and 0 < finite.min() * _AUTOMATIC_LOG < finite.max()
    factor = _lengths(surface.gram)
    columns, rows, drawn = surface.x, surface.y, values
    if surface.interpolation is not None:
        columns, rows = (np.linspace(c[0], c[-1], _DENSE_MAP) for c in (columns, rows))
        drawn = surface.interpolate(columns, rows)
    x, y = np.einsum("ij,jrc->irc", factor, np.stack(np.meshgrid(columns, rows)))
    markers = tuple(
        Marker(label, *(float(length) for length in factor @ place))
        for place, label in _named(surface.anchors, surface.labels)
        if surface.x[0] <= place[0] <= surface.x[-1] and surface.y[0] <= place[1] <= surface.y[-1]
    )
    first, across = _direction_names(surface)
    shown = _shown(drawn, log)
    hidden = int(np.sum(~np.isfinite(_shown(values, log))))
    panel = Panel(
        x=Axis(first),
        y=Axis(across),
        markers=markers,
        map=Map(x, y, shown, cost_label(surface.provenance), log),
    )
    return Figure(
        title="Cost on a plane through parameter space",
        caption=joined(
            data_words(surface.provenance, {surface.first_split: values}),
            model_words(surface.provenance),
            policy_words(surface.provenance),
            section_words(surface.provenance),
            "Distances in the plane are Euclidean distances between parameter vectors.",
            f"{values.shape[1]} × {values.shape[0]} points{computed_words(surface.provenance)}.",
            between_words(surface.interpolation),
            estimate_words(surface.estimate),
            f"{hidden} of {values.size} values are gaps." if hidden else "",
        ),
        rows=((panel,),),
        alt=_surface_alt(surface, finite),
    )


def _lengths(gram: Array) -> Array:
    """Return Rᵀ with R Rᵀ = gram: it maps coordinates of the plane to lengths."""
    try:
        return np.asarray(np.linalg.cholesky(gram).T, dtype=np.float64)
    except np.linalg.LinAlgError as error:
        raise ValueError(
            "The two directions of a plane must be independent; their inner products are "
            f"{gram.tolist()}. Choose three points that are not on one line."
        ) from error


def _direction_names(surface: Surface) -> tuple[str, str]:
    """Return the labels of the two axes of a plane."""
    places = {tuple(place): label for place, label in _named(surface.anchors, surface.labels)}
    origin, unit = places.get((0.0, 0.0)), places.get((1.0, 0.0))
    if origin and unit:
        return f"distance along {origin} → {unit}", "distance across"
    return "distance along the first direction", "distance across"


def _surface_alt(surface: Surface, finite: Array) -> str:
    """Return range and lowest point of a surface in words."""
    if len(finite) == 0:
        return "Contour map without a finite value."
    values = surface.loss[surface.first_split]
    lowest = np.argmin(np.where(np.isfinite(values), values, np.inf))
    i, j = np.unravel_index(lowest, values.shape)
    return (
        f"Contour map of the cost from {finite.min():.4g} to {finite.max():.4g}; lowest at "
        f"coordinates ({number(surface.x[j])}, {number(surface.y[i])})."
    )


# Histories


def _history_figure(history: History, log: bool) -> Figure:
    """Return the figure of a history: cost and metrics over the epochs."""
    markers: tuple[Marker, ...] = ()
    if history.best is not None:
        markers = (Marker(f"kept: epoch {number(history.best)}", float(history.best)),)
    main = Panel(
        x=Axis("epoch", limits=_span(history.epoch)),
        y=Axis(cost_label(history.provenance), log),
        curves=_curves(history.epoch, history.loss, log),
        markers=markers,
    )
    metrics = [
        (_metric_panel(name, table, history.loss, history.epoch, main),)
        for name, table in history.metrics.items()
    ]
    return Figure(
        title="Cost during training",
        caption=joined(
            data_words(history.provenance, history.loss),
            model_words(history.provenance),
            policy_words(history.provenance),
            f"{len(history.epoch)} evaluations{computed_words(history.provenance)}.",
            _gaps(main.curves, history.loss),
        ),
        rows=((main,), *metrics),
        alt=_curve_alt("epoch", history.epoch, history.loss),
    )


# What all of them share


def _curves(x: Array, table: Mapping[str, Array], log: bool) -> tuple[Curve, ...]:
    """Return one curve a split, in order."""
    dots = len(x) <= _FEW_POINTS
    return tuple(
        Curve(x, _shown(values, log), split, rank, dots)
        for rank, (split, values) in enumerate(table.items())
    )


def _metric_panel(
    name: str, table: Mapping[str, Array], splits: Iterable[str], x: Array, main: Panel
) -> Panel:
    """Return the small panel of one metric, its splits in the looks that they have above."""
    error = name.lower().replace("_", " ").startswith("error")
    order = list(dict.fromkeys([*splits, *table]))
    curves = tuple(
        Curve(
            x=x,
            y=_shown(values * (100 if error else 1), log=False),
            label=split,
            rank=order.index(split),
            dots=len(x) <= _FEW_POINTS,
        )
        for split, values in table.items()
    )
    label = "error rate (%)" if error else name.replace("_", " ")
    lines = tuple(Marker("", marker.x) for marker in main.markers if marker.y is None)
    return Panel(main.x, Axis(label), curves, markers=lines, height=_METRIC_HEIGHT)


def _shown(values: Array, log: bool) -> Array:
    """Return values with NaN in place of what cannot be shown."""
    visible = np.isfinite(values) & ((values > 0) if log else True)
    return np.where(visible, values, np.nan)


def _span(x: Array) -> tuple[float, float] | None:
    """Return first and last of ascending values, or None where they span nothing."""
    return (float(x[0]), float(x[-1])) if len(x) > 1 and x[0] < x[-1] else None


def _gaps(curves: tuple[Curve, ...], table: Mapping[str, Array]) -> str:
    """Return the sentences about values that are not shown."""
    lost = sum(int(np.sum(~np.isfinite(values))) for values in table.values())
    low = sum(int(np.sum(~np.isfinite(curve.y))) for curve in curves) - lost
    total = sum(len(values) for values in table.values())
    return joined(
        f"{lost} of {total} values are not finite: gaps." if lost else "",
        f"{low} of {total} values are not above 0: gaps on this scale." if low else "",
    )


def _curve_alt(name: str, x: Array, table: Mapping[str, Array]) -> str:
    """Return first, lowest and last value of each curve in words."""
    sentences = []
    for split, values in table.items():
        at = np.flatnonzero(np.isfinite(values))
        if len(at) == 0:
            sentences.append(f"{split}: no finite value.")
            continue
        lowest = at[np.argmin(values[at])]
        first, least, last = (
            f"{values[i]:.4g} at {name} = {number(x[i])}" for i in (at[0], lowest, at[-1])
        )
        sentences.append(f"{split}: {first}, lowest {least}, {last}.")
    return "Line plot of the cost. " + " ".join(sentences)
