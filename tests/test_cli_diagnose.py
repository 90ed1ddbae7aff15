"""The command `thalweg diagnose`."""

import sys
import types

import pytest
import torch

import thalweg as tw
from hand_made_diagnoses import healthy, stuck
from thalweg import cli

FACTORY = """
import torch
import thalweg as tw

def model(hidden=4):
    return torch.nn.Sequential(
        torch.nn.Linear(3, hidden), torch.nn.Tanh(), torch.nn.Linear(hidden, 2)
    )

def data():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 3, generator=generator)
    return x, (x[:, 0] > 0).long()

def cost():
    return tw.ModelObjective(model(), torch.nn.CrossEntropyLoss(), data(), dtype=torch.float64)

def other():
    return tw.ModelObjective(model(5), torch.nn.CrossEntropyLoss(), data())

def turned():
    net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2, bias=False))
    net.add_module("extra", torch.nn.ParameterList([torch.zeros(5)]))
    return tw.ModelObjective(net, torch.nn.CrossEntropyLoss(), (torch.randn(4, 4), data()[1][:4]))

def closed():
    return tw.functions.quadratic(torch.eye(26, dtype=torch.float64))
"""
CALL = ["diagnose", "run", "--objective", "cost.py:cost", "--quiet"]


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with a recorded run, a factory and a checkpoint."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cost.py").write_text(FACTORY)
    made = {}
    exec(FACTORY, made)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = made["model"]()
        x, y = made["data"]()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        with tw.Recorder(tmp_path / "run", model, optimizer, schedule=tw.Every(steps=2)) as run:
            for _ in range(8):
                optimizer.zero_grad()
                loss = torch.nn.functional.cross_entropy(model(x), y)
                loss.backward()
                optimizer.step()
                run.step(loss=loss.item(), batch_size=len(x))
    torch.save(model.state_dict(), tmp_path / "better.pt")
    return tmp_path


class StandIn:
    """Takes the place of the diagnosis, and remembers what it was asked."""

    def __init__(self, answer):
        self.answer = answer
        self.asked = None

    def __call__(self, objective, trajectory, **options):
        self.asked = {"objective": objective, "trajectory": trajectory, **options}
        return self.answer


@pytest.fixture
def stand_in(monkeypatch):
    module = types.ModuleType("thalweg.diagnosis")
    module.diagnose = StandIn(stuck())
    monkeypatch.setitem(sys.modules, "thalweg.diagnosis", module)
    return module.diagnose


def test_it_prints_the_table_and_writes_record_figure_and_report(workplace, stand_in, capsys):
    assert cli.main(CALL) == 0
    told = capsys.readouterr()
    assert told.out == f"{stuck()}\n"
    assert "Record, figure and report are in" in told.err
    folder = workplace / "thalweg-runs" / "diagnosis-run"
    record = tw.open_record(folder)
    assert str(record.results["diagnosis"]) == str(stuck())
    assert record.numbers["primary"] == "gradient_noise"
    assert record.numbers["gradient_noise_severity"] == 0.62
    assert record.asked["run"]["folder"] == "run"
    assert record.asked["run"]["points"] == 5
    assert (folder / "figures" / "diagnosis.png").stat().st_size > 5_000
    assert "Gradient noise takes 62 %" in (folder / "report.html").read_text()


def test_what_is_asked_is_passed_on(workplace, stand_in):
    options = ["--reference", "better.pt", "--floor", "0.125", "--exact", "-o", "out"]
    assert cli.main([*CALL, *options]) == 0
    asked = stand_in.asked
    assert len(asked["trajectory"]) == 5
    assert asked["floor"] == 0.125
    assert asked["exact"] is True
    assert asked["progress"] is False
    space = asked["objective"].space
    torch.testing.assert_close(asked["reference"], space.flatten(workplace / "better.pt"))
    record = tw.open_record(workplace / "out")
    assert (record.asked["floor"], record.asked["exact"]) == (0.125, True)
    assert record.asked["reference"][0]["file"] == "better.pt"


def test_without_options_nothing_is_assumed(workplace, stand_in):
    assert cli.main(CALL) == 0
    asked = stand_in.asked
    assert (asked["reference"], asked["floor"], asked["exact"]) == (None, None, False)
    assert "examples" not in asked


def test_some_of_the_examples_are_asked_for_and_noted(workplace, stand_in):
    assert cli.main([*CALL, "--examples", "10", "--seed", "3"]) == 0
    assert (stand_in.asked["examples"], stand_in.asked["seed"]) == (10, 3)
    record = tw.open_record(workplace / "thalweg-runs" / "diagnosis-run")
    assert (record.asked["examples"], record.asked["seed"]) == (10, 3)


@pytest.mark.parametrize("answer", [stuck, healthy])
def test_the_verdict_does_not_change_the_exit_code(workplace, stand_in, answer):
    stand_in.answer = answer()
    assert cli.main(CALL) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["diagnose", "nowhere", "--objective", "cost.py:cost"], "nowhere"),
        ([*CALL, "--floor", "nan"], "--floor is a cost, a finite number; got nan"),
        ([*CALL, "--floor", "inf"], "--floor is a cost, a finite number; got inf"),
        ([*CALL, "--examples", "0"], "--examples is 1 or more, and not given with --exact"),
        ([*CALL, "--examples", "9", "--exact"], "which takes all; got 9 and --exact"),
        ([*CALL, "--reference", "absent.pt"], "absent.pt"),
        (["diagnose", "run", "--objective", "cost.py:nothing"], "must define 'nothing'"),
        (
            ["diagnose", "run", "--objective", "cost.py:other"],
            "the objective 32 in tensors of (5, 3), (5,), (2, 5), (2,)",
        ),
        (
            ["diagnose", "run", "--objective", "cost.py:turned"],
            "run has 26 in tensors of (4, 3), (4,), (2, 4), (2,), the objective 26 in",
        ),
    ],
)
def test_what_is_refused(workplace, stand_in, capsys, arguments, message):
    assert cli.main(arguments) == 2
    assert message in capsys.readouterr().err
    assert stand_in.asked is None


def test_the_run_of_a_closed_form_is_accepted(workplace, stand_in):
    run = torch.linspace(0, 1, 26, dtype=torch.float64)
    model = torch.nn.ParameterList([run])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with tw.Recorder("walk", model, optimizer) as recorder:
        recorder.step(loss=1.0)
    assert cli.main(["diagnose", "walk", "--objective", "cost.py:closed", "--quiet"]) == 0
    assert stand_in.asked["objective"].space.size == 26


def test_the_record_of_other_settings_is_not_replaced(workplace, stand_in, capsys):
    assert cli.main([*CALL, "-o", "out"]) == 0
    assert cli.main([*CALL, "-o", "out"]) == 0  # the same again is
    assert cli.main([*CALL, "-o", "out", "--floor", "0.1"]) == 2
    assert "other settings" in capsys.readouterr().err


def test_a_real_run_is_diagnosed(workplace, capsys):
    pytest.importorskip("thalweg.diagnosis", reason="needs the diagnosis itself")
    assert cli.main([*CALL, "--floor", "0"]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    diagnosis = tw.open_record(workplace / "thalweg-runs" / "diagnosis-run").results["diagnosis"]
    assert first == str(diagnosis).splitlines()[0]
    assert diagnosis.floor == 0.0
    # Eight steps along a gradient that falls: the run could have gone on.
    assert diagnosis.loss[-1] < diagnosis.loss[0]
