"""The plot of a confusion matrix: counts in a grid, planted causes down, named ones across."""

from thalweg.figures.captions import joined
from thalweg.figures.figure import Axis, Figure, Grid, Panel
from thalweg.results import ConfusionMatrix

__all__ = ["confusion_figure"]


def confusion_figure(matrix: ConfusionMatrix) -> Figure:
    """Return the figure of a confusion matrix."""
    grid = Grid(rows=matrix.causes, columns=matrix.causes, counts=matrix.counts)
    wrong = [
        f"{int(matrix.counts[i, j])} of {planted} taken for {named}"
        for i, planted in enumerate(matrix.causes)
        for j, named in enumerate(matrix.causes)
        if i != j and matrix.counts[i, j]
    ]
    found = (
        f"{matrix.right:.1%} of {matrix.cases} planted causes are named; causes that are absent "
        f"are called present in {matrix.false_alarms:.1%} of {int(matrix.absent.sum())} chances; "
        f"{matrix.healthy:.1%} of the healthy runs get a clean bill."
    )
    mistakes = f"Mistakes: {'; '.join(wrong)}." if wrong else "No mistakes."
    return Figure(
        title="Planted causes, and what the diagnosis names",
        caption=joined(found, mistakes),
        rows=((Panel(x=Axis("named"), y=Axis("planted"), grid=grid),),),
        alt=f"Grid of counts. {found} {mistakes}",
    )
