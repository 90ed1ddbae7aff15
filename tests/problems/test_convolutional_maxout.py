from dataclasses import replace

import pytest
import torch

from thalweg.problems.convolutional_maxout import (
    CONVOLUTIONAL_MAXOUT,
    MaxoutConvolution,
    convolutional_maxout,
)

SMALL = replace(
    CONVOLUTIONAL_MAXOUT,
    channels=(3, 4),
    kernels=(3, 3),
    padding=(1, 1),
    pools=((2, 2), (2, 2)),
    hidden=6,
    norm_limits=(0.9, 1.9, 1.9, 1.9),
    rate_factors=(0.05, 0.05, 1.0, 1.0),
    dropout=None,
)


def test_the_published_network_has_its_sizes():
    network = convolutional_maxout(CONVOLUTIONAL_MAXOUT, (3, 32, 32), seed=0)
    assert sum(p.numel() for p in network.parameters()) == 16_247_830
    sides, x = [], torch.zeros(1, 3, 32, 32)
    for name, module in network.named_children():
        x = module(x)
        if name.startswith(("convolution", "pool")):
            sides.append(x.shape[-1])
        if name == "flatten":
            sides.append(x.shape[-1])
    assert sides == [33, 16, 15, 7, 9, 5, 4800]
    assert x.shape == (1, 10)


def test_weights_start_uniform_and_biases_at_zero():
    network = convolutional_maxout(SMALL, (1, 8, 8), seed=0)
    for parameter in network.parameters():
        if parameter.dim() > 1:
            assert 0.003 < parameter.abs().max().item() <= 0.005
        else:
            assert not parameter.any()


def test_the_largest_piece_is_taken():
    layer = MaxoutConvolution(2, 3, 4, kernel=3, padding=1)
    x = torch.randn(5, 2, 6, 6, generator=torch.Generator().manual_seed(0))
    pieces = [
        torch.nn.functional.conv2d(x, layer.weight[j::4], layer.bias[j::4], padding=1)
        for j in range(4)
    ]
    torch.testing.assert_close(layer(x), torch.stack(pieces).amax(0))


def test_flat_rows_are_images():
    network = convolutional_maxout(SMALL, (1, 8, 8), seed=0).eval()
    x = torch.rand(3, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(network(x), network(x.reshape(3, 1, 8, 8)))


def test_the_recipe_wants_an_entry_a_layer():
    with pytest.raises(ValueError, match="`kernels` must have 2 entries; got"):
        replace(SMALL, kernels=(3,))
    with pytest.raises(ValueError, match="`rate_factors` must have one entry for each of 4"):
        replace(SMALL, rate_factors=(1.0,))
