"""The grants that ring 1 gives its agents: from its own, no wider and for no longer. Who has which is ``agents``' matter.

INV-GRN-1: an agent's grant ends with the one that it hangs from, before others and in this domain alike, also when it was made while
the ring above was away and that one has ended before others already.
"""

from __future__ import annotations

from typing import Final

from compartments.domain import Domain
from enjin.errors import InvariantError
from keys.grants import Capability, Grant, PublicKeys, sign_grant
from keys.keyring import Keyring
from keys.term import end_at_home

TENANT_ROLE: Final = 1
SKEW_US: Final = 60_000_000


def agent_term(parent: Grant, now: int) -> tuple[int, int, int]:
    """Return ``not_before``, ``expiry`` and ``autonomy`` of a grant made at *now* that hangs from *parent*, all in microseconds."""
    begin = max(parent.not_before, min(now - SKEW_US, parent.expiry - 1))
    return begin, parent.expiry, min(parent.autonomy, end_at_home(parent) - begin)


def agent_grant(node: str, path: str, message: bytes, domain: Domain, keyring: Keyring, now: int) -> bytes:
    """Return the frame of a grant for agent *node* of the compartment at *path*.

    Args:
        node: The agent's subject id.
        path: Its compartment, as in grants.
        message: Its public key for messages.
        domain: Ours: what it hangs from, and the channel.
        keyring: Ours, which may issue.
        now: Cloud time, microseconds.
    """
    if keyring.issuer is None:
        raise InvariantError("ring 1 has no issuer key")
    begin, expiry, autonomy = agent_term(domain.trust.grant(domain.grant), now)
    return sign_grant(
        Grant(
            v=1,
            cloud=str(keyring.cloud),
            subject=node,
            role=TENANT_ROLE,
            ring=2,
            depth=0,
            compartment=path,
            keys=PublicKeys(message=message.hex()),
            allowed=(Capability("instance", path),),
            channels=(domain.place.channel,),
            not_before=begin,
            expiry=expiry,
            autonomy=autonomy,
            parent=domain.grant,
        ),
        keyring.issuer,
    )
