"""Matrices of one piece of a cost as linear maps: what they do to vectors, from graphs.

The Hessian is applied by differentiating the gradient once more along a vector (Pearlmutter 1994;
here in reverse mode, "double backward"). The Gauss-Newton matrix Jᵀ H_L J (Schraudolph 2002) takes
three steps: J v, which is the derivative of u ↦ Jᵀu; the Hessian of the loss with respect to the
outputs, which is exact; and Jᵀ. All graphs are those of one forward pass, so that further vectors
cost no pass.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from thalweg.objectives.pieces import Piece, Pieces
from thalweg.objectives.tangents import dual, dual_numbers, parts

__all__ = ["LinearMap", "forward_over_reverse", "gauss_newton_map", "gradient_of", "hessian_map"]

Parts = Sequence[Tensor | None]


class LinearMap(Protocol):
    """What a matrix of one piece does to vectors.

    Attributes:
        gradient: The gradient of the piece, in parts; None is zero. It is dropped when a map is
            kept.
    """

    gradient: Parts

    def roots(self) -> list[Any]:
        """Return the nodes at the ends of the graphs that are kept."""
        ...

    def apply(self, vector: Sequence[Tensor], keep: bool, many: bool = False) -> Parts:
        """Return the product with a vector, in parts; None is zero.

        Args:
            vector: Parts of the shapes of the leaves.
            keep: Whether the graph is used again.
            many: Whether the parts are of several vectors, along a first axis.
        """
        ...


def gradient_of(piece: Piece, leaves: Sequence[Tensor], create_graph: bool = False) -> Parts:
    """Return the gradient of a piece in parts; None is zero."""
    if not piece.value.requires_grad:  # nothing that moves was used
        return [None] * len(leaves)
    return torch.autograd.grad(piece.value, leaves, create_graph=create_graph, allow_unused=True)


def _edges(tensors: Parts) -> tuple[list[int], list[GradientEdge]]:
    """Return which tensors have a graph, and the places where it begins: not their numbers."""
    places = [i for i, t in enumerate(tensors) if t is not None and t.requires_grad]
    return places, [get_gradient_edge(t) for i in places if (t := tensors[i]) is not None]


def _pulled(
    edges: Sequence[Any],
    inputs: Sequence[Tensor],
    vectors: Sequence[Tensor],
    keep: bool,
    many: bool,
) -> tuple[Tensor | None, ...]:
    """Return the sum of the derivatives of some tensors, each times a vector."""
    if not edges:
        return (None,) * len(inputs)
    return torch.autograd.grad(
        edges, inputs, vectors, retain_graph=keep, allow_unused=True, is_grads_batched=many
    )


class _Hessian:
    """The Hessian of a piece by double backward."""

    def __init__(self, piece: Piece, leaves: Sequence[Tensor]) -> None:
        self.leaves = leaves
        self.gradient = gradient_of(piece, leaves, create_graph=True)
        self.places, self.edges = _edges(self.gradient)

    def roots(self) -> list[Any]:
        """Return where the graph of the gradient begins."""
        return [edge.node for edge in self.edges]

    def apply(self, vector: Sequence[Tensor], keep: bool, many: bool = False) -> Parts:
        """Return H v."""
        return _pulled(self.edges, self.leaves, [vector[i] for i in self.places], keep, many)


class _GaussNewton:
    """Jᵀ H_L J of a piece; where its value has no outputs (a penalty), its Hessian."""

    def __init__(self, piece: Piece, leaves: Sequence[Tensor]) -> None:
        self.leaves = leaves
        self.outputs = [output for output in piece.outputs if output.requires_grad]
        self.gradient: Parts = [None] * len(leaves)
        if not self.outputs:
            return
        slopes = torch.autograd.grad(
            piece.value, self.outputs, create_graph=True, allow_unused=True
        )
        held = [
            torch.zeros_like(output) if slope is None else slope
            for slope, output in zip(slopes, self.outputs, strict=True)
        ]
        self.slope_places, self.slope_edges = _edges(held)
        self.gradient = _pulled(
            self.outputs, leaves, [slope.detach() for slope in held], True, False
        )
        # Jᵀu is linear in u: any u serves to differentiate it.
        self.u = [torch.zeros_like(output, requires_grad=True) for output in self.outputs]
        back = torch.autograd.grad(
            self.outputs, leaves, self.u, create_graph=True, allow_unused=True
        )
        self.places, self.edges = _edges(back)

    def roots(self) -> list[Any]:
        """Return where the graphs of outputs, of Jᵀu and of the loss begin."""
        if not self.outputs:
            return []
        edges = [*self.edges, *self.slope_edges]
        return [*(output.grad_fn for output in self.outputs), *(edge.node for edge in edges)]

    def apply(self, vector: Sequence[Tensor], keep: bool, many: bool = False) -> Parts:
        """Return Jᵀ H_L J v."""
        none: Parts = [None] * len(self.leaves)
        if not self.outputs:
            return none
        pushed = _pulled(self.edges, self.u, [vector[i] for i in self.places], True, many)
        shape = (len(vector[0]),) if many else ()
        moved = [
            torch.zeros((*shape, *o.shape), dtype=o.dtype, device=o.device) if p is None else p
            for p, o in zip(pushed, self.outputs, strict=True)
        ]
        rated = _pulled(
            self.slope_edges, self.outputs, [moved[i] for i in self.slope_places], True, many
        )
        used = [i for i, rate in enumerate(rated) if rate is not None]
        rates = [rate for rate in rated if rate is not None]
        return _pulled([self.outputs[i] for i in used], self.leaves, rates, keep, many)


def hessian_map(piece: Piece, leaves: Sequence[Tensor]) -> LinearMap:
    """Return the Hessian of a piece as a linear map."""
    return _Hessian(piece, leaves)


def gauss_newton_map(piece: Piece, leaves: Sequence[Tensor]) -> LinearMap:
    """Return the Gauss-Newton matrix of a piece as a linear map."""
    return _GaussNewton(piece, leaves) if piece.outputs else _Hessian(piece, leaves)


def forward_over_reverse(
    evaluate: Callable[[Sequence[Tensor]], Piece], pieces: Pieces, vector: Sequence[Tensor]
) -> tuple[Piece, Parts]:
    """Return a piece, and its Hessian times a vector, from a gradient of dual numbers."""
    with dual_numbers():
        moving = [dual(leaf, part) for leaf, part in zip(pieces.leaves, vector, strict=True)]
        piece = evaluate(moving)
        if not piece.value.requires_grad:
            return piece, [None] * len(moving)
        gradients = torch.autograd.grad(piece.value, moving, allow_unused=True)
        products = [None if each is None else parts(each)[1] for each in gradients]
        fixed = None if piece.count is None else parts(piece.count)[0]
        return Piece(parts(piece.value)[0], fixed), products
