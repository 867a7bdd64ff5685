"""What every test may use, and the check that a run leaves nothing behind.

Owns the fixtures `home` (a state folder with a short path) and `port_base` (a block of free ports), and the leak check
of the whole run: see `tests/leaks.py`. Tests of one part have fixtures of their own beside them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from tests import leaks
from tests.failpoints_found import NOTES
from tests.places import free_port_base, temporary_home

_SESSION: list[leaks.Session] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of single parts of the tests: see `tests/sim` and `tests/e2e/test_failpoints.py`."""
    parser.addoption("--seeds", type=int, default=0, metavar="N", help="simulate this many random walks")
    parser.addoption("--seed", type=int, default=None, metavar="SEED", help="simulate the random walk of this seed alone")
    parser.addoption("--all-failpoints", action="store_true", help="kill real daemons at every failpoint, not at a few of each run")


def pytest_configure(config: pytest.Config) -> None:
    """Start the run under its reaper and look at the machine once."""
    if config.option.collectonly or hasattr(config, "workerinput"):
        return
    reaper = leaks.adopt_orphans()
    if reaper is not None:
        _SESSION.append(leaks.Session(reaper))
    config.pluginmanager.register(_Notes())


class _Notes:
    """Brings what each worker has to say to the one process that prints."""

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take what a worker said at its end."""
        notes = node.config.stash.setdefault(NOTES, [])
        notes += [line for line in getattr(node, "workeroutput", {}).get("notes", ()) if line not in notes]


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Fail the run when something of it is left on the machine."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["notes"] = session.config.stash.get(NOTES, [])
    if not _SESSION:
        return
    certain, doubtful = _SESSION[0].leaks()
    session.config.stash[_LEFT] = (certain, doubtful)
    if certain:
        _SESSION[0].end_processes()
        if exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


_LEFT = pytest.StashKey[tuple[list[str], list[str]]]()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Name what is left, and what the run has left out."""
    for note in config.stash.get(NOTES, []):
        terminalreporter.line(note)
    certain, doubtful = config.stash.get(_LEFT, ([], []))
    if certain:
        terminalreporter.section("LEFT ON THE MACHINE by this run (the run fails)", red=True)
        for line in certain:
            terminalreporter.line(line)
    if doubtful:
        terminalreporter.section("new on the machine, but another run is going on: perhaps its own")
        for line in doubtful:
            terminalreporter.line(line)


@pytest.fixture(autouse=True)
def _logging_as_found() -> Iterator[None]:
    """Undo what a daemon run within a test did to logging: it would go on writing to that test's captured output."""
    structlog.reset_defaults()
    yield
    if structlog.is_configured():
        structlog.reset_defaults()


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """ENJIN_HOME (and the user's configuration folder) of one test: nothing of the machine's own clouds is touched."""
    with temporary_home() as folder:
        state = folder / "h"
        state.mkdir(mode=0o755)
        monkeypatch.setenv("ENJIN_HOME", str(state))
        monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / "c"))
        monkeypatch.setenv("XDG_STATE_HOME", str(folder / "s"))
        yield state


@pytest.fixture
def port_base(monkeypatch: pytest.MonkeyPatch) -> int:
    """ENJIN_PORT_BASE of one test: ports that nobody listens on."""
    base = free_port_base()
    monkeypatch.setenv("ENJIN_PORT_BASE", str(base))
    return base


@pytest.fixture
def as_root() -> None:
    """Skip a test that needs root, with its reason."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
