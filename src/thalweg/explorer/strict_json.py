"""JSON as RFC 8259 has it, in both directions: it knows no NaN, and a key comes once."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from thalweg.explorer.request_error import RequestError

__all__ = ["decoded", "encoded", "expect_fields", "number_in", "words_for"]


def encoded(content: Any) -> bytes:
    """Return the JSON of plain values; floats that are not finite become words.

    Args:
        content: Tables, lists, words and numbers.

    Example:
        >>> encoded({"loss": [0.5, float("nan"), float("-inf")]})
        b'{"loss":[0.5,"NaN","-Infinity"]}'
    """
    text = json.dumps(
        words_for(content), ensure_ascii=False, allow_nan=False, separators=(",", ":")
    )
    return text.encode("utf-8", "replace")


def words_for(content: Any) -> Any:
    """Return plain values with `"NaN"`, `"Infinity"` and `"-Infinity"` for such floats."""
    if isinstance(content, float):
        if math.isfinite(content):
            return float(content)
        return "NaN" if math.isnan(content) else "Infinity" if content > 0 else "-Infinity"
    if isinstance(content, Mapping):
        return {str(key): words_for(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [words_for(value) for value in content]
    return content


def decoded(body: bytes) -> dict[str, Any]:
    """Return the object that a body holds.

    Args:
        body: UTF-8.

    Raises:
        RequestError: 400 if it is no JSON object.

    Example:
        >>> decoded(b'{"points": 9}')
        {'points': 9}
    """
    try:
        content = json.loads(
            body.decode(), parse_constant=_refuse_constant, object_pairs_hook=_table
        )
    except (ValueError, RecursionError) as error:
        raise RequestError(
            400, f"The body must be JSON in UTF-8; it is not ({error}). Send one JSON object."
        ) from error
    if not isinstance(content, dict):
        raise RequestError(
            400,
            f"The body must be one JSON object; got {_kind(content)}. Send {{...}}.",
        )
    return content


def expect_fields(
    content: Any, required: Sequence[str], optional: Sequence[str] = (), where: str = "The body"
) -> dict[str, Any]:
    """Return a table, after making sure that it has the fields that it needs and no others.

    Args:
        content: What came.
        required: Names of fields that must be there.
        optional: Names of fields that may be there.
        where: What it is called in messages.

    Raises:
        RequestError: 400 if it is no table, a field is missing, or one is unknown.
    """
    if not isinstance(content, dict):
        raise RequestError(
            400, f"{where} must be a JSON object; got {_kind(content)}. Send {{...}}."
        )
    missing = [name for name in required if name not in content]
    unknown = [name for name in content if name not in (*required, *optional)]
    if missing or unknown:
        may = f" and may have {', '.join(optional)}" if optional else ""
        came = ", ".join(content) or "none"
        raise RequestError(
            400,
            f"{where} needs the fields {', '.join(required)}{may}; got {came[:200]}. "
            "Send these and no others.",
        )
    return content


def number_in(content: Mapping[str, Any], name: str, most: float, *, least: float) -> float:
    """Return a number of a table within bounds.

    Args:
        content: The table.
        name: Of the field.
        most: Largest number that is allowed.
        least: Smallest one.

    Raises:
        RequestError: 400 if it is no number, or out of bounds.
    """
    value = content[name]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not least <= value <= most:
        came = str(value)[:40] if is_number else _kind(value)
        raise RequestError(
            400,
            f"{name!r} must be a number from {least:g} to {most:g}; got {came}. Send such a one.",
        )
    return float(value)


def _kind(value: Any) -> str:
    """Return what JSON calls a value."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    names: dict[type, str] = {str: "a string", list: "an array", dict: "an object"}
    return names.get(type(value), "a number")


def _refuse_constant(name: str) -> NoReturn:
    """Refuse the NaN and Infinity that Python's JSON lets pass."""
    raise ValueError(f"{name} is not JSON")


def _table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object, after making sure that no key comes twice."""
    table = dict(pairs)
    if len(table) < len(pairs):
        raise ValueError("a key comes twice")
    return table
