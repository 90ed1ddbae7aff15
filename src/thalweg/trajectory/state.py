"""The state of optimisers and of random generators as tensors and JSON, without pickle."""

import json
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "optimizer_state",
    "packed",
    "random_state",
    "set_random_state",
    "unpacked",
]


def packed(value: Any, place: str, tensors: dict[str, Tensor]) -> str:
    """Return a nested value as JSON, after putting its tensors aside.

    An object with one key that starts with `$` stands for what JSON has no word for: `$tensor`
    names a tensor, `$tuple` lists the items of a tuple, `$table` lists keys and values, and
    `$float` spells a float that is not finite.

    Args:
        value: Tensors, numbers, words and None, in lists, tuples and tables.
        place: What the names of the tensors begin with.
        tensors: Where the tensors are put, as copies or views on the CPU.

    Raises:
        TypeError: If there is something else in it.

    Example:
        >>> aside = {}
        >>> text = packed({"step": 3, 0: (0.9, torch.ones(2))}, "optimizer", aside)
        >>> aside
        {'optimizer/0/1': tensor([1., 1.])}
        >>> unpacked(text, aside)
        {'step': 3, 0: (0.9, tensor([1., 1.]))}
    """
    return json.dumps(_encoded(value, place, tensors), separators=(",", ":"))


def unpacked(text: str, tensors: Mapping[str, Tensor]) -> Any:
    """Return the value that `packed` was given.

    Args:
        text: What it returned.
        tensors: What it put aside.
    """
    return _decoded(json.loads(text), tensors)


def optimizer_state(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> str:
    """Return the state of an optimiser as JSON, after putting its tensors aside."""
    return packed(optimizer.state_dict(), "optimizer", tensors)


def random_state(generators: Mapping[str, torch.Generator], tensors: dict[str, Tensor]) -> str:
    """Return the state of all global generators, and of some of the user's, as JSON.

    Those are torch's on the CPU and on every CUDA device, NumPy's and Python's.

    Args:
        generators: Name to further generator, such as that of a `DataLoader`.
        tensors: Where tensors are put.
    """
    version, words, gauss = random.getstate()
    numpy = np.random.get_state(legacy=False)  # noqa: NPY002 (the user's generator)
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    state = {
        "torch": torch.get_rng_state(),
        "cuda": cuda,
        "numpy": {**numpy, "state": _words(numpy["state"])},
        "python": (version, torch.tensor(words, dtype=torch.int64), gauss),
        "generators": {name: own.get_state() for name, own in generators.items()},
    }
    return packed(state, "random", tensors)


def set_random_state(
    text: str, tensors: Mapping[str, Tensor], generators: Mapping[str, torch.Generator]
) -> None:
    """Put all generators back into the state that was stored.

    Args:
        text: What `random_state` returned.
        tensors: What it put aside.
        generators: Name to further generator; only those that were stored are set.
    """
    state = unpacked(text, tensors)
    torch.set_rng_state(state["torch"])
    for device, own in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(own, device)
    numpy = state["numpy"]
    numpy["state"] = {
        key: value.numpy().astype(np.uint32) if isinstance(value, Tensor) else value
        for key, value in numpy["state"].items()
    }
    np.random.set_state(numpy)  # noqa: NPY002 (the user's generator, to put it back)
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    for name, own in generators.items():
        if name in state["generators"]:
            own.set_state(state["generators"][name])


def _words(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state of NumPy's generator with tensors for arrays."""
    return {
        key: torch.from_numpy(value.astype(np.int64)) if isinstance(value, np.ndarray) else value
        for key, value in state.items()
    }


def _encoded(value: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    """Return the JSON for a value."""
    if isinstance(value, Tensor):
        tensors[place] = value.detach().cpu()
        return {"$tensor": place}
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return {"$float": repr(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        items = [_encoded(item, f"{place}/{at}", tensors) for at, item in enumerate(value)]
        return {"$tuple": items} if isinstance(value, tuple) else items
    if isinstance(value, Mapping):
        pairs = [(key, _encoded(item, f"{place}/{key}", tensors)) for key, item in value.items()]
        if all(isinstance(key, str) and not key.startswith("$") for key, _ in pairs):
            return dict(pairs)
        return {"$table": [[_encoded(key, place, tensors), item] for key, item in pairs]}
    raise TypeError(
        "A stored state is made of tensors, numbers and words, in lists, tuples and tables; "
        f"{place!r} is a {type(value).__name__}. Record without it, and keep it elsewhere."
    )


def _decoded(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Return the value that a piece of JSON stands for."""
    if isinstance(value, list):
        return [_decoded(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if "$tensor" in value:
        return tensors[value["$tensor"]]
    if "$float" in value:
        return float(value["$float"])
    if "$tuple" in value:
        return tuple(_decoded(item, tensors) for item in value["$tuple"])
    if "$table" in value:
        return {_decoded(k, tensors): _decoded(item, tensors) for k, item in value["$table"]}
    return {key: _decoded(item, tensors) for key, item in value.items()}
