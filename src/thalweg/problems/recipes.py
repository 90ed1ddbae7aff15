"""Recipes: the numbers that define a network and how it is trained.

The recipes of the networks in Goodfellow, Vinyals & Saxe (2015), figures 1 to 5 and 13, are
those of the papers on dropout and maxout, whose settings were published as files of the
pylearn2 library. A smaller network is the same recipe with a field replaced:

    >>> from dataclasses import replace
    >>> replace(RELU, hidden=(64, 64), epochs=20).hidden
    (64, 64)

Epochs are counted from 1 in the schedules: epoch k is the k-th pass over the data.
"""

import math
from dataclasses import dataclass, replace

__all__ = [
    "MAXOUT",
    "RELU",
    "RELU_WITHOUT_DROPOUT",
    "SIGMOID",
    "ExponentialDecay",
    "LearningRate",
    "LinearDecay",
    "LinearMomentum",
    "Recipe",
    "Training",
    "require",
]

ACTIVATIONS = ("relu", "sigmoid", "maxout")


@dataclass(frozen=True, kw_only=True)
class ExponentialDecay:
    """A learning rate that is divided by a constant after every update.

    The rate of an update is `max(initial / factorᵗ, floor)`, where t is the number of updates
    made before it. `factor=1` keeps the rate constant.

    Attributes:
        initial: Rate of the first update.
        factor: What the rate is divided by after every update, at least 1.
        floor: The rate never falls below this.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> schedule = ExponentialDecay(initial=0.8, factor=2.0, floor=0.15)
        >>> [schedule.at(epoch=1, updates=t) for t in range(4)]
        [0.8, 0.4, 0.2, 0.15]
    """

    initial: float
    factor: float
    floor: float = 0.0

    def __post_init__(self) -> None:
        require(self.initial > 0, "`initial` must be positive", self.initial)
        require(self.factor >= 1, "`factor` must be at least 1", self.factor)
        require(
            0 <= self.floor <= self.initial,
            f"`floor` must lie between 0 and the initial rate {self.initial}",
            self.floor,
        )

    def at(self, *, epoch: int, updates: int) -> float:
        """Return the rate of the update that follows `updates` others; `epoch` plays no part."""
        # A negative power underflows to 0 where the power itself would overflow.
        return max(self.initial * self.factor**-updates, self.floor)


@dataclass(frozen=True, kw_only=True)
class LinearDecay:
    """A learning rate that falls linearly over epochs, then stays.

    With δ = initial·(1 − factor) / (saturate − start + 1), the rate in epoch k is `initial`
    for k < start, `initial − δ·(k − start + 1)` for start ≤ k < saturate, and
    `initial·factor` from then on. So the first step down is taken in epoch `start` itself.
    `factor=1` keeps the rate constant.

    Attributes:
        initial: Rate before the decay.
        start: First epoch of the decay.
        saturate: First epoch at the final rate.
        factor: Final rate over initial rate, in (0, 1].

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> schedule = LinearDecay(initial=1.0, start=1, saturate=4, factor=0.2)
        >>> [round(schedule.at(epoch=k, updates=0), 3) for k in (1, 2, 3, 4, 5)]
        [0.8, 0.6, 0.4, 0.2, 0.2]
    """

    initial: float
    start: int
    saturate: int
    factor: float

    def __post_init__(self) -> None:
        require(self.initial > 0, "`initial` must be positive", self.initial)
        require(
            self.saturate >= self.start,
            f"`saturate` must not come before `start`, epoch {self.start}",
            self.saturate,
        )
        require(0 < self.factor <= 1, "`factor` must lie in (0, 1]", self.factor)

    def at(self, *, epoch: int, updates: int) -> float:
        """Return the rate in an epoch, counted from 1; `updates` plays no part."""
        if epoch < self.start:
            return self.initial
        if epoch >= self.saturate:
            return self.initial * self.factor
        step = self.initial * (1 - self.factor) / (self.saturate - self.start + 1)
        return self.initial - step * (epoch - self.start + 1)


LearningRate = ExponentialDecay | LinearDecay


@dataclass(frozen=True, kw_only=True)
class LinearMomentum:
    """A momentum that goes linearly over epochs from one value to another.

    In epoch k it is μ = (1 − a)·initial + a·final with a = (k − start) / (saturate − start),
    clipped to [0, 1]. `final=initial` keeps it constant; 0 and 0 is plain gradient descent.

    Attributes:
        initial: Momentum up to epoch `start`, in [0, 1).
        final: Momentum from epoch `saturate` on, in [0, 1).
        start: Last epoch at the initial value.
        saturate: First epoch at the final value.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> schedule = LinearMomentum(initial=0.5, final=0.75, start=1, saturate=3)
        >>> [schedule.at(epoch=k) for k in (1, 2, 3, 4)]
        [0.5, 0.625, 0.75, 0.75]
    """

    initial: float
    final: float
    start: int
    saturate: int

    def __post_init__(self) -> None:
        for name in ("initial", "final"):
            value = getattr(self, name)
            require(0 <= value < 1, f"`{name}` must lie in [0, 1)", value)
        require(
            self.saturate > self.start,
            f"`saturate` must come after `start`, epoch {self.start}",
            self.saturate,
        )

    def at(self, *, epoch: int) -> float:
        """Return the momentum in an epoch, counted from 1."""
        share = (epoch - self.start) / (self.saturate - self.start)
        share = min(max(share, 0.0), 1.0)
        return self.initial * (1 - share) + share * self.final


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a network is trained, in numbers.

    Attributes:
        learning_rate: Schedule of the learning rate.
        momentum: Schedule of the momentum.
        norm_limits: Per layer the largest allowed norm of the incoming weights of a unit (of
            each of its pieces, for maxout; `math.inf` for none), or None for no limits at all.
        rate_factors: Per layer what the learning rate of its weights and biases is multiplied by,
            or None for 1.
        batch_size: Examples in a mini-batch.
        epochs: Largest number of passes over the training data.
        patience: Training stops when the validation error rate has reached no new minimum
            for this many epochs.

    Raises:
        ValueError: If a number is out of range.
    """

    learning_rate: LearningRate
    momentum: LinearMomentum
    norm_limits: tuple[float, ...] | None = None
    rate_factors: tuple[float, ...] | None = None
    batch_size: int = 100
    epochs: int = 1000
    patience: int = 100

    def __post_init__(self) -> None:
        for name in ("batch_size", "epochs", "patience"):
            value = getattr(self, name)
            require(value >= 1, f"`{name}` must be at least 1", value)
        for name in ("norm_limits", "rate_factors"):
            value = getattr(self, name)
            require(all(each > 0 for each in value or ()), f"`{name}` must be positive", value)

    @property
    def layers(self) -> int:
        """Number of layers with weights."""
        raise NotImplementedError

    def _check_length(self, name: str) -> None:
        """Raise unless a per-layer field is None or has one entry for each layer."""
        value = getattr(self, name)
        if value is not None and len(value) != self.layers:
            raise ValueError(
                f"`{name}` must have one entry for each of {self.layers} layers "
                f"({self.layers - 1} hidden and the softmax); got {len(value)} in {value}. "
                f"Give `{name}` together with `hidden`."
            )


@dataclass(frozen=True, kw_only=True)
class Recipe(Training):
    """A multilayer perceptron and how it is trained, in numbers; see also `Training`.

    Per-layer fields have one entry for each hidden layer and one for the softmax layer; there
    `dropout` refers to the *input* of the layer.

    Attributes:
        activation: `"relu"`, `"sigmoid"` or `"maxout"`.
        hidden: Units of each hidden layer; `()` is softmax regression.
        pieces: Affine pieces of each maxout unit; 1 for other activations.
        init_ranges: Per layer r: weights start uniform in (−r, r); biases start at 0.
        dropout: Per layer (p, s): in training, each input is multiplied by s with probability
            p and by 0 otherwise. None for no dropout at all.

    Raises:
        ValueError: If a per-layer field does not have one entry for each layer, or a number is
            out of range.

    Example:
        >>> from dataclasses import replace
        >>> small = replace(MAXOUT, hidden=(32, 32), pieces=2, batch_size=50)
        >>> small.layers
        3
    """

    activation: str
    hidden: tuple[int, ...]
    init_ranges: tuple[float, ...]
    pieces: int = 1
    dropout: tuple[tuple[float, float], ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.activation in ACTIVATIONS,
            f"`activation` must be one of {', '.join(ACTIVATIONS)}",
            self.activation,
        )
        for name in ("hidden", "pieces"):
            value = getattr(self, name)
            counts = value if name == "hidden" else (value,)
            require(all(n >= 1 for n in counts), f"`{name}` must be at least 1", value)
        require(
            self.activation == "maxout" or self.pieces == 1,
            f"only maxout units have pieces; `pieces` must be 1 for {self.activation}",
            self.pieces,
        )
        for name in ("init_ranges", "norm_limits", "rate_factors", "dropout"):
            self._check_length(name)
        require(
            all(0 <= r < math.inf for r in self.init_ranges),
            "`init_ranges` must be finite and not negative",
            self.init_ranges,
        )
        require(
            all(0 < p <= 1 and 0 < s < math.inf for p, s in self.dropout or ()),
            "`dropout` must hold pairs (include, scale) with 0 < include ≤ 1 and a positive scale",
            self.dropout,
        )

    @property
    def layers(self) -> int:
        """Number of layers with weights: the hidden ones and the softmax layer."""
        return len(self.hidden) + 1


def require(holds: bool, rule: str, value: object) -> None:
    """Raise with the rule and the offending value unless the rule holds."""
    if not holds:
        raise ValueError(f"In a recipe, {rule}; got {value!r}. Change that field.")


RELU = Recipe(
    activation="relu",
    hidden=(898, 1532),
    # The softmax weights start at exactly 0, so the cost starts at exactly ln 10.
    init_ranges=(0.00891030471479, 0.0575059125935, 0.0),
    norm_limits=(4.378017, 2.970242, 4.626974),
    dropout=((0.8, 1.25), (0.5, 2.0), (0.5, 2.0)),
    learning_rate=LinearDecay(initial=0.097259, start=1, saturate=560, factor=0.022292),
    momentum=LinearMomentum(initial=0.5, final=0.699217, start=1, saturate=698),
)
"""The ReLU network with dropout (pylearn2, `papers/dropout/mnist_valid.yaml`).

On MNIST it has 2,097,528 parameters and reaches 1.08 % test error. The file has no largest
number of epochs; the 1000 here are a ceiling.
"""

RELU_WITHOUT_DROPOUT = replace(RELU, dropout=None)
"""`RELU` with dropout removed (Goodfellow et al. 2015, appendix A)."""

SIGMOID = replace(RELU, activation="sigmoid")
"""`RELU` with logistic sigmoid units: 1.66 % test error (Goodfellow et al. 2015, appendix A)."""

MAXOUT = Recipe(
    activation="maxout",
    hidden=(240, 240),
    pieces=5,
    init_ranges=(0.005, 0.005, 0.005),
    norm_limits=(1.9365, 1.9365, 1.9365),
    # The published file gives the input scale 1, not 1 / 0.8.
    dropout=((0.8, 1.0), (0.5, 2.0), (0.5, 2.0)),
    learning_rate=ExponentialDecay(initial=0.1, factor=1.000004, floor=1e-6),
    momentum=LinearMomentum(initial=0.5, final=0.7, start=1, saturate=250),
)
"""The maxout network (pylearn2, `papers/maxout/mnist_pi.yaml`; Goodfellow et al. 2013).

On MNIST it has 1,233,610 parameters. The published 0.94 % test error takes a second stage of
training on all 60,000 examples, which the recipe leaves out.
"""
