import json
import os
import re
import shutil
import stat
from dataclasses import replace
from hashlib import sha256

import numpy as np
import pytest
import safetensors.numpy

from thalweg import records
from thalweg.errors import RecordError
from thalweg.measures import Barrier
from thalweg.records import CheckedClaim, Record, open_record, save_record, write_atomically
from thalweg.results import Displacement, Ends, History, Profile, Provenance, Surface


def odd_values(count):
    """Return numbers that only an exact copy keeps: NaN with a payload, −0, subnormals."""
    payload = np.array([0x7FF8DEADBEEF0001, 0xFFF0000000000000], dtype=np.uint64)
    special = np.concatenate((payload.view(np.float64), [-0.0, 5e-324, 0.1 + 0.2, np.inf]))
    return np.resize(special, count)


def make_profile():
    alpha = np.array([-0.5, 0.1, 0.35, 1.0, 1.75, 2.5])
    return Profile(
        alpha=alpha,
        loss={"train": odd_values(6), "a/b~c": np.arange(6.0)},
        metrics={"error": {"train": np.linspace(0.9, 0.1, 6)}},
        ends=Ends(alpha=[0.0, 1.0], loss={"train": [2.0, np.nan], "a/b~c": [1.0, 0.5]}),
        samples={"train": np.arange(12.0).reshape(2, 6)},
        labels=("start", "bend", "solution"),
        anchors=(0.0, float("nan"), 1.0),
        length=3.25,
        provenance=Provenance(
            versions={"torch": "2.13.0"},
            device="cpu",
            dtype="float32",
            threads=2,
            objective={"loss": "cross_entropy", "splits": {"train": {"examples": 50}}, "$odd": 1},
            section={"kind": "Line", "distances": [1.5, float("inf")]},
            created="2026-11-21T11:00:00+00:00",
            seconds=0.25,
        ),
    )


def make_surface():
    return Surface(
        x=[-1.0, 0.5],
        y=[2.0, 3.0, 7.0],
        loss=odd_values(6).reshape(3, 2),
        labels=("a", "b"),
        anchors=[[0.0, 0.0], [1.0, 0.0]],
        gram=[[4.0, 1.0], [1.0, 2.0]],
    )


def make_displacement():
    return Displacement(
        step=[0, 3, 7],
        projection=odd_values(3),
        distance=[0.0, 0.1 + 0.2, np.nan],
        length=2.0,
        size=7,
        storage="float16",
        labels=("start", "solution"),
    )


def make_record(**changes):
    record = Record(
        study="two-solutions",
        title="Between two solutions",
        source="Goodfellow, Vinyals & Saxe (2015), figure 5 left",
        scale="smoke",
        asked={"points": 61, "range": [-1.0, 2.0], "window": None, "lr": {"start": 0.1}},
        results={
            "line": make_profile(),
            "plane": make_surface(),
            "path": make_displacement(),
            "run": History(epoch=[0, 1], loss=[3.0, 2.0], best=1.0),
        },
        numbers={"barrier": 0.75, "nothing": float("nan"), "low": -float("inf"), "count": 3},
        claims=(
            CheckedClaim("A barrier separates them.", "reproduced", "height 0.75 ± 0.01"),
            CheckedClaim("Nothing else does.", "not reproduced", float("inf")),
        ),
        summary=("The barrier is high.", "α → β: “fine”."),
        provenance={"seed": 7, "command": "thalweg run two-solutions", "seconds": 1.5},
    )
    return replace(record, **changes)


def bits(array):
    return array.shape, array.dtype, array.tobytes()


def arrays_in(value):
    """Yield all arrays of a result with their places, in order."""
    if isinstance(value, np.ndarray):
        yield bits(value)
    elif hasattr(value, "items"):
        for key, item in value.items():
            yield key
            yield from arrays_in(item)
    elif hasattr(value, "__dataclass_fields__"):
        for name in value.__dataclass_fields__:
            yield name
            yield from arrays_in(getattr(value, name))


def assert_same_record(a, b):
    # The document holds all that is no array; NaN equals NaN there.
    assert records._body(a, {}) == records._body(b, {})
    for name in a.results:
        assert list(arrays_in(a.results[name])) == list(arrays_in(b.results[name]))


def files_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


# Round trip


def test_a_record_comes_back_bit_for_bit(tmp_path):
    record = make_record()
    folder = save_record(record, tmp_path / "runs" / "first")
    assert folder == tmp_path / "runs" / "first"
    assert sorted(files_of(folder)) == ["arrays.safetensors", "record.json"]
    opened = open_record(str(folder))
    assert_same_record(record, opened)
    line, given = opened.results["line"], record.results["line"]
    assert list(line.loss) == ["train", "a/b~c"]
    assert line.labels == given.labels
    assert line.anchors[::2] == (0.0, 1.0)
    assert np.isnan(line.anchors[1])
    assert (line.length, opened.results["run"].best) == (3.25, 1.0)
    assert line.provenance == given.provenance
    assert opened.claims == record.claims
    assert opened.summary == record.summary
    assert dict(opened.asked) == dict(record.asked)
    assert dict(opened.provenance) == dict(record.provenance)
    assert np.isnan(opened.numbers["nothing"])
    assert opened.numbers["low"] == -np.inf
    assert type(opened.numbers["count"]) is int


def test_the_comparison_of_these_tests_sees_a_difference(tmp_path):
    other = make_record(results={**make_record().results, "run": History([0, 1], [3.0, 2.5])})
    with pytest.raises(AssertionError, match="run"):
        assert_same_record(make_record(), other)
    with pytest.raises(AssertionError, match="paper"):
        assert_same_record(make_record(), make_record(scale="paper"))


def test_an_empty_record_and_empty_arrays(tmp_path):
    empty = Record(study="nothing")
    assert_same_record(empty, open_record(save_record(empty, tmp_path / "a")))
    hollow = Record(study="hollow", results={"line": Profile(alpha=[], loss=[])})
    assert_same_record(hollow, open_record(save_record(hollow, tmp_path / "b")))


def test_opened_arrays_are_read_only(tmp_path):
    opened = open_record(save_record(make_record(), tmp_path))
    with pytest.raises(ValueError, match="read-only"):
        opened.results["line"].alpha[0] = 1.0
    with pytest.raises(TypeError, match="does not support item assignment"):
        opened.numbers["barrier"] = 0.0


def test_saving_what_was_opened_gives_the_same_bytes(tmp_path):
    first = save_record(make_record(), tmp_path / "first")
    second = save_record(open_record(first), tmp_path / "second")
    again = save_record(make_record(), tmp_path / "again")
    assert files_of(first) == files_of(second) == files_of(again)


def test_the_document_is_strict_json_and_lists_the_arrays(tmp_path):
    folder = save_record(make_record(), tmp_path)

    def refuse(name):
        raise AssertionError(name)

    document = json.loads((folder / "record.json").read_bytes(), parse_constant=refuse)
    assert document["format"] == 1
    assert document["numbers"]["nothing"] == {"$float": "NaN"}
    assert document["results"]["line"]["$kind"] == "Profile"
    assert document["results"]["line"]["provenance"]["objective"]["$$odd"] == 1
    arrays = safetensors.numpy.load_file(folder / "arrays.safetensors")
    assert "line/loss/a~1b~0c" in arrays
    assert set(arrays) == set(document["arrays"]["entries"])
    for name, entry in document["arrays"]["entries"].items():
        assert entry["dtype"] == arrays[name].dtype.name == "float64"
        assert entry["shape"] == list(arrays[name].shape)
        assert entry["sha256"] == sha256(arrays[name].tobytes()).hexdigest()
    whole = (folder / "arrays.safetensors").read_bytes()
    assert document["arrays"]["sha256"] == sha256(whole).hexdigest()
    digest = document.pop("sha256")
    line = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    assert digest == sha256(line.encode()).hexdigest()


def test_settings_become_plain():
    record = Record(
        study="plain",
        asked={"range": (0.0, 1.0), "points": np.int64(5), "$key": {"on": np.bool_(True)}},
        numbers={"height": np.float64(0.5), "word": "high", "yes": np.bool_(True)},
        provenance={"wall": Barrier(0.5, alpha=0.25, baseline="mean")},
    )
    assert dict(record.asked) == {"range": [0.0, 1.0], "points": 5, "$key": {"on": True}}
    assert [type(value) for value in record.numbers.values()] == [float, str, bool]
    assert type(record.provenance["wall"]) is float
    wall = Record(study="wall", numbers={"wall": Barrier(0.5, alpha=0.25, baseline="mean")})
    assert type(wall.numbers["wall"]) is float


# Damage


def test_every_flipped_bit_is_found(tmp_path):
    folder = save_record(make_record(), tmp_path / "good")
    rng = np.random.default_rng(12)
    for name, data in files_of(folder).items():
        places = rng.choice(8 * len(data), size=min(8 * len(data), 500), replace=False)
        hurt = tmp_path / "hurt"
        shutil.copytree(folder, hurt, dirs_exist_ok=True)
        for place in places:
            changed = bytearray(data)
            changed[place // 8] ^= 1 << (place % 8)
            (hurt / name).write_bytes(changed)
            with pytest.raises(RecordError, match=r"damaged|made by a newer thalweg"):
                open_record(hurt)
        (hurt / name).write_bytes(data)
        assert_same_record(make_record(), open_record(hurt))


@pytest.mark.parametrize("name", ["record.json", "arrays.safetensors"])
def test_truncated_and_extended_files_are_found(tmp_path, name):
    folder = save_record(make_record(), tmp_path)
    data = (folder / name).read_bytes()
    rng = np.random.default_rng(5)
    for length in [0, 1, 7, 8, 9, len(data) - 1, *rng.integers(0, len(data), 30)]:
        (folder / name).write_bytes(data[:length])
        with pytest.raises(RecordError, match=f"{re.escape(name)} in .* is damaged"):
            open_record(folder)
    for tail in (b"\n", b" ", b"\0"):
        (folder / name).write_bytes(data + tail)
        with pytest.raises(RecordError, match="is damaged"):
            open_record(folder)


def test_the_damaged_part_is_named(tmp_path):
    folder = save_record(make_record(), tmp_path)
    path = folder / "arrays.safetensors"
    good = path.read_bytes()
    arrays = safetensors.numpy.load(good)
    hurt = {**arrays, "plane/gram": arrays["plane/gram"] + 1.0}
    path.write_bytes(safetensors.numpy.save(hurt))
    with pytest.raises(RecordError, match=r"its arrays changed: plane/gram\. Restore it"):
        open_record(folder)
    path.write_bytes(safetensors.numpy.save(arrays, metadata={"by": "hand"}))
    with pytest.raises(RecordError, match="its header changed"):
        open_record(folder)
    path.write_bytes(b"nonsense")
    with pytest.raises(RecordError, match="it cannot be read"):
        open_record(folder)
    path.unlink()
    with pytest.raises(RecordError, match=r"arrays\.safetensors in .* is damaged: it is missing"):
        open_record(folder)


def test_a_folder_without_a_record(tmp_path):
    file = tmp_path / "file"
    file.write_text("no folder")
    for place in (tmp_path, tmp_path / "absent", file):
        with pytest.raises(RecordError, match=r"a folder with a record\.json; there is none in"):
            open_record(place)


@pytest.mark.parametrize(
    "text",
    ["", "[1]", "{}", "null", '{"format": "1"}', '{"format": 0}', '{"format": NaN}', "[" * 99999],
)
def test_a_document_that_is_no_record(tmp_path, text):
    (tmp_path / "record.json").write_text(text)
    with pytest.raises(RecordError, match=r"record\.json in .* is damaged"):
        open_record(tmp_path)


def rewrite(folder, change):
    """Change a document and seal it again, as somebody with a text editor and patience would."""
    path = folder / "record.json"
    body = json.loads(path.read_bytes())
    del body["sha256"]
    change(body)
    path.write_bytes(records._sealed(body))


def test_a_newer_format_asks_for_an_upgrade(tmp_path):
    save_record(make_record(), tmp_path)
    rewrite(tmp_path, lambda body: body.update(format=7))
    with pytest.raises(RecordError, match=r"has format 7, made by a newer thalweg\. Upgrade: `pip"):
        open_record(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda body: body["results"]["line"].update({"$kind": "Oracle"}),
            "the record has the kind 'Oracle'. Upgrade",
        ),
        (
            lambda body: body["results"]["run"].update(colour="red"),
            "the record has History with colour. Upgrade",
        ),
        (
            lambda body: body["results"].update({"../../escape": body["results"]["run"]}),
            "name of a result is made of letters, .*; got '../../escape'",
        ),
        (lambda body: body.update(study="../elsewhere"), "name of a study .*got '../elsewhere'"),
        (lambda body: body.pop("title"), "does not fit together: 'title'"),
        (lambda body: body["claims"][0].update(verdict="maybe"), "fit together: A verdict is"),
        (
            lambda body: body["results"]["run"].update(epoch={"$array": "line/alpha"}),
            "fit together: .*must have shape",
        ),
        (
            lambda body: body["results"]["run"].update(epoch={"$array": "absent"}),
            "fit together: 'absent'",
        ),
        (
            lambda body: body["arrays"].update(sha256="../../../etc/passwd"),
            "does not say which arrays belong to it",
        ),
        (lambda body: body.pop("arrays"), "does not say which arrays belong to it"),
        (
            lambda body: body["arrays"]["entries"]["line/alpha"].update(shape=[2, 3]),
            "its list of arrays does not match the arrays",
        ),
    ],
)
def test_a_sealed_document_is_not_trusted(tmp_path, change, message):
    save_record(make_record(), tmp_path)
    rewrite(tmp_path, change)
    with pytest.raises(RecordError, match=message):
        open_record(tmp_path)


# A writer that is killed


class PowerCutError(BaseException):
    pass


class Failing:
    """Do as before, but fail at the n-th call."""

    def __init__(self, real, at):
        self.real, self.at, self.calls = real, at, 0

    def __call__(self, *arguments):
        self.calls += 1
        if self.calls == self.at:
            raise PowerCutError("the power went")
        return self.real(*arguments)


def old_and_new():
    old = make_record(title="old")
    line = make_profile()
    changed = replace(line, loss={**line.loss, "train": line.loss["train"][::-1]})
    return old, make_record(title="new", results={**old.results, "line": changed})


@pytest.mark.parametrize("moment", range(1, 9))
@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_a_killed_writer_leaves_a_whole_record(tmp_path, monkeypatch, call, moment):
    old, new = old_and_new()
    save_record(old, tmp_path)
    failing = Failing(getattr(os, call), moment)
    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing)
        try:
            save_record(new, tmp_path)
            finished = True
        except PowerCutError:
            finished = False
    opened = open_record(tmp_path)
    assert opened.title in ("old", "new")
    assert_same_record(opened, {"old": old, "new": new}[opened.title])
    assert finished == (failing.calls < moment)
    if finished:
        assert opened.title == "new"
    # Whatever was left behind, the next writer gets through and tidies up.
    save_record(new, tmp_path)
    assert_same_record(new, open_record(tmp_path))
    assert sorted(files_of(tmp_path)) == ["arrays.safetensors", "record.json"]


def test_the_moments_above_cover_the_whole_writer(tmp_path, monkeypatch):
    for call in ("replace", "fsync"):
        counting = Failing(getattr(os, call), at=-1)
        with monkeypatch.context() as patch:
            patch.setattr(os, call, counting)
            save_record(make_record(), tmp_path / call)
        assert 1 < counting.calls < 9


def test_leftovers_of_a_killed_process_are_tidied_up(tmp_path):
    save_record(make_record(), tmp_path)
    (tmp_path / ".record.json.0a0a0a0a.tmp").write_bytes(b"half")
    (tmp_path / "arrays-0000000000000000.safetensors").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("mine")
    assert_same_record(make_record(), open_record(tmp_path))
    save_record(make_record(), tmp_path)
    assert sorted(files_of(tmp_path)) == ["arrays.safetensors", "notes.txt", "record.json"]


def test_write_atomically_leaves_no_temporary_file_behind(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")
    monkeypatch.setattr(os, "replace", Failing(os.replace, 1))
    with pytest.raises(PowerCutError, match="the power went"):
        write_atomically(path, b"new")
    assert files_of(tmp_path) == {"file": b"old"}


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_permissions_follow_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        folder = save_record(make_record(), tmp_path / "run")
    finally:
        os.umask(before)
    for path in folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


# What is refused


@pytest.mark.parametrize("name", ["", ".", "..", "../up", "a/b", "a\\b", ".hidden", "a b", "ü", 3])
def test_names_that_could_not_name_a_file(name):
    with pytest.raises(RecordError, match="The name of a study is made of letters"):
        Record(study=name)
    with pytest.raises(RecordError, match="The name of a result is made of letters"):
        Record(study="fine", results={name: make_profile()})


def test_a_verdict_is_one_of_two_words():
    with pytest.raises(ValueError, match="'reproduced' or 'not reproduced'; got 'yes'"):
        CheckedClaim("The loss falls.", "yes", 1.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Record(study="s", results={"line": 3.0}), r"`results\['line'\]` is a float"),
        (lambda: Record(study="s", numbers={"all": [1, 2]}), "`all` is a list. Boil it down"),
        (lambda: CheckedClaim("It falls.", "reproduced", None), "`measured` is a NoneType"),
        (lambda: Record(study="s", asked={"f": print}), "`asked/f` is a builtin_function"),
        (lambda: Record(study="s", asked={"x": np.ones(2)}), "`asked/x` is a float64 array"),
        (lambda: Record(study="s", asked={"lr": {1: 0.1}}), "words as keys; got 1. Convert"),
        (lambda: Record(study="s", provenance={"p": Provenance()}), "`provenance/p` is a Prov"),
    ],
)
def test_what_a_record_cannot_hold(make, message):
    with pytest.raises(TypeError, match=message):
        make()


def test_arrays_inside_a_result_must_be_float64(tmp_path):
    strange = Provenance(objective={"mask": np.array([True, False])})
    profile = Profile(alpha=[0.5], loss=[1.0], provenance=strange)
    with pytest.raises(TypeError, match="`line/provenance/objective/mask` is a bool array"):
        save_record(Record(study="s", results={"line": profile}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
