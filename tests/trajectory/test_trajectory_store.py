"""What is on disk: types, checksums, damage, and disks that fail."""

import errno
import json
import math
import os
import stat
import subprocess
import sys
import zlib

import numpy as np
import pytest
import recorded_runs as runs
import torch
from safetensors.torch import load_file

import processes
import thalweg as tw
from cases import normal
from thalweg.durable import AppendedFile, write_atomically
from thalweg.trajectory.tensor_file import TensorFile, write_tensors

TYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def record(folder, steps=5, model=None, **options):
    model = runs.network() if model is None else model
    optimizer = runs.OPTIMIZERS["sgd"](model.parameters())
    seen = [runs.flat(model)]
    with tw.Recorder(folder, model, optimizer, tw.Every(steps=2), **options) as recorder:
        for _ in range(steps):
            recorder.step(loss=runs.update(model, optimizer))
            seen.append(runs.flat(model))
    return seen


# --- types -------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", [None, *TYPES])
@pytest.mark.parametrize("own", [torch.float64, torch.float32, torch.bfloat16])
def test_round_trips(tmp_path, own, storage):
    seen = record(tmp_path, model=runs.network(dtype=own), dtype=storage)
    trajectory = tw.Trajectory.open(tmp_path)
    kept = storage or own
    assert trajectory.points.dtype == kept
    for point, streamed in zip(trajectory, trajectory.stream(), strict=True):
        exact = seen[point.step]
        assert point.theta.dtype == kept
        assert torch.equal(point.theta, exact.to(kept))
        assert torch.equal(point.theta, streamed)
        lost = (point.theta.double() - exact.double()).norm()
        assert point.rounding == pytest.approx(float(lost), rel=5e-3, abs=0)
        half_unit = torch.finfo(kept).eps / 2
        assert point.rounding <= half_unit * float(exact.double().norm())
        if torch.promote_types(own, kept) == kept:
            assert point.rounding == 0
    assert trajectory[0].buffers["1.running_var"].dtype == own


@pytest.mark.parametrize("storage", TYPES)
def test_any_reader_of_safetensors_reads_a_snapshot(tmp_path, storage):
    model = runs.network()
    record(tmp_path, model=model, dtype=storage)
    tensors = load_file(tmp_path / "snapshots" / "000000000005.safetensors")
    assert tensors.keys() == model.state_dict().keys()
    for name, parameter in model.named_parameters():
        assert torch.equal(tensors[name], parameter.to(storage))
    assert torch.equal(tensors["1.running_mean"], model[1].running_mean)
    assert int(tensors["1.num_batches_tracked"]) == 5


def test_any_reader_of_lines_reads_index_and_log(tmp_path):
    record(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "index.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "snapshot"] == [0, 2, 4, 5]
    for line in lines:
        assert os.path.getsize(tmp_path / line["file"]) == line["bytes"]
    table = np.genfromtxt(
        tmp_path / "steps.csv", delimiter=",", names=True, usecols=range(6), dtype=float
    )
    assert table.dtype.names == (
        "step",
        "epoch",
        "batch_size",
        "loss",
        "gradient_norm",
        "learning_rate",
    )
    np.testing.assert_array_equal(table["loss"], tw.Trajectory.open(tmp_path).log.loss)
    head, row, *_ = (tmp_path / "steps.csv").read_text().splitlines()
    body, _, check = row.rpartition(",")
    assert head.endswith(",crc32")
    assert check == f"{zlib.crc32(body.encode()):08x}"


def test_numbers_that_float16_cannot_hold_are_kept_in_float32(tmp_path):
    model = runs.network()
    with torch.no_grad():
        model[0].weight[0, 0] = 7e4
    with (
        pytest.warns(RuntimeWarning, match=r"'0\.weight', is stored in float32.*float16-overflow"),
        tw.Recorder(tmp_path, model, dtype=torch.float16),
    ):
        pass
    trajectory = tw.Trajectory.open(tmp_path)
    assert trajectory[0].tensor("0.weight").dtype == torch.float32
    assert torch.equal(trajectory[0].tensor("0.weight"), model[0].weight)
    assert trajectory[0].tensor("0.bias").dtype == torch.float16
    theta = trajectory[0].theta
    assert theta[0] == 7e4
    assert torch.equal(theta[24:30], model[0].bias.half().to(theta.dtype))


def test_parameters_of_several_types(tmp_path):
    model = runs.network()
    model[3].double()
    with tw.Recorder(tmp_path, model):
        pass
    trajectory = tw.Trajectory.open(tmp_path)
    assert trajectory.points.dtype == torch.float64
    assert torch.equal(trajectory[0].theta, tw.ParameterSpace.of(model).flatten(model))
    assert trajectory[0].tensor("0.weight").dtype == torch.float32


def test_a_tensor_file_is_read_in_any_order(tmp_path):
    tensors = {
        "b": normal(3, 5, dtype=torch.bfloat16),
        "n": torch.tensor(7),
        "none": torch.zeros(0, 3),
        "f": normal(7, seed=1, dtype=torch.float32),
        "d": normal(1, seed=2)[0],
        "t": torch.tensor([True, False, True]),
        "slices": normal(4, 6, seed=3)[:, ::2],
    }
    path = tmp_path / "x.safetensors"
    written = write_tensors(path, tensors, {"step": "3"})
    others = load_file(path)
    with TensorFile(path, written) as file:
        assert file.facts["step"] == "3"
        for name, tensor in tensors.items():
            assert torch.equal(file.read(name), tensor)
            assert torch.equal(others[name], tensor)
            assert file.read(name).dtype == others[name].dtype == tensor.dtype
        for names in (["b", "f"], ["f", "b", "d"], ["d", "slices", "none"], ["slices", "d"]):
            target = torch.empty(sum(tensors[n].numel() for n in names), dtype=torch.float64)
            file.read_into(names, target)
            assert torch.equal(target, torch.cat([tensors[n].double().reshape(-1) for n in names]))
    assert os.path.getsize(path) == written.bytes
    with pytest.raises(TypeError, match=r"'z' is torch\.complex128"):
        write_tensors(path, {"z": torch.zeros(2, dtype=torch.complex128)}, {})


# --- damage ------------------------------------------------------------------------------------


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-9])


def one_byte_flipped(path):
    content = bytearray(path.read_bytes())
    content[-50] ^= 4
    path.write_bytes(content)


def header_flipped(path):
    content = bytearray(path.read_bytes())
    content[40] ^= 4
    path.write_bytes(content)


def length_flipped(path):
    content = bytearray(path.read_bytes())
    content[5] ^= 4
    path.write_bytes(content)


def missing(path):
    path.unlink()


def emptied(path):
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (cut_short, r"it has \d+ bytes of \d+"),
        (emptied, "it has 0 bytes of"),
        (one_byte_flipped, r"the checksum of '\S+' does not match"),
        (header_flipped, "its header is damaged"),
        (length_flipped, "its header is damaged"),
        (missing, "it is missing"),
    ],
)
@pytest.mark.parametrize("background", [False, True])
def test_a_damaged_snapshot_is_named_and_the_rest_is_read(tmp_path, damage, words, background):
    seen = record(tmp_path, background=background)
    file = tmp_path / "snapshots" / "000000000002.safetensors"
    damage(file)
    trajectory = tw.Trajectory.open(tmp_path)
    assert trajectory.step.tolist() == [0, 2, 4, 5]
    whole = f"{file} is damaged: {words}.*Restore it from a copy, or leave it out.*skip_damaged"
    with pytest.raises(tw.TrajectoryError, match=whole):
        trajectory[1].theta  # noqa: B018
    with pytest.raises(tw.TrajectoryError, match="is damaged"):
        [theta.sum() for theta in trajectory.stream()]
    for index, step in ((0, 0), (2, 4), (3, 5)):
        assert torch.equal(trajectory[index].theta, seen[step])
    with pytest.warns(RuntimeWarning, match="those of steps 2 are damaged and left out"):
        rest = tw.Trajectory.open(tmp_path, skip_damaged=True)
    assert rest.step.tolist() == [0, 4, 5]
    assert [torch.equal(p.theta, seen[p.step]) for p in rest] == [True] * 3


def test_any_flipped_byte_of_a_snapshot_is_noticed(tmp_path):
    record(tmp_path, steps=0)
    file = tmp_path / "snapshots" / "000000000000.safetensors"
    content = file.read_bytes()
    trajectory = tw.Trajectory.open(tmp_path)
    trajectory.points.check(0)
    for place in range(0, len(content), 7):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        file.write_bytes(changed)
        with pytest.raises(tw.TrajectoryError, match="is damaged"):
            trajectory.points.check(0)


def test_one_tensor_is_read_where_another_is_damaged(tmp_path):
    record(tmp_path)
    one_byte_flipped(tmp_path / "snapshots" / "000000000004.safetensors")
    point = tw.Trajectory.open(tmp_path)[2]
    assert point.tensor("0.weight").shape == (6, 4)


@pytest.mark.parametrize("name", ["index.jsonl", "steps.csv"])
def test_half_a_last_line_is_of_no_account(tmp_path, name):
    record(tmp_path)
    before = tw.Trajectory.open(tmp_path)
    with open(tmp_path / name, "ab") as file:
        file.write((tmp_path / name).read_bytes().splitlines()[-1][:-3])
    torn = tw.Trajectory.open(tmp_path)
    assert torn.step.tolist() == before.step.tolist()
    assert torn.log.loss.tolist() == before.log.loss.tolist()


@pytest.mark.parametrize(
    ("name", "words", "points", "steps"),
    [
        ("index.jsonl", r"of \S+index\.jsonl line 2 is damaged", [0, 4, 5], 5),
        ("steps.csv", r"1 of 5 lines in \S+steps\.csv are damaged", [0, 2, 4, 5], 4),
    ],
)
def test_a_damaged_line_is_told_of_and_left_out(tmp_path, name, words, points, steps):
    record(tmp_path)
    lines = (tmp_path / name).read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b"2", b"3", 1) if name == "index.jsonl" else b"9" + lines[1]
    (tmp_path / name).write_bytes(b"".join(lines))
    with pytest.warns(RuntimeWarning, match=f"{words}.*damaged-trajectory"):
        trajectory = tw.Trajectory.open(tmp_path)
    assert trajectory.step.tolist() == points
    assert len(trajectory.log) == steps


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda b: b.replace(b"Sequential", b"Sequentiel"), "is damaged. Restore it from a copy"),
        (lambda b: b[:-30], "is damaged. Restore it from a copy"),
        (lambda b: b"[]", "is damaged. Restore it from a copy"),
        (lambda b: b.replace(b'"format": 1', b'"format": 2'), "has format 2, made by a newer"),
    ],
)
def test_a_damaged_description(tmp_path, damage, words):
    record(tmp_path)
    path = tmp_path / "trajectory.json"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(tw.TrajectoryError, match=words):
        tw.Trajectory.open(tmp_path)


def test_a_folder_that_holds_none(tmp_path):
    with pytest.raises(tw.TrajectoryError, match=r"with a trajectory\.json; there is none in"):
        tw.Trajectory.open(tmp_path / "nothing")
    record(tmp_path)
    (tmp_path / "index.jsonl").unlink()
    with pytest.raises(tw.TrajectoryError, match=r"index\.jsonl is missing"):
        tw.Trajectory.open(tmp_path)


@pytest.mark.parametrize("name", ["index.jsonl", "trajectory.json"])
def test_a_recorder_does_not_begin_anew_where_a_part_was_lost(tmp_path, name):
    record(tmp_path)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).unlink()
    rest = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    with pytest.raises(tw.TrajectoryError, match=rf"{name} is missing\. Restore it from a copy"):
        tw.Recorder(tmp_path, runs.network()).open()
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == rest
    (tmp_path / name).write_bytes(whole)
    assert tw.Trajectory.open(tmp_path, skip_damaged=True).step.tolist() == [0, 2, 4, 5]


# --- writers and disks -------------------------------------------------------------------------


def test_a_second_writer_is_refused(tmp_path):
    model = runs.network()
    with (
        tw.Recorder(tmp_path, model),
        pytest.raises(
            tw.TrajectoryError, match=f"has one writer at a time; .* by process {os.getpid()}"
        ),
    ):
        tw.Recorder(tmp_path, model, resume=True).open()
    process, pipe = processes.started(runs.hold, tmp_path / "other")
    assert pipe.recv() == "holding"
    with pytest.raises(tw.TrajectoryError, match=f"by process {process.pid}. Wait for it to end"):
        tw.Recorder(tmp_path / "other", model).open()
    assert len(tw.Trajectory.open(tmp_path / "other")) == 1  # readers are not writers
    process.kill()
    process.join()
    with tw.Recorder(tmp_path / "other", model):  # the system let go of the lock
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
def test_a_child_does_not_hold_the_folder(tmp_path):
    model = runs.network()
    recorder = tw.Recorder(tmp_path, model)
    recorder.open()
    read, write = os.pipe()
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:  # as a worker of a DataLoader that outlives its parent
        os.write(tell, f"{recorder._writer._lock._file}".encode())
        os.close(write)
        os.read(read, 1)
        os._exit(0)
    try:
        assert os.read(told, 9) == b"-1"
        with pytest.raises(tw.TrajectoryError, match="has one writer at a time"):
            tw.Recorder(tmp_path, model).open()  # the parent still has it
        recorder.close()
        with tw.Recorder(tmp_path, model):
            pass
    finally:
        os.close(write)
        os.waitpid(child, 0)
        for file in (read, told, tell):
            os.close(file)


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
def test_a_child_does_not_write_into_the_run_of_its_parent(tmp_path):
    model = runs.network()
    optimizer = runs.OPTIMIZERS["sgd"](model.parameters())
    told, tell = os.pipe()
    with tw.Recorder(tmp_path, model, optimizer, tw.Every(steps=1)) as recorder:
        child = os.fork()
        runs.update(model, optimizer)
        if child == 0:
            try:
                recorder.step()
            except ValueError as error:
                os.write(tell, str(error).encode())
            os._exit(0)
        os.waitpid(child, 0)
        assert b"in the process that opened it" in os.read(told, 999)
        assert tw.Trajectory.open(tmp_path).step.tolist() == [0]
        recorder.step()
    os.close(told)
    os.close(tell)
    assert tw.Trajectory.open(tmp_path).step.tolist() == [0, 1]
    assert len(tw.Trajectory.open(tmp_path).log) == 1


def full(*given):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("call", ["fsync", "replace", "write"])
@pytest.mark.parametrize("background", [False, True])
def test_a_full_disk(tmp_path, monkeypatch, call, background):
    model = runs.network()
    optimizer = runs.OPTIMIZERS["sgd"](model.parameters())
    seen = [runs.flat(model)]

    def run():
        with tw.Recorder(
            tmp_path, model, optimizer, tw.Every(steps=2), background=background
        ) as recorder:
            for step in range(8):
                if step == 5:
                    monkeypatch.setattr(os, call, full)
                recorder.step(loss=runs.update(model, optimizer))
                seen.append(runs.flat(model))

    words = f"{tmp_path} cannot: No space left on device. Make room, .* before is intact"
    with pytest.raises(OSError, match=words) as caught:
        run()
    assert caught.value.errno == errno.ENOSPC
    monkeypatch.undo()
    trajectory = tw.Trajectory.open(tmp_path)
    assert trajectory.step.tolist() == [0, 2, 4][: len(trajectory)]
    assert len(trajectory) == 3 or background
    for point in trajectory:
        assert torch.equal(point.theta, seen[point.step])
    assert not [*tmp_path.rglob("*.tmp")]
    with tw.Recorder(tmp_path, model, optimizer, resume=True) as recorder:  # there is room again
        recorder.restore()
        runs.update(model, optimizer)
        recorder.step()
    assert len(tw.Trajectory.open(tmp_path)) == len(trajectory) + 1


def test_a_file_that_grows_beyond_what_is_allowed(tmp_path):
    """A real failing write, in the middle of a file: the limit on the size of one."""
    code = f"""
import resource, signal, sys, torch, thalweg as tw
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
model = torch.nn.Linear(100, 100)
with tw.Recorder({str(tmp_path)!r}, model, schedule=tw.Every(steps=1)) as recorder:
    recorder.step()
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    try:
        recorder.step()
    except OSError as error:
        print(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "The snapshot of step 2 needs a folder that can be written to" in told.stdout
    assert "File too large" in told.stdout
    trajectory = tw.Trajectory.open(tmp_path, skip_damaged=True)
    assert trajectory.step.tolist() == [0, 1]
    assert not [*tmp_path.rglob("*.tmp")]


def test_a_run_may_go_on_after_the_disk_was_full(tmp_path, monkeypatch):
    model = runs.network()
    optimizer = runs.OPTIMIZERS["sgd"](model.parameters())
    with tw.Recorder(tmp_path, model, optimizer, tw.Every(steps=1)) as recorder:
        for step in range(4):
            loss = runs.update(model, optimizer)
            with monkeypatch.context() as patch:
                if step == 1:
                    patch.setattr(os, "fsync", full)
                    with pytest.raises(OSError, match="No space left"):
                        recorder.step(loss=loss)
                else:
                    recorder.step(loss=loss)
    trajectory = tw.Trajectory.open(tmp_path)
    assert trajectory.step.tolist() == [0, 1, 3, 4]
    assert torch.equal(trajectory[-1].theta, runs.flat(model))
    assert trajectory.log.step.tolist() == [0, 1, 2, 3]


def test_an_error_of_the_users_is_not_hidden_by_one_of_the_disk(tmp_path, monkeypatch):
    model = runs.network()
    optimizer = runs.OPTIMIZERS["sgd"](model.parameters())

    def run():
        with tw.Recorder(tmp_path, model, optimizer) as recorder:
            runs.update(model, optimizer)
            recorder.step()
            runs.update(model, optimizer)
            monkeypatch.setattr(os, "fsync", full)
            raise ZeroDivisionError("of the user")

    with pytest.raises(ZeroDivisionError, match="of the user") as caught:
        run()
    assert "The last point was not recorded" in caught.value.__notes__[0]


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OSError, match=r"A trajectory needs a folder .*Choose another folder"):
        tw.Recorder(tmp_path / "file" / "run", runs.network()).open()
    with pytest.raises(OSError, match=r"A trajectory needs a folder .*Choose another folder"):
        tw.Recorder(tmp_path / "file", runs.network()).open()


def test_a_read_only_folder(tmp_path, monkeypatch):
    record(tmp_path / "run")
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    usual = os.open

    def read_only(path, flags, *more, **others):  # for root, whom permissions do not stop
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return usual(path, flags, *more, **others)

    monkeypatch.setattr(os, "open", read_only)
    model = runs.network()
    try:
        words = f"{tmp_path / 'run'} cannot: Read-only file system. Choose another folder"
        with pytest.raises(OSError, match=words):
            tw.Recorder(tmp_path / "run", model, resume=True).open()
        assert len(tw.Trajectory.open(tmp_path / "run")) == 4
    finally:
        tmp_path.chmod(stat.S_IRWXU)


def test_a_lock_that_there_is_not(tmp_path, monkeypatch):
    import fcntl

    def unknown(*given):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", unknown)
    with (
        pytest.warns(RuntimeWarning, match=r"lock cannot be locked .*\[no-lock\]"),
        tw.Recorder(tmp_path, runs.network()),
    ):
        pass
    assert len(tw.Trajectory.open(tmp_path)) == 1


def test_appended_lines_after_a_write_that_failed(tmp_path, monkeypatch):
    file = AppendedFile(tmp_path / "lines")
    file.append(b"one\n", sync=True)
    usual = os.write

    def half(handle, data):
        if len(data) > 4:
            return usual(handle, data[:4])
        return full()

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(OSError, match="No space left"):
        file.append(b"two and more\n")
    monkeypatch.undo()
    file.append(b"three\n")
    file.close()
    assert (tmp_path / "lines").read_bytes() == b"one\nthree\n"


def test_a_file_of_several_parts(tmp_path):
    write_atomically(tmp_path / "deep" / "file", b"one ", memoryview(b"two"))
    assert (tmp_path / "deep" / "file").read_bytes() == b"one two"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["file"]


def test_a_large_run_takes_the_memory_of_two_points(tmp_path):
    """Streaming 40 points of 8 MB grows the process by far less than they are."""
    code = f"""
import resource, torch, thalweg as tw
model = torch.nn.Linear(2000, 1000, bias=False)
with tw.Recorder({str(tmp_path)!r}, model, schedule=tw.Every(steps=1)) as recorder:
    for _ in range(39):
        recorder.step()
trajectory = tw.Trajectory.open({str(tmp_path)!r})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
total = sum(float(theta[0]) for theta in trajectory.stream())
print(len(trajectory), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    count, grown = told.stdout.split()
    assert int(count) == 40
    assert float(grown) < 60
    assert math.isfinite(float(grown))
