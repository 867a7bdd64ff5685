"""Ed25519 signatures over the DSSE pre-authentication encoding, and the key checks that belong to them.

Owns: key ids, the signer, verification. Does not know who may sign what (``keys.grants``, ``keys.trust``).

INV-SIG-1: nothing is signed but a PAE, so no signature of ours is ever valid for another payload type. The keys of
the NATS bus sign what NATS wants (``keys.nats_keys``); they are keys of their own, which no grant takes for a signer's.
INV-SIG-2: a public key of small order, or in a second spelling, is refused where it enters.
"""

from __future__ import annotations

import hashlib
from typing import Final

from nacl import bindings
from nacl.exceptions import BadSignatureError, CryptoError

from enjin.errors import Refused
from enjin.names import KeyId

SEED_BYTES: Final = 32
PUBLIC_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64


class BadSignature(Refused):
    """A signature does not match the bytes it came with."""

    code = "E-SIG-001"
    http_status = 401


class BadKey(Refused):
    """A public key is not an acceptable Ed25519 key."""

    code = "E-SIG-002"


def pae(payload_type: str, payload: bytes) -> bytes:
    """Return the bytes that are signed.

    Source: DSSE protocol 1.0.2, "Pre-Authentication Encoding".
    """
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def key_id(public: bytes) -> KeyId:
    """Return the id of *public*: BLAKE2b-256 in hex. A hint only: it proves nothing."""
    return KeyId(hashlib.blake2b(public, digest_size=32, person=b"enjin-key").hexdigest())


def check_public(public: bytes) -> bytes:
    """Return *public* if it is 32 bytes, canonical, on the curve and not of small order.

    Raises:
        BadKey: It is not.
    """
    if len(public) != PUBLIC_BYTES:
        raise BadKey(f"a public key has {PUBLIC_BYTES} bytes, not {len(public)}")
    try:
        valid = bindings.crypto_core_ed25519_is_valid_point(public)
    except (CryptoError, ValueError, TypeError):
        valid = False
    if not valid:
        raise BadKey("the public key is of small order or not canonical")
    return public


def read_public(text: str) -> bytes:
    """Return the 32 bytes of a public key in hex, of whatever kind; whether it is a good Ed25519 key is ``check_public``'s matter.

    Raises:
        BadKey: Not 64 lower-case hex digits.
    """
    try:
        data = bytes.fromhex(text)
    except ValueError as error:
        raise BadKey("a public key is not hex") from error
    if len(data) != PUBLIC_BYTES or data.hex() != text:
        raise BadKey(f"a public key has {2 * PUBLIC_BYTES} lower-case hex digits")
    return data


class Signer:
    """A private key for one purpose."""

    __slots__ = ("_secret", "key_id", "public")

    def __init__(self, public: bytes, secret: bytes) -> None:
        self.public = public
        self._secret = secret
        self.key_id = key_id(public)

    @classmethod
    def from_seed(cls, seed: bytes) -> Signer:
        """Return the signer of a 32-byte *seed*. Raises: BadKey for another length."""
        if len(seed) != SEED_BYTES:
            raise BadKey(f"a seed has {SEED_BYTES} bytes, not {len(seed)}")
        return cls(*bindings.crypto_sign_seed_keypair(seed))

    def sign(self, payload_type: str, payload: bytes) -> bytes:
        """Return the 64-byte signature over the PAE of (*payload_type*, *payload*)."""
        return bindings.crypto_sign(pae(payload_type, payload), self._secret)[:SIGNATURE_BYTES]

    def __repr__(self) -> str:
        return f"Signer({self.key_id[:16]})"


def verify(public: bytes, payload_type: str, payload: bytes, signature: bytes) -> None:
    """Check one signature.

    Raises:
        BadSignature: It does not match; also for S + L and for keys of small order (libsodium refuses both).
    """
    if len(signature) != SIGNATURE_BYTES or len(public) != PUBLIC_BYTES:
        raise BadSignature("the signature or the key has the wrong length")
    try:
        bindings.crypto_sign_open(signature + pae(payload_type, payload), public)
    except (BadSignatureError, CryptoError, ValueError) as error:
        raise BadSignature("the signature does not match") from error


def verify_raw(public: bytes, data: bytes, signature: bytes) -> None:
    """Check a signature over bare bytes, as tokens of the NATS bus have it; a message is never checked with this.

    Raises:
        BadSignature: It does not match.
    """
    if len(signature) != SIGNATURE_BYTES or len(public) != PUBLIC_BYTES:
        raise BadSignature("the signature or the key has the wrong length")
    try:
        bindings.crypto_sign_open(signature + data, public)
    except (BadSignatureError, CryptoError, ValueError) as error:
        raise BadSignature("the signature does not match") from error
