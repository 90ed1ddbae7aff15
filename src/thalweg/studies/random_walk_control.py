"""The control: a random walk draws the arch that training draws.

Goodfellow, Vinyals & Saxe (2015, Fig. 11) plot the distance off the line against the projection on
it for a random walk whose point after 900 of 1000 steps is taken for the "solution". It looks
like the picture of a training run, so that shape is evidence of nothing.

In many dimensions d the picture has a closed form: α = (t/T) √(dT) and β = √(d t (1 − t/T)) up to
T = 900, a half-circle of radius √(dT)/2, and β = √(d (t − T)) afterwards, a spike. The walk departs
from it by a share of 1/√d or so. What does differ from reported training runs is the share of the
way from the start that the line captures: √(t/T), below two thirds for t < 0.44 T.

Expected: for d = 1000 a peak of 474.3 and 316.2 at the end (both ± 6 %); for d = 1 no distance at
all; no evidence, in any dimension, that the walk is none. Seconds at every scale but `paper`, which
adds a million dimensions.
"""

import math
from typing import TYPE_CHECKING

import numpy as np

from thalweg.measures.random_walk import random_walk_displacement, random_walk_evidence
from thalweg.studies.study import Claim, Outcome, Run, Study

if TYPE_CHECKING:
    from thalweg.results import Displacement

_WIDE = 100  # dimensions from which the closed form is compared with
# Errors in units of 1/√d: lengths vary by 0.7 of them, and the largest of a walk by up to 2.5.
_ERROR = 2.5


def run(run: Run) -> Outcome:
    """Walk in every dimension, and compare each walk with the closed form."""
    # Imported here, so that listing the studies does not load torch.
    from thalweg.probes.displacement import displacement
    from thalweg.sections import Line
    from thalweg.trajectory.random_walk import random_walk

    results: dict[str, Displacement] = {}
    numbers: dict[str, float] = {}
    steps, end = run["steps"], run["end"]
    for size in run["dimensions"]:
        walk = random_walk(size, steps, seed=run["seed"])
        line = Line(walk[0].theta, walk[end].theta, labels=("start", "solution"))
        results[f"dimension-{size}"] = displacement(walk, line, progress=run.report)
        found = _numbers(results[f"dimension-{size}"], end)
        numbers |= {f"{name}_{size}": value for name, value in found.items()}
    wide = [size for size in run["dimensions"] if size >= _WIDE]
    numbers["dimensions"] = len(results)
    numbers["evidence"] = sum(numbers[f"evidence_{size}"] for size in run["dimensions"])
    for name in ("along_error", "off_error", "circle_error", "captured_error"):
        numbers[name] = max(numbers[f"{name}_{size}"] * math.sqrt(size) for size in wide)
    numbers["two_thirds"] = numbers[f"two_thirds_{wide[-1]}"]
    return Outcome(
        dict(reversed(results.items())),
        numbers,
        (
            f"In {wide[-1]:,} dimensions the walk follows the half-circle and the spike to "
            f"{numbers[f'off_error_{wide[-1]}']:.1%} of the peak.",
            f"The line captures two thirds of the way from the start only after "
            f"{numbers['two_thirds']:.2f} of the walk.",
            f"No test tells any of the {len(results)} walks from a random walk."
            if numbers["evidence"] == 0
            else f"{numbers['evidence']:.0f} of {len(results)} walks do not pass for one.",
        ),
    )


def _numbers(seen: "Displacement", end: int) -> dict[str, float]:
    """Boil a walk down: errors against the closed form, as shares of its peak."""
    along, off = random_walk_displacement(seen.size, seen.step, end)
    radius = seen.length / 2
    until = slice(0, end + 1)
    circle = np.hypot(seen.projection[until] - radius, seen.distance[until]) / radius - 1
    done = seen.step[1 : end + 1] / end
    captured = seen.captured[1 : end + 1]
    below = np.flatnonzero(captured < 2 / 3)
    return {
        "peak": float(seen.distance[until].max()),
        "last": float(seen.distance[-1]),
        "along_error": float(np.abs(seen.projection - along).max() / along.max()),
        "off_error": float(np.abs(seen.distance - off).max() / off.max()),
        "circle_error": float(np.abs(circle).max()),
        "captured_error": float(np.abs(captured - np.sqrt(done)).max()),
        "two_thirds": float(done[below[-1]]) if len(below) else 0.0,
        "evidence": float(random_walk_evidence(seen).verdict != "no evidence"),
    }


_WALK = {"steps": 1000, "end": 900}
_DIMENSIONS = [1, 2, 3, 10, 100, 1000, 10_000]

STUDY = Study(
    name="random-walk-control",
    title="The control: a random walk draws the same arch",
    source="Goodfellow, Vinyals & Saxe (2015), figure 11",
    run=run,
    scales={
        "smoke": {"dimensions": [1, 2, 3, 10, 100, 1000], **_WALK},
        "small": {"dimensions": _DIMENSIONS, **_WALK},
        "paper": {"dimensions": [*_DIMENSIONS, 1_000_000], **_WALK},
    },
    claims=(
        Claim(
            "In 1000 dimensions the walk is furthest off its line by 474.3 (± 6 %).",
            lambda n: abs(n["peak_1000"] / 474.34 - 1) <= 0.06,
            "{peak_1000:.1f}",
        ),
        Claim(
            "A hundred steps beyond the solution it is off by 316.2 (± 6 %).",
            lambda n: abs(n["last_1000"] / 316.23 - 1) <= 0.06,
            "{last_1000:.1f}",
        ),
        Claim(
            "In 100 dimensions or more, projection and distance follow the closed form to 2.5/√d "
            "of their peaks.",
            lambda n: max(n["along_error"], n["off_error"]) <= _ERROR,
            "{along_error:.2f}/√d and {off_error:.2f}/√d",
        ),
        Claim(
            "The arch is a half-circle (to 2.5/√d of its radius).",
            lambda n: n["circle_error"] <= _ERROR,
            "{circle_error:.2f}/√d",
        ),
        Claim(
            "The line captures a share √(t/T) of the way from the start (to 2.5/√d), so less than "
            "two thirds for 44 % of the walk.",
            lambda n: n["captured_error"] <= _ERROR and abs(n["two_thirds"] - 4 / 9) <= 0.1,
            "to {captured_error:.2f}/√d; two thirds after {two_thirds:.0%} of the walk",
        ),
        Claim(
            "In one dimension there is no distance off the line (but for rounding).",
            lambda n: n["peak_1"] <= 1e-12,
            "{peak_1:.1g}",
        ),
        Claim(
            "Nothing that is measured tells these walks from a random walk.",
            lambda n: n["evidence"] == 0,
            "evidence in {evidence:.0f} of {dimensions:.0f}",
        ),
    ),
)
