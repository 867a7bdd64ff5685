"""Start a server at $PORT: ``serve MODULE:CALLABLE`` or ``serve --static DIRECTORY``.

Owns the command line, the listening socket and the signals.
"""

from __future__ import annotations

import importlib
import os
import signal
import socket
import sys
from typing import cast

from .wsgi import Application, Server


def main() -> None:
    """Serve what the command line names until SIGTERM or SIGINT."""
    arguments = sys.argv[1:]
    if len(arguments) == 2 and arguments[0] == "--static":
        from .static import Static

        run(Static(arguments[1]))
    elif len(arguments) == 1 and ":" in arguments[0]:
        # The app's directory is searched first, and ours not at all.
        sys.path[0] = os.getcwd()
        run(load(arguments[0]))
    else:
        sys.exit("usage: serve MODULE:CALLABLE | serve --static DIRECTORY")


def load(target: str) -> Application:
    """Return the callable that ``module:name`` or ``module:factory()`` names."""
    module, _, name = target.partition(":")
    found = importlib.import_module(module)
    for part in name.removesuffix("()").split("."):
        found = getattr(found, part)
    return cast(Application, found() if name.endswith("()") else found)  # type: ignore[operator]


def run(application: Application) -> None:
    """Serve *application* at $PORT, of $ENJIN_LISTEN or else of all IPv4 addresses, until SIGTERM or SIGINT."""
    address = os.environ.get("ENJIN_LISTEN", "0.0.0.0"), int(os.environ.get("PORT", "8000"))
    listener = socket.create_server(address, backlog=1_024)
    server = Server(application, listener, threads=int(os.environ.get("WEB_THREADS", "16")))
    signal.signal(signal.SIGTERM, server.stop)
    signal.signal(signal.SIGINT, server.stop)
    print(f"listening on {server.name}:{server.port}", flush=True)
    server.serve()
