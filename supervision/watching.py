"""Processes that end: collecting children, and telling when a node's first process is gone.

Owns SIGCHLD, the pidfds that are watched, and the event `node.exited`. May import: enjin, supervision.{cgroups,kernel,records}.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from typing import Any

import msgspec

from supervision import kernel
from supervision.cgroups import Groups
from supervision.records import Identity, Records, hold, verify


class Reaper:
    """Collects children, and the orphans that a subreaper inherits; remembers the statuses that somebody asked for."""

    def __init__(self) -> None:
        self._waiting: dict[int, asyncio.Future[int]] = {}
        self._monitors: set[int] = set()

    def start(self) -> None:
        """Begin; needs the running loop."""
        with contextlib.suppress(OSError):
            kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self.reap)

    def reap(self) -> None:
        """Collect whoever ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            future = self._waiting.pop(pid, None)
            code = os.waitstatus_to_exitcode(status)
            if pid in self._monitors:
                self._monitors.discard(pid)
                code = 128 - code if code > 128 else code
            if future is not None and not future.done():
                future.set_result(code)

    def expect(self, pid: int, monitor: bool = False) -> asyncio.Future[int]:
        """Return the future exit status of a child forked in this very turn of the loop.

        *monitor*: it reports the end of its own child as a shell does, so 128 + N means that signal N ended that one.
        """
        if monitor:
            self._monitors.add(pid)
        return self._waiting.setdefault(pid, asyncio.get_running_loop().create_future())


class Watch:
    """Tells, once, when a node's process ends."""

    def __init__(self, records: Records, groups: Groups | None, reaper: Reaper, emit: Callable[[dict[str, Any]], None]) -> None:
        self._records, self._groups, self._reaper, self._emit = records, groups, reaper, emit
        self._watched: dict[str, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, node: str, generation: int, identity: Identity, status: asyncio.Future[int] | None) -> None:
        """Tell when the node's process ends; *status* is its exit status where hands (or its monitor) is the parent."""
        self.stop(node)
        descriptor = hold(identity, self._groups)
        if descriptor is None:
            self._told(node, generation, None)
            return
        self._watched[node] = descriptor
        loop = asyncio.get_running_loop()

        def ended() -> None:
            self.stop(node)
            task = loop.create_task(self._tell(node, generation, status))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        loop.add_reader(descriptor, ended)

    async def _tell(self, node: str, generation: int, status: asyncio.Future[int] | None) -> None:
        code = None
        if status is not None:
            self._reaper.reap()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    code = await asyncio.shield(status)
        self._told(node, generation, code)

    def _told(self, node: str, generation: int, status: int | None) -> None:
        record = self._records.load(node)
        if record is not None and record.spec.generation == generation and record.phase == "running":
            self._records.save(msgspec.structs.replace(record, status=status))
        self._emit({"event": "node.exited", "node": node, "generation": generation, "status": status})

    def stop(self, node: str) -> None:
        """Stop watching."""
        descriptor = self._watched.pop(node, None)
        if descriptor is not None:
            asyncio.get_running_loop().remove_reader(descriptor)
            os.close(descriptor)

    async def ended(self, identity: Identity | None, deadline_s: float) -> bool:
        """Wait until the process is gone; return whether it is."""
        if identity is None:
            return True
        descriptor = hold(identity, self._groups)
        if descriptor is None:
            return True
        loop = asyncio.get_running_loop()
        gone: asyncio.Future[None] = loop.create_future()

        def readable() -> None:
            if not gone.done():
                gone.set_result(None)

        loop.add_reader(descriptor, readable)
        try:
            async with asyncio.timeout(deadline_s):
                await gone
        except TimeoutError:
            return verify(identity, self._groups) == "gone"
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)
        return True
