"""Charters: what ring 0 delegates to each ring 1 domain, drafted from the world and issued by command.

Owns ``charter.issue``, ``charter.list`` and the drafting. The daemon signs a draft and sends itself the command, so that
the signed bytes stand in the journal before they go out. A domain is called by its decider's node id.

INV-CHI-1: only charters that say what the journal's world says are drafted; a domain gets every revoked key.
INV-CHI-2: a charter that would say nothing new is not due.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from bus.messages import Asker, Command, Fact, Moment, Query, Question, Role, Rule
from compartments import charter, graph, lookup, operators
from compartments.charter import Block, CharterRefused, Place, Quotas
from compartments.daemons import groups_of_node
from compartments.destroying import state_of
from compartments.facts.charters import CharterIssued
from compartments.rows import AddressBlock, Charter, Cloud, Compartment, Endpoint, Grant, Node, RevokedKey
from compartments.world import World
from enjin.canonical import from_text, parse
from ring0.buses import nats_port
from ring0.roots import successors

QUOTAS: Final = Quotas(memory_bytes=64 << 30, processes=65_536, apps=1_000)
API: Final = "api1"
ROUTER: Final = "router"


class IssueCharter(Command, kind="charter.issue"):
    """Give a domain a new charter: *frame* is its signed bytes as base64url."""

    domain: str
    version: int
    frame: str


class ListCharters(Query, kind="charter.list"):
    """Every domain's newest charter."""


@functools.lru_cache(maxsize=64)
def read_charter(text: str) -> tuple[charter.Charter, str]:
    """Return the charter in frame *text* and its hash; the signature is the caller's matter.

    Raises:
        CharterRefused: The frame holds something else.
        BadFrame, Malformed, NotCanonical.
    """
    from keys.frame import CHARTER, open_frame

    frame = open_frame(from_text(text))
    if frame.type != CHARTER:
        raise CharterRefused("the frame does not hold a charter")
    return parse(frame.payload, charter.Charter), frame.digest


def in_force(world: World, domain: str) -> charter.Charter | None:
    """Return the newest charter of *domain*, or None."""
    row = world.get(Charter, domain)
    return read_charter(row.frame)[0] if row is not None else None


def draft(world: World, node: Node, *, quotas: Quotas = QUOTAS) -> charter.Charter:
    """Return the charter that *node*'s domain should have now: the version after the one in force.

    Raises:
        CharterRefused: There is no cloud, or *node* has no grant yet.
    """
    cloud = next(iter(world.all(Cloud)), None)
    grants = sorted(world.find(Grant, subject=node.id), key=lambda row: (row.not_before, row.id))
    if cloud is None or not grants:
        raise CharterRefused(f"node {node.label} has no grant yet")
    old = in_force(world, node.id)
    api, router = world.get(Endpoint, API), world.get(Endpoint, ROUTER)
    return charter.Charter(
        cloud=cloud.id,
        domain=node.id,
        epoch=old.epoch if old is not None else 1,
        version=old.version + 1 if old is not None else 1,
        decider=node.id,
        parent=node.supervisor,
        grant=grants[-1].id,
        blocks=tuple(Block(network=row.network, ipv4=row.ipv4, ipv6=row.ipv6) for row in world.find(AddressBlock, domain=node.id)),
        uid_first=node.uid,
        uid_count=node.uid_range,
        compartments=_places(world),
        quotas=quotas,
        grants=_grants(world, node),
        revoked=tuple(row.key for row in sorted(world.all(RevokedKey), key=lambda row: row.number)),
        api_port=api.port if api is not None else 0,
        router_port=router.port if router is not None else 0,
        address=router.address if router is not None else "",
        groups=tuple(sorted(groups_of_node(world, node.id))),
        roots=tuple(successors(world)),
        approvals=operators.latest(world),
        nats_port=nats_port(world, node.ring),
    )


def due(world: World, node: Node, *, quotas: Quotas = QUOTAS) -> charter.Charter | None:
    """Return the charter to sign and issue for *node*'s domain; None when the one in force says it all."""
    new, old = draft(world, node, quotas=quotas), in_force(world, node.id)
    if old is not None and msgspec.structs.replace(old, version=new.version) == new:
        return None
    return new


def _places(world: World) -> tuple[Place, ...]:
    """Return every environment and the homes above it, homes first; none that is condemned, so that no new node makes a key for it."""
    found: dict[str, Place] = {}
    for environment in world.find(Compartment, kind="environment"):
        if state_of(world, environment.id) == "condemned":
            continue
        for row in graph.home_path(world, environment.id):
            found[row.id] = Place(id=row.id, name=row.name, kind=row.kind, parent=row.parent)
    return tuple(found[identity] for identity in sorted(found, key=lambda one: (len(graph.home_path(world, one)), one)))


def _grants(world: World, node: Node) -> tuple[str, ...]:
    """Return the frames that the domain must believe, parents first: ring 0's, people's, and its own; of each key the newest."""
    newest: dict[str, Grant] = {}
    for row in sorted(world.all(Grant), key=lambda row: (row.not_before, row.id)):
        if row.frame and world.get(RevokedKey, row.key) is None and (row.ring == 0 or row.subject == node.id):
            newest[row.key] = row
    rows = newest.values()
    return tuple(row.frame for row in sorted(rows, key=lambda row: (row.ring, row.created, -row.role, row.id)))


def issue(wish: IssueCharter, world: World, at: Moment) -> Iterator[Fact]:
    """Issue a charter.

    Raises:
        NoSuchNode: The decider is unknown.
        CharterRefused: Not for this cloud or domain, or its decider is no ring 1 node.
        StaleCharter: Not newer than the one in force.
    """
    new, digest = read_charter(wish.frame)
    cloud = next(iter(world.all(Cloud)), None)
    decider = lookup.node(world, new.decider)
    if decider.ring != 1 or decider.id != new.decider or new.parent != decider.supervisor:
        raise CharterRefused(f"node {decider.label} is no ring 1 node of {new.parent}")
    if new.version != wish.version:
        raise CharterRefused("the frame is of another version than the wish says")
    charter.check_succession(in_force(world, wish.domain), new, cloud=cloud.id if cloud is not None else "", domain=wish.domain)
    yield CharterIssued(
        domain=new.domain, version=new.version, epoch=new.epoch, decider=new.decider, hash=digest, frame=wish.frame, time=at.time
    )


def list_charters(_query: ListCharters, world: World, _asker: Asker) -> list[dict[str, Any]]:
    """Return the newest charter of every domain."""
    lines = []
    for row in world.all(Charter):
        said = read_charter(row.frame)[0]
        lines.append(
            {
                "domain": row.domain,
                "version": row.version,
                "epoch": row.epoch,
                "decider": row.decider,
                "parent": said.parent,
                "hash": row.hash,
                "blocks": [block.ipv4 for block in said.blocks],
                "compartments": [place.name for place in said.compartments],
                "grants": len(said.grants),
                "revoked": len(said.revoked),
                "roots": len(said.roots),
                "since": row.time,
            }
        )
    return lines


TABLE: Final = (
    Rule(IssueCharter, issue, allow=Role.SUPERVISOR),
    Question(ListCharters, list_charters, allow=Role.OPERATOR),
)
