"""Snapshots of World: a signed starting point for replay, never a source of truth.

Owns their bytes and signature. A snapshot that does not hold is skipped, and the fold starts earlier.
Imports the ground and keys.

INV-SNP-1: a snapshot is used only when a journal key signed its number, entry hash and World digest.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Final

from bus.journal.entry import Head, JournalIdentity
from bus.journal.errors import JournalDamaged
from bus.journal.reader import StoredSnapshot
from bus.messages import canonical
from keys.signing import BadSignature, key_id, verify

SNAPSHOT: Final = "application/vnd.enjin.snapshot.v1+json"
SNAPSHOT_EVERY: Final = 10_000
BODY_MAX_BYTES: Final = 1 << 30


def _statement(cloud: str, domain: str, head: Head, digest: str) -> bytes:
    return canonical({"cloud": str(cloud), "domain": str(domain), "number": head.number, "hash": head.hash, "digest": digest})


def seal_snapshot(identity: JournalIdentity, head: Head, digest: str, body: bytes) -> StoredSnapshot:
    """Return the snapshot *body* of the World after *head*, compressed and signed."""
    signature = identity.signer.sign(SNAPSHOT, _statement(identity.cloud, identity.domain, head, digest))
    return StoredSnapshot(head.number, head.hash, digest, str(identity.signer.key_id), signature, zlib.compress(body, 1))


def open_snapshot(snapshot: StoredSnapshot, cloud: str, domain: str, publics: Iterable[bytes]) -> bytes:
    """Return the body of *snapshot* after checking who signed it; the caller compares the restored World's digest.

    Raises:
        BadSignature: None of *publics* signed it.
        JournalDamaged: The body cannot be expanded, or expands beyond the limit.
    """
    for public in publics:
        if key_id(public) == snapshot.key_id:
            verify(public, SNAPSHOT, _statement(cloud, domain, Head(snapshot.number, snapshot.hash), snapshot.digest), snapshot.signature)
            break
    else:
        raise BadSignature(f"snapshot {snapshot.number} is signed by a key that may not sign this journal")
    expander = zlib.decompressobj()
    try:
        body = expander.decompress(snapshot.body, BODY_MAX_BYTES)
    except zlib.error as error:
        raise JournalDamaged(f"snapshot {snapshot.number} cannot be expanded", number=snapshot.number) from error
    if expander.unconsumed_tail or not expander.eof:
        raise JournalDamaged(f"snapshot {snapshot.number} is cut or too large", number=snapshot.number)
    return body
