"""Figures as plain JSON for a page: what `thalweg.figures.figure` holds, arrays as base64.

An array is `{"$float64": text}`, base64 of its numbers in little-endian order with rows one after
another; of maps and sheets `shape` tells rows and columns. A float that is not finite, for which
JSON has no word, is `{"$float": "NaN"}`.
"""

import base64
import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from thalweg.figures.figure import Figure, Grid, Map, Sheet

__all__ = ["figure_json"]

# What would end a script, or begin one, inside a page; JSON has another way to write each.
_ESCAPED = {ord(letter): f"\\u{ord(letter):04x}" for letter in "<>&\u2028\u2029"}


def figure_json(figure: Figure) -> str:
    """Return a figure as strict JSON that may stand in a script element of a page."""
    text = json.dumps(_plain(figure), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.translate(_ESCAPED)


def _plain(value: Any) -> Any:
    """Return a value, and all that it holds, as JSON knows it."""
    if isinstance(value, np.ndarray):
        numbers = np.ascontiguousarray(value, dtype="<f8")
        return {"$float64": base64.b64encode(numbers.tobytes()).decode("ascii")}
    if is_dataclass(value) and not isinstance(value, type):
        table = {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
        if isinstance(value, Map | Sheet | Grid):
            inner = value.counts if isinstance(value, Grid) else value.x
            table["shape"] = list(inner.shape)
        return table
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float | np.floating):
        number = float(value)
        return number if math.isfinite(number) else {"$float": _named(number)}
    return value


def _named(number: float) -> str:
    """Return what JavaScript calls a float that is not finite."""
    if math.isnan(number):
        return "NaN"
    return "Infinity" if number > 0 else "-Infinity"
