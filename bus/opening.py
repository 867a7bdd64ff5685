"""From received bytes to a verified statement: the stages from size to grant, then freshness and replay.

Owns their order and nothing of what a message means. Verifies first, then parses the very bytes that were verified;
what the transport says about channel and subject must agree with them and carries no authority of its own. There is no
other way in and no switch that leaves a stage out.

INV-OPN-1: no field of a frame is acted upon before its signature was verified, except to refuse it.
INV-OPN-2: the grant is checked for every message, never per connection.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from typing import Final, NamedTuple

from bus.envelope import BULK_MAX, FRAME_MAX, MESSAGE, BadFrame, Frame, Statement, open_frame, read_statement
from bus.groups import is_group
from bus.rate import Buckets
from bus.replay import ReplayGuard, check_fresh
from bus.stages import (
    NoGrant,
    NotAFrame,
    NotStrict,
    StrangeKey,
    TooBig,
    TooFast,
    WrongAudience,
    WrongChannel,
    WrongCloud,
    WrongKind,
    WrongSignature,
    WrongSubject,
)
from enjin.errors import Invalid, Refused
from enjin.host import clock as host_clock
from enjin.names import BadId, RequestId, Subject
from keys.grants import speaks_on
from keys.signing import BadSignature, verify
from keys.term import OUTSIDE
from keys.trust import Authority, TrustSet, UnknownKey

CONNECTION_PER_SECOND, CONNECTION_BURST = 10_000, 20_000
SIGNER_PER_SECOND, SIGNER_BURST = 2_000, 4_000
REASON_MAX_CHARACTERS: Final = 500
_BOOT: Final = re.compile(r"([0-9a-f]{32})?")


class Opened(NamedTuple):
    """A verified message: its frame taken apart, what was signed, and what its signer may do now."""

    data: bytes
    frame: Frame
    statement: Statement
    authority: Authority

    @property
    def word(self) -> str:
        """First word of the subject: ``command``, ``query``, ``seen``, ``reply``."""
        return self.statement.kind.partition(".")[0]

    @property
    def kind(self) -> str:
        """The subject without its first word: ``app.push``."""
        return self.statement.kind.partition(".")[2]


class Opening:
    """One receiver's stages.

    Args:
        trust: What the receiver believes; asked anew for every message.
        channel: The channel that it listens on.
        audiences: Subject ids and domains that it answers to.
        words: First words of the subjects that it takes.
        groups: Whether what is for a group is opened too; whether the receiver is in it is then the caller's question.
        home: The domain in which the receiver stands (``keys.term``): its own, or one that it asks; the ring above stands outside.
        clock: Its cloud time in microseconds.
        guard: Its memory of what was seen.
    """

    def __init__(
        self,
        *,
        trust: TrustSet,
        channel: str,
        audiences: AbstractSet[str],
        words: frozenset[str],
        clock: Callable[[], int],
        guard: ReplayGuard,
        groups: bool = False,
        home: str = OUTSIDE,
    ) -> None:
        self.trust = trust
        self.home = home
        self.channel = channel
        self._audiences = audiences
        self._words = words
        self._groups = groups
        self._clock = clock
        self._guard = guard
        self._connections = Buckets(CONNECTION_PER_SECOND, CONNECTION_BURST)
        self._signers = Buckets(SIGNER_PER_SECOND, SIGNER_BURST)

    def begin(self) -> None:
        """Start anew with the time that it is now."""
        self._guard.begin(self._clock())

    def verify(self, data: bytes, *, channel: str, subject: str = "", connection: str = "bus") -> Opened:
        """Take one frame through the stages from size to grant.

        Args:
            data: The frame, exactly as received.
            channel: The channel it arrived on.
            subject: The subject it arrived under; empty where the door has none to compare with.
            connection: Whose share of the rate it costs before anything else is known.

        Raises:
            StageRefused: The class of the first stage that it does not pass.
        """
        limit = BULK_MAX if subject.startswith("reply.") else FRAME_MAX
        if len(data) > limit:
            raise TooBig(f"a frame of {len(data)} bytes passes {limit}")
        now_us = host_clock().boot_us
        if not self._connections.take(connection, now_us):
            raise TooFast("this connection sends more than its share")
        frame = self._open(data, limit)
        if frame.type != MESSAGE or (subject and subject.partition(".")[0] not in self._words):
            raise WrongKind("this kind of frame is not taken here")
        known = self._find_key(frame)
        _verify(known, frame)
        statement = _read(frame)
        if not self._signers.take(str(frame.key_id), now_us):
            raise TooFast("this signer sends more than its share")
        self._check_binding(statement, channel, subject)
        return Opened(data, frame, statement, self._authorise(frame, statement))

    def reserve(self, opened: Opened, *, by_digest: bool = False) -> None:
        """Check that *opened* is of now and take it, once.

        A person's command is not remembered here: its request id guards it, in the journal. *by_digest* remembers even
        that, for what no journal decides.

        Raises:
            NotFresh, Replayed, BootFenced, WindowFull.
        """
        now, statement = self._clock(), opened.statement
        check_fresh(statement.kind, statement.time, statement.ttl_ms, now)
        if statement.boot:
            self._guard.reserve(statement.iss, statement.channel, statement.boot, statement.seq, statement.time, now)
        elif opened.word != "command" or by_digest:
            self._guard.reserve_digest(opened.frame.digest, statement.time, now)

    def _open(self, data: bytes, limit: int) -> Frame:
        try:
            frame = open_frame(data, limit)
        except BadFrame as error:
            raise NotAFrame(error.message) from error
        if len(frame.signatures) != 1:
            raise NotAFrame("a message has one signature")
        return frame

    def _find_key(self, frame: Frame) -> bytes:
        try:
            return self.trust.key(frame.key_id).public
        except UnknownKey as error:
            raise StrangeKey(error.message) from error

    def _check_binding(self, statement: Statement, channel: str, subject: str) -> None:
        if statement.cloud != self.trust.cloud:
            raise WrongCloud("the message is for another cloud")
        if statement.channel != self.channel or channel != self.channel:
            raise WrongChannel("the message is for another channel")
        if statement.aud not in self._audiences and not (self._groups and is_group(statement.aud)):
            raise WrongAudience("the message is for another receiver")
        if subject and statement.kind != subject:
            raise WrongSubject("the message came under another subject than it was signed for")
        if statement.kind.partition(".")[0] not in self._words:
            raise WrongKind("this kind of message is not taken here")

    def _authorise(self, frame: Frame, statement: Statement) -> Authority:
        try:
            authority = self.trust.authority(statement.grant, self._clock(), self.home)
        except Refused as error:
            raise NoGrant(error.message, hint=error.hint, cause=error.code) from error
        grant = authority.grant
        if grant.subject != statement.iss or authority.key != frame.key_id:
            raise NoGrant("the grant belongs to another signer")
        if not speaks_on(grant, statement.channel):
            raise NoGrant("the grant does not name this channel")
        return authority


def _verify(public: bytes, frame: Frame) -> None:
    try:
        verify(public, frame.type, frame.payload, frame.signature)
    except BadSignature as error:
        raise WrongSignature(error.message) from error


def _read(frame: Frame) -> Statement:
    """Parse the bytes that were verified, strictly."""
    try:
        statement = read_statement(frame)
        RequestId.parse(statement.rid)
        Subject.parse(statement.kind)
    except (Invalid, BadId) as error:
        raise NotStrict(error.message) from error
    if _BOOT.fullmatch(statement.boot) is None or (not statement.boot and statement.seq):
        raise NotStrict("a boot id has 32 hex digits, and without one there is no sequence")
    if len(statement.reason) > REASON_MAX_CHARACTERS:
        raise NotStrict(f"a reason has at most {REASON_MAX_CHARACTERS} characters")
    return statement
