import numpy as np
import pytest
import torch

from thalweg.studies.deep_linear_hessians import STUDY, _network, _partial, _teacher
from thalweg.studies.study import check_claims, run_study


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    return run_study(STUDY, "smoke", tmp_path_factory.mktemp("run"), progress=False)


def test_the_spectrum_at_the_origin_is_that_of_the_formula(record):
    found = record.results["net-1-origin"].eigenvalues
    generator = torch.Generator().manual_seed(0)
    for depth in (2, 3, 11):  # the draws of the chains come first
        torch.rand(depth, generator=generator, dtype=torch.float64)
    _, _, (_, sizes, _) = _teacher(20, generator)
    expected = np.sort(np.repeat(np.r_[2 * sizes.numpy(), -2 * sizes.numpy()], 6))
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_points_of_deficient_rank_are_critical_and_can_be_left(record):
    x, target, directions = _teacher(20, torch.Generator().manual_seed(1))
    for hidden, idle in ((1, 1.0), (2, 1.0), (2, 0.0)):
        network = _network(hidden, x, target)
        point = _partial(hidden, directions, idle)
        assert network.gradient(point).norm() < 1e-12
        sizes = directions[1]
        assert network.value(point) == pytest.approx(float(sizes[2:].square().sum()))
        # A saddle, whether or not its Hessian tells: the third direction can be learnt.
        generator = torch.Generator().manual_seed(2)
        away = point + 0.05 * torch.randn(len(point), generator=generator, dtype=torch.float64)
        for _ in range(400):
            away = away - 0.02 * network.gradient(away)
        assert network.value(away) < network.value(point) - 1e-3


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("chain1_origin_smallest", -1.9),
        ("chain2_origin_smallest", -1e-9),
        ("beside_error", 1e-3),
        ("chain10_flat_error", 1e-3),
        ("net1_origin_error", 1e-3),
        ("net10_origin_smallest", -1e-3),
        ("full_error", 1e-3),
        ("net2_deficient_smallest", -1e-3),
    ],
)
def test_each_claim_can_fail(record, name, value):
    assert all(claim.verdict == "reproduced" for claim in record.claims)
    wrong = check_claims(STUDY, {**record.numbers, name: value})
    assert sum(claim.verdict == "not reproduced" for claim in wrong) == 1
