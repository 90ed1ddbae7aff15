"""CIFAR-10, normalised and whitened as for the convolutional maxout network.

The binary version is read: records of one label byte and 3072 pixel bytes, without any pickle.
"""

import hashlib
import lzma
import tarfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from thalweg.problems.data import DataSet, checksum_of, data_folders, fetch

__all__ = ["cifar10", "global_contrast_normalised", "whitening"]

_RECORD = 1 + 3 * 32 * 32
# SHA-256 sums of the unpacked files, in the order of the examples.
_FILES = {
    "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
    "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
    "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
    "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
    "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
    "test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
}
_TRAIN, _VALID = 40_000, 50_000
_SCALE = 55.0
_SMALL = 1e-8  # a norm below this stays
_REGULARISER = 0.1
_CHUNK = 5000


def cifar10(*, examples: int = _TRAIN, download: bool = True) -> DataSet:
    """Return the pictures of CIFAR-10 after global contrast normalisation and ZCA whitening.

    Each image loses its own mean and is scaled to the norm 55; then all are multiplied with the
    whitening matrix of the 50,000 training images. The training split is the first 40,000 of
    these (or the first `examples`), the validation split the last 10,000, the test split the
    10,000 test images: the procedure of Goodfellow et al. (2013), Maxout networks, section 5.2.

    The binary version is taken from `$THALWEG_DATA/cifar10/`: its six files, each as it is or
    packed with xz, or the archive `cifar-10-binary.tar.gz`, which is downloaded otherwise.

    Args:
        examples: Number of training examples, counted from the first.
        download: Whether the archive may be downloaded to the user's cache.

    Returns:
        The splits `"train"`, `"valid"` and `"test"`, with inputs of shape (n, 3, 32, 32).

    Raises:
        DataUnavailableError: If the files are in no folder and are not downloaded.
        ValueError: If a file is not the original one, or `examples` is out of range.
    """
    if not 1 <= examples <= _TRAIN:
        raise ValueError(
            f"CIFAR-10 has {_TRAIN:,} training examples besides the validation split; got "
            f"examples={examples}. Give a number from 1 to {_TRAIN}."
        )
    images, labels = _originals(download)
    normal = global_contrast_normalised(images[:_VALID])
    mean, matrix = whitening(normal)
    test = global_contrast_normalised(images[_VALID:])
    parts = {
        "train": (normal[:examples], labels[:examples]),
        "valid": (normal[_TRAIN:], labels[_TRAIN:_VALID]),
        "test": (test, labels[_VALID:]),
    }
    splits = {
        name: (
            torch.from_numpy(((x - mean) @ matrix).reshape(-1, 3, 32, 32)),
            torch.from_numpy(y.astype(np.int64)),
        )
        for name, (x, y) in parts.items()
    }
    source = "binary version of CIFAR-10, contrast normalised and whitened"
    return DataSet("cifar10", splits, source, checksum_of(splits))


def global_contrast_normalised(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return images without their means, scaled to a common norm of 55.

    x ← 55 (x − mean(x)) / ‖x − mean(x)‖, image by image; a norm below 10⁻⁸ counts as 1.

    Args:
        images: Shape (n, entries).

    Example:
        >>> x = global_contrast_normalised(np.array([[0, 2], [3, 3]], np.uint8))
        >>> x.round(3)
        array([[-38.891,  38.891],
               [  0.   ,   0.   ]], dtype=float32)
    """
    x = images.astype(np.float32)
    x -= x.mean(1, keepdims=True, dtype=np.float64).astype(np.float32)
    norm = np.sqrt(np.square(x, dtype=np.float64).sum(1, keepdims=True))
    norm[norm < _SMALL] = 1.0
    x *= (_SCALE / norm).astype(np.float32)
    return x


def whitening(images: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return mean and matrix of ZCA whitening, (C + 0.1 I)^(−1/2) with the covariance C.

    Args:
        images: Shape (n, entries).

    Returns:
        The mean, shape (entries,), and the symmetric matrix, shape (entries, entries), both
        computed in float64: images are whitened by `(x - mean) @ matrix`.
    """
    mean = images.mean(0, dtype=np.float64)
    covariance = np.zeros((images.shape[1], images.shape[1]))
    for first in range(0, len(images), _CHUNK):
        part = images[first : first + _CHUNK] - mean
        covariance += part.T @ part
    covariance /= len(images)
    covariance[np.diag_indices_from(covariance)] += _REGULARISER
    values, vectors = np.linalg.eigh(covariance)
    matrix = (vectors / np.sqrt(values)) @ vectors.T
    return mean.astype(np.float32), matrix.astype(np.float32)


def _originals(download: bool) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return images, shape (60000, 3072), and labels, training before test."""
    found = {name: _in_a_folder(name) for name in _FILES}
    if None in found.values():
        found = _from_archive(fetch("cifar10", download=download)["cifar-10-binary.tar.gz"])
    records = []
    for name, content in found.items():
        assert content is not None
        sha256 = hashlib.sha256(content).hexdigest()
        if sha256 != _FILES[name]:
            raise ValueError(
                f"The original {name} of CIFAR-10 is needed, with SHA-256 sum {_FILES[name]}; the "
                f"one found has {sha256}. Remove or replace that file."
            )
        records.append(np.frombuffer(content, np.uint8).reshape(-1, _RECORD))
    whole = np.concatenate(records)
    return whole[:, 1:], whole[:, 0]


def _in_a_folder(name: str) -> bytes | None:
    """Return one of the files as it is, or unpacked; None where it is in no folder."""
    for folder in data_folders("cifar10"):
        if (folder / name).is_file():
            return (folder / name).read_bytes()
        packed = folder / f"{name}.xz"
        if packed.is_file():
            try:
                return lzma.decompress(packed.read_bytes())
            except lzma.LZMAError as error:
                raise ValueError(
                    f"A file packed with xz is needed; {packed} cannot be unpacked ({error}). "
                    "Remove or replace that file."
                ) from error
    return None


def _from_archive(path: Path) -> dict[str, bytes | None]:
    """Return the files of the archive."""
    found: dict[str, bytes | None] = {}
    with tarfile.open(path, "r:gz") as archive:
        for name in _FILES:
            member = archive.extractfile(f"cifar-10-batches-bin/{name}")
            assert member is not None
            found[name] = member.read()
    return found
