import math
import os

import numpy as np
import pytest
import recorded_runs as runs
import torch
from torch import nn

import thalweg as tw
from cases import normal


def recorded(folder, steps=7, optimizer="sgd", model=None, **options):
    """Record a run; return its trajectory, and every point and loss as they were seen outside."""
    model = runs.network() if model is None else model
    by = runs.OPTIMIZERS[optimizer](model.parameters())
    generator = torch.Generator().manual_seed(5)
    seen, losses = [runs.flat(model)], []
    options = {"schedule": tw.Every(steps=2), **options}
    with tw.Recorder(folder, model, by, **options) as recorder:
        for _ in range(steps):
            losses.append(runs.update(model, by, generator))
            recorder.step(loss=losses[-1], batch_size=8)
            seen.append(runs.flat(model))
    return tw.Trajectory.open(folder), seen, losses


def test_points_are_those_of_the_run(tmp_path):
    trajectory, seen, losses = recorded(tmp_path)
    assert trajectory.step.tolist() == [0, 2, 4, 6, 7]
    for point in trajectory:
        assert torch.equal(point.theta, seen[point.step])
    np.testing.assert_array_equal(trajectory.loss, [*losses[::2], math.nan])
    np.testing.assert_array_equal(trajectory.learning_rate, [0.1] * 4 + [math.nan])
    np.testing.assert_array_equal(trajectory.batch_size, [8.0] * 4 + [math.nan])
    assert np.isnan(trajectory.epoch).all()
    assert trajectory.log.step.tolist() == [*range(7)]
    np.testing.assert_array_equal(trajectory.log.loss, losses)
    assert not trajectory.rounding.any()
    norms = [seen[step].double().norm() for step in trajectory.step]
    np.testing.assert_allclose(trajectory.norm, norms, rtol=1e-12)


def test_what_a_stream_gives_is_what_is_read(tmp_path):
    trajectory, seen, _ = recorded(tmp_path, steps=9)
    streamed = [theta.clone() for theta in trajectory.stream()]
    assert all(torch.equal(a, b.theta) for a, b in zip(streamed, trajectory, strict=True))
    part = [theta.clone() for theta in trajectory.stream(1, 4)]
    assert [torch.equal(t, seen[step]) for t, step in zip(part, (2, 4, 6), strict=True)] == [
        True
    ] * 3
    several = trajectory.stream()
    next(several)
    several.close()  # a stream may be left in the middle


def test_one_tensor_of_one_point(tmp_path):
    model = runs.network()
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    trajectory, _, _ = recorded(tmp_path, model=model)
    assert torch.equal(trajectory[0].tensor("3.weight"), start["3.weight"])
    space = trajectory.space
    end = space.unflatten(trajectory[-1].theta)
    assert torch.equal(trajectory[-1].tensor("3.bias"), end["3.bias"])
    assert torch.equal(end["3.bias"], model[3].bias)
    with pytest.raises(KeyError, match=r"is one of .*0\.weight, .*got 'nothing'"):
        trajectory[0].tensor("nothing")
    with pytest.raises(ValueError, match="Tensors have names in a trajectory that was recorded"):
        tw.Trajectory.from_points(normal(3, 4)).__getitem__(0).tensor("3.bias")


def test_the_space_of_the_model_comes_back(tmp_path):
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 3))
    model[1].weight = model[0].weight
    model[3].bias.requires_grad_(False)
    trajectory, seen, _ = recorded(tmp_path, model=model)
    space = tw.ParameterSpace.of(model)
    assert trajectory.space == space
    assert trajectory.space.size == len(seen[0]) - 3
    assert torch.equal(trajectory[-1].theta, space.flatten(model))
    assert torch.equal(trajectory[-1].tensor("1.weight"), model[0].weight)
    assert trajectory.space.fingerprints["3.bias"].parameter


def test_buffers_and_the_statistics_that_a_point_remembers(tmp_path):
    model = runs.network(dtype=torch.float64)
    trajectory, _, _ = recorded(tmp_path, model=model)
    buffers = trajectory[-1].buffers
    assert buffers.keys() == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    assert torch.equal(buffers["1.running_var"], model[1].running_var)
    assert int(buffers["1.num_batches_tracked"]) == 7
    x, y = runs.batch(model, 40, torch.Generator().manual_seed(9))
    objective = tw.ModelObjective(
        model, nn.CrossEntropyLoss(), (x, y), batch_norm="interpolate", dtype=torch.float64
    )
    line = tw.Line(trajectory[0].theta, trajectory[-1].theta)
    profile = tw.profile(objective, line, [0.0, 0.5, 1.0], progress=False)
    with torch.no_grad():
        expected = nn.functional.cross_entropy(model.eval()(x), y)
    assert profile.loss["train"][-1] == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize("optimizer", runs.OPTIMIZERS)
def test_updates_are_the_differences_of_points(tmp_path, optimizer):
    trajectory, seen, _ = recorded(tmp_path, optimizer=optimizer, updates=True)
    for point in list(trajectory)[:-1]:
        made = seen[point.step + 1] - seen[point.step]
        assert torch.equal(point.update, made)
        assert point.update_norm == pytest.approx(float(made.double().norm()), rel=1e-12)
    assert trajectory[-1].update is None
    assert math.isnan(trajectory[-1].update_norm)


def test_an_update_that_was_not_recorded_is_a_difference_where_that_is_known(tmp_path):
    trajectory, seen, _ = recorded(tmp_path, schedule=tw.At(steps=[3, 4]))
    assert trajectory.step.tolist() == [0, 3, 4, 7]
    assert torch.equal(trajectory[1].update, seen[4] - seen[3])
    assert trajectory[0].update is None


def test_the_update_of_plain_descent_is_that_of_the_gradient(tmp_path):
    model = nn.Linear(3, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -2.0, 0.5]]))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.25)
    with tw.Recorder(
        tmp_path, model, optimizer, tw.Every(steps=1), updates=True, gradient_norm=True
    ) as recorder:
        for _ in range(3):  # J = ½ ‖w‖², whose gradient is w
            optimizer.zero_grad()
            (0.5 * model.weight.square().sum()).backward()
            optimizer.step()
            recorder.step()
    trajectory = tw.Trajectory.open(tmp_path)
    start = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    for point in list(trajectory)[:-1]:
        torch.testing.assert_close(point.theta, start * 0.75**point.step, rtol=1e-14, atol=0)
        torch.testing.assert_close(point.update, -0.25 * point.theta, rtol=1e-14, atol=0)
        assert point.gradient_norm == pytest.approx(math.sqrt(5.25) * 0.75**point.step, rel=1e-14)
    assert np.isnan(trajectory.log.loss).all()


def test_rates_of_all_groups_as_the_update_was_made_with(tmp_path):
    model = runs.network()
    groups = [{"params": model[0].parameters(), "lr": 0.5}, {"params": model[3].parameters()}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    with tw.Recorder(tmp_path, model, optimizer) as recorder:
        for _ in range(3):
            loss = runs.update(model, optimizer)
            schedule.step()  # before the recorder is told: the update had the rate of before
            recorder.step(loss=loss)
    log = tw.Trajectory.open(tmp_path).log
    np.testing.assert_array_equal(log.learning_rates, [[0.5, 0.1], [0.25, 0.05], [0.125, 0.025]])
    np.testing.assert_array_equal(log.learning_rate, [0.5, 0.25, 0.125])


def test_epochs(tmp_path):
    model = runs.network()
    optimizer = runs.OPTIMIZERS["sgd"](model.parameters())
    with tw.Recorder(tmp_path, model, optimizer, tw.Every(epochs=2) | tw.At([8])) as recorder:
        for _ in range(5):
            for _ in range(4):
                recorder.step(loss=runs.update(model, optimizer))
            recorder.epoch()
    trajectory = tw.Trajectory.open(tmp_path)
    assert trajectory.step.tolist() == [0, 8, 16, 20]
    assert trajectory.epoch.tolist() == [0, 2, 4, 5]
    assert trajectory.log.epoch[[0, 3, 4, 19]].tolist()[2:] == [1, 4]


def test_events_are_told_by_the_user_and_by_the_loss(tmp_path):
    model = runs.network()
    optimizer = runs.OPTIMIZERS["sgd"](model.parameters())
    losses = [1.0] * 6 + [3.0] + [1.0] * 8
    schedule = tw.Around(events=(10,), before=1, after=2)
    with tw.Recorder(tmp_path, model, optimizer, schedule, loss_jump=2.0) as recorder:
        for step, loss in enumerate(losses):
            if step == 2:
                recorder.event("warm-up over")
            runs.update(model, optimizer)
            recorder.step(loss=loss)
        recorder.snapshot()
    trajectory = tw.Trajectory.open(tmp_path)
    assert trajectory.events == ((2, "warm-up over"), (7, "loss jump"))
    assert trajectory.step.tolist() == [0, 2, 3, 4, 7, 8, 9, 10, 11, 12, 15]


def test_a_point_is_the_one_that_the_update_is_made_from(tmp_path):
    model = runs.network()
    optimizer = runs.OPTIMIZERS["sgd"](model.parameters())
    before = []
    with tw.Recorder(tmp_path, model, optimizer, tw.Every(steps=2), updates=True) as recorder:
        for _ in range(4):
            with torch.no_grad():  # by hand, after the recorder has stored the point
                model[3].weight.mul_(0.9)
            before.append(runs.flat(model))
            runs.update(model, optimizer)
            recorder.step()
        after = runs.flat(model)
    trajectory = tw.Trajectory.open(tmp_path)
    assert trajectory.step.tolist() == [0, 2, 4]
    assert torch.equal(trajectory[0].theta, before[0])
    assert torch.equal(trajectory[1].theta, before[2])
    assert torch.equal(trajectory[2].theta, after)
    assert sorted(path.name for path in (tmp_path / "snapshots").iterdir()) == [
        "000000000000-again.safetensors",
        "000000000002-again.safetensors",
        "000000000004.safetensors",
    ]


def test_losses_of_accumulated_batches_are_averaged(tmp_path):
    model = runs.network()
    optimizer = runs.OPTIMIZERS["sgd"](model.parameters())
    generator = torch.Generator().manual_seed(1)
    losses, sizes = [], (8, 8, 4)
    with tw.Recorder(tmp_path, model, optimizer, tw.Every(steps=1)) as recorder:
        for _ in range(4):
            optimizer.zero_grad()
            for number, size in enumerate(sizes):
                x, y = runs.batch(model, size, generator)
                loss = nn.functional.cross_entropy(model(x), y)
                (loss * size / 20).backward()
                losses.append(loss.item())
                if number == 2:
                    optimizer.step()
                recorder.step(loss=loss, batch_size=size)
        assert recorder.steps == 4
    log = tw.Trajectory.open(tmp_path).log
    np.testing.assert_allclose(
        log.loss, np.reshape(losses, (4, 3)) @ np.array(sizes) / 20, rtol=1e-12
    )
    assert log.batch_size.tolist() == [20] * 4


@pytest.mark.parametrize("zero", [True, False])
def test_a_step_that_the_scaler_skips_is_none(tmp_path, zero):
    model = runs.network()
    optimizer = runs.OPTIMIZERS["adam"](model.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    with tw.Recorder(tmp_path, model, optimizer, tw.Every(steps=1), gradient_norm=True) as recorder:
        for number in range(5):
            x, y = runs.batch(model)
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                loss = nn.functional.cross_entropy(model(x), y)
            scaler.scale(loss * (math.inf if number == 2 else 1)).backward()
            gradient = math.hypot(*(float(p.grad.norm()) for p in model.parameters()))
            scale = scaler.get_scale()
            scaler.step(optimizer)
            scaler.update()
            if zero:
                optimizer.zero_grad()
            recorder.step(loss=loss.item(), batch_size=8)
        assert recorder.steps == 4
    log = tw.Trajectory.open(tmp_path).log
    assert log.batch_size.tolist() == [8] * 4
    assert log.gradient_norm[-1] == pytest.approx(gradient / scale, rel=1e-5)


def test_a_fused_step_that_is_skipped_is_none(tmp_path):
    model = runs.network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, fused=True)
    with tw.Recorder(tmp_path, model, optimizer, gradient_norm=True) as recorder:
        runs.update(model, optimizer)
        recorder.step()
        optimizer.grad_scale, optimizer.found_inf = torch.tensor(4.0), torch.tensor(1.0)
        optimizer.step()
        recorder.step()
        assert recorder.steps == 1
        optimizer.found_inf = torch.tensor(0.0)
        gradient = math.hypot(*(float(p.grad.norm()) for p in model.parameters()))
        optimizer.step()
        recorder.step()
    log = tw.Trajectory.open(tmp_path).log
    assert log.gradient_norm[1] == pytest.approx(gradient / 4, rel=1e-5)


def test_a_closure_is_evaluated_before_the_gradient_is_looked_at(tmp_path):
    model = runs.network(dtype=torch.float64)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=1)
    x, y = runs.batch(model)
    found = []

    def closure():
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        found.append(math.hypot(*(float(p.grad.norm()) for p in model.parameters())))
        return loss

    with tw.Recorder(tmp_path, model, optimizer, gradient_norm=True) as recorder:
        for _ in range(3):
            recorder.step(loss=optimizer.step(closure))
    np.testing.assert_allclose(tw.Trajectory.open(tmp_path).log.gradient_norm, found, rtol=1e-12)


def test_running_gradient_norms(tmp_path):
    trajectory, _, _ = recorded(tmp_path, steps=20, gradient_norm=True)
    norms = trajectory.log.gradient_norm
    plain = [norms[: n + 1].mean() for n in range(20)]
    np.testing.assert_allclose(trajectory.log.running_gradient_norm(), plain, rtol=1e-12)
    weights = 0.99 ** np.arange(20)[::-1]
    weights[1:] *= 0.01
    last = trajectory.log.running_gradient_norm(0.99)[-1]
    assert last == pytest.approx(weights @ norms, rel=1e-12)


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("what", ["model", "optimizer"])
def test_compiled(tmp_path, what):
    plain = runs.network()
    model = torch.compile(plain, backend="eager") if what == "model" else plain
    optimizer = runs.OPTIMIZERS["sgd"](model.parameters())
    if what == "optimizer":
        optimizer.step = torch.compile(optimizer.step, backend="eager")
    generator = torch.Generator().manual_seed(5)
    with tw.Recorder(tmp_path / what, model, optimizer, tw.Every(steps=2)) as recorder:
        for _ in range(5):
            recorder.step(loss=runs.update(model, optimizer, generator))
        assert recorder.steps == 5
    trajectory = tw.Trajectory.open(tmp_path / what)
    assert trajectory.space == tw.ParameterSpace.of(plain)
    other, seen, losses = recorded(tmp_path / "plain", steps=5)
    assert torch.equal(trajectory[-1].theta, seen[-1])
    assert trajectory.log.loss.tolist() == losses
    np.testing.assert_array_equal(trajectory.log.learning_rate, other.log.learning_rate)


def test_without_an_optimizer(tmp_path):
    model = runs.network()
    with tw.Recorder(tmp_path, model, schedule=tw.Every(steps=2), updates=True) as recorder:
        for _ in range(3):
            with torch.no_grad():
                model[0].bias.add_(1.0)
            recorder.step(loss=0.5, learning_rate=0.25, epoch=0.75)
    trajectory = tw.Trajectory.open(tmp_path)
    assert trajectory.step.tolist() == [0, 2, 3]
    assert trajectory.log.learning_rate.tolist() == [0.25] * 3
    assert trajectory.log.epoch.tolist() == [0.75] * 3
    assert trajectory[0].update_norm == pytest.approx(math.sqrt(6), rel=1e-6)


def test_frozen_parameters_and_sparse_gradients(tmp_path):
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.words = nn.Embedding(5, 3, sparse=True)
            self.head = nn.Linear(3, 2).requires_grad_(False)

    model = Words()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with tw.Recorder(tmp_path, model, optimizer, gradient_norm=True) as recorder:
        model.head(model.words(torch.tensor([1, 1, 4]))).sum().backward()
        expected = float(model.words.weight.grad.to_dense().norm())
        optimizer.step()
        recorder.step()
    trajectory = tw.Trajectory.open(tmp_path)
    assert trajectory.space.names == ("words.weight",)
    assert trajectory.log.gradient_norm[0] == pytest.approx(expected, rel=1e-6)


def test_parameters_that_are_not_finite_are_stored_and_flagged(tmp_path):
    model = runs.network()
    optimizer = runs.OPTIMIZERS["sgd"](model.parameters())
    with tw.Recorder(tmp_path, model, optimizer, dtype=torch.bfloat16, updates=True) as recorder:
        runs.update(model, optimizer)
        with torch.no_grad():
            model[0].weight[0, 0] = math.nan
            model[0].weight[0, 1] = math.inf
        recorder.step(loss=math.nan)
    trajectory = tw.Trajectory.open(tmp_path)
    assert trajectory[-1].theta[:2].isnan().tolist() == [True, False]
    assert trajectory[-1].theta[1] == math.inf
    assert np.isnan(trajectory.norm).tolist() == [False, True]
    assert np.isnan(trajectory.log.loss).all()


def test_background_writes_the_same(tmp_path):
    usual, _, _ = recorded(tmp_path / "usual", updates=True, optimizer="adam")
    later, _, _ = recorded(tmp_path / "later", updates=True, optimizer="adam", background=True)
    assert later.step.tolist() == usual.step.tolist()
    for a, b in zip(usual, later, strict=True):
        assert torch.equal(a.theta, b.theta)
        assert (a.update is None) == (b.update is None)
        assert a.update is None or torch.equal(a.update, b.update)
        assert a.buffers.keys() == b.buffers.keys()
        assert all(torch.equal(a.buffers[name], b.buffers[name]) for name in a.buffers)


def test_recording_changes_nothing(tmp_path):
    def run(folder):
        with runs.own_random_state(2):
            model = runs.network()
            optimizer = runs.OPTIMIZERS["adam"](model.parameters())
            recorder = None
            if folder is not None:
                names = ("updates", "gradient_norm", "optimizer_state", "random_state")
                everything = dict.fromkeys(names, True)
                recorder = tw.Recorder(folder, model, optimizer, tw.Every(steps=1), **everything)
                recorder.open()
            for _ in range(4):
                runs.update(model, optimizer)
                if recorder:
                    recorder.step()
            gradients = [p.grad.clone() for p in model.parameters()]
            if recorder:
                recorder.close()
            state = optimizer.state_dict()["state"]
            return [runs.flat(model), *gradients, torch.get_rng_state(), state[0]["exp_avg"]]

    pairs = zip(run(None), run(tmp_path), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("when", ["before the update", "after the update", "after the step"])
def test_an_exception_leaves_the_last_point_and_no_hooks(tmp_path, when):
    model = runs.network()
    optimizer = runs.OPTIMIZERS["sgd"](model.parameters())

    def run():
        with tw.Recorder(tmp_path, model, optimizer, tw.Every(steps=100)) as recorder:
            for number in range(5):
                if when == "before the update" and number == 3:
                    raise StoppedError("in the middle")
                runs.update(model, optimizer)
                if when == "after the update" and number == 3:
                    raise StoppedError("in the middle")
                recorder.step()
            raise StoppedError("in the middle")

    with pytest.raises(StoppedError, match="in the middle"):
        run()
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    trajectory = tw.Trajectory.open(tmp_path)
    assert trajectory.step[-1] == {"before the update": 3, "after the update": 4}.get(when, 5)
    assert torch.equal(trajectory[-1].theta, runs.flat(model))


def test_a_half_made_update_is_no_point(tmp_path):
    class Stopping(torch.optim.SGD):
        """Is stopped where its rate is 0, after it has written to one parameter."""

        @torch.no_grad()
        def step(self, closure=None):
            group = self.param_groups[0]
            if group["lr"] == 0:
                group["params"][0].add_(1.0)
                raise KeyboardInterrupt("stopped")
            return super().step(closure)

    model = runs.network()
    optimizer = Stopping(model.parameters(), lr=0.1)

    def run():
        with tw.Recorder(tmp_path, model, optimizer, tw.Every(steps=2)) as recorder:
            for step in range(6):
                optimizer.param_groups[0]["lr"] = 0.1 if step < 3 else 0.0
                runs.update(model, optimizer)
                recorder.step()

    with pytest.raises(KeyboardInterrupt, match="stopped"):
        run()
    assert tw.Trajectory.open(tmp_path).step.tolist() == [0, 2]


@pytest.mark.parametrize("step", [2, 3])
def test_a_write_that_was_interrupted_is_made_up_for(tmp_path, monkeypatch, step):
    model = runs.network()
    optimizer = runs.OPTIMIZERS["sgd"](model.parameters())
    usual = os.replace

    def interrupted(source, target):
        if f"{step:012d}" in str(target):
            monkeypatch.setattr(os, "replace", usual)
            raise KeyboardInterrupt
        usual(source, target)

    def run():
        with tw.Recorder(tmp_path, model, optimizer, tw.Every(steps=1)) as recorder:
            monkeypatch.setattr(os, "replace", interrupted)
            for _ in range(5):
                runs.update(model, optimizer)
                recorder.step()

    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        run()
    trajectory = tw.Trajectory.open(tmp_path)
    assert trajectory.step.tolist() == [*range(step + 1)]
    assert torch.equal(trajectory[-1].theta, runs.flat(model))


def test_updates_that_are_not_told_of_count_and_replace_no_point(tmp_path):
    model = runs.network()
    optimizer = runs.OPTIMIZERS["sgd"](model.parameters())
    seen = [runs.flat(model)]
    with tw.Recorder(tmp_path, model, optimizer, tw.Every(steps=1), updates=True) as recorder:
        for step in range(6):
            loss = runs.update(model, optimizer)
            seen.append(runs.flat(model))
            if step % 3 == 2:
                recorder.step(loss=loss)
        assert recorder.steps == 6
    trajectory = tw.Trajectory.open(tmp_path)
    assert trajectory.step.tolist() == [*range(7)]
    assert all(
        torch.equal(point.theta, theta) for point, theta in zip(trajectory, seen, strict=True)
    )
    assert np.isfinite(trajectory.log.loss).tolist() == [False, False, True] * 2
    assert (trajectory.log.learning_rate == 0.1).all()


def trained_too(model):
    model[0].requires_grad_(True)


def loaded_in_place_of(model):
    model.load_state_dict(model.state_dict(), assign=True)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (trained_too, "'0.weight' is trained, too"),
        (loaded_in_place_of, "'1.weight' was replaced"),
    ],
)
def test_other_parameters_than_those_that_are_recorded_are_noticed(tmp_path, change, words):
    model = runs.network()
    model[0].requires_grad_(False)
    optimizer = runs.OPTIMIZERS["sgd"](model.parameters())

    def run():
        with tw.Recorder(tmp_path, model, optimizer, tw.Every(steps=1)) as recorder:
            runs.update(model, optimizer)
            recorder.step()
            change(model)
            optimizer.param_groups[0]["params"] = [*model.parameters()]
            runs.update(model, optimizer)
            recorder.step()

    with pytest.raises(tw.TrajectoryError, match=words):
        run()
    assert tw.Trajectory.open(tmp_path).step.tolist() == [0, 1]


def test_a_step_that_calls_that_of_its_base_class_is_one_update(tmp_path):
    class Derived(torch.optim.SGD):
        def step(self, closure=None):
            return super().step(closure)

    model = runs.network()
    optimizer = Derived(model.parameters(), lr=0.1)
    with tw.Recorder(tmp_path, model, optimizer, tw.Every(steps=1)) as recorder:
        for _ in range(3):
            runs.update(model, optimizer)
            recorder.step()
    assert tw.Trajectory.open(tmp_path).step.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("schedule", [tw.Every(epochs=1), tw.At([1]) | tw.Every(epochs=2)])
def test_epochs_that_the_loop_does_not_tell_of_are_noticed(tmp_path, schedule):
    model = runs.network()
    optimizer = runs.OPTIMIZERS["sgd"](model.parameters())

    def run(folder, tells):
        with tw.Recorder(folder, model, optimizer, schedule) as recorder:
            for _ in range(3):
                runs.update(model, optimizer)
                recorder.step()
            if tells:
                recorder.epoch()

    with pytest.warns(RuntimeWarning, match=r"Call `recorder\.epoch\(\)` there.*untold-epochs"):
        run(tmp_path / "silent", tells=False)
    run(tmp_path / "told", tells=True)  # a warning would be an error
    assert tw.Trajectory.open(tmp_path / "told").epoch[-1] == 1


def test_hooks_are_gone_after_the_block(tmp_path):
    model = runs.network()
    optimizer = runs.OPTIMIZERS["sgd"](model.parameters())
    with tw.Recorder(tmp_path, model, optimizer) as recorder:
        assert len(optimizer._optimizer_step_pre_hooks) == 1
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    with pytest.raises(ValueError, match="A recorder is used while it is open"):
        recorder.step()


def test_only_the_first_rank_writes(tmp_path):
    told = runs.on_ranks(2, runs.run_in_parallel, str(tmp_path))
    (first,), (second,) = told
    assert (first[0], second[0]) == (0, 1)
    assert first[2] == second[2]
    trajectory = tw.Trajectory.open(tmp_path)
    assert trajectory.step.tolist() == [0, 2, 4, 5]
    assert trajectory[-1].theta.tolist() == first[2]
    assert trajectory.space == tw.ParameterSpace.of(runs.network())
    assert len(trajectory.log) == 5


def test_facts(tmp_path):
    trajectory, _, _ = recorded(tmp_path, optimizer="momentum", facts={"seed": 5})
    assert trajectory.facts["seed"] == 5
    assert trajectory.facts["versions"]["torch"] == str(torch.__version__)
    assert trajectory.facts["optimizer"]["name"] == "SGD"
    assert trajectory.facts["optimizer"]["groups"][0]["momentum"] == 0.9
    assert trajectory.facts["schedule"] == "Every(steps=2, epochs=None)"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"schedule": 100}, TypeError, r"A schedule is needed; got int.*tw\.Every"),
        ({"dtype": torch.int8}, ValueError, r"stored in one of torch\.float64.*got torch\.int8"),
        ({"facts": {"seed": {1, 2}}}, TypeError, "Facts are numbers, words.*Convert them"),
        ({"optimizer": "adam"}, TypeError, r"A torch\.optim\.Optimizer is needed; got str"),
        (
            {"optimizer": None, "optimizer_state": True},
            ValueError,
            "The state of an optimiser is stored where there is one",
        ),
        ({"loss_jump": 1.0}, ValueError, "A loss jumps to more than once its mean"),
        ({"model": len}, TypeError, r"A torch\.nn\.Module is needed"),
    ],
)
def test_arguments_that_are_of_no_use(tmp_path, options, error, message):
    model = runs.network()
    optimizer = runs.OPTIMIZERS["sgd"](model.parameters())
    given = {"folder": tmp_path / "run", "model": model, "optimizer": optimizer, **options}
    with pytest.raises(error, match=message):
        tw.Recorder(**given)
    assert not (tmp_path / "run").exists()


def test_sharded_parameters_are_refused(tmp_path):
    model = runs.network()
    model[0].bias.full_tensor = lambda: None
    with pytest.raises(TypeError, match=r"A recorder needs whole parameters; '0\.bias' is sharded"):
        tw.Recorder(tmp_path, model)
