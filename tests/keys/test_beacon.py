"""What a receiver makes of the ring above's beacons: what may never fall, what is too old, and who commands meanwhile."""

from __future__ import annotations

import hashlib
import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keys.beacon import FRESH_US, Beacon, Head, HeadFell, HeadForked, NotNow, ParentWatch, Signer, Standing, head_of, may_command
from tests.keys.test_trust import NOW

DAY = 86_400_000_000
SECOND = 1_000_000


def entry(number: int) -> str:
    return hashlib.sha256(f"entry {number}".encode()).hexdigest()


def head(version: int, revocations: int = 0, epoch: int = 1) -> Head:
    return head_of(epoch, version, [entry(version)], [entry(number) for number in range(revocations)])


def beacon(second: int, version: int = 1, revocations: int = 0, number: int = 10) -> Beacon:
    return Beacon(
        time=NOW + second * SECOND, head=head(version, revocations), revocations=revocations, number=number, journal=entry(number)
    )


@pytest.fixture
def watch() -> ParentWatch:
    """A receiver that follows head 5 with two revocations and has just heard so."""
    made = ParentWatch(NOW - DAY // 2, DAY)
    made.hold(head(5, 2), 2)
    made.hear(beacon(0, 5, 2))
    return made


def test_a_later_beacon_is_heard(watch: ParentWatch) -> None:
    """The valid twin: the same again, then a newer head with more revocations, which is fetched."""
    watch.hear(beacon(1, 5, 2))
    watch.hear(beacon(2, 6, 3, number=11))
    assert watch.standing(NOW + 2 * SECOND) is Standing.BEHIND
    watch.hold(head(6, 3), 3)
    assert (watch.standing(NOW + 2 * SECOND), watch.alarm) == (Standing.FRESH, "")


FALLEN = {
    "an older head": beacon(1, 4, 2),
    "an older epoch": msgspec.structs.replace(beacon(1, 6, 2), head=head(6, 2, epoch=0)),
    "fewer revocations": msgspec.structs.replace(beacon(1, 5, 2), revocations=1),
    "a shorter journal": beacon(1, 5, 2, number=9),
}
FORKED = {
    "the same head with another set": msgspec.structs.replace(beacon(1, 5, 2), head=msgspec.structs.replace(head(5, 2), hash=entry(77))),
    "the same entry with another hash": msgspec.structs.replace(beacon(1, 5, 2), journal=entry(77)),
}


@pytest.mark.parametrize("what", [*FALLEN, *FORKED])
def test_n25_what_fell_or_forked_is_refused_and_alarmed(watch: ParentWatch, what: str) -> None:
    """It is not heard, so the last true beacon goes on ageing; the alarm stays."""
    with pytest.raises(HeadFell if what in FALLEN else HeadForked):
        watch.hear(FALLEN.get(what) or FORKED[what])
    assert watch.alarm
    assert watch.heard == NOW
    watch.hear(beacon(2, 5, 2))
    assert watch.heard == NOW + 2 * SECOND


def test_n25_an_older_beacon_after_a_newer_one_is_refused(watch: ParentWatch) -> None:
    """Late or replayed: it changes nothing. It is no alarm, since a network may reorder."""
    watch.hear(beacon(8, 6, 2, number=11))
    for late in (beacon(8, 6, 2, number=11), beacon(7, 5, 2)):
        with pytest.raises(HeadFell):
            watch.hear(late)
    assert (watch.heard, watch.alarm) == (NOW + 8 * SECOND, "")


def test_n26_a_set_that_never_existed_together_is_not_followed(watch: ParentWatch) -> None:
    """The beacon names head 6; grants of one statement with the revocations of another are not it, the true set is."""
    watch.hear(beacon(1, 6, 3, number=11))
    mixed = head_of(1, 6, [entry(6)], [entry(0), entry(2), entry(1)])
    with pytest.raises(HeadForked):
        watch.hold(mixed, 3)
    with pytest.raises(HeadFell):
        watch.hold(head(4, 2), 2)
    assert watch.standing(NOW + SECOND) is Standing.BEHIND
    watch.hold(head(6, 3), 3)
    assert watch.standing(NOW + SECOND) is Standing.FRESH


@given(st.permutations(range(5)), st.permutations(range(5)))
def test_the_hash_is_of_a_set_of_grants_and_an_order_of_revocations(grants: list[int], revoked: list[int]) -> None:
    """Grants in any order are one set; revocations are numbered, so another order is another head."""
    plain = head_of(1, 1, map(entry, range(5)), map(entry, range(5)))
    found = head_of(1, 1, map(entry, grants), map(entry, revoked))
    assert (found == plain) == (revoked == sorted(revoked))
    assert head_of(1, 1, map(entry, range(4)), map(entry, range(5))) != plain


@pytest.mark.parametrize(
    ("second", "standing"),
    [(0, Standing.FRESH), (10, Standing.FRESH), (11, Standing.STALE), (86_400, Standing.STALE), (86_401, Standing.ALONE)],
)
def test_n27_standing_by_the_age_of_the_beacon(watch: ParentWatch, second: int, standing: Standing) -> None:
    """Ten seconds for what crosses domains, the grant's autonomy for what does not; then the ring above alone."""
    now = NOW + second * SECOND
    assert watch.standing(now) is standing
    watch.check(Signer.PARENT, now)
    watch.check(Signer.SELF, now)
    if standing is not Standing.FRESH:
        with pytest.raises(NotNow):
            watch.check(Signer.PEER, now)


def test_a_receiver_that_has_heard_nothing_yet_takes_nothing_from_peers() -> None:
    """Starting again does not make old news fresh."""
    made = ParentWatch(NOW, DAY)
    assert made.standing(NOW) is Standing.STALE
    assert ParentWatch(NOW - DAY - 1, DAY).standing(NOW) is Standing.ALONE


def test_n29_a_gap_in_the_numbers_stops_everybody_but_the_ring_above(watch: ParentWatch) -> None:
    """The beacon says 3, two are held: until the third was fetched, nobody else commands; the valid twin is what comes after."""
    watch.hear(beacon(1, 5, 2))
    watch.hear(msgspec.structs.replace(beacon(2, 5, 2), revocations=3))
    for signer in Signer:
        assert may_command(watch.standing(NOW + 2 * SECOND), signer) == (signer in (Signer.PARENT, Signer.SELF))
    watch.fetched(3)
    assert all(may_command(watch.standing(NOW + 2 * SECOND), signer) for signer in Signer)


def test_the_table_is_total_and_falls() -> None:
    """Every standing answers for every signer, and each worse one allows no more than the one before it."""
    allowed = [frozenset(signer for signer in Signer if may_command(standing, signer)) for standing in Standing]
    assert allowed[0] == frozenset(Signer)
    assert all(later < earlier for earlier, later in itertools.pairwise(allowed))
    assert all({Signer.PARENT, Signer.SELF} <= one for one in allowed)


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Beacon], list[int]]:
    """An honest ring above's beacons, and the order in which a bad network delivers some of them."""
    said: list[Beacon] = []
    version = revocations = number = 1
    for second in range(draw(st.integers(1, 12))):
        version += draw(st.integers(0, 1))
        revocations += draw(st.integers(0, 2))
        number += draw(st.integers(0, 3))
        said.append(beacon(second, version, 0, number))
        said[-1] = msgspec.structs.replace(said[-1], revocations=revocations)
    return said, draw(st.lists(st.integers(0, len(said) - 1), min_size=1, max_size=20))


@given(histories(), st.integers(0, 3))
def test_whatever_an_honest_ring_says_raises_no_alarm(history: tuple[list[Beacon], list[int]], held: int) -> None:
    """Lost, repeated, reordered: no alarm; what was heard last is the newest that came, and a gap is a gap exactly when one is there."""
    said, order = history
    watch = ParentWatch(NOW - 1, DAY)
    watch.fetched(held)
    for index in order:
        try:
            watch.hear(said[index])
        except HeadFell:
            assert watch.beacon is not None
            assert said[index].time <= watch.beacon.time
    newest = said[max(order)]
    assert (watch.beacon, watch.alarm) == (newest, "")
    expected = Standing.BEHIND if newest.revocations > held else Standing.FRESH
    assert watch.standing(newest.time + FRESH_US) is expected


@given(histories(), st.data())
def test_a_changed_history_is_alarmed_or_hides_nothing(history: tuple[list[Beacon], list[int]], data: st.DataObject) -> None:
    """Whoever replays a past under a later time is seen, unless it shows exactly what stands now."""
    said, _ = history
    watch = ParentWatch(NOW - 1, DAY)
    for one in said:
        watch.hear(one)
    past = data.draw(st.sampled_from(said))
    replayed = msgspec.structs.replace(past, time=said[-1].time + 1)
    same = msgspec.structs.replace(past, time=said[-1].time) == said[-1]
    if same:
        watch.hear(replayed)
    else:
        with pytest.raises(HeadFell):
            watch.hear(replayed)
    assert bool(watch.alarm) != same
