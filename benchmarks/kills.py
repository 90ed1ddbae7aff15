"""Killing recording processes at random moments, and looking at what they leave."""

import multiprocessing
import random
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

import thalweg as tw

STEPS_A_LIFE = 12  # about how many steps a process makes before it is killed
EVERY = 3


def network():
    return nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10))


def record(folder, steps, resume, tell=lambda step: None):
    """Record a run whose every bit follows from its seed, as far as it was not recorded yet."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = network()
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        with tw.Recorder(
            folder,
            model,
            optimizer,
            tw.Every(steps=EVERY),
            updates=True,
            optimizer_state=True,
            random_state=True,
            resume=resume,
        ) as recorder:
            if resume:
                recorder.restore()
            for _ in range(recorder.steps, steps):
                x = torch.randn(32, 64)
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x), x[:, :10].argmax(1))
                loss.backward()
                optimizer.step()
                recorder.step(loss=loss.item(), batch_size=32)
                tell(recorder.steps)


def child(sender, folder, steps):
    """Record, and report each step when `recorder.step` has returned."""
    torch.set_num_threads(1)
    record(folder, steps, True, sender.send)


def a_life(context, folder, steps, moments):
    """Start a process and kill it at a random moment; return the last step that it reported."""
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=child, args=(sender, folder, steps))
    process.start()
    sender.close()
    reported, wanted = 0, moments.randrange(2 * STEPS_A_LIFE)
    try:
        while wanted and receiver.poll(120):
            reported, wanted = receiver.recv(), wanted - 1
        time.sleep(moments.random() * 0.005)
        process.kill()
        while True:
            reported = receiver.recv()
    except EOFError:
        process.join()
    return reported


def killed(count, seed=0):
    """Kill recording processes; return what was lost, which is to be nothing.

    Args:
        count: Number of kills.
        seed: Seed of their moments.

    Raises:
        AssertionError: If a trajectory does not open, lacks a point that was reported, or goes on
            to another end than a run that nobody killed.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["thalweg.trajectory.recorder", "kills"])
    moments = random.Random(seed)
    steps = count * STEPS_A_LIFE * 4  # more than they come to
    furthest = checked = opened = 0
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "killed"
        for _ in range(count):
            furthest = max(furthest, a_life(context, folder, steps, moments))
            if not (folder / "trajectory.json").exists():
                assert furthest == 0, "steps were reported of a trajectory that is not there"
                continue
            there = set(tw.Trajectory.open(folder, skip_damaged=True).step.tolist())
            lost = set(range(0, furthest + 1, EVERY)) - there if furthest else set()
            assert not lost, f"points {sorted(lost)} were reported and are lost"
            opened += 1
            checked += furthest // EVERY
        end = furthest + 5
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as the children have it: more give other bits
        try:
            record(folder, end, True)
            record(Path(place) / "whole", end, None)
        finally:
            torch.set_num_threads(threads)
        trajectory, whole = (tw.Trajectory.open(Path(place) / n) for n in ("killed", "whole"))
        known = {point.step: point.theta for point in trajectory}
        same = all(torch.equal(point.theta, known[point.step]) for point in whole)
        assert same, "a run that was killed and gone on with must end where the other does"
        assert trajectory.log.loss.tolist() == whole.log.loss.tolist()
    return {"kills": count, "opened": opened, "points checked": checked, "lost": 0, "steps": end}
