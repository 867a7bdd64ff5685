"""Real inits for tests: started as processes, spoken to over their control sockets, and ended whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from enjin import host
from supervision.init_link import InitLink, command

DEADLINE_S = 10.0
PYTHON = "/usr/bin/python3"


def spec_descriptor(spec: Mapping[str, Any]) -> int:
    """Return a descriptor that holds *spec*."""
    descriptor = os.memfd_create("spec", os.MFD_CLOEXEC)
    os.write(descriptor, json.dumps(spec).encode())
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


class Running:
    """One init and a supervisor's link to it."""

    def __init__(self, process: subprocess.Popen[bytes], link: InitLink) -> None:
        self.process, self.link = process, link

    async def pid(self) -> int:
        """Return init's pid as init sees it."""
        return int((await self.link.list())["pid"])

    async def service(self, name: str) -> dict[str, Any]:
        """Return the view of one service."""
        return next(one for one in (await self.link.list())["services"] if one["name"] == name)

    async def until(self, name: str, condition: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """Wait until *condition* holds of a service's view, and return it."""
        found: dict[str, Any] = {}

        async def holds() -> bool:
            found.update(await self.service(name))
            return bool(condition(found))

        await wait_for(holds)
        return found


async def wait_for(condition: Callable[[], Any], what: str = "the condition", seconds: float = DEADLINE_S) -> None:
    """Wait until *condition* (plain or coroutine function) is true; fail after *seconds*."""
    end = time.monotonic() + seconds
    while True:
        result = condition()
        if asyncio.iscoroutine(result):
            result = await result
        if result:
            return
        if time.monotonic() > end:
            raise AssertionError(f"{what} did not come true in {seconds} s")
        await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def running(
    spec: Mapping[str, Any] | None = None,
    *,
    wrapper: Sequence[str] = (),
    pass_fds: Sequence[int] = (),
    stderr: int | None = None,
    program: Path | None = None,
) -> AsyncIterator[Running]:
    """Start an init with one connected supervisor's control, and end it and all that it runs."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    full: dict[str, Any] = {"name": "test", "subreaper": True, **(spec or {})}
    full["controls"] = [{"fd": theirs.fileno(), "role": "supervisor"}, *full.get("controls", [])]
    descriptor = spec_descriptor(full)
    argv = [*wrapper, *(command(descriptor) if program is None else command(descriptor, program=program))]
    process = subprocess.Popen(argv, pass_fds=(descriptor, theirs.fileno(), *pass_fds), stderr=stderr, start_new_session=True)
    os.close(descriptor)
    theirs.close()
    link = await InitLink.connect(ours.detach())
    try:
        yield Running(process, link)
    finally:
        try:
            if process.poll() is None:
                with contextlib.suppress(Exception):
                    await asyncio.wait_for(link.end(200), DEADLINE_S)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    await asyncio.to_thread(process.wait, DEADLINE_S)
        finally:
            link.close()
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                process.wait()


def script(source: str, **fields: Any) -> dict[str, Any]:
    """Return a service that runs Python *source*; not restarted unless *fields* say so."""
    return {"name": "job", "generation": 1, "argv": [PYTHON, "-I", "-S", "-u", "-c", source], "restart": "never", **fields}


def alive(pid: int) -> bool:
    """Say whether process *pid* exists and is no zombie."""
    return host.process_start_time(pid) is not None


def sleeper(**fields: Any) -> dict[str, Any]:
    """Return a service that does nothing until it is told to end."""
    return {"name": "job", "generation": 1, "argv": ["/bin/sleep", "1000"], "restart": "never", **fields}


ROOT = Path(sys.modules[__name__].__file__ or "").resolve().parents[2]
