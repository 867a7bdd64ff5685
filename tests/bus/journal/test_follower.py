"""Following and witnessing: what is copied, what is refused, and what is an alarm."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bus.journal import Checkpoint, Commit, Fetch, Follower, Head, Journal, Stretch, check_cosigned, cosign, read_stretch
from bus.journal.entry import Entry, entry_hash, sign_commit
from bus.journal.errors import BadCheckpoint, BadStretch, Forked, RolledBack, StaleEpoch
from bus.messages import canonical
from enjin.errors import EnjinError, code_of
from tests.bus.journal.conftest import Desk, keys_for
from tests.bus.journal.small_world import (
    CLOUD,
    DOMAIN,
    OTHER_CLOUD,
    OTHER_KEY,
    WITNESS_KEY,
    Add,
    CounterDropped,
    CounterSet,
    Drop,
    SmallWorld,
    identity,
)

ROOT = Path(__file__).resolve().parents[3]


class Copy:
    """A follower's file and how it is opened."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "copy.db"
        self.url = f"sqlite:///{self.path}"

    def open(self, **changed: Any) -> Follower:
        return Follower.open(self.url, **{"cloud": CLOUD, "domain": DOMAIN, "keys_for": keys_for} | changed)


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    """An empty copy."""
    return Copy(tmp_path)


@pytest.fixture
def follower(copy: Copy) -> Iterator[Follower]:
    """An open, empty copy."""
    found = copy.open()
    yield found
    found.close()


def stretches(desk: Desk, after: int = 0) -> list[Stretch]:
    """Return everything after *after*, commit by commit, as bytes that travelled."""

    async def work(journal: Journal) -> list[Stretch]:
        found, at = [], after
        while (stretch := journal._reader.stretch(at, entries_max=1)) is not None:
            found.append(read_stretch(canonical(stretch)))
            at = stretch.commit.number
        return found

    return desk.run(work, identity=identity(epoch=9))  # type: ignore[no-any-return]


def catch_up(desk: Desk, follower: Follower) -> None:
    """Copy what the writer has."""
    for stretch in stretches(desk, follower.head.number):
        assert follower.append(stretch) is None


def refusal(follower: Follower, stretch: Stretch) -> str:
    """Return the code with which *stretch* is refused, after checking that the copy stayed as it was."""
    before = follower.head, follower.epoch
    with pytest.raises(EnjinError) as caught:
        follower.append(stretch)
    assert (follower.head, follower.epoch) == before
    return code_of(caught.value)


def test_a_copy_is_the_journal(desk: Desk, copy: Copy, follower: Follower) -> None:
    """Entry by entry, also across restarts; repeats and overlaps change nothing; the copy verifies by itself."""
    desk.fill(12)
    catch_up(desk, follower)
    assert follower.append(stretches(desk)[2]) is None
    follower.close()
    desk.fill(9)
    again = copy.open()
    try:
        catch_up(desk, again)
        assert again.head == Head(21, desk.look("select hash from journal_head")[0][0])
    finally:
        again.close()
    found = Desk.verify(Desk(desk.path.parent))
    other = Desk(desk.path.parent)
    other.url, other.path = copy.url, copy.path
    assert (found.head, found.entries) == (other.verify().head, other.verify().entries) == (again.head.hash, 21)
    query = "select number, hash, time, asker, kind, data from journal_entries order by number"
    assert desk.look(query) == other.look(query)


def test_one_stretch_may_hold_many_commits(desk: Desk, follower: Follower) -> None:
    """A catch-up takes a bounded number of entries at once and one signature for all of them."""
    desk.fill(40)

    async def work(journal: Journal) -> Stretch | None:
        return journal.stretch(0)

    stretch = desk.run(work)
    assert len(stretch.entries) == 40
    assert follower.append(stretch) is None
    assert follower.head.number == 40


def test_a_gap_says_what_to_fetch(desk: Desk, follower: Follower) -> None:
    """What came out of order is not copied; the answer names what is missing, and the order is restored."""
    desk.fill(12)
    found = stretches(desk)
    assert follower.append(found[-1]) == Fetch(0, 12)
    assert follower.head.number == 0
    assert follower.hear(found[1].commit) == Fetch(0, found[1].commit.number)
    assert follower.compare(found[1].commit.head, 1) == Fetch(0, found[1].commit.number)
    catch_up(desk, follower)
    assert follower.hear(found[-1].commit) is None
    assert follower.compare(follower.head, 1, fresh=True) is None
    with pytest.raises(Forked):
        follower.compare(Head(12, "0" * 64), 1)
    assert follower.append(found[-1]) is None


def test_a_follower_has_no_path_to_the_writers_file(desk: Desk, copy: Copy) -> None:
    """In a process of another user, the writer's database unreadable and its address unknown, following works."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    desk.fill(8)
    offer = [canonical(stretch) for stretch in stretches(desk)]
    program = textwrap.dedent("""
        import os, sys, json
        sys.path.insert(0, os.getcwd())
        from bus.journal import Follower, read_stretch
        url, secret, cloud, domain, public = sys.argv[1:6]
        os.setgid(65534); os.setuid(65534)
        try:
            open(secret, "rb")
        except PermissionError:
            pass
        else:
            sys.exit("the writer's file is readable")
        follower = Follower.open(url, cloud=cloud, domain=domain, keys_for=lambda domain: [bytes.fromhex(public)])
        for line in sys.stdin:
            follower.append(read_stretch(line.encode()))
        print(*follower.head)
        follower.close()
    """)
    vault = desk.path.parent / "vault"
    vault.mkdir(mode=0o700)
    for suffix in ("", "-wal", "-shm", ".lock"):
        source = desk.path.with_name(desk.path.name + suffix)
        if source.exists():
            shutil.move(source, vault)
    public_folder = Path(os.path.realpath("/var/tmp")) / f"enj{os.urandom(3).hex()}"
    public_folder.mkdir(mode=0o777)
    try:
        public_folder.chmod(0o777)
        arguments = [f"sqlite:///{public_folder}/copy.db", str(vault / "journal.db"), CLOUD, DOMAIN, keys_for(DOMAIN)[0].hex()]
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments], cwd=ROOT, input=b"\n".join(offer) + b"\n", capture_output=True, timeout=30
        )
        assert done.returncode == 0, done.stderr.decode()
        assert done.stdout.split()[0] == b"8"
    finally:
        shutil.rmtree(public_folder)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_nothing_is_copied_that_no_commit_vouches_for(desk: Desk, follower: Follower, data: st.DataObject) -> None:
    """One bit anywhere in an entry or a commit that travels: refused, and the copy stays; its twin is taken at the end."""
    if not desk.path.exists():
        desk.fill(3)
    (stretch,) = stretches(desk)[:1] if follower.head.number == 0 else stretches(desk, follower.head.number)[:1]
    target = data.draw(st.sampled_from(["entry", "signature", "hash", "epoch", "number"]))
    commit, entries = stretch.commit, list(stretch.entries)
    if target == "entry":
        at = data.draw(st.integers(0, len(entries) - 1))
        raw = bytearray(entries[at])
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        entries[at] = bytes(raw)
    elif target == "signature":
        raw = bytearray(commit.signature)
        raw[data.draw(st.integers(0, 63))] ^= 1 << data.draw(st.integers(0, 7))
        commit = msgspec.structs.replace(commit, signature=bytes(raw))
    elif target == "hash":
        commit = msgspec.structs.replace(commit, hash=entry_hash(b"other"))
    else:
        commit = msgspec.structs.replace(commit, **{target: getattr(commit, target) + data.draw(st.integers(1, 3))})
    assert refusal(follower, Stretch(entries=entries, commit=commit)) == "E-JNL-015"


def test_bad_offers_are_refused(desk: Desk, follower: Follower) -> None:
    """Nothing, too much, a part, another order, rubbish: each refused without a trace; the true stretch is taken after them."""
    desk.fill(6)
    stretch = desk.run(_whole)
    entries = stretch.entries
    cut = ([], entries[:-1], entries[1:-1], entries[:2] + entries[3:])
    for bad in (*cut, entries[::-1], [*entries, entries[-1]], entries * 200, [b"{}"] * 6):
        assert refusal(follower, Stretch(entries=bad, commit=stretch.commit)) == "E-JNL-015"
    for rubbish in (b"", b"[]", b"{" * 100_000, b"\xff" * 10):
        with pytest.raises(BadStretch):
            read_stretch(rubbish)
    assert follower.append(stretch) is None


async def _whole(journal: Journal) -> Stretch | None:
    return journal.stretch(0)


def test_another_domains_commits_are_refused(desk: Desk, copy: Copy) -> None:
    """A commit belongs to its cloud and domain, whatever key signed it."""
    desk.fill(2)
    (stretch, *_rest) = stretches(desk)
    for changed in ({"cloud": OTHER_CLOUD}, {"domain": "ring1.other", "keys_for": lambda domain: keys_for(DOMAIN)}):
        folder = copy.path.parent / str(len(changed))
        folder.mkdir()
        other = Copy(folder).open(**changed)
        try:
            assert refusal(other, stretch) == "E-JNL-015"
        finally:
            other.close()


def resigned(stretch: Stretch, change: Any, **changed: Any) -> Stretch:
    """Return *stretch* as its owner could have signed it otherwise: each entry through *change*."""
    entries: list[bytes] = []
    for data in stretch.entries:
        entry = change(msgspec.json.decode(data, type=Entry))
        if entries:
            entry = msgspec.structs.replace(entry, previous=entry_hash(entries[-1]))
        entries.append(canonical(entry))
    commit = sign_commit(identity(**changed), Head(stretch.commit.number, entry_hash(entries[-1])))
    return Stretch(entries=entries, commit=commit)


def test_n34_two_signed_histories_are_a_fork(desk: Desk, follower: Follower) -> None:
    """The owner of the key signs something else at a number that was copied: an alarm, and the copy stays."""
    desk.fill(6)
    catch_up(desk, follower)
    stretch = desk.run(_whole)
    other = resigned(stretch, lambda entry: msgspec.structs.replace(entry, time=entry.time + 1))
    assert refusal(follower, other) == "E-JNL-013"
    assert isinstance(follower.alarm, Forked)
    with pytest.raises(Forked):
        follower.hear(other.commit)


def test_a_rewritten_past_shows_at_the_next_entry(desk: Desk, follower: Follower) -> None:
    """The writer rewrote what was copied and offers only what is new: it does not follow the copy."""
    desk.fill(6)
    catch_up(desk, follower)
    desk.fill(3)
    new = stretches(desk, 6)[0]
    other = resigned(new, lambda entry: msgspec.structs.replace(entry, previous="0" * 64) if entry.number == 7 else entry)
    assert refusal(follower, other) == "E-JNL-013"


def test_a_lower_epoch_is_refused(desk: Desk, follower: Follower) -> None:
    """A decider that was superseded cannot go on, neither after the new one's entries nor in their place."""
    desk.fill(3, identity=identity(epoch=1))
    old = desk.path.with_name("old.db")
    shutil.copy(desk.path, old)
    desk.fill(2, identity=identity(epoch=2))
    catch_up(desk, follower)
    assert (follower.head.number, follower.epoch) == (5, 2)
    shutil.copy(old, desk.path)
    desk.fill(5, identity=identity(epoch=1))
    late = stretches(desk, 3)
    for stretch in late:
        with pytest.raises(StaleEpoch):
            follower.append(stretch)
    with pytest.raises(StaleEpoch):
        follower.hear(late[-1].commit)
    assert (follower.head.number, follower.alarm) == (5, None)


@pytest.mark.parametrize("change", [{"time": 1}, {"epoch": 7}, {"number": 9}])
def test_signed_entries_that_break_the_rules_are_refused(desk: Desk, follower: Follower, change: dict[str, int]) -> None:
    """The signature is right, the content is not: time that falls, a commit of another epoch, a wrong number."""
    desk.fill(4)
    catch_up(desk, follower)
    desk.fill(2)
    stretch = stretches(desk, 4)[0]
    bad = resigned(stretch, lambda entry: msgspec.structs.replace(entry, **change))
    assert refusal(follower, bad) == "E-JNL-015"


def test_n35_rollback_is_seen(desk: Desk, follower: Follower) -> None:
    """An old copy put back under the writer: a fresh beacon shows less than was copied."""
    desk.fill(4)
    old = desk.path.with_name("old.db")
    shutil.copy(desk.path, old)
    desk.fill(4)
    catch_up(desk, follower)
    shutil.copy(old, desk.path)
    commit: Commit = stretches(desk)[-1].commit
    assert follower.hear(commit) is None
    with pytest.raises(RolledBack):
        follower.hear(commit, fresh=True)
    assert isinstance(follower.alarm, RolledBack)
    with pytest.raises(RolledBack):
        follower.compare(Head(0, ""), 1, fresh=True)
    desk.fill(4)
    assert refusal(follower, stretches(desk, 4)[0]) == "E-JNL-013"


def test_a_witness_signs_only_what_it_holds(desk: Desk, follower: Follower) -> None:
    """The cosignature comes back to the writer, which shows up to where it is witnessed; a false one is refused or an alarm."""
    desk.fill(5)
    catch_up(desk, follower)

    async def work(journal: Journal) -> None:
        assert journal.witnessed() == {}
        checkpoint = journal.checkpoint()
        cosigned = follower.witness(checkpoint, WITNESS_KEY)
        assert check_cosigned(cosigned, [OTHER_KEY.public, WITNESS_KEY.public]) == checkpoint == follower.checkpoint()
        await journal.keep(cosigned, [WITNESS_KEY.public])
        await journal.keep(cosigned, [WITNESS_KEY.public])
        assert journal.witnessed() == {WITNESS_KEY.key_id: journal.head}
        await desk.ask(Add(name="a")).of(journal)
        for number, digest, error in ((6, journal.head.hash, BadCheckpoint), (5, "0" * 64, Forked), (0, "0" * 64, BadCheckpoint)):
            with pytest.raises(error):
                follower.witness(msgspec.structs.replace(checkpoint, number=number, hash=digest), WITNESS_KEY)
        with pytest.raises(BadCheckpoint):
            follower.witness(msgspec.structs.replace(checkpoint, domain="ring1.other"), WITNESS_KEY)
        with pytest.raises(BadCheckpoint):
            await journal.keep(cosigned, [OTHER_KEY.public])
        with pytest.raises(EnjinError):
            await journal.keep(msgspec.structs.replace(cosigned, checkpoint=journal.checkpoint()), [WITNESS_KEY.public])
        beyond = Checkpoint(cloud=CLOUD, domain=DOMAIN, epoch=1, number=9, hash="0" * 64)
        with pytest.raises(RolledBack):
            await journal.keep(cosign(beyond, WITNESS_KEY), [WITNESS_KEY.public])
        other = msgspec.structs.replace(checkpoint, hash="0" * 64)
        with pytest.raises(Forked):
            await journal.keep(cosign(other, WITNESS_KEY), [WITNESS_KEY.public])

    desk.run(work)
    desk.run(_still_witnessed)


async def _still_witnessed(journal: Journal) -> None:
    assert journal.witnessed()[WITNESS_KEY.key_id].number == 5


def test_an_unknown_fact_stops_projecting_and_not_copying(desk: Desk, copy: Copy, follower: Follower) -> None:
    """World stands before the entry that holds it, and the follower says so; the copy goes on, also after a restart."""
    desk.fill(3)
    catch_up(desk, follower)
    follower.project(SmallWorld, [CounterSet])
    assert follower.stopped is None
    before = dict(follower.world.rows)

    async def work(journal: Journal) -> None:
        await desk.ask(Drop(name="c1")).of(journal)
        await desk.ask(Add(name="c9")).of(journal)

    desk.run(work)
    catch_up(desk, follower)
    assert follower.head.number == 5
    assert follower.stopped is not None
    assert follower.stopped.details == {"number": 4, "kind": "counter.dropped"}
    assert follower.world.rows == before
    follower.close()
    again = copy.open()
    try:
        again.project(SmallWorld, [CounterSet])
        assert (again.stopped.details["number"], again.world.rows) == (4, before)  # type: ignore[union-attr]
        again.project(SmallWorld, [CounterSet, CounterDropped])
        assert (again.stopped, "c1" in again.world.rows, again.world.rows["c9"]) == (None, False, 1)
    finally:
        again.close()


def test_a_copy_that_was_changed_by_hand_is_not_opened(desk: Desk, copy: Copy) -> None:
    """The head of the copy is what its last commit signs; another domain's file is refused."""
    desk.fill(3)
    follower = copy.open()
    catch_up(desk, follower)
    follower.close()
    with pytest.raises(EnjinError) as caught:
        copy.open(domain="ring1.other")
    assert code_of(caught.value) == "E-JNL-003"
    other = Desk(desk.path.parent)
    other.path = copy.path
    other.edit("update journal_head set number = 2")
    with pytest.raises(EnjinError) as caught:
        copy.open()
    assert code_of(caught.value) == "E-JNL-004"
