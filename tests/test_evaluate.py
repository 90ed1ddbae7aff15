import linecache
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import thalweg as tw
from cases import FUNCTIONS, MODELS, chain, classes, loop_loss, normal
from thalweg.evaluate import sweep

ALPHA = np.array([-0.6, -0.1, 0.0, 0.35, 0.5, 1.0, 1.7])


@pytest.fixture(params=FUNCTIONS.values(), ids=FUNCTIONS)
def known(request):
    return request.param


# --- against closed forms -------------------------------------------------------------------


def along(known, alpha):
    """Evaluate the formula at each point of the case's line, in NumPy."""
    return [known.value((1 - a) * known.start + a * known.end) for a in alpha]


def test_profiles_are_those_of_the_formula(known):
    profile = tw.profile(known.objective, known.line, ALPHA)
    np.testing.assert_allclose(profile.loss["train"], along(known, ALPHA), rtol=1e-12, atol=1e-13)
    np.testing.assert_array_equal(profile.alpha, ALPHA)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_a_quadratic_along_a_line_is_a_parabola(size):
    known = FUNCTIONS[f"quadratic-{size}"]
    step = known.end - known.start
    value, slope = known.value(known.start), known.gradient(known.start) @ step
    curvature = step @ known.hessian(known.start) @ step
    loss = tw.profile(known.objective, known.line, ALPHA).loss["train"]
    expected = value + slope * ALPHA + curvature * ALPHA**2 / 2
    np.testing.assert_allclose(loss, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("ratio", "barrier"), [(4.0, 0.31640625), (2.0, 0.015625), (-1.0, 1.0)])
def test_the_barrier_between_two_solutions_of_two_factors(ratio, barrier):
    # Experiment D2: P − 1 = α (1 − α) (r − 1)²/r between (r b, 1/(r b)) and (b, 1/b).
    b = 0.75
    start, end = [ratio * b, 1 / (ratio * b)], [b, 1 / b]
    profile = tw.profile(chain(2).objective, tw.Line(start, end), ALPHA)
    expected = (ALPHA * (1 - ALPHA) * (ratio - 1) ** 2 / ratio) ** 2
    np.testing.assert_allclose(profile.loss["train"], expected, rtol=1e-12, atol=1e-30)
    assert profile.loss["train"][4] == pytest.approx(barrier, rel=1e-14)


@pytest.mark.parametrize("depth", [2, 3, 5, 10])
@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (0.3, 1.0), (-0.2, 2.5)])
def test_chains_on_shifted_and_scaled_lines(depth, shift, scale):
    known = chain(depth)
    start, end = scale * known.start + shift, scale * known.end + shift
    profile = tw.profile(known.objective, tw.Line(start, end), ALPHA)
    expected = [(1 - np.prod((1 - a) * start + a * end)) ** 2 for a in ALPHA]
    np.testing.assert_allclose(profile.loss["train"], expected, rtol=1e-11, atol=1e-13)


def test_from_a_small_start_the_loss_only_falls():
    e = 0.01
    line = tw.Line([e, e], [1.0, 1.0])
    grid = tw.Uniform(0, 1, 101)
    profile = tw.profile(chain(2).objective, line, grid)
    expected = (1 - (e + (1 - e) * grid.coordinates()) ** 2) ** 2
    np.testing.assert_allclose(profile.loss["train"], expected, rtol=1e-12, atol=1e-15)
    assert np.all(np.diff(profile.loss["train"]) < 0)


# --- against a loop -------------------------------------------------------------------------


def model_line(case, dtype=torch.float64):
    return tw.Line(case.point(2, dtype), case.point(3, dtype))


def test_profiles_of_networks_are_those_of_a_loop(case):
    line = model_line(case)
    profile = tw.profile(case.objective(batch_size=4), line, ALPHA)
    expected = [loop_loss(case, line.point(a)) for a in ALPHA]
    np.testing.assert_allclose(profile.loss["train"], expected, rtol=1e-12)


@pytest.mark.parametrize("name", ["perceptron", "sequences", "convolution", "recurrent"])
def test_profiles_in_float32_are_those_of_a_float64_loop(name):
    case = MODELS[name]
    line = model_line(case, torch.float32)
    profile = tw.profile(case.objective(dtype=torch.float32, batch_size=4), line, ALPHA)
    expected = [
        loop_loss(case, (1 - a) * line.start.double() + a * line.end.double()) for a in ALPHA
    ]
    np.testing.assert_allclose(profile.loss["train"], expected, rtol=1e-6)


def test_a_reversed_line_gives_the_reversed_profile(case):
    line = model_line(case)
    objective = case.objective(batch_size=4)
    forth = tw.profile(objective, line, ALPHA).loss["train"]
    back = tw.profile(objective, tw.Line(line.end, line.start), (1 - ALPHA)[::-1]).loss["train"]
    np.testing.assert_allclose(back[::-1], forth, rtol=1e-12)


def test_the_ends_are_those_of_the_two_networks(case):
    # The parameters there are theirs bit for bit; shared products round in another order.
    for dtype, rounding in ((torch.float64, 1e-13), (torch.float32, 2e-6)):
        line = model_line(case, dtype)
        objective = case.objective(batch_size=4, dtype=dtype)
        profile = tw.profile(objective, line, [0.0, 0.5, 1.0])
        expected = [objective.value(line.start), objective.value(line.end)]
        assert line.point(0.0).tolist() == line.start.tolist()
        assert line.point(1.0).tolist() == line.end.tolist()
        assert profile.loss["train"][[0, 2]].tolist() == pytest.approx(expected, rel=rounding)
        assert profile.ends.loss["train"].tolist() == profile.loss["train"][[0, 2]].tolist()


# --- the ends and the anchors ---------------------------------------------------------------


@pytest.mark.parametrize(
    "grid", [[0.2, 0.7], [-1.0, 0.5], [0.5, 2.0], [3.0], tw.Uniform(-0.5, 1.5, 8)]
)
def test_the_ends_are_evaluated_when_the_grid_omits_them(grid):
    known = FUNCTIONS["chain-3"]
    profile = tw.profile(known.objective, known.line, grid)
    np.testing.assert_array_equal(profile.ends.alpha, [0, 1])
    np.testing.assert_allclose(
        profile.ends.loss["train"], [known.value(known.start), known.value(known.end)], rtol=1e-13
    )
    np.testing.assert_allclose(profile.loss["train"], along(known, profile.alpha), rtol=1e-11)


def test_a_grid_that_meets_an_end_but_for_rounding_meets_it():
    known = FUNCTIONS["chain-3"]
    grid = tw.Uniform(-0.2, 1.2, 15)
    assert 0.0 not in grid.coordinates()
    profile = tw.profile(known.objective, known.line, grid)
    assert {0.0, 1.0} <= set(profile.alpha)
    assert profile.loss["train"][profile.alpha == 0] == profile.ends.loss["train"][0]


def test_two_coordinates_are_never_moved_onto_one_end():
    known = FUNCTIONS["chain-3"]
    close = [-1e-13, 0.0, 1.0]
    profile = tw.profile(known.objective, known.line, close)
    assert profile.alpha.tolist() == close


def test_metrics_are_evaluated_at_the_ends_too():
    case = MODELS["perceptron"]
    line = model_line(case)
    objective = case.objective(metrics={"error": tw.error_rate})
    profile = tw.profile(objective, line, [0.25, 0.75])
    for i, theta in enumerate((line.start, line.end)):
        evaluation = objective.evaluate(theta)
        assert profile.ends.metrics["error"]["train"][i] == evaluation.metrics["error"]["train"]
    expected = [objective.evaluate(line.point(a)).metrics["error"]["train"] for a in (0.25, 0.75)]
    assert profile.metrics["error"]["train"].tolist() == expected


def test_splits_come_in_their_order():
    case = MODELS["perceptron"]
    valid = (normal(7, 3, seed=20), classes(7, count=3, seed=21))
    objective = tw.ModelObjective(
        case.model(), nn.CrossEntropyLoss(), {"valid": valid, "train": case.data()}
    )
    line = model_line(case)
    profile = tw.profile(objective, line, [0.0, 0.4])
    assert list(profile.loss) == ["valid", "train"]
    assert profile.first_split == "valid"
    assert profile.loss["train"][1] == pytest.approx(loop_loss(case, line.point(0.4)), rel=1e-12)


def test_curves_and_paths_know_where_their_points_are():
    known = FUNCTIONS["quadratic-3"]
    a, b, c = (torch.from_numpy(p) for p in (known.start, known.end, known.start * 0.5 + 1))
    curve = tw.profile(known.objective, tw.BezierCurve([a, b, c]), [0.0, 0.5, 1.0])
    assert (curve.labels, curve.anchors, curve.length) == (("point 0", "point 2"), (0.0, 1.0), None)
    path = tw.Polyline([a, b, c], knots=[-1.0, 0.5, 4.0], labels=("a", "b", "c"))
    profile = tw.profile(known.objective, path, [0.0, 1.0])
    assert (profile.labels, profile.anchors) == (("a", "b", "c"), (-1.0, 0.5, 4.0))
    np.testing.assert_array_equal(profile.ends.alpha, [-1, 4])
    expected = [known.value(point.numpy()) for point in (a, c)]
    np.testing.assert_allclose(profile.ends.loss["train"], expected, rtol=1e-12)
    line = tw.profile(known.objective, known.line, [0.5])
    assert line.length == pytest.approx(np.linalg.norm(known.end - known.start), rel=1e-14)
    assert (line.labels, line.anchors) == (("start", "end"), (0.0, 1.0))


# --- surfaces -------------------------------------------------------------------------------

X, Y = np.array([-0.5, 0.0, 0.4, 1.0]), np.array([-1.0, 0.0, 1.0])


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name != "quadratic-1"])
def test_surfaces_have_rows_of_y_and_columns_of_x(name):
    known = FUNCTIONS[name]
    a, b = torch.from_numpy(known.start), torch.from_numpy(known.end)
    c = normal(len(known.start), seed=9) + 0.5
    plane = tw.Plane.through(a, b, c)
    surface = tw.surface(known.objective, plane, X, Y)
    assert surface.loss["train"].shape == (3, 4)
    for i, y in enumerate(Y):
        for j, x in enumerate(X):
            theta = (1 - x - y) * a + x * b + y * c
            assert surface.loss["train"][i, j] == pytest.approx(
                known.value(theta.numpy()), rel=1e-10, abs=1e-11
            )


def test_surfaces_meet_their_anchors():
    case = MODELS["perceptron"]
    points = [case.point(seed) for seed in (2, 3, 4)]
    objective = case.objective(batch_size=4, metrics={"error": tw.error_rate})
    surface = tw.surface(objective, tw.Plane.through(*points, labels=("p", "q", "r")), X, Y)
    loss = surface.loss["train"]
    expected = [objective.value(p) for p in points]
    assert [loss[1, 1], loss[1, 3], loss[2, 1]] == pytest.approx(expected, rel=1e-13)
    errors = surface.metrics["error"]["train"]
    assert errors.shape == loss.shape
    assert errors[1, 3] == objective.evaluate(points[1]).metrics["error"]["train"]
    assert surface.labels == ("p", "q", "r")
    np.testing.assert_array_equal(surface.anchors, [[0, 0], [1, 0], [0, 1]])
    u, v = points[1] - points[0], points[2] - points[0]
    expected = [[float(u @ u), float(u @ v)], [float(u @ v), float(v @ v)]]
    np.testing.assert_allclose(surface.gram, expected, rtol=1e-12)


def test_surfaces_around_one_point():
    case = MODELS["perceptron"]
    objective, theta = case.objective(), case.point()
    plane = tw.Plane.random(objective.space, theta, seed=5, label="solution")
    surface = tw.surface(objective, plane, X, Y)
    _, u, v = plane.anchors
    assert surface.labels == ("solution",)
    np.testing.assert_array_equal(surface.anchors, [[0, 0]])
    np.testing.assert_allclose(surface.gram, [[u @ u, u @ v], [u @ v, v @ v]], rtol=1e-12)
    assert surface.loss["train"][1, 1] == objective.value(theta)
    assert surface.loss["train"][2, 0] == pytest.approx(
        loop_loss(case, theta - 0.5 * u + v), rel=1e-12
    )


def test_the_default_grid_has_the_centre():
    bowl = tw.FunctionObjective(lambda t: (t**2).sum(), 2)
    plane = tw.Plane.through([0.0, 0.0], [1.0, 0.0], [0.0, 1.0])
    surface = tw.surface(bowl, plane)
    assert surface.loss["train"].shape == (25, 25)
    assert surface.loss["train"][12, 12] == 0


# --- losses that are not finite -------------------------------------------------------------


def test_losses_that_are_not_finite_are_counted_in_one_warning_at_the_callers_line():
    objective = tw.FunctionObjective(lambda t: t.log().sum(), 1)
    line = tw.Line([1.0], [-1.0])
    with pytest.warns(RuntimeWarning, match="non-finite-loss") as caught:
        profile = tw.profile(objective, line, [0.0, 0.25, 0.5, 0.75, 1.0])
    assert len(caught) == 1
    assert str(caught[0].message) == (
        "The loss on 'train' is not finite at 3 of 5 points, the first at alpha = 0.5; they are "
        "kept as gaps. Shorten the section or evaluate in float64. [non-finite-loss]"
    )
    assert caught[0].filename == __file__
    assert "profile = tw.profile(objective" in linecache.getline(__file__, caught[0].lineno)
    np.testing.assert_array_equal(np.isfinite(profile.loss["train"]), [1, 1, 0, 0, 0])
    assert profile.loss["train"][2] == -np.inf
    assert np.isnan(profile.loss["train"][3])


def test_surfaces_warn_at_the_callers_line_too():
    objective = tw.FunctionObjective(lambda t: t.log().sum(), 2)
    plane = tw.Plane.through([1.0, 1.0], [2.0, 1.0], [1.0, 0.0])
    with pytest.warns(RuntimeWarning, match=r"3 of 6 points, the first at \(0, 1\);") as caught:
        tw.surface(objective, plane, [0.0, 1.0, 2.0], [0.0, 1.0])
    assert caught[0].filename == __file__
    assert "tw.surface(objective, plane" in linecache.getline(__file__, caught[0].lineno)


def test_each_split_warns_for_itself():
    case = MODELS["perceptron"]
    x, y = case.data()
    wild = x.clone()
    wild[3, 1] = torch.nan
    objective = tw.ModelObjective(
        case.model(), nn.CrossEntropyLoss(), {"train": (x, y), "valid": (wild, y)}
    )
    with pytest.warns(RuntimeWarning, match=r"on 'valid' is not finite at 2 of 2") as caught:
        profile = tw.profile(objective, model_line(case), [0.0, 0.5])
    assert len(caught) == 1
    assert np.isfinite(profile.loss["train"]).all()


def test_finite_losses_do_not_warn():
    known = FUNCTIONS["chain-3"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isfinite(tw.profile(known.objective, known.line, ALPHA).loss["train"]).all()


# --- progress -------------------------------------------------------------------------------


def test_progress_is_reported_at_every_point():
    known = FUNCTIONS["chain-3"]
    seen = []
    tw.profile(known.objective, known.line, [0.25, 0.5], progress=lambda *step: seen.append(step))
    assert [done for done, _, _ in seen] == [0, 1, 2, 3, 4]
    told = {(total, message) for _, total, message in seen}
    assert told == {(4, "Line: cost at 4 points, plain")}


def test_progress_of_a_surface():
    known = FUNCTIONS["chain-3"]
    a, b = torch.from_numpy(known.start), torch.from_numpy(known.end)
    plane = tw.Plane.through(a, b, normal(3, seed=9))
    seen = []
    tw.surface(known.objective, plane, X, Y, progress=lambda *step: seen.append(step))
    assert seen[-1] == (12, 12, "Plane: cost at 12 points, plain")


def test_long_groups_of_points_show_how_far_they_are():
    """Batches outside, points inside: examples that are done count as parts of points."""
    case = MODELS["recurrent"]
    objective = case.objective()
    line, seen = tw.Line(case.point(2), case.point(3)), []
    show = lambda *step: seen.append(step)  # noqa: E731
    tw.profile(objective, line, np.linspace(0, 1, 12), progress=show)
    done = [step[0] for step in seen]
    assert done[0] == 0
    assert done[-1] == 12
    assert done == sorted(done)
    assert len(set(done)) == 13
    assert {step[1:] for step in seen} == {(12, "Line: cost at 12 points, sequential")}


def test_the_plan_of_points_that_are_placed_says_how_many_there_may_be():
    case = MODELS["perceptron"]
    objective = case.objective()
    line = tw.Line(case.point(2), case.point(3))
    plan = tw.plan(objective, line, tw.Adaptive(1e-2, points=7, limit=50))
    assert (plan.points, plan.most) == (7, 50)
    assert "points     7 at first, 50 at most" in str(plan)
    assert "for the first 7 points" in str(plan)
    plane = tw.Plane.through(case.point(2), case.point(3), case.point(4))
    plan = tw.plan(objective, plane, tw.Adaptive(limit=30), tw.Adaptive(limit=40))
    assert (plan.points, plan.most) == (81, 1200)
    assert tw.plan(objective, line, tw.Uniform(0, 1, 7)).most == 0


@pytest.mark.parametrize("progress", [None, False, True])
def test_nothing_is_shown_where_there_is_no_terminal(capsys, progress):
    known = FUNCTIONS["chain-3"]
    tw.profile(known.objective, known.line, [0.5], progress=progress)
    assert capsys.readouterr() == ("", "")


def test_a_bar_is_shown_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    known = FUNCTIONS["chain-3"]
    tw.profile(known.objective, known.line, [0.25, 0.5])
    out, err = capsys.readouterr()
    assert out == ""
    assert "Line: cost at 4 points, plain" in err


# --- provenance -----------------------------------------------------------------------------


def test_provenance_says_what_and_where():
    case = MODELS["perceptron"]
    line = model_line(case)
    made = tw.profile(case.objective(batch_size=4), line, [0.5]).provenance
    assert made.objective["splits"]["train"]["terms"] == 11
    assert made.section["kind"] == "Line"
    assert made.section["labels"] == ["start", "end"]
    assert made.section["distances"] == [0.0, pytest.approx(line.length, rel=1e-14)]
    assert (made.device, made.dtype) == ("cpu", "float64")
    assert made.seconds >= 0


def test_directions_have_no_place_and_so_no_distance():
    case = MODELS["perceptron"]
    plane = tw.Plane.random(case.objective().space, case.point(), seed=4)
    made = tw.surface(case.objective(), plane, [0.0], [0.0]).provenance
    assert made.section["distances"] == [0.0]
    assert made.section["normalize"] == "filter"
    assert made.section["seed"] == 4


# --- the check and errors -------------------------------------------------------------------


def test_points_are_evaluated_in_the_order_of_the_weights():
    known = FUNCTIONS["quadratic-2"]
    rows = known.line.weights(ALPHA[::-1])
    losses = [row.loss["train"] for row in sweep(known.objective, known.line, rows)]
    np.testing.assert_allclose(losses, along(known, ALPHA[::-1]), rtol=1e-12)


PLANE = tw.Plane.through([0.0, 0.0, 1.0], [1.0, 0.0, 1.0], [0.0, 1.0, 1.0])
LINE = tw.Line([0.0, 0.0, 1.0], [1.0, 0.0, 1.0])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda o: tw.profile(o, PLANE),
            ValueError,
            r"A profile needs a section of 1 dimension; got Plane. Pass a `Line`",
        ),
        (
            lambda o: tw.surface(o, LINE),
            ValueError,
            r"A surface needs a section of 2 dimensions; got Line. Pass a `Plane`",
        ),
        (lambda o: tw.profile(o, [0.0, 1.0]), ValueError, r"of 1 dimension; got list. Pass"),
        (lambda o: tw.profile(o, LINE, [1.0, 0.0]), ValueError, r"ascend strictly"),
        (lambda o: tw.surface(o, PLANE, [0.0], []), ValueError, r"one number or more"),
        (
            lambda o: tw.profile(o, tw.Line([0.0], [1.0])),
            tw.ParameterMismatchError,
            r"An anchor must have shape \(3,\), one entry for each trainable parameter; got \(1,\)",
        ),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call(FUNCTIONS["chain-3"].objective)
