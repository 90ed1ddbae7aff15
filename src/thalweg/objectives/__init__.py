"""Objectives: the cost J as a function of the flat vector θ."""

from thalweg.objectives.criteria import error_rate
from thalweg.objectives.dropout import MonteCarlo
from thalweg.objectives.function import FunctionObjective
from thalweg.objectives.model import ModelObjective
from thalweg.objectives.objective import Evaluation, Objective

__all__ = [
    "Evaluation",
    "FunctionObjective",
    "ModelObjective",
    "MonteCarlo",
    "Objective",
    "error_rate",
]
