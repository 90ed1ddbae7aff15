"""What users get wrong, through the public face: what is required, what came, what to do."""

import re
import threading

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, TensorDataset, WeightedRandomSampler

import thalweg as tw
from cases import MODELS, perceptron, seeded

CASE = MODELS["perceptron"]
X, Y = CASE.data()
PAIRS = TensorDataset(X, Y)
LOSS = nn.CrossEntropyLoss()


def objective(model=None, loss=LOSS, data=(X, Y), **options):
    return tw.ModelObjective(CASE.model() if model is None else model, loss, data, **options)


def profile(**parts):
    """Profile a line, as a user would, whose objective has some part that is wrong."""
    made = objective(**parts)
    theta = made.space.flatten(parts.get("model", CASE.model()))
    return tw.profile(made, tw.Line(theta, theta + 1), [0.0, 0.3, 1.0])


def with_nan(model):
    with torch.no_grad():
        model[2].weight[1, 2] = torch.nan
    return model


def stored_whole(path):
    torch.save(CASE.model(), path / "model.pt")
    return path / "model.pt"


class Augmented(Dataset):
    def __init__(self):
        self.source = torch.Generator().manual_seed(1)

    def __len__(self):
        return len(X)

    def __getitem__(self, index):
        return X[index] * torch.rand(1, generator=self.source, dtype=X.dtype), Y[index]


class Layer(nn.Module):
    """A network whose last step is a given function of its scores."""

    def __init__(self, after):
        super().__init__()
        self.net = perceptron()
        self.after = after

    def forward(self, x):
        return self.after(self.net(x))


class Locked(Layer):
    def __init__(self):
        super().__init__(nn.Identity())
        self.lock = threading.Lock()


class Graph(Layer):
    def __init__(self):
        super().__init__(nn.Identity())
        self.kept = self.net[0].weight * 2


def last_batch_differs(out, y):
    return functional.cross_entropy(out, y, ignore_index=0)


def seeded_loader(**options):
    source = torch.Generator().manual_seed(2)
    return DataLoader(PAIRS, batch_size=4, generator=source, **options)


MISMATCH, RANDOM = tw.ParameterMismatchError, tw.NonDeterministicObjectiveError

CASES = {
    "no model": (
        lambda: objective(model="resnet"),
        TypeError,
        r"A torch.nn.Module is needed; got str. For a closed form use `FunctionObjective`",
    ),
    "a model that cannot be copied": (
        lambda: objective(model=Locked()),
        ValueError,
        r"must be one that can be copied.*copying Locked failed: cannot pickle.*Remove what",
    ),
    "a model that holds a graph": (
        lambda: objective(model=Graph()),
        ValueError,
        r"copying Graph failed: Only Tensors created explicitly.*Remove what cannot be copied",
    ),
    "nothing to train": (
        lambda: objective(model=CASE.model().requires_grad_(False)),
        ValueError,
        r"trainable parameters is needed; none of Sequential's has requires_grad=True. Unfreeze",
    ),
    "parameters of another architecture": (
        lambda: objective().space.flatten(MODELS["regression"].model()),
        MISMATCH,
        r"got another architecture: '0.bias' has shape \(5,\), not \(4,\).*Build the objective",
    ),
    "a line in another space": (
        lambda: tw.profile(objective(), tw.Line(torch.zeros(7), torch.ones(7))),
        MISMATCH,
        r"An anchor must have shape \(31,\).*; got \(7,\). Use `objective.space.flatten\(model\)`",
    ),
    "a point of another space": (
        lambda: objective().value(torch.ones(30)),
        MISMATCH,
        r"θ must have shape \(31,\), one entry for each trainable parameter; got \(30,\). Use",
    ),
    "a model in place of a point": (
        lambda: objective().value(CASE.model()),
        TypeError,
        r"A point is a vector of numbers, shape \(P,\); got Sequential. Make it with `space",
    ),
    "a line between models": (
        lambda: tw.Line(CASE.model(), CASE.model().state_dict()),
        TypeError,
        r"A point is a vector of numbers.*got Sequential. Make it with",
    ),
    "a line between state dicts": (
        lambda: tw.Line(CASE.model().state_dict(), CASE.model().state_dict()),
        TypeError,
        r"got (OrderedD|d)ict. Make it with `space.flatten\(model\)`",
    ),
    "a vector of another space": (
        lambda: objective().hvp(torch.ones(31), np.ones(30)),
        MISMATCH,
        r"vector must have shape \(31,\)",
    ),
    "a parameter that is NaN": (
        lambda: objective().space.flatten(with_nan(CASE.model())),
        ValueError,
        r"Parameters must be finite; '2.weight' holds NaN or infinity. Use a checkpoint from",
    ),
    "a point that is infinite": (
        lambda: objective().gradient(torch.full((31,), torch.inf)),
        ValueError,
        r"θ must be finite; entry 0 is inf. Use a point from before the training diverged",
    ),
    "a pickle": (
        lambda path: objective().space.flatten(stored_whole(path)),
        tw.CheckpointError,
        r"asks for other Python objects, which could run code. Save .* or pass trust_pickle=True",
    ),
    "a file that is not there": (
        lambda: objective().space.flatten("nowhere.pt"),
        FileNotFoundError,
        r"A checkpoint file is needed; there is none at nowhere.pt. Check the path",
    ),
    "no data": (
        lambda: objective(data=(X[:0], Y[:0])),
        ValueError,
        r"A split needs one example at least; 'train' has none. Check the data set",
    ),
    "an empty split": (
        lambda: objective(data={"train": (X, Y), "valid": (X[:0], Y[:0])}),
        ValueError,
        r"one example at least; 'valid' has none",
    ),
    "no splits": (lambda: objective(data={}), ValueError, r"one split at least; got an empty"),
    "data of two lengths": (
        lambda: objective(data=(X, Y[:-1])),
        ValueError,
        r"must have one length, the number of examples; got \[10, 11\]. Put the examples",
    ),
    "a list of tensors": (
        lambda: objective(data=[X, Y]),
        TypeError,
        r"'train' is a list. For tensors pass the tuple `\(x, y\)`",
    ),
    "a batch size of zero": (
        lambda: objective(batch_size=0),
        ValueError,
        r"`batch_size` must be 1 or more; got 0. Use 1024",
    ),
    "no loss": (
        lambda: objective(loss="cross_entropy"),
        TypeError,
        r"A loss is a torch.nn loss or a function; 'str' is a str. Pass for example",
    ),
    "no metric": (
        lambda: objective(metrics={"error": 0.5}),
        TypeError,
        r"A metric is a torch.nn loss or a function; 'error' is a float. Pass for example",
    ),
    "a loss that is a vector": (
        lambda: objective(loss=nn.CrossEntropyLoss(reduction="none")),
        ValueError,
        r"must return one number a batch; 'CrossEntropyLoss' returns a vector.*Use reduction=",
    ),
    "a function that returns a vector": (
        lambda: profile(loss=lambda out, y: (out - 1).square().sum(1)),
        ValueError,
        r"must return one number a batch; '<lambda>' returns shape \(11,\). Use reduction='mean'",
    ),
    "a token mean by hand": (
        lambda: profile(loss=last_batch_differs),
        ValueError,
        r"The number of terms that 'last_batch_differs' averages over must be known;.*Return the",
    ),
    "a loss of the batch as a whole": (
        lambda: profile(loss=lambda out, y: (out.std(0).sum(), len(y))),
        RANDOM,
        r"must not depend on how the data is cut.*Something mixes the examples of a batch",
    ),
    "a mean called a sum": (
        lambda: profile(loss=lambda model, batch: (LOSS(model(batch[0]), batch[1]), len(batch[1]))),
        RANDOM,
        r"must not depend on how the data is cut.*\(return the tuple \(sum, count\)\)",
    ),
    "a metric that mixes examples": (
        lambda: profile(metrics={"spread": lambda out, y: (out.std(0).sum(), len(y))}),
        RANDOM,
        r"cut into batches; the spread of one batch came out as [\d.]+ and as [\d.]+\. Something",
    ),
    "nothing that counts": (
        lambda: objective(
            loss=nn.CrossEntropyLoss(ignore_index=1), data=(X, torch.ones_like(Y))
        ).value(torch.ones(31)),
        ValueError,
        r"A mean needs one term at least; 'loss' counts none on split 'train'. Check `ignore",
    ),
    "a gradient of nothing that counts": (
        lambda: objective(
            loss=nn.CrossEntropyLoss(ignore_index=1), data=(X, torch.ones_like(Y))
        ).gradient(torch.ones(31)),
        ValueError,
        r"A mean needs one term at least; 'loss' counts none",
    ),
    "a loss without its gradient": (
        lambda: objective(loss=lambda out, y: LOSS(out, y).item()).gradient(torch.ones(31)),
        TypeError,
        r"must return a tensor where derivatives are asked for; '<lambda>' returns a float. Leave",
    ),
    "a penalty that is a vector": (
        lambda: objective(penalty=lambda tensors: tensors["2.bias"]).value(torch.ones(31)),
        ValueError,
        r"A penalty must return one number; got shape \(3,\). Add `.sum\(\)`",
    ),
    "a loss of one argument": (
        lambda: profile(loss=lambda batch: batch.sum()),
        TypeError,
        r"'<lambda>' is called as \(output, target\); that failed.*call its parameters `model` and",
    ),
    "an output without prediction": (
        lambda: profile(model=seeded(lambda: Layer(lambda out: {"scores": out}), 1)),
        TypeError,
        r"must be a tensor or hold one called 'logits'; got dict. Pass a loss",
    ),
    "functional dropout": (
        lambda: profile(model=seeded(lambda: Layer(functional.dropout), 1)),
        RANDOM,
        r"must agree; the loss of one batch came out as .*look for functional dropout",
    ),
    "a model that mixes examples": (
        lambda: profile(model=seeded(lambda: Layer(lambda out: out - out.mean(0)), 1)),
        RANDOM,
        r"must not depend on how the data is cut into batches;.*a batch-norm layer without running",
    ),
    "shuffling with drop_last": (
        lambda: objective(data=seeded_loader(shuffle=True, drop_last=True)),
        RANDOM,
        r"it shuffles and drops the last batch, so each pass leaves out other.*Set drop_last=False",
    ),
    "a weighted sampler": (
        lambda: objective(data=seeded_loader(sampler=WeightedRandomSampler([1.0, 9.0] * 5, 10))),
        RANDOM,
        r"two passes over 'train' differ: its sampler draws other examples.*Use shuffle=False",
    ),
    "random augmentation": (
        lambda: objective(data=Augmented()),
        RANDOM,
        r"item 0 of 'train' changes from one reading to the next, as under random augment",
    ),
    "random augmentation in a loader": (
        lambda: objective(data={"train": PAIRS, "valid": DataLoader(Augmented(), batch_size=4)}),
        RANDOM,
        r"item 0 of 'valid' changes from one reading to the next",
    ),
    "a policy that does not exist": (
        lambda: objective(batch_norm="running"),
        ValueError,
        r"`batch_norm` must be one of 'recalibrate'.*; got 'running'. Leave it out",
    ),
    "dropout as a number": (
        lambda: objective(dropout=0.5),
        ValueError,
        r"`dropout` must be None, 'off' or MonteCarlo\(samples, seed\); got 0.5. For the network",
    ),
    "a plane for a profile": (
        lambda: tw.profile(objective(), tw.Plane.random(objective().space, torch.ones(31))),
        ValueError,
        r"A profile needs a section of 1 dimension; got Plane. Pass a `Line`",
    ),
    "a grid that goes back": (
        lambda: tw.profile(objective(), tw.Line(torch.zeros(31), torch.ones(31)), [1.0, 0.0]),
        ValueError,
        r"must be finite and ascend strictly; got \[1. 0.\]. Sort them",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_messages(name, tmp_path):
    call, error, message = CASES[name]
    arguments = [tmp_path] if call.__code__.co_argcount else []
    with pytest.raises(error, match=re.compile(message, re.DOTALL)) as caught:
        call(*arguments)
    assert str(caught.value).rstrip().endswith((".", ")"))


def test_the_pickle_is_read_where_it_is_trusted(tmp_path):
    space = objective().space
    theta = space.flatten(stored_whole(tmp_path), trust_pickle=True)
    assert torch.equal(theta, space.flatten(CASE.model()))


def test_harmless_data_is_not_refused():
    for data in (seeded_loader(shuffle=True), seeded_loader(drop_last=True), PAIRS):
        line = tw.Line(torch.zeros(31), torch.ones(31))
        assert len(tw.profile(objective(data=data), line, [0.0, 1.0]).alpha) == 2


def test_likely_mistakes_are_named():
    model, loss = nn.Linear(3, 2), nn.CrossEntropyLoss()
    data = (torch.ones(4, 3), torch.tensor([0, 1, 1, 0]))
    with pytest.raises(TypeError, match=r"The first argument is an objective; got Linear"):
        tw.profile(model, tw.Line(torch.zeros(8), torch.ones(8)))
    with pytest.raises(TypeError, match=r"is the class CrossEntropyLoss.*with brackets"):
        tw.ModelObjective(model, nn.CrossEntropyLoss, data)
    with pytest.raises(TypeError, match=r"`metrics` maps names to functions.*got list"):
        tw.ModelObjective(model, loss, data, metrics=[tw.error_rate])
    with pytest.raises(TypeError, match=r"`dtype` is a floating-point type.*got 'float64'"):
        tw.ModelObjective(model, loss, data, dtype="float64")
    with pytest.raises(ValueError, match=r"got \(2, 5, 7\) and \(2, 5\)"):
        tw.error_rate(torch.ones(2, 5, 7), torch.zeros(2, 5, dtype=torch.long))
    with pytest.raises(ValueError, match=r"got \(4, 7\) and \(4, 1\)"):
        tw.error_rate(torch.ones(4, 7), torch.zeros(4, 1, dtype=torch.long))
