"""Where a domain's journal lies: in a file of its daemon's, or in a PostgreSQL database that several daemons may share.

Owns the choice, and nothing of either. Imports ``bus.journal``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from bus.journal import Checkpoint, Journal, JournalIdentity, SharedJournal
from bus.journal.reserve import Reserve
from compartments.facts import FACTS
from compartments.tables import WorldTables
from compartments.world import World

PROJECTION = "projection.db"


def open_journal(
    path: Path, shared: str, *, holder: str, identity: JournalIdentity, now_us: Callable[[], int], floor: Checkpoint | None = None
) -> Journal:
    """Open a domain's journal for its daemon.

    Args:
        path: The journal's file; beside a shared one its projection lies in the same folder.
        shared: ``postgresql://…``; "": the file.
        holder: The daemon, as others are told when it decides.
        identity: Whose journal it is and who signs.
        now_us: Cloud time in microseconds.
        floor: What a witness has seen of it; less is refused.

    Raises:
        EnjinError: What ``Journal.open`` and ``SharedJournal.open`` refuse.
    """
    parts: dict[str, Any] = {
        "identity": identity,
        "world_factory": World,
        "facts": dict(FACTS),
        "projection": WorldTables(),
        "now_us": now_us,
        "floor": floor,
        "reserve": Reserve(path.with_name("journal.reserve")),
    }
    if not shared:
        return Journal.open(f"sqlite:///{path}", **parts)
    return SharedJournal.open(shared, beside=f"sqlite:///{path.with_name(PROJECTION)}", holder=holder, **parts)


async def attend(journal: Journal) -> None:
    """Keep a shared journal at what the server and the other daemons do, until cancelled; any other needs nothing."""
    if isinstance(journal, SharedJournal):
        await journal.attend()
