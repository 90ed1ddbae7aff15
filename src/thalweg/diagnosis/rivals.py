"""What else could have looked like an obstacle, and why it is not that."""

from collections.abc import Mapping

from thalweg.results import Finding
from thalweg.results.diagnosis_table import evidence_words

__all__ = ["rivals_of"]

# Each obstacle with those that look like it from a curve of the cost alone.
_LOOK_ALIKE: Mapping[str, tuple[str, ...]] = {
    "step_too_large": ("gradient_noise", "exploding_gradient", "ill_conditioning"),
    "exploding_gradient": ("step_too_large", "gradient_noise"),
    "vanishing_gradient": ("dead_units", "plateau", "step_too_small"),
    "dead_units": ("vanishing_gradient", "plateau", "local_minimum"),
    "gradient_noise": ("step_too_large", "ill_conditioning", "local_minimum"),
    "step_too_small": ("ill_conditioning", "plateau", "vanishing_gradient"),
    "ill_conditioning": ("step_too_small", "gradient_noise", "saddle_point"),
    "saddle_point": ("plateau", "local_minimum", "step_too_small"),
    "plateau": ("saddle_point", "local_minimum", "step_too_small"),
    "local_minimum": ("saddle_point", "plateau", "gradient_noise", "ill_conditioning"),
    "barrier": ("local_minimum", "gradient_noise", "step_too_small"),
    "detour": ("ill_conditioning", "gradient_noise"),
    "no_critical_point": ("ill_conditioning", "step_too_small", "local_minimum"),
    "overfitting": ("no_critical_point",),
}


def rivals_of(key: str, findings: Mapping[str, Finding]) -> tuple[str, ...]:
    """Return a sentence on each obstacle that looks like one, unless it is present as well."""
    sentences = []
    for other in _LOOK_ALIKE[key]:
        rival = findings[other]
        if rival.verdict == "present":
            continue
        read = "; ".join(evidence_words(each) for each in rival.evidence)
        verdict = "ruled out" if rival.verdict == "absent" else "not ruled out"
        title = rival.title[:1].upper() + rival.title[1:]
        sentences.append(f"{title} is {verdict}{f': {read}' if read else ''}.")
    return tuple(sentences)
