"""Single faults with what must follow from each; and that the checks of the simulator bite."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from bus.messages import Reply
from compartments.rows import Compartment
from keys.frame import BadFrame
from ring0.compartments import CreateCompartment
from ring1.accounts import CreateToken
from tests.sim import invariants
from tests.sim.acts import Acts
from tests.sim.cloud import Cloud, simulated


@pytest.fixture
def cloud(memory: Path) -> Iterator[Cloud]:
    """A cloud of three rings that is up."""
    with simulated(memory / "cloud", 1) as made:
        yield made


def handlers(cloud: Cloud) -> int:
    """Return how many subscriptions ring 0 holds on the channel of ring 1."""
    return len(cloud.network("ring1")._members["ring0"]._deliveries._handlers)


def test_a_cosignature_that_was_lost_is_repeated(cloud: Cloud) -> None:
    """Ring 0's witnessing is an observation and may be lost: ring 1's head is witnessed all the same, without a new entry."""
    acts = Acts(cloud)
    acts.settle()
    cloud.network("ring1").silenced.add("seen.journal.witnessed")
    told = cloud.run(cloud.operator.wish(1, CreateToken(name="often", secret_hash="0" * 64)))  # type: ignore[arg-type]
    assert told.granted
    journal = cloud.domain("ring1").journal
    cloud.advance(3)
    assert journal.head not in journal.witnessed().values()
    number = journal.head.number
    acts.settle()
    assert journal.head.number == number
    assert journal.head in journal.witnessed().values()


def test_a_long_absence_leaves_nothing_behind(cloud: Cloud) -> None:
    """Ring 0 asks for ring 1's entries again and again while it is away, and holds as many subscriptions afterwards as before."""
    acts = Acts(cloud)
    acts.settle()
    before = handlers(cloud)
    acts.cut("ring0", "ring1")
    cloud.advance(150)
    acts.settle()
    assert handlers(cloud) == before


def test_a_partition_keeps_both_sides_working(cloud: Cloud) -> None:
    """Cut in two for six minutes, each ring goes on deciding, and after healing ring 0 holds what ring 1 decided meanwhile."""
    acts = Acts(cloud)
    for pair in (("ring0", "ring1"), ("ring1", "ring0")):
        acts.cut(*pair)
    for kind in (0, 3, 1, 3):
        acts.wish(kind)
        cloud.advance(90)
    assert [one.granted for one in cloud.operator.told] == [True] * 5
    acts.settle()
    assert cloud.domain("ring1").world.count(Compartment) > 2


@pytest.mark.parametrize("again", [False, True], ids=["running", "started"])
@pytest.mark.parametrize("skew_s", [-3600, 3600])
@pytest.mark.parametrize("name", ["ring0", "ring1"])
def test_a_wall_clock_that_is_an_hour_off_changes_nothing(cloud: Cloud, name: str, skew_s: int, again: bool) -> None:
    """C7: a ring's wall clock is set by an hour while it runs, or before it starts again: its grants and everybody's commands hold."""
    acts = Acts(cloud)
    acts.settle()
    cloud.processes[name].wall_skew_us = skew_s * 1_000_000
    if again:
        cloud.kill(name)
    for kind in range(5):
        acts.wish(kind)
        cloud.advance(1)
    acts.settle()
    assert all(one.granted for one in cloud.operator.told)
    assert abs(cloud.run_as(name, cloud.domain(name).clock.skew_us) - skew_s * 1_000_000) < 2_000_000


@pytest.mark.parametrize("name", ["ring0", "ring1"])
def test_a_torn_commit_is_never_half_there(cloud: Cloud, name: str) -> None:
    """The power goes within a commit, again and again: its wish took effect in full or not at all, and a repetition settles it."""
    acts = Acts(cloud)
    for count in range(6):
        cloud.doom(name, 1 + count, power=True)
        acts.wish(3 if name == "ring1" else 0)
        cloud.advance(4)
    assert cloud.processes[name].deaths >= 4
    acts.settle()
    assert [one.granted for one in cloud.operator.told] == [True] * 7


def test_a_revoked_key_counts_nowhere_once_all_are_equal(cloud: Cloud) -> None:
    """Revoked while ring 1 was cut off and its agent was killed, a key is refused by all three rings after healing, and so are wishes."""
    acts = Acts(cloud)
    acts.enlist()
    person = cloud.persons[1]
    assert cloud.run(person.wish(1, CreateToken(name="often", secret_hash="1" * 64))).granted  # type: ignore[arg-type]
    acts.cut("ring0", "ring1")
    acts.revoke(0)
    cloud.kill("ring2")
    cloud.advance(5)
    acts.settle()
    assert invariants.check_cut(cloud) == 1
    assert not cloud.run(person.wish(1, CreateToken(name="often", secret_hash="2" * 64))).granted  # type: ignore[arg-type]
    assert not cloud.run(person.wish(0, CreateCompartment(name="mine"))).granted


@pytest.mark.parametrize("name", ["ring0", "ring1"])
def test_a_disk_that_fails_ends_the_decider_and_loses_nothing(cloud: Cloud, name: str) -> None:
    """C3: whichever step of a commit fails, the process ends at once and never tries it again; what it acknowledged is there afterwards."""
    acts, process = Acts(cloud), cloud.processes[name]
    points = ("journal.entries.write", "journal.requests.write", "journal.projection.write", "journal.commit", "journal.committed")
    for count, point in enumerate(points, 1):
        cloud.fail(name, point, OSError(errno.EIO, "Input/output error"))
        acts.wish(3 if name == "ring1" else 0)
        cloud.advance(4)
        assert (process.faults, process.deaths) == (count, count)
    acts.settle()
    assert all(one.granted for one in cloud.operator.told)


@pytest.mark.parametrize("point", ["file.sync", "file.rename", "directory.sync"])
def test_a_file_that_cannot_be_written_stops_nobody_for_long(cloud: Cloud, point: str) -> None:
    """C3: ring 0's own files fail to be written once: what was wanted is done all the same, and all are equal afterwards."""
    acts = Acts(cloud)
    cloud.fail("ring0", point, OSError(errno.EIO, "Input/output error"))
    acts.enlist()
    acts.wish(0)
    acts.revoke(0)
    cloud.advance(15)
    assert cloud.processes["ring0"].faults == 1
    acts.settle()
    assert all(one.granted for one in cloud.operator.told)


def damage(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(statement)
        connection.commit()


@pytest.mark.parametrize(
    "statement",
    [
        "delete from journal_requests where number > 1",
        "update journal_entries set data = replace(data, 'thing', 'thong')",
        "delete from compartment where name like 'thing%'",
        "delete from journal_entries where number = (select max(number) from journal_entries)",
    ],
)
def test_the_checks_find_damage(cloud: Cloud, statement: str) -> None:
    """A lost acknowledgement, a changed entry, a projection that differs and a cut tail are each found."""
    acts = Acts(cloud)
    acts.wish(0)
    cloud.advance(1)
    acts.settle()
    invariants.check(cloud)
    damage(invariants.journal_path(cloud, 0), statement)
    with pytest.raises((AssertionError, BadFrame, sqlite3.Error)):
        invariants.check(cloud)


def test_the_checks_find_what_was_never_written(cloud: Cloud) -> None:
    """An acknowledgement without an entry is found, and so is a refusal with one."""
    told = cloud.run(cloud.operator.wish(0, CreateCompartment(name="first")))
    invariants.check(cloud)
    real = cloud.operator.told.pop()
    cloud.operator.told.append(real._replace(request="01a3185c-0000-7000-8000-000000000000"))
    with pytest.raises(AssertionError, match="acknowledged and lost"):
        invariants.check(cloud)
    cloud.operator.told[-1] = real._replace(reply=Reply(ok=False, code="E-ENJ-002", message="no"))
    with pytest.raises(AssertionError, match="refused, and yet"):
        invariants.check(cloud)
    assert told.granted
