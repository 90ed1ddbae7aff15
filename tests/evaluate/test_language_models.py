"""Sweeps over causal language models: the engine against a loop over points and documents."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import language_cases
import thalweg as tw
from cases import normal
from language_cases import DOCUMENTS, FAMILIES, ROUNDING, at, gpt2, llama, loop_loss
from thalweg.evaluate.identity import identity_of
from thalweg.evaluate.resident import Resident

ALPHA = np.array([-0.4, 0.0, 0.3, 0.75, 1.0, 1.2])


def cost(build, **options):
    """Return a model, its cost, and a line through its space."""
    model = build(**options)
    data = {
        "train": tw.packed(DOCUMENTS, 14),
        "valid": tw.padded(DOCUMENTS[:4], side="left"),
    }
    objective = tw.ModelObjective(model, tw.NextToken(), data)
    start = objective.space.flatten(model)
    return model, objective, tw.Line(start, start + 0.1 * normal(len(start), seed=6))


@pytest.mark.parametrize("build", FAMILIES.values(), ids=FAMILIES)
def test_a_profile_is_the_loop_over_points_and_documents(build):
    model, objective, line = cost(build)
    profile = tw.profile(objective, line, ALPHA, progress=False)
    for split, documents in {"train": DOCUMENTS, "valid": DOCUMENTS[:4]}.items():
        expected = [
            loop_loss(at(model, (1 - a) * line.start + a * line.end), documents) for a in ALPHA
        ]
        np.testing.assert_allclose(profile.loss[split], expected, rtol=ROUNDING[build])
    assert np.ptp(profile.loss["train"]) > 0.01


@pytest.mark.parametrize("build", FAMILIES.values(), ids=FAMILIES)
def test_a_plan_says_what_will_be_done(build):
    _, objective, line = cost(build)
    plan = tw.plan(objective, line, ALPHA)
    rows = sum(split.examples for split in objective.splits)
    assert (plan.points, plan.passes, plan.examples) == (6, 6, rows)
    assert plan.strategy in ("sequential", "vmap")
    assert plan.reasons
    assert plan.memory >= 3 * 8 * objective.space.size


@pytest.mark.parametrize("build", [gpt2, llama])
def test_finished_points_are_not_evaluated_again(build, tmp_path, monkeypatch):
    def swept(alpha):
        _, objective, line = cost(build)
        return tw.profile(objective, line, alpha, progress=False, keep=tmp_path)

    first = swept(ALPHA)
    finer = swept(np.sort(np.append(ALPHA, 0.5)))
    assert np.array_equal(np.delete(finer.loss["train"], 3), first.loss["train"])
    monkeypatch.setattr(Resident, "evaluate", lambda *_: pytest.fail("a point was evaluated"))
    assert np.array_equal(swept(ALPHA).loss["valid"], first.loss["valid"])
    with pytest.raises(pytest.fail.Exception, match="a point was evaluated"):
        swept([0.9])


def digest():
    """Return what tells the cost of a small model from others."""
    _, objective, line = cost(gpt2)
    anchors = [objective.point(anchor) for anchor in line.anchors]
    return identity_of(objective, line, anchors, "sequential").digest


def test_the_cost_is_the_same_in_another_process_and_from_another_place(tmp_path):
    model, objective, line = cost(gpt2)
    anchors = [objective.point(anchor) for anchor in line.anchors]
    facts = identity_of(objective, line, anchors, "sequential").facts
    done = subprocess.run(
        [sys.executable, "-c", "import test_language_models as t; print(t.digest())"],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
        env={
            "HF_HUB_OFFLINE": "1",
            "PYTHONHASHSEED": "1",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": ":".join([str(Path(language_cases.__file__).parent), *sys.path]),
        },
    )
    assert done.stdout.strip() == digest()
    digests = set()
    for place in ("here", "there"):
        model.save_pretrained(tmp_path / place)
        loaded = type(model).from_pretrained(tmp_path / place)
        again = tw.ModelObjective(loaded.double(), tw.NextToken(), tw.packed(DOCUMENTS, 14))
        digests.add(identity_of(again, line, anchors, "sequential").facts["model"]["sha256"])
    assert len(digests) == 1
    # And not the same where a setting is another.
    _, other, _ = cost(gpt2, activation_function="relu")
    assert identity_of(other, line, anchors, "sequential").differences(facts) == ["model"]
