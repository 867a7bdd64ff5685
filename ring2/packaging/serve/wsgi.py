"""A small threaded WSGI server.

Owns the connections and the threads. It stands behind enjin's router, which has already bounded and cleaned the request. Idle
connections wait in one selector, so they cost no thread.

Source: PEP 3333.
"""

from __future__ import annotations

import contextlib
import io
import queue
import re
import selectors
import socket
import sys
import threading
import time
import traceback
import urllib.parse
from collections.abc import Callable, Iterable
from typing import Any, Final

from .wire import BadRequest, Body, Connection, Fields, body_of, parse_head

IDLE_S_MAX: Final = 65.0
IO_S_MAX: Final = 30.0
STOP_S_MAX: Final = 10.0
LINGER_S: Final = 0.02

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def environ_of(method: str, target: str, minor: int, fields: Fields, body: Body, server: Server) -> dict[str, Any]:
    """Return the WSGI environment of one request."""
    if target.startswith(("http://", "https://")):
        target = "/" + target.split("/", 3)[3] if target.count("/") > 2 else "/"
    path, _, query = target.partition("?")
    environ: dict[str, Any] = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": urllib.parse.unquote_to_bytes(path.encode("latin-1")).decode("latin-1"),
        "QUERY_STRING": query,
        "RAW_URI": target,
        "SERVER_NAME": server.name,
        "SERVER_PORT": str(server.port),
        "SERVER_PROTOCOL": f"HTTP/1.{minor}",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BufferedReader(body, 16_384),
        "wsgi.input_terminated": True,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    for name, value in fields:
        if "_" in name:
            continue
        key = name.upper().replace("-", "_")
        if key in ("CONTENT_LENGTH", "CONTENT_TYPE"):
            environ[key] = value
            continue
        key = "HTTP_" + key
        environ[key] = f"{environ[key]}{'; ' if key == 'HTTP_COOKIE' else ','}{value}" if key in environ else value
    # The router writes these itself and lets no client's through.
    if environ.get("HTTP_X_FORWARDED_PROTO") == "https":
        environ["wsgi.url_scheme"] = "https"
    return environ


class Response:
    """What the app answers, written as it comes."""

    def __init__(self, connection: Connection, method: str, minor: int, keep: bool) -> None:
        self._sock = connection.sock
        self._bodyless = method == "HEAD"
        self._minor = minor
        self.keep = keep
        self.sent = False
        self._head: tuple[str, list[tuple[str, str]]] | None = None
        self._chunked = False
        self._left: int | None = None

    def start(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], None]:
        """Be the app's ``start_response``."""
        if exc_info and self.sent:
            raise exc_info[1].with_traceback(exc_info[2])
        if self._head is not None and not exc_info:
            raise RuntimeError("start_response was called twice")
        text = [status, *(part for pair in headers for part in pair)]
        if not re.match(r"[1-9][0-9]{2} ?", status) or any("\r" in part or "\n" in part or "\0" in part for part in text):
            raise ValueError("a status or header holds what HTTP does not allow")
        self._head = (status, list(headers))
        return self.write

    def _send_head(self, first: bytes, whole: bool, status: str, headers: list[tuple[str, str]]) -> bytes:
        """Return the head; decide how the body's end will be known."""
        names = {name.lower(): value for name, value in headers}
        code = int(status[:3])
        empty = code in (204, 304) or code < 200
        ours = ("connection", "transfer-encoding")
        lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in headers if name.lower() not in ours)]
        if empty:
            self._bodyless = True
        elif "content-length" in names:
            self._left = int(names["content-length"])
        elif whole:
            lines.append(f"Content-Length: {len(first)}")
            self._left = len(first)
        elif self._minor == 1:
            lines.append("Transfer-Encoding: chunked")
            self._chunked = True
        else:
            self.keep = False
        lines.append("Connection: keep-alive" if self.keep else "Connection: close")
        self.sent = True
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"

    def write(self, data: bytes, whole: bool = False) -> None:
        """Send *data*; *whole* says that nothing follows."""
        if self._head is None:
            raise RuntimeError("start_response was not called")
        head = b"" if self.sent else self._send_head(data, whole, *self._head)
        if self._bodyless:
            data = b""
        if self._left is not None and not self._bodyless:
            data = data[: self._left]
            self._left -= len(data)
        if self._chunked and data and not self._bodyless:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        if head or data:
            self._sock.sendall(head + data)

    def finish(self) -> None:
        """End the body."""
        if not self.sent:
            self.write(b"", whole=True)
        if self._chunked and not self._bodyless:
            self._sock.sendall(b"0\r\n\r\n")
        if self._left and not self._bodyless:
            self.keep = False  # the app sent less than it had announced: only closing tells the client


class Server:
    """Listens, keeps idle connections in a selector and gives busy ones to threads."""

    def __init__(self, application: Application, listener: socket.socket, threads: int = 16, connections: int = 1_024) -> None:
        self.application = application
        self.listener = listener
        self.name, self.port = listener.getsockname()[:2]
        self._connections = connections
        self._open = 0
        self._ready: queue.SimpleQueue[Connection | None] = queue.SimpleQueue()
        self._idle: queue.SimpleQueue[Connection] = queue.SimpleQueue()
        self._wake, self._woken = socket.socketpair()
        self._wake.setblocking(False)
        self._stopping = False
        self._threads = [threading.Thread(target=self._work, name=f"worker-{n}", daemon=True) for n in range(threads)]

    def stop(self, *_: Any) -> None:
        """Accept nothing more, finish what runs; safe in a signal handler."""
        self._stopping = True
        self._nudge()

    def _nudge(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._wake.send(b"\0")

    def serve(self) -> None:
        """Serve until ``stop``."""
        for thread in self._threads:
            thread.start()
        selector = selectors.DefaultSelector()
        self.listener.setblocking(False)
        selector.register(self.listener, selectors.EVENT_READ)
        selector.register(self._woken, selectors.EVENT_READ)
        idle: dict[int, tuple[Connection, float]] = {}
        while not self._stopping:
            for key, _ in selector.select(1.0):
                if key.fileobj is self.listener:
                    self._accept()
                elif key.fileobj is self._woken:
                    self._woken.recv(4_096)
                else:
                    selector.unregister(key.fileobj)
                    self._ready.put(idle.pop(key.fd)[0])
            self._collect(selector, idle)
        self.listener.close()
        for _ in self._threads:
            self._ready.put(None)
        deadline = time.monotonic() + STOP_S_MAX
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _accept(self) -> None:
        for _ in range(64):
            try:
                sock, peer = self.listener.accept()
            except OSError:
                return
            if self._open >= self._connections:
                sock.close()
                continue
            self._open += 1
            sock.settimeout(IO_S_MAX)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._ready.put(Connection(sock, peer))

    def _collect(self, selector: selectors.BaseSelector, idle: dict[int, tuple[Connection, float]]) -> None:
        """Take back connections that wait for their next request; close those that waited too long."""
        now = time.monotonic()
        while not self._idle.empty():
            connection = self._idle.get()
            if connection.sock.fileno() < 0:
                self._open -= 1
                continue
            idle[connection.sock.fileno()] = (connection, now + IDLE_S_MAX)
            selector.register(connection.sock, selectors.EVENT_READ)
        for number in [number for number, (_, until) in idle.items() if until < now]:
            connection, _ = idle.pop(number)
            selector.unregister(connection.sock)
            connection.sock.close()
            self._open -= 1

    def _work(self) -> None:
        while (connection := self._ready.get()) is not None:
            if not self._converse(connection):
                connection.sock.close()
            self._idle.put(connection)
            self._nudge()

    def _converse(self, connection: Connection) -> bool:
        """Answer requests until none is there; return whether the connection stays open."""
        try:
            while True:
                if not self._answer(connection) or self._stopping:
                    return False
                if connection.buffer:
                    continue
                # A busy client's next request is usually here at once; asking the selector would cost two thread switches.
                with selectors.PollSelector() as soon:
                    soon.register(connection.sock, selectors.EVENT_READ)
                    if not soon.select(LINGER_S if self._ready.empty() else 0):
                        return True
        except (OSError, BadRequest):
            return False

    def _answer(self, connection: Connection) -> bool:
        try:
            head = connection.read_head()
            if head is None:
                return False
            method, target, minor, fields = parse_head(head)
            length, chunked = body_of(fields)
        except BadRequest as error:
            connection.sock.sendall(f"HTTP/1.1 {error}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
            return False
        values = dict(fields)
        options = values.get("connection", "").lower()
        keep = "close" not in options and (minor == 1 or "keep-alive" in options)
        if values.get("expect", "").lower() == "100-continue" and minor == 1:
            connection.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = Body(connection, length, chunked)
        response = Response(connection, method, minor, keep)
        environ = environ_of(method, target, minor, fields, body, self)
        environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = connection.peer[0], str(connection.peer[1])
        self._call(environ, response)
        return response.keep and body.drain()

    def _call(self, environ: dict[str, Any], response: Response) -> None:
        pieces: Any = None
        try:
            pieces = self.application(environ, response.start)
            whole = isinstance(pieces, list | tuple) and len(pieces) == 1
            for piece in pieces:
                if piece:
                    response.write(piece, whole)
            response.finish()
        except (OSError, BadRequest):
            response.keep = False
            raise
        except Exception:
            traceback.print_exc()
            response.keep = False
            if not response.sent:
                response.start("500 Internal Server Error", [("Content-Type", "text/plain")], (None, None, None))
                response.write(b"internal server error\n", whole=True)
        finally:
            if hasattr(pieces, "close"):
                pieces.close()
