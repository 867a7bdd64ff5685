"""The root's succession in a running cloud: taking a statement that two of the old and two of the new keys signed.

Owns ``trust.rotate`` and ``trust.root``. The statement comes signed; no daemon holds a key of the root. Everything is verified
here from bytes: the first statement against the cloud's id, then each successor against the one before it.

INV-ROO-1: nothing in force loses its root: a successor that does not confirm ring 0's own grant is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from bus.messages import Asker, Command, Fact, Moment, Query, Question, Role, Rule, always
from compartments.facts.roots import RootSucceeded
from compartments.rows import Cloud, Grant, RevokedKey, RootSuccessor
from compartments.world import World
from enjin.canonical import from_text
from enjin.errors import Conflict, Refused

if TYPE_CHECKING:
    from keys.succession import RootChain


class OtherRoot(Refused):
    """A root statement belongs to another cloud."""

    code = "E-ROT-005"


class Unconfirmed(Conflict):
    """A root statement does not confirm a grant that the cloud could not go on without."""

    code = "E-ROT-006"
    remedy = "make it anew: `enjin root rotate` confirms what is in force at that moment"


class RotateRoot(Command, kind="trust.rotate", kw_only=True):
    """Put the root statement in *frame* in force; *first* is the cloud's first one (frames as base64url)."""

    first: str
    frame: str


class ShowRoot(Query, kind="trust.root"):
    """Every root statement after the first, and what the root has granted."""


def successors(world: World) -> list[str]:
    """Return the frames (base64url) of every root statement after the first, in order."""
    return [row.frame for row in sorted(world.all(RootSuccessor), key=lambda row: row.version)]


def granted(world: World) -> list[Grant]:
    """Return the grants that the root itself has given, but for those of revoked keys."""
    from keys.frame import open_frame
    from keys.grants import ROOT_PARENT, read_grant

    rows = [row for row in world.all(Grant) if row.ring == 0 and row.frame and world.get(RevokedKey, row.key) is None]
    return [row for row in sorted(rows, key=lambda row: row.id) if read_grant(open_frame(from_text(row.frame))).parent == ROOT_PARENT]


def chain_of(first: str, world: World) -> RootChain:
    """Return the chain from the first statement in *first* to the newest of *world*.

    Raises:
        OtherRoot: *first* is another cloud's.
        RootRefused, Malformed, BadFrame, BadKey, NotCanonical.
    """
    from keys.succession import RootChain

    chain = RootChain(from_text(first))
    if not any(cloud.id == str(chain.cloud) for cloud in world.all(Cloud)):
        raise OtherRoot("the root statement belongs to another cloud")
    chain.follow(from_text(text) for text in successors(world))
    return chain


def rotate(wish: RotateRoot, world: World, at: Moment) -> Iterator[Fact]:
    """Put the next root statement in force; the one in force changes nothing.

    Raises:
        OtherRoot: Of another cloud.
        Unconfirmed: It would leave a grant of the root, ring 0's, without one.
        RootRefused, StaleRoot, RootSkipped, RootForked: It may not follow.
        BadFrame, BadKey, Malformed, NotCanonical.
    """
    chain = chain_of(wish.first, world)
    if not chain.take(from_text(wish.frame)):
        return
    statement = chain.statement
    for row in granted(world):
        if row.id not in statement.confirms:
            raise Unconfirmed(f"root statement {statement.version} does not confirm the grant of {row.subject}")
    yield RootSucceeded(version=statement.version, hash=chain.digests[-1], frame=wish.frame, time=at.time)


def rotated(_wish: RotateRoot, world: World, _at: Moment) -> object:
    """Return which statement is in force."""
    return {"version": max((row.version for row in world.all(RootSuccessor)), default=1)}


def show_root(_query: ShowRoot, world: World, _asker: Asker) -> dict[str, Any]:
    """Return frames as base64url: a reader believes them only as far as its own pinned root leads to them."""
    return {"successors": successors(world), "granted": [row.frame for row in granted(world)]}


TABLE: Final = (
    Rule(RotateRoot, rotate, allow=Role.OPERATOR, result=rotated, urgent=True, approvals=always),
    Question(ShowRoot, show_root, allow=Role.OPERATOR),
)
