"""The envelope: what stands inside the signature of every message, and its frame.

Owns ``Statement`` and the two directions bytes <-> envelope. The stages from bytes to handler are ``bus.dispatch``'s.
The frame itself is ``keys.frame``'s, because grants travel in it too.
"""

from __future__ import annotations

import msgspec

from enjin.canonical import canonical, parse
from keys.frame import BULK_MAX, FRAME_MAX, MESSAGE, BadFrame, Frame, open_frame, seal
from keys.signing import Signer

__all__ = [
    "BULK_MAX",
    "FRAME_MAX",
    "MESSAGE",
    "BadFrame",
    "Behalf",
    "Frame",
    "Statement",
    "open_frame",
    "read_statement",
    "seal",
    "seal_statement",
]


class Behalf(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """For whom a door signs: the account, by which token, through which door."""

    account: str
    token: str
    door: str


class Statement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One message, as signed.

    ``boot`` and ``seq`` are a daemon's (a boot id of 32 hex digits, and a number that strictly rises within it); a
    person's key has neither and is guarded by the request id. ``aud`` is a subject id or a domain. ``time`` is cloud
    time in microseconds. ``re`` is the hash of the request that a reply answers. ``body`` is the kind's own Struct.
    """

    v: int = 1
    cloud: str
    channel: str
    kind: str
    iss: str
    aud: str
    boot: str = ""
    seq: int = 0
    time: int
    ttl_ms: int
    grant: str
    rid: str
    re: str = ""
    reason: str = ""
    behalf: Behalf | None = None
    body: msgspec.Raw


def seal_statement(statement: Statement, signer: Signer) -> bytes:
    """Return the frame of *statement* signed by *signer*."""
    return seal(MESSAGE, canonical(statement), signer)


def read_statement(frame: Frame) -> Statement:
    """Return the statement in *frame*, whose signature the caller has verified.

    Raises:
        BadFrame: The frame is of another type or version.
        Malformed, NotCanonical.
    """
    if frame.type != MESSAGE:
        raise BadFrame("the frame does not hold a message")
    statement = parse(frame.payload, Statement)
    if statement.v != 1:
        raise BadFrame("the message is of another version")
    return statement
