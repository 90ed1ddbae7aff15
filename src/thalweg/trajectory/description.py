"""What a trajectory is of: the space of its parameters, its buffers, and what made the run."""

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from thalweg.environment import versions
from thalweg.errors import ParameterMismatchError, TrajectoryError
from thalweg.space import Fingerprint, ParameterSpace, TensorBlock

__all__ = ["DOCUMENT", "FORMAT", "Description", "read_description"]

FORMAT = 1  # 1: first version
DOCUMENT = "trajectory.json"


@dataclass(frozen=True)
class Description:
    """What is the same at every point of a trajectory.

    Attributes:
        space: Names and shapes of the parameters.
        dtypes: Type of each parameter in the model, by name.
        storage: Type that parameters are stored in; None for the model's own.
        facts: What made the run: versions, seed, optimiser, as far as it was said.
    """

    space: ParameterSpace
    dtypes: Mapping[str, torch.dtype]
    storage: torch.dtype | None
    facts: Mapping[str, Any]

    @classmethod
    def of(
        cls, model: nn.Module, storage: torch.dtype | None, facts: Mapping[str, Any]
    ) -> "Description":
        """Return the description of a run that begins now.

        Raises:
            TypeError: If a fact cannot be written as JSON.
        """
        space = ParameterSpace.of(model)
        parameters = dict(model.named_parameters())
        everything = {
            "versions": versions(),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "model": type(model).__name__,
            **facts,
        }
        try:
            everything = json.loads(json.dumps(everything))
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"Facts are numbers, words, lists and tables of them ({error}). Convert them."
            ) from error
        return cls(
            space, {name: parameters[name].dtype for name in space.names}, storage, everything
        )

    def dtype(self, name: str) -> torch.dtype:
        """Return the type that a parameter is stored in."""
        return self.storage or self.dtypes[name]

    @property
    def widest(self) -> torch.dtype:
        """Type that holds every stored parameter: of float16 some may be kept in float32."""
        found = self.dtype(self.space.names[0])
        for name in self.space.names:
            found = torch.promote_types(found, self.dtype(name))
        return found

    def document(self) -> bytes:
        """Return the description as JSON, with a checksum."""
        body = {
            "format": FORMAT,
            "storage_dtype": None if self.storage is None else _word(self.storage),
            "parameters": [
                {
                    "name": block.name,
                    "shape": list(block.shape),
                    "dtype": _word(self.dtypes[block.name]),
                    "kind": block.kind,
                    "filter_axis": block.filter_axis,
                }
                for block in self.space.blocks
            ],
            "aliases": dict(self.space.aliases),
            "fixed": sorted(self.space.fixed),
            "fingerprints": {
                name: {
                    "dtype": _word(known.dtype),
                    "total": repr(known.total),
                    "norm": repr(known.norm),
                    "parameter": known.parameter,
                }
                for name, known in self.space.fingerprints.items()
            },
            "facts": dict(self.facts),
        }
        return _sealed(body)

    def expect(self, other: "Description", folder: Path) -> None:
        """Raise unless a model is the one that the trajectory began with.

        Args:
            other: The description of a run with that model.
            folder: Where the trajectory is.

        Raises:
            ParameterMismatchError: If names, shapes, types or frozen parameters are others.
            TrajectoryError: If parameters are to be stored in another type.
        """
        complaint = _difference(self.space, other.space)
        for name in self.dtypes:
            if complaint is None and self.dtypes[name] != other.dtypes[name]:
                complaint = f"{name!r} was {self.dtypes[name]} and is {other.dtypes[name]}"
        if complaint is not None:
            raise ParameterMismatchError(
                "A trajectory goes on with the model that it began with; that in "
                f"{folder} is of another: {complaint}. Choose another folder, or build the same "
                "model."
            )
        if self.storage != other.storage:
            raise TrajectoryError(
                "A trajectory keeps to one type of storage; that in "
                f"{folder} has {self.storage or 'the types of the model'}, not "
                f"{other.storage or 'the types of the model'}. Pass `dtype={self.storage}`."
            )


def read_description(folder: Path) -> Description:
    """Return the description of the trajectory in a folder.

    Raises:
        TrajectoryError: If there is none, it is damaged, or was made by a newer version.
    """
    path = folder / DOCUMENT
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise TrajectoryError(
            f"A trajectory is a folder with a {DOCUMENT}; there is none in {folder}. Give the "
            "folder that was recorded to."
        ) from error
    try:
        body = json.loads(data)
        version = body["format"]
        newer = isinstance(version, int) and version > FORMAT
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(path) from error
    if newer:
        raise TrajectoryError(
            f"This version reads trajectories up to format {FORMAT}; the one in {folder} has "
            f"format {version}, made by a newer thalweg. Upgrade: `pip install --upgrade thalweg`."
        )
    body.pop("crc32", None)
    if _sealed(body) != data:
        raise _damaged(path)
    return _description(body)


def _description(body: Mapping[str, Any]) -> Description:
    """Make a description from its document."""
    blocks: list[TensorBlock] = []
    for entry in body["parameters"]:
        start = blocks[-1].stop if blocks else 0
        shape = tuple(entry["shape"])
        blocks.append(TensorBlock(entry["name"], shape, start, entry["kind"], entry["filter_axis"]))
    prints = {
        name: Fingerprint(
            _type(known["dtype"]), float(known["total"]), float(known["norm"]), known["parameter"]
        )
        for name, known in body["fingerprints"].items()
    }
    storage = body["storage_dtype"]
    return Description(
        ParameterSpace(tuple(blocks), body["aliases"], frozenset(body["fixed"]), prints),
        {entry["name"]: _type(entry["dtype"]) for entry in body["parameters"]},
        None if storage is None else _type(storage),
        body["facts"],
    )


def _difference(mine: ParameterSpace, other: ParameterSpace) -> str | None:
    """Say in what a space differs from that of a trajectory, or return None."""
    for block, its in zip(mine.blocks, other.blocks, strict=False):
        if block != its:
            return (
                f"where it has {block.name!r} of shape {block.shape}, the model has "
                f"{its.name!r} of shape {its.shape}"
            )
    if len(mine.blocks) != len(other.blocks):
        return f"it has {len(mine.blocks)} trainable tensors, and the model {len(other.blocks)}"
    if dict(mine.aliases) != dict(other.aliases) or mine.fixed != other.fixed:
        return "its tied or fixed tensors have other names"
    for name, known in mine.fingerprints.items():
        now = other.fingerprints[name]
        if known.parameter and not known.agrees(now):
            return f"the frozen parameter {name!r} has other values"
    return None


def _sealed(body: Mapping[str, Any]) -> bytes:
    """Return the bytes of a document, with the checksum of its content as last entry."""
    line = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    check = f"{zlib.crc32(line.encode('utf-8', 'surrogatepass')):08x}"
    text = json.dumps({**body, "crc32": check}, ensure_ascii=False, indent=1)
    return (text + "\n").encode("utf-8", "surrogatepass")


def _damaged(path: Path) -> TrajectoryError:
    """Return the error for a description that is not as it was written."""
    return TrajectoryError(
        f"The description of a trajectory must be as it was written; {path} is damaged. Restore "
        "it from a copy. The snapshots beside it are plain safetensors files."
    )


def _word(dtype: torch.dtype) -> str:
    """Return the name of a type."""
    return str(dtype).removeprefix("torch.")


def _type(word: str) -> torch.dtype:
    """Return the type of a name."""
    dtype = getattr(torch, word, None)
    if not isinstance(dtype, torch.dtype):
        raise TrajectoryError(
            f"Tensors have a type that torch knows; a trajectory has {word!r}. Upgrade torch."
        )
    return dtype
