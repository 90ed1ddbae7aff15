"""What reaches the layers of a network: gradients over depth, and units that are switched off."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from thalweg.results.frozen import Array, freeze, rebuilt
from thalweg.results.provenance import Provenance

__all__ = ["Attenuation", "LayerSignals"]


@dataclass(frozen=True)
class Attenuation:
    """By how much the gradient changes on its way back from the last activation to the first.

    Attributes:
        total: Its norm at the first activation over that at the last; below 1 it shrinks.
        factor: What a layer multiplies it by on the way back, by a fit of log-norms over depth.
        error: Standard error of `factor`; NaN for fewer than three layers.
        layers: Activations that it was told from.
    """

    total: float
    factor: float
    error: float
    layers: int


@dataclass(frozen=True, eq=False)
class LayerSignals:
    """Gradients by tensor and by activation, in the order in which the network uses them.

    Norms of gradients are those of J, so that they carry its units; `relative`, `attenuation`,
    `sensitivity` and all counts are the same for J and for c J.

    Attributes:
        tensors: Names of the parameters θ_l, in the order of first use; unused ones last.
        size: Number of entries of each, shape (n,).
        depth: Activation layers that come before its first use, shape (n,); NaN where unused.
        gradient_norm: ‖∂J/∂θ_l‖, shape (n,).
        weight_norm: ‖θ_l‖, shape (n,).
        zero: Entries whose gradient is exactly 0, shape (n,).
        layers: Names of the activation layers h_l, in order.
        functions: What each of them is, such as `"relu"`.
        is_output: 1 where it is the output of the model, and no hidden layer; shape (m,).
        activation_gradient: ‖∂J/∂h_l‖ over all examples together, shape (m,); NaN where nothing
            that moves comes before it.
        activation_size: Numbers that h_l consists of, over all examples, shape (m,).
        units: Its units, shape (m,): channels of convolutions, features otherwise, pieces of
            maxout.
        dead: Units whose derivative is exactly 0 for every example, shape (m,); of smooth
            functions, whose derivative only rounding makes 0, there are none.
        saturated: Further units whose derivative is below `small` of its largest value for
            99.9 % of the examples at least, shape (m,).
        small: That share.
        unseen: Modules whose activations are computed inside one operator, and are not seen.
        loss: J(θ).
        examples: Examples that were looked at.
        provenance: What made this result.

    Example:
        >>> signals = LayerSignals(
        ...     layers=("1", "3", "5"),
        ...     functions=("tanh",) * 3,
        ...     activation_gradient=[1, 2, 4],
        ...     activation_size=[8, 8, 8],
        ...     units=[4, 4, 4],
        ...     dead=[0, 1, 0],
        ...     saturated=[0, 0, 0],
        ... )
        >>> signals.attenuation.total, round(signals.attenuation.factor, 9)
        (0.25, 0.5)
        >>> signals.dead_share.tolist()
        [0.0, 0.25, 0.0]
    """

    tensors: tuple[str, ...] = ()
    size: Array = field(default_factory=lambda: np.empty(0))
    depth: Array = field(default_factory=lambda: np.empty(0))
    gradient_norm: Array = field(default_factory=lambda: np.empty(0))
    weight_norm: Array = field(default_factory=lambda: np.empty(0))
    zero: Array = field(default_factory=lambda: np.empty(0))
    layers: tuple[str, ...] = ()
    functions: tuple[str, ...] = ()
    is_output: Array = field(default_factory=lambda: np.empty(0))
    activation_gradient: Array = field(default_factory=lambda: np.empty(0))
    activation_size: Array = field(default_factory=lambda: np.empty(0))
    units: Array = field(default_factory=lambda: np.empty(0))
    dead: Array = field(default_factory=lambda: np.empty(0))
    saturated: Array = field(default_factory=lambda: np.empty(0))
    small: float = 1e-3
    unseen: tuple[str, ...] = ()
    loss: float = float("nan")
    examples: int = 0
    provenance: Provenance = field(default_factory=Provenance)

    def __post_init__(self) -> None:
        for name in ("tensors", "layers", "functions", "unseen"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if len(self.functions) != len(self.layers):
            raise ValueError(
                f"Each activation layer is some function; got {len(self.layers)} layers and "
                f"{len(self.functions)} functions. Name one for each."
            )
        if len(self.is_output) == 0:
            object.__setattr__(self, "is_output", np.zeros(len(self.layers)))
        for name in ("size", "depth", "gradient_norm", "weight_norm", "zero"):
            freeze(self, name, (len(self.tensors),))
        for name in (
            *("is_output", "activation_gradient", "activation_size"),
            *("units", "dead", "saturated"),
        ):
            freeze(self, name, (len(self.layers),))

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuilt(self)

    @property
    def gradient_rms(self) -> Array:
        """Root mean square of the entries of ∂J/∂θ_l, shape (n,)."""
        rms: Array = self.gradient_norm / np.sqrt(self.size)
        return rms

    @property
    def sensitivity(self) -> Array:
        """‖g_l‖‖θ_l‖ as a share of its sum over all tensors, shape (n,).

        What a change of each tensor by the same share of its norm can do to J, to first order.
        It is unchanged under J → c J, and where a tensor is stored in other units. NaN where all
        are 0.
        """
        products = self.gradient_norm * self.weight_norm
        return _share(products, np.full(len(products), products.sum()))

    @property
    def zero_share(self) -> float:
        """Share of all parameters whose gradient is exactly 0."""
        total = self.size.sum()
        return float(self.zero.sum() / total) if total else float("nan")

    @property
    def dead_share(self) -> Array:
        """Share of dead units, shape (m,)."""
        return _share(self.dead, self.units)

    @property
    def saturated_share(self) -> Array:
        """Share of saturated units that are not dead, shape (m,)."""
        return _share(self.saturated, self.units)

    @property
    def activation_rms(self) -> Array:
        """Root mean square of the entries of ∂J/∂h_l, shape (m,)."""
        rms: Array = self.activation_gradient / np.sqrt(self.activation_size)
        return rms

    @property
    def hidden(self) -> Array:
        """Numbers of the hidden layers that the gradient goes through, shape (k,)."""
        known = np.isfinite(self.activation_gradient) & (self.is_output == 0)
        return np.flatnonzero(known).astype(np.float64)

    @property
    def relative(self) -> Array:
        """RMS of ∂J/∂h_l over that of the last hidden layer, shape (m,); NaN where it has none."""
        hidden = self.hidden.astype(int)
        last = self.activation_rms[hidden[-1]] if len(hidden) else np.nan
        return _share(self.activation_rms, np.full(len(self.layers), last))

    @property
    def attenuation(self) -> Attenuation:
        """By how much the gradient changes from the last hidden layer back to the first.

        The norms of ∂J/∂h_l are compared, not the RMS: it is norms that a product of Jacobians
        acts on, and a change of width alone does not move them.
        """
        norms = self.activation_gradient[self.hidden.astype(int)]
        count = len(norms)
        if count < 2 or not norms[-1] > 0:
            return Attenuation(float("nan"), float("nan"), float("nan"), count)
        total = float(norms[0] / norms[-1])
        if not (norms > 0).all():  # a layer through which nothing comes: no power law
            return Attenuation(total, total ** (1 / (count - 1)), float("nan"), count)
        depth = np.arange(count) - (count - 1) / 2
        logs = np.log(norms)
        squares = float(depth @ depth)
        slope = float(depth @ logs) / squares
        left = logs - logs.mean() - slope * depth
        error = math.sqrt(float(left @ left) / (count - 2) / squares) if count > 2 else math.nan
        factor = math.exp(-slope)
        return Attenuation(total, factor, factor * error, count)


def _share(part: Array, whole: Array) -> Array:
    """Return part / whole, and NaN where the whole is zero."""
    share: Array = np.full(part.shape, np.nan)
    np.divide(part, whole, out=share, where=whole != 0)
    return share
