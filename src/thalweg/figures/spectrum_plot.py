"""The plots of spectra: eigenvalues with their residuals, and their density."""

import math

import numpy as np

from thalweg.figures.captions import computed_words, joined, model_words, number, policy_words
from thalweg.figures.figure import Axis, Band, Curve, Figure, Marker, Panel
from thalweg.results import Array, SpectralDensity, Spectrum

__all__ = ["density_figure", "spectrum_figure"]

_MATRICES = {"hessian": "Hessian", "gauss-newton": "Gauss-Newton matrix"}
_FEW_POINTS = 60  # so few that each is marked
# Eigenvalues over more than two decades show nothing but the largest on a linear scale.
_AUTOMATIC_LOG, _LINEAR_SHARE = 100.0, 1e-4
_DECADES = 8  # of a density that are worth showing


def spectrum_figure(spectrum: Spectrum, log: bool | None) -> Figure:
    """Return the figure of a spectrum: eigenvalues by their rank, each with its residual."""
    matrix = _MATRICES.get(spectrum.kind, spectrum.kind)
    ends = _ends(spectrum)
    count = max(len(values) for _, values, _ in ends)
    whole = spectrum.ends == "all"
    panel = Panel(
        x=Axis("number of the eigenvalue" if whole else "rank, from its end of the spectrum"),
        y=_eigenvalue_axis(spectrum, log),
        curves=tuple(
            Curve(_ranks(values), values, name, rank, count <= _FEW_POINTS)
            for rank, (name, values, _) in enumerate(ends)
        ),
        bands=tuple(
            Band(_ranks(values), values - residuals, values + residuals, "± residual", rank)
            for rank, (_, values, residuals) in enumerate(ends)
        ),
    )
    open_ = int(np.sum(~spectrum.converged))
    first, last = spectrum.eigenvalues[0], spectrum.eigenvalues[-1]
    return Figure(
        title=f"Eigenvalues of the {matrix}",
        caption=joined(
            f"{len(spectrum.eigenvalues)} of {spectrum.size} eigenvalues, band: ± residual "
            f"(at most {spectrum.residuals.max():.2g}){computed_words(spectrum.provenance)}.",
            f"{open_} have not converged." if open_ else "",
            "" if spectrum.complete else "Whether others are missing among them was not settled.",
            f"Norm of the gradient {spectrum.gradient_norm:.3g}, cost {spectrum.loss:.4g}."
            if math.isfinite(spectrum.gradient_norm)
            else "",
            _restriction_words(spectrum),
            model_words(spectrum.provenance),
            policy_words(spectrum.provenance),
        ),
        rows=((panel,),),
        alt=f"Plot of eigenvalues from {number(first)} to {number(last)}.",
    )


def density_figure(density: SpectralDensity, log: bool | None) -> Figure:
    """Return the figure of a spectral density, with its standard errors."""
    log = True if log is None else log
    matrix = _MATRICES.get(density.kind, density.kind)
    top = float(density.density.max())
    # Of a single eigenvalue a tenth of the height is seen.
    single = 1 / (max(density.size, 1) * density.width * math.sqrt(2 * math.pi))
    floor = max(top * 10**-_DECADES, min(0.1 * single, 0.1 * top)) if log else 0.0
    low, high = density.density - density.error, density.density + density.error
    known = bool(np.isfinite(density.error).any() and not density.exact)
    visible = np.where(density.density >= floor, density.density, np.nan)
    band = Band(
        density.grid,
        np.where(np.isnan(visible), np.nan, np.maximum(low, floor)),
        np.where(np.isnan(visible), np.nan, high),
        "± standard error",
    )
    probes, steps = density.nodes.shape
    how = (
        f"All {steps} eigenvalues"
        if density.exact
        else f"{probes} random vectors of {steps} nodes each, band: ± standard error"
    )
    inside = density.grid[density.density >= floor]
    panel = Panel(
        x=Axis("eigenvalue", limits=(float(inside[0]), float(inside[-1]))),
        y=Axis("density", log, limits=(floor, 2 * top) if log else None),
        curves=(Curve(density.grid, visible, "density"),),
        bands=(band,) if known else (),
        markers=(Marker("0", 0.0),) if inside[0] <= 0 <= inside[-1] else (),
    )
    share, error = density.share_below(0.0)
    return Figure(
        title=f"Density of the eigenvalues of the {matrix}",
        caption=joined(
            f"{how}, smoothed with a width of {density.width:.2g}"
            f"{computed_words(density.provenance)}.",
            f"Below 0: {share:.1%}{f' ± {error:.1%}' if error > 0 else ''} of the nodes' weight.",
            _restriction_words(density),
            model_words(density.provenance),
            policy_words(density.provenance),
        ),
        rows=((panel,),),
        alt=f"Line plot of the density of eigenvalues from {number(density.nodes.min())} to "
        f"{number(density.nodes.max())}.",
    )


def _ends(spectrum: Spectrum) -> list[tuple[str, Array, Array]]:
    """Return name, eigenvalues and residuals of each end, outermost first."""
    values, residuals = spectrum.eigenvalues, spectrum.residuals
    if spectrum.ends in ("all", "smallest"):
        return [("" if spectrum.ends == "all" else "smallest", values, residuals)]
    upper = len(values) // 2 if spectrum.ends == "both" else 0
    found = [("largest", values[upper:][::-1], residuals[upper:][::-1])]
    if upper:
        found.append(("smallest", values[:upper], residuals[:upper]))
    return found


def _ranks(values: Array) -> Array:
    """Return 1, 2, … as coordinates."""
    ranks: Array = np.arange(1, len(values) + 1, dtype=np.float64)
    return ranks


def _eigenvalue_axis(spectrum: Spectrum, log: bool | None) -> Axis:
    """Return the axis of the eigenvalues: linear, logarithmic, or so on both sides of zero."""
    values, label = spectrum.eigenvalues, "eigenvalue λ"
    sizes = np.abs(values[values != 0])
    if not len(sizes):
        return Axis(label)
    # What is smaller than its residual is zero as far as is known.
    least = max(float(spectrum.residuals.max()), _LINEAR_SHARE * float(sizes.max()))
    wide = bool(np.median(sizes) * _AUTOMATIC_LOG < sizes.max() or sizes.min() < least)
    if log is False or (log is None and (not wide or np.ptp(sizes) == 0)):
        return Axis(label)
    if values[0] > least:
        return Axis(label, log=True)
    return Axis(label, log=True, linear_below=least)


def _restriction_words(result: Spectrum | SpectralDensity) -> str:
    """Return the tensors that the matrix was restricted to."""
    within = result.provenance.section.get("within")
    return f"Restricted to {', '.join(within)}." if within else ""
