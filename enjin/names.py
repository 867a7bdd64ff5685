"""Names and ids: parsed once at the edge, or refused.

Owns the distinct types of labels and identifiers. A value of one of these types has been checked; code inside never
checks again. Names are labels, keys are identity, and an id is never used again.
"""

from __future__ import annotations

import re
from typing import ClassVar, Final, Self

from enjin.errors import Invalid

Generation = int
Ring = int

NAME_PATTERN: Final = r"[a-z][a-z0-9-]{0,30}[a-z0-9]"


class BadName(Invalid):
    """A name is not of the allowed form."""

    code = "E-NAM-001"
    remedy = "use 2 to 32 of a-z, 0-9 and -, starting with a letter, not ending with -"


class BadId(Invalid):
    """An identifier is not of its form."""

    code = "E-NAM-002"


class Text(str):
    """A string that matches one pattern in full; base of every type here."""

    __slots__ = ()
    PATTERN: ClassVar[re.Pattern[str]]
    WHAT: ClassVar[str]
    ERROR: ClassVar[type[Invalid]] = BadId

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return *text* as this type.

        Raises:
            BadName, BadId: *text* does not match in full.
        """
        if not isinstance(text, str) or cls.PATTERN.fullmatch(text) is None:
            raise cls.ERROR(f"{cls.WHAT} {shorten(text)!r} is not of the form {cls.PATTERN.pattern}")
        return cls(text)


class Name(Text):
    """A label of an app, compartment, tier, network or process."""

    PATTERN = re.compile(NAME_PATTERN)
    WHAT = "name"
    ERROR = BadName


class NodeId(Text):
    """A node's identity: its kind's letter and 16 hex digits derived from the request that made it."""

    PATTERN = re.compile(r"[a-z]{1,8}-[0-9a-f]{16}")
    WHAT = "node id"


class CloudId(Text):
    """SHA-256 of the genesis root statement, 64 hex digits."""

    PATTERN = re.compile(r"[0-9a-f]{64}")
    WHAT = "cloud id"

    @property
    def tag(self) -> str:
        """Six hex digits from which every name on a host derives."""
        return self[:6]


class KeyId(Text):
    """BLAKE2b-256 of a public key, 64 hex digits."""

    PATTERN = re.compile(r"[0-9a-f]{64}")
    WHAT = "key id"


class RequestId(Text):
    """A UUIDv7 in its canonical text form: also the idempotency key."""

    PATTERN = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
    WHAT = "request id"

    @property
    def time_ms(self) -> int:
        """Milliseconds since 1970 that the id carries."""
        return int(self[:8] + self[9:13], 16)


class Digest(Text):
    """A SHA-256 in hex."""

    PATTERN = re.compile(r"[0-9a-f]{64}")
    WHAT = "digest"


class Subject(Text):
    """A transport subject: words of a-z, 0-9, - and _ separated by dots, at most 128 bytes."""

    PATTERN = re.compile(r"(?=.{1,128}\Z)[a-z0-9_-]+(\.[a-z0-9_-]+)*")
    WHAT = "subject"


def shorten(value: object, limit: int = 60) -> str:
    """Return *value* as text of at most *limit* characters, for messages about bad input."""
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
