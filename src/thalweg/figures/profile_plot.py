"""The plot of a profile: the cost along a line, close looks at windows, and the metrics."""

from dataclasses import replace

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
    section_words,
)
from thalweg.figures.elements import curve_alt, curves, gaps, metric_panel, named, shown, span
from thalweg.figures.figure import Axis, Band, Curve, Figure, Marker, Panel
from thalweg.results import Array, Profile

__all__ = ["profile_figure"]

# A panel of its own for a stretch of the grid that is this much denser than the rest.
_DENSER, _WINDOW_POINTS, _WINDOW_WIDTH, _MOST_WINDOWS = 4.0, 10, 0.25, 3
_WINDOW_HEIGHT = 0.6
_DERIVATIVE_HEIGHT = 0.6
_DENSE = 401  # points along a line where an interpolant is drawn


def profile_figure(profile: Profile, log: bool) -> Figure:
    """Return the figure of a profile: cost, windows, metrics."""
    limits = span(profile.alpha)
    main = Panel(
        x=Axis(_alpha_label(profile), limits=limits),
        y=Axis(cost_label(profile.provenance), log),
        curves=_profile_curves(profile, log),
        bands=_bands(profile, log),
        markers=(*_anchors_within(profile, limits), *_end_points(profile, limits, log)),
    )
    rows: list[tuple[Panel, ...]] = [(main,), *_derivative_panels(profile, main)]
    for name, table in profile.metrics.items():
        rows.append((metric_panel(name, table, profile.loss, profile.alpha, main),))
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
            gaps(curves(profile.alpha, profile.loss, log), profile.loss),
        ),
        rows=tuple(rows),
        alt=curve_alt("α", profile.alpha, profile.loss),
    )


def _profile_curves(profile: Profile, log: bool) -> tuple[Curve, ...]:
    """Return one curve a split; through points that were placed goes what lies between them."""
    if profile.interpolation is None:
        return curves(profile.alpha, profile.loss, log)
    dense = _between(profile.alpha)
    drawn = {split: profile.interpolate(dense, split) for split in profile.loss}
    smooth = [replace(curve, dots=False) for curve in curves(dense, drawn, log)]
    points = [
        replace(curve, label="", dots=True, joined=False)
        for curve in curves(profile.alpha, profile.loss, log)
    ]
    return (*smooth, *points)


def _derivative_panels(profile: Profile, main: Panel) -> list[tuple[Panel, ...]]:
    """Return one panel for the slope and one for the curvature, where they are known."""
    lines = tuple(Marker("", marker.x) for marker in main.markers if marker.y is None)
    found: list[tuple[Panel, ...]] = []
    for label, table in (("slope dJ/dα", profile.slope), ("curvature d²J/dα²", profile.curvature)):
        if not table:
            continue
        order = list(profile.loss)
        drawn = tuple(
            replace(curve, rank=order.index(curve.label))
            for curve in curves(profile.alpha, table, log=False)
        )
        panel = Panel(main.x, Axis(label), drawn, markers=lines, height=_DERIVATIVE_HEIGHT)
        found.append((panel,))
    return found


def _between(nodes: Array) -> Array:
    """Return coordinates dense enough for a smooth curve, the evaluated ones among them."""
    return np.union1d(nodes, np.linspace(nodes[0], nodes[-1], _DENSE))


def _stretch(profile: Profile) -> str:
    """Say which part of a line is shown, where it is less than half of it."""
    limits = span(profile.alpha)
    first, last = profile.anchors[0], profile.anchors[-1]
    if limits is None or 2 * (limits[1] - limits[0]) > last - first:
        return "along"
    low, high = limits
    return f"from α = {low:g} to {high:g} on"


def _alpha_label(profile: Profile) -> str:
    """Return the label of the α axis, with what its ends mean."""
    places = [(a, label) for a, label in named(profile.anchors, profile.labels) if np.isfinite(a)]
    if not 0 < len(places) <= 3:
        return "α"
    return "α (" + ", ".join(f"{number(a)} = {label}" for a, label in places) + ")"


def _anchors_within(profile: Profile, limits: tuple[float, float] | None) -> tuple[Marker, ...]:
    """Return the anchors that lie in the range shown."""
    if limits is None:
        return ()
    places = named(profile.anchors, profile.labels)
    return tuple(Marker(label, float(a)) for a, label in places if limits[0] <= a <= limits[1])


def _end_points(
    profile: Profile, limits: tuple[float, float] | None, log: bool
) -> tuple[Marker, ...]:
    """Return the cost at the two ends of the section, which the grid may have missed."""
    if profile.ends is None or limits is None:
        return ()
    loss = shown(profile.ends.loss[profile.first_split], log)
    return tuple(
        Marker("", float(a), float(j))
        for a, j in zip(profile.ends.alpha, loss, strict=True)
        if limits[0] <= a <= limits[1] and np.isfinite(j)
    )


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
        if not np.any(np.isfinite(half) & np.isfinite(shown(middle, log))):
            continue
        low, high = shown(middle - half, log), shown(middle + half, log)
        if log:  # a lower edge at or below 0 is no gap: the band reaches down a decade
            floor = np.nanmin(shown(middle, log)) / 10
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
