import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import nn

import thalweg as tw
from cases import normal, perceptron, seeded
from thalweg.anchors import combine

SIZE = 4
finite = st.floats(-3, 3)
vectors = arrays.arrays(np.float64, SIZE, elements=finite).map(torch.from_numpy)
alphas = st.floats(-2, 3)

A, B, C, D = (1 + normal(SIZE, seed=seed) for seed in (1, 2, 3, 4))

SECTIONS = {
    "line": lambda *p: tw.Line(*p[:2]),
    "bezier": lambda *p: tw.BezierCurve(p[:3]),
    "bezier of four": lambda *p: tw.BezierCurve(p),
    "polyline": lambda *p: tw.Polyline(p),
    "polyline with knots": lambda *p: tw.Polyline(p, knots=[-1.0, 0.5, 2.0, 2.5]),
    "plane": lambda *p: tw.Plane.through(*p[:3]),
}


@pytest.fixture(params=SECTIONS.values(), ids=SECTIONS)
def make(request):
    return request.param


def places(section):
    """Return some coordinates, inside and beyond the anchors."""
    if section.dimension == 2:
        return [(0.3, -0.4), (1.5, 0.25), (0.0, 2.0)]
    return [(-0.7,), (0.0,), (0.4,), (1.0,), (1.9,), (3.2,)]


# --- the ends -------------------------------------------------------------------------------


def bits(tensor):
    return tensor.view(torch.int64 if tensor.dtype == torch.float64 else torch.int32)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_anchors_are_met_bit_for_bit(make, dtype):
    points = [p.to(dtype) for p in (A, B, C, D)]
    points[0][1], points[1][2], points[3][0] = -0.0, -0.0, -0.0
    points[1][3], points[2][1] = 1e-30, 1e30
    section = make(*points)
    places = np.reshape(section.places, (len(section.anchors), -1))
    for place, anchor, label in zip(places, section.anchors, section.labels, strict=True):
        if np.isfinite(place).all():
            assert torch.equal(bits(section.point(*place)), bits(anchor)), label


def test_the_centre_of_a_random_plane_is_met_bit_for_bit():
    space = tw.ParameterSpace.of(perceptron())
    theta = space.flatten(seeded(perceptron, 1))
    theta[3] = -0.0
    assert torch.equal(bits(tw.Plane.random(space, theta).point(0.0, 0.0)), bits(theta))


def test_a_met_anchor_is_a_copy():
    line = tw.Line(A.clone(), B.clone())
    line.point(0.0).add_(1)
    assert torch.equal(line.start, A)


# --- the rules ------------------------------------------------------------------------------


@given(vectors, vectors, alphas)
def test_a_line_is_the_weighted_mean_of_its_ends(a, b, alpha):
    expected = (1 - alpha) * a + alpha * b
    torch.testing.assert_close(tw.Line(a, b).point(alpha), expected, rtol=1e-14, atol=1e-15)


@given(vectors, vectors, alphas)
def test_a_reversed_line_meets_the_same_points(a, b, alpha):
    forth, back = tw.Line(a, b), tw.Line(b, a)
    torch.testing.assert_close(forth.point(alpha), back.point(1 - alpha), rtol=1e-13, atol=1e-14)
    assert forth.length == back.length


def de_casteljau(points, t):
    while len(points) > 1:
        points = [(1 - t) * a + t * b for a, b in itertools.pairwise(points)]
    return points[0]


@given(st.lists(vectors, min_size=2, max_size=5), st.floats(-0.5, 1.5))
def test_a_bezier_curve_is_that_of_de_casteljau(points, t):
    torch.testing.assert_close(
        tw.BezierCurve(points).point(t), de_casteljau(points, t), rtol=1e-11, atol=1e-12
    )


@given(st.lists(vectors, min_size=2, max_size=5), st.floats(0, 1))
def test_a_polyline_is_numpys_interpolation(points, share):
    knots = np.cumsum([0.5 + 0.25 * j for j in range(len(points))]) - 1
    s = (1 - share) * knots[0] + share * knots[-1]
    table = torch.stack(points).numpy()
    expected = [np.interp(s, knots, column) for column in table.T]
    np.testing.assert_allclose(
        tw.Polyline(points, knots=list(knots)).point(s), expected, rtol=1e-12, atol=1e-12
    )


def test_a_polyline_goes_on_straight():
    path = tw.Polyline([A, B, C])
    torch.testing.assert_close(path.point(-0.5), 1.5 * A - 0.5 * B)
    torch.testing.assert_close(path.point(3.0), 2 * C - B)


def test_a_plane_is_its_origin_and_two_directions():
    plane = tw.Plane.through(A, B, C)
    torch.testing.assert_close(plane.point(0.3, -0.8), A + 0.3 * (B - A) - 0.8 * (C - A))
    around = tw.Plane((A, B, C), affine=False)
    torch.testing.assert_close(around.point(0.3, -0.8), A + 0.3 * B - 0.8 * C)


def test_weights_add_up_to_one(make):
    section = make(A, B, C, D)
    for place in places(section):
        weights = section.weights(place if section.dimension == 1 else [place])
        assert weights.shape == (1, len(section.anchors))
        assert weights.sum() == pytest.approx(1, abs=1e-13)


@given(arrays.arrays(np.float64, (SIZE, SIZE), elements=finite), vectors)
def test_sections_commute_with_affine_maps(matrix, shift):
    matrix = torch.from_numpy(matrix) + 20 * torch.eye(SIZE, dtype=torch.float64)
    for make in SECTIONS.values():
        section = make(A, B, C, D)
        mapped = make(*(matrix @ p + shift for p in (A, B, C, D)))
        for place in places(section):
            torch.testing.assert_close(
                mapped.point(*place), matrix @ section.point(*place) + shift, rtol=1e-12, atol=1e-11
            )


def test_points_are_those_of_the_weight_matrix(make):
    section = make(A, B, C, D)
    chosen = places(section)
    rows = section.weights(np.array(chosen).squeeze(-1) if section.dimension == 1 else chosen)
    for place, row in zip(chosen, rows, strict=True):
        np.testing.assert_allclose(
            section.point(*place), row @ np.stack(section.anchors), rtol=1e-12
        )


# --- lengths and angles ---------------------------------------------------------------------


def test_length_and_gram_in_float64():
    line = tw.Line(A.float(), B.float())
    exact = np.linalg.norm(B.float().double() - A.float().double())
    assert line.length == pytest.approx(exact, rel=1e-14)
    u, v = (B - A).numpy(), (C - A).numpy()
    expected = [[u @ u, u @ v], [u @ v, v @ v]]
    np.testing.assert_allclose(tw.Plane.through(A, B, C).gram, expected, rtol=1e-12)
    u, v = B.numpy(), C.numpy()
    np.testing.assert_allclose(
        tw.Plane((A, B, C), affine=False).gram, [[u @ u, u @ v], [u @ v, v @ v]], rtol=1e-12
    )


def test_gram_measures_distances_in_parameter_space():
    plane = tw.Plane.through(A, B, C)
    c, d = np.array([0.3, -0.4]), np.array([1.5, 0.25])
    distance = float((plane.point(*d) - plane.point(*c)).norm())
    assert math.sqrt((d - c) @ plane.gram @ (d - c)) == pytest.approx(distance, rel=1e-12)


# --- what a section is made of --------------------------------------------------------------


def test_combine_leaves_out_weights_of_zero():
    endless = torch.full((SIZE,), torch.inf, dtype=torch.float64)
    assert torch.equal(combine([A, endless], [1.0, 0.0]), A)
    assert torch.equal(combine([A, B], [0.0, 0.0]), torch.zeros(SIZE, dtype=torch.float64))


@pytest.mark.parametrize("kind", [list, np.array, tuple])
def test_points_may_be_plain_numbers(kind):
    line = tw.Line(kind([0.1, 0.2]), kind([0.3, 0.4]))
    assert line.anchors[0].dtype == torch.float64
    assert line.point(0.0).tolist() == [0.1, 0.2]


def test_types_are_widened_to_a_common_one():
    line = tw.Line(A.float(), B)
    assert {anchor.dtype for anchor in line.anchors} == {torch.float64}
    assert torch.equal(line.anchors[0], A.float().double())


def test_points_are_detached():
    line = tw.Line(A.clone().requires_grad_(), B)
    assert not line.point(0.5).requires_grad


def test_labels_and_places():
    assert tw.Line(A, B).labels == ("start", "end")
    assert tw.BezierCurve([A, B, C]).labels == ("point 0", "point 1", "point 2")
    np.testing.assert_array_equal(tw.BezierCurve([A, B, C]).places, [0, np.nan, 1])
    assert tw.Polyline([A, B], labels=["a", "b"]).labels == ("a", "b")
    np.testing.assert_array_equal(tw.Polyline([A, B, C], knots=[2, 3, 7]).places, [2, 3, 7])
    assert tw.Plane.through(A, B, C).labels == ("a", "b", "c")
    np.testing.assert_array_equal(tw.Plane.through(A, B, C).places, [[0, 0], [1, 0], [0, 1]])
    around = tw.Plane((A, B, C), affine=False)
    assert around.labels == ("point 0",)
    np.testing.assert_array_equal(around.places, [[0, 0]])
    assert tw.Line(A, B).kind == "Line"
    assert dict(tw.Line(A, B).details) == {}


def test_points_made_by_flatten_bring_their_statistics():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    space = tw.ParameterSpace.of(model)
    line = tw.Line(space.flatten(model), space.flatten(model).double())
    assert set(line.buffers[0]) == {"1.running_mean", "1.running_var"}
    assert line.buffers[1] is None


def test_given_statistics_are_copied():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    table = {**model.state_dict(), "epoch": 3}
    line = tw.Line(torch.ones(10), torch.zeros(10), buffers=(model, table))
    for buffers in line.buffers:
        assert buffers["1.running_mean"].tolist() == [0, 0]
    model[1].running_mean += 1
    for buffers in line.buffers:
        assert buffers["1.running_mean"].tolist() == [0, 0]


# --- errors ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tw.BezierCurve([A]), r"two points at least; got 1. Give another point"),
        (lambda: tw.Line(A, B[1:]), r"vectors of one length; got shapes \[\(3,\), \(4,\)\]. Make"),
        (lambda: tw.Line(A[None], B[None]), r"shape \(P,\); got shape \(1, 4\) of torch.float64"),
        (lambda: tw.Line([1, 2], [3, 4]), r"floating-point numbers.* of torch.int64. Use"),
        (lambda: tw.Line(A, B * torch.nan), r"must be finite; entry 0 of a point is nan. Use a"),
        (lambda: tw.Line(A, [1.0, 2.0, np.inf, 0.0]), r"entry 2 of a point is inf"),
        (
            lambda: tw.Line(A, B, buffers=({},)),
            r"`buffers` needs one entry for each of the 2 anchors; got 1. Give the models",
        ),
        (
            lambda: tw.Line(A, B, labels=("a",)),
            r"`labels` needs one name for each of 2 points; got 1. Leave it out",
        ),
        (lambda: tw.BezierCurve([A, B, C], labels=("a", "b")), r"each of 3 points; got 2"),
        (lambda: tw.Plane((A, B, C), False, ("a", "b")), r"each of 1 points; got 2"),
        (lambda: tw.Plane((A, B)), r"A plane has three anchors; got 2. Use `Plane.through`"),
        (lambda: tw.Plane.through(A, B, A), r"not on one line; the ones given are. Use `Line`"),
        (lambda: tw.Plane.through(A, B, 3 * A - 2 * B), r"not on one line"),
        (lambda: tw.Plane.through(A, A, B), r"not on one line"),
        (
            lambda: tw.Polyline([A, B], knots=[0]),
            r"as many finite knots that ascend.*got \[.*0.*\]",
        ),
        (lambda: tw.Polyline([A, B], knots=[1, 0]), r"ascend strictly; got .*Leave `knots` out"),
        (lambda: tw.Polyline([A, B], knots=[0, np.nan]), r"finite knots"),
        (lambda: tw.Polyline([A, B], knots=[0, np.inf]), r"finite knots"),
        (lambda: tw.Line(A, B).point(0.5, 0.5), r"has 1 coordinates; got 2. Give one number"),
        (lambda: tw.Plane.through(A, B, C).point(0.5), r"has 2 coordinates; got 1"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# --- slopes ---------------------------------------------------------------------------------


LINES = {name: make for name, make in SECTIONS.items() if name != "plane"}


@pytest.mark.parametrize("make", LINES.values(), ids=LINES)
def test_slopes_are_the_derivatives_of_the_weights(make):
    section = make(A, B, C, D)
    at = np.array([-1.3, -0.4, 0.25, 0.7, 1.6, 2.2, 3.2])  # no corner
    h = 1e-6
    right = (section.weights(at + h) - section.weights(at - h)) / (2 * h)
    np.testing.assert_allclose(section.slopes(at), right, rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(section.slopes(at).sum(axis=1), 0, atol=1e-12)


def test_a_curve_leaves_its_ends_along_its_control_polygon():
    """Closed form: θ'(0) = d (P₁ − P₀), θ'(1) = d (P_d − P_(d−1))."""
    rates = tw.BezierCurve([A, B, C, D]).slopes([0.0, 1.0])
    assert rates.tolist() == [[-3, 3, 0, 0], [0, 0, -3, 3]]


def test_slopes_at_corners_are_those_of_the_piece_that_begins_there():
    path = tw.Polyline([A, B, C], knots=[-1.0, 1.0, 1.5])
    assert path.slopes([-1.0, 1.0, 1.5]).tolist() == [[-0.5, 0.5, 0], [0, -2, 2], [0, -2, 2]]
    assert path.slopes(np.nextafter(1.0, 0)).tolist() == [[-0.5, 0.5, 0]]


def test_a_plane_has_no_slopes():
    with pytest.raises(ValueError, match=r"along a section of one coordinate .* got Plane"):
        tw.Plane.through(A, B, C).slopes([[0.3, 0.4]])
