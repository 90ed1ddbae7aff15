"""The errors that a caller may want to catch.

    ValueError
    ├── ParameterMismatchError        parameters of another architecture
    ├── NonDeterministicObjectiveError  two evaluations of one point disagree
    ├── CheckpointError               a file that cannot be read safely
    ├── RecordError                   a record that is damaged, or of a newer format
    └── TrajectoryError               a trajectory that is damaged, or in use by another recorder
    FileNotFoundError
    └── DataUnavailableError          a data set that is neither here nor to be had

Everything else is a plain `ValueError` or `TypeError`. Each message says what is required,
what came, and what to do.
"""

__all__ = [
    "CheckpointError",
    "DataUnavailableError",
    "NonDeterministicObjectiveError",
    "ParameterMismatchError",
    "RecordError",
    "TrajectoryError",
    "first_line",
]


class ParameterMismatchError(ValueError):
    """Names or shapes of parameters are those of another architecture."""


class NonDeterministicObjectiveError(ValueError):
    """Two evaluations of the same point disagree, so there is no cost J to look at."""


class CheckpointError(ValueError):
    """A checkpoint file is damaged, or would have to run code to be read."""


class RecordError(ValueError):
    """A record is missing, damaged, or was made by a newer version."""


class TrajectoryError(ValueError):
    """A trajectory is missing, damaged, of a newer version, or cannot be gone on with."""


class DataUnavailableError(FileNotFoundError):
    """A data set is neither in a folder, nor in the cache, nor to be had by download."""


def first_line(error: BaseException) -> str:
    """Return the first line of a message, shortened, to be told as a reason."""
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0][:120]
