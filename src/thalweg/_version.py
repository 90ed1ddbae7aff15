"""The version of thalweg, read by the build and by `thalweg --version`."""

__version__ = "0.1.0"
