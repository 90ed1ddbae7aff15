"""Tests by rearrangement: exact counts, uniform p-values, ties."""

import itertools

import numpy as np
import pytest

from thalweg.measures.permutation_tests import order_p_value, sign_p_value


def distances(points):
    points = np.asarray(points, dtype=np.float64)
    points = points[:, None] if points.ndim == 1 else points
    return np.linalg.norm(points[:, None] - points, axis=-1)


def farthest_from_uniform(values):
    """Return the Kolmogorov-Smirnov distance from the uniform distribution on (0, 1)."""
    ordered, count = np.sort(values), len(values)
    above = np.arange(1, count + 1) / count - ordered
    return max(above.max(), (ordered - np.arange(count) / count).max())


class TestOrder:
    @pytest.mark.parametrize("count", [0, 1, 2])
    def test_fewer_than_three_points_have_no_order(self, count):
        assert order_p_value(distances(np.arange(float(count)))) == 1.0

    @pytest.mark.parametrize("count", [3, 4, 5, 6])
    def test_few_points_are_exact(self, count):
        points = 3 + np.random.default_rng(count).normal(size=(count, 2))
        table = distances(points)

        def length(order):
            return sum(table[a, b] for a, b in itertools.pairwise(order))

        lengths = [length(order) for order in itertools.permutations(range(count))]
        below = np.mean([each <= lengths[0] + 1e-12 for each in lengths])
        above = np.mean([each >= lengths[0] - 1e-12 for each in lengths])
        assert order_p_value(table) == pytest.approx(min(1.0, 2 * min(below, above)))

    def test_a_straight_path_of_six_points(self):
        # It and its reverse, of 720 orders, on one side of two.
        assert order_p_value(distances(np.arange(6.0))) == pytest.approx(2 * 2 / 720)

    def test_jumping_to_and_fro_is_surprising_too(self):
        places = np.array([0.0, 1.0] * 15) + 1e-3 * np.arange(30)
        assert order_p_value(distances(places)) == 0.002

    def test_equal_points_are_all_ties(self):
        assert order_p_value(np.zeros((9, 9))) == 1.0

    def test_shuffled_points_have_a_uniform_value(self):
        """200 shuffles of a random walk; the distance 1.63/√200 is exceeded in 1 of 100."""
        walk = np.random.default_rng(0).normal(size=(30, 20)).cumsum(0)
        rng = np.random.default_rng(1)
        values = np.array([order_p_value(distances(rng.permutation(walk))) for _ in range(200)])
        assert farthest_from_uniform(values) < 1.63 / np.sqrt(200)
        assert order_p_value(distances(walk)) == 0.002  # which has an order

    def test_shuffles_of_few_points_are_never_too_surprising(self):
        rng = np.random.default_rng(2)
        values = np.array([order_p_value(distances(rng.normal(size=(5, 3)))) for _ in range(400)])
        for level in (0.05, 0.1, 0.25):
            spread = np.sqrt(level * (1 - level) / 400)
            assert np.mean(values <= level) <= level + 3 * spread

    def test_scale_does_not_matter(self):
        table = distances(np.random.default_rng(3).normal(size=(12, 4)).cumsum(0))
        assert order_p_value(table) == order_p_value(1e-30 * table) == order_p_value(1e30 * table)


class TestSigns:
    @pytest.mark.parametrize("count", [1, 4, 9])
    def test_all_positive(self, count):
        assert sign_p_value(0.1 + np.arange(count)) == 2.0**-count

    def test_few_values_are_exact(self):
        values = np.array([0.5, -0.25, 0.125, 0.75])
        means = [np.dot(s, values) for s in itertools.product((-1, 1), repeat=4)]
        assert sign_p_value(values) == np.mean([m >= values.sum() for m in means])

    def test_none_and_nan(self):
        assert sign_p_value([]) == 1.0
        assert sign_p_value([np.nan, np.nan]) == 1.0
        assert sign_p_value([np.nan, 0.5]) == 0.5

    def test_negative_means_are_no_surprise(self):
        assert sign_p_value(-np.ones(20)) == 1.0

    def test_many_symmetric_values_have_a_uniform_value(self):
        rng = np.random.default_rng(4)
        values = np.array([sign_p_value(rng.standard_cauchy(29)) for _ in range(200)])
        assert farthest_from_uniform(values) < 1.63 / np.sqrt(200)

    def test_the_distance_from_uniform_sees_what_is_not(self):
        assert farthest_from_uniform(np.linspace(0, 0.5, 200)) > 0.4
        assert farthest_from_uniform(np.linspace(0.0025, 0.9975, 200)) < 0.01
