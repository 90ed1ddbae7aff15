"""Recurrent layers from projected inputs: what remains to be done step by step.

The first layer of an LSTM, a GRU or a plain recurrent network adds W x_t + b to U h_{t−1} in its
gates. Where W x_t + b is known for every word, it is looked up; the steps are done here, and
torch's own kernels do the layers above.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["input_bias", "recurrent_layers", "run_recurrent", "starting_state"]

_KINDS = (nn.GRU, nn.LSTM, nn.RNN)

State = Any  # (h, c) of an LSTM, else h: shape (layers, batch, units)


def recurrent_layers(model: nn.Module) -> Iterator[nn.RNNBase]:
    """Iterate over the recurrent layers that `run_recurrent` can do."""
    for module in model.modules():
        if not isinstance(module, nn.RNNBase) or type(module) not in _KINDS:
            continue
        if "forward" not in vars(module) and not module.bidirectional and not module.proj_size:
            yield module


def input_bias(layer: nn.RNNBase) -> Tensor | None:
    """Return what is added to the projected inputs: the biases that no gate multiplies."""
    if not layer.bias:
        return None
    given, recurrent = layer.bias_ih_l0, layer.bias_hh_l0
    assert isinstance(given, Tensor)
    assert isinstance(recurrent, Tensor)
    return given if isinstance(layer, nn.GRU) else given + recurrent


def starting_state(layer: nn.RNNBase, given: Tensor, state: State) -> State:
    """Return the user's state after torch's own check of its shape, or zeros."""
    if state is not None:
        layer.check_forward_args(given, state, None)
        return state
    batch = given.shape[0 if layer.batch_first else 1]
    weight = layer.weight_hh_l0
    assert isinstance(weight, Tensor)
    zeros = weight.new_zeros(layer.num_layers, batch, layer.hidden_size)
    return (zeros, zeros) if isinstance(layer, nn.LSTM) else zeros


def run_recurrent(
    layer: nn.RNNBase, table: Tensor, tokens: Tensor, state: State
) -> tuple[Tensor, State]:
    """Return the output of a recurrent layer and its last state.

    Args:
        layer: An LSTM, a GRU or a plain recurrent network, in evaluation mode.
        table: The projected inputs of every word, shape (words, gates).
        tokens: Words, shape (batch, steps) where the layer has its batch first, else
            (steps, batch).
        state: The state to start from.
    """
    steps = tokens.t() if layer.batch_first else tokens
    if isinstance(layer, nn.LSTM):
        output, h, c = _lstm(layer, table, steps, state[0][0], state[1][0])
        last: State = (h[None], c[None])
    else:
        one = _gru if isinstance(layer, nn.GRU) else _plain
        output = one(layer, table, steps, state[0])
        last = output[-1:].clone()
    if layer.num_layers > 1:
        output, above = _layers_above(layer, output, state)
        if isinstance(layer, nn.LSTM):
            last = tuple(torch.cat(both) for both in zip(last, above, strict=True))
        else:
            last = torch.cat([last, above])
    return output.transpose(0, 1) if layer.batch_first else output, last


def _lstm(
    layer: nn.RNNBase, table: Tensor, steps: Tensor, h: Tensor, c: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Do the steps of an LSTM: gates i, f, g, o, c = f c + i g, h = o tanh c."""
    units, recurrent = layer.hidden_size, _recurrent_weight(layer)
    output = table.new_empty(*steps.shape, units)
    gates = table.new_empty(steps.shape[1], table.shape[1])
    for words, place in zip(steps, output, strict=True):
        torch.index_select(table, 0, words, out=gates).addmm_(h, recurrent)
        keep = gates[:, : 2 * units].sigmoid_()
        new, show = gates[:, 2 * units : 3 * units].tanh_(), gates[:, 3 * units :].sigmoid_()
        c = (keep[:, units:] * c).addcmul_(keep[:, :units], new)
        h = torch.mul(show, c.tanh(), out=place)
    return output, h.clone(), c


def _gru(layer: nn.RNNBase, table: Tensor, steps: Tensor, h: Tensor) -> Tensor:
    """Do the steps of a GRU: gates r, z, n = tanh(x_n + r (U h)_n), h = (1 − z) n + z h."""
    units, recurrent = layer.hidden_size, _recurrent_weight(layer)
    bias = layer.bias_hh_l0 if layer.bias else table.new_zeros(table.shape[1])
    assert isinstance(bias, Tensor)
    output = table.new_empty(*steps.shape, units)
    for words, place in zip(steps, output, strict=True):
        given, before = table.index_select(0, words), torch.addmm(bias, h, recurrent)
        gates = given[:, : 2 * units].add_(before[:, : 2 * units]).sigmoid_()
        new = given[:, 2 * units :].addcmul_(gates[:, :units], before[:, 2 * units :]).tanh_()
        h = torch.addcmul(new, gates[:, units:], h - new, out=place)
    return output


def _plain(layer: nn.RNNBase, table: Tensor, steps: Tensor, h: Tensor) -> Tensor:
    """Do the steps of a plain recurrent network: h = tanh(x + U h), or with a rectifier."""
    recurrent = _recurrent_weight(layer)
    output = table.new_empty(*steps.shape, layer.hidden_size)
    for words, place in zip(steps, output, strict=True):
        torch.index_select(table, 0, words, out=place).addmm_(h, recurrent)
        h = place.relu_() if layer.mode == "RNN_RELU" else place.tanh_()
    return output


def _recurrent_weight(layer: nn.RNNBase) -> Tensor:
    """Return the transpose of the first layer's recurrent weights."""
    weight = layer.weight_hh_l0
    assert isinstance(weight, Tensor)
    return weight.t()


def _layers_above(layer: nn.RNNBase, output: Tensor, state: State) -> tuple[Tensor, State]:
    """Let torch do all layers but the first."""
    # By name: the flat list is of other points where the model was called functionally before.
    weights: Any = [weight for names in layer.all_weights[1:] for weight in names]
    settings = (layer.bias, layer.num_layers - 1, 0.0, False, False, False)
    if isinstance(layer, nn.LSTM):
        output, h, c = torch.lstm(output, tuple(s[1:] for s in state), weights, *settings)
        return output, (h, c)
    kinds = {"GRU": torch.gru, "RNN_TANH": torch.rnn_tanh, "RNN_RELU": torch.rnn_relu}
    output, h = kinds[layer.mode](output, state[1:], weights, *settings)
    return output, h
