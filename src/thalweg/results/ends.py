"""The cost at the two ends of a section."""

from dataclasses import dataclass, field
from typing import Any

from thalweg.results.frozen import (
    Array,
    Losses,
    Metrics,
    freeze_coordinates,
    freeze_tables,
    rebuilt,
)

__all__ = ["Ends"]


@dataclass(frozen=True, eq=False)
class Ends:
    """The two ends of a section, evaluated whether or not the grid holds them.

    Attributes:
        alpha: Coordinates of the two ends, shape (2,), ascending.
        loss: Split to loss at the two ends, shape (2,) each.
        metrics: Metric to split to value at the two ends, shape (2,) each.
    """

    alpha: Array
    loss: Losses
    metrics: Metrics = field(default_factory=dict)

    def __post_init__(self) -> None:
        freeze_coordinates(self, "alpha", 2)
        freeze_tables(self, (2,))

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuilt(self)
