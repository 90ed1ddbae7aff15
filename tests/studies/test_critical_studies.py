"""What the studies of critical points compute, and that their claims can fail."""

import numpy as np
import pytest
import torch

from thalweg.results import History
from thalweg.studies import critical_points, load_study, newton_versus_descent, saddle_escape
from thalweg.studies.study import Run, check_claims


def run_of(name, tmp_path, **settings):
    settings = {**load_study(name).scales["smoke"], "seed": 0, **settings}
    return Run(settings, tmp_path, "cpu", lambda done, total, message: None)


def history(loss, norm):
    steps = np.arange(float(len(loss)))
    return History(steps, {"train": loss}, {"gradient_norm": {"train": np.array(norm)}})


def test_dip_and_peak_are_read_from_the_curve():
    seen = saddle_escape._dip_and_peak(history([1.5, 1.0, 0.99, 0.5, 0.0], [2, 0.5, 1, 4, 0]), "a_")
    assert seen == {"a_start": 2, "a_dip": 0.5, "a_peak": 4, "a_plateau": 0.4, "a_steps": 4}


def test_a_dip_after_the_peak_is_none():
    seen = saddle_escape._dip_and_peak(history([1.0, 0.5, 0.0], [1, 4, 0.001]), "")
    assert seen["dip"] == 1


def test_stuck_takes_a_high_cost_and_a_large_gradient():
    def stuck(loss, norm):
        return saddle_escape._is_stuck(saddle_escape._stuck(history(loss, norm), "x_"), "x")

    assert stuck([2.0, 1.5, 1.5, 1.4], [0.1, 1, 1, 1])
    assert not stuck([2.0, 1.5, 0.5, 0.4], [0.1, 1, 1, 1])
    assert not stuck([2.0, 2.0, 2.0, 2.0], [0.1, 1, 0.1, 0.1])


def test_descent_on_the_chain_is_that_of_the_formula():
    found, closest = saddle_escape._chain_descent((0.05, 0.05, 1.0), 0.01)
    w = np.array([0.05, 0.05, 1.0])
    for t in range(3):
        gradient = -2 * (1 - w.prod()) * w.prod() / w
        assert found.loss["train"][t] == pytest.approx((1 - w.prod()) ** 2)
        assert found.metrics["gradient_norm"]["train"][t] == pytest.approx(np.linalg.norm(gradient))
        w = w - 0.01 * gradient
    assert closest.kind == "not critical"


def test_the_gradient_norm_of_a_training_is_that_of_all_the_data(tmp_path):
    run = run_of("saddle-escape", tmp_path, epochs=1)
    found = saddle_escape._trained(run, 0.5)
    model, data = saddle_escape_network(run)
    x, y = data.splits["train"]
    torch.nn.functional.cross_entropy(model(x), y).backward()
    norm = torch.cat([p.grad.flatten() for p in model.parameters()]).norm()
    assert found.metrics["gradient_norm"]["train"][0] == pytest.approx(float(norm), rel=1e-4)
    assert len(found.epoch) == 2


def saddle_escape_network(run):
    from thalweg.studies.interpolation import untrained

    model, data = untrained(run, seed=0)
    return model.eval(), data


def test_the_network_beside_the_saddle_is_the_formula(tmp_path):
    run = run_of("newton-versus-descent", tmp_path)
    cost, start = newton_versus_descent._small_network(run)
    zero = torch.zeros_like(start)
    # With all weights zero the classes are equally likely.
    assert cost.value(zero) == pytest.approx(np.log(3), rel=1e-12)
    decay = run["decay"] / 2 * float(start.square().sum())
    assert abs(cost.value(start) - decay - np.log(3)) < 0.02
    again, same = newton_versus_descent._small_network(run)
    assert torch.equal(start, same)
    assert again.value(start) == cost.value(start)


@pytest.mark.parametrize(
    ("name", "wrong", "words"),
    [
        ("critical-points", {"kind_quartic_saddle": "minimum"}, "another kind"),
        ("critical-points", {"sign_changes": 4}, "six times"),
        ("critical-points", {"right": 6}, "told apart"),
        ("critical-points", {"origin3_lowest": -1e-3}, "without a negative eigenvalue"),
        ("critical-points", {"none": 13}, "no critical point"),
        ("critical-points", {"top_kind": "saddle"}, "mountain is its top"),
        ("newton-versus-descent", {"form_newton_kind": "minimum"}, "goes to the saddle"),
        ("newton-versus-descent", {"net_newton_loss": 0.1}, "converges to a saddle"),
        ("newton-versus-descent", {"net_free_negative": 0.1}, "without negative curvature"),
        ("newton-versus-descent", {"form_free_steps": 500}, "fewer steps"),
        ("saddle-escape", {"approach_dip": 0.9}, "the gradient dips"),
        ("saddle-escape", {"one_ratio": 1.0}, "fixed rate of 1"),
        ("saddle-escape", {"closest_kind": "saddle"}, "no critical point"),
    ],
)
def test_a_claim_fails_on_other_numbers(name, wrong, words):
    numbers = dict(kept(name))
    study = load_study(name)
    before = [claim for claim in check_claims(study, numbers) if words in claim.text]
    after = [claim for claim in check_claims(study, {**numbers, **wrong}) if words in claim.text]
    assert next(claim.verdict for claim in before) == "reproduced"
    assert next(claim.verdict for claim in after) == "not reproduced"


def kept(name):
    """Return the numbers of the record in the documentation."""
    from pathlib import Path

    from thalweg.records import open_record

    return open_record(Path(__file__).parents[2] / "docs" / "records" / name).numbers


def test_kinds_of_the_study_are_those_of_the_closed_forms():
    assert set(critical_points._KINDS.values()) == {"minimum", "maximum", "saddle", "degenerate"}
    assert np.prod(critical_points._SOLUTION) == 1
