import copy
import pickle

import numpy as np
import pytest
import torch

import thalweg as tw
from cases import FUNCTIONS
from thalweg.functions import chain, quadratic


def network(width=20, dtype=torch.float64, scale=1.0):
    """Return a small network on random data, and a point: 20·5 + 20·20 + 20·3 + biases."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = torch.nn.Sequential(
            torch.nn.Linear(5, width),
            torch.nn.Tanh(),
            torch.nn.Linear(width, width),
            torch.nn.Tanh(),
            torch.nn.Linear(width, 3),
        )
        x, y = torch.randn(60, 5), torch.randint(3, (60,))

    def loss(output, target):
        return scale * torch.nn.functional.cross_entropy(output, target)

    objective = tw.ModelObjective(model, loss, (x, y), dtype=dtype)
    return objective, 2 * objective.space.flatten(model).to(dtype)


def dense_hessian(objective, theta):
    """The whole Hessian by torch, as an independent computation."""
    theta = torch.as_tensor(theta, dtype=torch.float64)
    if isinstance(objective, tw.FunctionObjective):
        return torch.autograd.functional.hessian(objective.scalar, theta).numpy()
    rows = [objective.hvp(theta, unit) for unit in torch.eye(len(theta), dtype=torch.float64)]
    return torch.stack(rows).numpy()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_all_eigenvalues_of_closed_forms(name):
    case = FUNCTIONS[name]
    found = tw.spectrum(case.objective, case.start)
    expected = np.linalg.eigvalsh(case.hessian(case.start))
    np.testing.assert_allclose(found.eigenvalues, expected, atol=1e-12 * max(1, found.scale))
    assert found.ends == "all"
    assert found.complete
    assert found.converged.all()
    assert found.loss == pytest.approx(case.value(case.start))
    assert found.gradient_norm == pytest.approx(np.linalg.norm(case.gradient(case.start)))
    assert found.method.startswith("dense")


@pytest.mark.parametrize("ends", ["both", "largest", "smallest"])
def test_a_network_against_its_dense_hessian(ends):
    objective, theta = network()
    expected = np.linalg.eigvalsh(dense_hessian(objective, theta))
    found = tw.spectrum(objective, theta, 4, ends=ends, tolerance=1e-8)
    low = expected[:4] if ends != "largest" else expected[:0]
    high = expected[-4:] if ends != "smallest" else expected[:0]
    np.testing.assert_allclose(found.eigenvalues, np.r_[low, high], atol=1e-8 * found.scale)
    assert found.method.startswith("Lanczos")
    assert found.complete
    assert found.size == 603
    assert found.products < 300


def test_single_precision_is_as_good_as_its_rounding():
    objective, theta = network(dtype=torch.float32)
    exact, point = network()
    found = tw.spectrum(objective, theta, 4)
    expected = np.linalg.eigvalsh(dense_hessian(exact, point))
    np.testing.assert_allclose(
        found.eigenvalues, np.r_[expected[:4], expected[-4:]], atol=1e-4 * found.scale
    )
    assert found.converged.all()


def test_the_residuals_are_those_of_the_eigenvectors():
    objective, theta = network()
    found = tw.spectrum(objective, theta, 3, tolerance=1e-3)
    for value, vector, residual in zip(
        found.eigenvalues, found.eigenvectors, found.residuals, strict=True
    ):
        product = objective.hvp(theta, vector).numpy()
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-12)
        assert np.linalg.norm(product - value * vector) == pytest.approx(residual, abs=1e-10)


def test_scaling_the_cost_scales_the_spectrum_and_nothing_else():
    found = tw.spectrum(*network(), 3)
    scaled = tw.spectrum(*network(scale=1e-6), 3)
    np.testing.assert_allclose(scaled.eigenvalues * 1e6, found.eigenvalues, atol=1e-4)
    assert scaled.products == found.products
    np.testing.assert_array_equal(scaled.converged, found.converged)


def test_splitting_the_data_into_batches_changes_nothing():
    model = torch.nn.Linear(5, 3)
    x, y = torch.randn(30, 5, generator=torch.Generator().manual_seed(1)), torch.arange(30) % 3
    whole, parts = (
        tw.ModelObjective(
            model, torch.nn.CrossEntropyLoss(), (x, y), batch_size=size, dtype=torch.float64
        )
        for size in (None, 7)
    )
    point = whole.space.flatten(model).double()
    np.testing.assert_allclose(
        tw.spectrum(whole, point).eigenvalues, tw.spectrum(parts, point).eigenvalues, atol=1e-12
    )


def test_restricted_to_a_layer():
    objective, theta = network()
    names = list(objective.space.names)
    found = tw.spectrum(objective, theta, 3, within="4")
    assert found.size == 63
    assert found.provenance.section["within"] == names[-2:]
    block = dense_hessian(objective, theta)[-63:, -63:]
    expected = np.linalg.eigvalsh(block)
    np.testing.assert_allclose(found.eigenvalues, np.r_[expected[:3], expected[-3:]], atol=1e-12)
    assert found.eigenvectors.shape == (6, 603)
    assert not found.eigenvectors[:, :-63].any()


def test_eigenvectors_are_directions_of_a_plane():
    case = FUNCTIONS["quadratic-7"]
    theta = torch.from_numpy(case.start)
    found = tw.spectrum(case.objective, theta)
    down, up = (torch.from_numpy(v.copy()) for v in found.eigenvectors[[0, -1]])
    plane = tw.Plane((theta, down, up), affine=False, labels=("θ",))
    surface = tw.surface(case.objective, plane, [-1.0, 0.0, 1.0], [-1.0, 0.0, 1.0])
    loss = surface.loss["train"]
    along_x = loss[1, 0] - 2 * loss[1, 1] + loss[1, 2]  # second differences of a quadratic
    along_y = loss[0, 1] - 2 * loss[1, 1] + loss[2, 1]
    assert along_x == pytest.approx(found.eigenvalues[0], abs=1e-9)
    assert along_y == pytest.approx(found.eigenvalues[-1], abs=1e-9)


def test_one_parameter_and_just_above_twice_k():
    (only,) = tw.spectrum(quadratic([[3.0]]), [2.0]).eigenvalues
    assert only == pytest.approx(3)
    diagonal = np.diag([5.0, -3, 2, 7, 1])
    found = tw.spectrum(quadratic(diagonal), np.ones(5), 2)
    np.testing.assert_allclose(found.eigenvalues, [-3, 1, 5, 7])
    assert found.ends == "both"
    assert tw.spectrum(quadratic(diagonal), np.ones(5), 3).ends == "all"


@pytest.mark.parametrize("depth", [2, 3, 11])
def test_chains_at_the_origin(depth):
    found = tw.spectrum(chain(depth), np.zeros(depth))
    expected = np.zeros(depth)
    if depth == 2:
        expected = np.array([-2.0, 2.0])
    np.testing.assert_allclose(found.eigenvalues, expected, atol=1e-15)
    assert found.converged.all()


def test_a_large_positive_definite_cost_has_no_negative_eigenvalue():
    values = np.geomspace(1e-4, 10, 400)
    cost = tw.FunctionObjective(
        lambda t: 0.5 * (torch.from_numpy(values) * (t - 1) ** 2).sum(), size=400
    )
    found = tw.spectrum(cost, np.full(400, 3.0), 5)
    assert np.all(found.eigenvalues + found.residuals > 0)
    assert found.converged.all()


def test_what_has_not_converged_says_so():
    values = np.linspace(0, 1, 1000)
    cost = tw.FunctionObjective(
        lambda t: 0.5 * (torch.from_numpy(values) * (t - 1) ** 2).sum(), size=1000
    )
    found = tw.spectrum(cost, np.full(1000, 2.0), 3, limit=20, tolerance=1e-6)
    assert found.products <= 20
    assert not found.converged.all()
    assert not found.complete
    nearest = np.abs(values[:, None] - found.eigenvalues).min(axis=0)
    assert np.all(nearest <= found.residuals)


def test_without_the_search_there_are_fewer_products_and_no_claim_of_completeness():
    objective, theta = network()
    sure = tw.spectrum(objective, theta, 4, ends="largest", tolerance=1e-6)
    quick = tw.spectrum(objective, theta, 4, ends="largest", tolerance=1e-6, search_missed=False)
    np.testing.assert_allclose(quick.eigenvalues, sure.eigenvalues, atol=1e-6 * sure.scale)
    assert quick.products < 0.7 * sure.products
    assert sure.complete
    assert not quick.complete
    assert quick.converged.all()
    for value, vector, residual in zip(
        quick.eigenvalues, quick.eigenvectors, quick.residuals, strict=True
    ):
        real = np.linalg.norm(objective.hvp(theta, vector).numpy() - value * vector)
        assert real == pytest.approx(residual, abs=1e-9 * quick.scale)


def test_the_search_makes_sure_of_all_copies_of_a_multiple_eigenvalue():
    values = np.r_[np.linspace(0, 1, 300), 3, 3, 3]
    cost = tw.FunctionObjective(
        lambda t: 0.5 * (torch.from_numpy(values) * (t - 1) ** 2).sum(), size=len(values)
    )
    theta = np.full(len(values), 2.0)
    settings = {"k": 3, "ends": "largest", "tolerance": 1e-6}
    sure = tw.spectrum(cost, theta, **settings)
    quick = tw.spectrum(cost, theta, search_missed=False, **settings)
    np.testing.assert_allclose(sure.eigenvalues, 3, atol=1e-9)
    # One Krylov space has one copy, and more of them by rounding alone.
    nearest = np.abs(values[:, None] - quick.eigenvalues).min(axis=0)
    assert np.all(nearest <= quick.residuals + 1e-12)
    assert (sure.complete, quick.complete) == (True, False)


def test_the_seed_decides_and_the_global_generator_is_left_alone():
    objective, theta = network()
    before = torch.random.get_rng_state()
    first, again = (tw.spectrum(objective, theta, 2, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.eigenvectors, again.eigenvectors)
    assert torch.equal(before, torch.random.get_rng_state())
    assert tw.spectrum(objective, theta, 2, vectors=False).eigenvectors.shape == (0, 0)


def test_progress_is_reported():
    told = []
    objective, theta = network()
    tw.spectrum(objective, theta, 2, progress=lambda *step: told.append(step))
    assert told[-1][0] <= told[-1][1] == 4
    assert "products" in told[-1][2]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"k": 0}, "`k` must be 1 or more; got 0"),
        ({"ends": "top"}, "'both', 'largest' or 'smallest'; got 'top'"),
        ({"tolerance": 0.0}, "between 0 and 1; got 0.0"),
        ({"limit": 1}, "`limit` must be 2 or more; got 1"),
        ({"limit": 9, "k": 5}, "Two products for each of 10 eigenvalues are the least"),
    ],
)
def test_settings_out_of_range_are_refused(settings, words):
    objective, theta = network()
    with pytest.raises(ValueError, match=words):
        tw.spectrum(objective, theta, **settings)


def test_a_model_is_no_objective():
    with pytest.raises(TypeError, match="first argument is an objective; got Linear"):
        tw.spectrum(torch.nn.Linear(2, 2), torch.zeros(6))


@pytest.mark.parametrize("size", [3, 400])
def test_curvature_that_is_not_finite_is_refused(size):
    cost = tw.FunctionObjective(lambda t: (t**2).sum() + (t[0] - 1).abs().sqrt(), size=size)
    with pytest.raises(ValueError, match="curvature must be finite"):
        tw.spectrum(cost, np.ones(size), 1)


def test_results_are_checked_copied_and_kept(tmp_path):
    with pytest.raises(ValueError, match="one eigenvalue at least"):
        tw.Spectrum([], [])
    with pytest.raises(ValueError, match="Eigenvalues ascend"):
        tw.Spectrum([2.0, 1.0], [0.0, 0.0])
    with pytest.raises(ValueError, match="`residuals` must have shape"):
        tw.Spectrum([1.0], [0.0, 0.0])
    found = tw.spectrum(FUNCTIONS["chain-3"].objective, FUNCTIONS["chain-3"].start)
    for other in (copy.deepcopy(found), pickle.loads(pickle.dumps(found))):  # noqa: S301
        np.testing.assert_array_equal(other.eigenvalues, found.eigenvalues)
    record = tw.Record(study="spectrum", results={"spectrum": found})
    tw.save_record(record, tmp_path)
    kept = tw.open_record(tmp_path).results["spectrum"]
    np.testing.assert_array_equal(kept.eigenvectors, found.eigenvectors)
    assert (kept.ends, kept.complete, kept.products) == ("all", True, found.products)
    assert kept.provenance == found.provenance
