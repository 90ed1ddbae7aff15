"""Closed forms: lines of factored networks, flows on quadratics, intervals of shares."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.stats import binom

import thalweg as tw
from thalweg.functions import chain
from thalweg.measures.chain_lines import chain_on_line
from thalweg.measures.proportions import proportion_interval
from thalweg.measures.quadratic_flow import flow_factor, quadratic_flow

_EDGE = 1e-3  # what is nearer to an end is left out


def on_a_grid(start, end, points=20_001):
    """Return how many minima and crossings of P = 1 a fine grid finds."""
    alpha = np.linspace(_EDGE, 1 - _EDGE, points)
    product = np.prod((1 - alpha[:, None]) * start + alpha[:, None] * end, axis=1)
    loss = (1 - product) ** 2
    low = (loss[1:-1] < loss[:-2]) & (loss[1:-1] < loss[2:])
    crossing = (product[:-2] - 1) * (product[1:-1] - 1) < 0
    spurious = [i + 1 for i in np.flatnonzero(low) if not crossing[max(0, i - 1) : i + 2].any()]
    return len(spurious), int(crossing.sum())


class TestChains:
    @pytest.mark.parametrize(("ratio", "height"), [(4, 0.31640625), (2, 0.015625), (-1, 1.0)])
    def test_golden_barriers(self, ratio, height):
        root = math.sqrt(abs(ratio))
        start = [root, math.copysign(1 / root, ratio)] if ratio > 0 else [1.0, 1.0]
        end = [start[0] / ratio, start[1] * ratio] if ratio > 0 else [-1.0, -1.0]
        line = chain_on_line(start, end)
        assert float(line.loss(0.5)) == pytest.approx(height, rel=1e-12)
        np.testing.assert_allclose(line.maxima, [0.5], atol=1e-12)
        np.testing.assert_allclose(line.solutions, [0.0, 1.0], atol=1e-12)

    @pytest.mark.parametrize("depth", [2, 3, 5])
    def test_as_a_fine_grid(self, depth):
        rng = np.random.default_rng(depth)
        for start in 3 * rng.normal(size=(60, depth)):
            line = chain_on_line(start, np.ones(depth))
            inside = [((x > _EDGE) & (x < 1 - _EDGE)).sum() for x in (line.minima, line.solutions)]
            assert tuple(inside) == on_a_grid(start, np.ones(depth))

    @pytest.mark.parametrize("depth", [2, 3, 5])
    def test_derivatives_are_those_along_the_line(self, depth):
        rng = np.random.default_rng(10 + depth)
        a, b = rng.normal(size=(2, depth))
        alpha = np.array([-0.3, 0.2, 0.9])
        line = chain_on_line(a, b)
        found = tw.curvature_along(
            chain(depth), tw.Line(*map(torch.from_numpy, (a, b))), alpha, progress=False
        )
        for mine, right in zip(
            (line.loss(alpha), *line.derivatives(alpha)),
            (found.loss, found.slope, found.curvature),
            strict=True,
        ):
            np.testing.assert_allclose(mine, right["train"], rtol=1e-10, atol=1e-12)

    def test_weights_that_do_not_move(self):
        line = chain_on_line([1.0, 3.0], [1.0, 1.0])
        np.testing.assert_allclose(line.solutions, [1.0])
        assert len(line.minima) == len(line.maxima) == 0

    def test_other_lengths_are_refused(self):
        with pytest.raises(ValueError, match="two points of two weights at least"):
            chain_on_line([1.0, 2.0], [1.0])


class TestFlow:
    def test_as_a_solver(self):
        rng = np.random.default_rng(3)
        root = rng.normal(size=(8, 8))
        matrix, start, gradient = root + root.T, rng.normal(size=8), rng.normal(size=8)
        time = np.linspace(0, 1, 7)
        solved = solve_ivp(
            lambda _, theta: -gradient - matrix @ (theta - start),
            (0, 1),
            start,
            method="DOP853",
            t_eval=time,
            rtol=1e-12,
            atol=1e-13,
        )
        found = quadratic_flow(matrix, gradient, start, time)
        assert np.abs(found - solved.y.T).max() <= 1e-8 * np.abs(found).max()
        assert np.linalg.eigvalsh(matrix)[0] < 0 < np.linalg.eigvalsh(matrix)[-1]

    def test_the_factor_is_smooth_at_zero(self):
        np.testing.assert_allclose(flow_factor([-1e-9, 0.0, 1e-9], 2.0), 2.0, rtol=1e-8)
        assert float(flow_factor(0.5, 1e9)) == pytest.approx(2.0)
        assert float(flow_factor(-1.0, 5.0)) == pytest.approx(math.expm1(5.0))

    def test_a_matrix_that_is_not_symmetric_is_refused(self):
        with pytest.raises(ValueError, match="A Hessian is symmetric"):
            quadratic_flow([[1.0, 2.0], [0.0, 1.0]], [1.0, 1.0], [0.0, 0.0], [1.0])


class TestIntervals:
    @pytest.mark.parametrize(("counted", "total"), [(0, 7), (3, 9), (50, 100), (9, 9)])
    def test_its_tails_are_those_of_the_binomial(self, counted, total):
        low, high = proportion_interval(counted, total, 0.9)
        if counted > 0:
            assert binom.sf(counted - 1, total, low) == pytest.approx(0.05)
        else:
            assert low == 0
        if counted < total:
            assert binom.cdf(counted, total, high) == pytest.approx(0.05)
        else:
            assert high == 1

    def test_counts_that_fit_nothing_are_refused(self):
        with pytest.raises(ValueError, match="0 ≤ counted ≤ total"):
            proportion_interval(3, 2)
