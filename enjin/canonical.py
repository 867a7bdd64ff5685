"""The one spelling of a value: canonical JSON, and the strict parser that accepts nothing else.

INV-CAN-1: ``parse`` refuses bytes that do not re-encode to themselves: no duplicate keys, no spaces, no second order.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any, Final, TypeVar

import msgspec

from enjin.errors import Invalid
from enjin.names import Text

T = TypeVar("T")


def to_plain(value: Any) -> Any:
    """Return *value* as JSON knows it: ids and names are text. Raises: TypeError."""
    if isinstance(value, Text):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no place in a message")


def _from_plain(shape: type, value: Any) -> Any:
    if isinstance(shape, type) and issubclass(shape, Text):
        return shape.parse(value)
    raise TypeError(f"{shape} has no place in a message")


_ENCODER: Final = msgspec.json.Encoder(order="sorted", enc_hook=to_plain)


class NotCanonical(Invalid):
    """Bytes are not the one spelling of a message."""

    code = "E-MSG-001"


class Malformed(Invalid):
    """A message does not have its kind's fields."""

    code = "E-MSG-002"


def canonical(value: object) -> bytes:
    """Return the one spelling of *value*: JSON with sorted keys, defaults omitted, no spaces."""
    return _ENCODER.encode(value)


def parse(data: bytes | msgspec.Raw, shape: type[T]) -> T:
    """Return *data* as *shape*.

    Raises:
        Malformed: Not JSON, a field missing, unknown or of the wrong type.
        NotCanonical: Valid, but not the one spelling.
        BadName, BadId: A field of one of the types in ``enjin.names`` is not of its form.
    """
    try:
        value = msgspec.json.decode(data, type=shape, dec_hook=_from_plain)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise Malformed(f"not a valid {shape.__name__}: {error}") from error
    if canonical(value) != bytes(data):
        raise NotCanonical(f"this {shape.__name__} is not in canonical form")
    return value


def to_text(data: bytes) -> str:
    """Return *data* as base64url without padding, for places that hold text."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def from_text(text: str) -> bytes:
    """Return the bytes of *text*.

    Raises:
        Malformed: Not base64url without padding, or a second spelling of it.
    """
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise Malformed("not base64url text") from error
    if to_text(data) != text:
        raise Malformed("not base64url text in its one spelling")
    return data
