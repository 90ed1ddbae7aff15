import gzip
import hashlib
import http.client
import struct
import subprocess
import sys
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch

from thalweg.errors import DataUnavailableError
from thalweg.problems import data
from thalweg.problems.data import DataSet, digits, fetch, mnist, read_idx

FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)


def idx(array):
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return gzip.compress(header + array.tobytes(), compresslevel=1, mtime=0)


def fill(folder, contents):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def stand_in():
    # As many examples as MNIST has, of two pixels each, which tell the index of the example.
    train, test = np.arange(60_000), np.arange(10_000)
    return {
        FILES[0]: idx(np.stack([train // 256, train % 256], 1).astype(np.uint8)[:, None]),
        FILES[1]: idx((train % 10).astype(np.uint8)),
        FILES[2]: idx(np.stack([test // 256, test % 256], 1).astype(np.uint8)[:, None]),
        FILES[3]: idx((test % 7).astype(np.uint8)),
    }


@pytest.fixture
def server(tmp_path, monkeypatch, stand_in):
    """Make a folder the place that MNIST is downloaded from; no folder of the user is seen."""
    folder = fill(tmp_path / "server", stand_in)
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in stand_in.items()}
    source = data._Source(files=sums, url=f"{folder.as_uri()}/")
    monkeypatch.setitem(data._SOURCES, "mnist", source)
    monkeypatch.setitem(data._SOURCES, "closed", data._Source(files=sums, url=None))
    monkeypatch.delenv("THALWEG_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


def cached(tmp_path, name="mnist"):
    folder = tmp_path / "cache" / "thalweg" / name
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_digits_are_split_without_loss():
    found = digits()
    assert found.name == "digits"
    assert list(found.splits) == ["train", "valid"]
    assert [len(y) for _, y in found.splits.values()] == [1437, 360]
    x = torch.cat([x for x, _ in found.splits.values()])
    y = torch.cat([y for _, y in found.splits.values()])
    assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
    assert (x.min(), x.max()) == (0, 1)
    # Sixteenths are exact in float32.
    assert torch.equal(x * 16, (x * 16).round())
    assert torch.bincount(y).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_digits_keep_images_and_labels_together():
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    expected = sorted(zip(map(tuple, images / 16), labels.tolist(), strict=True))
    splits = digits(seed=3, train=1000).splits.values()
    rows = [(x[i].tolist(), y[i]) for x, y in splits for i in range(len(y))]
    found = [(tuple(row), int(label)) for row, label in rows]
    assert sorted(found) == expected


def test_the_split_of_digits_follows_its_seed():
    before = torch.get_rng_state()
    first, again, other = digits(seed=1), digits(seed=1), digits(seed=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert first.checksum == again.checksum != other.checksum
    assert torch.equal(first.splits["train"][0], again.splits["train"][0])
    assert "seed 1" in first.source
    assert digits().checksum == digits(seed=0).checksum


@pytest.mark.parametrize("train", [0, 1797])
def test_digits_leave_examples_in_both_splits(train):
    with pytest.raises(ValueError, match=rf"both splits need some; got train={train}"):
        digits(train=train)


def test_digits_without_scikit_learn_name_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError, match=r"pip install 'thalweg\[data\]'"):
        digits()


def test_importing_data_does_not_load_scikit_learn():
    code = "import sys, thalweg.problems.data; sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_data_set_is_frozen():
    found = digits()
    with pytest.raises(FrozenInstanceError, match="name"):
        found.name = "other"  # type: ignore[misc]
    with pytest.raises(TypeError, match="does not support item assignment"):
        found.splits["test"] = found.splits["valid"]  # type: ignore[index]


def test_a_data_set_keeps_its_splits_when_the_callers_mapping_changes():
    splits = {"train": (torch.zeros(1, 2), torch.zeros(1))}
    found = DataSet("made up", splits, "here", "0")
    splits["test"] = splits["train"]
    assert list(found.splits) == ["train"]


def test_checksum_sees_pixels_shapes_and_names():
    x, y = torch.zeros(4, 6), torch.zeros(4, dtype=torch.int64)
    changed = x.clone()
    changed[3, 5] = 1
    sums = [
        data.checksum_of(splits)
        for splits in (
            {"train": (x, y)},
            {"valid": (x, y)},
            {"train": (changed, y)},
            {"train": (x.view(6, 4), y)},
            {"train": (x, y + 1)},
            {"train": (x, y), "valid": (x, y)},
        )
    ]
    assert len(set(sums)) == len(sums)
    assert data.checksum_of({"train": (x.T.contiguous().T, y)}) == sums[0]


@pytest.mark.usefixtures("server")
def test_mnist_splits_by_position(monkeypatch):
    found = mnist()
    indices = {
        name: (x[:, 0].double() * 255 * 256 + x[:, 1].double() * 255).round().long()
        for name, (x, _) in found.splits.items()
    }
    assert torch.equal(indices["train"], torch.arange(50_000))
    assert torch.equal(indices["valid"], torch.arange(50_000, 60_000))
    assert torch.equal(indices["test"], torch.arange(10_000))
    for name, (x, y) in found.splits.items():
        assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
        assert torch.equal(y, indices[name] % (7 if name == "test" else 10))
    assert found.splits["valid"][0][0, 1].item() == np.float32(50_000 % 256) / np.float32(255)


@pytest.mark.usefixtures("server")
def test_mnist_takes_the_first_training_examples():
    whole, part = mnist(), mnist(examples=30)
    assert part.splits["train"][0].shape == (30, 2)
    assert torch.equal(part.splits["train"][0], whole.splits["train"][0][:30])
    assert torch.equal(part.splits["valid"][0], whole.splits["valid"][0])
    assert part.checksum != whole.checksum


@pytest.mark.parametrize("examples", [0, 50_001])
def test_mnist_refuses_more_training_examples_than_there_are(examples):
    with pytest.raises(ValueError, match=rf"50,000 training examples .* examples={examples}"):
        mnist(examples=examples)


def test_a_download_goes_into_the_cache_once(server, tmp_path):
    paths = fetch("mnist")
    assert list(paths) == list(FILES)
    assert {path.parent for path in paths.values()} == {tmp_path / "cache" / "thalweg" / "mnist"}
    assert cached(tmp_path) == sorted(FILES)
    for file in server.iterdir():
        file.unlink()
    assert fetch("mnist", download=False) == paths


def test_a_damaged_download_leaves_nothing_behind(server, tmp_path):
    (server / FILES[0]).write_bytes(b"<html>no such page</html>")
    with pytest.raises(DataUnavailableError, match=r"sent a file with another SHA-256 sum"):
        fetch("mnist")
    assert cached(tmp_path) == []


def test_a_failed_download_names_both_ways(server, tmp_path):
    (server / FILES[1]).unlink()
    with pytest.raises(DataUnavailableError, match="the download from file://") as caught:
        fetch("mnist")
    message = str(caught.value)
    for part in (FILES[1], "THALWEG_DATA", "the download from file://", str(tmp_path / "cache")):
        assert part in message
    # What was downloaded before stays.
    assert cached(tmp_path) == [FILES[0]]


@pytest.mark.usefixtures("server")
def test_an_interrupted_download_leaves_nothing_behind(tmp_path, monkeypatch):
    class Answer:
        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

        def read(self, size):
            raise http.client.IncompleteRead(b"half")

    monkeypatch.setattr(data.urllib.request, "urlopen", lambda url, timeout: Answer())
    with pytest.raises(DataUnavailableError, match=r"failed \(IncompleteRead\(4 bytes read\)\)"):
        fetch("mnist")
    assert cached(tmp_path) == []


@pytest.mark.usefixtures("server")
def test_a_download_has_to_be_allowed(tmp_path):
    with pytest.raises(DataUnavailableError, match=r"not allowed \(download=False\)\. Set THALWEG"):
        mnist(download=False)
    assert cached(tmp_path) == []


@pytest.mark.usefixtures("server")
def test_some_data_sets_come_from_a_folder_only(tmp_path, monkeypatch, stand_in):
    with pytest.raises(DataUnavailableError, match=r"licence does not allow a download\. Set"):
        fetch("closed")
    monkeypatch.setenv("THALWEG_DATA", str(fill(tmp_path / "mine", stand_in)))
    assert fetch("closed")[FILES[0]] == tmp_path / "mine" / FILES[0]


@pytest.mark.parametrize("inner", ["", "mnist"])
def test_the_users_folder_comes_before_the_cache(server, tmp_path, monkeypatch, stand_in, inner):
    fetch("mnist")
    folder = fill(tmp_path / "mine" / inner, {FILES[2]: stand_in[FILES[2]]})
    monkeypatch.setenv("THALWEG_DATA", str(tmp_path / "mine"))
    paths = fetch("mnist", download=False)
    assert paths[FILES[2]] == folder / FILES[2]
    assert paths[FILES[0]].parent == tmp_path / "cache" / "thalweg" / "mnist"


def test_files_of_the_user_are_verified_too(server, tmp_path, monkeypatch):
    folder = fill(tmp_path / "mine", {FILES[0]: idx(np.zeros((60_000, 1, 2), np.uint8))})
    monkeypatch.setenv("THALWEG_DATA", str(folder))
    with pytest.raises(ValueError, match=rf"original {FILES[0]} is needed.* Remove or replace"):
        mnist()


def test_the_cache_is_in_the_home_folder_by_default(server, tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("THALWEG_DATA", "")
    found = fetch("mnist")[FILES[0]]
    assert found == tmp_path / "home" / ".cache" / "thalweg" / "mnist" / FILES[0]


@pytest.mark.usefixtures("server")
def test_a_cache_that_cannot_be_written_is_a_failed_download(tmp_path):
    (tmp_path / "cache").write_text("a file where a folder should be")
    with pytest.raises(DataUnavailableError, match=r"the download .* failed \(.*Not a directory"):
        fetch("mnist")


def test_fetch_refuses_unknown_names():
    with pytest.raises(
        ValueError,
        match=r"made of files are mnist, cifar10, ptb, tinyshakespeare; got 'imagenet'\. Name one",
    ):
        fetch("imagenet")


@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 3, 4), (0, 7)])
def test_idx_files_are_read_back(tmp_path, shape):
    entries = int(np.prod(shape))
    array = (7 * np.arange(entries) % 256).astype(np.uint8).reshape(shape)
    path = tmp_path / "array.gz"
    path.write_bytes(idx(array))
    found = read_idx(path)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, array)


def packed(content):
    # Without a time stamp: the test ids are made of these bytes.
    return gzip.compress(content, mtime=0)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"not gzip at all", "it cannot be unpacked"),
        (idx(np.zeros(1000, np.uint8))[:-12], "it cannot be unpacked"),
        (packed(b"hello")[:10] + b"\xff\xff\xff\xff", "it cannot be unpacked"),
        (packed(b""), "it begins with nothing"),
        (packed(b"\0\0\x08"), "it begins with 00 00 08"),
        (packed(b"\0\0\x0d\x01\0\0\0\0"), "it begins with 00 00 0d 01"),
        (packed(b"\0\0\x08\x03\0\0\0\x01"), "it ends after 8 bytes, within its header"),
        (packed(b"\0\0\x08\x01\0\0\0\x03ab"), r"2 bytes follow a header of shape \(3,\)"),
        (packed(b"\0\0\x08\x01\0\0\0\x03abcd"), r"4 bytes follow a header of shape \(3,\)"),
    ],
)
def test_malformed_idx_files_are_refused_with_a_reason(tmp_path, content, reason):
    path = tmp_path / "broken.gz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"IDX file of unsigned bytes is needed; .*: {reason}"):
        read_idx(path)


@pytest.fixture(scope="module")
def real_mnist():
    try:
        return mnist(download=False)
    except DataUnavailableError as error:
        pytest.skip(str(error))


@pytest.mark.data
def test_mnist_has_its_published_statistics(real_mnist):
    splits = real_mnist.splits
    assert {name: tuple(x.shape) for name, (x, _) in splits.items()} == {
        "train": (50_000, 784),
        "valid": (10_000, 784),
        "test": (10_000, 784),
    }
    x = torch.cat([splits["train"][0], splits["valid"][0]]).double()
    y = torch.cat([splits["train"][1], splits["valid"][1]])
    assert x.mean().item() == pytest.approx(0.130660, abs=5e-7)
    assert x.std(correction=0).item() == pytest.approx(0.308108, abs=5e-7)
    assert torch.bincount(y).tolist() == [
        5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949,
    ]  # fmt: skip
    assert torch.bincount(splits["test"][1]).tolist() == [
        980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009,
    ]  # fmt: skip


@pytest.mark.data
def test_mnist_begins_with_its_well_known_labels(real_mnist):
    assert real_mnist.splits["train"][1][:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert real_mnist.splits["test"][1][:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
