"""Run one hub until SIGTERM or SIGINT: try strangers, say ``ready <public key>``, serve."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
from typing import Any

from bus.hub.serving import Hub, say
from bus.hub.settings import HubConfig, HubRefused, raise_descriptors, read_config
from bus.hub.trial import try_strangers
from enjin.failpoints import failpoint

POLL_MS = 100


class _Ended(BaseException):
    """A signal asked the hub to end."""


def _end(_number: int, _frame: Any) -> None:
    raise _Ended


def serve(config: HubConfig) -> None:
    """Serve as *config* says until a signal ends it, or its parent has ended. Raises: HubRefused."""
    parent = os.getppid()
    raise_descriptors()
    hub = Hub(config)
    try:
        try_strangers(hub)
        hub.admit()
        failpoint("hub.ready.send")
        os.write(config.ready_fd, b"ready " + hub.public + b"\n")
        say("hub.started", endpoint=config.endpoint, keys=len(hub.allowed.keys), problem=hub.allowed.problem)
        while os.getppid() == parent:
            hub.step(POLL_MS)
        # Init is gone and the next one starts a hub of its own, perhaps already: its sockets are not ours to unlink.
        with contextlib.suppress(OSError):
            say("hub.orphaned", **hub.counters)
        os._exit(0)
    finally:
        hub.close()
        say("hub.ended", **hub.counters)


def main(arguments: list[str] | None = None) -> int:
    """Read the command line and serve; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bus.hub", description="pass signed frames between enrolled participants")
    parser.add_argument("--config", required=True, help="descriptor number or path of a JSON file")
    options = parser.parse_args(arguments)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    try:
        serve(read_config(options.config))
    except HubRefused as error:
        say("hub.refused", code=error.code, error=error.message, hint=error.hint)
        return 78
    except _Ended:
        return 0
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
