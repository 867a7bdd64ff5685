"""Which journals there are, where their files lie, and whose keys may sign them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bus.session import Session


def domains(session: Session) -> list[tuple[int, str, str]]:
    """Return (ring, domain, decider) of those that can be reached, and of ring 1's that are stopped but whose journal lies here."""
    from keys.frame import open_frame
    from keys.grants import read_grant

    known = [(reach.ring, reach.domain, reach.decider) for reach in session.directory.domains]
    for frame in session.trust.frames():
        grant = read_grant(open_frame(frame))
        here = journal_file(Path(session.config.home), 1, grant.subject)
        if grant.ring == 1 and grant.subject not in {domain for _, domain, _ in known} and os.access(here, os.R_OK):
            known.append((1, grant.subject, grant.subject))
    return sorted(known)


def journal_file(home: Path, ring: int, domain: str) -> Path:
    """Return where the journal of *domain* lies."""
    return home / "ring0" / "journal.db" if ring == 0 else home / "nodes" / domain / "state" / "ring1" / "journal.db"


def journal_keys(session: Session, decider: str) -> list[bytes]:
    """Return the journal keys of *decider*, by grants that the session believes: each ends in the pinned root."""
    from keys.frame import open_frame
    from keys.grants import read_grant

    grants = [read_grant(open_frame(frame)) for frame in session.trust.frames()]
    return [bytes.fromhex(grant.keys.journal) for grant in grants if grant.subject == decider and grant.keys.journal]
