"""Which way to second derivatives the operators of a cost allow: found out on a few examples."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from thalweg.errors import first_line
from thalweg.objectives.finite_differences import difference
from thalweg.objectives.graph_memory import nodes_of
from thalweg.objectives.pieces import Evaluate, Pieces
from thalweg.objectives.second_order import (
    forward_over_reverse,
    gauss_newton_map,
    gradient_of,
    hessian_map,
)

if TYPE_CHECKING:
    from thalweg.objectives.objective import Objective

__all__ = ["Method", "chosen_method"]

# In the order of preference: measured on a CPU, further products over a kept graph cost 1.7
# gradients each; forward over reverse, which keeps nothing, 3 to 4.
Method = Literal["formula", "double backward", "forward over reverse", "finite differences"]

# By how much a product may differ from finite differences and still be meant to be the same.
_DISAGREEMENT = 0.05


def chosen_method(
    objective: "Objective", pieces: Pieces, kind: str, asked: Method | None
) -> tuple[Method, str]:
    """Return the way to take, and in words why another was not taken.

    An objective remembers what was found out. Operators that a user has differentiated by hand
    (`torch.autograd.Function`) may give a wrong second derivative without an error, where their
    backward pass uses numbers without a graph; so theirs are compared with finite differences.

    Raises:
        ValueError: If the way that was asked for is not to be had, or none is.
    """
    if objective.has_formula and kind == "hessian" and asked in (None, "formula"):
        return "formula", ""
    key = (kind, asked, tuple(leaf.shape for leaf in pieces.leaves))
    if key not in objective.ways:
        objective.ways[key] = _choose(pieces, kind, asked)
    found: tuple[Method, str] = objective.ways[key]
    return found


def _choose(pieces: Pieces, kind: str, asked: Method | None) -> tuple[Method, str]:
    """Try one way after another."""
    gauss_newton = kind == "gauss-newton"
    if gauss_newton and asked not in (None, "double backward"):
        raise ValueError(
            f"The Gauss-Newton matrix is computed by 'double backward'; got method={asked!r}. "
            "Leave `method` out."
        )
    if asked == "formula":
        raise ValueError(
            "The method 'formula' needs a function that was given one; this objective was not. "
            "Pass `hvp=` to FunctionObjective, or leave `method` out."
        )
    with pieces.context():
        evaluate = pieces.few(gauss_newton)
        if asked == "finite differences":
            return asked, ""
        if asked == "forward over reverse":
            refused = _forward_refused(pieces, evaluate)
            if refused:
                raise ValueError(_NOT_TO_BE_HAD.format(asked, refused))
            return asked, ""
        refused = _backward_refused(pieces, evaluate, gauss_newton)
        if not refused:
            return "double backward", ""
        if asked or gauss_newton:
            raise ValueError(_NOT_TO_BE_HAD.format("double backward", refused))
        if not _forward_refused(pieces, evaluate):
            return "forward over reverse", f" (double backward fails: {refused})"
        return "finite differences", f" (double backward fails: {refused})"


_NOT_TO_BE_HAD = (
    "The method {!r} needs operators that have the derivatives it takes; one of this cost has "
    "not: {}. Use kind='hessian' and leave `method` out, or write the operator in plain torch."
)


def _backward_refused(pieces: Pieces, evaluate: Evaluate, gauss_newton: bool) -> str | None:
    """Say why the gradient cannot be differentiated once more, or return None."""
    leaves = pieces.leaves
    piece = evaluate(leaves)
    by_hand = _differentiated_by_hand(piece.value)
    vector = _some_vector(leaves)
    try:
        mapped = (gauss_newton_map if gauss_newton else hessian_map)(piece, leaves)
        if any("Error" in node.name() for node in nodes_of(mapped.roots())):
            # Torch would raise on reaching it, but leaves out what leads to no leaf.
            return f"{by_hand} forbids to differentiate its backward pass"
        found = mapped.apply(vector, keep=False)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, NotImplementedError) as error:
        return first_line(error)
    if by_hand and not gauss_newton and _differs(found, pieces, evaluate, vector):
        return f"the second derivative of {by_hand} is not that of its first"
    return None


def _forward_refused(pieces: Pieces, evaluate: Evaluate) -> str | None:
    """Say why there is no gradient of dual numbers, or return None."""
    vector = _some_vector(pieces.leaves)
    try:
        piece = evaluate(pieces.leaves)
        by_hand = _differentiated_by_hand(piece.value)
        found = forward_over_reverse(evaluate, pieces, vector)[1]
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, NotImplementedError) as error:
        return first_line(error)
    if by_hand and _differs(found, pieces, evaluate, vector):
        return f"the forward derivative of {by_hand} is not that of its backward pass"
    return None


def _differs(
    found: Sequence[Tensor | None], pieces: Pieces, evaluate: Evaluate, vector: Sequence[Tensor]
) -> bool:
    """Tell whether a product is another one than finite differences give."""
    leaves = pieces.leaves

    def slope(tensors: Sequence[Tensor]) -> Tensor:
        return _flat(gradient_of(evaluate(tensors), tensors), leaves)

    fine, coarse = (difference(slope, leaves, vector, widen) for widen in (1.0, 2.0))
    doubt = 10 * float((fine - coarse).norm())
    away = float((_flat(found, leaves) - fine).norm())
    return away > _DISAGREEMENT * float(fine.norm()) + doubt


def _flat(parts: Sequence[Tensor | None], leaves: Sequence[Tensor]) -> Tensor:
    """Return a vector in parts as one, float64."""
    pairs = zip(parts, leaves, strict=True)
    return torch.cat(
        [
            (torch.zeros_like(leaf) if part is None else part).detach().reshape(-1).double()
            for part, leaf in pairs
        ]
    )


def _some_vector(leaves: Sequence[Tensor]) -> list[Tensor]:
    """Return a vector of unit entries, half of them negative, in parts."""
    parts = []
    for leaf in leaves:
        signs = torch.ones(leaf.numel(), dtype=leaf.dtype, device=leaf.device)
        signs[1::2] = -1
        parts.append(signs.view(leaf.shape))
    return parts


def _differentiated_by_hand(value: Tensor) -> str | None:
    """Return the name of an operator in a graph whose derivative is not torch's own, or None."""
    for node in nodes_of([value.grad_fn]):
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            return type(node).__name__.removesuffix("Backward")
    return None
