"""Evaluating an objective along sections: the plan, the ways to do it, profiles and surfaces."""

from thalweg.evaluate.along import profile, surface
from thalweg.evaluate.sweep import sweep

__all__ = ["profile", "surface", "sweep"]
