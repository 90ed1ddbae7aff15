import pickle

import pytest
import torch
from safetensors.torch import save_file

from cases import normal, perceptron, seeded
from thalweg import CheckpointError
from thalweg.checkpoints import load_tensors


@pytest.fixture
def table():
    return {"a": normal(3, 2, seed=1), "b": normal(4, seed=2)}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def test_safetensors(tmp_path, table):
    save_file(table, tmp_path / "model.safetensors")
    assert same(load_tensors(tmp_path / "model.safetensors"), table)


@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files_old_and_new(tmp_path, table, zipped):
    torch.save(table, tmp_path / "model.pt", _use_new_zipfile_serialization=zipped)
    assert same(load_tensors(str(tmp_path / "model.pt")), table)


@pytest.mark.parametrize(
    "key", ["state_dict", "model_state_dict", "model", "module", "params", "weights"]
)
def test_parameters_inside_a_checkpoint(tmp_path, table, key):
    optimizer = {"state": {}, "momentum": normal(2, seed=3)}
    torch.save({"optimizer": optimizer, "epoch": 4, key: table}, tmp_path / "last.ckpt")
    assert same(load_tensors(tmp_path / "last.ckpt"), table)


def test_parameters_two_levels_down(tmp_path, table):
    torch.save({"model": {"state_dict": table}}, tmp_path / "last.ckpt")
    assert same(load_tensors(tmp_path / "last.ckpt"), table)


def test_a_tensor_called_weights_is_a_tensor(tmp_path):
    table = {"weights": normal(3, seed=4), "model": normal(2, seed=5)}
    torch.save(table, tmp_path / "model.pt")
    assert same(load_tensors(tmp_path / "model.pt"), table)


class Trap:
    """Unpickling it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_file_that_would_run_code_is_refused_before_it_runs(tmp_path):
    torch.save({"state_dict": Trap(tmp_path / "ran")}, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"could run code.*or pass trust_pickle=True"):
        load_tensors(tmp_path / "model.pt")
    assert not (tmp_path / "ran").exists()


def test_a_whole_model_needs_trust(tmp_path):
    model = seeded(perceptron, 1)
    torch.save(model, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"asks for other Python objects.*Save `model.state"):
        load_tensors(tmp_path / "model.pt")
    assert same(load_tensors(tmp_path / "model.pt", trust_pickle=True), model.state_dict())


def truncated(path):
    torch.save({"a": normal(50, seed=6)}, path)
    path.write_bytes(path.read_bytes()[:300])


DAMAGED = {
    "empty.pt": lambda path: path.write_bytes(b""),
    "text.pt": lambda path: path.write_text("hello world"),
    "truncated.pt": truncated,
    "unfinished.pt": lambda path: path.write_bytes(pickle.dumps({"a": 1.5})[:-3]),
    "empty.safetensors": lambda path: path.write_bytes(b""),
    "text.safetensors": lambda path: path.write_text("hello world"),
}


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.parametrize("trust", [True, False])
def test_damaged_files(tmp_path, name, trust):
    DAMAGED[name](tmp_path / name)
    with pytest.raises(CheckpointError, match=rf"is needed; .*{name} (cannot be read|is damaged)"):
        load_tensors(tmp_path / name, trust_pickle=trust)


@pytest.mark.parametrize("content", [{"epoch": 3}, [1, 2], {"state_dict": {}}])
def test_files_without_tensors(tmp_path, content):
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"holds a (dict|list) without any. Save"):
        load_tensors(tmp_path / "model.pt")


@pytest.mark.parametrize("name", ["absent.pt", "absent.safetensors", ""])
def test_files_that_are_not_there(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=r"is needed; there is none at .*Check the path"):
        load_tensors(tmp_path / name)
