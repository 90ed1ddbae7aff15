"""Words projected once, and scores in pieces: the numbers of the plain way, whatever the model."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import thalweg as tw
from cases import classes, normal, seeded
from thalweg.evaluate.deferred import Deferred
from thalweg.evaluate.embedded import Embedded, Projected, embedded_words
from thalweg.evaluate.planning import choose
from thalweg.evaluate.resident import Resident
from thalweg.evaluate.scores import WideHead, wide_heads
from thalweg.evaluate.shortcuts import found_shortcuts
from thalweg.evaluate.strategy import Plain

ALPHA = np.array([-0.75, 0.0, 0.3, 0.625, 1.0, 1.5, 2.25])
WORDS = 7


@pytest.fixture(autouse=True)
def _small_is_wide(monkeypatch):
    """Let tables of seven classes count as large, and pieces have five positions."""
    monkeypatch.setattr("thalweg.evaluate.scores._WORTH_CLASSES", WORDS)
    monkeypatch.setattr("thalweg.evaluate.scores._WORTH_BYTES", 0)
    monkeypatch.setattr("thalweg.evaluate.scores._PIECE_BYTES", 0)
    monkeypatch.setattr("thalweg.evaluate.scores._FEWEST_POSITIONS", 5)
    monkeypatch.setattr("thalweg.evaluate.planning._SMALL_PASS", 0)


class Words(nn.Module):
    """Tokens, an embedding, a layer that takes it, and scores with classes on axis 1."""

    def __init__(self, layer, units=4, words=WORDS):
        super().__init__()
        self.embedding = nn.Embedding(words, 3)
        self.layer = layer()
        self.head = nn.Linear(units, words)

    def forward(self, tokens):
        return self.scores(self.embedding(tokens)).movedim(-1, 1)

    def scores(self, vectors):
        output = self.layer(vectors)
        return self.head(output[0] if isinstance(output, tuple) else output.tanh())


LAYERS = {
    "linear": lambda: nn.Linear(3, 4),
    "linear without bias": lambda: nn.Linear(3, 4, bias=False),
    "lstm": lambda: nn.LSTM(3, 4, batch_first=True),
    "lstm, three layers": lambda: nn.LSTM(3, 4, num_layers=3, batch_first=True, dropout=0.5),
    "lstm without bias": lambda: nn.LSTM(3, 4, num_layers=2, bias=False, batch_first=True),
    "lstm, steps first": lambda: nn.LSTM(3, 4, num_layers=2),
    "gru": lambda: nn.GRU(3, 4, batch_first=True),
    "gru, two layers": lambda: nn.GRU(3, 4, num_layers=2),
    "gru without bias": lambda: nn.GRU(3, 4, num_layers=2, bias=False, batch_first=True),
    "gru, steps first": lambda: nn.GRU(3, 4),
    "tanh": lambda: nn.RNN(3, 4, num_layers=2, batch_first=True),
    "rectifier": lambda: nn.RNN(3, 4, num_layers=2, nonlinearity="relu"),
}

TOKENS = (classes(11, 6, count=WORDS, seed=5), classes(11, 6, count=WORDS, seed=6))


def objective_of(build, data=TOKENS, loss=None, **options):
    options = {"dtype": torch.float64, "batch_size": 4} | options
    loss = nn.CrossEntropyLoss() if loss is None else loss
    return tw.ModelObjective(seeded(build, 1), loss, data, **options)


def sections(objective):
    """Return sections through three points off the origin, with rows on and off the anchors."""
    size, dtype = objective.space.size, objective.dtype
    a, b, c = (0.25 + 0.6 * normal(size, seed=s, dtype=dtype) for s in (2, 3, 4))
    plane, curve = tw.Plane.through(a, b, c), tw.BezierCurve([a, c, b])
    xy = np.stack([ALPHA, ALPHA[::-1] ** 2 - 0.5], axis=-1)
    return {
        "line": (tw.Line(a, b), tw.Line(a, b).weights(ALPHA)),
        "plane": (plane, plane.weights(xy)),
        "curve": (curve, curve.weights(ALPHA)),
    }


def line_of(objective):
    line, weights = sections(objective)["line"]
    return line, list(line.anchors), weights


def losses(evaluations):
    return np.array([each.loss["train"] for each in evaluations])


def shortcuts_of(objective):
    """Return the shortcuts that a plan takes, by the class names of their layers."""
    line, anchors, weights = line_of(objective)
    batch = objective.splits[0].head(64)
    found = found_shortcuts(objective, line, anchors, weights[2:3], batch)
    return [(type(each).__name__, type(each.layer).__name__) for each in found]


def expect_plain_numbers(objective, rtol=1e-12):
    """Compare what is chosen, and every shortcut by force, with the plain way."""
    line, anchors, weights = line_of(objective)
    right = losses(Plain(objective, line, anchors).evaluate(weights))
    chosen = choose(objective, line, anchors, weights)
    np.testing.assert_allclose(losses(chosen.strategy.evaluate(weights)), right, rtol=rtol)
    model = objective.forward_pass.model
    for forced in (embedded_words(model, objective.device), wide_heads(model)):
        strategy = Resident(objective, line, anchors, shortcuts=forced)
        np.testing.assert_allclose(losses(strategy.evaluate(weights)), right, rtol=rtol)
    return chosen


class TestSameNumbers:
    @pytest.mark.parametrize("kind", ["line", "plane", "curve"])
    @pytest.mark.parametrize("name", LAYERS)
    def test_as_the_plain_way(self, name, kind):
        objective = objective_of(lambda: Words(LAYERS[name]))
        section, weights = sections(objective)[kind]
        anchors = list(section.anchors)
        chosen = choose(objective, section, anchors, weights)
        taken = [type(each).__name__ for each in chosen.strategy._shortcuts]
        words = [] if name.startswith("lstm") else ["Embedded", "Projected"]
        assert taken == [*words, "WideHead"]
        right = losses(Plain(objective, section, anchors).evaluate(weights))
        np.testing.assert_allclose(losses(chosen.strategy.evaluate(weights)), right, rtol=1e-12)

    @pytest.mark.parametrize("name", LAYERS)
    def test_in_single_precision(self, name):
        double = objective_of(lambda: Words(LAYERS[name]))
        line, _, weights = line_of(double)
        right = losses(Plain(double, line, list(line.anchors)).evaluate(weights))
        single = objective_of(lambda: Words(LAYERS[name]), dtype=torch.float32)
        anchors = [anchor.float() for anchor in line.anchors]
        chosen = choose(single, tw.Line(*anchors), anchors, weights)
        assert len(chosen.strategy._shortcuts) == (1 if name.startswith("lstm") else 3)
        np.testing.assert_allclose(losses(chosen.strategy.evaluate(weights)), right, rtol=3e-6)

    @pytest.mark.parametrize("name", ["gru, two layers", "gru without bias", "tanh"])
    def test_after_a_call_at_another_point(self, name):
        """Torch's recurrent layers hold a list of weights that a functional call leaves stale."""
        objective = objective_of(lambda: Words(LAYERS[name]))
        line, anchors, weights = line_of(objective)
        strategy = choose(objective, line, anchors, weights).strategy
        expected = losses(strategy.evaluate(weights[2:3]))
        objective.value(anchors[0] * 3)
        assert losses(strategy.evaluate(weights[2:3])).tolist() == expected.tolist()
        right = losses(Plain(objective, line, anchors).evaluate(weights[2:3]))
        np.testing.assert_allclose(expected, right, rtol=1e-12)

    @pytest.mark.parametrize("name", ["linear", "lstm, three layers", "gru, two layers", "tanh"])
    def test_wherever_a_sweep_is_cut(self, name):
        objective = objective_of(lambda: Words(LAYERS[name]), dtype=torch.float32)
        line, anchors, weights = line_of(objective)
        strategy = choose(objective, line, anchors, weights).strategy
        whole = losses(strategy.evaluate(weights))
        single = [losses(strategy.evaluate(weights[i : i + 1]))[0] for i in range(len(weights))]
        backwards = losses(strategy.evaluate(weights[::-1].copy()))[::-1]
        assert whole.tolist() == single == backwards.tolist()

    def test_leave_the_model_alone(self):
        objective = objective_of(lambda: Words(LAYERS["gru"]))
        model = objective.forward_pass.model
        before = {name: t.clone() for name, t in model.state_dict().items()}
        expect_plain_numbers(objective)
        assert not any("forward" in vars(module) for module in model.modules())
        assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())

    def test_batches_of_other_lengths(self):
        rows = [(classes(n, count=WORDS, seed=n), classes(n, count=WORDS, seed=n + 20)) for n in
                (5, 5, 9, 9, 9, 2)]  # fmt: skip
        batches = torch.utils.data.DataLoader(
            rows, batch_sampler=[[0, 1], [2, 3, 4], [5]], shuffle=False
        )
        objective = objective_of(lambda: Words(LAYERS["gru"]), batches, batch_size=None)
        assert objective.splits[0].whole is None
        chosen = expect_plain_numbers(objective)
        assert len(chosen.strategy._shortcuts) == 3


class TestWords:
    """Which layers look up projections of words, and that no model is wronged by it."""

    def test_that_are_rare_are_not_projected(self):
        words = 200

        def build():
            return Words(LAYERS["gru"], words=words)

        data = (classes(11, 6, count=words, seed=5), classes(11, 6, count=words, seed=6))
        assert shortcuts_of(objective_of(build, data)) == [("WideHead", "Linear")]
        expect_plain_numbers(objective_of(build, data))

    def test_not_in_a_table_beyond_the_budget(self, monkeypatch):
        monkeypatch.setattr("thalweg.evaluate.shortcuts._TABLE_BYTES", WORDS * 12 * 8 - 1)
        objective = objective_of(lambda: Words(LAYERS["gru"]))
        assert shortcuts_of(objective) == [("WideHead", "Linear")]
        monkeypatch.setattr("thalweg.evaluate.shortcuts._TABLE_BYTES", WORDS * 12 * 8)
        assert ("Projected", "GRU") in shortcuts_of(objective)

    @pytest.mark.parametrize(
        "layer",
        [
            lambda: nn.LSTM(3, 4, num_layers=2),
            lambda: nn.LSTM(3, 5, proj_size=4),
            lambda: nn.GRU(3, 4, bidirectional=True),
        ],
        ids=["lstm", "projected lstm", "gru both ways"],
    )
    def test_not_by_what_is_not_supported(self, layer):
        units = 4 * (2 if layer().bidirectional else 1)
        objective = objective_of(lambda: Words(layer, units))
        assert shortcuts_of(objective) == [("WideHead", "Linear")]
        expect_plain_numbers(objective)

    def test_not_by_an_embedding_that_writes_to_itself(self):
        class Clipped(Words):
            def __init__(self):
                super().__init__(LAYERS["gru"])
                self.embedding = nn.Embedding(WORDS, 3, max_norm=0.5)

        objective = objective_of(Clipped)
        assert shortcuts_of(objective) == [("WideHead", "Linear")]
        expect_plain_numbers(objective)

    def test_of_an_embedding_with_settings_of_its_gradient(self):
        class Set(Words):
            def __init__(self):
                super().__init__(LAYERS["gru"])
                self.embedding = nn.Embedding(
                    WORDS, 3, padding_idx=2, scale_grad_by_freq=True, sparse=True
                )

        objective = objective_of(Set)
        assert ("Projected", "GRU") in shortcuts_of(objective)
        expect_plain_numbers(objective)

    @pytest.mark.parametrize("name", ["linear", "gru"])
    def test_behind_dropout_that_is_off(self, name):
        class Dropped(Words):
            def __init__(self):
                super().__init__(LAYERS[name])
                self.dropout = nn.Dropout(0.5)

            def scores(self, vectors):
                return super().scores(self.dropout(vectors))

        objective = objective_of(Dropped)
        assert shortcuts_of(objective)[1][0] == "Projected"
        expect_plain_numbers(objective)
        monte_carlo = objective_of(Dropped, dropout=tw.MonteCarlo(2, seed=0))
        line, anchors, weights = line_of(monte_carlo)
        assert isinstance(choose(monte_carlo, line, anchors, weights).strategy, Plain)

    @pytest.mark.parametrize(
        "change",
        [
            lambda v: v * 3**0.5,
            lambda v: v.mul_(2),
            lambda v: v + torch.arange(6, dtype=v.dtype)[:, None],
            lambda v: functional.layer_norm(v, (3,)),
            lambda v: v.flip(1),
            lambda v: v[..., [2, 0, 1]],
            lambda v: v.view(v.shape[0], 3, 6).transpose(1, 2),
            lambda v: v.masked_fill(torch.ones_like(v) > 2, 0.0),
        ],
        ids=[
            "scaled",
            "in place",
            "positions",
            "normalised",
            "reversed",
            "mixed",
            "torn",
            "masked",
        ],
    )
    def test_not_where_something_comes_between(self, change):
        class Between(Words):
            def scores(self, vectors):
                return super().scores(change(vectors))

        for name in ("linear", "gru"):
            objective = objective_of(lambda name=name: Between(LAYERS[name]))
            assert shortcuts_of(objective) == [("WideHead", "Linear")]
            expect_plain_numbers(objective)

    def test_not_where_the_vectors_are_changed_behind_their_back(self):
        class Sly(Words):
            def scores(self, vectors):
                vectors.mul_(2)  # and the name still stands for what the embedding returned
                return super().scores(vectors)

        objective = objective_of(lambda: Sly(LAYERS["gru"]))
        assert shortcuts_of(objective) == [("WideHead", "Linear")]
        expect_plain_numbers(objective)

    def test_not_where_the_tokens_are_changed_in_place(self):
        class Shifting(Words):
            def forward(self, tokens):
                tokens = tokens.clone()
                vectors = self.embedding(tokens)
                tokens.zero_()
                return self.scores(vectors).movedim(-1, 1)

        objective = objective_of(lambda: Shifting(LAYERS["gru"]))
        assert shortcuts_of(objective) == [("WideHead", "Linear")]
        line, anchors, weights = line_of(objective)
        forced = embedded_words(objective.forward_pass.model, objective.device)
        strategy = Resident(objective, line, anchors, shortcuts=forced)
        with pytest.raises(RuntimeError, match="needs an input that stays as it is"):
            strategy.evaluate(weights)

    def test_in_the_order_that_the_layer_sees(self):
        """A view of the vectors is a view of the tokens."""

        class Turned(Words):
            def forward(self, tokens):
                vectors = self.embedding(tokens).transpose(0, 1)[1:]
                output, _ = self.layer(vectors)
                return self.head(output).permute(1, 2, 0)

        data = (TOKENS[0], TOKENS[1][:, 1:])
        objective = objective_of(lambda: Turned(LAYERS["gru, steps first"]), data)
        assert ("Projected", "GRU") in shortcuts_of(objective)
        expect_plain_numbers(objective)

    def test_for_a_bag_of_words(self):
        """All vectors of an example are joined: the linear layer sees no single word."""

        class Joined(nn.Module):
            def __init__(self):
                super().__init__()
                self.embedding = nn.Embedding(WORDS, 3)
                self.layer = nn.Linear(18, WORDS)

            def forward(self, tokens):
                return self.layer(self.embedding(tokens).flatten(1))

        objective = objective_of(Joined, (TOKENS[0], TOKENS[1][:, 0]))
        assert not any(kind == "Projected" for kind, _ in shortcuts_of(objective))
        expect_plain_numbers(objective)

    def test_of_a_table_that_is_also_the_head(self):
        class TiedWords(Words):
            def __init__(self):
                super().__init__(lambda: nn.GRU(3, 3, batch_first=True), 3)
                self.head.weight = self.embedding.weight

        objective = objective_of(TiedWords)
        assert [kind for kind, _ in shortcuts_of(objective)] == [
            "Embedded",
            "Projected",
            "WideHead",
        ]
        expect_plain_numbers(objective)

    @pytest.mark.parametrize(("name", "kind"), [("linear", "Linear"), ("gru", "GRU")])
    def test_that_are_frozen(self, name, kind):
        class Frozen(Words):
            def __init__(self):
                super().__init__(LAYERS[name])
                self.embedding.weight.requires_grad_(False)

        objective = objective_of(Frozen)
        assert ("Projected", kind) in shortcuts_of(objective)
        expect_plain_numbers(objective)

    def test_that_are_frozen_before_a_wide_layer_feed_a_first_layer(self):
        class Frozen(nn.Module):
            def __init__(self):
                super().__init__()
                self.embedding = nn.Embedding(WORDS, 64)
                self.embedding.weight.requires_grad_(False)
                self.layer, self.head = nn.Linear(64, 8), nn.Linear(8, WORDS)

            def forward(self, tokens):
                return self.head(self.layer(self.embedding(tokens)).tanh()).movedim(-1, 1)

        objective = objective_of(Frozen)
        chosen = expect_plain_numbers(objective, rtol=1e-11)
        assert chosen.strategy.name == "first-layer reuse"
        assert [type(each) for each in chosen.strategy._shortcuts] == [WideHead]

    def test_that_two_layers_and_a_sum_look_at(self):
        class Shared(nn.Module):
            def __init__(self):
                super().__init__()
                self.embedding = nn.Embedding(WORDS, 4)
                self.left = nn.GRU(4, 4, batch_first=True)
                self.right = nn.Linear(4, 4)
                self.head = nn.Linear(4, WORDS)

            def forward(self, tokens):
                vectors = self.embedding(tokens)
                h = self.left(vectors)[0] + self.right(vectors)
                return self.head(h + vectors.tanh()).movedim(-1, 1)

        objective = objective_of(Shared)
        assert [layer for _, layer in shortcuts_of(objective)] == [
            "Embedding",
            "Linear",
            "GRU",
            "Linear",
        ]
        expect_plain_numbers(objective)

    def test_of_an_embedding_that_is_called_twice(self):
        class Twice(Words):
            def forward(self, tokens):
                there = self.layer(self.embedding(tokens))[0]
                back = self.layer(self.embedding(tokens.flip(1)))[0]
                return self.head(there + back).movedim(-1, 1)

        expect_plain_numbers(objective_of(lambda: Twice(LAYERS["gru"])))

    def test_of_two_embeddings_before_one_layer(self):
        class Two(Words):
            def __init__(self):
                super().__init__(LAYERS["gru"])
                self.other = nn.Embedding(WORDS, 3)

            def forward(self, tokens):
                h = self.layer(self.embedding(tokens))[0] + self.layer(self.other(tokens))[0]
                return self.head(h).movedim(-1, 1)

        expect_plain_numbers(objective_of(Two))

    def test_in_packed_sequences_are_left_to_torch(self):
        class Packed(Words):
            def scores(self, vectors):
                lengths = torch.full((len(vectors),), 6)
                packed = pack_padded_sequence(vectors, lengths, batch_first=True)
                return self.head(pad_packed_sequence(self.layer(packed)[0], batch_first=True)[0])

        objective = objective_of(lambda: Packed(LAYERS["gru"]))
        assert shortcuts_of(objective) == [("WideHead", "Linear")]
        expect_plain_numbers(objective)

    @pytest.mark.parametrize("name", ["gru, two layers", "gru", "tanh", "lstm, three layers"])
    def test_with_a_state_that_is_carried_on(self, name):
        """Halves of a sequence, the state handed from the first to the second."""

        class Carrying(Words):
            def __init__(self):
                super().__init__(LAYERS[name])
                self.start = nn.Parameter(torch.full((self.layer.num_layers, 1, 4), 0.3))

            def forward(self, tokens):
                across = 0 if self.layer.batch_first else 1
                batch = tokens.shape[across]
                state = self.start.expand(-1, batch, -1).contiguous()
                state = (state, -state) if isinstance(self.layer, nn.LSTM) else state
                parts = []
                for part in tokens.chunk(2, 1 - across):
                    output, state = self.layer(self.embedding(part), state)
                    parts.append(output)
                last = state[0] + state[1] if isinstance(state, tuple) else state
                output = torch.cat(parts, 1 - across) + last.sum()
                return self.head(output).movedim(-1, 1)

        objective = objective_of(Carrying)
        assert (shortcuts_of(objective)[0][0] == "Embedded") == (name != "lstm, three layers")
        expect_plain_numbers(objective)

    def test_outside_the_vocabulary_are_torchs_error(self):
        objective = objective_of(lambda: Words(LAYERS["gru"]))
        model = objective.forward_pass.model
        words, *_, recurrent = embedded_words(model, objective.device)
        for token in (-1, WORDS):
            with pytest.raises((IndexError, RuntimeError), match="out of range"):
                recurrent.forward(words.forward(torch.tensor([[0, token]])))

    def test_of_a_state_of_another_shape_are_torchs_error(self):
        objective = objective_of(lambda: Words(LAYERS["gru"]))
        words, *_, recurrent = embedded_words(objective.forward_pass.model, objective.device)
        with pytest.raises(RuntimeError, match="Expected hidden size"):
            recurrent.forward(words.forward(TOKENS[0]), torch.zeros(1, 1, 4).double())

    def test_without_a_batch_are_left_to_torch(self):
        objective = objective_of(lambda: Words(LAYERS["gru"]))
        model = objective.forward_pass.model
        words, *_, recurrent = embedded_words(model, objective.device)
        output, state = recurrent.forward(words.forward(TOKENS[0][0]))
        right, last = model.layer(model.embedding(TOKENS[0][0]))
        assert recurrent.embedding is None
        torch.testing.assert_close((output, state), (right, last))

    def test_are_projected_once_a_point(self, monkeypatch):
        projected = []
        honest = functional.linear

        def counting(given, weight, bias=None):
            if weight.shape == (12, 3):
                projected.append(len(given))
            return honest(given, weight, bias)

        objective = objective_of(lambda: Words(LAYERS["gru"]))
        line, anchors, weights = line_of(objective)
        strategy = choose(objective, line, anchors, weights).strategy
        monkeypatch.setattr(functional, "linear", counting)
        strategy.evaluate(weights[:3])
        assert sum(projected) == 3 * len(TOKENS[0].unique())


def scores_step(read):
    """Return a criterion that reads the scores of a model in its own way."""

    def step(model, batch):
        x, y = batch
        return read(model(x), y), y.numel()

    return step


class Last(nn.Module):
    """Scores with classes on the last axis."""

    def __init__(self):
        super().__init__()
        self.hidden, self.head = nn.Linear(3, 4), nn.Linear(4, WORDS)

    def forward(self, x):
        return self.head(self.hidden(x).tanh())


VECTORS = (0.3 + normal(11, 6, 3, seed=7), classes(11, 6, count=WORDS, seed=8))
FLAT = {"reduction": "sum"}


class TestScores:
    """Which heads are read in pieces, and that no loss is wronged by it."""

    @pytest.mark.parametrize(
        "read",
        [
            lambda z, y: functional.cross_entropy(z.movedim(-1, 1), y, **FLAT),
            lambda z, y: functional.cross_entropy(z.transpose(1, 2), y, **FLAT),
            lambda z, y: functional.cross_entropy(z.mT, y, **FLAT),
            lambda z, y: functional.cross_entropy(z.view(-1, WORDS), y.view(-1), **FLAT),
            lambda z, y: functional.cross_entropy(z.flatten(0, 1), y.flatten(), **FLAT),
            lambda z, y: functional.cross_entropy(
                z.permute(1, 0, 2).reshape(-1, z.size(-1)), y.t().reshape(-1), **FLAT
            ),
            lambda z, y: functional.cross_entropy(
                z[:, :-1].contiguous().view(-1, WORDS), y[:, 1:].reshape(-1), **FLAT
            ),
            lambda z, y: functional.cross_entropy(z[:, 1::2].movedim(-1, 1), y[:, 1::2], **FLAT),
            lambda z, y: functional.cross_entropy(z.double().movedim(2, 1), y, **FLAT),
            lambda z, y: sum(
                functional.cross_entropy(z[:, t], y[:, t], **FLAT) for t in range(z.shape[1])
            ),
            lambda z, y: functional.cross_entropy(z.mT, y, reduction="none").square().sum(),
            lambda z, y: functional.cross_entropy(z.mT, y, ignore_index=2) * (y != 2).sum(),
            lambda z, y: functional.cross_entropy(z.mT, y, torch.arange(1.0, 8).double(), **FLAT),
            lambda z, y: functional.cross_entropy(z.mT, y, label_smoothing=0.2, **FLAT),
            lambda z, y: (
                functional.cross_entropy(z[0, 0], y[0, 0], **FLAT)
                + functional.cross_entropy(z.mT, y, **FLAT)
            ),
        ],
        ids=[
            "movedim",
            "transpose",
            "mT",
            "view",
            "flatten",
            "steps first",
            "shifted",
            "every other",
            "cast",
            "step by step",
            "terms",
            "mean",
            "weighted",
            "smooth",
            "one",
        ],
    )
    def test_are_read_in_pieces(self, read):
        objective = objective_of(Last, VECTORS, scores_step(read), batch_size=11)
        assert shortcuts_of(objective) == [("WideHead", "Linear")]
        expect_plain_numbers(objective)

    @pytest.mark.parametrize(
        "read",
        [
            lambda z, y: functional.cross_entropy((z / 0.7).mT, y, **FLAT),
            lambda z, y: functional.cross_entropy(3 * torch.tanh(z / 3).mT, y, **FLAT),
            lambda z, y: functional.cross_entropy(z.div_(0.7).mT, y, **FLAT),
            lambda z, y: (z.mul_(2), functional.cross_entropy(z.mT, y, **FLAT))[1],
            lambda z, y: (
                z[..., :2].zero_(),
                functional.cross_entropy(z.mT, y, **FLAT),
            )[1],
            lambda z, y: (
                z.__setitem__((..., 1), 4.0),
                functional.cross_entropy(z.view(-1, WORDS), y.view(-1), **FLAT),
            )[1],
            lambda z, y: functional.nll_loss(z.mT.log_softmax(1), y, **FLAT),
            lambda z, y: functional.cross_entropy(z[..., :6].mT, y.clamp(max=5), **FLAT),
            lambda z, y: functional.cross_entropy(z[y > 2], y[y > 2], **FLAT),
            lambda z, y: functional.cross_entropy(
                z.mT, functional.one_hot(y, WORDS).to(z).mT, **FLAT
            ),
            lambda z, y: functional.cross_entropy(z.view(11, WORDS, 6), y, **FLAT),
            lambda z, y: functional.cross_entropy(z.mT, y, torch.arange(1.0, 8).double()),
            lambda z, y: functional.cross_entropy(z.mT, y, **FLAT) + z.square().sum(),
        ],
        ids=[
            "tempered",
            "capped",
            "in place",
            "in place before",
            "part in place",
            "set",
            "nll",
            "cut",
            "picked",
            "probabilities",
            "torn",
            "weighted mean",
            "penalised",
        ],
    )
    def test_are_written_for_other_readers(self, read):
        objective = objective_of(Last, VECTORS, scores_step(read), batch_size=11)
        assert shortcuts_of(objective) == []
        line, anchors, weights = line_of(objective)
        right = losses(Plain(objective, line, anchors).evaluate(weights))
        heads = wide_heads(objective.forward_pass.model)
        found = losses(Resident(objective, line, anchors, shortcuts=heads).evaluate(weights))
        np.testing.assert_allclose(found, right, rtol=1e-12)

    def test_are_written_for_a_metric(self):
        objective = objective_of(lambda: Words(LAYERS["gru"]), metrics={"error": tw.error_rate})
        assert ("WideHead", "Linear") not in shortcuts_of(objective)
        line, anchors, weights = line_of(objective)
        heads = wide_heads(objective.forward_pass.model)
        found = Resident(objective, line, anchors, shortcuts=heads).evaluate(weights)
        for one, right in zip(
            found, Plain(objective, line, anchors).evaluate(weights), strict=True
        ):
            assert one.loss["train"] == pytest.approx(right.loss["train"], rel=1e-12)
            assert one.metrics == right.metrics

    @pytest.mark.parametrize(
        "loss",
        [
            nn.CrossEntropyLoss(weight=torch.arange(1.0, 8), ignore_index=3, label_smoothing=0.1),
            nn.CrossEntropyLoss(reduction="sum"),
            functional.cross_entropy,
        ],
        ids=["weighted", "sum", "function"],
    )
    def test_of_torchs_losses(self, loss):
        objective = objective_of(lambda: Words(LAYERS["gru"]), loss=loss)
        assert ("WideHead", "Linear") in shortcuts_of(objective)
        expect_plain_numbers(objective)

    def test_need_an_input_that_stays(self):
        class Wiping(Last):
            def forward(self, x):
                hidden = self.hidden(x).tanh()
                scores = self.head(hidden)
                hidden.zero_()
                return scores.mT

        objective = objective_of(Wiping, VECTORS)
        assert shortcuts_of(objective) == []
        line, anchors, weights = line_of(objective)
        heads = wide_heads(objective.forward_pass.model)
        strategy = Resident(objective, line, anchors, shortcuts=heads)
        with pytest.raises(RuntimeError, match="writes to it in place afterwards"):
            strategy.evaluate(weights)

    def test_that_fit_a_cache_are_left_alone(self, monkeypatch):
        monkeypatch.setattr("thalweg.evaluate.scores._WORTH_BYTES", 4 * 6 * WORDS * 8 + 1)
        assert shortcuts_of(objective_of(Last, VECTORS, scores_step(
            lambda z, y: functional.cross_entropy(z.mT, y, **FLAT)))) == []  # fmt: skip


class TestDeferred:
    """A tensor that is computed when it is read looks like one that is there."""

    def both(self):
        layer = seeded(lambda: nn.Linear(3, WORDS), 1).requires_grad_(False)
        x = VECTORS[0]
        return WideHead(layer).forward(x), layer(x)

    def test_looks_like_the_table(self):
        late, right = self.both()
        assert isinstance(late, Deferred)
        assert isinstance(late, torch.Tensor)
        for one in (late, late.mT, late[2:, :, 1:3], late.flatten(0, 1), late[None, ..., 4]):
            assert one.device == right.device
            assert one.dtype == right.dtype
            assert not one.requires_grad
        assert late.shape == right.shape
        assert len(late) == 11
        assert late.source.table is None

    @pytest.mark.parametrize(
        "read",
        [
            lambda t: t + 1,
            lambda t: 1 - t,
            lambda t: t.mT[3] @ t[0],
            lambda t: torch.cat([t[:1], t[4:5]]),
            lambda t: t[2:, 1::2, 1:3] * 2,
            lambda t: t.permute(2, 0, 1).reshape(WORDS, -1) + 0,
            lambda t: t.transpose(0, 1).contiguous().view(-1, WORDS) + 0,
            lambda t: t.view(-1)[5:] + 0,
            lambda t: torch.where(t > 0, t, -t),
            lambda t: torch.full_like(t, 2.0),
            lambda t: t.new_zeros(3),
            lambda t: torch.tensor(t.tolist()),
            lambda t: torch.from_numpy(t.numpy()),
            lambda t: t.clone().add_(1),
            lambda t: torch.zeros_like(t).copy_(t),
            lambda t: t.unflatten(0, (1, 11)).squeeze(0) + 0,
        ],
    )
    def test_reads_like_the_table(self, read):
        late, right = self.both()
        found = read(late)
        assert not isinstance(found, Deferred)
        torch.testing.assert_close(found, read(right), rtol=1e-14, atol=1e-14)

    def test_is_written_once_and_kept(self):
        late, right = self.both()
        late.mT.add_(1)
        late[0, 0, 0] = 7.0
        right.mT.add_(1)
        right[0, 0, 0] = 7.0
        torch.testing.assert_close(late + 0, right)

    def test_copies_are_not_the_table(self):
        late, right = self.both()
        copy = late.transpose(0, 1).contiguous()
        assert isinstance(copy, Deferred)
        copy.zero_()
        torch.testing.assert_close(late + 0, right)


def test_a_plan_says_what_is_saved():
    objective = objective_of(lambda: Words(LAYERS["gru"]))
    line, _, _ = line_of(objective)
    (reason, *_) = tw.plan(objective, line, tw.Uniform(0, 1, 5)).reasons
    assert reason == (
        "What a GRU makes of an embedding is computed once a word, and looked up for every "
        "token. Scores of 7 classes are computed a few positions at a time, where the loss reads "
        "them."
    )


def test_a_gpu_keeps_its_own_recurrent_kernels():
    found = embedded_words(Words(LAYERS["gru"]), torch.device("cuda"))
    assert [type(each.layer) for each in found] == [nn.Embedding, nn.Linear]
    assert isinstance(found[0], Embedded)
    assert isinstance(found[1], Projected)
