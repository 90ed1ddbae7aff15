"""What to try against each obstacle, and what would change a verdict on it."""

from collections.abc import Mapping

__all__ = ["ADVICE", "WOULD_CHANGE"]

ADVICE: Mapping[str, str] = {
    "step_too_large": "Divide the learning rate, to below 2/λ_max, or warm it up.",
    "exploding_gradient": (
        "Scale the initial weights down, clip the norm of the gradient, or normalise layers."
    ),
    "vanishing_gradient": (
        "Use rectified units, scale initial weights to the width of layers (Glorot, He), or add "
        "skip connections or normalisation."
    ),
    "dead_units": (
        "Start biases at 0 and weights scaled to the width, lower the first learning rates, or "
        "use leaky units: units that are off for all examples never come back by themselves."
    ),
    "gradient_noise": (
        "Lower the learning rate on a schedule, raise the batch size, or average the parameters."
    ),
    "step_too_small": "Raise the learning rate tenfold, and again while the cost falls faster.",
    "ill_conditioning": (
        "Use momentum or a preconditioner (Adam, Shampoo), normalise inputs and layers, or a "
        "second-order method; a larger step is not stable."
    ),
    "saddle_point": (
        "Give the run more time or some noise: it leaves by itself. Start further away, with "
        "weights of another scale, or use a method that follows negative curvature."
    ),
    "plateau": (
        "Start elsewhere: neither slope nor curvature shows a way out here. Larger initial weights "
        "or another loss make flat regions smaller."
    ),
    "local_minimum": (
        "Start from another seed, or from the better point; a wider network has fewer of them."
    ),
    "barrier": "Start in the other basin, or use larger steps or noise at first to cross.",
    "detour": "Start from the other side, or warm up from a simpler cost.",
    "no_critical_point": (
        "Decide when to stop by the held-out cost; weight decay makes the minimum finite."
    ),
    "overfitting": "Stop at the lowest held-out cost; use more data, decay or dropout.",
}

WOULD_CHANGE: Mapping[str, str] = {
    "step_too_large": "A run at a smaller learning rate that gets no further.",
    "exploding_gradient": "Gradients of one size at all depths.",
    "vanishing_gradient": (
        "Gradients of one size at all depths, or a run that ends low all the same."
    ),
    "dead_units": "Units that are on for some example, or a run that ends low without them.",
    "gradient_noise": "A run with larger batches that gets no further; recorded updates.",
    "step_too_small": "A run at a larger learning rate that gets no further; a known rate.",
    "ill_conditioning": "A second-order method that gets no further.",
    "saddle_point": "No negative curvature, or no gain along it.",
    "plateau": "A known floor near the cost here, or slope and curvature that lead down.",
    "local_minimum": (
        "A known better point or floor (`reference`, `floor`), or a way down from here."
    ),
    "barrier": "A better point (`reference`), or a line to it on which the cost does not climb.",
    "detour": "More snapshots, or a straight line on which the cost falls all the way.",
    "no_critical_point": "A point at rest, such as weight decay makes.",
    "overfitting": "A held-out split, or more held-out examples.",
}
