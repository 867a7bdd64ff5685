"""A revocation on its way down: the command that carries the signed statement, and what it makes true in a domain.

Owns ``trust.revoke``'s shape and decision. Who may revoke what is ``keys.revocation``'s rule; the gate of the domain's daemon
has checked it before the decision. Pure.

INV-REV-1: what the journal holds of a revocation is the signed statement itself, in the command that caused the entry.
"""

from __future__ import annotations

from collections.abc import Iterator

from bus.messages import Command, Fact, Moment
from compartments.facts.accounts import KeyRevoked
from compartments.rows import RevokedKey
from compartments.world import World
from enjin.canonical import from_text
from keys.frame import Frame, open_frame
from keys.revocation import read_revocation


class Revoke(Command, kind="trust.revoke"):
    """Believe a key or a grant no longer, nor anything it gave: *frame* is its issuer's signed statement as base64url."""

    frame: str


def open_statement(wish: Revoke) -> Frame:
    """Return the statement's frame. Raises: BadFrame."""
    return open_frame(from_text(wish.frame))


def revoke(wish: Revoke, world: World, at: Moment) -> Iterator[Fact]:
    """Note that a key or a grant is believed no longer; once noted, it stays.

    Raises:
        RevocationRefused, BadFrame, Malformed, NotCanonical.
    """
    said = read_revocation(open_statement(wish))
    if world.get(RevokedKey, said.name) is None:
        number = max((row.number for row in world.all(RevokedKey)), default=0) + 1
        yield KeyRevoked(key=said.name, number=number, by=at.asker.id, reason=said.reason, time=at.time)
