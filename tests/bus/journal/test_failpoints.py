"""Kill -9 of a real writer at every point of its journal, the first, the second and the last time it passes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from bus.journal import Journal, verify
from bus.journal.reader import Reader
from tests.bus.journal.small_world import FACTS, JOURNAL_KEY, SmallTables, SmallWorld, identity
from tests.bus.journal.test_crashes import ROOT, acknowledgements
from tests.bus.journal.writer import ALONE, START_MS, TOGETHER, request
from tests.failpoints_found import points, say, seed

POINTS = tuple(name for name, _path in points() if name.startswith("journal.") and name != "journal.verify.spawn")
TIMES = ("first", "second", "last")
WISHES = ALONE + TOGETHER


def write(folder: Path, setting: str = "") -> subprocess.CompletedProcess[bytes]:
    """Run the writer to its end, or to the point that *setting* names."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ENJIN_FAILPOINT")}
    if setting:
        environment |= {"ENJIN_FAILPOINT": setting, "ENJIN_FAILPOINT_LOG": str(folder / "log")}
    return subprocess.run(
        [sys.executable, "-m", "tests.bus.journal.writer", str(folder)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        timeout=60,
        check=False,
    )


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Counter[str]:
    """How often the writer passes each point when nobody ends it."""
    folder = tmp_path_factory.mktemp("counted")
    done = write(folder, "*:count")
    assert (done.returncode, len(acknowledgements(done.stdout))) == (0, WISHES), done.stderr.decode()
    return Counter((folder / "log").read_text().split())


def look(folder: Path) -> dict[str, tuple[int, str]]:
    """Return what is stored by request, after checking chain, projection and replay; nothing needed to be repaired."""
    url = f"sqlite:///{folder}/journal.db"
    assert verify(url, lambda _domain: (JOURNAL_KEY.public,)).ok
    journal = Journal.open(
        url, identity=identity(), world_factory=SmallWorld, facts=FACTS, projection=SmallTables(), now_us=lambda: START_MS * 1000
    )
    try:
        assert journal.repaired == ""
        assert journal.world.rows == journal.replay().world.rows
        assert journal.world.rows.get("counter", 0) == journal.head.number
    finally:
        journal._reader.close()
        journal._store.close()
    with closing(Reader(url)) as reader:
        return {name: (row.number, row.hash) for name, row in reader.requests([request(count) for count in range(WISHES)]).items()}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each point at one of its times, another one with every commit; or at all of them."""
    if "fault" in metafunc.fixturenames:
        chance = random.Random(seed())
        chosen = [(name, chance.choice(TIMES)) for name in POINTS]
        if metafunc.config.getoption("--all-failpoints"):
            chosen = [(name, time) for name in POINTS for time in TIMES]
        metafunc.parametrize("fault", chosen, ids=[f"{name}-{time}" for name, time in chosen])


def test_what_is_left_out_is_said(request: pytest.FixtureRequest) -> None:
    """Every point of the journal has its kills, and the output says how many of them this run leaves out."""
    assert len(POINTS) >= 7
    if not request.config.getoption("--all-failpoints"):
        say(request.config, len(POINTS) * (len(TIMES) - 1), "points and times of the journal")


def test_killed_at_a_point_nothing_acknowledged_is_lost(tmp_path: Path, counted: Counter[str], fault: tuple[str, str]) -> None:
    """What was acknowledged is stored as it was said; run again, the writer gets the stored answers, and each wish took effect once."""
    name, time = fault
    assert counted[name] >= 1
    nth = {"first": 1, "second": min(2, counted[name]), "last": counted[name]}[time]
    ended = write(tmp_path, f"{name}:kill9:{nth}")
    assert (ended.returncode, (tmp_path / "log").read_text()) == (-signal.SIGKILL, f"{name}\n"), ended.stderr.decode()
    said = acknowledgements(ended.stdout)
    if (tmp_path / "journal.db").exists() and said:
        stored = look(tmp_path)
        assert {key: stored[key] for key in said} == said
    again = write(tmp_path)
    assert again.returncode == 0, again.stderr.decode()
    whole = acknowledgements(again.stdout)
    assert {key: whole[key] for key in said} == said
    assert sorted(whole) == [request(count) for count in range(WISHES)]
    assert look(tmp_path) == whole
    assert sorted(number for number, _digest in whole.values()) == list(range(1, WISHES + 1))
