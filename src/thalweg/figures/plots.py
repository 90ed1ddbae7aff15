"""From results to figures: what the plot of each kind of result shows.

The kind of plot follows from the type of the result, so no study contains plotting code.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from thalweg.figures.captions import joined, run_words
from thalweg.figures.confusion_plot import confusion_figure
from thalweg.figures.critical_point_plot import critical_point_figure, search_figure
from thalweg.figures.diagnosis_plot import diagnosis_figure
from thalweg.figures.displacement_plot import (
    displacement_figure,
    displacements_figure,
    share_a_line,
)
from thalweg.figures.figure import Figure
from thalweg.figures.history_plot import history_figure
from thalweg.figures.layer_signals_plot import layer_signals_figure
from thalweg.figures.path_plot import path_figure
from thalweg.figures.profile_plot import profile_figure
from thalweg.figures.run_plot import run_figure
from thalweg.figures.spectrum_plot import density_figure, spectrum_figure
from thalweg.figures.step_budget_plot import step_budget_figure
from thalweg.figures.step_plot import step_figure
from thalweg.figures.surface_plot import surface_figure
from thalweg.records import Record, Result
from thalweg.results import (
    ConfusionMatrix,
    CriticalPoint,
    CriticalPointSearch,
    Diagnosis,
    Displacement,
    History,
    LayerSignals,
    PathReading,
    Profile,
    RunSurface,
    SpectralDensity,
    Spectrum,
    StepBudget,
    StepCurvature,
    Surface,
)

__all__ = ["figure_of", "figures_of"]

# For each kind of result what makes its figure, of it and of whether the cost is logarithmic.
_PLOTS: Mapping[type, Callable[[Any, bool | None], Figure]] = {
    Profile: lambda result, log: profile_figure(result, bool(log)),
    Surface: surface_figure,
    History: lambda result, log: history_figure(result, bool(log)),
    Displacement: lambda result, _: displacement_figure(result),
    RunSurface: run_figure,
    ConfusionMatrix: lambda result, _: confusion_figure(result),
    CriticalPoint: lambda result, _: critical_point_figure(result),
    CriticalPointSearch: lambda result, _: search_figure(result),
    StepBudget: lambda result, _: step_budget_figure(result),
    StepCurvature: lambda result, _: step_figure(result),
    Spectrum: spectrum_figure,
    SpectralDensity: density_figure,
    LayerSignals: lambda result, _: layer_signals_figure(result),
    PathReading: lambda result, log: path_figure(result, bool(log)),
    Diagnosis: diagnosis_figure,
}


def figure_of(
    result: Result | Mapping[str, Displacement],
    *,
    log: bool | None = None,
    title: str | None = None,
    caption: str | None = None,
) -> Figure:
    """Return what the plot of a result shows.

    - `Profile`: the cost against α, one curve a split, slope and curvature below where they are
      known, the anchors as named lines, a band of
      ± 2 standard errors where the cost is a Monte-Carlo estimate, a panel for each metric,
      and one for each stretch of the grid that is far denser than the rest.
    - `Surface`: contours of the cost J at true distances in parameter space. The coordinates
      c become lengths Rᵀ c with the Cholesky factor R Rᵀ = gram, so nothing is sheared.
    - `History`: the cost against the epoch, with the epoch that was kept.
    - `Displacement`: the distance off the line against the projection on it, to one scale, with
      the half-circle of a random walk; of a mapping of names to several that are about one line,
      all in one panel.
    - `RunSurface`: the surface in space with the run at its true cost, the same as a map at true
      distances, how far the run is from the line and off the surface, and the curvature across
      the line where it was taken. Parts of the run behind the surface are faint.
    - `ConfusionMatrix`: a grid of counts, planted causes down and named ones across.
    - `CriticalPoint`: the eigenvalues in their order, and the cost in the null space.
    - `CriticalPointSearch`: the cost, and the norm of its gradient, over the steps.
    - `StepBudget`: the terms of the budget and the true change over the run, ε λ_max with its
      limit, and the noise scale with the batch size.
    - `StepCurvature`: the change of the cost against the step size, true and predicted.
    - `Spectrum`: the eigenvalues by their rank from each end, with bands of their residuals.
    - `SpectralDensity`: the density on a logarithmic scale, with its standard errors.
    - `LayerSignals`: gradients of tensors and of activations over depth, bars of dead and saturated
      units.
    - `PathReading`: the cost along the path and along the straight line, and cosines with −∇J.
    - `Diagnosis`: the cost over the run, with how far got what was tried in its place, and a bar
      for each obstacle: filled where present, empty where absent, hatched where undetermined.

    Values that are not finite, and on a logarithmic scale those not above 0, are gaps; the
    caption counts them.

    Args:
        result: What to show.
        log: Whether the cost has a logarithmic scale. By default it has not, except for
            surfaces whose values are positive and span more than two decades; for a spectrum
            it is the scale of the eigenvalues, on both sides of zero.
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
    plot = _PLOTS.get(type(result))
    if plot is not None:
        figure = plot(result, log)
    elif isinstance(result, Mapping) and all(
        isinstance(each, Displacement) for each in result.values()
    ):
        figure = displacements_figure(result)
    else:
        raise TypeError(
            f"A plot shows one of {', '.join(kind.__name__ for kind in _PLOTS)}; got "
            f"{type(result).__name__}. Pass one of these (a trajectory is seen by way of "
            "`displacement` or `ruled_surface`), or build a `Figure` yourself."
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
    captions say which run of which study they belong to. Displacements about one line are one
    figure, named `"displacements"`.

    Args:
        record: As `open_record` gives it.
        log: As for `figure_of`.
    """
    results: dict[str, Result | Mapping[str, Displacement]] = dict(record.results)
    runs = {name: each for name, each in results.items() if isinstance(each, Displacement)}
    if len(runs) > 1 and share_a_line(runs):
        named = {name.replace("-", " "): each for name, each in runs.items()}
        results = {"displacements": named} | {n: r for n, r in results.items() if n not in runs}
    figures = {name: figure_of(result, log=log) for name, result in results.items()}
    titles = [figure.title for figure in figures.values()]
    for name, figure in figures.items():
        if titles.count(figure.title) > 1:
            title = f"{figure.title} ({name})"
            figures[name] = figure_of(results[name], log=log, title=title)
    run = run_words(record)
    return {
        name: replace(figure, caption=joined(figure.caption, run))
        for name, figure in figures.items()
    }
