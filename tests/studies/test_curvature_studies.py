"""Studies of steps, flows and lines: taken up where they were left, and claims that can fail."""

from dataclasses import replace

import numpy as np
import pytest

from thalweg.probes import step_curvature as steps
from thalweg.studies import load_study
from thalweg.studies.study import check_claims, run_study


def quick():
    study = load_study("curvature-steps")
    return replace(study, scales={"smoke": {**study.scales["smoke"], "epochs": 3, "tries": 2}})


def test_steps_that_were_measured_are_not_measured_again(tmp_path, monkeypatch):
    first = run_study(quick(), "smoke", tmp_path, progress=False)
    path = tmp_path / "step-001" / "arrays.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")  # damaged: this one is
    measured = []
    original = steps.step_curvature

    def spy(*args, **options):
        measured.append(options)
        return original(*args, **options)

    monkeypatch.setattr(steps, "step_curvature", spy)
    second = run_study(quick(), "smoke", tmp_path, progress=False)
    assert len(measured) == 1
    assert dict(second.numbers) == dict(first.numbers)
    for name in ("first-step", "middle-step", "last-step"):
        np.testing.assert_array_equal(second.results[name].actual, first.results[name].actual)
    assert len(first.results["run"].epoch) == 3
    assert first.numbers["tried"] == 6


@pytest.mark.parametrize(
    ("name", "number", "wrong", "words"),
    [
        ("quadratic-flow", "ode_error", 2e-8, "moves along each eigenvector"),
        ("quadratic-flow", "escape_error", 1e-3, "flees from a saddle"),
        ("quadratic-flow", "greatest_rise", 1e-9, "cost falls all the way"),
        ("deep-linear-line", "barrier_4", 0.3164, "separated by a barrier"),
        ("deep-linear-line", "depth2_minima_share", 0.01, "no other minimum, for two"),
        ("deep-linear-line", "depth5_minima_low", 0.49, "other minima, in about"),
        ("deep-linear-line", "derivative_error", 1e-9, "those of the polynomial"),
    ],
)
def test_a_wrong_number_is_not_reproduced(tmp_path, name, number, wrong, words):
    """The negative control: every claim fails with a number that does not bear it out."""
    study = load_study(name)
    record = run_study(study, "smoke", tmp_path, progress=False)
    assert all(claim.verdict == "reproduced" for claim in record.claims)
    failed = [
        claim.text
        for claim in check_claims(study, {**record.numbers, number: wrong})
        if claim.verdict != "reproduced"
    ]
    assert len(failed) == 1
    assert words in failed[0]
