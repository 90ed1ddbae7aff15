"""What makes two costs one, and what does not."""

import functools
import subprocess
import sys
from pathlib import Path

import jobs
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import thalweg as tw
from cases import classes, normal
from thalweg.evaluate.fingerprint import digest_of, facts_of, module_facts, tensor_facts
from thalweg.evaluate.identity import Identity, identity_of, probed

X, Y = normal(12, 3, dtype=torch.float32), classes(12, count=2)


class Scaled(nn.Module):
    """A module with a setting that its representation does not show."""

    def __init__(self, scale=2.0, width=4):
        super().__init__()
        self.scale = scale
        self.first = nn.Linear(3, width)
        self.norm = nn.BatchNorm1d(width)
        self.last = nn.Linear(width, 2)
        self.register_buffer("shift", torch.tensor(0.5))
        self.frozen = nn.Parameter(torch.tensor([1.0, 2.0]), requires_grad=False)

    def forward(self, x):
        return self.last(torch.tanh(self.norm(self.first(x)) * self.scale)) + self.shift


class Otherwise(Scaled):
    def forward(self, x):
        return super().forward(x) * 2


def cost(model=None, loss=None, data=None, **settings):
    model = Scaled() if model is None else model
    loss = nn.CrossEntropyLoss() if loss is None else loss
    return tw.ModelObjective(model, loss, (X, Y) if data is None else data, **settings)


def line(objective, seed=1):
    size = objective.space.size
    return tw.Line(normal(size, seed=seed), normal(size, seed=seed + 1))


def identity(objective=None, section=None, strategy="plain"):
    objective = cost() if objective is None else objective
    section = line(objective) if section is None else section
    anchors = [objective.point(anchor) for anchor in section.anchors]
    return identity_of(objective, section, anchors, strategy)


def probe(objective, section=None):
    section = line(objective) if section is None else section
    return probed(objective, section, [objective.point(anchor) for anchor in section.anchors])


def changed_buffer(value):
    model = Scaled()
    model.shift.fill_(value)
    return model


def changed_frozen(value):
    model = Scaled()
    model.frozen.data[1] = value
    return model


def with_statistics(value):
    model = Scaled()
    model.norm.running_mean.fill_(value)
    return model


def hooked(factor):
    model = Scaled()
    model.first.register_forward_hook(lambda module, inputs, output: output * factor)
    return model


def weighted(*weights, dtype=torch.float32):
    return nn.CrossEntropyLoss(weight=torch.tensor(weights, dtype=dtype))


def closing_over(factor):
    return lambda output, target: factor * functional.cross_entropy(output, target)


def with_default(output, target, factor=2.0):
    return factor * functional.cross_entropy(output, target)


def penalty_of(strength):
    return lambda tensors: strength * sum(t.square().sum() for t in tensors.values())


FACTOR = 1.0


def reading_a_global(output, target):
    return FACTOR * functional.cross_entropy(output, target)


def through_another(output, target):
    return reading_a_global(output, target)


POLICIES = {"batch_norm": "batch", "batch_size": 6}
MASKED = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2))

# Each pair is of two costs, with the parts in which they differ.
DIFFERENT = {
    "setting": (cost, lambda: cost(Scaled(scale=3.0)), ["model"]),
    "code": (cost, lambda: cost(Otherwise()), ["model"]),
    "width": (cost, lambda: cost(Scaled(width=5)), ["anchors", "model", "parameters"]),
    "buffer": (cost, lambda: cost(changed_buffer(0.25)), ["fixed"]),
    "frozen": (cost, lambda: cost(changed_frozen(3.0)), ["fixed"]),
    "hook": (lambda: cost(hooked(2)), lambda: cost(hooked(3)), ["model"]),
    "statistics": (
        lambda: cost(batch_norm="stored"),
        lambda: cost(with_statistics(0.5), batch_norm="stored"),
        ["fixed"],
    ),
    "loss": (cost, lambda: cost(loss=nn.MultiMarginLoss()), ["loss"]),
    "smoothing": (cost, lambda: cost(loss=nn.CrossEntropyLoss(label_smoothing=0.1)), ["loss"]),
    "ignored": (cost, lambda: cost(loss=nn.CrossEntropyLoss(ignore_index=1)), ["loss"]),
    "class weights": (
        lambda: cost(loss=weighted(1.0, 2.0)),
        lambda: cost(loss=weighted(1.0, 3.0)),
        ["loss"],
    ),
    "partial": (
        lambda: cost(loss=functools.partial(with_default, factor=3.0)),
        lambda: cost(loss=functools.partial(with_default, factor=4.0)),
        ["loss"],
    ),
    "closure": (
        lambda: cost(loss=closing_over(2.0)),
        lambda: cost(loss=closing_over(3.0)),
        ["loss"],
    ),
    "metric": (cost, lambda: cost(metrics={"error": tw.error_rate}), ["metrics"]),
    "name of a metric": (
        lambda: cost(metrics={"error": tw.error_rate}),
        lambda: cost(metrics={"errors": tw.error_rate}),
        ["metrics"],
    ),
    "penalty": (
        lambda: cost(penalty=penalty_of(0.1)),
        lambda: cost(penalty=penalty_of(0.2)),
        ["penalty"],
    ),
    "no penalty": (cost, lambda: cost(penalty=penalty_of(0.1)), ["penalty"]),
    "label": (cost, lambda: cost(data=(X, 1 - Y)), ["data"]),
    "input": (cost, lambda: cost(data=(X * (1 + 1e-6), Y)), ["data"]),
    "example more": (cost, lambda: cost(data=(X[:11], Y[:11])), ["data"]),
    "name of a split": (cost, lambda: cost(data={"test": (X, Y)}), ["data"]),
    "further split": (cost, lambda: cost(data={"train": (X, Y), "b": (X, Y)}), ["data"]),
    "first split": (
        lambda: cost(data={"a": (X, Y), "b": (X[:5], Y[:5])}),
        lambda: cost(data={"b": (X[:5], Y[:5]), "a": (X, Y)}),
        ["data"],
    ),
    "policy": (cost, lambda: cost(batch_norm="stored"), ["batch_norm", "fixed"]),
    "dropout": (
        lambda: cost(MASKED),
        lambda: cost(MASKED, dropout=tw.MonteCarlo(2)),
        ["data", "dropout"],
    ),
    "seed": (
        lambda: cost(MASKED, dropout=tw.MonteCarlo(2, seed=1)),
        lambda: cost(MASKED, dropout=tw.MonteCarlo(2, seed=2)),
        ["dropout"],
    ),
    "samples": (
        lambda: cost(MASKED, dropout=tw.MonteCarlo(2)),
        lambda: cost(MASKED, dropout=tw.MonteCarlo(3)),
        ["dropout"],
    ),
    "type": (cost, lambda: cost(dtype=torch.float64), ["anchors", "data", "dtype", "fixed"]),
    "batches of a policy": (
        lambda: cost(**POLICIES),
        lambda: cost(**{**POLICIES, "batch_size": 4}),
        ["data"],
    ),
    "order of a policy": (
        lambda: cost(**POLICIES),
        lambda: cost(data=(X.flip(0), Y.flip(0)), **POLICIES),
        ["data"],
    ),
}

SAME = {
    "built again": (cost, cost),
    "batch size": (cost, lambda: cost(batch_size=5)),
    "order": (cost, lambda: cost(data=(X.flip(0), Y.flip(0)))),
    "shuffling": (
        cost,
        lambda: cost(
            data=torch.utils.data.DataLoader(
                torch.utils.data.TensorDataset(X, Y), batch_size=5, shuffle=True
            )
        ),
    ),
    "own statistics, which are not used": (cost, lambda: cost(with_statistics(0.5))),
    "sum or mean": (cost, lambda: cost(loss=nn.CrossEntropyLoss(reduction="sum"))),
    "a wider type of class weights": (
        lambda: cost(loss=weighted(1.0, 2.0)),
        lambda: cost(loss=weighted(1.0, 2.0, dtype=torch.float64)),
    ),
}


class TestIdentity:
    @pytest.mark.parametrize("name", DIFFERENT)
    def test_what_makes_another_cost(self, name):
        first, second, parts = DIFFERENT[name]
        first, second = identity(first()), identity(second())
        assert first.differences(second.facts) == parts
        assert first.digest != second.digest

    @pytest.mark.parametrize("name", SAME)
    def test_what_does_not(self, name):
        first, second = (build() for build in SAME[name])
        assert identity(first).differences(identity(second).facts) == []
        assert identity(first).digest == identity(second).digest

    @pytest.mark.parametrize("name", SAME)
    def test_nor_does_an_evaluation(self, name):
        objective = SAME[name][1]()
        before = identity(objective)
        tw.profile(objective, line(objective), [0.25, 0.5])
        assert before.differences(identity(objective).facts) == []

    def test_anchors_count_bit_for_bit(self):
        objective = cost()
        a, b = line(objective).anchors
        beside = b.float().nextafter(torch.tensor(torch.inf))
        base = identity(objective, tw.Line(a, b))
        assert base.differences(identity(objective, tw.Line(a, beside)).facts) == ["anchors"]
        assert base.differences(identity(objective, tw.Line(b, a)).facts) == ["anchors"]
        assert base.digest == identity(objective, tw.BezierCurve([a, b])).digest

    def test_buffers_of_anchors_count(self):
        objective = cost(batch_norm="interpolate")
        ends = line(objective).anchors
        tables = [dict(with_statistics(k).named_buffers()) for k in (0.0, 0.5)]
        first = identity(objective, tw.Line(*ends, buffers=(tables[0], tables[0])))
        second = identity(objective, tw.Line(*ends, buffers=(tables[0], tables[1])))
        assert first.differences(second.facts) == ["buffers"]

    def test_the_way_of_evaluation_counts(self):
        assert identity().differences(identity(strategy="stacked").facts) == ["strategy"]

    def test_a_global_that_is_read_counts(self, monkeypatch):
        for loss in (reading_a_global, through_another):
            before = identity(cost(loss=loss))
            monkeypatch.setattr(sys.modules[__name__], "FACTOR", 5.0)
            assert before.differences(identity(cost(loss=loss)).facts) == ["loss"]
            monkeypatch.setattr(sys.modules[__name__], "FACTOR", 1.0)

    def test_shared_tensors_count(self):
        def build(tie):
            model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3), nn.Linear(3, 2))
            if tie:
                model[2].weight = model[0].weight
            return cost(model)

        assert identity(build(True)).digest == identity(build(True)).digest
        assert "parameters" in identity(build(True)).differences(identity(build(False)).facts)

    def test_formulas(self):
        def at(shift, name="bowl"):
            f = lambda t: (t - shift).square().sum()  # noqa: E731
            return identity(tw.FunctionObjective(f, size=2, name=name))

        assert at(1.0).digest == at(1.0).digest
        assert at(1.0).differences(at(2.0).facts) == ["function"]
        assert at(1.0).differences(at(1.0, "cup").facts) == ["function"]

    def test_the_same_in_another_process(self):
        here = jobs.digest_of_identity()
        code = "import jobs; print(jobs.digest_of_identity())"
        folder = Path(jobs.__file__).parent
        done = subprocess.run(
            [sys.executable, "-c", code],
            check=True,
            capture_output=True,
            text=True,
            cwd=folder,
            env={
                "PYTHONHASHSEED": "1",
                "OMP_NUM_THREADS": "1",
                "PYTHONPATH": str(folder.parent),  # of what it shares with other tests
            },
        )
        assert done.stdout.strip() == here


class TestProbe:
    @pytest.mark.parametrize("name", SAME)
    def test_it_agrees_where_the_cost_does(self, name):
        first, second = (build() for build in SAME[name])
        assert identity(first).disagreement(probe(first), probe(second)) is None

    @pytest.mark.parametrize("name", ["setting", "class weights", "label", "loss", "penalty"])
    def test_it_tells_costs_apart(self, name):
        first, second, _ = DIFFERENT[name]
        told = identity(first()).disagreement(probe(first()), probe(second()))
        assert "is now" in told

    def test_it_is_a_mean_over_examples(self):
        objective = cost(batch_norm="stored")
        section = line(objective)
        total, count = probe(objective)["loss on 'train'"]
        assert count == 12
        middle = section.anchors[0] * 0.5 + section.anchors[1] * 0.5
        assert total / count == pytest.approx(objective.value(middle), rel=1e-6)

    def test_it_takes_few_examples_of_many(self):
        objective = cost(data=(normal(500, 3), classes(500, count=2)))
        assert probe(objective)["loss on 'train'"][1] == 64

    def test_sequences_of_many_lengths(self):
        batches = [(normal(n, length, 3), classes(n, count=2)) for n, length in ((3, 2), (2, 5))]

        class Mean(nn.Module):
            def __init__(self):
                super().__init__()
                self.last = nn.Linear(3, 2)

            def forward(self, x):
                return self.last(x.mean(1))

        def build(order):
            data = torch.utils.data.DataLoader([batches[k] for k in order], batch_size=None)
            return cost(Mean(), data=data)

        first, second = build([0, 1]), build([1, 0])
        assert first.splits[0].whole is None
        assert identity(first).digest == identity(second).digest
        assert probe(first)["loss on 'train'"][1] == 5
        assert identity(first).disagreement(probe(first), probe(second)) is None

    def test_masks_and_batches_are_those_of_the_cost(self):
        masked = cost(MASKED, dropout=tw.MonteCarlo(1, seed=3), batch_size=6)
        section = line(masked)
        total, count = probe(masked)["loss on 'train'"]
        middle = section.anchors[0] * 0.5 + section.anchors[1] * 0.5
        assert total / count == pytest.approx(masked.value(middle), rel=1e-6)

    def test_the_model_is_left_as_it_was(self):
        objective = cost(batch_norm="batch", batch_size=6)
        before = [t.clone() for t in objective.forward_pass.model.state_dict().values()]
        state = torch.get_rng_state()
        probe(objective)
        after = objective.forward_pass.model.state_dict().values()
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
        assert torch.equal(state, torch.get_rng_state())


class TestFacts:
    def test_tensors(self):
        base = tensor_facts(torch.arange(6.0))
        assert base == tensor_facts(torch.arange(12.0)[::2] / 2)
        assert base != tensor_facts(torch.arange(6.0).view(2, 3))
        assert base != tensor_facts(torch.arange(6.0).double())
        assert base == tensor_facts(torch.arange(6.0).double(), torch.float32)
        assert tensor_facts(torch.tensor(-0.0)) != tensor_facts(torch.tensor(0.0))
        assert tensor_facts(torch.empty(0, 3))[1] == [0, 3]
        assert tensor_facts(torch.tensor([True, False], dtype=torch.bool))[1] == [2]
        assert tensor_facts(torch.ones(2, dtype=torch.bfloat16))[0] == "torch.bfloat16"

    @pytest.mark.parametrize(
        ("first", "second"),
        [
            (1, 1.0),
            (1, True),
            (0.0, -0.0),
            ("1", 1),
            ((1, 2), (2, 1)),
            ([1], {1}),
            ({"a": 1}, {"a": 2}),
            (None, "None"),
            (b"a", b"b"),
            (np.float32(1), np.float64(1)),
            (np.arange(3), np.arange(3).astype(float)),
            (torch.float32, torch.float64),
            (torch.relu, torch.tanh),
            (len, sum),
            (np.tanh, np.sinh),
            (functional.relu, functional.gelu),
            (functools.partial(max, 1), functools.partial(max, 2)),
            (nn.Linear, nn.Bilinear),
            (Scaled, Otherwise),
            (Scaled().forward, Otherwise().forward),
            (nn.LeakyReLU(0.1), nn.LeakyReLU(0.2)),
            (lambda x: x + 1, lambda x: x + 2),
            (lambda x: x in {1, 2}, lambda x: x in {1, 3}),
            (lambda x: torch.sin(x) + 1, lambda x: torch.cos(x) + 1),
        ],
    )
    def test_what_differs(self, first, second):
        assert digest_of(facts_of(first)) != digest_of(facts_of(second))

    def test_code_is_told_wherever_it_stands(self):
        source = "def f(x, k=2):\n    return [x * k for _ in range(3)]\n"
        spaces = [{}, {}, {}]
        exec(source, spaces[0])
        exec("\n\n# moved\n" + source, spaces[1])
        exec(source.replace("range(3)", "range(4)"), spaces[2])
        first, moved, other = (facts_of(space["f"]) for space in spaces)
        assert first == moved
        assert first != other

    def test_a_file_called_like_a_module_of_python_is_read(self):
        spaces = [{"__name__": "profile"}, {"__name__": "profile"}]
        exec(compile("def f(x):\n    return x", "profile.py", "exec"), spaces[0])
        exec(compile("def f(x):\n    return -x", "profile.py", "exec"), spaces[1])
        assert facts_of(spaces[0]["f"]) != facts_of(spaces[1]["f"])

    def test_running_code_does_not_change_it(self):
        def f(x):
            return x * 2 + 1

        before = facts_of(f)
        for k in range(5000):
            f(float(k))
        assert before == facts_of(f)

    def test_cycles_end(self):
        ring = []
        ring.append(ring)
        node = type("Node", (), {})()
        node.self = node

        def again(n):
            return again(n - 1) if n else 0

        for value in (ring, node, again):
            assert facts_of(value) == facts_of(value)

    def test_a_deep_chain_ends(self):
        chain = None
        for k in range(500):
            chain = [chain, k]
        assert digest_of(facts_of(chain))

    def test_addresses_do_not_count(self):
        class Thing:
            pass

        assert facts_of([Thing(), object(), open]) == facts_of([Thing(), object(), open])

    def test_parameters_of_a_network_count_where_they_do_not_move(self):
        teachers = [nn.Linear(2, 2) for _ in range(2)]
        assert module_facts(teachers[0]) == module_facts(teachers[1])
        losses = [lambda o, t, teacher=teacher: teacher(o).sum() for teacher in teachers]
        assert facts_of(losses[0]) != facts_of(losses[1])
        assert facts_of(losses[0]) == facts_of(losses[0])

    def test_a_recurrent_network(self):
        assert module_facts(nn.LSTM(2, 3)) == module_facts(nn.LSTM(2, 3))
        assert module_facts(nn.LSTM(2, 3)) != module_facts(nn.LSTM(2, 3, bidirectional=True))


def test_differences_name_what_only_one_has():
    assert Identity({"a": 1, "b": 2}).differences({"b": 2, "c": 3}) == ["a", "c"]
