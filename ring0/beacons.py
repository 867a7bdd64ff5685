"""What ring 0 says each second to a domain that it runs: the trust head of its charter, the newest revocation, time and journal.

Owns the making of a beacon from World. Who hears it, and what it does then, is ``compartments.beacons``'s matter.

INV-BEC-1: a beacon says nothing that is not on disk: whoever heard it would take a lesser one for a rollback.
"""

from __future__ import annotations

from compartments.beacons import of_charter
from compartments.domain import Domain
from compartments.rows import RevokedKey
from keys.beacon import Beacon
from ring0 import charters


async def beacon_for(domain: Domain, node: str) -> Beacon | None:
    """Return what to tell ring 1 node *node* now; None before its first charter. Raises: JournalLost."""
    await domain.journal.settled()
    charter = charters.in_force(domain.world, node)
    if charter is None:
        return None
    head = domain.journal.head
    return Beacon(
        time=domain.journal.now(),
        head=of_charter(charter),
        revocations=max((row.number for row in domain.world.all(RevokedKey)), default=0),
        number=head.number,
        journal=head.hash,
    )
