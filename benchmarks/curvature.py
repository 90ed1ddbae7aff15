"""Products with the Hessian and what is made of them, in units of one gradient, against peers.

    python benchmarks/curvature.py [--scale smoke] [--peers PYTHON] [--output FOLDER]

On a perceptron with two million parameters and on a convolutional network, both with MNIST (noise
where it is not there) and a batch size of 1000: one product and eight at a point whose graphs are
kept, and without keeping them; the largest eigenvalue and the ten largest; value, slope and
curvature at a point of a line. The unit is a plain gradient over the same batches, measured in the
same round; what is kept is told as the cost of the pass that makes it. Peers run in a process of
their own (`curvature_peers.py`), with a unit of their own: those that `--only` leaves out keep
their last figures. Products are compared with plain double
backward in float64, and residuals of everybody's eigenpairs are computed by us in float64.

Results go to `benchmarks/results/curvature.json`.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path
from statistics import median

import torch
from curvature_networks import NETWORKS, plain_gradient
from curvature_peers import PEERS
from machine import clocked, conditions
from torch import nn
from workloads import digits_of_mnist

import thalweg as tw
from thalweg.objectives.curvature import curvature

HERE = Path(__file__).parent
# Examples of each network.
SCALES = {"full": {"perceptron": 10_000, "convolution": 2_000}, "smoke": {"small": 60}}
BATCH = {"full": 1000, "smoke": 25}
ROUNDS = {"full": 5, "smoke": 2}
COUNTS = (1, 10)
TOLERANCE = 1e-3  # of the largest eigenvalue: residuals that everybody is asked for
_ALLOWED = 1e-3  # a product in float32 against one in float64, as a share of it


class Problem:
    """A network at a point, data, and vectors to multiply by."""

    def __init__(self, network, examples, batch):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.model = NETWORKS[network]().eval()
        (x, y), self.what = digits_of_mnist(examples)
        self.network, self.batch, self.data = network, batch, (x, y)
        self.batches = [(x[i : i + batch], y[i : i + batch]) for i in range(0, examples, batch)]
        self.objective = self.objective_in(torch.float32)
        self.theta = self.objective.space.flatten(self.model)
        draw = torch.Generator().manual_seed(1)
        self.vectors = torch.randn(8, len(self.theta), generator=draw)

    def objective_in(self, dtype):
        """Return the cost in a floating-point type."""
        loss = nn.CrossEntropyLoss()
        return tw.ModelObjective(self.model, loss, self.data, batch_size=self.batch, dtype=dtype)

    def exact(self, vectors):
        """Return products by plain double backward in float64, batch by batch."""
        model = NETWORKS[self.network]().double().eval()
        model.load_state_dict(self.model.state_dict())
        parameters = list(model.parameters())
        total = torch.zeros(vectors.shape, dtype=torch.float64)
        for x, y in self.batches:
            loss = nn.functional.cross_entropy(model(x.double()), y, reduction="sum")
            gradients = torch.autograd.grad(loss, parameters, create_graph=True)
            flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
            for row, vector in enumerate(vectors.double()):
                parts = torch.autograd.grad(flat @ vector, parameters, retain_graph=True)
                total[row] += torch.cat([part.reshape(-1) for part in parts])
        return total / len(self.data[0])


def a_round(problem, kept):
    """Return seconds of the unit and of products, in turns."""
    objective, theta, vectors = problem.objective, problem.theta, problem.vectors
    work = {
        "gradient": lambda: plain_gradient(problem.model, problem.batches),
        "our gradient": lambda: objective.gradient(theta),
        "one product": lambda: kept.products(vectors[:1]),
        "eight products": lambda: kept.products(vectors),
        "one product, nothing kept": lambda: objective.hvp(theta, vectors[0]),
        "eight products, nothing kept": lambda: objective.hvp(theta, vectors),
    }
    return {name: clocked(each)[1] for name, each in work.items()}


def expect_products(who, found, right):
    """Raise unless a product is that of float64 up to the rounding of float32."""
    away = float((found.double() - right).norm() / right.norm())
    if not away < _ALLOWED:
        raise AssertionError(
            f"A product must be that of float64 within {_ALLOWED:g}; {who!r} is off by {away:.2g} "
            "of it. Do not time what is wrong."
        )
    return away


def residuals(problem, values, vectors):
    """Return ‖H v − λ v‖ / ‖v‖ of eigenpairs, computed in float64, as shares of the largest λ."""
    vectors = vectors.double()
    vectors = vectors / vectors.norm(dim=1, keepdim=True)
    values = torch.tensor(values, dtype=torch.float64)
    rest = problem.exact(vectors) - values[:, None] * vectors
    return (rest.norm(dim=1) / values.abs().max()).tolist()


def our_eigenvalues(problem, unit, search_missed):
    """Return the cost of the largest eigenvalues in gradients."""
    found = {}
    for count in COUNTS:
        spectrum, seconds = clocked(
            lambda n=count: tw.spectrum(
                problem.objective,
                problem.theta,
                k=n,
                ends="largest",
                tolerance=TOLERANCE,
                search_missed=search_missed,
                progress=False,
            )
        )
        values = spectrum.eigenvalues[::-1].tolist()
        vectors = torch.from_numpy(spectrum.eigenvectors[::-1].copy())
        found[count] = {
            "gradients": seconds / unit,
            "products": spectrum.products,
            "complete": spectrum.complete,
            "values": values,
            "residuals": residuals(problem, values, vectors),
        }
    return found


def our_line(problem, unit, points=5):
    """Return value, slope and curvature of a line per point in gradients."""
    end = problem.theta - problem.objective.gradient(problem.theta)
    grid = tw.Uniform(0, 1, points)
    _, seconds = clocked(
        lambda: tw.curvature_along(
            problem.objective, tw.Line(problem.theta, end), grid, progress=False
        )
    )
    return seconds / points / unit


def by_peer(problem, name, python, rounds):
    """Return what a peer takes, in units of a gradient in its own process."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "problem.pt")
        given = {
            "network": problem.network,
            "state": problem.model.state_dict(),
            "data": problem.data,
            "vectors": problem.vectors,
            "batch": problem.batch,
            "rounds": rounds,
            "threads": torch.get_num_threads(),
            "counts": COUNTS,
            "tolerance": TOLERANCE,
        }
        torch.save(given, place)
        command = [python, str(HERE / "curvature_peers.py"), name, str(place)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{name} failed: {done.stderr[-2000:]}. Run it by hand.")
        found = json.loads(done.stdout.splitlines()[-1])
        product = torch.load(f"{place}.product", weights_only=True)
        found["error"] = expect_products(name, product, problem.exact(problem.vectors[:1])[0])
        for count, facts in found["eigenvalues"].items():
            vectors = torch.load(f"{place}.{count}", weights_only=True)
            facts["residuals"] = residuals(problem, facts["values"], vectors)
    return found


def in_gradients(rounds):
    """Return medians over rounds of ratios to the gradient of the same round, per product."""
    units = {}
    for name in rounds[0]:
        if name != "gradient":
            each = 8 if name.startswith("eight") else 1
            units[name] = median(r[name] / r["gradient"] / each for r in rounds)
    return units


def measure(network, examples, batch, rounds, peers, names):
    """Return everything about one network."""
    problem = Problem(network, examples, batch)
    kept = curvature(problem.objective, problem.theta)
    _, making = clocked(lambda: kept.value)
    away = expect_products(
        "thalweg", kept.product(problem.vectors[0]), problem.exact(problem.vectors[:1])[0]
    )
    a_round(problem, kept)  # the first time takes longer
    times = [a_round(problem, kept) for _ in range(rounds)]
    unit = median(each["gradient"] for each in times)
    found = {
        "network": network,
        "parameters": len(problem.theta),
        "examples": examples,
        "data": problem.what,
        "batch": batch,
        "seconds of a gradient": unit,
        "pass that keeps graphs (gradients)": making / unit,
        "method": kept.method,
        "error": away,
        "rounds": times,
        "gradients a product": {"thalweg": in_gradients(times)},
        # Peers do not look for missed copies of multiple eigenvalues either: the fair comparison.
        "eigenvalues": {
            "thalweg": our_eigenvalues(problem, unit, search_missed=False),
            "thalweg, none missed": our_eigenvalues(problem, unit, search_missed=True),
        },
        "line (gradients a point)": our_line(problem, unit),
    }
    for name in names if peers else ():
        theirs = by_peer(problem, name, peers, rounds)
        found["gradients a product"][name] = in_gradients(theirs["rounds"])
        found["eigenvalues"][name] = theirs["eigenvalues"] or None
    return found


def keep_other_peers(found, place):
    """Add what an earlier run has of peers that this one left out: their unit is their own."""
    if not place.exists():
        return
    earlier = json.loads(place.read_text())
    for now, before in zip(found["networks"], earlier["networks"], strict=True):
        for part in ("gradients a product", "eigenvalues"):
            now[part] |= {who: v for who, v in before[part].items() if who not in now[part]}
    found["earlier conditions"] = earlier["conditions"]


def main():
    """Measure, print and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", choices=SCALES, default="full")
    parser.add_argument("--peers", help="a Python that has the other packages")
    parser.add_argument("--only", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--output", type=Path, default=HERE / "results")
    options = parser.parse_args()
    rounds = options.rounds or ROUNDS[options.scale]
    found = {
        "networks": [
            measure(network, examples, BATCH[options.scale], rounds, options.peers, options.only)
            for network, examples in SCALES[options.scale].items()
        ],
        "conditions": conditions(),
    }
    output = options.output / ("smoke" if options.scale == "smoke" else "")
    output.mkdir(parents=True, exist_ok=True)
    keep_other_peers(found, output / "curvature.json")
    (output / "curvature.json").write_text(json.dumps(found, indent=1) + "\n")
    for each in found["networks"]:
        print(each["network"], json.dumps(each["gradients a product"]))
        print("  line (gradients a point):", each["line (gradients a point)"])
        for who, found_by in each["eigenvalues"].items():
            for count, facts in (found_by or {}).items():
                print(
                    f"  {who}: {count} largest in {facts['gradients']:.1f} gradients, "
                    f"residuals up to {max(facts['residuals']):.1e}"
                )


if __name__ == "__main__":
    main()
