"""Jets: tensors that carry their first and second derivative along a section with them.

A jet goes through a model, a loss or a formula as a tensor does. Each operator of torch's that
it meets is replaced by its rule of second order (`thalweg.evaluate.jet_rules`). An operator
without a rule is refused, by name: nothing is approximated, and no derivative is lost silently.

What torch's autograd takes for constant (`.detach()`, `.item()`) is constant here as well.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from thalweg.evaluate.jet_rules import RULES, OperatorWithoutRuleError
from thalweg.evaluate.taylor import Taylor

__all__ = ["Jet", "OperatorWithoutRuleError", "taylor_of"]


class Jet(Tensor):
    """A tensor with its first and second derivative along one coordinate.

    Args:
        value: x.
        first: dx/dα in the shape of x, or None for zero.
        second: d²x/dα², or None for zero.

    Example:
        >>> x = Jet(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 0.0]))
        >>> taylor_of((x**3).sum())
        (tensor(9.), tensor(3.), tensor(6.))
    """

    taylor: Taylor
    shared: bool

    @staticmethod
    def __new__(
        cls, value: Tensor, first: Tensor | None = None, second: Tensor | None = None
    ) -> Any:
        """Make a tensor of the shape and type of the value."""
        return Tensor._make_wrapper_subclass(
            cls,
            value.shape,
            strides=value.stride(),
            storage_offset=value.storage_offset(),
            dtype=value.dtype,
            device=value.device,
        )

    def __init__(
        self, value: Tensor, first: Tensor | None = None, second: Tensor | None = None
    ) -> None:
        self.taylor = Taylor(value, first, second)
        self.shared = False  # whether another tensor may be a view of it, or it of another

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            if func in _PRODUCTS and not kwargs:
                return _multiplied(*args)
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return _propagated(func, args, kwargs or {})

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"Jet({self.taylor.value}, {self.taylor.first}, {self.taylor.second})"


# Of a vector and a matrix torch's own code changes the shape of an outcome in place.
_PRODUCTS = {torch.matmul, Tensor.matmul, Tensor.__matmul__}


def _multiplied(a: Tensor, b: Tensor) -> Tensor:
    """Return a b, where vectors are made matrices first."""
    left, right = a.ndim == 1, b.ndim == 1
    found = torch.matmul(a.unsqueeze(0) if left else a, b.unsqueeze(-1) if right else b)
    found = found.squeeze(-1) if right else found
    return found.squeeze(-1 if right else -2) if left else found


def taylor_of(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return value, first and second derivative; those of a constant are zero."""
    parts = x.taylor if isinstance(x, Jet) else Taylor(x)
    zero = torch.zeros_like(parts.value)
    first, second = (zero if part is None else part for part in (parts.first, parts.second))
    return parts.value, first, second


def _propagated(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Apply an operator to jets."""
    if func._schema.is_mutable:
        return _in_place(func, args, kwargs)
    rule = RULES.get(func.overloadpacket)
    if rule is not None:
        try:
            found = rule(func, _mapped(_opened, args), _mapped(_opened, kwargs))
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            # Operators have forms that hardly anybody uses: a rule need not know them all.
            raise OperatorWithoutRuleError(f"{func} in a form without a rule ({error})") from error
        if func.is_view:
            return _shared(_mapped(_closed, found), (args, kwargs))
        return _mapped(_closed, found)
    if torch._C._dispatch_has_kernel_for_dispatch_key(
        func.name(), torch._C.DispatchKey.CompositeImplicitAutograd
    ):
        return func.decompose(*args, **kwargs)
    found = func(*_mapped(_value, args), **_mapped(_value, kwargs))
    if _differentiable(found):
        raise OperatorWithoutRuleError(f"{func} has no rule of second order")
    return found


def _in_place(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Apply an operator that writes to its first argument: the jet gets other contents."""
    target = args[0] if args else None
    name = func._schema.name.removeprefix("aten::")
    plain = getattr(torch.ops.aten, name.removesuffix("_"), None)
    if not isinstance(target, Jet) or target.shared or not name.endswith("_") or plain is None:
        raise OperatorWithoutRuleError(f"{func} writes to memory that others see, or to no jet")
    if name == "copy_":
        source = args[1]
        parts = source.taylor if isinstance(source, Jet) else Taylor(source)
        like = target.taylor.value
        target.taylor = parts.each(lambda part: part.to(like.dtype).expand(like.shape).clone())
        return target
    found = _propagated(getattr(plain, func._overloadname), args, kwargs)
    parts = found.taylor if isinstance(found, Jet) else Taylor(found)
    if parts.value.shape != target.shape:
        raise OperatorWithoutRuleError(f"{func} changes the shape of a tensor in place")
    target.taylor = parts.each(lambda part: part.to(target.dtype))
    return target


def _shared(views: Any, arguments: Any) -> Any:
    """Note that views and what they are taken of have their memory in common."""

    def note(x: Any) -> Any:
        if isinstance(x, Jet):
            x.shared = True
        return x

    _mapped(note, arguments)
    return _mapped(note, views)


def _mapped(function: Callable[[Any], Any], tree: Any) -> Any:
    """Apply a function to everything in nested tuples, lists and dictionaries."""
    if isinstance(tree, tuple | list):
        return type(tree)(_mapped(function, each) for each in tree)
    if isinstance(tree, dict):
        return {name: _mapped(function, each) for name, each in tree.items()}
    return function(tree)


def _opened(x: Any) -> Any:
    """Return a jet as its polynomial."""
    return x.taylor if isinstance(x, Jet) else x


def _value(x: Any) -> Any:
    """Return a jet as its value."""
    return x.taylor.value if isinstance(x, Jet) else x


def _closed(x: Any) -> Any:
    """Return a polynomial as a jet, and one that is constant as a tensor."""
    if not isinstance(x, Taylor):
        return x
    constant = x.first is None and x.second is None
    return x.value if constant else Jet(x.value, x.first, x.second)


def _differentiable(found: Any) -> bool:
    """Tell whether an outcome could have derivatives."""
    if isinstance(found, tuple | list):
        return any(map(_differentiable, found))
    return isinstance(found, Tensor) and (found.is_floating_point() or found.is_complex())
