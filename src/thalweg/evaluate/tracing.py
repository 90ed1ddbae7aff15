"""What happens when a model sees a batch: which layers allow a faster way to the same numbers.

Nothing here is believed without a look: which inputs do not depend on θ is found by running the
model at two points and comparing bits, and every faster way is checked against the plain one
before it is used (see `thalweg.evaluate.planning`).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

__all__ = ["Affine", "DenseChain", "Trace", "dense_chain", "folding_pairs", "observed", "traced"]

# Layers whose output is affine in weight and bias, if their `forward` is torch's own.
_AFFINE = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)

_ELEMENTWISE = (
    nn.CELU,
    nn.Dropout,
    nn.ELU,
    nn.GELU,
    nn.Hardsigmoid,
    nn.Hardswish,
    nn.Hardtanh,
    nn.Identity,
    nn.LeakyReLU,
    nn.LogSigmoid,
    nn.Mish,
    nn.ReLU,
    nn.ReLU6,
    nn.SELU,
    nn.SiLU,
    nn.Sigmoid,
    nn.Softplus,
    nn.Softsign,
    nn.Tanh,
)
_ELEMENTWISE_FUNCTIONS = (
    torch.relu,
    torch.sigmoid,
    torch.tanh,
    functional.elu,
    functional.gelu,
    functional.leaky_relu,
    functional.relu,
    functional.relu6,
    functional.selu,
    functional.silu,
    functional.sigmoid,
    functional.softplus,
    functional.tanh,
)
_ELEMENTWISE_METHODS = ("relu", "sigmoid", "tanh")


@dataclass(frozen=True)
class Affine:
    """A layer that is affine in its parameters and fed by data that does not depend on θ.

    Attributes:
        name: Name of the module.
        fan_in: Products per entry of its output.
        outputs: Entries of its output for one example.
    """

    name: str
    fan_in: int
    outputs: int


@dataclass(frozen=True)
class Trace:
    """What one batch does in a model.

    Attributes:
        examples: Examples of the batch.
        flops: Floating-point operations of the pass as far as they are known: those of matrix
            products and convolutions.
        widest: Bytes of the largest tensor that a layer puts out.
        first: The affine layers at the entry.
        convolutional: Whether most of the work is in two-dimensional convolutions.
    """

    examples: int
    flops: int
    widest: int
    first: tuple[Affine, ...]
    convolutional: bool


@contextmanager
def observed(
    model: nn.Module, see: Callable[[str, nn.Module, tuple[Any, ...], Any], None]
) -> Iterator[None]:
    """Call a function after every module that has no children, with name, input and output."""
    hooks = [
        module.register_forward_hook(
            lambda module, inputs, output, name=name: see(name, module, inputs, output)
        )
        for name, module in model.named_modules()
        if next(module.children(), None) is None
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def traced(
    model: nn.Module,
    run: Callable[[int], None],
    trainable: Sequence[str],
    examples: int,
) -> Trace:
    """Run a model at two points and note what its layers do.

    That an input does not depend on θ is told by autograd, which knows no coincidences (two
    saturated layers give the same bits at any two points), and by its bits, which know of
    dependence without a gradient.

    Args:
        model: The model.
        run: Passes one batch through it, with gradients allowed, at the first point or at the
            second.
        trainable: Names of the tensors that move; a layer with a frozen part is no candidate.
        examples: Examples of the batch.
    """
    inputs: dict[str, Tensor] = {}
    calls: dict[str, int] = {}
    outputs: dict[str, Tensor] = {}
    widest = 0

    def first_look(name: str, module: nn.Module, given: tuple[Any, ...], output: Any) -> None:
        nonlocal widest
        calls[name] = calls.get(name, 0) + 1
        if isinstance(output, Tensor):
            widest = max(widest, output.numel() * output.element_size())
            alone = len(given) == 1 and isinstance(given[0], Tensor)
            if alone and not given[0].requires_grad and _is_affine(module):
                inputs[name], outputs[name] = given[0].clone(), output

    def second_look(name: str, module: nn.Module, given: tuple[Any, ...], output: Any) -> None:
        if name in inputs and not _same(inputs[name], given[0]):
            del inputs[name]

    moving = set(trainable)
    leaves = [p for name, p in model.named_parameters() if name in moving]
    try:
        for leaf in leaves:
            leaf.requires_grad_(True)
        with _Products() as products, observed(model, first_look):
            run(0)
    finally:
        for leaf in leaves:
            leaf.requires_grad_(False)
    with observed(model, second_look):
        run(1)
    modules = dict(model.named_modules())
    first = tuple(
        Affine(name, _fan_in(modules[name]), outputs[name].numel() // max(1, examples))
        for name in inputs
        if calls[name] == 1
        and all(f"{name}.{part}".lstrip(".") in moving for part, _ in _parts(modules[name]))
    )
    flat = any(isinstance(m, nn.Conv2d) for m in modules.values())
    return Trace(
        examples, products.all, widest, first, flat and 2 * products.convolutions > products.all
    )


class _Products(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The floating-point operations of matrix products and convolutions, by torch's formulas."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.all = 0
        self.convolutions = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Torch's compiler, which `FlopCounterMode` loads to say so, takes more than a second.
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        kind = func._overloadpacket
        if kind in flop_registry:
            count = flop_registry[kind](*args, **(kwargs or {}), out_val=out)
            self.all += count
            self.convolutions += count if "convolution" in str(kind) else 0
        return out


def _is_affine(module: nn.Module) -> bool:
    """Tell whether a module computes what torch's affine layer of its kind computes."""
    if not isinstance(module, _AFFINE) or "forward" in vars(module):
        return False
    if any(type(module).forward is kind.forward for kind in _AFFINE):
        # A parametrised weight is no coordinate; a hook could do anything.
        return not hasattr(module, "parametrizations") and not module._forward_pre_hooks
    return False


def _parts(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Return the weight and, where there is one, the bias of an affine layer."""
    return [(name, p) for name, p in module.named_parameters(recurse=False)]


def _fan_in(module: nn.Module) -> int:
    """Return the number of products for one entry of the output."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    transposed = isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d)
    return weight[:, 0].numel() if transposed else math.prod(weight.shape[1:])


def _same(first: Tensor, second: Tensor) -> bool:
    """Tell whether two tensors have the same bits, NaN counting as itself."""
    return first.shape == second.shape and torch.equal(
        first.nan_to_num(nan=1.5), second.nan_to_num(nan=1.5)
    )


def folding_pairs(
    model: nn.Module, run: Callable[[], None], trainable: Sequence[str]
) -> tuple[tuple[str, str], ...]:
    """Return convolutions (or linear layers) whose output a normalisation layer takes at once.

    In evaluation mode such a layer scales and shifts channels, so that it can be merged into
    the weights before it: BN(Wx + b) = (γ/σ)Wx + (γ/σ)(b − μ) + β.

    Args:
        model: The model, in evaluation mode.
        run: Passes one batch through it.
        trainable: Names of the tensors that move.
    """
    made: dict[int, tuple[str, Tensor]] = {}
    calls: dict[str, int] = {}
    pairs: list[tuple[str, str]] = []
    moving = set(trainable)

    def see(name: str, module: nn.Module, given: tuple[Any, ...], output: Any) -> None:
        calls[name] = calls.get(name, 0) + 1
        normalises = isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d)
        if normalises and id(given[0]) in made and module.running_mean is not None:
            pairs.append((made[id(given[0])][0], name))
        folds = isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)
        if folds and _is_affine(module) and f"{name}.weight" in moving:
            made[id(output)] = (name, output)  # the tensor is kept, so that its id stays its own

    with observed(model, see):
        run()
    return tuple(pair for pair in pairs if all(calls[name] == 1 for name in pair))


@dataclass(frozen=True)
class DenseChain:
    """A network that is, after its first layer, a chain of linear layers and activations.

    Attributes:
        first: Name of the first linear layer.
        stages: What comes after it, in order: the name of a linear layer, or an elementwise
            function.
    """

    first: str
    stages: tuple[str | Callable[[Tensor], Tensor], ...]

    @property
    def rectifiers(self) -> tuple[nn.ReLU, ...]:
        """The rectifiers right after a linear layer, whose output nobody else needs."""
        before = (self.first, *self.stages)
        return tuple(
            stage
            for layer, stage in zip(before, self.stages, strict=False)
            if isinstance(layer, str) and type(stage) is nn.ReLU
        )


def dense_chain(model: nn.Module, first: str, trainable: Sequence[str]) -> DenseChain | None:
    """Return the model as a chain that starts with a given linear layer, or None.

    The graph comes from `torch.fx`: a model whose code it cannot follow is no chain.

    Args:
        model: The model, in evaluation mode.
        first: Name of a linear layer whose input does not depend on θ.
        trainable: Names of the tensors that move.
    """
    try:
        graph = fx.symbolic_trace(model).graph
    except Exception:  # the user's forward runs here on placeholders, and may do anything
        return None
    modules = dict(model.named_modules())
    nodes = [n for n in graph.nodes if n.op == "call_module" and n.target == first]
    if len(nodes) != 1:
        return None
    node, stages = nodes[0], list[str | Callable[[Tensor], Tensor]]()
    while True:
        if len(node.users) != 1:
            return None
        (follower,) = node.users
        if follower.op == "output":
            break
        stage = _stage(follower, node, modules)
        if stage is None:
            return None
        stages.append(stage)
        node = follower
    if node.users and next(iter(node.users)).args[0] is not node:
        return None
    linear = [first, *(stage for stage in stages if isinstance(stage, str))]
    moving = set(trainable)
    owned = {f"{name}.{part}" for name in linear for part, _ in _parts(modules[name])}
    if len(linear) > len(set(linear)) or not owned <= moving:
        return None
    return DenseChain(first, tuple(stages))


def _stage(
    node: fx.Node, before: fx.Node, modules: dict[str, nn.Module]
) -> str | Callable[[Tensor], Tensor] | None:
    """Return what a node does to a table of features, or None where that is not known."""
    if not node.args or node.args[0] is not before or before in node.args[1:]:
        return None
    if node.op == "call_module":
        module = modules[str(node.target)]
        if type(module) is nn.Linear and _is_affine(module) and len(node.args) == 1:
            return str(node.target)
        return module if type(module) in _ELEMENTWISE else None
    arguments, named = node.args[1:], dict(node.kwargs)
    if any(isinstance(value, fx.Node) for value in (*arguments, *named.values())):
        return None
    if node.op == "call_function" and node.target in _ELEMENTWISE_FUNCTIONS:
        function: Any = node.target
        return lambda x: function(x, *arguments, **named)
    if node.op == "call_method" and node.target in _ELEMENTWISE_METHODS:
        method = str(node.target)
        called: Callable[[Tensor], Tensor] = lambda x: getattr(x, method)()  # noqa: E731
        return called
    return None
