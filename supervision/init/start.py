"""The way from a specification to the loop, and out of it.

May import: init's other modules.
"""

import _signal  # type: ignore[import-not-found]
import os
import resource
import sys
import time

from supervision.init.children import SIGKILL, SIGTERM, Children, close_except, send_signal
from supervision.init.control import GRACE_MS, Controls
from supervision.init.handles import Handles, listening
from supervision.init.heirs import inherit
from supervision.init.loop import Loop
from supervision.init.wire import PR_SET_CHILD_SUBREAPER, PR_SET_DUMPABLE, loads, pairs, prctl

SPEC_BYTES_MAX = 4 * 1024 * 1024
FAREWELL_S = 2.0


def read_spec(fd: int) -> dict:
    """Return the specification that *fd* holds, and close it. Raises: Refusal, OSError."""
    data = bytearray()
    while len(data) <= SPEC_BYTES_MAX and (part := os.read(fd, 65536)):
        data += part
    os.close(fd)
    return loads(bytes(data))


def hold(handles: Handles, spec: dict) -> None:
    """Make or take the sockets of the specification. Raises: Refusal, OSError."""
    for one in spec.get("listeners", ()):
        fd = one["fd"] if "fd" in one else _listener(one, spec.get("heirs", ""))
        handles.keep("listener:" + one["name"], fd, True)
        os.close(fd)
    for name in spec.get("channels", ()):
        handles.channel(name, True)


def _listener(one: dict, heirs: str) -> int:
    """Return a socket that listens where *one* says: a new one, or the one that a node still holds. Raises: OSError."""
    try:
        return listening(one["address"], one["port"]).detach()
    except OSError:
        fd = inherit(heirs, one["name"], one["address"], one["port"])
        if fd is None:
            raise
        return fd


def farewell(controls: Controls) -> None:
    """Leave no socket file and no process behind; the end of a PID 1 does the second by itself."""
    for client in tuple(controls.clients):
        controls.flush(client)
    for path in controls.paths:
        if os.path.lexists(path):
            os.unlink(path)
    deadline = time.monotonic() + FAREWELL_S
    while os.getpid() != 1 and time.monotonic() < deadline:
        try:
            with open(f"/proc/self/task/{os.getpid()}/children", "rb") as file:
                for pid in file.read().split():
                    send_signal(int(pid), SIGKILL)
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.002)
        except OSError:  # no child is left
            return


def main(arguments: list[str]) -> int:
    """Run until told to end; ``--spec FD`` names the descriptor with the specification."""
    if len(arguments) != 3 or arguments[1] != "--spec" or not arguments[2].isdigit():
        sys.stderr.write("usage: init --spec FD\n")
        return 2
    spec = read_spec(int(arguments[2]))
    if os.getsid(0) != os.getpid() and os.getpgid(0) != os.getpid():
        os.setsid()
    prctl(PR_SET_DUMPABLE, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if spec.get("subreaper"):
        prctl(PR_SET_CHILD_SUBREAPER, 1)
    close_except({one["fd"] for one in (*spec.get("controls", ()), *spec.get("listeners", ())) if "fd" in one}, 3)
    loop, handles = Loop(), Handles()
    children = Children(loop, handles)
    controls = Controls(loop, children, handles)
    children.on_event = controls.tell
    controls.places = pairs(spec, "places")
    hold(handles, spec)
    for control in spec.get("controls", ()):
        controls.add(control)
    for service in spec.get("services", ()):
        children.wish(service)
    while not (children.ending and not children.running()):
        loop.once()
        children.reap()
        if loop.signals & {SIGTERM, int(_signal.SIGINT)} and not children.ending:
            children.end(GRACE_MS)
        loop.signals.clear()
    farewell(controls)
    return 0
