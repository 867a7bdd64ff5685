"""Ring 1's services: the sum of their tables.

Queries about the journal, and those that the daemon answers from what it sees, are added by the daemon.
"""

from __future__ import annotations

from typing import Final

from ring1 import accounts, apps, charter, destroying, instances, operations, processes, releases, settings, shredding

SERVICES: Final = (
    apps.TABLE, releases.TABLE, processes.TABLE, instances.TABLE, settings.TABLE, operations.TABLE, accounts.TABLE, charter.TABLE,
    shredding.TABLE, destroying.TABLE,
)  # fmt: skip
