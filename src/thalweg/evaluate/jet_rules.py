"""The rules by which torch's operators act on Taylor polynomials of second order.

A rule takes the operator and its arguments, jets among them as `Taylor`, and returns what the
operator returns. Four kinds do for nearly all: linear, a product of two, one number to one
number, and a choice among entries. Where torch's autograd splits a tie (the largest of equal
entries, the kink of a rectifier) the rules split it alike.
"""

import math
from collections.abc import Callable
from functools import partial
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from thalweg.evaluate.products import linear
from thalweg.evaluate.taylor import (
    Taylor,
    composed,
    constant,
    log_softmax,
    normalised,
    plus,
    product,
    selected,
    softmax,
    square,
    times,
    total,
    weighted,
)

__all__ = ["RULES", "OperatorWithoutRuleError"]

Rule = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]

_ATEN = torch.ops.aten


class OperatorWithoutRuleError(NotImplementedError):
    """An operator has no rule of second order."""


# --- linear operators


def _linear(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Apply an operator that is linear in its floating tensors, all together."""
    movers = [each for each in _leaves((args, kwargs)) if isinstance(each, Taylor)]
    value = func(*_at(0, args), **_at(0, kwargs))
    parts: list[Any] = [value]
    for order in (1, 2):
        moving = any(_part(each, order) is not None for each in movers)
        parts.append(func(*_at(order, args), **_at(order, kwargs)) if moving else None)
    if isinstance(value, Tensor):
        return Taylor(*parts)
    columns = zip(*(len(value) * [None] if part is None else part for part in parts), strict=True)
    return type(value)(Taylor(*column) for column in columns)


def _leaves(tree: Any) -> list[Any]:
    """Return everything in nested tuples, lists and dictionaries."""
    if isinstance(tree, dict):
        tree = list(tree.values())
    if isinstance(tree, tuple | list):
        return [leaf for each in tree for leaf in _leaves(each)]
    return [tree]


def _part(x: Taylor, order: int) -> Tensor | None:
    """Return the derivative of an order."""
    return (x.value, x.first, x.second)[order]


def _at(order: int, tree: Any) -> Any:
    """Return arguments with everything that moves replaced by its derivative of an order."""
    if isinstance(tree, tuple | list):
        return type(tree)(_at(order, each) for each in tree)
    if isinstance(tree, dict):
        return {name: _at(order, each) for name, each in tree.items()}
    if isinstance(tree, Taylor):
        part = _part(tree, order)
        return torch.zeros_like(tree.value) if part is None else part
    if order > 0 and isinstance(tree, Tensor) and tree.is_floating_point():
        return torch.zeros_like(tree)
    return tree


def _added(sign: int, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Taylor:
    """Return x ± alpha·y."""
    scale = sign * kwargs.get("alpha", args[2] if len(args) > 2 else 1)
    return _in_type(plus(args[0], args[1], scale), func, args, kwargs)


def _subtracted_from(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Taylor:
    """Return y − alpha·x."""
    return plus(args[1], args[0], -kwargs.get("alpha", args[2] if len(args) > 2 else 1))


def _in_type(found: Taylor, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Taylor:
    """Take the value of the operator itself, so that it keeps its bits and its type."""
    value = func(*_at(0, args), **_at(0, kwargs))
    return Taylor(
        value, *(None if p is None else p.to(value.dtype) for p in (found.first, found.second))
    )


# --- products


def _times(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Taylor:
    """Return x·y, entry by entry."""
    return times(args[0], args[1])


def _divided(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Taylor:
    """Return x / y."""
    if kwargs.get("rounding_mode") is not None:
        raise OperatorWithoutRuleError(f"{func} rounds")
    x, y = args[:2]
    if isinstance(y, Taylor):
        over = 1 / y.value
        return times(x, composed(y, over, -over.square(), 2 * over**3))
    found: Taylor = x.each(lambda part: part / y)
    return found


def _matrix(a: Tensor, b: Tensor) -> Tensor:
    """Return a b for two matrices, by the operator of this machine that does it fastest."""
    return linear(a, b.t(), None) if a.is_contiguous() and b.t().is_contiguous() else a @ b


def _product(multiply: Any) -> Rule:
    """Return the rule of a product of the first two arguments."""
    return lambda func, args, kwargs: product(multiply, args[0], args[1])


def _affine(multiply: Any) -> Rule:
    """Return the rule of beta·c + alpha·(a b)."""

    def rule(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Taylor:
        beta, alpha = kwargs.get("beta", 1), kwargs.get("alpha", 1)
        found = product(multiply, args[1], args[2])
        found = found if alpha == 1 else found.each(lambda part: alpha * part)
        return plus(found, args[0], beta)

    return rule


def _convolution(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Taylor:
    """Return a convolution, plain or transposed, with its bias."""
    given, weight, bias, *how = args
    found = product(lambda x, w: func(x, w, None, *how, **kwargs), given, weight)
    if bias is None:
        return found
    shape = [1, -1] + [1] * (found.value.ndim - 2)
    return plus(found, constant(bias).each(lambda part: part.view(shape)))


def _embedding(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Look up rows."""
    return args[0].each(lambda part: func(part, *args[1:], **kwargs))


# --- one number to one number


def _entrywise(derivatives: Callable[..., tuple[Any, Any]]) -> Rule:
    """Return the rule of a function of one number.

    Args:
        derivatives: Takes x, f(x) and the further arguments; returns f′ and f″ (or None for 0).
    """

    def rule(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Taylor:
        x = args[0]
        value = func(x.value, *args[1:], **kwargs)
        return composed(x, value, *derivatives(x.value, value, *args[1:], **kwargs))

    return rule


def _power(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Taylor:
    """Return xⁿ for a number n, or bˣ for a number b."""
    x, n = args
    value = func(*_at(0, args))
    if isinstance(n, Taylor) and not isinstance(x, Tensor | Taylor) and x > 0:
        rate = math.log(x)
        return composed(n, value, rate * value, rate**2 * value)
    if isinstance(n, Tensor | Taylor):
        raise OperatorWithoutRuleError("a power whose exponent is a tensor")
    one = torch.ones_like(x.value)
    slope = 0 * one if n == 0 else one if n == 1 else n * x.value ** (n - 1)
    bend = None if n in (0, 1) else 2 * one if n == 2 else n * (n - 1) * x.value ** (n - 2)
    return composed(x, value, slope, bend)


def _sigmoid(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the derivatives of 1/(1 + e^−x)."""
    slope = y * (1 - y)
    return slope, slope * (1 - 2 * y)


def _tanh(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the derivatives of tanh x."""
    slope = 1 - y.square()
    return slope, -2 * y * slope


def _softplus(
    x: Tensor, y: Tensor, beta: float = 1.0, threshold: float = 20.0
) -> tuple[Tensor, Tensor]:
    """Return the derivatives of log(1 + e^(βx))/β, which is x beyond a threshold."""
    share = torch.sigmoid(beta * x)
    beyond = beta * x > threshold
    slope = torch.where(beyond, 1.0, share)
    return slope, torch.where(beyond, 0.0, beta * share * (1 - share))


def _silu(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the derivatives of x σ(x)."""
    share = torch.sigmoid(x)
    slope, bend = _sigmoid(x, share)
    return share + x * slope, 2 * slope + x * bend


def _gelu(x: Tensor, y: Tensor, approximate: str = "none") -> tuple[Tensor, Tensor]:
    """Return the derivatives of x Φ(x), or of its approximation by tanh."""
    if approximate == "none":
        density = torch.exp(-0.5 * x.square()) / math.sqrt(2 * math.pi)
        share = 0.5 * (1 + torch.erf(x / math.sqrt(2)))
        return share + x * density, (2 - x.square()) * density
    root = math.sqrt(2 / math.pi)
    t = torch.tanh(root * (x + 0.044715 * x**3))
    first, second = root * (1 + 3 * 0.044715 * x.square()), root * 6 * 0.044715 * x
    slope = 1 - t.square()
    moved = slope * first
    bend = slope * second - 2 * t * slope * first.square()
    return 0.5 * (1 + t) + 0.5 * x * moved, moved + 0.5 * x * bend


def _elu(
    x: Tensor, y: Tensor, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Return the derivatives of scale·x above 0 and scale·alpha (e^(input_scale x) − 1) below."""
    below = scale * alpha * input_scale * torch.exp(input_scale * x.clamp(max=0))
    return torch.where(x > 0, scale, below), torch.where(x > 0, 0.0, input_scale * below)


def _log_sigmoid(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return log σ(x) and what torch keeps for its own derivative."""
    (x,) = args
    value, kept = func(x.value)
    share = torch.sigmoid(-x.value)
    return composed(x, value, share, -share * (1 - share)), kept


def _hardswish(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the derivatives of x·min(max(x + 3, 0), 6)/6."""
    slope = torch.where(x < -3, 0.0, torch.where(x <= 3, x / 3 + 0.5, 1.0))
    return slope, torch.where((x >= -3) & (x <= 3), torch.full_like(x, 1 / 3), 0.0)


def _mish(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the derivatives of x tanh(log(1 + e^x))."""
    inner = torch.nn.functional.softplus(x)
    t = torch.tanh(inner)
    first, second = _softplus(x, inner)
    slope = 1 - t.square()
    moved = slope * first
    return t + x * moved, 2 * moved + x * (slope * second - 2 * t * slope * first.square())


def _erf(x: Tensor, y: Tensor, sign: float = 1.0) -> tuple[Tensor, Tensor]:
    """Return the derivatives of ± erf x."""
    slope = sign * 2 / math.sqrt(math.pi) * torch.exp(-x.square())
    return slope, -2 * x * slope


# --- choices


def _choice(chosen: Callable[..., Tensor]) -> Rule:
    """Return the rule of a function that is linear piece by piece.

    Args:
        chosen: Takes x and the further arguments; returns the slope, or booleans for 1 and 0.
    """

    def rule(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Taylor:
        x = args[0]
        value = func(x.value, *args[1:], **kwargs)
        slope = chosen(x.value, *args[1:], **kwargs).to(x.value.dtype)
        return selected(x, value, slope)

    return rule


def _within(x: Tensor, low: Any = None, high: Any = None) -> Tensor:
    """Tell which entries a clamp leaves alone, its bounds among them, as torch has it."""
    inside = torch.ones_like(x, dtype=torch.bool)
    inside = inside if low is None else inside & (x >= low)
    return inside if high is None else inside & (x <= high)


def _flat(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return the value of an operator whose derivative is zero, or is taken for it."""
    return func(*_at(0, args), **_at(0, kwargs))


def _where(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Taylor:
    """Choose between two by a condition that does not move."""
    condition, x, y = (each.value if isinstance(each, Taylor) else each for each in args)
    value = func(condition, x, y)
    parts: list[Tensor | None] = []
    for order in (1, 2):
        pair = [_part(e, order) if isinstance(e, Taylor) else None for e in args[1:]]
        if pair == [None, None]:
            parts.append(None)
            continue
        zero = torch.zeros((), dtype=value.dtype, device=value.device)
        a, b = (zero if part is None else part for part in pair)
        parts.append(torch.where(condition, a, b).expand(value.shape))
    return Taylor(value, *parts)


def _masked(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Taylor:
    """Fill some entries with a number."""
    x, mask, number = args
    if isinstance(number, Taylor):
        raise OperatorWithoutRuleError(f"{func} fills in what moves")
    if not isinstance(x, Taylor):
        return constant(func(*args))
    value = func(x.value, mask, number)
    parts = [None if p is None else p.masked_fill(mask, 0) for p in (x.first, x.second)]
    return Taylor(value, *parts)


def _larger(sign: int, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Taylor:
    """Return the larger (or smaller) of two, entry by entry; a tie counts half for each."""
    x, y = map(constant, args)
    value = func(x.value, y.value)
    ahead = sign * (x.value - y.value)
    share = torch.where(ahead == 0, 0.5, (ahead > 0).to(value.dtype))
    found = plus(times(x, share), times(y, 1 - share))
    return Taylor(value, found.first, found.second)


def _extreme(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return the largest or smallest entries along an axis, ties counting alike; or of all."""
    x, *rest = args
    dim = rest[0] if rest else kwargs.get("dim")
    keep = rest[1] if len(rest) > 1 else kwargs.get("keepdim", False)
    value = func(x.value, *rest, **kwargs)
    axes = [dim] if isinstance(dim, int) else list(dim or range(x.value.ndim))
    whole = (
        func(x.value, axes, True) if dim not in (None, [], ()) else value.view([1] * x.value.ndim)
    )
    share = (x.value == whole).to(x.value.dtype)
    share = share / share.sum(tuple(axes), keepdim=True)
    found = total(times(x, share), axes, bool(keep) and dim is not None)
    return Taylor(value, found.first, found.second)


def _extreme_at(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return the largest entries along an axis and where they are."""
    x, *rest = args
    if not rest and not kwargs:
        return _extreme(func, args, kwargs)
    dim: int = rest[0] if rest else kwargs["dim"]
    keep = rest[1] if len(rest) > 1 else kwargs.get("keepdim", False)
    value, places = func(x.value, *rest, **kwargs)
    at = places if keep else places.unsqueeze(dim)

    def chosen(part: Tensor) -> Tensor:
        found = part.gather(dim, at)
        return found if keep else found.squeeze(dim)

    found = x.each(chosen)
    return Taylor(value, found.first, found.second), places


def _pooled(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return the largest entry of each window, and where it is in its image."""
    x, *rest = args
    value, places = func(x.value, *rest, **kwargs)
    images = x.value.ndim - places.ndim + 2
    flat = places.flatten(-images if places.ndim > 2 else -2)

    def chosen(part: Tensor) -> Tensor:
        return part.flatten(-2).gather(-1, flat).view(places.shape)

    found = x.each(chosen)
    return Taylor(value, found.first, found.second), places


def _sorted_first(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return the largest entries, or all in order, and where they are."""
    x, *rest = args
    value, places = func(x.value, *rest, **kwargs)
    at = 1 if func.overloadpacket is _ATEN.topk else 0
    dim = rest[at] if len(rest) > at else kwargs.get("dim", -1)
    found = x.each(lambda part: part.gather(dim, places))
    return Taylor(value, found.first, found.second), places


# --- made of others


def _multiplied(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Taylor:
    """Return the product of all entries, or along an axis, by halves: no entry is divided by."""
    x, *rest = args
    dim = rest[0] if rest else kwargs.get("dim")
    keep = rest[1] if len(rest) > 1 else kwargs.get("keepdim", False)
    found: Taylor = x.each(
        lambda part: part.reshape(-1, 1) if dim is None else part.movedim(dim, 0)[:, None]
    )
    while (count := len(found.value)) > 1:
        half = count // 2
        pairs = times(
            found.each(itemgetter(slice(half))), found.each(itemgetter(slice(half, 2 * half)))
        )
        if count % 2:
            last = found.each(lambda part: part[-1:])
            pairs = _linear(torch.cat, ([pairs, last],), {})
        found = pairs
    if dim is None:
        return found.each(lambda part: part.reshape(()))
    found = found.each(lambda part: part[0, 0])
    return found.each(lambda part: part.unsqueeze(dim)) if keep else found


def _log_softmax(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Taylor:
    """Return the logarithm of a softmax."""
    return log_softmax(args[0], args[1], func(args[0].value, *args[1:], **kwargs))


def _softmax(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Taylor:
    """Return a softmax."""
    return softmax(args[0], args[1], func(args[0].value, *args[1:], **kwargs))


def _log_sum(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Taylor:
    """Return log Σ exp x along axes."""
    x, dims, *rest = args
    keep = rest[0] if rest else kwargs.get("keepdim", False)
    value = torch.logsumexp(x.value, dims, True)
    shares = torch.exp(x.value - value)
    sums = total(times(x, shares), dims)
    second = sums.second
    if x.first is not None:
        assert sums.first is not None
        spread = (shares * (x.first - sums.first).square()).sum(tuple(dims), keepdim=True)
        second = spread if second is None else second + spread
    found = Taylor(value, sums.first, second)
    return found if keep else found.each(lambda part: part.squeeze(tuple(dims)))


def _reduced(x: Taylor, reduction: int) -> Taylor:
    """Return terms as they are, their mean or their sum, by torch's number for it."""
    if reduction == 0:
        return x
    return x.each(torch.mean if reduction == 1 else torch.sum)


def _likelihood(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return the negative log-likelihood, which is linear, and the weight of its terms."""
    logs, *rest = args
    _, weight = func(logs.value, *rest, **kwargs)
    return logs.each(lambda part: func(part, *rest, **kwargs)[0]), weight


def _squared_error(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Taylor:
    """Return (x − y)², reduced."""
    away = plus(args[0], args[1], -1)
    return _reduced(square(away), kwargs.get("reduction", args[2] if len(args) > 2 else 1))


def _huber(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Taylor:
    """Return Huber's loss, in both of torch's scalings, reduced."""
    reduction = kwargs.get("reduction", args[2] if len(args) > 2 else 1)
    width = kwargs.get("delta", kwargs.get("beta", args[3] if len(args) > 3 else 1.0))
    away = plus(args[0], args[1], -1)
    scale = width if func.overloadpacket is _ATEN.smooth_l1_loss else 1.0
    near = away.value.abs() < width
    value = func(away.value, torch.zeros_like(away.value), 0, width)
    slope = torch.where(near, away.value, width * away.value.sign()) / (scale or 1.0)
    bend = torch.where(near, torch.full_like(value, 1 / (scale or 1.0)), 0.0)
    return _reduced(composed(away, value, slope, bend), reduction)


def _binary_logits(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Taylor:
    """Return w [(1 − y) x + (1 + (p − 1) y) log(1 + e^−x)], reduced."""
    x, y, *rest = args
    if isinstance(y, Taylor):
        raise OperatorWithoutRuleError(f"{func} with a target that moves")
    weight, positive = (*rest, None, None)[:2]
    reduction = kwargs.get("reduction", rest[2] if len(rest) > 2 else 1)
    value = func(x.value, y, weight, positive, 0)
    factor = 1 if positive is None else 1 + (positive - 1) * y
    share = torch.sigmoid(-x.value)
    terms = composed(x, value, (1 - y) - factor * share, factor * share * (1 - share))
    scaled = weighted(Taylor(x.value, terms.first, terms.second), weight)
    return _reduced(Taylor(value, scaled.first, scaled.second), reduction)


def _spread(x: Taylor, dims: Any, keep: bool = True) -> tuple[Taylor, Taylor]:
    """Return mean and biased variance over some axes, kept."""
    mean = x.each(lambda part: part.mean(tuple(dims), keepdim=True))
    return mean, square(plus(x, mean, -1)).each(lambda part: part.mean(tuple(dims), keepdim=True))


def _layer_norm(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return a layer normalisation, with its means and factors."""
    x, shape, weight, bias, eps = args
    x = constant(x)
    mean, variance = _spread(x, range(x.value.ndim - len(shape), x.value.ndim))
    found, scale = normalised(x, mean, variance, eps, weight, bias)
    return found, mean, scale


def _group_norm(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return a group normalisation, with its means and factors."""
    x, weight, bias, n, channels, _, groups, eps = args
    x = constant(x)
    shape, wide = x.value.shape, [1, channels] + [1] * (x.value.ndim - 2)
    grouped = x.each(lambda part: part.reshape(n, groups, -1))
    mean, variance = _spread(grouped, [2])
    found, scale = normalised(grouped, mean, variance, eps, None, None)
    found = found.each(lambda part: part.reshape(shape))
    if weight is not None:
        found = times(found, constant(weight).each(lambda part: part.view(wide)))
    if bias is not None:
        found = plus(found, constant(bias).each(lambda part: part.view(wide)))
    return found, *(each.each(lambda part: part.reshape(n, groups)) for each in (mean, scale))


def _batch_norm(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return a batch normalisation, by given statistics that may move, or by those of the batch.

    Running averages are not updated: no policy of an objective reads them afterwards.
    """
    if func.overloadpacket is _ATEN._native_batch_norm_legit_no_training:
        x, weight, bias, given_mean, given_variance, _, eps = args
        training = False
    else:
        x, weight, bias, given_mean, given_variance, training, _, eps = args
    x = constant(x)
    wide = [1, -1] + [1] * (x.value.ndim - 2)

    def channels(part: Any) -> Any:
        return None if part is None else constant(part).each(lambda each: each.view(wide))

    if training:
        mean, variance = _spread(x, [0, *range(2, x.value.ndim)])
    else:
        mean, variance = channels(given_mean), channels(given_variance)
    found, scale = normalised(x, mean, variance, eps, channels(weight), channels(bias))
    return found, *(each.each(lambda part: part.reshape(-1)) for each in (mean, scale))


def _dropped(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return what dropout leaves, and its mask."""
    x, share, training = args
    value, mask = func(x.value, share, training)
    scale = mask.to(x.value.dtype) / (1 - share if training and share < 1 else 1)
    found = x.each(lambda part: part * scale)
    return Taylor(value, found.first, found.second), mask


def _variance(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Taylor:
    """Return the variance over some axes."""
    x, *rest = args
    dims = (rest[0] if rest else kwargs.get("dim")) or range(x.value.ndim)
    correction = kwargs.get("correction", 1)
    count = math.prod(x.value.shape[d] for d in dims) if len(dims) else 1
    _, variance = _spread(x, dims)
    factor = count / (count - (1 if correction is None else correction))
    keep = kwargs.get("keepdim", False)
    found = variance.each(lambda part: part * factor)
    return found if keep else found.each(lambda part: part.squeeze(tuple(dims)))


def _deviation(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Taylor:
    """Return the standard deviation over some axes."""
    spread = _variance(func, args, kwargs)
    root = spread.value.sqrt()
    return composed(spread, root, 0.5 / root, -0.25 / root**3)


def _length(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Taylor:
    """Return a Euclidean norm, over all or some axes."""
    x, *rest = args
    order = rest[0] if rest else kwargs.get("ord", 2)
    dims = (rest[1] if len(rest) > 1 else kwargs.get("dim")) or range(x.value.ndim)
    keep = rest[2] if len(rest) > 2 else kwargs.get("keepdim", False)
    if order != 2:
        raise OperatorWithoutRuleError(f"{func} of order {order}")
    squares = total(square(x), dims, bool(keep))
    root = squares.value.sqrt()
    return composed(squares, root, 0.5 / root, -0.25 / root**3)


def _add_product(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Taylor:
    """Return x + value·y·z."""
    return plus(args[0], times(args[1], args[2]), kwargs.get("value", 1))


def _between(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Taylor:
    """Return x + w (y − x)."""
    return plus(args[0], times(plus(args[1], args[0], -1), args[2]))


def _scaled_exp(base: float) -> Callable[..., tuple[Tensor, Tensor]]:
    """Return the derivatives of baseˣ."""
    rate = math.log(base)
    return lambda x, y: (rate * y, rate**2 * y)


def _scaled_log(base: float) -> Callable[..., tuple[Tensor, Tensor]]:
    """Return the derivatives of the logarithm to a base."""
    rate = 1 / math.log(base)
    return lambda x, y: (rate / x, -rate / x.square())


_LINEAR = [
    "_adaptive_avg_pool2d",
    "_reshape_alias",
    "_to_copy",
    "_unsafe_view",
    "alias",
    "as_strided",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "cat",
    "clone",
    "constant_pad_nd",
    "cumsum",
    "diag_embed",
    "diagonal",
    "expand",
    "flip",
    "gather",
    "im2col",
    "index",
    "index_select",
    "lift_fresh",
    "mean",
    "movedim",
    "narrow",
    "neg",
    "new_zeros_like",
    "permute",
    "pixel_shuffle",
    "pixel_unshuffle",
    "reflection_pad1d",
    "reflection_pad2d",
    "repeat",
    "replication_pad1d",
    "replication_pad2d",
    "roll",
    "select",
    "slice",
    "split",
    "split_with_sizes",
    "squeeze",
    "stack",
    "sum",
    "t",
    "trace",
    "transpose",
    "tril",
    "triu",
    "unbind",
    "unfold",
    "unsafe_chunk",
    "unsafe_split",
    "unsafe_split_with_sizes",
    "unsqueeze",
    "upsample_bilinear2d",
    "upsample_nearest1d",
    "upsample_nearest2d",
    "view",
]

_PIECEWISE: dict[str, Callable[..., Tensor]] = {
    "relu": lambda x: x > 0,
    "leaky_relu": lambda x, slope=0.01: torch.where(x > 0, torch.ones_like(x), slope),
    "hardtanh": lambda x, low=-1.0, high=1.0: (x > low) & (x < high),
    "relu6": lambda x: (x > 0) & (x < 6),
    "hardsigmoid": lambda x: ((x > -3) & (x < 3)).to(x.dtype) / 6,
    "threshold": lambda x, threshold, value: x > threshold,
    "clamp": lambda x, min=None, max=None: _within(x, min, max),
    "clamp_min": _within,
    "clamp_max": lambda x, high: _within(x, None, high),
    "abs": lambda x: x.sign(),
}

_FUNCTIONS: dict[str, Callable[..., tuple[Any, Any]]] = {
    "acos": lambda x, y: (-(1 - x.square()).rsqrt(), -x * (1 - x.square()) ** -1.5),
    "asin": lambda x, y: ((1 - x.square()).rsqrt(), x * (1 - x.square()) ** -1.5),
    "atan": lambda x, y: (1 / (1 + x.square()), -2 * x / (1 + x.square()).square()),
    "celu": lambda x, y, alpha=1.0: _elu(x, y, alpha, 1.0, 1 / alpha),
    "cos": lambda x, y: (-x.sin(), -y),
    "cosh": lambda x, y: (x.sinh(), y),
    "elu": _elu,
    "erf": _erf,
    "erfc": partial(_erf, sign=-1.0),
    "exp": lambda x, y: (y, y),
    "exp2": _scaled_exp(2),
    "expm1": lambda x, y: (y + 1, y + 1),
    "gelu": _gelu,
    "hardswish": _hardswish,
    "log": lambda x, y: (1 / x, -1 / x.square()),
    "log10": _scaled_log(10),
    "log1p": lambda x, y: (1 / (1 + x), -1 / (1 + x).square()),
    "log2": _scaled_log(2),
    "mish": _mish,
    "reciprocal": lambda x, y: (-y.square(), 2 * y**3),
    "rsqrt": lambda x, y: (-0.5 * y**3, 0.75 * y**5),
    "sigmoid": _sigmoid,
    "silu": _silu,
    "sin": lambda x, y: (x.cos(), -y),
    "sinh": lambda x, y: (x.cosh(), y),
    "softplus": _softplus,
    "sqrt": lambda x, y: (0.5 / y, -0.25 / y**3),
    "tan": lambda x, y: (1 + y.square(), 2 * y * (1 + y.square())),
    "tanh": _tanh,
}

_FLAT = [
    "_local_scalar_dense",
    "bernoulli",
    "bucketize",
    "ceil",
    "detach",
    "empty_like",
    "fix",
    "floor",
    "full_like",
    "new_empty",
    "new_empty_strided",
    "new_full",
    "new_ones",
    "new_zeros",
    "one_hot",
    "ones_like",
    "rand_like",
    "randn_like",
    "round",
    "sign",
    "trunc",
    "zeros_like",
]

_OTHERS: dict[str, Rule] = {
    "_log_softmax": _log_softmax,
    "_native_batch_norm_legit_no_training": _batch_norm,
    "_safe_softmax": _softmax,
    "_softmax": _softmax,
    "add": partial(_added, 1),
    "addbmm": _affine(lambda a, b: torch.bmm(a, b).sum(0)),
    "addcmul": _add_product,
    "addmm": _affine(_matrix),
    "addmv": _affine(torch.mv),
    "amax": _extreme,
    "amin": _extreme,
    "baddbmm": _affine(torch.bmm),
    "binary_cross_entropy_with_logits": _binary_logits,
    "bmm": _product(torch.bmm),
    "convolution": _convolution,
    "div": _divided,
    "dot": _product(torch.dot),
    "embedding": _embedding,
    "huber_loss": _huber,
    "lerp": _between,
    "linalg_vector_norm": _length,
    "log_sigmoid_forward": _log_sigmoid,
    "logsumexp": _log_sum,
    "masked_fill": _masked,
    "max": _extreme_at,
    "max_pool2d_with_indices": _pooled,
    "maximum": partial(_larger, 1),
    "min": _extreme_at,
    "minimum": partial(_larger, -1),
    "mm": _product(_matrix),
    "mse_loss": _squared_error,
    "mul": _times,
    "mv": _product(torch.mv),
    "native_batch_norm": _batch_norm,
    "native_dropout": _dropped,
    "native_group_norm": _group_norm,
    "native_layer_norm": _layer_norm,
    "nll_loss_forward": _likelihood,
    "nll_loss2d_forward": _likelihood,
    "pow": _power,
    "prod": _multiplied,
    "rsub": _subtracted_from,
    "smooth_l1_loss": _huber,
    "sort": _sorted_first,
    "std": _deviation,
    "sub": partial(_added, -1),
    "topk": _sorted_first,
    "var": _variance,
    "where": _where,
}

RULES: dict[Any, Rule] = {
    getattr(_ATEN, name): rule
    for name, rule in (
        *((name, _linear) for name in _LINEAR),
        *((name, _choice(chosen)) for name, chosen in _PIECEWISE.items()),
        *((name, _entrywise(derivatives)) for name, derivatives in _FUNCTIONS.items()),
        *((name, _flat) for name in _FLAT),
        *_OTHERS.items(),
    )
    if hasattr(_ATEN, name)
}
