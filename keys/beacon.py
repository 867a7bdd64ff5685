"""The trust head and the beacon: what the ring above says each second, and how far a receiver may go by what it heard. Pure.

Owns the hash over the full set of grants and revocations, the order of heads, the age of a beacon, and the total table of
who may command while the ring above is silent or something of it is missing. Time is an argument; signatures were verified
by whoever calls. Fetching what is missing is the caller's matter.

INV-BCN-1: neither an older trust head, nor the same version with other content, nor a journal's head that fell is believed.
INV-BCN-2: a beacon's age counts from when it was signed, so one that is held back does not keep authority alive.
INV-BCN-3: while a revocation is known to exist that was not fetched, nobody but the ring above commands.

Source: THREATS B6 (TUF's snapshot and timestamp roles); DESIGN 8, "A stale beacon blocks only commands that cross domains".
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterable
from typing import Final

import msgspec

from enjin.canonical import canonical
from enjin.errors import Refused
from keys.trust import Authority, TrustSet

FRESH_US: Final = 10_000_000


class HeadFell(Refused):
    """The ring above shows less than it has shown before: an older trust head, fewer revocations, or a shorter journal."""

    code = "E-TRU-010"
    remedy = "somebody replays old beacons, or the ring above was restored from a copy: compare `enjin audit verify`"


class HeadForked(Refused):
    """The ring above shows two different contents under one number."""

    code = "E-TRU-011"
    remedy = "two copies of the ring above run, or somebody mixes what it signed: compare `enjin audit verify`"


class NotNow(Refused):
    """The command waits for news from the ring above."""

    code = "E-TRU-012"
    http_status = 503
    remedy = "`enjin status` says what is missing; what runs goes on"


class Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The trust head: *version* of *epoch*, and the hash over the full set of grants and revocations that it names."""

    epoch: int
    version: int
    hash: str

    @property
    def order(self) -> tuple[int, int]:
        """What rises and never falls."""
        return self.epoch, self.version


class Beacon(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the ring above says each second.

    ``time`` is cloud time in microseconds when it was signed, ``revocations`` the number of the newest revocation (they count
    from 1 without a gap), ``number`` and ``journal`` where its journal stands: the last entry's number and hash.
    """

    time: int
    head: Head
    revocations: int
    number: int
    journal: str


def head_of(epoch: int, version: int, grants: Iterable[str], revoked: Iterable[str]) -> Head:
    """Return the head over the set of *grants* (hashes, in any order) and *revoked* (key ids and grant hashes, first revoked first)."""
    data = canonical({"grants": sorted(grants), "revoked": list(revoked)})
    return Head(epoch=epoch, version=version, hash=hashlib.sha256(data).hexdigest())


class Standing(enum.Enum):
    """What a receiver knows of the ring above."""

    FRESH = "fresh"
    STALE = "stale"  # no beacon signed within ten seconds
    ALONE = "alone"  # none for as long as the own grant allows to go on
    BEHIND = "behind"  # a revocation exists that was not fetched


class Signer(enum.Enum):
    """Who commands, as a receiver sees it."""

    PARENT = "the ring above"
    SELF = "this daemon"
    BELOW = "what this daemon runs"
    PERSON = "a person"
    PEER = "another domain's daemon"


# Who may command in which standing; every pair of them is here or is refused.
_ALLOWED: Final = {
    Standing.FRESH: frozenset(Signer),
    Standing.STALE: frozenset(Signer) - {Signer.PEER},
    Standing.ALONE: frozenset({Signer.PARENT, Signer.SELF, Signer.BELOW}),
    Standing.BEHIND: frozenset({Signer.PARENT, Signer.SELF}),
}
_WHY: Final = {
    Standing.FRESH: "",
    Standing.STALE: "no beacon of the ring above within ten seconds: other domains' commands wait",
    Standing.ALONE: "the ring above has been silent for longer than this domain may go on alone: commands wait",
    Standing.BEHIND: "a revocation of the ring above is missing here: commands wait until it was fetched",
}


def may_command(standing: Standing, signer: Signer) -> bool:
    """Whether *signer* may command in *standing*."""
    return signer in _ALLOWED[standing]


def why(standing: Standing) -> str:
    """Return what has to be said of *standing*; empty when all is well."""
    return _WHY[standing]


def signer_of(trust: TrustSet, own: str, authority: Authority, *, behalf: bool = False) -> Signer:
    """Return who *authority* is for the daemon whose grant has hash *own*; a door that speaks for an account speaks for a person.

    Raises:
        UnknownKey: There is no grant *own*.
    """
    ours = trust.lineage(own)
    theirs = [trust.grant(step) for step in authority.chain]
    subject = authority.grant.subject
    if subject == ours[0].subject:
        return Signer.PERSON if behalf else Signer.SELF
    above = {grant.subject for grant in ours[1:]}
    if subject in above:
        return Signer.PARENT
    if any(grant.subject == ours[0].subject for grant in theirs):
        return Signer.BELOW
    if any(grant.subject not in above for grant in theirs[1:]) or authority.grant.keys.journal or authority.grant.keys.issue:
        return Signer.PEER
    return Signer.PERSON


class ParentWatch:
    """What one receiver has heard of the ring above, and what it holds of that.

    Args:
        heard: When the last beacon was signed that is known of: of an earlier start, or when the own grant began.
        autonomy_us: How long it may go on without one, from its own grant.
    """

    def __init__(self, heard: int, autonomy_us: int) -> None:
        self.heard = heard
        self.autonomy_us = autonomy_us
        self.alarm = ""
        self.beacon: Beacon | None = None
        self.head: Head | None = None  # the highest that was shown
        self.held: Head | None = None  # what this domain follows
        self.revocations_held = 0

    def hear(self, beacon: Beacon) -> None:
        """Take a verified beacon. One that is refused does not count as heard.

        Raises:
            HeadFell, HeadForked: What it shows contradicts what was shown before: an alarm.
            HeadFell: It was signed before the last one: late, or replayed.
        """
        if self.beacon is not None and beacon.time <= self.beacon.time:
            raise HeadFell("a beacon came after a later one")
        try:
            self._check_head(beacon.head)
            self._check_rest(beacon)
        except (HeadFell, HeadForked) as error:
            self.alarm = error.message
            raise
        self.beacon, self.head = beacon, beacon.head
        self.heard = beacon.time

    def check_holding(self, head: Head) -> None:
        """Check that the set behind *head*, signed by the ring above, may be followed. Raises: HeadFell, HeadForked."""
        if self.held is not None and head.order < self.held.order:
            raise HeadFell(f"trust head {head.version} is older than {self.held.version}, which is followed")
        for known in (self.held, self.head):
            if known is not None and head.order == known.order and head.hash != known.hash:
                self.alarm = f"trust head {head.version} has two contents"
                raise HeadForked(self.alarm)

    def hold(self, head: Head, revocations: int) -> None:
        """Follow *head*, whose set holds *revocations* revocations. Raises: HeadFell, HeadForked."""
        self.check_holding(head)
        self.held = head
        self.fetched(revocations)

    def fetch(self, number: int) -> None:
        """Note that revocation *number* is held; it counts once all before it are."""
        if number == self.revocations_held + 1:
            self.revocations_held = number

    def fetched(self, revocations: int) -> None:
        """Note that every revocation up to number *revocations* is held."""
        self.revocations_held = max(self.revocations_held, revocations)

    def standing(self, now: int) -> Standing:
        """Return what is known of the ring above at *now*, microseconds of cloud time."""
        if self.beacon is not None and self.beacon.revocations > self.revocations_held:
            return Standing.BEHIND
        age = now - self.heard
        if self.beacon is not None and age <= FRESH_US:
            return Standing.FRESH
        return Standing.STALE if age <= max(self.autonomy_us, FRESH_US) else Standing.ALONE

    def check(self, signer: Signer, now: int) -> None:
        """Check that *signer* may command at *now*. Raises: NotNow."""
        standing = self.standing(now)
        if not may_command(standing, signer):
            raise NotNow(why(standing))

    def _check_head(self, head: Head) -> None:
        for known in (self.held, self.head):
            if known is None:
                continue
            if head.order < known.order:
                raise HeadFell(f"the ring above shows trust head {head.version} after {known.version}")
            if head.order == known.order and head.hash != known.hash:
                raise HeadForked(f"the ring above shows two contents of trust head {head.version}")

    def _check_rest(self, beacon: Beacon) -> None:
        last = self.beacon
        if last is None:
            return
        if beacon.revocations < last.revocations or beacon.number < last.number:
            raise HeadFell(f"the ring above shows entry {beacon.number} and {beacon.revocations} revocations after more of either")
        if beacon.number == last.number and beacon.journal != last.journal:
            raise HeadForked(f"the ring above shows two entries {beacon.number}")
