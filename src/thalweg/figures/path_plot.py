"""The plot of a path: the cost along it and along the straight line, and where −g points."""

import numpy as np

from thalweg.figures.captions import (
    computed_words,
    cost_label,
    data_words,
    joined,
    model_words,
    policy_words,
)
from thalweg.figures.elements import shown
from thalweg.figures.figure import Axis, Curve, Figure, Panel
from thalweg.results import Array, PathReading

__all__ = ["path_figure"]

_ANGLES_HEIGHT = 0.7


def path_figure(path: PathReading, log: bool) -> Figure:
    """Return the figure of a path, over the share of its length that is done."""
    done = _done(path)
    axis = Axis("share of the way done", limits=(0.0, 1.0))
    curves = [Curve(done, shown(path.loss, log), "path", dots=True)]
    if path.line is not None:
        straight = path.line.loss[path.line.first_split]
        curves.append(Curve(path.line.alpha, shown(straight, log), "straight line", rank=1))
    angles = Panel(
        x=axis,
        y=Axis("cosine with −∇J", limits=(-1.05, 1.05)),
        curves=(
            Curve(done, path.heading, _target_words(path), rank=2, dots=True),
            Curve(done[:-1], path.alignment, "to the next", rank=3, dots=True),
        ),
        height=_ANGLES_HEIGHT,
    )
    return Figure(
        title="Path of a run",
        caption=joined(
            data_words(path.provenance, {"train": path.loss}),
            model_words(path.provenance),
            policy_words(path.provenance),
            f"{len(path.step)} snapshots; length over chord {path.ratio:.4g}, greatest climb on "
            f"the straight line {path.relative_climb:.3g} of the fall of J.",
            f"Order of the snapshots: p = {path.order_p:.2g}. Displacements along −∇J: mean "
            f"cosine {path.mean_alignment:.3g} ± {path.alignment_error:.2g}, p = "
            f"{path.alignment_p:.2g}{computed_words(path.provenance)}.",
            f"{path.lost} snapshots at the end are left out: not finite." if path.lost else "",
        ),
        rows=((Panel(axis, Axis(cost_label(path.provenance), log), tuple(curves)),), (angles,)),
        alt=f"Line plot of the cost over the way done, from {path.loss[0]:.4g} to "
        f"{path.loss[-1]:.4g}, and of cosines with the downhill direction.",
    )


def _target_words(path: PathReading) -> str:
    """Say where the way on leads."""
    return "to the last" if path.target == "last snapshot" else "to the target"


def _done(path: PathReading) -> Array:
    """Return the share of the length that is done at each snapshot."""
    travelled = np.append(0.0, np.cumsum(path.chords))
    return travelled / travelled[-1] if travelled[-1] > 0 else travelled
