"""Freshness and replay: whether a message is of now, and whether it was seen. Pure: the caller gives cloud time.

Owns the time window and, per (issuer, channel), the boot that speaks and a window over its sequence numbers. A
person's key has neither boot nor sequence: its commands are guarded by the request id (the journal's idempotency row),
its other messages by their digest, remembered for as long as they could still be fresh.

INV-REP-1: a message is accepted at most once per receiver start; what is older than the start is refused.
INV-REP-2: a boot begins only with a later time than the one before it has shown; a boot that was left never speaks again.
INV-REP-3: memory is bounded, and nothing is forgotten whose repetition would still be fresh: when it is full of such, it refuses.

Source: RFC 6479 (sequence windows); THREATS B3.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from bus.stages import BootFenced, NotFresh, Replayed, WindowFull

WINDOW: Final = 1024
SLACK_US: Final = 2_000_000
TTL_MAX_MS: Final = 300_000
TTL_CAPS_MS: Final = {"beacon": 10_000, "seen": 30_000, "entry": 30_000, "command": 60_000, "query": 60_000, "reply": 60_000}
ISSUERS_MAX: Final = 16_384
DIGESTS_MAX: Final = 65_536
FENCED_MAX: Final = 64
SEQUENCE_MAX: Final = (1 << 53) - 1


def check_fresh(subject: str, time: int, ttl_ms: int, now: int) -> None:
    """Check that a message is of now: ``now - ttl - 2 s <= time <= now + 2 s`` and its ttl is within its class's cap.

    Args:
        subject: Its first word is the class (``command.app.push``).
        time: When it was signed, microseconds of cloud time.
        ttl_ms: How long it says to live, 1 or more.
        now: The receiver's cloud time, microseconds.

    Raises:
        NotFresh: It is not.
    """
    cap = min(TTL_CAPS_MS.get(subject.partition(".")[0], TTL_MAX_MS), TTL_MAX_MS)
    if not 0 < ttl_ms <= cap:
        raise NotFresh(f"a time to live of {ttl_ms} ms is not within 1 to {cap}")
    if time > now + SLACK_US:
        raise NotFresh(f"the message was signed {(time - now) / 1e6:.1f} s in the future")
    if time < now - ttl_ms * 1000 - SLACK_US:
        raise NotFresh(f"the message was signed {(now - time) / 1e6:.1f} s ago and lived {ttl_ms / 1e3:g} s")


class _Speaker:
    """One issuer on one channel: its boot, the highest number, and a bit per number of the window below it."""

    __slots__ = ("bits", "boot", "fenced", "highest", "latest")

    def __init__(self, boot: str, highest: int, latest: int) -> None:
        self.boot = boot
        self.highest = highest
        self.bits = 1
        self.latest = latest
        self.fenced: OrderedDict[str, None] = OrderedDict()

    def take(self, seq: int) -> bool:
        """Mark *seq* as seen and return whether it was new and not below the window."""
        if seq > self.highest:
            self.bits = (self.bits << min(seq - self.highest, WINDOW) | 1) & ((1 << WINDOW) - 1)
            self.highest = seq
            return True
        bit = 1 << (self.highest - seq) if self.highest - seq < WINDOW else 0
        if not bit or self.bits & bit:
            return False
        self.bits |= bit
        return True

    def begin(self, boot: str, seq: int, time: int) -> None:
        """Leave the boot that spoke so far for *boot*."""
        self.fenced[self.boot] = None
        if len(self.fenced) > FENCED_MAX:
            self.fenced.popitem(last=False)
        self.boot, self.highest, self.bits, self.latest = boot, seq, 1, time


class ReplayGuard:
    """What one receiver has seen since *started* (microseconds of cloud time)."""

    def __init__(self, started: int, issuers_max: int = ISSUERS_MAX, digests_max: int = DIGESTS_MAX) -> None:
        self._started = started
        self._speakers: OrderedDict[tuple[str, str], _Speaker] = OrderedDict()
        self._digests: OrderedDict[str, int] = OrderedDict()
        self._issuers_max = issuers_max
        self._digests_max = digests_max

    def begin(self, started: int) -> None:
        """Take what was signed since *started*: the receiver has learnt what time it is before it took anything."""
        self._started = started

    def __len__(self) -> int:
        return len(self._speakers) + len(self._digests)

    def reserve(self, issuer: str, channel: str, boot: str, seq: int, time: int, now: int) -> None:
        """Take a daemon's message, once. It must have passed ``check_fresh``.

        Raises:
            NotFresh: It was signed before this receiver started.
            Replayed: Its number was seen in this boot, is below the window, or is no number.
            BootFenced: A later boot of its issuer has spoken, or this one is not later than that.
            WindowFull: No room for another issuer.
        """
        self._check_started(time)
        if not 0 < seq <= SEQUENCE_MAX or not boot:
            raise Replayed("the message has no sequence number of its boot")
        speaker = self._speakers.get((issuer, channel))
        if speaker is None:
            self._make_room(now)
            self._speakers[issuer, channel] = _Speaker(boot, seq, time)
            return
        if boot != speaker.boot:
            if boot in speaker.fenced or time <= speaker.latest:
                raise BootFenced("a later start of the sender has spoken already", hint="do two copies of one node run?")
            speaker.begin(boot, seq, time)
        elif not speaker.take(seq):
            raise Replayed("a message with this sequence number was seen, or is too far behind")
        speaker.latest = max(speaker.latest, time)
        self._speakers.move_to_end((issuer, channel))

    def reserve_digest(self, digest: str, time: int, now: int) -> None:
        """Take a person's message by its digest, once.

        Raises:
            NotFresh: It was signed before this receiver started.
            Replayed: It was seen.
            WindowFull: No room.
        """
        self._check_started(time)
        if digest in self._digests:
            raise Replayed("this very message was seen before")
        while self._digests and next(iter(self._digests.values())) < now - TTL_MAX_MS * 1000 - 2 * SLACK_US:
            self._digests.popitem(last=False)
        if len(self._digests) >= self._digests_max:
            raise WindowFull("too many messages at once")
        self._digests[digest] = now

    def _check_started(self, time: int) -> None:
        if time < self._started:
            raise NotFresh("the message was signed before its receiver started")

    def _make_room(self, now: int) -> None:
        """Forget the issuer heard longest ago, when whatever it sent is stale by now."""
        if len(self._speakers) < self._issuers_max:
            return
        (key, oldest) = next(iter(self._speakers.items()))
        if oldest.latest >= now - TTL_MAX_MS * 1000 - 2 * SLACK_US:
            raise WindowFull("too many senders at once")
        del self._speakers[key]
