"""Real ends: kill -9 in the middle of commits, a disk that is full, a file that goes away. What was acknowledged is there."""

from __future__ import annotations

import asyncio
import os
import random
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bus.journal import Journal
from bus.journal.errors import JournalLost
from tests.bus.journal.conftest import Desk
from tests.bus.journal.small_world import Add

ROOT = Path(__file__).resolve().parents[3]
ROUNDS = 4


def start(desk: Desk, seed: int, *arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.bus.journal.crasher", str(desk.path.parent), str(seed), *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def read_lines(child: subprocess.Popen[bytes], count: int, deadline_s: float = 30) -> bytes:
    """Return what the child has said once it said *count* lines, or has ended."""
    assert child.stdout is not None
    said, end = b"", time.monotonic() + deadline_s
    while said.count(b"\n") < count:
        left = end - time.monotonic()
        assert left > 0, "too few acknowledgements"
        if select.select([child.stdout], [], [], left)[0]:
            chunk = child.stdout.read1(65_536)  # type: ignore[attr-defined]
            if not chunk:
                break
            said += chunk
    return said


def check(desk: Desk, acknowledged: dict[str, tuple[int, str]]) -> None:
    """Everything acknowledged is in the journal under its number and hash; chain, projection and replay agree."""
    stored = {request: (number, digest) for request, number, digest in desk.look("select request, number, hash from journal_requests")}
    entries = dict(desk.look("select number, hash from journal_entries"))
    for request, place in acknowledged.items():
        assert stored[request] == place
        assert entries[place[0]] == place[1]
    found = desk.verify()
    assert (found.ok, found.entries) == (True, len(entries)), found
    desk.time = time.time_ns() // 1000

    async def work(journal: Journal) -> None:
        assert journal.repaired == ""
        assert dict(desk.look("select name, value from counters")) == journal.world.rows
        await desk.ask(Add(name="after")).of(journal)

    desk.run(work)


def acknowledgements(said: bytes) -> dict[str, tuple[int, str]]:
    found = {}
    for line in said[: said.rfind(b"\n") + 1].decode().splitlines():
        request, number, digest = line.split()
        found[request] = (int(number), digest)
    return found


def test_killed_in_the_middle_of_commits_nothing_acknowledged_is_lost(desk: Desk) -> None:
    """Kill -9 at four random moments, one after the other on the same file."""
    chance = random.Random(20_240_101)
    acknowledged: dict[str, tuple[int, str]] = {}
    for seed in range(ROUNDS):
        child = start(desk, seed)
        try:
            said = read_lines(child, chance.randint(1, 700))
        finally:
            child.kill()
            rest, errors = child.communicate()
        acknowledged |= acknowledgements(said + rest)
        assert not errors, errors.decode()
        check(desk, acknowledged)
    assert len(acknowledged) > 300


def test_a_full_disk_ends_the_process_and_loses_nothing_acknowledged(desk: Desk) -> None:
    """When a file may not grow any more the decider ends with status 70 and one line that says so; with room again it goes on."""
    desk.fill(3)
    child = start(desk, 1, str(600_000))
    said, errors = child.communicate(timeout=30)
    assert child.returncode == 70, errors.decode()
    assert b"journal.lost" in errors
    assert b"E-JNL-001" in errors
    acknowledged = acknowledgements(said)
    assert len(acknowledged) > 50
    check(desk, acknowledged)


def test_a_log_that_cannot_be_written_is_never_tried_again(desk: Desk) -> None:
    """The write-ahead log's descriptor breaks under the decider: callers are not answered with success, and nothing follows."""
    async def work() -> None:
        journal = desk.open()
        await desk.ask(Add(name="a")).of(journal)
        reading, writing = os.pipe()
        replaced = []
        try:
            for name in os.listdir("/proc/self/fd"):
                try:
                    target = os.readlink(f"/proc/self/fd/{name}")
                except OSError:
                    continue
                if target == f"{desk.path}-wal":
                    replaced.append(int(name))
                    os.dup2(writing, int(name))
            assert replaced
            results = await asyncio.gather(*(desk.ask(Add(name="a")).of(journal) for _ in range(5)), return_exceptions=True)
            assert {getattr(result, "code", "answered") for result in results} == {"E-JNL-001"}
            assert len(desk.fatal) == 1
            again = await asyncio.gather(desk.ask(Add(name="a")).of(journal), return_exceptions=True)
            assert getattr(again[0], "code", "answered") == "E-JNL-001"
        finally:
            os.close(reading)
            os.close(writing)
            await journal.close()

    asyncio.run(work())
    assert desk.verify().ok
    assert desk.look("select name, value from counters") == [("a", 1)]


@pytest.mark.parametrize("moment", ["before", "after"])
def test_another_writer_in_the_file_is_noticed(desk: Desk, moment: str) -> None:
    """The head in the file is the fence: when somebody else moved it, the whole speculative batch is dropped and the decider ends."""

    async def work(journal: Journal) -> None:
        if moment == "after":
            await desk.ask(Add(name="a")).of(journal)
        desk.edit("update journal_head set number = number + 1")
        with pytest.raises(JournalLost):
            await desk.ask(Add(name="a")).of(journal)
        assert len(desk.fatal) == 1

    desk.run(work)
    assert desk.look("select count(*) from journal_entries") == [(int(moment == "after"),)]
