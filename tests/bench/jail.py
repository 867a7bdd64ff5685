"""jail_start_ms: from asking hands for an app's jail until the app's first instruction, beside bare isolation tools.

Where apps really run: a ring 1 jail with hands inside it, which makes the app's jail in there, with a network namespace, address, limits,
uid and system call filter of its own. The app is one shell that writes a byte into a named pipe in a mounted folder; the bare tools start
the same program with none of address, limits, uid and filter.
"""

from __future__ import annotations

import compileall
import os
import select
import statistics
import time
from pathlib import Path

import msgspec

from supervision import steps
from tests.bench.figures import Peer, Row, rows
from tests.bench.peers import PROGRAM, TOOLS, peer
from tests.cloud import Cloud
from tests.places import temporary_home
from tests.supervision.rig import Ring1, app_spec, make_runtime, rig

TIMES = 21
WAIT_S = 10.0


def _compiled(runtime: Path) -> Path:
    """Compile the runtime copy, as `enjin up` does."""
    compileall.compile_dir(runtime, quiet=2, workers=1)
    return runtime


def _pipe_of(place: Ring1, node: str) -> int:
    """Make the folder that only *node* may write to, with a pipe in it; return the pipe's descriptor."""
    mark = Path(place.home) / "nodes" / node / "mark"
    mark.mkdir(parents=True)
    os.mkfifo(mark / "pipe")
    for path in (mark.parent.parent, mark.parent, mark, mark / "pipe"):
        os.chown(path, place.spec.range, place.spec.range)
        path.chmod(0o777)
    return os.open(mark / "pipe", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)


def _start_ms(place: Ring1, number: int) -> float:
    """Ask for one jail, wait for the byte, remove the jail; return the milliseconds until the byte."""
    spec = app_spec(place, number, services=(steps.Service(name="main", argv=PROGRAM, restart="never"),))
    mount = steps.Mount(root="nodes", source=f"{spec.node}/mark", target="/mnt", writable=True)
    spec = msgspec.structs.replace(spec, mounts=(mount,))
    pipe = _pipe_of(place, spec.node)
    try:
        began = time.perf_counter()
        asked = place.send(steps.StartNode(spec=spec))
        if not select.select([pipe], [], [], WAIT_S)[0]:
            raise TimeoutError(f"the app never ran: {place.answer(asked)}")
        taken = time.perf_counter() - began
        place.answer(asked)
    finally:
        os.close(pipe)
    place.do(steps.DestroyNode(node=spec.node))
    return 1000 * taken


def hands_ms() -> float:
    """Return the median milliseconds of a jail inside a ring 1 jail."""
    with temporary_home() as folder, rig(_compiled(make_runtime(folder))) as outer:
        outer.fabric()
        inner = Ring1(outer)
        try:
            _start_ms(inner, 9)
            return statistics.median(_start_ms(inner, 10 + number) for number in range(TIMES))
        finally:
            inner.close()
            outer.do(steps.DestroyNode(node=inner.node))


def measure(cloud: Cloud) -> list[Row]:
    """Return jail_start_ms beside each tool."""
    if os.geteuid() != 0:
        raise PermissionError("jail_start_ms needs root")
    tools: list[Peer] = [peer(tool, TIMES) for tool in TOOLS]
    return rows("jail_start_ms", hands_ms(), tools)
