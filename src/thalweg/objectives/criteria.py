"""Turning any loss or metric into a sum and a count.

J is a sum over all terms divided once by their number, so a loss that averages inside each
batch must be taken apart again. The number of terms is known for torch's own losses; for any
other function that returns one number it is found out by experiment: a mean over examples
satisfies n L(all) = n₁ L(part) + n₂ L(rest), a sum L(all) = L(part) + L(rest). What satisfies
neither is an error, never a guess.
"""

import copy
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from thalweg.objectives.batches import Split, examples_in, narrow
from thalweg.objectives.own_loss import OwnLoss
from thalweg.objectives.terms import (
    TRIAL_TOLERANCE,
    Criterion,
    SumAndCount,
    count_of,
    prediction,
    target_of,
)

__all__ = ["criterion", "error_rate", "part_of_output"]

# Names by which a function of (model, batch) gives itself away.
_MODEL_NAMES = ("model", "module", "net", "network")
_BATCH_NAMES = ("batch",)


def error_rate(output: Any, target: Tensor) -> SumAndCount:
    """Return the number of wrongly classified targets and the number of targets.

    A metric for `ModelObjective(metrics={"error": error_rate})`. A single output per target
    is taken as the logit of class 1, several along axis 1 as logits of the classes. Targets
    of −100, the value that torch's losses ignore by default, do not count.

    Args:
        output: Logits, shape (n, classes, ...) or (n,) or (n, 1), or a dict that holds them.
        target: Classes, shape (n, ...), or class probabilities in the shape of the logits.

    Example:
        >>> logits = torch.tensor([[2.0, 1.0], [0.0, 3.0]])
        >>> wrong, count = error_rate(logits, torch.tensor([0, 0]))
        >>> float(wrong / count)
        0.5
    """
    logits = prediction(output)
    same = logits.shape == target.shape
    if same and logits.ndim > 1 and logits.shape[1] > 1 and target.is_floating_point():
        target = target.argmax(1)
    elif same or logits.shape == (*target.shape, 1):
        # A comparison with NaN has no winner, although > and argmax name one.
        wrong = ((logits > 0) != (target.reshape(logits.shape) > 0.5)) | logits.isnan()
        return wrong.double().sum(), count_of(wrong.numel(), wrong)
    if logits.ndim < 2 or target.shape != (logits.shape[0], *logits.shape[2:]):
        raise ValueError(
            "error_rate needs logits of shape (n, classes, ...) and targets of shape (n, ...); "
            f"got {tuple(logits.shape)} and {tuple(target.shape)}. Move the classes to axis 1, or "
            "write a metric that returns (sum, count)."
        )
    counted = target != -100
    wrong = ((logits.argmax(1) != target) | logits.isnan().any(1)) & counted
    return wrong.double().sum(), counted.double().sum()


def criterion(loss: Any, kind: Literal["loss", "metric"], name: str) -> Criterion:
    """Return the sum-and-count form of a loss or metric.

    Args:
        loss: A torch loss module; a function `(output, target)` that returns one number, or
            `(sum, count)`; a function `(model, batch) → (sum, count)`, told by the names of
            its parameters; or None for the `loss` that the model itself returns. A
            metric may also return one value an example.
        kind: Whether a vector is allowed.
        name: What to call it in messages.

    Raises:
        TypeError: If it cannot be called, or not as (output, target).
        ValueError: If it is a loss with `reduction="none"`.
    """
    if loss is None:
        return OwnLoss()
    if isinstance(loss, type):
        raise TypeError(
            f"A {kind} is an instance or a function; {name!r} is the class {loss.__name__}. "
            f"Write {loss.__name__}() with brackets."
        )
    if not callable(loss):
        raise TypeError(
            f"A {kind} is a torch.nn loss or a function; {name!r} is a {type(loss).__name__}. "
            "Pass for example torch.nn.CrossEntropyLoss()."
        )
    if _takes_model(loss):
        return _StepFunction(loss, name)
    module = _as_module(loss)
    if module is not None:
        if module.reduction == "none":
            raise ValueError(_vector_message(name, "a vector (reduction='none')"))
        if len(inspect.signature(module.forward).parameters) != 2:
            raise TypeError(
                f"A {kind} is called as (output, target); {name!r} needs other arguments. Pass "
                "a function `(model, batch) → (sum, count)` that calls it."
            )
        return _TorchLoss(module)
    return _PlainFunction(loss, kind, name)


class _TorchLoss:
    """One of torch's losses: summed term by term in float64, counted as torch counts."""

    needs_output = True
    of_prediction = True  # of an output it uses this alone

    def __init__(self, loss: Any) -> None:
        self.terms = copy.deepcopy(loss)
        self.terms.reduction = "none"
        self.per_example = loss.reduction == "batchmean"

    def __call__(self, model: nn.Module, batch: Any, output: Any) -> SumAndCount:
        target = target_of(batch)
        predicted = prediction(output)
        self.terms.to(predicted.device, predicted.dtype)  # its class weights, if any
        terms = self.terms(predicted, target)
        return terms.double().sum(), self._count(predicted, target, terms)

    def _count(self, predicted: Tensor, target: Tensor, terms: Tensor) -> Tensor:
        """Return the denominator of torch's mean."""
        if self.per_example:
            return count_of(predicted.shape[0], terms)
        if not isinstance(self.terms, nn.CrossEntropyLoss | nn.NLLLoss):
            return count_of(terms.numel(), terms)
        if target.is_floating_point():  # class probabilities: one term a distribution
            return count_of(terms.numel(), terms)
        counted = target != self.terms.ignore_index
        if self.terms.weight is None:
            return counted.double().sum()
        weights = self.terms.weight.double()[torch.where(counted, target, 0)]
        return torch.where(counted, weights, 0.0).sum()


class _PlainFunction:
    """A user's function of output and target; how it reduces is found out by experiment."""

    needs_output = True

    def __init__(self, function: Callable[[Any, Any], Any], kind: str, name: str) -> None:
        self.function = function
        self.kind = kind
        self.name = name
        self.reduction: Literal["mean", "sum"] | None = None

    def __call__(self, model: nn.Module, batch: Any, output: Any) -> SumAndCount:
        target = target_of(batch)
        try:
            value = self.function(output, target)
        except (AttributeError, TypeError) as error:
            raise TypeError(
                f"{self.name!r} is called as (output, target); that failed: {error}. For a "
                "function of (model, batch), call its parameters `model` and `batch`."
            ) from error
        if isinstance(value, tuple):
            return _pair(value, self.name)
        value = _tensor(value, self.name)
        if value.numel() > 1:
            if self.kind == "loss":
                raise ValueError(_vector_message(self.name, f"shape {tuple(value.shape)}"))
            return value.double().sum(), count_of(value.numel(), value)
        count = examples_in(target)
        if self.reduction is None:
            self.reduction = self._find_reduction(output, target, value.detach(), count)
        # Where it is still unknown the two agree: one example, or a loss of 0 or NaN.
        total = value.double().reshape(())
        return (total * count if self.reduction == "mean" else total), count_of(count, value)

    @torch.no_grad()
    def _find_reduction(
        self, output: Any, target: Any, whole: Tensor, count: int
    ) -> Literal["mean", "sum"] | None:
        """Compare the whole batch with two uneven parts of it; None where that tells nothing."""
        if count < 2 or not bool(torch.isfinite(whole)):
            return None
        cut = max(1, count // 3)
        parts = [
            (
                n,
                float(
                    self.function(part_of_output(output, at, at + n), narrow(target, at, at + n))
                ),
            )
            for at, n in ((0, cut), (cut, count - cut))
        ]
        mean = sum(n * value for n, value in parts) / count
        total = sum(value for _, value in parts)
        tolerance = TRIAL_TOLERANCE.get(whole.dtype, 1e-2) * abs(float(whole))
        fits_mean = abs(mean - float(whole)) <= tolerance
        fits_sum = abs(total - float(whole)) <= tolerance
        if fits_mean or fits_sum:
            return None if fits_mean and fits_sum else "mean" if fits_mean else "sum"
        raise ValueError(
            f"The number of terms that {self.name!r} averages over must be known; its value on "
            f"a batch ({float(whole):.6g}) is neither the mean over examples ({mean:.6g}) nor "
            f"the sum ({total:.6g}) of its values on two parts. Return the tuple (sum, count), "
            "or use torch's own loss with ignore_index or weight."
        )


class _StepFunction:
    """A user's function of model and batch that returns a sum and a count."""

    needs_output = False

    def __init__(self, function: Callable[[nn.Module, Any], Any], name: str) -> None:
        self.function = function
        self.name = name

    def __call__(self, model: nn.Module, batch: Any, output: Any) -> SumAndCount:
        return _pair(self.function(model, batch), self.name)

    def settle(self, model: nn.Module, splits: Sequence[Split]) -> None:
        """Let a loss that has something to find out look at the model and the data."""
        find_out = getattr(self.function, "settle", None)
        if find_out is not None:
            find_out(model, splits)


def _takes_model(loss: Any) -> bool:
    """Tell a function of (model, batch) by the names of its parameters."""
    if isinstance(loss, nn.Module):
        return False
    try:
        names = list(inspect.signature(loss).parameters)
    except (TypeError, ValueError):
        return False
    if len(names) < 2:
        return False
    return names[0] in _MODEL_NAMES or names[1] in _BATCH_NAMES


def _as_module(loss: Any) -> Any:
    """Return torch's loss module for a module or function of torch's, or None."""
    if isinstance(loss, nn.Module):
        # What inherits from torch's losses may not heed `reduction`: it goes by experiment.
        own = type(loss).__module__ == nn.modules.loss.__name__
        return loss if own and isinstance(loss, nn.modules.loss._Loss) else None
    function, settings = loss, {}
    if isinstance(loss, functools.partial) and not loss.args:
        function, settings = loss.func, dict(loss.keywords)
    modules: dict[Any, type[nn.Module]] = {
        functional.cross_entropy: nn.CrossEntropyLoss,
        functional.nll_loss: nn.NLLLoss,
        functional.mse_loss: nn.MSELoss,
        functional.l1_loss: nn.L1Loss,
        functional.smooth_l1_loss: nn.SmoothL1Loss,
        functional.huber_loss: nn.HuberLoss,
        functional.binary_cross_entropy: nn.BCELoss,
        functional.binary_cross_entropy_with_logits: nn.BCEWithLogitsLoss,
        functional.kl_div: nn.KLDivLoss,
    }
    try:
        return modules[function](**settings)
    except (KeyError, TypeError):
        return None


def _pair(value: Any, name: str) -> SumAndCount:
    """Return a user's (sum, count) as float64 scalars."""
    if not isinstance(value, tuple) or len(value) != 2:
        came = f"a tuple of {len(value)}" if isinstance(value, tuple) else type(value).__name__
        raise ValueError(
            f"{name!r} must return the tuple (sum, count); got {came}. Sum the terms of the "
            "batch, and count them."
        )
    total = _tensor(value[0], name)
    count = _as_tensor(value[1]).to(total.device)
    if total.numel() != 1 or count.numel() != 1:
        raise ValueError(
            f"{name!r} must return one sum and one count; got shapes {tuple(total.shape)} and "
            f"{tuple(count.shape)}. Add `.sum()`."
        )
    return total.double().reshape(()), count.double().reshape(())


def _tensor(value: Any, name: str) -> Tensor:
    """Return a user's value as a tensor; a plain number has lost its gradient."""
    if not isinstance(value, Tensor) and torch.is_grad_enabled():
        raise TypeError(
            f"A loss must return a tensor where derivatives are asked for; {name!r} returns a "
            f"{type(value).__name__}. Leave out `.item()` or `float()`."
        )
    return _as_tensor(value)


def _as_tensor(value: Any) -> Tensor:
    """Return a tensor as it is, and a plain number without rounding it to torch's default type."""
    return value if isinstance(value, Tensor) else torch.as_tensor(value, dtype=torch.float64)


def part_of_output(output: Any, start: int, stop: int) -> Any:
    """Return the part of a model's output that belongs to some examples, as the same kind."""
    if isinstance(output, Tensor | tuple | list) or type(output) is dict:
        return narrow(output, start, stop)
    part = copy.copy(output)
    for name, value in getattr(output, "__dict__", {}).items():
        if isinstance(value, Tensor):
            setattr(part, name, narrow(value, start, stop))
    return part


def _vector_message(name: str, came: str) -> str:
    """Return the message for a loss that does not reduce."""
    return (
        f"A loss must return one number a batch; {name!r} returns {came}. Use reduction='mean' "
        "or 'sum', or return the tuple (sum, count)."
    )
