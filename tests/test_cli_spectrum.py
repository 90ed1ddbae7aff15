import csv
import io

import numpy as np
import pytest
import torch

import thalweg as tw
from thalweg import cli

FACTORY = """
import torch
import thalweg as tw

def cost():
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20, 3, generator=generator)
    y = torch.randint(0, 2, (20,), generator=generator)
    return tw.ModelObjective(model, torch.nn.CrossEntropyLoss(), (x, y))

made = cost()
"""


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cost.py").write_text(FACTORY)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    torch.save(model.state_dict(), tmp_path / "a.pt")
    return tmp_path


def table(text):
    rows = list(csv.DictReader(io.StringIO(text)))
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}


def test_spectrum_prints_eigenvalues_and_writes_a_record(workplace, capsys):
    assert cli.main(["spectrum", "a.pt", "--objective", "cost.py:cost", "--k", "3"]) == 0
    told = capsys.readouterr()
    found = table(told.out)
    assert len(found["eigenvalue"]) == 6
    assert np.all(np.diff(found["eigenvalue"]) >= 0)
    assert np.all(found["converged"] == 1)
    assert "norm of the gradient" in told.err
    folder = workplace / "thalweg-runs" / "spectrum-a"
    record = tw.open_record(folder)
    kept = record.results["spectrum"]
    np.testing.assert_array_equal(kept.eigenvalues, found["eigenvalue"])
    assert kept.eigenvectors.size == 0
    assert record.numbers["largest"] == found["eigenvalue"][-1]
    assert (folder / "figures" / "spectrum.png").stat().st_size > 1000
    assert (folder / "report.html").exists()


def test_density_of_a_layer_of_the_gauss_newton_matrix_or_the_hessian(workplace, capsys):
    call = ["spectrum", "a.pt", "--objective", "cost.py:cost", "--density", "--within", "2"]
    assert cli.main([*call, "-o", "out", "--quiet"]) == 0
    told = capsys.readouterr()
    found = table(told.out)
    assert np.trapezoid(found["density"], found["eigenvalue"]) == pytest.approx(1, abs=1e-6)
    assert "below 0 lies" in told.err
    kept = tw.open_record(workplace / "out").results["density"]
    assert kept.size == 10
    assert kept.provenance.section["within"] == ["2.weight", "2.bias"]


def test_what_has_not_converged_is_said(workplace, capsys, monkeypatch):
    monkeypatch.setattr("thalweg.probes.spectrum.DENSE", 5)
    call = ["spectrum", "a.pt", "--objective", "cost.py:cost", "--k", "3", "--limit", "13"]
    assert cli.main([*call, "--tolerance", "1e-7"]) == 0
    told = capsys.readouterr().err
    assert "have not converged: raise --limit" in told
    assert "missing was not settled" in told


def test_a_record_of_other_settings_is_not_replaced(workplace, capsys):
    call = ["spectrum", "a.pt", "--objective", "cost.py:cost", "-o", "out"]
    assert cli.main([*call, "--k", "2"]) == 0
    assert cli.main([*call, "--k", "3"]) == 2
    assert "other settings" in capsys.readouterr().err


def test_a_bad_number_is_refused(workplace, capsys):
    assert cli.main(["spectrum", "a.pt", "--objective", "cost.py:cost", "--k", "0"]) == 2
    assert "`k` must be 1 or more; got 0" in capsys.readouterr().err
