"""Paths of known shape, and what must not be taken for descent."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

import thalweg as tw
from cases import classes, normal, seeded
from thalweg.functions import quadratic
from thalweg.probes import path as module

CENTRE = normal(6, seed=3) + 2.0


def bowl(size=6, scale=1.0, shift=0.0, stretch=1.0):
    """½ c ‖θ/s − centre‖² + d: a cost in other units, of parameters in other units."""
    centre = CENTRE[:size]
    return tw.FunctionObjective(
        lambda t: scale * (t / stretch - centre).square().sum() / 2 + shift, size
    )


def run_of(points):
    return tw.Trajectory.from_points(torch.as_tensor(np.asarray(points), dtype=torch.float64))


def descent(objective, start, rate, steps, noise=0.0, seed=0):
    draw = torch.Generator().manual_seed(seed)
    points = [torch.as_tensor(start, dtype=torch.float64)]
    for _ in range(steps):
        here = points[-1]
        push = torch.randn(len(here), generator=draw, dtype=torch.float64)
        points.append(here - rate * (objective.gradient(here) + noise * push))
    return torch.stack(points)


class TestShapes:
    """Ratio, angles and climbs that are known."""

    def test_descent_on_a_round_bowl_is_straight(self):
        points = descent(bowl(), 5 + normal(6, seed=1), 0.1, 60)
        found = tw.path_reading(bowl(), run_of(points))
        assert len(found.step) == 30
        assert found.step[[0, -1]].tolist() == [0, 60]
        assert found.ratio == pytest.approx(1.0, rel=1e-12)
        assert found.length == pytest.approx(float((points[-1] - points[0]).norm()), rel=1e-12)
        np.testing.assert_allclose(found.heading[:-1], 1.0)
        assert math.isnan(found.heading[-1])  # it is there
        np.testing.assert_allclose(found.alignment, 1.0)
        assert found.mean_alignment == pytest.approx(1.0)
        assert found.aside == 0.0
        assert found.climb == 0.0
        assert found.relative_climb == 0.0
        assert found.order_p == 0.002
        assert found.descends
        assert found.roughness == pytest.approx(0.0, abs=1e-12)
        assert found.loss[0] == pytest.approx(bowl().value(points[0]))

    def test_a_semicircle(self):
        angle = np.linspace(0, np.pi, 30)
        arc = 3.0 + np.stack([-np.cos(angle), np.sin(angle)], axis=1)
        # J falls along the arc in polar angle, and not to its inside.
        slide = tw.FunctionObjective(lambda t: torch.atan2(t[1] - 3, t[0] - 3), 2)
        found = tw.path_reading(slide, run_of(arc))
        chords = 2 * 29 * np.sin(np.pi / 58)
        assert found.ratio == pytest.approx(chords / 2, rel=1e-12)
        assert found.ratio == pytest.approx(np.pi / 2, rel=1e-3)
        # −g is the tangent; the way to the end is half the angle that is left off it.
        np.testing.assert_allclose(found.heading[:-1], np.cos((np.pi - angle[:-1]) / 2), atol=1e-12)
        np.testing.assert_allclose(found.alignment, np.cos(np.pi / 58), rtol=1e-12)
        below = np.cos((np.pi - angle[:-1]) / 2) < 0.1
        assert found.aside == pytest.approx(below.mean())

    def test_a_zigzag(self):
        """A valley so steep across that steps lead from side to side."""
        valley = quadratic(np.diag([1.0, 1000.0]), [1.0, -2.0])
        points = descent(valley, [21.0, 3.0], 0.00199, 29)
        found = tw.path_reading(valley, run_of(points))
        assert found.ratio > 20
        assert found.order_p <= 0.004  # longer than other orders: it goes to and fro
        assert found.descends

    def test_a_wall_on_the_straight_line(self):
        """Round a hill: the climb is that of the hill over the fall."""
        hill = tw.FunctionObjective(lambda t: -0.5 * t[0] + 4 * torch.exp(-8 * t.square().sum()), 2)
        angle = np.linspace(0, np.pi, 12)
        arc = np.stack([-2 * np.cos(angle), 2 * np.sin(angle)], axis=1)
        found = tw.path_reading(hill, run_of(arc))
        line = found.line.loss["train"]
        assert found.climb == tw.greatest_climb(found.line).height
        top = line[10]  # the middle of 21 points is the top of the hill
        assert top == pytest.approx(4.0)
        assert found.relative_climb == pytest.approx((top - line[:10].min()) / 2.0)
        assert found.relative_climb > 1

    def test_a_target(self):
        points = descent(bowl(), 5 + normal(6, seed=1), 0.1, 12)
        aside = CENTRE + 100 * normal(6, seed=9)
        found = tw.path_reading(bowl(), run_of(points), target=aside)
        way = aside - points[0]
        push = CENTRE - points[0]
        cosine = float(way @ push / way.norm() / push.norm())
        assert found.heading[0] == pytest.approx(cosine)
        assert found.to_target[0] == pytest.approx(float(way.norm()))
        assert found.target == "given"

    def test_an_end_that_is_no_lower(self):
        points = descent(bowl(), 5 + normal(6, seed=1), 0.1, 12).flip(0)
        found = tw.path_reading(bowl(), run_of(points))
        assert math.isnan(found.relative_climb)
        assert found.climb > 0
        assert found.alignment_p == 1.0
        assert not found.descends


class TestRandomWalk:
    """What has the shape of a run and is none."""

    @pytest.mark.parametrize("size", [3, 6])
    def test_it_is_not_called_descent(self, size):
        """100 walks: at p ≤ 0.01 one is to be expected, more than five in 5 of 10,000."""
        called = 0
        for seed in range(100):
            walk = torch.stack([p.theta for p in tw.random_walk(size, steps=29, seed=seed)])
            widths = torch.linspace(0.1, 3.0, size, dtype=torch.float64)
            found = tw.path_reading(bowl(size), run_of(4 + walk * widths))
            called += found.descends
            assert found.walk_error == pytest.approx(1 / np.sqrt(29))
        assert called <= 5

    def test_its_order_carries_information_and_its_length_is_rough(self):
        walk = tw.random_walk(500, steps=116, seed=2)
        tilted = tw.FunctionObjective(lambda t: t.sum(), 500)
        found = tw.path_reading(tilted, walk)
        assert found.order_p == 0.002
        assert found.roughness == pytest.approx(0.5, abs=0.05)
        assert abs(found.mean_alignment) < 3 * found.alignment_error
        assert not found.descends

    def test_noisy_descent_is_told_from_it(self):
        points = descent(bowl(), 20 + normal(6, seed=1), 0.02, 290, noise=10.0)
        found = tw.path_reading(bowl(), run_of(points))
        assert found.descends
        assert found.order_p == 0.002
        assert 0.2 < found.mean_alignment < 1.0

    def test_shuffled_snapshots_are_no_run(self):
        points = descent(bowl(), 20 + normal(6, seed=1), 0.05, 29, noise=2.0)
        rng = np.random.default_rng(0)
        found = [tw.path_reading(bowl(), run_of(rng.permutation(points))) for _ in range(40)]
        small = sum(each.order_p <= 0.05 for each in found)
        assert small <= 7  # of 40 two are to be expected, more than seven in 1 of 1,000


class TestInvariance:
    def test_units_of_the_cost_and_of_the_parameters(self):
        points = descent(bowl(), 5 + normal(6, seed=1), 0.3, 40, noise=1.0)
        plain = tw.path_reading(bowl(), run_of(points))
        scaled = tw.path_reading(bowl(scale=1e4, shift=-70.0), run_of(points))
        stretched = tw.path_reading(bowl(stretch=1e3), run_of(1e3 * points))
        for other in (scaled, stretched):
            for name in ("heading", "alignment"):
                np.testing.assert_allclose(getattr(other, name), getattr(plain, name), rtol=1e-9)
            for name in (
                *("ratio", "aside", "relative_climb", "mean_alignment", "alignment_error"),
                *("order_p", "alignment_p", "roughness"),
            ):
                assert getattr(other, name) == pytest.approx(getattr(plain, name), rel=1e-9)
        assert stretched.length == pytest.approx(1e3 * plain.length)

    @pytest.mark.parametrize("held", [1, 2, 5, 12])
    def test_points_that_do_not_fit_into_memory(self, held, monkeypatch):
        points = descent(bowl(), 5 + normal(6, seed=1), 0.3, 11, noise=1.0)
        whole = tw.path_reading(bowl(), run_of(points))
        monkeypatch.setattr(module, "_MOST_BYTES", held * 6 * 8)
        found = tw.path_reading(bowl(), run_of(points))
        np.testing.assert_array_equal(found.distance, whole.distance)
        np.testing.assert_array_equal(found.alignment, whole.alignment)
        np.testing.assert_allclose(
            whole.distance, np.linalg.norm(points[:, None] - points, axis=-1), rtol=1e-12
        )


class TestFewAndBad:
    def test_one_point(self):
        found = tw.path_reading(bowl(), run_of(5 + normal(1, 6)))
        assert found.length == 0.0
        assert math.isnan(found.ratio)
        assert found.line is None
        assert (found.order_p, found.alignment_p) == (1.0, 1.0)
        assert not found.descends
        assert math.isnan(found.mean_alignment)
        assert math.isnan(found.walk_error)
        assert found.lengths == {}

    def test_two_points(self):
        points = descent(bowl(), 5 + normal(6, seed=1), 0.5, 1)
        found = tw.path_reading(bowl(), run_of(points))
        assert found.ratio == pytest.approx(1.0)
        assert found.order_p == 1.0
        assert found.alignment_p == 0.5
        assert not found.descends  # one step along −g is no evidence
        assert math.isnan(found.alignment_error)

    def test_three_points(self):
        points = descent(bowl(), 5 + normal(6, seed=1), 0.5, 2)
        found = tw.path_reading(bowl(), run_of(points))
        assert found.order_p == pytest.approx(2 / 3)
        assert found.alignment_p == 0.25

    def test_the_same_point_again_and_again(self):
        found = tw.path_reading(bowl(), run_of((5 + normal(1, 6)).expand(8, 6)))
        assert found.order_p == 1.0
        assert found.line is None
        assert math.isnan(found.aside)

    def test_after_divergence(self):
        points = descent(bowl(), 5 + normal(6, seed=1), 0.5, 9)
        points[7, 2] = math.nan
        points[9] = math.inf
        found = tw.path_reading(bowl(), run_of(points))
        assert found.step.tolist() == list(range(7))
        assert found.lost == 3
        expected = tw.path_reading(bowl(), run_of(points[:7]))
        np.testing.assert_array_equal(found.heading, expected.heading)

    def test_nothing_is_finite(self):
        with pytest.raises(ValueError, match="begins at a finite point; the first snapshot holds"):
            tw.path_reading(bowl(), run_of(torch.full((3, 6), math.nan)))

    def test_a_cost_that_overflows_on_the_way(self):
        steep = tw.FunctionObjective(lambda t: torch.exp(400 * t[0].square()) + t[1], 2)
        points = [[0.1, 5.0], [2.0, 4.0], [0.1, 3.0]]
        found = tw.path_reading(steep, run_of(points))
        assert np.isinf(found.loss[1])
        assert math.isnan(found.alignment[1])
        assert found.climb == 0.0

    @pytest.mark.parametrize("snapshots", [[], [3, 1], [0, 12], [-1, 2], [1, 1]])
    def test_numbers_that_are_none(self, snapshots):
        points = descent(bowl(), 5 + normal(6, seed=1), 0.5, 11)
        with pytest.raises(ValueError, match="ascending numbers of points, from 0 to 11"):
            tw.path_reading(bowl(), run_of(points), snapshots)

    def test_given_numbers(self):
        points = descent(bowl(), 5 + normal(6, seed=1), 0.5, 11)
        assert tw.path_reading(bowl(), run_of(points), [0, 3, 11]).step.tolist() == [0, 3, 11]

    def test_another_space(self):
        with pytest.raises(tw.ParameterMismatchError, match=r"must have shape \(6,\)"):
            tw.path_reading(bowl(), run_of(normal(5, 4)))

    def test_no_trajectory(self):
        with pytest.raises(TypeError, match="second argument is a trajectory"):
            tw.path_reading(bowl(), normal(5, 6))

    def test_a_result_needs_a_point(self):
        with pytest.raises(ValueError, match="one point at least; `step` is empty"):
            tw.PathReading(step=[], loss=[])


class TestNetwork:
    def test_training_is_descent_and_a_record_keeps_it(self, tmp_path):
        model = seeded(lambda: nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)), 0)
        x, y = normal(60, 6, seed=1), classes(60, count=3, seed=2)
        objective = tw.ModelObjective(model, nn.CrossEntropyLoss(), (x, y))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
        draw = torch.Generator().manual_seed(0)
        points = [objective.space.flatten(model)]
        for _ in range(60):
            batch = torch.randint(60, (8,), generator=draw)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
            points.append(objective.space.flatten(model))
        found = tw.path_reading(objective, tw.Trajectory.from_points(points))
        assert found.descends
        assert found.order_p == 0.002
        assert 0 <= found.relative_climb < 0.05
        tw.save_record(tw.Record(study="path", results={"path": found}), tmp_path)
        again = tw.open_record(tmp_path).results["path"]
        np.testing.assert_array_equal(again.distance, found.distance)
        np.testing.assert_array_equal(again.line.loss["train"], found.line.loss["train"])
        assert again.descends
        assert copy.deepcopy(found).ratio == found.ratio
