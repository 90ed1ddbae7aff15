"""How many points an adaptive section takes on held-out lines, and how often its bound holds.

    python benchmarks/points_needed.py [--only "chain of 3 factors" ...] [--kind network]

For each line and tolerance: the points that `tw.Adaptive` takes; the largest error of what it
interpolates over 401 evenly spaced points, and three more within each of its intervals, as a
share of the range of the cost; and in how many of its intervals the error is within
`Interpolation.bound`. Beside it stand the fewest points with which the same error is reached by a
polyline and a cubic spline through evenly spaced points, and by the polynomial through Chebyshev's.
They have an advantage: their number of points is chosen with the truth at hand.

A few minutes; results go to `benchmarks/results/points_needed.json`.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from held_out import problems
from machine import conditions
from scipy.interpolate import BarycentricInterpolator, CubicSpline

import thalweg as tw

HERE = Path(__file__).parent
TOLERANCES = (1e-2, 1e-3, 1e-4)
DENSE = 401
# Steps of evenly spaced grids that are part of the dense one.
EVEN_STEPS = (4, 5, 8, 10, 16, 20, 25, 40, 50, 80, 100, 200)
CHEBYSHEV = (5, 6, 7, 9, 11, 13, 17, 21, 25, 33, 41, 49, 65, 81)
# Where an interval is looked into, as shares of its width.
WITHIN = (0.21, 0.5, 0.79)
# What a cost in float32 or float64 is uncertain by, relative to its largest value.
ROUNDING = {"float32": 1e-6, "float64": 1e-14}


class Values:
    """The cost at coordinates of a line, each evaluated once."""

    def __init__(self, objective, line):
        self.objective, self.line = objective, line
        self._known = {}

    def __call__(self, alpha):
        """Return the cost at some coordinates, ascending."""
        missing = [a for a in alpha if a not in self._known]
        if missing:
            found = tw.profile(self.objective, self.line, missing, progress=False)
            self._known |= dict(zip(missing, found.loss["train"], strict=True))
        return np.array([self._known[a] for a in alpha])


def measured(problem):
    """Return what a held-out line takes."""
    objective, line = problem.make()
    values = Values(objective, line)
    dense = tw.Uniform(0, 1, DENSE).coordinates()
    truth = values(dense)
    size = float(np.ptp(truth))
    rounding = ROUNDING[str(objective.dtype).removeprefix("torch.")] * np.abs(truth).max()
    return {
        "name": problem.name,
        "kind": problem.kind,
        "range": size,
        "adaptive": {
            f"{tolerance:g}": adaptive(values, tolerance, dense, size, rounding)
            for tolerance in TOLERANCES
        },
        "others": fixed_grids(values, dense, truth, size),
    }


def adaptive(values, tolerance, dense, size, rounding):
    """Return points, error and coverage of an adaptive section."""
    profile = tw.profile(
        values.objective, values.line, tw.Adaptive(tolerance, limit=400), progress=False
    )
    alpha, sure = profile.alpha, profile.interpolation
    within = (alpha[:-1, None] + np.array(WITHIN) * np.diff(alpha)[:, None]).ravel()
    at = np.union1d(dense, within)
    error = np.abs(profile.interpolate(at) - values(at))
    # A point of the section itself is no test of what lies between.
    interval = np.clip(np.searchsorted(alpha, at, side="right") - 1, 0, len(alpha) - 2)
    largest = np.zeros(len(alpha) - 1)
    np.maximum.at(largest, interval, error)
    holds = largest <= sure.bound + rounding
    beyond = np.where(holds, 0.0, largest / np.maximum(sure.bound, rounding))
    return {
        "points": len(alpha),
        "error": float(error.max() / size),
        "expected": sure.expected / size,
        "bound": float(sure.bound.max() / size),
        "bound holds in": int(holds.sum()),
        "of intervals": len(holds),
        "greatest error in bounds": float(beyond.max()),  # 0 where the bound holds everywhere
        "error outside of bounds": float(largest[~holds].max(initial=0.0) / size),
        "method": sure.method,
        "converged": sure.converged,
        "resolution": sure.resolution,
    }


def fixed_grids(values, dense, truth, size):
    """Return for each simple curve and tolerance the fewest points that reach it, or None."""
    errors = {"polyline": {}, "cubic spline": {}, "Chebyshev": {}}
    for steps in EVEN_STEPS:
        stride = (DENSE - 1) // steps
        x, y = dense[::stride], truth[::stride]
        errors["polyline"][steps + 1] = np.abs(np.interp(dense, x, y) - truth).max()
        errors["cubic spline"][steps + 1] = np.abs(CubicSpline(x, y)(dense) - truth).max()
    for count in CHEBYSHEV:
        x = tw.Chebyshev(count).coordinates()
        between = BarycentricInterpolator(x, values(x), rng=np.random.default_rng(0))(dense)
        errors["Chebyshev"][count] = np.abs(between - truth).max()
    return {
        name: {f"{t:g}": fewest(by_points, t * size) for t in TOLERANCES}
        for name, by_points in errors.items()
    }


def fewest(errors, allowed):
    """Return the fewest points whose error is allowed, and is with more points too."""
    enough = None
    for count in sorted(errors, reverse=True):
        if errors[count] > allowed:
            break
        enough = count
    return enough


def points_table(results):
    """Return a table of all lines and what they have in common, as Markdown."""
    headings = ["line", *(f"{float(t):.0e}" for t in results["tolerances"])]
    lines = [
        "Points taken by `tw.Adaptive(tolerance)` · true error in tolerances · intervals whose "
        "error is within their bound; then the fewest points with which an even polyline / an "
        "even cubic spline / Chebyshev's polynomial has that error (– means more than "
        f"{max(EVEN_STEPS) + 1} or {max(CHEBYSHEV)}). Bold where the error is above the tolerance.",
        "",
        f"| {' | '.join(headings)} |",
        f"|{' --- |' * len(headings)}",
    ]
    for line in results["lines"]:
        cells = [line["name"]]
        for tolerance, found in line["adaptive"].items():
            shares = found["error"] / float(tolerance)
            error = f"{shares:.2f}" if shares <= 1 else f"**{shares:.3g}**"
            others = " / ".join(str(o[tolerance] or "–") for o in line["others"].values())
            held = f"{found['bound holds in']}/{found['of intervals']}"
            lacks = "" if found["converged"] else " (limit)"
            cells.append(f"{found['points']}{lacks} · {error} · {held}; {others}")
        lines.append(f"| {' | '.join(cells)} |")
    for kind in ("network", "closed form"):
        for tolerance in results["tolerances"]:
            found = [e["adaptive"][tolerance] for e in results["lines"] if e["kind"] == kind]
            if found:
                lines += ["" if tolerance == results["tolerances"][0] else None]
                lines.append(f"- {in_all(kind, tolerance, found)}")
    return [line for line in lines if line is not None]


def in_all(kind, tolerance, found):
    """Return in one sentence what the lines of a kind have in common at a tolerance."""
    met = sum(each["error"] <= float(tolerance) for each in found)
    held, of = (sum(each[key] for each in found) for key in ("bound holds in", "of intervals"))
    return (
        f"{kind}, {float(tolerance):.0e}: the tolerance is met on {met} of {len(found)} lines, the "
        f"bound holds in {held} of {of} intervals ({100 * held / of:.1f} %), and the median is "
        f"{np.median([each['points'] for each in found]):.0f} points."
    )


def main():
    """Measure all lines; print the table and write the results."""
    every = problems()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=[each.name for each in every])
    parser.add_argument("--kind", choices=["network", "closed form"])
    parser.add_argument("--output", type=Path, default=HERE / "results")
    options = parser.parse_args()
    chosen = [
        each
        for each in every
        if (not options.only or each.name in options.only)
        and (not options.kind or each.kind == options.kind)
    ]
    results = {
        "tolerances": [f"{tolerance:g}" for tolerance in TOLERANCES],
        "lines": [],
        "conditions": conditions(),
    }
    options.output.mkdir(parents=True, exist_ok=True)
    place = options.output / "points_needed.json"
    for number, each in enumerate(chosen, start=1):
        print(f"{number}/{len(chosen)} {each.name}", file=sys.stderr, flush=True)
        results["lines"].append(measured(each))
        place.write_text(json.dumps(results, indent=1) + "\n")
    print("\n".join(points_table(results)))


if __name__ == "__main__":
    main()
