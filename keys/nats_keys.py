"""Keys of the NATS bus: how NATS spells them, what they sign, and the one family of keys from which a cloud mints tokens.

Owns the text form of NATS keys, the user key that answers a server's nonce, and the operator, system and account keys
of a cloud. These sign raw bytes, as NATS wants it, and therefore nothing else: each is a subkey of a purpose of its
own, stands in a grant as such, and is never a message key. Which tokens they sign is ``keys.nats_claims``.

INV-NKY-1: a user key signs nothing but a nonce in NATS's own form, in which no PAE text can be written.
INV-NKY-2: operator, system and account keys are made from the issuer's seed: a node has none of them.

Source: NATS nkeys (prefix byte, 32 bytes, CRC-16/XMODEM little endian, base32); THREATS B4.
"""

from __future__ import annotations

import base64
import binascii
import enum
import hashlib
import re
from typing import Final

from nacl import bindings

from enjin.errors import Refused
from keys.signing import PUBLIC_BYTES, SEED_BYTES, SIGNATURE_BYTES, BadKey, check_public

_NONCE: Final = re.compile(r"[A-Za-z0-9_-]{11,64}")


class BadNonce(Refused):
    """A server asked for a signature over something that is no nonce."""

    code = "E-SIG-003"
    remedy = "this is no NATS server of ours, or it is broken into: compare `enjin status` of the machine that runs it"


class Kind(enum.IntEnum):
    """What a NATS key stands for: the first byte of its text."""

    ACCOUNT = 0
    OPERATOR = 14 << 3
    USER = 20 << 3


def public_text(kind: Kind, public: bytes) -> str:
    """Return the text (56 characters) of the 32-byte key *public*."""
    data = bytes([kind]) + public
    return base64.b32encode(data + binascii.crc_hqx(data, 0).to_bytes(2, "little")).decode().rstrip("=")


def public_bytes(text: str) -> tuple[Kind, bytes]:
    """Return what *text* stands for and its 32 bytes. Raises: BadKey."""
    try:
        data = base64.b32decode(text)
        kind, public, check = Kind(data[0]), data[1:-2], data[-2:]
    except (ValueError, IndexError) as error:
        raise BadKey("this is not the text of a NATS key") from error
    if len(public) != PUBLIC_BYTES or binascii.crc_hqx(data[:-2], 0).to_bytes(2, "little") != check:
        raise BadKey("this is not the text of a NATS key")
    return kind, check_public(public)


class NatsKey:
    """A private key that signs tokens, or one that logs in."""

    __slots__ = ("_secret", "kind", "public", "text")

    def __init__(self, kind: Kind, seed: bytes) -> None:
        if len(seed) != SEED_BYTES:
            raise BadKey(f"a seed has {SEED_BYTES} bytes, not {len(seed)}")
        self.kind = kind
        self.public, self._secret = bindings.crypto_sign_seed_keypair(seed)
        self.text = public_text(kind, self.public)

    def _sign(self, data: bytes) -> bytes:
        return bindings.crypto_sign(data, self._secret)[:SIGNATURE_BYTES]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.text[:12]})"


class IssuingKey(NatsKey):
    """A key that signs tokens: an operator's or an account's."""

    __slots__ = ()

    def sign_token(self, signed: str) -> bytes:
        """Return the signature over the first two parts of a token, dot between them."""
        return self._sign(signed.encode("ascii"))


class UserKey(NatsKey):
    """The key with which a node or a person logs in at a NATS server."""

    __slots__ = ()

    def __init__(self, seed: bytes) -> None:
        super().__init__(Kind.USER, seed)

    def answer(self, nonce: str) -> bytes:
        """Return the signature over a server's *nonce*, base64 as NATS wants it.

        Raises:
            BadNonce: It is anything but 11 to 64 characters of base64url: a PAE has blanks, a token has dots.
        """
        if _NONCE.fullmatch(nonce) is None:
            raise BadNonce("the server asked for a signature over something that is no nonce")
        return base64.b64encode(self._sign(nonce.encode("ascii")))


class NatsAuthority:
    """The keys with which a cloud mints tokens: the cloud is the operator, and each channel is an account.

    Args:
        seed: The issuer's subkey for this purpose, 32 bytes.
    """

    def __init__(self, seed: bytes) -> None:
        self._seed = seed
        self.operator = IssuingKey(Kind.OPERATOR, self._derive("operator"))
        self.system = IssuingKey(Kind.ACCOUNT, self._derive("system"))
        self.system_user = UserKey(self._derive("system-user"))

    def account(self, channel: str) -> IssuingKey:
        """Return the account key of *channel*."""
        return IssuingKey(Kind.ACCOUNT, self._derive(f"channel/{channel}"))

    def _derive(self, label: str) -> bytes:
        return hashlib.blake2b(label.encode(), key=self._seed, digest_size=32, person=b"enjin-nats").digest()
