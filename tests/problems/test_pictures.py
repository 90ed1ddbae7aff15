import numpy as np
import pytest

from thalweg.errors import DataUnavailableError
from thalweg.problems import pictures
from thalweg.problems.pictures import cifar10, global_contrast_normalised, whitening


def test_contrast_normalisation_by_hand():
    images = np.random.default_rng(0).integers(0, 256, (5, 12)).astype(np.uint8)
    images[3] = 7  # flat: it stays flat
    found = global_contrast_normalised(images)
    np.testing.assert_allclose(found.mean(1), 0, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1)[[0, 1, 2, 4]], 55, rtol=1e-6)
    assert not found[3].any()
    centred = images[0] - images[0].mean()
    np.testing.assert_allclose(found[0], 55 * centred / np.linalg.norm(centred), rtol=1e-5)


def test_whitened_data_has_the_covariance_that_the_regulariser_leaves():
    draw = np.random.default_rng(1)
    x = (draw.standard_normal((4000, 6)) @ draw.standard_normal((6, 6)) + 3).astype(np.float32)
    mean, matrix = whitening(x)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-6)
    covariance = np.cov(((x - mean) @ matrix).T, bias=True)
    values, vectors = np.linalg.eigh(np.cov(x.T, bias=True))
    expected = (vectors * (values / (values + 0.1))) @ vectors.T
    np.testing.assert_allclose(covariance, expected, atol=1e-4)


@pytest.fixture(scope="module")
def data():
    try:
        return cifar10(examples=2000, download=False)
    except DataUnavailableError as error:
        pytest.skip(f"CIFAR-10 is not at hand: {error}")


def test_cifar_is_whitened_and_cut_by_position(data):
    assert {name: tuple(x.shape) for name, (x, _) in data.splits.items()} == {
        "train": (2000, 3, 32, 32),
        "valid": (10_000, 3, 32, 32),
        "test": (10_000, 3, 32, 32),
    }
    assert data.splits["train"][1][:6].tolist() == [6, 9, 9, 4, 1, 1]
    x = data.splits["valid"][0].flatten(1).numpy().astype(np.float64)
    scale = x.std(0)
    assert 0.4 < scale.min() < scale.max() < 1.5  # nearly white, on images not fitted to
    # Neighbours: 0.95 before. The regulariser leaves out the finest waves, so that some is left.
    assert np.corrcoef(x[:, 0], x[:, 1])[0, 1] < 0.6


def test_other_files_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("THALWEG_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "none"))
    for name in pictures._FILES:
        (tmp_path / name).write_bytes(bytes(3073))
    with pytest.raises(ValueError, match=r"The original data_batch_1.bin of CIFAR-10 is needed"):
        cifar10(download=False)
    (tmp_path / "data_batch_1.bin").unlink()
    with pytest.raises(DataUnavailableError, match=r"cifar-10-binary.tar.gz is needed"):
        cifar10(download=False)
    (tmp_path / "data_batch_1.bin.xz").write_bytes(b"no archive")
    with pytest.raises(ValueError, match="cannot be unpacked"):
        cifar10(download=False)


def test_the_number_of_examples_is_checked():
    with pytest.raises(ValueError, match="got examples=0"):
        cifar10(examples=0)
