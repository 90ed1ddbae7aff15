"""Hessians of deep linear networks: a saddle that the second derivative does not see.

The chain y = w₁ w₂ … w_n x with the cost (1 − Π wᵢ)² is the smallest deep network, with n − 1
hidden layers of one unit. Its Hessian is known everywhere:

    H_ii = 2 P_i²,  H_ij = 2 P_i P_j − 2 (1 − Π w) P_ij,

with the products P_i, P_ij of all weights but those. With one hidden layer the origin is a saddle
with the eigenvalues ±2. With two or more all of them are 0 there: it is still a saddle, and no
method of second order can tell. On the solutions Π w = 1 there is one eigenvalue 2 Σ 1/wᵢ², and
n − 1 are zero.

The same for matrices: a network 4-6-…-6-4 with the cost ‖x − ŷ‖², averaged over the examples of
a random teacher. The inputs are whitened, so everything follows from the teacher's singular values
s: with one hidden layer the Hessian at W = 0 has the eigenvalues ±2s, each six times. With more it
is zero. At a critical point where the network is the best approximation of rank 2 it depends on
the middle layers: if their product has full rank there is a negative eigenvalue (Kawaguchi 2016,
theorem 2.3), if it has rank 2 there is none, though the point is a saddle.

Expected: all of this to rounding, for 1, 2 and 10 hidden layers. Measured (scale `small`): so it
is, to 1e-14 of the largest eigenvalue.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from thalweg.studies.study import Claim, Outcome, Run, Study
from thalweg.studies.wording import number

if TYPE_CHECKING:
    from torch import Tensor

    from thalweg.objectives.model import ModelObjective
    from thalweg.results import Spectrum

_HIDDEN = (1, 2, 10)  # hidden layers
_WIDTHS = (4, 6, 4)  # inputs, hidden units, outputs
_RANK = 2
_AT = 1.5  # k of the point (0, 0, k)


def run(run: Run) -> Outcome:
    """Compute the spectra at critical points of chains and of matrix networks."""
    # Imported here, so that listing the studies does not load torch.
    import torch

    from thalweg.functions import chain
    from thalweg.probes.spectrum import spectrum

    how: Any = {"vectors": False, "progress": False}
    results: dict[str, Spectrum] = {}
    numbers: dict[str, float] = {}
    generator = torch.Generator().manual_seed(run["seed"])
    for hidden in _HIDDEN:
        depth = hidden + 1
        cost = chain(depth)
        origin = spectrum(cost, torch.zeros(depth), depth, **how)
        numbers |= _ends(origin, f"chain{hidden}_origin_")
        w = torch.rand(depth, generator=generator, dtype=torch.float64) + 0.5
        w /= w.prod() ** (1 / depth)
        solution = spectrum(cost, w, depth, **how)
        results[f"chain-{hidden}-solution"] = solution
        expected = 2 * float((1 / w**2).sum())
        numbers[f"chain{hidden}_sharpness_error"] = abs(solution.eigenvalues[-1] / expected - 1)
        numbers[f"chain{hidden}_flat_error"] = float(
            np.abs(solution.eigenvalues[:-1]).max() / expected
        )
    beside = spectrum(chain(3), [0.0, 0.0, _AT], 3, **how)
    numbers["beside_error"] = float(np.abs(beside.eigenvalues - [-2 * _AT, 0, 2 * _AT]).max())
    x, target, directions = _teacher(run["examples"], generator)
    for hidden in _HIDDEN:
        run.report(hidden, _HIDDEN[-1], "matrix networks")
        network = _network(hidden, x, target)
        size = network.space.size
        zero = torch.zeros(size, dtype=torch.float64)
        origin = spectrum(network, zero, size, **how)
        numbers |= _ends(origin, f"net{hidden}_origin_")
        for middle in ("full",) if hidden == 1 else ("full", "deficient"):
            point = _partial(hidden, directions, idle=float(middle == "full"))
            found = spectrum(network, point, size, **how)
            results[f"net-{hidden}-{middle}"] = found
            numbers |= _ends(found, f"net{hidden}_{middle}_")
        numbers[f"net{hidden}_parameters"] = size
        if hidden == 1:
            results["net-1-origin"] = origin
            numbers["net1_origin_error"] = _origin_error(origin, directions[1].numpy())
    expected = -2 * float(directions[1][_RANK])
    numbers["full_error"] = max(
        abs(numbers[f"net{hidden}_full_smallest"] / expected - 1) for hidden in _HIDDEN
    )
    numbers["worst_residual"] = max(
        float(each.residuals.max() / max(each.scale, 1e-300)) if each.scale else 0.0
        for each in results.values()
    )
    return Outcome(results, numbers, _summary(numbers))


def _teacher(examples: int, generator: Any) -> tuple["Tensor", "Tensor", Any]:
    """Return whitened inputs, targets of a random linear teacher, and its singular vectors."""
    import torch

    inputs, _, outputs = _WIDTHS
    raw = torch.randn(examples, inputs, generator=generator, dtype=torch.float64)
    x = torch.linalg.qr(raw).Q * examples**0.5  # so that the mean of x xᵀ is the identity
    teacher = torch.randn(outputs, inputs, generator=generator, dtype=torch.float64)
    return x, x @ teacher.T, torch.linalg.svd(teacher)


def _network(hidden: int, x: "Tensor", target: "Tensor") -> "ModelObjective":
    """Return the cost of a linear network: squared distances, averaged over the examples."""
    import torch

    from thalweg.objectives.model import ModelObjective

    inputs, width, outputs = _WIDTHS
    sizes = [inputs, *[width] * hidden, outputs]
    layers = [torch.nn.Linear(a, b, bias=False, dtype=torch.float64) for a, b in pairwise(sizes)]
    return ModelObjective(torch.nn.Sequential(*layers), _squared_distance, (x, target))


def _squared_distance(output: "Tensor", target: "Tensor") -> tuple["Tensor", int]:
    """Return the sum of squared distances, and the number of examples."""
    return (output - target).square().sum(), len(target)


def _partial(hidden: int, directions: Any, idle: float) -> "Tensor":
    """Return a critical point where the network is the teacher's best approximation of rank 2.

    Args:
        hidden: Hidden layers.
        directions: Singular vectors and values of the teacher.
        idle: What the middle layers multiply the units by that carry nothing: with 0 their
            product has rank 2 as well.
    """
    import torch

    inputs, width, outputs = _WIDTHS
    left, sizes, right = directions
    share = sizes[:_RANK] ** (1 / (hidden + 1))
    first = torch.zeros(width, inputs, dtype=torch.float64)
    first[:_RANK] = share[:, None] * right[:_RANK]
    middle = idle * torch.eye(width, dtype=torch.float64)
    middle[range(_RANK), range(_RANK)] = share
    last = torch.zeros(outputs, width, dtype=torch.float64)
    last[:, :_RANK] = left[:, :_RANK] * share
    return torch.cat([m.reshape(-1) for m in (first, *[middle] * (hidden - 1), last)])


def _origin_error(origin: "Spectrum", sizes: Any) -> float:
    """Return how far the spectrum at W = 0 with one hidden layer is from ±2 s, six times each."""
    twice = np.repeat(2 * sizes, _WIDTHS[1])
    expected = np.sort(np.concatenate([twice, -twice]))
    return float(np.abs(origin.eigenvalues - expected).max() / expected[-1])


def _ends(found: "Spectrum", prefix: str) -> dict[str, float]:
    """Return smallest and largest eigenvalue, and the norm of the gradient."""
    return {
        prefix + "smallest": float(found.eigenvalues[0]),
        prefix + "largest": float(found.eigenvalues[-1]),
        prefix + "gradient": found.gradient_norm,
    }


def _summary(numbers: Mapping[str, float]) -> tuple[str, ...]:
    """Say what was found."""
    full = [number(numbers[f"net{hidden}_full_smallest"]) for hidden in _HIDDEN]
    deficient = [number(numbers[f"net{hidden}_deficient_smallest"]) for hidden in _HIDDEN[1:]]
    return (
        "With one hidden layer the origin is a saddle with the smallest eigenvalue "
        f"{number(numbers['chain1_origin_smallest'])} (chain) and "
        f"{number(numbers['net1_origin_smallest'])} (4-6-4); with two and ten the whole Hessian "
        "is zero there: a saddle without negative eigenvalues.",
        "On the solutions of a chain one eigenvalue is 2 Σ 1/wᵢ² and all others are zero, to "
        f"{number(max(numbers[f'chain{hidden}_sharpness_error'] for hidden in _HIDDEN))}.",
        "At critical points where the network has rank 2, with middle layers of full rank, the "
        f"smallest eigenvalues with 1, 2 and 10 hidden layers are {', '.join(full)}; with middle "
        f"layers of rank 2 they are {' and '.join(deficient)} with 2 and 10: zero but "
        "for rounding.",
    )


def _at_most(numbers: Mapping[str, float], names: list[str], bound: float) -> bool:
    """Tell whether numbers are within a bound of zero."""
    return all(abs(numbers[name]) <= bound for name in names)


STUDY = Study(
    name="deep-linear-hessians",
    title="Deep linear networks: saddles that second derivatives do not see",
    source="Kawaguchi (2016); Goodfellow, Vinyals & Saxe (2015), section 5",
    run=run,
    scales={
        "smoke": {"examples": 20},
        "small": {"examples": 2_000},
        "paper": {"examples": 20_000},
    },
    claims=(
        Claim(
            "With one hidden layer the origin has the eigenvalues ±2 (to 1e-12).",
            lambda n: (
                abs(n["chain1_origin_smallest"] + 2) <= 1e-12
                and abs(n["chain1_origin_largest"] - 2) <= 1e-12
            ),
            "{chain1_origin_smallest:.6g} and {chain1_origin_largest:.6g}",
        ),
        Claim(
            "With two and ten hidden layers the origin of a chain has no negative eigenvalue.",
            lambda n: n["chain2_origin_smallest"] >= 0 and n["chain10_origin_smallest"] >= 0,
            "{chain2_origin_smallest:.2g} and {chain10_origin_smallest:.2g}",
        ),
        Claim(
            "At (0, 0, k) a chain of three weights has the eigenvalues ±2k and 0 (to 1e-12).",
            lambda n: n["beside_error"] <= 1e-12,
            "off by {beside_error:.2g}",
        ),
        Claim(
            "On the solutions one eigenvalue is 2 Σ 1/wᵢ² and all others are 0 (to 1e-10).",
            lambda n: _at_most(
                n,
                [f"chain{h}_{what}_error" for h in _HIDDEN for what in ("sharpness", "flat")],
                1e-10,
            ),
            "off by {chain1_sharpness_error:.2g}, {chain2_sharpness_error:.2g}, "
            "{chain10_sharpness_error:.2g}; the others at most {chain10_flat_error:.2g}",
        ),
        Claim(
            "A network 4-6-4 has at W = 0 the eigenvalues ±2s of its teacher's singular values, "
            "six times each (to 1e-10).",
            lambda n: n["net1_origin_error"] <= 1e-10,
            "off by {net1_origin_error:.2g}",
        ),
        Claim(
            "With two and ten hidden layers W = 0 is a critical point without negative "
            "eigenvalues, of matrices too.",
            lambda n: (
                _at_most(n, [f"net{h}_origin_gradient" for h in (2, 10)], 1e-12)
                and min(n["net2_origin_smallest"], n["net10_origin_smallest"]) >= 0
            ),
            "{net2_origin_smallest:.2g} and {net10_origin_smallest:.2g}",
        ),
        Claim(
            "Where the middle layers together have full rank, every saddle has a negative "
            "eigenvalue: at critical points of rank 2 with 1, 2 and 10 hidden layers it is −2s of "
            "the first direction that is missing (to 1e-10).",
            lambda n: (
                _at_most(n, [f"net{h}_full_gradient" for h in _HIDDEN], 1e-10)
                and n["full_error"] <= 1e-10
            ),
            "{net1_full_smallest:.3g}, {net2_full_smallest:.3g} and {net10_full_smallest:.3g}, off "
            "by {full_error:.2g}",
        ),
        Claim(
            "Where they have not, there are saddles of rank 2 without negative eigenvalues (to "
            "1e-12 of the largest) with two and ten hidden layers.",
            lambda n: all(
                n[f"net{h}_deficient_gradient"] <= 1e-10
                and n[f"net{h}_deficient_smallest"] >= -1e-12 * n[f"net{h}_deficient_largest"]
                for h in _HIDDEN[1:]
            ),
            "{net2_deficient_smallest:.2g} of {net2_deficient_largest:.3g}, "
            "{net10_deficient_smallest:.2g} of {net10_deficient_largest:.3g}",
        ),
    ),
)
