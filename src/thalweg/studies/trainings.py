"""The trainings behind the studies: a network, its data, how it is trained, and its total cost."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.objectives.criteria import error_rate
from thalweg.objectives.model import ModelObjective
from thalweg.problems import lstm, recipes
from thalweg.problems.boltzmann_machine import MPDBM, BoltzmannMachine, random_masks
from thalweg.problems.convolutional_maxout import CONVOLUTIONAL_MAXOUT, convolutional_maxout
from thalweg.problems.corpora import chance_text, penn_treebank, tiny_shakespeare
from thalweg.problems.data import DataSet, digits, mnist
from thalweg.problems.networks import multilayer_perceptron
from thalweg.problems.pictures import cifar10
from thalweg.problems.recipes import Recipe
from thalweg.studies.study import Run
from thalweg.training import Trained, train, train_language_model
from thalweg.training.costs import CROSS_ENTROPY, Adversarial, MultiPrediction, TrainingCost

__all__ = [
    "Training",
    "adversarial",
    "boltzmann_machine",
    "convolutional",
    "data_of",
    "language_model",
    "perceptron",
    "recipe_of",
]


@dataclass(frozen=True, eq=False)
class Training:
    """What is to be trained.

    Attributes:
        model: The network with its initial parameters.
        data: Its data.
        facts: What the result depends on, beside the data.
        train: Trains it: takes `progress` and `recorder`.
        cost: Returns the total cost over some splits.
    """

    model: nn.Module
    data: DataSet
    facts: Mapping[str, Any]
    train: Callable[..., Trained]
    cost: Callable[[tuple[str, ...]], ModelObjective]


def recipe_of(settings: Mapping[str, Any]) -> Recipe:
    """Return the recipe that settings name, with the fields that they replace."""
    recipe: Recipe = getattr(recipes, settings["recipe"])
    fields = ("hidden", "pieces", "epochs", "patience", "init_ranges")
    return replace(recipe, **{name: settings[name] for name in fields if name in settings})


def data_of(settings: Mapping[str, Any]) -> DataSet:
    """Return the data set that settings name, cut to the sizes that they give."""
    name = settings["data"]
    sizes = {"examples": settings["examples"]} if "examples" in settings else {}
    if name == "digits":
        return digits(seed=0)
    if name == "mnist":
        return _fewer(mnist(**sizes), settings)
    if name == "cifar10":
        return _fewer(cifar10(**sizes), settings)
    if name == "ptb":
        return penn_treebank(words=settings.get("words"), valid_words=settings.get("valid_words"))
    if name == "tinyshakespeare":
        return tiny_shakespeare(characters=settings.get("words"))
    if name == "chance":
        return chance_text(tokens=settings["words"])
    raise ValueError(
        "A study knows the data sets digits, mnist, cifar10, ptb, tinyshakespeare and chance; got "
        f"{name!r}. Name one of these."
    )


def _fewer(data: DataSet, settings: Mapping[str, Any]) -> DataSet:
    """Cut the validation split to the size that settings give."""
    if "valid_examples" not in settings:
        return data
    count = settings["valid_examples"]
    x, y = data.splits["valid"]
    splits = {**data.splits, "valid": (x[:count], y[:count])}
    return replace(data, splits=splits, checksum=f"{data.checksum} valid {count}")


def perceptron(run: Run, seed: int, cost: TrainingCost = CROSS_ENTROPY) -> Training:
    """Return the training of a perceptron by a recipe."""
    data, recipe = data_of(run.settings), recipe_of(run.settings)
    inputs = data.splits["train"][0].shape[1]
    model = multilayer_perceptron(recipe, inputs, seed=seed)
    return _classifier(run, model, data, recipe, seed, cost)


def adversarial(run: Run, seed: int) -> Training:
    """Return the adversarial training of a perceptron; its cost is on adversarial examples too."""
    mixed = Adversarial(epsilon=run["epsilon"])
    made = perceptron(run, seed, mixed)

    def cost(splits: tuple[str, ...]) -> ModelObjective:
        def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, int]:
            x, y = batch
            return mixed.terms(model, x, y).double().sum(), len(y)

        own = {name: made.data.splits[name] for name in splits}
        return ModelObjective(made.model, loss, own, device=run.device)

    facts = {**made.facts, "adversarial": asdict(mixed)}
    return replace(made, facts=facts, cost=cost)


def convolutional(run: Run, seed: int, data: DataSet | None = None) -> Training:
    """Return the training of a convolutional maxout network, on data that is there already or not.

    Reading and whitening CIFAR-10 takes half a minute.
    """
    data = data_of(run.settings) if data is None else data
    recipe = replace(CONVOLUTIONAL_MAXOUT, **_fields(run["network"], CONVOLUTIONAL_MAXOUT))
    *channels, height = data.splits["train"][0].shape[1:]
    # Digits are rows of grey levels.
    side = height if channels else int(height**0.5)
    model = convolutional_maxout(recipe, (channels[0] if channels else 1, side, side), seed=seed)
    return _classifier(run, model, data, recipe, seed, CROSS_ENTROPY)


def boltzmann_machine(run: Run, seed: int) -> Training:
    """Return the training of a multi-prediction deep Boltzmann machine.

    Its cost is the multi-prediction criterion over pixels drawn once from their grey levels, and
    `mask_draws` draws of the masks, which are the same at every point.
    """
    data = data_of(run.settings)
    recipe = replace(MPDBM, **_fields(run["network"], MPDBM))
    means = data.splits["train"][0].mean(0)
    model = BoltzmannMachine(recipe, means, seed=seed)

    def loss(model: nn.Module, batch: tuple[Tensor, ...]) -> tuple[Tensor, int]:
        v, labels, pixel_mask, label_mask = batch
        assert isinstance(model, BoltzmannMachine)
        return model.criterion(v, labels, pixel_mask, label_mask).double().sum(), len(v)

    def cost(splits: tuple[str, ...]) -> ModelObjective:
        draw = torch.Generator().manual_seed(run["seed"])
        drawn = {name: _masked(data.splits[name], run["mask_draws"], draw) for name in splits}
        return ModelObjective(model, loss, drawn, device=run.device, batch_size=1000)

    made = _classifier(run, model, data, recipe, seed, MultiPrediction())
    return replace(made, cost=cost)


def _masked(
    split: tuple[Tensor, Tensor], draws: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return binary pixels, labels and masks, each example as often as masks are drawn."""
    x, labels = (part.repeat(draws, *[1] * (part.dim() - 1)) for part in split)
    v = (torch.rand(x.shape, generator=generator) < x).to(x)
    return (v, labels, *random_masks(v, generator))


def language_model(run: Run, seed: int) -> Training:
    """Return the training of an LSTM; its cost is −log p over whole streams, without dropout."""
    data = data_of(run.settings)
    recipe = replace(getattr(lstm, run["recipe"]), **_fields(run["network"]))
    vocabulary = 1 + max(int(part.max()) for part in data.splits["train"])
    model = lstm.LanguageModel(recipe, max(vocabulary, run["vocabulary"]), seed=seed)

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, int]:
        return lstm.stream_loss(model, *batch)

    def cost(splits: tuple[str, ...]) -> ModelObjective:
        own = {name: data.splits[name] for name in splits}
        return ModelObjective(model, loss, own, device=run.device)

    def trained(**how: Any) -> Trained:
        own = {name: data.splits[name] for name in ("train", "valid")}
        return train_language_model(model, own, recipe, seed=seed, device=run.device, **how)

    return Training(model, data, {"recipe": asdict(recipe), "seed": seed}, trained, cost)


def _fields(given: Mapping[str, Any], recipe: recipes.Training | None = None) -> dict[str, Any]:
    """Return fields of a recipe from settings: lists as tuples, a rate as that of its schedule."""

    def fixed(value: Any) -> Any:
        return tuple(fixed(each) for each in value) if isinstance(value, list) else value

    fields = {name: fixed(value) for name, value in given.items()}
    if recipe is not None and "learning_rate" in fields:
        fields["learning_rate"] = replace(recipe.learning_rate, initial=fields["learning_rate"])
    return fields


def _classifier(
    run: Run,
    model: nn.Module,
    data: DataSet,
    recipe: recipes.Training,
    seed: int,
    cost: TrainingCost,
) -> Training:
    """Return the training of a classifier, whose total cost is the mean cross-entropy."""

    def trained(**how: Any) -> Trained:
        own = {name: data.splits[name] for name in ("train", "valid")}
        return train(model, own, recipe, seed=seed, cost=cost, device=run.device, **how)

    def total(splits: tuple[str, ...]) -> ModelObjective:
        own = {name: data.splits[name] for name in splits}
        loss, metrics = nn.CrossEntropyLoss(), {"error": error_rate}
        return ModelObjective(model, loss, own, metrics=metrics, device=run.device)

    facts = {"recipe": asdict(recipe), "seed": seed}
    return Training(model, data, facts, trained, total)
