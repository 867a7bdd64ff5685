"""New keys for people: asked for by an operator, granted by ring 0's issuer key, fetched by whoever asked.

Owns ``key.request`` and ``key.show``, and the acting part that issues a grant for each request. The seed is made by the
client and never leaves it; a request holds public halves alone, signed by the key itself.

INV-ENR-1: a request gives no more than its asker has. INV-ENR-2: a request is answered once: the grant's fact ends it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from bus.messages import Asker, Command, Fact, Moment, Query, Question, Role, Rule
from compartments import graph, lookup, standing
from compartments.facts.accounts import AccountCreated, KeyRequested
from compartments.row import RoleName
from compartments.rows import Account, Cloud, Grant, KeyRequest, RevokedKey
from compartments.world import World
from enjin.errors import EnjinError, Forbidden, Refused
from ring0 import compartments as places
from ring0.keys import EnrollKey, NotEnrollable, find_key, key_line

if TYPE_CHECKING:
    from compartments.domain import Domain
    from keys.signing import Signer

PEOPLE_MAX: Final = 16


class TooManyKeys(Refused):
    """There are as many people's keys as a charter can carry."""

    code = "E-KEY-006"
    http_status = 409
    remedy = "revoke keys that nobody uses, or make tokens: `enjin token create`"


class RequestKey(Command, kind="key.request", kw_only=True):
    """Ask for a grant for a new key of a person; *proof* is the key's own signature over the rest.

    Fields:
        name: The account's; made when there is none.
        compartment: Where the key counts; the cloud itself when empty.
        message, curve, nats: The public halves, hex; the last where the key shall log in to the NATS bus.
    """

    name: str
    role: RoleName = "operator"
    compartment: str = ""
    message: str
    curve: str
    nats: str = ""
    proof: str


class ShowKey(Query, kind="key.show", kw_only=True):
    """One key and the signed grant that says what it may do, for whoever holds it."""

    key: str


def request(wish: RequestKey, world: World, at: Moment) -> Iterator[Fact]:
    """Ask for a grant.

    Raises:
        BadKey, BadSignature, Malformed: The key is none, or did not sign the request.
        NotEnrollable: The key is known, or was revoked.
        Forbidden: The grant would give more than the asker or the account has.
        BadName, NameTaken, NoSuchCompartment, TooManyKeys.
    """
    from keys.requests import KeyRequest as Signed
    from keys.requests import check_proof
    from keys.signing import key_id

    cloud = next(iter(world.all(Cloud)), None)
    if cloud is None:
        raise NotEnrollable("there is no cloud yet")
    check_proof(Signed(cloud=cloud.id, name=wish.name, message=wish.message, curve=wish.curve, nats=wish.nats), wish.proof)
    key = str(key_id(bytes.fromhex(wish.message)))
    if world.find(Grant, key=key) or world.get(KeyRequest, key) is not None or world.get(RevokedKey, key) is not None:
        raise NotEnrollable(f"key {key[:16]} is known already", hint="make a new key")
    place = lookup.open_compartment(world, wish.compartment) if wish.compartment else places.root(world)
    level = standing.level(world, wish.role)
    if level > at.asker.role or not standing.covers(world, at.asker, place.id):
        raise Forbidden(f"you cannot make a key that is {wish.role} of {place.name}")
    if len(people(world)) >= PEOPLE_MAX:
        raise TooManyKeys(f"there are {PEOPLE_MAX} people's keys")
    account = world.first(Account, name=wish.name)
    if account is None:
        name = lookup.fresh_name(world, Account, wish.name)
        made = AccountCreated(id=at.id(0, "a"), name=name, compartment=place.id, role=wish.role, time=at.time)
        yield made
        subject = made.id
    elif standing.role_in(world, account.id, place.id) < level:
        raise Forbidden(f"account {account.name} is not {wish.role} of {place.name}")
    else:
        subject = account.id
    halves = {"message": wish.message, "curve": wish.curve, "nats": wish.nats}
    yield KeyRequested(key=key, subject=subject, role=int(level), compartment=place.id, time=at.time, **halves)


def people(world: World) -> set[str]:
    """Return the keys of accounts that are in force or asked for."""
    granted = {
        row.key for row in world.all(Grant) if world.get(Account, row.subject) is not None and world.get(RevokedKey, row.key) is None
    }
    return granted | {row.key for row in world.all(KeyRequest)}


def requested(wish: RequestKey, _world: World, _at: Moment) -> object:
    """Return the key's id, by which its grant can be asked for."""
    from keys.signing import key_id

    return {"key": str(key_id(bytes.fromhex(wish.message)))}


def show(query: ShowKey, world: World, _asker: Asker) -> dict[str, Any]:
    """Return one key; ``frame`` is its newest grant. Raises: NoSuchKey."""
    held = sorted(world.find(Grant, key=find_key(world, query.key)), key=lambda row: (row.not_before, row.id))
    return key_line(world, held[-1]) | {"frame": held[-1].frame}


def issue(world: World, asked: KeyRequest, domain: Domain, issuer: Signer) -> str:
    """Return the frame of the grant that answers *asked*, as text."""
    from enjin.canonical import to_text
    from keys.grants import Grant as Statement
    from keys.grants import PublicKeys, sign_grant
    from ring0.foundation import CHANNELS, DAY_US, OPERATOR_DAYS, SKEW_US, everything

    parent, now = domain.trust.grant(domain.grant), domain.journal.now()
    place = graph.path_text(world, asked.compartment)
    grant = Statement(
        v=1,
        cloud=domain.keyring.cloud,
        subject=asked.subject,
        role=asked.role,
        ring=0,
        depth=0,
        compartment=place,
        keys=PublicKeys(message=asked.message, curve=asked.curve, nats=asked.nats),
        allowed=everything(place),
        channels=CHANNELS,
        not_before=max(now - SKEW_US, parent.not_before),
        expiry=min(now + OPERATOR_DAYS * DAY_US, parent.expiry),
        parent=domain.grant,
    )
    return to_text(sign_grant(grant, issuer))


class Enrolling:
    """Answers every request for a key with a grant."""

    def __init__(self, domain: Domain, issuer: Signer) -> None:
        self._domain, self._issuer = domain, issuer
        self._moved = asyncio.Event()
        self._failed: set[str] = set()

    def poke(self) -> None:
        """Say that World changed."""
        self._moved.set()

    async def run(self) -> None:
        """Go on until cancelled."""
        while True:
            self._moved.clear()
            await self._domain.journal.settled()
            for asked in self._domain.world.all(KeyRequest):
                if asked.key not in self._failed:
                    await self._grant(asked)
            await self._moved.wait()

    async def _grant(self, asked: KeyRequest) -> None:
        try:
            frame = issue(self._domain.world, asked, self._domain, self._issuer)
            await self._domain.wish(EnrollKey(frame=frame), reason=f"asked for key {asked.key[:16]}")
        except EnjinError as error:
            self._failed.add(asked.key)
            self._domain.log.warning("key.refused", key=asked.key, error=error)


TABLE: Final = (
    Rule(
        RequestKey, request, allow=Role.OPERATOR, compartment=lambda wish, world: places.place_id(world, wish.compartment), result=requested
    ),
    Question(ShowKey, show, allow=Role.OPERATOR),
)
