"""One way to be a daemon: one event loop, signals that end it in order, readiness, exit statuses.

Exit statuses: 0 asked to end, 70 a defect of ours (``InvariantError`` or anything unforeseen), 71 the world failed
(``StepFailed``), 78 configuration. Whoever supervises restarts on anything but 0.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Awaitable, Callable

from enjin import log
from enjin.errors import ConfigError, StepFailed
from enjin.failpoints import failpoint

ENDED, DEFECT, WORLD, CONFIGURATION = 0, 70, 71, 78


def notify(state: str) -> None:
    """Tell systemd *state* (such as ``READY=1``) where it listens. Source: sd_notify(3)."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.connect("\0" + address[1:] if address.startswith("@") else address)
        failpoint("daemon.notify.send")
        channel.sendall(state.encode())


async def _run(main: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    ending = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.set)
    task = asyncio.ensure_future(main(ending))
    waiter = asyncio.ensure_future(ending.wait())
    done, _ = await asyncio.wait({task, waiter}, return_when=asyncio.FIRST_COMPLETED)
    if task in done:
        waiter.cancel()
        await task
        return
    try:
        await asyncio.wait_for(task, 10)
    except (TimeoutError, asyncio.CancelledError):
        log.get("daemon").warning("daemon.cut_off", after_s=10)


def run(main: Callable[[asyncio.Event], Awaitable[None]]) -> int:
    """Run *main* until it returns or a signal sets the event it is given, and return the exit status."""
    logger = log.get("daemon")
    try:
        asyncio.run(_run(main))
    except Exception as error:
        cause = _first(error)
        status = CONFIGURATION if isinstance(cause, ConfigError) else WORLD if isinstance(cause, StepFailed) else DEFECT
        logger.error("daemon.failed", error=cause, status=status, exc_info=error if status == DEFECT else None)
        return status
    return ENDED


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
