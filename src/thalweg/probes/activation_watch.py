"""Watching a forward pass: where activations and parameters are used, and in which order.

Every call of torch inside the model goes through a `TorchFunctionMode`, so that `nn.ReLU`,
`F.relu`, `torch.relu` and `x.relu_()` are one and the same. Forward hooks on the objective's own
copy of the model say in which module a call is made; both are gone when the watch ends. A module
that writes an activation out, such as a GELU by way of tanh, is taken as a whole.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from thalweg.objectives.model import ModelObjective
from thalweg.objectives.terms import prediction

__all__ = ["SMALL", "Activation", "ActivationWatch", "watching"]

SMALL = 1e-3  # of its largest value: a derivative below has let go of the unit
_FULL = 0.999  # share of the examples for which it must be so

_ACTIVATIONS = frozenset(
    {
        "celu",
        "elu",
        "gelu",
        "hardshrink",
        "hardsigmoid",
        "hardswish",
        "hardtanh",
        "leaky_relu",
        "logsigmoid",
        "mish",
        "prelu",
        "relu",
        "relu6",
        "selu",
        "sigmoid",
        "silu",
        "softplus",
        "softshrink",
        "softsign",
        "tanh",
        "threshold",
    }
)
# Their derivative is nowhere 0 but by rounding: such a unit is saturated, not dead.
_SMOOTH = frozenset(
    {
        "celu",
        "elu",
        "gelu",
        "logsigmoid",
        "mish",
        "selu",
        "sigmoid",
        "silu",
        "softplus",
        "softsign",
        "tanh",
    }
)
# In the name of a class without parameters: it writes an activation out.
_WRITTEN = ("relu", "gelu", "silu", "swish", "mish", "sigmoid", "tanh", "softplus")
# Operators whose output has its features on the last axis, and those that keep channels.
_ON_LAST = frozenset(
    {
        "linear",
        "matmul",
        "__matmul__",
        "__rmatmul__",
        "mm",
        "bmm",
        "addmm",
        "baddbmm",
        "einsum",
        "embedding",
        "layer_norm",
        "rms_norm",
        "bilinear",
        "lstm",
        "gru",
        "rnn_tanh",
        "rnn_relu",
        "multi_head_attention_forward",
        "scaled_dot_product_attention",
    }
)
_ON_SECOND = frozenset({"batch_norm", "group_norm", "instance_norm"})
# After these an axis is no longer where it was.
_REARRANGED = frozenset(
    {
        "permute",
        "transpose",
        "t",
        "swapaxes",
        "swapdims",
        "movedim",
        "moveaxis",
        "reshape",
        "view",
        "flatten",
        "unflatten",
        "squeeze",
        "unsqueeze",
        "stack",
    }
)
_GRID = torch.linspace(-20, 20, 4001, dtype=torch.float64)  # where the largest derivative is


@dataclass
class Activation:
    """One activation layer, over all passes so far.

    Attributes:
        name: Its name.
        function: What it is, such as `"relu"`.
        units: Number of its units.
        total: Derivatives seen of each unit.
        zero: Those that are exactly 0, shape (units,).
        small: Those that are small, shape (units,).
        squares: Sum of the squares of the gradient of the sums over batches, None before any.
        entries: Numbers that it consists of.
        is_output: Whether it is what the model returns.
        edges: Where gradients come by in the present pass.
    """

    name: str
    function: str
    units: int
    total: int
    zero: Tensor
    small: Tensor
    squares: float | None = None
    entries: int = 0
    is_output: bool = False
    edges: list[GradientEdge] = field(default_factory=list)

    @property
    def dead(self) -> int:
        """Units whose derivative is always exactly 0."""
        return 0 if _is_smooth(self.function) else int((self.zero == self.total).sum())

    @property
    def saturated(self) -> int:
        """Units whose derivative is small nearly always, but for the dead ones."""
        return int((self.small >= _FULL * self.total).sum()) - self.dead


@dataclass
class _Frame:
    """A module that is being run, and its input where it writes an activation out."""

    name: str
    module: nn.Module
    calls: dict[str, int] = field(default_factory=dict)
    before: Tensor | None = None


class ActivationWatch(TorchFunctionMode):
    """What is called inside the model, while it is entered.

    Args:
        parameters: The tensors that move, by name.

    Attributes:
        activations: Activation layers by name and number of units, in order of first use.
        first_use: Activation layers that come before the first use of each parameter.
    """

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.activations: dict[tuple[str, int], Activation] = {}
        self.first_use: dict[str, int] = {}
        self._names = {id(tensor): name for name, tensor in parameters.items()}
        self._axes: Any = WeakIdKeyDictionary()  # tensor to the axis of its units
        self._made: Any = WeakIdKeyDictionary()  # output of an activation to its layer
        self._frames: list[_Frame] = []
        self._counts = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a call, and note what it is."""
        kwargs = kwargs or {}
        if not (self._counts and self._frames):
            return func(*args, **kwargs)
        name = str(getattr(func, "__name__", "")).strip("_")
        given = list(_tensors([*args, *kwargs.values()]))
        if name != "get":  # looking at an attribute is no use
            self._note_parameters(given)
        known = _known_activation(name, self._frames[-1].module, args, kwargs)
        if self._frames[-1].before is not None:  # a part of what is taken as a whole
            known = ""
        before = _copied(given) if known else None
        output = func(*args, **kwargs)
        self._note_axis(str(getattr(func, "__name__", "")), given, output)
        if before is not None:
            self._note_activation(known, func, args, kwargs, before, output)
        return output

    @contextmanager
    def passing(self) -> Iterator[None]:
        """Forget the places of the pass before, and note what is called in the next one."""
        for activation in self.activations.values():
            activation.edges.clear()
        with self:
            yield

    # What hooks tell

    def begin(self, _: nn.Module, args: tuple[Any, ...]) -> None:
        """Note that a pass begins: one that counts, or one for statistics alone."""
        self._counts = len(args) == 3 and bool(args[2])

    def end(self, *_: Any) -> None:
        """Note that it has ended."""
        self._counts = False

    def enter(self, name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Note that a module begins."""
        self._frames.append(_Frame(name, module))
        if self._counts and _writes_activation(module) and len(args) == 1:
            with self._resting():
                self._frames[-1].before = _copied([t for t in args if isinstance(t, Tensor)])

    def leave(self, output: Any) -> None:
        """Note that a module has ended, and what the model returns."""
        before, module = self._frames[-1].before, self._frames[-1].module
        if self._counts and before is not None and isinstance(output, Tensor):
            with self._resting():
                if output.shape == before.shape:
                    function = type(module).__name__.lower()
                    self._note_activation(function, module.forward, (before,), {}, before, output)
        self._frames.pop()
        if self._counts and not self._frames:
            try:
                made = self._made.get(prediction(output))
            except TypeError:  # a loss of its own
                made = None
            if made is not None:
                made.is_output = True

    @contextmanager
    def _resting(self) -> Iterator[None]:
        """Do not watch what is computed here, inside a hook."""
        self._counts = False
        try:
            yield
        finally:
            self._counts = True

    # What calls tell

    def _note_parameters(self, given: Sequence[Tensor]) -> None:
        """Note the first use of parameters."""
        for tensor in given:
            name = self._names.get(id(tensor))
            if name is not None:
                self.first_use.setdefault(name, len(self.activations))

    def _note_axis(self, name: str, given: Sequence[Tensor], output: Any) -> None:
        """Note which axis of an output counts units."""
        output = next(_tensors([output]), None)
        if output is None or output.ndim == 0:
            return
        source = next((t for t in given if t in self._axes), None)
        axis = None if source is None else self._axes[source]
        if name in _ON_LAST:
            axis = -1
        elif name.startswith("conv") and name[-2:] in ("1d", "2d", "3d"):
            axis = -1 - int(name[-2])
        elif name in _ON_SECOND and output.ndim > 1:
            axis = 1 - output.ndim
        elif name in _REARRANGED or source is None or source.ndim != output.ndim:
            return
        self._axes[output] = axis

    def _note_activation(
        self,
        function: str,
        func: Callable[..., Any],
        args: Any,
        kwargs: Any,
        before: Tensor,
        output: Any,
    ) -> None:
        """Add what one call of an activation tells."""
        output = next(_tensors([output]))
        slopes, peak = _derivative(function, func, args, kwargs, before)
        if function == "maxout":
            rows = _pieces(slopes, args, kwargs)
        elif slopes.ndim == 1:  # one number an example
            rows = slopes[None]
        else:
            axis = self._axes.get(output, -1 if slopes.ndim <= 3 else 1)
            rows = slopes.movedim(axis, 0).flatten(1)
        name = self._name_of_call(function)
        units = len(rows)
        found = self.activations.get((name, units))
        if found is None:
            none = torch.zeros(units, dtype=torch.int64, device=rows.device)
            found = Activation(name, function, units, 0, none, none.clone())
            self.activations[name, units] = found
        found.total += rows.shape[1]
        found.zero += (rows == 0).sum(1)
        found.small += (rows.abs() < SMALL * peak).sum(1)
        found.entries += output.numel()
        self._made[output] = found
        if output.requires_grad:
            # The place as it is now: a later change in place is another one.
            found.edges.append(get_gradient_edge(output))

    def _name_of_call(self, function: str) -> str:
        """Return what an activation is called: its module, or the function and where it is."""
        owner = self._frames[-1]
        whole = _is_activation(owner.module) or owner.before is not None
        if whole and len(self._frames) > 1:
            base, owner = owner.name, self._frames[-2]
        elif whole or function == "maxout":
            base = owner.name or function
        else:
            base = f"{owner.name}.{function}" if owner.name else function
        number = owner.calls[base] = owner.calls.get(base, 0) + 1
        return base if number == 1 else f"{base} ({number})"


@contextmanager
def watching(
    objective: ModelObjective, parameters: Mapping[str, Tensor]
) -> Iterator[ActivationWatch]:
    """Put hooks on the objective's own copy of the model, and take them away at the end."""
    watch = ActivationWatch(parameters)
    whole = objective.forward_pass
    with ExitStack() as stack:
        stack.callback(whole.register_forward_pre_hook(watch.begin).remove)
        stack.callback(whole.register_forward_hook(watch.end, always_call=True).remove)
        for name, module in whole.model.named_modules():
            stack.callback(module.register_forward_pre_hook(_enters(watch, name)).remove)
            leaves = module.register_forward_hook(_leaves(watch), always_call=True)
            stack.callback(leaves.remove)
        yield watch


def _enters(watch: ActivationWatch, name: str) -> Callable[..., None]:
    """Return a hook that tells of the beginning of a module."""
    return lambda module, args: watch.enter(name, module, args)


def _leaves(watch: ActivationWatch) -> Callable[..., None]:
    """Return a hook that tells of the end of a module."""
    return lambda _module, _args, output: watch.leave(output)


def _known_activation(name: str, module: nn.Module, args: Any, kwargs: Any) -> str:
    """Return what an activation is called, and nothing for other calls."""
    if name in _ACTIVATIONS:
        return name
    reduces = name in ("amax", "max") and (len(args) > 1 or "dim" in kwargs)
    return "maxout" if reduces and "maxout" in type(module).__name__.lower() else ""


def _writes_activation(module: nn.Module) -> bool:
    """Tell whether a module is an activation that is written out, by the name of its class."""
    name = type(module).__name__.lower()
    return (
        any(word in name for word in _WRITTEN)
        and not _is_activation(module)
        and not any(True for _ in module.parameters())
        and not any(True for _ in module.children())
    )


def _is_smooth(function: str) -> bool:
    """Tell whether the derivative of a function is nowhere 0 but by rounding."""
    if function in _ACTIVATIONS:
        return function in _SMOOTH
    kinked = any(word in function for word in ("relu", "hard", "maxout"))
    return not kinked and any(word in function for word in _WRITTEN)


def _copied(given: Sequence[Tensor]) -> Tensor | None:
    """Return a copy of the input of an activation, or None where it can be none."""
    if not given or not given[0].is_floating_point() or given[0].ndim == 0:
        return None
    return given[0].detach().clone()


def _is_activation(module: nn.Module) -> bool:
    """Tell whether a module is one of torch's activations."""
    return (
        type(module).__module__ == "torch.nn.modules.activation"
        and type(module) is not nn.MultiheadAttention
    )


def _derivative(
    function: str, func: Callable[..., Any], args: Any, kwargs: Any, before: Tensor
) -> tuple[Tensor, float]:
    """Return the derivative at each entry of an input, and the largest that there is."""
    with torch.enable_grad():
        slopes = _slope_of(func, args, kwargs, before)
        if function == "maxout":
            return slopes, 1.0
        if function == "prelu":  # one slope below zero for each channel
            below = next(t for t in list(_tensors([*args, *kwargs.values()]))[1:])
            return slopes, max(1.0, float(below.detach().abs().max()))
        grid = _GRID.to(before).reshape(-1, *[1] * (before.ndim - 1))
        return slopes, float(_slope_of(func, args, kwargs, grid).abs().max())


def _slope_of(func: Callable[..., Any], args: Any, kwargs: Any, at: Tensor) -> Tensor:
    """Return the derivative of an activation, entry by entry; the input may be written to."""
    leaf = at.detach().requires_grad_()
    moved = leaf.clone()
    output = func(moved, *args[1:], **kwargs) if args else func(**{**kwargs, "input": moved})
    output = next(_tensors([output]))
    return torch.autograd.grad(output.sum(), leaf)[0]


def _pieces(slopes: Tensor, args: Any, kwargs: Any) -> Tensor:
    """Return the derivatives of the pieces of maxout units, shape (pieces, examples)."""
    axis: Any = kwargs.get("dim", args[1] if len(args) > 1 else -1)
    axis = (axis[0] if isinstance(axis, tuple | list) else axis) % slopes.ndim
    units = axis - 1 if axis > 1 or slopes.ndim < 3 else axis + 1
    return slopes.movedim((units, axis), (0, 1)).flatten(0, 1).flatten(1)


def _tensors(values: Any) -> Iterator[Tensor]:
    """Iterate over the tensors in nested lists and tables."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)
        elif isinstance(value, Mapping):
            yield from _tensors(value.values())
