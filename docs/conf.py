"""Sphinx configuration; every build draws the gallery from the records and runs the tutorials."""

import sys
from pathlib import Path

import thalweg

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

project = "thalweg"
author = "The thalweg developers"
copyright = "2026, the thalweg developers"
version = release = thalweg.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build", "records"]
html_theme = "furo"
html_title = "thalweg"
autodoc_typehints = "description"
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
napoleon_google_docstring = True
napoleon_use_ivar = True
myst_heading_anchors = 3


def setup(app):
    """Draw the gallery before the pages are read, and run the tutorials as they are read."""
    import executed
    import gallery

    gallery.write(HERE / "records", HERE / "gallery")
    executed.connect(app, "tutorials")
