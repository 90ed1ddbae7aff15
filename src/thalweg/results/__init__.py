"""What the probes return: frozen dataclasses of NumPy arrays and plain values.

This package is the waist of thalweg. Everything that computes with torch ends here, and
everything that measures, stores, draws or reports starts here, so nothing below this line
imports torch: a result can be stored, redrawn and questioned on a machine without it.
"""

from thalweg.results.confusion import ConfusionMatrix
from thalweg.results.critical_point import CriticalPoint
from thalweg.results.critical_point_search import CriticalPointSearch
from thalweg.results.diagnosis import (
    OBSTACLE_VERDICTS,
    OBSTACLES,
    Diagnosis,
    Evidence,
    Finding,
)
from thalweg.results.diagnosis_table import diagnosis_table
from thalweg.results.displacement import Displacement
from thalweg.results.ends import Ends
from thalweg.results.estimate import Estimate
from thalweg.results.frozen import Array
from thalweg.results.history import History
from thalweg.results.interpolation import Interpolation
from thalweg.results.layer_signals import Attenuation, LayerSignals
from thalweg.results.path import PathReading
from thalweg.results.profile import Profile
from thalweg.results.provenance import Provenance
from thalweg.results.run_surface import RunPoints, RunSurface
from thalweg.results.spectral_density import SpectralDensity
from thalweg.results.spectral_estimate import SpectralEstimate
from thalweg.results.spectrum import Spectrum
from thalweg.results.step_budget import StepBudget
from thalweg.results.step_curvature import StepCurvature
from thalweg.results.surface import Surface

__all__ = [
    "OBSTACLES",
    "OBSTACLE_VERDICTS",
    "Array",
    "Attenuation",
    "ConfusionMatrix",
    "CriticalPoint",
    "CriticalPointSearch",
    "Diagnosis",
    "Displacement",
    "Ends",
    "Estimate",
    "Evidence",
    "Finding",
    "History",
    "Interpolation",
    "LayerSignals",
    "PathReading",
    "Profile",
    "Provenance",
    "RunPoints",
    "RunSurface",
    "SpectralDensity",
    "SpectralEstimate",
    "Spectrum",
    "StepBudget",
    "StepCurvature",
    "Surface",
    "diagnosis_table",
]
