"""Small training runs that several test files record, and what their processes do."""

import os
import signal
from contextlib import contextmanager

import torch
from torch import nn

import processes
import thalweg as tw
from cases import seeded


def network(seed=3, dtype=torch.float32):
    """Two layers with batch normalisation between them: parameters, statistics, a counter."""

    def build():
        return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3))

    return seeded(build, seed).to(dtype)


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "adamw-amsgrad": lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True, weight_decay=0.1),
}


def batch(model, size=8, generator=None):
    """Inputs and classes, drawn from a generator; the global one by default."""
    dtype = next(model.parameters()).dtype
    x = torch.randn(size, 4, generator=generator).to(dtype)
    return x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long()


def update(model, optimizer, generator=None, size=8):
    """Make one update; return the loss before it."""
    x, y = batch(model, size, generator)
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(x).float(), y)
    loss.backward()
    optimizer.step()
    return loss.item()


def flat(model):
    """The parameters as one vector, by other means than the package's."""
    return nn.utils.parameters_to_vector(model.parameters()).detach().clone()


def points(trajectory):
    """Every point by its step."""
    return {point.step: point.theta for point in trajectory}


@contextmanager
def own_random_state(seed):
    """Let a run draw from the global generator, and put that back."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def train(folder, steps, tell=lambda step: None, resume=None, **options):
    """Record a run that can be gone on with, and whose every bit follows from its seed."""
    with own_random_state(11):
        model = network()
        optimizer = OPTIMIZERS["momentum"](model.parameters())
        kept = {"optimizer_state": True, "random_state": True, **options}
        recorder = tw.Recorder(
            folder, model, optimizer, tw.Every(steps=3), resume=resume, updates=True, **kept
        )
        with recorder:
            if resume:
                recorder.restore()
            for step in range(recorder.steps, steps):
                recorder.step(loss=update(model, optimizer), batch_size=8)
                if step % 10 == 9:
                    recorder.epoch()
                tell(recorder.steps)
        return flat(model)


# --- processes --------------------------------------------------------------------------------


def everything(process, receiver):
    """Return all that a process has sent until it ended."""
    told = []
    try:
        while True:
            told.append(receiver.recv())
    except EOFError:
        process.join(60)
    return told


def on_ranks(size, target, *arguments):
    """Call a function in processes that form a job; return what each has sent."""
    return [everything(*each) for each in processes.job(size, target, *arguments)]


def run_and_tell(send, folder, steps, resume):
    """Tell of every step after `recorder.step` has returned."""
    train(folder, steps, send, resume)


def run_until_call(send, folder, steps, resume, name, number):
    """Die at one of the calls by which things become durable; of a write, when half is done."""
    usual, left = getattr(os, name), [number]

    def dying(*given):
        left[0] -= 1
        if left[0] == 0:
            if name == "write":
                usual(given[0], bytes(given[1])[: len(given[1]) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return usual(*given)

    setattr(os, name, dying)
    train(folder, steps, send, resume)


def hold(send, folder):
    """Be the writer of a folder until killed."""
    model = network()
    with tw.Recorder(folder, model, OPTIMIZERS["sgd"](model.parameters())):
        send("holding")
        signal.pause()


def run_in_parallel(send, folder):
    """Train on two ranks, each with data of its own."""
    import torch.distributed as dist

    dist.init_process_group("gloo")
    rank = dist.get_rank()
    model = nn.parallel.DistributedDataParallel(network())
    optimizer = OPTIMIZERS["adam"](model.parameters())
    generator = torch.Generator().manual_seed(rank)
    with tw.Recorder(folder, model, optimizer, tw.Every(steps=2), gradient_norm=True) as recorder:
        for _ in range(5):
            recorder.step(loss=update(model, optimizer, generator), batch_size=8)
    dist.barrier()
    send((rank, recorder.folder.exists(), flat(model).tolist()))
    dist.destroy_process_group()
