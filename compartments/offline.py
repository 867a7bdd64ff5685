"""Verifying a journal's file with nothing but the root: whose keys signed it stands in the journal, as grants that chain to the root.

Owns finding those grants. They are taken from entries that nobody has verified yet; that is no circle, because a grant is
believed only when a threshold of the root that the caller brings signed its chain.

INV-OFF-1: no key is believed that the root's own keys do not lead to, whatever the file says.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from bus.journal import Verification, verify
from bus.journal.entry import genesis
from bus.journal.errors import NoSuchEntry
from bus.journal.range_check import UNREADABLE
from bus.journal.reader import Meta, Reader
from bus.journal.replay import Facts, fold
from compartments.facts import FACTS
from compartments.rows import Grant, RootSuccessor
from compartments.world import World
from enjin.canonical import from_text
from enjin.errors import EnjinError, Refused
from keys.frame import open_frame
from keys.grants import read_grant
from keys.trust import TrustSet


class ForeignRoot(Refused):
    """The journal is of another cloud than the root statement."""

    code = "E-OFF-001"
    remedy = "take the root statement that was made with this cloud: its digest is the cloud's id"


def verify_with_root(path: Path, root: bytes, processes: int = 1) -> tuple[Meta, Verification]:
    """Verify the journal at *path*, believing only what the root statement in frame *root* leads to.

    Args:
        path: An SQLite file, of any ring.
        root: The frame of the cloud's first root statement.
        processes: See ``bus.journal.verify``.

    Returns:
        Whose journal it says it is, and the verdict.

    Raises:
        ForeignRoot: Another cloud's journal.
        NoSuchEntry: There is no journal at *path*.
        BadFrame, RootRefused, BadSignature: *root* is no root statement.
    """
    return verify_url_with_root(f"sqlite:///{path.absolute()}", root, processes)


def verify_url_with_root(url: str, root: bytes, processes: int = 1) -> tuple[Meta, Verification]:
    """Verify the journal at *url*, ``sqlite:///…`` or ``postgresql://…``; else as ``verify_with_root``."""
    trust = TrustSet(root)
    with contextlib.closing(Reader(url)) as reader:
        meta = reader.meta()
        if meta is None:
            raise NoSuchEntry("the journal does not say whose it is")
        if meta.cloud != trust.cloud:
            raise ForeignRoot(f"the journal is of cloud {meta.cloud[:6]}, the root statement of cloud {trust.cloud[:6]}")
        _enrol(trust, reader, meta)
    grants = [read_grant(open_frame(frame)) for frame in trust.frames()]
    deciders = [grant for grant in grants if grant.keys.journal and (grant.subject == meta.domain or meta.domain == f"ring{grant.ring}")]
    publics = [bytes.fromhex(grant.keys.journal) for grant in deciders]
    return meta, verify(url, lambda _domain: publics, signers=trust.message_keys(), processes=processes)


def _enrol(trust: TrustSet, reader: Reader, meta: Meta) -> None:
    """Believe every grant that the journal's facts name and the root leads to."""
    world = World()
    facts, head = Facts.of(FACTS), genesis(meta.cloud, meta.domain)
    # A damaged entry ends the fold; what was enrolled before it says who signed, and `verify` names the entry.
    with contextlib.suppress(EnjinError, *UNREADABLE):
        for entry in reader.walk(0):
            head = fold(world, [entry], facts, head)
    waiting = [from_text(row.frame) for row in world.all(Grant) if row.frame]
    while True:  # parents may stand after their children: what cannot be believed yet is tried again while anything is
        left = [frame for frame in waiting if not _believe(trust, frame)]
        if len(left) == len(waiting):
            break
        waiting = left
    # What an earlier root signed was signed all the same; the later ones vouch for what is left.
    roots = sorted(world.all(RootSuccessor), key=lambda row: row.version)
    with contextlib.suppress(EnjinError):
        trust.follow_roots(from_text(row.frame) for row in roots)
    for frame in waiting:
        _believe(trust, frame)


def _believe(trust: TrustSet, frame: bytes) -> bool:
    try:
        trust.add(frame)
    except EnjinError:
        return False
    return True
