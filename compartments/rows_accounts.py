"""Rows about who may ask: accounts, their roles and tokens, grants of keys and what was revoked.

Owns the shapes only. Secrets are in none of them: a token's row holds a hash that its client made.
"""

from __future__ import annotations

from typing import Literal

from compartments.row import RoleName, Row


class Account(Row):
    """Someone who may ask for things. ``compartment`` is where its authority begins."""

    INDEX = ("name", "compartment")

    id: str
    name: str
    compartment: str
    state: Literal["active", "closed"] = "active"
    created: int = 0


class AccountRole(Row):
    """What a role's name stands for: the level that commands ask for."""

    KEY = ("name",)

    name: str
    level: int
    summary: str = ""


class Membership(Row):
    """*account* has *role* in *compartment* and in all whose home lies in it."""

    KEY = ("account", "compartment")
    INDEX = ("account", "compartment")

    account: str
    compartment: str
    role: RoleName


class Token(Row):
    """A bearer token of an account: it hangs from the account and only narrows. The secret itself is nowhere."""

    INDEX = ("account", "secret_hash", "name")

    id: str
    name: str
    account: str
    compartment: str
    role: RoleName
    secret_hash: str
    created: int = 0
    expires: int = 0
    revoked: int = 0


class Grant(Row):
    """A grant that was made: ``id`` is its hash, ``key`` the message key's id, ``frame`` the signed bytes as base64url.

    ``replaced`` is when its holder was to get another key; 0: never.
    """

    INDEX = ("key", "subject")

    id: str
    key: str
    subject: str
    role: int
    ring: int
    compartment: str
    not_before: int
    expiry: int
    frame: str = ""
    created: int = 0
    replaced: int = 0


class KeyRequest(Row):
    """A person's new key that waits for its grant; ``message``, ``curve`` and ``nats`` are its public halves in hex."""

    KEY = ("key",)

    key: str
    subject: str
    role: int
    compartment: str
    message: str
    curve: str
    time: int
    nats: str = ""


class RevokedKey(Row):
    """A key that is refused from now on; ``number`` counts revocations, so that a missed one shows."""

    KEY = ("key",)
    INDEX = ("number",)

    key: str
    number: int
    time: int
    by: str
    reason: str = ""


class RootSuccessor(Row):
    """A root statement after the first: ``frame`` is its signed bytes as base64url, ``hash`` what the next one names it by."""

    KEY = ("version",)

    version: int
    hash: str
    frame: str
    time: int
