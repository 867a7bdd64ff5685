"""Attacks on the file at rest: whatever is changed in it is found, and the lowest entry that does not hold is named."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bus.journal import Checkpoint, Entry, Journal, verify
from bus.journal.entry import entry_hash, genesis, sign_commit
from bus.journal.errors import NoSuchEntry
from bus.messages import canonical
from enjin.errors import EnjinError
from keys.signing import Signer
from tests.bus.journal.conftest import SIGNERS, Desk, elsewhere, keys_for, verifying
from tests.bus.journal.small_world import ASKER_KEY, CLOUD, DOMAIN, OTHER_KEY, Add, identity

COUNT = 20


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """A journal of 20 entries that no test changes."""
    desk = Desk(tmp_path_factory.mktemp("original"))
    desk.fill(COUNT)
    assert desk.verify().ok
    return desk


@pytest.fixture
def desk(original: Desk, tmp_path: Path) -> Desk:
    """A copy of the original, to be damaged."""
    shutil.copy(original.path, tmp_path / "journal.db")
    return Desk(tmp_path)


def refuses_to_open(desk: Desk) -> bool:
    """Tell whether the decider refuses the file."""
    try:
        journal = desk.open()
    except EnjinError:
        return True
    journal._reader.close()
    journal._store.close()
    return False


def test_an_intact_journal_holds(original: Desk) -> None:
    """Every entry, every commit and every cause is checked."""
    found = original.verify()
    assert (found.ok, found.entries, found.causes, found.first_bad) == (True, COUNT, COUNT, 0)
    assert found.head == original.look("select hash from journal_head")[0][0]


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_n33_any_changed_byte_of_an_entry_is_found_and_named(desk: Desk, data: st.DataObject) -> None:
    """One bit, in the bytes, the hash or a column of any entry: that entry is the first bad one."""
    number = data.draw(st.integers(1, COUNT))
    column = data.draw(st.sampled_from(["data", "data", "data", "hash", "time", "asker", "kind"]))
    (old,) = desk.look(f"select {column} from journal_entries where number = ?", number)[0]
    if isinstance(old, int):
        new: Any = old ^ 1 << data.draw(st.integers(0, 50))
    else:
        raw = bytearray(old if isinstance(old, bytes) else old.encode())
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 6))
        new = bytes(raw) if isinstance(old, bytes) else raw.decode()
    desk.edit(f"update journal_entries set {column} = ? where number = ?", new, number)
    try:
        found = desk.verify()
        assert (found.ok, found.first_bad) == (False, number), found
    finally:
        desk.edit(f"update journal_entries set {column} = ? where number = ?", old, number)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_changed_byte_of_a_commit_is_found_and_named(desk: Desk, data: st.DataObject) -> None:
    """One bit of a commit's hash, key, epoch or signature: the entry that it signs is named."""
    number = data.draw(st.sampled_from([row[0] for row in desk.look("select number from journal_commits")]))
    column = data.draw(st.sampled_from(["hash", "key_id", "epoch", "signature"]))
    (old,) = desk.look(f"select {column} from journal_commits where number = ?", number)[0]
    if isinstance(old, int):
        new: Any = old ^ 1 << data.draw(st.integers(0, 50))
    else:
        raw = bytearray(old if isinstance(old, bytes) else old.encode())
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 6))
        new = bytes(raw) if isinstance(old, bytes) else raw.decode()
    desk.edit(f"update journal_commits set {column} = ? where number = ?", new, number)
    try:
        found = desk.verify()
        assert (found.ok, found.first_bad) == (False, number), found
    finally:
        desk.edit(f"update journal_commits set {column} = ? where number = ?", old, number)


@pytest.mark.parametrize("number", [1, 7, COUNT - 1, COUNT])
def test_n33_a_dropped_entry_is_named(desk: Desk, number: int) -> None:
    """A row that was deleted is missing by its number."""
    desk.edit("delete from journal_entries where number = ?", number)
    assert (desk.verify().ok, desk.verify().first_bad) == (False, number)


@pytest.mark.parametrize(("low", "high"), [(1, 2), (4, 15), (18, 20)])
def test_n33_swapped_entries_are_named(desk: Desk, low: int, high: int) -> None:
    """Two rows that changed places, columns and all: the lower one is named."""
    desk.edit("update journal_entries set number = -1 where number = ?", low)
    desk.edit("update journal_entries set number = ? where number = ?", low, high)
    desk.edit("update journal_entries set number = ? where number = -1", high)
    assert (desk.verify().ok, desk.verify().first_bad) == (False, low)


@pytest.mark.parametrize("number", [1, 9])
def test_a_repeated_entry_is_named(desk: Desk, number: int) -> None:
    """An entry stored again in another's place, or after the end."""
    columns = "hash, time, asker, kind, data"
    copy = f"update journal_entries set ({columns}) = (select {columns} from journal_entries where number = ?) where number = ?"
    desk.edit(copy, number, number + 1)
    assert (desk.verify().ok, desk.verify().first_bad) == (False, number + 1)


def test_an_entry_repeated_after_the_end_is_named(desk: Desk) -> None:
    """More rows than commits cover: the tail is torn."""
    columns = "hash, time, asker, kind, data"
    desk.edit(f"insert into journal_entries (number, {columns}) select ?, {columns} from journal_entries where number = 3", COUNT + 1)
    assert (desk.verify().ok, desk.verify().first_bad) == (False, COUNT + 1)
    assert refuses_to_open(desk)


def test_n33_a_torn_tail_is_named(desk: Desk) -> None:
    """Entries without their commit, a commit without its entries, and a head that names neither."""
    before = desk.look("select number from journal_commits order by number desc limit 2")[1][0]
    desk.edit("delete from journal_commits where number = ?", COUNT)
    assert (desk.verify().ok, desk.verify().first_bad) == (False, before + 1)
    assert refuses_to_open(desk)


def test_a_tail_cut_cleanly_shows_in_the_head_and_to_a_witness(desk: Desk) -> None:
    """Entries and commits cut together: the head gives it away; with the head edited too, a witness does."""
    checkpoint = Checkpoint(cloud=CLOUD, domain=DOMAIN, epoch=1, number=COUNT, hash=desk.look("select hash from journal_head")[0][0])
    cut = desk.look("select number from journal_commits order by number desc limit 2")[1][0]
    desk.edit("delete from journal_entries where number > ?", cut)
    desk.edit("delete from journal_commits where number > ?", cut)
    assert (desk.verify().ok, desk.verify().first_bad) == (False, cut + 1)
    assert refuses_to_open(desk)
    desk.edit("update journal_head set number = ?, hash = (select hash from journal_entries where number = ?)", cut, cut)
    assert desk.verify().ok
    found = desk.verify(checkpoints=[checkpoint])
    assert (found.ok, found.first_bad) == (False, cut + 1)


def rewrite(desk: Desk, number: int, **changed: Any) -> None:
    """Change entry *number*, with its own hash and columns made to fit, but nothing after it."""
    entry = msgspec.structs.replace(read_entry_of(desk, number), **changed)
    data = canonical(entry)
    desk.edit("update journal_entries set data = ?, hash = ?, time = ? where number = ?", data, entry_hash(data), entry.time, number)


def read_entry_of(desk: Desk, number: int) -> Entry:
    """Return an entry as it lies in the file."""
    (row,) = desk.look("select number, hash, data from journal_entries where number = ?", number)
    return msgspec.json.decode(row[2], type=Entry)


@pytest.mark.parametrize("number", range(1, COUNT + 1))
def test_an_entry_rewritten_with_its_hash_is_named(desk: Desk, number: int) -> None:
    """The changed entry is named, not the one after it, wherever it stands in its commit."""
    rewrite(desk, number, time=read_entry_of(desk, number).time + 1)
    assert (desk.verify().ok, desk.verify().first_bad) == (False, number)


def resign(desk: Desk, change: Any) -> None:
    """Rewrite the whole history as the owner of the journal key can: every entry through *change*, one commit at the end."""
    previous = genesis(CLOUD, DOMAIN).hash
    for number in range(1, COUNT + 1):
        entry = change(msgspec.structs.replace(read_entry_of(desk, number), previous=previous))
        data = canonical(entry)
        previous = entry_hash(data)
        desk.edit("update journal_entries set data = ?, hash = ?, time = ? where number = ?", data, previous, entry.time, number)
    head = type(genesis(CLOUD, DOMAIN))(COUNT, previous)
    commit = sign_commit(identity(), head)
    desk.edit("delete from journal_commits where number < ?", COUNT)
    desk.edit("update journal_commits set hash = ?, signature = ?", commit.hash, commit.signature)
    desk.edit("update journal_head set hash = ?", commit.hash)


def test_n34_a_history_rewritten_by_its_owner_shows_to_a_witness(desk: Desk) -> None:
    """Signed again with the real key it holds by itself; what a witness saw does not."""
    (seen_hash,) = desk.look("select hash from journal_entries where number = 12")[0]
    seen = Checkpoint(cloud=CLOUD, domain=DOMAIN, epoch=1, number=12, hash=seen_hash)
    resign(desk, lambda entry: msgspec.structs.replace(entry, time=entry.time + 10) if entry.number > 10 else entry)
    assert desk.verify().ok
    found = desk.verify(checkpoints=[seen])
    assert (found.ok, found.first_bad) == (False, 12)


def test_a_made_up_cause_shows_although_the_owner_signs(desk: Desk) -> None:
    """The owner of the journal cannot make somebody say something else: the frame's own signature is checked."""

    def lie(entry: Entry) -> Entry:
        if entry.number != 6:
            return entry
        frame = bytearray(entry.cause.frame)
        at = frame.index(b'"by"')
        frame[at + 5 : at + 6] = b"9"
        return msgspec.structs.replace(entry, cause=msgspec.structs.replace(entry.cause, frame=bytes(frame)))

    resign(desk, lie)
    found = desk.verify()
    assert (found.ok, found.first_bad) == (False, 6)
    assert "cause" in found.reason


@pytest.mark.parametrize("field", ["request", "kind", "body", "reason"])
def test_a_cause_that_says_more_than_its_frame_shows(desk: Desk, field: str) -> None:
    """Request, kind, body and reason stand in the frame too, and agree."""
    resign(
        desk,
        lambda entry: (
            msgspec.structs.replace(entry, cause=msgspec.structs.replace(entry.cause, **{field: "other"})) if entry.number == 6 else entry
        ),
    )
    desk.edit("update journal_entries set kind = ? where number = 6", "other" if field == "kind" else "counter.add")
    found = desk.verify()
    assert (found.ok, found.first_bad) == (False, 6)


def test_time_and_epoch_that_fall_show(desk: Desk, original: Desk, tmp_path: Path) -> None:
    """The owner cannot antedate an entry or take an epoch back."""
    resign(desk, lambda entry: msgspec.structs.replace(entry, time=entry.time - 1_000) if entry.number == 8 else entry)
    assert (desk.verify().ok, desk.verify().first_bad) == (False, 8)
    shutil.copy(original.path, desk.path)
    resign(desk, lambda entry: msgspec.structs.replace(entry, epoch=2) if entry.number == 8 else entry)
    assert (desk.verify().ok, desk.verify().first_bad) == (False, 9)


@pytest.mark.parametrize("wrong", [OTHER_KEY, ASKER_KEY])
def test_a_journal_signed_by_another_key_does_not_hold(desk: Desk, wrong: Signer) -> None:
    """The keys come from the caller, never from the file."""
    found = verify(desk.url, lambda domain: [wrong.public])
    assert (found.ok, found.first_bad) == (False, desk.look("select min(number) from journal_commits")[0][0])


def test_a_journal_of_another_cloud_does_not_hold(desk: Desk) -> None:
    """Cloud and domain are part of the first entry's previous hash and of every commit."""
    desk.edit("update journal_head set cloud = ?", "f" * 64)
    assert (desk.verify().ok, desk.verify().first_bad) == (False, 1)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_bit_flipped_anywhere_in_the_file_is_no_exception(desk: Desk, original: Desk, data: st.DataObject) -> None:
    """Whatever page it hits, the answer is a verdict; a verdict of `ok` means that every entry is as it was."""
    raw = bytearray(original.path.read_bytes())
    at = data.draw(st.integers(100, len(raw) - 1))
    raw[at] ^= 1 << data.draw(st.integers(0, 7))
    desk.path.write_bytes(bytes(raw))
    found = desk.verify()
    if found.ok:
        assert (found.entries, found.head) == (COUNT, original.verify().head)
        assert desk.look("select number, data from journal_entries order by number") == original.look(
            "select number, data from journal_entries order by number"
        )
    else:
        assert 1 <= found.first_bad <= COUNT + 1


def test_a_file_that_is_no_database_is_a_verdict(tmp_path: Path) -> None:
    """Rubbish has a reason; no file at all is the caller's mistake."""
    desk = Desk(tmp_path)
    with pytest.raises(NoSuchEntry):
        desk.verify()
    desk.path.write_bytes(b"rubbish" * 1000)
    assert (desk.verify().ok, desk.verify().first_bad) == (False, 1)
    assert refuses_to_open(desk)
    assert desk.path.read_bytes() == b"rubbish" * 1000


def test_verify_uses_a_connection_that_cannot_write(desk: Desk) -> None:
    """Verifying a journal that is being written neither waits nor disturbs."""

    async def work(journal: Journal) -> None:
        await desk.ask(Add(name="a")).of(journal)
        assert desk.verify().entries == COUNT + 1
        await desk.ask(Add(name="a")).of(journal)

    desk.time += 10_000_000
    desk.run(work)
    before = desk.path.read_bytes()
    assert desk.verify().ok
    assert desk.path.read_bytes() == before


def test_from_the_newest_snapshot_only_the_rest_is_checked(tmp_path: Path) -> None:
    """Without `from_genesis` the walk starts at a signed snapshot; a snapshot by another key is no start."""
    desk = Desk(tmp_path)
    desk.fill(25, snapshot_every=10)
    assert desk.verify(from_genesis=False).entries == 5
    assert desk.verify(from_genesis=True).entries == 25
    desk.edit("update journal_snapshots set signature = zeroblob(64) where number = 20")
    assert desk.verify(from_genesis=False).entries == 15


def test_an_entry_of_another_type_is_named(desk: Desk) -> None:
    """SQLite holds any type in any column: bytes that somebody's edit made text are named, not stumbled over."""
    desk.fill(12)
    desk.edit("UPDATE journal_entries SET data = CAST(data AS TEXT) WHERE number = 9")
    assert (desk.verify().ok, desk.verify().first_bad) == (False, 9)


def test_processes_share_a_long_journal(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real program in processes of its own: the same verdict, whole and damaged, and the same entry is named."""
    desk.fill(30)
    monkeypatch.setattr(verifying, "_elsewhere", elsewhere)
    assert verify(desk.url, keys_for, signers=SIGNERS, processes=2) == verify(desk.url, keys_for, signers=SIGNERS)
    desk.edit("UPDATE journal_entries SET kind = 'other' WHERE number = 27")
    found = verify(desk.url, keys_for, signers=SIGNERS, processes=2)
    assert (found.ok, found.first_bad, found.entries) == (False, 27, 26)
