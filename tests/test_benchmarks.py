"""The benchmarks measure what they say: everybody evaluates the same, and wrong values are refused.

No test asserts a time.
"""

import dataclasses
import json
import sys
import tempfile
from pathlib import Path

import contestants
import curvature
import displacement
import instructions
import kills
import machine
import numpy as np
import peers
import points_needed
import pytest
import recording
import report as report_benchmark
import run
import table
import torch
from held_out import barrier, closed_form
from workloads import WORKLOADS, perceptron

import thalweg as tw


@pytest.fixture(scope="module", autouse=True)
def _nothing_of_this_machine(tmp_path_factory):
    """Use noise rather than real data, and a temporary folder of its own for trained ends."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("THALWEG_DATA", raising=False)
        patch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("benchmarks")))
        yield


@pytest.fixture(scope="module")
def line():
    return WORKLOADS["line"](True)


# --- everybody evaluates the same ------------------------------------------------------------


@pytest.mark.parametrize("name", WORKLOADS)
def test_contestants_agree(name):
    times, found, memory = run.a_round(WORKLOADS[name](True), 5, run.WAYS[name])
    assert list(times) == ["usual loop", *run.WAYS[name]]
    assert set(found) == set(run.WAYS[name])
    assert memory == {}


@pytest.mark.parametrize("name", ["line", "plane"])
def test_the_usual_loop_goes_where_the_section_goes(name):
    workload = WORKLOADS[name](True)
    objective = workload.objective()
    section, alpha = workload.section(objective), workload.coordinates()
    places = alpha
    if name == "plane":
        across, up = np.meshgrid(alpha, alpha)
        places = np.stack([across.ravel(), up.ravel()], axis=-1)
    np.testing.assert_array_equal(workload.weights(), section.weights(places))


@pytest.mark.parametrize("way", ["exact", "adaptive"])
@pytest.mark.parametrize("name", ["line", "mnist-plane"])
def test_a_wrong_value_is_refused(name, way, monkeypatch):
    right = contestants.WAYS[way]

    def wrong(workload, device):
        result = right(workload, device)
        loss = result.loss["train"].copy()
        loss.flat[-1] *= 1 + 1e-4
        return dataclasses.replace(result, loss={"train": loss}, **without_ends(result))

    monkeypatch.setitem(contestants.WAYS, way, wrong)
    with pytest.raises(AssertionError, match=f"{way!r} must be those of the usual loop"):
        run.a_round(WORKLOADS[name](True), 5, [way])


def without_ends(result):
    return {"ends": None} if hasattr(result, "ends") else {}


def test_values_without_a_common_point_are_refused():
    points = np.array([[0.5, 0.5]])
    with pytest.raises(ValueError, match="must have one in common; none of 1 is"):
        contestants.expect_agreement("nobody", points + 0.1, [1.0], points, [1.0])


def test_a_coordinate_may_differ_in_its_last_bit():
    points = np.array([[0.1 + 0.2, 0.7]])
    contestants.expect_agreement("anybody", points, [2.0], np.array([[0.3, 0.7]]), [2.0])


def test_dense_truth_is_that_of_the_usual_loop(line):
    loss, between = run.dense_truth(line, contestants.adaptive(line), small=True)
    alpha = np.linspace(0, 1, len(loss))
    usual = contestants.usual_loop(line, np.stack([1 - alpha, alpha], axis=-1))
    np.testing.assert_allclose(loss, usual, rtol=2e-5)
    assert np.abs(between - usual).max() < line.tolerance * np.ptp(usual)


def test_checks_tell_a_wrong_interpolant_and_a_wrong_estimate(line):
    found = {way: contestants.WAYS[way](line) for way in run.WAYS["line"]}
    facts = run.checked(line, found, small=True)
    assert facts["adaptive"]["error"] < line.tolerance
    assert facts["estimated"]["holds"]

    guess, walk = found["estimated"], found["adaptive"]
    off = {"train": guess.loss["train"] + 2 * guess.estimate.half_width.max()}
    found["estimated"] = dataclasses.replace(guess, loss=off)
    bent = walk.loss["train"].copy()
    bent[len(bent) // 2] += 0.1 * np.ptp(bent)
    found["adaptive"] = dataclasses.replace(walk, loss={"train": bent}, ends=None)
    facts = run.checked(line, found, small=True)
    assert facts["adaptive"]["error"] > 0.05
    assert not facts["estimated"]["holds"]


def test_operations_are_those_of_the_products(line):
    assert line.operations() == (2 * (784 * 40 + 40 * 40 + 40 * 10), 2 * 784 * 40)


def test_rows_are_spread_from_first_to_last():
    np.testing.assert_array_equal(run.spread(51, 6), [0, 10, 20, 30, 40, 50])
    np.testing.assert_array_equal(run.spread(3, 17), [0, 1, 2])


@pytest.mark.parametrize("name", run.PEERS_POINTS)
def test_points_of_peers_are_among_those_of_the_section(name):
    full = {"line": 51, "plane": 51, "mnist-plane": 51}[name]
    assert (full - 1) % (run.PEERS_POINTS[name] - 1) == 0


# --- peers -----------------------------------------------------------------------------------


def test_peers_evaluate_the_same_network():
    own = perceptron(5, 4, 3)
    theirs = peers.perceptron((5, 4, 3), own.state_dict())
    x = torch.randn(7, 5, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(theirs(x), own(x), rtol=0, atol=0)


def test_an_answer_of_a_peer_is_placed_on_the_section(line, tmp_path):
    values = [4.0, 3.0, 2.0, 1.0]
    answer = {"seconds": 0.5, "kilobytes": 2048, "values": values}
    stub = tmp_path / "python"
    stub.write_text(f"#!/bin/sh\necho '{json.dumps(answer)}'\n")
    stub.chmod(0o755)
    found = contestants.peer("loss-landscape-3d", line, stub, points=4)
    assert (found.seconds, found.memory) == (0.5, 2.0)
    np.testing.assert_allclose(found.points[:, 1], [0, 1 / 3, 2 / 3, 1])
    with pytest.raises(AssertionError, match="must be those of the usual loop"):
        run.a_round(line, 4, [], peers=stub)


def test_a_peer_that_fails_says_how_to_set_it_up(line):
    with pytest.raises(RuntimeError, match=r"failed: .*make bench PEERS=1"):
        contestants.peer("loss-landscapes", line, Path("/bin/false"), points=3)


# --- the machine -----------------------------------------------------------------------------


def test_clocks_wait_for_a_gpu_and_only_for_it(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    assert machine.clocked(lambda: 7)[0] == 7
    assert waited == []
    assert machine.clocked(lambda: 7, "cuda:1")[0] == 7
    assert waited == ["cuda:1", "cuda:1"]


def test_peak_memory_is_that_of_the_gpu_on_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 << 20)
    assert machine.peak_memory("cuda") == 3.0


@pytest.mark.skipif(sys.platform != "linux", reason="memory of a process is read from /proc")
def test_the_peak_of_memory_is_counted_from_a_moment_on():
    machine.forget_peak()
    before = machine.peak_memory()
    held = np.ones(100 << 17)  # 100 MiB
    assert machine.peak_memory() - before > 90
    del held
    machine.forget_peak()
    assert machine.peak_memory() - before < 50


# --- the table -------------------------------------------------------------------------------


def made_up(name="line", **changes):
    result = {
        "name": name,
        "title": f"a {name}",
        "data": "noise",
        "examples": 1000,
        "points": 50,
        "anchors": 2,
        "timed points of the usual loop": 5,
        "strategy": "first-layer reuse",
        "operations an example": {"all layers": 3_000_000, "first layer": 2_000_000},
        "rounds": [
            {"usual loop": u, "exact": 1.0, "adaptive": 0.5, "a peer": 2.0, "slow peer": 9.0}
            for u in (3.0, 6.0, 4.0)
        ],
        "seconds a point of the usual loop": {"batch 128": 0.2, "batch 1000": 0.1},
        "checks": {
            "adaptive": {
                "points": 12,
                "tolerance": 1e-3,
                "error": 2e-4,
                "bound": 5e-3,
                "converged": True,
                "dense points": 401,
                "examples of the check": 1000,
            }
        },
        "limits": {"products (GFLOP/s)": 100.0, "copies (GB/s)": 10.0},
        "memory (MiB)": {"usual loop": 300.0, "thalweg": 400.0},
        "conditions": {
            "date": "2026-01-02",
            "cpu": "a CPU",
            "threads": 2,
            "torch": "2",
            "thalweg": "0",
            "python": "3",
        },
        "scale": "full",
        "device": "cpu",
    }
    return result | changes


def test_a_row_says_what_was_measured():
    cells = dict(zip(table.HEADINGS, table.row(made_up(), "exact"), strict=True))
    assert cells["workload"] == "a line (noise)"
    assert cells["strategy"] == "exact, first-layer reuse"
    assert cells["against the usual loop"] == "**4.00x** (3.00 to 6.00)"
    assert cells["against its best form"] == "2.00x (batch 1000)"
    assert cells["against the best peer"] == "2.00x (a peer)"
    assert cells["points"] == "50"
    assert cells["peak memory, MiB, thalweg / usual loop"] == "400 / 300"
    # (2 anchors · 2e6 + 50 points · 1e6) · 1000 examples in 1 s, and 50 · 3e6 · 1000 in 4 s
    assert cells["share of the product rate, thalweg / usual loop"] == "54 % / 38 %"


def test_products_that_nobody_has_counted_have_no_share():
    assert table.share_of_rate(made_up(), "adaptive") is None
    assert table.share_of_rate(made_up(strategy="a new one"), "exact") is None
    idle = made_up(
        strategy="sequential", limits={"products (GFLOP/s)": 300.0, "copies (GB/s)": 10.0}
    )
    assert table.share_of_rate(idle, "exact") == pytest.approx(0.5)
    # Of a machine that was busy when its rate was measured there is none, either.
    assert table.share_of_rate(made_up(strategy="sequential"), "exact") is None


def test_a_row_hides_no_failure():
    result = made_up()
    result["checks"]["adaptive"]["converged"] = False
    result["checks"]["estimated"] = {"error": 0.1, "half width": 0.01, "holds": False}
    assert "**not converged**" in table.accuracy(result, "adaptive")
    assert "**does not hold**" in table.accuracy(result, "estimated")


def test_the_page_and_the_figure_are_written(tmp_path, monkeypatch):
    gpu = made_up(
        device="cuda", conditions=made_up()["conditions"] | {"gpu": "some card", "cuda": "13"}
    )
    for name, result in (("line-cuda", gpu), ("plane", made_up("plane")), ("line", made_up())):
        (tmp_path / f"{name}.json").write_text(json.dumps(result))
    count = {"instructions a point": {"plain": [100.0, 101.0]}}
    (tmp_path / "instructions.json").write_text(json.dumps(count))
    image = tmp_path / "image.png"
    arguments = ["table.py", "--results", str(tmp_path), "--image", str(image)]
    monkeypatch.setattr(sys, "argv", arguments)
    table.main()
    page = (tmp_path / "README.md").read_text()
    assert page.index("\n- line: ") < page.index("\n- plane: ")
    assert page.count("| a line (noise) | exact") == 2
    assert page.index("a CPU") < page.index("some card")
    assert "| plain | 100 | 1.00 % |" in page
    assert image.read_bytes().startswith(b"\x89PNG")


def test_bars_hold_everybody_and_the_best_form_of_the_usual_loop():
    drawn = {name: ratio.middle for name, ratio, _ in table.bars(made_up())}
    assert drawn == {
        "usual loop, batch 1000": 2.0,
        "a peer": 2.0,
        "slow peer": pytest.approx(4 / 9),
        "thalweg, exact": 4.0,
        "thalweg, adaptive": 8.0,
    }


# --- points needed ---------------------------------------------------------------------------


def test_a_cubic_is_met_exactly_by_the_first_grid():
    cubic = closed_form("cubic", lambda a: 1 + a - 3 * a**2 + 2.5 * a**3)
    found = points_needed.measured(cubic)
    first = len(tw.Adaptive().coordinates())
    assert found["adaptive"]["0.01"]["points"] == first
    for each in found["adaptive"].values():
        assert each["error"] < 1e-12
        assert each["bound holds in"] == each["of intervals"] == each["points"] - 1
    assert set(found["others"]["cubic spline"].values()) == {5}
    # The error of a polyline of n steps is max|f''| / 8n²: 7.5 or so of a range near 0.6.
    assert found["others"]["polyline"]["0.01"] > first


def test_a_barrier_below_the_resolution_is_seen_to_be_missed():
    lost = points_needed.measured(barrier(0.37, 0.003))["adaptive"]["0.001"]
    assert lost["error"] > 0.2
    assert lost["bound holds in"] == lost["of intervals"] - 1
    assert lost["error outside of bounds"] == pytest.approx(lost["error"])
    assert lost["resolution"] > 10 * 0.003


def test_the_fewest_points_are_enough_from_there_on():
    assert points_needed.fewest({5: 3.0, 9: 0.5, 17: 2.0, 33: 0.4, 65: 0.1}, 1.0) == 33
    assert points_needed.fewest({5: 3.0}, 1.0) is None


def test_the_table_of_points_marks_what_is_above_its_tolerance():
    found = points_needed.measured(barrier(0.37, 0.003))
    lines = points_needed.points_table(
        {"tolerances": ["0.01", "0.001", "0.0001"], "lines": [found]}
    )
    (row,) = [line for line in lines if line.startswith("| barrier")]
    assert row.count("**") == 6
    assert any("the tolerance is met on 0 of 1 lines" in line for line in lines)


# --- instructions ----------------------------------------------------------------------------


def test_what_is_counted_runs():
    counted = instructions.sweeps()
    assert {"formula", "plain", "sequential", "first-layer reuse", "stacked products"} < set(
        counted
    )
    for sweep in counted.values():
        sweep(3)


def test_a_file_of_callgrind_is_read(tmp_path):
    place = tmp_path / "out.7.1"
    place.write_text("version: 1\nevents: Ir\n\nfn=(1)\n1 5\n\ntotals: 1234\n")
    assert instructions.total(place) == 1234
    place.write_text("version: 1\n")
    with pytest.raises(ValueError, match=r"has a line `totals:`; .* has none"):
        instructions.total(place)


def test_one_more_point_is_the_slope():
    points = instructions.POINTS
    assert instructions.a_point({points: 1000 + 7 * points, 2 * points: 1000 + 14 * points}) == 7


def test_without_valgrind_nothing_is_counted_and_that_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(instructions.shutil, "which", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["instructions.py", "--output", str(tmp_path / "results")])
    instructions.main()
    assert "`valgrind` is needed and is not on the path" in capsys.readouterr().out
    assert not (tmp_path / "results").exists()


# --- displacement ----------------------------------------------------------------------------


def test_a_displacement_is_measured_from_files(tmp_path):
    displacement.write(tmp_path, 5, 700)
    found = displacement.measure(tmp_path, rounds=2)
    assert (found["snapshots"], found["parameters"]) == (5, 700)
    assert found["bytes"] == sum(path.stat().st_size for path in (tmp_path / "snapshots").iterdir())
    seconds, rates = found["seconds"], found["bytes a second"]
    assert rates["displacement"][1] == 2 * found["bytes"] / seconds["displacement"][1]
    assert rates["plain read"][1] == found["bytes"] / seconds["plain read"][1]
    assert found["greatest distance"] > 0
    assert "5 snapshots of 700 parameters" in displacement.sentence(found)
    assert displacement.apart(tmp_path, 1)["greatest distance"] == found["greatest distance"]


def test_a_measurement_that_fails_is_told(tmp_path):
    with pytest.raises(RuntimeError, match="The measurement failed: "):
        displacement.apart(tmp_path / "nothing", 1)


def test_a_file_is_read_to_its_end(tmp_path, monkeypatch):
    path = tmp_path / "large"
    path.write_bytes(bytes(20 << 20))
    displacement.read_plainly([path])
    monkeypatch.delattr(displacement.os, "posix_fadvise", raising=False)
    assert not displacement.forget([path])


# --- recording -------------------------------------------------------------------------------


def test_what_recording_costs_is_measured_on_the_same_steps(tmp_path):
    training = recording.Run(small=True)
    before = training.start[0]["0.weight"].clone()
    for first in (True, False):
        found = recording.a_round(training, {"updates": True}, 5, True, first)
        assert found.keys() == {"with", "without", "own calls"}
        assert 0 < found["own calls"] < found["with"]
    told = recording.sizes(training, {"schedule": tw.Every(steps=1), "updates": True}, 3, False)
    parameters = sum(p.numel() for p in training.model.parameters())
    assert 0 < told["bytes a point"] - 4 * parameters < 4000
    assert 0 < told["bytes an update"] - 4 * parameters < 4000
    np.testing.assert_array_equal(training.start[0]["0.weight"], before)


def test_killed_recorders_lose_nothing():
    found = kills.killed(2, seed=1)
    assert (found["opened"], found["lost"]) == (2, 0)


def test_a_lost_point_is_noticed(monkeypatch):
    usual = tw.Trajectory.open

    def without_last(folder, **options):
        trajectory = usual(folder, **options)
        return dataclasses.replace(trajectory, step=trajectory.step[:1])

    monkeypatch.setattr(tw.Trajectory, "open", without_last)
    monkeypatch.setattr(kills, "a_life", lambda context, folder, *rest: later(folder))

    def later(folder):
        kills.record(folder, 7, None)
        return 7

    with pytest.raises(AssertionError, match=r"points \[3, 6\] were reported and are lost"):
        kills.killed(1)


# --- products with the Hessian ---------------------------------------------------------------


def test_products_are_timed_against_a_gradient(tmp_path):
    found = curvature.measure("small", 60, 25, rounds=2, peers=None, names=())
    ours = found["gradients a product"]["thalweg"]
    assert set(ours) == set(found["rounds"][0]) - {"gradient"}
    assert found["error"] < 1e-5
    assert found["method"] == "double backward"
    lines = table.curvature_table({"networks": [found], "conditions": machine.conditions()})
    assert lines[2].startswith("| small | 16,330 | thalweg |")


def test_a_wrong_product_is_refused():
    problem = curvature.Problem("small", 30, 25)
    right = problem.exact(problem.vectors[:1])[0]
    with pytest.raises(AssertionError, match=r"'anybody' is off by 0.01 of it. Do not time"):
        curvature.expect_products("anybody", 1.01 * right, right)


def test_residuals_of_eigenpairs_are_our_own():
    problem = curvature.Problem("small", 30, 25)
    vector = problem.vectors[:1]
    product = problem.exact(vector)[0]
    value = float(product @ vector[0].double() / vector.double().square().sum())
    rest = (product - value * vector[0].double()).norm() / vector.double().norm()
    (found,) = curvature.residuals(problem, [value], 2 * vector)
    assert found == pytest.approx(float(rest) / abs(value), rel=1e-9)


def test_the_report_is_timed_where_a_browser_is(tmp_path, capsys):
    report_benchmark.main(["--scale", "smoke", "--output", str(tmp_path)])
    told = capsys.readouterr().out
    if "no browser is installed" in told:
        pytest.skip("no browser is installed")
    found = json.loads((tmp_path / "smoke" / "report.json").read_text())
    assert found["milliseconds"]["thalweg"].keys() == {"paint", "surface", "frame"}
    assert all(value > 0 for value in found["milliseconds"]["thalweg"].values())
    assert len(found["rounds"]["thalweg"]) == 2


def test_without_a_browser_nothing_is_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(report_benchmark.shutil, "which", lambda name: None)
    report_benchmark.main(["--scale", "smoke", "--output", str(tmp_path)])
    assert "nothing was measured" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
