"""The rows of the world: one frozen Struct per kind of thing, the same in ring 0 and ring 1.

Owns the shapes of places, networks, nodes and charters, and names those of ``rows_accounts`` too. Says nothing about how
rows come to be: that is ``facts``. Rows of apps (App, Release, ...) are in ``rows_apps``; the closed table is ``shapes``.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from compartments.row import CompartmentKind, RoleName, Row, State, Strategy, Wanted
from compartments.rows_accounts import Account, AccountRole, Grant, KeyRequest, Membership, RevokedKey, RootSuccessor, Token

__all__ = [
    "ROWS", "AccessRule", "AccessRuleSet", "Account", "AccountRole", "AddressBlock", "Charter", "Cloud", "Compartment", "CompartmentKind",
    "Containment", "Counter", "Endpoint", "Grant", "KeyRequest", "Membership", "Network", "NetworkInterface", "Node", "NodeObservation",
    "NodeTier", "RevokedKey", "RoleName", "RootSuccessor", "Row", "State", "Strategy", "Task", "Tier", "Token", "Volume", "Wanted",
]  # fmt: skip


class Cloud(Row):
    """The cloud itself: one row, from genesis. ``first_uid`` starts its ``uid_blocks`` blocks of host uids (-1: it has none).

    ``bus`` is what its messages travel over (``zmq``, ``nats``) since it was moved there; empty: as it was founded.
    """

    INDEX = ("name",)

    id: str
    name: str
    compartment: str
    founded: int
    first_uid: int = -1
    uid_blocks: int = 0
    bus: str = ""


class Compartment(Row):
    """A locality or grouping. ``parent`` is its one home, along which authority runs; "" only for the cloud."""

    INDEX = ("name", "parent", "kind")

    id: str
    name: str
    kind: CompartmentKind
    parent: str = ""
    summary: str = ""
    created: int = 0


class Containment(Row):
    """A further edge of the graph: *child* (a compartment or a node) also lies in *parent*. Gives no authority."""

    KEY = ("parent", "child")
    INDEX = ("parent", "child")

    parent: str
    child: str


class Tier(Row):
    """A role of nodes, an axis apart from compartments.

    ``above`` names the tier to which a member can be promoted; ``single``: at most one member per group.
    """

    INDEX = ("name",)

    id: str
    name: str
    summary: str = ""
    above: str = ""
    single: bool = False
    created: int = 0


class NodeTier(Row):
    """*node* plays *tier*; ``group`` names the set of replicas among which promotion happens."""

    KEY = ("node", "tier")
    INDEX = ("node", "tier", "group")

    node: str
    tier: str
    group: str = ""


class Node(Row):
    """A thing that is supervised. ``wanted`` and ``generation`` are the intent, ``state`` is what was seen to be so.

    ``uid`` is the first uid on its supervisor's host and ``uid_range`` how many it has; ``since`` is when ``state`` last changed.
    """

    INDEX = ("label", "compartment", "supervisor", "ring")

    id: str
    ring: int
    label: str
    compartment: str
    strategy: Strategy
    supervisor: str = ""
    generation: int = 1
    wanted: Wanted = "running"
    state: State = "pending"
    uid: int = -1
    uid_range: int = 0
    since: int = 0
    reason: str = ""
    created: int = 0


class NodeObservation(Row):
    """What was last seen of a node and became a fact; ``isolation`` maps a namespace or means to what was found."""

    KEY = ("node",)

    node: str
    generation: int
    state: str
    time: int
    isolation: dict[str, str] = msgspec.field(default_factory=dict)
    reason: str = ""


class Network(Row):
    """A range of addresses, IPv4 and IPv6 side by side: the n-th address of both belongs to one interface.

    ``reserved`` is how many addresses from the start are never given away (the network's own and its gateway), ``next`` is the
    offset at which the search for a free one goes on, ``used`` how many are taken. An empty ``ipv6``: the network has none.
    """

    INDEX = ("name", "compartment")

    id: str
    name: str
    compartment: str
    ipv4: str
    ipv6: str = ""
    gateway4: str = ""
    gateway6: str = ""
    reserved: int = 2
    next: int = 2
    used: int = 0
    created: int = 0


class NetworkInterface(Row):
    """A pair of addresses that belongs to a node's interface; ``offset`` counts from the network's first address."""

    KEY = ("network", "offset")
    INDEX = ("node", "network", "ipv4", "ipv6")

    network: str
    offset: int
    node: str
    name: str
    ipv4: str
    ipv6: str = ""
    since: int = 0


class AddressBlock(Row):
    """A part of a network whose addresses *domain* alone gives out; "": set aside for one that is still to come."""

    KEY = ("network", "ipv4")
    INDEX = ("network", "domain")

    network: str
    ipv4: str
    ipv6: str = ""
    domain: str = ""


class AccessRuleSet(Row):
    """A named list of access rules that applies to a network."""

    INDEX = ("name", "network")

    id: str
    name: str
    network: str
    created: int = 0


class AccessRule(Row):
    """One rule of a set; the lowest ``position`` that matches decides."""

    KEY = ("rule_set", "position")
    INDEX = ("rule_set",)

    rule_set: str
    position: int
    action: Literal["accept", "drop"]
    protocol: Literal["tcp", "udp", "any"] = "any"
    source: str = ""
    target: str = ""
    port_first: int = 0
    port_last: int = 0


class Task(Row):
    """An operation that takes time: ``id`` is the request that asked for it, ``subject`` what it is about."""

    INDEX = ("subject", "state")

    id: str
    kind: str
    subject: str
    compartment: str = ""
    asker: str = ""
    state: Literal["running", "done", "failed"] = "running"
    stage: str = ""
    started: int = 0
    ended: int = 0
    reason: str = ""


class Charter(Row):
    """The newest charter of a domain: ``hash`` and ``frame`` are the signed bytes' (``compartments.charter`` is what they say)."""

    KEY = ("domain",)

    domain: str
    version: int
    epoch: int
    decider: str
    hash: str
    frame: str
    time: int


class Volume(Row):
    """Storage of a compartment that outlives the nodes that use it."""

    INDEX = ("compartment", "node", "name")

    id: str
    name: str
    compartment: str
    bytes: int
    node: str = ""
    state: Literal["wanted", "ready", "gone"] = "wanted"
    created: int = 0


class Endpoint(Row):
    """A public listener of this cloud: where a door or the router is reached."""

    KEY = ("name",)

    name: str
    address: str
    port: int
    ring: int = 0


class Counter(Row):
    """A number that outlives what it counted: the last one given, or a fence."""

    KEY = ("name",)

    name: str
    value: int


ROWS: Final = (
    Cloud, Compartment, Containment, Tier, NodeTier, Node, NodeObservation, Network, NetworkInterface, AddressBlock,
    AccessRuleSet, AccessRule, Task, Account, AccountRole, Membership, Token, Grant, KeyRequest, RevokedKey, RootSuccessor, Charter, Volume,
    Endpoint, Counter,
)  # fmt: skip
