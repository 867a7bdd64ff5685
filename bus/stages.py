"""The stages between bytes and a handler, each with its one error: what was wrong, and at which stage it was seen.

Owns the error classes and their order (DESIGN 4, "Opening order"). ``bus.opening`` and ``bus.dispatch`` walk through
them, ``bus.replay`` raises its own. A refusal before ``PERMISSION`` never leaves this process as text: the peer is not
verified.

INV-STA-1: one error class, one counter and one log line per stage.
"""

from __future__ import annotations

from typing import ClassVar, Final

from enjin.errors import Refused


class StageRefused(Refused):
    """A message did not pass one of the stages between bytes and handler."""

    code = "E-BUS-000"
    stage: ClassVar[str] = ""
    verified = False  # whether the peer was verified before, so that it may hear why


class TooBig(StageRefused):
    """The frame has more bytes than its kind may have."""

    code, stage, http_status = "E-BUS-001", "size", 413


class TooFast(StageRefused):
    """The connection or the signer sends more than its share."""

    code, stage, http_status = "E-BUS-002", "rate", 429
    remedy = "wait a second and send it again"


class NotAFrame(StageRefused):
    """The bytes are not one signed frame."""

    code, stage, http_status = "E-BUS-003", "frame", 400


class WrongKind(StageRefused):
    """This kind of message is not taken here."""

    code, stage, http_status = "E-BUS-004", "kind", 404


class StrangeKey(StageRefused):
    """No grant here names the signer's key."""

    code, stage, http_status = "E-BUS-005", "key", 401


class WrongSignature(StageRefused):
    """The signature does not match the received bytes."""

    code, stage, http_status = "E-BUS-006", "signature", 401


class NotStrict(StageRefused):
    """The message is not in its one spelling, or lacks or adds a field."""

    code, stage, http_status = "E-BUS-007", "canonical", 400


class WrongCloud(StageRefused):
    """The message was signed for another cloud."""

    code, stage, http_status = "E-BUS-008", "cloud", 401


class WrongChannel(StageRefused):
    """The message was signed for another channel."""

    code, stage, http_status = "E-BUS-009", "channel", 401


class WrongAudience(StageRefused):
    """The message was signed for another receiver."""

    code, stage, http_status = "E-BUS-010", "audience", 401


class WrongSubject(StageRefused):
    """The message arrived under another subject than it was signed for."""

    code, stage, http_status = "E-BUS-011", "subject", 401


class NoGrant(StageRefused):
    """The signer's grant is not in force now, was revoked, or is not the signer's."""

    code, stage, http_status = "E-BUS-012", "grant", 401


class NotAllowed(StageRefused):
    """The signer may not do this to that."""

    code, stage, http_status = "E-BUS-013", "permission", 403
    remedy = "ask an operator for a grant, or use another key or token"


class NotFresh(StageRefused):
    """The message is too old, from the future, or asks to live too long."""

    code, stage, http_status = "E-BUS-014", "freshness", 401
    remedy = "compare the clocks of both machines, then send it again"


class Replayed(StageRefused):
    """The message, or one with its sequence number, was seen before."""

    code, stage, http_status = "E-BUS-015", "sequence", 409


class BootFenced(StageRefused):
    """The sender's start of its process was replaced by a later one."""

    code, stage, http_status = "E-BUS-016", "boot", 409


class WindowFull(StageRefused):
    """So many senders speak at once that no more can be guarded against repetition."""

    code, stage, http_status = "E-BUS-017", "window", 429


STAGES: Final[tuple[type[StageRefused], ...]] = (
    TooBig, TooFast, NotAFrame, WrongKind, StrangeKey, WrongSignature, NotStrict, WrongCloud, WrongChannel, WrongAudience,
    WrongSubject, NoGrant, NotAllowed, NotFresh, Replayed, BootFenced, WindowFull,
)  # fmt: skip
