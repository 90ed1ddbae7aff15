"""Sections of parameter space: lines, planes and curves, all of one form.

A section maps k coordinates to θ(c) = Σ_j w_j(c) P_j. The **anchors** P_j are vectors of R^P,
the **weights** w_j are plain numbers. So a sweep over any section is nothing but its anchors
and a weight matrix, one row a point: that is what gets batched, split, cached and resumed.
"""

import functools
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import comb
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from thalweg.anchors import Anchor, combine, corresponding_parts, distance
from thalweg.directions import Normalization, random_directions
from thalweg.results import Array
from thalweg.space import ParameterSpace, as_vector, plain_module, remembered_buffers
from thalweg.stored import StoredPoint
from thalweg.trajectory.principal import Centre, principal_axes, rule_of
from thalweg.trajectory.trajectory import Trajectory

__all__ = [
    "BezierCurve",
    "Line",
    "Plane",
    "Polyline",
    "Section",
]

Buffers = Mapping[str, Tensor]


class Section(ABC):
    """A map from coordinates to points, given by anchors and weights.

    Attributes:
        anchors: m points of R^P: vectors, or `StoredPoint`s on disk.
        buffers: For each anchor the buffers of its network, or None: what
            `batch_norm="interpolate"` combines with the same weights.
        labels: Names of the anchors.
    """

    anchors: tuple[Anchor, ...]
    buffers: tuple[Buffers | None, ...]
    labels: tuple[str, ...]

    @property
    @abstractmethod
    def dimension(self) -> int:
        """Number k of coordinates."""

    @abstractmethod
    def weights(self, coordinates: ArrayLike) -> Array:
        """Return the weight matrix (n, m) for n coordinates, shape (n,) or (n, k)."""

    def slopes(self, coordinates: ArrayLike) -> Array:
        """Return the derivatives dw_j/dα of the weights at n coordinates, shape (n, m).

        With them t = Σ_j w_j'(α) P_j is the tangent of the section: how θ moves with α. A
        section of one dimension has them.

        Raises:
            ValueError: If this section has none.
        """
        raise ValueError(
            "A slope is taken along a section of one coordinate that knows how its weights "
            f"change; got {self.kind}. Use a `Line`, `BezierCurve` or `Polyline`."
        )

    def accelerations(self, coordinates: ArrayLike) -> Array:
        """Return the second derivatives d²w_j/dα² of the weights at n coordinates, shape (n, m).

        They are zero where a section is straight, as a `Line` is, and the pieces of a `Polyline`.

        Raises:
            ValueError: If this section has no tangent.
        """
        return np.zeros_like(self.slopes(coordinates))

    @property
    @abstractmethod
    def places(self) -> Array:
        """Coordinates of the anchors that are points of the section: (m,) or (m, k)."""

    @property
    def kind(self) -> str:
        """Name of the section for results, such as `"Line"`."""
        return type(self).__name__

    @property
    def details(self) -> Mapping[str, Any]:
        """Further plain facts for the provenance of a result."""
        return {}

    def point(self, *coordinates: float) -> Tensor:
        """Return θ at one coordinate tuple, shape (P,).

        Example:
            >>> Line(torch.zeros(2), torch.ones(2)).point(0.25)
            tensor([0.2500, 0.2500])
        """
        place = np.asarray(coordinates, dtype=np.float64)
        if place.shape != (self.dimension,):
            raise ValueError(
                f"A point of this section has {self.dimension} coordinates; got "
                f"{len(coordinates)}. Give one number for each."
            )
        row = self.weights(place if self.dimension == 1 else place[None])
        return combine(self.anchors, row[0])


@dataclass(frozen=True, eq=False)
class Line(Section):
    """The straight line θ(α) = (1 − α) a + α b (Goodfellow et al. 2015, section 2).

    At α = 0 and α = 1 it gives a and b bit for bit; beyond them it goes on.

    Args:
        start: a, shape (P,).
        end: b, shape (P,).
        labels: What the ends are called in figures.
        buffers: For `batch_norm="interpolate"`, the two networks (or their state dicts)
            that the ends belong to. Points made by `space.flatten` remember theirs.

    Raises:
        ValueError: If the two points differ in shape, or are no vectors.

    Example:
        >>> line = Line(torch.tensor([1.0, 1.0]), torch.tensor([3.0, 0.0]))
        >>> line.weights([0.0, 0.25])
        array([[1.  , 0.  ],
               [0.75, 0.25]])
        >>> float(line.length)
        2.23606...
    """

    start: Anchor
    end: Anchor
    labels: tuple[str, ...] = ("start", "end")
    buffers: tuple[Any, ...] = ()
    anchors: tuple[Anchor, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        _settle(self, (self.start, self.end))

    @property
    def dimension(self) -> int:
        """One."""
        return 1

    @property
    def length(self) -> float:
        """Euclidean distance ‖b − a‖."""
        return distance(*self.anchors)

    @property
    def places(self) -> Array:
        """0 and 1."""
        return np.array([0.0, 1.0])

    def weights(self, coordinates: ArrayLike) -> Array:
        """Return (1 − α, α) for each α, shape (n, 2)."""
        alpha = np.asarray(coordinates, dtype=np.float64)
        return np.stack([1 - alpha, alpha], axis=-1)

    def slopes(self, coordinates: ArrayLike) -> Array:
        """Return (−1, 1) for each α, shape (n, 2): θ moves by b − a."""
        alpha = np.asarray(coordinates, dtype=np.float64)
        return np.stack([-np.ones_like(alpha), np.ones_like(alpha)], axis=-1)


@dataclass(frozen=True, eq=False)
class BezierCurve(Section):
    """The curve θ(t) = Σ_j C(m−1, j) t^j (1 − t)^(m−1−j) P_j (Garipov et al. 2018).

    It starts at the first control point and ends at the last; those between bend it.

    Args:
        points: m ≥ 2 control points, shape (P,) each.
        labels: Their names.
        buffers: As for `Line`.

    Example:
        >>> bend = BezierCurve([torch.zeros(1), torch.ones(1), torch.zeros(1)])
        >>> float(bend.point(0.5))
        0.5
    """

    points: Sequence[Anchor]
    labels: tuple[str, ...] = ()
    buffers: tuple[Any, ...] = ()
    anchors: tuple[Anchor, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        _settle(self, self.points)

    @property
    def dimension(self) -> int:
        """One."""
        return 1

    @property
    def places(self) -> Array:
        """0 for the first control point and 1 for the last; the others are off the curve."""
        places = np.full(len(self.anchors), np.nan)
        places[0], places[-1] = 0.0, 1.0
        return places

    def weights(self, coordinates: ArrayLike) -> Array:
        """Return the Bernstein polynomials at each t, shape (n, m)."""
        t = np.asarray(coordinates, dtype=np.float64)
        degree = len(self.anchors) - 1
        columns = [comb(degree, j) * t**j * (1 - t) ** (degree - j) for j in range(degree + 1)]
        return np.stack(columns, axis=-1)

    def slopes(self, coordinates: ArrayLike) -> Array:
        """Return the derivatives of the Bernstein polynomials at each t, shape (n, m).

        They are differences of the polynomials of one degree less:
        B'_j = d (B_{j−1} − B_j), with d = m − 1.
        """
        t = np.asarray(coordinates, dtype=np.float64)
        degree, last = len(self.anchors) - 1, len(self.anchors) - 2
        lower = [comb(last, j) * t**j * (1 - t) ** (last - j) for j in range(degree)]
        columns = np.stack([np.zeros_like(t), *lower, np.zeros_like(t)], axis=-1)
        return -degree * np.diff(columns, axis=-1)

    def accelerations(self, coordinates: ArrayLike) -> Array:
        """Return the second derivatives of the Bernstein polynomials at each t, shape (n, m).

        They are second differences of the polynomials of two degrees less.
        """
        t = np.asarray(coordinates, dtype=np.float64)
        degree, last = len(self.anchors) - 1, len(self.anchors) - 3
        lower = [comb(last, j) * t**j * (1 - t) ** (last - j) for j in range(degree - 1)]
        zero = np.zeros_like(t)
        columns = np.stack([zero, zero, *lower, zero, zero], axis=-1)
        return degree * (degree - 1) * np.diff(columns, n=2, axis=-1)


@dataclass(frozen=True, eq=False)
class Polyline(Section):
    """The path through given points, straight from each to the next.

    Point j lies at coordinate j (or at `knots[j]`); beyond the first and the last knot the
    outer pieces go on straight.

    Args:
        points: m ≥ 2 points, shape (P,) each.
        knots: Their coordinates, ascending strictly; 0, 1, ..., m − 1 by default.
        labels: Their names.
        buffers: As for `Line`.

    Example:
        >>> path = Polyline([torch.tensor([0.0]), torch.tensor([2.0]), torch.tensor([1.0])])
        >>> float(path.point(1.5))
        1.5
    """

    points: Sequence[Anchor]
    knots: Sequence[float] | None = None
    labels: tuple[str, ...] = ()
    buffers: tuple[Any, ...] = ()
    anchors: tuple[Anchor, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        _settle(self, self.points)
        knots = np.arange(len(self.anchors)) if self.knots is None else np.asarray(self.knots)
        ascend = bool(np.all(np.isfinite(knots)) and np.all(np.diff(knots) > 0))
        if knots.shape != (len(self.anchors),) or not ascend:
            raise ValueError(
                f"A polyline through {len(self.anchors)} points needs as many finite knots that "
                f"ascend strictly; got {list(knots)}. Leave `knots` out to number the points."
            )
        object.__setattr__(self, "knots", tuple(float(knot) for knot in knots))

    @property
    def dimension(self) -> int:
        """One."""
        return 1

    @property
    def places(self) -> Array:
        """The knots."""
        return np.asarray(self.knots, dtype=np.float64)

    def weights(self, coordinates: ArrayLike) -> Array:
        """Return the hat functions at each coordinate, shape (n, m)."""
        s, piece = self._pieces(coordinates)
        knots = self.places
        t = (s - knots[piece]) / (knots[piece + 1] - knots[piece])
        return self._table(piece, 1 - t, t)

    def slopes(self, coordinates: ArrayLike) -> Array:
        """Return the derivatives of the hat functions at each coordinate, shape (n, m).

        At a corner they are one-sided: those of the piece that begins there, and at the last
        knot those of the piece that ends there.
        """
        _, piece = self._pieces(coordinates)
        rate = 1 / np.diff(self.places)[piece]
        return self._table(piece, -rate, rate)

    def _pieces(self, coordinates: ArrayLike) -> tuple[Array, NDArray[np.intp]]:
        """Return the coordinates, and on which piece each of them lies."""
        s = np.atleast_1d(np.asarray(coordinates, dtype=np.float64))
        found = np.searchsorted(self.places, s, side="right") - 1
        return s, np.clip(found, 0, len(self.places) - 2)

    def _table(self, piece: NDArray[np.intp], start: Array, end: Array) -> Array:
        """Return a matrix (n, m) with two numbers a row: for both ends of a piece."""
        matrix = np.zeros((len(piece), len(self.anchors)))
        rows = np.arange(len(piece))
        matrix[rows, piece], matrix[rows, piece + 1] = start, end
        return matrix


@dataclass(frozen=True, eq=False)
class Plane(Section):
    """The plane θ(x, y) = o + x u + y v. Make one with `through` or `random`.

    Two forms share this class. Through three points a, b, c the anchors are those points and
    the weights (1 − x − y, x, y): a, b and c lie at (0, 0), (1, 0) and (0, 1), bit for bit.
    Around one point the anchors are o, u, v and the weights (1, x, y).

    Args:
        vectors: The three anchors.
        affine: True for the first form.
        labels: Names of the anchors that are points.
        buffers: As for `Line`.
        rule: Plain facts about how the directions were made.
    """

    vectors: tuple[Anchor, Anchor, Anchor]
    affine: bool = True
    labels: tuple[str, ...] = ()
    buffers: tuple[Any, ...] = ()
    rule: Mapping[str, Any] = field(default_factory=dict)
    anchors: tuple[Anchor, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if len(self.vectors) != 3:
            raise ValueError(
                f"A plane has three anchors; got {len(self.vectors)}. Use `Plane.through` or "
                "`Plane.random`."
            )
        _settle(self, self.vectors, names=3 if self.affine else 1)

    @classmethod
    def through(
        cls,
        a: Anchor,
        b: Anchor,
        c: Anchor,
        *,
        labels: tuple[str, str, str] = ("a", "b", "c"),
        buffers: tuple[Any, ...] = (),
    ) -> "Plane":
        """Return the plane through three points, at (0, 0), (1, 0) and (0, 1).

        Raises:
            ValueError: If the three points lie on one line, or differ in shape.

        Example:
            >>> a, b, c = torch.zeros(2), torch.tensor([1.0, 0.0]), torch.tensor([1.0, 2.0])
            >>> Plane.through(a, b, c).point(0.5, 0.5)
            tensor([1., 1.])
        """
        plane = cls((a, b, c), True, labels, buffers)
        gram = plane.gram
        if np.linalg.det(gram) <= 1e-12 * gram[0, 0] * gram[1, 1]:
            raise ValueError(
                "A plane needs three points that are not on one line; the ones given are. "
                "Use `Line`, or another third point."
            )
        return plane

    @classmethod
    def random(
        cls,
        space: ParameterSpace,
        theta: Tensor,
        *,
        normalize: Normalization = "filter",
        biases: bool = False,
        seed: int = 0,
        label: str = "θ",
    ) -> "Plane":
        """Return a plane around θ along two random directions (Li et al. 2017).

        θ lies at (0, 0). How the directions are drawn, made orthogonal and rescaled is told
        at `thalweg.directions.random_directions`; the rule is kept in the result.

        Args:
            space: The space of θ.
            theta: The centre, shape (P,).
            normalize: `"filter"`, `"layer"` or `"none"`.
            biases: Move biases and normalisation parameters too.
            seed: Seed of the directions.
            label: Name of the centre.
        """
        u, v = random_directions(space, theta, 2, normalize=normalize, biases=biases, seed=seed)
        rule = {"directions": "random", "normalize": normalize, "biases": biases, "seed": seed}
        return cls((theta, u, v), False, (label,), (remembered_buffers(theta), {}, {}), rule)

    @classmethod
    def principal(
        cls, trajectory: Trajectory, center: Centre = "last", *, label: str = ""
    ) -> "Plane":
        """Return the plane of the first two principal components of a run.

        The directions are unit vectors, so coordinates are lengths. The run may be larger than
        memory. A smooth curve in this plane is no finding: a random walk in many dimensions gives
        one as well, of which two components explain 61 % and 15 %
        (`thalweg.trajectory.principal.random_walk_shares`). `details` therefore keeps the
        explained shares, and where and how far off the plane each point of the run is.

        Args:
            trajectory: The run.
            center: `"last"`, the last point is at (0, 0) (Li et al. 2017); or `"mean"`.
            label: Name of the centre.

        Raises:
            TypeError: If there is no trajectory.
            ValueError: If `center` is neither, a point is not finite, or the run is on one line.

        Example:
            >>> bend = torch.tensor([[0.0, 0.0, 1.0], [4.0, 0.0, 1.0], [4.0, 2.0, 1.0]])
            >>> plane = Plane.principal(Trajectory.from_points(bend), "mean")
            >>> [round(share, 3) for share in plane.details["explained"]]
            [0.861, 0.139]
            >>> max(plane.details["off"]) < 1e-12
            True

        Source: Li, Xu, Taylor, Studer & Goldstein (2018), section 7; Antognini & Sohl-Dickstein
        (2018) for the random walk.
        """
        found = principal_axes(trajectory, center)
        vectors = (found.centre, *found.axes)
        name = label or ("last" if center == "last" else "mean")
        return cls(vectors, False, (name,), (found.buffers, {}, {}), rule_of(found, center))

    @property
    def dimension(self) -> int:
        """Two."""
        return 2

    @property
    def gram(self) -> Array:
        """Inner products of u and v, shape (2, 2)."""
        gram = np.zeros((2, 2))
        for parts in corresponding_parts(self.anchors):
            o, u, v = (part.double() for part in parts)
            if self.affine:
                u, v = u - o, v - o
            uv = float(u @ v)
            gram += [[float(u @ u), uv], [uv, float(v @ v)]]
        return gram

    @property
    def places(self) -> Array:
        """Coordinates of the anchors that are points, shape (3, 2) or (1, 2)."""
        points = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        return points if self.affine else points[:1]

    @property
    def details(self) -> Mapping[str, Any]:
        """The rule of the directions."""
        return self.rule

    def weights(self, coordinates: ArrayLike) -> Array:
        """Return (1 − x − y, x, y) or (1, x, y) for each (x, y), shape (n, 3)."""
        xy = np.asarray(coordinates, dtype=np.float64).reshape(-1, 2)
        x, y = xy[:, 0], xy[:, 1]
        return np.stack([1 - x - y if self.affine else np.ones_like(x), x, y], axis=-1)


def _settle(section: Any, points: Sequence[Anchor], names: int | None = None) -> None:
    """Check the anchors of a section, `names` of which are points, and fill in what is missing."""
    vectors = tuple(_vector(point) for point in points)
    if len(vectors) < 2:
        raise ValueError(
            f"A section needs two points at least; got {len(vectors)}. Give another point."
        )
    shapes = {tuple(vector.shape) for vector in vectors}
    if len(shapes) > 1:
        raise ValueError(
            "The points of a section must be vectors of one length; got shapes "
            f"{sorted(shapes)}. Make all of them with the same `space.flatten`."
        )
    anchors = _of_one_type(vectors)
    given = section.buffers or tuple(remembered_buffers(point) for point in points)
    if len(given) != len(anchors):
        raise ValueError(
            f"`buffers` needs one entry for each of the {len(anchors)} anchors; got "
            f"{len(given)}. Give the models (or state dicts) in the order of the points."
        )
    names = len(anchors) if names is None else names
    labels = tuple(section.labels) or tuple(f"point {j}" for j in range(names))
    if len(labels) != names:
        raise ValueError(
            f"`labels` needs one name for each of {names} points; got {len(labels)}. Leave it "
            "out, or name each of them."
        )
    object.__setattr__(section, "anchors", anchors)
    object.__setattr__(section, "labels", labels)
    object.__setattr__(section, "buffers", tuple(_named_buffers(entry) for entry in given))


def _of_one_type(points: tuple[Anchor, ...]) -> tuple[Anchor, ...]:
    """Give the vectors in memory one type and one device; what is on disk stays as it is."""
    vectors = [point for point in points if isinstance(point, Tensor)]
    if not vectors:
        return points
    dtype = functools.reduce(torch.promote_types, (vector.dtype for vector in vectors))
    device = vectors[0].device
    return tuple(p.to(device, dtype) if isinstance(p, Tensor) else p for p in points)


def _vector(point: Any) -> Anchor:
    """Return a point as a detached vector of floating-point numbers that are finite."""
    if isinstance(point, StoredPoint):
        return point
    vector = as_vector(point)
    if vector.ndim != 1 or not vector.is_floating_point():
        raise ValueError(
            "A point of parameter space is a vector of floating-point numbers, shape (P,); "
            f"got shape {tuple(vector.shape)} of {vector.dtype}. Use `space.flatten(model)`."
        )
    if not bool(torch.isfinite(vector).all()):
        where = int((~torch.isfinite(vector)).nonzero()[0, 0])
        raise ValueError(
            f"Parameters must be finite; entry {where} of a point is {float(vector[where])}. "
            "Use a checkpoint from before the training diverged."
        )
    return vector


def _named_buffers(entry: Any) -> Buffers | None:
    """Return the buffers of a module or of a state dict, copied."""
    if isinstance(entry, nn.Module):
        entry = dict(plain_module(entry).named_buffers())
    if entry is None:
        return None
    return {n: t.detach().clone() for n, t in entry.items() if isinstance(t, Tensor)}
