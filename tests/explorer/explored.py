"""A small cost, a run and an explorer of them; and a client that says what it wants by hand.

The cost is (1 − w₀ w₁)², along a run that begins at (2, 0.5) and ends at (0.5, 3).
"""

import http.client
import json
import threading
import time
from collections import Counter
from contextlib import contextmanager

import torch

import thalweg as tw
from thalweg.explorer.catalogue import Catalogue, Solution
from thalweg.explorer.explorer import Explorer
from thalweg.explorer.server import ExplorerServer
from thalweg.explorer.store import Store, fingerprint

POINTS = torch.tensor([[2.0, 0.75], [1.5, 1.0], [0.5, 3.0]], dtype=torch.float64)
BETTER = torch.tensor([1.25, -0.5], dtype=torch.float64)
LINE = {"kind": "line", "anchors": ["step 0", "step 2"]}
PLANE = {"kind": "plane", "anchors": ["step 0", "step 2", "solution better"]}
PATIENCE = 60.0  # seconds until a test gives up


def chain(w):
    return (1 - w[0] * w[1]) ** 2


class Counted(tw.FunctionObjective):
    """Counts evaluations by point, and waits before each of them while its gate is closed."""

    def __init__(self, f=chain, size=2):
        super().__init__(f, size)
        self.counts = Counter()
        self.order = []
        self.gate = threading.Event()
        self.gate.set()

    def evaluate(self, theta, anchor_buffers=None):
        assert self.gate.wait(PATIENCE), "the gate was never opened"
        self.counts[theta.numpy().tobytes()] += 1
        self.order.append(theta.clone())
        return super().evaluate(theta, anchor_buffers)


def counts_of(cost, section):
    """Return the counts without the points at which costs are compared with kept ones."""
    mean = torch.stack(list(section.anchors)).mean(dim=0)
    return {
        key: count
        for key, count in cost.counts.items()
        if not torch.allclose(torch.frombuffer(bytearray(key), dtype=torch.float64), mean)
    }


@contextmanager
def exploring(folder, cost=None, trajectory=None, **settings):
    """Give an explorer that is at work."""
    cost = Counted() if cost is None else cost
    trajectory = tw.Trajectory.from_points(POINTS) if trajectory is None else trajectory
    solutions = {"better": Solution(BETTER, "better.pt", "0" * 64)}
    catalogue = Catalogue(cost, trajectory, solutions, folder / "eigenvectors")
    store = Store(folder, fingerprint(cost, trajectory))
    explorer = Explorer(catalogue, store, {"run": "walk"}, **settings)
    explorer.start()
    try:
        yield explorer
    finally:
        explorer.stop()


@contextmanager
def serving(folder, cost=None, **settings):
    """Give a server of an explorer that is at work."""
    with exploring(folder, cost, **settings) as explorer, ExplorerServer(explorer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def until(told, done):
    """Ask again and again until an answer is as it should be; return it."""
    end = time.monotonic() + PATIENCE
    while not done(answer := told()):
        if time.monotonic() > end:
            raise TimeoutError(f"still {answer}")
        time.sleep(0.005)
    return answer


def finished(explorer, section):
    """Return the points of a section once nothing of it waits."""

    def done(answer):
        return answer["state"] in ("open", "failed") and not answer["waiting"]

    return until(lambda: explorer.section(section), done)


def request(port, method, path, body=None, **headers):
    """Send a request as it is given; return status, headers and what the body holds.

    A header is left out where its value is None.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    usual = {"Host": f"127.0.0.1:{port}"}
    if body is not None:
        usual |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    for name, value in {**usual, **named}.items():
        if value is not None:
            connection.putheader(name, value)
    connection.endheaders(body)
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    kind = answer.headers["Content-Type"]
    return answer.status, answer.headers, json.loads(data) if kind == "application/json" else data


class Reader:
    """One who has the address."""

    def __init__(self, address):
        place, _, token = address.partition("/#token=")
        self.port = int(place.rpartition(":")[2])
        self.token = token

    def get(self, path):
        return self._answer("GET", path)

    def post(self, path, content):
        return self._answer("POST", path, json.dumps(content).encode())

    def _answer(self, method, path, body=None):
        bearer = f"Bearer {self.token}"
        status, _, content = request(self.port, method, path, body, Authorization=bearer)
        if status != 200:
            raise ValueError(f"{status}: {content['error']}")
        return content
