import copy
import itertools
import math
import pickle

import numpy as np
import pytest

from thalweg.measures import (
    Climb,
    Minimum,
    barrier,
    convex_share,
    greatest_climb,
    initial_steepness,
    interior_minima,
    is_monotone,
)
from thalweg.results import Ends, Profile

SEEDS = range(40)


def random_profile(seed, levels=None):
    """Return an uneven grid away from the origin; few levels make ties and flat bottoms."""
    rng = np.random.default_rng(seed)
    points = int(rng.integers(3, 24))
    alpha = 3.0 + np.cumsum(rng.uniform(0.01, 1.0, points))
    loss = rng.integers(0, levels, points) if levels else rng.normal(size=points)
    return Profile(alpha=alpha, loss=loss, anchors=(alpha[0], alpha[-1]))


def chain_between_solutions(ratio, alpha):
    """J(w) = (1 − w₁ w₂)² on the line from (1, 1) to (1/r, r), with r = a₁ / b₁."""
    first = (1 - alpha) * 1.0 + alpha / ratio
    second = (1 - alpha) * 1.0 + alpha * ratio
    return (1 - first * second) ** 2


def changed(profile, shift=0.0, scale=1.0, move=0.0, stretch=1.0, mirrored=False):
    """Return c J + d on the coordinates s α + m, walked backwards if mirrored."""
    alpha = profile.alpha * stretch + move
    loss = scale * profile.loss["train"] + shift
    if mirrored:
        alpha, loss = -alpha[::-1], loss[::-1]
    return Profile(alpha=alpha, loss=loss, anchors=(alpha[0], alpha[-1]))


# Climb and monotonicity


@pytest.mark.parametrize("levels", [None, 4])
@pytest.mark.parametrize("seed", SEEDS)
def test_greatest_climb_against_all_pairs(seed, levels):
    profile = random_profile(seed, levels)
    loss = profile.loss["train"]
    pairs = itertools.combinations_with_replacement(range(len(loss)), 2)
    climb = greatest_climb(profile)
    assert climb.height == max(loss[b] - loss[a] for a, b in pairs)
    foot, top = np.searchsorted(profile.alpha, [climb.foot, climb.top])
    assert foot <= top
    assert loss[top] - loss[foot] == climb.height
    # The stated choice among equal climbs: first top, then nearest foot.
    assert not any(loss[b] - loss[a] == climb.height for b in range(top) for a in range(b))
    if climb.height > 0:
        assert not any(loss[top] - loss[a] == climb.height for a in range(foot + 1, top))


def test_greatest_climb_of_a_falling_profile_is_nothing():
    profile = Profile(alpha=[1.5, 2.0, 2.75], loss=[3.0, 3.0, -1.0])
    assert greatest_climb(profile) == Climb(height=0.0, foot=1.5, top=1.5)


def test_a_rise_confined_to_the_last_interval_is_seen():
    profile = Profile(alpha=[0.25, 0.5, 1.0], loss=[2.0, 1.0, 1.125])
    assert greatest_climb(profile) == Climb(height=0.125, foot=0.5, top=1.0)


def test_the_foot_is_the_nearest_of_equally_low_points():
    profile = Profile(alpha=[1.0, 2.0, 3.0, 4.0, 5.0], loss=[1.0, 0.0, 0.0, 2.0, 2.0])
    assert greatest_climb(profile) == Climb(height=2.0, foot=3.0, top=4.0)


def test_between_is_a_closed_interval():
    profile = Profile(alpha=[-1.0, 0.0, 1.0, 2.0], loss=[5.0, 0.0, 1.0, 9.0])
    assert greatest_climb(profile, between=(0.0, 1.0)) == Climb(1.0, 0.0, 1.0)
    assert is_monotone(profile, between=(-1.0, 0.0))
    assert not is_monotone(profile, between=(-0.5, 1.0))


@pytest.mark.parametrize("seed", SEEDS)
def test_climb_follows_changes_of_loss_and_coordinate(seed):
    profile = random_profile(seed)
    climb = greatest_climb(profile)
    moved = greatest_climb(changed(profile, shift=-7.0, scale=3.0, move=-11.0, stretch=0.5))
    assert moved.height == pytest.approx(3.0 * climb.height, abs=1e-13)
    assert moved.foot == pytest.approx(0.5 * climb.foot - 11.0)
    assert moved.top == pytest.approx(0.5 * climb.top - 11.0)
    # Walking backwards through −J meets the same climb, from its top to its foot.
    back = greatest_climb(changed(profile, scale=-1.0, mirrored=True))
    assert back.height == climb.height
    if climb.height > 0:
        assert (back.foot, back.top) == (-climb.top, -climb.foot)


def test_monotone_up_to_a_tolerance():
    profile = Profile(alpha=[2.0, 3.0, 4.0], loss=[1.0, 1.5, 0.0])
    assert not is_monotone(profile)
    assert not is_monotone(profile, tolerance=0.4999)
    assert is_monotone(profile, tolerance=0.5)


def test_measures_look_at_the_split_that_is_named():
    profile = Profile(
        alpha=[1.0, 2.0, 3.0],
        loss={"train": [3.0, 2.0, 1.0], "valid": [3.0, 1.0, 2.0]},
        anchors=(1.0, 3.0),
    )
    assert greatest_climb(profile).height == 0.0
    assert greatest_climb(profile, split="valid").height == 1.0
    assert is_monotone(profile)
    assert not is_monotone(profile, split="valid")
    assert interior_minima(profile) == ()
    assert interior_minima(profile, split="valid") == (Minimum(2.0, 1.0, 1.0),)
    assert barrier(profile, split="valid", baseline="mean").height == 0.5
    assert convex_share(profile, split="valid") == 1.0
    assert initial_steepness(profile, split="valid") == 1.0


# Barrier


@pytest.mark.parametrize(("ratio", "height"), [(4.0, 0.31640625), (-1.0, 1.0), (2.0, 0.015625)])
def test_barrier_between_two_solutions_of_a_chain(ratio, height):
    alpha = np.linspace(-0.5, 1.5, 81)
    alpha[[20, 40, 60]] = 0.0, 0.5, 1.0
    profile = Profile(alpha=alpha, loss=chain_between_solutions(ratio, alpha))
    for baseline in ("linear", "mean"):
        found = barrier(profile, baseline=baseline)
        assert found.height == pytest.approx(height, abs=1e-14)
        assert found.alpha == 0.5
        assert found.baseline == baseline


@pytest.mark.parametrize("seed", SEEDS)
def test_barrier_against_its_definition(seed):
    profile = random_profile(seed)
    alpha, loss = profile.alpha, profile.loss["train"]
    t = (alpha - alpha[0]) / (alpha[-1] - alpha[0])
    over_line = [j - ((1 - s) * loss[0] + s * loss[-1]) for s, j in zip(t, loss, strict=True)]
    over_mean = [j - (loss[0] + loss[-1]) / 2 for j in loss]
    assert barrier(profile).height == pytest.approx(max(over_line), abs=1e-14)
    assert barrier(profile).alpha == alpha[np.argmax(over_line)]
    assert barrier(profile, baseline="mean").height == pytest.approx(max(over_mean), abs=1e-14)
    assert barrier(profile).height >= 0.0
    assert barrier(profile, baseline="mean").height >= abs(loss[0] - loss[-1]) / 2 - 1e-15


@pytest.mark.parametrize("seed", SEEDS)
def test_barrier_does_not_depend_on_the_direction_of_the_walk(seed):
    profile = random_profile(seed)
    there = barrier(profile)
    back = barrier(changed(profile, mirrored=True, shift=5.0, scale=2.0, move=-1.0))
    assert back.height == pytest.approx(2.0 * there.height, abs=1e-13)
    if there.height > 1e-9:
        assert back.alpha == pytest.approx(1.0 - there.alpha)


def test_the_linear_baseline_takes_out_a_slope():
    alpha = np.array([2.0, 2.1, 2.5, 2.9, 3.0])
    bump = np.array([0.0, 0.25, 0.75, 0.125, 0.0])
    flat = barrier(Profile(alpha=alpha, loss=bump, anchors=(2.0, 3.0)))
    tilted = barrier(Profile(alpha=alpha, loss=bump + 3 * alpha - 8, anchors=(2.0, 3.0)))
    assert tilted.height == pytest.approx(flat.height)
    assert tilted.alpha == flat.alpha == 2.5


def test_a_straight_descent_has_no_barrier():
    profile = Profile(alpha=[0.0, 0.25, 0.5, 1.0], loss=[4.0, 3.0, 2.0, 0.0])
    assert barrier(profile).height == 0.0
    assert barrier(profile, baseline="mean").height == 2.0
    assert barrier(profile, baseline="mean").alpha == 0.0


def test_the_stated_ends_count_as_points():
    # The grid holds neither end; what lies beyond them must not count.
    profile = Profile(
        alpha=[-1.0, 0.25, 0.5, 2.0],
        loss=[99.0, 1.5, 1.0, 99.0],
        ends=Ends(alpha=[0.0, 1.0], loss=[1.0, 0.0]),
    )
    assert barrier(profile).height == 0.75
    assert barrier(profile).alpha == 0.25
    assert initial_steepness(profile) == 1.0


def test_ends_replace_the_grid_points_at_the_same_place():
    profile = Profile(
        alpha=[0.0, 0.5, 1.0],
        loss=[1.0, 1.0, 1.0],
        ends=Ends(alpha=[0.0, 1.0], loss=[1.0, 1.0]),
    )
    assert barrier(profile).height == 0.0
    assert initial_steepness(profile) == 0.0


def test_barrier_needs_its_ends():
    with pytest.raises(ValueError, match="ends, alpha = 0 and 1, must be among the points; 1 of"):
        barrier(Profile(alpha=[0.5, 1.0], loss=[1.0, 2.0]))
    with pytest.raises(ValueError, match="alpha = two anchors, must be among the points; 0 of"):
        barrier(Profile(alpha=[0.0, 1.0], loss=[1.0, 2.0], labels=(), anchors=()))
    with pytest.raises(ValueError, match=r"must be among the points; .* Put both ends on the grid"):
        barrier(Profile(alpha=[0.0, 1.0], loss=[1.0, 2.0], labels=("a",), anchors=(0.0,)))
    ends = Ends(alpha=[0.0, 1.0], loss={"train": [1.0, 2.0]})
    both = {"train": [1.0, 2.0], "valid": [1.0, 2.0]}
    with pytest.raises(ValueError, match="they have none for 'valid'"):
        barrier(Profile(alpha=[0.0, 1.0], loss=both, ends=ends), split="valid")


def test_barrier_needs_a_known_baseline():
    with pytest.raises(ValueError, match="must be 'linear' or 'mean'; got 'median'"):
        barrier(Profile(alpha=[0.0, 1.0], loss=[1.0, 2.0]), baseline="median")


# Minima


def brute_minima(alpha, loss, tolerance):
    """Walk point by point; every flat bottom is found from its leftmost point."""
    found = []
    for i in range(1, len(loss) - 1):
        last = i
        while last + 1 < len(loss) and loss[last + 1] == loss[i]:
            last += 1
        if last == len(loss) - 1 or not loss[i - 1] > loss[i] < loss[last + 1]:
            continue
        rises = []
        for walk in (range(i - 1, -1, -1), range(last + 1, len(loss))):
            highest = loss[i]
            for j in walk:
                if loss[j] < loss[i]:
                    break
                highest = max(highest, loss[j])
            rises.append(highest - loss[i])
        if min(rises) > tolerance:
            found.append(Minimum((alpha[i] + alpha[last]) / 2, loss[i], min(rises)))
    return tuple(found)


@pytest.mark.parametrize("tolerance", [0.0, 1.0])
@pytest.mark.parametrize("levels", [None, 3])
@pytest.mark.parametrize("seed", SEEDS)
def test_interior_minima_against_a_walk(seed, levels, tolerance):
    profile = random_profile(seed, levels)
    expected = brute_minima(profile.alpha, profile.loss["train"], tolerance)
    assert interior_minima(profile, tolerance) == expected


@pytest.mark.parametrize("levels", [None, 3])
@pytest.mark.parametrize("seed", SEEDS)
def test_minima_do_not_depend_on_the_direction_of_the_walk(seed, levels):
    profile = random_profile(seed, levels)
    there = interior_minima(profile)
    back = interior_minima(changed(profile, mirrored=True))
    assert [(-m.alpha, m.loss, m.depth) for m in back[::-1]] == [
        (m.alpha, m.loss, m.depth) for m in there
    ]


def test_minima_of_a_chain_between_two_solutions():
    # The line from (1, 1) to (−1, −1) meets J = 0 at both solutions, with the saddle between.
    alpha = np.linspace(-0.5, 1.5, 81)
    alpha[[20, 40, 60]] = 0.0, 0.5, 1.0
    profile = Profile(alpha=alpha, loss=chain_between_solutions(-1.0, alpha))
    minima = interior_minima(profile)
    assert [m.alpha for m in minima] == [0.0, 1.0]
    # Neither is lower than the other, so the wall beyond counts: (1 − 2²)² = 9 at both ends.
    assert [m.depth for m in minima] == pytest.approx([9.0, 9.0])
    assert interior_minima(profile, between=(0.0, 1.0)) == ()


def test_depth_stops_at_something_lower():
    profile = Profile(alpha=[2.0, 3.0, 4.0, 5.0, 6.0], loss=[9.0, 1.0, 1.25, 0.0, 9.0])
    assert interior_minima(profile) == (Minimum(3.0, 1.0, 0.25), Minimum(5.0, 0.0, 9.0))
    assert interior_minima(profile, tolerance=0.25) == (Minimum(5.0, 0.0, 9.0),)


def test_a_flat_bottom_counts_once_and_an_edge_does_not():
    flat = Profile(alpha=[1.0, 2.0, 4.0, 5.0], loss=[3.0, 1.0, 1.0, 2.0])
    assert interior_minima(flat) == (Minimum(3.0, 1.0, 1.0),)
    for edge in ([0.0, 1.0, 2.0], [2.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [1.0] * 3):
        assert interior_minima(Profile(alpha=[1.0, 2.0, 4.0], loss=edge)) == ()
    assert interior_minima(Profile(alpha=[1.0], loss=[2.0])) == ()


# Shape


def test_convex_share_of_known_functions_on_an_uneven_grid():
    rng = np.random.default_rng(11)
    alpha = np.sort(rng.uniform(0.5, 3.0, 60))
    assert convex_share(Profile(alpha=alpha, loss=np.exp(alpha))) == 1.0
    assert convex_share(Profile(alpha=alpha, loss=np.log(alpha))) == 0.0
    # The second divided difference of α³ is the sum of its three coordinates.
    around = alpha - 1.7
    expected = np.mean(around[:-2] + around[1:-1] + around[2:] >= 0)
    assert convex_share(Profile(alpha=around, loss=around**3)) == expected


def test_the_second_divided_difference_of_a_parabola_is_its_coefficient():
    # −2 α² has second divided difference −2 at every spacing.
    alpha = np.array([1.0, 1.5, 3.5, 4.0, 8.0])
    profile = Profile(alpha=alpha, loss=-2.0 * alpha**2)
    assert convex_share(profile, tolerance=1.999) == 0.0
    assert convex_share(profile, tolerance=2.001) == 1.0


@pytest.mark.parametrize("seed", SEEDS)
def test_shape_does_not_depend_on_the_units(seed):
    profile = random_profile(seed)
    other = changed(profile, shift=-20.0, scale=4.0, move=-9.0, stretch=8.0)
    assert convex_share(other) == convex_share(profile)
    assert convex_share(changed(profile, mirrored=True)) == convex_share(profile)
    assert initial_steepness(other) == pytest.approx(initial_steepness(profile), rel=1e-9)


def test_initial_steepness_is_a_share_of_the_steepest_slope():
    # Slopes −1, +4, −2 from the start on; the steeper stretch before the start is outside.
    profile = Profile(alpha=[-1.0, 0.0, 0.5, 0.75, 1.0], loss=[50.0, 3.0, 2.5, 3.5, 3.0])
    assert initial_steepness(profile) == 0.25


def test_a_chain_is_flat_near_the_saddle_at_its_start():
    # J = (1 − (e + (1 − e) α)²)² from (e, e) to (1, 1).
    alpha = np.linspace(0.0, 1.0, 1001)
    slopes = {}
    for start in (0.01, 0.9):
        loss = (1 - (start + (1 - start) * alpha) ** 2) ** 2
        slopes[start] = initial_steepness(Profile(alpha=alpha, loss=loss))
    # |dJ/dw| = 4 w (1 − w²) is largest at w = 1/√3, where it is 8 / (3 √3).
    expected = 4 * 0.01 * (1 - 0.01**2) / (8 / (3 * math.sqrt(3)))
    assert slopes[0.01] == pytest.approx(expected, rel=0.06)
    assert slopes[0.9] > 0.99


# What is refused


MEASURES = {
    "greatest_climb": greatest_climb,
    "is_monotone": is_monotone,
    "barrier": barrier,
    "interior_minima": interior_minima,
    "convex_share": convex_share,
    "initial_steepness": initial_steepness,
}


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_loss_that_is_not_finite_is_refused(measure, bad):
    profile = Profile(alpha=[0.0, 0.35, 0.5, 1.0], loss=[1.0, bad, bad, 0.0])
    with pytest.raises(ValueError, match=r"not at 2 of 4 points, the first at alpha = 0\.35"):
        measure(profile)


def test_losses_outside_of_the_interval_may_be_anything():
    profile = Profile(alpha=[0.5, 1.0, 1.5, 2.0], loss=[2.0, 1.0, 1.5, np.nan])
    assert greatest_climb(profile, between=(0.0, 1.6)).height == 0.5
    assert interior_minima(profile, between=(0.5, 1.5)) == (Minimum(1.0, 1.0, 0.5),)
    assert convex_share(profile, between=(0.5, 1.5)) == 1.0


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
def test_an_unknown_split_is_refused(measure):
    profile = Profile(alpha=[0.0, 1.0], loss={"train": [1.0, 0.0], "valid": [1.0, 0.0]})
    with pytest.raises(ValueError, match="must be one of 'train', 'valid'; got 'test'"):
        measure(profile, split="test")


@pytest.mark.parametrize(
    ("measure", "least"),
    [(greatest_climb, "2 points"), (interior_minima, "1 point"), (convex_share, "3 points")],
)
def test_too_few_points_are_refused(measure, least):
    profile = Profile(alpha=[0.0, 1.0], loss=[1.0, 0.0])
    with pytest.raises(
        ValueError, match=rf"at least {least}; the profile has 0 between alpha = 3 and 4\."
    ):
        measure(profile, between=(3.0, 4.0))
    with pytest.raises(ValueError, match=r"the profile has 0\. Evaluate a finer"):
        measure(Profile(alpha=[], loss=[]))


@pytest.mark.parametrize("measure", [is_monotone, interior_minima, convex_share])
@pytest.mark.parametrize("tolerance", [-0.5, math.nan])
def test_a_negative_tolerance_is_refused(measure, tolerance):
    profile = Profile(alpha=[0.0, 0.5, 1.0], loss=[1.0, 0.5, 0.0])
    with pytest.raises(ValueError, match="`tolerance` must be at least 0; got"):
        measure(profile, tolerance=tolerance)


def test_a_barrier_is_a_number_that_knows_its_place():
    wall = barrier(Profile(alpha=[0.0, 0.25, 1.0], loss=[1.0, 3.0, 1.0]))
    assert wall == 2.0
    assert abs(wall - 1.5) == 0.5
    assert type(wall.height) is float
    assert (wall.alpha, wall.baseline) == (0.25, "linear")
    assert copy.copy(wall).alpha == 0.25
    assert pickle.loads(pickle.dumps(wall)).alpha == 0.25  # noqa: S301 (our own bytes)
    assert repr(wall) == "Barrier(height=2.0, alpha=0.25, baseline='linear')"
