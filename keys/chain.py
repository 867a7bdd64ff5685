"""The chain of a grant in words: who vouches for whom, from a subject down to the root.

Pure. Owns how a chain is told; what is believed is ``keys.trust``'s matter.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from keys.frame import open_frame
from keys.grants import ROOT_PARENT, Grant
from keys.root import RootStatement
from keys.signing import key_id
from keys.term import end_at_home
from keys.trust import TrustSet

ROLES: Final = ("nobody", "tenant", "operator", "supervisor")


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """One grant of a chain: whose, by whom, what it allows, and whether it is in force. Times are microseconds of cloud time."""

    subject: str
    ring: int
    role: str
    grant: str
    keys: dict[str, str]
    compartment: str
    allowed: tuple[str, ...]
    channels: tuple[str, ...]
    not_before: int
    expiry: int
    issuer: str
    signed_by: tuple[str, ...]
    state: str


def links(trust: TrustSet, digest: str, now: int) -> Iterator[Link]:
    """Yield the links of grant *digest*, the leaf first; the last one's issuer is the root. Raises: UnknownKey."""
    frames = {frame.digest: frame for frame in map(open_frame, trust.frames())}
    step = digest
    while step != ROOT_PARENT:
        grant = trust.grant(step)
        yield Link(
            subject=grant.subject,
            ring=grant.ring,
            role=ROLES[grant.role] if 0 <= grant.role < len(ROLES) else str(grant.role),
            grant=step,
            keys=key_ids(grant),
            compartment=grant.compartment,
            allowed=tuple(f"{one.verb} on {one.resource}" for one in grant.allowed),
            channels=grant.channels,
            not_before=grant.not_before,
            expiry=grant.expiry,
            issuer=trust.grant(grant.parent).subject if grant.parent else "root",
            signed_by=tuple(str(one.key_id) for one in frames[step].signatures),
            state=_state(trust, step, grant, now),
        )
        step = grant.parent


def key_ids(grant: Grant) -> dict[str, str]:
    """Return purpose -> key id of every key in *grant*."""
    named = {"message": grant.keys.message, "journal": grant.keys.journal, "issue": grant.keys.issue, "curve": grant.keys.curve}
    return {purpose: str(key_id(bytes.fromhex(key))) for purpose, key in named.items() if key}


def root_words(root: RootStatement) -> str:
    """Return one line about the root statement."""
    return f"the root: statement {root.version}, {root.threshold} of {len(root.keys)} keys sign"


def _state(trust: TrustSet, digest: str, grant: Grant, now: int) -> str:
    revoked = trust.revoked
    for name in (digest, *key_ids(grant).values()):
        if name in revoked:
            return f"revoked ({revoked[name]})" if revoked[name] else "revoked"
    if now < grant.not_before:
        return "not in force yet"
    if now < grant.expiry:
        return "in force"
    return "expired for others, in force in its own domain" if now < end_at_home(grant) else "expired"
