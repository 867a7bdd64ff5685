"""Accounts and their bearer tokens in this domain.

Owns ``token.create``, ``token.revoke`` and ``token.list``. A token hangs from the account of whoever asks and only narrows;
its secret is made by the client, which sends the hash alone. What an account may do is ``compartments.standing``. Pure.

INV-ACC-1: nobody makes a token that may do more than they may, nor beyond their compartment, nor longer than their own.
INV-ACC-2: a token sees and revokes tokens of its own compartment alone, also where others hang from the same account.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from bus.messages import Asker, Command, Fact, Moment, Query, Question, Role, Rule
from compartments import graph
from compartments.accounts import bounded_life
from compartments.facts.accounts import AccountCreated, RoleNamed, TokenCreated, TokenRevoked
from compartments.lookup import NameTaken, NoSuchToken
from compartments.row import RoleName
from compartments.rows import Account, AccountRole, Compartment, Token
from compartments.world import World
from enjin.errors import Forbidden, Invalid
from enjin.names import Name, shorten
from ring1.tenancy import find_compartment, name_of, open_compartment, sees, suggestion, where_compartment

LEVELS: Final[dict[RoleName, Role]] = {"tenant": Role.TENANT, "operator": Role.OPERATOR}
HASH: Final = re.compile(r"[0-9a-f]{64}")
SECOND_US: Final = 1_000_000
YEARS_MAX_S: Final = 10 * 366 * 86_400
TOKENS_MAX: Final = 100


class BadToken(Invalid):
    """A token's hash or life is malformed, or there are too many."""

    code = "E-ACC-101"


class CreateToken(Command, kind="token.create", kw_only=True):
    """Make a bearer token of the asker's account for the HTTP door; *secret_hash* is the SHA-256 of its secret."""

    name: Name
    secret_hash: str
    compartment: str = "default"
    role: RoleName = "tenant"
    life_s: int = 0


class RevokeToken(Command, kind="token.revoke"):
    """Refuse a token from now on; named by id or name."""

    token: str


class ListTokens(Query, kind="token.list"):
    """The tokens that the asker may see, in a compartment or everywhere."""

    compartment: str = ""


def create(wish: CreateToken, world: World, at: Moment) -> Iterator[Fact]:
    """Make a token, and the asker's account where it is new here.

    Raises:
        Forbidden: A higher role than the asker's.
        NoSuchCompartment, BeingDestroyed, BadToken, NameTaken.
    """
    asker = at.asker
    compartment = open_compartment(world, wish.compartment, asker)
    if LEVELS[wish.role] > asker.role:
        raise Forbidden(f"you may not make a token with the role {wish.role}")
    if HASH.fullmatch(wish.secret_hash) is None or world.first(Token, secret_hash=wish.secret_hash):
        raise BadToken("the token's hash is not a fresh SHA-256 in hex")
    if not 0 <= wish.life_s <= YEARS_MAX_S:
        raise BadToken("a token lives for at most ten years (0: until it is revoked)")
    mine = [token for token in world.find(Token, account=asker.id) if not token.revoked]
    if any(token.name == wish.name for token in mine):
        raise NameTaken(f"there is a token {wish.name} already")
    if len(mine) >= TOKENS_MAX:
        raise BadToken(f"an account has at most {TOKENS_MAX} tokens", hint="revoke some: `enjin token list`")
    for name, level in LEVELS.items():
        if world.get(AccountRole, name) is None:
            yield RoleNamed(name=name, level=int(level))
    if world.get(Account, asker.id) is None:
        yield AccountCreated(id=asker.id, name=asker.id, compartment=_home(world, asker, compartment), role=_role(asker), time=at.time)
    yield TokenCreated(
        id=at.id(0, "t"),
        name=wish.name,
        account=asker.id,
        compartment=compartment.id,
        role=wish.role,
        secret_hash=wish.secret_hash,
        expires=bounded_life(world, asker, at.time + wish.life_s * SECOND_US if wish.life_s else 0),
        time=at.time,
    )


def _role(asker: Asker) -> RoleName:
    return "operator" if asker.role >= Role.OPERATOR else "tenant"


def _home(world: World, asker: Asker, inner: Compartment) -> str:
    """Return the id of the asker's bound as far as this domain knows it: the outermost home of *inner* that the asker sees."""
    bound = graph.at_path(world, asker.compartment) if asker.compartment else None
    if bound is not None:
        return bound.id
    if world.get(Compartment, asker.compartment) is not None:
        return asker.compartment
    return graph.home_path(world, inner.id)[0].id if asker.role >= Role.OPERATOR else inner.id


def revoke(wish: RevokeToken, world: World, at: Moment) -> Iterator[Fact]:
    """Refuse a token; a second time is no news. Raises: NoSuchToken."""
    mine = [token for token in _visible(world, at.asker) if wish.token in (token.id, token.name)]
    if not mine:
        names = [token.name for token in _visible(world, at.asker)]
        raise NoSuchToken(f"there is no token {shorten(wish.token)!r}", hint=suggestion(wish.token, names))
    for token in mine:
        if not token.revoked:
            yield TokenRevoked(id=token.id, time=at.time)


def _visible(world: World, asker: Asker) -> list[Token]:
    tokens = world.all(Token) if asker.role >= Role.OPERATOR and not asker.token else world.find(Token, account=asker.id)
    return [token for token in tokens if not token.revoked and sees(world, asker, token.compartment)]


def list_tokens(query: ListTokens, world: World, asker: Asker) -> object:
    """Return a row per token that is not revoked; never a hash. Raises: NoSuchCompartment."""
    within = find_compartment(world, query.compartment, asker).id if query.compartment else ""
    return [
        {
            "id": token.id,
            "name": token.name,
            "account": token.account,
            "compartment": world.need(Compartment, token.compartment).name,
            "role": token.role,
            "created": token.created,
            "expires": token.expires,
        }
        for token in _visible(world, asker)
        if within in ("", token.compartment)
    ]


def _created(wish: CreateToken, world: World, at: Moment) -> object:
    token = world.need(Token, at.id(0, "t"))
    return {"id": token.id, "name": token.name, "role": token.role, "expires": token.expires}


def _where_token(wish: RevokeToken, world: World) -> str:
    token = world.get(Token, wish.token) or world.first(Token, name=wish.token)
    return name_of(world, token.compartment) if token is not None else ""


TABLE: Final = (
    Rule(CreateToken, create, allow=Role.TENANT, compartment=where_compartment, result=_created),
    Rule(RevokeToken, revoke, allow=Role.TENANT, compartment=_where_token, urgent=True),
    Question(ListTokens, list_tokens, allow=Role.TENANT, compartment=where_compartment),
)
