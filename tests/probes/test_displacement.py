"""Projection and distance against a dense computation in float64, far from the origin."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import thalweg as tw
from cases import normal
from thalweg.errors import ParameterMismatchError
from thalweg.probes import streaming
from thalweg.trajectory.points import PointsInMemory, PointSource

LENGTHS = ("projection", "distance", "rest", "to_end", "norm", "update_length")


def arc(points=23, size=41, seed=5, at=3.0):
    """Return a noisy arc away from the origin, (points, size)."""
    angle = torch.linspace(0, math.pi, points, dtype=torch.float64)[:, None]
    a, b = normal(size, seed=seed), normal(size, seed=seed + 1)
    noise = 0.05 * normal(points, size, seed=seed + 2)
    return at + 2 * torch.cos(angle) * a + torch.sin(angle) * b + noise


def measured(points, line=None, **options):
    trajectory = tw.Trajectory.from_points(points)
    return tw.displacement(trajectory, line, progress=False, **options)


def dense(points, start, end):
    """Compute everything from whole float64 matrices, each by its definition."""
    theta, a, b = (np.asarray(v, dtype=np.float64) for v in (points, start, end))
    u = (b - a) / np.linalg.norm(b - a)
    alpha = (theta - a) @ u
    residual = theta - a - np.outer(alpha, u)
    beta = np.linalg.norm(residual, axis=1)
    black_sheep = residual[beta.argmax()] / beta.max()
    second = residual @ black_sheep
    update = np.diff(theta, axis=0)
    length = np.linalg.norm(update, axis=1)
    way = b - theta[:-1]
    with np.errstate(invalid="ignore"):  # at b itself there is no way
        heading = (update * way).sum(1) / (length * np.linalg.norm(way, axis=1))
    return {
        "projection": alpha,
        "distance": beta,
        "second": second,
        "rest": np.linalg.norm(residual - np.outer(second, black_sheep), axis=1),
        "to_end": np.linalg.norm(theta - b, axis=1),
        "norm": np.linalg.norm(theta, axis=1),
        "update_length": length,
        "update_cosine": (update[1:] * update[:-1]).sum(1) / (length[1:] * length[:-1]),
        "heading": heading,
    }


def assert_agrees(found, truth, rtol=1e-10, atol=1e-12):
    for name, values in truth.items():
        scale = max(1.0, np.nanmax(np.abs(values)))
        np.testing.assert_allclose(
            getattr(found, name), values, rtol=rtol, atol=atol * scale, err_msg=name
        )


# --- against a dense computation ------------------------------------------------------------


@pytest.mark.parametrize("at", [0.0, 3.0, -1e4])
def test_it_agrees_with_a_dense_computation(at):
    points = arc(at=at)
    a, b = points[2], points[-4]
    found = measured(points, tw.Line(a, b))
    assert_agrees(found, dense(points, a, b))
    assert found.length == pytest.approx(float((b - a).norm()), rel=1e-12)
    assert found.chord == pytest.approx(float((points[-1] - points[0]).norm()), rel=1e-12)
    assert found.size == 41


@pytest.mark.parametrize("size", [2, 8191, 8193, 20_000])
@pytest.mark.parametrize("together", [1, 2, 3, 16])
def test_blocks_and_pieces_do_not_matter(size, together, monkeypatch):
    monkeypatch.setattr(streaming, "_MOST_POINTS", together)
    points = arc(points=7, size=size)
    assert_agrees(measured(points), dense(points, points[0], points[-1]))


def test_threads_do_not_change_a_bit(monkeypatch):
    points = arc(points=9, size=50_000).float()
    one = measured(points)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    three = measured(points)
    for name in (*LENGTHS, "second", "update_cosine", "heading"):
        np.testing.assert_array_equal(getattr(one, name), getattr(three, name))


def test_a_run_close_to_its_line_has_no_cancellation():
    # √(‖x‖² − α²) would lose all digits of a distance that is 1e-9 of the projection.
    direction, across = torch.eye(2, 30, dtype=torch.float64)
    along = torch.linspace(0, 1e3, 12, dtype=torch.float64)
    off = 1e-6 * torch.sin(along)
    off[0] = off[-1] = 0
    points = along[:, None] * direction + off[:, None] * across
    found = measured(points)
    np.testing.assert_allclose(found.distance, off.abs(), rtol=1e-9, atol=1e-20)
    np.testing.assert_allclose(found.rest, 0, atol=1e-18)


@pytest.mark.parametrize("together", [1, 4])
def test_a_jump_along_the_line_has_no_cancellation(together, monkeypatch):
    # What lies off the line is 1e-7 of the jump, so it cannot be told from squares.
    monkeypatch.setattr(streaming, "_MOST_POINTS", together)
    points = 1e-3 * normal(12, 50, seed=4)
    points[6:] += 1e4 * torch.eye(50, dtype=torch.float64)[0]
    start = torch.zeros(50, dtype=torch.float64)
    end = 2e4 * torch.eye(50, dtype=torch.float64)[0]
    found = measured(points, tw.Line(start, end))
    truth = points.clone()
    truth[:, 0] = 0
    np.testing.assert_allclose(found.distance, truth.norm(dim=1), rtol=1e-10)
    np.testing.assert_allclose(found.rest[found.furthest], 0, atol=1e-12)


def test_a_circle_in_closed_form():
    # A half-circle of radius 5 around (7, −2) in a plane that is not one of the axes.
    angle = np.linspace(0, np.pi, 13)
    u, v = np.linalg.qr(np.random.default_rng(1).normal(size=(9, 2)))[0].T
    centre = 7 * u - 2 * v + 1
    points = centre - 5 * np.cos(angle)[:, None] * u + 5 * np.sin(angle)[:, None] * v
    found = measured(torch.from_numpy(points))
    np.testing.assert_allclose(found.projection, 5 - 5 * np.cos(angle), atol=1e-13)
    np.testing.assert_allclose(found.distance, 5 * np.sin(angle), atol=1e-13)
    np.testing.assert_allclose(found.second, found.distance, atol=1e-13)
    np.testing.assert_allclose(found.rest, 0, atol=1e-13)
    np.testing.assert_allclose(found.captured[1:], np.sin(angle[1:] / 2), atol=1e-13)
    np.testing.assert_allclose(found.update_cosine, math.cos(np.pi / 12), atol=1e-13)
    # An angle at the circle is half of that at the centre.
    np.testing.assert_allclose(found.heading, np.cos((np.pi - angle[1:]) / 2), atol=1e-13)
    assert found.path_length == pytest.approx(12 * 10 * math.sin(np.pi / 24))
    assert found.furthest == 6
    assert found.storage == "float64"


def test_the_square_of_the_distance_does_not_pass():
    points = arc()
    truth = dense(points, points[0], points[-1])
    wrong = replace(measured(points), distance=truth["distance"] ** 2)
    with pytest.raises(AssertionError, match="distance"):
        assert_agrees(wrong, truth)


# --- symmetries ------------------------------------------------------------------------------


def _rotation(size):
    return torch.linalg.qr(normal(size, size, seed=11))[0]


@pytest.mark.parametrize(
    ("change", "factor"),
    [
        (lambda x: x + 7 * normal(41, seed=12), 1.0),
        (lambda x: 0.03 * x, 0.03),
        (lambda x: x @ _rotation(41), 1.0),
        (lambda x: x[:, torch.randperm(41, generator=torch.Generator().manual_seed(1))], 1.0),
    ],
    ids=["shift", "scale", "rotation", "permutation"],
)
def test_what_moves_the_space_moves_nothing_of_the_displacement(change, factor):
    plain, moved = measured(arc()), measured(change(arc()))
    for name in ("projection", "distance", "second", "rest", "to_end", "update_length"):
        np.testing.assert_allclose(
            getattr(moved, name), factor * getattr(plain, name), rtol=1e-10, atol=1e-11
        )
    for name in ("captured", "update_cosine", "heading"):
        np.testing.assert_allclose(getattr(moved, name), getattr(plain, name), atol=1e-10)


def test_a_run_backwards_sees_the_same_distances():
    points = arc()
    there, back = measured(points), measured(points.flip(0))
    np.testing.assert_allclose(back.distance[::-1], there.distance, atol=1e-12)
    np.testing.assert_allclose(there.length - back.projection[::-1], there.projection, atol=1e-12)


# --- types of storage ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("at", [0.0, 1.5])
def test_the_error_of_storage_is_within_what_the_result_states(dtype, at):
    exact = arc(size=500, at=at)
    stored = exact.to(dtype)
    found = measured(stored)
    # What was computed from the stored points is exact for them ...
    assert_agrees(found, dense(stored.double(), stored[0].double(), stored[-1].double()))
    # ... and differs from the run by what is stated, which is no wild guess.
    truth = dense(exact, exact[0], exact[-1])
    for name in ("projection", "distance"):
        assert np.all(np.abs(getattr(found, name) - truth[name]) <= found.rounding + 1e-12)
    assert found.storage == str(dtype).removeprefix("torch.")
    assert found.rounding.max() < 4 * torch.finfo(dtype).eps * found.norm.max()


def test_entries_below_the_normal_range_are_part_of_the_error():
    exact = 1e-7 * normal(6, 400, seed=3)  # of the size of the smallest float16
    found = measured(exact.half())
    truth = dense(exact, exact[0], exact[-1])
    error = np.abs(found.distance - truth["distance"])
    assert np.all(error <= found.rounding)
    assert error.max() > 1e-3 * found.norm.max()


def test_a_line_in_a_wider_type_brings_less_error():
    exact = arc(size=300)
    stored = tw.Trajectory.from_points(exact.bfloat16())
    own = tw.displacement(stored, progress=False)
    given = tw.displacement(stored, tw.Line(exact[0], exact[-1]), progress=False)
    truth = dense(exact, exact[0], exact[-1])
    assert np.all(given.rounding < own.rounding)
    assert np.all(np.abs(given.distance - truth["distance"]) <= given.rounding)


# --- lines and where they come from ----------------------------------------------------------


def test_the_line_goes_from_the_first_point_to_the_last_by_default():
    points = arc()
    own, given = measured(points), measured(points, tw.Line(points[0], points[-1]))
    for name in LENGTHS:
        np.testing.assert_array_equal(getattr(own, name), getattr(given, name))
    assert own.projection[0] == own.distance[0] == 0
    assert own.projection[-1] == pytest.approx(own.length, rel=1e-14)
    assert own.distance[-1] < 1e-13
    assert own.labels == ("start", "end")
    assert own.provenance.section["line"] == "from the first point to the last"
    assert given.provenance.section["line"] == "given"


def test_the_ends_of_a_line_may_stay_on_disk(tmp_path):
    model = torch.nn.Linear(6, 3)
    space = tw.ParameterSpace.of(model)
    points = arc(points=5, size=space.size).float()
    ends = []
    for name, point in (("a", points[1]), ("b", points[3])):
        save_file({n: t.contiguous() for n, t in space.unflatten(point).items()}, tmp_path / name)
        (tmp_path / name).rename(tmp_path / f"{name}.safetensors")
        ends.append(tw.StoredPoint(space, tmp_path / f"{name}.safetensors"))
    stored, given = (
        measured(points, tw.Line(*ends)),
        measured(points, tw.Line(points[1], points[3])),
    )
    np.testing.assert_array_equal(stored.distance, given.distance)
    np.testing.assert_array_equal(stored.projection, given.projection)


class Overwriting(PointSource):
    """Points of which one is in memory at a time, and how often they were read."""

    def __init__(self, points):
        self._points = points
        self.count, self.size = points.shape
        self.dtype = points.dtype
        self.reads = 0

    def read(self, index):
        return self._points[index].clone()

    def stream(self, start=0, stop=None):
        room = torch.empty_like(self._points[0])
        for point in self._points[start:stop]:
            self.reads += 1
            yield room.copy_(point)
        room.fill_(float("nan"))


def _trajectory(source):
    unknown = np.full(source.count, np.nan)
    return tw.Trajectory(source, 10 * np.arange(source.count), unknown, unknown, unknown)


def test_points_may_be_overwritten_by_the_next_and_are_read_twice():
    points = arc(points=20)
    source = Overwriting(points)
    found = tw.displacement(_trajectory(source), progress=False)
    assert_agrees(found, dense(points, points[0], points[-1]))
    assert source.reads == 40
    np.testing.assert_array_equal(found.step, 10 * np.arange(20))


def test_an_error_while_reading_is_passed_on():
    class Broken(Overwriting):
        def stream(self, start=0, stop=None):
            yield from super().stream(0, 12)
            raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        tw.displacement(_trajectory(Broken(arc(points=20))), progress=False)


def test_progress_is_told_to_the_end():
    told = []
    tw.displacement(
        tw.Trajectory.from_points(arc()), progress=lambda done, total, _: told.append((done, total))
    )
    assert told[-1] == (46, 46)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


# --- runs that are short, straight, still or lost --------------------------------------------


def test_two_points():
    points = torch.tensor([[1.0, 2.0], [4.0, 6.0]], dtype=torch.float64)
    found = measured(points)
    np.testing.assert_allclose(found.projection, [0, 5])
    np.testing.assert_allclose(found.distance, 0, atol=1e-15)
    np.testing.assert_allclose(found.heading, 1)
    assert found.update_cosine.shape == (0,)
    assert math.isnan(found.captured[0])
    assert found.captured[1] == pytest.approx(1)


def test_one_point_has_a_displacement_from_a_line_that_is_given():
    line = tw.Line(torch.zeros(2), torch.tensor([2.0, 0.0]))
    found = measured(torch.tensor([[3.0, 4.0]]), line)
    assert (found.projection[0], found.distance[0], found.second[0], found.rest[0]) == (3, 4, 4, 0)
    assert found.to_end[0] == pytest.approx(math.sqrt(17))
    assert found.update_length.shape == found.heading.shape == (0,)
    assert (found.chord, found.path_length) == (0, 0)


def test_a_constant_run_has_a_displacement_but_no_direction():
    line = tw.Line(torch.zeros(3), torch.tensor([0.0, 0.0, 2.0]))
    found = measured(torch.tensor([1.0, 0.0, 1.0]).repeat(5, 1), line)
    np.testing.assert_array_equal(found.distance, 1)
    np.testing.assert_array_equal(found.update_length, 0)
    assert np.isnan(found.update_cosine).all()
    assert np.isnan(found.heading).all()


def test_a_run_in_one_dimension_is_on_its_line():
    found = measured(torch.tensor([[0.5], [-3.0], [0.1], [7.25]]))
    np.testing.assert_array_equal(found.distance, 0)
    np.testing.assert_array_equal(found.second, 0)
    np.testing.assert_array_equal(found.captured[1:], 1)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_point_that_is_not_finite_is_nan_and_the_others_are_not(bad):
    points = arc(points=12, size=9000)
    broken = points.clone()
    broken[5, 8500] = bad
    found, whole = measured(broken), measured(points)
    keep = np.arange(12) != 5
    for name in ("projection", "distance", "to_end", "norm", "second", "rest"):
        values = getattr(found, name)
        assert math.isnan(values[5])
        assert np.isfinite(values[keep]).all()
    np.testing.assert_array_equal(found.distance[keep], whole.distance[keep])
    assert np.flatnonzero(np.isnan(found.update_length)).tolist() == [4, 5]
    assert np.flatnonzero(np.isnan(found.update_cosine)).tolist() == [3, 4, 5]
    assert math.isnan(found.path_length)
    assert found.furthest == int(np.nanargmax(found.distance))


def test_a_run_of_nothing_but_nan():
    line = tw.Line(torch.zeros(2), torch.ones(2))
    found = measured(torch.full((3, 2), math.nan), line)
    assert np.isnan(found.distance).all()
    assert np.isnan(found.rest).all()


# --- what is refused -------------------------------------------------------------------------


def test_a_line_without_length_is_refused():
    loop = arc()
    loop[-1] = loop[0]
    with pytest.raises(ValueError, match=r"two different ends .*Give a line between two different"):
        measured(loop)
    with pytest.raises(ValueError, match="two different ends"):
        measured(torch.ones(1, 4))


def test_a_run_that_ends_in_nan_has_no_line_of_its_own():
    points = arc()
    points[-1, 3] = math.nan
    with pytest.raises(ValueError, match=r"must be finite; entry 3 of a point is nan"):
        measured(points)


def test_a_line_of_another_model_is_refused():
    with pytest.raises(ParameterMismatchError, match=r"the line has 3, the run 41\. Make both"):
        measured(arc(), tw.Line(torch.zeros(3), torch.ones(3)))


@pytest.mark.parametrize("given", ["runs/mlp", tw.Line(torch.zeros(3), torch.ones(3))])
def test_what_is_no_trajectory_is_refused(given):
    with pytest.raises(TypeError, match=r"first argument is a trajectory; got .*Trajectory\.open"):
        tw.displacement(given)


def test_other_sections_and_empty_runs_are_refused():
    bend = tw.BezierCurve([torch.zeros(41), torch.ones(41), torch.zeros(41)])
    with pytest.raises(TypeError, match=r"a straight `Line`; got BezierCurve"):
        measured(arc(), bend)
    empty = _trajectory(PointsInMemory(torch.empty(0, 4)))
    with pytest.raises(ValueError, match=r"this trajectory is empty\. Record some points"):
        tw.displacement(empty, progress=False)
    with pytest.raises(ValueError, match=r"this trajectory is empty\. Record some points"):
        tw.displacement(empty, tw.Line(torch.zeros(4), torch.ones(4)), progress=False)


@pytest.mark.parametrize(
    ("points", "got"),
    [
        (torch.zeros(3), r"\(3,\) and torch.float32"),
        (torch.ones(4, 2, dtype=torch.int64), r"\(4, 2\) and torch.int64"),
        ([], r"\(0,\)"),
    ],
)
def test_points_that_are_no_matrix_are_refused(points, got):
    with pytest.raises(ValueError, match=f"rows of a matrix of floating-point numbers; .*{got}"):
        tw.Trajectory.from_points(points)
