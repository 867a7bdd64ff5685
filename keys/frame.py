"""Signed bytes as they travel: one binary frame around (type, payload, signatures).

    b"ENJ1" | u16 len(type) | type | u32 len(payload) | payload | u8 n | n x (32-byte key id | 64-byte signature)

big-endian. A message has one signature; what the root signs has as many as its threshold. The key id is a hint and
never decides anything: the receiver looks the key up and verifies.

INV-FRM-1: ``open_frame(seal(...))`` gives back the same bytes, and no byte may follow the last signature.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from enjin.errors import Invalid
from enjin.names import KeyId
from keys.signing import SIGNATURE_BYTES, Signer, pae

MAGIC: Final = b"ENJ1"
FRAME_MAX: Final = 65_536
BULK_MAX: Final = 1_048_576
SIGNATURES_MAX: Final = 5
_PREFIX: Final = "application/vnd.enjin."

MESSAGE: Final = _PREFIX + "msg.v1+json"
GRANT: Final = _PREFIX + "grant.v1+json"
ROOT: Final = _PREFIX + "root.v1+json"
CHARTER: Final = _PREFIX + "charter.v1+json"
BEACON: Final = _PREFIX + "beacon.v1+json"
REVOCATION: Final = _PREFIX + "revocation.v1+json"
ENTRY: Final = _PREFIX + "entry.v1+json"
COMMIT: Final = _PREFIX + "commit.v1+json"
CHECKPOINT: Final = _PREFIX + "checkpoint.v1+json"
JOIN: Final = _PREFIX + "join.v1+json"
JOINED: Final = _PREFIX + "joined.v1+json"
TYPES: Final = frozenset({MESSAGE, GRANT, ROOT, CHARTER, BEACON, REVOCATION, ENTRY, COMMIT, CHECKPOINT, JOIN, JOINED})


class BadFrame(Invalid):
    """Bytes are not a signed frame, or too long."""

    code = "E-FRM-001"


class Signature(NamedTuple):
    """Who claims to have signed, and the signature."""

    key_id: KeyId
    signature: bytes


class Frame(NamedTuple):
    """A frame taken apart; nothing about it is verified yet."""

    type: str
    payload: bytes
    signatures: tuple[Signature, ...]

    @property
    def key_id(self) -> KeyId:
        """The first signer's key id."""
        return self.signatures[0].key_id

    @property
    def signature(self) -> bytes:
        """The first signature."""
        return self.signatures[0].signature

    @property
    def digest(self) -> str:
        """SHA-256 over the signed bytes, hex: the identity of a grant, a root or a request."""
        return hashlib.sha256(pae(self.type, self.payload)).hexdigest()


def seal(payload_type: str, payload: bytes, *signers: Signer) -> bytes:
    """Return the frame of *payload* signed by each of *signers*."""
    return join(payload_type, payload, [Signature(signer.key_id, signer.sign(payload_type, payload)) for signer in signers])


def join(payload_type: str, payload: bytes, signatures: Sequence[Signature]) -> bytes:
    """Return the frame of its parts."""
    kind = payload_type.encode()
    parts = [MAGIC, struct.pack(">H", len(kind)), kind, struct.pack(">I", len(payload)), payload, bytes([len(signatures)])]
    for one in signatures:
        parts += [bytes.fromhex(one.key_id), one.signature]
    return b"".join(parts)


def open_frame(data: bytes, limit: int = FRAME_MAX) -> Frame:
    """Take *data* apart without believing any of it.

    Raises:
        BadFrame: Longer than *limit*, of another form, of an unknown type, or with bytes left over.
    """
    if len(data) > limit:
        raise BadFrame(f"a frame of {len(data)} bytes passes the limit of {limit}")
    if data[:4] != MAGIC or len(data) < 11:
        raise BadFrame("not a frame of this version")
    kind_end = 6 + struct.unpack_from(">H", data, 4)[0]
    if kind_end + 4 > len(data):
        raise BadFrame("the frame ends within its type")
    try:
        kind = data[6:kind_end].decode("ascii")
    except UnicodeDecodeError as error:
        raise BadFrame("the frame's type is not text") from error
    if kind not in TYPES:
        raise BadFrame("the frame's type is unknown")
    end = kind_end + 4 + struct.unpack_from(">I", data, kind_end)[0]
    if end >= len(data):
        raise BadFrame("the frame ends within its payload")
    count, size = data[end], 32 + SIGNATURE_BYTES
    if not 1 <= count <= SIGNATURES_MAX or end + 1 + count * size != len(data):
        raise BadFrame("the frame's signatures are cut short or followed by more bytes")
    signatures = []
    for at in range(end + 1, len(data), size):
        signatures.append(Signature(KeyId(data[at : at + 32].hex()), data[at + 32 : at + size]))
    return Frame(kind, data[kind_end + 4 : end], tuple(signatures))
