"""Adaptive sections, against dense truth on problems that were not used to design them."""

import dataclasses
import sys

import numpy as np
import pytest
import torch
from torch import nn

import thalweg as tw
from cases import MODELS, normal, seeded
from thalweg.evaluate.adaptive import refined_line

DENSE = 401


class Counted:
    """A function of one variable as an objective, which counts its evaluations."""

    def __init__(self, function):
        self.calls = 0

        def called(theta):
            self.calls += 1
            return function(theta[0])

        self.objective = tw.FunctionObjective(called, size=1)
        self.line = tw.Line(torch.tensor([0.0]), torch.tensor([1.0]))

    def profile(self, grid, **options):
        return tw.profile(self.objective, self.line, grid, progress=False, **options)


CURVES = {
    "descent": lambda a: torch.exp(-4 * a) + 0.1 * (a - 1) ** 2,
    "barrier": lambda a: 0.02 + torch.exp(-((a - 0.43) ** 2) / 0.02),
    "wave": lambda a: torch.sin(9 * a) - 2.0,
    "kink": lambda a: (a - 0.37).abs() + 0.5,
    "cliff": lambda a: torch.sigmoid(40 * (a - 0.62)) + 0.3,
}


@pytest.mark.parametrize("tolerance", [1e-2, 1e-3])
@pytest.mark.parametrize("name", sorted(CURVES))
def test_closed_forms_are_met_within_the_bound(name, tolerance):
    counted = Counted(CURVES[name])
    profile = counted.profile(tw.Adaptive(tolerance))
    where = np.linspace(0, 1, 2001)
    truth = np.array([float(CURVES[name](torch.tensor(a, dtype=torch.float64))) for a in where])
    error = np.abs(profile.interpolate(where) - truth).max()
    told = profile.interpolation
    assert told.converged
    assert error <= told.bound.max()
    if name != "kink":  # no spline comes close to one between two points
        assert error <= tolerance * np.ptp(truth)
    assert told.expected <= tolerance * np.ptp(profile.loss["train"])
    assert counted.calls <= len(profile.alpha)
    assert len(profile.alpha) < 60


def networks():
    """Yield lines of small networks that were seen nowhere else, with their dense profiles."""
    for seed, activation in ((31, nn.ReLU), (32, nn.Tanh), (33, nn.Sigmoid)):

        def build(activation=activation):
            return nn.Sequential(nn.Linear(5, 12), activation(), nn.Linear(12, 3))

        x = normal(120, 5, seed=seed)
        y = (x[:, 0] * x[:, 1] > 0).long() + (x[:, 2] > 0.5).long()
        objective = tw.ModelObjective(seeded(build, seed), nn.CrossEntropyLoss(), (x, y))
        ends = []
        for number in (0, 1):
            model = seeded(build, 10 * seed + number)
            ends.append(objective.space.flatten(model))
            optimizer = torch.optim.Adam(model.parameters(), 0.02)
            for _ in range(150):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x), y).backward()
                optimizer.step()
            ends.append(objective.space.flatten(model))
        for a, b in ((0, 1), (1, 3), (0, 3)):
            yield objective, tw.Line(ends[a], ends[b])


def test_networks_are_met_within_the_bound():
    """Of nine lines at two tolerances, all bounds hold, and all but one tolerance."""
    dense = tw.Uniform(-0.25, 1.25, DENSE)
    met = []
    for objective, line in networks():
        truth = tw.profile(objective, line, dense, progress=False)
        size = np.ptp(truth.loss["train"])
        for tolerance in (1e-2, 1e-3):
            grid = tw.Adaptive(tolerance, -0.25, 1.25)
            profile = tw.profile(objective, line, grid, progress=False)
            error = np.abs(profile.interpolate(truth.alpha) - truth.loss["train"]).max()
            assert error <= profile.interpolation.bound.max()
            met.append(error <= tolerance * size)
            assert len(profile.alpha) < 60
    assert len(met) == 18
    assert sum(met) >= 17


def test_a_plane_is_met_within_the_bound():
    objective, line = next(networks())
    plane = tw.Plane.random(objective.space, line.end, seed=3)
    dense = tw.Uniform(-1, 1, 41).coordinates()
    truth = tw.surface(objective, plane, dense, dense, progress=False).loss["train"]
    grid = tw.Adaptive(1e-2, -1, 1)
    surface = tw.surface(objective, plane, grid, grid, progress=False)
    error = np.abs(surface.interpolate(dense, dense) - truth).max()
    assert error <= 1e-2 * np.ptp(truth)
    assert error <= surface.interpolation.bound.max()
    assert surface.interpolation.converged
    assert surface.loss["train"].size < truth.size / 3
    exact = tw.surface(objective, plane, surface.x, surface.y, progress=False)
    np.testing.assert_array_equal(exact.loss["train"], surface.loss["train"])


class TestResolution:
    WIDTH = 0.02

    def bump(self, place):
        return lambda a: 1 + a + 3 * torch.exp(-(((a - place) / self.WIDTH) ** 2))

    def test_what_is_wider_than_the_resolution_is_found(self):
        rng = np.random.default_rng(7)
        for place in rng.uniform(0.05, 0.95, 20):
            profile = Counted(self.bump(place)).profile(
                tw.Adaptive(1e-2, resolution=self.WIDTH, limit=500)
            )
            assert np.diff(profile.alpha).max() <= self.WIDTH
            assert tw.greatest_climb(profile).height > 2.9

    def test_what_may_have_been_missed_is_told(self):
        profile = Counted(self.bump(0.58)).profile(tw.Adaptive(1e-2))
        assert tw.greatest_climb(profile).height < 1.1  # it lies between two points
        assert profile.interpolation.resolution > 2 * self.WIDTH
        assert profile.interpolation.resolution == np.diff(profile.alpha).max()


class TestLimits:
    def test_too_few_points_are_told(self):
        profile = Counted(CURVES["kink"]).profile(tw.Adaptive(1e-6, limit=15))
        assert len(profile.alpha) == 15
        assert not profile.interpolation.converged

    def test_a_constant_needs_the_first_grid_alone(self):
        profile = Counted(lambda a: 0 * a + 1 / 3).profile(tw.Adaptive(1e-3))
        assert len(profile.alpha) == 9
        assert profile.interpolation.converged

    def test_rounding_is_not_looked_into(self):
        """A cost in float32 that varies by rounding alone."""
        rng = np.random.default_rng(3)

        class Row:
            def __init__(self, value):
                self.loss = {"train": value}
                self.slopes = {}

        def noise(alpha):
            return [Row(2.0 + 1e-7 * rng.normal()) for _ in alpha]

        alpha, told = refined_line(tw.Adaptive(1e-3), noise, rounding=4e-7)
        assert len(alpha) == 9
        assert told.converged
        alpha, _ = refined_line(tw.Adaptive(1e-3, limit=40), noise)
        assert len(alpha) == 40

    @pytest.mark.parametrize("where", [0.0, 0.52, 1.1])
    def test_values_that_are_not_finite_end(self, where):
        counted = Counted(lambda a: torch.where(a > where, torch.nan, a.square() + 1))
        with pytest.warns(RuntimeWarning, match="not finite"):
            profile = counted.profile(tw.Adaptive(1e-3, -0.2, 1.2))
        assert len(profile.alpha) < 40
        finite = profile.alpha[np.isfinite(profile.loss["train"])]
        assert where - finite.max() < 0.1

    def test_a_plane_with_a_hole_ends(self):
        hole = tw.FunctionObjective(
            lambda t: torch.where((t - 0.3).norm() < 0.2, torch.nan, t.square().sum()), size=2
        )
        o, u, v = torch.zeros(2), torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
        grid = tw.Adaptive(1e-2, -1, 1)
        with pytest.warns(RuntimeWarning, match="not finite"):
            surface = tw.surface(hole, tw.Plane.through(o, u, v), grid, grid, progress=False)
        assert surface.loss["train"].size < 60**2


class TestRefinement:
    def test_takes_over_the_points_of_an_earlier_profile(self):
        counted = Counted(CURVES["barrier"])
        first = counted.profile(tw.Adaptive(1e-2))
        spent = counted.calls
        second = counted.profile(tw.Adaptive(1e-4), known=first)
        assert counted.calls - spent == len(second.alpha) - len(first.alpha)
        assert set(first.alpha) <= set(second.alpha)
        again = counted.profile(second.alpha)
        np.testing.assert_array_equal(again.loss["train"], second.loss["train"])

    def test_of_every_split_and_metric(self):
        case = MODELS["perceptron"]
        x, y = case.data()
        objective = tw.ModelObjective(
            case.model(),
            nn.CrossEntropyLoss(),
            {"train": (x, y), "valid": (x[:4], y[:4])},
            metrics={"error": tw.error_rate},
        )
        line = tw.Line(case.point(2), case.point(3))
        first = tw.profile(objective, line, tw.Uniform(0, 1, 6), progress=False)
        second = tw.profile(objective, line, tw.Uniform(0, 1, 11), known=first, progress=False)
        right = tw.profile(objective, line, tw.Uniform(0, 1, 11), progress=False)
        for split in ("train", "valid"):
            np.testing.assert_array_equal(second.loss[split], right.loss[split])
            np.testing.assert_array_equal(
                second.metrics["error"][split], right.metrics["error"][split]
            )

    def test_of_a_surface(self):
        calls = []

        def valley(t):
            calls.append(t)
            return (t[0] - 0.3) ** 2 + torch.exp(t[1] - 2 * t[0])

        objective = tw.FunctionObjective(valley, size=2)
        o, u, v = torch.tensor([0.2, 0.1]), torch.tensor([1.0, 0.3]), torch.tensor([0.1, 1.0])
        plane = tw.Plane.through(o, u, v)
        first = tw.surface(objective, plane, [0.0, 0.5, 1.0], [-1.0, 0.25], progress=False)
        calls.clear()
        finer = tw.surface(objective, plane, [0.0, 0.75], [0.25, 2.0], known=first, progress=False)
        np.testing.assert_array_equal(finer.x, [0.0, 0.5, 0.75, 1.0])
        np.testing.assert_array_equal(finer.y, [-1.0, 0.25, 2.0])
        right = tw.surface(objective, plane, finer.x, finer.y, progress=False)
        np.testing.assert_array_equal(finer.loss["train"], right.loss["train"])
        calls.clear()
        grid = tw.Adaptive(1e-2)
        adaptive = tw.surface(objective, plane, grid, grid, known=first, progress=False)
        assert {0.5, 1.0} <= set(adaptive.x)
        assert {-1.0, 0.25} <= set(adaptive.y)
        assert adaptive.interpolation.converged
        evaluated = {tuple(t.tolist()) for t in calls}
        assert len(evaluated) <= adaptive.loss["train"].size - first.loss["train"].size + 1

    def test_of_an_estimate_is_refused(self):
        case = MODELS["perceptron"]
        objective = case.objective()
        line = tw.Line(case.point(2), case.point(3))
        first = tw.profile(objective, line, [0.0, 0.5], progress=False)
        guessed = dataclasses.replace(first, estimate=tw.Estimate([[0.1, 0.1], [0.2, -0.1]], 2.0))
        with pytest.raises(ValueError, match="it differs in being an estimate"):
            tw.profile(objective, line, [0.1], known=guessed, progress=False)

    def test_of_another_cost_or_section_is_refused(self):
        case = MODELS["perceptron"]
        x, y = case.data()
        line = tw.Line(case.point(2), case.point(3))
        first = tw.profile(case.objective(), line, [0.0, 0.5], progress=False)
        other = tw.ModelObjective(case.model(), nn.CrossEntropyLoss(), (x + 1, y))
        with pytest.raises(ValueError, match="it differs in data"):
            tw.profile(other, line, [0.1], known=first, progress=False)
        longer = tw.Line(case.point(2), case.point(4))
        with pytest.raises(ValueError, match="it differs in section"):
            tw.profile(case.objective(), longer, [0.1], known=first, progress=False)


def test_adaptive_results_survive_a_record(tmp_path):
    profile = Counted(CURVES["wave"]).profile(tw.Adaptive(1e-2))
    o, u, v = torch.zeros(2), torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    bowl = tw.FunctionObjective(lambda t: (t**2).sum().cosh(), size=2)
    grid = tw.Adaptive(1e-2, -1, 1)
    surface = tw.surface(bowl, tw.Plane.through(o, u, v), grid, grid, progress=False)
    record = tw.Record(study="adaptive", results={"line": profile, "plane": surface})
    opened = tw.open_record(tw.save_record(record, tmp_path / "record"))
    for name, result in (("line", profile), ("plane", surface)):
        told = opened.results[name].interpolation
        assert told.method == result.interpolation.method
        np.testing.assert_array_equal(told.bound, result.interpolation.bound)
    where = np.linspace(0, 1, 7)
    np.testing.assert_array_equal(
        opened.results["line"].interpolate(where), profile.interpolate(where)
    )


def test_one_adaptive_coordinate_is_none():
    bowl = tw.FunctionObjective(lambda t: (t**2).sum(), size=2)
    plane = tw.Plane.through(torch.zeros(2), torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
    with pytest.raises(ValueError, match="adaptive along both coordinates"):
        tw.surface(bowl, plane, tw.Adaptive(1e-2), [0.0, 1.0], progress=False)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tolerance": 0.0}, "between 0 and 1"),
        ({"tolerance": 1.5}, "between 0 and 1"),
        ({"points": 4}, "5 points at least"),
        ({"limit": 8}, "5 points at least"),
        ({"start": 1.0, "stop": 0.0}, "from a smaller to a larger"),
        ({"resolution": 0.0}, "positive width"),
    ],
)
def test_bad_grids_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        tw.Adaptive(**options)


@pytest.mark.parametrize("slope", [False, True])
def test_how_to_evaluate_is_settled_once_for_all_refinements(slope, monkeypatch):
    import thalweg.evaluate.sweep  # noqa: F401 (the package has a function of that name)

    module = sys.modules["thalweg.evaluate.sweep"]
    calls = []
    for name in ("choose", "choose_along_tangent", "checked_anchors"):
        original = getattr(module, name)
        monkeypatch.setattr(
            module,
            name,
            lambda *given, name=name, original=original: calls.append(name) or original(*given),
        )
    problem = Counted(CURVES["barrier"])
    result = problem.profile(tw.Adaptive(1e-3), slope=slope)
    assert len(result.alpha) > 9  # it has been refined
    assert calls == ["checked_anchors", "choose_along_tangent" if slope else "choose"]
    if slope:
        assert result.provenance.objective["slope"] == "forward mode"
