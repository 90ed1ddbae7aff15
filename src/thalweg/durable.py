"""Files that survive a crash: replaced whole, or appended to line by line."""

import json
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

__all__ = [
    "AppendedFile",
    "checked_content",
    "checked_line",
    "read_all",
    "sync_folder",
    "write_all",
    "write_atomically",
]


def write_atomically(path: Path, *parts: bytes | memoryview) -> None:
    """Write a file such that a crash leaves the old content or the new, never a part.

    The bytes go to a temporary file in the same folder, are flushed to the disk, and take the
    place of the old file in one step. Permissions follow the umask.

    Args:
        path: The file; its folder is made if need be.
        parts: The whole content, in one piece or in several that follow one another.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Flush a folder's list of names to the disk, where the system lets one open a folder."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def read_all(file: int) -> bytes:
    """Return everything in an open file."""
    os.lseek(file, 0, os.SEEK_SET)
    parts = []
    while part := os.read(file, 1 << 20):
        parts.append(part)
    return b"".join(parts)


def write_all(file: int, at: int, data: bytes) -> None:
    """Write bytes at a place of an open file, over what a write that failed left there."""
    os.lseek(file, at, os.SEEK_SET)
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]


def checked_line(content: Mapping[str, Any], checksum: Callable[[bytes], str]) -> bytes:
    """Return a line of JSON that ends with a checksum of itself, under the name `check`.

    Args:
        content: What the line says.
        checksum: Returns that of the text of the content.
    """
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    check = checksum(text.encode("utf-8", "surrogatepass"))
    return f'{text[:-1]},"check":"{check}"}}\n'.encode("utf-8", "surrogatepass")


def checked_content(line: bytes, checksum: Callable[[bytes], str]) -> Any:
    """Return what a line of `checked_line` says, or None where it is not as it was written.

    Args:
        line: Without the newline.
        checksum: As for `checked_line`.
    """
    try:
        content = json.loads(line)
        content.pop("check")
        return content if checked_line(content, checksum) == line + b"\n" else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


class AppendedFile:
    r"""A file of lines that grows at its end alone; one process writes to it at a time.

    A crash leaves at most an incomplete last line. It is cut off when the file is opened again,
    and so is what a write that failed (on a full disk) has left.

    Args:
        path: The file; it is made if need be.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "lines"
        ...     _ = path.write_bytes(b"one\ntw")
        ...     file = AppendedFile(path)
        ...     file.append(b"two\n")
        ...     file.close()
        ...     path.read_bytes()
        b'one\ntwo\n'
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        try:
            content = self.read()
            self.length = content.rfind(b"\n") + 1
            if self.length < len(content):
                os.ftruncate(self._file, self.length)
        except BaseException:
            self.close()
            raise

    def read(self) -> bytes:
        """Return the whole content."""
        return read_all(self._file)

    def append(self, lines: bytes, *, sync: bool = False) -> None:
        """Add complete lines.

        Args:
            lines: What to add; the last one ends with a newline, too.
            sync: Whether to return when they are on the disk, so that they outlive the machine.
                Else they are the system's, and outlive this process.

        Raises:
            OSError: If there is no room; the file is then as it was before.
        """
        try:
            write_all(self._file, self.length, lines)
            if sync:
                self.sync()
            self.length += len(lines)
        except BaseException:  # an interrupt, too, must not leave half a line
            os.ftruncate(self._file, self.length)
            raise

    def sync(self) -> None:
        """Flush to the disk what was added."""
        os.fsync(self._file)

    def cut(self, length: int) -> None:
        """Cut off what follows the first bytes."""
        os.ftruncate(self._file, length)
        self.length = length
        self.sync()

    def close(self) -> None:
        """Let the file go."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
