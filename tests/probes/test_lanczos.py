import math

import numpy as np
import pytest
import torch

from thalweg.probes.lanczos import extreme_eigenpairs, random_vectors
from thalweg.probes.quadrature import lanczos_quadrature


class Operator:
    """A symmetric matrix that counts the vectors it is multiplied with."""

    def __init__(self, matrix, dtype=torch.float64):
        self.matrix = torch.as_tensor(matrix, dtype=dtype)
        self.used = 0

    def __call__(self, vectors):
        self.used += len(vectors)
        return vectors * self.matrix if self.matrix.ndim == 1 else vectors @ self.matrix


def solve(operator, k, *, seed=0, size=None, **options):
    size = len(operator.matrix) if size is None else size
    generator = torch.Generator().manual_seed(seed)
    start = random_vectors(1, operator.matrix.new_empty(size), generator)[0]
    pairs = extreme_eigenpairs(
        operator, start, k, generator=generator, report=lambda *_: None, **options
    )
    assert pairs.products == operator.used
    return pairs


def expect_ends(pairs, values, k, ends, within):
    """Raise unless the pairs are the k outermost of all values, as vectors too."""
    values = np.sort(np.asarray(values, dtype=float))
    low = values[:k] if ends != "largest" else values[:0]
    high = values[len(values) - k :] if ends != "smallest" else values[:0]
    expected = np.concatenate([low, high])
    if pairs.values.shape != expected.shape:
        raise AssertionError(f"{len(pairs.values)} values instead of {len(expected)}")
    error = np.abs(pairs.values - expected).max()
    if not error <= within:
        raise AssertionError(f"off by {error}")
    gram = (pairs.vectors @ pairs.vectors.T).numpy()
    apart = np.abs(gram - np.eye(len(gram))).max()
    if not apart <= 1e-4:
        raise AssertionError(f"vectors are not orthogonal: {apart}")


def bulk(count, width, seed=0):
    return np.random.default_rng(seed).normal(size=count) * width


OUTLIERS = np.array([5, 4, 3, 3, 3, 2, 2, 1.500001, 1.5, 1.4999])
SPECTRA = {
    "normal": bulk(600, 1.0),
    "triple eigenvalues and clusters": np.r_[bulk(500, 0.1), OUTLIERS, -2, -2, -2],
    "positive definite": np.geomspace(1, 1e3, 300),
    "negative definite": -np.arange(1, 400.0),
    "more negative than positive": np.r_[bulk(300, 0.1), -50.0, -40.0, 3.0, 2.0],
    "two-fold everything": np.repeat(np.linspace(-1, 2, 40), 2),
    "many copies of the largest": np.r_[np.ones(30), bulk(300, 0.05)],
    "rank one": np.r_[3.0, np.zeros(200)],
    "zero": np.zeros(200),
    "identity": np.ones(200),
}


@pytest.mark.parametrize("ends", ["both", "largest", "smallest"])
@pytest.mark.parametrize("name", SPECTRA)
def test_the_ends_of_known_spectra(name, ends):
    values = SPECTRA[name]
    scale = np.abs(values).max()
    operator = Operator(np.random.default_rng(1).permutation(values))
    pairs = solve(operator, 6, ends=ends, tolerance=1e-6)
    assert pairs.complete
    assert np.all(pairs.residuals <= 1e-6 * scale)
    expect_ends(pairs, values, 6, ends, within=2e-6 * scale)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_copies_in_the_interior_of_the_wanted_are_found_from_any_start(seed, dtype):
    values = SPECTRA["triple eigenvalues and clusters"]
    pairs = solve(Operator(values, dtype), 10, seed=seed, tolerance=1e-4)
    assert pairs.complete
    expect_ends(pairs, values, 10, "both", within=5e-4)
    assert np.sum(np.abs(pairs.values - 3) < 1e-3) == 3  # no ghost, no missing copy
    assert np.sum(np.abs(pairs.values + 2) < 1e-3) == 3


def test_a_single_krylov_space_would_miss_the_copies():
    # The control: what the search after convergence is for.
    values = np.r_[3.0, 3.0, 3.0, np.linspace(0, 1, 40)]
    start = torch.ones(1, 43, dtype=torch.float64)
    nodes, weights = lanczos_quadrature(Operator(values), start, 43)
    assert np.sum((np.abs(nodes - 3) < 1e-6) & (weights > 1e-9)) == 1
    pairs = solve(Operator(values), 3, ends="largest")
    np.testing.assert_allclose(pairs.values, 3, atol=1e-12)


@pytest.mark.parametrize("basis", [18, 25, 60])
def test_restarts_within_little_room_find_the_same(basis):
    values = SPECTRA["triple eigenvalues and clusters"]
    pairs = solve(Operator(values), 4, basis=basis, tolerance=1e-7)
    assert pairs.complete
    expect_ends(pairs, values, 4, "both", within=1e-9)


def test_the_number_of_products_is_that_of_one_krylov_space_and_a_little_more():
    values = np.r_[np.abs(bulk(20_000, 0.02)), np.geomspace(0.5, 10, 10)]
    operator = Operator(values, torch.float32)
    pairs = solve(operator, 10, ends="largest")
    expect_ends(pairs, values, 10, "largest", within=1e-3)
    assert operator.used <= 40
    both = Operator(values, torch.float32)
    solve(both, 10, ends="both")
    assert both.used > operator.used  # one end does not pay for the other


def test_a_dense_matrix_agrees_with_numpy_and_scipy():
    rng = np.random.default_rng(3)
    root = rng.normal(size=(300, 300))
    matrix = root + root.T
    expected = np.linalg.eigvalsh(matrix)
    pairs = solve(Operator(matrix), 5, tolerance=1e-9)
    expect_ends(pairs, expected, 5, "both", within=1e-9)
    from scipy.sparse.linalg import eigsh

    peer = np.sort(eigsh(matrix, k=10, which="BE", return_eigenvectors=False))
    np.testing.assert_allclose(pairs.values, peer, atol=1e-9)


def test_shift_scale_and_permutation():
    values = SPECTRA["triple eigenvalues and clusters"]
    options = {"tolerance": 1e-8}
    plain = solve(Operator(values), 5, **options).values
    shifted = solve(Operator(values + 7), 5, **options).values
    np.testing.assert_allclose(shifted - 7, plain, atol=1e-7)
    scaled = solve(Operator(values * 1e-9), 5, **options).values
    np.testing.assert_allclose(scaled * 1e9, plain, atol=1e-7)
    flipped = solve(Operator(-values), 5, **options).values
    np.testing.assert_allclose(-flipped[::-1], plain, atol=1e-7)
    order = np.random.default_rng(0).permutation(len(values))
    permuted = solve(Operator(values[order]), 5, **options).values
    np.testing.assert_allclose(permuted, plain, atol=1e-7)


def test_the_smallest_of_a_badly_conditioned_matrix_is_positive_within_its_residual():
    # The smallest values are closer together than the tolerance, and are a millionth of the
    # largest: which of them these are cannot be told, but that they are positive can.
    operator = Operator(np.geomspace(1e-3, 1e3, 300))
    pairs = solve(operator, 3, ends="smallest", tolerance=2e-6, limit=700)
    assert np.all(pairs.residuals <= 1e-2)  # converged or not, the residual bounds the error
    assert np.all(pairs.values + pairs.residuals > 0)
    nearest = np.abs(operator.matrix[:, None].numpy() - pairs.values).min(axis=0)
    assert np.all(nearest <= pairs.residuals)
    assert operator.used <= 700


def test_largest_is_not_largest_by_magnitude():
    values = np.r_[-100.0, -90.0, bulk(400, 0.5), 4.0]
    pairs = solve(Operator(values), 1, ends="largest")
    assert pairs.values[0] == pytest.approx(4, abs=1e-3)
    assert pairs.scale > 99


def test_out_of_budget_the_residuals_say_so():
    values = np.linspace(0, 1, 2000) ** 0.2
    operator = Operator(values)
    pairs = solve(operator, 5, limit=30, tolerance=1e-8)
    assert operator.used <= 30
    assert not pairs.complete
    assert np.any(pairs.residuals > 1e-8)
    matrix = torch.as_tensor(values)
    true = (matrix * pairs.vectors - torch.from_numpy(pairs.values)[:, None] * pairs.vectors).norm(
        dim=1
    )
    np.testing.assert_allclose(pairs.residuals, true, rtol=1e-9)


def test_the_residual_bounds_the_error():
    values = bulk(700, 1.0, seed=4)
    pairs = solve(Operator(values), 5, tolerance=1e-2)
    nearest = np.abs(values[:, None] - pairs.values).min(axis=0)
    assert np.all(nearest <= pairs.residuals + 1e-12)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_product_that_is_not_finite_is_refused(bad):
    values = np.r_[1.0, bad, np.ones(50)]
    with pytest.raises(ValueError, match="finite; a product with it holds NaN or infinity"):
        solve(Operator(values), 2)
    with pytest.raises(ValueError, match="finite; a product with it holds NaN or infinity"):
        lanczos_quadrature(Operator(values), torch.ones(1, 52, dtype=torch.float64), 5)


def test_the_check_of_ends_fails_for_wrong_ones():
    values = SPECTRA["normal"]
    pairs = solve(Operator(values), 3, tolerance=1e-8)
    with pytest.raises(AssertionError, match="off by"):
        expect_ends(pairs, values + 0.1, 3, "both", within=1e-6)
    with pytest.raises(AssertionError, match="6 values instead of 3"):
        expect_ends(pairs, values, 3, "largest", within=1e-6)


# Quadrature


def test_quadrature_is_exact_for_polynomials():
    values = bulk(50, 1.0, seed=5)
    start = random_vectors(1, torch.empty(50).double(), torch.Generator().manual_seed(0))
    nodes, weights = lanczos_quadrature(Operator(values), start, 6)
    seen = (start[0] ** 2 / (start[0] @ start[0])).numpy()
    for degree in range(12):
        exact = float(seen @ values**degree)
        scale = float(seen @ np.abs(values) ** degree)
        assert float(weights[0] @ nodes[0] ** degree) == pytest.approx(exact, abs=1e-12 * scale)
    degree = 12  # the control: one more is one too many
    assert float(weights[0] @ nodes[0] ** degree) != pytest.approx(float(seen @ values**degree))


def test_weights_are_squares_of_first_components_and_not_of_all():
    # Squares of the whole matrix would give each node the weight 1.
    start = torch.randn(3, 40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    _, weights = lanczos_quadrature(Operator(bulk(40, 1.0)), start, 8)
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-12)
    assert weights.std() > 0.01


def test_an_invariant_space_ends_a_probe_early():
    start = torch.randn(2, 60, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    values = np.r_[np.full(20, 2.0), np.full(40, 5.0)]
    nodes, weights = lanczos_quadrature(Operator(values), start, 10)
    used = weights > 1e-12
    assert np.all(used.sum(axis=1) == 2)
    np.testing.assert_allclose(np.sort(nodes[used].reshape(2, 2), axis=1), [[2, 5], [2, 5]])
    assert nodes.min() > 1.99  # zeros of unused rows are no eigenvalues
