"""Where PID 1 is systemd, a cloud is a unit: started, restarted and stopped by it, and gone when destroyed."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cloud import ROOT, process_table, wait_for
from tests.e2e.booted_root import Booted, booted_root

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("systemd-nspawn") is None, reason="systemd-nspawn is not installed"),
    pytest.mark.skipif(shutil.which("mmdebstrap") is None, reason="mmdebstrap is not installed"),
    pytest.mark.skipif(
        not (os.environ.get("ENJIN_TEST_MINIMAL") or os.environ.get("CI")),
        reason="takes a minute or two; run by CI, and by ./bootstrap test --minimal",
    ),
]
URL = "http://hello.localhost:8080/"


@pytest.fixture(scope="module")
def root() -> Iterator[Booted]:
    """A booted root."""
    with booted_root() as made:
        yield made


def unit(root: Booted) -> str:
    """Return the name of the cloud's unit."""
    units = root.run("systemctl", "list-unit-files", "--no-legend", "enjin-*.service").stdout.split()
    assert units, "there is no unit"
    return units[0]


def answers(root: Booted) -> bool:
    """Tell whether hello answers through the router."""
    code = "import http.client as h; c = h.HTTPConnection('127.0.0.1', 8080, timeout=5); "
    code += "c.request('GET', '/', headers={'Host': 'hello.localhost:8080'}); print(c.getresponse().status)"
    return root.run("/usr/bin/python3", "-I", "-c", code).stdout == "200\n"


def mounts(root: Booted) -> set[str]:
    """Return the mount points that are not enjin's own."""
    lines = root.run("cat", "/proc/mounts").stdout.splitlines()
    return {place for line in lines if "enjin" not in (place := line.split()[1])}


def test_up_makes_and_starts_a_unit(root: Booted) -> None:
    """`enjin up` puts the unit where systemd looks, starts it, and its main process is ring 0's init.

    systemd shares the machine's mounts with every new mount namespace: what a jail unmounts must not vanish here.
    """
    before = mounts(root)
    done = root.run("enjin", "up")
    assert done.returncode == 0, done.stdout + done.stderr
    assert before - mounts(root) == set()
    name = unit(root)
    assert root.show(name, "ActiveState") == "active"
    line = root.run("cat", f"/proc/{root.show(name, 'MainPID')}/cmdline").stdout
    assert "supervision/init/" in line
    verified = root.run("systemd-analyze", "verify", f"/etc/systemd/system/{name}")
    assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")
    pushed = root.run("enjin", "push", str(ROOT / "examples/hello"), "--app", "hello")
    assert pushed.returncode == 0, pushed.stdout + pushed.stderr
    assert answers(root)


def test_systemd_restarts_init(root: Booted) -> None:
    """kill -9 of the main process: systemd has another one at once, and the app answers."""
    name = unit(root)
    before = root.show(name, "MainPID")
    assert root.run("systemctl", "kill", "--kill-who=main", "--signal=KILL", name).returncode == 0
    wait_for(lambda: root.show(name, "MainPID") not in ("0", before), 10, "another init")
    wait_for(lambda: answers(root), 30, "the app")


def daemon(root: Booted) -> int:
    """Return ring 0's daemon inside, as a pid of the host; 0 while there is none."""
    inside = os.readlink(f"/proc/{root.leader}/ns/pid")
    for process in process_table().values():
        with contextlib.suppress(OSError):
            if "ring0.daemon" in process.argv and os.readlink(f"/proc/{process.pid}/ns/pid") == inside:
                return process.pid
    return 0


def test_a_killed_daemon_comes_back(root: Booted) -> None:
    """kill -9 of ring 0's daemon: init has another one, the unit never notices, and ring 0 answers."""
    name = unit(root)
    before, main = daemon(root), root.show(name, "MainPID")
    os.kill(before, signal.SIGKILL)
    wait_for(lambda: daemon(root) not in (0, before), 20, "another daemon")
    wait_for(lambda: root.run("enjin", "status").returncode == 0, 30, "ring 0")
    assert (root.show(name, "MainPID"), root.show(name, "NRestarts")) == (main, "1")


def test_systemctl_stop_ends_it_in_order(root: Booted) -> None:
    """`systemctl stop` is told by exit status 0 and leaves no daemon; `systemctl start` brings the app back."""
    name = unit(root)
    assert root.run("systemctl", "stop", name).returncode == 0
    assert [root.show(name, key) for key in ("ActiveState", "Result", "ExecMainStatus")] == ["inactive", "success", "0"]
    assert daemon(root) == 0
    assert root.run("systemctl", "start", name).returncode == 0
    wait_for(lambda: answers(root), 30, "the app")


def test_down_stops_and_destroy_removes_the_unit(root: Booted) -> None:
    """`enjin down` stops the unit for good; `--destroy` removes its file."""
    name = unit(root)
    done = root.run("enjin", "down")
    assert done.returncode == 0, done.stdout + done.stderr
    assert root.show(name, "ActiveState") in ("inactive", "failed")
    up = root.run("enjin", "up")
    assert up.returncode == 0, up.stdout + up.stderr
    assert root.show(name, "ActiveState") == "active"
    gone = root.run("enjin", "down", "--destroy", "--yes")
    assert gone.returncode == 0, gone.stdout + gone.stderr
    assert root.run("systemctl", "list-unit-files", "--no-legend", "enjin-*.service").stdout == ""
    assert not list(Path(root.tree, "etc/systemd/system").glob("enjin-*"))
