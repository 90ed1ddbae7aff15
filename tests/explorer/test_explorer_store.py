"""The folder of an explorer: one server, one cost, and nothing half written."""

import json
import shutil

import pytest
import torch
from explored import LINE, POINTS, Counted, chain, exploring, finished

import thalweg as tw
from thalweg.explorer.catalogue import Catalogue
from thalweg.explorer.store import Store, fingerprint


def run():
    return tw.Trajectory.from_points(POINTS)


def other(w):
    return (2 - w[0] * w[1]) ** 2


def explored(folder, cost=None, trajectory=None):
    with exploring(folder, cost, trajectory) as explorer:
        section = explorer.define({**LINE, "from": 0, "to": 1, "points": 5})["section"]
        return section, finished(explorer, section)["count"]


def test_two_servers_never_have_one_folder(tmp_path):
    facts = fingerprint(Counted(), run())
    store = Store(tmp_path, facts)
    with pytest.raises(ValueError, match=r"one server at a time; .* is in use by process [0-9]+"):
        Store(tmp_path, facts)
    store.close()
    Store(tmp_path, facts).close()


def test_a_lock_that_nobody_holds_is_taken_over(tmp_path):
    (tmp_path / "lock").write_text("999999999\n")
    assert explored(tmp_path)[1] == 5


def test_another_cost_is_refused(tmp_path):
    explored(tmp_path)
    with pytest.raises(ValueError, match="belongs to another, which differs in: function"):
        explored(tmp_path, Counted(other))
    with pytest.raises(ValueError, match="differs in: run"):
        explored(tmp_path, trajectory=tw.Trajectory.from_points(POINTS + 1))
    assert explored(tmp_path)[1] == 5  # and the lock was let go of


def test_other_data_is_refused(tmp_path):
    def cost(shift):
        x = torch.arange(8.0).reshape(4, 2) + shift
        model = torch.nn.Linear(2, 1, bias=False)
        return tw.ModelObjective(model, torch.nn.MSELoss(), (x, torch.ones(4, 1)))

    trajectory = tw.Trajectory.from_points(POINTS.float())
    store = Store(tmp_path, fingerprint(cost(0), trajectory))
    store.close()
    Store(tmp_path, fingerprint(cost(0), trajectory)).close()
    with pytest.raises(ValueError, match="differs in: data"):
        Store(tmp_path, fingerprint(cost(1), trajectory))


def test_a_run_that_goes_on_is_the_same_run(tmp_path):
    explored(tmp_path, trajectory=tw.Trajectory.from_points(POINTS))
    longer = torch.cat([POINTS, POINTS[1:]])
    assert explored(tmp_path, trajectory=tw.Trajectory.from_points(longer))[1] == 5


def test_a_document_that_cannot_be_read_is_not_replaced(tmp_path):
    explored(tmp_path)
    (tmp_path / "explorer.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be read to tell which"):
        explored(tmp_path)
    assert (tmp_path / "explorer.json").read_text() == "{"


@pytest.mark.parametrize("cut", [1, 10, 40])
def test_a_torn_last_line_is_ignored(tmp_path, cut):
    section, _ = explored(tmp_path)
    (points,) = (tmp_path / "points").glob("*.jsonl")
    for path in (points, tmp_path / "requests.jsonl"):
        path.write_bytes(path.read_bytes()[:-cut])
    cost = Counted()
    assert explored(tmp_path, cost) == (section, 5)
    assert cost.counts.total() == 2  # the torn point, and the one that tells costs apart
    lines = points.read_text().splitlines()
    assert len(lines) == 6
    assert all(json.loads(line) for line in lines)


def test_a_damaged_request_is_left_out_and_told_of(tmp_path):
    explored(tmp_path)
    path = tmp_path / "requests.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"number":1', b'"number":7', 1))
    with pytest.warns(RuntimeWarning, match="damaged-requests"):
        store = Store(tmp_path, fingerprint(Counted(), run()))
    assert (len(store.sections), store.asked) == (1, [])
    store.close()


def test_points_that_were_removed_are_evaluated_again_when_asked_for(tmp_path):
    section, _ = explored(tmp_path)
    shutil.rmtree(tmp_path / "points")
    with exploring(tmp_path) as explorer:
        told = finished(explorer, section)
        assert (told["count"], told["waiting"]) == (0, 0)
        assert explorer.refine(section, {"from": 0, "to": 1, "points": 5})["new"] == 5
        assert finished(explorer, section)["count"] == 5


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(OSError, match=r"needs a folder that can be written to; .* Choose another"):
        Store(tmp_path / "taken", fingerprint(Counted(), run()))


def test_a_run_of_another_model_is_refused(tmp_path):
    cost = tw.FunctionObjective(chain, 2)
    run_of_three = tw.Trajectory.from_points(torch.ones(2, 3))
    with pytest.raises(tw.ParameterMismatchError, match="the run has 3, the objective 2"):
        Catalogue(cost, run_of_three, {}, tmp_path)
    empty = tw.Trajectory.from_points(torch.ones(0, 2))
    with pytest.raises(ValueError, match="this one has none"):
        Catalogue(cost, empty, {}, tmp_path)
