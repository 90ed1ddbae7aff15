"""Work that is done in order by a thread of its own, while training goes on."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

__all__ = ["Background"]


class Background:
    """Does pieces of work in order; never more than two wait, so that memory stays bounded.

    An error of one piece is raised when the next one is handed in, or at the end; what was handed
    in after it is not done.
    """

    _MOST = 2

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="thalweg-recorder")
        self._pending: deque[Future[None]] = deque()
        self._failed = False

    def do(self, work: Callable[[], None]) -> None:
        """Hand in a piece of work; wait where too much is waiting already."""
        if len(self._pending) >= self._MOST:
            wait([self._pending[0]])
        done = [piece for piece in self._pending if piece.done()]
        if any(piece.exception() for piece in done):
            self.finish()
        for piece in done:
            self._pending.remove(piece)
        self._pending.append(self._thread.submit(self._run, work))

    def finish(self) -> None:
        """Wait until everything is done.

        Raises:
            Exception: What a piece of work raised.
        """
        pieces, self._pending = self._pending, deque()
        wait(pieces)
        self._failed = False
        for piece in pieces:
            piece.result()

    def close(self) -> None:
        """Let the thread end."""
        self._thread.shutdown()

    def _run(self, work: Callable[[], None]) -> None:
        """Do a piece of work, unless one before it failed."""
        if self._failed:
            return
        try:
            work()
        except BaseException:
            self._failed = True
            raise
