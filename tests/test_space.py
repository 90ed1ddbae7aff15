import copy
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from cases import MODELS, Tied, normal, perceptron, seeded
from thalweg import ParameterMismatchError, ParameterSpace
from thalweg.space import TensorBlock, plain_module, remembered_buffers

# --- the bijection --------------------------------------------------------------------------


def test_names_shapes_and_order_are_those_of_named_parameters(case):
    model = case.model()
    space = ParameterSpace.of(model)
    trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert space.names == tuple(trainable)
    assert [block.shape for block in space.blocks] == [tuple(p.shape) for p in trainable.values()]
    assert space.size == sum(p.numel() for p in trainable.values())
    assert [block.start for block in space.blocks[1:]] == [b.stop for b in space.blocks[:-1]]


def test_flatten_is_torchs_vector_of_the_trainable_parameters(case):
    model = case.model()
    theta = ParameterSpace.of(model).flatten(model)
    trainable = [p.detach() for p in model.parameters() if p.requires_grad]
    assert torch.equal(theta, nn.utils.parameters_to_vector(trainable))


def test_unflatten_undoes_flatten(case):
    space, theta = ParameterSpace.of(case.model()), case.point()
    tensors = space.unflatten(theta)
    assert torch.equal(space.flatten(case.at(theta)), theta)
    assert torch.equal(torch.cat([t.flatten() for t in tensors.values()]), theta)
    assert torch.equal(space.flatten(tensors), theta)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_unflatten_keeps_type_and_gradients(dtype):
    space = ParameterSpace.of(nn.Linear(3, 2))
    theta = normal(8, seed=1, dtype=dtype).requires_grad_()
    tensors = space.unflatten(theta)
    assert {t.dtype for t in tensors.values()} == {dtype}
    tensors["bias"].sum().backward()
    assert theta.grad.tolist() == [0] * 6 + [1, 1]


def test_unflatten_accepts_a_strided_vector():
    space = ParameterSpace.of(nn.Linear(3, 2))
    matrix = normal(8, 5, seed=2)
    assert torch.equal(space.unflatten(matrix[:, 3])["bias"], matrix[6:, 3])


@pytest.mark.parametrize("build", [lambda: nn.Linear(3, 2, bias=False), perceptron])
def test_flatten_copies(build):
    model = build()
    space = ParameterSpace.of(model)
    theta = space.flatten(model)
    before = theta.clone()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert torch.equal(theta, before)
    assert not theta.requires_grad


def test_flatten_takes_type_and_widest_type():
    model = nn.Sequential(nn.Linear(2, 2).half(), nn.Linear(2, 2).double())
    space = ParameterSpace.of(model)
    assert space.flatten(model).dtype == torch.float64
    assert space.flatten(model, dtype=torch.float32, device="cpu").dtype == torch.float32


def test_a_scalar_and_an_empty_parameter_are_parameters():
    model = nn.Module()
    model.scale = nn.Parameter(torch.tensor(3.0))
    model.none = nn.Parameter(torch.empty(0, 2))
    model.shift = nn.Parameter(torch.tensor([1.0, 2.0]))
    space = ParameterSpace.of(model)
    assert [block.size for block in space.blocks] == [1, 0, 2]
    assert space.flatten(model).tolist() == [3, 1, 2]


# --- shared, frozen and further tensors -----------------------------------------------------


def test_a_shared_tensor_counts_once_under_its_first_name():
    model = seeded(Tied, 1)
    space = ParameterSpace.of(model)
    assert dict(space.aliases) == {"decoder.weight": "encoder.weight"}
    assert "decoder.weight" not in space.names
    assert space.size == 3 * 3 + 3 + 3 * 3 + 3 + 3
    assert torch.equal(space.flatten(model.state_dict()), space.flatten(model))


def test_a_shared_module_counts_once():
    layer = nn.Linear(2, 2)
    space = ParameterSpace.of(nn.Sequential(layer, nn.Tanh(), layer))
    assert space.names == ("0.weight", "0.bias")
    assert dict(space.aliases) == {"2.weight": "0.weight", "2.bias": "0.bias"}


def test_a_shared_tensor_may_come_under_either_name():
    model = seeded(Tied, 1)
    space = ParameterSpace.of(model)
    for missing in ("encoder.weight", "decoder.weight"):
        table = {n: t for n, t in model.state_dict().items() if n != missing}
        assert torch.equal(space.flatten(table), space.flatten(model))


def test_a_shared_tensor_that_differs_is_refused():
    model = seeded(Tied, 1)
    table = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    table["decoder.weight"] += 1
    with pytest.raises(ParameterMismatchError, match=r"are one shared tensor.*Untie them"):
        ParameterSpace.of(model).flatten(table)


def test_frozen_tensors_and_buffers_are_fixed():
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    model[0].weight.requires_grad_(False)
    space = ParameterSpace.of(model)
    assert space.names == ("0.bias", "1.weight", "1.bias")
    assert space.fixed == {
        "0.weight",
        "1.running_mean",
        "1.running_var",
        "1.num_batches_tracked",
    }
    table = model.state_dict()
    del table["0.weight"], table["1.running_mean"]
    assert space.flatten(table).shape == (9,)


def test_frozen_shared_tensors_are_fixed_under_every_name():
    model = seeded(Tied, 1)
    model.encoder.weight.requires_grad_(False)
    space = ParameterSpace.of(model)
    assert {"encoder.weight", "decoder.weight"} <= space.fixed
    assert not space.aliases


def test_a_point_remembers_running_statistics_and_nothing_else():
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    model[0].weight.requires_grad_(False)
    theta = ParameterSpace.of(model).flatten(model)
    remembered = remembered_buffers(theta)
    assert set(remembered) == {"1.running_mean", "1.running_var"}
    model(normal(5, 2, seed=3, dtype=torch.float32))
    assert remembered["1.running_mean"].tolist() == [0, 0, 0]
    assert remembered_buffers(theta.clone()) is None


# --- blocks ---------------------------------------------------------------------------------

SCALE = ("normalisation", None)


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (lambda: nn.Linear(3, 2), {"weight": ("weight", 0), "bias": ("bias", None)}),
        (lambda: nn.Conv2d(3, 2, 1), {"weight": ("weight", 0), "bias": ("bias", None)}),
        (lambda: nn.ConvTranspose1d(3, 2, 1), {"weight": ("weight", 1), "bias": ("bias", None)}),
        (lambda: nn.Embedding(3, 2), {"weight": ("weight", 0)}),
        (lambda: nn.LayerNorm(3), {"weight": SCALE, "bias": SCALE}),
        (lambda: nn.BatchNorm1d(3), {"weight": SCALE, "bias": SCALE}),
        (lambda: nn.GroupNorm(1, 3), {"weight": SCALE, "bias": SCALE}),
        (nn.PReLU, {"weight": ("bias", None)}),
    ],
)
def test_kinds_and_filters(build, expected):
    blocks = ParameterSpace.of(build()).blocks
    assert {b.name: (b.kind, b.filter_axis) for b in blocks} == expected


def test_a_block_knows_its_place_and_layer():
    block = ParameterSpace.of(perceptron()).blocks[2]
    assert (block.name, block.layer, block.shape) == ("2.weight", "2", (3, 4))
    assert (block.start, block.size, block.stop) == (16, 12, 28)
    theta = normal(31, seed=4)
    assert torch.equal(block.of(theta), theta[16:28].view(3, 4))
    assert TensorBlock("alone", (2,), 0).layer == ""


def test_a_plain_space_is_one_tensor():
    space = ParameterSpace.plain(4)
    assert (space.size, space.names) == (4, ("theta",))
    assert space.unflatten(normal(4, seed=5))["theta"].shape == (4,)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])  # noqa: S301
def test_spaces_are_values(copied):
    space = ParameterSpace.of(seeded(Tied, 1))
    assert copied(space) == space
    assert space != ParameterSpace.of(perceptron())
    with pytest.raises(TypeError, match="item assignment"):
        space.aliases["x"] = "y"


# --- sources --------------------------------------------------------------------------------


class OwnModule(nn.Module):
    """A model with a layer called like the prefix of a wrapper."""

    def __init__(self):
        super().__init__()
        self.module = nn.Linear(3, 2)


@pytest.mark.parametrize(
    "prefix", ["", "module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod."]
)
@pytest.mark.parametrize("build", [perceptron, OwnModule, Tied])
def test_prefixes_of_wrappers_are_understood(prefix, build):
    model = seeded(build, 1)
    space = ParameterSpace.of(model)
    table = {prefix + name: tensor for name, tensor in model.state_dict().items()}
    assert torch.equal(space.flatten(table), space.flatten(model))


def test_wrapped_models_are_unwrapped():
    model = perceptron()
    for wrapped in (
        nn.DataParallel(model),
        torch.compile(model, backend="eager"),
        torch.compile(nn.DataParallel(model), backend="eager"),
    ):
        assert plain_module(wrapped) is model
        assert ParameterSpace.of(wrapped) == ParameterSpace.of(model)
        assert torch.equal(
            ParameterSpace.of(model).flatten(wrapped), ParameterSpace.of(model).flatten(model)
        )


@pytest.mark.parametrize("kind", ["safetensors", "torch", "checkpoint"])
@pytest.mark.parametrize("as_text", [True, False])
def test_files(tmp_path, kind, as_text):
    model = seeded(perceptron, 1)
    path = tmp_path / ("model.safetensors" if kind == "safetensors" else "model.pt")
    if kind == "safetensors":
        save_file(model.state_dict(), path)
    else:
        table = model.state_dict()
        torch.save(table if kind == "torch" else {"epoch": 3, "model_state_dict": table}, path)
    space = ParameterSpace.of(model)
    assert torch.equal(space.flatten(str(path) if as_text else path), space.flatten(model))


def test_other_entries_of_a_table_are_left_aside():
    model = seeded(perceptron, 1)
    table = {**model.state_dict(), "epoch": 3, "_extra_state": b""}
    assert ParameterSpace.of(model).flatten(table).shape == (31,)


# --- errors ---------------------------------------------------------------------------------


def all_frozen():
    return perceptron().requires_grad_(False)


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (
            lambda: "model",
            TypeError,
            r"A torch.nn.Module is needed; got str. For a closed form use",
        ),
        (all_frozen, ValueError, r"trainable parameters is needed; none of Sequential's.*Unfreeze"),
        (
            lambda: nn.LazyLinear(2),
            TypeError,
            r"must have a shape; 'weight' is lazy. Run the model",
        ),
        (
            lambda: nn.Linear(2, 2, dtype=torch.complex64),
            TypeError,
            r"must be real; 'weight' is complex. Hold its real view",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
def test_models_without_a_space(build, error, message):
    with pytest.raises(error, match=message):
        ParameterSpace.of(build())


def other(change):
    """Return the state of a network after a change to it."""
    table = seeded(perceptron, 1).state_dict()
    change(table)
    return table


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            {},
            r"got another architecture: missing '0.weight', '0.bias', '2.weight', '2.bias'\. Build",
        ),
        ({"epoch": 3}, r"missing '0.weight'"),
        ({"body.weight": torch.ones(2)}, r"missing '0.weight'.*unknown 'body.weight'"),
        ({"weight": np.ones(3)}, r"missing '0.weight'"),
        (other(lambda t: t.pop("2.bias")), r"architecture: missing '2.bias'\. Build"),
        (
            other(lambda t: t.update({"4.weight": torch.ones(1)})),
            r"architecture: unknown '4.weight'\. Build the objective from",
        ),
        (
            other(lambda t: t.update({"2.bias": torch.ones(5)})),
            r"'2.bias' has shape \(5,\), not \(3,\)\. Build",
        ),
        (
            nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 3)),
            r"architecture: unknown '1.bias', '1.weight'\. Build",
        ),
        (nn.Sequential(*[nn.Linear(1, 1) for _ in range(5)]), r"and \d more"),
    ],
)
def test_another_architecture_is_refused(table, message):
    with pytest.raises(ParameterMismatchError, match=message):
        ParameterSpace.of(perceptron()).flatten(table)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_parameters_that_are_not_finite_are_refused(value):
    table = other(lambda t: t["2.weight"].__setitem__((1, 2), value))
    with pytest.raises(ValueError, match=r"must be finite; '2.weight' holds NaN.*Use a checkpoint"):
        ParameterSpace.of(perceptron()).flatten(table)


def test_a_source_of_another_kind_is_refused():
    with pytest.raises(TypeError, match=r"or a path is needed; got int. Pass `model`"):
        ParameterSpace.of(perceptron()).flatten(3)


@pytest.mark.parametrize("shape", [(30,), (32,), (31, 1), ()])
def test_a_vector_of_another_shape_is_refused(shape):
    with pytest.raises(ParameterMismatchError, match=r"has shape \(31,\); got .*Make it with"):
        ParameterSpace.of(perceptron()).unflatten(torch.ones(shape))


def test_every_network_of_the_table_has_a_space_of_its_own_size():
    assert {name: ParameterSpace.of(case.model()).size for name, case in MODELS.items()} == {
        "perceptron": 31,
        "tied": 27,
        "frozen": 16,
        "unused": 19,
        "convolution": 184,
        "attention": 95,
        "recurrent": 120,
        "weighted": 31,
        "sequences": 42,
        "regression": 32,
        "binary": 21,
    }


class Partly(nn.Module):
    """A frozen layer, a buffer of its own, running statistics and something to train."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.base = nn.Linear(3, 3)
        self.norm = nn.BatchNorm1d(3)
        self.head = nn.Linear(3, 2)
        nn.init.constant_(self.base.weight, 0.5 * scale).requires_grad_(False)
        nn.init.constant_(self.base.bias, 0.1).requires_grad_(False)
        self.register_buffer("shift", torch.ones(3))


def test_frozen_parameters_of_another_model_are_refused():
    space = ParameterSpace.of(Partly())
    assert space.flatten(Partly()).shape == (space.size,)
    with pytest.raises(ParameterMismatchError, match=r"Frozen parameters .*differ in 'base\.w"):
        space.flatten(Partly(scale=2.0).state_dict())


def test_frozen_parameters_are_compared_in_the_type_of_the_model():
    space = ParameterSpace.of(Partly(scale=1.1).bfloat16())
    assert space.flatten(Partly(scale=1.1)).dtype == torch.float32


def test_other_buffers_are_named_in_a_warning_and_statistics_are_not():
    space, other = ParameterSpace.of(Partly()), Partly()
    other.norm.running_mean += 1
    other.norm.num_batches_tracked += 1
    space.flatten(other)
    other.shift += 1
    with pytest.warns(RuntimeWarning, match=r"The buffers 'shift' differ .*\[other-buffers\]"):
        space.flatten(other)


def test_a_fixed_tensor_that_is_complex_or_holds_nan_is_compared_too():
    model = Partly()
    model.register_buffer("phase", torch.tensor([1 + 2j]))
    model.register_buffer("unknown", torch.tensor([float("nan")]))
    space = ParameterSpace.of(model)
    assert space.flatten(model).shape == (space.size,)
    model.phase += 1j
    with pytest.warns(RuntimeWarning, match="'phase' differ"):
        space.flatten(model)


def test_a_network_inside_the_module_of_a_framework_is_found():
    model = Partly()
    space = ParameterSpace.of(model)
    held = {f"network.{name}": tensor for name, tensor in model.state_dict().items()}
    held["loss.weight"] = torch.ones(2)
    assert torch.equal(space.flatten(held), space.flatten(model))
    twice = held | {f"average.{name}": tensor for name, tensor in model.state_dict().items()}
    with pytest.raises(ParameterMismatchError, match=r"missing 'norm\.weight'"):
        space.flatten(twice)
