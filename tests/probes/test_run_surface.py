import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

import thalweg as tw
from cases import FUNCTIONS, MODELS, Overwriting, normal, perceptron, seeded
from thalweg.errors import ParameterMismatchError
from thalweg.evaluate.strategy import Plain
from thalweg.probes import run_costs
from thalweg.trajectory.points import PointSource

QUADRATIC = FUNCTIONS["quadratic-7"]


def descent(case, steps=30, rate=0.02, every=1):
    """Points of gradient descent from the start of a case."""
    objective = case.objective
    theta = torch.from_numpy(case.start)
    points = [theta]
    for _ in range(steps):
        theta = theta - rate * objective.gradient(theta)
        points.append(theta)
    return torch.stack(points[::every])


def wander(size=7, points=9, seed=3):
    """A run that bends in every direction, away from the origin."""
    return 1.5 + torch.cumsum(normal(points, size, seed=seed), dim=0)


def by_hand(points, line=None):
    """Return u, α, β, v with signs, in plain NumPy: the formulas of the definition."""
    points = points.numpy()
    start, end = (points[0], points[-1]) if line is None else line
    u = (end - start) / np.linalg.norm(end - start)
    alpha = (points - start) @ u
    rest = points - start - alpha[:, None] * u
    beta = np.linalg.norm(rest, axis=1)
    off = beta > 1e-9
    v = np.zeros_like(points)
    before = None
    for t in range(len(points)):
        if off[t]:
            v[t] = rest[t] / beta[t]
            if before is not None and v[t] @ before < 0:
                v[t] = -v[t]
            before = v[t]
        elif before is not None:
            v[t] = before
    for t in range(len(points) - 2, -1, -1):
        if not v[t].any():
            v[t] = v[t + 1]
    return start, u, alpha, np.einsum("ij,ij->i", rest, v), v


def streamed(points):
    return replace(tw.Trajectory.from_points(points), points=Overwriting(points))


# The ruled surface


@pytest.mark.parametrize("points", [wander(), descent(QUADRATIC)], ids=["wander", "descent"])
def test_the_ruled_surface_is_the_closed_form(points):
    start, u, alpha, across, v = by_hand(points)
    picture = tw.ruled_surface(QUADRATIC.objective, tw.Trajectory.from_points(points), across=9)
    np.testing.assert_allclose(picture.along, alpha, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(picture.run.across, across, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(
        picture.across, np.linspace(-1.2, 1.2, 9) * np.abs(across).max(), rtol=1e-12, atol=1e-14
    )
    expected = [
        [QUADRATIC.value(start + a * u + b * v[t]) for b in picture.across]
        for t, a in enumerate(alpha)
    ]
    np.testing.assert_allclose(picture.loss["train"], expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(picture.run.off, 0)
    assert picture.length == pytest.approx(np.linalg.norm(points[-1] - points[0]), rel=1e-14)


@pytest.mark.parametrize("name", ["quadratic-2", "quadratic-7", "chain-2", "chain-3", "chain-5"])
def test_the_run_lies_on_the_ruled_surface(name):
    case = FUNCTIONS[name]
    points = wander(len(case.start), 12)
    objective = case.objective
    picture = tw.ruled_surface(objective, tw.Trajectory.from_points(points))
    start, u, _, _, v = by_hand(points)
    for t, theta in enumerate(points):
        true = objective.value(theta)
        assert picture.run.loss["train"][t] == true
        place = start + picture.along[t] * u + picture.run.across[t] * v[t]
        assert objective.value(place) == pytest.approx(true, rel=1e-9)


def test_the_line_is_in_the_middle_of_the_ruled_surface():
    points = wander()
    picture = tw.ruled_surface(QUADRATIC.objective, tw.Trajectory.from_points(points))
    line = tw.Line(points[0], points[-1])
    for t, alpha in enumerate(picture.along):
        value = QUADRATIC.objective.value(line.point(alpha / line.length))
        assert picture.line_loss["train"][t] == pytest.approx(value, rel=1e-9, abs=1e-9)
    assert picture.line_loss["train"][0] == QUADRATIC.objective.value(points[0])
    assert picture.line_loss["train"][-1] == QUADRATIC.objective.value(points[-1])


def test_directions_turn_by_no_more_than_a_right_angle():
    # The run crosses the line at every point: without signs, each direction would flip.
    points = torch.tensor(
        [[0.0, 0, 1], [1, 1, 1], [2, -1, 1.1], [3, 2, 1], [4, -1, 1.2], [5, 0, 1]],
        dtype=torch.float64,
    )
    bowl = tw.FunctionObjective(lambda t: t[0] + 3 * t[1] + t[2] ** 2, size=3)
    run = tw.ruled_surface(bowl, tw.Trajectory.from_points(points)).run
    np.testing.assert_array_equal(np.sign(run.across), [0, 1, -1, 1, -1, 0])
    _, _, _, across, v = by_hand(points)
    assert np.all(np.einsum("ij,ij->i", v[1:], v[:-1]) >= 0)
    np.testing.assert_allclose(run.across, across, rtol=1e-12, atol=1e-14)


def test_a_point_on_the_line_takes_the_direction_of_its_neighbour():
    points = torch.tensor(
        [[1.0, 1], [2, 1], [3, 3], [4, 1], [5, 0], [6, 1], [7, 1]], dtype=torch.float64
    )
    slope = tw.FunctionObjective(lambda t: t[0] + 10 * t[1], size=2)
    picture = tw.ruled_surface(slope, tw.Trajectory.from_points(points), across=3, reach=1.0)
    np.testing.assert_allclose(picture.run.across, [0, 0, 2, 0, -1, 0, 0], atol=1e-12)
    # Everywhere the second column is the line, and a step across is the one unit vector (0, 1).
    line = 10 + np.arange(1.0, 8.0)
    np.testing.assert_allclose(
        picture.loss["train"], line[:, None] + 10 * np.array([-2.0, 0, 2]), rtol=1e-12
    )


def test_three_points_are_enough_and_two_are_not():
    bowl = tw.FunctionObjective(lambda t: t @ t, size=2)
    three = torch.tensor([[2.0, 1], [1, 2], [0, 1]], dtype=torch.float64)
    picture = tw.ruled_surface(bowl, tw.Trajectory.from_points(three), across=3, reach=1.0)
    np.testing.assert_allclose(picture.loss["train"], [[4, 5, 8], [1, 2, 5], [0, 1, 4]])
    for function in (tw.ruled_surface, tw.run_plane):
        with pytest.raises(ValueError, match=r"off the line; all 2 points are on it.*tw\.profile"):
            function(bowl, tw.Trajectory.from_points(three[:2]))
        with pytest.raises(ValueError, match="start and end are one point"):
            function(bowl, tw.Trajectory.from_points(three[[0, 1, 0]]))


def test_rounding_is_no_direction():
    line = torch.linspace(0, 1, 6, dtype=torch.float32)[:, None] * normal(50, seed=1).float() + 3
    cost = tw.FunctionObjective(lambda t: t @ t, size=50)
    with pytest.raises(ValueError, match="all 6 points are on it, but for rounding"):
        tw.ruled_surface(cost, tw.Trajectory.from_points(line))
    line[2] += 0.01 * normal(50, seed=2).float()
    picture = tw.ruled_surface(cost, tw.Trajectory.from_points(line))
    assert np.flatnonzero(picture.run.across).tolist() == [2]


def test_another_line_than_that_of_the_ends():
    points = wander()
    ends = 2 + normal(2, 7, seed=9)
    line = tw.Line(*ends, labels=("here", "there"))
    picture = tw.ruled_surface(QUADRATIC.objective, tw.Trajectory.from_points(points), line)
    start, u, alpha, across, v = by_hand(points, ends.numpy())
    np.testing.assert_allclose(picture.along, alpha, rtol=1e-10)
    np.testing.assert_allclose(np.abs(picture.run.across), np.abs(across), rtol=1e-10)
    expected = QUADRATIC.value(start + alpha[4] * u + picture.across[7] * v[4])
    assert picture.loss["train"][4, 7] == pytest.approx(expected, rel=1e-9)
    assert picture.labels == ("here", "there")


def test_points_that_overwrite_one_another_give_the_same_bits():
    points = wander(points=11)
    for function in (tw.ruled_surface, tw.run_plane, tw.principal_surface):
        kept, passing = (
            function(QUADRATIC.objective, trajectory)
            for trajectory in (tw.Trajectory.from_points(points), streamed(points))
        )
        np.testing.assert_array_equal(kept.loss["train"], passing.loss["train"])
        np.testing.assert_array_equal(kept.run.loss["train"], passing.run.loss["train"])
        np.testing.assert_array_equal(kept.run.off, passing.run.off)


def test_few_points_are_in_memory_at_a_time(monkeypatch):
    points = wander(points=11)
    largest = []
    sweep = run_costs.sweep

    def spy(objective, section, *args, **kwargs):
        largest.append(len(section.anchors))
        return sweep(objective, section, *args, **kwargs)

    monkeypatch.setattr(run_costs, "sweep", spy)
    tw.ruled_surface(QUADRATIC.objective, tw.Trajectory.from_points(points))
    assert max(largest) <= 2 + run_costs._MOST_POINTS + 1
    assert len(largest) > 1


# The curvature across


def test_the_curvature_across_the_line_is_that_of_the_hessian():
    for name in ("quadratic-7", "chain-5"):
        case = FUNCTIONS[name]
        points = wander(len(case.start))
        start, u, alpha, _, v = by_hand(points)
        trajectory = tw.Trajectory.from_points(points)
        picture = tw.ruled_surface(case.objective, trajectory, curvature=True)
        expected = [v[t] @ case.hessian(start + alpha[t] * u) @ v[t] for t in range(len(points))]
        np.testing.assert_allclose(picture.curvature, expected, rtol=1e-9, atol=1e-9)
        plane = tw.run_plane(case.objective, trajectory, curvature=True)
        farthest = plane.run.distance.argmax()
        expected = [v[farthest] @ case.hessian(start + a * u) @ v[farthest] for a in plane.along]
        np.testing.assert_allclose(plane.curvature, expected, rtol=1e-8, atol=1e-8)
    assert len(tw.ruled_surface(case.objective, trajectory).curvature) == 0


# The plane


def test_the_plane_is_the_closed_form_and_the_run_is_off_it():
    points = wander()
    picture = tw.run_plane(
        QUADRATIC.objective, tw.Trajectory.from_points(points), along=7, across=5
    )
    start, u, alpha, _, _ = by_hand(points)
    rest = points.numpy() - start - alpha[:, None] * u
    farthest = np.linalg.norm(rest, axis=1).argmax()
    second = rest[farthest] / np.linalg.norm(rest[farthest])
    expected = [
        [QUADRATIC.value(start + a * u + b * second) for b in picture.across] for a in picture.along
    ]
    np.testing.assert_allclose(picture.loss["train"], expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(picture.run.across, rest @ second, rtol=1e-10, atol=1e-12)
    left = np.linalg.norm(rest - (rest @ second)[:, None] * second, axis=1)
    np.testing.assert_allclose(picture.run.off, left, rtol=1e-9, atol=1e-12)
    true = [QUADRATIC.value(theta.numpy()) for theta in points]
    np.testing.assert_allclose(picture.run.loss["train"], true, rtol=1e-12)
    assert {0.0, picture.length} <= set(picture.along)


def test_a_plane_does_not_claim_to_hold_the_run():
    points = wander()
    picture = tw.run_plane(QUADRATIC.objective, tw.Trajectory.from_points(points))
    inside = np.isin(np.arange(len(points)), [0, len(points) - 1, picture.run.distance.argmax()])
    assert np.all(picture.run.off[inside] <= 1e-12)
    assert np.all(picture.run.off[~inside] > 0.5)
    # Nor does its cost agree with that of the run, other than on the ruled surface.
    ruled = tw.ruled_surface(QUADRATIC.objective, tw.Trajectory.from_points(points))
    np.testing.assert_allclose(ruled.run.loss["train"], picture.run.loss["train"], rtol=1e-13)
    start, u, _, _, _ = by_hand(points)
    second = (points[picture.run.distance.argmax()].numpy() - start) @ (np.eye(7) - np.outer(u, u))
    second /= np.linalg.norm(second)
    shadow = [
        QUADRATIC.value(start + a * u + b * second)
        for a, b in zip(picture.run.projection, picture.run.across, strict=True)
    ]
    assert np.abs(shadow - picture.run.loss["train"])[~inside].min() > 1e-3


def test_in_two_dimensions_the_plane_is_the_space_and_both_pictures_agree():
    chain = FUNCTIONS["chain-2"]
    points = descent(chain, steps=40, rate=0.05)
    trajectory = tw.Trajectory.from_points(points)
    ruled = tw.ruled_surface(chain.objective, trajectory)
    plane = tw.run_plane(chain.objective, trajectory)
    assert plane.run.off.max() <= 1e-12
    side = np.sign(ruled.run.across @ plane.run.across)
    np.testing.assert_allclose(ruled.run.across, side * plane.run.across, atol=1e-12)
    start, end = points[0].numpy(), points[-1].numpy()
    u = (end - start) / np.linalg.norm(end - start)
    normal_of_line = np.array([-u[1], u[0]])
    turn = np.sign((points[5].numpy() - start) @ normal_of_line)
    for picture in (ruled, plane):
        own = turn * (1 if picture.run.across[5] > 0 else -1) * normal_of_line
        expected = [
            [chain.value(start + a * u + b * own) for b in picture.across] for a in picture.along
        ]
        np.testing.assert_allclose(picture.loss["train"], expected, rtol=1e-9, atol=1e-12)


# Networks


@pytest.mark.parametrize("name", ["perceptron", "tied", "frozen", "weighted", "sequences"])
def test_networks_have_the_cost_of_a_loop_at_every_point(name):
    case = MODELS[name]
    objective = case.objective()
    start = case.point(5)
    points = torch.stack(
        [
            start + 0.1 * t * normal(len(start), seed=1) + 0.02 * normal(len(start), seed=20 + t)
            for t in range(6)
        ]
    )
    picture = tw.ruled_surface(objective, tw.Trajectory.from_points(points), across=5)
    start, u, alpha, _, v = by_hand(points)
    for t, theta in enumerate(points):
        assert picture.run.loss["train"][t] == pytest.approx(objective.value(theta), rel=1e-12)
        for j, b in enumerate(picture.across):
            value = objective.value(start + alpha[t] * u + b * v[t])
            assert picture.loss["train"][t, j] == pytest.approx(value, rel=1e-9)


def test_splits_metrics_and_float32():
    model, (x, y) = perceptron(), MODELS["perceptron"].data()
    objective = tw.ModelObjective(
        model,
        torch.nn.CrossEntropyLoss(),
        {"train": (x[:8], y[:8]), "valid": (x[8:], y[8:])},
        metrics={"error": tw.error_rate},
    )
    points = 0.3 + torch.cumsum(0.1 * normal(5, objective.space.size, seed=2), 0).float()
    picture = tw.ruled_surface(objective, tw.Trajectory.from_points(points), curvature=True)
    assert list(picture.loss) == list(picture.run.loss) == ["train", "valid"]
    assert picture.metrics["error"]["valid"].shape == (5, 41)
    for t, theta in enumerate(points):
        row = objective.evaluate(theta)
        assert picture.run.loss["valid"][t] == pytest.approx(row.loss["valid"], rel=1e-6)
        assert picture.run.metrics["error"]["train"][t] == row.metrics["error"]["train"]
    precise = tw.ModelObjective(
        model, torch.nn.CrossEntropyLoss(), (x[:8], y[:8]), dtype=torch.float64
    )
    start, u, alpha, _, v = by_hand(points.double())
    for t in range(5):
        bent = v[t] @ precise.hvp(start + alpha[t] * u, v[t]).numpy()
        assert picture.curvature[t] == pytest.approx(bent, rel=1e-3, abs=1e-5)


def normalised(seed):
    """A network with batch normalisation whose statistics were run over data."""
    model = seeded(
        lambda: torch.nn.Sequential(
            torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Tanh(), torch.nn.Linear(4, 3)
        ),
        seed,
    )
    with torch.no_grad():
        model(1.0 + normal(20, 3, seed=seed))
    return model.eval()


class Checkpoints(PointSource):
    """Points that remember the statistics of their networks."""

    def __init__(self, space, models):
        self.space, self.models = space, models
        self.count, self.size, self.dtype = len(models), space.size, torch.float64

    def read(self, index):
        return self.space.flatten(self.models[index])


def test_interpolated_statistics_are_those_of_every_snapshot():
    models = [normalised(seed) for seed in range(1, 6)]
    x, y = MODELS["perceptron"].data()
    loss = torch.nn.CrossEntropyLoss()
    objective = tw.ModelObjective(
        models[0], loss, (x, y), dtype=torch.float64, batch_norm="interpolate"
    )
    points = Checkpoints(objective.space, models)
    plain = tw.Trajectory.from_points(torch.stack([points.read(t) for t in range(5)]))
    trajectory = replace(plain, points=points)
    picture = tw.ruled_surface(objective, trajectory, across=3, reach=0.2, progress=False)
    for t, model in enumerate(models):
        with torch.no_grad():
            own = float(loss(model(x), y))
        assert picture.run.loss["train"][t] == pytest.approx(own, rel=1e-12)
    with pytest.raises(ValueError, match=r"an anchor came without '1\.running_mean'"):
        tw.ruled_surface(objective, plain, across=3, progress=False)


def test_recalibrated_statistics_move_with_the_points():
    models = [normalised(seed) for seed in range(1, 5)]
    objective = tw.ModelObjective(
        models[0], torch.nn.CrossEntropyLoss(), MODELS["perceptron"].data(), dtype=torch.float64
    )
    trajectory = tw.Trajectory.from_points(
        torch.stack([objective.space.flatten(model) for model in models])
    )
    picture = tw.ruled_surface(objective, trajectory, across=3)
    for t, model in enumerate(models):
        value = objective.value(objective.space.flatten(model))
        assert picture.run.loss["train"][t] == pytest.approx(value, rel=1e-12)
    # Curvature across the line is that of the cost with its moving statistics.
    found = tw.ruled_surface(objective, trajectory, across=3, curvature=True)
    line, t = tw.Line(trajectory[0].theta, trajectory[-1].theta), 1
    at = float(found.run.projection[t] / (trajectory[-1].theta - trajectory[0].theta).norm())
    direction = trajectory[t].theta - line.point(at)
    direction = direction / direction.norm()
    step = 2e-4
    near = [objective.value(line.point(at) + k * step * direction) for k in (-1, 0, 1)]
    expected = (near[0] - 2 * near[1] + near[2]) / step**2
    assert found.curvature[t] == pytest.approx(expected, rel=1e-5)


def test_kept_points_are_not_evaluated_again(tmp_path, monkeypatch):
    evaluated = []
    evaluate = Plain.evaluate

    def spy(self, weights):
        evaluated.append(len(weights))
        return evaluate(self, weights)

    monkeypatch.setattr(Plain, "evaluate", spy)
    trajectory = tw.Trajectory.from_points(wander())
    first = tw.ruled_surface(QUADRATIC.objective, trajectory, keep=tmp_path)
    assert sum(evaluated) >= 9 * 41
    evaluated.clear()
    second = tw.ruled_surface(QUADRATIC.objective, trajectory, keep=tmp_path)
    assert sum(evaluated) == 0
    np.testing.assert_array_equal(first.loss["train"], second.loss["train"])


# What goes wrong


@pytest.mark.parametrize("function", [tw.ruled_surface, tw.run_plane, tw.principal_surface])
def test_a_point_after_divergence_is_named(function):
    points = wander()
    points[4, 2] = torch.nan
    with pytest.raises(ValueError, match=r"must be finite.*point 4 \(step 4\).*diverged"):
        function(QUADRATIC.objective, tw.Trajectory.from_points(points))


def test_a_cost_that_is_not_finite_is_a_gap_with_a_warning():
    steep = tw.FunctionObjective(lambda t: torch.log(t[1]), size=2)
    points = torch.tensor([[0.0, 1], [1, 2], [2, 1]], dtype=torch.float64)
    with pytest.warns(RuntimeWarning, match=r"not finite at 3 of 9 points.*non-finite-loss"):
        picture = tw.ruled_surface(steep, tw.Trajectory.from_points(points), across=3)
    assert np.isnan(picture.loss["train"]).sum() == 3
    assert np.isfinite(picture.run.loss["train"]).all()


def test_arguments_are_checked():
    trajectory = tw.Trajectory.from_points(wander())
    cost = QUADRATIC.objective
    with pytest.raises(TypeError, match="first argument is an objective; got Trajectory"):
        tw.ruled_surface(trajectory, cost)
    with pytest.raises(TypeError, match="second argument is a trajectory; got Tensor"):
        tw.run_plane(cost, wander())
    with pytest.raises(TypeError, match="`line` is a `Line`; got Tensor"):
        tw.run_plane(cost, trajectory, wander()[0])
    for across in (1, 4):
        with pytest.raises(ValueError, match=f"odd number of 3 or more.*got {across}"):
            tw.ruled_surface(cost, trajectory, across=across)
    for reach in (0, np.nan):
        with pytest.raises(ValueError, match="`reach` must be a positive number"):
            tw.ruled_surface(cost, trajectory, reach=reach)
    for function in (tw.run_plane, tw.principal_surface):
        with pytest.raises(ValueError, match="`along` must be 2 or more; got 1"):
            function(cost, trajectory, along=1)
    with pytest.raises(ParameterMismatchError, match=r"shape \(7,\).*got \(3,\)"):
        tw.ruled_surface(cost, tw.Trajectory.from_points(wander(3)))
    empty = tw.Trajectory.from_points(torch.empty(0, 7, dtype=torch.float64))
    with pytest.raises(ValueError, match="the trajectory has none"):
        tw.ruled_surface(cost, empty)


# The result


def test_a_result_is_copied_pickled_and_read_only():
    picture = tw.ruled_surface(QUADRATIC.objective, tw.Trajectory.from_points(wander()))
    for twin in (copy.deepcopy(picture), pickle.loads(pickle.dumps(picture))):  # noqa: S301
        np.testing.assert_array_equal(twin.run.loss["train"], picture.run.loss["train"])
        assert twin.kind == "ruled"
    with pytest.raises(ValueError, match="read-only"):
        picture.run.across[0] = 1


@pytest.mark.parametrize("picture", [tw.ruled_surface, tw.run_plane])
def test_a_line_of_another_model_is_refused(picture):
    run, line = tw.Trajectory.from_points(wander()), tw.Line(torch.zeros(5), torch.ones(5))
    message = rf"the line has 5, the run {run.points.size}\. Make both of the same model"
    with pytest.raises(ParameterMismatchError, match=message):
        picture(QUADRATIC.objective, run, line)


def test_a_result_that_contradicts_itself_is_refused():
    run = tw.ruled_surface(QUADRATIC.objective, tw.Trajectory.from_points(wander())).run
    across, loss = [-1, 0, 1], np.ones((9, 3))
    with pytest.raises(ValueError, match=r"`kind` must be one of 'ruled', .* got 'curved'"):
        tw.RunSurface("curved", run.projection, across, loss, run)
    with pytest.raises(ValueError, match="`across` has no 0"):
        tw.RunSurface("plane", run.projection, [-1, 1], loss[:, :2], run)
    with pytest.raises(ValueError, match="one row for each point of the run"):
        tw.RunSurface("ruled", run.projection + 1, across, loss, run)
    with pytest.raises(ValueError, match=r"`curvature` must have shape \(9\)"):
        tw.RunSurface("ruled", run.projection, across, loss, run, curvature=[1.0])


def test_a_result_with_named_axes():
    pytest.importorskip("xarray", reason="needs pip install 'thalweg[notebook]'")
    picture = tw.run_plane(QUADRATIC.objective, tw.Trajectory.from_points(wander()))
    dataset = picture.to_xarray()
    assert dataset.loss.dims == ("split", "row", "across")
    np.testing.assert_array_equal(dataset.run_loss.sel(split="train"), picture.run.loss["train"])
    np.testing.assert_array_equal(dataset.off, picture.run.off)


def test_the_provenance_says_what_was_drawn():
    points = wander()
    made = tw.run_plane(QUADRATIC.objective, tw.Trajectory.from_points(points)).provenance
    assert made.section["kind"] == "plane surface of a run"
    assert made.section["points"] == 9
    assert made.section["points_dtype"] == "float64"
    assert made.objective["function"] == "quadratic-7"
