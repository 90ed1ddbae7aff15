"""The cost to second order at one point: value, gradient, and products with its curvature."""

import difflib
import warnings
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Literal, get_args

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from thalweg.errors import ParameterMismatchError
from thalweg.objectives.finite_differences import difference, first_order, relative_change
from thalweg.objectives.graph_memory import bytes_saved, memory_for_graphs
from thalweg.objectives.objective import Objective
from thalweg.objectives.pieces import Evaluate, Piece, Pieces, Sums
from thalweg.objectives.second_order import (
    LinearMap,
    forward_over_reverse,
    gauss_newton_map,
    gradient_of,
    hessian_map,
)
from thalweg.objectives.ways import Method, chosen_method
from thalweg.space import ParameterSpace, TensorBlock, all_finite, as_vector

__all__ = ["Curvature", "CurvatureKind", "curvature"]

CurvatureKind = Literal["hessian", "gauss-newton"]

# Up to this size whole matrices come from batched operators, some rows at a time: two to five
# times as fast where operators are small, and slower where they are large (measured on a CPU).
_SMALL = 10_000
_TOGETHER = 64


class Curvature:
    """What J does to second order at θ, over the whole first split: a linear operator.

    Made by `curvature`. Value and gradient come from one pass, which also keeps the graph of the
    gradient of each batch where there is memory for it: further products then cost no passes, but
    about as much as 1.7 gradients each. The graphs go with the operator. Batches beyond the memory
    are passed anew in every call, once for all vectors of the call.

    The products are those of the cost: batches weighted by their terms, the penalty added once,
    masks of dropout averaged, tied tensors counted once, sums in float64. The same call gives the
    same bits. Where J is not finite, so are value, gradient and products not.

    Attributes:
        objective: J.
        theta: The point, shape (P,).
        kind: Which matrix: the Hessian or the Gauss-Newton matrix.
        names: Names of the tensors that it is restricted to, in the order of θ; all by default.
        size: n, the number of their entries: the matrix is (n, n).
        method: How products are computed, in words.
    """

    def __init__(
        self,
        objective: Objective,
        theta: Tensor,
        kind: CurvatureKind,
        blocks: Sequence[TensorBlock],
        pieces: Pieces,
        way: Method,
        reason: str,
        memory: int | None,
    ) -> None:
        self.objective, self.theta, self.kind = objective, theta, kind
        self.names = tuple(block.name for block in blocks)
        self.size = sum(block.size for block in blocks)
        self.method = f"{_WORDS[way]}{reason}"
        self._blocks, self._pieces, self._way, self._memory = blocks, pieces, way, memory
        self._kept: dict[int, tuple[Piece, LinearMap]] = {}

    @property
    def value(self) -> float:
        """J(θ)."""
        return self._first_order[0]

    @property
    def gradient(self) -> Tensor:
        """∇J(θ) restricted to the tensors, shape (n,), in the objective's type."""
        return self._first_order[1].to(self.objective.dtype)

    @cached_property
    def error(self) -> float | None:
        """By how much a product is wrong beyond rounding, as a share of it; None where exact.

        For finite differences it is by how much the product with one random vector changes when
        the step doubles.
        """
        if self._way != "finite differences":
            return None
        draw = torch.Generator().manual_seed(0)
        vector = torch.randn(self.size, generator=draw, dtype=torch.float64)
        parts = self._pieces.split(vector.to(self.theta))
        with self._pieces.context():
            return relative_change(self._slope, self._pieces.leaves, parts)

    def products(self, vectors: Tensor | ArrayLike) -> Tensor:
        """Return the products with k vectors, shape (k, n) for (k, n), in the objective's type.

        Raises:
            ParameterMismatchError: If the vectors have another shape.
            ValueError: If they are not finite.
        """
        given = as_vector(vectors).to(self.objective.device, self.objective.dtype)
        if given.ndim != 2 or given.shape[1] != self.size:
            raise ParameterMismatchError(
                f"Vectors must have shape (k, {self.size}), one entry for each parameter of the "
                f"operator; got {tuple(given.shape)}. Use `product` for one vector."
            )
        if not all_finite(given):
            raise ValueError(
                "Vectors must be finite; some entries are not. Where products have become NaN, "
                "J is not finite at θ: look at `value`."
            )
        if not len(given):
            return given.clone()
        if self._way == "double backward" and self._memory != 0:
            _ = self._first_order  # which keeps graphs
        with self._pieces.context():
            if given.is_inference():  # graphs keep no such tensors
                given = given.clone()
            products = self._pulled if self._way == "double backward" else self._alone
            found = products(given)
        return found.to(self.objective.dtype)

    def product(self, vector: Tensor | ArrayLike) -> Tensor:
        """Return the product with one vector, shape (n,)."""
        return self.products(as_vector(vector)[None])[0]

    def embedded(self, vectors: Tensor) -> Tensor:
        """Return vectors of this operator as vectors of R^P, zero outside its tensors."""
        full = vectors.new_zeros((*vectors.shape[:-1], self.objective.space.size))
        start = 0
        for block in self._blocks:
            stop = start + block.size
            full[..., block.start : block.stop] = vectors[..., start:stop]
            start = stop
        return full

    def dense(self) -> Tensor:
        """Return the whole matrix, symmetrised, shape (n, n), float64 on the CPU."""
        unit = torch.eye(self.size, dtype=self.objective.dtype, device=self.objective.device)
        found = self._together(unit) if self.size <= _SMALL else None
        matrix = (self.products(unit) if found is None else found).double().cpu()
        return (matrix + matrix.T) / 2

    def _together(self, vectors: Tensor) -> Tensor | None:
        """Return products from batched operators; None where some operator has no such form."""
        if self._way != "double backward":
            return None
        _ = self.value  # keeps graphs
        try:
            with self._pieces.context(), warnings.catch_warnings():
                warnings.simplefilter("error")  # of operators that would go one by one
                found = [self._pulled(some, many=True) for some in torch.split(vectors, _TOGETHER)]
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, Warning):
            return None
        return torch.cat(found)

    @cached_property
    def _first_order(self) -> tuple[float, Tensor]:
        """Pass over the data once, for value and gradient; keep graphs while memory lasts."""
        if self._way == "formula":
            return self.objective.value(self.theta), self.objective.gradient(self.theta)
        with self._pieces.context():
            return self._look()

    def _look(self) -> tuple[float, Tensor]:
        """Return value and gradient, and keep graphs while memory lasts."""
        leaves = self._pieces.leaves
        left = memory_for_graphs(self.objective.device) if self._memory is None else self._memory
        if left <= 0 or self._way != "double backward":
            return first_order(self._pieces, leaves)
        sums = Sums(self._pieces)
        for index, evaluate in enumerate(self._evaluates()):
            if left <= 0:
                piece = evaluate(leaves)
                sums.see(piece)
                sums.add(piece, gradient_of(piece, leaves))
                continue
            piece = evaluate(leaves)
            mapped = self._map(piece)
            sums.see(piece)
            sums.add(piece, mapped.gradient)
            left -= bytes_saved(mapped.roots(), self._pieces.fixed_storages)
            if left > 0:
                mapped.gradient = ()
                value = piece.value.detach()
                self._kept[index] = Piece(value, piece.count), mapped
        return sums.value(), sums.vectors()

    def _evaluates(self) -> Iterator[Evaluate]:
        """Iterate over the pieces, with outputs where the matrix needs them."""
        return self._pieces.all(outputs=self.kind == "gauss-newton")

    def _map(self, piece: Piece) -> LinearMap:
        """Return what the matrix of a piece does to vectors."""
        make = gauss_newton_map if self.kind == "gauss-newton" else hessian_map
        return make(piece, self._pieces.leaves)

    def _pulled(self, vectors: Tensor, many: bool = False) -> Tensor:
        """Return products from graphs, kept ones or new; one by one or by batched operators."""
        sums = Sums(self._pieces, (len(vectors),))
        parts = self._pieces.split(vectors)
        for piece, mapped in self._kept.values():
            sums.see(piece)
            self._apply(mapped, piece, parts, sums, True, many)
        if self._kept and len(self._kept) == self._pieces.count:
            return sums.vectors()
        for index, evaluate in enumerate(self._evaluates()):
            if index not in self._kept:
                piece = evaluate(self._pieces.leaves)
                sums.see(piece)
                self._apply(self._map(piece), piece, parts, sums, False, many)
        return sums.vectors()

    def _apply(
        self,
        mapped: LinearMap,
        piece: Piece,
        parts: Sequence[Tensor],
        sums: Sums,
        keep: bool,
        many: bool,
    ) -> None:
        """Add the products of one piece."""
        if many:
            sums.add(piece, mapped.apply(parts, keep, many=True))
            return
        count = len(parts[0])
        for row in range(count):
            last = row == count - 1
            sums.add(piece, mapped.apply([part[row] for part in parts], keep or not last), row)

    def _alone(self, vectors: Tensor) -> Tensor:
        """Return products that share nothing, one after the other."""
        leaves = self._pieces.leaves
        rows = []
        for vector in vectors:
            if self._way == "formula":
                rows.append(self.objective.hvp(self.theta, vector))
                continue
            parts = self._pieces.split(vector)
            if self._way == "finite differences":
                rows.append(difference(self._slope, leaves, parts))
                continue
            sums = Sums(self._pieces)
            for evaluate in self._pieces.all():
                piece, found = forward_over_reverse(evaluate, self._pieces, parts)
                sums.see(piece)
                sums.add(piece, found)
            rows.append(sums.vectors())
        return torch.stack(rows)

    def _slope(self, tensors: Sequence[Tensor]) -> Tensor:
        """Return the gradient at another place, float64."""
        return first_order(self._pieces, tensors)[1]


_WORDS: dict[Method, str] = {
    "formula": "formula",
    "double backward": "double backward",
    "forward over reverse": "forward over reverse",
    "finite differences": "central finite differences of gradients",
}


def curvature(
    objective: Objective,
    theta: Tensor | ArrayLike,
    *,
    kind: CurvatureKind = "hessian",
    within: str | Sequence[str] | None = None,
    method: Method | None = None,
    memory: int | None = None,
) -> Curvature:
    """Return the cost to second order at a point: an operator that multiplies by a matrix.

    `"hessian"` is ∇²J(θ). `"gauss-newton"` is Jᵀ H_L J, where J is the derivative of the model's
    outputs and H_L the exact Hessian of the loss with respect to them: positive semidefinite for
    convex losses, and the Hessian itself for models that are linear in θ. A penalty enters either
    with its Hessian.

    Args:
        objective: J.
        theta: Shape (P,).
        kind: `"hessian"` or `"gauss-newton"`.
        within: Names of tensors, or of layers (prefixes of names), to be restricted to: the
            matrix is that of J as a function of these alone.
        method: How to compute products: `"double backward"`, `"forward over reverse"` or
            `"finite differences"` (central, of gradients; `Curvature.error` tells how far off).
            None takes the first that the operators of the cost allow, found out on a few
            examples. A function with a formula for its products uses that.
        memory: Bytes that graphs may be kept in; 0 passes the data in every call. None for 40 %
            of what is free.

    Raises:
        ValueError: If a name fits nothing, a method is not to be had, or the loss is no function
            of the output where the Gauss-Newton matrix is asked for.

    Example:
        >>> from thalweg import FunctionObjective
        >>> objective = FunctionObjective(lambda w: (1 - w[0] * w[1]) ** 2, size=2)
        >>> hessian = curvature(objective, [2.0, 1.0])
        >>> hessian.value, hessian.method
        (1.0, 'double backward')
        >>> hessian.product([1.0, 0.0])
        tensor([2., 6.], dtype=torch.float64)

    Sources:
        Pearlmutter (1994), "Fast exact multiplication by the Hessian"; Schraudolph (2002), "Fast
        curvature matrix-vector products for second-order gradient descent", section 3.
    """
    if kind not in get_args(CurvatureKind):
        raise ValueError(
            f"`kind` must be 'hessian' or 'gauss-newton'; got {kind!r}. Leave it out for the "
            "Hessian."
        )
    if method is not None and method not in get_args(Method):
        raise ValueError(
            f"`method` must be one of {', '.join(map(repr, get_args(Method)))}; got {method!r}. "
            "Leave it out to have one chosen."
        )
    blocks = _blocks_within(objective.space, within)
    pieces = objective.pieces(theta, blocks)
    way, reason = chosen_method(objective, pieces, kind, method)
    point = objective.point(theta)
    return Curvature(objective, point, kind, blocks, pieces, way, reason, memory)


def _blocks_within(
    space: ParameterSpace, within: str | Sequence[str] | None
) -> tuple[TensorBlock, ...]:
    """Return the tensors that are asked for, by their names or those of layers."""
    if within is None:
        return tuple(space.blocks)
    wanted = [within] if isinstance(within, str) else list(within)
    if not wanted:
        raise ValueError("`within` must name a tensor at least; got none. Leave it out for all.")
    for name in wanted:
        if not any(_is_of(block.name, name) for block in space.blocks):
            raise ValueError(
                f"`within` names tensors or layers (beginnings of names); {name!r} is neither. "
                f"Near are {', '.join(map(repr, _near(space, name)))}."
            )
    return tuple(b for b in space.blocks if any(_is_of(b.name, name) for name in wanted))


def _is_of(name: str, wanted: str) -> bool:
    """Tell whether a tensor is meant by a name."""
    return name == wanted or name.startswith(f"{wanted}.")


def _near(space: ParameterSpace, name: str) -> list[str]:
    """Return names of tensors and layers that resemble one; the first few where none does."""
    names: dict[str, None] = {}
    for block in space.blocks:
        parts = block.name.split(".")
        names |= dict.fromkeys(".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return difflib.get_close_matches(name, names, 4, 0.3) or list(names)[:4]
