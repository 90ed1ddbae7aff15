"""The three scales of a study that trains one of the paper's networks."""

from collections.abc import Mapping
from typing import Any

__all__ = ["trained_scales"]

_MNIST = {"data": "mnist", "examples": 50_000}


def trained_scales(
    recipe: str,
    *,
    smoke: Mapping[str, Any],
    small: Mapping[str, Any],
    paper: Mapping[str, Any],
) -> Mapping[str, Mapping[str, Any]]:
    """Return a small network on digits, a short training on MNIST, and the recipe as it is.

    Args:
        recipe: Name of the recipe.
        smoke: Settings to add or to replace at scale `smoke`; its network needs wider initial
            weights than the paper's.
        small: The same at scale `small`.
        paper: The same at scale `paper`.
    """
    return {
        "smoke": {
            "recipe": recipe,
            "data": "digits",
            "hidden": [32, 32],
            "init_ranges": [0.1, 0.2, 0.0],
            "epochs": 120,
            **smoke,
        },
        "small": {"recipe": recipe, **_MNIST, "epochs": 12, **small},
        "paper": {"recipe": recipe, **_MNIST, **paper},
    }
