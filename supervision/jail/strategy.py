"""The jail strategy: from a specification to a running init inside namespaces of its own.

Owns the parent's side of a launch. The child's side is in ring1 (a root and a range of uids) and app (bubblewrap).
May import: this package, supervision.{confinement,outgoing,probe,records,steps,strategy,workshop}.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator
from typing import Final, NoReturn

import msgspec

from supervision import kernel, links, outgoing
from supervision.briefing import init_spec, tell_init
from supervision.confinement import Child, Held, become, execute, fork_held, read_some, set_limits
from supervision.driver import Capabilities
from supervision.jail import app, ring1
from supervision.probe import probe_jail
from supervision.records import Identity, NodeRecord, identify
from supervision.steps import BadStep, Mount, NodeFailed, NodeSpec, Unsupported, Verdict
from supervision.strategy import START_S, Launched, Strategy
from supervision.workshop import INSIDE_RUNTIME

FILE_BYTES: Final = 2 << 30
RING1_ISOLATION: Final = "user, mount, pid, network, ipc and uts namespaces; a root and 65,536 uids of its own; control groups"
APP_ISOLATION: Final = "user, mount, pid, network, ipc and uts namespaces; a uid and a root of its own; system call filter; control groups"


class Jail(Strategy):
    """Linux namespaces. Ring 1 gets a root of its own; apps and builds get bubblewrap under their own uid."""

    NAME = "jail"
    capabilities = Capabilities(sockets_passed=True, own_network=True, own_root=True, limits=True)

    def probe(self) -> Verdict:
        return probe_jail(self.shop.config.privileged)

    def check(self, spec: NodeSpec) -> None:
        if self.shop.groups is None:
            raise Unsupported("strategy jail needs hands to be root", hint="use strategy process")
        if spec.purpose == "ring1":
            self.shop.check_uids(spec.range, spec.range + ring1.BLOCK - 1)
            return
        self.shop.check_uids(spec.uid, spec.uid)
        if spec.outgoing and spec.interface is not None:
            raise BadStep("a node has an interface or a way out, not both")
        if spec.outgoing and not self.shop.own_network:
            raise Unsupported("a build's way out needs hands in a network namespace of the cloud's own", hint="builds run in ring 1's jail")

    async def launch(self, spec: NodeSpec, listeners: dict[str, int]) -> Launched:
        if spec.purpose == "ring1":
            return await self._launch_ring1(spec, listeners)
        return await launch_bubblewrap(self, spec, listeners, APP_ISOLATION)

    async def clear(self, record: NodeRecord) -> None:
        await super().clear(record)
        if record.spec.outgoing:
            await outgoing.close_way(self.shop, record.spec)

    # -- ring 1 -----------------------------------------------------------------------------------------

    async def _launch_ring1(self, spec: NodeSpec, listeners: dict[str, int]) -> Launched:
        shop, groups = self.shop, self.shop.groups
        if groups is None:
            raise Unsupported("no control groups")
        state = shop.directory(shop.node_directory(spec.node) / "state", 0o755, spec.range)
        stage = shop.directory(shop.home / "hands" / "stage", 0o700)
        groups.create(spec.node, spec.limits, spec.range)
        with _spec_channel() as (ours, theirs), shop.listen_control(spec) as control:
            plan = ring1.Plan(
                spec=spec, stage=str(stage), runtime=os.path.realpath(shop.config.runtime), state=str(state),
                binds=tuple((shop.source(m), m.target, m.writable) for m in spec.mounts), groups=tuple(groups.binds(spec.node)),
                argv=(*shop.init_command(INSIDE_RUNTIME), "--spec", str(theirs.fileno())), filters=ring1.filters(),
            )  # fmt: skip

            def body(held: Held) -> NoReturn:
                ring1.body(held, plan)

            child = fork_held(body, keep=[theirs.fileno(), control.fileno(), *listeners.values()])
            shop.reaper.expect(child.pid)
            theirs.close()
            try:
                pid, helpers = await self._settle_ring1(spec, child)
                status = shop.reaper.expect(pid)
                await tell_init(ours, init_spec(spec, control.fileno(), listeners, {}, subreaper=False, own=False), child)
                identity = identify(pid, groups)
                if identity is None:
                    raise NodeFailed(f"init of {spec.node} ended at once{child.errors()}")
                return Launched(identity, status, RING1_ISOLATION, helpers)
            finally:
                child.close()

    async def _settle_ring1(self, spec: NodeSpec, child: Child) -> tuple[int, dict[str, Identity]]:
        """Lead the child through its stages; return PID 1's pid and its helpers."""
        groups = self.shop.groups
        if groups is None:
            raise Unsupported("no control groups")
        groups.attach(spec.node, child.pid, delegated=True)
        child.go()
        await child.said(START_S)
        ring1.map_ids(child.pid, spec.range)
        child.go()
        pid = int((await child.said(START_S)).removeprefix("pid "))
        inside = f"/proc/{pid}/ns/net"
        if spec.interface is not None:
            await links.attach(self.shop, spec, inside)
        else:
            await self.shop.worker.call("loopback.up", inside=inside)
        helpers = {outgoing.NAME: await outgoing.open_way(self.shop, spec, pid)} if spec.outgoing else {}
        if trouble := await child.said(START_S):
            raise NodeFailed(trouble)
        return pid, helpers

    # -- apps and builds ----------------------------------------------------------------------------------


async def launch_bubblewrap(strategy: Strategy, spec: NodeSpec, listeners: dict[str, int], isolation: str) -> Launched:
    """Start an app or a build under bubblewrap: as its own uid where hands is root, else as the current user on the shared network."""
    shop, groups = strategy.shop, strategy.shop.groups
    home = str(shop.directory(shop.node_directory(spec.node) / "home", 0o700, spec.uid))
    if groups is not None:
        groups.create(spec.node, spec.limits)
    own_network = groups is not None and spec.interface is not None
    with _spec_channel() as (ours, theirs), shop.listen_control(spec) as control, _MemoryFiles() as memory:
        information_read, information_write = os.pipe()
        line = app.arguments(
            spec, runtime=os.path.realpath(shop.config.runtime), home=home, put=memory.put, filters=shop.filters(),
            mounts=[(_mount_source(strategy, spec, m), m.target, m.writable) for m in spec.mounts], information=information_write,
            share_network=own_network or groups is None, program=[*shop.init_command(INSIDE_RUNTIME), "--spec", str(theirs.fileno())],
        )  # fmt: skip

        def body(held: Held) -> NoReturn:
            held.wait()
            if own_network:
                kernel.unshare(kernel.NEWNET)
                held.say("unshared")
            set_limits(spec.limits, FILE_BYTES)
            if groups is not None:
                become(spec.uid)
            execute(line, {"PATH": "/usr/bin:/bin"})

        child = fork_held(body, keep=[theirs.fileno(), control.fileno(), information_write, *memory.descriptors, *listeners.values()])
        status = shop.reaper.expect(child.pid, monitor=True)
        theirs.close()
        os.close(information_write)
        try:
            pid, helpers = await _settle(strategy, spec, child, information_read)
            await tell_init(ours, init_spec(spec, control.fileno(), listeners, {}, subreaper=False, own=True), child)
            identity = identify(pid, groups)
            if identity is None:
                raise NodeFailed(f"init of {spec.node} ended at once{child.errors()}")
            return Launched(identity, status, isolation, helpers)
        finally:
            child.close()
            os.close(information_read)


async def _settle(strategy: Strategy, spec: NodeSpec, child: Child, information: int) -> tuple[int, dict[str, Identity]]:
    """Arrange groups and network while bubblewrap and init start; return init's pid and the helpers."""
    groups = strategy.shop.groups
    if groups is not None:
        groups.attach(spec.node, child.pid)
    child.go()
    os.set_blocking(information, False)
    if groups is not None and spec.interface is not None:
        await child.said(START_S)
        await links.attach(strategy.shop, spec, f"/proc/{child.pid}/ns/net")
    said = b""
    while not said.rstrip().endswith(b"}"):
        part = await read_some(information, START_S, "bubblewrap says nothing")
        if not part:
            await asyncio.sleep(0.01)
            raise NodeFailed(f"bubblewrap did not start {spec.node}{child.errors()}")
        said += part
    pid = int(msgspec.json.decode(said)["child-pid"])
    if groups is not None and spec.outgoing:
        return pid, {outgoing.NAME: await outgoing.open_way(strategy.shop, spec, pid)}
    return pid, {}


def _mount_source(strategy: Strategy, spec: NodeSpec, mount: Mount) -> str:
    """Return the source of a mount; a writable one in the node's own directory is made for it."""
    shop = strategy.shop
    if not mount.writable:
        return shop.source(mount)
    node, _, name = mount.source.partition("/")
    if mount.root != "nodes" or node != spec.node or not name or "/" in name:
        raise BadStep(f"{spec.node} may write only below its own directory in the root nodes")
    return str(shop.directory(shop.node_directory(spec.node) / name, 0o700, spec.uid))


@contextlib.contextmanager
def _spec_channel() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        yield ours, theirs
    finally:
        ours.close()
        theirs.close()


class _MemoryFiles:
    """Small files that bubblewrap reads by descriptor."""

    def __init__(self) -> None:
        self.descriptors: list[int] = []

    def __enter__(self) -> _MemoryFiles:
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in self.descriptors:
            os.close(descriptor)

    def put(self, data: bytes) -> int:
        descriptor = os.memfd_create("enjin", os.MFD_CLOEXEC)
        self.descriptors.append(descriptor)
        os.write(descriptor, data)
        os.lseek(descriptor, 0, os.SEEK_SET)
        return descriptor

