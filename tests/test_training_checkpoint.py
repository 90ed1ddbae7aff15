"""A training that was interrupted goes on with the same bits as without the interruption."""

from dataclasses import replace

import pytest
import torch

import thalweg as tw
from thalweg.problems import lstm
from thalweg.problems.corpora import chance_text
from thalweg.problems.networks import multilayer_perceptron
from thalweg.problems.recipes import RELU
from thalweg.training import train, train_language_model
from thalweg.training.checkpoint import TrainingCheckpoint

RECIPE = replace(RELU, hidden=(12, 12), batch_size=16, epochs=6, patience=6)
FACTS = {"seed": 3, "recipe": "small"}


class KilledError(Exception):
    """Stands for the end of a process."""


def killer(at):
    """Return a progress that ends the training once an epoch is over, and its file is written."""

    def progress(epoch, epochs, message):
        if epoch == at:
            raise KilledError(f"after epoch {epoch}")

    return progress


def classified(folder, progress=None, *, keep=True, record=True):
    draw = torch.Generator().manual_seed(1)
    x = torch.rand(60, 8, generator=draw)
    y = (x.sum(1) > 4).long() + (x[:, 0] > 0.5).long()
    model = multilayer_perceptron(RECIPE, 8, seed=2)
    checkpoint = TrainingCheckpoint(folder / "unfinished.safetensors", FACTS) if keep else None
    kept = None if checkpoint is None else checkpoint.load()
    recorder = None
    if record:
        resume = None if kept is None else kept.numbers["updates"]
        recorder = tw.Recorder(folder / "run", model, schedule=tw.Every(epochs=1), resume=resume)
    own = {"train": (x, y), "valid": (x[:20], y[:20])}
    how = {"progress": progress, "recorder": recorder, "checkpoint": checkpoint}
    return train(model, own, RECIPE, seed=3, **how), model


def check_same(one, other):
    """Raise unless two trainings came to the same, to the last bit."""
    for name in ("start", "solution"):
        first, second = getattr(one, name), getattr(other, name)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)
    assert one.best_epoch == other.best_epoch
    for split, losses in one.history.loss.items():
        assert losses.tolist() == other.history.loss[split].tolist()
    assert one.learning_rate.tolist() == other.learning_rate.tolist()
    assert one.momentum.tolist() == other.momentum.tolist()


@pytest.mark.parametrize("at", [0, 1, 4, 6])
def test_a_classifier_goes_on_with_the_same_bits(tmp_path, at):
    whole, model = classified(tmp_path / "whole", keep=False)
    with pytest.raises(KilledError, match="after epoch"):
        classified(tmp_path / "cut", killer(at))
    resumed, again = classified(tmp_path / "cut")
    check_same(whole, resumed)
    for one, other in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    runs = [tw.Trajectory.open(tmp_path / name / "run") for name in ("whole", "cut")]
    assert runs[0].step.tolist() == runs[1].step.tolist()
    for k in range(len(runs[0])):
        assert torch.equal(runs[0][k].theta, runs[1][k].theta)


def test_a_training_that_was_cut_differs_where_nothing_is_kept(tmp_path):
    whole, _ = classified(tmp_path / "whole", keep=False)
    with pytest.raises(KilledError, match="after epoch"):
        classified(tmp_path / "cut", killer(3))
    resumed, _ = classified(tmp_path / "cut")
    changed = replace(resumed, solution={k: v + 1e-7 for k, v in resumed.solution.items()})
    with pytest.raises(AssertionError, match="assert"):
        check_same(whole, changed)


def language(folder, progress=None, *, keep=True):
    data = chance_text(tokens=1200)
    recipe = replace(lstm.SMALL, units=6, epochs=4, unroll=10, dropout=0.3, constant_epochs=2)
    model = lstm.LanguageModel(recipe, 1 + int(max(p.max() for p in data.splits["train"])), seed=1)
    checkpoint = TrainingCheckpoint(folder / "unfinished.safetensors", FACTS) if keep else None
    own = {name: data.splits[name] for name in ("train", "valid")}
    how = {"progress": progress, "checkpoint": checkpoint}
    return train_language_model(model, own, recipe, seed=5, **how)


@pytest.mark.parametrize("at", [0, 2])
def test_a_language_model_goes_on_with_the_same_bits(tmp_path, at):
    whole = language(tmp_path, keep=False)
    with pytest.raises(KilledError, match="after epoch"):
        language(tmp_path, killer(at))
    check_same(whole, language(tmp_path))


def test_a_file_of_other_facts_or_a_damaged_one_is_not_taken_up(tmp_path):
    path = tmp_path / "kept.safetensors"
    kept = TrainingCheckpoint(path, FACTS)
    assert kept.load() is None
    kept.save({"epoch": 2, "updates": 7}, {"model": {"w": torch.ones(3)}, "none": {}})
    found = kept.load()
    assert found.numbers == {"epoch": 2, "updates": 7}
    assert found.states["model"]["w"].tolist() == [1, 1, 1]
    assert found.states["none"] == {}
    assert TrainingCheckpoint(path, {**FACTS, "seed": 4}).load() is None
    content = path.read_bytes()
    for damaged in (content[:20], b"", b"\xff" * 100):
        path.write_bytes(damaged)
        assert kept.load() is None
    kept.remove()
    kept.remove()
    assert not path.exists()
