"""What the server answers, and whom."""

import json
import re
import socket
import threading

import pytest
from explored import LINE, Counted, Reader, finished, request, serving, until

from thalweg.explorer import server as module
from thalweg.explorer.server import ExplorerServer

API = [
    ("GET", "/api/run"),
    ("GET", "/api/progress"),
    ("POST", "/api/sections"),
    ("GET", "/api/sections/0123456789abcdef"),
    ("POST", "/api/sections/0123456789abcdef/refine"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("explorer")) as started:
        yield started


@pytest.fixture
def bearer(server):
    return f"Bearer {server.token}"


def test_a_reader_finds_points(server):
    reader = Reader(server.address)
    run = reader.get("/api/run")
    assert [each["anchor"] for each in run["snapshots"]] == ["step 0", "step 1", "step 2"]
    assert run["snapshots"][0]["loss"] == "NaN"
    assert run["solutions"] == [{"anchor": "solution better", "file": "better.pt"}]
    section = reader.post("/api/sections", LINE)["section"]
    told = reader.post(f"/api/sections/{section}/refine", {"from": 0, "to": 1, "points": 5})
    assert told["new"] == 5
    found = until(
        lambda: Reader(server.address).get(f"/api/sections/{section}"),
        lambda answer: answer["count"] == 5,
    )
    assert found == {**reader.get(f"/api/sections/{section}?after=0"), "jobs": found["jobs"]}
    assert reader.get(f"/api/sections/{section}?after=4")["alpha"] == found["alpha"][4:]
    progress = reader.get("/api/progress")
    assert progress["evaluated"] >= 5
    assert section in [each["section"] for each in progress["sections"]]


def test_it_listens_to_this_machine_alone(server):
    assert server.socket.getsockname()[0] == "127.0.0.1"
    assert server.address.startswith(f"http://127.0.0.1:{server.server_port}/#token=")
    assert len(server.token) >= 43


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/", "text/html"), ("/explorer.js", "text/javascript"), ("/explorer.css", "text/css")],
)
def test_the_page_needs_no_token_and_holds_no_data(server, path, kind):
    status, headers, content = request(server.server_port, "GET", path)
    assert status == 200
    assert headers["Content-Type"] == f"{kind}; charset=utf-8"
    assert server.token.encode() not in content
    assert b"step 0" not in content


@pytest.mark.parametrize("path", ["/", "/api/run", "/nothing"])
def test_every_answer_is_guarded(server, path):
    _, headers, _ = request(server.server_port, "GET", path)
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
    assert "connect-src 'self'" in policy
    assert "unsafe" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "Access-Control-Allow-Origin" not in headers
    assert "Python" not in headers["Server"]


def test_the_page_keeps_its_own_policy(server):
    _, _, content = request(server.server_port, "GET", "/")
    page = content.decode()
    assert not re.search(r"<style|style=|\son\w+=|javascript:|https?://", page)
    assert re.findall(r"<script[^>]*>([^<]*)", page) == ["", ""]


@pytest.mark.parametrize(("method", "path"), API)
@pytest.mark.parametrize("given", [None, "", "Bearer", "Bearer wrong", "Basic TOKEN", "TOKEN"])
def test_data_needs_the_token(server, method, path, given):
    given = given and given.replace("TOKEN", server.token)
    body = b"{}" if method == "POST" else None
    status, headers, told = request(server.server_port, method, path, body, Authorization=given)
    assert status == 401
    assert headers["WWW-Authenticate"] == "Bearer"
    assert "needs the token" in told["error"]
    assert "Open the address that the server printed" in told["error"]


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "localhost", "0.0.0.0:PORT", "", None]
)
@pytest.mark.parametrize("path", ["/", "/api/run"])
def test_another_host_is_refused(server, bearer, host, path):
    host = host and host.replace("PORT", str(server.server_port))
    port = server.server_port
    status, _, told = request(port, "GET", path, Host=host, Authorization=bearer)
    assert status == 403
    assert "The host must be 127.0.0.1:" in told["error"]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_its_own_hosts_and_origins_are_not_refused(server, bearer, host):
    own = f"{host}:{server.server_port}"
    headers = {"Origin": f"http://{own}", "Sec_Fetch_Site": "same-origin"}
    answer = request(
        server.server_port, "GET", "/api/run", Host=own, Authorization=bearer, **headers
    )
    assert answer[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "https://127.0.0.1:PORT"},
        {"Origin": "http://127.0.0.1"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ],
)
@pytest.mark.parametrize(("method", "path"), API[:3])
def test_another_origin_is_refused(server, bearer, headers, method, path):
    port = server.server_port
    headers = {name: value.replace("PORT", str(port)) for name, value in headers.items()}
    body = b"{}" if method == "POST" else None
    status, _, told = request(port, method, path, body, Authorization=bearer, **headers)
    assert status == 403
    assert "the explorer's own page" in told["error"]


@pytest.mark.parametrize(
    "path",
    [
        "/index.html",
        "/explorer.html",
        "/server.py",
        "/page/explorer.js",
        "/../server.py",
        "/%2e%2e/server.py",
        "/explorer.js/../server.py",
        "/explorer%2ejs",
        "/explorer.js?x=1",
        "/api",
        "/api/",
        "/api/run/",
        "/api/run?x=1",
        "/api/run/..",
        "/api/../api/run",
        "/api/%72un",
        "/api/sections/",
        "/api/sections/..%2f..%2fetc",
        "/api/sections/0123456789abcdeF",
        "/api/sections/0123456789abcdef0",
        "/api/sections/0123456789abcdef/",
        "/api/sections/0123456789abcdef?after=-1",
        "/api/sections/0123456789abcdef?after=1&x=2",
        "/api/sections/0123456789abcdef/points",
        "http://127.0.0.1/api/run",
        "*",
        "/etc/passwd",
        "/\\..\\server.py",
        "/api/run\x7f",
    ],
)
def test_other_paths_are_not_there(server, bearer, path):
    line = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{server.server_port}\r\n"
    answer = raw(server, f"{line}Authorization: {bearer}\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b"Use one of these" in answer


def raw(server, *parts):
    """Send bytes, and return what comes until the server hangs up."""
    with socket.create_connection(("127.0.0.1", server.server_port), 60) as connection:
        for part in parts:
            connection.sendall(part)
        answer = b""
        while part := connection.recv(65536):
            answer += part
    return answer


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/api/run", "GET"),
        ("GET", "/api/sections", "POST"),
        ("GET", "/api/sections/0123456789abcdef/refine", "POST"),
        ("POST", "/api/sections/0123456789abcdef", "GET"),
    ],
)
def test_another_method_is_refused(server, bearer, method, path, allowed):
    body = b"{}" if method == "POST" else None
    port = server.server_port
    status, headers, told = request(port, method, path, body, Authorization=bearer)
    assert (status, headers["Allow"]) == (405, allowed)
    assert f"takes {allowed}; got {method}" in told["error"]


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "HEAD", "TRACE"])
def test_other_methods_are_refused(server, bearer, method):
    line = f"{method} /api/run HTTP/1.1\r\nHost: 127.0.0.1:{server.server_port}\r\n"
    answer = raw(server, f"{line}Authorization: {bearer}\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 405 ")
    assert b"Access-Control" not in answer


@pytest.mark.parametrize(
    ("body", "headers", "status", "message"),
    [
        (b" " * (64 * 1024 + 1), {}, 413, "at most 65536 bytes; got 65537"),
        (b" " * 3_000_000, {}, 413, "at most 65536 bytes; got 3000000"),
        (b"{}", {"Content_Type": None}, 415, "application/json; got none"),
        (b"{}", {"Content_Type": "text/plain"}, 415, "application/json; got text/plain"),
        (b"{}", {"Content_Type": "application/json; charset=latin-1"}, 415, "Send JSON"),
        (b"{}", {"Content_Length": None}, 411, "needs its length"),
        (b"{}", {"Content_Length": "x"}, 400, "Content-Length is one whole number; got x"),
        (b"{}", {"Content_Length": "-2"}, 400, "Content-Length is one whole number"),
        (b"{}", {"Transfer_Encoding": "chunked"}, 411, "needs its length"),
        (b"{", {}, 400, "must be JSON"),
        (b"[]", {}, 400, "one JSON object; got an array"),
        (b'{"kind": NaN}', {}, 400, "NaN is not JSON"),
        (b"{}", {}, 400, "needs the fields kind, anchors"),
        (b'{"kind": "line", "anchors": ["step 0", "step 9"]}', {}, 400, "there is no 'step 9'"),
    ],
)
def test_what_is_no_request_is_refused(server, bearer, body, headers, status, message):
    port = server.server_port
    got, _, told = request(port, "POST", "/api/sections", body, Authorization=bearer, **headers)
    assert got == status
    assert message in told["error"]


def test_a_charset_may_be_told(server, bearer):
    body = json.dumps(LINE).encode()
    port, kind = server.server_port, "application/json; charset=UTF-8"
    headers = {"Authorization": bearer, "Content_Type": kind}
    assert request(port, "POST", "/api/sections", body, **headers)[0] == 200


def test_a_section_that_is_not_there_is_told_of(server, bearer):
    port, path = server.server_port, "/api/sections/0123456789abcdef"
    status, _, told = request(port, "GET", path, Authorization=bearer)
    assert status == 404
    assert "must have been defined" in told["error"]
    body = b'{"from": 0, "to": 1, "points": 3}'
    assert request(port, "POST", f"{path}/refine", body, Authorization=bearer)[0] == 404


def test_what_is_no_http_is_answered_as_everything_else(server):
    answer = raw(server, b"nonsense\r\n\r\n")
    assert b'{"error":"A request must be HTTP/1.1' in answer
    assert b"default-src 'none'" in answer or b"<html" not in answer


def test_two_hosts_or_tokens_are_refused(server, bearer):
    host = f"Host: 127.0.0.1:{server.server_port}\r\n"
    start, token = "GET /api/run HTTP/1.1\r\n", f"Authorization: {bearer}\r\n"
    both = f"{start}{host}Host: evil.example\r\n{token}\r\n"
    assert raw(server, both.encode()).startswith(b"HTTP/1.1 403 ")
    assert raw(server, f"{start}{host}{token}{token}\r\n".encode()).startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize(
    "sent", [b"", b"GET / HT", b"POST /api/sections HTTP/1.1\r\nContent-Type: application/json\r\n"]
)
def test_a_slow_client_is_hung_up_on(server, sent, monkeypatch):
    monkeypatch.setattr(module, "_SECONDS", 0.2)
    assert raw(server, sent) == b""


def test_a_client_that_drips_is_hung_up_on(server, monkeypatch):
    monkeypatch.setattr(module, "_SECONDS", 0.3)
    over = threading.Event()
    with socket.create_connection(("127.0.0.1", server.server_port), 60) as connection:

        def drip():
            while not over.wait(0.05):
                try:
                    connection.sendall(b"x")
                except OSError:
                    return

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            assert connection.recv(1) == b""
        except ConnectionResetError:
            pass  # hung up on, too
        finally:
            over.set()
            dripping.join()


def test_a_client_that_hangs_up_in_the_middle_harms_nobody(server, bearer):
    head = (
        f"POST /api/sections HTTP/1.1\r\nHost: 127.0.0.1:{server.server_port}\r\n"
        f"Authorization: {bearer}\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{{"
    )
    with socket.create_connection(("127.0.0.1", server.server_port), 60) as connection:
        connection.sendall(head.encode())
    assert Reader(server.address).get("/api/run")["parameters"] == 2


def test_a_port_that_is_taken_is_told_of(server):
    with pytest.raises(OSError, match=r"needs a free port .* Choose another with --port"):
        ExplorerServer(server.explorer, server.server_port)
    with pytest.raises(OSError, match=r"from 0 to 65535, 0 for any; 70000 cannot be had"):
        ExplorerServer(server.explorer, 70000)


def test_fifty_refinements_at_once_are_answered(tmp_path):
    cost = Counted()
    with serving(tmp_path, cost) as started:
        section = Reader(started.address).post("/api/sections", LINE)["section"]
        answers, together = [], threading.Barrier(50)

        def refine(i):
            reader = Reader(started.address)
            together.wait()
            asked = {"from": i % 5, "to": i % 5 + 1, "points": 9}
            answers.append(reader.post(f"/api/sections/{section}/refine", asked))

        readers = [threading.Thread(target=refine, args=(i,)) for i in range(50)]
        for each in readers:
            each.start()
        for each in readers:
            each.join()
        found = finished(started.explorer, section)
    assert len(answers) == 50
    assert sum(answer["new"] for answer in answers) == 41
    assert sorted(found["alpha"]) == [i / 8 for i in range(41)]
    assert cost.counts.total() == 42  # and the one that tells costs apart


def test_a_full_queue_is_answered_with_429(tmp_path):
    cost = Counted()
    with serving(tmp_path, cost, most_waiting=10) as started:
        reader = Reader(started.address)
        section = reader.post("/api/sections", LINE)["section"]
        cost.gate.clear()
        reader.post(f"/api/sections/{section}/refine", {"from": 0, "to": 1, "points": 9})
        status, headers, told = request(
            started.server_port,
            "POST",
            f"/api/sections/{section}/refine",
            b'{"from": 2, "to": 3, "points": 5}',
            Authorization=f"Bearer {started.token}",
        )
        cost.gate.set()
        assert status == 429
        assert headers["Retry-After"].isdigit()
        assert f"Ask again in {headers['Retry-After']} s" in told["error"]


def test_two_readers_see_the_same_and_one_who_leaves_takes_nothing(tmp_path):
    cost = Counted()
    with serving(tmp_path, cost) as started:
        one, other = Reader(started.address), Reader(started.address)
        section = one.post("/api/sections", {**LINE, "from": 0, "to": 1, "points": 9})["section"]
        del one
        found = until(
            lambda: other.get(f"/api/sections/{section}"), lambda told: told["count"] == 9
        )
        assert found == Reader(started.address).get(f"/api/sections/{section}") | {
            "jobs": found["jobs"],
            "waiting": found["waiting"],
        }
