"""Secrets at rest: AES-256-GCM under a data key of their own, which only the compartment's sealing key opens.

``keys.sealed`` has the form. The data key is 32 fresh random bytes for each value, wrapped in a libsodium sealed box to the compartment's
public key, so that whoever seals can read nothing that others sealed. The public half stands in the journal, the private half in one file
outside journal, projection and backups: without that file every secret of the compartment is unreadable everywhere. The associated data
holds the place (compartment, app and name) and the key's generation, which is the public half itself.

What was sealed before this form (a sealed box of place and value, without the four bytes in front) still opens: journals hold it for ever.

INV-SEA-1: a value opened at another place, or with another generation of the key, than it was sealed for is refused.
INV-SEA-2: no data key and no nonce is used twice: both are fresh for each value.
"""

from __future__ import annotations

import msgspec
from nacl import bindings
from nacl.exceptions import CryptoError

from enjin.canonical import canonical, from_text, parse, to_text
from enjin.errors import Invalid, Refused
from enjin.host import random_bytes
from keys import aead
from keys.keyring import KeyPair
from keys.sealed import HEAD_BYTES, KEY_BYTES, MAGIC, NONCE_BYTES, WRAPPED_BYTES


class Unsealable(Refused):
    """A secret cannot be opened: another key, another place, or damaged."""

    code = "E-SEA-001"
    remedy = "set the value again; if the compartment was shredded it is gone for ever"


class _Bound(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a value is bound to."""

    generation: str
    place: str


class _Sealed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the first form's box held."""

    place: str
    value: str


def seal_value(public: bytes, place: str, value: str) -> str:
    """Return *value* sealed to *public* and bound to *place* (such as ``default/hello/TOKEN``), as text.

    Raises:
        NoCipher: This machine cannot.
    """
    key, nonce = random_bytes(KEY_BYTES), random_bytes(NONCE_BYTES)
    sealed = aead.cipher().encrypt(key, nonce, value.encode(), _bound(public, place))
    return to_text(MAGIC + bindings.crypto_box_seal(key, public) + nonce + sealed)


def open_value(pair: KeyPair, place: str, text: str) -> str:
    """Return the value that was sealed for *place*.

    Raises:
        Unsealable: Not for this key or place, or damaged.
        NoCipher: This machine cannot.
    """
    try:
        data = from_text(text)
        return _open(pair, place, data) if data.startswith(MAGIC) else _open_first(pair, place, data)
    except (CryptoError, Invalid, aead.NotAuthentic, ValueError, TypeError):
        # Without its cause: what was opened and cannot be read must not get into a log with it.
        raise Unsealable(f"the secret at {place} cannot be opened") from None


def _open(pair: KeyPair, place: str, data: bytes) -> str:
    wrapped, nonce = data[len(MAGIC) : len(MAGIC) + WRAPPED_BYTES], data[len(MAGIC) + WRAPPED_BYTES : HEAD_BYTES]
    key = bindings.crypto_box_seal_open(wrapped, pair.public, pair.secret)
    return aead.cipher().decrypt(key, nonce, data[HEAD_BYTES:], _bound(pair.public, place)).decode()


def _open_first(pair: KeyPair, place: str, data: bytes) -> str:
    sealed = parse(bindings.crypto_box_seal_open(data, pair.public, pair.secret), _Sealed)
    if sealed.place != place:
        raise Unsealable(f"the secret at {place} was sealed for another place")
    return sealed.value


def _bound(public: bytes, place: str) -> bytes:
    return canonical(_Bound(generation=public.hex(), place=place))
