"""Secrets at rest and to a recipient: libsodium sealed boxes to a compartment's sealing key.

The public half stands in the journal, the private half in one file outside journal, projection and backups: without
that file every secret of the compartment is unreadable everywhere. What is sealed is bound to its place.

INV-SEA-1: a box opened at another place than it was sealed for is refused.
"""

from __future__ import annotations

import msgspec
from nacl import bindings
from nacl.exceptions import CryptoError

from enjin.canonical import canonical, from_text, parse, to_text
from enjin.errors import Refused
from keys.keyring import KeyPair

VALUE_MAX_BYTES = 65_536


class Unsealable(Refused):
    """A secret cannot be opened: another key, another place, or damaged."""

    code = "E-SEA-001"
    remedy = "set the value again; if the compartment was shredded it is gone for ever"


class _Sealed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    place: str
    value: str


def seal_value(public: bytes, place: str, value: str) -> str:
    """Return *value* sealed to *public* and bound to *place* (such as ``default/hello/TOKEN``), as text."""
    return to_text(bindings.crypto_box_seal(canonical(_Sealed(place=place, value=value)), public))


def open_value(pair: KeyPair, place: str, text: str) -> str:
    """Return the value that was sealed for *place*.

    Raises:
        Unsealable: Not for this key or place, or damaged.
    """
    try:
        data = bindings.crypto_box_seal_open(from_text(text), pair.public, pair.secret)
    except (CryptoError, ValueError, TypeError) as error:
        raise Unsealable(f"the secret at {place} cannot be opened") from error
    sealed = parse(data, _Sealed)
    if sealed.place != place:
        raise Unsealable(f"the secret at {place} was sealed for another place")
    return sealed.value
