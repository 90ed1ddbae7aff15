"""Objectives: the cost J as a function of the flat vector θ."""

from thalweg.objectives.criteria import error_rate
from thalweg.objectives.documents import packed, padded
from thalweg.objectives.dropout import MonteCarlo
from thalweg.objectives.function import FunctionObjective
from thalweg.objectives.language import NextToken, token_error_rate
from thalweg.objectives.model import ModelObjective
from thalweg.objectives.objective import Evaluation, Objective

__all__ = [
    "Evaluation",
    "FunctionObjective",
    "ModelObjective",
    "MonteCarlo",
    "NextToken",
    "Objective",
    "error_rate",
    "packed",
    "padded",
    "token_error_rate",
]
