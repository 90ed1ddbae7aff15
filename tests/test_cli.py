import csv
import io
import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import thalweg as tw
from thalweg import cli
from thalweg.cli.sections import folder_name_of, names_of

FACTORY = """
import torch
import thalweg as tw

def cost():
    model = torch.nn.Linear(3, 2)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20, 3, generator=generator)
    y = torch.randint(0, 2, (20,), generator=generator)
    return tw.ModelObjective(
        model,
        torch.nn.CrossEntropyLoss(),
        {"train": (x, y), "valid": (x[:5], y[:5])},
        metrics={"error": tw.error_rate},
    )

def nothing():
    return 3

made = cost()
"""


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cost.py").write_text(FACTORY)
    for name, seed in (("a", 1), ("b", 2), ("c", 3)):
        torch.manual_seed(seed)
        torch.save(torch.nn.Linear(3, 2).state_dict(), tmp_path / f"{name}.pt")
    return tmp_path


@pytest.fixture(autouse=True)
def _random_state():
    with torch.random.fork_rng():
        yield


def _table(text):
    rows = list(csv.DictReader(io.StringIO(text)))
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}


def test_version_and_list_load_no_torch():
    code = (
        "import sys; from thalweg.cli import main; main(['--version']); main(['list']);"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.startswith(f"thalweg {tw.__version__}\ndemo ")
    assert "interp-highres" in done.stdout
    assert done.stderr == ""


def test_the_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "thalweg", "--version"], check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, f"thalweg {tw.__version__}\n")


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["run"], ["run", "demo", "--scale", "huge"], []]
)
def test_bad_usage_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit, match="2") as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2
    assert capsys.readouterr().out == ""


def test_help_lists_the_commands(capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--help"])
    out = capsys.readouterr().out
    for command in ("demo", "list", "run", "check", "copy", "profile", "surface", "report"):
        assert re.search(rf"^\W*{command} +[A-Z]", out, re.MULTILINE)


def test_run_writes_record_figures_and_report_and_prints_the_folder(workplace, capsys):
    assert cli.main(["run", "interp-two-starts", "--quiet"]) == 0
    told = capsys.readouterr()
    folder = workplace / told.out.strip()
    assert told.out == "thalweg-runs/interp-two-starts-smoke-seed0\n"
    assert "reproduced: No barrier" in told.err
    assert (folder / "report.html").read_text().startswith("<!")
    assert (folder / "figures" / "line.png").stat().st_size > 1000
    assert (folder / "figures" / "line.pdf").read_bytes().startswith(b"%PDF")
    assert cli.main(["check", str(folder)]) == 0
    checked = capsys.readouterr()
    assert checked.out.startswith("reproduced\tNo barrier")
    assert "intact" in checked.err
    assert cli.main(["report", str(folder), "-o", "page.html"]) == 0
    assert capsys.readouterr().out == "page.html\n"


def test_check_notices_a_flipped_bit_and_changed_claims(workplace, capsys):
    record = tw.Record(study="interp-two-starts", numbers={"barrier": 1.0, "loss_start": 2.0})
    record = tw.Record(
        study=record.study,
        numbers={**record.numbers, "highest": 3.0, "loss_end": 2.0},
    )
    tw.save_record(record, workplace / "held")
    assert cli.main(["check", "held"]) == 1
    told = capsys.readouterr()
    assert "today's verdicts" in told.err
    assert told.out.startswith("not reproduced\tNo barrier")
    document = workplace / "held" / "record.json"
    document.write_text(document.read_text().replace("3.0", "1.0"))
    assert cli.main(["check", "held"]) == 2
    assert "checksum" in capsys.readouterr().err


def test_a_record_of_something_unknown_is_checked_for_damage_alone(workplace, capsys):
    tw.save_record(tw.Record(study="my-own"), workplace / "held")
    assert cli.main(["check", "held"]) == 0
    assert capsys.readouterr().out == ""


def test_copy_writes_a_study_that_runs_and_never_overwrites(workplace, capsys):
    assert cli.main(["copy", "interp-two-starts"]) == 0
    assert capsys.readouterr().out == "interp_two_starts.py\n"
    assert cli.main(["run", "interp_two_starts.py", "--quiet", "-o", "mine"]) == 0
    assert capsys.readouterr().out == "mine\n"
    assert cli.main(["copy", "interp-two-starts"]) == 2
    assert "is there already" in capsys.readouterr().err


def test_profile_prints_every_digit_of_the_line(workplace, capsys):
    arguments = ["profile", "a.pt", "b.pt", "--objective", "cost.py:cost", "--quiet"]
    assert cli.main([*arguments, "--grid", "-0.5:1.5:5"]) == 0
    told = capsys.readouterr()
    table = _table(told.out)
    assert list(table) == ["alpha", "loss_train", "loss_valid", "error_train", "error_valid"]
    np.testing.assert_array_equal(table["alpha"], [-0.5, 0.0, 0.5, 1.0, 1.5])
    kept = tw.open_record(workplace / "thalweg-runs" / "profile-a-b").results["profile"]
    np.testing.assert_array_equal(kept.loss["valid"], table["loss_valid"])
    assert kept.labels == ("a", "b")
    assert "greatest climb" in told.err
    assert (workplace / "thalweg-runs/profile-a-b/figures/profile.png").exists()


def test_surface_through_three_checkpoints_or_around_one(workplace, capsys):
    arguments = ["--objective", "cost.py:made", "--quiet", "--x", "0:1:3", "--y", "0:1:2"]
    assert cli.main(["surface", "a.pt", "b.pt", "c.pt", *arguments, "-o", "through"]) == 0
    table = _table(capsys.readouterr().out)
    np.testing.assert_array_equal(table["x"], [0, 0.5, 1, 0, 0.5, 1])
    np.testing.assert_array_equal(table["y"], [0, 0, 0, 1, 1, 1])
    assert cli.main(["surface", "a.pt", *arguments, "-o", "around"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 7
    around = tw.open_record(workplace / "around").results["surface"]
    assert around.provenance.section["normalize"] == "filter"
    assert cli.main(["surface", "a.pt", "b.pt", *arguments]) == 2
    assert "one checkpoint or three; got 2" in capsys.readouterr().err


def test_a_plan_is_said_and_nothing_is_done(workplace, capsys):
    arguments = ["--objective", "cost.py:made", "--plan"]
    assert cli.main(["profile", "a.pt", "b.pt", *arguments, "--grid", "0:1:7"]) == 0
    told = capsys.readouterr().out
    assert "strategy   vmap" in told
    assert "points     7" in told
    assert cli.main(["surface", "a.pt", "b.pt", "c.pt", *arguments, "--x", "0:1:3"]) == 0
    assert "points     75" in capsys.readouterr().out
    assert not (workplace / "thalweg-runs").exists()


def test_a_tolerance_places_the_points(workplace, capsys):
    arguments = ["--objective", "cost.py:made", "--tolerance", "0.01", "--quiet"]
    assert cli.main(["profile", "a.pt", "b.pt", *arguments]) == 0
    told = capsys.readouterr()
    kept = tw.open_record(workplace / "thalweg-runs" / "profile-a-b").results["profile"]
    assert kept.interpolation.tolerance == 0.01
    assert 9 <= len(_table(told.out)["alpha"]) == len(kept.alpha) < 40
    assert "is expected to err by" in told.err
    assert "narrower than 0.1" in told.err
    assert cli.main(["surface", "a.pt", "b.pt", "c.pt", *arguments, "--x", "0:1:5"]) == 0
    surface = tw.open_record(workplace / "thalweg-runs" / "surface-a-b-c").results["surface"]
    assert surface.interpolation.converged


def test_checkpoints_on_disk_give_the_same_line(workplace, capsys):
    for name in "ab":
        (workplace / f"model-1.5-{name}").mkdir()
        state = torch.load(f"{name}.pt", weights_only=True)
        save_file(state, f"model-1.5-{name}/model.safetensors")
    arguments = ["--objective", "cost.py:made", "--quiet", "--grid", "-0.5:1.5:5"]
    tables = []
    for ends in (["a.pt", "b.pt"], ["model-1.5-a", "model-1.5-b", "--from-disk"]):
        assert cli.main(["profile", *ends, *arguments]) == 0
        tables.append(_table(capsys.readouterr().out))
    for name, column in tables[0].items():
        np.testing.assert_allclose(tables[1][name], column, rtol=1e-6)
    kept = tw.open_record(workplace / "thalweg-runs" / "profile-model_1.5_a-model_1.5_b")
    assert kept.results["profile"].labels == ("model-1.5-a", "model-1.5-b")
    digests = {each["sha256"] for each in kept.asked["checkpoints"]}
    assert len(digests) == 2


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("cost.py:missing", "must define 'missing'; it defines cost, nothing"),
        ("cost.py", "named as file.py:factory; got 'cost.py'"),
        ("nowhere.py:cost", "there is none at nowhere.py"),
        ("cost.py:nothing", "must return an objective; it returns a int"),
        ("no_such_module:cost", "No module named 'no_such_module'"),
    ],
)
def test_a_factory_that_is_none_is_explained(workplace, capsys, address, message):
    assert cli.main(["profile", "a.pt", "b.pt", "--objective", address]) == 2
    told = capsys.readouterr()
    assert message in told.err
    assert told.out == ""
    assert not (workplace / "thalweg-runs").exists()


@pytest.mark.parametrize("grid", ["0:1", "0:1:5:7", "a:b:c", "0:1:2.5"])
def test_a_grid_that_is_none_is_explained(workplace, capsys, grid):
    arguments = ["profile", "a.pt", "b.pt", "--objective", "cost.py:cost", "--grid", grid]
    assert cli.main(arguments) == 2
    assert f"--grid is START:STOP:POINTS, such as -0.5:1.5:51; got '{grid}'" in (
        capsys.readouterr().err
    )


def test_a_pickle_is_refused_unless_trusted(workplace, capsys):
    torch.save(torch.nn.Linear(3, 2), workplace / "pickle.pt")
    arguments = ["profile", "a.pt", "pickle.pt", "--objective", "cost.py:cost", "--quiet"]
    assert cli.main(arguments) == 2
    assert "trust_pickle=True" in capsys.readouterr().err
    assert cli.main([*arguments, "--trust-pickle"]) == 0


def test_a_loss_with_gaps_has_no_measures_but_is_kept(workplace, capsys):
    text = FACTORY.replace("torch.nn.CrossEntropyLoss()", "gap")
    gap = "def gap(output, target):\n    return output.sum() * float('nan')\n"
    (workplace / "gap.py").write_text(gap + text)
    with pytest.warns(RuntimeWarning, match="non-finite-loss"):
        code = cli.main(["profile", "a.pt", "b.pt", "--objective", "gap.py:cost", "--quiet"])
    assert code == 0
    assert "No measures" in capsys.readouterr().err


def test_a_folder_with_another_record_is_left_alone(workplace, capsys):
    tw.save_record(tw.Record(study="precious"), workplace / "held")
    before = (workplace / "held" / "record.json").read_bytes()
    assert cli.main(["run", "interp-two-starts", "-o", "held", "--quiet"]) == 2
    assert "holds 'precious'" in capsys.readouterr().err
    assert (workplace / "held" / "record.json").read_bytes() == before
    (workplace / "held" / "record.json").write_text("{}")
    assert cli.main(["run", "interp-two-starts", "-o", "held", "--quiet"]) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_a_report_of_nothing_is_an_error(capsys):
    assert cli.main(["report"]) == 2
    assert "one record at least" in capsys.readouterr().err


def test_interruption_exits_with_130(workplace, capsys, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("thalweg.studies.load_study", interrupt)
    assert cli.main(["run", "demo"]) == 130
    assert "goes on from there" in capsys.readouterr().err
    monkeypatch.setattr("thalweg.factories.load_objective", interrupt)
    assert cli.main(["profile", "a.pt", "b.pt", "--objective", "cost.py:cost"]) == 130
    assert "Nothing was written" in capsys.readouterr().err


def test_a_traceback_is_shown_when_asked_for(workplace, capsys, monkeypatch):
    monkeypatch.setenv("THALWEG_TRACEBACK", "1")
    assert cli.main(["run", "nothing"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_the_demo_says_what_it_found(workplace, capsys):
    assert cli.main(["demo", "--quiet"]) == 0
    told = capsys.readouterr().out
    assert "the cost falls all the way" in told
    assert "separated by a barrier of height" in told
    record = tw.open_record(workplace / "thalweg-demo")
    assert str(record.results["diagnosis"]) in told
    folder = workplace / "thalweg-demo"
    document = json.loads((folder / "record.json").read_text())
    assert document["study"] == "demo"
    assert {p.suffix for p in (folder / "figures").iterdir()} == {".png", ".pdf"}
    assert (folder / "solution-0.safetensors").exists()


def test_the_place_of_a_result_is_settled_before_any_work(workplace, capsys, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("evaluated")

    arguments = ["profile", "a.pt", "b.pt", "--objective", "cost.py:cost", "--quiet", "-o", "held"]
    assert cli.main(arguments) == 0
    assert cli.main(arguments) == 0  # the same run again
    monkeypatch.setattr("thalweg.evaluate.profile", refuse)
    assert cli.main([*arguments, "--grid", "0:1:7"]) == 2
    assert "other settings or seed" in capsys.readouterr().err
    assert cli.main([*arguments[:-1], "cost.py"]) == 2
    assert "exists" in capsys.readouterr().err
    monkeypatch.setattr("os.access", lambda *args: False)
    assert cli.main([*arguments[:-1], "elsewhere"]) == 2
    assert "can be written to" in capsys.readouterr().err


def test_another_seed_does_not_replace_a_run(workplace, capsys):
    assert cli.main(["run", "interp-two-starts", "--quiet", "-o", "held"]) == 0
    assert cli.main(["run", "interp-two-starts", "--quiet", "-o", "held", "--seed", "1"]) == 2
    assert "other settings or seed" in capsys.readouterr().err


def test_the_record_of_a_changed_study_says_so(workplace, capsys):
    assert cli.main(["copy", "interp-two-starts", "--to", "mine.py"]) == 0
    mine = workplace / "mine.py"
    mine.write_text(mine.read_text().replace("0.01 *", "1e-9 *"))
    assert cli.main(["run", "mine.py", "--quiet", "-o", "held"]) == 1
    record = tw.open_record(workplace / "held")
    assert record.provenance["command"].startswith("thalweg run mine.py --scale smoke")
    assert record.provenance["file"] == "mine.py"
    capsys.readouterr()
    assert cli.main(["check", "held"]) == 1  # its own claims, not those of the study it came from
    assert capsys.readouterr().out.startswith("not reproduced\tNo barrier")


def test_factories_may_import_from_the_current_folder(workplace, capsys):
    (workplace / "parts.py").write_text(FACTORY)
    (workplace / "sub").mkdir()
    (workplace / "sub" / "cost.py").write_text("from parts import cost\n")
    for address in ("sub/cost.py:cost", "parts:cost"):
        arguments = [
            "profile",
            "a.pt",
            "b.pt",
            "--objective",
            address,
            "--quiet",
            "-o",
            address[:3],
        ]
        assert cli.main(arguments) == 0
    sys.modules.pop("parts")


def test_errors_of_the_users_code_say_where(workplace, capsys):
    (workplace / "broken.py").write_text("def cost():\n    return {}['missing']\n")
    assert cli.main(["profile", "a.pt", "b.pt", "--objective", "broken.py:cost"]) == 2
    assert "thalweg: KeyError: 'missing' (broken.py, line 2)." in capsys.readouterr().err


def test_nobody_reading_is_no_error(workplace):
    command = f"{sys.executable} -m thalweg profile a.pt b.pt --objective cost.py:cost --quiet"
    command += " --grid 0:1:2001 | head -n 1; exit ${PIPESTATUS[0]}"
    done = subprocess.run(["bash", "-c", command], check=False, capture_output=True, text=True)
    assert done.stdout.startswith("alpha,")
    assert "Broken pipe" not in done.stderr
    assert done.returncode == 141


def test_names_of_checkpoints_are_short_and_told_apart(workplace):
    paths = [workplace / "one" / "model.pt", workplace / "two" / "model.pt"]
    assert names_of(paths) == ("one/model", "two/model")
    (name,) = names_of([workplace / "epoch=10-step=12345-val_loss=0.1234.ckpt"])
    assert name == "epoch=10-…oss=0.1234"
    folder = folder_name_of("profile", ("one/model", name))
    assert folder == "profile-one_model-epoch=10_oss=0.1234"
