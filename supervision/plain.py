"""Init without a root of its own: what the strategies user and process share.

Owns the translation of paths that a jail would show elsewhere, and the parent's side of a launch by plain fork and exec.
May import: supervision.{confinement,records,steps,strategy,workshop}.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from supervision.briefing import init_spec, tell_init
from supervision.confinement import Child, Held, execute, fork_held, set_limits
from supervision.records import Identity, identify
from supervision.steps import BadStep, NodeFailed, NodeSpec
from supervision.strategy import START_S
from supervision.workshop import APP_HOME, INSIDE_HOME, INSIDE_RUNTIME, Workshop

FILE_BYTES = 2 << 30


def places(shop: Workshop, spec: NodeSpec) -> dict[str, str]:
    """Return where on the host the things are that a jail would show at fixed places."""
    own = shop.node_directory(spec.node)
    table = {INSIDE_RUNTIME: shop.config.runtime}
    if spec.purpose == "ring1":
        table[INSIDE_HOME] = str(shop.directory(own / "state", 0o700, None))
    else:
        table[APP_HOME] = str(shop.directory(own / "home", 0o700, spec.uid or None))
    for mount in spec.mounts:
        if mount.writable:
            node, _, name = mount.source.partition("/")
            if mount.root != "nodes" or node != spec.node or not name or "/" in name:
                raise BadStep(f"{spec.node} may write only below its own directory in the root nodes")
            table[mount.target] = str(shop.directory(own / name, 0o700, spec.uid or None))
        else:
            table[mount.target] = shop.source(mount)
    return table


async def launch_plain(
    shop: Workshop,
    spec: NodeSpec,
    listeners: dict[str, int],
    table: dict[str, str],
    confine: Callable[[Held], None],
    prepare: Callable[[Child], object],
) -> tuple[Identity, asyncio.Future[int]]:
    """Start init by fork and exec.

    Args:
        confine: Runs in the child, after its parent's word, before exec.
        prepare: Runs in the parent while the child waits; may return an awaitable.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    control = shop.listen_control(spec)
    command = [*shop.init_command(shop.config.runtime), "--spec", str(theirs.fileno())]
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "ENJIN_NODE": spec.node}

    def body(held: Held) -> None:
        held.wait()
        set_limits(spec.limits, FILE_BYTES if spec.purpose != "ring1" else 0)
        confine(held)
        execute(command, environment)

    try:
        child = fork_held(body, keep=[theirs.fileno(), control.fileno(), *listeners.values()])  # type: ignore[arg-type]
        status = shop.reaper.expect(child.pid)
        theirs.close()
        try:
            waiting = prepare(child)
            if asyncio.iscoroutine(waiting):
                await waiting
            else:
                child.go()
            if trouble := await child.said(START_S):
                raise NodeFailed(trouble)
            data = init_spec(spec, control.fileno(), listeners, table, subreaper=True, own=True)
            await tell_init(ours, data, child)
            identity = identify(child.pid, shop.groups)
            if identity is None:
                raise NodeFailed(f"init of {spec.node} ended at once{child.errors()}")
            return identity, status
        finally:
            child.close()
    finally:
        ours.close()
        theirs.close()
        control.close()
