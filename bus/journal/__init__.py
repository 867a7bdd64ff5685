"""The journal of one domain: append, follow, verify, checkpoint; SQLite through SQLAlchemy Core.

    journal = Journal.open(url, identity=…, world_factory=World, facts=FACTS, projection=WorldTables())
    outcome = await journal.decide(Cause.of(frame, …), rule, wish, moment_of)
    verification = verify(url, keys_for)
    follower = Follower.open(url, cloud=…, domain=…, keys_for=…);  follower.append(stretch)

Imports the ground, keys, ``bus.messages`` and SQLAlchemy Core. Knows no domain and no World: both are injected.
"""

from bus.journal.checkpoint import Checkpoint, Cosigned, check_cosigned, cosign
from bus.journal.deciding import Outcome
from bus.journal.entry import Cause, Commit, Entry, Head, JournalIdentity, StoredEntry, Stretch, read_stretch
from bus.journal.errors import NotDecider
from bus.journal.follower import Fetch, Follower
from bus.journal.journal import Journal
from bus.journal.listing import Filters, Line
from bus.journal.reader import Reader
from bus.journal.repair import Repaired, repair
from bus.journal.replay import Facts, Replayed, read_entry, replay
from bus.journal.shared import SharedJournal
from bus.journal.store import Projection
from bus.journal.verify import Verification, verify

__all__ = [
    "Cause",
    "Checkpoint",
    "Commit",
    "Cosigned",
    "Entry",
    "Facts",
    "Fetch",
    "Filters",
    "Follower",
    "Head",
    "Journal",
    "JournalIdentity",
    "Line",
    "NotDecider",
    "Outcome",
    "Projection",
    "Reader",
    "Repaired",
    "Replayed",
    "SharedJournal",
    "StoredEntry",
    "Stretch",
    "Verification",
    "check_cosigned",
    "cosign",
    "read_entry",
    "read_stretch",
    "repair",
    "replay",
    "verify",
]
