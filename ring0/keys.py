"""Keys: whose they are, by which grant, and which are refused from now on.

Owns ``key.enroll``, ``key.revoke`` and ``key.list``. A grant is read from the very bytes that were signed; whether the
signatures hold and the chain ends in the root is ``keys.trust``'s matter, and the daemon asks it before it believes a key.

INV-KEY-1: a key belongs to one subject for ever. INV-KEY-2: a revoked key is never enrolled again.
INV-KEY-3: ring 0 does not revoke itself, and the last operator's key goes only when that is said in the wish.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from bus.messages import Asker, Command, Fact, Moment, Query, Question, Role, Rule
from compartments import graph, lookup, standing
from compartments.facts.accounts import KeyEnrolled, KeyReplaced, KeyRevoked
from compartments.rows import Account, Cloud, Grant, Node, RevokedKey
from compartments.world import World
from enjin.canonical import from_text
from enjin.errors import Forbidden, Invalid, NotFound, Refused
from enjin.names import shorten

PREFIX_CHARACTERS_MIN: Final = 8
REASON_CHARACTERS_MAX: Final = 200


class NoSuchKey(NotFound):
    """There is no such key."""

    code = "E-KEY-001"
    remedy = "`enjin key list` shows those there are"


class OwnKey(Refused):
    """The key is ring 0's own."""

    code = "E-KEY-002"
    remedy = "ring 0's keys are replaced with the root shares, not revoked by itself"


class LastOperatorKey(Refused):
    """Without the key nobody could operate the cloud."""

    code = "E-KEY-003"
    remedy = "make another operator's key first: `enjin key create`; or say --last"


class AlreadyRevoked(Refused):
    """The key was revoked before."""

    code = "E-KEY-004"
    http_status = 409


class NotEnrollable(Refused):
    """The grant cannot be enrolled."""

    code = "E-KEY-005"


class EnrollKey(Command, kind="key.enroll"):
    """Record a key's grant: *frame* is the signed grant as base64url."""

    frame: str


class RevokeKey(Command, kind="key.revoke", kw_only=True):
    """Refuse a key from now on, and everything it granted; *key* is its id or the beginning of it."""

    key: str
    reason: str = ""
    last: bool = False


class NotReplaceable(Refused):
    """The key is not one that ring 0 makes."""

    code = "E-KEY-008"
    remedy = "people replace their own with `enjin key rotate`, the root's shares replace ring 0's"


class ReplaceKey(Command, kind="key.replace", kw_only=True):
    """Give the ring 1 node that has this key another one; *key* is its id or the beginning of it. The old one stays until it is revoked."""

    key: str


class ListKeys(Query, kind="key.list"):
    """Whose keys there are, what they may do, and which were revoked."""


def read_enrolled(text: str, cloud: str, at: Moment) -> KeyEnrolled:
    """Return the fact that enrolls the grant in frame *text*, whose signature the daemon has checked.

    Raises:
        NotEnrollable: The grant belongs to another cloud.
        BadFrame, GrantRefused, Malformed, NotCanonical, BadKey: It is not a grant.
    """
    from keys.frame import open_frame
    from keys.grants import read_grant
    from keys.signing import key_id

    frame = open_frame(from_text(text))
    grant = read_grant(frame)
    if grant.cloud != cloud:
        raise NotEnrollable("the grant belongs to another cloud")
    return KeyEnrolled(
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


def enroll(wish: EnrollKey, world: World, at: Moment) -> Iterator[Fact]:
    """Enroll a grant; one that is enrolled already changes nothing.

    Raises:
        NotEnrollable: Of another cloud, for an unknown subject or place, of a revoked or somebody else's key.
        Forbidden: It gives more than the asker has.
    """
    cloud = next(iter(world.all(Cloud)), None)
    if cloud is None:
        raise NotEnrollable("there is no cloud yet")
    fact = read_enrolled(wish.frame, cloud.id, at)
    if world.get(Grant, fact.grant) is not None:
        return
    if world.get(RevokedKey, fact.key) is not None:
        raise NotEnrollable(f"key {fact.key[:16]} was revoked, and a revoked key is never believed again", hint="make a new key")
    for held in world.find(Grant, key=fact.key):
        if held.subject != fact.subject:
            raise NotEnrollable(f"key {fact.key[:16]} belongs to {held.subject}")
    account = world.get(Account, fact.subject)
    if (account is None or account.state != "active") and world.get(Node, fact.subject) is None:
        raise NotEnrollable(f"{shorten(fact.subject)} is neither an account nor a node")
    place = graph.at_path(world, fact.compartment)
    if place is None:
        raise NotEnrollable(f"there is no compartment {shorten(fact.compartment)!r}")
    lookup.check_open(world, place)
    if fact.role > at.asker.role or not standing.covers(world, at.asker, place.id):
        raise Forbidden("the grant gives more than you have yourself")
    if fact.expiry <= at.time:
        raise NotEnrollable("the grant has expired")
    yield fact


def revoke(wish: RevokeKey, world: World, at: Moment) -> Iterator[Fact]:
    """Revoke a key.

    Raises:
        NoSuchKey, AlreadyRevoked, OwnKey, LastOperatorKey, Invalid.
    """
    if len(wish.reason) > REASON_CHARACTERS_MAX:
        raise Invalid(f"a reason has at most {REASON_CHARACTERS_MAX} characters")
    key = find_key(world, wish.key)
    if world.get(RevokedKey, key) is not None:
        raise AlreadyRevoked(f"key {key[:16]} was revoked before")
    for held in world.find(Grant, key=key):
        node = world.get(Node, held.subject)
        if node is not None and node.ring == 0:
            raise OwnKey(f"key {key[:16]} is ring 0's own ({node.label})")
    if not wish.last and operator_keys(world, at.time) == {key}:
        raise LastOperatorKey(f"key {key[:16]} is the last one that can operate this cloud")
    number = max((row.number for row in world.all(RevokedKey)), default=0) + 1
    yield KeyRevoked(key=key, number=number, by=at.asker.id, reason=wish.reason or at.asker.reason[:REASON_CHARACTERS_MAX], time=at.time)


def replace(wish: ReplaceKey, world: World, at: Moment) -> Iterator[Fact]:
    """Have a ring 1 node get another key; one that is replaced already changes nothing.

    Raises:
        NoSuchKey, AlreadyRevoked, NotReplaceable.
    """
    key = find_key(world, wish.key)
    if world.get(RevokedKey, key) is not None:
        raise AlreadyRevoked(f"key {key[:16]} was revoked before")
    held = world.find(Grant, key=key)
    if not any((node := world.get(Node, grant.subject)) is not None and node.ring == 1 for grant in held):
        raise NotReplaceable(f"key {key[:16]} is no ring 1 node's")
    if not any(grant.replaced for grant in held):
        yield KeyReplaced(key=key, time=at.time)


def generation(world: World, node: str) -> int:
    """Return which key for messages *node* is to have: one more than were replaced, from 1. A revoked one has no successor."""
    return 1 + len({grant.key for grant in world.find(Grant, subject=node) if grant.replaced})


def find_key(world: World, text: str) -> str:
    """Return the id of the key that *text* names: the id, or its beginning (at least 8 characters). Raises: NoSuchKey."""
    known = sorted({grant.key for grant in world.all(Grant)})
    if text in known:
        return text
    near = [key for key in known if len(text) >= PREFIX_CHARACTERS_MIN and key.startswith(text)]
    if len(near) != 1:
        raise NoSuchKey(f"there is no key {shorten(text)!r}" if not near else f"{shorten(text)!r} fits {len(near)} keys")
    return near[0]


def operator_keys(world: World, time: int) -> set[str]:
    """Return the keys of accounts that can operate the whole cloud at *time*."""
    cloud = next(iter(world.all(Cloud)), None)
    root = graph.path_text(world, cloud.compartment) if cloud is not None else ""
    return {
        grant.key
        for grant in world.all(Grant)
        if grant.role >= Role.OPERATOR
        and grant.compartment == root
        and grant.not_before <= time < grant.expiry
        and world.get(RevokedKey, grant.key) is None
        and (account := world.get(Account, grant.subject)) is not None
        and account.state == "active"
    }


def list_keys(_query: ListKeys, world: World, _asker: Asker) -> list[dict[str, Any]]:
    """Return every enrolled key's newest grant, and whether it was revoked."""
    newest: dict[str, Grant] = {}
    for grant in world.all(Grant):
        if grant.key not in newest or newest[grant.key].not_before <= grant.not_before:
            newest[grant.key] = grant
    return [key_line(world, newest[key]) for key in sorted(newest)]


def key_line(world: World, grant: Grant) -> dict[str, Any]:
    """Return a key as it is listed."""
    account, node = world.get(Account, grant.subject), world.get(Node, grant.subject)
    revoked = world.get(RevokedKey, grant.key)
    return {
        "key": grant.key,
        "grant": grant.id,
        "subject": grant.subject,
        "name": account.name if account is not None else node.label if node is not None else "",
        "role": Role(grant.role).name.lower(),
        "ring": grant.ring,
        "compartment": grant.compartment,
        "state": "revoked" if revoked is not None else "replaced" if grant.replaced else "active",
        "expires": grant.expiry,
        "revoked": 0 if revoked is None else revoked.time,
        "reason": "" if revoked is None else revoked.reason,
    }


def show_revoked(wish: RevokeKey, world: World, _at: Moment) -> object:
    """Return the key that was revoked and the revocation's number."""
    row = world.need(RevokedKey, find_key(world, wish.key))
    return {"key": row.key, "number": row.number}


TABLE: Final = (
    Rule(EnrollKey, enroll, allow=Role.SUPERVISOR),
    Rule(RevokeKey, revoke, allow=Role.OPERATOR, result=show_revoked, urgent=True),
    Rule(ReplaceKey, replace, allow=Role.OPERATOR),
    Question(ListKeys, list_keys, allow=Role.OPERATOR),
)
