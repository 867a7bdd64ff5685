"""Ring 0's services: the sum of their tables, from which the daemon, the HTTP door and the command line are made.

Owns nothing but the list. Queries about the journal are added by the daemon, which holds it (``compartments.audit``).
Importing this pulls in no database, socket or cryptography.
"""

from __future__ import annotations

from typing import Final

from ring0 import (
    accounts,
    addresses,
    approvals,
    buses,
    charters,
    compartments,
    daemons,
    destroying,
    enrolling,
    genesis,
    graph,
    inviting,
    joining,
    keys,
    nodes,
    roots,
    tiers,
)

SERVICES: Final = (
    genesis.TABLE, compartments.TABLE, tiers.TABLE, addresses.TABLE, nodes.TABLE, keys.TABLE, enrolling.TABLE,
    accounts.TABLE, charters.TABLE, graph.TABLE, daemons.TABLE, roots.TABLE, approvals.TABLE, inviting.TABLE, joining.TABLE,
    buses.TABLE, destroying.TABLE,
)  # fmt: skip
