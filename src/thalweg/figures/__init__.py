"""Figures are data first: what a plot shows is a value, drawn by another module.

`thalweg.figures.plots` turns results into figures, and needs NumPy only.
`thalweg.figures.draw` draws figures, and is the only module that imports matplotlib.
"""

from thalweg.figures.figure import Axis, Band, Bar, Curve, Figure, Map, Marker, Panel, Path, Sheet
from thalweg.figures.plots import figure_of, figures_of

__all__ = [
    "Axis",
    "Band",
    "Bar",
    "Curve",
    "Figure",
    "Map",
    "Marker",
    "Panel",
    "Path",
    "Sheet",
    "figure_of",
    "figures_of",
]
