"""The state of a training after its last epoch, so that one that was interrupted goes on."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from thalweg.durable import write_atomically

__all__ = ["Kept", "TrainingCheckpoint"]

_FORMAT = "1"


@dataclass(frozen=True, eq=False)
class Kept:
    """What a checkpoint holds.

    Attributes:
        numbers: Plain numbers and lists of them; `epoch` and `updates` among them.
        states: Name to tensors by name, on the CPU.
    """

    numbers: Mapping[str, Any]
    states: Mapping[str, Mapping[str, Tensor]]


class TrainingCheckpoint:
    """A file that a training writes after each epoch, and reads where there is one.

    Args:
        path: The file.
        facts: What the result depends on, as plain JSON: a file of other facts is not taken up.
    """

    def __init__(self, path: Path, facts: Mapping[str, Any]) -> None:
        self.path = path
        self._facts = sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def load(self) -> Kept | None:
        """Return what is kept, or None where nothing is, or nothing that can be used."""
        if not self.path.is_file():
            return None
        try:
            with safetensors.safe_open(self.path, framework="pt") as file:
                told = file.metadata() or {}
                if (told.get("format"), told.get("facts")) != (_FORMAT, self._facts):
                    return None
                states: dict[str, dict[str, Tensor]] = {name: {} for name in told["states"].split()}
                for key in file.keys():  # noqa: SIM118
                    name, tensor = key.split("/", 1)
                    states[name][tensor] = file.get_tensor(key)
                return Kept(json.loads(told["numbers"]), states)
        except (safetensors.SafetensorError, KeyError, ValueError):
            return None  # damaged: the training begins anew

    def save(self, numbers: Mapping[str, Any], states: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Put a state in the place of the one before; a crash leaves one of the two."""
        told = {
            "format": _FORMAT,
            "facts": self._facts,
            "states": " ".join(states),
            "numbers": json.dumps(numbers),
        }
        tensors = {
            f"{name}/{key}": tensor.detach().cpu().contiguous().clone()
            for name, state in states.items()
            for key, tensor in state.items()
        }
        write_atomically(self.path, safetensors.torch.save(tensors, told))

    def remove(self) -> None:
        """Delete the file, once the training is finished."""
        self.path.unlink(missing_ok=True)
