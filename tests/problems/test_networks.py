import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from thalweg.problems.networks import (
    Maxout,
    ScaledDropout,
    multilayer_perceptron,
    project_columns,
)
from thalweg.problems.recipes import MAXOUT, RELU, RELU_WITHOUT_DROPOUT, SIGMOID


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def count(model):
    return sum(p.numel() for p in model.parameters())


@pytest.fixture
def seeded():
    # Dropout draws from the global random state, so here it is set, and put back afterwards.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(7)
        yield


@pytest.mark.parametrize(
    ("recipe", "parameters"),
    [
        (MAXOUT, 1_233_610),
        (RELU, 2_097_528),
        (RELU_WITHOUT_DROPOUT, 2_097_528),
        (SIGMOID, 2_097_528),
        (replace(MAXOUT, hidden=(1600, 1600)), 19_104_010),
    ],
)
def test_parameter_counts(recipe, parameters):
    assert count(multilayer_perceptron(recipe, inputs=784, seed=1)) == parameters


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)], ids=str
)
@pytest.mark.parametrize("recipe", [RELU, SIGMOID], ids=["relu", "sigmoid"])
def test_zero_softmax_weights_start_at_log_10(recipe, dtype, tolerance):
    model = multilayer_perceptron(recipe, inputs=784, seed=3).to(dtype).eval()
    x = torch.rand(50, 784, dtype=dtype, generator=generator())
    y = torch.randint(10, (50,), generator=generator())
    loss = nn.functional.cross_entropy(model(x), y)
    assert loss.item() == pytest.approx(math.log(10), rel=0, abs=tolerance)
    # The gradient of the hidden layers passes through the softmax weights, so it vanishes.
    loss.backward()
    for name, p in model.named_parameters():
        assert (p.grad.abs().max() == 0) == name.startswith("hidden")


def test_maxout_start_differs_from_log_10():
    model = multilayer_perceptron(MAXOUT, inputs=784, seed=3).double().eval()
    x = torch.rand(50, 784, dtype=torch.float64, generator=generator())
    y = torch.randint(10, (50,), generator=generator())
    loss = nn.functional.cross_entropy(model(x), y).item()
    assert 1e-9 < abs(loss - math.log(10)) < 1e-2


@pytest.mark.parametrize("recipe", [RELU, SIGMOID, MAXOUT], ids=["relu", "sigmoid", "maxout"])
def test_initial_parameters_fill_their_ranges(recipe):
    model = multilayer_perceptron(recipe, inputs=784, seed=5)
    for layer, reach in zip(("hidden1", "hidden2", "output"), recipe.init_ranges, strict=True):
        weight = getattr(model, layer).weight.detach().double()
        assert torch.all(getattr(model, layer).bias == 0)
        assert weight.abs().max() <= reach
        if reach > 0:
            assert weight.abs().max() > 0.99 * reach
            # Standard deviation of the mean of n uniform numbers: r / √(3n); five of those.
            assert abs(weight.mean()) < 5 * reach / math.sqrt(3 * weight.numel())
            assert weight.std() == pytest.approx(reach / math.sqrt(3), rel=0.02)


def test_initial_parameters_follow_the_seed_and_nothing_else():
    small = replace(RELU, hidden=(6, 5))
    before = torch.get_rng_state()
    first = multilayer_perceptron(small, inputs=4, seed=1).state_dict()
    again = multilayer_perceptron(small, inputs=4, seed=generator(1)).state_dict()
    other = multilayer_perceptron(small, inputs=4, seed=2).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["hidden1.weight"], other["hidden1.weight"])


def test_a_generator_goes_on_from_network_to_network():
    small = replace(RELU, hidden=(6, 5))
    source = generator(1)
    first = multilayer_perceptron(small, inputs=4, seed=source)
    second = multilayer_perceptron(small, inputs=4, seed=source)
    assert not torch.equal(first.hidden1.weight, second.hidden1.weight)


def test_networks_have_the_same_names_with_and_without_dropout():
    with_dropout = multilayer_perceptron(RELU, inputs=20, seed=1)
    without = multilayer_perceptron(RELU_WITHOUT_DROPOUT, inputs=20, seed=2)
    without.load_state_dict(with_dropout.state_dict())
    assert list(without.state_dict()) == [
        f"{layer}.{kind}"
        for layer in ("hidden1", "hidden2", "output")
        for kind in ("weight", "bias")
    ]
    assert [type(module) for module in without] == [
        nn.Flatten,
        nn.Linear,
        nn.ReLU,
        nn.Linear,
        nn.ReLU,
        nn.Linear,
    ]


@pytest.mark.parametrize("recipe", [RELU, SIGMOID, MAXOUT], ids=["relu", "sigmoid", "maxout"])
def test_dropout_stands_before_each_layer_with_the_scales_of_the_recipe(recipe):
    model = multilayer_perceptron(recipe, inputs=20, seed=1)
    modules = list(model)
    before = [
        modules[i]
        for i in range(len(modules))
        if i + 1 < len(modules) and isinstance(modules[i + 1], nn.Linear | Maxout)
    ]
    assert [(module.include, module.scale) for module in before] == list(recipe.dropout)


@pytest.mark.parametrize("recipe", [RELU, SIGMOID, MAXOUT], ids=["relu", "sigmoid", "maxout"])
def test_network_agrees_with_its_formula(recipe):
    recipe = replace(recipe, hidden=(6, 5), init_ranges=(0.7, 0.6, 0.5))
    model = multilayer_perceptron(recipe, inputs=8, seed=1, outputs=3).double().eval()
    state = model.state_dict()
    for name in list(state):  # biases that are not zero
        if name.endswith("bias"):
            shape = state[name].shape
            state[name] = torch.randn(shape, dtype=torch.float64, generator=generator(4))
    model.load_state_dict(state)
    x = torch.randn(7, 2, 4, dtype=torch.float64, generator=generator(2))
    expected = x.flatten(1)
    for number, units in ((1, 6), (2, 5)):
        z = expected @ state[f"hidden{number}.weight"].T + state[f"hidden{number}.bias"]
        expected = {
            "relu": lambda z: z.clamp(min=0),
            "sigmoid": lambda z: 1 / (1 + torch.exp(-z)),
            "maxout": lambda z, k=units: z.view(7, k, recipe.pieces).max(-1).values,
        }[recipe.activation](z)
    expected = expected @ state["output.weight"].T + state["output.bias"]
    torch.testing.assert_close(model(x), expected, rtol=1e-13, atol=1e-13)
    # Images and their rows are the same input.
    assert torch.equal(model(x), model(x.flatten(1)))


def test_networks_are_float32_whatever_the_default():
    try:
        torch.set_default_dtype(torch.float64)
        model = multilayer_perceptron(replace(MAXOUT, hidden=(3, 3)), inputs=4, seed=1)
    finally:
        torch.set_default_dtype(torch.float32)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("sizes", [{"inputs": 0}, {"inputs": 4, "outputs": 0}])
def test_network_needs_inputs_and_outputs(sizes):
    with pytest.raises(ValueError, match="at least one input and one output; got inputs="):
        multilayer_perceptron(RELU, seed=1, **sizes)


def test_maxout_agrees_with_a_loop_over_pieces():
    layer = Maxout(inputs=3, units=4, pieces=5).double()
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randn(p.shape, dtype=torch.float64, generator=generator(1)))
    x = torch.randn(2, 6, 3, dtype=torch.float64, generator=generator(2))
    out = layer(x)
    assert out.shape == (2, 6, 4)
    for unit in range(4):
        rows = range(5 * unit, 5 * unit + 5)
        pieces = [x @ layer.weight[row] + layer.bias[row] for row in rows]
        expected = torch.stack(pieces).max(0).values
        torch.testing.assert_close(out[..., unit], expected, rtol=1e-14, atol=1e-14)


def test_maxout_does_not_depend_on_the_order_of_pieces():
    layer = Maxout(inputs=3, units=4, pieces=5)
    x = torch.randn(6, 3, generator=generator(2))
    before = layer(x)
    order = torch.cat(
        [5 * unit + torch.randperm(5, generator=generator(unit)) for unit in range(4)]
    )
    with torch.no_grad():
        layer.weight.copy_(layer.weight[order])
        layer.bias.copy_(layer.bias[order])
    torch.testing.assert_close(layer(x), before)


def test_maxout_gradient():
    layer = Maxout(inputs=3, units=2, pieces=3).double()
    x = torch.randn(4, 3, dtype=torch.float64, generator=generator(3), requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,))


@pytest.mark.parametrize("sizes", [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_maxout_needs_positive_sizes(sizes):
    with pytest.raises(ValueError, match=r"at least one input, one unit and one piece; got"):
        Maxout(*sizes)


def test_text_form_names_the_settings():
    assert repr(Maxout(3, 4, 5)) == "Maxout(inputs=3, units=4, pieces=5)"
    assert repr(ScaledDropout(0.8, 1.0)) == "ScaledDropout(include=0.8, scale=1.0)"


@pytest.mark.usefixtures("seeded")
@pytest.mark.parametrize(("include", "scale"), [(0.8, 1.0), (0.8, 1.25), (0.5, 2.0)])
def test_dropout_keeps_the_stated_share_at_the_stated_scale(include, scale):
    x = torch.full((200, 500), 3.0, dtype=torch.float64)
    out = ScaledDropout(include, scale)(x)
    kept = out != 0
    assert torch.all(out[kept] == 3.0 * scale)
    # One look at a fixed seed, four standard deviations of a binomial share.
    bound = 4 * math.sqrt(include * (1 - include) / x.numel())
    assert kept.double().mean().item() == pytest.approx(include, rel=0, abs=bound)
    # No two examples share a mask.
    assert len(torch.unique(kept, dim=0)) == len(x)


@pytest.mark.usefixtures("seeded")
def test_dropout_that_keeps_everything_only_scales():
    x = torch.randn(5, 6, generator=generator(1))
    assert torch.equal(ScaledDropout(1.0, 0.5)(x), 0.5 * x)


def test_dropout_is_the_identity_in_evaluation_mode():
    x = torch.randn(5, 6, generator=generator(1))
    before = torch.get_rng_state()
    assert ScaledDropout(0.8, 1.0).eval()(x) is x
    assert torch.equal(torch.get_rng_state(), before)


def test_dropout_masks_follow_the_global_random_state_in_every_type():
    x = torch.ones(30, 40)
    masks = []
    for seed, dtype in ((1, torch.float32), (1, torch.float64), (2, torch.float32)):
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            masks.append(ScaledDropout(0.5, 2.0)(x.to(dtype)))
    assert masks[1].dtype == torch.float64
    assert torch.equal(masks[0].double(), masks[1])
    assert not torch.equal(masks[0], masks[2])


@pytest.mark.usefixtures("seeded")
def test_dropout_masks_are_common_to_stacked_models_where_asked():
    weights = 1 + torch.rand(3, 4, 50, generator=generator(1))
    x = 1 + torch.rand(6, 4, generator=generator(2))
    dropout = ScaledDropout(0.5, 2.0)
    out = torch.func.vmap(lambda w: dropout(x @ w), randomness="same")(weights)
    kept = out != 0
    assert torch.equal(kept[0], kept[1])
    assert torch.equal(kept[0], kept[2])


@pytest.mark.parametrize("settings", [(0.0, 1.0), (1.2, 1.0), (0.5, 0.0), (0.5, math.inf)])
def test_dropout_refuses_numbers_out_of_range(settings):
    with pytest.raises(ValueError, match=r"probability `include` in \(0, 1\] .* got include="):
        ScaledDropout(*settings)


@pytest.mark.parametrize("shape", [(40, 30), (8, 3, 5, 5)], ids=["matrix", "kernels"])
def test_projection_agrees_with_its_formula(shape):
    weight = torch.randn(shape, dtype=torch.float64, generator=generator(1))
    weight[1] *= 1e-3
    weight[2] = 0
    expected = torch.empty_like(weight)
    for row in range(len(weight)):
        norm = math.sqrt(sum(w * w for w in weight[row].flatten().tolist()))
        expected[row] = weight[row] * min(max(norm, 0.0), 1.5) / (1e-7 + norm)
    projected = weight.clone()
    project_columns(projected, limit=1.5)
    torch.testing.assert_close(projected, expected, rtol=1e-14, atol=0)
    norms = projected.flatten(1).norm(dim=1)
    assert norms.max() <= 1.5
    assert norms.max() > 1.5 * (1 - 1e-6)
    torch.testing.assert_close(projected[1], weight[1], rtol=1e-4, atol=0)
    assert torch.all(projected[2] == 0)


def test_projection_limits_norms_in_float32():
    weight = torch.randn(300, 4800, generator=generator(1))
    project_columns(weight, limit=1.9365)
    assert weight.double().norm(dim=1).max() <= 1.9365 * (1 + 1e-6)


def test_projection_treats_each_piece_of_a_maxout_unit_by_itself():
    layer = Maxout(inputs=2, units=1, pieces=2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[30.0, 40.0], [0.3, 0.4]]))
    project_columns(layer.weight, limit=1.0)
    torch.testing.assert_close(layer.weight.data, torch.tensor([[0.6, 0.8], [0.3, 0.4]]))
    assert layer.weight.requires_grad


def test_an_infinite_limit_changes_nothing():
    weight = torch.randn(3, 4, generator=generator(1))
    before = weight.clone()
    project_columns(weight, limit=math.inf)
    assert torch.equal(weight, before)


@pytest.mark.parametrize(
    ("shape", "limit"), [((4,), 1.0), ((4, 2), 0.0), ((4, 2), -1.0), ((4, 2), math.nan)]
)
def test_projection_refuses_biases_and_limits_that_are_not_positive(shape, limit):
    with pytest.raises(ValueError, match=r"weight matrix \(units, inputs\) and a positive limit"):
        project_columns(torch.ones(shape), limit)
