"""The unprivileged end of the channel to hands: asks for steps, hears of nodes that ended.

Owns request ids, deadlines and the matching of answers; carries out nothing and tries nothing again (``reconcile`` does).
An answer to a question that an earlier daemon asked over the same channel is dropped.

INV-HNL-1: a step is not lost with hands that die: those that come after them are asked again, under the same id, for whatever is
still waited for. The channel outlives them, so nothing else would tell; to carry a step out twice is harmless.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import TypeVar

import msgspec

from enjin import errors, log
from enjin.failpoints import failpoint
from enjin.host import random_bytes
from supervision.steps import Record, Step

T = TypeVar("T", bound=Record)
DATAGRAM_MAX = 1 << 20


class HandsSilent(errors.StepFailed):
    """Hands did not answer in time."""

    code = "E-HND-101"
    remedy = "hands is restarted by itself; the step is tried again"


class NodeExited(msgspec.Struct, frozen=True):
    """A node's init ended: which, in which generation, with which wait status (None: unknown)."""

    node: str
    generation: int = 0
    status: int | None = None


class _Failure(msgspec.Struct):
    code: str
    message: str
    hint: str = ""


class _Answer(msgspec.Struct):
    id: str = ""
    result: msgspec.Raw = msgspec.Raw(b"null")
    error: _Failure | None = None
    event: str = ""


class HandsLink:
    """One daemon's end of the channel."""

    def __init__(self, descriptor: int, on_exit: Callable[[NodeExited], None]) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._socket.setblocking(False)
        self._waiting: dict[str, tuple[bytes, asyncio.Future[_Answer]]] = {}
        self._repeating: set[asyncio.Task[None]] = set()
        self._on_exit = on_exit
        self._prefix = random_bytes(6).hex()
        self._count = 0
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket.fileno(), self._read)

    def close(self) -> None:
        """Stop listening; the channel itself stays open in init."""
        for task in self._repeating:
            task.cancel()
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()

    async def step(self, step: Step, shape: type[T], timeout_s: float = 60) -> T:
        """Ask for *step* and return its result.

        Raises:
            HandsSilent: No answer within *timeout_s*.
            EnjinError: What hands answered, by its code.
        """
        self._count += 1
        identity = f"{self._prefix}-{self._count}"
        future: asyncio.Future[_Answer] = self._loop.create_future()
        data = msgspec.json.encode({"id": identity, "step": step})
        self._waiting[identity] = data, future
        try:
            await self._send(data)
            async with asyncio.timeout(timeout_s):
                answer = await future
        except TimeoutError as error:
            raise HandsSilent(f"hands did not answer {type(step).__name__} within {timeout_s:g} s") from error
        finally:
            self._waiting.pop(identity, None)
        if answer.error is not None:
            raise errors.from_reply(answer.error.code, answer.error.message, answer.error.hint)
        return msgspec.json.decode(answer.result, type=shape)

    async def _send(self, data: bytes) -> None:
        while True:
            try:
                failpoint("hands.ask.send")
                await self._loop.sock_sendall(self._socket, data)
                return
            except BlockingIOError:
                await asyncio.sleep(0.01)
            except OSError as error:
                raise HandsSilent(f"the channel to hands is closed: {error.strerror}") from error

    def _read(self) -> None:
        while True:
            try:
                data = self._socket.recv(DATAGRAM_MAX)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                log.get("hands_link").warning("channel.failed", error=error)
                return
            if not data:
                self._loop.remove_reader(self._socket.fileno())
                return
            self._take(data)

    def _take(self, data: bytes) -> None:
        try:
            answer = msgspec.json.decode(data, type=_Answer)
            if answer.event == "node.exited":
                self._on_exit(msgspec.json.decode(data, type=NodeExited))
                return
            if answer.event == "hands.began":
                self._ask_again()
                return
        except msgspec.DecodeError as error:
            log.get("hands_link").warning("answer.malformed", error=error)
            return
        _, future = self._waiting.get(answer.id, (b"", None))
        if future is not None and not future.done():
            future.set_result(answer)

    def _ask_again(self) -> None:
        for data, future in self._waiting.values():
            task = self._loop.create_task(self._repeat(data, future))
            self._repeating.add(task)
            task.add_done_callback(self._repeating.discard)

    async def _repeat(self, data: bytes, future: asyncio.Future[_Answer]) -> None:
        try:
            if not future.done():
                await self._send(data)
        except HandsSilent as error:
            if not future.done():
                future.set_exception(error)
