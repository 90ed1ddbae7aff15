"""What a section is: a line or a plane, and the names of its anchors."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from thalweg.explorer.coordinates import LINE_FIELDS, PLANE_FIELDS
from thalweg.explorer.request_error import RequestError
from thalweg.explorer.strict_json import expect_fields

__all__ = ["Definition", "define"]

_ANCHORS = {"line": 2, "plane": 3}


@dataclass(frozen=True)
class Definition:
    """A section by its kind and its anchors.

    Attributes:
        kind: `"line"` or `"plane"`.
        anchors: Names of the anchors, such as `"step 0"`.
        marks: For each something that changes where its content does.

    Example:
        >>> Definition("line", ("step 0", "step 9"), ("a", "b")).dimension
        1
    """

    kind: str
    anchors: tuple[str, ...]
    marks: tuple[str, ...]

    @property
    def dimension(self) -> int:
        """Number of coordinates."""
        return 1 if self.kind == "line" else 2

    @property
    def id(self) -> str:
        """Name of the section: the first digits of the SHA-256 of its canonical JSON."""
        text = json.dumps(self.described(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def title(self) -> str:
        """What it is called in reports."""
        if self.kind == "line":
            return f"From {self.anchors[0]} to {self.anchors[1]}"
        return f"Plane of {', '.join(self.anchors[:-1])} and {self.anchors[-1]}"

    def described(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        return {"kind": self.kind, "anchors": list(self.anchors), "marks": list(self.marks)}

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> "Definition":
        """Return what `described` told."""
        return cls(content["kind"], tuple(content["anchors"]), tuple(content["marks"]))


def define(
    content: Mapping[str, Any], mark: Callable[[str], str], is_direction: Callable[[str], bool]
) -> tuple[Definition, dict[str, Any]]:
    """Return the section that a request defines, and where it wants to look first.

    Args:
        content: `{"kind": "line", "anchors": [name, name]}` or
            `{"kind": "plane", "anchors": [name, name, name]}`, with or without the fields of a
            refinement.
        mark: Returns the mark of an anchor, or raises.
        is_direction: Tells of an anchor whether it is a direction rather than a point.

    Returns:
        The section, and the fields of the refinement, empty where there are none.

    Raises:
        RequestError: 400 if it defines nothing.
    """
    expect_fields(content, ("kind", "anchors"), (*LINE_FIELDS, *PLANE_FIELDS))
    kind, names = content["kind"], content["anchors"]
    if not isinstance(kind, str) or kind not in _ANCHORS:
        raise RequestError(
            400, f"'kind' is line or plane; got {str(kind)[:40]!r}. Send one of the two."
        )
    count = _ANCHORS[kind]
    named = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if not named or len(names) != count or len(set(names)) < count:
        raise RequestError(
            400,
            f"A {kind} needs {count} different anchors, by their names; got {str(names)[:120]}. "
            "Send names that /api/run lists.",
        )
    definition = Definition(kind, tuple(names), tuple(mark(name) for name in names))
    directions = [is_direction(name) for name in names]
    fits = [[False] * count, [False] + [True] * (count - 1)]
    if directions not in fits:
        raise RequestError(
            400,
            f"A {kind} goes through {count} points, or through one point along "
            f"{'an eigenvector' if count == 2 else 'two eigenvectors'}, the point first; got "
            f"{', '.join(names)}. Choose and order the anchors so.",
        )
    return definition, {k: v for k, v in content.items() if k not in ("kind", "anchors")}
