"""Products with the Hessian against dense Hessians of the whole data as one batch, in float64."""

import copy
import weakref

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

import thalweg as tw
from cases import FUNCTIONS, MODELS, classes, full_batch, normal, seeded
from thalweg.objectives.curvature import curvature


def dense_hessian(case, theta):
    """Differentiate torch's own mean over everything twice, by rows, without thalweg."""
    with sdpa_kernel(SDPBackend.MATH):
        return torch.autograd.functional.hessian(full_batch(case), theta)


class Maxout(nn.Module):
    def __init__(self):
        super().__init__()
        self.pieces = nn.Linear(6, 12)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.pieces(x).unflatten(-1, (4, 3)).amax(-1))


class TiedLanguage(nn.Module):
    """An embedding that is the output head, too, and a GRU between them."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(6, 4)
        self.gru = nn.GRU(4, 4, batch_first=True)
        self.head = nn.Linear(4, 6, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens):
        return self.head(self.gru(self.embedding(tokens))[0]).movedim(-1, 1)


class Fused(nn.Module):
    """Attention by the fused operator, which has no second derivative of its own."""

    def __init__(self):
        super().__init__()
        self.project = nn.Linear(4, 12)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        q, k, v = self.project(x).chunk(3, -1)
        mixed = functional.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])
        return self.head(mixed[:, 0].mean(1))


def encoder():
    layer = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True)
    return nn.Sequential(
        nn.TransformerEncoder(layer, 1, enable_nested_tensor=False), nn.Flatten(), nn.Linear(20, 3)
    )


def pooled():
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.Softplus(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 3)
    )


X = {"table": (11, 6), "sequence": (11, 5, 4), "image": (11, 1, 6, 6)}
NETWORKS = {
    "maxout": (Maxout, "table"),
    "fused attention": (Fused, "sequence"),
    "transformer encoder": (encoder, "sequence"),
    "convolution and pooling": (pooled, "image"),
}


@pytest.mark.parametrize("memory", [None, 0], ids=["kept", "anew"])
@pytest.mark.parametrize("batch_size", [1, 3, 11])
def test_is_the_dense_hessian_of_the_full_batch(case, batch_size, memory):
    theta = case.point()
    found = curvature(case.objective(batch_size=batch_size), theta, memory=memory)
    torch.testing.assert_close(found.dense(), dense_hessian(case, theta), rtol=1e-10, atol=1e-12)
    assert found.method == "double backward"
    assert found.error is None


@pytest.mark.parametrize("name", NETWORKS)
def test_of_further_networks(name):
    build, shape = NETWORKS[name]
    model = seeded(build, 1)
    x, y = 0.3 + normal(*X[shape], seed=3), classes(11, count=3, seed=4)
    objective = tw.ModelObjective(model, nn.CrossEntropyLoss(), (x, y), batch_size=4)
    theta = objective.space.flatten(seeded(build, 2)) + 0.1
    names = list(objective.space.names)

    def cost(point):
        tensors = objective.space.unflatten(point)
        tensors = {n: tensors[n] for n in names}
        return functional.cross_entropy(torch.func.functional_call(model, tensors, (x,)), y)

    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            hessian = torch.autograd.functional.hessian(cost, theta)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    found = curvature(objective, theta)
    torch.testing.assert_close(found.dense(), hessian, rtol=1e-10, atol=1e-12)
    assert found.method == "double backward"


def test_of_tied_embeddings_and_uneven_numbers_of_tokens():
    model = seeded(TiedLanguage, 1)
    tokens, labels = classes(11, 5, count=6, seed=5), classes(11, 5, count=6, seed=6)
    labels[2:5, 1:] = -100
    loss = nn.CrossEntropyLoss()
    objective = tw.ModelObjective(model, loss, (tokens, labels), batch_size=3)
    theta = objective.space.flatten(seeded(TiedLanguage, 2)) + 0.2

    def cost(point):
        tensors = objective.space.unflatten(point)
        return loss(torch.func.functional_call(model, tensors, (tokens,)), labels)

    hessian = torch.autograd.functional.hessian(cost, theta)
    dense = curvature(objective, theta).dense()
    torch.testing.assert_close(dense, hessian, rtol=1e-10, atol=1e-12)
    assert objective.space.size == 24 + 2 * (12 * 4 + 12)


def test_value_and_gradient_are_those_of_the_objective(case):
    theta, objective = case.point(), case.objective(batch_size=4)
    for memory in (None, 0):
        found = curvature(objective, theta, memory=memory)
        assert found.value == pytest.approx(objective.value(theta), rel=1e-13)
        assert torch.equal(found.gradient, objective.gradient(theta))


@pytest.mark.parametrize("known", FUNCTIONS.values(), ids=FUNCTIONS)
def test_of_closed_forms(known):
    found = curvature(known.objective, known.start)
    np.testing.assert_allclose(found.dense(), known.hessian(known.start), rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(found.gradient, known.gradient(known.start), rtol=1e-11, atol=1e-12)
    assert found.value == pytest.approx(known.value(known.start), rel=1e-12)


def test_of_functions_that_are_constant_linear_or_linear_in_part():
    constant = curvature(tw.FunctionObjective(lambda t: torch.tensor(3.0).double(), 2), [1.0, 2.0])
    linear = curvature(tw.FunctionObjective(lambda t: t.sum(), 2), [1.0, 2.0])
    unused = curvature(tw.FunctionObjective(lambda t: t[0] ** 3, 2), [2.0, 5.0])
    assert torch.count_nonzero(constant.dense()) == torch.count_nonzero(linear.dense()) == 0
    assert constant.value == linear.value == 3
    assert unused.dense().tolist() == [[12, 0], [0, 0]]


def test_hvp_takes_a_block(case):
    theta, objective = case.point(), case.objective(batch_size=4)
    vectors = normal(3, objective.space.size, seed=21)
    found = objective.hvp(theta, vectors)
    assert found.shape == vectors.shape
    for row, vector in zip(found, vectors, strict=True):
        assert torch.equal(row, objective.hvp(theta, vector))


def test_the_same_call_gives_the_same_bits(case):
    theta, objective = case.point(), case.objective(batch_size=3)
    vectors = normal(2, objective.space.size, seed=22)
    kept = curvature(objective, theta)
    first = kept.products(vectors)
    assert torch.equal(first, kept.products(vectors))
    assert torch.equal(first, curvature(objective, theta).products(vectors))
    assert torch.equal(first, curvature(objective, theta, memory=0).products(vectors))
    assert torch.equal(first[1], kept.product(vectors[1]))


def test_is_symmetric_and_scales_with_the_cost():
    case = MODELS["regression"]
    theta = case.point()
    data = case.data()

    def scaled(out, y):
        return 7 * functional.mse_loss(out, y)

    plain = curvature(case.objective(batch_size=4), theta)
    times = curvature(tw.ModelObjective(case.model(), scaled, data, batch_size=4), theta)
    u, v = normal(2, plain.size, seed=23)
    assert float(u @ plain.product(v)) == pytest.approx(float(v @ plain.product(u)), rel=1e-10)
    torch.testing.assert_close(times.product(v), 7 * plain.product(v), rtol=1e-11, atol=1e-13)
    assert times.value == pytest.approx(7 * plain.value, rel=1e-13)


def test_single_precision_is_as_good_as_its_rounding(case):
    theta = case.point()
    exact = curvature(case.objective(batch_size=4), theta)
    single = curvature(case.objective(batch_size=4, dtype=torch.float32), theta.float())
    vector = normal(exact.size, seed=24)
    found, right = single.product(vector.float()), exact.product(vector)
    assert found.dtype == torch.float32
    # Some hundred roundings of 6e-8 of terms no larger than ‖H‖ ‖v‖.
    scale = float(torch.linalg.matrix_norm(exact.dense(), 2) * vector.norm())
    assert float((found.double() - right).norm()) < 2e-5 * scale


# --- what enters the cost enters its curvature ------------------------------------------------


def test_a_penalty_enters_once():
    case = MODELS["tied"]
    theta = case.point()
    penalty = lambda tensors: 0.5 * sum((t**3).sum() for t in tensors.values())  # noqa: E731
    bare = curvature(case.objective(batch_size=3), theta).dense()
    found = curvature(case.objective(batch_size=3, penalty=penalty), theta).dense()
    torch.testing.assert_close(found, bare + torch.diag(3 * theta), rtol=1e-11, atol=1e-12)


def test_masks_of_dropout_are_averaged():
    def build():
        return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(0.4), nn.Linear(8, 3))

    model = seeded(build, 1)
    x, y = normal(10, 3, seed=3), classes(10, count=3, seed=4)
    objective = tw.ModelObjective(
        model, nn.CrossEntropyLoss(), (x, y), dropout=tw.MonteCarlo(3, seed=5), batch_size=4
    )
    theta = objective.space.flatten(seeded(build, 2))
    vector, h = normal(objective.space.size, seed=25), 1e-5
    ahead, behind = (objective.value(theta + s * h * vector) for s in (1, -1))
    found = curvature(objective, theta)
    assert float(found.gradient @ vector) == pytest.approx((ahead - behind) / (2 * h), rel=1e-7)
    change = objective.gradient(theta + h * vector) - objective.gradient(theta - h * vector)
    torch.testing.assert_close(found.product(vector), change / (2 * h), rtol=1e-6, atol=1e-9)
    assert found.value == pytest.approx(objective.value(theta), rel=1e-13)
    alone = tw.ModelObjective(model, nn.CrossEntropyLoss(), (x, y), batch_size=4)
    assert (found.product(vector) - alone.hvp(theta, vector)).norm() > 1e-3


def test_a_tensor_that_no_pass_reaches_has_zeros():
    case = MODELS["unused"]
    found = curvature(case.objective(batch_size=4), case.point())
    idle = torch.zeros(found.size, dtype=torch.bool)
    for block in case.objective().space.blocks:
        idle[block.start : block.stop] = block.name.startswith("idle")
    assert idle.sum() == 6
    assert torch.count_nonzero(found.dense()[idle]) == 0
    assert torch.count_nonzero(found.dense()[~idle]) > 0


def test_a_number_of_terms_that_depends_on_theta_is_refused():
    def weighted(out, y):
        weights = out.softmax(1)[:, 0]
        return (weights * out[:, 1].square()).sum(), weights.sum()

    case = MODELS["perceptron"]
    objective = tw.ModelObjective(case.model(), weighted, case.data())
    for call in (objective.gradient, lambda t: curvature(objective, t)):
        with pytest.raises(ValueError, match=r"does not depend on θ.*Return a count that is det"):
            call(case.point())


def test_a_loss_that_is_not_finite_gives_values_that_are_not():
    def cost(out, y):
        return (out[:, 0] * torch.inf).mean() - (out[:, 1] * torch.inf).mean()

    case = MODELS["perceptron"]
    objective = tw.ModelObjective(case.model(), cost, case.data())
    found = curvature(objective, case.point())
    assert np.isnan(found.value)
    assert bool(found.gradient.isnan().any())
    root = curvature(tw.FunctionObjective(lambda t: (t - 2).sqrt().sum(), 2), [1.0, 3.0])
    assert np.isnan(root.value)
    product = root.product([1.0, 1.0])
    assert bool(product[0].isnan())
    with pytest.raises(ValueError, match=r"must be finite.*J is not finite at θ: look at `value`"):
        root.product(product)


# --- parts of θ ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("within", "names"),
    [
        ("0", ("0.weight", "0.bias")),
        ("2.weight", ("2.weight",)),
        (["2.bias", "0.weight"], ("0.weight", "2.bias")),
        (["0", "0.bias"], ("0.weight", "0.bias")),
    ],
)
def test_restricted_to_some_tensors(within, names):
    case = MODELS["perceptron"]
    theta, objective = case.point(), case.objective(batch_size=4)
    found = curvature(objective, theta, within=within)
    assert found.names == names
    places = torch.cat(
        [torch.arange(b.start, b.stop) for b in objective.space.blocks if b.name in names]
    )
    whole = dense_hessian(case, theta)
    torch.testing.assert_close(found.dense(), whole[places][:, places], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(
        found.gradient, objective.gradient(theta)[places], rtol=1e-12, atol=1e-14
    )
    assert found.value == pytest.approx(objective.value(theta), rel=1e-13)
    vectors = normal(2, found.size, seed=26)
    full = found.embedded(vectors)
    assert torch.equal(full[:, places], vectors)
    assert torch.count_nonzero(full) == vectors.numel()


def test_names_begin_at_dots_alone():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.layer2 = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x):
            return self.layer2(self.layer(x).tanh())

    objective = tw.ModelObjective(Two(), nn.MSELoss(), (torch.ones(2, 2), torch.zeros(2, 2)))
    theta = objective.space.flatten(Two())
    assert curvature(objective, theta, within="layer").names == ("layer.weight", "layer.bias")


def test_names_that_fit_nothing():
    case = MODELS["tied"]
    with pytest.raises(ValueError, match=r"'encoder.wieght' is neither. Near are 'encoder.weight'"):
        curvature(case.objective(), case.point(), within=["encoder.wieght"])
    with pytest.raises(ValueError, match=r"'zzz' is neither. Near are 'encoder.weight', 'encoder'"):
        curvature(case.objective(), case.point(), within="zzz")
    with pytest.raises(ValueError, match=r"must name a tensor at least; got none. Leave it out"):
        curvature(case.objective(), case.point(), within=[])


@pytest.mark.parametrize(
    ("vectors", "error", "message"),
    [
        (torch.ones(3, 5), tw.ParameterMismatchError, r"shape \(k, 31\).*got \(3, 5\). Use"),
        (torch.ones(31), tw.ParameterMismatchError, r"got \(31,\). Use `product` for one"),
        (torch.full((1, 31), torch.nan), ValueError, r"Vectors must be finite; some entries"),
    ],
)
def test_vectors_that_do_not_fit(vectors, error, message):
    case = MODELS["perceptron"]
    with pytest.raises(error, match=message):
        curvature(case.objective(), case.point()).products(vectors)


def test_odd_arguments():
    case = MODELS["perceptron"]
    with pytest.raises(ValueError, match=r"`kind` must be 'hessian' or 'gauss-newton'; got 'ggn'"):
        curvature(case.objective(), case.point(), kind="ggn")
    with pytest.raises(
        ValueError, match=r"must be one of 'formula', 'double backward', .*got 'fd'"
    ):
        curvature(case.objective(), case.point(), method="fd")
    with pytest.raises(ValueError, match=r"'formula' needs a function that was given one"):
        curvature(case.objective(), case.point(), method="formula")
    with pytest.raises(tw.ParameterMismatchError, match=r"or \(k, 31\) for a block; got \(2, 30\)"):
        case.objective().hvp(case.point(), torch.ones(2, 30))


@pytest.mark.parametrize("kind", ["hessian", "gauss-newton"])
def test_whole_matrices_are_products_with_unit_vectors(case, kind):
    found = curvature(case.objective(batch_size=4), case.point(), kind=kind)
    rows = found.products(torch.eye(found.size))
    torch.testing.assert_close(found.dense(), (rows + rows.T) / 2, rtol=1e-11, atol=1e-14)


def test_whole_matrices_of_operators_that_take_no_batches():
    class Square(torch.autograd.Function):
        """Has no rule for batches of slopes, and looks at a number on the way back."""

        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**2

        @staticmethod
        def backward(ctx, slope):
            (x,) = ctx.saved_tensors
            return 2 * x * slope * (1 if float(slope.detach().sum()) < torch.inf else 0)

    found = curvature(tw.FunctionObjective(lambda t: Square.apply(t).sum() ** 2, 2), [1.0, 2.0])
    assert found._together(torch.eye(2).double()) is None
    # (x² + y²)²: 12x² + 4y², 8xy
    assert found.dense().tolist() == [[28, 16], [16, 52]]


def test_no_vectors_have_no_products():
    case = MODELS["perceptron"]
    assert curvature(case.objective(), case.point()).products(torch.ones(0, 31)).shape == (0, 31)


# --- memory, and what is left as it was --------------------------------------------------------


def test_graphs_are_kept_while_memory_lasts():
    case = MODELS["perceptron"]
    theta, objective = case.point(), case.objective(batch_size=2)
    vectors = normal(2, 31, seed=27)
    right = curvature(objective, theta, memory=0)
    kept = []
    for memory in (0, 1, 900, 1 << 30):
        found = curvature(objective, theta, memory=memory)
        assert torch.equal(found.products(vectors), right.products(vectors))
        assert torch.equal(found.gradient, right.gradient)
        kept.append(len(found._kept))
    assert kept[0] == kept[1] == 0
    assert 0 < kept[2] < kept[3] == 6


@pytest.mark.parametrize("kind", ["hessian", "gauss-newton"])
def test_memory_goes_with_the_operator(kind):
    class Leaky(nn.Module):
        """Remembers where its activations are, but does not hold them."""

        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 3)

        def forward(self, x):
            hidden = self.first(x).tanh().exp()  # operators that save what they return
            seen.append(weakref.ref(hidden))
            return self.second(hidden)

    seen = []
    x, y = normal(6, 3, seed=3), classes(6, count=3, seed=4)
    objective = tw.ModelObjective(seeded(Leaky, 1), nn.CrossEntropyLoss(), (x, y), batch_size=3)
    found = curvature(objective, objective.space.flatten(seeded(Leaky, 2)), kind=kind)
    seen.clear()
    found.product(torch.ones(found.size))
    assert len(seen) == 2
    assert all(each() is not None for each in seen)
    del found
    assert all(each() is None for each in seen)  # at once: nothing waits for a collection


def test_passes_are_not_repeated_for_kept_graphs():
    calls = []

    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x):
            calls.append(len(x))
            return self.layer(x).tanh()

    x, y = normal(6, 3, seed=3), classes(6, count=3, seed=4)
    objective = tw.ModelObjective(Counting().double(), nn.CrossEntropyLoss(), (x, y), batch_size=3)
    found = curvature(objective, torch.ones(12), memory=1 << 20)
    calls.clear()
    found.products(torch.eye(12))
    found.products(torch.eye(12)), found.gradient, found.value
    assert calls == [3, 3]
    anew = curvature(objective, torch.ones(12), memory=0)
    calls.clear()
    anew.products(torch.eye(12))
    assert calls == [3, 3]  # once for all vectors


@pytest.mark.parametrize("fails", [False, True])
def test_everything_is_left_as_it_was(fails):
    def build():
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 3))

    def loss(out, y):
        if fails and trouble:
            raise OSError("the loss fails")
        return functional.cross_entropy(out, y), len(y)

    trouble = []
    model = seeded(build, 1).train()
    model[0].weight.grad = torch.ones(4, 3).double()
    before = copy.deepcopy(model.state_dict())
    x, y = normal(6, 3, seed=3), classes(6, count=3, seed=4)
    for policy in ("stored", "batch", "recalibrate"):
        trouble.clear()
        objective = tw.ModelObjective(
            model, loss, (x, y), batch_norm=policy, dropout=tw.MonteCarlo(2), batch_size=3
        )
        theta = objective.space.flatten(model)
        found = curvature(objective, theta)
        trouble.append(True)
        state = torch.get_rng_state()
        if fails:
            with pytest.raises(OSError, match="the loss fails"):
                found.product(theta)
        else:
            found.product(theta)
        assert torch.equal(torch.get_rng_state(), state)
        assert all("forward" not in vars(m) for m in objective.forward_pass.model.modules())
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert all(m.training for m in model.modules())
    assert model[0].weight.grad.sum() == 12
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_whatever_the_context(mode):
    case = MODELS["perceptron"]
    right = curvature(case.objective(), case.point()).product(torch.ones(31))
    with mode():
        found = curvature(case.objective(), case.point()).product(torch.ones(31))
    assert torch.equal(found, right)


def test_an_objective_of_another_kind_has_none():
    class Other(tw.Objective):
        space = MODELS["perceptron"].objective().space
        dtype, device = torch.float64, torch.device("cpu")

        def evaluate(self, theta, anchor_buffers=None):
            raise NotImplementedError

        value = gradient = hvp = check = describe = evaluate

    with pytest.raises(TypeError, match=r"can be taken apart; got Other. Use ModelObjective"):
        curvature(Other(), torch.ones(31))
