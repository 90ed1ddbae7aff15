"""Dual numbers: passes in which every tensor carries its derivative along one direction.

Forward-mode differentiation computes f(θ) and its derivative along t together, operator by
operator, without a graph to store (Griewank and Walther 2008, chapter 3). Torch has it for nearly
all operators. Three things stand in the way, and are dealt with here: fused attention has no
forward mode, and is taken apart; the first use in a process warns of something that no user can
change; and batch normalisation takes its running statistics for constants.
"""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["dual", "dual_numbers", "moving_statistics", "parts", "unfused"]


@contextmanager
def dual_numbers() -> Iterator[None]:
    """Let tensors carry tangents inside the block, and operators be ones that propagate them."""
    with unfused(), forward_ad.dual_level():
        with warnings.catch_warnings():
            # The first dual number of a process makes torch 2.13 compile its own formulas by
            # `torch.jit.script`, which it deprecates.
            warnings.filterwarnings("ignore", ".*torch.jit.script", DeprecationWarning)
            dual(torch.zeros(1), torch.zeros(1))
        yield


@contextmanager
def unfused() -> Iterator[None]:
    """Let attention be done by operators that have derivatives, and put the switch back."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def dual(value: Tensor, tangent: Tensor) -> Tensor:
    """Return a dual number; to be used inside `dual_numbers` alone."""
    number: Tensor = forward_ad.make_dual(value, tangent)  # type: ignore[no-untyped-call]
    return number


def parts(value: Tensor) -> tuple[Tensor, Tensor]:
    """Return value and tangent of a dual number; the tangent of a constant is zero.

    Example:
        >>> with dual_numbers():
        ...     parts(dual(torch.tensor(3.0), torch.tensor(1.0)) ** 2)
        (tensor(9.), tensor(6.))
    """
    primal, tangent = forward_ad.unpack_dual(value)  # type: ignore[no-untyped-call]
    return primal, torch.zeros_like(primal) if tangent is None else tangent


@contextmanager
def moving_statistics(layers: Mapping[str, _BatchNorm], *, twice: bool = False) -> Iterator[None]:
    """Let normalisation layers in evaluation mode differentiate their running statistics, too.

    With s = (σ² + ε)^(−1/2) the output y = γ s (x − μ) + β changes by −γ s dμ − ½ s² (y − β) dσ².
    That is added to torch's own output as a number that is zero and has this derivative, in
    forward and in reverse mode, so that the values keep their bits.

    Args:
        layers: The layers, by name.
        twice: Whether second derivatives are wanted: then the output is computed by the formula,
            and differs from torch's by its rounding.

    Raises:
        ValueError: If a layer is of a class that normalises in a way of its own.
    """
    for name, layer in layers.items():
        if type(layer).forward not in (_BatchNorm.forward, nn.SyncBatchNorm.forward):
            raise ValueError(
                "Derivatives through moving statistics need batch-normalisation layers of "
                f"torch.nn; {name!r} is a {type(layer).__name__}. Use batch_norm='stored' or "
                "'batch'."
            )
    with ExitStack() as stack:
        for layer in layers.values():
            vars(layer)["forward"] = partial(_by_formula, layer) if twice else _Moving(layer)
            stack.callback(vars(layer).pop, "forward")
        yield


def _by_formula(layer: _BatchNorm, given: Tensor) -> Tensor:
    """Normalise by the running statistics, in operators that torch differentiates twice."""
    assert layer.running_mean is not None
    assert layer.running_var is not None
    shape = [1, -1] + [1] * (given.ndim - 2)
    # A copy: while population statistics are collected, this buffer is written to.
    mean, scale = layer.running_mean.clone(), torch.rsqrt(layer.running_var + layer.eps)
    scale = scale if layer.weight is None else scale * layer.weight
    output = (given - mean.view(shape)) * scale.view(shape)
    return output if layer.bias is None else output + layer.bias.view(shape)


class _Moving:
    """The forward pass of one normalisation layer whose statistics may carry derivatives."""

    def __init__(self, layer: _BatchNorm) -> None:
        self.layer = layer

    def __call__(self, given: Tensor) -> Tensor:
        """Normalise by the running statistics."""
        layer = self.layer
        mean, variance = layer.running_mean, layer.running_var
        assert mean is not None
        assert variance is not None
        fixed_mean, fixed_variance = mean.detach(), variance.detach()
        output = functional.batch_norm(
            given, fixed_mean, fixed_variance, layer.weight, layer.bias, False, 0.0, layer.eps
        )
        scale = torch.rsqrt(fixed_variance + layer.eps)
        shift = scale * (mean - fixed_mean)
        spread = scale.square() / 2 * (variance - fixed_variance)
        shape = [1, -1] + [1] * (output.ndim - 2)
        beyond = output.detach()
        if layer.weight is not None:
            shift = shift * layer.weight.detach()
        if layer.bias is not None:
            beyond = beyond - layer.bias.detach().view(shape)
        shift, spread = shift.view(shape), spread.view(shape)
        if not torch.is_grad_enabled():  # only tangents need work, not the zeros that have them
            value, tangent = parts(output)
            moved = torch.addcmul(parts(shift)[1], parts(spread)[1], beyond)
            return dual(value, tangent - moved)
        return output - (shift + spread * beyond)
