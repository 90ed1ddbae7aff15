import math
from dataclasses import replace

import pytest
import torch

import thalweg as tw
from thalweg.errors import DataUnavailableError
from thalweg.problems.corpora import chance_text, penn_treebank, streams_of, tiny_shakespeare
from thalweg.problems.lstm import LARGE, MEDIUM, SMALL, LanguageModel, stream_loss
from thalweg.training import train_language_model

TINY = replace(SMALL, units=12, epochs=3, unroll=7, constant_epochs=2, init_range=0.2)


@pytest.mark.parametrize(
    ("recipe", "size"), [(SMALL, 4_653_200), (MEDIUM, 19_780_400), (LARGE, 66_034_000)]
)
def test_parameter_counts(recipe, size):
    model = LanguageModel(recipe, 10_000, seed=0)
    assert sum(p.numel() for p in model.parameters()) == size
    assert max(p.abs().max().item() for p in model.parameters()) <= recipe.init_range * (1 + 1e-6)


def test_the_published_schedules():
    assert [MEDIUM.rate(epoch) for epoch in (1, 6)] == [1, 1]
    assert MEDIUM.rate(8) == pytest.approx(1 / 1.44)
    assert LARGE.rate(15) == pytest.approx(1 / 1.15)
    assert SMALL.rate(13) == pytest.approx(2.0**-9)


def text(tokens=400):
    return chance_text(tokens=tokens).splits["train"]


def test_the_loss_of_a_stream_does_not_depend_on_how_it_is_cut():
    model = LanguageModel(TINY, 24, seed=0).double().eval().requires_grad_(False)
    x, y = text()
    whole, count = stream_loss(model, x, y, chunk=1000)
    assert count == x.numel()
    for chunk in (1, 4, 19):
        part, _ = stream_loss(model, x, y, chunk)
        assert float(part) == pytest.approx(float(whole), rel=1e-13)
    alone = sum(float(stream_loss(model, x[i : i + 1], y[i : i + 1])[0]) for i in range(len(x)))
    assert alone == pytest.approx(float(whole), rel=1e-13)


def test_the_state_matters_and_is_carried():
    model = LanguageModel(TINY, 24, seed=0).double().eval().requires_grad_(False)
    x, y = text()
    whole, _ = stream_loss(model, x, y)
    first, second = (
        stream_loss(model, x[:, part], y[:, part])[0] for part in (slice(0, 10), slice(10, None))
    )
    assert abs(float(first + second - whole)) > 1e-6


def test_dropout_is_not_recurrent_and_keeps_the_scale():
    model = LanguageModel(replace(TINY, dropout=0.5), 24, seed=0).requires_grad_(False).train()
    x, _ = text()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        outputs = torch.stack([model(x)[0] for _ in range(400)]).mean(0)
    plain = model.eval()(x)[0]
    assert float((outputs - plain).abs().max()) < 0.15 * float(plain.abs().max())


def by_hand(model, x, y, recipe, epoch):
    """One epoch of training, written out."""
    optimizer = torch.optim.SGD(model.parameters(), lr=recipe.rate(epoch))
    state = None
    for first in range(0, x.shape[1], recipe.unroll):
        piece = slice(first, first + recipe.unroll)
        optimizer.zero_grad()
        logits, state = model(x[:, piece], state)
        state = [(h.detach(), c.detach()) for h, c in state]
        losses = torch.nn.functional.cross_entropy(
            logits.transpose(1, 2), y[:, piece], reduction="none"
        )
        losses.mean(0).sum().backward()
        norm = torch.cat([p.grad.flatten() for p in model.parameters()]).norm()
        if norm > recipe.clip:
            for p in model.parameters():
                p.grad *= recipe.clip / norm
        optimizer.step()


@pytest.mark.parametrize("clip", [0.05, 5.0])
def test_training_agrees_with_a_loop_written_out(clip):
    recipe = replace(TINY, clip=clip)
    x, y = text()
    model, other = (LanguageModel(recipe, 24, seed=0).double() for _ in range(2))
    found = train_language_model(model, {"train": (x, y), "valid": (x, y)}, recipe, seed=0)
    for epoch in range(1, 4):
        by_hand(other, x, y, recipe, epoch)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)
    assert found.epochs == 3
    assert list(found.learning_rate) == [1, 1, 0.5]
    loss = found.history.loss["train"][-1]
    assert loss == pytest.approx(stream_loss(model.eval(), x, y)[0].item() / x.numel())
    assert found.history.metrics["perplexity"]["train"][-1] == pytest.approx(math.exp(loss))


def test_a_language_model_learns_what_chance_made(tmp_path):
    data = chance_text(tokens=4000)
    recipe = replace(TINY, units=24, epochs=20, unroll=5, constant_epochs=20)
    model = LanguageModel(recipe, 24, seed=0)
    with pytest.raises(ValueError, match=r'needs the splits "train" and "valid"'):
        train_language_model(model, {"train": data.splits["train"]}, recipe, seed=0)
    recorder = tw.Recorder(tmp_path / "run", model, schedule=tw.Every(epochs=1))
    found = train_language_model(model, data.splits, recipe, seed=0, recorder=recorder)
    valid = found.history.loss["valid"]
    assert valid[0] == pytest.approx(math.log(24), abs=0.1)
    assert 0.85 < valid[found.best_epoch] < 1.6  # 0.898 is the least there is
    run = tw.Trajectory.open(tmp_path / "run")
    assert len(run) == 21
    own = torch.cat([part.reshape(-1) for part in found.start.values()])
    assert torch.equal(run[0].theta, own)


def test_streams_are_contiguous():
    x, y = streams_of(torch.arange(43), streams=4)
    assert x.shape == y.shape == (4, 9)
    assert torch.equal(y, x + 1)
    assert x[:, 0].tolist() == [0, 10, 20, 30]
    with pytest.raises(ValueError, match="Each of 20 streams needs two tokens"):
        streams_of(torch.arange(39))


def test_penn_treebank_as_published():
    try:
        data = penn_treebank()
    except DataUnavailableError as error:
        pytest.skip(f"The Penn Treebank is not at hand: {error}")
    x, y = data.splits["train"]
    assert x.shape == (20, 929_589 // 20 - 1)
    assert int(max(x.max(), y.max())) == 9_999
    assert data.splits["valid"][0].shape == (20, 73_760 // 20 - 1)
    few = penn_treebank(words=1000).splits["train"][0]
    assert few.shape == (20, 49)
    assert torch.equal(few[0], x[0, :49])


def test_tiny_shakespeare_as_published():
    try:
        data = tiny_shakespeare()
    except DataUnavailableError as error:
        pytest.skip(f"Tiny Shakespeare is not at hand: {error}")
    x, _ = data.splits["train"]
    assert x.shape == (20, 1_003_854 // 20 - 1)
    assert int(x.max()) <= 64
    assert data.splits["valid"][0].shape[0] == 20
