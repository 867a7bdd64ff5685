"""Accounts and their bearer tokens: who may ask without a key of their own.

Owns the commands and queries about them. A token's secret is made by the client, who keeps it; only its SHA-256 comes here.
What an account may do where is ``compartments.standing``'s matter.

INV-ACT-1: nobody gives more than they have. INV-ACT-2: a token never gives more than its account has.
INV-ACT-3: the last account that can operate the whole cloud is not closed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from bus.messages import Asker, Command, Fact, Moment, Query, Question, Role, Rule
from compartments import graph, lookup, standing
from compartments.accounts import bounded_life
from compartments.facts.accounts import AccountClosed, AccountCreated, TokenCreated, TokenRevoked
from compartments.row import RoleName
from compartments.rows import Account, Compartment, Membership, Token
from compartments.world import World
from enjin.errors import Forbidden, Invalid, Refused
from enjin.names import Digest
from ring0 import compartments as places

TOKENS_MAX: Final = 100


class LastOperator(Refused):
    """Without the account nobody could operate the cloud."""

    code = "E-ACC-004"


class TokenTooWide(Refused):
    """The token would give more than its account has."""

    code = "E-ACC-005"
    http_status = 403


class TooManyTokens(Refused):
    """The account has as many tokens as it may."""

    code = "E-ACC-006"
    remedy = "revoke some: `enjin token revoke`"


class AccountIsClosed(Refused):
    """The account is closed."""

    code = "E-ACC-007"


class CreateAccount(Command, kind="account.create", kw_only=True):
    """Make an account with a role in a compartment and in what lies in it."""

    name: str
    role: RoleName = "tenant"
    compartment: str = "default"


class CloseAccount(Command, kind="account.close"):
    """Close an account: its tokens and memberships count no more. There is no undo."""

    account: str


class CreateToken(Command, kind="token.create", kw_only=True):
    """Make a bearer token of an account.

    Fields:
        compartment: Where it counts; empty: where the account does.
        role: At most the account's.
        secret_hash: SHA-256 (hex) of the secret, which the client made and keeps.
        expires: Microseconds of cloud time; 0: never.
    """

    account: str
    name: str
    compartment: str = ""
    role: RoleName = "tenant"
    secret_hash: Digest
    expires: int = 0


class RevokeToken(Command, kind="token.revoke"):
    """Refuse a token from now on."""

    token: str


class ListAccounts(Query, kind="account.list"):
    """The accounts and what they may do where."""


class ListTokens(Query, kind="token.list", kw_only=True):
    """The tokens of one account, or all."""

    account: str = ""


def account_place(wish: Any, world: World) -> str:
    """Return the compartment of ``wish.account``, for permission checks; "" stands for the whole cloud."""
    row = world.get(Account, wish.account) or world.first(Account, name=wish.account)
    return row.compartment if row is not None else ""


def token_place(wish: RevokeToken, world: World) -> str:
    """Return the compartment where ``wish.token`` counts, for permission checks; "" stands for the whole cloud."""
    row = world.get(Token, wish.token) or world.first(Token, name=wish.token)
    return row.compartment if row is not None else ""


def create(wish: CreateAccount, world: World, at: Moment) -> Iterator[Fact]:
    """Make an account. Raises: BadName, NameTaken, NoSuchCompartment, BeingDestroyed, Forbidden."""
    name = lookup.fresh_name(world, Account, wish.name)
    place = lookup.open_compartment(world, wish.compartment)
    if standing.level(world, wish.role) > at.asker.role or not standing.covers(world, at.asker, place.id):
        raise Forbidden(f"you cannot make somebody {wish.role} of {place.name}")
    yield AccountCreated(id=at.id(0, "a"), name=name, compartment=place.id, role=wish.role, time=at.time)


def close(wish: CloseAccount, world: World, at: Moment) -> Iterator[Fact]:
    """Close an account. Raises: NoSuchAccount, AccountIsClosed, LastOperator."""
    account = _active(world, wish.account)
    root = places.root(world).id
    operators = {row.account for row in world.find(Membership, compartment=root) if row.role == "operator"}
    if operators == {account.id}:
        raise LastOperator(f"account {account.name} is the last that can operate this cloud")
    yield AccountClosed(id=account.id, time=at.time)


def ends_operator(wish: CloseAccount, world: World) -> bool:
    """Tell whether *wish* ends an operator's authority, which one operator alone must not do to another."""
    account = world.get(Account, wish.account) or world.first(Account, name=wish.account)
    return account is not None and any(row.role == "operator" for row in world.find(Membership, account=account.id))


def create_token(wish: CreateToken, world: World, at: Moment) -> Iterator[Fact]:
    """Make a token. Raises: NoSuchAccount, NoSuchCompartment, BadName, NameTaken, TokenTooWide, TooManyTokens, Forbidden, Invalid."""
    account = _active(world, wish.account)
    if at.asker.role < Role.OPERATOR and at.asker.id != account.id:
        raise Forbidden("you may make tokens of your own account alone")
    place = lookup.open_compartment(world, wish.compartment or account.compartment)
    if standing.level(world, wish.role) > standing.role_in(world, account.id, place.id):
        raise TokenTooWide(f"account {account.name} is not {wish.role} in {place.name}")
    if standing.level(world, wish.role) > at.asker.role or not standing.covers(world, at.asker, place.id):
        raise Forbidden(f"you cannot make a token that is {wish.role} of {place.name}")
    living = [token for token in world.find(Token, account=account.id) if not token.revoked]
    name = lookup.token_name(living, wish.name)
    if len(living) >= TOKENS_MAX:
        raise TooManyTokens(f"account {account.name} has {TOKENS_MAX} tokens")
    if wish.expires and wish.expires <= at.time:
        raise Invalid("the token would have expired already")
    if world.first(Token, secret_hash=str(wish.secret_hash)) is not None:
        raise Invalid("the token's secret was used before", hint="make a new one")
    yield TokenCreated(
        id=at.id(0, "tok"),
        name=name,
        account=account.id,
        compartment=place.id,
        role=wish.role,
        secret_hash=str(wish.secret_hash),
        expires=bounded_life(world, at.asker, wish.expires),
        time=at.time,
    )


def revoke_token(wish: RevokeToken, world: World, at: Moment) -> Iterator[Fact]:
    """Revoke a token; one that is revoked stays so. Raises: NoSuchToken, Ambiguous, Forbidden."""
    token = lookup.find_one(world, Token, wish.token, where=lambda row: not row.revoked)
    if at.asker.role < Role.OPERATOR and at.asker.id != token.account:
        raise Forbidden("you may revoke tokens of your own account alone")
    if not token.revoked:
        yield TokenRevoked(id=token.id, time=at.time)


def _active(world: World, text: str) -> Account:
    account = lookup.find_one(world, Account, text)
    if account.state != "active":
        raise AccountIsClosed(f"account {account.name} is closed")
    return account


def line(world: World, account: Account) -> dict[str, Any]:
    """Return an account as it is listed."""
    return {
        "id": account.id,
        "name": account.name,
        "state": account.state,
        "compartment": graph.path_text(world, account.compartment),
        "roles": [
            {"compartment": graph.path_text(world, row.compartment), "role": row.role} for row in world.find(Membership, account=account.id)
        ],
        "tokens": sum(not token.revoked for token in world.find(Token, account=account.id)),
        "created": account.created,
    }


def token_line(world: World, token: Token) -> dict[str, Any]:
    """Return a token as it is listed; nothing in it helps to use it."""
    place = world.get(Compartment, token.compartment)
    return {
        "id": token.id,
        "name": token.name,
        "account": world.need(Account, token.account).name,
        "compartment": place.name if place is not None else "",
        "role": token.role,
        "state": "revoked" if token.revoked else "active",
        "created": token.created,
        "expires": token.expires,
        "revoked": token.revoked,
    }


def list_accounts(_query: ListAccounts, world: World, _asker: Asker) -> list[dict[str, Any]]:
    """Return every account, by name."""
    return sorted((line(world, row) for row in world.all(Account)), key=lambda one: str(one["name"]))


def list_tokens(query: ListTokens, world: World, asker: Asker) -> list[dict[str, Any]]:
    """Return the tokens, the newest last; somebody who is no operator sees their own. Raises: NoSuchAccount."""
    rows = world.find(Token, account=lookup.find_one(world, Account, query.account).id) if query.account else world.all(Token)
    own = [row for row in rows if asker.role >= Role.OPERATOR or row.account == asker.id]
    return [token_line(world, row) for row in sorted(own, key=lambda row: (row.created, row.id))]


def created(wish: CreateAccount, world: World, _at: Moment) -> object:
    """Return the new account's line."""
    return line(world, lookup.find_one(world, Account, wish.name))


def token_created(wish: CreateToken, world: World, _at: Moment) -> object:
    """Return the new token's line."""
    token = world.first(Token, secret_hash=str(wish.secret_hash))
    return token_line(world, token) if token is not None else None


TABLE: Final = (
    Rule(
        CreateAccount, create, allow=Role.OPERATOR, compartment=lambda wish, world: places.place_id(world, wish.compartment), result=created
    ),
    Rule(CloseAccount, close, allow=Role.OPERATOR, compartment=account_place, urgent=True, approvals=ends_operator),
    Rule(CreateToken, create_token, allow=Role.TENANT, compartment=account_place, result=token_created),
    Rule(RevokeToken, revoke_token, allow=Role.TENANT, compartment=token_place, urgent=True),
    Question(ListAccounts, list_accounts, allow=Role.OPERATOR),
    Question(ListTokens, list_tokens, allow=Role.TENANT, compartment=account_place),
)
