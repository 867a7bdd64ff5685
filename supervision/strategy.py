"""What every strategy on this machine does alike: records, generations, stopping, destroying, taking up again.

Owns the order of these, so that a death at any point leaves something that the next hands finishes off. A strategy adds how a node is
launched and what of it may be missing.

INV-STR-1: a record says ``starting`` before anything of a node exists, and ``running`` only when its init runs.
INV-STR-2: a node that runs in the same generation is mended and answered, never started again (but an app that cannot be put back under
its limits is); an older generation is refused.
INV-STR-3: after ``destroy`` no process, group, link, socket, file or record of the node is left.

May import: enjin, supervision.{confinement,driver,outgoing,records,steps,workshop}.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

import msgspec

from enjin.errors import EnjinError
from enjin.host import monotonic_s
from supervision import links, outgoing, quota
from supervision.driver import Capabilities
from supervision.gathering import Scattered, gather, parent_of
from supervision.records import Identity, NodeRecord, kill, send, verify
from supervision.steps import Busy, NodeFailed, NodeSpec, NoSuchNode, Running, Stale, Verdict
from supervision.workshop import Workshop

START_S: Final = 20.0
REPLACED_GRACE_S: Final = 5.0
QUIET_S: Final = 5.0


class Launched(NamedTuple):
    """What a strategy made: the process of init, how its end is learnt, and what to say of it."""

    identity: Identity
    status: asyncio.Future[int] | None
    isolation: str
    helpers: Mapping[str, Identity] = MappingProxyType({})


class Strategy(abc.ABC):
    """Base of jail, user and process."""

    NAME: str
    capabilities: Capabilities

    def __init__(self, workshop: Workshop) -> None:
        self.shop: Final = workshop

    # -- what a strategy adds ---------------------------------------------------------------------

    @abc.abstractmethod
    def probe(self) -> Verdict:
        """Try whether this strategy works here."""

    @abc.abstractmethod
    def check(self, spec: NodeSpec) -> None:
        """Check that this strategy can run *spec* here.

        Raises:
            BadStep, Unsupported: It cannot.
        """

    @abc.abstractmethod
    async def launch(self, spec: NodeSpec, listeners: dict[str, int]) -> Launched:
        """Make the node; on failure leave what is begun to ``clear``."""

    def inside(self, record: NodeRecord) -> str:
        """Return the path of the node's network namespace; "" when it has none of its own."""
        return f"/proc/{record.identity.pid}/ns/net" if record.identity is not None and record.spec.interface is not None else ""

    # -- the driver's calls -------------------------------------------------------------------------

    async def prepare(self, spec: NodeSpec) -> None:
        """Make the node's directory; limits are made with its processes."""
        self.shop.directory(self.shop.node_directory(spec.node), 0o711)

    async def start(self, spec: NodeSpec, listeners: dict[str, int]) -> Running:
        """Make the node run as *spec* says.

        Raises:
            Stale: A newer generation is on record.
            NodeFailed, NetworkFailed: It could not be made; nothing is left of the attempt.
        """
        self.check(spec)
        record = self.shop.records.load(spec.node)
        if record is not None:
            if spec.generation < record.spec.generation:
                raise Stale(f"{spec.node} is at generation {record.spec.generation}, the step at {spec.generation}")
            alive = record.phase == "running" and verify(record.identity, self.shop.groups) != "gone"
            if alive and spec.generation == record.spec.generation:
                try:
                    return await self.mend(record)
                except Scattered:
                    # Version 1 groups: root of a user namespace may not move another uid's processes. Better anew than without limits.
                    if spec.purpose == "ring1":
                        raise
            if alive:
                await self.stop(spec.node, REPLACED_GRACE_S)
        await self.clear(record if record is not None else NodeRecord(spec=spec, phase="starting"))
        begun = NodeRecord(spec=spec, phase="starting", control=self.shop.control_path(spec))
        self.shop.records.save(begun)
        try:
            async with asyncio.timeout(START_S):
                await self.prepare(spec)
                launched = await self.launch(spec, listeners)
        except BaseException as error:
            await self.clear(begun)
            self.shop.records.save(msgspec.structs.replace(begun, phase="stopped"))
            if isinstance(error, OSError | TimeoutError) and not isinstance(error, EnjinError):
                raise NodeFailed(f"{spec.node} does not start: {error or 'not in time'}") from error
            raise
        record = msgspec.structs.replace(
            begun, phase="running", identity=launched.identity, helpers=dict(launched.helpers), isolation=launched.isolation,
            closed=tuple(self.shop.ways_out.get(spec.uid, ())),
        )
        self.shop.records.save(record)
        self._watch(record, launched.status)
        return self.running(record, ())

    async def mend(self, record: NodeRecord) -> Running:
        """Put back what of a running node someone removed."""
        spec, groups = record.spec, self.shop.groups
        if groups is not None and record.identity is not None and verify(record.identity, groups) == "displaced":
            record = await gather(self.shop, record)
        if spec.interface is not None and self.inside(record):
            await links.attach(self.shop, spec, self.inside(record))
        if spec.outgoing and not await self._way_out(record):
            record = await self._reopen(record)
        return self.running(record, ())

    async def inspect(self, node: str) -> Running | None:
        """Say what is there of *node*; None while it is still being made."""
        record = self.shop.records.load(node)
        if record is None or record.phase == "starting":
            return None
        lost = await self.missing(record) if record.phase == "running" else []
        return self.running(record, tuple(lost))

    async def stop(self, node: str, grace_s: float) -> None:
        """Ask the node's init to end, make it after *grace_s*, and leave only its state and its record."""
        record = self.shop.records.load(node)
        if record is None:
            raise NoSuchNode(f"there is no node {node}")
        self.shop.watch.stop(node)
        if grace_s > 0 and send(record.identity, self.shop.groups, signal.SIGTERM):
            await self.shop.watch.ended(record.identity, grace_s)
        await self.clear(record)
        self.shop.records.save(msgspec.structs.replace(record, phase="stopped", identity=None, helpers={}))

    async def destroy(self, node: str, keep_state: bool) -> None:
        """Leave nothing of the node (but its state, if asked to keep it)."""
        record = self.shop.records.load(node)
        if record is not None:
            self.shop.watch.stop(node)
            await self.clear(record)
        if not keep_state:
            shutil.rmtree(self.shop.node_directory(node), ignore_errors=True)
        self.shop.records.forget(node)

    async def recover(self) -> list[Running]:
        """Take up again what earlier hands started by this strategy; finish off what it only began."""
        found = []
        for record in self.shop.records.each():
            if record.spec.strategy != self.NAME:
                continue
            if record.phase == "starting":
                await self.clear(record)
                self.shop.records.save(msgspec.structs.replace(record, phase="stopped", identity=None))
            elif record.phase == "running" and record.identity is not None:
                found.append(self.running(record, ()))
                self._watch(record, None)
        return found

    def _watch(self, record: NodeRecord, status: asyncio.Future[int] | None) -> None:
        if record.identity is not None:
            self.shop.watch.start(record.spec.node, record.spec.generation, record.identity, status)
        if record.spec.limits.disk_bytes:
            self.shop.background(quota.keep(self.shop, record))

    async def quiet(self, record: NodeRecord) -> None:
        """End every process of the node but its init (with its monitor) and its helpers.

        Raises:
            Busy: Its init starts others again and again.
        """
        identity = record.identity
        if identity is None or verify(identity, self.shop.groups) == "gone":
            return
        stay = {identity.pid, parent_of(identity.pid), *(helper.pid for helper in record.helpers.values())}
        end, calm = monotonic_s() + QUIET_S, 0
        while calm < 2:
            left = self.processes(record) - stay
            calm = 0 if left else calm + 1
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if monotonic_s() > end:
                raise Busy(f"{record.spec.node} still runs processes that start again", hint="stop it first")
            await asyncio.sleep(0.002)

    def processes(self, record: NodeRecord) -> set[int]:
        """Return the pids of the node's processes."""
        return set() if self.shop.groups is None else {p for p in self.shop.groups.processes(record.spec.node) if parent_of(p)}

    # -- parts -----------------------------------------------------------------------------------------

    async def clear(self, record: NodeRecord) -> None:
        """End whatever there is of the node's processes and remove what they ran in."""
        spec = record.spec
        for helper in record.helpers.values():
            send(helper, self.shop.groups, signal.SIGKILL)
        if verify(record.identity, self.shop.groups) == "displaced":  # the groups do not lead to it: by its own identity then
            kill(record.identity)
            await self.shop.watch.ended(record.identity, QUIET_S)
        await self.finish(record)
        await links.detach(self.shop, spec)
        with contextlib.suppress(FileNotFoundError):
            (self.shop.home / self.shop.control_path(spec)).unlink()

    async def finish(self, record: NodeRecord) -> None:
        """End every process of the node; without control groups only strategy process has any."""
        if self.shop.groups is not None:
            await self.shop.groups.finish(record.spec.node)

    def running(self, record: NodeRecord, lost: tuple[str, ...]) -> Running:
        """Return what to say of *record*."""
        identity, spec = record.identity, record.spec
        there = record.phase == "running" and verify(identity, self.shop.groups) != "gone"
        return Running(
            node=spec.node, generation=spec.generation, strategy=spec.strategy, purpose=spec.purpose,
            state="running" if there else "stopped" if record.phase == "stopped" else "gone",
            pid=identity.pid if there and identity is not None else 0, control=record.control if there else "",
            isolation=record.isolation, missing=lost if there or record.phase == "stopped" else ("process",), status=record.status,
        )  # fmt: skip

    async def missing(self, record: NodeRecord) -> list[str]:
        """Return what of a running node is not there any more."""
        if record.identity is None or (state := verify(record.identity, self.shop.groups)) == "gone":
            return ["process"]
        lost = []
        if self.shop.groups is not None:
            lost += self.shop.groups.missing(record.spec.node)
            if state == "displaced" and not lost:
                lost.append("cgroup:process")
        interface = record.spec.interface
        if interface is not None and self.inside(record):
            lost += await links.missing(self.shop, record.spec, self.inside(record))
        if record.spec.outgoing and not await self._way_out(record):
            lost.append("outgoing")
        return lost

    async def _way_out(self, record: NodeRecord) -> bool:
        """Tell whether the way out is carried, and of a node that stays, whether it still is a way."""
        if verify(record.helpers.get(outgoing.NAME), self.shop.groups) != "ours" or record.identity is None:
            return False
        return record.spec.purpose != "ring1" or await outgoing.leads_out(self.shop, record.identity.pid)

    async def _reopen(self, record: NodeRecord) -> NodeRecord:
        if record.identity is None:
            raise NodeFailed(f"{record.spec.node} does not run")
        before = record.helpers.get(outgoing.NAME)
        if before is not None and send(before, self.shop.groups, signal.SIGKILL):
            await self.shop.watch.ended(before, QUIET_S)
        helper = await outgoing.open_way(self.shop, record.spec, record.identity.pid)
        record = msgspec.structs.replace(record, helpers={**record.helpers, outgoing.NAME: helper})
        self.shop.records.save(record)
        return record
