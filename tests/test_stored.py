"""A point on disk is the point in memory, bit for bit, whatever the files look like."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import thalweg as tw
from cases import MODELS, seeded
from thalweg.anchors import combine, distance
from thalweg.checkpoints import StoredTensors, load_tensors
from thalweg.stored import StoredPoint


def state(model):
    """Return the state of a model as a file keeps it: shared tensors once."""
    return {name: p.detach().clone() for name, p in model.named_parameters()} | {
        name: b.clone() for name, b in model.named_buffers()
    }


def saved(folder, model, shards=1):
    """Write a model as one file, or as a folder of several with an index."""
    tensors = state(model)
    if shards == 1:
        save_file(tensors, folder / "one.safetensors")
        return folder / "one.safetensors"
    place = folder / "several"
    place.mkdir()
    where = {}
    for number in range(shards):
        part = {n: t for i, (n, t) in enumerate(tensors.items()) if i % shards == number}
        save_file(part, place / f"model-{number}.safetensors")
        where |= dict.fromkeys(part, f"model-{number}.safetensors")
    index = {"metadata": {}, "weight_map": where}
    (place / "model.safetensors.index.json").write_text(json.dumps(index))
    return place


class TestPoint:
    @pytest.mark.parametrize("shards", [1, 2])
    def test_it_is_the_point_in_memory(self, case, tmp_path, shards):
        model = case.model(3)
        space = tw.ParameterSpace.of(case.model())
        if name_of_frozen := [n for n, p in case.model().named_parameters() if not p.requires_grad]:
            own = dict(case.model().named_parameters())
            for name in name_of_frozen:
                model.get_parameter(name).data = own[name].data
        path = saved(tmp_path, model, shards)
        point, right = StoredPoint(space, path), space.flatten(model)
        assert torch.equal(point.flat(), right)
        assert torch.equal(space.flatten(path), right)
        assert (point.shape, point.dtype) == (right.shape, torch.float64)
        for block in space.blocks:
            assert torch.equal(point.tensor(block), block.of(right))
            if len(block.shape) and block.shape[0] > 1:
                assert torch.equal(point.tensor(block, slice(1, 2)), block.of(right)[1:2])

    def test_names_behind_a_wrapper(self, tmp_path):
        model = MODELS["perceptron"].model(3)
        wrapped = {f"module._orig_mod.{name}": t for name, t in state(model).items()}
        save_file(wrapped, tmp_path / "wrapped.safetensors")
        space = tw.ParameterSpace.of(model)
        point = StoredPoint(space, tmp_path / "wrapped.safetensors")
        assert torch.equal(point.flat(), space.flatten(model))

    def test_statistics_come_with_it(self, tmp_path):
        model = seeded(lambda: nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)), 1)
        model[1].running_mean += 0.5
        path = saved(tmp_path, model)
        space = tw.ParameterSpace.of(model)
        line = tw.Line(StoredPoint(space, path), space.flatten(model))
        assert torch.equal(line.buffers[0]["1.running_mean"], model[1].running_mean)

    def test_several_types_promote(self, tmp_path):
        tensors = {"weight": torch.tensor([[1.5, 2.0]]).bfloat16(), "bias": torch.tensor([0.1])}
        save_file(tensors, tmp_path / "mixed.safetensors")
        point = StoredPoint(tw.ParameterSpace.of(nn.Linear(2, 1)), tmp_path / "mixed.safetensors")
        assert point.dtype == torch.float32
        assert torch.equal(point.flat(), torch.tensor([1.5, 2.0, 0.1]))
        assert "3 parameters in" in repr(point)


class TestSections:
    def test_they_take_points_on_disk(self, tmp_path):
        case = MODELS["perceptron"]
        models = [case.model(seed) for seed in (3, 4, 5)]
        space = tw.ParameterSpace.of(case.model())
        vectors = [space.flatten(model) for model in models]
        points = []
        for number, model in enumerate(models):
            save_file(state(model), tmp_path / f"{number}.safetensors")
            points.append(StoredPoint(space, tmp_path / f"{number}.safetensors"))
        line = tw.Line(points[0], vectors[1])
        assert torch.equal(line.point(0.3), tw.Line(*vectors[:2]).point(0.3))
        assert line.length == pytest.approx(tw.Line(*vectors[:2]).length, rel=1e-14)
        plane = tw.Plane.through(*points)
        assert plane.gram == pytest.approx(tw.Plane.through(*vectors).gram, rel=1e-12)
        assert distance(points[1], points[2]) == pytest.approx(
            distance(vectors[1], vectors[2]), rel=1e-14
        )
        for row in ([0.2, 0.5, 0.3], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [1.5, 0.0, -0.5]):
            assert torch.equal(combine(points, row), combine(vectors, row))

    def test_points_of_other_sizes_are_no_line(self, tmp_path):
        save_file(state(nn.Linear(2, 1)), tmp_path / "a.safetensors")
        point = StoredPoint(tw.ParameterSpace.of(nn.Linear(2, 1)), tmp_path / "a.safetensors")
        with pytest.raises(ValueError, match="vectors of one length"):
            tw.Line(point, torch.zeros(4))


class TestErrors:
    def test_another_architecture(self, tmp_path):
        save_file(state(nn.Linear(2, 2)), tmp_path / "a.safetensors")
        with pytest.raises(tw.ParameterMismatchError, match="another architecture"):
            StoredPoint(tw.ParameterSpace.of(nn.Linear(3, 2)), tmp_path / "a.safetensors")

    def test_nothing_there(self, tmp_path):
        space = tw.ParameterSpace.of(nn.Linear(2, 2))
        for path in (tmp_path, tmp_path / "none.safetensors"):
            with pytest.raises(FileNotFoundError, match="there is none at"):
                StoredPoint(space, path)

    def test_a_folder_of_several_without_an_index(self, tmp_path):
        for name in "ab":
            save_file(state(nn.Linear(2, 2)), tmp_path / f"{name}.safetensors")
        with pytest.raises(tw.CheckpointError, match="2 of them and 0 indices"):
            load_tensors(tmp_path)

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": 3}', "\x00"])
    def test_a_damaged_index(self, tmp_path, text):
        place = saved(tmp_path, nn.Linear(2, 2), shards=2)
        (place / "model.safetensors.index.json").write_text(text)
        with pytest.raises(tw.CheckpointError, match="which tensor is in which file"):
            load_tensors(place)

    def test_a_file_of_the_index_is_missing(self, tmp_path):
        place = saved(tmp_path, nn.Linear(2, 2), shards=2)
        (place / "model-1.safetensors").unlink()
        with pytest.raises(tw.CheckpointError, match="is missing"):
            load_tensors(place)

    def test_a_damaged_file(self, tmp_path):
        path = saved(tmp_path, nn.Linear(2, 2))
        path.write_bytes(path.read_bytes()[:20])
        with pytest.raises(tw.CheckpointError, match="cannot be read"):
            load_tensors(path)

    def test_a_file_that_changes_while_it_is_used(self, tmp_path):
        space = tw.ParameterSpace.of(nn.Linear(2, 2))
        point = StoredPoint(space, saved(tmp_path, nn.Linear(2, 2)))
        saved(tmp_path, nn.Linear(3, 2))
        with pytest.raises(tw.CheckpointError, match="no longer holds 'weight'"):
            point.flat()

    def test_entries_that_are_not_finite(self, tmp_path):
        model = nn.Linear(2, 2)
        model.bias.data[1] = float("nan")
        space = tw.ParameterSpace.of(model)
        with pytest.raises(ValueError, match=r"'bias' in .* holds NaN"):
            StoredPoint(space, saved(tmp_path, model)).check(space)


def test_what_is_not_read_is_not_loaded(tmp_path):
    big = {"big": torch.zeros(1 << 20), "small": torch.ones(2)}
    save_file(big, tmp_path / "big.safetensors")
    tensors = StoredTensors(tmp_path / "big.safetensors")
    assert torch.equal(tensors.read("small", (2,)), torch.ones(2))
    assert set(tensors.mapped()) == {"big", "small"}
