"""Gradients over depth and units that are off: products of Jacobians, exact counts, invariances."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import thalweg as tw
from cases import classes, normal, seeded
from thalweg.problems.networks import Maxout

PAIR = (normal(40, 6, seed=1), classes(40, count=3, seed=2))


def mlp(activation=nn.ReLU, width=8, depth=3, seed=0):
    def build():
        layers, before = [], 6
        for _ in range(depth):
            layers += [nn.Linear(before, width), activation()]
            before = width
        return nn.Sequential(*layers, nn.Linear(before, 3))

    return seeded(build, seed)


def cost(model, data=PAIR, loss=None, **kwargs):
    return tw.ModelObjective(model, loss or nn.CrossEntropyLoss(), data, **kwargs)


def signals_of(model, data=PAIR, loss=None, **kwargs):
    objective = cost(model, data, loss, **kwargs)
    return tw.layer_signals(objective, objective.space.flatten(model))


def same_counts(a, b):
    for name in ("units", "dead", "saturated"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


class TestGradients:
    """Norms against the gradient itself, and against Jacobians by hand."""

    @pytest.mark.parametrize("depth", [2, 5])
    def test_a_deep_sigmoid_network_by_hand(self, depth):
        model = mlp(nn.Sigmoid, depth=depth, seed=3)
        found = signals_of(model, batch_size=7)
        weights = [layer.weight.detach().numpy() for layer in model if isinstance(layer, nn.Linear)]
        biases = [layer.bias.detach().numpy() for layer in model if isinstance(layer, nn.Linear)]
        squares = np.zeros(depth)
        x, y = (t.numpy() for t in PAIR)
        for example, label in zip(x, y, strict=True):
            h, hidden = example, []
            for w, b in zip(weights[:-1], biases[:-1], strict=True):
                h = 1 / (1 + np.exp(-(w @ h + b)))
                hidden.append(h)
            logits = weights[-1] @ h + biases[-1]
            delta = np.exp(logits - logits.max())
            delta /= delta.sum()
            delta[label] -= 1
            back = weights[-1].T @ delta
            for layer in reversed(range(depth)):
                squares[layer] += back @ back
                back = weights[layer].T @ (hidden[layer] * (1 - hidden[layer]) * back)
        norms = np.sqrt(squares) / len(x)
        np.testing.assert_allclose(found.activation_gradient, norms, rtol=1e-12)
        np.testing.assert_allclose(found.relative, norms / norms[-1], rtol=1e-12)
        assert found.attenuation.total == pytest.approx(norms[0] / norms[-1], rel=1e-12)
        slope = np.polyfit(np.arange(depth), np.log(norms), 1)[0]
        assert found.attenuation.factor == pytest.approx(np.exp(-slope), rel=1e-10)
        assert found.attenuation.layers == depth
        assert found.attenuation.factor < 0.5  # σ' ≤ 1/4

    def test_the_error_of_the_fit(self):
        logs = np.array([-3.0, -2.5, -1.0, 0.2, 0.9])
        found = tw.LayerSignals(
            layers=tuple("abcde"),
            functions=("tanh",) * 5,
            activation_gradient=np.exp(logs),
            activation_size=np.ones(5),
            units=np.ones(5),
            dead=np.zeros(5),
            saturated=np.zeros(5),
        ).attenuation
        (slope, _), covariance = np.polyfit(np.arange(5), logs, 1, cov=True)
        assert found.factor == pytest.approx(np.exp(-slope))
        assert found.error == pytest.approx(np.exp(-slope) * np.sqrt(covariance[0, 0]))

    def test_norms_are_those_of_the_gradient(self):
        model = mlp(nn.Tanh)
        objective = cost(model, batch_size=11, penalty=lambda t: t["0.weight"].square().sum())
        theta = objective.space.flatten(model) * 1.1
        found = tw.layer_signals(objective, theta)
        gradient = objective.gradient(theta)
        for name, norm, weight, size in zip(
            found.tensors, found.gradient_norm, found.weight_norm, found.size, strict=True
        ):
            block = next(b for b in objective.space.blocks if b.name == name)
            assert norm == pytest.approx(float(block.of(gradient).norm()), rel=1e-13)
            assert weight == pytest.approx(float(block.of(theta).norm()), rel=1e-13)
            assert size == block.size
        assert found.loss == pytest.approx(objective.value(theta), rel=1e-14)
        np.testing.assert_allclose(found.gradient_rms, found.gradient_norm / np.sqrt(found.size))
        products = found.gradient_norm * found.weight_norm
        np.testing.assert_allclose(found.sensitivity, products / products.sum())

    @pytest.mark.parametrize("policy", ["recalibrate", "stored", "batch"])
    def test_batch_normalisation(self, policy):
        model = seeded(
            lambda: nn.Sequential(
                nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 4), nn.Tanh(),
                nn.Linear(4, 3),
            ),
            4,
        )  # fmt: skip
        objective = cost(model, batch_norm=policy, batch_size=20)
        theta = objective.space.flatten(model) + 0.1
        found = tw.layer_signals(objective, theta)
        gradient = objective.gradient(theta)
        total = math.sqrt((found.gradient_norm**2).sum())
        assert total == pytest.approx(float(gradient.norm()), rel=1e-12)
        assert found.layers == ("2", "4")
        assert found.units.tolist() == [5, 4]
        assert found.activation_size.tolist() == [200, 160]  # each example once

    def test_masks_of_dropout_are_those_of_the_cost(self):
        model = seeded(
            lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3)), 1
        )
        objective = cost(model, dropout=tw.MonteCarlo(samples=3, seed=5))
        theta = objective.space.flatten(model)
        found = tw.layer_signals(objective, theta)
        total = math.sqrt((found.gradient_norm**2).sum())
        assert total == pytest.approx(float(objective.gradient(theta).norm()), rel=1e-12)

    def test_what_changes_in_place_later_does_not_count(self):
        class Residual(nn.Module):
            def __init__(self, in_place):
                super().__init__()
                self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 3)
                self.in_place = in_place

            def forward(self, x):
                h = functional.gelu(
                    self.a(x)
                )  # keeps its input, so that its output may be written to
                if self.in_place:
                    h += 3 * x
                    h *= 2
                else:
                    h = (h + 3 * x) * 2
                return self.b(h)

        first = seeded(lambda: Residual(True), 2)
        second = seeded(lambda: Residual(False), 2)
        a, b = signals_of(first), signals_of(second)
        np.testing.assert_allclose(a.activation_gradient, b.activation_gradient, rtol=1e-14)
        same_counts(a, b)

    def test_an_output_is_no_hidden_layer(self):
        model = seeded(
            lambda: nn.Sequential(
                nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 1),
                nn.Sigmoid(),
            ),
            0,
        )  # fmt: skip
        data = (PAIR[0], (PAIR[1] > 0).double()[:, None])
        found = signals_of(model, data, nn.BCELoss())
        assert found.is_output.tolist() == [0, 0, 1]
        assert found.attenuation.layers == 2
        assert found.relative[1] == 1.0


class TestInvariance:
    """What must not matter."""

    def test_batches_and_order(self):
        model = mlp(nn.ReLU, seed=5)
        whole = signals_of(model)
        order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
        for other in (
            signals_of(model, batch_size=3),
            signals_of(model, (PAIR[0][order], PAIR[1][order]), batch_size=9),
        ):
            for name in ("gradient_norm", "activation_gradient", "relative", "sensitivity"):
                np.testing.assert_allclose(getattr(other, name), getattr(whole, name), rtol=1e-11)
            same_counts(other, whole)
            np.testing.assert_array_equal(other.activation_size, whole.activation_size)

    def test_a_cost_in_other_units(self):
        model = mlp(nn.Tanh, depth=4, seed=6)
        plain = signals_of(model)
        scaled = signals_of(model, loss=lambda o, t: 1e3 * functional.cross_entropy(o, t))
        np.testing.assert_allclose(scaled.gradient_norm, 1e3 * plain.gradient_norm, rtol=1e-11)
        for name in ("relative", "sensitivity"):
            np.testing.assert_allclose(getattr(scaled, name), getattr(plain, name), rtol=1e-11)
        assert scaled.attenuation.total == pytest.approx(plain.attenuation.total, rel=1e-11)
        assert scaled.attenuation.factor == pytest.approx(plain.attenuation.factor, rel=1e-11)
        same_counts(scaled, plain)

    def test_permuted_units(self):
        model = mlp(nn.ReLU, depth=2, seed=7)
        with torch.no_grad():
            model[0].bias[2] = -50.0
        permuted = copy.deepcopy(model)
        order = torch.tensor([7, 2, 0, 1, 6, 5, 4, 3])
        with torch.no_grad():
            permuted[0].weight.copy_(model[0].weight[order])
            permuted[0].bias.copy_(model[0].bias[order])
            permuted[2].weight.copy_(model[2].weight[:, order])
        a, b = signals_of(model), signals_of(permuted)
        np.testing.assert_allclose(b.activation_gradient, a.activation_gradient, rtol=1e-12)
        same_counts(a, b)
        assert a.dead[0] == 1

    def test_tensors_in_other_units(self):
        """A tensor stored in other units has the same sensitivity: g → g/c where θ → cθ."""

        class Scaled(nn.Module):
            def __init__(self, scale):
                super().__init__()
                self.scale = scale
                self.inner, self.last = nn.Linear(6, 4), nn.Linear(4, 3)
                self.inner.weight.data /= scale

            def forward(self, x):
                return self.last(torch.tanh(functional.linear(x, self.inner.weight * self.scale)))

        a, b = (signals_of(seeded(lambda s=s: Scaled(s), 3)) for s in (1.0, 64.0))
        np.testing.assert_allclose(a.sensitivity, b.sensitivity, rtol=1e-11)


class TestUnits:
    """Counts of units that let nothing pass."""

    @pytest.mark.parametrize("off", [0, 1, 3, 8])
    def test_dead_relus_are_counted(self, off):
        model = mlp(nn.ReLU, depth=1)
        with torch.no_grad():
            model[0].weight.normal_(generator=torch.Generator().manual_seed(1))
            model[0].bias.zero_()
            model[0].bias[:off] = -100.0
        found = signals_of(model, batch_size=13)
        assert found.dead.tolist() == [off]
        assert found.saturated.tolist() == [0]
        # Rows of the first weight, biases, and columns of the second.
        assert found.zero_share == pytest.approx(off * (6 + 1 + 3) / (8 * 7 + 9 * 3))

    @pytest.mark.parametrize("seed", range(6))
    def test_alive_units_are_never_called_dead(self, seed):
        model = mlp(nn.ReLU, width=30, depth=2, seed=seed)
        with torch.no_grad():
            model[0].bias -= 1.0  # some are off for all examples, some for all but one
            first = model[0](PAIR[0])
            second = model[2](first.relu())
        expected = [int((z <= 0).all(0).sum()) for z in (first, second)]
        found = signals_of(model, batch_size=1 + seed)
        assert found.dead.tolist() == expected
        assert 0 < expected[0] < 30
        np.testing.assert_allclose(found.dead_share, np.array(expected) / 30)

    def test_one_example_keeps_a_unit_alive(self):
        model = mlp(nn.ReLU, depth=1)
        with torch.no_grad():
            model[0].weight.zero_()
            model[0].weight[:, 0] = 1.0
            model[0].bias.fill_(-(PAIR[0][:, 0].max() - 1e-9))
            model[0].bias[0] -= 1e-8
        assert signals_of(model, batch_size=8).dead.tolist() == [1]

    @pytest.mark.parametrize(("kind", "far"), [(nn.Sigmoid, 12.0), (nn.Tanh, 6.0), (nn.Tanh, 80.0)])
    def test_saturated_units(self, kind, far):
        model = mlp(kind, depth=1)
        with torch.no_grad():
            model[0].weight *= 0.1
            model[0].bias.zero_()
            model[0].bias[:3] = far
            model[0].bias[3] = -far
        found = signals_of(model)
        assert found.saturated.tolist() == [4]
        assert found.dead.tolist() == [0]
        np.testing.assert_allclose(found.saturated_share, [0.5])

    def test_nearly_all_examples_are_enough(self):
        x = torch.zeros(2000, 1, dtype=torch.float64)
        x[0] = -9.0  # one in two thousand is where the derivative is large
        model = nn.Sequential(nn.Linear(1, 2), nn.Sigmoid(), nn.Linear(2, 1)).double()
        with torch.no_grad():
            model[0].weight.copy_(torch.tensor([[1.0], [0.0]]))
            model[0].bias.copy_(torch.tensor([9.0, 0.0]))
        one = signals_of(model, (x, x), nn.MSELoss())
        assert one.saturated.tolist() == [1]
        x[:4] = -9.0  # four are too many
        assert signals_of(model, (x, x), nn.MSELoss()).saturated.tolist() == [0]

    def test_where_the_derivative_is_small_by_formula(self):
        """σ'(z)/σ'(0) = 1/cosh²(z/2) = 1e-3 at z = 2 arcosh(√1000)."""
        edge = 2 * math.acosh(math.sqrt(1000))
        model = nn.Sequential(nn.Linear(1, 2), nn.Sigmoid(), nn.Linear(2, 1)).double()
        with torch.no_grad():
            model[0].weight.zero_()
            model[0].bias.copy_(torch.tensor([edge - 1e-6, edge + 1e-6]))
        data = (normal(5, 1), normal(5, 1))
        assert signals_of(model, data, nn.MSELoss()).saturated.tolist() == [1]

    @pytest.mark.parametrize(
        ("module", "dead"),
        [
            (nn.LeakyReLU(0.01), 0),
            (nn.LeakyReLU(0.0), 1),
            (nn.ReLU6(), 2),
            (nn.Hardtanh(), 2),
            (nn.PReLU(), 0),
            (nn.ELU(), 0),
            (nn.GELU(), 0),
            (nn.SiLU(inplace=True), 0),
            (nn.Hardswish(), 1),
        ],
    )
    def test_kinds_of_activations(self, module, dead):
        model = nn.Sequential(nn.Linear(1, 3), module, nn.Linear(3, 1)).double()
        with torch.no_grad():
            model[0].weight.fill_(0.1)
            model[0].bias.copy_(torch.tensor([-30.0, 30.0, 0.5]))
        found = signals_of(model, (normal(20, 1), normal(20, 1)), nn.MSELoss())
        assert found.layers == ("1",)
        assert found.dead.tolist() == [dead]

    def test_pieces_of_maxout(self):
        model = nn.Sequential(Maxout(2, 2, 3), nn.Linear(2, 1)).double()
        with torch.no_grad():
            model[0].weight.zero_()
            model[0].weight[:, 0] = torch.tensor([1.0, -1.0, 0.0, 1.0, -1.0, 0.0])
            # Of the first unit the third piece never wins, of the second it always does.
            model[0].bias.copy_(torch.tensor([0.0, 0.0, -9.0, 0.0, 0.0, 90.0]))
        found = signals_of(
            model, (normal(30, 2, seed=3), normal(30, 1)), nn.MSELoss(), batch_size=8
        )
        assert found.layers == ("0",)
        assert found.functions == ("maxout",)
        assert found.units.tolist() == [6]
        assert found.dead.tolist() == [3]


FORMS = {
    "module": nn.ReLU(),
    "in place": nn.ReLU(inplace=True),
    "functional": functional.relu,
    "functional in place": lambda z: functional.relu(z, inplace=True),
    "by name": lambda z: functional.relu(input=z),
    "torch": torch.relu,
    "method": lambda z: z.relu(),
    "method in place": lambda z: z.relu_(),
}


class TestForms:
    """However an activation is written, and wherever its units are."""

    @pytest.mark.parametrize("form", FORMS)
    def test_all_forms_are_one(self, form):
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)
                self.relu = FORMS[form]

            def forward(self, x):
                return self.b(self.relu(self.a(x)))

        model = seeded(Net, 9)
        with torch.no_grad():
            model.a.bias[:2] = -40.0
        found = signals_of(model, batch_size=17)
        assert found.layers == ("relu",)
        assert found.functions == ("relu",)
        assert found.dead.tolist() == [2]
        plain = nn.Sequential(copy.deepcopy(model.a), nn.ReLU(), copy.deepcopy(model.b))
        expected = signals_of(plain)
        np.testing.assert_allclose(
            found.activation_gradient, expected.activation_gradient, rtol=1e-12
        )

    @pytest.mark.parametrize("between", ["nothing", "norm", "pool"])
    @pytest.mark.parametrize("dimensions", [1, 2])
    def test_channels_of_convolutions(self, dimensions, between):
        conv = (nn.Conv1d, nn.Conv2d)[dimensions - 1]
        middle = {
            "nothing": nn.Identity(),
            "norm": (nn.BatchNorm1d, nn.BatchNorm2d)[dimensions - 1](5),
            "pool": (nn.MaxPool1d, nn.AvgPool2d)[dimensions - 1](2),
        }[between]
        model = seeded(
            lambda: nn.Sequential(
                conv(2, 5, 3), middle, nn.ReLU(), nn.Flatten(), nn.LazyLinear(4), nn.ReLU(),
                nn.Linear(4, 3),
            ),
            1,
        )  # fmt: skip
        shape = (12, 2, *[10] * dimensions)
        x, y = normal(*shape, seed=4), classes(12, count=3)
        model(x)
        with torch.no_grad():
            model[0].weight[1] = 0.0
            target = middle if between == "norm" else model[0]
            target.bias[1] = -1.0
            model[4].bias[2] = -99.0
        found = signals_of(model, (x, y), batch_size=5)
        assert found.units.tolist() == [5, 4]
        assert found.dead[0] == 1
        assert found.dead[1] >= 1

    def test_features_that_come_last(self):
        class Last(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv, self.mix, self.out = nn.Conv2d(2, 4, 1), nn.Linear(4, 7), nn.Linear(7, 3)

            def forward(self, x):
                h = self.mix(self.conv(x).permute(0, 2, 3, 1))
                return self.out(functional.gelu(h).mean((1, 2)))

        model = seeded(Last, 0)
        x = normal(6, 2, 5, 5)
        found = signals_of(model, (x, classes(6, count=3)))
        assert found.units.tolist() == [7]

    def test_sequences_count_over_all_steps(self):
        class Tagger(nn.Module):
            def __init__(self):
                super().__init__()
                self.a, self.b = nn.Linear(6, 4), nn.Linear(4, 3)

            def forward(self, x):
                return self.b(self.a(x).relu()).mean(1)

        model = seeded(Tagger, 1)
        with torch.no_grad():
            model.a.weight.zero_()
            model.a.weight[:, 0] = 1.0
            model.a.bias.fill_(0.5)
            model.a.bias[0] = -5.0
        x = torch.zeros(9, 11, 6, dtype=torch.float64)
        assert signals_of(model, (x, classes(9, count=3))).dead.tolist() == [1]
        x[4, 7, 0] = 6.0  # one step of one sequence
        found = signals_of(model, (x, classes(9, count=3)), batch_size=2)
        assert found.dead.tolist() == [0]
        assert found.units.tolist() == [4]
        assert found.activation_size.tolist() == [9 * 11 * 4]

    def test_a_recurrent_layer_says_that_it_is_not_seen(self):
        class Recurrent(nn.Module):
            def __init__(self):
                super().__init__()
                self.head = nn.Linear(5, 3)  # registered first, used last
                self.memory = nn.LSTM(6, 5, batch_first=True)

            def forward(self, x):
                return self.head(self.memory(x)[0][:, -1])

        model = seeded(Recurrent, 2)
        found = signals_of(model, (normal(8, 4, 6), classes(8, count=3)))
        assert found.unseen == ("memory",)
        assert found.layers == ()
        assert found.tensors[0].startswith("memory.")
        assert found.tensors[-2:] == ("head.weight", "head.bias")
        assert math.isnan(found.attenuation.factor)

    def test_a_cell_that_is_run_for_every_step_is_one_layer(self):
        class Cell(nn.Module):
            def __init__(self):
                super().__init__()
                self.a, self.b = nn.Linear(6, 5), nn.Linear(5, 5)

            def forward(self, x, h):
                return torch.tanh(self.a(x) + self.b(h))

        class Loop(nn.Module):
            def __init__(self):
                super().__init__()
                self.cell, self.out = Cell(), nn.Linear(5, 3)

            def forward(self, x):
                h = x.new_zeros(len(x), 5)
                for t in range(x.shape[1]):
                    h = self.cell(x[:, t], h)
                return self.out(h)

        found = signals_of(seeded(Loop, 0), (normal(8, 4, 6), classes(8, count=3)))
        assert found.layers == ("cell.tanh",)
        assert found.activation_size.tolist() == [8 * 4 * 5]

    def test_an_encoder_layer(self):
        model = seeded(
            lambda: nn.Sequential(
                nn.TransformerEncoderLayer(6, 2, 10, dropout=0.1, batch_first=True),
                nn.Flatten(),
                nn.Linear(24, 3),
            ),
            3,
        )
        objective = cost(model, (normal(8, 4, 6), classes(8, count=3)))
        theta = objective.space.flatten(model)
        found = tw.layer_signals(objective, theta)
        assert found.layers == ("0.relu",)
        assert found.units.tolist() == [10]
        total = math.sqrt((found.gradient_norm**2).sum())
        assert total == pytest.approx(float(objective.gradient(theta).norm()), rel=1e-10)

    def test_an_activation_that_is_written_out_is_one(self):
        class TanhGELU(nn.Module):
            def forward(self, x):
                inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
                return 0.5 * x * (1.0 + torch.tanh(inner))

        plain = mlp(lambda: nn.GELU("tanh"), depth=2, seed=3)
        written = mlp(TanhGELU, depth=2, seed=3)
        with torch.no_grad():
            for model in (plain, written):
                model[0].bias[:2] = -60.0
                model[0].bias[2] = 60.0  # where tanh is saturated, and GELU is not
        a, b = signals_of(plain, batch_size=9), signals_of(written, batch_size=9)
        assert a.layers == b.layers == ("1", "3")
        assert b.functions == ("tanhgelu", "tanhgelu")
        same_counts(a, b)
        assert a.saturated[0] == 2
        assert a.dead.tolist() == [0, 0]
        np.testing.assert_allclose(a.activation_gradient, b.activation_gradient, rtol=1e-10)

    def test_a_written_out_relu_can_be_dead(self):
        class SquaredReLU(nn.Module):
            def forward(self, x):
                return torch.relu(x).square()

        model = mlp(SquaredReLU, depth=1)
        with torch.no_grad():
            model[0].bias[:3] = -60.0
        found = signals_of(model)
        assert found.functions == ("squaredrelu",)
        assert found.dead.tolist() == [3]

    def test_whole_numbers_pass_unseen(self):
        class Counted(nn.Module):
            def __init__(self):
                super().__init__()
                self.a = nn.Linear(6, 3)

            def forward(self, x):
                return self.a(x * torch.relu((x > 0).long()))

        assert signals_of(seeded(Counted, 0)).layers == ()

    def test_one_module_in_two_places_is_two_layers(self):
        class Twice(nn.Module):
            def __init__(self):
                super().__init__()
                self.relu = nn.ReLU()
                self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 4), nn.Linear(4, 3)

            def forward(self, x):
                return self.c(self.relu(self.b(self.relu(self.a(x)))))

        found = signals_of(seeded(Twice, 0))
        assert found.layers == ("relu", "relu (2)")
        assert found.units.tolist() == [8, 4]

    def test_softmax_and_the_loss_are_no_layers(self):
        model = seeded(lambda: nn.Sequential(nn.Linear(6, 3), nn.Softmax(-1)), 0)
        found = signals_of(
            model, loss=lambda o, t: functional.mse_loss(torch.sigmoid(o[:, 0]), t.double())
        )
        assert found.layers == ()


class TestOrder:
    """Order of use, tied, frozen and unused tensors."""

    def test_use_not_registration(self):
        class Backwards(nn.Module):
            def __init__(self):
                super().__init__()
                self.last, self.first = nn.Linear(8, 3), nn.Linear(6, 8)
                self.unused = nn.Parameter(torch.ones(4))

            def forward(self, x):
                return self.last(torch.tanh(self.first(x)))

        found = signals_of(seeded(Backwards, 0))
        used = ("first.weight", "first.bias", "last.weight", "last.bias")
        assert found.tensors == (*used, "unused")
        np.testing.assert_array_equal(found.depth, [0, 0, 1, 1, np.nan])
        assert found.zero[-1] == 4
        assert found.zero_share == pytest.approx(4 / found.size.sum())

    def test_tied_tensors_count_once(self):
        class Tied(nn.Module):
            def __init__(self):
                super().__init__()
                self.a, self.b, self.out = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
                self.b.weight = self.a.weight

            def forward(self, x):
                return self.out(self.b(self.a(x).tanh()).tanh())

        model = seeded(Tied, 0)
        found = signals_of(model)
        assert found.tensors.count("a.weight") == 1
        assert "b.weight" not in found.tensors
        assert found.depth[found.tensors.index("a.weight")] == 0
        assert found.layers == ("tanh", "tanh (2)")

    def test_frozen_tensors_have_no_gradient(self):
        model = mlp(nn.ReLU, depth=3)
        for parameter in model[:4].parameters():
            parameter.requires_grad_(False)
        found = signals_of(model)
        assert found.tensors[0] == "4.weight"
        assert np.isnan(found.activation_gradient[:2]).all()
        assert found.activation_gradient[2] > 0
        assert found.units.tolist() == [8, 8, 8]
        assert found.attenuation.layers == 1


class TestUntouched:
    """The model and the objective are as before, also after an exception."""

    def test_nothing_stays_behind(self):
        model = mlp(nn.ReLU).train()
        objective = cost(model)
        theta = objective.space.flatten(model)
        before = torch.random.get_rng_state()
        gradient = objective.gradient(theta)
        tw.layer_signals(objective, theta)
        assert torch.equal(torch.random.get_rng_state(), before)
        assert torch.equal(objective.gradient(theta), gradient)
        assert model.training
        assert all(p.grad is None for p in model.parameters())
        modules = [objective.forward_pass, *objective.forward_pass.model.modules()]
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in modules)

    def test_after_an_exception(self):
        class Breaks(nn.Module):
            broken = False

            def __init__(self):
                super().__init__()
                self.a = nn.Linear(6, 3)

            def forward(self, x):
                if Breaks.broken:
                    raise RuntimeError("broken on purpose")
                return torch.relu(self.a(x))

        model = seeded(Breaks, 0)
        objective = cost(model)
        theta = objective.space.flatten(model)
        Breaks.broken = True
        with pytest.raises(RuntimeError, match="broken on purpose"):
            tw.layer_signals(objective, theta)
        modules = [objective.forward_pass, *objective.forward_pass.model.modules()]
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in modules)
        Breaks.broken = False
        assert tw.layer_signals(objective, theta).layers == ("relu",)

    def test_any_context_of_the_caller(self):
        model = mlp(nn.ReLU)
        objective = cost(model)
        theta = objective.space.flatten(model)
        with torch.inference_mode():
            found = tw.layer_signals(objective, theta)
        assert (found.gradient_norm > 0).all()


class TestExamples:
    def test_some_of_the_examples(self):
        model = mlp(nn.ReLU)
        objective = cost(model)
        theta = objective.space.flatten(model)
        found = tw.layer_signals(objective, theta, examples=10, seed=3)
        order = torch.randperm(40, generator=torch.Generator().manual_seed(3))[:10]
        expected = signals_of(model, (PAIR[0][order], PAIR[1][order]))
        assert found.examples == 10
        assert found.provenance.objective["subsample"] == {"examples": 10, "seed": 3}
        np.testing.assert_allclose(found.gradient_norm, expected.gradient_norm, rtol=1e-12)
        same_counts(found, expected)

    def test_a_formula_has_no_layers(self):
        bowl = tw.FunctionObjective(lambda t: t.square().sum(), size=2)
        with pytest.raises(TypeError, match="Layers are those of a model; got a FunctionObj"):
            tw.layer_signals(bowl, [1.0, 2.0])

    def test_no_objective(self):
        with pytest.raises(TypeError, match="first argument is an objective"):
            tw.layer_signals(mlp(), [1.0])

    @pytest.mark.parametrize("examples", [0, 41])
    def test_as_many_as_there_are(self, examples):
        model = mlp()
        objective = cost(model)
        with pytest.raises(ValueError, match="between 1 and the 40 of split 'train'"):
            tw.layer_signals(objective, objective.space.flatten(model), examples=examples)


class TestResult:
    def test_layers_and_functions_go_together(self):
        with pytest.raises(ValueError, match="Each activation layer is some function"):
            tw.LayerSignals(layers=("a",))

    def test_a_layer_that_nothing_comes_through(self):
        found = tw.LayerSignals(
            layers=("a", "b", "c"),
            functions=("relu",) * 3,
            activation_gradient=[0.0, 1.0, 1.0],
            activation_size=[1, 1, 1],
            units=[1, 1, 1],
            dead=[0, 1, 0],
            saturated=[0, 0, 0],
        ).attenuation
        assert found.total == 0.0
        assert found.factor == 0.0
        assert math.isnan(found.error)

    def test_a_record_keeps_it(self, tmp_path):
        found = signals_of(mlp(nn.ReLU))
        tw.save_record(tw.Record(study="layers", results={"layers": found}), tmp_path)
        again = tw.open_record(tmp_path).results["layers"]
        assert again.layers == found.layers
        assert again.tensors == found.tensors
        assert again.attenuation == found.attenuation
        np.testing.assert_array_equal(again.gradient_norm, found.gradient_norm)
        assert copy.deepcopy(found).functions == found.functions
