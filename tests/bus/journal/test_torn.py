"""Power cuts (C2): the last write torn at any of its bytes, or never written, takes the commit under way and nothing before it."""

from __future__ import annotations

import asyncio
import random
import shutil
from pathlib import Path

import pytest

from bus.journal import Journal
from tests.bus.journal.conftest import Desk
from tests.bus.journal.small_world import Add

BEFORE = 12
FRAME_HEADER, PAGE, LOG_HEADER = 24, 4096, 32
FLIPS = 20


class Torn:
    """A journal's files as they were before its last commit was written, and after."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.live = Desk(folder / "live")
        self.live.path.parent.mkdir()
        asyncio.run(self._write())

    async def _write(self) -> None:
        journal = self.live.open()
        for number in range(BEFORE):
            await self.live.ask(Add(name=f"c{number % 3}", pad="x" * 300)).of(journal)
        self.base = self.live.path.read_bytes()
        self.short = len(Path(f"{self.live.path}-wal").read_bytes())
        await asyncio.gather(*(self.live.ask(Add(name="last", pad="y" * 300)).of(journal) for _ in range(3)))
        self.log = Path(f"{self.live.path}-wal").read_bytes()
        await journal.close()

    def desk(self, log: bytes, name: str) -> Desk:
        """Return a desk whose files are the base and *log*."""
        found = Desk(self.folder / name)
        shutil.rmtree(found.path.parent, ignore_errors=True)
        found.path.parent.mkdir()
        found.path.write_bytes(self.base)
        Path(f"{found.path}-wal").write_bytes(log)
        return found


@pytest.fixture(scope="module")
def torn(tmp_path_factory: pytest.TempPathFactory) -> Torn:
    """A journal whose last commit, of three entries, is torn in many ways."""
    return Torn(tmp_path_factory.mktemp("torn"))


def opens(desk: Desk) -> int:
    """Open for writing as a decider does after a power cut, decide once more, and return how many entries there were."""
    entries = 0

    async def work(journal: Journal) -> None:
        nonlocal entries
        entries = journal.head.number
        assert dict(desk.look("select name, value from counters")) == journal.world.rows
        await desk.ask(Add(name="after")).of(journal)

    desk.run(work)
    assert (desk.verify().ok, desk.verify().entries) == (True, entries + 1)
    return entries


def boundaries(torn: Torn) -> list[int]:
    """Return lengths of the log to cut at: each frame of the last commit, a byte around it, and places within."""
    frames = range(torn.short, len(torn.log) + 1, FRAME_HEADER + PAGE)
    around = {at + off for at in frames for off in (-1, 0, 1, FRAME_HEADER, PAGE // 2)} | {len(torn.log)}
    return sorted(at for at in around if torn.short <= at <= len(torn.log))


def test_c02_a_log_cut_anywhere_in_the_last_commit(torn: Torn) -> None:
    """C2: what was written of the commit is dropped or whole, never half; either way chain, projection and World agree."""
    seen = {length: opens(torn.desk(torn.log[:length], "cut")) for length in boundaries(torn)}
    assert set(seen.values()) == {BEFORE, BEFORE + 3}
    whole = [length for length, entries in seen.items() if entries > BEFORE]
    assert min(whole) > torn.short


def test_c02_pages_of_the_last_commit_never_reached_the_disk(torn: Torn) -> None:
    """C2: the disk wrote later pages and lost an earlier one (zeros, or what lay there before): the commit is dropped as a whole."""
    frames = list(range(torn.short, len(torn.log), FRAME_HEADER + PAGE))
    assert len(frames) > 2
    for at in frames[:-1]:
        lost = torn.log[:at] + bytes(FRAME_HEADER + PAGE) + torn.log[at + FRAME_HEADER + PAGE :]
        assert opens(torn.desk(lost, "lost")) == BEFORE


def test_c02_any_bit_of_the_last_commit_is_wrong(torn: Torn) -> None:
    """C2: a bit that turned in the part that was not yet acknowledged takes that commit with it, and nothing else."""
    chance = random.Random(20_261_126)
    for _ in range(FLIPS):
        at = chance.randrange(torn.short, len(torn.log))
        flipped = bytearray(torn.log)
        flipped[at] ^= 1 << chance.randrange(8)
        assert opens(torn.desk(bytes(flipped), "flip")) == BEFORE


def test_c02_a_log_of_which_nothing_is_left(torn: Torn) -> None:
    """C2: a log that is empty or whose head is torn holds no commit; the file without it is a journal too."""
    for log in (b"", torn.log[: LOG_HEADER - 1], torn.log[:LOG_HEADER]):
        desk = torn.desk(log, "nothing")
        if desk.path.stat().st_size:
            assert opens(desk) <= BEFORE
