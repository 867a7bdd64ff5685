"""Repair from a witness: damage is put back byte by byte, forks are not painted over, nothing is cut."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest

from bus.journal import Follower, Journal, Stretch, repair
from bus.journal.errors import BadStretch, Forked
from bus.journal.repair import Repaired
from tests.bus.journal.conftest import Desk, keys_for
from tests.bus.journal.small_world import CLOUD, DOMAIN, Add
from tests.bus.journal.test_follower import catch_up, resigned

COUNT = 15
ALL = "select * from journal_entries order by number"


class Case:
    """A journal and a witness that has all of it."""

    def __init__(self, folder: Path) -> None:
        self.desk = Desk(folder)
        self.desk.fill(COUNT)
        self.witness = Follower.open(f"sqlite:///{folder}/copy.db", cloud=CLOUD, domain=DOMAIN, keys_for=keys_for)
        catch_up(self.desk, self.witness)
        self.truth = self.desk.look(ALL)

    def repair(self) -> Repaired:
        return repair(self.desk.url, cloud=CLOUD, domain=DOMAIN, publics=keys_for(DOMAIN), fetch=self.witness.stretch)


@pytest.fixture
def case(tmp_path: Path) -> Case:
    """A journal of 15 entries with its witness."""
    return Case(tmp_path)


@pytest.mark.parametrize(
    ("damage", "replaced", "restored"),
    [
        ("update journal_entries set data = zeroblob(100) where number = 7", (7,), ()),
        ("update journal_entries set hash = 'x' where number in (2, 9)", (2, 9), ()),
        ("update journal_entries set asker = 'nobody' where number = 15", (15,), ()),
        ("delete from journal_entries where number between 4 and 6", (), (4, 5, 6)),
        ("delete from journal_entries where number > 10", (), (11, 12, 13, 14, 15)),
        ("update journal_commits set signature = zeroblob(64)", (), ()),
        ("delete from journal_commits where number > 3", (), ()),
        ("update journal_head set number = 3", (), ()),
    ],
)
def test_n33_damage_is_put_back(case: Case, damage: str, replaced: tuple[int, ...], restored: tuple[int, ...]) -> None:
    """Whatever was changed or cut is as it was, the journal verifies, and the decider goes on."""
    case.desk.edit(damage)
    assert not case.desk.verify().ok
    done = case.repair()
    assert (done.replaced, done.restored, done.head) == (replaced, restored, case.witness.head)
    assert case.desk.look(ALL) == case.truth
    assert case.desk.verify().ok
    assert case.repair() == Repaired((), (), done.head)
    case.desk.fill(2)
    assert case.desk.verify().entries == COUNT + 2


def test_what_the_witness_does_not_have_stays(case: Case) -> None:
    """Entries beyond the witness are kept, and hold, when the damage is below them."""
    case.desk.fill(4)
    rows = case.desk.look(ALL)
    case.desk.edit("update journal_entries set data = zeroblob(9) where number = 5")
    assert case.repair().replaced == (5,)
    assert case.desk.look(ALL) == rows
    assert case.desk.verify().entries == COUNT + 4


def test_a_lost_file_comes_back_whole_and_remembers_requests(case: Case, tmp_path: Path) -> None:
    """With no file at all everything is restored; a repeated request has no second effect."""
    asking = case.desk.ask(Add(name="late"))
    case.desk.run(lambda journal: asking.of(journal))
    catch_up(case.desk, case.witness)
    truth = case.desk.look(ALL)
    for path in tmp_path.glob("journal.db*"):
        path.unlink()
    assert case.repair().restored == tuple(range(1, COUNT + 2))
    assert case.desk.look(ALL) == truth

    async def work(journal: Journal) -> None:
        assert journal.repaired == "absent"
        outcome = await asking.of(journal)
        assert (outcome.number, outcome.repeated) == (COUNT + 1, True)
        assert journal.world.rows["late"] == 1

    case.desk.run(work)


def test_a_fork_is_not_painted_over(case: Case, tmp_path: Path) -> None:
    """When our own signed history is another than the witness's, nothing is replaced."""
    other = tmp_path / "other"
    other.mkdir()
    twin = Desk(other)
    twin.fill(COUNT)
    shutil.copy(twin.path, case.desk.path)
    rows = case.desk.look(ALL)
    with pytest.raises(Forked):
        case.repair()
    assert case.desk.look(ALL) == rows


def test_a_lying_witness_is_not_believed(case: Case) -> None:
    """Entries that the domain's key did not sign, or that leave something out, change nothing."""
    case.desk.edit("update journal_entries set data = zeroblob(9) where number = 5")
    rows = case.desk.look(ALL)
    true = case.witness.stretch(0)
    assert true is not None
    unsigned = resigned(true, lambda entry: msgspec.structs.replace(entry, time=entry.time + 1))
    for lie in (
        Stretch(entries=unsigned.entries, commit=true.commit),
        Stretch(entries=true.entries[1:], commit=true.commit),
        Stretch(entries=[], commit=true.commit),
        Stretch(entries=true.entries, commit=msgspec.structs.replace(true.commit, signature=b"\0" * 64)),
    ):
        with pytest.raises(BadStretch):
            repair(case.desk.url, cloud=CLOUD, domain=DOMAIN, publics=keys_for(DOMAIN), fetch=lambda after, lie=lie: lie)  # type: ignore[misc]
    assert case.desk.look(ALL) == rows
