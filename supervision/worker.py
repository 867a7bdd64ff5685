"""A child of hands that does what blocks or changes the caller's network namespace; killed and replaced when it hangs.

Owns the child and its deadline. The operations are a closed table: functions of network and firewall. The heavy library (pyroute2) is
imported in the child only.

INV-WRK-1: a call ends within its deadline, whatever the kernel does.

May import: enjin, supervision.{confinement,kernel,steps}; network and firewall in the child.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable
from typing import Any, Final, NoReturn

import msgspec

from enjin.failpoints import failpoint
from supervision.confinement import close_others
from supervision.steps import NetworkFailed

LIMIT: Final = 1 << 20
DEADLINE_S: Final = 10.0


class Worker:
    """The parent's side: one call at a time."""

    def __init__(self, reaped: Callable[[int], None] | None = None) -> None:
        self._socket: socket.socket | None = None
        self.pid = 0
        self._lock = asyncio.Lock()
        self._reaped = reaped

    def start(self) -> None:
        """Fork the child if there is none; it loads its library while hands goes on."""
        if self._socket is not None:
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LIMIT)
        failpoint("worker.spawn")
        pid = os.fork()
        if pid == 0:
            _serve(theirs)
        theirs.close()
        ours.setblocking(False)
        self._socket, self.pid = ours, pid

    async def call(self, operation: str, deadline_s: float = DEADLINE_S, **arguments: Any) -> Any:
        """Carry out *operation* and return its result.

        Raises:
            NetworkFailed: It failed, or did not end in time.
        """
        async with self._lock:
            self.start()
            assert_socket = self._socket
            if assert_socket is None:
                raise NetworkFailed("the network worker does not start")
            loop = asyncio.get_running_loop()
            try:
                async with asyncio.timeout(deadline_s):
                    failpoint("worker.ask.send")
                    await loop.sock_sendall(assert_socket, msgspec.json.encode({"operation": operation, "arguments": arguments}))
                    data = await loop.sock_recv(assert_socket, LIMIT)
            except (TimeoutError, OSError) as error:
                self.stop()
                raise NetworkFailed(f"{operation} did not end within {deadline_s:g} s") from error
            except asyncio.CancelledError:
                self.stop()  # its late answer must not be taken for the next one's
                raise
        if not data:
            self.stop()
            raise NetworkFailed(f"{operation} ended the network worker")
        answer = msgspec.json.decode(data)
        if "error" in answer:
            raise NetworkFailed(f"{operation}: {answer['error']}")
        return answer["result"]

    def stop(self) -> None:
        """Kill the child; the next call starts another."""
        if self._socket is None:
            return
        self._socket.close()
        self._socket = None
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        self.pid = 0


def _serve(channel: socket.socket) -> NoReturn:
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        close_others({0, 1, 2, channel.fileno()})
        channel.setblocking(True)
        from supervision import firewall, network

        operations: dict[str, Callable[..., Any]] = {**network.OPERATIONS, **firewall.OPERATIONS}
        while data := channel.recv(LIMIT):
            request = msgspec.json.decode(data)
            try:
                answer = {"result": operations[request["operation"]](**request["arguments"])}
            except Exception as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
            failpoint("worker.answer.send")
            channel.sendall(msgspec.json.encode(answer))
    except BaseException:
        os._exit(1)
    finally:
        os._exit(0)
