"""The one spelling of a value: canonical JSON, and the strict parser that accepts nothing else.

INV-CAN-1: ``parse`` refuses bytes that do not re-encode to themselves: no duplicate keys, no spaces, no second order.
"""

from __future__ import annotations

import base64
import binascii
import functools
import typing
from typing import Any, Final, NamedTuple, TypeVar

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
    _settle(value)
    return _ENCODER.encode(value)


class _Fields(NamedTuple):
    """Of one Struct: the fields whose default has equals that are not it, and those that may hold Structs."""

    defaults: tuple[tuple[str, Any], ...]
    nested: tuple[str, ...]


@functools.cache
def _fields(shape: type[msgspec.Struct]) -> _Fields:
    defaults, nested = [], []
    for field in msgspec.structs.fields(shape):
        if field.default is not msgspec.NODEFAULT and field.default not in ("", None, True, False, ()):
            defaults.append((field.name, field.default))
        if _may_hold_structs(field.type):
            nested.append(field.name)
    return _Fields(tuple(defaults), tuple(nested))


def _may_hold_structs(hint: Any) -> bool:
    if parts := typing.get_args(hint):
        return typing.get_origin(hint) is not typing.Literal and any(_may_hold_structs(part) for part in parts)
    return not (isinstance(hint, type) and issubclass(hint, (str, int, bytes, msgspec.Raw, type(None))))


def _settle(value: Any) -> None:
    """Put a field's default itself in the place of its equals.

    msgspec omits a field when it *is* its default, not when it equals it: ``"running"`` read from JSON is another object
    than the default and would be written out, a second spelling of the same value.
    """
    if isinstance(value, msgspec.Struct):
        fields = _fields(type(value))
        for name, default in fields.defaults:
            held = getattr(value, name)
            if held is not default and held == default and type(held) is type(default):
                msgspec.structs.force_setattr(value, name, default)
        for name in fields.nested:
            _settle(getattr(value, name))
    elif isinstance(value, list | tuple):
        for item in value:
            _settle(item)
    elif isinstance(value, dict):
        for item in value.values():
            _settle(item)


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


def is_canonical(data: bytes | msgspec.Raw) -> bool:
    """Return whether *data* is JSON in its one spelling, whatever it means; whether defaults are left out only its shape can tell."""
    try:
        return _ENCODER.encode(msgspec.json.decode(data)) == bytes(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return False


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
