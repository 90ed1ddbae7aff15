"""Critical points of every kind, and how little the Hessian may say about them.

Goodfellow, Bengio & Courville (2016, section 4.3.1) and the lectures on optimisation that follow
the book show critical points by example: at the origin x² + 3y² has a minimum and −x² + 3y² a
saddle, which their Hessians tell. The Hessians of x² + y⁴ and x² − y⁴ are the same, diag(2, 0),
and so are the gradients; one is a minimum, the other a saddle. −x⁴ − y⁴ and the monkey saddle
x³ − 3xy² have a Hessian of zero. Here each is moved off the origin and turned, and every point is
classified by its derivatives and, where these do not decide, by the cost itself.

Chains of factors (1 − Π w)² have such points too: at depth 3 the origin is a saddle without a
negative eigenvalue. And some costs have no critical point at all, however small the gradient.

Expected: every kind as known. Seconds at every scale.
"""

import math
from typing import Any

from thalweg.grids import Uniform
from thalweg.studies.study import Claim, Outcome, Run, Study

_AT = (0.6, -0.4)
_TURNED = 0.3
# Closed forms of two variables, with the kind of their critical point.
_KINDS = {
    "bowl": "minimum",
    "saddle": "saddle",
    "quartic_bowl": "minimum",
    "quartic_saddle": "saddle",
    "quartic_hill": "maximum",
    "monkey_saddle": "saddle",
    "flat": "degenerate",
}
_SOLUTION = (2.0, 0.25, -1.0, -4.0, 0.5)  # a point where the product of five factors is 1


def run(run: Run) -> Outcome:
    """Classify known critical points, and points that are none."""
    # Imported here, so that listing the studies does not load torch.
    import torch

    from thalweg import functions
    from thalweg.evaluate import surface
    from thalweg.probes.critical_points import classify
    from thalweg.sections import Plane

    results: dict[str, Any] = {}
    numbers: dict[str, Any] = {}
    axes = torch.eye(2, dtype=torch.float64)
    plane = Plane((torch.tensor(_AT, dtype=torch.float64), *axes), False, ("critical point",))
    side = Uniform(-1.0, 1.0, run["side"])
    forms = {
        name: functions.flat() if name == "flat" else getattr(functions, name)(_AT, _TURNED)
        for name in _KINDS
    }
    for name, form in forms.items():
        label = name.replace("_", "-")
        results[f"surface-{label}"] = surface(form, plane, side, side, progress=run.report)
        results[f"point-{label}"] = found = classify(form, _AT, progress=run.report)
        numbers[f"kind_{name}"] = found.kind
    numbers["right"] = sum(numbers[f"kind_{name}"] == kind for name, kind in _KINDS.items())
    numbers["forms"] = len(_KINDS)
    numbers["sign_changes"] = int(results["point-monkey-saddle"].sign_changes or 0)
    numbers |= _twins(forms["quartic_bowl"], forms["quartic_saddle"])
    for depth, place in {2: (0.0, 0.0), 3: (0.0, 0.0, 0.0)}.items():
        found = classify(functions.chain(depth), place, progress=run.report)
        results[f"chain-{depth}-origin"] = found
        numbers |= _ends(found, f"origin{depth}_")
    found = classify(functions.chain(3), (0.0, 0.0, 1.0), progress=run.report)
    results["chain-3-axis"] = found
    numbers |= _ends(found, "axis3_")
    found = classify(functions.chain(5), _SOLUTION, progress=run.report)
    results["chain-5-solution"] = found
    numbers |= _ends(found, "solution5_")
    numbers["solution5_zeros"] = int((abs(found.eigenvalues) <= found.zero).sum())
    numbers |= _mountain(run, functions.mountain())
    numbers |= _none(run, functions)
    return Outcome(
        results,
        numbers,
        (
            f"{numbers['right']} of {numbers['forms']} known critical points are classified as "
            "what they are.",
            "x² + y⁴ and x² − y⁴ agree in gradient and Hessian; one is a "
            f"{numbers['kind_quartic_bowl']}, the other a {numbers['kind_quartic_saddle']}.",
            f"Around the monkey saddle the cost changes sign {numbers['sign_changes']} times.",
            f"{numbers['none']} of {numbers['tried']} points of costs without critical points are "
            f"found to be none, with gradients down to {numbers['smallest_gradient']:.1g}.",
        ),
    )


def _twins(one: Any, other: Any) -> dict[str, float]:
    """Return by how much gradients and Hessians of two functions differ."""
    import torch

    place, axes = torch.tensor(_AT, dtype=torch.float64), torch.eye(2, dtype=torch.float64)
    apart = [one.gradient(place) - other.gradient(place)]
    apart += [one.hvp(place, axis) - other.hvp(place, axis) for axis in axes]
    return {"twins_apart": max(float(difference.norm()) for difference in apart)}


def _ends(point: Any, prefix: str) -> dict[str, Any]:
    """Return kind and outermost eigenvalues of a point."""
    return {
        f"{prefix}kind": point.kind,
        f"{prefix}lowest": float(point.eigenvalues[0]),
        f"{prefix}highest": float(point.eigenvalues[-1]),
    }


def _mountain(run: Run, mountain: Any) -> dict[str, Any]:
    """Return where the top of the mountain is, and what kind it is."""
    from thalweg.probes.critical_point_search import find_critical_point
    from thalweg.probes.critical_points import classify

    top = find_critical_point(mountain, [-0.2], "newton", progress=run.report)
    theta = mountain.point([-0.5])
    for _ in range(run["descent"]):
        theta = theta - 0.5 * mountain.gradient(theta)
    return {
        "top": float(top.theta[0]),
        "top_height": float(top.loss[-1]),
        "top_kind": classify(mountain, top.theta, progress=run.report).kind,
        "wrong_side": float(theta[0]),
        "wrong_side_loss": mountain.value(theta),
    }


def _none(run: Run, functions: Any) -> dict[str, Any]:
    """Classify points of costs that have no critical point."""
    from thalweg.probes.critical_points import classify

    logistic, precision = functions.separable_logistic(), functions.gaussian_precision()
    places = [(logistic, [t, 1.1 * t]) for t in (1.0, 10.0, 30.0, 100.0)]
    places += [(precision, [beta]) for beta in (1.0, 1e3, 1e9)]
    places += [(functions.mountain(2), [x, y]) for x in (-0.058, 2.0) for y in (0.0, 5.0, 20.0)]
    places += [(functions.terraces(), [0.0, 0.0])]
    found = [classify(cost, place, progress=run.report) for cost, place in places]
    return {
        "none": sum(point.kind == "not critical" for point in found),
        "tried": len(found),
        "smallest_gradient": min(point.gradient_norm for point in found),
        "terrace_slope": found[-1].gradient_norm,
    }


STUDY = Study(
    name="critical-points",
    title="Critical points of every kind, and what their Hessians do not tell",
    source="Goodfellow, Bengio & Courville (2016), sections 4.3.1 and 8.2",
    run=run,
    scales={
        "smoke": {"side": 21, "descent": 200},
        "small": {"side": 81, "descent": 20_000},
        "paper": {"side": 161, "descent": 200_000},
    },
    claims=(
        Claim(
            "Minimum, maximum, saddle and plateau are told apart: x² + 3y², −x² + 3y², x² + y⁴, "
            "x² − y⁴, −x⁴ − y⁴, the monkey saddle and 0.",
            lambda n: n["right"] == n["forms"],
            "{right} of {forms}: {kind_bowl}, {kind_saddle}, {kind_quartic_bowl}, "
            "{kind_quartic_saddle}, {kind_quartic_hill}, {kind_monkey_saddle}, {kind_flat}",
        ),
        Claim(
            "The same gradient and Hessian, and another kind: x² + y⁴ and x² − y⁴.",
            lambda n: n["twins_apart"] == 0 and n["kind_quartic_bowl"] != n["kind_quartic_saddle"],
            "{twins_apart:.2g} apart; {kind_quartic_bowl} and {kind_quartic_saddle}",
        ),
        Claim(
            "The cost around a monkey saddle changes sign six times.",
            lambda n: n["sign_changes"] == 6,
            "{sign_changes} times",
        ),
        Claim(
            "The origin of a chain of two factors is a saddle with eigenvalues ±2; that of a point "
            "(0, 0, 1) of three factors too.",
            lambda n: (
                n["origin2_kind"] == n["axis3_kind"] == "saddle"
                and all(
                    abs(abs(n[f"{where}_{end}"]) - 2) <= 1e-12
                    for where in ("origin2", "axis3")
                    for end in ("lowest", "highest")
                )
            ),
            "{origin2_lowest:.3g} to {origin2_highest:.3g}, {axis3_lowest:.3g} to "
            "{axis3_highest:.3g}",
        ),
        Claim(
            "From three factors on the origin is a saddle without a negative eigenvalue.",
            lambda n: n["origin3_kind"] == "saddle" and n["origin3_lowest"] == 0,
            "{origin3_kind}, eigenvalues {origin3_lowest:.2g} to {origin3_highest:.2g}",
        ),
        Claim(
            "At a solution of five factors one eigenvalue is 2 Σ 1/w², and four are zero.",
            lambda n: (
                n["solution5_zeros"] == 4
                and abs(n["solution5_highest"] / (2 * sum(w**-2 for w in _SOLUTION)) - 1) <= 1e-12
            ),
            "{solution5_highest:.6g} and {solution5_zeros} zeros",
        ),
        Claim(
            "The one critical point of the mountain is its top, at −0.058 with height 0.956, and "
            "descent from the wrong side goes on for ever.",
            lambda n: (
                n["top_kind"] == "maximum"
                and math.isclose(n["top"], -0.058, abs_tol=5e-4)
                and math.isclose(n["top_height"], 0.956, abs_tol=5e-4)
                and n["wrong_side"] < -1
                and n["wrong_side_loss"] > 0
            ),
            "{top_kind} at {top:.4f}, height {top_height:.4f}; descent arrives at {wrong_side:.3g}",
        ),
        Claim(
            "Costs can have small gradients and no critical point: logistic regression on "
            "separable data, the precision of a perfect fit, the mountain in two dimensions, a "
            "terrace.",
            lambda n: n["none"] == n["tried"],
            "{none} of {tried}, gradients down to {smallest_gradient:.1g}",
        ),
    ),
)
