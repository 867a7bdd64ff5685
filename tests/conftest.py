"""What every test may use, and the check that a run leaves nothing behind.

Owns the fixtures `home` (a state folder with a short path) and `port_base` (a block of free ports), and the leak check
of the whole run: see `tests/leaks.py`. Tests of one part have fixtures of their own beside them.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import leaks

PORTS_PER_CLOUD = 20
PORT_FIRST, PORT_LAST = 20000, 32000  # below the range from which the kernel takes ports for outgoing connections
_SESSION: list[leaks.Session] = []


def pytest_configure(config: pytest.Config) -> None:
    """Start the run under its reaper and look at the machine once."""
    if config.option.collectonly or hasattr(config, "workerinput"):
        return
    reaper = leaks.adopt_orphans()
    if reaper is not None:
        _SESSION.append(leaks.Session(reaper))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Fail the run when something of it is left on the machine."""
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
    """Name what is left."""
    certain, doubtful = config.stash.get(_LEFT, ([], []))
    if certain:
        terminalreporter.section("LEFT ON THE MACHINE by this run (the run fails)", red=True)
        for line in certain:
            terminalreporter.line(line)
    if doubtful:
        terminalreporter.section("new on the machine, but another run is going on: perhaps its own")
        for line in doubtful:
            terminalreporter.line(line)


def mounts_below(folder: Path) -> list[str]:
    """Return the mount points below *folder*; a folder that has one is never removed."""
    lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    return [target for line in lines if (target := line.split()[4]).startswith(f"{folder}/")]


def remove_home(folder: Path) -> None:
    """Remove a test's folder, unless something is still mounted in it (then the leak check names it)."""
    if not mounts_below(folder):
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def temporary_home() -> Iterator[Path]:
    """Make a folder with a path short enough for Unix sockets deep inside it, and remove it."""
    folder = Path("/var/tmp") / f"enj{secrets.token_hex(3)}"
    folder.mkdir(mode=0o755)
    try:
        yield folder
    finally:
        remove_home(folder)


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


def _is_free(port: int) -> bool:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_INET, kind) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                return False
    return True


def free_port_base() -> int:
    """Return the first of PORTS_PER_CLOUD free ports in a row, another one at each call."""
    blocks = (PORT_LAST - PORT_FIRST) // PORTS_PER_CLOUD
    start = secrets.randbelow(blocks)
    for step in range(blocks):
        base = PORT_FIRST + (start + step) % blocks * PORTS_PER_CLOUD
        if all(_is_free(port) for port in range(base, base + PORTS_PER_CLOUD)):
            return base
    raise OSError("no block of free ports")


@pytest.fixture
def port_base(monkeypatch: pytest.MonkeyPatch) -> int:
    """ENJIN_PORT_BASE of one test: a block of ports that nobody listens on."""
    base = free_port_base()
    monkeypatch.setenv("ENJIN_PORT_BASE", str(base))
    return base


@pytest.fixture
def as_root() -> None:
    """Skip a test that needs root, with its reason."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
