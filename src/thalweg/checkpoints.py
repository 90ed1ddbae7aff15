"""Reading the tensors of a checkpoint file, without running code that it may contain."""

import pickle
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from thalweg.errors import CheckpointError

__all__ = ["load_tensors", "with_adapter_name"]

# Where training scripts put the parameters inside a checkpoint, in the order they are tried.
_PARAMETER_KEYS = ("state_dict", "model_state_dict", "model", "module", "params", "weights")

# What PEFT calls the file in the folder of an adapter, and how it begins every name in it.
_ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")
_ADAPTER_PREFIX = "base_model.model."


def load_tensors(path: str | Path, *, trust_pickle: bool = False) -> dict[str, Tensor]:
    """Return the named tensors of a checkpoint, on the CPU.

    A `.safetensors` file holds nothing but tensors. Any other file is read by `torch.load`
    with `weights_only=True`, which refuses everything but tensors and plain containers. In a
    checkpoint that holds more than parameters (optimiser state, epoch, ...), the entry called
    `state_dict`, `model_state_dict`, `model`, `module`, `params` or `weights` is taken.

    Args:
        path: The file, or the folder of an adapter as PEFT saves it.
        trust_pickle: Load a file that needs arbitrary Python objects. This runs code that the
            file contains, so do it only for files that you made.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If the file is damaged, holds no tensors, or is a pickle that needs
            trust.
    """
    path = Path(path)
    if path.is_dir():
        path = next((path / name for name in _ADAPTER_FILES if (path / name).is_file()), path)
    if not path.is_file():
        raise FileNotFoundError(
            f"A checkpoint file is needed; there is none at {path}. Check the path."
        )
    if path.suffix == ".safetensors":
        try:
            return dict(load_file(path))
        except SafetensorError as error:
            raise CheckpointError(
                f"A complete safetensors file is needed; {path} cannot be read ({error}). "
                "Save it again."
            ) from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=not trust_pickle)
    except Exception as error:  # what a damaged pickle raises is not to be foreseen
        if isinstance(error, pickle.UnpicklingError) and not trust_pickle:
            raise CheckpointError(
                f"A checkpoint of plain tensors is needed; {path} is damaged, or a pickle that "
                "asks for other Python objects, which could run code. Save "
                "`model.state_dict()` or a .safetensors file, or pass trust_pickle=True "
                "(--trust-pickle on the command line) if you made the file yourself."
            ) from error
        raise CheckpointError(
            f"A checkpoint file is needed; {path} cannot be read ({error}). Save it again."
        ) from error
    return _named_tensors(content, path)


def _named_tensors(content: Any, path: Path) -> dict[str, Tensor]:
    """Find the mapping of names to tensors inside a checkpoint."""
    if isinstance(content, torch.nn.Module):
        return content.state_dict()
    if isinstance(content, Mapping):
        for key in _PARAMETER_KEYS:
            if isinstance(content.get(key), Mapping):
                return _named_tensors(content[key], path)
        tensors = {name: t for name, t in content.items() if isinstance(t, Tensor)}
        if tensors:
            return tensors
    raise CheckpointError(
        f"A mapping of names to tensors is needed; {path} holds a {type(content).__name__} "
        "without any. Save `model.state_dict()`."
    )


def with_adapter_name(
    tensors: dict[str, Tensor], names: Sequence[str], known: Set[str]
) -> dict[str, Tensor]:
    """Return the tensors of an adapter of PEFT by the names that they have in the model.

    A model may hold several adapters, so PEFT puts the name of one into those of its tensors,
    and leaves it out where an adapter is saved:

    - `….lora_A.default.weight` becomes `….lora_A.weight`,
    - `….modules_to_save.default.weight` becomes `….weight`,
    - `….lora_magnitude_vector.default.weight` becomes `….lora_magnitude_vector`.

    Args:
        tensors: What was saved. Anything but an adapter comes back as it is.
        names: Names of the trainable tensors of the model.
        known: Every name in the model.
    """
    unknown = tensors.keys() - known
    if not unknown or not all(name.startswith(_ADAPTER_PREFIX) for name in (*names, *unknown)):
        return tensors
    for adapter in sorted({part for name in names for part in name.split(".")}):
        full = {_saved_name(name, adapter): name for name in names}
        if unknown <= full.keys():
            return {full.get(name, name): tensor for name, tensor in tensors.items()}
    return tensors


def _saved_name(name: str, adapter: str) -> str:
    """Return the name under which PEFT saves a tensor of one adapter."""
    parts = name.split(".")
    if adapter not in parts:
        return name
    at = len(parts) - 1 - parts[::-1].index(adapter)
    owner = parts[at - 1]
    start = at - 1 if owner == "modules_to_save" else at
    stop = len(parts) if owner == "lora_magnitude_vector" else at + 1
    return ".".join(parts[:start] + parts[stop:])
