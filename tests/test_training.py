import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from thalweg.errors import DataUnavailableError
from thalweg.problems.data import digits, mnist
from thalweg.problems.networks import multilayer_perceptron
from thalweg.problems.recipes import (
    MAXOUT,
    RELU,
    RELU_WITHOUT_DROPOUT,
    ExponentialDecay,
    LinearDecay,
    LinearMomentum,
    Recipe,
)
from thalweg.training import train
from thalweg.trajectory.recorder import Recorder
from thalweg.trajectory.schedules import Every
from thalweg.trajectory.trajectory import Trajectory

# Schedules that change in every epoch, on a network without dropout or limits.
TOY = Recipe(
    activation="sigmoid",
    hidden=(5,),
    init_ranges=(0.9, 0.8),
    learning_rate=LinearDecay(initial=0.7, start=2, saturate=5, factor=0.2),
    momentum=LinearMomentum(initial=0.3, final=0.8, start=1, saturate=4),
    batch_size=64,
)
RATES = [0.7, 0.56, 0.42, 0.28, 0.14, 0.14]
MOMENTA = [0.3, 0.3 + 0.5 / 3, 0.3 + 1.0 / 3, 0.8, 0.8, 0.8]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def blobs(n, classes=3, inputs=4, seed=0, dtype=torch.float64):
    source = generator(seed)
    y = torch.arange(n) % classes
    centres = torch.randn(classes, inputs, generator=generator(99), dtype=dtype)
    x = 0.7 + centres[y] + 0.8 * torch.randn(n, inputs, generator=source, dtype=dtype)
    return x, y


def toy_splits(**options):
    return {"train": blobs(48, seed=1, **options), "valid": blobs(30, seed=2, **options)}


def toy_model(recipe=TOY, seed=1, dtype=torch.float64):
    return multilayer_perceptron(recipe, inputs=4, seed=seed, outputs=3).to(dtype)


def arrays(state):
    return {name: tensor.numpy().copy() for name, tensor in state.items()}


def assert_same_bits(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def numpy_loss(theta, x, y):
    """Return loss, error rate and gradients of the sigmoid network, written out by hand."""
    x, y = x.numpy(), y.numpy()
    hidden = 1 / (1 + np.exp(-(x @ theta["hidden1.weight"].T + theta["hidden1.bias"])))
    logits = hidden @ theta["output.weight"].T + theta["output.bias"]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    delta = (p - np.eye(p.shape[1])[y]) / len(y)
    back = delta @ theta["output.weight"] * hidden * (1 - hidden)
    gradient = {
        "hidden1.weight": back.T @ x,
        "hidden1.bias": back.sum(0),
        "output.weight": delta.T @ hidden,
        "output.bias": delta.sum(0),
    }
    loss = -np.log(p[np.arange(len(y)), y]).mean()
    return loss, (logits.argmax(1) != y).mean(), gradient


@pytest.mark.parametrize("limits", [None, (1.1, 0.7)], ids=["free", "limited"])
def test_training_agrees_with_a_loop_written_out_in_numpy(limits):
    recipe = replace(TOY, norm_limits=limits)
    model, splits = toy_model(), toy_splits()
    theta = arrays(model.state_dict())

    def project():
        for name, limit in zip(("hidden1.weight", "output.weight"), limits or (), strict=False):
            norm = np.sqrt((theta[name] ** 2).sum(1, keepdims=True))
            theta[name] = theta[name] * np.clip(norm, 0, limit) / (1e-7 + norm)

    project()
    start = {name: value.copy() for name, value in theta.items()}
    velocity = {name: np.zeros_like(value) for name, value in theta.items()}
    expected = [[numpy_loss(theta, *splits[name])[:2] for name in splits]]
    for rate, momentum in zip(RATES, MOMENTA, strict=True):
        gradient = numpy_loss(theta, *splits["train"])[2]
        for name in theta:
            velocity[name] = momentum * velocity[name] - rate * gradient[name]
            theta[name] = theta[name] + velocity[name]
        project()
        expected.append([numpy_loss(theta, *splits[name])[:2] for name in splits])

    trained = train(model, splits, recipe, seed=3, epochs=6)
    for name, value in theta.items():
        np.testing.assert_allclose(model.state_dict()[name], value, rtol=1e-11, atol=1e-12)
        np.testing.assert_allclose(trained.start[name], start[name], rtol=1e-14)
    table = np.array(expected)  # (epochs + 1, splits, 2)
    for column, name in enumerate(splits):
        np.testing.assert_allclose(trained.history.loss[name], table[:, column, 0], rtol=1e-12)
        np.testing.assert_array_equal(trained.history.metrics["error"][name], table[:, column, 1])
    np.testing.assert_allclose(trained.learning_rate, RATES, rtol=1e-14)
    np.testing.assert_allclose(trained.momentum, MOMENTA, rtol=1e-14)
    np.testing.assert_array_equal(trained.history.epoch, np.arange(7))
    assert trained.epochs == 6


def test_constant_schedules_agree_with_torch_sgd():
    recipe = replace(
        TOY,
        learning_rate=ExponentialDecay(initial=0.2, factor=1.0),
        momentum=LinearMomentum(initial=0.6, final=0.6, start=1, saturate=2),
    )
    splits = toy_splits()
    model, reference = toy_model(recipe), toy_model(recipe)
    train(model, splits, recipe, seed=1, epochs=8)
    optimiser = torch.optim.SGD(reference.parameters(), lr=0.2, momentum=0.6)
    for _ in range(8):
        optimiser.zero_grad()
        nn.functional.cross_entropy(reference(splits["train"][0]), splits["train"][1]).backward()
        optimiser.step()
    for name, value in reference.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-12, atol=1e-13)


def test_exponential_decay_advances_with_every_update():
    # Equal examples make every batch the same, whatever the order; 10 examples in batches of 4
    # are 3 updates an epoch.
    recipe = replace(
        TOY,
        hidden=(),
        init_ranges=(0.5,),
        learning_rate=ExponentialDecay(initial=0.9, factor=1.3, floor=0.2),
        batch_size=4,
    )
    x = torch.tensor([[0.3, -1.2, 0.5, 2.0]], dtype=torch.float64).repeat(10, 1)
    y = torch.full((10,), 2)
    model = toy_model(recipe)
    weight, bias = (
        model.state_dict()[f"output.{kind}"].numpy().copy() for kind in ("weight", "bias")
    )
    steps = [np.zeros_like(weight), np.zeros_like(bias)]
    for update in range(9):
        rate, momentum = max(0.9 / 1.3**update, 0.2), MOMENTA[update // 3]
        z = weight @ x[0].numpy() + bias
        delta = np.exp(z) / np.exp(z).sum() - np.eye(3)[2]
        gradients = np.outer(delta, x[0].numpy()), delta
        steps = [momentum * v - rate * g for v, g in zip(steps, gradients, strict=True)]
        weight, bias = weight + steps[0], bias + steps[1]
    trained = train(model, {"train": (x, y), "valid": (x, y)}, recipe, seed=1, epochs=3)
    np.testing.assert_allclose(model.output.weight.detach(), weight, rtol=1e-12)
    np.testing.assert_allclose(model.output.bias.detach(), bias, rtol=1e-12)
    expected = [0.9, 0.9 / 1.3**3, max(0.9 / 1.3**6, 0.2)]
    np.testing.assert_allclose(trained.learning_rate, expected, rtol=1e-14)


@pytest.mark.parametrize("recipe", [RELU, MAXOUT], ids=["relu", "maxout"])
def test_norms_stay_within_their_limits_after_every_update(recipe):
    # Float32, and one update an epoch, so that `progress` sees the parameters after each.
    limits = (0.4, 0.3, 0.2)
    wild = ExponentialDecay(initial=5.0, factor=1.0)
    recipe = replace(recipe, hidden=(16, 12), norm_limits=limits, learning_rate=wild)
    recipe = replace(recipe, init_ranges=(0.5, 0.5, 0.5))
    model = toy_model(recipe, dtype=torch.float32)
    norms = []

    def record(epoch, epochs, message):
        weights = [p for p in model.parameters() if p.dim() == 2]
        norms.append([p.detach().double().norm(dim=1).max().item() for p in weights])

    initial = [p.detach().norm(dim=1).max().item() for p in model.parameters() if p.dim() == 2]
    assert np.all(np.array(initial) > limits)
    splits = toy_splits(dtype=torch.float32)
    train(model, splits, recipe, seed=1, epochs=20, progress=record)
    assert len(norms) == 21
    assert np.all(np.array(norms) <= np.array(limits) * (1 + 1e-6))
    assert np.all(np.max(norms, axis=0) > np.array(limits) * (1 - 1e-5))


def test_norms_exceed_the_limits_where_there_are_none():
    wild = ExponentialDecay(initial=5.0, factor=1.0)
    free = replace(RELU, hidden=(16, 12), norm_limits=None, learning_rate=wild, dropout=None)
    free = replace(free, init_ranges=(0.5, 0.5, 0.5))
    model = toy_model(free, dtype=torch.float32)
    train(model, toy_splits(dtype=torch.float32), free, seed=1, epochs=5)
    assert model.hidden1.weight.detach().norm(dim=1).max() > 0.4


def test_relu_recipe_starts_at_log_10():
    recipe = replace(RELU, hidden=(16, 12))
    x = torch.rand(40, 6, generator=generator(1))
    splits = dict.fromkeys(("train", "valid"), (x, torch.arange(40) % 10))
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.float64, 1e-12)):
        model = multilayer_perceptron(recipe, inputs=6, seed=1).to(dtype)
        trained = train(model, splits, recipe, seed=1, epochs=1)
        assert trained.history.loss["train"][0] == pytest.approx(math.log(10), rel=0, abs=tolerance)
        assert trained.history.provenance.dtype == str(dtype).removeprefix("torch.")


class Witness(nn.Module):
    """Count which examples are seen in which batch; the first input is the example's number."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(3))
        self.batches = []

    def forward(self, x):
        if self.training:
            self.batches.append(x[:, 0].int().tolist())
        return self.bias.expand(len(x), 3)


def test_each_epoch_sees_every_example_once_in_a_fresh_order():
    model, x = Witness(), torch.arange(10.0)[:, None]
    y = torch.arange(10) % 3
    train(model, {"train": (x, y), "valid": (x, y)}, replace(TOY, batch_size=4), seed=1, epochs=3)
    assert [len(batch) for batch in model.batches] == [4, 4, 2] * 3
    orders = [[*model.batches[i], *model.batches[i + 1], *model.batches[i + 2]] for i in (0, 3, 6)]
    assert all(sorted(order) == list(range(10)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3


def test_losses_are_means_over_the_whole_split():
    recipe = replace(TOY, batch_size=500)
    splits = {"train": blobs(2345, seed=1), "valid": blobs(30, seed=2), "test": blobs(1001, seed=3)}
    model = toy_model()
    trained = train(model, splits, recipe, seed=1, epochs=2)
    for name, (x, y) in splits.items():
        logits = model(x).detach()
        loss = (logits.logsumexp(1) - logits[torch.arange(len(y)), y]).mean().item()
        assert trained.history.loss[name][-1] == pytest.approx(loss, rel=1e-13)
        wrong = (logits.argmax(1) != y).sum().item()
        assert trained.history.metrics["error"][name][-1] == wrong / len(y)


def test_the_training_loss_comes_first_and_without_dropout():
    recipe = replace(RELU, hidden=(16, 12), init_ranges=(0.5, 0.5, 0.5))
    splits = dict(reversed(toy_splits(dtype=torch.float32).items()))
    model = toy_model(recipe, dtype=torch.float32)
    trained = train(model, splits, recipe, seed=1, epochs=2)
    assert list(trained.history.loss) == ["train", "valid"]
    assert trained.history.first_split == "train"
    assert not model.training
    x, y = splits["train"]
    loss = nn.functional.cross_entropy(model(x), y).item()
    assert trained.history.loss["train"][-1] == pytest.approx(loss, rel=1e-5)


class Scripted(nn.Module):
    """Have a stated number of ten validation examples wrong after each epoch of one batch."""

    def __init__(self, wrong):
        super().__init__()
        self.wrong = wrong
        self.bias = nn.Parameter(torch.zeros(2))
        self.register_buffer("epoch", torch.tensor(0))

    def forward(self, x):
        if self.training:
            self.epoch += 1
        right = (torch.arange(len(x)) >= self.wrong[int(self.epoch)]).float()
        return torch.stack([right, 1 - right], 1) + self.bias


@pytest.mark.parametrize(
    ("wrong", "patience", "epochs", "best"),
    [
        ([9, 5, 4, 4, 6, 4, 4, 1], 3, 5, 2),  # stops before the best one; a tie is no progress
        ([9, 5, 4, 4, 6, 3, 4, 4, 4], 4, 8, 5),  # all eight epochs, the best one is kept
        ([2, 5, 4, 4, 6, 3], 2, 2, 0),  # never better than the start
        ([9, 8, 7, 6, 5], 1, 4, 4),  # each better than the one before
    ],
)
def test_solution_and_stopping_follow_the_validation_error(wrong, patience, epochs, best):
    x, y = torch.zeros(10, 1), torch.zeros(10, dtype=torch.int64)
    model = Scripted(wrong)
    splits = {"train": (x, y), "valid": (x, y)}
    recipe = replace(TOY, learning_rate=ExponentialDecay(initial=1e-6, factor=1.0))
    trained = train(model, splits, recipe, seed=1, epochs=len(wrong) - 1, patience=patience)
    assert (trained.epochs, trained.best_epoch) == (epochs, best)
    assert trained.history.best == best
    assert trained.solution["epoch"] == best
    assert trained.start["epoch"] == 0
    assert model.epoch == epochs
    errors = trained.history.metrics["error"]["valid"]
    np.testing.assert_allclose(errors, np.array(wrong[: epochs + 1]) / 10)


def test_epochs_and_patience_come_from_the_recipe_by_default():
    x, y = torch.zeros(10, 1), torch.zeros(10, dtype=torch.int64)
    splits = {"train": (x, y), "valid": (x, y)}
    wrong = [5] * 20
    assert train(Scripted(wrong), splits, replace(TOY, epochs=4), seed=1).epochs == 4
    recipe = replace(TOY, patience=3, learning_rate=ExponentialDecay(initial=1e-6, factor=1.0))
    assert train(Scripted(wrong), splits, recipe, seed=1).epochs == 3


def test_the_ends_are_copies():
    model, splits = toy_model(), toy_splits()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trained = train(model, splits, TOY, seed=1, epochs=3)
    assert_same_bits(dict(trained.start), before)
    with torch.no_grad():
        model.output.bias.add_(1)
    twin = toy_model()
    twin.load_state_dict(trained.solution)
    x, y = splits["valid"]
    error = (twin(x).argmax(1) != y).double().mean().item()
    assert error == trained.history.metrics["error"]["valid"].min()


DROPOUT = replace(RELU, hidden=(16, 12), init_ranges=(0.5, 0.5, 0.5), batch_size=10)
DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("recipe", [DROPOUT, replace(DROPOUT, dropout=None)], ids=["masks", "none"])
def test_the_seed_decides_every_bit(recipe, device):
    splits = toy_splits(dtype=torch.float32)

    def run(seed, **options):
        model = toy_model(recipe, dtype=torch.float32)
        return train(model, splits, recipe, seed=seed, epochs=4, device=device, **options)

    def draw(epoch, epochs, message):
        torch.rand(3, device=device)

    first = run(1)
    before = torch.get_rng_state()
    again = run(1)
    assert torch.equal(torch.get_rng_state(), before)
    with torch.random.fork_rng():
        # Neither the state that training finds nor what is drawn in between plays a part.
        torch.manual_seed(12345)
        third = run(1, progress=draw)
    other = run(2)
    for trained in (again, third):
        assert_same_bits(first.solution, trained.solution)
        np.testing.assert_array_equal(first.history.loss["train"], trained.history.loss["train"])
    assert_same_bits(first.start, other.start)
    assert np.all(first.history.loss["train"][1:] != other.history.loss["train"][1:])
    assert {tensor.device.type for tensor in first.solution.values()} == {"cpu"}


def test_masks_change_from_epoch_to_epoch_and_from_seed_to_seed():
    # One batch of equal inputs an epoch: only the masks of the input layer can differ.
    recipe = replace(DROPOUT, batch_size=64)
    x, y = torch.ones(40, 4), torch.arange(40) % 3
    masks = []

    def note(module, inputs, output):
        if module.training:
            masks.append(tuple((output != 0).flatten().tolist()))

    for seed in (1, 2):
        model = toy_model(recipe, dtype=torch.float32)
        model.dropout1.register_forward_hook(note)
        train(model, {"train": (x, y), "valid": (x, y)}, recipe, seed=seed, epochs=3)
    assert len(masks) == len(set(masks)) == 6


def test_the_random_state_is_put_back_after_an_exception():
    class Broken(Witness):
        def forward(self, x):
            if self.training:
                torch.rand(5)
                raise RuntimeError("no forward pass")
            return super().forward(x)

    x, y = torch.zeros(10, 1), torch.zeros(10, dtype=torch.int64)
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="no forward pass"):
        train(Broken(), {"train": (x, y), "valid": (x, y)}, TOY, seed=1, epochs=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_progress_is_told_after_every_evaluation():
    calls = []
    model = toy_model()

    def note(*told):
        calls.append(told)
        assert not model.training

    trained = train(model, toy_splits(), TOY, seed=1, epochs=2, progress=note)
    assert [told[:2] for told in calls] == [(0, 2), (1, 2), (2, 2)]
    loss = trained.history.loss["train"][2]
    error = trained.history.metrics["error"]["valid"][2]
    assert calls[2][2] == f"train loss {loss:.4g}, validation error {100 * error:.2f}%"


def test_the_points_of_the_run_are_recorded(tmp_path):
    splits, model = toy_splits(), toy_model()
    recorder = Recorder(tmp_path, model, schedule=Every(epochs=1))
    trained = train(model, splits, TOY, seed=1, epochs=3, recorder=recorder)
    trajectory = Trajectory.open(tmp_path)
    batches = -(-len(splits["train"][1]) // TOY.batch_size)
    assert trajectory.step.tolist() == [epoch * batches for epoch in range(4)]
    assert trajectory.epoch.tolist() == [0, 1, 2, 3]
    space = trajectory.space
    assert torch.equal(trajectory[0].theta, space.flatten(trained.start))
    assert torch.equal(trajectory[trained.best_epoch].theta, space.flatten(trained.solution))
    assert len(trajectory.log.loss) == 3 * batches
    assert trajectory.log.learning_rate[::batches].tolist() == trained.learning_rate.tolist()
    assert trajectory.log.batch_size.sum() == 3 * len(splits["train"][1])
    unseen = train(toy_model(), splits, TOY, seed=1, epochs=3)
    assert_same_bits(unseen.solution, trained.solution)


def test_gradients_and_frozen_parameters_are_left_alone():
    model = toy_model()
    model.hidden1.bias.requires_grad_(False)
    model.spare = nn.Identity()
    model.spare.unused = nn.Parameter(torch.ones(2, dtype=torch.float64))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    mark = torch.full_like(model.output.bias, 7.0)
    model.output.bias.grad = mark.clone()
    train(model, toy_splits(), TOY, seed=1, epochs=2)
    after = model.state_dict()
    assert torch.equal(after["hidden1.bias"], before["hidden1.bias"])
    assert torch.equal(after["spare.unused"], before["spare.unused"])
    assert not torch.equal(after["hidden1.weight"], before["hidden1.weight"])
    assert torch.equal(model.output.bias.grad, mark)


def test_whole_numbers_may_be_inputs():
    model = nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Linear(8, 3)).double()
    x = torch.randint(5, (20, 2), generator=generator(1))
    splits = dict.fromkeys(("train", "valid"), (x, x.sum(1) % 3))
    trained = train(model, splits, TOY, seed=1, epochs=5)
    assert trained.history.loss["train"][-1] < trained.history.loss["train"][0]


def test_provenance_says_where():
    provenance = train(toy_model(), toy_splits(), TOY, seed=1, epochs=1).history.provenance
    assert (provenance.device, provenance.dtype) == ("cpu", "float64")
    assert provenance.threads == torch.get_num_threads()
    assert provenance.versions["torch"] == torch.__version__
    assert provenance.created
    assert provenance.seconds > 0


def test_a_diverging_run_stops_with_advice():
    wild = ExponentialDecay(initial=1e200, factor=1.0)
    recipe = replace(TOY, activation="relu", learning_rate=wild)
    message = r"must stay finite; it is (nan|inf) after epoch \d at learning rate 1e\+200\. Lower"
    with pytest.raises(FloatingPointError, match=message):
        train(toy_model(recipe), toy_splits(), recipe, seed=1, epochs=9)


def test_inputs_that_are_not_finite_are_seen_at_the_start():
    splits = toy_splits()
    splits["train"][0][5, 2] = math.nan
    with pytest.raises(FloatingPointError, match=r"it is nan at the start\. Check the inputs"):
        train(toy_model(), splits, TOY, seed=1, epochs=9)


@pytest.mark.parametrize("name", ["train", "valid"])
def test_splits_have_to_be_there(name):
    splits = toy_splits()
    splits["test"] = splits.pop(name)
    with pytest.raises(ValueError, match=rf'"train" and "valid"; got \[.*\]\. Add "{name}"'):
        train(toy_model(), splits, TOY, seed=1)


def test_splits_need_as_many_labels_as_inputs_and_some():
    splits = toy_splits()
    x, y = splits["valid"]
    with pytest.raises(ValueError, match="'valid' has 30 inputs and 29 labels"):
        train(toy_model(), {**splits, "valid": (x, y[:29])}, TOY, seed=1)
    with pytest.raises(ValueError, match="'valid' has 0 inputs and 0 labels"):
        train(toy_model(), {**splits, "valid": (x[:0], y[:0])}, TOY, seed=1)


@pytest.mark.parametrize("counts", [{"epochs": 0}, {"patience": 0}])
def test_counts_have_to_be_positive(counts):
    with pytest.raises(ValueError, match="at least one epoch and a patience of at least one; got"):
        train(toy_model(), toy_splits(), TOY, seed=1, **counts)


def test_a_model_needs_something_to_train():
    model = toy_model().requires_grad_(False)
    with pytest.raises(ValueError, match="a model with trainable parameters; this one has none"):
        train(model, toy_splits(), TOY, seed=1)


def test_norm_limits_have_to_fit_the_model():
    with pytest.raises(ValueError, match=r"norms of 3 layers, .* matrices; it has 2"):
        train(toy_model(), toy_splits(), RELU, seed=1)


@pytest.mark.parametrize(
    "recipe",
    [
        replace(RELU, hidden=(64, 64)),
        replace(RELU_WITHOUT_DROPOUT, hidden=(64, 64)),
        replace(MAXOUT, hidden=(32, 32), pieces=3, init_ranges=(0.05, 0.05, 0.05)),
    ],
    ids=["relu", "relu without dropout", "maxout"],
)
def test_small_recipes_learn_digits(recipe):
    recipe = replace(recipe, batch_size=20)
    model = multilayer_perceptron(recipe, inputs=64, seed=1)
    trained = train(model, digits().splits, recipe, seed=1, epochs=20)
    assert trained.history.loss["train"][-1] < 0.5
    assert trained.history.metrics["error"]["valid"][trained.best_epoch] < 0.1


@pytest.mark.data
def test_the_relu_recipe_learns_mnist():
    try:
        data = mnist(examples=3000, download=False)
    except DataUnavailableError as error:
        pytest.skip(str(error))
    splits = {name: (x[:3000], y[:3000]) for name, (x, y) in data.splits.items()}
    recipe = replace(RELU_WITHOUT_DROPOUT, hidden=(100, 100), batch_size=50)
    model = multilayer_perceptron(recipe, inputs=784, seed=1)
    trained = train(model, splits, recipe, seed=1, epochs=8)
    assert trained.history.loss["train"][0] == pytest.approx(math.log(10), abs=1e-6)
    assert trained.history.metrics["error"]["test"][trained.best_epoch] < 0.2
