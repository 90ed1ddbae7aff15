"""Processes that tests start, each with an environment of its own and a pipe to tell through.

They come from a server that has loaded torch once, so that each takes a tenth of a second.
"""

import multiprocessing
import os
import socket

import torch

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["thalweg.evaluate.sweep", "thalweg.trajectory.recorder", "thalweg.trajectory.trajectory"]
)


def started(target, *arguments, **environment):
    """Start a process that calls `target(send, *arguments)`; what it sends comes through the pipe.

    An exception is sent as text.
    """
    receiver, sender = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=_called, args=(sender, environment, target, arguments))
    process.start()
    sender.close()
    return process, receiver


def job(size, target, *arguments):
    """Start several processes that form a job; return them with their pipes, by rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(size)}
    return [
        started(target, *arguments, **place, RANK=str(rank), LOCAL_RANK=str(rank))
        for rank in range(size)
    ]


def _called(sender, environment, target, arguments):
    os.environ.update(environment)
    torch.set_num_threads(1)
    try:
        target(sender.send, *arguments)
    except Exception as error:
        sender.send(f"{type(error).__name__}: {error}")
