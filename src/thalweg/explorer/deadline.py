"""A limit for the whole time that a client may take to say what it wants."""

import io
import socket
import time
from typing import Any

__all__ = ["DeadlineReader"]


class DeadlineReader(io.RawIOBase):
    """What comes from a socket, until a time is up, however slowly it drips.

    Args:
        connection: The socket.
        seconds: How long reading may take, all of it.

    Example:
        >>> mine, its = socket.socketpair()
        >>> _ = its.sendall(b"hello")
        >>> with mine, its:
        ...     io.BufferedReader(DeadlineReader(mine, 10.0)).read(5)
        b'hello'
    """

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        self._connection = connection
        self._end = time.monotonic() + seconds

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read what is there; wait for it as long as there is time.

        Raises:
            TimeoutError: If there is none left.
        """
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError("the request took too long")
        self._connection.settimeout(left)
        return self._connection.recv_into(buffer)
