"""Interpolants, and what they say of their own error."""

import numpy as np
import pytest

from thalweg.interpolation import fit_curve, fit_sheet

X = np.array([-0.7, -0.4, 0.1, 0.3, 0.9, 1.2, 1.9])
BETWEEN = np.linspace(-0.7, 1.9, 53)


def cubic(x):
    return 2 - x + 3 * x**2 - 0.5 * x**3


class TestCurves:
    def test_reproduce_cubics(self):
        curve = fit_curve(X, cubic(X) - 20)  # negative: no logarithm
        assert curve.method == "cubic spline of J"
        np.testing.assert_allclose(curve(BETWEEN), cubic(BETWEEN) - 20, rtol=1e-13)
        assert curve.bound.max() < 1e-12

    def test_reproduce_exponentials_of_cubics(self):
        values = np.exp(cubic(X) - 2)
        curve = fit_curve(X, values)
        assert curve.method == "cubic spline of log J"
        np.testing.assert_allclose(curve(BETWEEN), np.exp(cubic(BETWEEN) - 2), rtol=1e-12)

    def test_pass_through_every_point_to_the_bit(self):
        values = np.exp(np.sin(5 * X)) / 3
        assert fit_curve(X, values)(X).tolist() == values.tolist()

    def test_do_not_overshoot_a_step(self):
        x = np.linspace(0.5, 1.5, 11)
        values = np.where(x < 1, 3.0, 1.0)
        curve = fit_curve(x, values)
        assert curve.method.startswith("monotone")
        between = curve(np.linspace(0.5, 1.5, 201))
        assert between.min() >= 1.0 - 1e-12
        assert between.max() <= 3.0 + 1e-12

    def test_the_error_is_what_leaving_a_point_out_costs(self):
        """A second computation: fit without a point, and look how far it is off there."""
        values = 1 / (1 + 4 * X**2) - 3
        curve = fit_curve(X, values)
        missed = []
        for i in range(1, len(X) - 1):
            others = np.delete(np.arange(len(X)), i)
            from scipy.interpolate import CubicSpline, PchipInterpolator

            kind = CubicSpline if "spline" in curve.method else PchipInterpolator
            missed.append(abs(kind(X[others], values[others])(X[i]) - values[i]))
        missed = [missed[0], *missed, missed[-1]]
        np.testing.assert_allclose(curve.bound, 2 * np.maximum(missed[:-1], missed[1:]), rtol=1e-10)
        np.testing.assert_allclose(curve.expected, 0.2 * curve.bound, rtol=1e-14)

    def test_outside_there_is_nothing(self):
        assert np.isnan(fit_curve(X, cubic(X))([-0.8, 2.0])).all()

    def test_gaps_stay_gaps(self):
        values = cubic(X)
        values[3] = np.nan
        curve = fit_curve(X, values)
        assert np.isnan(curve([0.2, 0.3, 0.5])).all()
        assert np.isfinite(curve([-0.5, 0.1, 0.9, 1.5])).all()
        assert np.isinf(curve.bound[2:4]).all()
        values[:] = np.inf
        assert np.isnan(fit_curve(X, values)(X)).all()

    @pytest.mark.parametrize("count", [1, 2, 3])
    def test_of_few_points(self, count):
        curve = fit_curve(X[:count], cubic(X[:count]))
        np.testing.assert_allclose(curve(X[:count]), cubic(X[:count]), rtol=1e-14)
        assert len(curve.bound) == count - 1

    def test_scaling_and_shifting_the_coordinate_changes_nothing(self):
        values = np.exp(np.cos(3 * X))
        first, second = fit_curve(X, values), fit_curve(100 * X + 7, values)
        np.testing.assert_allclose(second(100 * BETWEEN[1:-1] + 7), first(BETWEEN[1:-1]), rtol=1e-9)
        np.testing.assert_allclose(second.bound, first.bound, rtol=1e-9)


class TestSheets:
    def test_reproduce_products_of_cubics(self):
        y = X[:5] + 2
        table = cubic(X) * cubic(y)[:, None] - 50
        sheet = fit_sheet(X, y, table)
        up = np.linspace(y[0], y[-1], 17)
        np.testing.assert_allclose(
            sheet(BETWEEN, up), cubic(BETWEEN) * cubic(up)[:, None] - 50, rtol=1e-11
        )
        assert sheet.bound.shape == (4, 6)
        assert sheet.bound.max() < 1e-11

    def test_rows_are_the_second_coordinate(self):
        sheet = fit_sheet(X, [0.0, 1.0], np.stack([X, X + 10]))
        np.testing.assert_allclose(sheet([0.5], [0.25]), [[3.0]], rtol=1e-12)

    def test_gaps_stay_gaps_and_spread_no_further_than_their_cells(self):
        y = X + 1
        table = np.exp(X * 0.1 + y[:, None])
        table[2, 3] = np.nan
        sheet = fit_sheet(X, y, table)
        values = sheet([0.2, 1.0], [1.2, 2.5])
        assert np.isnan(values[0, 0])
        assert np.isfinite(values[1, 1])
        assert np.isinf(sheet.bound[2, 3])
        assert sheet(X, y)[2, 2] == pytest.approx(table[2, 2])

    def test_outside_there_is_nothing(self):
        table = np.ones((len(X), len(X)))
        assert np.isnan(fit_sheet(X, X, table)([-1.0, 0.0], [2.5, 0.0])).tolist() == [
            [True, True],
            [True, False],
        ]
