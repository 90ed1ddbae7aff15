"""The step budget: closed forms, enumerated batches, recursions at the limit, negative controls."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

import thalweg as tw
from cases import FUNCTIONS, normal
from thalweg.functions import quadratic
from thalweg.probes.optimizer_rule import optimizer_rule

MATRIX = np.array([[3.0, 0.5, 0.0], [0.5, 2.0, -0.4], [0.0, -0.4, 0.7]])
BOWL = quadratic(MATRIX, [1.0, -2.0, 0.5])
START = torch.tensor([2.0, 1.0, -1.0], dtype=torch.float64)

OPTIMIZERS = {
    "sgd": lambda p, rate=0.1: torch.optim.SGD(p, rate),
    "momentum": lambda p, rate=0.1: torch.optim.SGD(p, rate, momentum=0.8),
    "dampened": lambda p, rate=0.1: torch.optim.SGD(p, rate, momentum=0.8, dampening=0.3),
    "decayed": lambda p, rate=0.1: torch.optim.SGD(p, rate, momentum=0.8, weight_decay=0.1),
    "nesterov": lambda p, rate=0.1: torch.optim.SGD(p, rate, momentum=0.8, nesterov=True),
    "adam": lambda p, rate=0.1: torch.optim.Adam(p, rate, weight_decay=0.1),
    "adamw": lambda p, rate=0.1: torch.optim.AdamW(p, rate, weight_decay=0.1, amsgrad=True),
}


class Point(nn.Module):
    def __init__(self):
        super().__init__()
        self.theta = nn.Parameter(START.clone())


def descend(folder, make, steps=6, cost=BOWL, every=1, state=True, rate=0.1):
    """Record a run with exact gradients."""
    model = Point()
    optimizer = make(model.parameters(), rate)
    recorder = tw.Recorder(
        folder, model, optimizer, tw.Every(steps=every), updates=True, optimizer_state=state
    )
    with recorder:
        for _ in range(steps):
            model.theta.grad = cost.gradient(model.theta.detach())
            optimizer.step()
            recorder.step()
    return tw.Trajectory.open(folder)


class TestQuadratics:
    """There the second order is exact, and without noise so is every prediction."""

    @pytest.mark.parametrize("name", OPTIMIZERS)
    def test_of_every_optimizer_with_its_state(self, name, tmp_path):
        run = descend(tmp_path / "run", OPTIMIZERS[name], every=3)
        found = tw.step_budget(BOWL, run, progress=False)
        np.testing.assert_allclose(found.predicted, found.actual, rtol=1e-11, atol=1e-13)
        np.testing.assert_allclose(found.full_gradient, found.actual, rtol=1e-11, atol=1e-13)
        np.testing.assert_allclose(found.noise, 0, atol=1e-20)
        assert found.consistency == pytest.approx(1, abs=1e-9)

    @pytest.mark.parametrize("name", ["sgd", "momentum", "dampened", "decayed", "nesterov"])
    def test_momentum_is_told_from_earlier_updates(self, name, tmp_path):
        run = descend(tmp_path / "run", OPTIMIZERS[name], state=False)
        found = tw.step_budget(BOWL, run, progress=False)
        np.testing.assert_allclose(found.full_gradient, found.actual, rtol=1e-9, atol=1e-12)

    def test_the_terms_of_plain_descent(self):
        points = [START]
        for _ in range(3):
            points.append(points[-1] - 0.2 * BOWL.gradient(points[-1]))
        run = tw.Trajectory.from_points(points, learning_rate=0.2)
        found = tw.step_budget(BOWL, run, progress=False)
        for i, theta in enumerate(points[:-1]):
            g = BOWL.gradient(theta).numpy()
            assert found.descent[i] == pytest.approx(-0.2 * g @ g, rel=1e-12)
            assert found.curvature[i] == pytest.approx(0.02 * g @ MATRIX @ g, rel=1e-12)
            assert found.optimal_step[i] == pytest.approx(g @ g / (g @ MATRIX @ g), rel=1e-12)
        largest = np.linalg.eigvalsh(MATRIX)[-1]
        np.testing.assert_allclose(found.stability, 0.2 * largest, rtol=1e-10)
        np.testing.assert_array_equal(found.stability_limit, 2.0)
        assert found.uphill == 0
        blind = tw.Trajectory.from_points(points)  # the rate is told from the updates
        told = tw.step_budget(BOWL, blind, progress=False)
        np.testing.assert_allclose(told.learning_rate, 0.2, rtol=1e-10)
        assert "told from updates along the gradient" in told.method

    def test_scale_and_shift_of_the_cost(self):
        known = FUNCTIONS["chain-3"]
        points = torch.from_numpy(known.start) + normal(5, 3) * 0.1
        run = tw.Trajectory.from_points(points, learning_rate=0.1)
        scaled = tw.FunctionObjective(lambda w: 3 * known.f(w) + 2, size=3)
        one = tw.step_budget(known.objective, run, progress=False)
        slower = tw.Trajectory.from_points(points, learning_rate=0.1 / 3)  # the same updates
        three = tw.step_budget(scaled, slower, progress=False)
        for name in ("descent", "curvature", "actual", "largest_eigenvalue"):
            right = 3 * getattr(one, name)
            np.testing.assert_allclose(getattr(three, name), right, rtol=1e-9, atol=1e-12)
        assert one.variation == pytest.approx(three.variation)


class TestStability:
    @pytest.mark.parametrize("name", ["sgd", "momentum", "dampened", "nesterov"])
    def test_below_the_limit_it_converges_and_above_it_diverges(self, name):
        for share, grows in ((0.99, False), (1.01, True)):
            theta = nn.Parameter(torch.ones(1, dtype=torch.float64))
            optimizer = OPTIMIZERS[name]([theta])
            settings = {k: v for k, v in optimizer.param_groups[0].items() if k != "params"}
            rule = optimizer_rule({"optimizer": {"name": "SGD", "groups": [settings]}})
            curvature = share * rule.stability_limit / 0.1
            for _ in range(3000):
                theta.grad = curvature * theta.detach()
                optimizer.step()
            assert (abs(theta.item()) > 1e3) == grows
            assert (abs(theta.item()) < 1e-3) != grows

    def test_of_adam_the_limit_is_38(self):
        facts = {"optimizer": {"name": "Adam", "groups": [{"lr": 0.1, "betas": [0.9, 0.999]}]}}
        assert optimizer_rule(facts).stability_limit == pytest.approx(38)


class TestNoise:
    """Least squares of eight examples: every batch of three can be made."""

    x, y = normal(8, 2, seed=1), normal(8, 1, seed=2)

    def objective(self, **options):
        model = nn.Linear(2, 1).double()
        return tw.ModelObjective(model, nn.MSELoss(), (self.x, self.y), **options)

    def run(self, folder, rate=0.05):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(4)
            model = nn.Linear(2, 1).double()
        optimizer = torch.optim.SGD(model.parameters(), lr=rate)
        with tw.Recorder(folder, model, optimizer, tw.Every(steps=1)) as recorder:
            for step in range(4):
                pick = torch.tensor([step, step + 2, step + 4])
                optimizer.zero_grad()
                nn.functional.mse_loss(model(self.x[pick]), self.y[pick]).backward()
                optimizer.step()
                recorder.step(batch_size=3)
        return tw.Trajectory.open(folder)

    @pytest.mark.parametrize("eigenvalue", [True, False])
    def test_it_is_that_of_all_batches(self, eigenvalue, tmp_path):
        objective, run = self.objective(), self.run(tmp_path / "run")
        found = tw.step_budget(objective, run, progress=False, eigenvalue=eigenvalue)
        for i in range(4):
            theta = run[i].theta
            ends = []
            for pick in itertools.combinations(range(8), 3):
                part = tw.ModelObjective(
                    nn.Linear(2, 1).double(), nn.MSELoss(), (self.x[[*pick]], self.y[[*pick]])
                )
                ends.append(objective.value(theta - 0.05 * part.gradient(theta)))
            right = np.mean(ends) - objective.value(theta)
            if eigenvalue:  # in three dimensions Lanczos knows everything
                assert found.predicted[i] == pytest.approx(right, rel=1e-10)
                assert found.noise_error[i] == 0
            else:
                assert abs(found.predicted[i] - right) < 5 * found.noise_error[i]
            singles = torch.stack(
                [
                    tw.ModelObjective(
                        nn.Linear(2, 1).double(), nn.MSELoss(), (self.x[[j]], self.y[[j]])
                    ).gradient(theta)
                    for j in range(8)
                ]
            )
            trace = float((singles - singles.mean(0)).square().sum(1).mean())
            assert found.gradient_variance[i] == pytest.approx(trace, rel=1e-11)

    def test_the_batch_split_does_not_matter(self, tmp_path):
        run = self.run(tmp_path / "run")
        one = tw.step_budget(self.objective(), run, progress=False)
        other = tw.step_budget(self.objective(batch_size=3), run, progress=False)
        for name in ("descent", "curvature", "noise", "gradient_variance"):
            np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-10)

    def test_a_subsample_has_errors(self, tmp_path):
        run = self.run(tmp_path / "run")
        found = tw.step_budget(self.objective(), run, examples=5, progress=False)
        assert (found.examples, found.of) == (5, 8)
        assert (found.descent_error > 0).all()
        assert (found.loss_error > 0).all()


class TestControls:
    def test_a_random_walk_does_not_follow_the_gradient(self):
        steps = 0.3 * normal(12, 3, seed=5)
        run = tw.Trajectory.from_points(START + steps.cumsum(0), learning_rate=0.1)
        found = tw.step_budget(BOWL, run, progress=False)
        assert "do not follow the gradient" in found.method
        assert abs(found.consistency) < 4 * found.consistency_error
        assert abs(found.consistency - 1) > 4 * found.consistency_error
        assert np.isnan(found.noise).all()
        np.testing.assert_allclose(found.predicted, found.actual, rtol=1e-9)

    def test_points_that_are_not_finite_are_gaps(self):
        points = torch.stack([START, START + 1, START * math.nan])
        found = tw.step_budget(BOWL, tw.Trajectory.from_points(points, 0.1), progress=False)
        assert np.isfinite(found.actual).tolist() == [True, False]

    def test_without_updates(self, tmp_path):
        model = Point()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        with tw.Recorder(tmp_path / "run", model, optimizer, tw.Every(steps=3)) as recorder:
            for _ in range(6):
                model.theta.grad = torch.ones_like(model.theta)
                optimizer.step()
                recorder.step()
        run = tw.Trajectory.open(tmp_path / "run")
        with pytest.raises(ValueError, match="needs the updates that were made"):
            tw.step_budget(BOWL, run, progress=False)

    def test_of_bad_input(self):
        run = tw.Trajectory.from_points(torch.stack([START, START + 1]), 0.1)
        with pytest.raises(ValueError, match="Snapshots are numbers of the 2 points"):
            tw.step_budget(BOWL, run, [7], progress=False)
        with pytest.raises(TypeError, match="Snapshots are numbers of points"):
            tw.step_budget(BOWL, run, ["a"], progress=False)
        with pytest.raises(ValueError, match="a cost that is a mean over examples"):
            tw.step_budget(BOWL, run, examples=10, progress=False)

    def test_a_record_holds_it(self, tmp_path):
        run = tw.Trajectory.from_points(torch.stack([START, START + 1]), 0.1)
        found = tw.step_budget(BOWL, run, progress=False)
        tw.save_record(tw.Record(study="a", results={"steps": found}), tmp_path)
        opened = tw.open_record(tmp_path).results["steps"]
        np.testing.assert_array_equal(opened.predicted, found.predicted)
        assert tw.uphill_interval(opened) == tw.uphill_interval(found)

    def test_it_is_drawn(self, tmp_path):
        run = descend(tmp_path / "run", OPTIMIZERS["momentum"])
        found = tw.step_budget(BOWL, run, progress=False)
        assert tw.draw(found, tmp_path / "steps.png").stat().st_size > 10_000


class TestRedrawnSteps:
    """Of a network the same step, with many other mini-batches, has the predicted mean."""

    @pytest.mark.parametrize("name", ["sgd", "momentum", "nesterov", "adamw"])
    def test_their_mean_is_predicted(self, name, tmp_path):
        x, y = normal(60, 3, seed=1), torch.arange(60) % 3
        rate = 0.01 if name == "adamw" else 0.1
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(2)
            model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3)).double()
        loss = nn.CrossEntropyLoss()
        objective = tw.ModelObjective(model, loss, (x, y))
        optimizer = OPTIMIZERS[name](model.parameters(), rate)
        draws = torch.Generator().manual_seed(3)

        def step():
            pick = torch.randperm(60, generator=draws)[:10]
            optimizer.zero_grad()
            loss(model(x[pick]), y[pick]).backward()
            optimizer.step()

        recorder = tw.Recorder(
            tmp_path / "run",
            model,
            optimizer,
            tw.At(steps=[40]),
            updates=True,
            optimizer_state=True,
        )
        with recorder:
            for _ in range(41):
                step()
                recorder.step(batch_size=10)
        run = tw.Trajectory.open(tmp_path / "run")
        index = run.step.tolist().index(40)
        found = tw.step_budget(objective, run, [index], progress=False)
        state, theta = run[index].optimizer_state, run[index].theta
        changes = []
        for _ in range(400):
            nn.utils.vector_to_parameters(theta.clone(), model.parameters())
            optimizer.load_state_dict(copy.deepcopy(state))
            step()
            changes.append(objective.value(objective.space.flatten(model)) - found.loss[0])
        error = np.std(changes) / 20
        assert abs(np.mean(changes) - found.predicted[0]) < 4 * error + 4 * found.noise_error[0]
        assert found.noise[0] > 0


@pytest.mark.parametrize("policy", ["stored", "recalibrate", "batch"])
def test_a_net_with_dropout_statistics_and_frozen_weights(policy):
    """A full-batch step of such a net is predicted to third order, whatever the policy."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        layers = (nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 3))
        model = nn.Sequential(*layers).double()
    model[0].bias.requires_grad_(False)
    data = (normal(20, 3, seed=1), torch.arange(20) % 3)
    cost = tw.ModelObjective(model, nn.CrossEntropyLoss(), data, batch_norm=policy)
    theta = cost.space.flatten(model)
    run = tw.Trajectory.from_points([theta, theta - 1e-3 * cost.gradient(theta)], 1e-3)
    found = tw.step_budget(cost, run, progress=False)
    np.testing.assert_allclose(found.predicted, found.actual, rtol=1e-5)
    assert found.consistency == pytest.approx(1, abs=1e-9)
