"""The control: a random walk agrees with its closed form, and gives no evidence of anything."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import thalweg as tw
from cases import normal
from thalweg.measures import (
    excess_over_random_walk,
    random_walk_displacement,
    random_walk_evidence,
)


def seen(points, first=0, last=-1):
    run = points if isinstance(points, tw.Trajectory) else tw.Trajectory.from_points(points)
    return tw.displacement(run, tw.Line(run[first].theta, run[last].theta), progress=False)


# --- the closed form -------------------------------------------------------------------------


def test_golden_numbers_of_a_walk_in_a_thousand_dimensions():
    along, off = random_walk_displacement(1000, np.arange(1001), end=900)
    assert off.argmax() == 450
    assert off[450] == pytest.approx(474.3, abs=0.05)
    assert off[1000] == pytest.approx(316.2, abs=0.05)
    walk = seen(tw.random_walk(1000, steps=1000, seed=0), last=900)
    assert walk.distance[:901].max() == pytest.approx(474.3, rel=0.06)
    assert walk.distance[1000] == pytest.approx(316.2, rel=0.06)
    assert along[900] == pytest.approx(math.sqrt(1000 * 900))


def test_the_closed_form_is_a_half_circle_and_a_spike():
    along, off = random_walk_displacement(50, np.arange(31), end=20, deviation=0.3)
    radius = 0.3 * math.sqrt(50 * 20) / 2
    np.testing.assert_allclose(np.hypot(along - radius, off)[:21], radius, rtol=1e-12)
    np.testing.assert_allclose(along[20:], 2 * radius)
    np.testing.assert_allclose(off[20:] ** 2, 0.09 * 50 * np.arange(11), atol=1e-12)


@pytest.mark.parametrize("size", [100, 1000, 10_000])
def test_a_walk_agrees_with_the_closed_form(size):
    walk = seen(tw.random_walk(size, steps=1000, seed=2), last=900)
    along, off = random_walk_displacement(size, walk.step, end=900)
    # Lengths of a walk vary by a share of 1/√(2 d); this is 3.5 times as much, fixed beforehand.
    room = 2.5 / math.sqrt(size)
    assert np.abs(walk.projection - along).max() / along.max() < room
    assert np.abs(walk.distance - off).max() / off.max() < room
    share = np.sqrt(walk.step[1:901] / 900)
    assert np.abs(walk.captured[1:901] - share).max() < room


def test_squared_distances_do_not_agree_with_the_closed_form():
    walk = seen(tw.random_walk(1000, steps=1000, seed=2), last=900)
    _, off = random_walk_displacement(1000, walk.step, end=900)
    assert np.abs(walk.distance**2 - off).max() / off.max() > 100


def test_a_walk_in_a_million_dimensions_is_streamed():
    walk = seen(tw.random_walk(10**6, steps=12, seed=1, dtype=torch.float32), last=10)
    along, off = random_walk_displacement(10**6, walk.step, end=10)
    np.testing.assert_allclose(walk.projection, along, rtol=0.005)
    np.testing.assert_allclose(walk.distance, off, rtol=0.005, atol=1e-2)
    assert random_walk_evidence(walk).verdict == "no evidence"


def test_steps_that_make_no_sense_are_refused():
    for step, end in (([0, 1], 0), ([-1, 2], 5)):
        with pytest.raises(ValueError, match=f"got end={end} .*Count steps from the start"):
            random_walk_displacement(3, step, end)


# --- excess ----------------------------------------------------------------------------------


def test_the_excess_of_a_walk_is_one():
    excess = excess_over_random_walk(seen(tw.random_walk(5000, steps=300, seed=4), last=250))
    assert np.flatnonzero(np.isnan(excess)).tolist() == [0, 250]
    np.testing.assert_allclose(excess[1:250], 1, atol=5 / math.sqrt(2 * 5000))
    np.testing.assert_allclose(excess[251:], 1, atol=5 / math.sqrt(2 * 5000))


def test_the_excess_of_a_walk_with_uneven_steps_is_one():
    size = np.geomspace(1, 0.05, 120)[:, None]
    steps = torch.from_numpy(size) * normal(120, 5000, seed=6)
    points = 1 + torch.cat([torch.zeros(1, 5000, dtype=torch.float64), steps.cumsum(0)])
    thinned = points[[0, 1, 2, 5, 9, 20, 21, 40, 80, 81, 100, 120]]
    for run in (points, thinned):
        excess = excess_over_random_walk(seen(run))[1:-1]
        np.testing.assert_allclose(excess, 1, atol=5 / math.sqrt(2 * 5000))
    # By the clock of steps it is not: most of the way is done in the first of them.
    assert np.nanmax(excess_over_random_walk(seen(points), clock="steps")) > 1.5


def test_the_excess_of_a_half_circle_walked_evenly():
    # All updates are alike, so half of them make half of the walk: β = L/2 there, and at a
    # share s the ordinate is (L/2) sin(π s).
    found = seen(_half_circle(21))
    s = np.arange(1, 20) / 20
    for clock in ("squares", "steps"):
        np.testing.assert_allclose(
            excess_over_random_walk(found, clock)[1:-1],
            0.5 * np.sin(np.pi * s) / np.sqrt(s * (1 - s)),
            rtol=1e-10,
        )


def test_an_excess_needs_a_line_between_two_points_of_the_run():
    points = tw.random_walk(30, steps=20)
    beside = tw.Line(torch.ones(30), 2 * torch.ones(30))
    found = tw.displacement(points, beside, progress=False)
    for measure in (excess_over_random_walk, random_walk_evidence):
        with pytest.raises(ValueError, match=r"from one of its points to a later one; .*Take the"):
            measure(found)
    with pytest.raises(ValueError, match=r"to a later one"):
        excess_over_random_walk(seen(points, first=9, last=2))
    with pytest.raises(ValueError, match="is 'squares' or 'steps'; got 'epochs'"):
        excess_over_random_walk(seen(points), clock="epochs")


# --- evidence --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 10, 100, 1000])
@pytest.mark.parametrize("steps", [20, 200])
def test_a_random_walk_gives_no_evidence(size, steps):
    # 10 walks, three tests at 1e-4 each: a false alarm in 12 × 10 walks has a chance of 4 %, once
    # and for all, for the seeds are fixed.
    for seed in range(10):
        walk = seen(tw.random_walk(size, steps, seed=seed), last=int(0.9 * steps))
        found = random_walk_evidence(walk)
        assert found.verdict == "no evidence", found
        assert min(found.p_cosine, found.p_span, found.p_bulge) > found.significance


def test_the_probabilities_are_those_of_their_tests():
    found = [
        random_walk_evidence(seen(tw.random_walk(40, steps=60, seed=seed))) for seed in range(200)
    ]
    for name in ("p_cosine", "p_span"):
        below = np.mean([getattr(each, name) < 0.2 for each in found])
        # A share of 0.2 of 200 has a standard error of 0.028; three of them.
        assert abs(below - 0.2) < 0.085, name
    # The mean over the arch varies less than one point of it: its probability is an upper bound.
    assert np.mean([each.p_bulge < 0.2 for each in found]) < 0.2
    effective = np.mean([each.effective_dimension for each in found])
    assert effective == pytest.approx(40, rel=0.1)


def test_uneven_and_anisotropic_walks_give_no_evidence():
    for seed in range(10):
        scales = torch.logspace(0, -2, 300, dtype=torch.float64)
        shrinking = torch.logspace(0, -1, 60, dtype=torch.float64)[:, None]
        run = 5 + (shrinking * scales * normal(60, 300, seed=seed)).cumsum(0)
        found = random_walk_evidence(seen(run))
        assert found.verdict == "no evidence", found
        assert found.effective_dimension < 120


RUNS = {
    "straight": lambda: torch.linspace(0, 1, 40, dtype=torch.float64)[:, None] * normal(50) + 1,
    "half-circle": lambda: _half_circle(60),
    "walk with momentum": lambda: _with_momentum(0.5),
    "walk that turns back": lambda: _with_momentum(-0.5),
}


def _half_circle(points):
    angle = torch.linspace(0, math.pi, points, dtype=torch.float64)
    return torch.stack([3 - angle.cos(), 2 + angle.sin()], dim=1)


def _with_momentum(share):
    velocity, points = torch.zeros(200, dtype=torch.float64), [torch.ones(200).double()]
    for step in normal(100, 200, seed=8):
        velocity = share * velocity + step
        points.append(points[-1] + velocity)
    return torch.stack(points)


@pytest.mark.parametrize("make", RUNS.values(), ids=RUNS)
def test_what_is_no_random_walk_is_told(make):
    found = random_walk_evidence(seen(make()))
    assert found.verdict == "not a random walk"
    assert min(found.p_cosine, found.p_span, found.p_bulge) < 1e-4


def test_one_number_alone_is_evidence_too():
    walk = seen(tw.random_walk(2000, steps=80, seed=1))
    tall = replace(walk, distance=1.3 * walk.distance)
    assert random_walk_evidence(tall).p_bulge < 1e-4
    assert random_walk_evidence(tall).p_cosine == random_walk_evidence(walk).p_cosine
    assert random_walk_evidence(tall).verdict == "not a random walk"


def test_eight_turns_of_one_sign_may_be_chance():
    # In one dimension a walk of nine steps goes one way all along in one case of 256.
    straight = torch.arange(10, dtype=torch.float64)[:, None]
    found = random_walk_evidence(seen(straight))
    assert found.p_cosine == 2**-7
    assert found.verdict == "no evidence"


def test_the_ends_are_the_nearest_points_where_storage_is_coarse():
    walk = tw.displacement(tw.random_walk(500, steps=60, seed=3), progress=False)
    coarse = replace(walk, rounding=np.full(61, 0.4 * walk.length))
    np.testing.assert_array_equal(excess_over_random_walk(coarse), excess_over_random_walk(walk))


@pytest.mark.parametrize("significance", [0.0, 1.0, -1.0, math.nan])
def test_a_significance_is_a_probability(significance):
    with pytest.raises(ValueError, match="a probability between 0 and 1; got"):
        random_walk_evidence(seen(tw.random_walk(10, steps=20)), significance)


def test_few_points_are_too_few():
    found = random_walk_evidence(seen(tw.random_walk(10, steps=5)))
    assert found.verdict == "too few points"
    assert math.isnan(found.p_cosine)
    assert found.significance == 1e-4


def test_still_updates_tell_nothing():
    points = torch.cat([torch.zeros(30, 3), torch.ones(1, 3)]).double()
    assert random_walk_evidence(seen(points)).verdict == "too few points"


def test_orthogonal_updates_are_no_evidence():
    # Thirty steps along thirty axes: a walk could not be more typical.
    points = torch.cat([torch.zeros(1, 30), torch.tril(torch.ones(30, 30))]).double()
    found = random_walk_evidence(seen(points))
    assert (found.mean_cosine, found.p_cosine) == (0, 1)
    assert found.effective_dimension == 30
    assert found.span == pytest.approx(1)
    assert found.verdict == "no evidence"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("seed", range(5))
def test_what_rounding_may_explain_is_no_evidence(dtype, seed):
    # Steps of 0.05 away from the origin by 6, where bfloat16 has 0.03 between two numbers.
    steps = 0.05 * normal(400, 300, seed=100 + seed)
    walk = 6 + torch.cumsum(steps, dim=0)
    seen = tw.displacement(tw.Trajectory.from_points(walk.to(dtype)), progress=False)
    assert tw.random_walk_evidence(seen).verdict == "no evidence"
    directed = 6 + torch.cumsum(steps + 0.3 * 0.05, dim=0)
    seen = tw.displacement(tw.Trajectory.from_points(directed.to(dtype)), progress=False)
    assert tw.random_walk_evidence(seen).verdict == "not a random walk"


def test_without_the_rounding_a_coarse_walk_would_be_evidence():
    walk = 6 + torch.cumsum(0.05 * normal(400, 300, seed=100), dim=0)
    seen = tw.displacement(tw.Trajectory.from_points(walk.bfloat16()), progress=False)
    denied = replace(seen, rounding=np.full(len(seen.step), 1e-3))
    assert tw.random_walk_evidence(denied).verdict == "not a random walk"


def test_what_is_no_displacement():
    walk = tw.random_walk(3, steps=4)
    with pytest.raises(TypeError, match=r"got Trajectory. Pass `thalweg.displacement"):
        tw.random_walk_evidence(walk)
