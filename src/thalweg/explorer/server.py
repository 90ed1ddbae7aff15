r"""The explorer's HTTP server: on 127.0.0.1 alone, for the readers that were given its address.

The address carries a secret token in its fragment, which a browser sends to nobody. The page takes
it from there and sends it with every request for data, as `Authorization: Bearer TOKEN`. The page
itself (`/`, its scripts and styles) holds no data and needs none.

Requests and answers are JSON (RFC 8259). Floats that are not finite are the words `"NaN"`,
`"Infinity"` and `"-Infinity"`. An answer that is no success is `{"error": MESSAGE}`.

`GET /api/run` tells what the run is:

    {"run": "mlp", "objective": "cost.py:cost", "life": "5f0c2a91", "parameters": 26,
     "device": "cpu", "dtype": "float64", "splits": ["train", "valid"], "metrics": ["error"],
     "snapshots": [{"anchor": "step 0", "step": 0, "loss": 0.71, "epoch": "NaN",
                    "learning_rate": 0.5}, …],
     "solutions": [{"anchor": "solution better", "file": "better.pt"}],
     "eigenvectors": [1, 2, -2, -1]}

`life` changes when the server is started anew. Anchors are named as there; further ones are
`eigenvector K at step N` for each K of `eigenvectors` and each snapshot: of unit length, 1 for the
largest eigenvalue of the Hessian, -1 for the smallest, computed when first needed.

`POST /api/sections` defines a section: a line through two points or from a point along an
eigenvector; a plane through three points or around a point along two eigenvectors.

    {"kind": "line", "anchors": ["step 0", "solution better"]}
    {"kind": "plane", "anchors": ["step 8", "eigenvector 1 at step 8", "eigenvector -1 at step 8"]}

With the fields of a refinement in the same object it asks for first points as well. The answer has
the id: the same definition has the same id, whoever sends it and however often.

    {"section": "0a1b2c3d4e5f6071", "kind": "line", "anchors": […], "marks": […]}

`POST /api/sections/ID/refine` asks for points of a line, or for a table of points of a plane:

    {"from": -0.5, "to": 1.5, "points": 51}
    {"x": {"from": -1, "to": 1}, "y": {"from": -1, "to": 1}, "columns": 25, "rows": 25}

Their spacing is rounded to a power of two, and they cover what was asked for. Only what is neither
known nor waiting is new:

    {"section": "0a1b…", "request": 3, "asked": 65, "new": 32,
     "grid": {"from": -0.5, "to": 1.5, "points": 65}}

`request` is null where all of it is known. Of a line the two anchors are evaluated in any case.

`GET /api/sections/ID` gives all points that are known, in the order in which they came, and
`GET /api/sections/ID?after=N` leaves out the first N:

    {"life": "5f0c2a91", "section": "0a1b…", "kind": "line", "anchors": […], "state": "open",
     "count": 33, "waiting": 32, "labels": […], "places": [0.0, 1.0], "length": 3.2, "after": 31,
     "alpha": [0.25, 0.75], "loss": {"train": [0.6, "Infinity"]},
     "metrics": {"error": {"train": [0.1, 0.5]}},
     "jobs": [{"request": 3, "section": "0a1b…", "waiting": 32, "running": true}]}

Of a plane it has `x` and `y` instead of `alpha`, and `gram` instead of `length`. Its `state` is
`closed` (not looked at since the start), `opening`, `open`, or `failed` with a `message`; a
section that is looked at opens by itself. A refinement tries again after a failure.

`GET /api/progress` tells what is being done:

    {"life": "5f0c2a91", "waiting": 32, "most_waiting": 20000, "evaluated": 33,
     "seconds_a_point": 0.01,
     "running": {"section": "0a1b…", "request": 3, "points": 1, "done": 0, "of": 1, "doing": "…"},
     "jobs": […], "sections": [{"section": "0a1b…", "kind": "line", "anchors": […],
                                "state": "open", "count": 33, "waiting": 32}]}

Refused are: a wrong host or origin (403), no or a wrong token (401), any other path (404) or method
(405), a section whose anchors are gone (409), a body without its length (411), of more than 64 KiB
(413) or of another type (415), what is no such request (400), and more than the queue holds (429,
with `Retry-After`). A client that takes more than ten seconds to say what it wants is hung up on.
"""

import hmac
import io
import re
import secrets
import socketserver
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any

from thalweg.explorer.deadline import DeadlineReader
from thalweg.explorer.explorer import Explorer
from thalweg.explorer.request_error import RequestError
from thalweg.explorer.strict_json import decoded, encoded
from thalweg.reports.viewer import viewer_script, viewer_style

__all__ = ["ExplorerServer"]

_HOST = "127.0.0.1"
_SECONDS = 10.0  # for a client to say what it wants, and to take the answer
_MOST_BYTES = 64 * 1024
_DRAINED_BYTES = 1 << 26

_HTML, _SCRIPT, _STYLE = (f"text/{kind}; charset=utf-8" for kind in ("html", "javascript", "css"))
_SECURITY = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True)
class _Answer:
    """What is sent back."""

    status: int
    body: bytes
    kind: str = "application/json"


class ExplorerServer(ThreadingHTTPServer):
    """Serves an explorer to the readers that have its address.

    Args:
        explorer: What it serves; it is started and stopped by whoever made it.
        port: 0 for any that is free.

    Attributes:
        explorer: What it serves.
        token: The secret.
        page: Path to content and type, of the static page.

    Raises:
        OSError: If the port is taken.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, explorer: Explorer, port: int = 0) -> None:
        self.explorer = explorer
        self.token = secrets.token_urlsafe(32)
        folder = resources.files("thalweg.explorer") / "page"
        self.page = {
            "/": ((folder / "explorer.html").read_bytes(), _HTML),
            "/explorer.js": ((folder / "explorer.js").read_bytes(), _SCRIPT),
            "/explorer.css": ((folder / "explorer.css").read_bytes(), _STYLE),
            "/viewer.js": (viewer_script().encode(), _SCRIPT),
            "/viewer.css": (viewer_style().encode(), _STYLE),
        }
        try:
            super().__init__((_HOST, port), _Conversation)
        except (OSError, OverflowError) as error:
            raise OSError(
                f"An explorer needs a free port from 0 to 65535, 0 for any; {port} cannot be had "
                f"({error}). Choose another with --port."
            ) from error

    @property
    def address(self) -> str:
        """The address for readers, with the token."""
        return f"http://{_HOST}:{self.server_port}/#token={self.token}"

    @property
    def hosts(self) -> tuple[str, ...]:
        """What the server is called by its own readers."""
        return f"{_HOST}:{self.server_port}", f"localhost:{self.server_port}"

    def server_bind(self) -> None:
        """Take the port, without asking a name server what this machine is called."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = _HOST, int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep quiet about clients that went away; tell of anything else."""
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _Conversation(BaseHTTPRequestHandler):
    """One request, and its answer."""

    server: ExplorerServer
    protocol_version = "HTTP/1.1"
    server_version = "thalweg"
    sys_version = ""
    timeout = _SECONDS

    def setup(self) -> None:
        """Read no longer than there is time."""
        super().setup()
        self.rfile.close()
        self.rfile = io.BufferedReader(DeadlineReader(self.connection, _SECONDS))
        self._unread = 0

    def do_GET(self) -> None:
        """Answer."""
        self._converse()

    def do_POST(self) -> None:
        """Answer."""
        self._converse()

    def log_message(self, format: str, *args: Any) -> None:
        """Write no log: addresses could end up in it."""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what is no HTTP, or a method that is not known, as everything else."""
        if code == 501:
            code, message = 405, "methods are GET and POST"
        text = f"A request must be HTTP/1.1 as this server knows it; {message or code}. Correct it."
        self._send(_Answer(code, encoded({"error": text})), {})

    def _converse(self) -> None:
        """Find the answer and send it."""
        headers: Mapping[str, str] = {}
        try:
            answer = self._answer()
        except RequestError as refusal:
            answer = _Answer(refusal.status, encoded({"error": str(refusal)}))
            headers = refusal.headers
        except OSError as error:
            if isinstance(error, ConnectionError | TimeoutError):
                raise
            text = f"What is asked for must be kept, and cannot be ({error}). Make room, try again."
            answer = _Answer(503, encoded({"error": text}))
        self._send(answer, headers)
        # Else the system could reset the connection before the answer is read.
        left = min(self._unread, _DRAINED_BYTES)
        while left > 0 and (part := self.rfile.read(min(left, _MOST_BYTES))):
            left -= len(part)

    def _answer(self) -> _Answer:
        """Return the answer to a request, after making sure that it is one of a reader."""
        self._unread = _length(self.headers.get_all("Content-Length") or [])
        self._expect_own()
        path, _, query = self.path.partition("?")
        if path in self.server.page:
            if self.command != "GET" or query:
                raise _no_such_path(self.path)
            content, kind = self.server.page[path]
            return _Answer(200, content, kind)
        route, name = _route(path)
        self._expect_token()
        if self.command not in route:
            allowed = ", ".join(route)
            raise RequestError(
                405,
                f"{path} takes {allowed}; got {self.command}. Use that.",
                {"Allow": allowed},
            )
        takes_after = self.command == "GET" and name
        if query and not takes_after:
            raise _no_such_path(self.path)
        sent = _after(query, path) if self.command == "GET" else self._content()
        return _Answer(200, encoded(route[self.command](self.server.explorer, name, sent)))

    def _expect_own(self) -> None:
        """Raise unless the request is for this server, and of its own page or of no page.

        A page of another site can make a browser send requests here, under a name of its own that
        it has let point to this machine, too.
        """
        hosts = self.headers.get_all("Host") or []
        if len(hosts) != 1 or hosts[0] not in self.server.hosts:
            raise RequestError(
                403,
                f"The host must be {' or '.join(self.server.hosts)}; got "
                f"{', '.join(hosts)[:80] or 'none'}. Use the address that the server printed.",
            )
        origins = self.headers.get_all("Origin") or []
        site = self.headers.get("Sec-Fetch-Site", "none")
        own = [f"http://{host}" for host in self.server.hosts]
        if any(origin not in own for origin in origins) or site not in ("same-origin", "none"):
            raise RequestError(
                403,
                "Requests must come from the explorer's own page; this one came from "
                f"{', '.join(origins)[:80] or f'a {site[:20]} page'}. Open the address that the "
                "server printed in a tab of its own.",
            )

    def _expect_token(self) -> None:
        """Raise unless the request has the token."""
        given = self.headers.get_all("Authorization") or []
        wanted = f"Bearer {self.server.token}".encode()
        text = given[0] if len(given) == 1 else ""
        if not hmac.compare_digest(text.encode("utf-8", "surrogateescape"), wanted):
            raise RequestError(
                401,
                "A request for data needs the token, as `Authorization: Bearer TOKEN`; got "
                f"{'another' if given else 'none'}. Open the address that the server printed; each "
                "start has a new one.",
                {"WWW-Authenticate": "Bearer"},
            )

    def _content(self) -> dict[str, Any]:
        """Return the object in the body of a request."""
        lengths = self.headers.get_all("Content-Length") or []
        if not lengths or "Transfer-Encoding" in self.headers:
            raise RequestError(
                411, "A body needs its length, as Content-Length; got none. Send it."
            )
        if self._unread > _MOST_BYTES:
            raise RequestError(
                413,
                f"A body has at most {_MOST_BYTES} bytes; got {self._unread}. Ask for less.",
            )
        kinds = self.headers.get_all("Content-Type") or []
        kind = kinds[0] if len(kinds) == 1 else ""
        if not re.fullmatch(r'application/json(\s*;\s*charset="?utf-8"?)?', kind.strip(), re.I):
            raise RequestError(
                415,
                f"The type of a body is application/json; got {', '.join(kinds)[:80] or 'none'}. "
                "Send JSON, and say so in Content-Type.",
            )
        body = self.rfile.read(self._unread)
        if len(body) < self._unread:
            raise ConnectionAbortedError("the client hung up in the middle of a request")
        self._unread = 0
        return decoded(body)

    def _send(self, answer: _Answer, headers: Mapping[str, str]) -> None:
        """Send an answer; the connection ends with it."""
        self.connection.settimeout(_SECONDS)
        self.send_response(answer.status)
        further = {"Content-Type": answer.kind, "Content-Length": str(len(answer.body))}
        for name, value in {**_SECURITY, **further, "Connection": "close", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)
            self.wfile.flush()


# What answers a method at a path: the explorer, the id in the path, and what was sent.
_Act = Callable[[Explorer, str, Any], dict[str, Any]]

_ROUTES: Mapping[str, Mapping[str, _Act]] = {
    "/api/run": {"GET": lambda explorer, _, after: explorer.run()},
    "/api/progress": {"GET": lambda explorer, _, after: explorer.progress()},
    "/api/sections": {"POST": lambda explorer, _, content: explorer.define(content)},
    "/api/sections/([0-9a-f]{16})": {
        "GET": lambda explorer, name, after: explorer.section(name, after)
    },
    "/api/sections/([0-9a-f]{16})/refine": {
        "POST": lambda explorer, name, content: explorer.refine(name, content)
    },
}


def _route(path: str) -> tuple[Mapping[str, _Act], str]:
    """Return what answers at a path, and the id in it; paths are compared as they came."""
    for pattern, route in _ROUTES.items():
        if found := re.fullmatch(pattern, path):
            return route, found[1] if found.groups() else ""
    raise _no_such_path(path)


def _no_such_path(path: str) -> RequestError:
    """Return the refusal of a path."""
    known = "/, /api/run, /api/progress, /api/sections, /api/sections/ID"
    return RequestError(
        404, f"There are {known} and /api/sections/ID/refine; got {path[:80]}. Use one of these."
    )


def _after(query: str, path: str) -> int:
    """Return the N of `after=N`, 0 without."""
    if not query:
        return 0
    found = re.fullmatch(r"after=([0-9]{1,9})", query)
    if found is None:
        raise _no_such_path(f"{path}?{query}")
    return int(found[1])


def _length(given: list[str]) -> int:
    """Return the length of a body, 0 where none is told."""
    if not given:
        return 0
    if len(given) > 1 or not re.fullmatch(r"[0-9]{1,18}", given[0]):
        raise RequestError(
            400, f"Content-Length is one whole number; got {', '.join(given)[:40]}. Send that."
        )
    return int(given[0])
