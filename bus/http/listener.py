"""Serving the door: uvicorn inside the daemon's own event loop, on an inherited descriptor or an address.

Owns the bounds that the server itself does not have: bytes and seconds until a request's headers are complete, and
connections in all. Signals stay the daemon's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator
from typing import Any, Final

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from enjin.errors import ConfigError
from enjin.log import get

HEADERS_MAX_BYTES: Final = 114_688  # a signed envelope of 64 KiB may stand in one, as base64
HEADERS_DEADLINE_S: Final = 10.0
CONNECTIONS_MAX: Final = 1024
KEEP_ALIVE_S: Final = 15
GRACE_S: Final = 5
BACKLOG: Final = 512
_log = get("bus.http")


class PortTaken(ConfigError):
    """The address to listen on is taken or not ours."""

    code = "E-API-021"
    remedy = "stop what listens there, or set ENJIN_PORT_BASE"


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens at (*host*, *port*). Raises: PortTaken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise PortTaken(f"cannot listen at {host}:{port}: {error.strerror}") from error
    listener.setblocking(False)
    return listener


class _Protocol(HttpToolsProtocol):
    """A connection whose headers are bounded in bytes and in time."""

    _headers_bytes = 0
    _in_headers = True
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS_MAX:
            transport.abort()
            return
        self._expect_headers()

    def _expect_headers(self) -> None:
        self._in_headers, self._headers_bytes = True, 0
        self._forget_deadline()
        self._deadline = self.loop.call_later(HEADERS_DEADLINE_S + KEEP_ALIVE_S, self._give_up)

    def data_received(self, data: bytes) -> None:
        if self._in_headers:
            if self._headers_bytes == 0:
                self._forget_deadline()
                self._deadline = self.loop.call_later(HEADERS_DEADLINE_S, self._give_up)
            self._headers_bytes += len(data)
        super().data_received(data)
        if self._in_headers and self._headers_bytes > HEADERS_MAX_BYTES:
            self._give_up()

    def on_headers_complete(self) -> None:
        self._in_headers = False
        self._forget_deadline()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_deadline()
        super().connection_lost(exc)

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        """End a connection that sends no complete headers; one whose answer is still under way may go on."""
        if self.transport is not None and not self.transport.is_closing() and (self.cycle is None or self.cycle.response_complete):
            self.transport.abort()
        elif self._in_headers and self.transport is not None:
            self._expect_headers()


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Listener:
    """One door being served.

    Args:
        application: The door's.
        listening: A socket that listens; owned from now on.
        on_end: Called when the serving begins to end, so that endless streams end too.
    """

    def __init__(self, application: ASGIApp, listening: socket.socket, on_end: Any = None) -> None:
        logging.getLogger("uvicorn").setLevel(logging.ERROR)
        config = uvicorn.Config(
            application,
            http=_Protocol,
            ws="none",
            loop="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=GRACE_S,
            backlog=BACKLOG,
        )
        self._server = _Server(config)
        self._listening = listening
        self._on_end = on_end
        self._task: asyncio.Task[None] | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        host, port = self._listening.getsockname()[:2]
        return str(host), int(port)

    async def start(self) -> None:
        """Serve from now on, in a task of its own. Raises: what kept it from serving."""
        self._listening.setblocking(False)
        self._task = asyncio.get_running_loop().create_task(self._server.serve([self._listening]))
        while not self._server.started:
            if self._task.done():
                await self._task
                raise ConfigError("the HTTP door did not start")
            await asyncio.sleep(0.001)

    async def close(self) -> None:
        """Take no more connections, let requests under way end for at most 5 s, and return when all is closed."""
        if self._on_end is not None:
            self._on_end()
        self._server.should_exit = True
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)
        self._listening.close()
