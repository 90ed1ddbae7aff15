"""The diagnosis: what stands between a run and a low cost."""

from thalweg.diagnosis.diagnose import diagnose

__all__ = ["diagnose"]
