"""One writer at a time: a lock on a folder that the system lets go of, however its holder ends."""

import os
import sys
import warnings
import weakref
from contextlib import suppress
from pathlib import Path

from thalweg.errors import TrajectoryError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

__all__ = ["FolderLock"]

_NAME = "lock"
_HELD: "weakref.WeakSet[FolderLock]" = weakref.WeakSet()


class FolderLock:
    """The right to write to a folder.

    Args:
        folder: The folder, which must be there.

    Raises:
        TrajectoryError: If another recorder, of this process or of another one, has it.
        OSError: If the folder cannot be written to.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / _NAME
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if not _locked(self._file, path):
                holder = os.pread(self._file, 20, 0).decode(errors="replace").strip()
                raise TrajectoryError(
                    f"A trajectory has one writer at a time; {folder} is being recorded to by "
                    f"process {holder or 'unknown'}. Wait for it to end, or choose another folder."
                )
            os.ftruncate(self._file, 0)
            os.write(self._file, f"{os.getpid()}\n".encode())
        except BaseException:
            self.forget()
            raise
        _HELD.add(self)

    @property
    def held(self) -> bool:
        """Whether this process has the folder: a child of it has not."""
        return self._file >= 0

    def release(self) -> None:
        """Let the folder go, also where a child of this process still has the file open."""
        if self._file >= 0:
            with suppress(OSError):
                _unlock(self._file)
            self.forget()

    def forget(self) -> None:
        """Close the file, and leave the lock to whoever else has it open."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _locked(file: int, path: Path) -> bool:
    """Lock a file for whoever opened it; tell whether that was possible."""
    try:
        if sys.platform == "win32":
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:  # some network file systems know no locks
        warnings.warn(
            f"A trajectory should have one writer at a time; {path} cannot be locked "
            f"({error.strerror or error}), so a second one would not be noticed. Make sure that "
            "there is none. [no-lock]",
            RuntimeWarning,
            stacklevel=5,
        )
    return True


def _unlock(file: int) -> None:
    """Take the lock off a file."""
    if sys.platform == "win32":
        msvcrt.locking(file, msvcrt.LK_UNLCK, 1)
    else:
        fcntl.flock(file, fcntl.LOCK_UN)


def _forget() -> None:
    """Let go of the locks of the parent: a worker that outlives it must not hold its folder."""
    for lock in list(_HELD):
        lock.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
