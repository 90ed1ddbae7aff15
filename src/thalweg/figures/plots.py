"""From results to figures: what the plot of each kind of result shows.

The kind of plot follows from the type of the result, so no study contains plotting code.
"""

from dataclasses import replace

from thalweg.figures.captions import joined, run_words
from thalweg.figures.displacement_plot import displacement_figure
from thalweg.figures.figure import Figure
from thalweg.figures.history_plot import history_figure
from thalweg.figures.profile_plot import profile_figure
from thalweg.figures.run_plot import run_figure
from thalweg.figures.spectrum_plot import density_figure, spectrum_figure
from thalweg.figures.surface_plot import surface_figure
from thalweg.records import Record, Result
from thalweg.results import (
    Displacement,
    History,
    Profile,
    RunSurface,
    SpectralDensity,
    Spectrum,
    Surface,
)

__all__ = ["figure_of", "figures_of"]


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
    - `Displacement`: the distance off the line against the projection on it, to one scale, with
      the half-circle of a random walk.
    - `RunSurface`: the surface in space with the run at its true cost, the same as a map at true
      distances, how far the run is from the line and off the surface, and the curvature across
      the line where it was taken. Parts of the run behind the surface are faint.

    - `Spectrum`: the eigenvalues by their rank from each end, with bands of their residuals.
    - `SpectralDensity`: the density on a logarithmic scale, with its standard errors.

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
    if isinstance(result, Profile):
        figure = profile_figure(result, bool(log))
    elif isinstance(result, Surface):
        figure = surface_figure(result, log)
    elif isinstance(result, History):
        figure = history_figure(result, bool(log))
    elif isinstance(result, Displacement):
        figure = displacement_figure(result)
    elif isinstance(result, RunSurface):
        figure = run_figure(result, log)
    elif isinstance(result, Spectrum):
        figure = spectrum_figure(result, log)
    elif isinstance(result, SpectralDensity):
        figure = density_figure(result, log)
    else:
        raise TypeError(
            "A plot shows a Profile, Surface, History, Displacement, RunSurface, Spectrum or "
            f"SpectralDensity; got {type(result).__name__}. Pass one of these (a trajectory is "
            "seen by way of `displacement` or `ruled_surface`), or build a `Figure` yourself."
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
