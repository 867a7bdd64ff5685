"""Strategy process: no privileges at all; bubblewrap where user namespaces work, else nothing separates nodes, and it says so.

Owns the launch as the current user on the shared network, and how such a node's processes are found without control groups: by the tree
below init and by a mark in their environment. May import: supervision.{confinement,driver,jail,plain,probe,records,steps,strategy}.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path
from typing import Final

import msgspec

from enjin.host import monotonic_s
from supervision import plain
from supervision.confinement import Child, Held, no_new_privileges
from supervision.driver import Capabilities
from supervision.jail.strategy import launch_bubblewrap
from supervision.probe import probe_process, try_bubblewrap
from supervision.records import NodeRecord, hold
from supervision.steps import NodeFailed, NodeSpec, Unsupported, Verdict
from supervision.strategy import Launched, Strategy

MARK: Final = "ENJIN_NODE"
END_S: Final = 5.0
BUBBLEWRAP: Final = "user, mount, pid, ipc and uts namespaces; system call filter; shared user, network and limits"
NOTHING: Final = "no isolation"


def _user() -> str:
    return "root itself" if os.geteuid() == 0 else "the current user"


class Process(Strategy):
    """The current user's own processes."""

    NAME = "process"
    capabilities = Capabilities(sockets_passed=True, own_network=False, own_root=False, limits=False)
    _bubblewrap: bool | None = None

    def probe(self) -> Verdict:
        return probe_process()

    def _wraps(self) -> bool:
        if self._bubblewrap is None:
            self._bubblewrap = try_bubblewrap(None, network=False) == ""
        return self._bubblewrap

    def check(self, spec: NodeSpec) -> None:
        if self.shop.groups is not None:
            raise Unsupported("strategy process is for hands without privileges", hint="use strategy jail or user")

    async def launch(self, spec: NodeSpec, listeners: dict[str, int]) -> Launched:
        spec = msgspec.structs.replace(spec, environment={**spec.environment, MARK: spec.node})
        if spec.purpose != "ring1" and self._wraps():
            return await launch_bubblewrap(self, spec, listeners, BUBBLEWRAP)
        table = plain.places(self.shop, spec)

        def confine(_: Held) -> None:
            if spec.purpose != "ring1":
                no_new_privileges()

        def prepare(child: Child) -> None:
            child.go()

        identity, status = await plain.launch_plain(self.shop, spec, listeners, table, confine, prepare)
        return Launched(identity, status, NOTHING if spec.purpose != "ring1" else self._promise())

    def _promise(self) -> str:
        """Return what separates a ring 1 node, and what it makes, from the rest of the machine."""
        return f"a process of {_user()}; its apps: {BUBBLEWRAP if self._wraps() else NOTHING}; builds share the host's network"

    def inside(self, record: NodeRecord) -> str:
        return ""

    async def finish(self, record: NodeRecord) -> None:
        """Kill init, what descends from it, and whatever bears the node's mark, until nothing does."""
        end = monotonic_s() + END_S
        while True:
            left = self.processes(record)
            for pid in left:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            if not left:
                return
            if monotonic_s() > end:
                raise NodeFailed(f"processes of {record.spec.node} do not end", pids=sorted(left)[:10])
            await asyncio.sleep(0.005)

    def processes(self, record: NodeRecord) -> set[int]:
        found: set[int] = set()
        if record.identity is not None and (descriptor := hold(record.identity, None)) is not None:
            os.close(descriptor)
            found.add(record.identity.pid)
        parents: dict[int, int] = {}
        mark = f"{MARK}={record.spec.node}".encode()
        for name in os.listdir("/proc"):
            if not name.isdigit():
                continue
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{name}/stat").read_bytes().rpartition(b")")[2].split()
                if fields[0] in (b"Z", b"X"):
                    continue
                parents[int(name)] = int(fields[1])
                if mark in Path(f"/proc/{name}/environ").read_bytes().split(b"\0"):
                    found.add(int(name))
        while more := {pid for pid, parent in parents.items() if parent in found} - found:
            found |= more
        return found - {os.getpid()}
