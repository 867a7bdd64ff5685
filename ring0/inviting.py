"""Join tokens: made by operators for somebody or something that has no key yet, listed and revoked.

Owns ``key.invite``, ``key.uninvite`` and ``key.invitations``, and what a token is at a moment. The secret is made by the client, who
hands it over; only the id of the key that is made from it comes here. Using a token is ``ring0.joining``'s.

INV-INV-1: nobody invites to more than they have. INV-INV-2: a token lives ten minutes at most.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Any, Final

from bus.messages import Asker, Command, Fact, Moment, Query, Question, Role, Rule
from compartments import graph, lookup, standing
from compartments.facts.joining import JoinTokenMade, JoinTokenRevoked
from compartments.row import RoleName
from compartments.rows import Account
from compartments.rows_joining import JoinToken
from compartments.world import World
from enjin.errors import Forbidden, Invalid, NotFound, Refused
from enjin.names import Digest, NodeId
from ring0 import compartments as places

LIFE_S_MAX: Final = 600
TOKENS_MAX: Final = 64
MACHINE_CHARACTERS_MAX: Final = 64
JOINING_RING: Final = 0


class NoSuchJoinToken(NotFound):
    """There is no such join token."""

    code = "E-JOI-005"
    remedy = "`enjin join token list` shows those there are"


class TooManyJoinTokens(Refused):
    """There are as many open join tokens as may be."""

    code = "E-JOI-008"
    remedy = "revoke some, or wait ten minutes: `enjin join token revoke`"


class Invite(Command, kind="key.invite", kw_only=True):
    """Make a join token.

    Fields:
        name: The account of whoever joins; made when there is none.
        allowed: Verb families of the grant; nothing allows nothing.
        secret_hash: Id of the key that is made from the secret, which the client keeps.
        machine: What the joining machine must call itself; "" for any.
        source: The network from which it must come, as a prefix; "" for any.
        life_s: Seconds until it expires, at most 600.
    """

    name: str
    ring: int = JOINING_RING
    role: RoleName = "tenant"
    compartment: str = ""
    allowed: tuple[str, ...]
    secret_hash: Digest
    machine: str = ""
    source: str = ""
    life_s: int = LIFE_S_MAX


class Uninvite(Command, kind="key.uninvite"):
    """Let a join token buy nothing from now on; *token* is its id."""

    token: str


class ListInvitations(Query, kind="key.invitations"):
    """The join tokens and what became of them."""


def invite(wish: Invite, world: World, at: Moment) -> Iterator[Fact]:
    """Make a join token.

    Raises:
        Invalid: A life, a verb, a network or a machine that cannot be.
        Forbidden: It would give more than the asker or the account has.
        TooManyJoinTokens, TooManyKeys, BadName, NameTaken, NoSuchCompartment.
    """
    _check_template(wish)
    place = lookup.open_compartment(world, wish.compartment) if wish.compartment else places.root(world)
    level = standing.level(world, wish.role)
    if level > at.asker.role or not standing.covers(world, at.asker, place.id):
        raise Forbidden(f"you cannot invite somebody to be {wish.role} of {place.name}")
    account = world.first(Account, name=wish.name)
    if account is None:
        lookup.fresh_name(world, Account, wish.name)
    elif account.state != "active" or standing.role_in(world, account.id, place.id) < level:
        raise Forbidden(f"account {account.name} is not {wish.role} of {place.name}")
    if world.first(JoinToken, secret_hash=str(wish.secret_hash)) is not None:
        raise Invalid("the token's secret was used before", hint="make a new one")
    if sum(state(row, at.time) == "open" for row in world.all(JoinToken)) >= TOKENS_MAX:
        raise TooManyJoinTokens(f"{TOKENS_MAX} join tokens are open")
    yield JoinTokenMade(
        id=at.id(0, "j"), name=wish.name, ring=wish.ring, role=wish.role, compartment=place.id, allowed=" ".join(sorted(set(wish.allowed))),
        secret_hash=str(wish.secret_hash), by=at.asker.id, machine=wish.machine, source=wish.source,
        expires=at.time + wish.life_s * 1_000_000, time=at.time,
    )  # fmt: skip


def _check_template(wish: Invite) -> None:
    from keys.grants import VERBS

    if wish.ring != JOINING_RING:
        raise Invalid(f"nobody joins ring {wish.ring} with a token: the ring above makes its nodes and gives them their identity")
    if not 1 <= wish.life_s <= LIFE_S_MAX:
        raise Invalid(f"a join token lives 1 to {LIFE_S_MAX} seconds, not {wish.life_s}")
    unknown = sorted(set(wish.allowed) - VERBS)
    if unknown:
        raise Invalid(f"verb {unknown[0][:40]!r} is unknown")
    if len(wish.machine) > MACHINE_CHARACTERS_MAX:
        raise Invalid(f"a machine's id has at most {MACHINE_CHARACTERS_MAX} characters")
    if wish.source:
        try:
            ipaddress.ip_network(wish.source)
        except ValueError as error:
            raise Invalid(f"{wish.source[:60]!r} is no network") from error


def uninvite(wish: Uninvite, world: World, at: Moment) -> Iterator[Fact]:
    """Revoke a join token; one that is over stays so. Raises: NoSuchJoinToken."""
    row = find_token(world, wish.token)
    if state(row, at.time) == "open":
        yield JoinTokenRevoked(id=row.id, time=at.time)


def find_token(world: World, identity: str) -> JoinToken:
    """Return the join token with this id. Raises: NoSuchJoinToken."""
    row = world.get(JoinToken, identity) if NodeId.PATTERN.fullmatch(identity) else None
    if row is None:
        raise NoSuchJoinToken("there is no such join token")
    return row


def state(row: JoinToken, time: int) -> str:
    """Return what a join token is at *time*: open, used, used twice, revoked or expired."""
    if row.misused:
        return "used twice"
    if row.used:
        return "used"
    if row.revoked:
        return "revoked"
    return "open" if time < row.expires else "expired"


def line(world: World, row: JoinToken, time: int) -> dict[str, Any]:
    """Return a join token as it is listed; nothing in it helps to use it."""
    return {
        "id": row.id, "name": row.name, "ring": row.ring, "role": row.role, "compartment": graph.path_text(world, row.compartment),
        "allowed": row.allowed.split(), "machine": row.machine, "source": row.source, "state": state(row, time), "created": row.created,
        "expires": row.expires, "used": row.used, "misused": row.misused, "key": row.key, "second": row.second,
    }  # fmt: skip


def invited(wish: Invite, world: World, at: Moment) -> object:
    """Return the new token's line."""
    row = world.first(JoinToken, secret_hash=str(wish.secret_hash))
    return line(world, row, at.time) if row is not None else None


def list_invitations(_query: ListInvitations, world: World, _asker: Asker) -> list[dict[str, Any]]:
    """Return every join token, the newest last; whether one has expired is for its reader's clock to say."""
    return [line(world, row, row.created) for row in sorted(world.all(JoinToken), key=lambda row: (row.created, row.id))]


TABLE: Final = (
    Rule(Invite, invite, allow=Role.OPERATOR, compartment=lambda wish, world: places.place_id(world, wish.compartment), result=invited),
    Rule(Uninvite, uninvite, allow=Role.OPERATOR, urgent=True),
    Question(ListInvitations, list_invitations, allow=Role.OPERATOR),
)
