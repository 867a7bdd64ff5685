"""The closed table of steps.

May import: this package's checks, faults and nodes.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from supervision.steps.checks import LINK, NAME, NETNS, NODE, Record, check_addresses, check_match, check_relative
from supervision.steps.faults import BadStep
from supervision.steps.nodes import NodeSpec


class Step(Record, tag_field="kind", frozen=True):
    """Base of everything that hands can be asked."""


class EnsureFabric(Step, tag="fabric.ensure", frozen=True):
    """Make or mend the bridge that nodes hang on: in the named namespace, or ("") in hands' own."""

    bridge: str
    addresses: tuple[str, ...] = ()
    netns: str = ""

    def __post_init__(self) -> None:
        check_match(LINK, self.bridge, "bridge")
        if self.netns:
            check_match(NETNS, self.netns, "network namespace")
        check_addresses(self.addresses)


class RemoveFabric(Step, tag="fabric.remove", frozen=True):
    """Remove what ``EnsureFabric`` made; nothing is left of it."""

    bridge: str
    netns: str = ""

    def __post_init__(self) -> None:
        check_match(LINK, self.bridge, "bridge")
        if self.netns:
            check_match(NETNS, self.netns, "network namespace")


class _AboutNode(Step, frozen=True):
    node: str

    def __post_init__(self) -> None:
        check_match(NODE, self.node, "node")


class StartNode(Step, tag="node.start", frozen=True):
    """Make the node run as specified; what already runs in this generation is mended and answered, never started twice."""

    spec: NodeSpec


class InspectNode(_AboutNode, tag="node.inspect", frozen=True):
    """Say what is there of a node, and what is missing."""


class InspectAll(Step, tag="node.inspect-all", frozen=True):
    """Say it of every node on record."""


class StopNode(_AboutNode, tag="node.stop", frozen=True):
    """End the node's processes within *grace_ms*, then by force; its state stays."""

    generation: int = 0
    grace_ms: int = 10_000


class DestroyNode(_AboutNode, tag="node.destroy", frozen=True):
    """Stop the node and remove everything it had, its state too unless *keep_state*."""

    generation: int = 0
    grace_ms: int = 0
    keep_state: bool = False


class Rule(Record, frozen=True):
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
        check_addresses((), networks=filter(None, (self.source, self.destination)))
        if self.link:
            check_match(LINK, self.link, "link")
        if not 0 <= self.port <= 65_535 or (self.port and self.protocol not in ("tcp", "udp")):
            raise BadStep(f"rule: port {self.port} needs tcp or udp and lies in 1..65535")


class ReplaceRules(Step, tag="rules.replace", frozen=True):
    """Replace all access rules of hands' own network namespace (or the named fabric's) in one transaction."""

    rules: tuple[Rule, ...]
    netns: str = ""

    def __post_init__(self) -> None:
        if len(self.rules) > 10_000:
            raise BadStep("more than 10000 rules")
        if self.netns:
            check_match(NETNS, self.netns, "network namespace")


class SealTree(Step, tag="tree.seal", frozen=True):
    """Make the tree at *source* in *root* read-only and move it to *target* under its digest."""

    root: str
    source: str
    target: str = "releases"
    limit_bytes: int = 1 << 30
    limit_entries: int = 100_000

    def __post_init__(self) -> None:
        check_match(NAME, self.root, "root")
        check_match(NAME, self.target, "root")
        check_relative(self.source, "source")


class RemoveTree(Step, tag="tree.remove", frozen=True):
    """Remove the tree at *path* in *root*; nothing there is fine."""

    root: str
    path: str

    def __post_init__(self) -> None:
        check_match(NAME, self.root, "root")
        check_relative(self.path, "path")


class GiveListeners(_AboutNode, tag="node.give-listeners", frozen=True):
    """Hand listening sockets to a running node's init, under the same names."""

    listeners: tuple[str, ...]


class Probe(Step, tag="probe", frozen=True):
    """Try which strategies really work here."""


AnyStep = (
    EnsureFabric | RemoveFabric | StartNode | InspectNode | InspectAll | StopNode | DestroyNode | ReplaceRules | SealTree | RemoveTree
    | GiveListeners | Probe
)  # fmt: skip


def parse_step(data: bytes) -> AnyStep:
    """Return the step that *data* (JSON) describes.

    Raises:
        BadStep: It is not one of the table, or a field is not allowed.
    """
    try:
        return msgspec.json.decode(data, type=AnyStep)
    except msgspec.DecodeError as error:
        raise BadStep(f"the step does not parse: {error}") from error
