"""Factored linear networks along lines: what a straight look shows, and how often it would lie.

The smallest deep networks, y = w₁ w₂ … w_n x, have the cost (1 − Π w_i)². Goodfellow, Vinyals &
Saxe (2015, section 5) look at it along lines: from near the saddle at the origin to a solution
(Fig. 9), between two solutions (Fig. 10 left), and from a random point to a solution (Fig. 10
right), and find the pictures of real networks: flat, then one way down; a barrier; no obstacle.

On a line the cost is a polynomial, so its critical points are found exactly, and a census says
how often a random line looks so: from N(0, 9 I) to (1, …, 1), for 2, 3 and 5 weights. The
figures' end points are not stated in the paper: those here are ours.

Expected: barriers of ((r − 1)²/(4r))² between solutions whose first weights have the ratio r:
0.31640625 for 4, 0.015625 for 2 and 1 for −1; for two weights no other minimum, ever, but a second
solution on about a third of all lines; for more weights other minima, so that the finding does not
carry over to deeper chains.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from thalweg.grids import Uniform
from thalweg.measures.chain_lines import ChainLine, chain_on_line
from thalweg.measures.profiles import barrier
from thalweg.measures.proportions import proportion_interval
from thalweg.results import Profile
from thalweg.studies.study import Claim, Outcome, Run, Study

_DEPTHS = (2, 3, 5)
_SPREAD = 3.0  # standard deviation of the random ends
_GOLDEN = {"4": 0.31640625, "2": 0.015625, "-1": 1.0}  # ratio to barrier
_SHARES = {2: 0.325, 3: 0.12, 5: 0.47}
_OFF = 0.01  # how far a share may be from those, beyond its interval: they are rounded


def run(run: Run) -> Outcome:
    """Draw the lines of both figures, and count what stands on random ones."""
    between = {
        "4": ([2.0, 0.5], [0.5, 2.0]),
        "2": ([1.0, 1.0], [0.5, 2.0]),
        "-1": ([1.0, 1.0], [-1.0, -1.0]),
    }
    results, numbers, missed = {}, dict[str, float](), [0.0]
    for name, ends in between.items():
        shape, line = _profile(run, *ends, ("solution", "other solution"), -0.5, 1.5)
        results[f"between-{name}"] = shape
        numbers[f"barrier_{name}"] = barrier(shape).height
        missed.append(_missed(shape, line))
    near, line = _profile(run, [0.01, 0.01], [1.0, 1.0], ("near the saddle", "solution"), 0.0, 2.11)
    results["from-the-saddle"] = near
    missed.append(_missed(near, line))
    numbers |= {
        "saddle_minima": float(len(line.minima)),
        "saddle_first_slope": _flatness(near),
        "saddle_curvature": float(near.curvature["train"][0]),
    }
    rng = np.random.default_rng(run["seed"])
    drawn, line = _profile(
        run, _SPREAD * rng.normal(size=2), [1.0, 1.0], ("random", "solution"), -0.5, 1.5
    )
    results["random-to-solution"] = drawn
    missed.append(_missed(drawn, line))
    numbers["derivative_error"] = max(missed)
    for depth in _DEPTHS:
        numbers |= _census(depth, run["draws"], rng)
    order = ("from-the-saddle", "between-4", "random-to-solution", "between-2", "between--1")
    named = {name: results[name] for name in order}
    named["through-the-saddle"] = named.pop("between--1")
    return Outcome(named, numbers, _summary(numbers))


def _profile(
    run: Run, start: Any, end: Any, labels: tuple[str, str], low: float, high: float
) -> tuple[Profile, ChainLine]:
    """Evaluate the cost with its derivatives along a line, and find its critical points."""
    # Imported here, so that listing the studies does not load torch.
    import torch

    from thalweg.evaluate import curvature_along
    from thalweg.functions import chain
    from thalweg.sections import Line

    first, last = (torch.as_tensor(np.asarray(point)) for point in (start, end))
    places = np.union1d(Uniform(low, high, run["points"]).coordinates(), [0.0, 0.5, 1.0])
    shape = curvature_along(
        chain(len(first)),
        Line(first, last, labels=labels),
        places,
        progress=run.report,
        keep=run.kept,
    )
    return shape, chain_on_line(start, end)


def _flatness(shape: Profile) -> float:
    """Return the first slope as a share of the steepest up to the solution."""
    steep = np.abs(shape.slope["train"][shape.alpha <= 1])
    return float(steep[0] / steep.max())


def _missed(shape: Profile, line: ChainLine) -> float:
    """Return by how much loss, slope and curvature differ from the polynomial, as a share."""
    right = (line.loss(shape.alpha), *line.derivatives(shape.alpha))
    found = (shape.loss["train"], shape.slope["train"], shape.curvature["train"])
    return max(
        float(np.abs(a - b).max() / max(1.0, np.abs(b).max()))
        for a, b in zip(found, right, strict=True)
    )


def _census(depth: int, draws: int, rng: Any) -> dict[str, float]:
    """Count random lines with another minimum, and with a second solution, between their ends."""
    minima, solutions = 0, 0
    for start in _SPREAD * rng.normal(size=(draws, depth)):
        line = chain_on_line(start, np.ones(depth))
        minima += bool(((line.minima > 0) & (line.minima < 1)).any())
        solutions += bool(((line.solutions > 0) & (line.solutions < 1)).any())
    found: dict[str, float] = {"draws": draws}
    for name, count in (("minima", minima), ("solutions", solutions)):
        low, high = proportion_interval(count, draws)
        key = f"depth{depth}_{name}"
        found |= {f"{key}_share": count / draws, f"{key}_low": low, f"{key}_high": high}
    return found


def _near(numbers: Mapping[str, Any], name: str, share: float) -> bool:
    """Tell whether an interval holds a share, which is known to about a percent."""
    low, high = numbers[f"{name}_low"], numbers[f"{name}_high"]
    return bool(low - _OFF <= share <= high + _OFF)


def _summary(numbers: Mapping[str, Any]) -> tuple[str, ...]:
    """Say what was found."""
    return (
        "Between two solutions of two weights stands a barrier of "
        f"{numbers['barrier_4']:.8g} where their weights differ by a factor 4, of "
        f"{numbers['barrier_2']:.6g} for 2, and of {numbers['barrier_-1']:.6g} where the line "
        "passes through the saddle at the origin.",
        "Of random lines to a solution "
        + ", ".join(
            f"{numbers[f'depth{depth}_minima_share']:.1%} (depth {depth})" for depth in _DEPTHS
        )
        + " have another minimum on the way.",
        f"For two weights {numbers['depth2_solutions_share']:.1%} of them meet a second solution "
        "instead.",
    )


def _interval(name: str) -> str:
    """Return the words for a share with its interval."""
    return f"{{{name}_share:.1%}} ({{{name}_low:.1%}} to {{{name}_high:.1%}})"


STUDY = Study(
    name="deep-linear-line",
    title="Factored linear networks: what lines show, counted exactly",
    source="Goodfellow, Vinyals & Saxe (2015), section 5, figures 9 and 10",
    run=run,
    scales={
        "smoke": {"points": 81, "draws": 500},
        "small": {"points": 201, "draws": 10_000},
        "paper": {"points": 401, "draws": 200_000},
    },
    claims=(
        Claim(
            "Two solutions whose first weights have the ratio r are separated by a barrier of "
            "((r − 1)²/(4r))²: 0.31640625, 0.015625 and 1 for r = 4, 2 and −1 (within 1e-12).",
            lambda n: all(
                abs(n[f"barrier_{r}"] - height) <= 1e-12 for r, height in _GOLDEN.items()
            ),
            "{barrier_4:.8f}, {barrier_2:.6f} and {barrier_-1:.6f}",
        ),
        Claim(
            "From near the saddle to a solution the cost is flat at first (a first slope of at "
            "most a tenth of the steepest), with no other minimum.",
            lambda n: n["saddle_minima"] == 0 and n["saddle_first_slope"] <= 0.1,
            "first slope {saddle_first_slope:.1%} of the steepest, {saddle_minima:.0f} minima",
        ),
        Claim(
            "From a random point to a solution there is no other minimum, for two weights.",
            lambda n: n["depth2_minima_share"] == 0,
            "in {draws:.0f} draws " + _interval("depth2_minima"),
        ),
        Claim(
            "The line of two weights meets a second solution in about 32.5 % of draws (the 95 % "
            "interval comes within a percentage point).",
            lambda n: _near(n, "depth2_solutions", _SHARES[2]),
            _interval("depth2_solutions"),
        ),
        Claim(
            "With three and five weights there are other minima, in about 12 % and 47 % of draws "
            "(the intervals come within a percentage point).",
            lambda n: all(_near(n, f"depth{d}_minima", _SHARES[d]) for d in (3, 5)),
            _interval("depth3_minima") + " and " + _interval("depth5_minima"),
        ),
        Claim(
            "Slope and curvature along the lines are those of the polynomial (within 1e-10).",
            lambda n: n["derivative_error"] <= 1e-10,
            "within {derivative_error:.2g}",
        ),
    ),
)
