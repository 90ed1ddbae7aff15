"""Whether two evaluations of the same thing agree."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.errors import NonDeterministicObjectiveError

__all__ = ["MIXED_BATCH", "RANDOM_MODEL", "Disagreement", "expect_agreement"]

# What two evaluations of one point may differ by: of their size, and for each term.
_TOLERANCE = {torch.float64: (1e-9, 1e-12), torch.float32: (1e-4, 1e-6)}
_COARSE = (1e-2, 1e-3)  # half precision


@dataclass(frozen=True)
class Disagreement:
    """What it means that two evaluations differ.

    Attributes:
        rule: What is required.
        remedy: What may be behind it, and what to do.
    """

    rule: str
    remedy: str


RANDOM_MODEL = Disagreement(
    "Two evaluations of one point must agree",
    "The model draws random numbers (or changes itself) in evaluation mode: look for "
    "functional dropout without `training=self.training`, noise, or stochastic depth.",
)
MIXED_BATCH = Disagreement(
    "The cost must not depend on how the data is cut into batches",
    "Something mixes the examples of a batch: a batch-norm layer without running statistics "
    "(use batch_norm='batch'), or a loss that averages over something other than examples "
    "(return the tuple (sum, count)).",
)


def expect_agreement(
    first: Tensor,
    second: Tensor,
    names: Sequence[str],
    dtype: torch.dtype,
    otherwise: Disagreement,
) -> None:
    """Raise where two evaluations of one batch differ beyond rounding.

    Args:
        first: Sum and count of each criterion, shape (criteria, 2).
        second: The same, evaluated again.
        names: Names of the criteria.
        dtype: Type of the evaluation, which sets what rounding is.
        otherwise: What to say.

    Raises:
        NonDeterministicObjectiveError: If they differ.
    """
    relative, absolute = _TOLERANCE.get(dtype, _COARSE)
    allowed = relative * first[:, 0].abs() + absolute * first[:, 1]
    differ = (first - second).abs().amax(1) > allowed
    if bool(differ.any()):
        row = int(differ.nonzero()[0, 0])
        values = [float(total[row, 0] / total[row, 1]) for total in (first, second)]
        raise NonDeterministicObjectiveError(
            f"{otherwise.rule}; the {names[row]} of one batch came out as {values[0]:.9g} and as "
            f"{values[1]:.9g}. {otherwise.remedy}"
        )
