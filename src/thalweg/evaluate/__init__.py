"""Evaluating an objective along sections: the plan, the ways to do it, profiles and surfaces."""

from thalweg.evaluate.along import curvature_along, plan, profile, surface
from thalweg.evaluate.planning import Plan
from thalweg.evaluate.questions import BarrierAbove, ClimbAbove
from thalweg.evaluate.subsample import Subsample
from thalweg.evaluate.sweep import sweep

__all__ = [
    "BarrierAbove",
    "ClimbAbove",
    "Plan",
    "Subsample",
    "curvature_along",
    "plan",
    "profile",
    "surface",
    "sweep",
]
