"""The servers that come with a release: a real socket, a real client."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ring2.packaging.serve.static import Static, parse_range
from ring2.packaging.serve.wsgi import Application, Server

DEADLINE_S = 10.0


class Client:
    """A socket, a request, an answer."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S)
        self.file = self.sock.makefile("rb")

    def ask(self, raw: bytes, head: bool = False) -> tuple[int, dict[str, str], bytes]:
        self.sock.sendall(raw)
        line = self.file.readline()
        if not line:
            return 0, {}, b""
        fields = {}
        while (field := self.file.readline()) not in (b"\r\n", b""):
            name, _, value = field.decode("latin-1").partition(":")
            fields[name.lower()] = value.strip()
        status = int(line.split()[1])
        if head or status in (204, 304) or status < 200:
            return status, fields, b""
        if fields.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(self.file.readline(), 16):
                body += self.file.read(size)
                self.file.readline()
            self.file.readline()
            return status, fields, body
        return status, fields, self.file.read(int(fields["content-length"])) if "content-length" in fields else self.file.read()

    def close(self) -> None:
        self.file.close()
        self.sock.close()


Start = Callable[[Application], int]


@pytest.fixture
def start() -> Iterator[Start]:
    running: list[tuple[Server, threading.Thread]] = []

    def begin(application: Application, **options: int) -> int:
        listener = socket.create_server(("127.0.0.1", 0))
        server = Server(application, listener, **options)
        thread = threading.Thread(target=server.serve, daemon=True)
        thread.start()
        running.append((server, thread))
        return server.port

    yield begin
    for server, thread in running:
        server.stop()
        thread.join(DEADLINE_S)
        assert not thread.is_alive()


def once(port: int, raw: bytes) -> tuple[int, dict[str, str], bytes]:
    with contextlib.closing(Client(port)) as client:
        return client.ask(raw, head=raw.startswith(b"HEAD"))


def echo(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    body = environ["wsgi.input"].read()
    start_response("200 OK", [("X-Path", environ["PATH_INFO"]), ("X-Query", environ["QUERY_STRING"])])
    return [body or b"empty"]


def test_keep_alive_serves_request_after_request(start: Start) -> None:
    """One connection, many requests, idle in between, pipelined too."""
    with contextlib.closing(Client(start(echo))) as client:
        for number in range(3):
            assert client.ask(b"POST /a%%20b?q=%d HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi" % number)[::2] == (200, b"hi")
            time.sleep(0.05)  # longer than the server lingers: the connection goes through the selector
        status, fields, _ = client.ask(b"GET /p HTTP/1.1\r\nHost: x\r\n\r\nGET /q HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert (status, fields["x-path"]) == (200, "/p")
        assert client.ask(b"")[1]["x-path"] == "/q"


def test_chunked_body_is_read(start: Start) -> None:
    """Chunks, an extension and a trailer are one body."""
    raw = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n3;x=y\r\n yo\r\n0\r\nT: v\r\n\r\n"
    assert once(start(echo), raw)[2] == b"hi yo"


def test_expect_continue(start: Start) -> None:
    """A client that asks first is told to go on."""
    with contextlib.closing(Client(start(echo))) as client:
        assert client.ask(b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")[0] == 100
        assert client.ask(b"hi")[2] == b"hi"


@pytest.mark.parametrize(
    "raw",
    [
        b"GET /\r\n\r\n", b"GET / HTTP/2.0\r\n\r\n", b"G@T / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nX : y\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: y\r\n z\r\n\r\n", b"GET / HTTP/1.1\r\nX: a\x00b\r\n\r\n", b"GET / HTTP/1.1\r\nX: a\nY: b\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", b"GET / HTTP/1.1\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
    ],
)  # fmt: skip
def test_what_is_not_plain_http_is_refused(start: Start, raw: bytes) -> None:
    """A request that could be read in two ways is a 4xx and the end of the connection."""
    status, fields, _ = once(start(echo), raw)
    assert 400 <= status < 500
    assert fields["connection"] == "close"


def test_failing_app_is_500_and_the_server_lives(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    """An exception becomes a 500 without its text, the traceback goes to the log, the next request is served."""

    def fail(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        if environ["PATH_INFO"] == "/bad":
            raise KeyError("secret")
        start_response("200 OK", [("X", "a\r\nb")] if environ["PATH_INFO"] == "/split" else [])
        return [b"fine"]

    port = start(fail)
    for path in (b"bad", b"split"):
        status, _, body = once(port, b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n" % path)
        assert (status, body) == (500, b"internal server error\n")
    assert "secret" in capsys.readouterr().err
    assert once(port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")[2] == b"fine"


def test_streamed_answer_is_chunked_and_head_has_no_body(start: Start) -> None:
    """An answer of unknown length goes in chunks to 1.1 and to the end of the connection for 1.0."""
    closed = threading.Event()

    class Pieces:
        def __iter__(self) -> Iterator[bytes]:
            yield from (b"a", b"", b"bc")

        def close(self) -> None:
            closed.set()

    def stream(_: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        start_response("200 OK", [])
        return Pieces()

    port = start(stream)
    assert once(port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")[2] == b"abc"
    assert closed.wait(DEADLINE_S)
    status, fields, body = once(port, b"GET / HTTP/1.0\r\n\r\n")
    assert (status, body, fields["connection"]) == (200, b"abc", "close")
    assert once(port, b"HEAD / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")[0] == 200


def test_more_idle_clients_than_threads(start: Any) -> None:
    """Idle connections cost no thread: fifty of them, two threads, and a fifty-first is served."""
    port = start(echo, threads=2)
    clients = [Client(port) for _ in range(50)]
    try:
        for client in clients:
            assert client.ask(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")[0] == 200
        assert once(port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")[0] == 200
        assert clients[0].ask(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")[0] == 200
    finally:
        for client in clients:
            client.close()


def test_environ_is_what_pep_3333_asks(start: Start) -> None:
    """The standard library's own validator finds nothing to say."""
    from wsgiref.validate import validator

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [f"{environ['HTTP_X_TWO']} {environ['HTTP_COOKIE']} {'HTTP_X_ALIAS' in environ}".encode()]

    raw = b"GET / HTTP/1.1\r\nHost: x\r\nX-Two: a\r\nX-Two: b\r\nCookie: c=1\r\nCookie: d=2\r\nX_Alias: evil\r\n\r\n"
    assert once(start(validator(app)), raw)[2] == b"a,b c=1; d=2 False"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    root = tmp_path / "site"
    files = {"index.html": "home", "a.txt": "0123456789", "sub/index.html": "sub", ".git/config": "no", ".env": "no", "ü.css": "x"}
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (tmp_path / "outside").write_text("no")
    (root / "out").symlink_to("../outside")
    (root / "hidden").symlink_to(".env")
    (root / "inside").symlink_to("a.txt")
    (root / ".well-known").mkdir()
    (root / ".well-known/x").write_text("well")
    os.mkfifo(root / "pipe")
    return root


def get(site: Path, path: str, method: str = "GET", **fields: str) -> tuple[int, dict[str, str], bytes]:
    got: list[Any] = []
    from urllib.parse import unquote

    raw, _, query = path.partition("?")
    environ = {"REQUEST_METHOD": method, "PATH_INFO": unquote(raw).encode().decode("latin-1"), "QUERY_STRING": query, "RAW_URI": path}
    body = b"".join(Static(str(site))({**environ, **fields}, lambda status, headers: got.extend((status, dict(headers)))))
    return int(got[0][:3]), got[1], body


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("/", 200, b"home"), ("/index.html", 200, b"home"), ("/a.txt", 200, b"0123456789"), ("/sub/", 200, b"sub"),
        ("/inside", 200, b"0123456789"),
        ("/%C3%BC.css", 200, b"x"), ("/.well-known/x", 200, b"well"), ("/index", 200, b"home"), ("/sub", 308, None), ("/a.txt/", 404, None),
        ("/nothing", 404, None), ("/.git/config", 404, None), ("/.env", 404, None), ("/hidden", 404, None), ("/out", 404, None),
        ("/../outside", 404, None), ("/%2e%2e/outside", 404, None), ("/sub/%2e%2e/%2e%2e/outside", 404, None), ("/pipe", 404, None),
        ("/a%00.txt", 404, None), ("/.well-known/../.env", 404, None), ("//outside", 404, None), ("/" + "x" * 5000, 404, None),
    ],
)  # fmt: skip
def test_only_public_files_are_served(site: Path, path: str, status: int, body: bytes | None) -> None:
    """Files beneath the root are served, whatever the spelling nothing else is."""
    got = get(site, path)
    assert got[0] == status
    assert body is None or got[2] == body
    assert got[2] != b"no"


def test_redirect_stays_on_the_site(site: Path) -> None:
    """A folder without its slash is redirected to itself, never to another host."""
    assert get(site, "/sub?q=1")[1]["Location"] == "/sub/?q=1"
    assert get(site, "//sub")[1]["Location"] == "/sub/"


def test_validators_are_contents(site: Path) -> None:
    """The tag is a hash of the contents: equal times and sizes with other contents are told apart."""
    status, headers, _ = get(site, "/a.txt")
    assert headers["ETag"] == '"' + hashlib.sha256(b"0123456789").hexdigest()[:32] + '"'
    assert get(site, "/a.txt", HTTP_IF_NONE_MATCH=f'"x", W/{headers["ETag"]}')[0] == 304
    assert get(site, "/a.txt", HTTP_IF_NONE_MATCH='"x"')[0] == status
    assert get(site, "/a.txt", method="POST")[0] == 405


@pytest.mark.parametrize(
    ("asked", "status", "body"),
    [
        ("bytes=0-3", 206, b"0123"), ("bytes=8-", 206, b"89"), ("bytes=-2", 206, b"89"), ("bytes=5-99", 206, b"56789"),
        ("bytes=-99", 206, b"0123456789"),
        ("bytes=10-", 416, None), ("bytes=-0", 416, None), ("bytes=3-2", 200, b"0123456789"), ("bytes=0-1,3-4", 200, b"0123456789"),
        ("lines=0-3", 200, b"0123456789"), ("bytes=-", 200, b"0123456789"), ("bytes=" + "9" * 30 + "-", 200, b"0123456789"),
    ],
)  # fmt: skip
def test_ranges(site: Path, asked: str, status: int, body: bytes | None) -> None:
    """One range is honoured, several and nonsense are ignored, one beyond the end is 416."""
    got = get(site, "/a.txt", HTTP_RANGE=asked)
    assert got[0] == status
    assert body is None or got[2] == body
    assert (status == 206) == ("Content-Range" in got[1] and status != 416)
    assert get(site, "/a.txt", HTTP_RANGE=asked, HTTP_IF_RANGE='"old"')[0] == 200


def test_empty_file_has_no_range() -> None:
    """Of nothing there is no first byte."""
    assert (parse_range("bytes=0-", 0), parse_range("bytes=-5", 0)) == ("unsatisfiable", "unsatisfiable")


def test_sigterm_finishes_the_request_in_progress(tmp_path: Path) -> None:
    """As a release runs it: SIGTERM ends the server after the answer that is under way, with status 0."""
    from ring2.packaging.environment import _place_servers
    from ring2.packaging.recognise import Recognised

    gate = tmp_path / "gate"
    os.mkfifo(gate)
    (tmp_path / "app.py").write_text(
        f"def app(environ, start_response):\n    open({str(gate)!r}).close()\n    start_response('200 OK', [])\n    return [b'done']\n"
    )
    _place_servers(tmp_path, Recognised("python", {}, serve=True))
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    listener.close()
    command = ["/usr/bin/python3", ".enjin/serve", "app:app"]
    child = subprocess.Popen(command, cwd=tmp_path, env={"PORT": str(port), "PYTHONUNBUFFERED": "1"}, stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        assert b"listening" in child.stdout.readline()
        with contextlib.closing(Client(port)) as client:
            client.sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            opened = open(gate, "w")  # noqa: SIM115 - returns once the app has opened the other end: it is in progress
            child.terminate()
            opened.close()
            assert client.ask(b"")[2] == b"done"
        assert child.wait(DEADLINE_S) == 0
    finally:
        child.kill()
        child.wait()
        if child.stdout:
            child.stdout.close()
