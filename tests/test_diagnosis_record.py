"""A diagnosis comes back from its record as it went in."""

import json
from dataclasses import fields

import numpy as np
import pytest

from hand_made_diagnoses import healthy, open_questions, stuck
from thalweg import records
from thalweg.errors import RecordError
from thalweg.records import Record, open_record, save_record
from thalweg.results import Diagnosis, Evidence, Finding

ALL = (stuck, healthy, open_questions)


def same(a, b):
    """Tell whether two diagnoses have the same content, bit for bit; raise where they differ."""
    for item in fields(Diagnosis):
        left, right = getattr(a, item.name), getattr(b, item.name)
        if item.name == "findings":
            assert list(left) == list(right)
            assert repr(dict(left)) == repr(dict(right)), "the findings differ"
        elif item.name == "reached":
            assert list(left) == list(right)
            for name in left:
                np.testing.assert_array_equal(left[name], right[name])
        elif isinstance(left, np.ndarray):
            np.testing.assert_array_equal(left, right)
        else:
            assert repr(left) == repr(right), item.name


def kept(diagnosis, folder):
    return save_record(Record(study="diagnosis", results={"diagnosis": diagnosis}), folder)


@pytest.mark.parametrize("make", ALL)
def test_it_comes_back(make, tmp_path):
    opened = open_record(kept(make(), tmp_path)).results["diagnosis"]
    same(opened, make())
    assert str(opened) == str(make())
    assert opened.primary == make().primary


def test_evidence_is_what_it_was(tmp_path):
    opened = open_record(kept(stuck(), tmp_path)).results["diagnosis"]
    finding = opened["gradient_noise"]
    assert isinstance(finding, Finding)
    assert isinstance(finding.evidence, tuple)
    assert finding.evidence == stuck()["gradient_noise"].evidence
    assert [each.step for each in finding.evidence] == [120, 160]
    assert opened["saddle_point"].evidence[0].step is None
    assert np.isnan(opened["saddle_point"].evidence[0].threshold)
    assert finding.rivals == stuck()["gradient_noise"].rivals
    with pytest.raises(ValueError, match="read-only"):
        opened.loss[0] = 0.0


def test_the_comparison_sees_a_difference():
    with pytest.raises(AssertionError, match="the findings differ"):
        same(stuck(), healthy())


def test_saving_what_was_opened_gives_the_same_bytes(tmp_path):
    first = kept(stuck(), tmp_path / "a")
    second = kept(open_record(first).results["diagnosis"], tmp_path / "b")
    for name in ("record.json", "arrays.safetensors"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda d: d["findings"]["plateau"].update(verdict="maybe"),
            "fit together: A verdict is one of",
        ),
        (lambda d: d["findings"].pop("plateau"), "fit together: A diagnosis has a finding for"),
        (
            lambda d: d["findings"]["plateau"].update(obstacle="wormhole"),
            "fit together: An obstacle is one of",
        ),
        (lambda d: d["findings"]["plateau"].update(mood=1), "Finding with mood. Upgrade"),
        (
            lambda d: d["findings"]["gradient_noise"]["evidence"][0].update({"$kind": "Rumour"}),
            "the kind 'Rumour'. Upgrade",
        ),
        (
            lambda d: d.update(stretch={"$array": "diagnosis/loss"}),
            "fit together: `stretch` must have shape",
        ),
    ],
)
def test_a_changed_document_is_not_trusted(tmp_path, change, message):
    folder = kept(stuck(), tmp_path)
    path = folder / "record.json"
    body = json.loads(path.read_bytes())
    del body["sha256"]
    change(body["results"]["diagnosis"])
    path.write_bytes(records._sealed(body))
    with pytest.raises(RecordError, match=message):
        open_record(folder)


def test_a_finding_alone_is_no_result():
    with pytest.raises(TypeError, match=r"A result is one of .*Diagnosis; `results\['x'\]` is a"):
        Record(study="diagnosis", results={"x": Evidence("alone")})
