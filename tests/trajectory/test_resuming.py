"""Killed at any moment, a run opens, holds what was reported, and goes on as if nothing was."""

import random
import shutil
import time

import numpy as np
import pytest
import recorded_runs as runs
import torch

import processes
import thalweg as tw

STEPS = 40


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """What an uninterrupted run leaves: every bit of it follows from its seed."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    runs.train(folder, STEPS)
    return tw.Trajectory.open(folder)


def assert_intact(folder, reported, uninterrupted):
    """Everything that was reported is there, and all that is there is right."""
    trajectory = tw.Trajectory.open(folder)
    there = trajectory.step.tolist()
    assert set(range(0, reported + 1, 3)) <= set(there) or not reported
    assert there == sorted(set(there))
    known = runs.points(uninterrupted)
    for point in trajectory:
        assert torch.equal(point.theta, known[point.step])
        assert {*point.buffers} == {*uninterrupted[0].buffers}
    assert len(trajectory.log) >= reported
    count = len(trajectory.log)
    np.testing.assert_array_equal(trajectory.log.loss, uninterrupted.log.loss[:count])


def assert_equal(trajectory, other):
    """Two trajectories say the same, to the bit."""
    assert trajectory.step.tolist() == other.step.tolist()
    for a, b in zip(trajectory, other, strict=True):
        assert torch.equal(a.theta, b.theta)
        assert (a.update is None) == (b.update is None)
        assert a.update is None or torch.equal(a.update, b.update)
        assert all(torch.equal(a.buffers[name], b.buffers[name]) for name in b.buffers)
    for name in ("step", "epoch", "loss", "learning_rates", "batch_size"):
        np.testing.assert_array_equal(getattr(trajectory.log, name), getattr(other.log, name))
    np.testing.assert_array_equal(trajectory.epoch, other.epoch)
    np.testing.assert_array_equal(trajectory.update_norm, other.update_norm)


def test_killed_at_ten_random_moments(tmp_path, uninterrupted):
    moments = random.Random(4)
    reported = 0
    for number in range(10):
        process, pipe = processes.started(runs.run_and_tell, tmp_path, STEPS, number > 0)
        more = moments.randrange(5)
        while more and pipe.poll(60):
            try:
                reported = max(reported, pipe.recv())
            except EOFError:
                break
            more -= 1
        time.sleep(moments.random() * 0.004)
        process.kill()
        reported = max([reported, *runs.everything(process, pipe)])
        if (tmp_path / "trajectory.json").exists():
            assert_intact(tmp_path, reported, uninterrupted)
    runs.train(tmp_path, STEPS, resume=True)
    assert_equal(tw.Trajectory.open(tmp_path), uninterrupted)
    assert not [*tmp_path.rglob("*.tmp")]


@pytest.mark.parametrize(
    ("name", "number"),
    [
        *(("write", number) for number in (2, 3, 6)),
        *(("fsync", number) for number in (1, 4, 6, 7, 8, 9, 15)),
        *(("replace", number) for number in (1, 2, 4)),
    ],
)
def test_killed_at_a_call_that_makes_things_durable(tmp_path, uninterrupted, name, number):
    died = processes.started(runs.run_until_call, tmp_path, STEPS, None, name, number)
    reported = max(runs.everything(*died), default=0)
    assert reported < STEPS
    if (tmp_path / "trajectory.json").exists():
        assert_intact(tmp_path, reported, uninterrupted)
    runs.train(tmp_path, STEPS, resume=True)
    assert_equal(tw.Trajectory.open(tmp_path), uninterrupted)
    assert not [*tmp_path.rglob("*.tmp")]


@pytest.mark.parametrize("optimizer", runs.OPTIMIZERS)
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, optimizer):
    def run(folder, steps, resume=None):
        with runs.own_random_state(8):
            model = runs.network(seed=1 if resume else 3)
            by = runs.OPTIMIZERS[optimizer](model.parameters())
            loader = torch.Generator().manual_seed(99 if resume else 7)
            with tw.Recorder(
                folder,
                model,
                by,
                tw.Every(steps=4),
                optimizer_state=True,
                random_state={"loader": loader},
                resume=resume,
            ) as recorder:
                start = recorder.restore() if resume else 0
                for _ in range(start, steps):
                    recorder.step(loss=runs.update(model, by, loader))

    run(tmp_path / "whole", 13)
    run(tmp_path / "parts", 6)
    run(tmp_path / "parts", 13, resume=True)
    whole, parts = (tw.Trajectory.open(tmp_path / name) for name in ("whole", "parts"))
    assert parts.step.tolist() == [0, 4, 6, 8, 12, 13]
    known = runs.points(whole)
    for point in parts:
        assert point.step not in known or torch.equal(point.theta, known[point.step])
    np.testing.assert_array_equal(parts.log.loss, whole.log.loss)


def test_all_global_generators_are_put_back(tmp_path):
    def drawn():
        return random.random(), float(np.random.rand()), float(torch.rand(1))  # noqa: NPY002

    model = runs.network()
    optimizer = runs.OPTIMIZERS["sgd"](model.parameters())
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=[]):
            drawn()
            np.random.standard_normal()  # noqa: NPY002 (leaves a second number for later)
            random.gauss(0, 1)
            with tw.Recorder(tmp_path, model, optimizer, random_state=True):
                pass
            expected = drawn(), random.gauss(0, 1), np.random.standard_normal()  # noqa: NPY002
            drawn()
            with tw.Recorder(tmp_path, model, optimizer, random_state=True, resume=True) as again:
                assert again.restore() == 0
                found = drawn(), random.gauss(0, 1), np.random.standard_normal()  # noqa: NPY002
        assert found == expected
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


def begun(folder, steps=7, **options):
    """Record a few steps; return model and optimiser."""
    model = runs.network()
    optimizer = runs.OPTIMIZERS["momentum"](model.parameters())
    with tw.Recorder(folder, model, optimizer, tw.Every(steps=2), **options) as recorder:
        for _ in range(steps):
            recorder.step(loss=runs.update(model, optimizer))
    return model, optimizer


def gone_on(folder, model, optimizer, steps=2, **options):
    with tw.Recorder(folder, model, optimizer, tw.Every(steps=2), **options) as recorder:
        for _ in range(steps):
            recorder.step(loss=runs.update(model, optimizer))


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("resume", [None, True, 7])
def test_a_model_at_the_last_point_goes_on(tmp_path, resume, dtype):
    model, optimizer = begun(tmp_path, dtype=dtype)
    gone_on(tmp_path, model, optimizer, resume=resume, dtype=dtype)
    trajectory = tw.Trajectory.open(tmp_path)
    assert trajectory.step.tolist() == [0, 2, 4, 6, 7, 8, 9]
    assert trajectory.log.step.tolist() == [*range(9)]


def test_a_model_elsewhere_is_refused(tmp_path):
    _, _ = begun(tmp_path)
    model = runs.network()
    optimizer = runs.OPTIMIZERS["momentum"](model.parameters())
    words = "a trajectory whose point after 7 updates has other parameters.*resume=True"
    with pytest.raises(tw.TrajectoryError, match=words):
        gone_on(tmp_path, model, optimizer)
    with pytest.raises(tw.TrajectoryError, match=words):  # at the first step, before it is made
        gone_on(tmp_path, model, optimizer, resume=True)
    assert torch.equal(runs.flat(model), runs.flat(runs.network()))
    assert tw.Trajectory.open(tmp_path).step.tolist() == [0, 2, 4, 6, 7]
    assert len(tw.Trajectory.open(tmp_path).log) == 7


@pytest.mark.parametrize("resume", [4, 3])
def test_from_a_checkpoint_of_the_users_own(tmp_path, resume):
    model = runs.network()
    optimizer = runs.OPTIMIZERS["sgd"](model.parameters())
    states = []
    with tw.Recorder(tmp_path, model, optimizer, tw.Every(steps=2), updates=True) as recorder:
        for _ in range(8):
            states.append({name: t.clone() for name, t in model.state_dict().items()})
            recorder.event(f"{recorder.steps}")
            recorder.step(loss=float(recorder.steps))
            runs.update(model, optimizer)
            recorder.step(loss=float(recorder.steps))
    before = tw.Trajectory.open(tmp_path)
    model.load_state_dict(states[resume])
    with tw.Recorder(
        tmp_path, model, optimizer, tw.Every(steps=2), resume=resume, updates=True
    ) as recorder:
        assert recorder.steps == resume
        runs.update(model, optimizer)
        recorder.step(loss=-1.0)
    trajectory = tw.Trajectory.open(tmp_path)
    assert before.step.tolist() == [0, 2, 4, 6, 8]
    assert trajectory.step.tolist() == {4: [0, 2, 4, 5], 3: [0, 2, 3, 4]}[resume]
    assert trajectory.log.loss.tolist() == [*map(float, range(resume)), -1.0]
    assert torch.equal(trajectory[-2].update, trajectory[-1].theta - trajectory[-2].theta)
    assert [text for _, text in trajectory.events] == [str(n) for n in range(resume + 1)]


def test_a_number_that_is_a_recorded_point_is_checked(tmp_path):
    model, optimizer = begun(tmp_path)
    with pytest.raises(tw.TrajectoryError, match="whose point after 4 updates has other"):
        gone_on(tmp_path, model, optimizer, resume=4)


@pytest.mark.parametrize("resume", [0, np.int64(0)])
def test_a_run_from_its_start_replaces_one_whose_start_is_not_known(tmp_path, resume):
    model = runs.network()
    optimizer = runs.OPTIMIZERS["momentum"](model.parameters())
    gone_on(tmp_path, model, optimizer, resume=5)
    assert tw.Trajectory.open(tmp_path).step[0] == 5
    gone_on(tmp_path, model, optimizer, resume=resume)
    assert tw.Trajectory.open(tmp_path).step[0] == 0


@pytest.mark.parametrize("resume", [-1, 2.5, "last"])
def test_a_number_of_updates_is_whole(tmp_path, resume):
    with pytest.raises(ValueError, match="from a whole number of updates; got resume="):
        tw.Recorder(tmp_path, runs.network(), resume=resume)


def test_restoring_an_earlier_point(tmp_path):
    begun(tmp_path, optimizer_state=True)
    before = tw.Trajectory.open(tmp_path)
    model = runs.network(seed=9)
    optimizer = runs.OPTIMIZERS["momentum"](model.parameters())
    with tw.Recorder(tmp_path, model, optimizer, resume=True) as recorder:
        with pytest.raises(tw.TrajectoryError, match=r"none after 5 updates\. .* 4, 6, 7"):
            recorder.restore(5)
        assert recorder.restore(4) == 4
        assert torch.equal(runs.flat(model), before[2].theta)
        momentum = optimizer.state_dict()["state"][0]["momentum_buffer"]
        assert momentum.abs().sum() > 0
        recorder.snapshot()
        assert tw.Trajectory.open(tmp_path).step.tolist() == [0, 2, 4]
        runs.update(model, optimizer)
        recorder.step()
        with pytest.raises(ValueError, match="A run is restored before its first step"):
            recorder.restore()
    assert tw.Trajectory.open(tmp_path).step.tolist() == [0, 2, 4, 5]


def test_nothing_is_restored_in_a_new_folder(tmp_path):
    model = runs.network()
    optimizer = runs.OPTIMIZERS["sgd"](model.parameters())
    before = runs.flat(model)
    with tw.Recorder(tmp_path, model, optimizer, dtype=torch.bfloat16, resume=True) as recorder:
        assert recorder.restore() == 0
    assert torch.equal(runs.flat(model), before)


def test_opening_to_go_on_and_leaving_changes_nothing(tmp_path):
    model, optimizer = begun(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    with tw.Recorder(tmp_path, model, optimizer, resume=True):
        pass
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before


def test_going_on_without_an_optimizer(tmp_path):
    model = runs.network()
    with tw.Recorder(tmp_path, model, schedule=tw.Every(steps=1)) as recorder:
        recorder.step(loss=1.0)
    with tw.Recorder(tmp_path, model, resume=True, updates=True) as recorder:
        assert recorder.restore() == 1
        with torch.no_grad():
            model[0].bias.add_(1.0)
        recorder.step(loss=2.0)
    trajectory = tw.Trajectory.open(tmp_path)
    assert trajectory.step.tolist() == [0, 1, 2]
    assert trajectory.log.loss.tolist() == [1.0, 2.0]
    assert float(trajectory[1].update.sum()) == pytest.approx(6, rel=1e-6)


@pytest.mark.parametrize("change", ["shape", "names", "dtype", "frozen", "fewer", "tied"])
def test_another_model_is_refused(tmp_path, change):
    def build():
        model = runs.network()
        model[3].bias.requires_grad_(False)
        return model

    model = build()
    with tw.Recorder(tmp_path, model):
        pass
    other = build()
    if change == "shape":
        other[0] = torch.nn.Linear(5, 6)
    if change == "names":
        other.insert(0, torch.nn.Identity())
    if change == "dtype":
        other.double()
    if change == "frozen":
        with torch.no_grad():
            other[3].bias.add_(0.1)
    if change == "fewer":
        other[0].bias.requires_grad_(False)
    if change == "tied":
        other.add_module("again", other[3])
    with (
        pytest.raises(tw.ParameterMismatchError, match="goes on with the model that it began with"),
        tw.Recorder(tmp_path, other, resume=True),
    ):
        pass


def test_another_type_of_storage_is_refused(tmp_path):
    begun(tmp_path, dtype=torch.bfloat16)
    model = runs.network()
    with (
        pytest.raises(tw.TrajectoryError, match=r"keeps to one type.*`dtype=torch\.bfloat16`"),
        tw.Recorder(tmp_path, model, resume=True),
    ):
        pass


def test_a_copy_of_the_folder_is_the_trajectory(tmp_path):
    begun(tmp_path / "run")
    shutil.move(tmp_path / "run", tmp_path / "elsewhere")
    assert tw.Trajectory.open(tmp_path / "elsewhere").step.tolist() == [0, 2, 4, 6, 7]


@pytest.mark.parametrize(("name", "number"), [("write", 4), ("fsync", 7), ("replace", 2)])
def test_killed_again_while_going_on(tmp_path, uninterrupted, name, number):
    runs.train(tmp_path, 10)
    died = processes.started(runs.run_until_call, tmp_path, STEPS, True, name, number)
    reported = max(runs.everything(*died), default=10)
    assert 10 <= reported < STEPS
    trajectory = tw.Trajectory.open(tmp_path)
    assert {*range(0, reported + 1, 3), 10} <= set(trajectory.step.tolist())
    runs.train(tmp_path, STEPS, resume=True)
    trajectory = tw.Trajectory.open(tmp_path)
    known = runs.points(trajectory)
    assert all(torch.equal(point.theta, known[point.step]) for point in uninterrupted)
    np.testing.assert_array_equal(trajectory.log.loss, uninterrupted.log.loss)
