"""What a journal is made of: cause, entry, commit, and the hashes and signatures that chain them.

Owns the shapes and their bytes. Does no I/O. Imports the ground, keys and ``bus.messages``.

INV-JNL-1: an entry's hash covers its bytes, its bytes hold the previous hash, and the first one holds the hash of
(cloud, domain): a chain belongs to one domain of one cloud and has one spelling.
INV-JNL-2: a commit's signature covers the last number and hash, thereby everything before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import msgspec

from bus.journal.errors import BadStretch
from bus.messages import Asker, canonical
from enjin.names import CloudId
from keys.frame import COMMIT, ENTRY
from keys.signing import BadSignature, Signer, key_id, pae, verify

GENESIS: Final = "application/vnd.enjin.journal.v1+json"
ENTRY_MAX_BYTES: Final = 262_144
FACTS_MAX: Final = 4_096


class Shape(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base of what is stored and sent: frozen, closed, canonical."""


class Cause(Shape, frozen=True, kw_only=True):
    """Why an entry exists: the signed frame itself, and what the dispatcher established about it.

    ``body`` is the SHA-256 (hex) of the frame's body; with ``request``, ``asker`` and ``kind`` it tells a repeat from a conflict.
    """

    frame: bytes
    asker: str
    kind: str
    request: str
    body: str
    door: str = "bus"
    token: str = ""
    reason: str = ""

    @classmethod
    def of(cls, frame: bytes, *, kind: str, request: str, body: bytes | msgspec.Raw, asker: Asker) -> Cause:
        """Return the cause of a wish: *frame* as received, *body* as it stood in the frame's statement."""
        digest = hashlib.sha256(bytes(body)).hexdigest()
        return cls(
            frame=frame, asker=asker.id, kind=kind, request=request, body=digest, door=asker.door, token=asker.token, reason=asker.reason
        )


class Entry(Shape, frozen=True, kw_only=True):
    """One decision: numbered from 1, chained, timed in microseconds of cloud time, with the facts it made true."""

    number: int
    previous: str
    epoch: int
    time: int
    cause: Cause
    facts: list[msgspec.Raw]


class Head(NamedTuple):
    """The last entry's number and hash; (0, hash of cloud and domain) for an empty journal."""

    number: int
    hash: str


class StoredEntry(NamedTuple):
    """An entry's number, hash (hex) and exact bytes."""

    number: int
    hash: str
    data: bytes


class CommitStatement(Shape, frozen=True, kw_only=True):
    """What a commit's signature covers."""

    cloud: str
    domain: str
    epoch: int
    number: int
    hash: str


class Commit(Shape, frozen=True, kw_only=True):
    """One signature over everything up to an entry."""

    epoch: int
    number: int
    hash: str
    key_id: str
    signature: bytes

    @property
    def head(self) -> Head:
        """The head that this commit made."""
        return Head(self.number, self.hash)


class Stretch(Shape, frozen=True, kw_only=True):
    """Consecutive entries as they travel to followers: their bytes, and a commit that covers the last of them."""

    entries: list[bytes]
    commit: Commit


class JournalIdentity(NamedTuple):
    """Whose journal it is and who signs it; ``earlier`` are public halves of journal keys that were rotated out."""

    cloud: str
    domain: str
    epoch: int
    signer: Signer
    earlier: tuple[bytes, ...] = ()

    @property
    def publics(self) -> tuple[bytes, ...]:
        """Every public key whose commits hold in this journal."""
        return (self.signer.public, *self.earlier)


def genesis(cloud: str | CloudId, domain: str) -> Head:
    """Return the head of the empty journal of *domain* in *cloud*."""
    payload = canonical({"cloud": str(cloud), "domain": str(domain)})
    return Head(0, hashlib.sha256(pae(GENESIS, payload)).hexdigest())


def entry_hash(data: bytes) -> str:
    """Return the hash of an entry's bytes: SHA-256 over their PAE, hex."""
    return hashlib.sha256(pae(ENTRY, data)).hexdigest()


def commit_statement(cloud: str, domain: str, epoch: int, head: Head) -> bytes:
    """Return the bytes that a commit's signature covers, as the payload of their envelope."""
    return canonical(CommitStatement(cloud=str(cloud), domain=str(domain), epoch=epoch, number=head.number, hash=head.hash))


def sign_commit(identity: JournalIdentity, head: Head) -> Commit:
    """Return the commit of *head* signed with the journal subkey."""
    payload = commit_statement(identity.cloud, identity.domain, identity.epoch, head)
    signature = identity.signer.sign(COMMIT, payload)
    return Commit(
        epoch=identity.epoch, number=head.number, hash=head.hash, key_id=str(identity.signer.key_id), signature=signature
    )


def check_commit(commit: Commit, cloud: str, domain: str, publics: Iterable[bytes]) -> None:
    """Check that one of *publics* signed *commit* for this domain.

    Raises:
        BadSignature: None of them is the key it names, or the signature does not match.
    """
    for public in publics:
        if key_id(public) == commit.key_id:
            verify(public, COMMIT, commit_statement(cloud, domain, commit.epoch, commit.head), commit.signature)
            return
    raise BadSignature(f"commit {commit.number} is signed by a key that may not sign this journal")


def authenticate(entries: Sequence[StoredEntry], previous_of: Sequence[str], commit: Commit) -> int:
    """Return how many of *entries*, counted from the end, the verified *commit* vouches for.

    Walks from the commit backwards: the signature vouches for the last hash, each entry's bytes for the hash before
    them. *entries* end at the commit's number; ``previous_of[i]`` is the ``previous`` of ``entries[i]``.
    """
    expected, count = commit.hash, 0
    for entry, previous in zip(reversed(entries), reversed(previous_of), strict=True):
        if entry_hash(entry.data) != expected:
            break
        expected, count = previous, count + 1
    return count


def read_stretch(data: bytes) -> Stretch:
    """Return the stretch in *data*. Raises: BadStretch."""
    try:
        return msgspec.json.decode(data, type=Stretch)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise BadStretch(f"not a stretch of a journal: {error}") from error
