"""A full disk takes what is urgent, refuses the rest in plain words, and goes on by itself once there is room (C8)."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.journal.errors import DiskFull
from bus.journal.reserve import Reserve
from bus.messages import Role, Rule
from tests.bus.journal import small_world as small
from tests.bus.journal.conftest import Desk

MIB = 1 << 20
SIZE, LOW = 4 * MIB, 1 * MIB


class Disk:
    """A disk of which a test says how much is left."""

    def __init__(self, left: int) -> None:
        self.left = left

    def free(self, _path: Path) -> int:
        """Return the bytes left."""
        return self.left


def reserve(path: Path, disk: Disk) -> Reserve:
    """Return a small reserve on *disk*."""
    return Reserve(path / "reserve", SIZE, LOW, free=disk.free)


def test_it_is_given_back_and_taken_again(tmp_path: Path) -> None:
    """C8: full below the low mark; the file goes; only well above its own size does it come back, as real blocks."""
    disk = Disk(100 * MIB)
    kept = reserve(tmp_path, disk)
    assert (kept.full(), kept.held) == (False, True)
    assert os.stat(tmp_path / "reserve").st_blocks * 512 >= SIZE
    for left, full, held in ((LOW, False, True), (LOW - 1, True, False), (SIZE + LOW, True, False), (SIZE + 2 * LOW, False, True)):
        disk.left = left
        assert (kept.full(), kept.held) == (full, held), left


def test_a_disk_that_is_nearly_full_has_none(tmp_path: Path) -> None:
    """Where there is not even room for it, none is taken, and the journal works all the same."""
    kept = reserve(tmp_path, Disk(SIZE))
    assert (kept.full(), kept.held) == (False, False)


@given(st.lists(st.integers(0, 3 * SIZE), max_size=30))
def test_it_never_flaps(looks: list[int]) -> None:
    """INV-RSV-2: from full to not full lies more than the reserve, whatever is seen in between."""
    with tempfile.TemporaryDirectory() as folder:
        disk = Disk(100 * MIB)
        kept = Reserve(Path(folder) / "reserve", 4096, 1024, free=disk.free)
        was = kept.full()
        for left in looks:
            disk.left = left
            now = kept.full()
            assert now is True or was is False or left >= 4096 + 2 * 1024
            assert was is True or now is False or left < 1024
            was = now


def test_only_what_is_urgent_is_decided(desk: Desk) -> None:
    """C8: a wish that adds is refused with its code and changes nothing; one that removes, and the daemon's own, are decided."""
    disk = Disk(100 * MIB)

    async def work(journal: object) -> None:
        first = desk.ask(small.Add(name="a"))
        await first.of(journal)
        disk.left = 0
        with pytest.raises(DiskFull) as refused:
            await desk.ask(small.Add(name="b")).of(journal)
        assert (refused.value.code, refused.value.retry) == (DiskFull.code, True)
        removing = desk.ask(small.Drop(name="a"))
        removing.rule = Rule(small.Drop, small.drop, Role.OPERATOR, urgent=True)
        await removing.of(journal)
        reporting = desk.ask(small.Add(name="c"))
        reporting.rule = Rule(small.Add, small.add, Role.SUPERVISOR)
        await reporting.of(journal)
        disk.left = 100 * MIB
        await desk.ask(small.Add(name="d")).of(journal)
        assert journal.world.rows == {"c": 1, "d": 1}  # type: ignore[attr-defined]

    desk.run(work, reserve=reserve(desk.path.parent, disk))
    assert desk.verify().entries == 4


PROGRAM = """
import asyncio, os, subprocess, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
place = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", place], check=True)
from bus.journal.errors import DiskFull
from bus.journal.reserve import Reserve
from bus.messages import Role, Rule
from tests.bus.journal import small_world as small
from tests.bus.journal.conftest import Desk
desk = Desk(place)
urgent = Rule(small.Add, small.add, Role.OPERATOR, urgent=True)
async def work(journal):
    for number in range(20):
        await desk.ask(small.Add(name="before")).of(journal)
    filler = place / "filler"
    with open(filler, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 20))
        except OSError:
            pass
    said = []
    for number in range(400):
        wish = desk.ask(small.Add(name="urgent", pad="x" * 2000))
        wish.rule = urgent
        await wish.of(journal)
        try:
            await desk.ask(small.Add(name="refused")).of(journal)
        except DiskFull as error:
            said.append(error.code)
    filler.unlink()
    await desk.ask(small.Add(name="after")).of(journal)
    print(len(said), journal.world.rows)
reserve = Reserve(place / "reserve", 16 << 20, 2 << 20)
desk.run(work, reserve=reserve)
print(reserve.held, desk.verify().ok, desk.verify().entries)
"""


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a small disk")
def test_c08_a_really_full_disk(tmp_path: Path) -> None:
    """C8: a small file system is filled to its last byte; 400 urgent wishes are on disk, the rest refused, and it goes on after."""
    words = ["unshare", "--mount", sys.executable, "-c", PROGRAM, str(tmp_path), str(Path(__file__).resolve().parents[3])]
    done = subprocess.run(words, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = done.stdout.splitlines()[-2:]
    assert first == "400 {'before': 20, 'urgent': 400, 'after': 1}"
    assert second == "True True 421"
