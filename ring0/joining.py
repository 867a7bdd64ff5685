"""Using a join token: once, by whoever holds it, for the grant that it says.

Owns ``key.join``. The daemon signs the grant first and proposes it (``ring0.admitting``): that the token is used up and what it
bought become true in one entry, or not at all. Tokens themselves are ``ring0.inviting``'s.

INV-JON-1: a token buys one grant, for one key, within its time, and never more than it says. INV-JON-2: a second key that brings a
used token costs both keys their trust, and is alarmed. INV-JON-3: the same request again has the same answer, and changes nothing.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from bus.messages import Command, Fact, Moment, Role, Rule
from compartments import graph, standing
from compartments.facts.accounts import AccountCreated, KeyRevoked
from compartments.facts.joining import JoinTokenMisused, JoinTokenUsed
from compartments.rows import Account, Cloud, Grant, KeyRequest, RevokedKey
from compartments.rows_joining import JoinToken
from compartments.world import World
from enjin.canonical import from_text
from enjin.errors import Refused
from ring0.enrolling import PEOPLE_MAX, TooManyKeys, people
from ring0.inviting import NoSuchJoinToken, find_token, state
from ring0.keys import NotEnrollable, read_enrolled

if TYPE_CHECKING:
    from keys.joining import JoinRequest


class JoinTokenOver(Refused):
    """A join token is expired, revoked, or was used by two."""

    code = "E-JOI-006"
    http_status = 409
    remedy = "ask an operator for a new one: `enjin join token create`"


class Join(Command, kind="key.join", kw_only=True):
    """Use a join token: *request* is the frame of whoever joins, *grant* the one that it shall buy (base64url), *source* an address."""

    request: str
    grant: str
    source: str


def join(wish: Join, world: World, at: Moment) -> Iterator[Fact]:
    """Use a join token up and enrol what it buys, in one entry; or, when another key has used it, revoke both.

    Raises:
        JoinRefused: The request is not what the token allows.
        JoinTokenOver: Expired, revoked, or used by two.
        NoSuchJoinToken, OneKeyTwice, NotEnrollable, TooManyKeys, BadSignature, BadKey, BadFrame, Malformed, NotCanonical.
    """
    from keys.joining import read_request
    from keys.signing import key_id

    asked, frame = read_request(from_text(wish.request))
    row = proven_token(world, asked)
    key = str(key_id(bytes.fromhex(asked.keys.message)))
    if row.used:
        if row.request == frame.digest and not row.misused:
            return
        if row.misused or row.key == key:
            raise JoinTokenOver(f"join token {row.id} was used before")
        yield JoinTokenMisused(id=row.id, key=key, time=at.time)
        yield from _revoke_both(row, key, world, at)
        return
    check_allowed(world, row, asked, wish.source, at.time)
    fact = read_enrolled(wish.grant, next(cloud.id for cloud in world.all(Cloud)), at)
    _check_grant(world, row, asked, wish.grant)
    account = world.first(Account, name=row.name)
    if account is None:
        if len(people(world)) >= PEOPLE_MAX:
            raise TooManyKeys(f"there are {PEOPLE_MAX} people's keys")
        yield AccountCreated(id=fact.subject, name=row.name, compartment=row.compartment, role=row.role, time=at.time)
    yield JoinTokenUsed(id=row.id, key=fact.key, request=frame.digest, grant=fact.grant, time=at.time)
    yield fact


def proven_token(world: World, asked: JoinRequest) -> JoinToken:
    """Return the token of a request whose signatures hold, when it was signed with that token's secret. Raises: NoSuchJoinToken."""
    from keys.signing import key_id, read_public

    row = find_token(world, asked.token)
    if row.secret_hash != str(key_id(read_public(asked.secret))):
        raise NoSuchJoinToken("there is no such join token")  # nor may a guess learn that there is one
    return row


def check_allowed(world: World, row: JoinToken, asked: JoinRequest, source: str, time: int) -> None:
    """Check that token *row* allows what is asked for, from *source*, at *time*. Raises: JoinTokenOver, JoinRefused, NotEnrollable."""
    from keys.joining import HINT_DIGITS, JoinRefused
    from keys.signing import key_id

    found = state(row, time)
    if found != "open":
        raise JoinTokenOver(f"join token {row.id} is {found}")
    if not any(cloud.id[:HINT_DIGITS] == asked.cloud for cloud in world.all(Cloud)):
        raise JoinRefused("the request is for another cloud")
    if asked.ring != row.ring or asked.role not in ("", row.role):
        raise JoinRefused(f"the token is for a {row.role} of ring {row.ring}, not for a {asked.role[:20] or row.role} of ring {asked.ring}")
    if asked.keys.journal or asked.keys.issue:
        raise JoinRefused("who joins as an account has no journal and grants nothing")
    if row.machine and row.machine != asked.machine:
        raise JoinRefused("the token is for another machine")
    if row.source and not _within(source, row.source):
        raise JoinRefused("the token is for another network")
    if world.get(RevokedKey, str(key_id(bytes.fromhex(asked.keys.message)))) is not None or known_keys(world) & set(asked.keys.all()):
        raise NotEnrollable("a key of the request is known already, or was revoked", hint="make new keys")


def known_keys(world: World) -> set[str]:
    """Return every public key (hex) of every grant that was made, and of every request that waits."""
    from keys.frame import open_frame
    from keys.grants import read_grant

    found = {key for row in world.all(Grant) if row.frame for key in read_grant(open_frame(from_text(row.frame))).keys.all()}
    return found.union(*({row.message, row.curve, row.nats} - {""} for row in world.all(KeyRequest)))


def _within(source: str, network: str) -> bool:
    try:
        return ipaddress.ip_address(source) in ipaddress.ip_network(network)
    except ValueError:
        return False


def _check_grant(world: World, row: JoinToken, asked: JoinRequest, text: str) -> None:
    """Check that the proposed grant is what the token says, for the keys that asked. Raises: JoinRefused."""
    from keys.frame import open_frame
    from keys.grants import Capability, read_grant
    from keys.joining import JoinRefused

    grant = read_grant(open_frame(from_text(text)))
    path = graph.path_text(world, row.compartment)
    subject, allowed = subject_of(world, row), tuple(Capability(verb, path) for verb in row.allowed.split())
    level = int(standing.level(world, row.role))
    told = (grant.subject, grant.role, grant.ring, grant.depth, grant.compartment, grant.allowed, grant.keys)
    if told != (subject, level, row.ring, 0, path, allowed, asked.keys):
        raise JoinRefused("the grant is not what the token allows")


def subject_of(world: World, row: JoinToken) -> str:
    """Return the id of the account for which token *row* is; one that is made has an id that follows from the token's."""
    account = world.first(Account, name=row.name)
    return account.id if account is not None else f"a-{row.id.partition('-')[2]}"


def _revoke_both(row: JoinToken, second: str, world: World, at: Moment) -> Iterator[Fact]:
    number = max((one.number for one in world.all(RevokedKey)), default=0)
    for key in (row.key, second):
        if world.get(RevokedKey, key) is None:
            number += 1
            yield KeyRevoked(key=key, number=number, by=at.asker.id, reason=f"join token {row.id} was used twice", time=at.time)


def joined(wish: Join, world: World, _at: Moment) -> object:
    """Return what the token has bought: the account and the grant's frame, or that it was misused."""
    from keys.joining import read_request

    row = world.need(JoinToken, read_request(from_text(wish.request))[0].token)
    if row.misused:
        return {"token": row.id, "misused": True, "keys": [row.key, row.second]}
    return {"token": row.id, "misused": False, "name": row.name, "grant": world.need(Grant, row.grant).frame}


TABLE: Final = (Rule(Join, join, allow=Role.SUPERVISOR, result=joined),)
