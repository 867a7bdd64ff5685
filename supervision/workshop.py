"""What the strategies work with: hands' configuration, directories, reaper, worker, groups, records and filters, in one place.

Owns HOME/hands (records, filters, the sockets of nodes' inits), the resolution of (root, source) to a path, and what is remembered of
fabrics. Carries out no step.

INV-WSH-1: a path from a step is resolved below its root without following any symbolic link on the way.
INV-WSH-2: what hands writes lies in directories that only hands' own user can change, so nobody else can lead it elsewhere.

May import: enjin, supervision.{cgroups,firewall,records,seccomp,settings,steps,watching,worker}.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import msgspec

from enjin.errors import ConfigError
from enjin.host import read_bounded, write_atomic
from supervision import firewall, seccomp
from supervision.cgroups import Groups
from supervision.records import Records
from supervision.settings import Config
from supervision.steps import HOST_ROOT, BadStep, Mount, NodeFailed, NodeSpec, Rule
from supervision.watching import Reaper, Watch
from supervision.worker import Worker

INSIDE_HOME: Final = "/var/lib/enjin"
INSIDE_RUNTIME: Final = "/opt/enjin"
APP_HOME: Final = "/home/app"
KNOWN_ROOTS: Final = ("nodes", "releases", "blobs")
OWN: Final = "hands"
FABRICS: Final = "hands/fabrics.json"


class Fabric(msgspec.Struct, frozen=True, omit_defaults=True):
    """What hands remembers of a fabric."""

    bridge: str = ""
    rules: tuple[Rule, ...] = ()
    addresses: tuple[str, ...] = ()


class Workshop:
    """Everything a strategy needs."""

    def __init__(self, config: Config, emit: Callable[[dict[str, Any]], None]) -> None:
        self.config: Final = config
        self.home: Final = Path(config.home)
        self.emit: Final = emit
        for name in ("", OWN, "nodes", "releases"):
            self._claim(self.home / name)
        self.records: Final = Records(self.home / OWN / "nodes")
        self.groups: Final = Groups(config.tag) if config.privileged else None
        self.reaper: Final = Reaper()
        self.worker: Final = Worker()
        self.ways_out: Final[dict[int, list[str]]] = {}
        self._fabrics: dict[str, Fabric] = {}
        self.tasks: Final[set[asyncio.Task[None]]] = set()
        self.watch: Final = Watch(self.records, self.groups, self.reaper, emit)

    def _claim(self, path: Path) -> None:
        """Make a directory of hands' own, passed through by every uid.

        Raises:
            ConfigError: It belongs to somebody else, or others can write into it.
        """
        path.mkdir(mode=0o711, exist_ok=True)
        status = path.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
            hint = f"chown {os.geteuid()} {path}; chmod go-w {path}"
            raise ConfigError(f"{path} is not a directory that only hands' own user can change", hint=hint)
        if status.st_mode & 0o111 != 0o111:
            path.chmod(status.st_mode | 0o111)

    # -- paths --------------------------------------------------------------------------------

    def root(self, name: str) -> Path:
        """Return the directory of a named root.

        Raises:
            BadStep: There is no such root.
        """
        if name in self.config.roots:
            return Path(self.config.roots[name])
        if name in KNOWN_ROOTS:
            return self.home / name
        raise BadStep(f"there is no root {name!r}")

    def source(self, mount: Mount) -> str:
        """Return the host path of *mount*, checked.

        Raises:
            BadStep: It is not there, not allowed, or a symbolic link leads there.
        """
        if mount.root == HOST_ROOT:
            if not any(f"{mount.source}/".startswith(f"{allowed.rstrip('/')}/") for allowed in self.config.host_paths):
                raise BadStep(f"{mount.source} is not among the paths of the host that may be shown to nodes")
            if not os.path.exists(mount.source):
                raise BadStep(f"{mount.source} is not there")
            return mount.source
        return str(self.beneath(self.root(mount.root), mount.source))

    @staticmethod
    def beneath(root: Path, relative: str) -> Path:
        """Return root/relative after walking it part by part without following a link."""
        try:
            descriptor = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise BadStep(f"{root}: {error.strerror}") from error
        try:
            for part in relative.split("/"):
                try:
                    following = os.open(part, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=descriptor)
                except OSError as error:
                    raise BadStep(f"{relative} in {root}: {error.strerror}") from error
                os.close(descriptor)
                descriptor = following
                if stat.S_ISLNK(os.fstat(descriptor).st_mode):
                    raise BadStep(f"{relative} in {root} leads through a link")
        finally:
            os.close(descriptor)
        return root / relative

    def directory(self, path: Path, mode: int, owner: int | None = None) -> Path:
        """Make *path* with exactly *mode* and *owner*; parents below home can be passed through by every uid, not read."""
        for parent in reversed(path.parents):
            if parent.is_relative_to(self.home) and not parent.exists():
                parent.mkdir(mode=0o711)
                parent.chmod(0o711)
        path.mkdir(mode=mode, exist_ok=True)
        path.chmod(mode)
        if owner is not None and self.config.privileged:
            os.chown(path, owner, owner)
        return path

    def node_directory(self, node: str) -> Path:
        """Return where a node's own state lives."""
        return self.root("nodes") / node

    @property
    def own_network(self) -> bool:
        """Whether hands may change the network namespace that it runs in."""
        if self.config.own_network is not None:
            return self.config.own_network
        return Path("/proc/self/uid_map").read_text().split() != ["0", "0", "4294967295"]

    def init_command(self, runtime: str) -> list[str]:
        """Return the start of init's command line, with the runtime seen at *runtime*."""
        return [f"{runtime}/bin/python", "-I", "-S", f"{runtime}/{self.config.program or self._find_init()}"]

    def _find_init(self) -> str:
        base = Path(self.config.runtime)
        for pattern in ("lib/python3*/site-packages/supervision/init/__main__.py", "supervision/init/__main__.py"):
            for found in sorted(base.glob(pattern)):
                return str(found.relative_to(base))
        raise ConfigError(f"there is no supervision/init in {base}", hint="`enjin up` makes the runtime copy")

    def check_uids(self, first: int, last: int) -> None:
        """Check that the uids *first* to *last* lie in one allowed range.

        Raises:
            BadStep: They do not.
        """
        if not any(low <= first <= last <= high for low, high in self.config.uids):
            raise BadStep(f"uids {first} to {last} are not among those that nodes may have")

    def background(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something that ends by itself beside the steps."""
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    # -- the control socket of a node's init ----------------------------------------------------

    def control_path(self, spec: NodeSpec) -> str:
        """Return the path, below home, of the socket of the node's init."""
        return f"{OWN}/{spec.node}.sock"

    def listen_control(self, spec: NodeSpec) -> socket.socket:
        """Return the listening socket of the node's init; only ``control_uid`` (and root) can connect to it."""
        path = self.home / self.control_path(spec)
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        mask = os.umask(0o177)
        try:
            control.bind(str(path))
        except OSError as error:
            control.close()
            raise NodeFailed(f"cannot make {path}: {error}") from error
        finally:
            os.umask(mask)
        if self.config.privileged and spec.control_uid:
            os.chown(path, spec.control_uid, spec.control_uid)
        control.listen(16)
        return control

    def filters(self) -> tuple[bytes, bytes]:
        """Return the system call filters of tenants."""
        return seccomp.programs(self.home / OWN)

    # -- fabrics ------------------------------------------------------------------------------------

    async def apply_rules(self, netns: str = "") -> None:
        """Put the rules of a fabric into force: in our own namespace, or in the named one."""
        fabric = self._fabrics.get(netns, Fabric())
        text = firewall.fabric_text(fabric.bridge, fabric.rules, {} if netns else self.ways_out)
        await self.worker.call("firewall.replace", inside=f"/run/netns/{netns}" if netns else "", text=text)

    def remember_fabric(self, netns: str, **news: Any) -> None:
        """Note a fabric's bridge, addresses or rules, for the next hands too."""
        known = self._fabrics.get(netns, Fabric())
        fabric = msgspec.structs.replace(known, **news)
        if fabric != known:
            self._fabrics[netns] = fabric
            write_atomic(self.home / FABRICS, msgspec.json.encode(self._fabrics), mode=0o600)

    async def missing_fabrics(self) -> tuple[str, ...]:
        """Return the bridges that are not as they were made."""
        lost = []
        for netns, fabric in self._fabrics.items():
            if fabric.bridge and await self._missing(netns, fabric):
                lost.append(fabric.bridge)
        return tuple(lost)

    async def _missing(self, netns: str, fabric: Fabric) -> list[str]:
        found: list[str] = await self.worker.call("fabric.missing", netns=netns, bridge=fabric.bridge, addresses=fabric.addresses)
        return found

    def forget_fabric(self, netns: str) -> None:
        """Forget a fabric."""
        if self._fabrics.pop(netns, None) is not None:
            write_atomic(self.home / FABRICS, msgspec.json.encode(self._fabrics), mode=0o600)

    def recover_fabric(self) -> None:
        """Take up what an earlier hands noted; the kernel still has the rules themselves."""
        with contextlib.suppress(FileNotFoundError):
            self._fabrics = msgspec.json.decode(read_bounded(self.home / FABRICS, 1 << 22), type=dict[str, Fabric])
        for record in self.records.each():
            if record.phase == "running" and record.spec.outgoing and record.spec.purpose != "ring1":
                self.ways_out[record.spec.uid] = list(record.closed)
