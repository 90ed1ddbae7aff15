"""A sweep over streamed data: the same numbers, few readings, little memory."""

import json
import os
import subprocess
import sys
import weakref

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

import thalweg as tw
from cases import MODELS, classes, normal, seeded
from thalweg.errors import NonDeterministicObjectiveError
from thalweg.evaluate import sweep
from thalweg.evaluate.identity import identity_of, probed
from thalweg.evaluate.planning import choose, planned
from thalweg.evaluate.stacked import StackedChain, Vectorised
from thalweg.evaluate.streamed import Streamed

ALPHA = np.array([-0.75, 0.0, 0.3, 0.625, 1.0, 1.5, 2.25])
LOSS = nn.CrossEntropyLoss()
N = 90
X, Y = 0.3 + normal(N, 3, seed=5), classes(N, count=3, seed=6)
IMAGES = 0.2 + normal(N, 2, 6, 6, seed=7)


def dense():
    return nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 3))


def normalised():
    return nn.Sequential(
        nn.Conv2d(2, 3, 3),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.Conv2d(3, 4, 2),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(36, 3),
    )


def masked():
    return nn.Sequential(nn.Linear(3, 6), nn.Dropout(0.4), nn.Tanh(), nn.Linear(6, 3))


class Flow(IterableDataset):
    """A stream that counts how often it is begun and read to its end."""

    def __init__(self, x=X, y=Y, fails=lambda passes, index: False):
        self.x, self.y = x, y
        self.fails = fails
        self.begun = self.ended = 0

    def __iter__(self):
        self.begun += 1
        for index, pair in enumerate(zip(self.x, self.y, strict=True)):
            if self.fails(self.ended, index):
                raise OSError("the disk is gone")
            yield pair
        self.ended += 1


def cost(stream, build=dense, data=lambda: (X, Y), **settings):
    return tw.ModelObjective(
        seeded(build, 1), LOSS, data(), stream=stream, **{"batch_size": 16, **settings}
    )


def costs(*given, **settings):
    """Return the same cost on resident and on streamed data."""
    return tuple(cost(stream, *given, **settings) for stream in (False, True))


def line_of(objective, build=None):
    if build is not None:  # with the statistics of two networks
        models = [seeded(build, seed) for seed in (2, 3)]
        for seed, model in enumerate(models):
            for layer in model.modules():
                if isinstance(layer, nn.BatchNorm2d):
                    layer.running_mean.add_(0.1 * normal(layer.num_features, seed=seed))
                    layer.running_var.add_(0.3 + 0.1 * seed)
        return tw.Line(*(objective.space.flatten(model) for model in models))
    return tw.Line(*(normal(objective.space.size, seed=seed) for seed in (3, 4)))


def chosen(objective, section, weights):
    anchors = [objective.point(anchor) for anchor in section.anchors]
    return choose(objective, section, anchors, weights)


def swept(objective, section, alpha=ALPHA, **settings):
    return sweep(objective, section, section.weights(alpha), progress=False, **settings)


def losses(rows, split="train"):
    return np.array([row.loss[split] for row in rows])


class TestNumbers:
    @pytest.mark.parametrize("small", [0, 1e18])
    @pytest.mark.parametrize("name", MODELS)
    def test_are_those_of_resident_data(self, monkeypatch, name, small):
        """With every strategy that the models of the table lead to."""
        monkeypatch.setattr("thalweg.evaluate.planning._SMALL_PASS", small)
        case = MODELS[name]
        right, streamed = (case.objective(batch_size=4, stream=each) for each in (False, True))
        line = tw.Line(case.point(2), case.point(3))
        weights = line.weights(ALPHA)
        ways = [chosen(each, line, weights) for each in (right, streamed)]
        assert type(ways[0].strategy) is type(ways[1].strategy)
        assert ways[0].strategy.name == ways[1].strategy.name
        assert swept(streamed, line) == swept(right, line)

    def test_take_all_three_fast_ways(self, monkeypatch):
        found = set()
        for small in (0, 1e18):
            monkeypatch.setattr("thalweg.evaluate.planning._SMALL_PASS", small)
            for case in MODELS.values():
                objective = case.objective(stream=True)
                line = tw.Line(case.point(2), case.point(3))
                found.add(type(chosen(objective, line, line.weights(ALPHA)).strategy))
        assert {StackedChain, Vectorised} < found
        assert len(found) == 3

    def test_of_first_layer_reuse(self):
        def build():
            return nn.Sequential(nn.Linear(200, 5), nn.Tanh(), nn.Linear(5, 3))

        data = (normal(50, 200, seed=1), classes(50, count=3, seed=2))
        right, streamed = costs(build, lambda: data, dtype=torch.float64, batch_size=8)
        for objective in (right, streamed):
            objective.forward_pass.model[1].register_forward_hook(lambda *_: None)  # no chain
        line = line_of(right)
        ways = [chosen(each, line, line.weights(ALPHA)).strategy for each in (right, streamed)]
        rows = [way.evaluate(line.weights(ALPHA)) for way in ways]
        assert rows[0] == rows[1]

    @pytest.mark.parametrize("policy", ["recalibrate", "interpolate", "stored", "batch"])
    def test_of_every_policy(self, monkeypatch, policy):
        monkeypatch.setattr("thalweg.evaluate.planning._SMALL_PASS", 0)
        right, streamed = costs(
            normalised,
            lambda: {"train": (IMAGES, Y), "valid": (IMAGES[:20] + 0.5, Y[:20])},
            batch_norm=policy,
            metrics={"error": tw.error_rate},
        )
        line = line_of(right, normalised)
        first, second = swept(right, line), swept(streamed, line)
        exact = policy != "recalibrate"  # whose moments are merged of parts
        for split in ("train", "valid"):
            np.testing.assert_allclose(
                losses(second, split), losses(first, split), rtol=0 if exact else 1e-12
            )
        assert [row.metrics for row in first] == [row.metrics for row in second]

    @pytest.mark.parametrize("policy", ["recalibrate", "batch"])
    def test_of_dropout(self, policy):
        def build():
            return nn.Sequential(nn.Linear(3, 6), nn.Dropout(0.4), nn.BatchNorm1d(6), nn.ReLU())

        right, streamed = costs(build, dropout=tw.MonteCarlo(3, seed=2), batch_norm=policy)
        line = line_of(right)
        assert isinstance(chosen(streamed, line, line.weights(ALPHA)).strategy, Streamed)
        first, second = swept(right, line), swept(streamed, line)
        drawn = [np.array([row.samples["train"] for row in rows]) for rows in (first, second)]
        assert len(np.unique(drawn[0])) == 3 * len(ALPHA)
        np.testing.assert_allclose(drawn[1], drawn[0], rtol=0 if policy == "batch" else 1e-12)

    def test_of_a_model_that_cannot_be_looked_into(self):
        class Guarded(nn.Module):
            """Works on tensors without gradients only."""

            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(3, 3)

            def forward(self, x):
                return torch.from_numpy(self.layer(x).numpy()) + 0

        right, streamed = costs(Guarded, penalty=lambda t: t["layer.bias"].square().sum())
        line = line_of(right)
        assert isinstance(chosen(streamed, line, line.weights(ALPHA)).strategy, Streamed)
        assert swept(streamed, line) == swept(right, line)

    def test_of_sequences_of_many_lengths(self):
        lengths = torch.randint(2, 7, (12,), generator=torch.Generator().manual_seed(1)).tolist()
        batches = [
            (normal(3, n, 3, seed=n), classes(3, count=3, seed=i)) for i, n in enumerate(lengths)
        ]

        class Mean(nn.Module):
            def __init__(self):
                super().__init__()
                self.head = nn.Linear(3, 3)

            def forward(self, x):
                return self.head(x).tanh().mean(1)

        right, streamed = costs(Mean, lambda: DataLoader(batches, batch_size=None), batch_size=None)
        line = line_of(right)
        assert swept(streamed, line) == swept(right, line)

    def test_of_workers(self):
        right, streamed = costs(
            data=lambda: DataLoader(list(zip(X, Y, strict=True)), batch_size=16, num_workers=2),
            batch_size=None,
        )
        line = line_of(right)
        assert swept(streamed, line) == swept(right, line)

    def test_of_a_surface_and_its_provenance(self):
        right, streamed = costs()
        plane = tw.Plane.random(right.space, normal(right.space.size, seed=1), seed=2)
        grids = ([-1.0, 0.0, 0.5], [-0.5, 1.0])
        found = tw.surface(streamed, plane, *grids)
        expected = tw.surface(right, plane, *grids)
        assert np.array_equal(found.loss["train"], expected.loss["train"])
        told = [dict(each.provenance.objective["splits"]["train"]) for each in (found, expected)]
        assert [each.pop("streamed") for each in told] == [True, False]
        assert told[0] == told[1]

    def test_known_points_of_resident_data_are_taken_over(self):
        right, streamed = costs()
        line = line_of(right)
        known = tw.profile(right, line, [0.0, 0.5, 1.0])
        finer = tw.profile(streamed, line, [0.25, 0.75], known=known)
        assert finer.alpha.tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]


class TestReadings:
    @pytest.mark.parametrize("points", [1, 5, 16, 17, 40])
    def test_are_one_for_a_group_of_points(self, monkeypatch, points):
        """Of a cost that shares no work: the slowest way still reads once for 16 points."""
        data = Flow()
        _, objective = costs(masked, lambda: data, dropout=tw.MonteCarlo(2, seed=1))
        line = line_of(objective)
        alpha = np.linspace(-0.5, 1.5, points)
        plan = planned(objective, chosen(objective, line, line.weights(alpha)), line.weights(alpha))
        assert plan.reads == -(-points // 16)
        assert plan.passes == 2 * points
        objective.check(line.anchors[0])  # which looks at the first 32 batches: here, at all
        before = data.ended
        swept(objective, line, alpha)
        assert data.ended - before == plan.reads

    @pytest.mark.parametrize("rows", [3, 7, 100])
    @pytest.mark.parametrize("policy", ["recalibrate", "stored"])
    def test_of_normalised_networks_are_what_the_plan_says(self, monkeypatch, rows, policy):
        """Recalibration reads once a layer, whatever the number of points."""
        monkeypatch.setattr("thalweg.evaluate.planning._SMALL_PASS", 0)
        monkeypatch.setattr("thalweg.evaluate.planning._together", lambda *_: rows)
        data, other = Flow(IMAGES, Y), Flow(IMAGES[:20], Y[:20])
        _, objective = costs(normalised, lambda: {"train": data, "valid": other}, batch_norm=policy)
        line = line_of(objective, normalised)
        weights = line.weights(ALPHA)
        choice = chosen(objective, line, weights)
        assert choice.strategy.rows == rows
        plan = planned(objective, choice, weights)
        groups = -(-len(ALPHA) // rows)
        assert plan.reads == groups * (3 if policy == "recalibrate" else 1)
        begun = data.ended, other.ended
        choice.strategy.evaluate(weights[:rows])
        assert data.ended - begun[0] == plan.reads // groups
        assert other.ended - begun[1] == 1

    def test_are_one_at_first_and_one_for_what_is_kept(self, tmp_path):
        data = Flow()
        objective = cost(True, data=lambda: data)
        assert data.ended == 1
        line = line_of(objective)
        objective.check(line.anchors[0])
        assert data.ended == 2
        swept(objective, line)
        assert data.ended == 3
        swept(objective, line, keep=tmp_path)
        assert data.ended == 5
        swept(objective, line, keep=tmp_path)  # all points are found, and digests known
        assert data.ended == 5

    def test_are_told_by_the_plan(self):
        right, streamed = costs()
        line = line_of(right)
        assert tw.plan(right, line).reads == 0
        assert "reads" not in str(tw.plan(right, line))
        text = str(tw.plan(streamed, line))
        assert "reads      1 of the streamed data" in text
        assert "The data of 'train' is read anew for each group of points: it was asked" in text
        _, streamed = costs(normalised, lambda: (IMAGES, Y))
        plan = tw.plan(streamed, line_of(streamed))
        assert plan.reads == 3 * -(-plan.points // plan.rows)
        assert plan.reasons[-1] == (
            "Recalibrating 2 normalisations reads it once more for each of them; "
            "batch_norm='stored' or 'interpolate' does not."
        )

    def test_tell_why(self, monkeypatch):
        monkeypatch.setattr("thalweg.objectives.batches.free_memory", lambda device: 1 << 10)
        objective = tw.ModelObjective(seeded(dense, 1), LOSS, (X, Y))
        plan = tw.plan(objective, line_of(objective))
        assert plan.reasons[-1] == (
            "The data of 'train' is read anew for each group of points: it takes about 2.68e-06 "
            "GiB, more than 3.81e-07 GiB, 40% of the free memory."
        )


class TestKeptPoints:
    @pytest.mark.parametrize("build", [dense, normalised, masked])
    def test_serve_resident_and_streamed_sweeps_alike(self, tmp_path, build):
        x = IMAGES if build is normalised else X
        settings = {"dropout": tw.MonteCarlo(2, seed=1)} if build is masked else {}
        right, streamed = costs(build, lambda: (x, Y), **settings)
        line = line_of(right)
        anchors = [right.point(anchor) for anchor in line.anchors]
        names = {
            chosen(each, line, line.weights(ALPHA)).strategy.name for each in (right, streamed)
        }
        (name,) = names
        first, second = (identity_of(each, line, anchors, name) for each in (right, streamed))
        assert first.differences(second.facts) == []
        probes = [probed(each, line, anchors) for each in (right, streamed)]
        assert first.disagreement(*probes) is None
        kept = swept(right, line, keep=tmp_path)
        data = streamed.splits[0].batches
        before = data.passes
        assert swept(streamed, line, keep=tmp_path) == kept
        # Nothing is evaluated; the probe of a normalised network recalibrates two layers.
        assert data.passes - before == {dense: 0, normalised: 2, masked: 1}[build]
        assert len(list(tmp_path.iterdir())) == 1

    def test_of_sequences_of_many_lengths(self):
        batches = [(normal(n, length, 3), classes(n, count=3)) for n, length in ((5, 2), (8, 5))]

        class Mean(nn.Module):
            def __init__(self):
                super().__init__()
                self.head = nn.Linear(3, 3)

            def forward(self, x):
                return self.head(x.mean(1))

        right, streamed = costs(Mean, lambda: DataLoader(batches, batch_size=None), batch_size=None)
        line = line_of(right)
        anchors = list(line.anchors)
        first, second = (identity_of(each, line, anchors, "plain") for each in (right, streamed))
        assert first.digest == second.digest
        assert first.disagreement(*(probed(e, line, anchors) for e in (right, streamed))) is None

    def test_stay_when_the_stream_fails(self, tmp_path, monkeypatch):
        monkeypatch.setattr("thalweg.evaluate.streamed.Streamed.rows", 2)
        # Passes: checksums, the check of these few batches, digests, one group of two points;
        # the second group fails.
        data = Flow(fails=lambda passes, index: passes == 4 and index == 40)
        objective = cost(True, masked, lambda: data, dropout=tw.MonteCarlo(2, seed=1))
        line = line_of(objective)
        with pytest.raises(
            RuntimeError,
            match=r"batch 2 of split 'train' failed in the data set itself \(OSError: the disk "
            r"is gone\).*points that were finished and kept are not evaluated again",
        ):
            swept(objective, line, keep=tmp_path)
        (file,) = tmp_path.iterdir()
        assert len(file.read_text().splitlines()) == 1 + 2
        data.fails = lambda passes, index: False
        ended = data.ended
        found = swept(objective, line, keep=tmp_path)
        assert data.ended - ended == 3  # five points in pairs
        right, _ = costs(masked, dropout=tw.MonteCarlo(2, seed=1))
        assert found == swept(right, line)


class TestChangingData:
    def test_ends_a_sweep_before_a_value_is_told(self, tmp_path):
        x = X.clone()
        _, objective = costs(data=lambda: (x, Y))
        line = line_of(objective)
        swept(objective, line, keep=tmp_path)
        x[77, 1] += 1e-12
        with pytest.raises(
            NonDeterministicObjectiveError, match=r"batch 4 is another one.*written to since"
        ):
            swept(objective, line, ALPHA + 0.01, keep=tmp_path)
        (file,) = tmp_path.iterdir()
        assert len(file.read_text().splitlines()) == 1 + len(ALPHA)


class TestSubsample:
    HOW = tw.Subsample(40, seed=3, nodes=3, groups=20)

    @pytest.mark.parametrize(
        "data", [lambda: (X, Y), lambda: DataLoader(list(zip(X, Y, strict=True)), batch_size=16)]
    )
    def test_is_that_of_resident_data(self, data):
        right, streamed = costs(data=data, batch_size=None)
        line = line_of(right)
        first, second = (
            tw.profile(each, line, ALPHA, estimate=self.HOW) for each in (right, streamed)
        )
        assert np.array_equal(first.loss["train"], second.loss["train"])
        assert np.array_equal(first.estimate.deviations, second.estimate.deviations)

    def test_needs_examples_that_can_be_picked(self):
        _, objective = costs(data=Flow)
        with pytest.raises(
            ValueError,
            match=r"picked one by one; those of 'train' differ in shape, or are streamed and come "
            r"as they come.*`__getitem__`\), or leave `estimate` out",
        ):
            tw.profile(objective, line_of(objective), ALPHA, estimate=self.HOW)


class TestMemory:
    def test_of_handed_out_examples_stays_bounded(self, monkeypatch):
        """What is alive at once is a block and a few batches, in a sweep of many points."""
        monkeypatch.setattr("thalweg.evaluate.resident._BLOCK_BYTES", 30_000)
        monkeypatch.setattr("thalweg.evaluate.stacked._PIECE_BYTES", 30_000)

        class Counted(Dataset):
            alive, most, read = 0, 0, 0

            def __len__(self):
                return 60

            def __getitem__(self, index):
                """Return a ready batch of ten kilobytes."""
                x = 0.1 * normal(8, 160, seed=index, dtype=torch.float64)
                self.alive += x.nbytes
                self.read += 1
                self.most = max(self.most, self.alive)
                weakref.finalize(x, self.forget, x.nbytes)
                return x, classes(8, count=3, seed=index)

            def forget(self, size):
                self.alive -= size

        data = Counted()
        one = 8 * 160 * 8
        objective = tw.ModelObjective(
            seeded(lambda: nn.Sequential(nn.Linear(160, 8), nn.GELU(), nn.Linear(8, 3)), 1),
            LOSS,
            DataLoader(data, batch_size=None),
            stream=True,
        )
        for small in (0, 1e18):
            monkeypatch.setattr("thalweg.evaluate.planning._SMALL_PASS", small)
            line = line_of(objective)
            before = data.read
            swept(objective, line, np.linspace(0, 1, 30))
            assert data.read - before < 2 * 60
        assert data.most <= 30_000 + 4 * one
        assert data.most < 60 * one / 4
        assert data.alive == 0

    @pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from the system")
    def test_of_a_process_stays_bounded(self):
        """400 MiB of data pass through a process that may grow by a tenth of that."""
        code = """
import json, torch
import thalweg as tw
from thalweg.evaluate import resident
from torch import nn

resident._BLOCK_BYTES = 8 << 20
torch.set_num_threads(1)

class Made(torch.utils.data.IterableDataset):
    def __init__(self, count):
        self.count = count

    def __iter__(self):
        for i in range(self.count):
            yield torch.full((256, 1024), i / self.count), torch.full((256,), i % 3)

def peak():
    # Not getrusage, which remembers the process that this one was started from.
    (line,) = [x for x in open("/proc/self/status") if x.startswith("VmHWM")]
    return int(line.split()[1]) / 1024

def sweep_over(count):
    loader = torch.utils.data.DataLoader(Made(count), batch_size=None)
    model = nn.Sequential(nn.Linear(1024, 8), nn.Flatten(), nn.Linear(8, 3))
    cost = tw.ModelObjective(model, nn.CrossEntropyLoss(), loader, stream=True)
    ends = (torch.linspace(-1, 1, cost.space.size), torch.linspace(1, 0, cost.space.size))
    profile = tw.profile(cost, tw.Line(*ends), [0.25, 0.75])
    assert cost.splits[0].examples == 256 * count
    return profile.loss["train"].tolist()

sweep_over(10)  # what torch takes by itself
before = peak()
values = sweep_over(400)
grown = peak() - before
held = list(Made(400))
print(json.dumps([grown, peak() - before, values]))
"""
        done = subprocess.run(
            [sys.executable, "-c", code],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        grown, held, values = json.loads(done.stdout)
        assert grown < 40  # MiB
        assert held > 300  # the measure can see what is held
        assert np.isfinite(values).all()
