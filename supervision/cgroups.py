"""Control groups: a node's limits, the list of its processes, and their certain end.

Owns the layout of the hierarchies here (version 1, version 2 or the hybrid of both, found by probing) and one group per node,
`enjin-<tag>/<node>`, in each of them. Knows nothing of jails. Version 2 serves for tracking and killing wherever it is mounted, also where
its controllers are not usable. Inside a ring 1 jail the mounts are the host's delegated groups, so the same code divides them further.

INV-CGR-1: nothing outside `enjin-<tag>` below a hierarchy's own base is ever made, written or removed.

May import: enjin, supervision.steps.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple, Self

from enjin.host import monotonic_s
from supervision.steps import Limits, NodeFailed

WANTED: Final = ("memory", "pids", "cpu", "cpuacct")
PERIOD_US: Final = 100_000
UNLIMITED_V1: Final = str((1 << 63) - 4096)


class Hierarchy(NamedTuple):
    """One mounted hierarchy: its key in /proc/PID/cgroup, where it is, what it controls."""

    key: str
    root: str
    version: int
    controllers: frozenset[str]


class Layout(NamedTuple):
    """The hierarchies of this machine that are of use."""

    hierarchies: tuple[Hierarchy, ...]

    @classmethod
    def probe(cls, mounts: str = "/proc/self/mounts", own: str = "/proc/self/cgroup") -> Self:
        """Find what is mounted and writable.

        Source: cgroups(7); kernel Documentation/admin-guide/cgroup-v2.rst, "Mounting" and "Delegation".
        """
        found: dict[str, Hierarchy] = {}
        for line in Path(mounts).read_text().splitlines():
            _, point, kind, options, *_ = line.split()
            if kind == "cgroup":
                names = frozenset(options.split(",")) & frozenset(WANTED)
                key = next((entry.split(":")[1] for entry in _entries(own) if names and names & set(entry.split(":")[1].split(","))), "")
                if names and key not in found and os.access(point, os.W_OK):
                    found[key] = Hierarchy(key, point, 1, names)
            elif kind == "cgroup2" and "" not in found and os.access(point, os.W_OK):
                path = next((entry.split(":", 2)[2] for entry in _entries(own) if entry.startswith("0::")), "/")
                base = os.path.normpath(point + "/" + path.removesuffix("/supervisor"))
                base = base if os.path.isdir(base) and os.access(base, os.W_OK) else point
                available = frozenset(_read(f"{base}/cgroup.controllers").split()) & frozenset(WANTED)
                found[""] = Hierarchy("", base, 2, available)
        return cls(tuple(found.values()))

    @property
    def controllers(self) -> frozenset[str]:
        """Everything that can be limited here."""
        return frozenset().union(*(hierarchy.controllers for hierarchy in self.hierarchies))


class Groups:
    """The groups of one cloud on this machine."""

    def __init__(self, tag: str, layout: Layout | None = None) -> None:
        self.parent: Final = f"enjin-{tag}"
        self.layout: Final = layout if layout is not None else Layout.probe()

    def _path(self, hierarchy: Hierarchy, node: str) -> str:
        return f"{hierarchy.root}/{self.parent}/{node}"

    def create(self, node: str, limits: Limits, owner: int | None = None) -> None:
        """Make the node's groups with *limits*; *owner* may divide them further, but not widen them.

        Raises:
            NodeFailed: The kernel refused.
        """
        try:
            for hierarchy in self.layout.hierarchies:
                path = self._path(hierarchy, node)
                os.makedirs(os.path.dirname(path), exist_ok=True)
                if hierarchy.version == 2 and hierarchy.controllers:
                    _enable(hierarchy.root, hierarchy.controllers)
                    _enable(os.path.dirname(path), hierarchy.controllers)
                os.makedirs(path, exist_ok=True)
                _limit(hierarchy, path, limits)
                if owner is not None:
                    _delegate(hierarchy, path, owner)
        except OSError as error:
            raise NodeFailed(f"cannot make the control groups of {node}: {error.strerror} ({error.filename})") from error

    def attach(self, node: str, pid: int, delegated: bool = False) -> dict[str, str]:
        """Move *pid* into the node's groups and return where the kernel now says it is.

        Version 1 lets a root that is nobody on the host move only processes that still have its own uid: attach before dropping it.
        """
        for hierarchy in self.layout.hierarchies:
            path = self._path(hierarchy, node)
            if delegated and hierarchy.version == 2 and hierarchy.controllers:
                path += "/supervisor"  # version 2: a group that is divided may hold no process itself
                os.makedirs(path, exist_ok=True)
            _write(f"{path}/cgroup.procs", str(pid))
        return self.where(pid)

    def where(self, pid: int) -> dict[str, str]:
        """Return {hierarchy key: path} of *pid*, as the kernel tells hands; {} when it is gone."""
        keys = {hierarchy.key for hierarchy in self.layout.hierarchies}
        try:
            entries = [entry.split(":", 2) for entry in _entries(f"/proc/{pid}/cgroup")]
        except (FileNotFoundError, ProcessLookupError):
            return {}
        return {key: path for _, key, path in entries if key in keys}

    def processes(self, node: str) -> set[int]:
        """Return the pids in the node's groups and below."""
        found: set[int] = set()
        for hierarchy in self.layout.hierarchies:
            for directory in _tree(self._path(hierarchy, node)):
                with contextlib.suppress(OSError):
                    found.update(int(pid) for pid in _read(f"{directory}/cgroup.procs").split())
        return found - {0}

    def kill(self, node: str) -> None:
        """Send SIGKILL to every process of the node, at once where version 2 is there."""
        for hierarchy in self.layout.hierarchies:
            if hierarchy.version == 2:
                with contextlib.suppress(OSError):
                    _write(f"{self._path(hierarchy, node)}/cgroup.kill", "1")
        for pid in self.processes(node):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    async def finish(self, node: str, deadline_s: float = 5.0) -> None:
        """Kill until no process of the node is left, then remove its groups.

        Raises:
            NodeFailed: Something cannot be killed (it hangs in the kernel).
        """
        end = monotonic_s() + deadline_s
        while True:
            self.kill(node)
            if not self.processes(node) and self._remove(node):
                return
            if monotonic_s() > end:
                raise NodeFailed(f"processes of {node} do not end", pids=sorted(self.processes(node))[:10])
            await asyncio.sleep(0.002)

    def _remove(self, node: str) -> bool:
        for hierarchy in self.layout.hierarchies:
            for directory in reversed(list(_tree(self._path(hierarchy, node)))):
                try:
                    os.rmdir(directory)
                except FileNotFoundError:
                    continue
                except OSError:
                    return False
        return True

    def remove_parent(self) -> None:
        """Remove the cloud's own empty groups; those that still hold a node stay."""
        for hierarchy in self.layout.hierarchies:
            with contextlib.suppress(OSError):
                os.rmdir(f"{hierarchy.root}/{self.parent}")

    def missing(self, node: str) -> list[str]:
        """Return ``cgroup:<key>`` of each group of the node that is not there."""
        return [f"cgroup:{h.key or 'unified'}" for h in self.layout.hierarchies if not os.path.isdir(self._path(h, node))]

    def binds(self, node: str) -> list[tuple[str, str]]:
        """Return (source, place below /sys/fs/cgroup) of each group that a ring 1 jail gets to divide."""
        found = []
        for hierarchy in self.layout.hierarchies:
            place = hierarchy.key.replace(",", "-") if hierarchy.version == 1 else ("unified" if len(self.layout.hierarchies) > 1 else "")
            found.append((self._path(hierarchy, node), place))
        return found

    def nodes(self) -> set[str]:
        """Return the names of all groups that are there."""
        found: set[str] = set()
        for hierarchy in self.layout.hierarchies:
            with contextlib.suppress(FileNotFoundError), os.scandir(f"{hierarchy.root}/{self.parent}") as entries:
                found.update(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
        return found


def _limit(hierarchy: Hierarchy, path: str, limits: Limits) -> None:
    has = hierarchy.controllers
    quota = limits.cpu_millicores * PERIOD_US // 1000
    if hierarchy.version == 1:
        if "memory" in has:
            _write(f"{path}/memory.limit_in_bytes", str(limits.memory_bytes or -1))
        if "cpu" in has:
            _write(f"{path}/cpu.cfs_period_us", str(PERIOD_US))
            _write(f"{path}/cpu.cfs_quota_us", str(quota or -1))
    else:
        if "memory" in has:
            _write(f"{path}/memory.max", str(limits.memory_bytes or "max"))
            _write(f"{path}/memory.oom.group", "0")
        if "cpu" in has:
            _write(f"{path}/cpu.max", f"{quota or 'max'} {PERIOD_US}")
    if "pids" in has:
        _write(f"{path}/pids.max", str(limits.processes or "max"))


def _delegate(hierarchy: Hierarchy, path: str, owner: int) -> None:
    names = ("", "cgroup.procs", "tasks") if hierarchy.version == 1 else ("", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control")
    for name in names:
        os.chown(f"{path}/{name}" if name else path, owner, owner)


def _enable(path: str, controllers: frozenset[str]) -> None:
    """Let the children of *path* use *controllers*; a group that holds processes first moves them aside.

    Not exercised on a machine whose version 2 hierarchy has no controllers.
    """
    usable = set(_read(f"{path}/cgroup.controllers").split()) & controllers
    if usable <= set(_read(f"{path}/cgroup.subtree_control").split()):
        return
    own = _read(f"{path}/cgroup.procs").split() if os.path.exists(f"{path}/cgroup.type") else []
    if own:
        os.makedirs(f"{path}/supervisor", exist_ok=True)
        for pid in own:
            with contextlib.suppress(OSError):
                _write(f"{path}/supervisor/cgroup.procs", pid)
    _write(f"{path}/cgroup.subtree_control", " ".join(f"+{name}" for name in sorted(usable)))


def _tree(path: str) -> Iterator[str]:
    if os.path.isdir(path):
        yield path
        with contextlib.suppress(FileNotFoundError):
            for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
                if entry.is_dir(follow_symlinks=False):
                    yield from _tree(entry.path)


def _entries(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


def _read(path: str) -> str:
    with open(path) as file:
        return file.read(1 << 20)


def _write(path: str, value: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, value.encode())
    except OSError as error:
        error.filename = path
        raise
    finally:
        os.close(descriptor)
