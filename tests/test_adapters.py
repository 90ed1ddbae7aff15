"""Adapters of PEFT: only they move, and a point may be what PEFT saves."""

import copy

import pytest
import torch
from safetensors.torch import load_file

import thalweg as tw
from cases import generator, normal, seeded
from language_cases import DOCUMENTS, ROUNDING, gpt2, llama, loop_loss

peft = pytest.importorskip("peft", reason="needs PEFT (pip install 'thalweg[hf]')")

BASE = llama()

SETTINGS = {
    "lora": {"target_modules": ["q_proj", "v_proj"]},
    "dora with a norm": {
        "target_modules": ["q_proj", "down_proj"],
        "use_dora": True,
        "modules_to_save": ["norm"],
    },
    "head and embedding": {"target_modules": ["embed_tokens", "lm_head", "o_proj"]},
}


def adapted(settings="lora", seed=1, rank=2, name="default"):
    """Put an adapter whose matrices are all away from 0 on a copy of the base."""
    config = peft.LoraConfig(r=rank, lora_alpha=5, task_type="CAUSAL_LM", **SETTINGS[settings])
    base = copy.deepcopy(BASE)
    model = seeded(lambda: peft.get_peft_model(base, config, adapter_name=name), seed)
    draw = generator(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=draw, dtype=torch.float64)
                parameter.add_(0.1 * noise)
    return model.eval()


def cost(model):
    return tw.ModelObjective(model, tw.NextToken(), tw.packed(DOCUMENTS, 14))


@pytest.mark.parametrize("settings", SETTINGS)
def test_only_the_adapter_moves(settings):
    model = adapted(settings)
    objective = cost(model)
    trainable, _ = model.get_nb_trainable_parameters()
    assert objective.space.size == trainable < BASE.num_parameters() / 2
    assert all("lora_" in name or "modules_to_save" in name for name in objective.space.names)
    expected = loop_loss(model)
    theta = objective.space.flatten(model)
    assert objective.value(theta) == pytest.approx(expected, rel=ROUNDING[llama])
    assert abs(expected - loop_loss(BASE)) > 1e-3


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_line_between_two_adapters(settings):
    first, second = adapted(settings, seed=1), adapted(settings, seed=2)
    objective = cost(first)
    line = tw.Line(objective.space.flatten(first), objective.space.flatten(second))
    profile = tw.profile(objective, line, [0.0, 0.4, 1.0], progress=False)
    between = copy.deepcopy(first)
    with torch.no_grad():
        for mine, theirs in zip(between.parameters(), second.parameters(), strict=True):
            mine.lerp_(theirs, 0.4)
    # Merged into the base, the adapter is a model like any other.
    models = [first, between, second]
    expected = [loop_loss(copy.deepcopy(model).merge_and_unload()) for model in models]
    assert profile.loss["train"] == pytest.approx(expected, rel=1e-6)


def test_the_line_is_in_the_factors_and_not_in_their_product():
    first, second = adapted(seed=1), adapted(seed=2)
    space = tw.ParameterSpace.of(first)
    points = [space.unflatten(space.flatten(model)) for model in (first, second)]
    stem = space.names[0].removesuffix("lora_A.default.weight")
    a, b = f"{stem}lora_A.default.weight", f"{stem}lora_B.default.weight"
    product = (points[0][b] + points[1][b]) @ (points[0][a] + points[1][a]) / 4
    mean = (points[0][b] @ points[0][a] + points[1][b] @ points[1][a]) / 2
    assert float((product - mean).norm() / mean.norm()) > 0.1


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("name", ["default", "mine"])
def test_what_peft_saves_is_a_point(settings, name, tmp_path):
    model = adapted(settings, name=name)
    save(model, tmp_path)
    folder = tmp_path if name == "default" else tmp_path / name
    space = tw.ParameterSpace.of(model)
    theta = space.flatten(model)
    file = folder / "adapter_model.safetensors"
    for source in (folder, str(folder), file, load_file(file), model.state_dict()):
        assert torch.equal(space.flatten(source), theta)
    assert space.names[0] not in load_file(file)
    # The point is that of the adapter when PEFT itself loads it onto the base.
    loaded = peft.PeftModel.from_pretrained(copy.deepcopy(BASE), folder).eval()
    value = cost(model).value(space.flatten(folder))
    assert value == pytest.approx(loop_loss(loaded), rel=ROUNDING[llama])


def save(model, folder):
    """Save an adapter; that the embedding goes with it where it is adapted is told in a warning."""
    embedding = any("embed_tokens.lora" in name for name, _ in model.named_parameters())
    model.save_pretrained(folder, save_embedding_layers=embedding)


def test_an_adapter_in_a_torch_file(tmp_path):
    model = adapted()
    model.save_pretrained(tmp_path, safe_serialization=False)
    assert (tmp_path / "adapter_model.bin").is_file()
    space = tw.ParameterSpace.of(model)
    assert torch.equal(space.flatten(tmp_path), space.flatten(model))


def test_the_active_one_of_two_adapters_moves(tmp_path):
    model = adapted()
    model.save_pretrained(tmp_path)
    model.add_adapter("other", peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    space = tw.ParameterSpace.of(model)
    assert all(".default." in name for name in space.names)
    assert torch.equal(space.flatten(tmp_path), space.flatten(model))


def test_an_adapter_of_another_rank_is_refused(tmp_path):
    adapted(rank=3).save_pretrained(tmp_path)
    space = tw.ParameterSpace.of(adapted())
    with pytest.raises(tw.ParameterMismatchError, match=r"lora_A.default.weight' has shape \(3,"):
        space.flatten(tmp_path)


def test_an_adapter_of_other_layers_is_refused(tmp_path):
    adapted("dora with a norm").save_pretrained(tmp_path)
    space = tw.ParameterSpace.of(adapted())
    with pytest.raises(tw.ParameterMismatchError, match=r"missing .* unknown .*down_proj"):
        space.flatten(tmp_path)


def test_an_adapter_is_no_point_of_its_base(tmp_path):
    adapted().save_pretrained(tmp_path)
    with pytest.raises(tw.ParameterMismatchError, match=r"missing .* unknown .*lora_A"):
        tw.ParameterSpace.of(BASE).flatten(tmp_path)


def test_layers_that_keep_their_weights_transposed():
    base = gpt2()
    config = peft.LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True)
    model = seeded(lambda: peft.get_peft_model(base, config), 1).eval()
    objective = cost(model)
    theta = objective.space.flatten(model) + 0.1 * normal(objective.space.size, seed=3)
    moved = copy.deepcopy(model)
    trainable = [p for p in moved.parameters() if p.requires_grad]
    torch.nn.utils.vector_to_parameters(theta, trainable)
    assert objective.value(theta) == pytest.approx(loop_loss(moved), rel=ROUNDING[gpt2])
