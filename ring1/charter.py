"""The charter of this domain: receiving it from the ring above, what it delegates now, and keys it says no longer to believe.

Owns ``charter.receive`` and ``trust.revoke``. The daemon has verified every signature before it passes them on as wishes of
its own; what stands in a frame is read here from the very bytes that were verified. Pure. Drafting charters is ring 0's matter.

INV-CHR-1: a charter of a lower or equal version, of a lower epoch, or of another domain or cloud is refused.
INV-CHR-2: nothing is delegated but by the charter in force; before the first one this domain may do nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Final

from bus.messages import Asker, Fact, Moment, Query, Question, Role, Rule
from compartments import charter, operators
from compartments.charter import CharterRefused, ReceiveCharter
from compartments.facts.accounts import KeyEnrolled
from compartments.facts.approvals import ApprovalsRequired
from compartments.facts.charters import CharterReceived
from compartments.facts.places import EndpointSet
from compartments.facts.roots import RootSucceeded
from compartments.revocations import Revoke, revoke
from compartments.rows import Charter, Grant, RevokedKey, RootSuccessor
from compartments.world import World
from enjin.canonical import from_text, parse
from enjin.errors import NotFound
from keys.frame import CHARTER, Frame, open_frame
from keys.grants import read_grant
from keys.root import RootStatement
from keys.signing import key_id

API: Final = "api1"
ROUTER: Final = "router"


class NoCharter(NotFound):
    """The ring above has not delegated anything to this domain yet."""

    code = "E-CHA-101"
    remedy = "`enjin up` makes ring 0 send it"


class ShowCharter(Query, kind="charter.show"):
    """What the ring above delegated to this domain."""


def open_charter(text: str) -> tuple[charter.Charter, Frame]:
    """Return what the frame *text* says; its signature is the caller's matter.

    Raises:
        CharterRefused: The frame holds something else.
        BadFrame, Malformed, NotCanonical.
    """
    frame = open_frame(from_text(text))
    if frame.type != CHARTER:
        raise CharterRefused("the frame does not hold a charter")
    return parse(frame.payload, charter.Charter), frame


@lru_cache(maxsize=8)
def _known(text: str) -> charter.Charter:
    return open_charter(text)[0]


def in_force(world: World) -> charter.Charter | None:
    """Return the charter that this domain follows; None before the first."""
    rows = world.all(Charter)
    return _known(rows[0].frame) if rows else None


def receive(wish: ReceiveCharter, world: World, at: Moment) -> Iterator[Fact]:
    """Follow a newer charter: its compartments, blocks and ports are ours, its grants are known, its revoked keys are not believed.

    Raises:
        CharterRefused: For another domain or cloud, unreadable, or with another root statement than we follow.
        StaleCharter: Not newer than the one in force.
    """
    new, frame = open_charter(wish.frame)
    old = in_force(world)
    cloud, domain = (old.cloud, old.domain) if old is not None else (new.cloud, new.domain)
    charter.check_succession(old, new, cloud=cloud, domain=domain)
    yield CharterReceived(charter=new, hash=frame.digest, frame=wish.frame, time=at.time)
    for name, port in ((API, new.api_port), (ROUTER, new.router_port)):
        if port:
            yield EndpointSet(name=name, address=new.address, port=port, ring=1)
    yield from _succeed(new.roots, world, at)
    if new.approvals != operators.latest(world):
        yield ApprovalsRequired(count=new.approvals, before=operators.latest(world), time=at.time)
    for text in new.grants:
        yield from _enroll(text, world, at)


def _succeed(roots: tuple[str, ...], world: World, at: Moment) -> Iterator[Fact]:
    """Note the root statements that are news; none is unlearnt, and none is replaced by another of its version."""
    for text in roots:
        frame = open_frame(from_text(text))
        version = parse(frame.payload, RootStatement).version
        held = world.get(RootSuccessor, version)
        if held is not None and held.hash != frame.digest:
            raise CharterRefused(f"the charter brings another root statement {version} than the one we follow")
        if held is None:
            yield RootSucceeded(version=version, hash=frame.digest, frame=text, time=at.time)


def _enroll(text: str, world: World, at: Moment) -> Iterator[Fact]:
    frame = open_frame(from_text(text))
    if world.get(Grant, frame.digest) is not None:
        return
    grant = read_grant(frame)
    yield KeyEnrolled(
        grant=frame.digest,
        key=str(key_id(bytes.fromhex(grant.keys.message))),
        subject=grant.subject,
        role=grant.role,
        ring=grant.ring,
        compartment=grant.compartment,
        not_before=grant.not_before,
        expiry=grant.expiry,
        frame=text,
        time=at.time,
    )


def show(_query: ShowCharter, world: World, _asker: Asker) -> object:
    """Return the charter in force. Raises: NoCharter."""
    given = in_force(world)
    if given is None:
        raise NoCharter("this domain has no charter yet")
    return {
        "domain": given.domain,
        "cloud": given.cloud,
        "version": given.version,
        "epoch": given.epoch,
        "decider": given.decider,
        "blocks": [block.ipv4 for block in given.blocks],
        "quotas": {"apps": given.quotas.apps, "memory_bytes": given.quotas.memory_bytes, "processes": given.quotas.processes},
        "compartments": [place.name for place in given.compartments],
        "revoked": len(world.all(RevokedKey)),
    }


TABLE: Final = (
    Rule(ReceiveCharter, receive, allow=Role.SUPERVISOR),
    Rule(Revoke, revoke, allow=Role.SUPERVISOR, urgent=True),
    Question(ShowCharter, show, allow=Role.OPERATOR),
)
