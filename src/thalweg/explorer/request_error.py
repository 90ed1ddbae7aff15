"""Why a request is not done, as a status of HTTP and a message."""

from collections.abc import Mapping

__all__ = ["RequestError"]


class RequestError(Exception):
    """A request that is not done.

    Args:
        status: Status of HTTP (RFC 9110, section 15), such as 400.
        message: What is required, what came, and what to do.
        headers: Further headers of the answer, such as `Retry-After`.

    Example:
        >>> RequestError(429, "The queue is full.", {"Retry-After": "5"}).status
        429
    """

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})
