import numpy as np
import pytest
import torch

import thalweg as tw
from thalweg.trajectory import random_walk as module
from thalweg.trajectory.random_walk import RandomWalk


def points_of(walk):
    return torch.stack([point.clone() for point in walk.stream()])


def test_it_starts_at_the_origin_and_takes_standard_normal_steps():
    walk = tw.random_walk(500, steps=200, seed=3)
    points = points_of(walk)
    assert len(walk) == len(points) == 201
    assert (points[0] == 0).all()
    steps = points.diff(dim=0)
    # 100,000 draws: five standard errors of mean and variance.
    assert abs(float(steps.mean())) < 5 / np.sqrt(1e5)
    assert abs(float(steps.var()) - 1) < 5 * np.sqrt(2 / 1e5)
    assert abs(float((steps[1:] * steps[:-1]).mean())) < 5 / np.sqrt(1e5)
    np.testing.assert_array_equal(walk.step, np.arange(201))
    assert walk.facts == {"kind": "random walk", "size": 500, "steps": 200, "seed": 3}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1, 5, 33])
def test_any_point_is_the_same_whenever_it_is_read(size, dtype):
    points = points_of(tw.random_walk(size, steps=50, seed=7, dtype=dtype))
    assert points.dtype == dtype
    walk = tw.random_walk(size, steps=50, seed=7, dtype=dtype)
    for index in (50, 3, 17, 17, 49, 0, 8):
        assert torch.equal(walk[index].theta, points[index])
    part = [point.clone() for point in walk.stream(11, 15)]
    assert torch.equal(torch.stack(part), points[11:15])
    assert torch.equal(points_of(walk), points)


def test_a_point_that_was_read_is_not_overwritten():
    walk = tw.random_walk(4, steps=9)
    first = walk[3].theta
    copy = first.clone()
    first.zero_()
    assert torch.equal(walk[3].theta, copy)


def test_seeds_give_different_walks():
    a, b = (tw.random_walk(4, steps=3, seed=seed)[3].theta for seed in (0, 1))
    assert not torch.equal(a, b)


def test_few_points_are_kept_and_few_steps_repeated():
    source = RandomWalk(3, 1000, 0, torch.float64)
    for _ in source.stream():
        pass
    assert len(source._kept) == module._MOST_KEPT
    assert max(np.diff([*sorted(source._kept), 1001])) <= -(-1001 // module._MOST_KEPT)


def test_a_walk_uses_no_global_random_numbers():
    state = torch.get_rng_state()
    points_of(tw.random_walk(20, steps=5))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_walk_of_no_steps_is_one_point():
    assert points_of(tw.random_walk(2, steps=0)).tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize(("size", "steps"), [(0, 5), (3, -1)])
def test_sizes_and_steps_must_make_sense(size, steps):
    with pytest.raises(ValueError, match=f"got size={size}, steps={steps}. Give positive"):
        tw.random_walk(size, steps)
