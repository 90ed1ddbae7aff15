"""Interpolants, and what they say of their own error."""

import numpy as np
import pytest

from thalweg.interpolation import fit_curve, fit_sheet

X = np.array([-0.7, -0.4, 0.1, 0.3, 0.9, 1.2, 1.9])
BETWEEN = np.linspace(-0.7, 1.9, 53)


def cubic(x):
    return 2 - x + 3 * x**2 - 0.5 * x**3


def with_neighbours(gaps):
    """Return the largest of each gap and those beside it, one after the other."""
    return np.array([max(gaps[max(0, i - 1) : i + 2]) for i in range(len(gaps))])


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
        gaps = np.maximum(missed[:-1], missed[1:])
        np.testing.assert_allclose(curve.expected, 0.4 * gaps, rtol=1e-10)
        np.testing.assert_allclose(curve.bound, 2 * with_neighbours(gaps), rtol=1e-10)

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


class TestSlopes:
    """Cubic Hermite interpolants, where slopes are known."""

    @staticmethod
    def slope(x):
        return -1 + 6 * x - 1.5 * x**2

    @pytest.mark.parametrize("count", [2, 3, 7])
    def test_reproduce_cubics_from_any_number_of_points(self, count):
        x = X[:count]
        curve = fit_curve(x, cubic(x) - 20, self.slope(x))
        assert curve.method == "cubic Hermite of J"
        at = np.linspace(x[0], x[-1], 31)
        np.testing.assert_allclose(curve(at), cubic(at) - 20, rtol=1e-13)
        assert curve.bound.max() < 1e-11

    def test_reproduce_exponentials_of_cubics(self):
        values = np.exp(cubic(X) - 2)
        curve = fit_curve(X, values, values * self.slope(X))
        assert curve.method.endswith("of log J")  # the spline is exact here, too
        np.testing.assert_allclose(curve(BETWEEN), np.exp(cubic(BETWEEN) - 2), rtol=1e-12)

    def test_pass_through_every_point_to_the_bit(self):
        values = np.exp(np.sin(5 * X)) / 3
        curve = fit_curve(X, values, 5 * np.cos(5 * X) * values)
        assert curve(X).tolist() == values.tolist()

    def test_the_error_is_what_leaving_a_point_out_costs(self):
        """A second computation: Hermite's basis on the gap, value and slope in it."""
        values, slopes = np.sin(4 * X) - 3, 4 * np.cos(4 * X)
        curve = fit_curve(X, values, slopes)
        assert curve.method == "cubic Hermite of J"
        missed = []
        for i in range(1, len(X) - 1):
            a, b, width = X[i - 1], X[i + 1], X[i + 1] - X[i - 1]
            t = (X[i] - a) / width

            def mixed(p, q, r, s, i=i, width=width):
                return (
                    p * values[i - 1]
                    + q * values[i + 1]
                    + width * (r * slopes[i - 1] + s * slopes[i + 1])
                )

            h = mixed(
                (1 + 2 * t) * (1 - t) ** 2, t**2 * (3 - 2 * t), t * (1 - t) ** 2, t**2 * (t - 1)
            )
            d = mixed(6 * t * (t - 1), 6 * t * (1 - t), (1 - t) * (1 - 3 * t), t * (3 * t - 2))
            by_value = abs(h - values[i]) / (16 * t**2 * (1 - t) ** 2)
            by_slope = abs(d / width - slopes[i]) * min(X[i] - a, b - X[i]) / 2
            missed.append(max(by_value, by_slope))
        missed = [missed[0], *missed, missed[-1]]
        gaps = np.maximum(missed[:-1], missed[1:])
        np.testing.assert_allclose(curve.expected, 0.4 * gaps, rtol=1e-9)
        np.testing.assert_allclose(curve.bound, 2 * with_neighbours(gaps), rtol=1e-9)

    def test_slopes_that_are_wrong_are_not_taken(self):
        """A negative control."""
        values = cubic(X) - 20
        curve = fit_curve(X, values, -self.slope(X))
        assert "Hermite" not in curve.method
        assert curve.bound.max() > 0.1

    def test_a_slope_that_is_not_finite_leaves_the_values(self):
        slopes = self.slope(X)
        slopes[2] = np.inf
        curve, plain = fit_curve(X, cubic(X), slopes), fit_curve(X, cubic(X))
        assert curve.method == plain.method
        assert curve(BETWEEN).tolist() == plain(BETWEEN).tolist()

    def test_gaps_stay_gaps(self):
        values, slopes = cubic(X) - 20, self.slope(X)
        values[3] = slopes[3] = np.nan
        curve = fit_curve(X, values, slopes)
        assert curve.method == "cubic Hermite of J"
        assert np.isnan(curve([0.2, 0.3, 0.5])).all()
        at = np.array([-0.5, 0.0, 1.0, 1.5])
        np.testing.assert_allclose(curve(at), cubic(at) - 20, rtol=1e-12)

    def test_the_bound_holds_wherever_a_kink_lies(self):
        x = np.linspace(-0.3, 1.7, 11)
        at = np.linspace(-0.3, 1.7, 2001)
        for place in np.random.default_rng(11).uniform(0.0, 1.4, 40):
            curve = fit_curve(x, abs(x - place) - 1, np.sign(x - place))
            error = abs(curve(at) - abs(at - place) + 1)
            assert error.max() <= curve.bound.max() * (1 + 1e-9)

    def test_the_bound_holds_on_random_bumps(self):
        """Of 50 functions on even points all, on random points (gaps of 1 : 100) 45 or more."""
        rng = np.random.default_rng(21)
        at, even = np.linspace(0, 1, 1001), np.linspace(0, 1, 9)
        held = {"even": 0, "random": 0}
        for _ in range(50):
            places, widths = rng.uniform(0, 1, 4), rng.uniform(0.1, 0.4, 4)
            sizes = rng.normal(size=4)
            scattered = np.union1d(rng.uniform(0.02, 0.98, 9), [0.0, 1.0])

            def bumps(x, places=places, widths=widths, sizes=sizes):
                u = (x[:, None] - places) / widths
                heights = sizes * np.exp(-(u**2))
                return heights.sum(1), (-2 * u / widths * heights).sum(1)

            for name, x in (("even", even), ("random", scattered)):
                curve = fit_curve(x, *bumps(x))
                held[name] += abs(curve(at) - bumps(at)[0]).max() <= curve.bound.max()
        assert held["even"] == 50
        assert held["random"] >= 45


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
