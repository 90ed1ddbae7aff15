"""Points written tensor by tensor give the numbers of the plain way, in the memory of one model."""

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import thalweg as tw
from cases import MODELS, seeded
from thalweg.evaluate import sweep
from thalweg.evaluate.planning import choose
from thalweg.evaluate.strategy import Plain

ALPHA = np.array([-0.25, 0.0, 0.4, 1.0, 1.3])


def stored(folder, space, thetas):
    """Keep points on disk."""
    points = []
    for number, theta in enumerate(thetas):
        path = folder / f"{number}.safetensors"
        save_file({n: t.contiguous() for n, t in space.unflatten(theta).items()}, path)
        points.append(tw.StoredPoint(space, path))
    return points


def plain(objective, section, weights):
    anchors = [objective.point(anchor) for anchor in section.anchors]
    return Plain(objective, section, anchors).evaluate(weights)


class TestNumbers:
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
    def test_every_network_of_the_table(self, case, tmp_path, dtype):
        objective = case.objective(dtype=dtype)
        thetas = [case.point(seed, dtype) for seed in (2, 3)]
        line = tw.Line(*stored(tmp_path, objective.space, thetas))
        weights = line.weights(ALPHA)
        assert choose(objective, line, line.anchors, weights).strategy.name == "tensor by tensor"
        assert sweep(objective, line, weights) == plain(objective, tw.Line(*thetas), weights)

    def test_one_end_on_disk_and_one_in_memory(self, tmp_path):
        case = MODELS["tied"]
        objective = case.objective()
        thetas = [case.point(seed) for seed in (2, 3)]
        (point,) = stored(tmp_path, objective.space, thetas[:1])
        line = tw.Line(point, thetas[1])
        assert sweep(objective, line, line.weights(ALPHA)) == plain(
            objective, tw.Line(*thetas), line.weights(ALPHA)
        )

    def test_types_on_disk_are_cast(self, tmp_path):
        case = MODELS["perceptron"]
        objective = case.objective()
        thetas = [case.point(seed, torch.bfloat16) for seed in (2, 3)]
        line = tw.Line(*stored(tmp_path, objective.space, thetas))
        expected = plain(objective, tw.Line(*(t.double() for t in thetas)), line.weights(ALPHA))
        assert sweep(objective, line, line.weights(ALPHA)) == expected

    @pytest.mark.parametrize("policy", ["recalibrate", "interpolate", "stored", "batch"])
    def test_policies_for_statistics(self, tmp_path, policy):
        def build():
            return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3))

        models = [seeded(build, seed) for seed in (2, 3)]
        for model in models:
            model[1].running_mean += 0.5
            model[1].running_var *= 2.0
        data = MODELS["perceptron"].data()
        objective = tw.ModelObjective(
            models[0], nn.CrossEntropyLoss(), data, batch_norm=policy, batch_size=4
        )
        points = []
        for number, model in enumerate(models):
            save_file(model.state_dict(), tmp_path / f"{number}.safetensors")
            points.append(tw.StoredPoint(objective.space, tmp_path / f"{number}.safetensors"))
        line, right = tw.Line(*points), tw.Line(*map(objective.space.flatten, models))
        assert sweep(objective, line, line.weights(ALPHA)) == plain(
            objective, right, right.weights(ALPHA)
        )

    def test_dropout_masks_metrics_splits_and_penalty(self, tmp_path):
        case = MODELS["perceptron"]
        x, y = case.data()
        model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.4), nn.Linear(4, 3)).double()
        objective = tw.ModelObjective(
            model,
            nn.CrossEntropyLoss(),
            {"train": (x, y), "valid": (x[:5], y[:5])},
            metrics={"error": tw.error_rate},
            dropout=tw.MonteCarlo(3, seed=1),
            penalty=lambda tensors: sum(t.square().sum() for t in tensors.values()),
        )
        generator = torch.Generator().manual_seed(3)
        thetas = [
            torch.randn(objective.space.size, generator=generator, dtype=torch.float64)
            for _ in range(2)
        ]
        line = tw.Line(*stored(tmp_path, objective.space, thetas))
        found = sweep(objective, line, line.weights(ALPHA))
        assert found == plain(objective, tw.Line(*thetas), line.weights(ALPHA))
        assert found[0].samples["train"] != found[1].samples["train"]

    def test_profiles_surfaces_and_plans(self, tmp_path):
        case = MODELS["perceptron"]
        objective = case.objective()
        thetas = [case.point(seed) for seed in (2, 3, 4)]
        points = stored(tmp_path, objective.space, thetas)
        line = tw.Line(*points[:2])
        profile = tw.profile(objective, line, ALPHA, progress=False)
        right = tw.profile(objective, tw.Line(*thetas[:2]), ALPHA, progress=False)
        np.testing.assert_allclose(profile.loss["train"], right.loss["train"], rtol=1e-12)
        assert profile.length == pytest.approx(right.length)
        surface = tw.surface(objective, tw.Plane.through(*points), [0, 0.5], [0, 1, 2])
        assert surface.loss["train"][1, 0] == pytest.approx(objective.value(thetas[2]), rel=1e-12)
        plan = tw.plan(objective, line, ALPHA)
        assert (plan.strategy, plan.rows) == ("tensor by tensor", 1)
        assert plan.memory == 12 * 8
        assert plan.seconds > 0
        assert "stay on disk" in str(plan)
        # A point on disk is a point wherever a vector is.
        assert objective.value(points[0]) == objective.value(thetas[0])

    def test_a_formula_reads_its_anchors(self, tmp_path):
        bowl = tw.FunctionObjective(lambda t: (t - 1).square().sum(), size=3)
        thetas = [torch.tensor([3.0, 1.0, 2.0]).double(), torch.tensor([0.0, 2.0, 1.0]).double()]
        line = tw.Line(*stored(tmp_path, bowl.space, thetas))
        assert tw.profile(bowl, line, [0.0, 1.0]).loss["train"].tolist() == [5.0, 2.0]


class TestKept:
    def test_points_of_a_line_in_memory_serve_the_same_line_on_disk(self, tmp_path):
        """The way of evaluation is part of the identity, the place of the anchors is not."""
        case = MODELS["perceptron"]
        objective = case.objective()
        line = tw.Line(*stored(tmp_path, objective.space, [case.point(2), case.point(3)]))
        first = tw.profile(objective, line, ALPHA, keep=tmp_path / "kept", progress=False)
        calls = []
        objective.evaluate_at = calls.append
        again = tw.profile(objective, line, ALPHA, keep=tmp_path / "kept", progress=False)
        assert calls == []
        assert again.loss["train"].tolist() == first.loss["train"].tolist()

    def test_other_numbers_in_the_same_file_are_another_cost(self, tmp_path):
        case = MODELS["perceptron"]
        objective = case.objective()
        line = tw.Line(*stored(tmp_path, objective.space, [case.point(2), case.point(3)]))
        first = tw.profile(objective, line, ALPHA, keep=tmp_path / "kept", progress=False)
        line = tw.Line(*stored(tmp_path, objective.space, [case.point(4), case.point(3)]))
        other = tw.profile(objective, line, ALPHA, keep=tmp_path / "kept", progress=False)
        assert other.loss["train"][1] != first.loss["train"][1]


class TestErrors:
    def test_points_of_another_space(self, tmp_path):
        other = tw.ParameterSpace.of(nn.Linear(4, 3))
        objective = MODELS["perceptron"].objective()
        generator = torch.Generator().manual_seed(0)
        thetas = [torch.randn(other.size, generator=generator) for _ in range(2)]
        line = tw.Line(*stored(tmp_path, other, thetas))
        with pytest.raises(tw.ParameterMismatchError, match="made for another model"):
            tw.profile(objective, line, ALPHA)

    def test_what_does_not_agree_with_itself_is_refused_here_too(self, tmp_path):
        case = MODELS["perceptron"]
        x, y = case.data()

        def noisy(output, target):
            return nn.functional.cross_entropy(output, target) + torch.rand(())

        objective = tw.ModelObjective(case.model(), lambda o, t: (noisy(o, t), 1.0), (x, y))
        line = tw.Line(*stored(tmp_path, objective.space, [case.point(2), case.point(3)]))
        with pytest.raises(tw.NonDeterministicObjectiveError, match="Two evaluations"):
            tw.profile(objective, line, ALPHA)


class TestWithoutMemory:
    def test_a_model_on_the_meta_device_is_filled_by_the_points(self, tmp_path):
        case = MODELS["tied"]
        with torch.device("meta"):
            empty = case.build().double()
        objective = tw.ModelObjective(empty, nn.CrossEntropyLoss(), case.data())
        assert objective.device == torch.device("cpu")
        assert next(empty.parameters()).is_meta  # the user's model is as it was
        theta = case.point(2)
        assert objective.value(theta) == case.objective().value(theta)
        line = tw.Line(*stored(tmp_path, objective.space, [case.point(2), case.point(3)]))
        right = plain(case.objective(), tw.Line(case.point(2), case.point(3)), line.weights(ALPHA))
        assert sweep(objective, line, line.weights(ALPHA)) == right

    def test_what_does_not_move_must_hold_numbers(self):
        with torch.device("meta"):
            model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
        with pytest.raises(ValueError, match="on the meta device are the frozen tensors or"):
            tw.ModelObjective(model, nn.MSELoss(), (torch.ones(4, 2), torch.ones(4, 3)))

    @pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read there")
    def test_memory_is_that_of_one_model_and_one_tensor(self, tmp_path):
        """A line between two models of 96 MB each, in a process of its own."""
        script = """
            import sys
            import torch
            from safetensors.torch import save_file
            import thalweg as tw

            def build(width):
                return torch.nn.Sequential(*(torch.nn.Linear(width, width) for _ in range(24)))

            def evaluate(width):
                with torch.device("meta"):
                    model = build(width)
                x = torch.randn(8, width)
                objective = tw.ModelObjective(model, torch.nn.MSELoss(), (x, x))
                ends = [tw.StoredPoint(objective.space, f"{folder}/{n}{width}") for n in "ab"]
                keep = f"{folder}/points{width}"
                tw.profile(objective, tw.Line(*ends), [0.0, 0.5, 1.0], keep=keep, progress=False)

            def peak():
                (line,) = [x for x in open("/proc/self/status") if x.startswith("VmHWM")]
                return int(line.split()[1]) / 1024

            folder = sys.argv[1]
            if sys.argv[2] == "write":
                torch.manual_seed(0)
                for name, width in ("a", 10), ("b", 10), ("a", 1000), ("b", 1000):
                    save_file(build(width).state_dict(), f"{folder}/{name}{width}")
                sys.exit()
            evaluate(10)  # what is imported at first use is no memory of the model
            before = peak()
            evaluate(1000)
            print(peak() - before)
        """
        command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)]
        subprocess.run([*command, "write"], check=True)
        told = subprocess.run([*command, "read"], check=True, capture_output=True, text=True)
        # 92 MiB of the model and 4 of a tensor; the rest is room for how the system hands out
        # and counts memory. With both ends in memory it would be 275 and more.
        assert 90 < float(told.stdout) < 92 + 50
