"""What made a result."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Provenance"]


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What made a result: enough for two people to compare their pictures.

    Attributes:
        versions: Package name to version, of everything that touches the numbers.
        device: Where the objective was evaluated, such as `"cpu"` or `"cuda:0"`.
        dtype: Floating-point type of parameters and data, such as `"float32"`.
        threads: Number of CPU threads torch was allowed.
        objective: What was evaluated: model, loss, policies, and per split the number of
            examples, the number of terms in the mean and a checksum of the data.
        section: Where it was evaluated: kind, anchors, distances, rule of the directions.
        created: Time of the evaluation, ISO 8601 with time zone.
        seconds: Wall-clock time that the evaluation took.
    """

    versions: Mapping[str, str] = field(default_factory=dict)
    device: str = ""
    dtype: str = ""
    threads: int = 0
    objective: Mapping[str, Any] = field(default_factory=dict)
    section: Mapping[str, Any] = field(default_factory=dict)
    created: str = ""
    seconds: float = 0.0
