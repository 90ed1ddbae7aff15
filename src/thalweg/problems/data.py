"""Data sets of the studies, read from their original files and never redistributed.

A file is looked for in the folder `$THALWEG_DATA`, then in the user's cache, and is then
downloaded where that is allowed. Whatever its origin, its SHA-256 sum must be that of the
original.
"""

import gzip
import hashlib
import http.client
import math
import os
import shutil
import struct
import tempfile
import urllib.request
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from thalweg.errors import DataUnavailableError

__all__ = ["DataSet", "checksum_of", "data_folders", "digits", "fetch", "mnist", "read_idx"]

_TIMEOUT = 60.0  # seconds without an answer of the server


@dataclass(frozen=True, kw_only=True)
class _Source:
    """Where the files of a data set come from.

    Attributes:
        files: Name of each file to its SHA-256 sum.
        url: Address of the folder that holds the files; None for data that their licence
            keeps off public servers, which can come from a folder only.
    """

    files: Mapping[str, str]
    url: str | None


_SOURCES: dict[str, _Source] = {
    "mnist": _Source(
        url="https://ossci-datasets.s3.amazonaws.com/mnist/",
        files={
            "train-images-idx3-ubyte.gz": (
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"
            ),
            "train-labels-idx1-ubyte.gz": (
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"
            ),
            "t10k-images-idx3-ubyte.gz": (
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"
            ),
            "t10k-labels-idx1-ubyte.gz": (
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"
            ),
        },
    ),
    "cifar10": _Source(
        url="https://www.cs.toronto.edu/~kriz/",
        files={
            "cifar-10-binary.tar.gz": (
                "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
            ),
        },
    ),
    # Mikolov's version; the Linguistic Data Consortium sells the text.
    "ptb": _Source(
        url=None,
        files={
            "ptb.train.txt.gz": "c4c6455d85f60640431f7bc738d51265ba2d55dcce10e8906322d6f9e3dcca81",
            "ptb.valid.txt.gz": "f2148d96d82f827399b7e5040868a4541bd2d2612ebaf5a2ff213bc07fd74eb8",
            "ptb.test.txt.gz": "5015d206077ff3e96161868c5c280ec8a28e9ad5617ef99ee0e734aaef6130c5",
        },
    ),
    "tinyshakespeare": _Source(
        url="https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/",
        files={
            "input.txt": "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
        },
    ),
}


@dataclass(frozen=True, eq=False)
class DataSet:
    """Examples with their labels, cut into splits.

    Attributes:
        name: Name of the data set.
        splits: Split to (inputs, labels): float32 of shape (n, ...), in [0, 1] where they are
            not whitened, and int64 of shape (n,); of a text, int64 tokens and those that follow
            them, both of shape (streams, tokens). The first split is `"train"`.
        source: Where the data came from.
        checksum: SHA-256 sum over names, shapes and bytes of all splits; two runs with the
            same checksum saw the same examples in the same order.
    """

    name: str
    splits: Mapping[str, tuple[Tensor, Tensor]]
    source: str
    checksum: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "splits", MappingProxyType(dict(self.splits)))


def digits(*, seed: int = 0, train: int = 1437) -> DataSet:
    """Return the 1797 digits of 8 by 8 pixels that come with scikit-learn.

    They need no download. Pixels are divided by their largest value, 16. The examples are
    shuffled with `seed`, since consecutive ones are often by the same writer, and then cut.

    Args:
        seed: Seed of the split.
        train: Number of training examples; the others are for validation. The default leaves
            360, a fifth.

    Returns:
        The splits `"train"` and `"valid"`, with inputs of shape (n, 64).

    Raises:
        ImportError: If scikit-learn is not installed (`pip install 'thalweg[data]'`).
        ValueError: If `train` leaves one of the splits without examples.

    Example:
        >>> data = digits()
        >>> {name: tuple(x.shape) for name, (x, y) in data.splits.items()}
        {'train': (1437, 64), 'valid': (360, 64)}
    """
    try:
        import sklearn
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "The digits come with scikit-learn, which is not installed. "
            "Install it with `pip install 'thalweg[data]'`."
        ) from error
    images, labels = load_digits(return_X_y=True)
    if not 0 < train < len(labels):
        raise ValueError(
            f"Of {len(labels)} digits, both splits need some; got train={train}. "
            f"Give a number from 1 to {len(labels) - 1}."
        )
    order = np.random.default_rng(seed).permutation(len(labels))
    x = torch.from_numpy((images[order] / 16).astype(np.float32))
    y = torch.from_numpy(labels[order].astype(np.int64))
    splits = {"train": (x[:train], y[:train]), "valid": (x[train:], y[train:])}
    source = f"scikit-learn {sklearn.__version__}, shuffled with seed {seed}"
    return DataSet("digits", splits, source, checksum_of(splits))


def mnist(*, examples: int = 50_000, download: bool = True) -> DataSet:
    """Return the MNIST digits of 28 by 28 pixels, divided by 255 and not centred.

    The training split is the first 50,000 of the 60,000 training examples (or the first
    `examples` of those), the validation split always the last 10,000, neither shuffled; the
    test split is the 10,000 test examples. This is the split of Goodfellow et al. (2013, 2015).

    Set `THALWEG_DATA` to a folder that holds the four original files, itself or in `mnist/`,
    to use them from there.

    Args:
        examples: Number of training examples, counted from the first.
        download: Whether files that are in no folder may be downloaded to the user's cache.

    Returns:
        The splits `"train"`, `"valid"` and `"test"`, with inputs of shape (n, 784).

    Raises:
        DataUnavailableError: If a file is in no folder and is not downloaded.
        ValueError: If a file is not the original one, or `examples` is out of range.
    """
    if not 1 <= examples <= 50_000:
        raise ValueError(
            f"MNIST has 50,000 training examples besides the validation split; got "
            f"examples={examples}. Give a number from 1 to 50000."
        )
    paths = fetch("mnist", download=download)
    images = read_idx(paths["train-images-idx3-ubyte.gz"])
    labels = read_idx(paths["train-labels-idx1-ubyte.gz"])
    splits = {
        "train": _classified(images[:examples], labels[:examples]),
        "valid": _classified(images[50_000:], labels[50_000:]),
        "test": _classified(
            read_idx(paths["t10k-images-idx3-ubyte.gz"]),
            read_idx(paths["t10k-labels-idx1-ubyte.gz"]),
        ),
    }
    source = f"original files of {_SOURCES['mnist'].url}"
    return DataSet("mnist", splits, source, checksum_of(splits))


def fetch(name: str, *, download: bool = True) -> dict[str, Path]:
    """Return the verified files of a data set, downloading them where needed and allowed.

    Each file is looked for in `$THALWEG_DATA/name/`, in `$THALWEG_DATA` itself, and in the
    cache, `$XDG_CACHE_HOME/thalweg/name/` (or `~/.cache/thalweg/name/`), which is also where
    downloads go.

    Args:
        name: Name of the data set, such as `"mnist"`.
        download: Whether files that are in no folder may be downloaded.

    Returns:
        Name of each file to its path.

    Raises:
        DataUnavailableError: If a file is in no folder and is not downloaded.
        ValueError: If there is no such data set, or a file is not the original one.
    """
    if name not in _SOURCES:
        raise ValueError(
            f"Data sets made of files are {', '.join(_SOURCES)}; got {name!r}. Name one of these."
        )
    source = _SOURCES[name]
    paths = {}
    for file, sha256 in source.files.items():
        folders = data_folders(name)
        found = [folder / file for folder in folders if (folder / file).is_file()]
        path = paths[file] = found[0] if found else folders[-1] / file
        if found:
            _verify(path, sha256)
        elif source.url is None:
            raise _unavailable(path, "its licence does not allow a download")
        elif not download:
            raise _unavailable(path, "a download was not allowed (download=False)")
        else:
            _download(source.url, path, sha256)
    return paths


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Return the array in a gzipped IDX file, the format in which MNIST is published.

    The format is two zero bytes, a type (8 for unsigned bytes), the number of axes, each axis
    as a big-endian 32-bit integer, and then the entries in C order.

    Args:
        path: The file.

    Raises:
        ValueError: If the file is not a complete IDX file of unsigned bytes.
    """
    try:
        content = gzip.decompress(path.read_bytes())
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise _malformed(path, f"it cannot be unpacked ({error})") from error
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        raise _malformed(path, f"it begins with {content[:4].hex(' ') or 'nothing'}")
    header = 4 + 4 * content[3]
    if len(content) < header:
        raise _malformed(path, f"it ends after {len(content)} bytes, within its header")
    shape = struct.unpack(f">{content[3]}I", content[4:header])
    if len(content) - header != math.prod(shape):
        raise _malformed(path, f"{len(content) - header} bytes follow a header of shape {shape}")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def data_folders(name: str) -> list[Path]:
    """Return the folders in which the files of a data set may be; the cache comes last."""
    given = os.environ.get("THALWEG_DATA")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "thalweg" / name
    if not given:
        return [cache]
    folder = Path(given).expanduser()
    return [folder / name, folder, cache]


def _sha256(path: Path) -> str:
    """Return the SHA-256 sum of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _verify(path: Path, sha256: str) -> None:
    """Raise unless a file is the original one."""
    found = _sha256(path)
    if found != sha256:
        raise ValueError(
            f"The original {path.name} is needed, with SHA-256 sum {sha256}; the file at {path} "
            f"has {found}. Remove or replace that file."
        )


def _download(url: str, path: Path, sha256: str) -> None:
    """Bring a file into the cache, all of it and verified, or not at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            partial = Path(folder) / path.name
            with (
                urllib.request.urlopen(url + path.name, timeout=_TIMEOUT) as answer,
                partial.open("wb") as file,
            ):
                shutil.copyfileobj(answer, file)
            found = _sha256(partial)
            if found == sha256:
                # Within one file system, so that another process sees the whole file or none.
                partial.replace(path)
    except (OSError, http.client.HTTPException) as error:
        raise _unavailable(path, f"the download from {url} failed ({error})") from error
    if found != sha256:
        raise _unavailable(path, f"{url} sent a file with another SHA-256 sum, {found}")


def _unavailable(path: Path, reason: str) -> DataUnavailableError:
    """Say that a file is in no folder, and why it was not downloaded."""
    return DataUnavailableError(
        f"The file {path.name} is needed; it is neither in THALWEG_DATA nor in {path.parent}, "
        f"and {reason}. Set THALWEG_DATA to a folder that holds it, or put it into the latter "
        "folder, by a download where the licence allows it."
    )


def _classified(images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
    """Turn images and labels into rows in [0, 1] and class numbers."""
    x = images.reshape(len(images), -1).astype(np.float32) / np.float32(255)
    return torch.from_numpy(x), torch.from_numpy(labels.astype(np.int64))


def checksum_of(splits: Mapping[str, tuple[Tensor, Tensor]]) -> str:
    """Return the SHA-256 sum over names, shapes and bytes of all splits."""
    total = hashlib.sha256()
    for name, tensors in splits.items():
        for tensor in tensors:
            total.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
            total.update(tensor.contiguous().numpy().data)
    return total.hexdigest()


def _malformed(path: Path, reason: str) -> ValueError:
    """Say what is wrong with an IDX file."""
    return ValueError(
        f"A gzipped IDX file of unsigned bytes is needed; {path} is none: {reason}. "
        "Replace it by the original file."
    )
