"""The client of init's control socket: one coroutine per operation.

Owns the numbering of requests, their answers and the queue of events. Descriptors come as integers that the caller
owns. Reconnecting is the caller's matter: init loses nothing when a client goes.
May import: enjin.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sys
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

from enjin.errors import Conflict, EnjinError, Forbidden, Invalid, NotFound, StepFailed, Unreachable
from enjin.failpoints import failpoint

DATAGRAM_BYTES: Final = 65_536
EVENTS_MAX: Final = 1024
Answer = tuple[dict[str, Any], list[int]]  # the result, and the descriptors that came with it

PROGRAM: Final = Path(__file__).parent / "init" / "__main__.py"


class InitRefused(Invalid):
    """Init was asked something malformed."""

    code = "E-INI-001"


class InitUnknown(NotFound):
    """Init has no such service, handle or operation."""

    code = "E-INI-002"


class InitForbidden(Forbidden):
    """This control socket does not reach that."""

    code = "E-INI-003"
    remedy = "ask over the supervisor's control socket"


class InitStale(Conflict):
    """Init is at a newer generation, or holds another thing by that name."""

    code = "E-INI-004"


class InitFailed(StepFailed):
    """Init could not do it."""

    code = "E-INI-005"


class InitBusy(StepFailed):
    """Init cannot do it now."""

    code = "E-INI-006"


class InitGone(Unreachable):
    """Init does not answer on its control socket."""

    code = "E-INI-007"


ERRORS: Final[dict[str, type[EnjinError]]] = {
    "invalid": InitRefused,
    "unknown": InitUnknown, "forbidden": InitForbidden, "stale": InitStale, "exists": InitStale, "busy": InitBusy, "failed": InitFailed,
}  # fmt: skip


def command(spec_fd: int, *, interpreter: str = "/usr/bin/python3", program: Path | str = PROGRAM) -> list[str]:
    """Return the command line that starts init with its specification on *spec_fd*."""
    return [interpreter, "-I", "-S", str(program), "--spec", str(spec_fd)]


class InitLink:
    """One connection to one init.

    Events that nobody takes are bounded: then the oldest go and ``{"event": "lost"}`` stands in their place.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._waiting: dict[int, asyncio.Future[Answer]] = {}
        self._events: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._lost = 0
        self._number = 0
        self._closed = False
        self._sending = asyncio.Lock()
        asyncio.get_running_loop().add_reader(sock.fileno(), self._readable)

    @classmethod
    async def connect(cls, address: Path | str | int) -> Self:
        """Connect to the control socket at a path, or take over a connected descriptor.

        Raises:
            InitGone: Nobody listens there.
        """
        given = address if isinstance(address, int) else None
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) if given is None else socket.socket(fileno=given)
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * DATAGRAM_BYTES)
        if given is None:
            try:
                sock.connect(str(address))
            except OSError as error:
                sock.close()
                raise InitGone(f"no init at {address}: {error.strerror}") from error
        return cls(sock)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        """Whether the connection has ended."""
        return self._closed

    def close(self) -> None:
        """End the connection; whoever waits gets ``InitGone``."""
        if self._closed:
            return
        self._closed = True
        asyncio.get_running_loop().remove_reader(self._socket.fileno())
        self._socket.close()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(InitGone("init closed the connection"))
        self._waiting.clear()
        self._events.put_nowait(None)

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """Yield what ``watch`` announces, until the connection ends; for one taker."""
        while (event := await self._events.get()) is not None:
            if self._lost:
                lost, self._lost = self._lost, 0
                yield {"event": "lost", "count": lost}
            yield event

    async def spawn(self, service: Mapping[str, Any]) -> dict[str, Any]:
        """Start a service; ``new`` in the answer is false when this generation was there already.

        Raises:
            InitFailed: It cannot be executed; ``errno`` in the details says why.
            InitBusy: An older generation still runs: stop it first.
            InitStale: A newer generation is there.
            InitForbidden: Its uid, gid or groups are not this control's.
        """
        return await self._ask("spawn", service=dict(service))

    async def start(self, name: str) -> dict[str, Any]:
        """Start a service that has ended, in the same generation. Raises: InitUnknown, InitFailed."""
        return await self._ask("start", name=name)

    async def stop(self, name: str, grace_ms: int = 10_000, signal: int | str | None = None) -> dict[str, Any]:
        """End a service and return its view once it has ended; after *grace_ms* by force. Raises: InitUnknown."""
        fields: dict[str, Any] = {"name": name, "grace_ms": grace_ms}
        return await self._ask("stop", **fields if signal is None else {**fields, "signal": signal})

    async def signal(self, name: str, signal: int | str) -> dict[str, Any]:
        """Send a signal to a service's main process. Raises: InitUnknown."""
        return await self._ask("signal", name=name, signal=signal)

    async def list(self) -> dict[str, Any]:
        """Return ``services`` (views without environment), ``handles``, and init's ``pid`` and ``started_us`` (boot time)."""
        return await self._ask("list")

    async def watch(self) -> dict[str, Any]:
        """Announce starts and ends from now on (see ``events``); answers as ``list``, so nothing lies between."""
        return await self._ask("watch")

    async def listen(self, name: str, address: str, port: int) -> int:
        """Return the descriptor of init's listener *name*, made once. Raises: InitFailed (port taken), InitStale."""
        return await self._ask_descriptor("listen", name=name, address=address, port=port)

    async def take(self, handle: str) -> int:
        """Return a copy of the descriptor held as *handle*. Raises: InitUnknown."""
        return await self._ask_descriptor("take", handle=handle)

    async def give(self, name: str, descriptor: int) -> str:
        """Let init hold a copy of *descriptor* as ``listener:name``. Raises: InitForbidden."""
        return str((await self._exchange("give", {"name": name}, (descriptor,)))[0]["handle"])

    async def channel(self, name: str) -> tuple[str, str]:
        """Return the handles of both ends of channel *name*, which is made when there is none."""
        first, second = (await self._ask("channel", name=name))["handles"]
        return str(first), str(second)

    async def drop(self, handle: str) -> None:
        """Let init close *handle*. Raises: InitUnknown, InitForbidden."""
        await self._ask("drop", handle=handle)

    async def logs(self, name: str, after: int = 0, follow: bool = False) -> dict[str, Any]:
        """Return log lines of a service after line number *after*; with *follow* wait until there is one.

        ``lines`` are [number, boot time in microseconds, text]; ``lost`` and ``dropped`` count what is no longer or never was held.
        """
        return await self._ask("logs", name=name, after=after, follow=follow)

    async def end(self, grace_ms: int = 10_000) -> None:
        """Stop everything and let init end."""
        await self._ask("end", grace_ms=grace_ms)

    async def _ask_descriptor(self, operation: str, **fields: Any) -> int:
        _, descriptors = await self._exchange(operation, fields, ())
        if len(descriptors) != 1:
            close_all(descriptors)
            raise InitFailed(f"init answered {operation} without a descriptor")
        return descriptors[0]

    async def _ask(self, operation: str, **fields: Any) -> dict[str, Any]:
        result, descriptors = await self._exchange(operation, fields, ())
        close_all(descriptors)
        return result

    async def _exchange(self, operation: str, fields: dict[str, Any], descriptors: Iterable[int]) -> Answer:
        self._number += 1
        number, loop = self._number, asyncio.get_running_loop()
        data = json.dumps({"id": number, "op": operation, **fields}, separators=(",", ":")).encode()
        if len(data) > DATAGRAM_BYTES:
            raise InitRefused(f"a request of {len(data)} bytes does not fit a datagram")
        rights = b"".join(fd.to_bytes(4, sys.byteorder) for fd in descriptors)
        extra = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if rights else []
        async with self._sending:
            while True:
                if self._closed:
                    raise InitGone("the connection to init has ended")
                try:
                    failpoint("init.ask.send")
                    self._socket.sendmsg([data], extra)
                    break
                except BlockingIOError:
                    await self._room(loop)
                except OSError:
                    self.close()
            future: asyncio.Future[Answer] = loop.create_future()
            self._waiting[number] = future
        try:
            return await future
        finally:
            self._waiting.pop(number, None)

    async def _room(self, loop: asyncio.AbstractEventLoop) -> None:
        writable = asyncio.Event()
        loop.add_writer(self._socket.fileno(), writable.set)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await writable.wait()
        finally:
            if not self._closed:
                loop.remove_writer(self._socket.fileno())

    def _readable(self) -> None:
        for _ in range(16):
            try:
                data, descriptors, _, _ = socket.recv_fds(self._socket, DATAGRAM_BYTES, 4)
            except BlockingIOError:
                return
            except OSError:
                data, descriptors = b"", []
            if not data:
                close_all(descriptors)
                self.close()
                return
            self._take(json.loads(data), descriptors)

    def _take(self, message: dict[str, Any], descriptors: Sequence[int]) -> None:
        if "event" in message:
            if self._events.qsize() >= EVENTS_MAX:
                self._events.get_nowait()
                self._lost += 1
            self._events.put_nowait(message)
            return
        future = self._waiting.get(message.get("id", 0))
        if future is None or future.done():
            close_all(descriptors)
        elif (error := message.get("error")) is not None:
            close_all(descriptors)
            details = {"errno": error["errno"]} if "errno" in error else {}
            future.set_exception(ERRORS.get(error["code"], InitFailed)(f"init: {error['message']}", **details))
        else:
            future.set_result((message["result"], [*descriptors]))


def close_all(descriptors: Iterable[int]) -> None:
    """Close every descriptor of *descriptors*."""
    for descriptor in descriptors:
        os.close(descriptor)
