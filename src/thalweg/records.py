"""Records: what one run of a study leaves on disk, enough to redraw every figure of it.

A record is a folder with two files.

- `record.json`: strict JSON in UTF-8 with `"format": 1`. It holds everything but the arrays,
  the order of all tables included (the first split of a result is the cost J). An object with
  a key that starts with `$` stands for what JSON has no word for:

  | object                        | stands for                                               |
  | ----------------------------- | -------------------------------------------------------- |
  | `{"$float": "NaN"}`           | a float that is not finite: `NaN`, `Infinity`, `-Infinity` |
  | `{"$array": "line/alpha"}`    | the array of that name in the other file                 |
  | `{"$kind": "Profile", …}`     | a dataclass of `thalweg.results` with its fields         |
  | `{"$$key": …}`                | a table of the user with the key `$key`                  |

- `arrays.safetensors`: all arrays, float64. Their names are paths into the results, with `~1`
  for a slash and `~0` for a tilde inside a name, as in JSON pointers (RFC 6901).

`record.json` lists dtype, shape and SHA-256 of each array, the SHA-256 of the arrays' file, and
its own SHA-256, taken over the document without that entry, on one line without spaces between
its parts. The writer's bytes are the only ones that a document may have, so a flipped bit in
either file is found. The checksums guard against damage; they are no signature.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn, get_args, get_origin

import numpy as np
import safetensors.numpy

from thalweg.durable import sync_folder, write_atomically
from thalweg.errors import RecordError
from thalweg.results import (
    Array,
    ConfusionMatrix,
    CriticalPoint,
    CriticalPointSearch,
    Diagnosis,
    Displacement,
    Ends,
    Estimate,
    Evidence,
    Finding,
    History,
    Interpolation,
    LayerSignals,
    PathReading,
    Profile,
    Provenance,
    RunPoints,
    RunSurface,
    SpectralDensity,
    SpectralEstimate,
    Spectrum,
    StepBudget,
    StepCurvature,
    Surface,
)

__all__ = [
    "FORMAT",
    "VERDICTS",
    "CheckedClaim",
    "Record",
    "Result",
    "open_record",
    "save_record",
    "write_atomically",
]

FORMAT = 1  # 1: first version
VERDICTS = ("reproduced", "not reproduced")

Result = (
    Profile
    | Surface
    | History
    | Displacement
    | RunSurface
    | ConfusionMatrix
    | CriticalPoint
    | CriticalPointSearch
    | StepBudget
    | StepCurvature
    | Spectrum
    | SpectralDensity
    | LayerSignals
    | PathReading
    | Diagnosis
)
Scalar = float | int | str | bool

_DOCUMENT = "record.json"
_ARRAYS = "arrays.safetensors"
_KINDS = {
    kind.__name__: kind
    for kind in (
        *(Displacement, Ends, Estimate, History, Interpolation, Profile, Provenance),
        *(RunPoints, RunSurface, StepBudget, StepCurvature, Surface),
        *(ConfusionMatrix, CriticalPoint, CriticalPointSearch),
        *(SpectralDensity, SpectralEstimate, Spectrum),
        *(LayerSignals, PathReading),
        *(Diagnosis, Evidence, Finding),
    )
}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_NOT_FINITE = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}


@dataclass(frozen=True)
class CheckedClaim:
    """One claim of the literature, after a run has checked it.

    Attributes:
        text: The claim, as a sentence.
        verdict: `"reproduced"` or `"not reproduced"`.
        measured: What was measured: a number, or a few words with numbers in them.
    """

    text: str
    verdict: str
    measured: Scalar = ""

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise ValueError(
                f"A verdict is 'reproduced' or 'not reproduced'; got {self.verdict!r}. "
                "State which of the two the numbers say."
            )
        object.__setattr__(self, "measured", _scalar(self.measured, "measured"))


@dataclass(frozen=True, eq=False, kw_only=True)
class Record:
    """What one run of a study found, and what made it.

    Settings are kept as plain JSON: tuples become lists, NumPy numbers become Python's.

    Attributes:
        study: Name of the study, such as `"two-solutions"`. Names of studies and of results
            are made of letters, digits and `. _ + -`, so that files can be called after them.
        title: Heading for reports.
        source: Where the claims come from: authors, year, figure.
        scale: `"smoke"`, `"small"` or `"paper"`.
        asked: The settings of the run.
        results: Name to result.
        numbers: Name to a number (or a word) that the results were boiled down to.
        claims: The claims with their verdicts.
        summary: What was found, in plain words, one sentence each.
        provenance: Seeds, versions, data, seconds, command.

    Raises:
        RecordError: If a name could not be the name of a file.
        TypeError: If something cannot be stored without loss.

    Example:
        >>> walk = Profile(alpha=[0.0, 0.5, 1.0], loss=[2.0, 2.25, 0.5])
        >>> record = Record(study="walk", results={"line": walk}, numbers={"climb": 0.25})
        >>> record.numbers["climb"]
        0.25
    """

    study: str
    title: str = ""
    source: str = ""
    scale: str = ""
    asked: Mapping[str, Any] = field(default_factory=dict)
    results: Mapping[str, Result] = field(default_factory=dict)
    numbers: Mapping[str, Scalar] = field(default_factory=dict)
    claims: tuple[CheckedClaim, ...] = ()
    summary: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_name(self.study, "study")
        for name, result in self.results.items():
            _check_name(name, "result")
            if not isinstance(result, Result):
                raise TypeError(
                    f"A result is one of {_kinds()}; "
                    f"`results[{name!r}]` is a {type(result).__name__}. Put numbers in "
                    "`numbers`, settings in `asked`."
                )
        numbers = {name: _scalar(value, name) for name, value in self.numbers.items()}
        tables = {
            "asked": _decode(_encode(self.asked, "asked", None), {}),
            "results": dict(self.results),
            "numbers": numbers,
            "provenance": _decode(_encode(self.provenance, "provenance", None), {}),
        }
        for name, table in tables.items():
            object.__setattr__(self, name, MappingProxyType(table))
        object.__setattr__(self, "claims", tuple(self.claims))
        object.__setattr__(self, "summary", tuple(self.summary))


def _kinds() -> str:
    """Return the names of the kinds of results."""
    return ", ".join(kind.__name__ for kind in get_args(Result))


def save_record(record: Record, folder: str | os.PathLike[str]) -> Path:
    """Write a record, in place of the one that the folder may hold.

    A crash at any moment, also of the machine, leaves the old record or the new one, whole.
    The same record always gives the same bytes. One writer at a time.

    Args:
        record: What to write.
        folder: Where; it is made if need be.

    Returns:
        The folder.

    Raises:
        OSError: If the folder cannot be written to.

    Example:
        >>> import tempfile
        >>> walk = Profile(alpha=[0.0, 0.5, 1.0], loss=[2.0, float("nan"), 0.5])
        >>> with tempfile.TemporaryDirectory() as place:
        ...     folder = save_record(Record(study="walk", results={"line": walk}), place)
        ...     open_record(folder).results["line"].loss["train"]
        array([2. , nan, 0.5])
    """
    folder = Path(folder)
    arrays: dict[str, Array] = {}
    body = _body(record, arrays)
    packed = safetensors.numpy.save(arrays)
    body["arrays"] = {"sha256": _digest(packed), "entries": _entries(arrays)}
    document = _sealed(body)

    folder.mkdir(parents=True, exist_ok=True)
    # The arrays go to a name of their own until the document that speaks of them is there:
    # replacing the document is the one moment at which the old record becomes the new one.
    waiting = folder / _waiting_name(_digest(packed))
    write_atomically(waiting, packed)
    write_atomically(folder / _DOCUMENT, document)
    os.replace(waiting, folder / _ARRAYS)
    sync_folder(folder)
    for pattern in ("arrays-*.safetensors", f".{_DOCUMENT}.*.tmp", ".arrays-*.tmp"):
        for leftover in folder.glob(pattern):  # of writers that were killed
            leftover.unlink(missing_ok=True)
    return folder


def open_record(folder: str | os.PathLike[str]) -> Record:
    """Read a record and check every byte of it.

    Args:
        folder: What `save_record` wrote.

    Returns:
        The record; its arrays have the bits that were stored.

    Raises:
        RecordError: If there is no record, it was made by a newer version, or it is damaged;
            the message names the part.
    """
    folder = Path(folder)
    try:
        data = (folder / _DOCUMENT).read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RecordError(
            f"A record is a folder with a {_DOCUMENT}; there is none in {folder}. "
            "Give the folder that the run printed."
        ) from error
    body = _parsed(data, folder)
    listed = _arrays_of(body, folder)
    try:
        return _record(body, listed)
    except RecordError as error:
        raise RecordError(f"The record in {folder} cannot be used. {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(folder, _DOCUMENT, f"its content does not fit together: {error}") from error


# The document


def _body(record: Record, arrays: dict[str, Array]) -> dict[str, Any]:
    """Return the document without checksums, and collect the arrays."""
    return {
        "format": FORMAT,
        "study": record.study,
        "title": record.title,
        "source": record.source,
        "scale": record.scale,
        "summary": list(record.summary),
        "claims": [
            {
                "text": claim.text,
                "verdict": claim.verdict,
                "measured": _encode(claim.measured, "measured", None),
            }
            for claim in record.claims
        ],
        "numbers": _encode(record.numbers, "numbers", None),
        "asked": _encode(record.asked, "asked", None),
        "provenance": _encode(record.provenance, "provenance", None),
        "results": {name: _encode(each, name, arrays) for name, each in record.results.items()},
    }


def _record(body: Mapping[str, Any], arrays: Mapping[str, Array]) -> Record:
    """Make a record from its document."""
    names = [item.name for item in fields(Record)]
    content = {name: _decode(body[name], arrays) for name in names}
    content["claims"] = tuple(CheckedClaim(**claim) for claim in content["claims"])
    return Record(**content)


def _sealed(body: Mapping[str, Any]) -> bytes:
    """Return the bytes of a document, with the checksum of its content as last entry."""
    line = json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    sealed = {**body, "sha256": _digest(line.encode())}
    return (json.dumps(sealed, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _parsed(data: bytes, folder: Path) -> dict[str, Any]:
    """Read a document; refuse newer formats and any bytes that the writer would not write."""
    try:
        body = json.loads(data.decode(), parse_constant=_refuse_constant)
        version = body["format"]
        newer = isinstance(version, int) and version > FORMAT
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(folder, _DOCUMENT, "it is not the JSON of a record") from error
    if newer:
        raise RecordError(
            f"This version reads records up to format {FORMAT}; the one in {folder} has format "
            f"{version}, made by a newer thalweg. Upgrade: `pip install --upgrade thalweg`."
        )
    body.pop("sha256", None)
    if version != FORMAT or _sealed(body) != data:
        raise _damaged(folder, _DOCUMENT, "its checksum does not match its content")
    return dict(body)


def _refuse_constant(name: str) -> NoReturn:
    """Refuse the NaN and Infinity that Python's JSON lets pass."""
    raise ValueError(f"{name} is not JSON")


# The arrays


def _entries(arrays: Mapping[str, Array]) -> dict[str, Any]:
    """Return dtype, shape and checksum of each array."""
    return {
        name: {
            "dtype": array.dtype.name,
            "shape": list(array.shape),
            "sha256": _digest(array.tobytes()),
        }
        for name, array in arrays.items()
    }


def _arrays_of(body: Mapping[str, Any], folder: Path) -> dict[str, Array]:
    """Read the arrays that a document lists, and check them."""
    listed: Any = body.get("arrays")
    digest = listed.get("sha256") if isinstance(listed, dict) else None
    # The digest becomes part of a file name, so it must be nothing but a digest.
    if not isinstance(digest, str) or not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise _damaged(folder, _DOCUMENT, "it does not say which arrays belong to it")
    waiting = folder / _waiting_name(digest)
    path = waiting if waiting.exists() else folder / _ARRAYS
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise _damaged(folder, _ARRAYS, "it is missing") from error
    if _digest(data) != digest:
        raise _damaged(folder, path.name, _what_changed(data, listed["entries"]))
    arrays = safetensors.numpy.load(data)
    if _entries(arrays) != listed["entries"]:
        raise _damaged(folder, _DOCUMENT, "its list of arrays does not match the arrays")
    return arrays


def _what_changed(data: bytes, entries: Mapping[str, Any]) -> str:
    """Say which arrays of a damaged file differ from their checksums."""
    try:
        found = _entries(safetensors.numpy.load(data))
    except Exception:  # damaged bytes may fail in any way; that they are damaged is known
        return "it cannot be read"
    changed = [name for name, entry in entries.items() if found.get(name) != entry]
    return "its arrays changed: " + ", ".join(changed) if changed else "its header changed"


def _waiting_name(digest: str) -> str:
    """Return the name of an array file whose document may not be there yet."""
    return f"arrays-{digest[:16]}.safetensors"


# The codec


def _encode(value: Any, path: str, arrays: dict[str, Array] | None) -> Any:
    """Return the JSON for a value and put its arrays aside; None: arrays have no place here."""
    if isinstance(value, np.ndarray) and value.dtype == np.float64 and arrays is not None:
        arrays[path] = np.asarray(value, order="C")
        return {"$array": path}
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return float(value) if np.isfinite(value) else {"$float": _name_of(value)}
    if isinstance(value, Mapping):
        return {
            _escaped(key): _encode(item, f"{path}/{_pointer(key)}", arrays)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_encode(item, f"{path}/{i}", arrays) for i, item in enumerate(value)]
    name = type(value).__name__
    if arrays is not None and _KINDS.get(name) is type(value):
        content = {
            item.name: _encode(getattr(value, item.name), f"{path}/{item.name}", arrays)
            for item in fields(value)
        }
        return {"$kind": name, **content}
    what = f"{value.dtype} array" if isinstance(value, np.ndarray) else name
    raise TypeError(
        f"A record holds numbers, words, lists and tables of them, and in its results float64 "
        f"arrays; `{path}` is a {what}. Convert it to one of these."
    )


def _decode(value: Any, arrays: Mapping[str, Array]) -> Any:
    """Return the value that a piece of JSON stands for."""
    if isinstance(value, list):
        return [_decode(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    if "$float" in value:
        return _NOT_FINITE[value["$float"]]
    if "$array" in value:
        return arrays[value["$array"]]
    content = {key: _decode(item, arrays) for key, item in value.items()}
    if "$kind" in value:
        return _made(content.pop("$kind"), content)
    return {key.removeprefix("$"): item for key, item in content.items()}


def _made(name: str, content: dict[str, Any]) -> Any:
    """Make a dataclass of the table of kinds from its fields."""
    kind = _KINDS.get(name)
    known = {item.name: item for item in fields(kind)} if kind else {}
    strange = sorted(set(content) - set(known))
    if kind is None or strange:
        what = f"the kind {name!r}" if kind is None else f"{name} with {', '.join(strange)}"
        raise RecordError(
            f"This version knows the kinds {', '.join(_KINDS)}; the record has {what}. "
            "Upgrade: `pip install --upgrade thalweg`."
        )
    for key, item in content.items():
        if get_origin(known[key].type) is tuple:  # JSON knows lists only
            content[key] = tuple(item)
    return kind(**content)


def _escaped(key: Any) -> str:
    """Return a key of the user as a key of the document."""
    if not isinstance(key, str):
        raise TypeError(
            f"Tables of a record have words as keys; got {key!r}. Convert the key to a word."
        )
    return f"${key}" if key.startswith("$") else key


def _pointer(key: str) -> str:
    """Return a key as one step of a path."""
    return key.replace("~", "~0").replace("/", "~1")


def _name_of(value: float) -> str:
    """Return the word for a float that is not finite."""
    return "NaN" if np.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _scalar(value: Any, name: str) -> Scalar:
    """Return a plain number, word or truth value."""
    plain: Any = value.item() if isinstance(value, np.generic) else value
    if not isinstance(plain, bool | int | float | str):
        raise TypeError(
            f"A number of a record is a float, int, bool or word; `{name}` is a "
            f"{type(value).__name__}. Boil it down to one of these."
        )
    return float(plain) if isinstance(plain, float) else plain  # a Barrier is a float too


def _check_name(name: Any, what: str) -> None:
    """Refuse a name that could lead out of its folder, or could not name a file."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise RecordError(
            f"The name of a {what} is made of letters, digits and '. _ + -' and starts with a "
            f"letter or digit; got {name!r}. Rename the {what}."
        )


def _damaged(folder: Path, part: str, why: str) -> RecordError:
    """Return the error for a record that is not as it was written."""
    return RecordError(
        f"A record must be as it was written; {part} in {folder} is damaged: {why}. "
        "Restore it from a copy, or run the study again."
    )


def _digest(data: bytes) -> str:
    """Return the SHA-256 of some bytes, in hexadecimal digits."""
    return sha256(data).hexdigest()
