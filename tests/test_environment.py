import itertools

import pytest
import torch

import thalweg as tw
from thalweg import environment
from thalweg.environment import free_memory, provenance, usable_device
from thalweg.objectives.batches import read_splits


def test_a_device_that_is_not_there_is_explained():
    with pytest.raises(ValueError, match=r"A device that torch can use here .*got 'teapot' \("):
        usable_device("teapot")
    assert usable_device(torch.device("cpu")) == torch.device("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_explained():
    data = (torch.ones(2, 3), torch.ones(2, 1))
    with pytest.raises(ValueError, match=r"Use 'cpu', or install a build of torch"):
        tw.ModelObjective(torch.nn.Linear(3, 1), torch.nn.MSELoss(), data, device="cuda")
    with pytest.raises(ValueError, match=r"got 'cuda'"):
        usable_device("cuda")


def test_what_a_result_was_made_with():
    made = provenance(torch.device("cpu"), torch.float64, 0.12345, objective={"model": "m"})
    assert made.versions["thalweg"] == tw.__version__
    assert (made.device, made.dtype, made.seconds) == ("cpu", "float64", 0.123)
    assert made.threads == torch.get_num_threads()
    assert (dict(made.objective), dict(made.section)) == ({"model": "m"}, {})


def test_the_data_goes_where_the_objective_is():
    (split,) = read_splits((torch.ones(3, 2), torch.ones(3)), None, torch.device("cpu"), torch.half)
    assert split.batches[0][0].dtype == torch.half


class TestFreeMemory:
    CPU = torch.device("cpu")

    def group(self, folder, limit, used, inactive, names=("memory.max", "memory.current")):
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in zip(
            (*names, "memory.stat"), (limit, used, f"anon 3\ninactive_file {inactive}"), strict=True
        ):
            (folder / name).write_text(f"{text}\n")

    def left(self, root, text):
        (root / "self").write_text(text)
        return list(environment._control_groups(root, root / "self"))

    def test_is_what_the_tightest_of_all_has_left(self, monkeypatch):
        for rooms in itertools.permutations([7, 5, 9]):
            monkeypatch.setattr(environment, "_available", lambda rooms=rooms: rooms[0])
            monkeypatch.setattr(environment, "_control_groups", lambda rooms=rooms: rooms[1:])
            assert free_memory(self.CPU) == 5

    def test_is_unknown_where_no_one_tells(self, monkeypatch):
        monkeypatch.setattr(environment, "_available", lambda: None)
        monkeypatch.setattr(environment, "_control_groups", lambda: [])
        assert free_memory(self.CPU) is None

    def test_is_not_more_than_all_memory(self):
        free = free_memory(self.CPU)
        assert free is None or 1 << 20 < free < 1 << 50

    def test_of_nested_groups(self, tmp_path):
        self.group(tmp_path / "job" / "task", "max", 100, 0)
        self.group(tmp_path / "job", 1000, 400, 50)
        assert self.left(tmp_path, "0::/job/task\n") == [650]
        self.group(tmp_path / "job" / "task", 300, 290, 5)
        assert self.left(tmp_path, "0::/job/task\n") == [15, 650]
        self.group(tmp_path / "job" / "task", 300, 400, 5)
        assert self.left(tmp_path, "0::/job/task\n") == [0, 650]

    def test_of_a_container_that_sees_its_own_group_as_the_root(self, tmp_path):
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
        self.group(tmp_path / "memory", 1000, 300, 100, names)
        text = "9:name=systemd:/\n4:cpu,memory:/docker/1f\n0::/\n"
        assert self.left(tmp_path, text) == [800]

    def test_of_a_system_without_groups(self, tmp_path):
        assert self.left(tmp_path, "0::/\n") == []
        assert list(environment._control_groups(tmp_path, tmp_path / "none")) == []
