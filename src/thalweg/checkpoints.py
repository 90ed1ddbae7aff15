"""Reading the tensors of a checkpoint file, without running code that it may contain."""

import json
import pickle
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from thalweg.errors import CheckpointError

__all__ = ["StoredTensors", "load_tensors", "with_adapter_name"]

# Where training scripts put the parameters inside a checkpoint, in the order they are tried.
_PARAMETER_KEYS = ("state_dict", "model_state_dict", "model", "module", "params", "weights")

# What PEFT calls the file in the folder of an adapter, and how it begins every name in it.
_ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")
_ADAPTER_PREFIX = "base_model.model."


def load_tensors(path: str | Path, *, trust_pickle: bool = False) -> dict[str, Tensor]:
    """Return the named tensors of a checkpoint, on the CPU.

    A `.safetensors` file holds nothing but tensors; a folder stands for those in it, as
    Transformers writes them. Any other file is read by `torch.load` with `weights_only=True`,
    which refuses everything but tensors and plain containers. In a checkpoint that holds more
    than parameters (optimiser state, epoch, ...), the entry called `state_dict`,
    `model_state_dict`, `model`, `module`, `params` or `weights` is taken.

    Args:
        path: The file, a folder of safetensors files, or that of an adapter as PEFT saves it.
        trust_pickle: Load a file that needs arbitrary Python objects. This runs code that the
            file contains, so do it only for files that you made.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If the file is damaged, holds no tensors, or is a pickle that needs
            trust.
    """
    path = Path(path)
    if path.is_dir() and (adapter := _adapter_file(path)) is not None:
        path = adapter
    if path.suffix == ".safetensors" or path.is_dir():
        return {name: tensor.clone() for name, tensor in StoredTensors(path).mapped().items()}
    if not path.is_file():
        raise FileNotFoundError(
            f"A checkpoint file is needed; there is none at {path}. Check the path."
        )
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


class StoredTensors:
    """The named tensors of a safetensors file, or of a folder of them, left on disk.

    Args:
        path: A `.safetensors` file; or a folder with one, or with several and an index
            (`model.safetensors.index.json`) that says which tensor is where.

    Raises:
        FileNotFoundError: If there is no such file or folder.
        CheckpointError: If something in it is damaged or missing.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._files: dict[str, Path] = {}
        for file in _safetensors_files(self.path):
            with _opened(file) as content:
                self._files |= dict.fromkeys(content.keys(), file)

    def mapped(self) -> dict[str, Tensor]:
        """Return all tensors as views of memory-mapped files: what is not read costs nothing."""
        tensors: dict[str, Tensor] = {}
        for file in dict.fromkeys(self._files.values()):
            with _opened(file) as content:
                tensors |= {name: content.get_tensor(name) for name in list(content.keys())}
        return tensors

    def read(self, name: str, shape: tuple[int, ...], rows: slice | None = None) -> Tensor:
        """Return one tensor, or some rows of it; its pages are let go with it.

        Args:
            name: Its name in the file.
            shape: Its shape.
            rows: Part of the first axis; all of it by default.

        Raises:
            CheckpointError: If the file holds no such tensor any more.
        """
        with _opened(self._files[name]) as content:
            here = name in set(content.keys())
            tensor: Tensor | None = content.get_tensor(name) if here else None
        if tensor is None or tuple(tensor.shape) != shape:
            raise CheckpointError(
                f"A stored point must stay as it is while it is used; {self._files[name]} no "
                f"longer holds {name!r} of shape {shape}. Start again with the new file."
            )
        return tensor if rows is None else tensor[rows]


def _adapter_file(folder: Path) -> Path | None:
    """Return the file in the folder of an adapter, or None where it is no such folder."""
    return next((folder / n for n in _ADAPTER_FILES if (folder / n).is_file()), None)


def _safetensors_files(path: Path) -> list[Path]:
    """Return the files that a path stands for."""
    if path.is_file():
        return [path]
    if (adapter := _adapter_file(path)) is not None and adapter.suffix == ".safetensors":
        return [adapter]
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(
            f"A checkpoint file is needed; there is none at {path}. Check the path."
        )
    indices = sorted(path.glob("*.safetensors.index.json"))
    if len(indices) == 1:
        try:
            places = json.loads(indices[0].read_text())["weight_map"].values()
            return [path / name for name in dict.fromkeys(map(str, places))]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"An index that says which tensor is in which file is needed; {indices[0]} is "
                "none. Save the checkpoint again."
            ) from error
    if len(files) > 1:
        raise CheckpointError(
            "A folder with one safetensors file, or with several and one index, is needed; "
            f"{path} holds {len(files)} of them and {len(indices)} indices. Name the file."
        )
    return files


def _opened(file: Path) -> Any:
    """Open a safetensors file, or raise for what cannot be read."""
    try:
        return safe_open(file, framework="pt", device="cpu")
    except FileNotFoundError as error:
        raise CheckpointError(
            f"Every file that an index names is needed; {file} is missing. Copy it there."
        ) from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"A complete safetensors file is needed; {file} cannot be read ({error}). "
            "Save it again."
        ) from error


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
    given: dict[str, str], names: Sequence[str], known: Set[str]
) -> dict[str, str]:
    """Return the names of an adapter of PEFT as they are in the model.

    A model may hold several adapters, so PEFT puts the name of one into those of its tensors,
    and leaves it out where an adapter is saved:

    - `….lora_A.default.weight` becomes `….lora_A.weight`,
    - `….modules_to_save.default.weight` becomes `….weight`,
    - `….lora_magnitude_vector.default.weight` becomes `….lora_magnitude_vector`.

    Args:
        given: What was saved: name to name. Anything but an adapter comes back as it is.
        names: Names of the trainable tensors of the model.
        known: Every name in the model.
    """
    unknown = given.keys() - known
    if not unknown or not all(name.startswith(_ADAPTER_PREFIX) for name in (*names, *unknown)):
        return given
    for adapter in sorted({part for name in names for part in name.split(".")}):
        full = {_saved_name(name, adapter): name for name in names}
        if unknown <= full.keys():
            return {full.get(name, name): own for name, own in given.items()}
    return given


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
