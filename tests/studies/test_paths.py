"""What the studies of paths compute, against numbers that are found in another way."""

import math

import numpy as np
import pytest

from thalweg.results import Displacement
from thalweg.studies import convex_hyperparameters as convex
from thalweg.studies import interpolation, load_study
from thalweg.studies import projection_residual_maxout as maxout
from thalweg.studies import random_walk_control as control
from thalweg.studies.study import Run, check_claims


def in_many_dimensions(condition, rate, momentum):
    """Return greatest distance and reach of a descent as d grows: means over curvatures."""
    cells = 4000
    curvature = np.exp(-math.log(condition) * (np.arange(cells) + 0.5) / cells)
    error, velocity = -np.ones(cells), np.zeros(cells)
    greatest, reach = 0.0, 0.0
    for _ in range(401):
        greatest = max(greatest, (1 + error).std())
        reach = max(reach, (1 + error).mean())
        velocity = momentum * velocity - rate * curvature * error
        error = error + velocity
    return greatest, reach


@pytest.mark.parametrize("condition", convex._EXPECTED)
def test_the_reference_table_is_that_of_many_dimensions(condition):
    table = [
        [in_many_dimensions(condition, rate, momentum)[0] for momentum in convex._MOMENTA]
        for rate in convex._RATES
    ]
    # The table is that of one draw in 100,000 dimensions.
    np.testing.assert_allclose(table, convex._EXPECTED[condition], atol=0.003)


def test_momentum_overshoots_in_many_dimensions():
    reach = max(in_many_dimensions(10, rate, 0.9)[1] for rate in convex._RATES)
    assert reach == pytest.approx(1.4, abs=0.05)


def test_spreads_tell_momentum_from_rate():
    table = np.array(convex._EXPECTED[100])
    found = convex._spreads(table, 100)
    assert found["table_error_100"] == 0
    # By hand: rows span .189, .272, .306, .228; columns .139, .185, .178.
    assert found["by_momentum_100"] == pytest.approx(0.24875)
    assert found["by_rate_100"] == pytest.approx(0.502 / 3)


def test_a_walk_whose_distance_is_squared_does_not_pass():
    walk = load_study("random-walk-control")
    t = np.arange(1001)
    along, off = control.random_walk_displacement(1000, t, 900)
    seen = Displacement(
        t,
        along,
        off,
        to_end=np.hypot(along[-1] - along, off),
        update_length=np.full(1000, math.sqrt(1000)),
        length=along[-1],
        size=1000,
    )
    right = control._numbers(seen, 900)
    assert right["peak"] == pytest.approx(474.34, abs=0.01)
    assert right["last"] == pytest.approx(316.23, abs=0.01)
    assert right["off_error"] < 1e-12
    assert right["circle_error"] < 1e-12
    assert right["two_thirds"] == pytest.approx(4 / 9, abs=2e-3)
    squared = Displacement(t, along, off**2, to_end=seen.to_end, length=along[-1], size=1000)
    wrong = control._numbers(squared, 900)
    numbers = {f"{name}_1000": value for name, value in wrong.items()}
    for name in ("along_error", "off_error", "circle_error", "captured_error"):
        numbers[name] = wrong[name] * math.sqrt(1000)
    numbers |= {"two_thirds": wrong["two_thirds"], "peak_1": 0.0, "evidence": 0, "dimensions": 1}
    verdicts = [claim.verdict for claim in check_claims(walk, numbers)]
    assert verdicts[:5] == ["not reproduced"] * 5


def test_reversals_of_an_arch():
    def arch(distance):
        distance = np.asarray(distance, dtype=float)
        t = np.arange(len(distance))
        to_end = np.hypot(t[-1] - t, distance)
        return Displacement(t, t, distance, norm=9 + t, to_end=to_end, length=float(t[-1]))

    smooth = maxout._numbers(arch([0, 3, 4, 2, 0]), best=4)
    assert (smooth["reversal"], smooth["top"]) == (0, 0.5)
    assert smooth["captured"] == pytest.approx(1 / math.sqrt(10))
    bumpy = maxout._numbers(arch([0, 3, 2, 4, 1, 2, 0]), best=6)
    assert bumpy["reversal"] == pytest.approx(0.25)


def test_a_network_of_other_settings_is_recorded_in_place_of_the_one_before(tmp_path):
    settings = {"recipe": "RELU", "data": "digits", "epochs": 1}
    for hidden in ((4, 4), (5, 4)):
        run = Run({**settings, "hidden": hidden}, tmp_path, "cpu", lambda *told: None)
        network, trajectory = interpolation.train_recorded(run, seed=0)
        assert trajectory.points.size == len(network.start)
        assert trajectory.epoch.tolist() == [0, 1]
