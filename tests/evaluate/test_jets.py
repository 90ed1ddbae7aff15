"""Rules of second order, operator by operator, against forward mode nested in forward mode."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 (as torch itself writes it)

from cases import classes, normal
from thalweg.evaluate import jet_rules
from thalweg.evaluate.jets import Jet, OperatorWithoutRuleError, taylor_of

# The first use of torch's own forward mode in a process compiles its formulas in a way that it
# deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")

X = normal(6, 5, seed=1)
IMAGES = normal(3, 2, 6, 6, seed=2)
LABELS = classes(6, count=5, seed=3)
WEIGHT = normal(4, 5, seed=4)
KERNEL = 0.5 * normal(3, 2, 3, 3, seed=5)
BINARY = classes(6, 5, count=2, seed=6).double()
POSITIVE = 0.5 + normal(6, 5, seed=7).abs()
CURVE = 0.3 * normal(5, seed=8)


def nested(f, x, first, second):
    """Return value and two derivatives along x + h x₁ + ½ h² x₂ by torch's own forward mode."""

    def along(h):
        return f(x + h * first + 0.5 * h**2 * second)

    def slope(h):
        return torch.func.jvp(along, (h,), (torch.ones_like(h),))[1]

    h = torch.zeros((), dtype=torch.float64)
    bend = torch.func.jvp(slope, (h,), (torch.ones_like(h),))[1]
    return along(h), slope(h), bend


def agree(f, x, seed=11, tolerance=1e-11):
    """Raise unless a jet gives value and derivatives as nested forward mode does."""
    first, second = (0.7 * normal(*x.shape, seed=seed + i) for i in (0, 1))
    with torch.no_grad():
        found = taylor_of(f(Jet(x, first, second)))
    for order, (mine, right) in enumerate(zip(found, nested(f, x, first, second), strict=True)):
        torch.testing.assert_close(
            mine, right, rtol=tolerance, atol=tolerance, msg=lambda m, o=order: f"order {o}: {m}"
        )


ELEMENTWISE = {
    "abs": torch.abs,
    "acos": lambda x: torch.acos(0.9 * torch.tanh(x)),
    "asin": lambda x: torch.asin(0.9 * torch.tanh(x)),
    "atan": torch.atan,
    "celu": F.celu,
    "clamp": lambda x: x.clamp(-0.4, 0.6),
    "clamp_max": lambda x: x.clamp(max=0.2),
    "clamp_min": lambda x: x.clamp_min(-0.1),
    "cos": torch.cos,
    "cosh": torch.cosh,
    "elu": lambda x: F.elu(x, 0.7),
    "erf": torch.erf,
    "erfc": torch.erfc,
    "exp": torch.exp,
    "exp2": torch.exp2,
    "expm1": torch.expm1,
    "gelu": F.gelu,
    "gelu-tanh": lambda x: F.gelu(x, approximate="tanh"),
    "hardtanh": lambda x: F.hardtanh(x, -0.5, 0.4),
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "logsigmoid": F.logsigmoid,
    "mish": F.mish,
    "power": lambda x: x**3,
    "power-0": lambda x: x**0 + x,
    "power-of-2": lambda x: 2**x,
    "power-1": lambda x: x**1,
    "relu": torch.relu,
    "relu6": F.relu6,
    "selu": F.selu,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "sin": torch.sin,
    "sinh": torch.sinh,
    "softplus": lambda x: F.softplus(x, beta=1.5, threshold=1.0),
    "softsign": F.softsign,
    "square": torch.square,
    "tan": lambda x: torch.tan(0.3 * x),
    "tanh": torch.tanh,
    "threshold": lambda x: F.threshold(x, 0.1, 2.0),
}
OF_POSITIVE = {
    "log": torch.log,
    "log10": torch.log10,
    "log1p": torch.log1p,
    "log2": torch.log2,
    "power-half": lambda x: x**0.5,
    "power-minus": lambda x: x**-1.5,
    "reciprocal": torch.reciprocal,
    "rsqrt": torch.rsqrt,
    "sqrt": torch.sqrt,
}
TABLES = {
    "add-alpha": lambda x: torch.add(x, x.sin(), alpha=0.3) + 2,
    "addcmul": lambda x: torch.addcmul(x, x.sin(), x.cos(), value=0.4),
    "addmm": lambda x: torch.addmm(x[:, :4], x, WEIGHT.T * x.sum(), beta=0.5, alpha=2),
    "amax": lambda x: x.amax(1),
    "amin": lambda x: x.amin((0, 1), keepdim=True),
    "baddbmm": lambda x: torch.baddbmm(x[None], x[None], (x.T @ x)[None]),
    "broadcast": lambda x: x + x[0] * 2 - x[:, :1],
    "cat": lambda x: torch.cat([x, X, x.sin()], 1),
    "cumsum": lambda x: x.cumsum(1),
    "diagonal": lambda x: (x.T @ x).diagonal().sum() + torch.trace(x.T @ x),
    "division": lambda x: x / (2 + x.square()) + 1 / (3 + x.cos()) + x / 3,
    "dot": lambda x: torch.dot(x[0], x[1]) * x.sum(),
    "einsum": lambda x: torch.einsum("ij,kj->ik", x, x),
    "expand": lambda x: x[:, None].expand(6, 2, 5) * 2,
    "flip": lambda x: x.flip(0) * x.roll(1, 1),
    "gather": lambda x: x.gather(1, LABELS[:, None]).square(),
    "group-norm": lambda x: F.group_norm(x[:, :4].reshape(3, 4, 2), 2, CURVE[:4], CURVE[1:]),
    "index": lambda x: x[LABELS] * x.index_select(0, LABELS),
    "in-place": lambda x: (x.sin()).mul_(2).add_(x).relu_(),
    "layer-norm-moving": lambda x: F.layer_norm(X, (5,), x[0], x[1]),
    "lerp": lambda x: torch.lerp(x, x.sin(), 0.3),
    "linear": lambda x: F.linear(x, WEIGHT, CURVE[:4]),
    "linear-moving": lambda x: F.linear(X, x[:4], x[0, :4]),
    "log_softmax": lambda x: x.log_softmax(1),
    "logsumexp": lambda x: x.logsumexp(1) + x.logsumexp((0, 1)),
    "masked_fill": lambda x: x.masked_fill(X > 0, 3.0).square(),
    "matrix-vector": lambda x: (x @ x[0]) * (x[:, 0] @ x).sum(),
    "max": lambda x: x.max(1).values + x.max() + x.max(1, keepdim=True)[0].squeeze(1),
    "maximum": lambda x: torch.maximum(x, x.flip(0)) - torch.minimum(x, X.roll(1)),
    "mean": lambda x: x.mean() + x.mean(1).square(),
    "norm": lambda x: x.norm() + torch.linalg.vector_norm(x, dim=1),
    "outer": lambda x: torch.outer(x[0], x[1]),
    "prod": lambda x: x.prod() + x.prod(1) + x.prod(0, keepdim=True).sum(),
    "rsub": lambda x: 1 - torch.rsub(x, x.sin(), alpha=2),
    "sort": lambda x: x.sort(1).values[:, 1] * x.topk(2, 1).values[:, 1],
    "softmax": lambda x: x.softmax(0).square(),
    "split": lambda x: sum(part.prod() for part in x.split(2)) + sum(x.chunk(3)[1].unbind()).sum(),
    "stack": lambda x: torch.stack([x, x.exp()]).sum(0),
    "transpose": lambda x: x.T.reshape(-1).view(3, 10).unsqueeze(1).squeeze().permute(1, 0) ** 2,
    "var": lambda x: x.var(1) + x.var(0, correction=0, keepdim=True).sum() + x.std(),
    "where": lambda x: torch.where(X > 0, x.sin(), x.square()) + torch.where(X > 1, x, 0.0),
}
LOSSES = {
    "binary": lambda x: F.binary_cross_entropy_with_logits(x, BINARY, pos_weight=POSITIVE[0]),
    "binary-weighted": lambda x: F.binary_cross_entropy_with_logits(
        x, BINARY, weight=POSITIVE, reduction="sum"
    ),
    "cross-entropy": lambda x: F.cross_entropy(x, LABELS, weight=POSITIVE[0], ignore_index=1),
    "kl": lambda x: F.kl_div(x.log_softmax(1), POSITIVE.softmax(1), reduction="batchmean"),
    "l1": lambda x: F.l1_loss(x, BINARY, reduction="sum"),
    "mse": lambda x: F.mse_loss(x, BINARY) + F.mse_loss(BINARY, x.sin(), reduction="sum"),
    "nll-2d": lambda x: F.cross_entropy(x.reshape(2, 5, 3), classes(2, 3, count=5, seed=9)),
    "smooth": lambda x: F.cross_entropy(x, LABELS, label_smoothing=0.1, reduction="none"),
    "smooth-l1": lambda x: F.smooth_l1_loss(x, BINARY, beta=0.4),
    "soft-labels": lambda x: F.cross_entropy(x, POSITIVE.softmax(1)),
}
ON_IMAGES = {
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, 2).square(),
    "average": lambda x: F.avg_pool2d(x, 2).square(),
    "batch-norm": lambda x: F.batch_norm(
        x, CURVE[:2], 1 + CURVE[:2].abs(), CURVE[1:3], CURVE[2:4], eps=1e-3
    ),
    "convolution": lambda x: F.conv2d(x, KERNEL, CURVE[:3], padding=1, stride=2),
    "convolution-moving": lambda x: F.conv2d(x, x[:, :, :3, :3] * KERNEL, padding=1),
    "embedding": lambda x: F.embedding(LABELS, x[0, 0]),
    "maximum": lambda x: F.max_pool2d(x, 3, 2, 1) ** 2,
    "maximum-1d": lambda x: F.max_pool1d(x[:, 0], 2),
    "pad": lambda x: F.pad(x, (1, 0, 2, 1)) * 2,
    "shuffle": lambda x: F.pixel_unshuffle(x, 2) ** 2,
    "transposed": lambda x: F.conv_transpose2d(x, KERNEL.transpose(0, 1)[:, :2], stride=2),
    "unfold": lambda x: F.unfold(x, 2).square(),
    "upsample": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear") ** 2,
    "attention": lambda x: F.scaled_dot_product_attention(x[:, :1], x.sin()[:, :1], x[:, 1:]),
    "attention-causal": lambda x: F.scaled_dot_product_attention(x, x.sin(), x, is_causal=True),
}


class TestRules:
    @pytest.mark.parametrize("name", ELEMENTWISE)
    def test_elementwise(self, name):
        agree(ELEMENTWISE[name], X)

    def test_another_function_does_not_agree(self):
        with pytest.raises(AssertionError, match="order 0"):
            agree(lambda x: x.sin() if isinstance(x, Jet) else x.cos(), X)

    def test_hardswish(self):
        """Torch has no forward mode for its second derivative: the formula by hand."""
        with torch.no_grad():
            found = taylor_of(F.hardswish(Jet(4 * X, torch.ones_like(X))))
        x = 4 * X
        inside = (x >= -3) & (x <= 3)
        right = torch.where(inside, 1 / 3, torch.zeros_like(x))
        torch.testing.assert_close(found[2], right)
        slope = torch.where(inside, x / 3 + 0.5, (x > 3).double())
        torch.testing.assert_close(found[1], slope)

    def test_hardsigmoid_and_huber(self):
        """As above; Huber's loss is half the square within its width, and straight beyond."""
        with torch.no_grad():
            found = taylor_of(F.hardsigmoid(Jet(4 * X, X, X.cos())))
            huber = taylor_of(F.huber_loss(Jet(X, torch.ones_like(X)), BINARY, "sum", delta=0.7))
        inside = ((4 * X).abs() < 3).double() / 6
        torch.testing.assert_close(found[1], inside * X)
        torch.testing.assert_close(found[2], inside * X.cos())
        away = X - BINARY
        torch.testing.assert_close(huber[1], away.clamp(-0.7, 0.7).sum())
        torch.testing.assert_close(huber[2], (away.abs() < 0.7).double().sum())

    @pytest.mark.parametrize("name", ["layer norm", "batch norm"])
    def test_own_statistics(self, name):
        """Torch's nested forward mode misses terms here: reverse mode, twice, is right."""
        x, f = {
            "layer norm": (X, lambda x: F.layer_norm(x, (5,), CURVE, CURVE.flip(0))),
            "batch norm": (IMAGES, lambda x: F.batch_norm(x, None, None, CURVE[:2], None, True)),
        }[name]
        first, second = normal(*x.shape, seed=21), normal(*x.shape, seed=22)
        mix = normal(*x.shape, seed=23)
        with torch.no_grad():
            found = [float((part * mix).sum()) for part in taylor_of(f(Jet(x, first, second)))]
        h = torch.zeros((), dtype=torch.float64, requires_grad=True)
        value = (f(x + h * first + 0.5 * h**2 * second) * mix).sum()
        (slope,) = torch.autograd.grad(value, h, create_graph=True)
        (bend,) = torch.autograd.grad(slope, h)
        assert found == pytest.approx([each.item() for each in (value, slope, bend)], rel=1e-12)

    @pytest.mark.parametrize("name", OF_POSITIVE)
    def test_of_positive_numbers(self, name):
        agree(lambda x: OF_POSITIVE[name](x.square() + 0.4), X)

    @pytest.mark.parametrize("name", TABLES)
    def test_tables(self, name):
        agree(TABLES[name], X)

    @pytest.mark.parametrize("name", LOSSES)
    def test_losses(self, name):
        agree(LOSSES[name], X)

    @pytest.mark.parametrize("name", ON_IMAGES)
    def test_images(self, name):
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            agree(ON_IMAGES[name], IMAGES)

    def test_ties_count_alike(self):
        x = torch.tensor([2.0, 2.0, 1.0], dtype=torch.float64)
        found = taylor_of(torch.amax(Jet(x, torch.tensor([1.0, 3.0, 9.0]).double()), 0))
        assert [float(part) for part in found] == [2.0, 2.0, 0.0]

    def test_a_product_with_zeros(self):
        x = torch.tensor([0.0, 3.0, 0.0], dtype=torch.float64)
        found = taylor_of(Jet(x, torch.tensor([1.0, 5.0, 2.0]).double()).prod())
        assert [float(part) for part in found] == [0.0, 0.0, 12.0]  # d² (h · 3 · 2h)

    def test_a_wrong_rule_is_noticed(self, monkeypatch):
        """The negative control of this file: `agree` raises."""
        rule = jet_rules._entrywise(lambda x, y: (x.cos(), x.cos()))
        monkeypatch.setitem(jet_rules.RULES, torch.ops.aten.sin, rule)
        with pytest.raises(AssertionError, match="order 2"):
            agree(torch.sin, X)


class TestWhatHasNone:
    @pytest.mark.parametrize(
        "f",
        [
            lambda x: torch.linalg.inv(x[:5]),
            lambda x: torch.zeros(6, 5).double().add_(x),
            lambda x: x.view(-1)[:3].mul_(2),
            lambda x: x.abs() ** x,
            lambda x: F.binary_cross_entropy_with_logits(x, x),
            lambda x: torch.div(x, 0.3, rounding_mode="floor"),
            lambda x: torch.linalg.vector_norm(x, 3),
        ],
    )
    def test_is_refused_by_name(self, f):
        with pytest.raises(OperatorWithoutRuleError, match=r"aten|power"), torch.no_grad():
            f(Jet(X, X.sin()))

    def test_a_form_that_a_rule_does_not_know(self, monkeypatch):
        def rule(func, args, kwargs):
            return kwargs["rare"]

        monkeypatch.setitem(jet_rules.RULES, torch.ops.aten.sin, rule)
        with pytest.raises(
            OperatorWithoutRuleError, match=r"sin\.default in a form without a rule"
        ):
            torch.sin(Jet(X, X.cos()))

    def test_integers_and_comparisons_are_constant(self):
        jet = Jet(X, X.sin(), X.cos())
        with torch.no_grad():
            assert type(jet.argmax(1)) is torch.Tensor
            assert torch.equal(jet > 0, X > 0)
            assert float(jet.sum()) == pytest.approx(float(X.sum()))
            assert type(jet.detach()) is torch.Tensor
            assert type(jet.sign()) is torch.Tensor

    def test_a_constant_costs_nothing(self):
        jet = Jet(X, X.sin())
        assert (jet + 1).taylor.second is None
        assert torch.relu(jet).taylor.second is None
        assert type(torch.zeros_like(jet)) is torch.Tensor


def test_dropout_draws_the_masks_of_a_plain_pass():
    model = nn.Sequential(nn.Linear(5, 4), nn.Dropout(0.5)).double().requires_grad_(False)
    torch.random.manual_seed(3)
    right = model(X)
    torch.random.manual_seed(3)
    found = taylor_of(model(Jet(X, X.sin())))
    torch.testing.assert_close(found[0], right, rtol=0, atol=0)
    assert torch.equal(found[1] == 0, right == 0)


def test_an_example_by_hand():
    """J(h) = log(1 + e^h) at h = 0.4, along h itself."""
    h = torch.tensor(0.4, dtype=torch.float64)
    value, slope, bend = taylor_of(Jet(h, torch.ones_like(h)).exp().add(1).log())
    share = 1 / (1 + math.exp(-0.4))
    assert float(value) == pytest.approx(math.log(1 + math.exp(0.4)), rel=1e-15)
    assert float(slope) == pytest.approx(share, rel=1e-15)
    assert float(bend) == pytest.approx(share * (1 - share), rel=1e-14)
