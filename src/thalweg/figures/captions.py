"""What figures say in words: labels, and captions that state data, policies and seeds."""

import re
from collections.abc import Mapping
from typing import Any

from thalweg.records import Record
from thalweg.results import Array, Estimate, Interpolation, Provenance

__all__ = [
    "between_words",
    "computed_words",
    "cost_label",
    "data_words",
    "estimate_words",
    "joined",
    "model_words",
    "number",
    "policy_words",
    "run_words",
    "section_words",
    "sentence",
]

_LOSS_NAMES = {
    "crossentropy": "mean cross-entropy",
    "nll": "mean negative log-likelihood",
    "mse": "mean squared error",
    "bce": "mean binary cross-entropy",
    "bcewithlogits": "mean binary cross-entropy",
    "binarycrossentropy": "mean binary cross-entropy",
    "binarycrossentropywithlogits": "mean binary cross-entropy",
}


def run_words(record: Record) -> str:
    """Say which run a figure belongs to."""
    facts = [f"Study {record.study}"]
    facts += [f"scale {record.scale}"] if record.scale else []
    facts += [f"{key} {record.asked[key]}" for key in ("data", "seed") if key in record.asked]
    return sentence(", ".join(facts))


def cost_label(provenance: Provenance) -> str:
    """Return the label of the cost: what is averaged over what."""
    name = provenance.objective.get("loss")
    if not name:
        return "cost J"
    splits = provenance.objective.get("splits") or {}
    counts = [(s.get("examples"), s.get("terms")) for s in splits.values()]
    per_example = all(terms is None or terms == examples for examples, terms in counts)
    bare = re.sub("[^a-z]", "", str(name).rpartition(".")[2].lower()).removesuffix("loss")
    words = _LOSS_NAMES.get(bare)
    if words is None:
        return f"cost J ({name})"
    return f"cost J ({words} per {'example' if per_example else 'term'})"


def data_words(provenance: Provenance, table: Mapping[str, Array]) -> str:
    """Return on which data the cost is exact."""
    splits = provenance.objective.get("splits") or {}
    words = []
    for split in table:
        examples = splits.get(split, {}).get("examples")
        words.append(split if examples is None else f"{split} ({_count(examples)} examples)")
    return f"Cost on {' and '.join(words)}."


def model_words(provenance: Provenance) -> str:
    """Return model and number of parameters."""
    objective = provenance.objective
    model = objective.get("model") or objective.get("function")
    parameters = objective.get("parameters")
    size = "" if parameters is None else f"{_count(parameters)} parameters"
    parts = [str(part) for part in (model, size) if part]
    return f"Model: {', '.join(parts)}." if parts else ""


def policy_words(provenance: Provenance) -> str:
    """Return what was done with batch normalisation, dropout and penalty."""
    known = {"batch_norm": "batch normalisation", "dropout": "dropout", "penalty": "penalty"}
    objective = provenance.objective
    parts = [
        f"{words}: {_setting(objective[key])}"
        for key, words in known.items()
        # None says of dropout that it is off, of the others that there is nothing to say.
        if key in objective and (objective[key] is not None or key == "dropout")
    ]
    return sentence("; ".join(parts))


def section_words(provenance: Provenance) -> str:
    """Return how the directions of the section were chosen."""
    known = {"normalize": "normalisation", "seed": "seed"}
    section = provenance.section
    parts = [
        f"{words} {_setting(section[key])}"
        for key, words in known.items()
        if section.get(key) is not None
    ]
    return f"Directions: {', '.join(parts)}." if parts else ""


def computed_words(provenance: Provenance) -> str:
    """Return precision and device."""
    parts = [part for part in (provenance.dtype, provenance.device) if part]
    error = provenance.objective.get("precision_error") or {}
    products = ""
    if error:
        products = (
            f", products in {provenance.objective['precision']} (which changes the cost by up to "
            f"{max(error.values()):.2g} at the points tried)"
        )
    return (f", {' on '.join(parts)}" if parts else "") + products


def between_words(between: Interpolation | None) -> str:
    """Return how good the values between the evaluated points are."""
    if between is None:
        return ""
    aim = "" if between.converged else f", more than the tolerance of {between.tolerance:g} asks"
    return (
        f"Between the points a {between.method}, expected to err by {between.expected:.2g} at "
        f"most{aim}; a structure narrower than {between.resolution:.2g} may have been missed."
    )


def estimate_words(estimate: Estimate | None) -> str:
    """Return what a cost was estimated from, and what its band means."""
    if estimate is None:
        return ""
    nodes = f" and the exact cost at {len(estimate.nodes)} points" if len(estimate.nodes) else ""
    asked = f" {estimate.question} {sentence(estimate.answer)}" if estimate.question else ""
    return (
        f"Estimated from {_count(estimate.examples)} of {_count(estimate.of)} examples{nodes}; "
        f"the intervals (±{estimate.half_width.max():.2g} at most) hold at all points at once "
        f"with {100 * estimate.confidence:g} % confidence.{asked}"
    )


def _setting(value: Any) -> str:
    """Return a setting of the provenance in words."""
    if value is None or value is False:
        return "off"
    if isinstance(value, Mapping):
        details = ", ".join(f"{key} {item}" for key, item in value.items())
        return f"on ({details})"
    return str(value)


def sentence(words: str) -> str:
    """Return words with a capital and a full stop; nothing for nothing."""
    return f"{words[0].upper()}{words[1:]}." if words else ""


def joined(*sentences: str) -> str:
    """Return the sentences that say something, in one line."""
    return " ".join(sentence for sentence in sentences if sentence)


def _count(number: int) -> str:
    """Return a whole number with its thousands apart."""
    return f"{number:,}".replace(",", "\u202f")


def number(value: float) -> str:
    """Return a short number with a true minus."""
    return f"{value:g}".replace("-", "−")
