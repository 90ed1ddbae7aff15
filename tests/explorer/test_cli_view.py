"""The command `thalweg view`: its address, its end, and what a killed server leaves."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter

import pytest
import torch
from explored import LINE, PATIENCE, Reader, until

import thalweg as tw
from thalweg import cli

FACTORY = """
import os
import time
from pathlib import Path

import torch
import thalweg as tw


class Slow(tw.FunctionObjective):
    def evaluate(self, theta, anchor_buffers=None):
        found = super().evaluate(theta, anchor_buffers)
        file = os.open("evaluated.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(file, (" ".join(float(w).hex() for w in theta) + "\\n").encode())
        os.close(file)
        time.sleep(0.01)
        return found


def chain(w):
    return (1 - w[0] * w[1]) ** 2


def cost():
    return Slow(chain, 2)


def other():
    return Slow(lambda w: w.sum() ** 2, 2)


def larger():
    return Slow(chain, 3)
"""
CALL = ["view", "run", "--objective", "cost.py:cost", "--no-browser", "--solution", "better.pt"]


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cost.py").write_text(FACTORY)
    weights = torch.nn.Parameter(torch.tensor([2.0, 0.75], dtype=torch.float64))
    model = torch.nn.ParameterDict({"theta": weights})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with tw.Recorder(tmp_path / "run", model, optimizer, schedule=tw.Every(steps=1)) as run:
        for _ in range(2):
            optimizer.zero_grad()
            loss = (1 - weights[0] * weights[1]) ** 2
            loss.backward()
            optimizer.step()
            run.step(loss=loss.item(), batch_size=1)
    torch.save({"theta": torch.tensor([1.25, -0.5], dtype=torch.float64)}, tmp_path / "better.pt")
    return tmp_path


def started(arguments=CALL):
    """Start the command; return the process and a reader who has the address that it printed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "thalweg", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    address = process.stdout.readline().strip()
    if not address.startswith("http://127.0.0.1:"):
        raise ValueError(f"no address: {address} {process.communicate()}")
    return process, Reader(address)


def ended(process, by):
    """End a process with a signal; return its exit code and what it said."""
    process.send_signal(by)
    _, said = process.communicate(timeout=PATIENCE)
    return process.returncode, said


def evaluated(folder):
    return Counter((folder / "evaluated.txt").read_text().splitlines())


def test_a_killed_server_goes_on_where_it_was(workplace, capsys):
    process, reader = started()
    try:
        asked = {**LINE, "from": 0, "to": 1, "points": 129}
        section = reader.post("/api/sections", asked)["section"]
        path = f"/api/sections/{section}"
        # Before it ends: a second server does not get the folder.
        assert cli.main(CALL) == 2
        assert f"in use by process {process.pid}" in capsys.readouterr().err
        until(lambda: reader.get(path), lambda told: told["count"] >= 30)
    finally:
        code, _ = ended(process, signal.SIGKILL)
    assert code == -signal.SIGKILL
    before = evaluated(workplace)
    assert 30 <= len(before) < 129

    # Half a line, as if it had been killed while it wrote.
    (points,) = (workplace / "run" / "explorer" / "points").glob("*.jsonl")
    with points.open("a") as file:
        file.write('{"weights":["0x1.0')
    process, reader = started()
    try:
        found = until(lambda: reader.get(path), lambda told: told["count"] == 129)
        again = reader.post(f"{path}/refine", {"from": 0, "to": 1, "points": 129})
    finally:
        code, said = ended(process, signal.SIGINT)
    assert code == 0
    assert "Points and records are in run/explorer" in said
    assert len(set(found["alpha"])) == 129
    assert again["new"] == 0
    # The middle is also where a cost is compared with the kept one; one point may have been under
    # way when the server was killed.
    line = tw.Line(*(tw.Trajectory.open("run")[i].theta for i in (0, 2)))
    counts = evaluated(workplace)
    counts.pop(" ".join(float(w).hex() for w in line.point(0.5)))
    assert len(counts) == 128
    assert sorted(counts.values())[-2:] in ([1, 1], [1, 2])
    kept = [json.loads(text) for text in points.read_text().splitlines()[1:]]
    assert len({tuple(point["weights"]) for point in kept}) == len(kept) == 129

    record = tw.open_record(workplace / "run" / "explorer" / "records" / section)
    assert len(record.results["profile"].alpha) == 129
    assert record.asked["run"] == "run"
    assert cli.main(["report", f"run/explorer/records/{section}", "-o", "page.html"]) == 0


def test_the_signal_that_ends_processes_ends_it_in_good_order(workplace):
    process, reader = started([*CALL, "-o", "kept"])
    try:
        anchors = ["step 0", "step 2", "solution better"]
        view = {"x": {"from": 0, "to": 1}, "y": {"from": 0, "to": 1}, "columns": 3, "rows": 3}
        plane = {"kind": "plane", "anchors": anchors, **view}
        section = reader.post("/api/sections", plane)["section"]
        path = f"/api/sections/{section}"
        until(lambda: reader.get(path), lambda told: told["count"] == 9)
    finally:
        code, _ = ended(process, signal.SIGTERM)
    assert code == 0
    record = tw.open_record(workplace / "kept" / "records" / section)
    assert record.results["surface"].loss["train"].shape == (3, 3)
    assert not os.path.exists(workplace / "run" / "explorer")


def test_another_objective_is_refused(workplace, capsys):
    trajectory = tw.Trajectory.open("run")
    from thalweg.explorer.store import Store, fingerprint
    from thalweg.factories import load_objective

    Store(workplace / "kept", fingerprint(load_objective("cost.py:cost"), trajectory)).close()
    call = ["view", "run", "--no-browser", "-o", "kept", "--objective"]
    assert cli.main([*call, "cost.py:other"]) == 2
    assert "belongs to another, which differs in: function" in capsys.readouterr().err
    assert cli.main([*call, "cost.py:larger"]) == 2
    assert "must have the same parameters" in capsys.readouterr().err


def test_bad_arguments_are_refused(workplace, capsys):
    assert cli.main([*CALL, "--port", "70000"]) == 2
    assert "free port from 0 to 65535" in capsys.readouterr().err
    assert cli.main([*CALL, "--solution", "better.pt"]) == 2
    assert "needs a name of its own" in capsys.readouterr().err
    assert cli.main(["view", "nowhere", "--objective", "cost.py:cost"]) == 2
    assert "nowhere" in capsys.readouterr().err
    assert not (workplace / "nowhere").exists()


def test_a_browser_is_opened_unless_told_otherwise(workplace, monkeypatch, capsys):
    opened = []

    def interrupted(server):
        raise KeyboardInterrupt

    monkeypatch.setattr("webbrowser.open", opened.append)
    monkeypatch.setattr("socketserver.BaseServer.serve_forever", interrupted)
    before = signal.getsignal(signal.SIGTERM)
    assert cli.main(CALL) == 0
    assert opened == []
    assert cli.main([each for each in CALL if each != "--no-browser"]) == 0
    assert opened == [capsys.readouterr().out.splitlines()[-1]]
    assert signal.getsignal(signal.SIGTERM) == before
