"""What stands between a run and a low cost: the verdict on each obstacle, with its evidence."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from thalweg.results.diagnosis_table import diagnosis_table
from thalweg.results.frozen import Array, freeze, rebuilt
from thalweg.results.provenance import Provenance

__all__ = ["OBSTACLES", "OBSTACLE_VERDICTS", "Diagnosis", "Evidence", "Finding"]

# Every obstacle by its key, with what it is called.
OBSTACLES: Mapping[str, str] = MappingProxyType(
    {
        "step_too_large": "step too large",
        "exploding_gradient": "exploding gradient",
        "vanishing_gradient": "vanishing gradient",
        "dead_units": "dead or saturated units",
        "gradient_noise": "gradient noise",
        "step_too_small": "step too small",
        "ill_conditioning": "ill-conditioning",
        "saddle_point": "saddle point",
        "plateau": "plateau",
        "local_minimum": "local minimum",
        "barrier": "barrier",
        "detour": "detour",
        "no_critical_point": "no critical point",
        "overfitting": "overfitting",
    }
)
OBSTACLE_VERDICTS = ("present", "absent", "undetermined")


@dataclass(frozen=True)
class Evidence:
    """One reading that speaks for or against an obstacle.

    Attributes:
        text: The reading in words, with its number, such as `"ε·λ_max = 3.1, over 2"`.
        value: The number.
        threshold: What it is compared with, or NaN.
        step: Where in the run it was taken, or None where it is about all of it.
    """

    text: str
    value: float = float("nan")
    threshold: float = float("nan")
    step: int | None = None


@dataclass(frozen=True)
class Finding:
    """The verdict on one obstacle.

    Attributes:
        obstacle: Its key, one of `OBSTACLES`.
        verdict: `"present"`, `"absent"` or `"undetermined"`.
        severity: Share of the possible progress that it takes, 0 to 1; NaN where undetermined.
        cost: The same in units of J.
        symptom_of: Key of the present obstacle that causes this one, or `""`.
        evidence: What was read, and where, the most telling first.
        rivals: What else could have looked alike, and why it is not that; a sentence each.
        would_change: What would change the verdict, or settle it.
        advice: What to try.
    """

    obstacle: str
    verdict: str
    severity: float = 0.0
    cost: float = 0.0
    symptom_of: str = ""
    evidence: tuple[Evidence, ...] = ()
    rivals: tuple[str, ...] = ()
    would_change: str = ""
    advice: str = ""

    def __post_init__(self) -> None:
        if self.obstacle not in OBSTACLES:
            raise ValueError(
                f"An obstacle is one of {', '.join(OBSTACLES)}; got {self.obstacle!r}. "
                "Use one of these keys."
            )
        if self.verdict not in OBSTACLE_VERDICTS:
            raise ValueError(
                f"A verdict is one of {', '.join(OBSTACLE_VERDICTS)}; got {self.verdict!r}. "
                "Say 'undetermined' where the evidence does not tell."
            )
        if self.symptom_of and self.symptom_of not in OBSTACLES:
            raise ValueError(
                f"The cause of a symptom is one of {', '.join(OBSTACLES)}; got "
                f"{self.symptom_of!r}. Use one of these keys, or none."
            )

    @property
    def title(self) -> str:
        """What the obstacle is called."""
        return OBSTACLES[self.obstacle]


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """Which obstacles a run has met, with evidence for and against each.

    Attributes:
        findings: Key to finding, in the order of `OBSTACLES`, all of them.
        step: Steps of the snapshots at which the cost was evaluated, shape (n,).
        loss: J there, shape (n,).
        floor: The cost that progress is measured down to.
        floor_source: Where the floor comes from, in words.
        possible: Progress that was possible: from the highest J on the way to the floor, in J.
        stretch: First and last step of each stretch of the run that was looked at, shape (m, 2).
        reached: What was tried in the place of each stretch, in words, to the J that it reached,
            shape (m,); the first is the run itself.
        example_counts: Examples of the subsamples the numbers are from, by what they are for;
            empty where all of the data was used.
        provenance: What made this result.

    Example:
        >>> findings = {key: Finding(key, "absent") for key in OBSTACLES}
        >>> findings["plateau"] = Finding("plateau", "present", severity=0.4, advice="Wait.")
        >>> diagnosis = Diagnosis(findings, step=[0, 10], loss=[2.0, 1.8])
        >>> diagnosis.primary, diagnosis["plateau"].advice
        ('plateau', 'Wait.')
    """

    findings: Mapping[str, Finding]
    step: Array
    loss: Array
    floor: float = float("nan")
    floor_source: str = ""
    possible: float = float("nan")
    stretch: Array = field(default_factory=lambda: np.empty((0, 2)))
    reached: Mapping[str, Array] = field(default_factory=dict)
    example_counts: Mapping[str, int] = field(default_factory=dict)
    provenance: Provenance = field(default_factory=Provenance)

    def __post_init__(self) -> None:
        missing = [key for key in OBSTACLES if key not in self.findings]
        if missing or len(self.findings) != len(OBSTACLES):
            raise ValueError(
                f"A diagnosis has a finding for each of {', '.join(OBSTACLES)}; got "
                f"{', '.join(self.findings) or 'none'}. Say 'undetermined' of the others."
            )
        ordered = {key: self.findings[key] for key in OBSTACLES}
        object.__setattr__(self, "findings", MappingProxyType(ordered))
        freeze(self, "step", (None,))
        freeze(self, "loss", (len(self.step),))
        freeze(self, "stretch", (None, 2))
        reached = {
            name: np.array(values, dtype=np.float64) for name, values in self.reached.items()
        }
        for name, values in reached.items():
            if values.shape != (len(self.stretch),):
                raise ValueError(
                    f"`reached` has one value a stretch; {name!r} has shape {values.shape} for "
                    f"{len(self.stretch)} stretches. Give NaN where something was not tried."
                )
            values.flags.writeable = False
        object.__setattr__(self, "reached", MappingProxyType(reached))
        object.__setattr__(self, "example_counts", MappingProxyType(dict(self.example_counts)))

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuilt(self)

    def __str__(self) -> str:
        return diagnosis_table(self)

    def __getitem__(self, obstacle: str) -> Finding:
        try:
            return self.findings[obstacle]
        except KeyError:
            raise KeyError(
                f"An obstacle is one of {', '.join(OBSTACLES)}; got {obstacle!r}. Use one of them."
            ) from None

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings.values())

    @property
    def present(self) -> tuple[Finding, ...]:
        """What is in the way: causes before symptoms, the most severe first."""
        found = [finding for finding in self if finding.verdict == "present"]
        return tuple(sorted(found, key=lambda each: (each.symptom_of != "", -each.severity)))

    @property
    def primary(self) -> str | None:
        """Key of the obstacle that costs most, or None where nothing is in the way."""
        return self.present[0].obstacle if self.present else None
