"""Several processes find what one finds, bit for bit, and none waits for one that is not there."""

import csv
import json
import os
import subprocess
import sys

import jobs
import numpy as np
import pytest
import torch

import thalweg as tw
from thalweg import cli
from thalweg.evaluate.ranks import Ranks, _pieces, current_ranks, launched, split_over_ranks

FACTORY = """
import os
import signal
import torch
import thalweg as tw

class State:
    calls = 0

state = State()

def loss(output, target):
    state.calls += 1
    doomed = os.environ.get("DOOMED", "-") == os.environ.get("RANK", "")
    if doomed and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" and state.calls > 24:
        open("died", "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return torch.nn.functional.cross_entropy(output, target)

def cost():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(24, 3, generator=generator)
    y = torch.randint(0, 2, (24,), generator=generator)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Dropout(0.3), torch.nn.Linear(4, 2))
    return tw.ModelObjective(model, loss, (x, y), dropout=tw.MonteCarlo(2, seed=3))
"""


@pytest.fixture(scope="module")
def expected():
    return jobs.evaluated(None)[0]


class TestDealing:
    @pytest.mark.parametrize("count", [0, 1, 2, 7, 64, 100, 1000])
    @pytest.mark.parametrize("together", [1, 3, 64])
    @pytest.mark.parametrize("size", [1, 2, 4, 7])
    def test_every_task_once_and_evenly(self, count, together, size):
        pieces = _pieces(count, together, size)
        assert [task for start, stop in pieces for task in range(start, stop)] == [*range(count)]
        assert all(stop - start <= together for start, stop in pieces)
        shares = [sum(b - a for a, b in pieces[rank::size]) for rank in range(size)]
        assert max(shares) - min(shares) <= max(b - a for a, b in pieces) if pieces else count == 0
        if size > 1 and count >= size:
            assert max(shares) <= 1.5 * count / size + 1

    def test_progress_counts_what_is_done(self):
        seen = []
        Ranks().share(5, 2, range, seen.append)
        assert seen == [2, 4, 5]


class TestAlone:
    def test_outside_of_a_job_nothing_changes(self, expected):
        assert not launched()
        assert current_ranks() == Ranks(0, 1)
        with split_over_ranks():
            assert current_ranks() == Ranks(0, 1)
            assert jobs.evaluated(None) == (expected, 41)
        assert not torch.distributed.is_initialized()

    @pytest.mark.parametrize("size", ["1", "2"])
    def test_a_job_is_told_by_its_environment(self, monkeypatch, size):
        place = {"RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1", "WORLD_SIZE": size}
        for name, value in place.items():
            monkeypatch.setenv(name, value)
        assert launched() == (size == "2")
        assert current_ranks() == Ranks(0, 1)  # it is not asked for here

    def test_an_error_is_raised_as_it_is(self):
        with pytest.raises(ZeroDivisionError, match="division"):
            Ranks().check(lambda: 1 / 0)


class TestTogether:
    @pytest.mark.parametrize(("size", "together"), [(2, 1), (2, 64), (4, 3)])
    def test_all_ranks_find_what_one_process_finds(self, tmp_path, expected, size, together):
        found = jobs.on_ranks(size, jobs.sweep_shared, tmp_path, jobs.ALPHA, together)
        assert [values for values, _ in found] == [expected] * size
        assert sum(evaluated for _, evaluated in found) == 41
        assert max(evaluated for _, evaluated in found) <= -(-41 // size) + 2
        assert len(list(tmp_path.iterdir())) == size
        assert jobs.evaluated(tmp_path) == (expected, 0)

    def test_without_a_folder(self, expected):
        found = jobs.on_ranks(2, jobs.sweep_shared, None, jobs.ALPHA)
        assert found == [(expected, 21), (expected, 20)]

    def test_fewer_points_than_ranks(self, tmp_path, expected):
        found = jobs.on_ranks(4, jobs.sweep_shared, tmp_path, jobs.ALPHA[:2])
        assert found == [(expected[:2], n) for n in (1, 1, 0, 0)]
        found = jobs.on_ranks(3, jobs.sweep_shared, tmp_path, jobs.ALPHA[:2])
        assert found == [(expected[:2], 0)] * 3

    def test_what_one_process_has_kept_is_shared(self, tmp_path, expected):
        jobs.evaluated(tmp_path, jobs.ALPHA[:31])
        found = jobs.on_ranks(2, jobs.sweep_shared, tmp_path, jobs.ALPHA)
        assert found == [(expected, 5), (expected, 5)]

    def test_blocks_meet_anew(self, expected):
        for found, still_there in jobs.on_ranks(2, jobs.sweep_twice):
            assert found == [(expected[:6], 3)] * 2
            assert not still_there


class TestUsersOwnJob:
    def test_one_rank_alone_waits_for_nobody(self, tmp_path, expected):
        assert jobs.on_ranks(2, jobs.sweep_on_first, tmp_path) == [(expected[:5], 5), None]

    def test_some_ranks_share(self, expected):
        first, outsider, last = jobs.on_ranks(3, jobs.sweep_in_group)
        assert (first, last) == ((expected, 21), (expected, 20))
        assert "must be in the group" in outsider


class TestTrouble:
    def test_a_rank_that_dies_keeps_what_it_finished(self, tmp_path, expected):
        first, second = jobs.on_ranks(2, jobs.sweep_and_die, tmp_path, 5)
        assert second is None
        assert first.startswith("RuntimeError: Every rank must stay until the sweep is done")
        held = {p.name[-11:-6]: p.read_bytes().count(b"\n") - 1 for p in tmp_path.iterdir()}
        assert held["rank1"] == 5
        assert 1 <= held["rank0"] <= 21
        found = jobs.on_ranks(2, jobs.sweep_shared, tmp_path, jobs.ALPHA)
        assert [values for values, _ in found] == [expected] * 2
        assert sum(evaluated for _, evaluated in found) == 41 - sum(held.values())

    def test_an_error_of_one_is_raised_by_all(self, tmp_path):
        first, second = jobs.on_ranks(2, jobs.sweep_and_fail, tmp_path)
        assert second == "ZeroDivisionError: of this rank alone"
        assert first.startswith("RuntimeError: Every rank must evaluate its share of the points")
        assert "rank 1 of 2 failed (ZeroDivisionError: of this rank alone)" in first

    def test_a_folder_refused_to_one(self, tmp_path):
        (tmp_path / "file").write_text("")
        first, second = jobs.on_ranks(2, jobs.sweep_refused, str(tmp_path))
        assert second.startswith("OSError: Finished points need a folder")
        assert "rank 1 of 2 failed (OSError" in first

    def test_ranks_must_agree_about_the_cost(self):
        for told in jobs.on_ranks(2, jobs.sweep_other_costs):
            assert "rank 1 differs from the first in: data. Build" in told

    def test_ranks_must_agree_about_the_points(self):
        for told in jobs.on_ranks(2, jobs.sweep_other_points):
            assert "rank 1 differs from the first in: points. Build" in told


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cost.py").write_text(FACTORY)
    generator = torch.Generator().manual_seed(0)
    for name in ("a", "b"):
        tensors = {"0.weight": (4, 3), "0.bias": (4,), "2.weight": (2, 4), "2.bias": (2,)}
        state = {n: torch.randn(*shape, generator=generator) for n, shape in tensors.items()}
        torch.save(state, tmp_path / f"{name}.pt")
    return tmp_path


ASKED = ["profile", "a.pt", "b.pt", "--objective", "cost.py:cost", "--grid", "-0.5:1.5:33"]


def torchrun(processes, *options, output, **environment):
    """Run the command in several processes, as a user does."""
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}"]
    command += ["--standalone", *options, "-m", "thalweg", *ASKED, "-o", output]
    place = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(command, check=False, capture_output=True, text=True, env=place)


def lines_of(folder):
    """Return how many points are in the files of each rank, after a look for any done twice."""
    lines = {p.name[-11:-6]: p.read_text().splitlines()[1:] for p in folder.glob("*.jsonl")}
    weights = [str(json.loads(line)["weights"]) for each in lines.values() for line in each]
    assert len(weights) == len(set(weights))
    return {name: len(each) for name, each in lines.items()}


class TestCommandLine:
    """The command line under `torchrun`, unchanged."""

    def test_four_processes_print_what_one_prints(self, workplace, capsys):
        assert cli.main([*ASKED, "-o", "one", "--quiet"]) == 0
        alone = capsys.readouterr().out
        done = torchrun(4, output="four")
        assert done.returncode == 0, done.stderr
        assert done.stdout == alone
        assert len(list(csv.DictReader(alone.splitlines()))) == 33
        assert done.stderr.count("Record, figure and report are in four.") == 1
        assert sum(lines_of(workplace / "four" / "points").values()) == 33
        assert len(lines_of(workplace / "four" / "points")) == 4
        one, four = (tw.open_record(name).results["profile"] for name in ("one", "four"))
        np.testing.assert_array_equal(one.loss["train"], four.loss["train"])
        np.testing.assert_array_equal(one.samples["train"], four.samples["train"])

    def test_a_job_that_restarts_itself(self, workplace, capsys):
        done = torchrun(2, "--max-restarts=1", output="two", DOOMED="1")
        assert done.returncode == 0, done.stderr
        assert (workplace / "died").exists()
        assert sum(lines_of(workplace / "two" / "points").values()) == 33
        assert cli.main([*ASKED, "-o", "one", "--quiet"]) == 0
        assert done.stdout == capsys.readouterr().out

    def test_a_job_that_is_started_again(self, workplace, capsys):
        done = torchrun(2, output="two", DOOMED="0")
        assert done.returncode != 0
        assert done.stdout == ""
        held = sum(lines_of(workplace / "two" / "points").values())
        assert 0 < held < 33
        assert not (workplace / "two" / "record.json").exists()
        assert cli.main([*ASKED, "-o", "two", "--quiet"]) == 0
        again = capsys.readouterr().out
        assert sum(lines_of(workplace / "two" / "points").values()) == 33
        assert cli.main([*ASKED, "-o", "one", "--quiet"]) == 0
        assert again == capsys.readouterr().out

    @pytest.mark.parametrize("command", [["list"], ["--version"], ["run", "demo"], []])
    def test_further_processes_leave_other_commands_to_the_first(
        self, monkeypatch, capsys, command
    ):
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("RANK", "1")
        assert cli.main(command) == 0
        assert capsys.readouterr() == ("", "")

    def test_errors_name_their_rank(self, monkeypatch, capsys):
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("RANK", "1")
        assert cli.main(["profile", "a.pt", "b.pt", "--objective", "nothing.py:cost"]) == 2
        assert capsys.readouterr().err.startswith("thalweg (rank 1): ")

    def test_an_interrupted_command_says_what_is_kept(self, workplace, capsys, monkeypatch):
        def interrupt(*given):
            raise KeyboardInterrupt

        monkeypatch.setattr("thalweg.evaluate.strategy.Plain.evaluate", interrupt)
        assert cli.main([*ASKED, "-o", "one"]) == 130
        assert "but finished points; the same command goes on" in capsys.readouterr().err
