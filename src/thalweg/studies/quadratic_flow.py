"""Gradient flow on a quadratic: it converges along what curves up, and flees from saddles.

On J = gᵀ(θ − θ₀) + ½ (θ − θ₀)ᵀH(θ − θ₀) the flow dθ/dt = −∇J moves along each eigenvector of H for
itself, by λ′(t) = (1 − e^(−λt))/λ times the component of −g (Goodfellow 2015). So there is no
quadratic saddle at which it stays, unless it starts with no component at all along what curves
down: it slows down near the saddle, and leaves at an exponential rate.

Expected: agreement with a solver of differential equations within 1e-8, and the rates of the
spectrum. In two dimensions the picture shows a flow that passes a saddle.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from thalweg.measures.quadratic_flow import flow_factor, quadratic_flow
from thalweg.studies.study import Claim, Outcome, Run, Study
from thalweg.studies.wording import number

_SPECTRUM = (1.0, -0.4)  # of the saddle in two dimensions
_ANGLE = 0.5  # of its axes, so that nothing lines up with the coordinates
_CENTRE = (0.7, -0.3)
_AWAY = 1e-3  # how far beside the stable direction the flow starts


def run(run: Run) -> Outcome:
    """Solve the flow in both ways, and follow one past a saddle."""
    # Imported here, so that listing the studies does not load torch.
    import torch

    from thalweg.functions import quadratic
    from thalweg.probes.run_surface import run_plane
    from thalweg.trajectory.trajectory import Trajectory

    numbers = _agreement(run["size"], run["seed"], run["times"])
    numbers |= _limits()
    matrix, centre, axes = _saddle()
    start = centre + axes @ np.array([2.0, _AWAY])
    time = np.linspace(0, run["end"], run["points"])
    points = quadratic_flow(matrix, matrix @ (start - centre), start, time)
    numbers |= _escape(points, time, matrix, centre, axes)
    seen = run_plane(
        quadratic(matrix, centre),
        Trajectory.from_points(torch.from_numpy(points)),
        along=run["across"],
        across=run["across"],
        progress=run.report,
        keep=run.kept,
    )
    return Outcome({"saddle": seen}, numbers, _summary(numbers))


def _agreement(size: int, seed: int, times: int) -> dict[str, float]:
    """Compare the closed form with a solver, on a matrix of mixed signs."""
    from scipy.integrate import solve_ivp

    rng = np.random.default_rng(seed)
    root = rng.normal(size=(size, size))
    matrix = (root + root.T) / np.sqrt(4 * size)
    start, gradient = rng.normal(size=size), rng.normal(size=size)
    time = np.linspace(0, 4, times)
    closed = quadratic_flow(matrix, gradient, start, time)
    solved = solve_ivp(
        lambda _, theta: -gradient - matrix @ (theta - start),
        (0, time[-1]),
        start,
        method="DOP853",
        t_eval=time,
        rtol=1e-12,
        atol=1e-13,
    )
    values = np.linalg.eigvalsh(matrix)
    definite = matrix + (0.5 - values[0]) * np.eye(size)
    newton = start - np.linalg.solve(definite, gradient)
    last = quadratic_flow(definite, gradient, start, [100.0])[0]
    return {
        "size": size,
        "negative": float((values < 0).sum()),
        "ode_error": float(np.abs(closed - solved.y.T).max() / np.abs(closed).max()),
        "newton_error": float(np.abs(last - newton).max()),
    }


def _limits() -> dict[str, float]:
    """Return how near λ′ is to t around λ = 0."""
    time = np.array([0.1, 1.0, 10.0])
    near = [np.abs(flow_factor(rate, time) / time - 1).max() for rate in (0.0, 1e-13, -1e-13)]
    return {"limit_error": float(max(near))}


def _saddle() -> tuple[Any, Any, Any]:
    """Return matrix, centre and axes (as columns) of the saddle in two dimensions."""
    axes = np.array([[np.cos(_ANGLE), -np.sin(_ANGLE)], [np.sin(_ANGLE), np.cos(_ANGLE)]])
    return axes @ np.diag(_SPECTRUM) @ axes.T, np.array(_CENTRE), axes


def _escape(points: Any, time: Any, matrix: Any, centre: Any, axes: Any) -> dict[str, float]:
    """Return how a flow passes the saddle: its slowest moment, and its rate of escape."""
    along = (points - centre) @ axes
    cost = 0.5 * np.einsum("ti,ij,tj->t", points - centre, matrix, points - centre)
    speed = np.linalg.norm((points - centre) @ matrix, axis=1)
    slowest = int(speed.argmin())
    rate = np.polyfit(time, np.log(np.abs(along[:, 1])), 1)[0]
    return {
        "escape_rate": float(rate),
        "escape_error": float(abs(rate + _SPECTRUM[1])),
        "slowest_speed": float(speed[slowest] / speed[0]),
        "slowest_time": float(time[slowest]),
        "nearest": float(np.linalg.norm(points - centre, axis=1).min()),
        "cost_start": float(cost[0]),
        "cost_end": float(cost[-1]),
        "speed_end": float(speed[-1] / speed[slowest]),
        "greatest_rise": float(np.diff(cost).max()),
    }


def _summary(numbers: Mapping[str, Any]) -> tuple[str, ...]:
    """Say what was found."""
    return (
        f"The closed form agrees with a solver within {numbers['ode_error']:.1e} of the way, in "
        f"{numbers['size']:.0f} dimensions of which {numbers['negative']:.0f} curve down.",
        f"A flow that starts {_AWAY:g} beside the stable direction of a saddle slows down to "
        f"{numbers['slowest_speed']:.2%} of its speed, {number(numbers['nearest'])} from the "
        f"saddle, and leaves at the rate {numbers['escape_rate']:.4f}.",
    )


STUDY = Study(
    name="quadratic-flow",
    title="Gradient flow on a quadratic: it flees from saddles",
    source="Goodfellow (2015), slides of the Montreal deep learning summer school",
    run=run,
    scales={
        "smoke": {"size": 12, "times": 21, "end": 19.0, "points": 61, "across": 21},
        "small": {"size": 60, "times": 41, "end": 19.0, "points": 121, "across": 41},
        "paper": {"size": 200, "times": 81, "end": 19.0, "points": 241, "across": 81},
    },
    claims=(
        Claim(
            "The flow moves along each eigenvector by (1 − e^(−λt))/λ (a solver agrees within "
            "1e-8 of the way).",
            lambda n: n["ode_error"] <= 1e-8,
            "within {ode_error:.2g}",
        ),
        Claim(
            "At λ = 0 that factor is t (within 1e-11, also beside it).",
            lambda n: n["limit_error"] <= 1e-11,
            "within {limit_error:.2g}",
        ),
        Claim(
            "Where all eigenvalues are positive the flow ends at Newton's step (within 1e-10).",
            lambda n: n["newton_error"] <= 1e-10,
            "within {newton_error:.2g}",
        ),
        Claim(
            "The flow flees from a saddle: it leaves along what curves down at the rate −λ "
            "(within 1e-6), faster than it came near (in the end 10 times its least speed).",
            lambda n: n["escape_error"] <= 1e-6 and n["speed_end"] >= 10,
            "rate {escape_rate:.6f}, speed {speed_end:.0f} times the least",
        ),
        Claim(
            "The cost falls all the way, past the saddle and below it.",
            lambda n: n["greatest_rise"] <= 0 and n["cost_end"] < 0 < n["cost_start"],
            "from {cost_start:.3g} to {cost_end:.3g}",
        ),
    ),
)
