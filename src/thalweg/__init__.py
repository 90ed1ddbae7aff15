"""thalweg: show what stands between an optimiser and a low cost."""

from thalweg._version import __version__

__all__ = ["__version__"]
