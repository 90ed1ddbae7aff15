"""The command that looks at the curvature at a point: `spectrum`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from thalweg.cli.folders import OwnFolder, keep, prepare, say
from thalweg.cli.sections import Checkpoint, Factory, folder_name_of, names_of, stated

if TYPE_CHECKING:
    from thalweg.results import SpectralDensity, Spectrum

__all__ = ["spectrum"]


def spectrum(
    theta: Checkpoint,
    /,
    *,
    objective: Factory,
    k: int = 10,
    density: bool = False,
    ends: Literal["both", "largest", "smallest"] = "both",
    kind: Literal["hessian", "gauss-newton"] = "hessian",
    within: tuple[str, ...] = (),
    tolerance: float = 1e-3,
    limit: int = 1000,
    probes: int = 10,
    steps: int = 80,
    seed: int = 0,
    output: OwnFolder = None,
    trust_pickle: bool = False,
    quiet: bool = False,
) -> int:
    """Compute eigenvalues of the Hessian at a checkpoint, or their density; print CSV.

    Args:
        theta: Parameters: a .safetensors file, a folder of them, or a saved state dict.
        objective: A function without arguments that returns the objective.
        k: Eigenvalues at each end.
        density: Estimate the density of all eigenvalues instead.
        ends: Which end of the spectrum.
        kind: Which matrix.
        within: Tensors or layers to restrict it to.
        tolerance: Residual to reach, as a share of the largest magnitude.
        limit: Most products with vectors.
        probes: Random vectors for the density.
        steps: Lanczos steps from each, for the density.
        seed: Seed of the random vectors.
        output: Where the record and the figure go; thalweg-runs/spectrum-THETA by default.
        trust_pickle: Load checkpoints that could run code.
        quiet: Show no progress bar.
    """
    from thalweg.factories import load_objective
    from thalweg.probes.spectral_density import spectral_density
    from thalweg.probes.spectrum import spectrum as compute

    cost = load_objective(objective)
    (name,) = names_of((theta,))
    what = "density" if density else "spectrum"
    asked: dict[str, Any] = {"checkpoints": stated((theta,)), "objective": objective, "kind": kind}
    asked |= {"within": list(within), "seed": seed}
    asked |= (
        {"probes": probes, "steps": steps}
        if density
        else {"k": k, "ends": ends, "tolerance": tolerance, "limit": limit}
    )
    folder = output or Path("thalweg-runs") / folder_name_of(what, (name,))
    prepare(folder, what, asked)
    point = cost.space.flatten(theta, trust_pickle=trust_pickle)
    how: Any = {"kind": kind, "within": within or None, "seed": seed}
    how["progress"] = False if quiet else None
    result: Spectrum | SpectralDensity
    if density:
        result = spectral_density(cost, point, probes=probes, steps=steps, **how)
        numbers = _tell_density(result)
    else:
        result = compute(
            cost, point, k, ends=ends, tolerance=tolerance, limit=limit, vectors=False, **how
        )
        numbers = _tell_spectrum(result)
    keep(
        what, f"{'Density' if density else 'Eigenvalues'} at {name}", result, asked, numbers, folder
    )
    return 0


def _tell_spectrum(result: "Spectrum") -> dict[str, float]:
    """Print eigenvalues with their residuals, and return what they boil down to."""
    print("eigenvalue,residual,converged")
    rows = zip(result.eigenvalues, result.residuals, result.converged, strict=True)
    for value, residual, good in rows:
        print(f"{float(value)!r},{float(residual)!r},{int(good)}")
    numbers = {
        "smallest": float(result.eigenvalues[0]),
        "largest": float(result.eigenvalues[-1]),
        "gradient_norm": result.gradient_norm,
        "loss": result.loss,
        "products": float(result.products),
    }
    open_ = int((~result.converged).sum())
    say(
        f"Cost {result.loss:.4g}, norm of the gradient {result.gradient_norm:.3g}; "
        f"{result.products} products."
        + (f" {open_} eigenvalues have not converged: raise --limit." if open_ else "")
        + ("" if result.complete else " Whether others are missing was not settled.")
    )
    return numbers


def _tell_density(result: "SpectralDensity") -> dict[str, float]:
    """Print a density with its standard error, and return what it boils down to."""
    print("eigenvalue,density,error")
    for row in zip(result.grid, result.density, result.error, strict=True):
        print(",".join(repr(float(value)) for value in row))
    share, error = result.share_below(0.0)
    say(
        f"Cost {result.loss:.4g}, norm of the gradient {result.gradient_norm:.3g}; below 0 lies "
        f"{share:.3g} ± {error:.2g} of the spectrum."
    )
    return {"share_below_zero": share, "share_error": error, "products": float(result.products)}
