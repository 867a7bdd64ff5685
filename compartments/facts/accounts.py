"""Facts about who may ask: accounts, memberships, tokens, enrolled and revoked keys.

Owns one fact per thing that can become true of them, and its ``apply``. No fact here holds a secret: a token's fact
carries the hash that its client made, an enrolled key's the signed grant.
"""

from __future__ import annotations

from typing import Final

import msgspec

from bus.messages import Fact
from compartments.row import RoleName
from compartments.rows import Account, AccountRole, Grant, KeyRequest, Membership, RevokedKey, Token
from compartments.world import World


class RoleNamed(Fact, kind="role.named", kw_only=True):
    """A role's name stands for this level."""

    name: str
    level: int
    summary: str = ""

    def apply(self, world: World) -> None:
        """Add the role's row."""
        world.put(AccountRole(name=self.name, level=self.level, summary=self.summary))


class AccountCreated(Fact, kind="account.created"):
    """An account exists, with *role* in *compartment*."""

    id: str
    name: str
    compartment: str
    role: RoleName
    time: int

    def apply(self, world: World) -> None:
        """Add the account and its membership."""
        world.put(Account(id=self.id, name=self.name, compartment=self.compartment, created=self.time))
        world.put(Membership(account=self.id, compartment=self.compartment, role=self.role))


class AccountClosed(Fact, kind="account.closed"):
    """An account is closed: its tokens and memberships count no more. Its row stays, so that the journal can be read."""

    id: str
    time: int

    def apply(self, world: World) -> None:
        """Close the account, revoke its tokens, end its memberships."""
        world.put(msgspec.structs.replace(world.need(Account, self.id), state="closed"))
        for token in world.find(Token, account=self.id):
            if not token.revoked:
                world.put(msgspec.structs.replace(token, revoked=self.time))
        for membership in world.find(Membership, account=self.id):
            world.delete(Membership, membership.account, membership.compartment)


class TokenCreated(Fact, kind="token.created", kw_only=True):
    """An account has a further bearer token; *expires* 0: never."""

    id: str
    name: str
    account: str
    compartment: str
    role: RoleName
    secret_hash: str
    expires: int = 0
    time: int

    def apply(self, world: World) -> None:
        """Add the token's row."""
        world.put(
            Token(
                id=self.id,
                name=self.name,
                account=self.account,
                compartment=self.compartment,
                role=self.role,
                secret_hash=self.secret_hash,
                created=self.time,
                expires=self.expires,
            )
        )


class TokenRevoked(Fact, kind="token.revoked"):
    """A token is refused from now on."""

    id: str
    time: int

    def apply(self, world: World) -> None:
        """Mark the token's row."""
        world.put(msgspec.structs.replace(world.need(Token, self.id), revoked=self.time))


class KeyRequested(Fact, kind="key.requested", kw_only=True):
    """A grant is asked for, for a new key of *subject*; *message*, *curve* and *nats* are its public halves in hex."""

    key: str
    subject: str
    role: int
    compartment: str
    message: str
    curve: str
    nats: str = ""
    time: int

    def apply(self, world: World) -> None:
        """Let it wait for its grant."""
        world.put(
            KeyRequest(
                key=self.key,
                subject=self.subject,
                role=self.role,
                compartment=self.compartment,
                message=self.message,
                curve=self.curve,
                nats=self.nats,
                time=self.time,
            )
        )


class KeyEnrolled(Fact, kind="key.enrolled", kw_only=True):
    """A grant was made for *key* of *subject* (an account or a node)."""

    grant: str
    key: str
    subject: str
    role: int
    ring: int
    compartment: str
    not_before: int
    expiry: int
    frame: str = ""
    time: int

    def apply(self, world: World) -> None:
        """Add the grant's row, and end the request for it."""
        if world.get(KeyRequest, self.key) is not None:
            world.delete(KeyRequest, self.key)
        world.put(
            Grant(
                id=self.grant,
                key=self.key,
                subject=self.subject,
                role=self.role,
                ring=self.ring,
                compartment=self.compartment,
                not_before=self.not_before,
                expiry=self.expiry,
                frame=self.frame,
                created=self.time,
            )
        )


class KeyReplaced(Fact, kind="key.replaced", kw_only=True):
    """The holder of *key* gets another one; this one stays in force until it is revoked or its grant ends."""

    key: str
    time: int

    def apply(self, world: World) -> None:
        """Mark every grant of the key."""
        for grant in world.find(Grant, key=self.key):
            world.put(msgspec.structs.replace(grant, replaced=self.time))


class KeyRevoked(Fact, kind="key.revoked", kw_only=True):
    """*key* is refused from now on; *number* counts revocations."""

    key: str
    number: int
    by: str
    reason: str = ""
    time: int

    def apply(self, world: World) -> None:
        """Add the revocation; the grants' rows stay as evidence."""
        world.put(RevokedKey(key=self.key, number=self.number, time=self.time, by=self.by, reason=self.reason))


FACTS: Final = (RoleNamed, AccountCreated, AccountClosed, TokenCreated, TokenRevoked, KeyRequested, KeyEnrolled, KeyReplaced, KeyRevoked)
