"""Watching an optimiser: whether it made an update, with which rates, from which gradient."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

__all__ = ["OptimizerWatch", "Update", "plain_optimizer"]

_LOW = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Update:
    """What is known about an update that was just made.

    Attributes:
        rates: Learning rate of every parameter group.
        gradient_norm: Norm of the gradient, where it was asked for.
    """

    rates: tuple[float, ...]
    gradient_norm: float | None


class OptimizerWatch:
    """Hooks that see an optimiser step; they read, and change nothing.

    An optimiser whose step was compiled calls no hooks. Then an update is known by the counters
    that torch keeps of changes to a tensor.

    Args:
        optimizer: The optimiser; None where updates are made by other means.
        parameters: What it moves.
        gradient_norm: Whether to take the norm of the gradient that it is given.
        before: Called before every update.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer | None,
        parameters: Sequence[nn.Parameter],
        gradient_norm: bool,
        before: Callable[[], None],
    ) -> None:
        self.optimizer = optimizer
        self._parameters = parameters
        self._take_norm = gradient_norm
        self._before = before
        self._handles: list[RemovableHandle] = []
        self._called = False
        self._rates: tuple[float, ...] = ()
        self._gradient_norm: Tensor | None = None
        self.forget()

    def attach(self) -> None:
        """Begin to watch."""
        self.forget()
        if self.optimizer is not None:
            self._handles = [
                self.optimizer.register_step_pre_hook(self._pre),
                self.optimizer.register_step_post_hook(self._post),
            ]

    def detach(self) -> None:
        """Stop watching; the optimiser is as it was."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _versions_now(self) -> tuple[int, ...]:
        """Return how often each parameter was written to, as far as torch counts it."""
        return tuple(parameter._version for parameter in self._parameters)

    def take(self) -> Update | None:
        """Return what is known about the update made since the last call; None if none was."""
        if self.optimizer is None:
            return Update((), self._read_norm())
        made = self._made if self._called else self._versions_now() != self._versions
        if not made:
            return None
        update = Update(self._rates or self._rates_now(), self._read_norm())
        self.forget()
        return update

    @property
    def made(self) -> bool:
        """Whether the optimiser has told of an update since the last `take`."""
        return self._made

    @property
    def is_half_made(self) -> bool:
        """Whether an exception came in the middle of an update, when parameters were written to."""
        return self._inside and self._versions_now() != self._versions

    def gradient_is_lost(self) -> bool:
        """Tell whether the gradients were thrown away, as after an overflow of half precision."""
        norm = self._norm()
        return norm is None or not bool(torch.isfinite(norm)) or float(norm) == 0

    def _pre(self, optimizer: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Before an update: note its rates and, unless a closure is still to find it, its norm."""
        self._called = True
        # Fused optimisers are called also where `GradScaler` found an overflow, and do nothing.
        overflow = getattr(optimizer, "found_inf", None)
        self._skips = overflow is not None and bool(overflow)
        if self._skips:
            return
        self._before()
        self._inside, self._versions = True, self._versions_now()
        self._rates = self._rates_now()
        given = [*args, kwargs.get("closure")]  # the optimiser itself is among the arguments
        self._closure = any(each is not None and each is not optimizer for each in given)
        if self._take_norm and not self._closure:
            self._gradient_norm = self._norm()

    def _post(self, optimizer: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """After an update: count it."""
        if self._skips:
            return
        self._made, self._inside = True, False
        if self._take_norm and self._closure:
            self._gradient_norm = self._norm()

    def forget(self) -> None:
        """Take no note of what was done to the parameters so far."""
        self._made = self._skips = self._closure = self._inside = False
        self._rates, self._gradient_norm = (), None
        if not self._called:  # with hooks there is no need to count
            self._versions = self._versions_now()

    def _rates_now(self) -> tuple[float, ...]:
        """Return the learning rate of every group."""
        assert self.optimizer is not None
        return tuple(float(group.get("lr", "nan")) for group in self.optimizer.param_groups)

    def _read_norm(self) -> float | None:
        """Return the norm as a number; for a GPU this is where one waits for it."""
        if self._take_norm and not self._called:
            self._gradient_norm = self._norm()
        return None if self._gradient_norm is None else float(self._gradient_norm)

    @torch.no_grad()
    def _norm(self) -> Tensor | None:
        """Return the norm of the gradient as it is now, without the factor of `GradScaler`."""
        parts: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
        for parameter in self._parameters:
            gradient = parameter.grad
            if gradient is not None:
                if gradient.is_sparse:
                    gradient = gradient.coalesce().values()
                parts.setdefault((gradient.device, gradient.dtype), []).append(gradient)
        norms: list[Tensor] = []
        for (device, dtype), gradients in parts.items():
            wide = torch.float32 if dtype in _LOW else dtype  # a norm may overflow half precision
            norms.append(torch.linalg.vector_norm(torch.stack(_norms(gradients, device, wide))))
        if not norms:
            return None
        norm: Tensor = torch.linalg.vector_norm(torch.stack([n.to(norms[0]) for n in norms]))
        scale: Tensor | None = getattr(self.optimizer, "grad_scale", None)
        return norm if scale is None else norm / scale.to(norm)


def _norms(gradients: list[Tensor], device: torch.device, wide: torch.dtype) -> list[Tensor]:
    """Return the norm of each of some gradients of one device."""
    if device.type == "cpu" and gradients[0].dtype == wide:
        # BLAS takes half the time of a norm here, and adds up in more places: it is closer.
        flat = [gradient.reshape(-1) for gradient in gradients]
        return [torch.dot(each, each).sqrt() for each in flat]
    return [*torch._foreach_norm(gradients, 2, dtype=wide)]


def plain_optimizer(optimizer: Any) -> torch.optim.Optimizer | None:
    """Return the optimiser inside the wrappers of Accelerate and Lightning.

    Raises:
        TypeError: If there is none.
    """
    while isinstance(inner := getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        optimizer = inner
    if optimizer is not None and not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(
            f"A torch.optim.Optimizer is needed; got {type(optimizer).__name__}. Pass None where "
            "the parameters are moved by other means: every `recorder.step` is then one update."
        )
    return optimizer
