"""Facts about join tokens: made, used, revoked, and used by a second key.

Owns how the row changes. Decides nothing: ``ring0.joining`` does. That a token was used and what it bought stand in one entry.
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from bus.messages import Fact
from compartments.row import RoleName
from compartments.rows_joining import JoinToken
from compartments.world import World


class JoinTokenMade(Fact, kind="join.made", kw_only=True):
    """A token exists for account *name*, until *expires*; the rest is what it allows and expects."""

    id: str
    name: str
    ring: int
    role: RoleName
    compartment: str
    allowed: str
    secret_hash: str
    by: str
    machine: str = ""
    source: str = ""
    expires: int
    time: int

    def apply(self, world: World) -> None:
        """Add the token's row."""
        world.put(
            JoinToken(
                id=self.id, name=self.name, ring=self.ring, role=self.role, compartment=self.compartment, allowed=self.allowed,
                secret_hash=self.secret_hash, by=self.by, created=self.time, expires=self.expires, machine=self.machine, source=self.source,
            )
        )  # fmt: skip


class JoinTokenUsed(Fact, kind="join.used", kw_only=True):
    """A token has bought *grant* for *key*, by the request with this hash."""

    id: str
    key: str
    request: str
    grant: str
    time: int

    def apply(self, world: World) -> None:
        """Use the token up."""
        row = world.need(JoinToken, self.id)
        world.put(replace(row, used=self.time, key=self.key, request=self.request, grant=self.grant))


class JoinTokenRevoked(Fact, kind="join.revoked"):
    """A token buys nothing from now on."""

    id: str
    time: int

    def apply(self, world: World) -> None:
        """Mark the token's row."""
        world.put(replace(world.need(JoinToken, self.id), revoked=self.time))


class JoinTokenMisused(Fact, kind="join.misused"):
    """A used token was brought by another key: whoever of the two is the rightful one, somebody else has the token."""

    id: str
    key: str
    time: int

    def apply(self, world: World) -> None:
        """Mark the token's row."""
        world.put(replace(world.need(JoinToken, self.id), misused=self.time, second=self.key))


FACTS: Final = (JoinTokenMade, JoinTokenUsed, JoinTokenRevoked, JoinTokenMisused)
