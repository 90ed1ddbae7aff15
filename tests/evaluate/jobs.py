"""What the processes of these tests do."""

import os
import signal
import sys
import time
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import torch

import processes
import thalweg as tw
from thalweg.evaluate import sweep
from thalweg.evaluate.planning import Choice
from thalweg.evaluate.ranks import split_over_ranks
from thalweg.evaluate.strategy import Plain

ALPHA = np.linspace(-0.5, 1.5, 41)


def cost(examples=30, seed=5):
    """A small network whose own parameters do not matter."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(examples, 4, generator=generator)
    y = torch.randint(3, (examples,), generator=generator)
    return tw.ModelObjective(
        torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3)),
        torch.nn.CrossEntropyLoss(),
        {"train": (x, y), "valid": (x[:7], y[:7])},
        metrics={"error": tw.error_rate},
    )


def line():
    generator = torch.Generator().manual_seed(6)
    return tw.Line(*(torch.randn(51, generator=generator) for _ in range(2)))


def bits(values):
    """Every bit of some evaluations, to be compared."""
    return [
        [
            float(number).hex()
            for table in (value.loss, *value.metrics.values())
            for number in table.values()
        ]
        for value in values
    ]


@contextmanager
def watched(together=1, pause=0.0, before=lambda done: None):
    """Let sweeps go point by point, slowly if asked to; yield how many points were evaluated."""
    done = [0]

    class Watched(Plain):
        rows = together

        def evaluate(self, weights):
            values = []
            for row in weights:
                before(done[0])
                time.sleep(pause)
                values += super().evaluate(row[None])
                done[0] += 1
            return values

    module = sys.modules["thalweg.evaluate.sweep"]
    usual = module.choose
    module.choose = lambda *given: Choice(Watched(*given[:3]), ())
    try:
        yield done
    finally:
        module.choose = usual


def evaluated(keep, alpha=ALPHA, objective=None, **settings):
    """Return the bits of a sweep, and how many points it evaluated."""
    section = line()
    with watched(**settings) as done:
        values = sweep(objective or cost(), section, section.weights(alpha), keep=keep)
    return bits(values), done[0]


def started(target, *arguments, **environment):
    """Start a process that calls a function; its result is sent through the returned pipe."""
    return processes.started(_sent, target, arguments, **environment)


def outcome(process, receiver):
    """Return what a process sent; an error as text; None if it was killed."""
    try:
        result = receiver.recv()
    except EOFError:
        result = None
    process.join(60)
    return result


def on_ranks(size, target, *arguments):
    """Call a function in several processes that form a job; return what each of them found."""
    return [outcome(*each) for each in processes.job(size, _sent, target, arguments)]


def _sent(send, target, arguments):
    send(target(*arguments))


def rank():
    return int(os.environ["RANK"])


# --- what processes do ----------------------------------------------------------------------


def sweep_slowly(keep, pause, together):
    return evaluated(keep, pause=pause, together=together)


def sweep_until(keep, points, together):
    """Die after some points, before anything is done about the next one."""

    def before(done):
        if done == points:
            os.kill(os.getpid(), signal.SIGKILL)

    return evaluated(keep, together=together, before=before)


def sweep_torn(keep, writes, share):
    """Die in the middle of a write, when a share of its bytes is there."""
    left = [writes]
    write = os.write

    def torn(file, data):
        left[0] -= 1
        if left[0] == 0:
            write(file, bytes(data)[: int(share * len(data))])
            os.kill(os.getpid(), signal.SIGKILL)
        return write(file, data)

    durable = sys.modules["thalweg.durable"]
    durable.os = SimpleNamespace(**{**vars(os), "write": torn})
    return evaluated(keep)


def sweep_shared(keep, alpha, together=1):
    with split_over_ranks():
        return evaluated(keep, alpha, together=together)


def estimate_shared():
    how = tw.Subsample(22, groups=20, seed=1, question=tw.BarrierAbove(0.5))
    with split_over_ranks():
        profile = tw.profile(cost(), line(), ALPHA, estimate=how, progress=False)
    told = profile.estimate
    return profile.loss["train"].tobytes(), told.answer, told.interval, told.examples


def sweep_and_die(keep, points):
    """The second rank dies in the middle of its share."""

    def before(done):
        if rank() == 1 and done == points:
            os.kill(os.getpid(), signal.SIGKILL)

    with split_over_ranks():
        return evaluated(keep, before=before)


def sweep_and_fail(keep):
    """The second rank raises in the middle of its share, the others are in the middle of theirs."""

    def before(done):
        if rank() == 1 and done == 2:
            raise ZeroDivisionError("of this rank alone")

    with split_over_ranks():
        return evaluated(keep, before=before)


def sweep_other_costs():
    """Each rank has data of its own."""
    with split_over_ranks():
        return evaluated(None, objective=cost(seed=rank()))


def sweep_other_points():
    with split_over_ranks():
        return evaluated(None, ALPHA[rank() :])


def sweep_refused(keep):
    """The second rank alone has a folder that cannot be."""
    with split_over_ranks():
        return evaluated(os.path.join(keep, "file", "folder") if rank() == 1 else keep)


def sweep_on_first(keep):
    """As in a training script: ranks that know one another, of which one evaluates."""
    import torch.distributed as dist

    dist.init_process_group("gloo")
    found = evaluated(keep, ALPHA[:5]) if rank() == 0 else None
    dist.barrier()
    dist.destroy_process_group()
    return found


def sweep_in_group():
    """The ranks of a script share among two of three."""
    import torch.distributed as dist

    dist.init_process_group("gloo")
    pair = dist.new_group([0, 2])
    if rank() == 1:
        try:
            with split_over_ranks(pair):
                evaluated(None)
        except ValueError as error:
            found = str(error)
    else:
        with split_over_ranks(pair):
            found = evaluated(None)
    dist.barrier()  # what the script has set up is still there
    dist.destroy_process_group()
    return found


def sweep_twice():
    """Two blocks in one process: the second meets anew."""
    found = [sweep_shared(None, ALPHA[:6]) for _ in range(2)]
    import torch.distributed as dist

    return found, dist.is_initialized()


def digest_of_identity():
    from thalweg.evaluate.identity import identity_of

    section = line()
    return identity_of(cost(), section, section.anchors, "plain").digest
