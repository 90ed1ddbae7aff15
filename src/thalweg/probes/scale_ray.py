"""The cost along the ray through a point: does it fall for as long as parameters grow?"""

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from thalweg.evaluate import profile
from thalweg.objectives.objective import Objective, expect_objective
from thalweg.results import Profile
from thalweg.sections import Line

__all__ = ["scale_ray"]


def scale_ray(
    objective: Objective, theta: Tensor | ArrayLike, *, largest: float = 16.0, points: int = 9
) -> Profile:
    """Return J(c θ) and its slope over c, from c = 1 to 16 in equal factors.

    Some costs have no critical point: the logistic cost of data that the model separates falls
    towards 0 for as long as the parameters grow, and is lowest nowhere. Along the ray through
    such a θ, J falls all the way (`thalweg.is_monotone`) and its slope dJ/dc = θᵀ∇J(c θ) stays
    negative; with weight decay, or data that cannot be separated, it climbs sooner or later. The
    first slope, θᵀg, is that at θ itself.

    A ray is one direction: that J falls along it shows that there is no minimum on it; that it
    climbs does not show that there is one elsewhere.

    Args:
        objective: J.
        theta: θ, shape (P,), not 0.
        largest: The last c, above 1.
        points: Number of c, 2 at least.

    Returns:
        The profile, with c as `alpha`, and the slope.

    Raises:
        ValueError: If θ is 0, or the c are none.

    Source: Goodfellow, Bengio & Courville (2016), section 8.2; Soudry et al. (2018), "The implicit
    bias of gradient descent on separable data".

    Example:
        >>> from thalweg.functions import separable_logistic
        >>> ray = scale_ray(separable_logistic(), [1.0, 2.0], points=3)
        >>> ray.alpha, ray.loss["train"].round(4), bool((ray.slope["train"] < 0).all())
        (array([ 1.,  4., 16.]), array([0.1029, 0.0002, 0.    ]), True)
    """
    expect_objective(objective)
    point = objective.point(theta)
    if not float(point.abs().max()) > 0:
        raise ValueError("A ray goes through a point that is not 0; θ is. Give a trained one.")
    if not (1 < largest < np.inf and points >= 2):
        raise ValueError(
            f"The ray goes from c = 1 to a larger one, at 2 points or more; got "
            f"largest={largest} and points={points}. Leave them out for 1 to 16 at 9 points."
        )
    scales = np.geomspace(1.0, largest, points)
    ray = Line(point, 2 * point, labels=("θ", "2θ"))
    found = profile(objective, ray, scales - 1, progress=False, slope=True)
    return replace(found, alpha=scales, anchors=(1.0, 2.0), ends=None)
