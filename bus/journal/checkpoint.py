"""Checkpoints: what a journal says about its head, and what witnesses put their name to.

Owns the statement and its cosignatures. Witnessing gives no authority; it shows rollback, a cut tail and a fork.
Imports the ground and keys.

INV-CHK-1: a witness signs only what it holds itself, and never less than it signed before.
"""

from __future__ import annotations

from collections.abc import Iterable

from bus.journal.entry import Head, Shape, entry_hash
from bus.journal.errors import BadCheckpoint, Forked, RolledBack
from bus.journal.reader import Reader
from bus.messages import canonical, parse
from keys.frame import CHECKPOINT
from keys.signing import Signer, key_id, verify


class Checkpoint(Shape, frozen=True, kw_only=True):
    """Number and hash of one domain's head."""

    cloud: str
    domain: str
    epoch: int
    number: int
    hash: str

    @property
    def head(self) -> Head:
        """The head that is spoken of."""
        return Head(self.number, self.hash)


class Cosigned(Shape, frozen=True, kw_only=True):
    """A checkpoint under the signature of a witness."""

    checkpoint: Checkpoint
    key_id: str
    signature: bytes


def cosign(checkpoint: Checkpoint, signer: Signer) -> Cosigned:
    """Return *checkpoint* under *signer*'s name; the caller has seen that it holds (see ``Follower.witness``)."""
    signature = signer.sign(CHECKPOINT, canonical(checkpoint))
    return Cosigned(checkpoint=checkpoint, key_id=str(signer.key_id), signature=signature)


def check_cosigned(cosigned: Cosigned, publics: Iterable[bytes]) -> Checkpoint:
    """Return the checkpoint that a witness, one of *publics*, signed.

    Raises:
        BadCheckpoint: It names none of these keys.
        BadSignature: The signature does not match.
    """
    for public in publics:
        if key_id(public) == cosigned.key_id:
            verify(public, CHECKPOINT, canonical(cosigned.checkpoint), cosigned.signature)
            return cosigned.checkpoint
    raise BadCheckpoint(f"the checkpoint of entry {cosigned.checkpoint.number} is signed by no witness of ours")


def read_cosigned(data: bytes) -> Cosigned:
    """Return the cosigned checkpoint in *data*. Raises: Malformed, NotCanonical."""
    return parse(data, Cosigned)


def compare(reader: Reader, checkpoint: Checkpoint) -> None:
    """Check that the journal of *reader* still holds what *checkpoint* says.

    Raises:
        BadCheckpoint: It speaks of another journal.
        RolledBack: The journal shows less.
        Forked: The journal shows something else at the same number.
    """
    meta = reader.meta()
    if meta is None or (meta.cloud, meta.domain) != (checkpoint.cloud, checkpoint.domain):
        raise BadCheckpoint("the checkpoint speaks of another journal")
    if checkpoint.number > meta.head.number:
        raise RolledBack(
            f"the journal ends at entry {meta.head.number}, a witness has seen entry {checkpoint.number}",
            number=meta.head.number + 1,
        )
    if checkpoint.number == 0:
        return
    entry = reader.entry(checkpoint.number)
    if entry is None or entry_hash(entry.data) != checkpoint.hash:
        raise Forked(f"entry {checkpoint.number} is not the one that a witness has seen", number=checkpoint.number)
