"""The closed table of steps: what the privileged half of a supervisor can be asked to do.

Owns the shapes of steps, node specifications and their results, and the checks that need nothing but the value itself (names, relative
paths, addresses, bounds). Carries nothing out; what depends on the host (roots, uid ranges) is checked by hands.

INV-STP-1: a path in a step is relative to a named root and has no `..`, empty or `.` part; the one exception is the root `host`, whose
           sources are absolute and must lie in the directories that hands' configuration allows.
INV-STP-2: a step that does not parse is refused as a whole; an unknown kind or field is refused.

May import: enjin.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final, Literal

import msgspec

from enjin.errors import Conflict, Invalid, NotFound, StepFailed
from enjin.names import NAME_PATTERN

NODE: Final = re.compile(r"[a-z]{1,8}-[0-9a-f]{16}")
NAME: Final = re.compile(NAME_PATTERN)
LINK: Final = re.compile(r"[a-z][a-z0-9]{0,14}")
NETNS: Final = re.compile(r"enjin-[0-9a-f]{6}")
PART: Final = re.compile(r"[A-Za-z0-9_@+=,.-]{1,255}")
HOST_ROOT: Final = "host"
MESSAGE_LIMIT: Final = 65_536


class BadStep(Invalid):
    """A step is malformed or names what it may not."""

    code = "E-STP-001"


class Stale(Conflict):
    """A step is older than the node it is about."""

    code = "E-STP-002"


class NoSuchNode(NotFound):
    """Hands knows no such node."""

    code = "E-STP-003"


class NodeFailed(StepFailed):
    """A node could not be started or stopped."""

    code = "E-STP-004"


class NetworkFailed(StepFailed):
    """A link, address, route or rule could not be set."""

    code = "E-STP-005"


class Unsupported(Invalid):
    """This machine cannot do that."""

    code = "E-STP-006"
    remedy = "`enjin doctor` says what works here and what is missing"


class Busy(Conflict):
    """The thing is in use."""

    code = "E-STP-007"


class TooBig(Invalid):
    """A tree holds too much, or what a release may not hold."""

    code = "E-STP-008"


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A value inside a step or a result."""


def _match(pattern: re.Pattern[str], text: str, what: str) -> None:
    if pattern.fullmatch(text) is None:
        raise BadStep(f"{what} {text[:60]!r} is not of the form {pattern.pattern}")


def _relative(path: str, what: str) -> None:
    if len(path) > 1024 or not all(PART.fullmatch(part) and part not in (".", "..") for part in path.split("/")):
        raise BadStep(f"{what} {path[:60]!r} is not a plain relative path")


def _absolute(path: str, what: str) -> None:
    if not path.startswith("/"):
        raise BadStep(f"{what} {path[:60]!r} is not absolute")
    if path != "/":
        _relative(path[1:], what)


def _text(value: str, what: str, limit: int = 32_768) -> None:
    if "\0" in value or len(value) > limit:
        raise BadStep(f"{what} holds a zero byte or more than {limit} characters")


class Interface(Record):
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
            _match(LINK, link, "link")
        try:
            for address in self.addresses:
                ipaddress.ip_interface(address)
            for gateway in self.gateway:
                ipaddress.ip_address(gateway)
        except ValueError as error:
            raise BadStep(f"interface {self.name}: {error}") from error


class Limits(Record):
    """What a node may use at most; 0 means no limit of its own. ``disk_bytes`` bounds what a build may write."""

    memory_bytes: int = 0
    processes: int = 0
    cpu_millicores: int = 0
    files: int = 1024
    disk_bytes: int = 0

    def __post_init__(self) -> None:
        if min(self.memory_bytes, self.processes, self.cpu_millicores, self.files, self.disk_bytes) < 0 or self.files > 1 << 20:
            raise BadStep("a limit is negative or absurd")


class Mount(Record):
    """*source* in the named *root* of hands, seen at the absolute *target* inside."""

    root: str
    source: str
    target: str
    writable: bool = False

    def __post_init__(self) -> None:
        _match(NAME, self.root, "root")
        if self.root == HOST_ROOT:
            _absolute(self.source, "source")
            if self.writable:
                raise BadStep("a directory of the host is never writable")
        else:
            _relative(self.source, "source")
        _absolute(self.target, "target")
        if self.target == "/":
            raise BadStep("a mount cannot cover the whole tree")


class Service(Record):
    """One process that a node's init runs; the same fields as init's own."""

    name: str
    argv: tuple[str, ...]
    generation: int = 1
    env: dict[str, str] = {}
    cwd: str = "/"
    uid: int = -1
    gid: int = -1
    groups: tuple[int, ...] = ()
    fds: dict[str, str] = {}
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
            _text(text, f"service {self.name[:40]!r}")


class Control(Record):
    """One more control socket of a node's init, made inside the node at *path*."""

    path: str
    owner: int = 0
    mode: int = 0o600
    role: Literal["supervisor", "daemon"] = "supervisor"
    uids: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        _absolute(self.path, "control path")


class NodeSpec(Record):
    """Everything about one node that hands needs to make it.

    Args:
        uid: app, build: the node's own uid, in hands' namespace, inside an allowed range.
        range: ring1: first host uid of the 65,536 that the jail's user namespace maps.
        outgoing: user-mode networking to the outside.
        control_uid: who may connect to the socket ``Running.control`` of the node's init.
        compartment: names the directory of that socket.
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
    environment: dict[str, str] = {}
    closed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _match(NODE, self.node, "node")
        _match(NAME, self.compartment, "compartment")
        if self.hostname:
            _match(NAME, self.hostname, "hostname")
        if self.generation < 1:
            raise BadStep(f"generation {self.generation} is not positive")
        if len(self.mounts) > 64 or len(self.services) > 64 or len(self.listeners) > 16 or len(self.controls) > 8:
            raise BadStep("too many mounts, services, listeners or controls")
        for key, value in self.environment.items():
            _text(key, "environment", 256)
            _text(value, "environment")
        try:
            for network in self.closed:
                ipaddress.ip_network(network)
        except ValueError as error:
            raise BadStep(f"closed: {error}") from error


class Step(Record, tag_field="kind"):
    """Base of everything that hands can be asked."""


class EnsureFabric(Step, tag="fabric.ensure"):
    """Make or mend the bridge that nodes hang on: in the named namespace, or ("") in hands' own."""

    bridge: str
    addresses: tuple[str, ...] = ()
    netns: str = ""

    def __post_init__(self) -> None:
        _match(LINK, self.bridge, "bridge")
        if self.netns:
            _match(NETNS, self.netns, "network namespace")
        try:
            for address in self.addresses:
                ipaddress.ip_interface(address)
        except ValueError as error:
            raise BadStep(f"fabric {self.bridge}: {error}") from error


class RemoveFabric(Step, tag="fabric.remove"):
    """Remove what ``EnsureFabric`` made; nothing is left of it."""

    bridge: str
    netns: str = ""

    def __post_init__(self) -> None:
        _match(LINK, self.bridge, "bridge")
        if self.netns:
            _match(NETNS, self.netns, "network namespace")


class _AboutNode(Step):
    node: str

    def __post_init__(self) -> None:
        _match(NODE, self.node, "node")


class StartNode(Step, tag="node.start"):
    """Make the node run as specified; what already runs in this generation is mended and answered, never started twice."""

    spec: NodeSpec


class InspectNode(_AboutNode, tag="node.inspect"):
    """Say what is there of a node, and what is missing."""


class InspectAll(Step, tag="node.inspect-all"):
    """Say it of every node on record."""


class StopNode(_AboutNode, tag="node.stop"):
    """End the node's processes within *grace_ms*, then by force; its state stays."""

    generation: int = 0
    grace_ms: int = 10_000


class DestroyNode(_AboutNode, tag="node.destroy"):
    """Stop the node and remove everything it had, its state too unless *keep_state*."""

    generation: int = 0
    grace_ms: int = 0
    keep_state: bool = False


class Rule(Record):
    """One access rule: packets to or from *address* (a network) and *port* (0: any) in *chain* meet *verdict*."""

    chain: Literal["input", "forward", "output"]
    verdict: Literal["accept", "drop"]
    source: str = ""
    destination: str = ""
    protocol: Literal["", "tcp", "udp", "icmp", "ipv6-icmp"] = ""
    port: int = 0
    link: str = ""
    uid: int = -1

    def __post_init__(self) -> None:
        try:
            for network in filter(None, (self.source, self.destination)):
                ipaddress.ip_network(network)
        except ValueError as error:
            raise BadStep(f"rule: {error}") from error
        if self.link:
            _match(LINK, self.link, "link")
        if not 0 <= self.port <= 65_535 or (self.port and self.protocol not in ("tcp", "udp")):
            raise BadStep(f"rule: port {self.port} needs tcp or udp and lies in 1..65535")


class ReplaceRules(Step, tag="rules.replace"):
    """Replace all access rules of hands' own network namespace (or the named fabric's) in one transaction."""

    rules: tuple[Rule, ...]
    netns: str = ""

    def __post_init__(self) -> None:
        if len(self.rules) > 10_000:
            raise BadStep("more than 10000 rules")
        if self.netns:
            _match(NETNS, self.netns, "network namespace")


class SealTree(Step, tag="tree.seal"):
    """Make the tree at *source* in *root* read-only and move it to *target* under its digest."""

    root: str
    source: str
    target: str = "releases"
    limit_bytes: int = 1 << 30
    limit_entries: int = 100_000

    def __post_init__(self) -> None:
        _match(NAME, self.root, "root")
        _match(NAME, self.target, "root")
        _relative(self.source, "source")


class RemoveTree(Step, tag="tree.remove"):
    """Remove the tree at *path* in *root*; nothing there is fine."""

    root: str
    path: str

    def __post_init__(self) -> None:
        _match(NAME, self.root, "root")
        _relative(self.path, "path")


class GiveListeners(_AboutNode, tag="node.give-listeners"):
    """Hand listening sockets to a running node's init, under the same names."""

    listeners: tuple[str, ...]


class Probe(Step, tag="probe"):
    """Try which strategies really work here."""


AnyStep = (
    EnsureFabric | RemoveFabric | StartNode | InspectNode | InspectAll | StopNode | DestroyNode | ReplaceRules | SealTree | RemoveTree
    | GiveListeners | Probe
)  # fmt: skip


class Running(Record):
    """What is there of a node.

    ``control`` is the path, below hands' home, of the socket of the node's init. ``isolation`` says in words what separates it.
    ``missing`` names what was found gone: ``link``, ``address``, ``route``, ``cgroup:<controller>``, ``outgoing``, ``process``.
    """

    node: str
    generation: int
    state: Literal["running", "stopped", "gone"]
    strategy: str
    purpose: str
    pid: int = 0
    control: str = ""
    isolation: str = ""
    missing: tuple[str, ...] = ()
    status: int | None = None


class Seen(Record):
    """Answer to ``InspectAll``."""

    nodes: tuple[Running, ...]


class Done(Record):
    """Answer of a step that leaves nothing to say; ``changed`` is whether anything had to be done."""

    changed: bool = False


class Sealed(Record):
    """A tree that can never change again: *path* is below the root ``releases`` (or the target asked for)."""

    digest: str
    path: str
    bytes: int
    entries: int


class Verdict(Record):
    """Whether a strategy works here, and why (not)."""

    works: bool
    reason: str
    isolation: str = ""


class Probed(Record):
    """Answer to ``Probe``."""

    strategies: dict[str, Verdict]


def parse_step(data: bytes) -> AnyStep:
    """Return the step that *data* (JSON) describes.

    Raises:
        BadStep: It is not one of the table, or a field is not allowed.
    """
    try:
        return msgspec.json.decode(data, type=AnyStep)
    except msgspec.DecodeError as error:
        raise BadStep(f"the step does not parse: {error}") from error
