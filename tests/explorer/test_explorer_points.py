"""Points of an explorer: each of them once, the right numbers, kept, and in the right order."""

import threading

import numpy as np
import pytest
import torch
from explored import (
    BETTER,
    LINE,
    PLANE,
    POINTS,
    Counted,
    chain,
    counts_of,
    exploring,
    finished,
    until,
)

import thalweg as tw
from thalweg.explorer.outcome import full_table
from thalweg.explorer.request_error import RequestError


def straight():
    return tw.Line(POINTS[0], POINTS[2], labels=("step 0", "step 2"))


def flat():
    return tw.Plane.through(POINTS[0], POINTS[2], BETTER, labels=tuple(PLANE["anchors"]))


def test_a_line_has_the_numbers_of_a_profile(tmp_path):
    with exploring(tmp_path) as explorer:
        told = explorer.define({**LINE, "from": -0.5, "to": 1.5, "points": 9})
        assert told["grid"] == {"from": -0.5, "to": 1.5, "points": 9}
        assert (told["asked"], told["new"]) == (9, 9)
        found = finished(explorer, told["section"])
    assert found["alpha"][:2] == [0.0, 1.0]
    alpha = sorted(found["alpha"])
    order = np.argsort(found["alpha"])
    profile = tw.profile(Counted(), straight(), alpha)
    assert np.array_equal(np.array(found["loss"]["train"])[order], profile.loss["train"])
    assert found["length"] == straight().length
    assert (found["labels"], found["places"]) == (["step 0", "step 2"], [0.0, 1.0])


def test_a_plane_has_the_numbers_of_a_surface(tmp_path):
    view = {"x": {"from": -1, "to": 1}, "y": {"from": 0, "to": 2}, "columns": 5, "rows": 3}
    with exploring(tmp_path) as explorer:
        told = explorer.define({**PLANE, **view})
        assert told["grid"]["y"] == {"from": 0.0, "to": 2.0, "points": 3}
        found = finished(explorer, told["section"])
    surface = tw.surface(Counted(), flat(), [-1, -0.5, 0, 0.5, 1], [0, 1, 2])
    assert found["count"] == 15
    for x, y, loss in zip(found["x"], found["y"], found["loss"]["train"], strict=True):
        i, j = list(surface.y).index(y), list(surface.x).index(x)
        assert loss == surface.loss["train"][i, j]
    assert found["gram"] == flat().gram.tolist()
    kept = tw.open_record(tmp_path / "records" / told["section"])
    result = kept.results["surface"]
    assert np.array_equal(result.loss["train"], surface.loss["train"])
    assert kept.title == "Plane of step 0, step 2 and solution better"


def test_splits_and_metrics_travel(tmp_path):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20, 2, generator=generator)
    y = (x[:, 0] > 0).long()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = torch.nn.Linear(2, 2)
    cost = tw.ModelObjective(
        model,
        torch.nn.CrossEntropyLoss(),
        {"train": (x, y), "valid": (x[:5], y[:5])},
        metrics={"error": tw.error_rate},
        dtype=torch.float64,
    )
    points = torch.randn(3, 6, generator=generator, dtype=torch.float64)
    run = tw.Trajectory.from_points(points)
    anchors = {"kind": "line", "anchors": ["step 0", "step 2"], "from": 0, "to": 1, "points": 5}
    with exploring(tmp_path, cost, run) as explorer:
        told = explorer.run()
        found = finished(explorer, explorer.define(anchors)["section"])
    assert (told["splits"], told["metrics"]) == (["train", "valid"], ["error"])
    assert (told["parameters"], told["dtype"], told["device"]) == (6, "float64", "cpu")
    profile = tw.profile(cost, tw.Line(points[0], points[2]), sorted(found["alpha"]))
    order = np.argsort(found["alpha"])
    for split in ("train", "valid"):
        assert np.array_equal(np.array(found["loss"][split])[order], profile.loss[split])
        error = np.array(found["metrics"]["error"][split])
        assert np.array_equal(error[order], profile.metrics["error"][split])


def test_fifty_readers_at_once_lose_nothing_and_evaluate_nothing_twice(tmp_path):
    cost = Counted()
    told, wanted = [], set()
    with exploring(tmp_path, cost) as explorer:
        section = explorer.define(LINE)["section"]
        together = threading.Barrier(50)

        def reader(i):
            together.wait()
            asked = {"from": (i % 7) / 8, "to": (i % 7) / 8 + 2.0 ** (i % 3), "points": 17}
            told.append(explorer.refine(section, asked)["grid"])

        readers = [threading.Thread(target=reader, args=(i,)) for i in range(50)]
        for each in readers:
            each.start()
        for each in readers:
            each.join()
        found = finished(explorer, section)
    assert len(told) == 50
    for grid in told:
        wanted |= {float(a) for a in np.linspace(grid["from"], grid["to"], grid["points"])}
    assert sorted(found["alpha"]) == sorted(wanted | {0.0, 1.0})
    assert set(counts_of(cost, straight()).values()) == {1}
    assert cost.counts.total() == found["count"] + 1  # and the one that tells costs apart


def test_two_sections_through_one_point_are_two_sections(tmp_path):
    with exploring(tmp_path) as explorer:
        one = explorer.define({**LINE, "from": 0, "to": 1, "points": 3})["section"]
        back = {"kind": "line", "anchors": LINE["anchors"][::-1]}
        other = explorer.define({**back, "from": 0, "to": 1, "points": 3})["section"]
        assert one != other
        assert finished(explorer, one)["count"] == finished(explorer, other)["count"] == 3
        assert explorer.define(LINE)["section"] == one
        names = [each["section"] for each in explorer.progress()["sections"]]
    assert names == [one, other]


def test_what_is_known_is_not_asked_for_again(tmp_path):
    cost = Counted()
    with exploring(tmp_path, cost) as explorer:
        section = explorer.define({**LINE, "from": 0, "to": 1, "points": 9})["section"]
        finished(explorer, section)
        before = cost.counts.total()
        told = explorer.refine(section, {"from": 0, "to": 1, "points": 5})
        assert (told["asked"], told["new"], told["request"]) == (5, 0, None)
        told = explorer.refine(section, {"from": 0, "to": 1, "points": 17})
        assert (told["asked"], told["new"]) == (17, 8)
        assert finished(explorer, section)["count"] == 17
    assert cost.counts.total() == before + 8


def test_the_newest_request_goes_first(tmp_path):
    cost = Counted()
    with exploring(tmp_path, cost) as explorer:
        section = explorer.define({**LINE, "from": 0, "to": 1, "points": 2})["section"]
        finished(explorer, section)
        cost.gate.clear()
        explorer.refine(section, {"from": 0, "to": 1, "points": 65})
        until(explorer.progress, lambda told: told["running"])
        newer = explorer.refine(section, {"from": 2, "to": 3, "points": 5})
        again = explorer.refine(section, {"from": 2, "to": 3, "points": 5})
        assert (newer["new"], again["new"], again["request"]) == (5, 0, newer["request"])
        waiting = explorer.section(section)
        assert waiting["waiting"] == 68
        assert [job["request"] for job in waiting["jobs"]] == [newer["request"], 2]
        assert [job["waiting"] for job in waiting["jobs"]] == [5, 63]
        assert [job["running"] for job in waiting["jobs"]] == [False, True]
        cost.gate.set()
        found = finished(explorer, section)
    # The one that was being evaluated, then those of the newer request.
    assert sorted(found["alpha"][3:8]) == [2.0, 2.25, 2.5, 2.75, 3.0]
    assert set(counts_of(cost, straight()).values()) == {1}


def test_an_older_request_comes_forward_when_it_is_asked_for_again(tmp_path):
    cost = Counted()
    with exploring(tmp_path, cost) as explorer:
        section = explorer.define({**LINE, "from": 0, "to": 1, "points": 2})["section"]
        finished(explorer, section)
        cost.gate.clear()
        explorer.refine(section, {"from": 4, "to": 5, "points": 3})
        until(explorer.progress, lambda told: told["running"])
        old = explorer.refine(section, {"from": 0, "to": 1, "points": 9})
        explorer.refine(section, {"from": 2, "to": 3, "points": 5})
        explorer.refine(section, {"from": 0, "to": 1, "points": 9})
        assert explorer.section(section)["jobs"][0]["request"] == old["request"]
        cost.gate.set()
        found = finished(explorer, section)
    assert max(found["alpha"][3:10]) < 1


def test_a_full_queue_says_when_to_come_back(tmp_path):
    cost = Counted()
    with exploring(tmp_path, cost, most_waiting=20) as explorer:
        section = explorer.define(LINE)["section"]
        cost.gate.clear()
        explorer.refine(section, {"from": 0, "to": 1, "points": 17})
        with pytest.raises(RequestError, match="17 in 1 do, and 5 more were") as refused:
            explorer.refine(section, {"from": 2, "to": 3, "points": 5})
        assert refused.value.status == 429
        assert 1 <= int(refused.value.headers["Retry-After"]) <= 60
        with pytest.raises(RequestError, match="33 are asked for at once") as refused:
            explorer.refine(section, {"from": 4, "to": 5, "points": 33})
        assert refused.value.status == 400
        cost.gate.set()
        finished(explorer, section)
        assert explorer.refine(section, {"from": 2, "to": 3, "points": 5})["new"] == 5
        assert finished(explorer, section)["count"] == 22


def test_a_reader_can_ask_for_what_is_new_alone(tmp_path):
    with exploring(tmp_path) as explorer:
        section = explorer.define({**LINE, "from": 0, "to": 1, "points": 5})["section"]
        everything = finished(explorer, section)
        rest = explorer.section(section, 3)
        assert rest["alpha"] == everything["alpha"][3:]
        assert rest["loss"]["train"] == everything["loss"]["train"][3:]
        assert (rest["after"], rest["count"]) == (3, 5)
        assert explorer.section(section, 5)["loss"] == {}


def test_values_that_are_not_finite_are_values(tmp_path):
    cost = Counted(lambda w: torch.log(w[0] - 1))
    with exploring(tmp_path, cost) as explorer:
        told = explorer.define({**LINE, "from": 0, "to": 1, "points": 5})
        found = finished(explorer, told["section"])
    losses = dict(zip(found["alpha"], found["loss"]["train"], strict=True))
    assert losses[0.0] == 0.0
    assert np.isnan(losses[1.0])
    profile = tw.open_record(tmp_path / "records" / told["section"]).results["profile"]
    assert np.isnan(profile.loss["train"][-1])


def test_after_a_restart_nothing_is_evaluated_again(tmp_path):
    first, second = Counted(), Counted()
    with exploring(tmp_path, first) as explorer:
        told = explorer.define({**LINE, "from": 0, "to": 1, "points": 9})
        before = finished(explorer, told["section"])
    with exploring(tmp_path, second) as explorer:
        assert explorer.progress()["sections"][0]["state"] == "closed"
        after = finished(explorer, told["section"])
        assert explorer.define(LINE)["section"] == told["section"]
        assert explorer.refine(told["section"], {"from": 0, "to": 1, "points": 9})["new"] == 0
        assert explorer.life != before["life"] != after["life"]
    assert counts_of(second, straight()) == {}
    for name in ("loss", "count", "waiting", "state"):
        assert sorted(str(before[name])) == sorted(str(after[name]))


def test_what_waits_goes_on_after_a_restart(tmp_path):
    first, second = Counted(), Counted()
    with exploring(tmp_path, first) as explorer:
        section = explorer.define({**LINE, "from": 0, "to": 1, "points": 3})["section"]
        finished(explorer, section)
        first.gate.clear()
        explorer.refine(section, {"from": 0, "to": 1, "points": 33})
        until(explorer.progress, lambda told: told["running"])
        with explorer._changed:
            explorer._stopping = True  # before the gate opens: one more point, and no other
        first.gate.set()
    with exploring(tmp_path, second) as explorer:
        found = until(lambda: explorer.section(section), lambda told: told["count"] == 33)
    assert len(set(found["alpha"])) == 33
    together = {**counts_of(first, straight()), **counts_of(second, straight())}
    assert set(together.values()) == {1}
    assert not counts_of(first, straight()).keys() & counts_of(second, straight()).keys()
    assert 2 <= len(counts_of(first, straight())) <= 4


def test_the_record_of_a_line_is_an_ordinary_profile(tmp_path):
    with exploring(tmp_path) as explorer:
        told = explorer.define({**LINE, "from": 0.25, "to": 0.75, "points": 5})
        finished(explorer, told["section"])
    record = tw.open_record(tmp_path / "records" / told["section"])
    profile = record.results["profile"]
    assert list(profile.alpha) == [0.0, 0.25, 0.375, 0.5, 0.625, 0.75, 1.0]
    assert (profile.labels, profile.anchors) == (("step 0", "step 2"), (0.0, 1.0))
    same = tw.profile(Counted(), straight(), profile.alpha)
    assert np.array_equal(profile.ends.loss["train"], same.ends.loss["train"])
    assert profile.provenance.objective == same.provenance.objective
    assert record.asked["run"] == "walk"
    assert tw.barrier(profile) == tw.barrier(same)
    # A profile can go on from there, and needs no point again.
    cost = Counted()
    tw.profile(cost, straight(), profile.alpha, keep=tmp_path / "points")
    assert counts_of(cost, straight()) == {}


def test_records_are_written_while_points_come(tmp_path, monkeypatch):
    monkeypatch.setattr("thalweg.explorer.explorer._RECORD_SECONDS", 0.01)
    with exploring(tmp_path) as explorer:
        section = explorer.define({**LINE, "from": 0, "to": 1, "points": 9})["section"]
        document = tmp_path / "records" / section / "record.json"
        until(document.exists, bool)
        finished(explorer, section)

        def points():
            return len(tw.open_record(document.parent).results["profile"].alpha)

        assert until(points, lambda count: count == 9)


def count_of_three(folder):
    with exploring(folder) as explorer:
        section = explorer.define({**LINE, "from": 0, "to": 1, "points": 3})["section"]
        return finished(explorer, section)["count"]


def test_a_record_that_cannot_be_written_is_told_of(tmp_path):
    (tmp_path / "records").write_text("in the way")
    with pytest.warns(RuntimeWarning, match="explorer-not-kept"):
        assert count_of_three(tmp_path) == 3


def test_an_error_of_the_cost_is_told_and_can_be_tried_again(tmp_path):
    broken = [True]

    class Sometimes(Counted):
        def evaluate(self, theta, anchor_buffers=None):
            if broken[0] and self.counts.total() > 3:
                raise RuntimeError("out of memory\nand more")
            return super().evaluate(theta, anchor_buffers)

    with exploring(tmp_path, Sometimes()) as explorer:
        section = explorer.define({**LINE, "from": 0, "to": 1, "points": 9})["section"]
        told = finished(explorer, section)
        assert (told["state"], told["message"]) == ("failed", "RuntimeError: out of memory")
        assert (told["count"], told["jobs"]) == (3, [])
        broken[0] = False
        assert explorer.refine(section, {"from": 0, "to": 1, "points": 9})["new"] == 6
        told = finished(explorer, section)
        assert (told["state"], told["count"]) == ("open", 9)


def test_a_plane_of_points_on_one_line_fails_with_a_reason(tmp_path):
    run = tw.Trajectory.from_points(torch.tensor([[0.5, 0.0], [1.0, 1.0], [1.5, 2.0]]).double())
    with exploring(tmp_path, trajectory=run) as explorer:
        plane = {"kind": "plane", "anchors": ["step 0", "step 1", "step 2"]}
        section = explorer.define(plane)["section"]
        told = finished(explorer, section)
        assert told["state"] == "failed"
        assert "three points that are not on one line" in told["message"]


def test_eigenvectors_are_computed_once_and_kept(tmp_path, monkeypatch):
    anchors = ["step 2", "eigenvector 1 at step 2", "eigenvector -1 at step 2"]
    view = {"x": {"from": -1, "to": 1}, "y": {"from": -1, "to": 1}, "columns": 3, "rows": 3}
    with exploring(tmp_path) as explorer:
        assert explorer.run()["eigenvectors"] == [1, 2, -2, -1]
        section = explorer.define({"kind": "plane", "anchors": anchors, **view})["section"]
        found = finished(explorer, section)
    assert np.allclose(found["gram"], np.eye(2))
    pairs = tw.spectrum(Counted(), POINTS[2], 2)
    losses = dict(
        zip(zip(found["x"], found["y"], strict=True), found["loss"]["train"], strict=True)
    )
    for vector, place in (
        (pairs.eigenvectors[-1], (1.0, 0.0)),
        (pairs.eigenvectors[0], (0.0, 1.0)),
    ):
        step = torch.from_numpy(vector * np.sign(vector[np.abs(vector).argmax()]))
        assert np.isclose(losses[place], float(chain(POINTS[2] + step)))
    monkeypatch.setattr("thalweg.explorer.catalogue.spectrum", None)
    cost = Counted()
    with exploring(tmp_path, cost) as explorer:
        again = finished(explorer, section)
        line = {"kind": "line", "anchors": ["step 2", "eigenvector 2 at step 2"]}
        told = explorer.define({**line, "from": -1, "to": 1, "points": 3})
        along = finished(explorer, told["section"])
    assert again["count"] == 9
    assert np.isclose(along["length"], 1.0)
    assert along["labels"] == ["step 2", "+ eigenvector 2 at step 2"]


@pytest.mark.parametrize(
    "name", ["step 1x", "step 7", "solution worse", "eigenvector 3 at step 0", "step -1", "", "a"]
)
def test_an_anchor_that_is_not_there_is_refused(tmp_path, name):
    with exploring(tmp_path) as explorer:
        with pytest.raises(RequestError, match="there is no '") as refused:
            explorer.define({"kind": "line", "anchors": ["step 0", name]})
        assert refused.value.status == 400


def test_a_section_whose_anchor_has_gone_says_so(tmp_path, monkeypatch):
    with exploring(tmp_path) as explorer:
        section = explorer.define({"kind": "line", "anchors": ["step 0", "solution better"]})
        finished(explorer, section["section"])
    monkeypatch.setattr("explored.Solution", _Other)
    with exploring(tmp_path) as explorer:
        told = explorer.section(section["section"])
        assert told["state"] == "failed"
        assert "one has changed since" in told["message"]
        with pytest.raises(RequestError, match="Define the section anew") as refused:
            explorer.refine(section["section"], {"from": 0, "to": 1, "points": 3})
        assert refused.value.status == 409


class _Other:
    def __init__(self, theta, file, sha256):
        self.theta, self.file, self.sha256 = theta, file, "1" * 64


def test_many_sections_take_turns_in_memory(tmp_path):
    with exploring(tmp_path) as explorer:
        names = ["step 0", "step 1", "step 2", "solution better"]
        pairs = [(a, b) for a in names for b in names if a != b]
        view = {"from": 0, "to": 1, "points": 3}
        ids = [
            explorer.define({"kind": "line", "anchors": pair, **view})["section"]
            for pair in map(list, pairs)
        ]
        assert [finished(explorer, each)["count"] for each in ids] == [3] * 12
        explorer.refine(ids[0], {"from": 0, "to": 1, "points": 5})
        assert finished(explorer, ids[0])["count"] == 5
        assert len(explorer._opened) <= 4


def test_full_table_gives_up_what_lacks_most():
    coarse = [(float(x), float(y)) for x in range(5) for y in range(4)]
    fine = [(x / 2, y / 2) for x in range(3) for y in range(3)]
    assert full_table(coarse) == ([0.0, 1.0, 2.0, 3.0, 4.0], [0.0, 1.0, 2.0, 3.0])
    x, y = full_table({*coarse, *fine})
    assert {(a, b) for a in x for b in y} <= {*coarse, *fine}
    assert len(x) * len(y) >= 16
    assert full_table([(0.0, 0.0)]) == ([0.0], [0.0])
