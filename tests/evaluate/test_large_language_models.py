"""Language models from folders of safetensors files, tensor by tensor, and sharded over ranks."""

import jobs
import numpy as np
import pytest
import torch

import thalweg as tw
from cases import normal
from language_cases import DOCUMENTS, at, gpt2, llama

ALPHA = np.array([-0.25, 0.0, 0.4, 1.0])


def saved(folder, build):
    """Keep two models as Transformers does, in several files with an index; return their points."""
    model = build()
    space = tw.ParameterSpace.of(model)
    start = space.flatten(model)
    thetas = [start, start + 0.1 * normal(len(start), seed=6)]
    for name, theta in zip("ab", thetas, strict=True):
        at(model, theta).save_pretrained(folder / name, max_shard_size="40KB")
    return thetas


def cost(model, **options):
    return tw.ModelObjective(
        model,
        tw.NextToken(),
        {"train": tw.packed(DOCUMENTS, 14), "valid": tw.padded(DOCUMENTS[:4])},
        metrics={"error": tw.token_error_rate},
        batch_size=2,
        **options,
    )


def numbers(profile):
    tables = [*profile.loss.values(), *profile.metrics["error"].values()]
    return np.array([list(table) for table in tables])


def line_from_disk(folder, family, shard):
    objective = cost({"gpt2": gpt2, "llama": llama}[family](), shard=shard)
    ends = [tw.StoredPoint(objective.space, f"{folder}/{name}") for name in "ab"]
    profile = tw.profile(objective, tw.Line(*ends), ALPHA, progress=False)
    assert tw.plan(objective, tw.Line(*ends), ALPHA).strategy == "tensor by tensor"
    return numbers(profile).tolist()


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_line_between_two_folders(family, tmp_path):
    build = {"gpt2": gpt2, "llama": llama}[family]
    thetas = saved(tmp_path, build)
    assert len(list((tmp_path / "a").glob("*.safetensors"))) > 1
    objective = cost(build())
    assert torch.equal(objective.space.flatten(tmp_path / "b"), thetas[1])
    found = line_from_disk(tmp_path, family, False)
    right = tw.profile(objective, tw.Line(*thetas), ALPHA, progress=False)
    # Transformers keeps norms in float32, where the last bit of a float64 can decide a rounding.
    np.testing.assert_allclose(found, numbers(right), rtol=1e-6)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_two_ranks_share_a_model_of_transformers(family, tmp_path):
    saved(tmp_path, {"gpt2": gpt2, "llama": llama}[family])
    alone = line_from_disk(tmp_path, family, False)
    for found in jobs.on_ranks(2, line_from_disk, tmp_path, family, True):
        np.testing.assert_allclose(found, alone, rtol=1e-12)
