"""The specification of a node: everything that hands needs to make it.

May import: this package's checks and faults.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from supervision.steps.checks import (
    HOST_ROOT,
    LINK,
    NAME,
    NODE,
    Record,
    check_absolute,
    check_addresses,
    check_match,
    check_relative,
    check_text,
)  # fmt: skip
from supervision.steps.faults import BadStep


class Interface(Record, frozen=True):
    """The one network interface of a node: a veth whose other end is a port of *bridge*.

    ``port`` is the name of that other end ("" derives it from the node); ``gateway`` holds at most one address of each family;
    without one the node reaches its own network only.
    """

    bridge: str
    addresses: tuple[str, ...]
    name: str = "eth0"
    gateway: tuple[str, ...] = ()
    port: str = ""
    isolated: bool = True

    def __post_init__(self) -> None:
        for link in filter(None, (self.bridge, self.name, self.port)):
            check_match(LINK, link, "link")
        check_addresses(self.addresses, self.gateway)


class Limits(Record, frozen=True):
    """What a node may use at most; 0 means no limit of its own. ``disk_bytes`` bounds what a build may write."""

    memory_bytes: int = 0
    processes: int = 0
    cpu_millicores: int = 0
    files: int = 1024
    disk_bytes: int = 0

    def __post_init__(self) -> None:
        if min(self.memory_bytes, self.processes, self.cpu_millicores, self.files, self.disk_bytes) < 0 or self.files > 1 << 20:
            raise BadStep("a limit is negative or absurd")


class Mount(Record, frozen=True):
    """*source* in the named *root* of hands, seen at the absolute *target* inside."""

    root: str
    source: str
    target: str
    writable: bool = False

    def __post_init__(self) -> None:
        check_match(NAME, self.root, "root")
        if self.root == HOST_ROOT:
            check_absolute(self.source, "source")
            if self.writable:
                raise BadStep("a directory of the host is never writable")
        else:
            check_relative(self.source, "source")
        check_absolute(self.target, "target")
        if self.target == "/":
            raise BadStep("a mount cannot cover the whole tree")


class Service(Record, frozen=True):
    """One process that a node's init runs; the same fields as init's own."""

    name: str
    argv: tuple[str, ...]
    generation: int = 1
    env: dict[str, str] = msgspec.field(default_factory=dict)
    cwd: str = "/"
    uid: int = -1
    gid: int = -1
    groups: tuple[int, ...] = ()
    fds: dict[str, str] = msgspec.field(default_factory=dict)
    restart: Literal["always", "never"] = "always"
    log: bool = True
    umask: int = 0o077
    nice: int = 0
    files: int = 0
    signal: str = "SIGTERM"
    no_new_privs: bool = False
    leftovers: Literal["keep", "kill"] = "keep"

    def __post_init__(self) -> None:
        if not self.argv or len(self.argv) > 1024 or len(self.env) > 1024:
            raise BadStep(f"service {self.name[:40]!r} has no command, or too much of it")
        for text in (*self.argv, *self.env, *self.env.values(), self.cwd):
            check_text(text, f"service {self.name[:40]!r}")


class Control(Record, frozen=True):
    """One more control socket of a node's init, made inside the node at *path*."""

    path: str
    owner: int = 0
    mode: int = 0o600
    role: Literal["supervisor", "daemon"] = "supervisor"
    uids: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        check_absolute(self.path, "control path")


class NodeSpec(Record, frozen=True):
    """Everything about one node that hands needs to make it.

    Args:
        uid: app, build: the node's own uid, in hands' namespace, inside an allowed range.
        range: ring1: first host uid of the 65,536 that the jail's user namespace maps.
        outgoing: user-mode networking to the outside.
        control_uid: who may connect to the socket ``Running.control`` of the node's init.
        compartment: the tenant whose node it is; for messages only.
        listeners: handles of listening sockets that hands takes from its own init, or that come with the step.
        channels: pairs of sockets that the node's init makes.
        closed: addresses and networks that ``outgoing`` must not reach, besides loopback, link-local and the node's own.
    """

    node: str
    generation: int
    strategy: Literal["jail", "user", "process"]
    purpose: Literal["ring1", "app", "build"]
    label: str = ""
    compartment: str = "default"
    uid: int = 0
    range: int = 0
    hostname: str = ""
    interface: Interface | None = None
    outgoing: bool = False
    limits: Limits = Limits()
    mounts: tuple[Mount, ...] = ()
    services: tuple[Service, ...] = ()
    control_uid: int = 0
    controls: tuple[Control, ...] = ()
    listeners: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    environment: dict[str, str] = msgspec.field(default_factory=dict)
    closed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_match(NODE, self.node, "node")
        check_match(NAME, self.compartment, "compartment")
        if self.hostname:
            check_match(NAME, self.hostname, "hostname")
        if self.generation < 1:
            raise BadStep(f"generation {self.generation} is not positive")
        if len(self.mounts) > 64 or len(self.services) > 64 or len(self.listeners) > 16 or len(self.controls) > 8:
            raise BadStep("too many mounts, services, listeners or controls")
        for key, value in self.environment.items():
            check_text(key, "environment", 256)
            check_text(value, "environment")
        check_addresses((), networks=self.closed)
