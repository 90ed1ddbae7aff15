from dataclasses import replace

import numpy as np
import pytest
import torch

import thalweg as tw
from cases import Overwriting, normal
from thalweg.trajectory import passes, principal
from thalweg.trajectory.principal import principal_axes, random_walk_shares


def walk(points=100, size=20_000, seed=0):
    return torch.cumsum(normal(points, size, seed=seed), dim=0)


def singular(points, center):
    """Shares, coordinates and distances by NumPy's dense singular values."""
    x = points.double().numpy()
    x = x - (x.mean(axis=0) if center == "mean" else x[-1])
    _, s, v = np.linalg.svd(x, full_matrices=False)
    places = x @ v[:2].T
    return s**2 / (s**2).sum(), places, np.linalg.norm(x - places @ v[:2], axis=1)


@pytest.mark.parametrize("center", ["last", "mean"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_principal_axes_are_those_of_a_dense_decomposition(center, dtype):
    points = (2 + torch.cumsum(normal(12, 30, seed=1), 0)).to(dtype)
    found = principal_axes(tw.Trajectory.from_points(points), center)
    shares, places, off = singular(points, center)
    np.testing.assert_allclose(found.explained, shares, rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(np.abs(found.coordinates), np.abs(places), rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(found.off, off, rtol=1e-9, atol=1e-11)
    first, second = (axis.double() for axis in found.axes)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-6
    products = [float(a @ b) for a, b in ((first, first), (second, second), (first, second))]
    assert products == pytest.approx([1, 1, 0], abs=tolerance)
    assert found.centre.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert found.coordinates[-1, 0] >= found.coordinates[0, 0]


@pytest.mark.parametrize("center", ["last", "mean"])
def test_blocks_and_pieces_change_nothing(monkeypatch, center):
    points = 1 + torch.cumsum(normal(11, 50, seed=2), 0)
    whole = principal_axes(tw.Trajectory.from_points(points), center)
    monkeypatch.setattr(principal, "_BYTES", 2 * 3 * 50 * 8)
    monkeypatch.setattr(passes, "_PIECE", 7)
    passing = replace(tw.Trajectory.from_points(points), points=Overwriting(points))
    cut = principal_axes(passing, center)
    np.testing.assert_allclose(cut.explained, whole.explained, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(cut.coordinates, whole.coordinates, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(cut.off, whole.off, rtol=1e-9)


def test_a_random_walk_draws_cosines_that_explain_61_and_15_percent():
    found = principal_axes(tw.Trajectory.from_points(walk()), "mean")
    expected = random_walk_shares(100)
    assert expected[:2] == pytest.approx([6 / np.pi**2, 1.5 / np.pi**2], rel=1e-3)
    assert expected.sum() == pytest.approx(1)
    np.testing.assert_allclose(found.explained[:3], expected[:3], rtol=0.03)
    phase = np.pi * (np.arange(100) + 0.5) / 100
    for k, place in enumerate(found.coordinates.T, 1):
        cosine = np.cos(k * phase)
        assert abs(np.corrcoef(place, cosine)[0, 1]) > 0.995


def test_the_closed_form_is_the_spectrum_of_the_expected_gram_matrix():
    count = 40
    at = np.arange(1, count + 1)
    gram = np.minimum(at[:, None], at)  # of a walk, per dimension
    centring = np.eye(count) - 1 / count
    values = np.linalg.eigvalsh(centring @ gram @ centring)[::-1]
    np.testing.assert_allclose(
        values[: count - 1] / values.sum(), random_walk_shares(count), rtol=1e-10
    )


def test_independent_points_are_no_walk():
    found = principal_axes(tw.Trajectory.from_points(normal(100, 20_000, seed=3)), "mean")
    assert found.explained[0] < 0.02


def test_a_principal_plane_goes_through_its_centre_along_unit_vectors():
    points = 1 + torch.cumsum(normal(9, 6, seed=4), 0)
    trajectory = tw.Trajectory.from_points(points)
    plane = tw.Plane.principal(trajectory)
    assert torch.equal(plane.point(0, 0), points[-1])
    np.testing.assert_allclose(plane.gram, np.eye(2), atol=1e-12)
    shares, places, off = singular(points, "last")
    assert plane.details["explained"] == pytest.approx(shares[:2])
    assert plane.details["off"] == pytest.approx(off, rel=1e-5, abs=1e-12)
    np.testing.assert_allclose(np.abs(plane.details["coordinates"]), np.abs(places), rtol=1e-4)
    for place, far, theta in zip(plane.details["coordinates"], off, points, strict=True):
        shadow = plane.point(*place)
        assert float((theta - shadow).norm()) == pytest.approx(far, rel=1e-4, abs=1e-5)
    mean = tw.Plane.principal(trajectory, "mean")
    torch.testing.assert_close(mean.point(0, 0), points.mean(dim=0))
    assert (plane.labels, mean.labels) == (("last",), ("mean",))


def test_a_surface_on_a_principal_plane_keeps_what_it_hides():
    points = 1 + torch.cumsum(normal(9, 6, seed=4), 0)
    bowl = tw.FunctionObjective(lambda t: t @ t, size=6)
    plane = tw.Plane.principal(tw.Trajectory.from_points(points), "mean")
    surface = tw.surface(bowl, plane, [-1.0, 0.0, 1.0], [-1.0, 0.0, 1.0], progress=False)
    assert max(surface.provenance.section["off"]) > 0.1
    assert len(surface.provenance.section["explained"]) == 2


def test_the_principal_surface_is_that_of_the_plane_with_the_run_at_its_true_cost():
    points = 1 + torch.cumsum(normal(9, 6, seed=4), 0)
    bowl = tw.FunctionObjective(lambda t: t @ t + t[0] ** 3, size=6)
    trajectory = tw.Trajectory.from_points(points)
    for center in ("last", "mean"):
        picture = tw.principal_surface(bowl, trajectory, center, along=4, across=5)
        plane = tw.Plane.principal(trajectory, center)
        expected = [[bowl.value(plane.point(a, b)) for b in picture.across] for a in picture.along]
        np.testing.assert_allclose(picture.loss["train"], expected, rtol=1e-12)
        true = [bowl.value(theta) for theta in points]
        np.testing.assert_array_equal(picture.run.loss["train"], true)
        shares, _, off = singular(points, center)
        np.testing.assert_allclose(picture.explained[:6], shares, atol=1e-12)
        np.testing.assert_allclose(picture.run.off, off, rtol=1e-9, atol=1e-11)
        assert picture.run.off[2] > 0.1
        assert picture.along[0] < picture.run.projection.min()
        assert picture.along[-1] > picture.run.projection.max()


def test_runs_without_a_plane_are_refused():
    line = torch.linspace(0, 1, 5, dtype=torch.float64)[:, None] * normal(4, seed=1) + 2
    with pytest.raises(ValueError, match="not on one line; its second component has"):
        tw.Plane.principal(tw.Trajectory.from_points(line))
    with pytest.raises(ValueError, match="needs three points"):
        tw.Plane.principal(tw.Trajectory.from_points(line[:2]))
    with pytest.raises(ValueError, match="not on one line; its second component has 0 of"):
        tw.Plane.principal(tw.Trajectory.from_points(line[[1, 1, 1]]))
    with pytest.raises(ValueError, match="`center` must be 'last' or 'mean'; got 'first'"):
        tw.Plane.principal(tw.Trajectory.from_points(line), "first")
    with pytest.raises(TypeError, match=r"are those of a trajectory; got str\. Use `Trajectory"):
        tw.Plane.principal("runs/mlp")
