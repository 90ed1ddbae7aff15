import pytest
import torch
from torch import nn

from cases import normal, seeded
from thalweg import ParameterMismatchError, ParameterSpace, Plane
from thalweg.directions import random_directions


def network():
    return nn.Sequential(
        nn.Conv2d(2, 3, 3),
        nn.BatchNorm2d(3),
        nn.ConvTranspose2d(3, 4, 2),
        nn.Flatten(),
        nn.Linear(5, 6),
        nn.LayerNorm(6),
    )


SPACE = ParameterSpace.of(network())
THETA = 0.5 + normal(SPACE.size, seed=1)


def filters_of(vector):
    """Return the filters of each weight as rows, written out by hand."""
    tensors = SPACE.unflatten(vector)
    return {
        "0.weight": tensors["0.weight"].reshape(3, -1),
        "2.weight": tensors["2.weight"].transpose(0, 1).reshape(4, -1),
        "4.weight": tensors["4.weight"],
    }


def test_every_filter_has_the_norm_of_the_same_filter_of_theta():
    for direction in random_directions(SPACE, THETA, 3, seed=2):
        for name, rows in filters_of(direction).items():
            torch.testing.assert_close(
                rows.norm(dim=1), filters_of(THETA)[name].norm(dim=1), rtol=1e-12, atol=0
            )


def test_layer_normalisation_has_the_norm_of_the_tensor_alone():
    (direction,) = random_directions(SPACE, THETA, 1, normalize="layer", seed=2)
    for name, rows in filters_of(direction).items():
        wanted = filters_of(THETA)[name]
        assert float(rows.norm()) == pytest.approx(float(wanted.norm()), rel=1e-12)
        assert float((rows.norm(dim=1) - wanted.norm(dim=1)).abs().max()) > 1e-2


def test_biases_and_normalisation_parameters_stay_unless_asked_for():
    for normalize in ("filter", "layer", "none"):
        (still,) = random_directions(SPACE, THETA, 1, normalize=normalize, seed=2)
        (moving,) = random_directions(SPACE, THETA, 1, normalize=normalize, biases=True, seed=2)
        for block in SPACE.blocks:
            if block.kind != "weight":
                assert torch.count_nonzero(block.of(still)) == 0
                assert torch.count_nonzero(block.of(moving)) == block.size
                if normalize != "none":
                    assert float(block.of(moving).norm()) == pytest.approx(
                        float(block.of(THETA).norm()), rel=1e-12
                    )


@pytest.mark.parametrize("normalize", ["filter", "layer", "none"])
def test_directions_are_orthogonal(normalize):
    drawn = torch.stack(random_directions(SPACE, THETA, 3, normalize=normalize, seed=3))
    gram = drawn @ drawn.T
    scale = gram.diagonal().sqrt()
    assert float((gram / scale[:, None] / scale - torch.eye(3)).abs().max()) < 1e-13


def test_as_many_directions_as_dimensions_are_orthogonal():
    # Once through Gram-Schmidt is not enough here.
    space = ParameterSpace.plain(60)
    drawn = random_directions(space, torch.ones(60).double(), 60, normalize="none", seed=3)
    unit = torch.stack([direction / direction.norm() for direction in drawn])
    assert float((unit @ unit.T - torch.eye(60)).abs().max()) < 2e-15


def test_directions_are_orthogonal_within_each_filter():
    one, two = random_directions(SPACE, THETA, 2, seed=3)
    for name, rows in filters_of(one).items():
        assert float((rows * filters_of(two)[name]).sum(1).abs().max()) < 1e-12


def test_filters_as_long_as_there_are_directions_are_orthogonal():
    space = ParameterSpace.of(nn.Linear(2, 5))
    one, two = random_directions(space, 1 + normal(15, seed=4), 2, seed=5)
    assert float((one * two)[:10].view(5, 2).sum(1).abs().max()) < 1e-14


def test_filters_too_short_to_be_orthogonal_keep_their_norms():
    space = ParameterSpace.of(nn.Linear(1, 5))
    theta = 1 + normal(10, seed=4)
    for direction in random_directions(space, theta, 2, seed=5):
        torch.testing.assert_close(direction[:5].abs(), theta[:5].abs())


def test_entries_are_normal():
    # 20,000 entries: mean 0 ± 4/√n, variance 1 ± 4 √(2/n), fourth moment 3 ± 4 √(96/n).
    space = ParameterSpace.plain(20_000)
    (drawn,) = random_directions(space, torch.ones(20_000).double(), 1, normalize="none", seed=6)
    n = 20_000
    assert abs(float(drawn.mean())) < 4 / n**0.5
    assert abs(float(drawn.square().mean()) - 1) < 4 * (2 / n) ** 0.5
    assert abs(float((drawn**4).mean()) - 3) < 4 * (96 / n) ** 0.5


def test_a_seed_gives_one_direction_and_each_type_its_rounding():
    first = random_directions(SPACE, THETA, 2, seed=7)
    again = random_directions(SPACE, THETA, 2, seed=7)
    other = random_directions(SPACE, THETA, 2, seed=8)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    exact = THETA.float().double()
    for fine, coarse in zip(
        random_directions(SPACE, exact, 2, seed=7),
        random_directions(SPACE, THETA.float(), 2, seed=7),
        strict=True,
    ):
        assert coarse.dtype == torch.float32
        assert torch.equal(fine.float(), coarse)


def test_the_global_generator_is_not_used():
    before = torch.get_rng_state()
    random_directions(SPACE, THETA, 2, seed=7)
    assert torch.equal(torch.get_rng_state(), before)


def test_rescaled_filters_get_rescaled_directions():
    # Li et al. (2017): networks that differ by the scale of their filters show one picture.
    tensors = SPACE.unflatten(THETA.clone())
    factors = 2.0 ** torch.arange(6).double() - 3
    tensors["4.weight"] = tensors["4.weight"] * factors[:, None]
    scaled = SPACE.flatten(tensors)
    one, other = (random_directions(SPACE, t, 2, seed=9)[1] for t in (THETA, scaled))
    torch.testing.assert_close(
        filters_of(other)["4.weight"],
        filters_of(one)["4.weight"] * factors.abs()[:, None],
    )
    torch.testing.assert_close(filters_of(other)["0.weight"], filters_of(one)["0.weight"])


def test_a_filter_of_zeros_does_not_move():
    tensors = SPACE.unflatten(THETA.clone())
    tensors["4.weight"][2] = 0
    (direction,) = random_directions(SPACE, SPACE.flatten(tensors), 1, seed=10)
    assert torch.count_nonzero(filters_of(direction)["4.weight"][2]) == 0
    assert torch.isfinite(direction).all()


def test_theta_is_left_alone():
    theta = THETA.clone().requires_grad_()
    (direction,) = random_directions(SPACE, theta, 1)
    assert not direction.requires_grad
    assert torch.equal(theta.detach(), THETA)


NORMALISED = ParameterSpace.of(nn.LayerNorm(4))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: random_directions(SPACE, THETA, 1, normalize="norm"),
            ValueError,
            r"must be 'filter', 'layer' or 'none'; got 'norm'. Li et al",
        ),
        (
            lambda: random_directions(SPACE, THETA[1:], 1),
            ParameterMismatchError,
            r"A point of this space has shape",
        ),
        (
            lambda: Plane.random(NORMALISED, torch.ones(8)),
            ValueError,
            r"weights that are not all zero.*norms \[0.0, 0.0\]. Pass biases=True",
        ),
        (
            lambda: Plane.random(NORMALISED, torch.ones(8), normalize="none"),
            ValueError,
            r"no more directions than weights; .*norms \[nan, nan\]. Pass biases=True",
        ),
        (
            lambda: random_directions(SPACE, torch.zeros_like(THETA), 1),
            ValueError,
            r"norms \[0.0\].*or normalize='none'",
        ),
        (
            lambda: random_directions(ParameterSpace.plain(1), torch.ones(1), 2, normalize="none"),
            ValueError,
            r"no more directions than weights",
        ),
        (
            lambda: random_directions(SPACE, torch.full_like(THETA, torch.nan), 1),
            ValueError,
            r"need a finite θ",
        ),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_normalisation_layers_alone_can_move_when_asked_to():
    plane = Plane.random(NORMALISED, torch.ones(8), biases=True)
    assert torch.isfinite(plane.point(0.5, 0.5)).all()


def test_the_rule_is_told():
    model = seeded(network, 3)
    plane = Plane.random(SPACE, SPACE.flatten(model), normalize="layer", seed=11)
    assert plane.details == {
        "directions": "random",
        "normalize": "layer",
        "biases": False,
        "seed": 11,
    }
