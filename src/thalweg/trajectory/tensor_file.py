"""A safetensors file with checksums: written in one go, read whole or tensor by tensor.

The format is that of https://github.com/huggingface/safetensors: eight bytes with the length of a
header in JSON, the header, and the bytes of the tensors. The CRC-32 of every tensor is in the
header's own table (`__metadata__`), and that of the header is kept by whoever wrote the file. So
one tensor can be read and checked without reading the others.
"""

import json
import struct
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from thalweg.durable import write_atomically
from thalweg.errors import TrajectoryError

__all__ = ["TensorFile", "Written", "write_tensors"]

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_TYPES = {name: dtype for dtype, name in _NAMES.items()}
_CHECKS = "crc32"


@dataclass(frozen=True)
class Written:
    """What tells a file from a damaged one.

    Attributes:
        bytes: Its size.
        header_crc32: CRC-32 of its first eight bytes and its header.
    """

    bytes: int
    header_crc32: str


def write_tensors(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> Written:
    """Write named tensors to a file of their own, atomically and durably.

    Wide types come first, so that every tensor is aligned; tensors of one type keep their order,
    and lie one behind the other.

    Args:
        path: The file; one that is there is replaced.
        tensors: Name to tensor, on the CPU; scalars and empty tensors may be among them.
        facts: Words that are kept in the header.

    Raises:
        OSError: If the file cannot be written.
        TypeError: If the format has no name for the type of a tensor.
    """
    order = sorted(tensors, key=lambda name: -tensors[name].element_size())
    header: dict[str, Any] = {}
    parts: list[memoryview] = []
    checks: dict[str, str] = {}
    place = 0
    for name in order:
        tensor = tensors[name].detach().contiguous()
        content = _bytes_of(tensor)
        header[name] = {
            "dtype": _name_of(tensor.dtype, name),
            "shape": list(tensor.shape),
            "data_offsets": [place, place + len(content)],
        }
        checks[name] = f"{zlib.crc32(content):08x}"
        parts.append(content)
        place += len(content)
    header = {"__metadata__": {**facts, _CHECKS: json.dumps(checks)}, **header}
    packed = json.dumps(header, separators=(",", ":")).encode()
    packed += b" " * (-len(packed) % 8)
    start = struct.pack("<Q", len(packed)) + packed
    write_atomically(path, start, *parts)
    return Written(len(start) + place, f"{zlib.crc32(start):08x}")


class TensorFile:
    """One file of named tensors, open for reading; what is read is checked.

    Args:
        path: The file.
        written: What it was when it was written.

    Attributes:
        path: The file.
        facts: The words in its header.

    Raises:
        TrajectoryError: If it is missing, cut short or damaged.
        OSError: If it cannot be read.
    """

    def __init__(self, path: Path, written: Written) -> None:
        self.path = path
        try:
            self._file = open(path, "rb", buffering=0)  # noqa: SIM115 (closed by the context)
        except FileNotFoundError as error:
            raise self._damaged("it is missing") from error
        try:
            self._read_header(written)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file."""
        self._file.close()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the tensors."""
        return tuple(self._entries)

    def dtype(self, name: str) -> torch.dtype:
        """Return the type of a tensor."""
        self._expect(name)
        return _TYPES[self._entries[name]["dtype"]]

    def read(self, name: str) -> Tensor:
        """Return one tensor."""
        self._expect(name)
        tensor = torch.empty(self._entries[name]["shape"], dtype=self.dtype(name))
        self._fill([name], tensor.view(-1))
        return tensor

    def read_into(self, names: Iterable[str], target: Tensor) -> None:
        """Write some tensors one behind the other into a vector, in its type.

        Tensors that lie in the file as they do in the vector are read in one go.
        """
        start = stop = 0
        run: list[str] = []
        for name in names:
            self._expect(name)
            size = torch.Size(self._entries[name]["shape"]).numel()
            as_it_is = self.dtype(name) == target.dtype
            if run and not (as_it_is and self._follows(run[-1], name)):
                self._fill(run, target[start:stop])
                start, run = stop, []
            if as_it_is:
                run.append(name)
            else:
                target[stop : stop + size] = self.read(name).view(-1)
                start = stop + size
            stop += size
        if run:
            self._fill(run, target[start:stop])

    def check(self) -> None:
        """Read everything, and raise where something is damaged."""
        for name in self.names:
            self.read(name)

    def _read_header(self, written: Written) -> None:
        """Read and check the header, and the length of the file."""
        size = self._file.seek(0, 2)
        if size != written.bytes:
            raise self._damaged(f"it has {size} bytes of {written.bytes}")
        start = self._bytes(0, 8)
        length = struct.unpack("<Q", start)[0]
        if length > size - 8:
            raise self._damaged("its header is damaged")
        packed = self._bytes(8, length)
        if f"{zlib.crc32(packed, zlib.crc32(start)):08x}" != written.header_crc32:
            raise self._damaged("its header is damaged")
        self._entries: dict[str, Any] = json.loads(packed)
        self._data = 8 + length
        self.facts: dict[str, str] = self._entries.pop("__metadata__")
        self._checks: dict[str, str] = json.loads(self.facts[_CHECKS])

    def _follows(self, first: str, second: str) -> bool:
        """Tell whether a tensor lies in the file right behind another."""
        end: int = self._entries[first]["data_offsets"][1]
        return end == int(self._entries[second]["data_offsets"][0])

    def _fill(self, names: list[str], target: Tensor) -> None:
        """Read tensors that lie one behind the other into a vector of their type."""
        content = _bytes_of(target)
        first = self._entries[names[0]]["data_offsets"][0]
        self._read_bytes(self._data + first, content)
        for name in names:
            start, stop = (place - first for place in self._entries[name]["data_offsets"])
            if f"{zlib.crc32(content[start:stop]):08x}" != self._checks[name]:
                raise self._damaged(f"the checksum of {name!r} does not match")

    def _bytes(self, place: int, count: int) -> bytes:
        """Return some bytes of the file."""
        content = bytearray(count)
        self._read_bytes(place, memoryview(content))
        return bytes(content)

    def _read_bytes(self, place: int, content: memoryview) -> None:
        """Fill a piece of memory with bytes of the file."""
        self._file.seek(place)
        while content:
            count = self._file.readinto(content)
            if not count:
                raise self._damaged("it is cut short")
            content = content[count:]

    def _expect(self, name: str) -> None:
        """Raise where there is no such tensor."""
        if name not in self._entries:
            raise KeyError(
                f"A tensor of {self.path} is one of {', '.join(self._entries)}; got {name!r}."
            )

    def _damaged(self, why: str) -> TrajectoryError:
        """Return the error for a file that is not as it was written."""
        return TrajectoryError(
            f"A snapshot must be as it was written; {self.path} is damaged: {why}. Restore it "
            "from a copy, or leave it out with `Trajectory.open(folder, skip_damaged=True)`; the "
            "other points can be read as they are."
        )


def _name_of(dtype: torch.dtype, tensor: str) -> str:
    """Return the format's name for a type."""
    if dtype not in _NAMES:
        raise TypeError(
            f"A tensor on disk has one of the types {', '.join(_NAMES.values())}; {tensor!r} is "
            f"{dtype}. Convert it, or keep it elsewhere."
        )
    return _NAMES[dtype]


def _bytes_of(tensor: Tensor) -> memoryview:
    """Return the memory of a contiguous tensor."""
    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
