"""Every fsync, send, spawn and rename of the product has a failpoint before it; what one does; and that it costs nothing."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from enjin import failpoints
from tests.failpoints_found import ROOT, Site, modules, points, sites

# What has none, and why. Nothing here is durable or binds anybody when it is cut off.
EXEMPT: dict[str, str] = {
    "bus/over_nats/program.py subprocess.run": "asks a program for its version; nothing depends on the asking",
    "enjin/failpoints.py os.kill": "the failpoint itself",
    "ring0/commands/machine.py subprocess.run": "asks tools for their versions, for `enjin doctor` to print",
    "ring0/raising.py subprocess.run": "tries out what the machine can do before anything is made",
    "ring0/registry.py subprocess.run": "asks pip for its settings before anything is made",
    "supervision/probe.py subprocess.run": "tries out what the machine can do before anything is made",
    "supervision/probe.py os.fork": "tries out what the machine can do before anything is made",
    "supervision/init/control.py controls.children.spawn": "a call within init; the fork below it has its own",
    "ring2/packaging/__main__.py os.replace": "inside a build, which is thrown away as a whole when it ends early",
    "ring2/packaging/command.py subprocess.Popen": "inside a build, which is thrown away as a whole when it ends early",
    "ring2/packaging/extract.py os.link": "inside a build, which is thrown away as a whole when it ends early",
    "ring2/packaging/serve/static.py self.send": "a tenant's own web server, whose death is the tenant's process ending",
    "ring2/packaging/serve/wsgi.py self._sock.sendall": "a tenant's own web server, whose death is the tenant's process ending",
    "ring2/packaging/serve/wsgi.py self._wake.send": "a tenant's own web server, whose death is the tenant's process ending",
    "ring2/packaging/serve/wsgi.py connection.sock.sendall": "a tenant's own web server, whose death is the tenant's process ending",
}  # fmt: skip
POINTS_MIN = 40
PASSING = "import sys\nfrom {} import failpoint\nfor name in sys.argv[1:]:\n    failpoint(name)\n    print(name, flush=True)\n"


def all_sites() -> list[Site]:
    return [site for path, text in modules() for site in sites(path, text)]


def test_every_site_has_a_failpoint() -> None:
    """A statement that syncs, sends, starts a process or renames follows a failpoint directly, or is exempt by name."""
    bare = [f"{site.path}:{site.line}: {site.call} has no failpoint" for site in all_sites() if not site.points and site.key not in EXEMPT]
    assert not bare, "\n" + "\n".join(bare)


def test_every_exemption_is_needed() -> None:
    """No exemption outlives its site."""
    bare = {site.key for site in all_sites() if not site.points}
    assert sorted(set(EXEMPT) - bare - {"enjin/failpoints.py os.kill"}) == []


def test_names_are_unique_and_there_are_many() -> None:
    """A name is one place in the code; there are at least forty."""
    names = Counter(name for name, _path in points())
    assert [name for name, count in names.items() if count > 1] == []
    assert [name for name in names if not re.fullmatch(r"[a-z0-9]+(\.[a-z0-9]+)+", name)] == []
    assert len(names) >= POINTS_MIN


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        ("import os\nos.fsync(1)\n", 1),
        ("import os\nfailpoint('a.b')\nos.fsync(1)\n", 0),
        ("import os\nfailpoint('a.b')\nx = 1\nos.fsync(1)\n", 1),
        ("failpoint('a.b')\nif os.fork() == 0:\n    os.rename('a', 'b')\n", 1),
        ("async def f():\n    try:\n        await bus.publish('a', b'')\n    finally:\n        x.sendall(b'')\n", 2),
        ("def f():\n    run_in_thread(os.fsync, 3)\n", 1),
        ("def f():\n    with a.Popen([]) as b:\n        pass\n", 1),
        ("text.replace('a', 'b')\nsignal_all(send)\n", 0),
    ],
)
def test_sites_are_found(text: str, bare: int) -> None:
    """The search sees sites in any block, as a header, and handed over as a function."""
    assert bare == sum(not site.points for site in sites("enjin/x.py", text))


def passing(tmp_path: Path, setting: str, *names: str, log: str = "log") -> subprocess.CompletedProcess[str]:
    """Run a process that passes *names* in order and says each on standard output."""
    code = PASSING.format("enjin.failpoints")
    environment = {**os.environ, "ENJIN_FAILPOINT": setting}
    if log:
        environment["ENJIN_FAILPOINT_LOG"] = str(tmp_path / log)
    return subprocess.run(
        [sys.executable, "-c", code, *names], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=30, check=False
    )


def test_a_process_is_killed_at_the_point_and_once(tmp_path: Path) -> None:
    """The second pass ends it with SIGKILL before what follows; whoever starts with the same log is spared."""
    ended = passing(tmp_path, "b.c:kill9:2", "b.c", "a.b", "b.c", "a.b")
    assert (ended.returncode, ended.stdout.split()) == (-signal.SIGKILL, ["b.c", "a.b"])
    assert (tmp_path / "log").read_text() == "b.c\n"
    again = passing(tmp_path, "b.c:kill9:2", "b.c", "b.c", "b.c")
    assert (again.returncode, again.stdout.split()) == (0, ["b.c", "b.c", "b.c"])
    assert passing(tmp_path, "b.c:kill9:1", "b.c", log="").returncode == -signal.SIGKILL


def test_passes_are_counted(tmp_path: Path) -> None:
    """A first run tells how often each point is passed, so that the last time can be asked for."""
    passing(tmp_path, "*:count", "a.b", "b.c", "a.b")
    passing(tmp_path, "b.c:count", "a.b", "b.c")
    lines = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    assert Counter(name for name, _pid in lines) == {"a.b": 2, "b.c": 2}
    assert sorted(Counter(pid for _name, pid in lines).values()) == [1, 3]  # two processes, and who passed what


@pytest.mark.parametrize("setting", ["a.b", "a.b:kill9", "a.b:kill9:0", "a.b:kill9:x", "a.b:explode:1", ":kill9:1"])
def test_a_wrong_setting_ends_the_process(tmp_path: Path, setting: str) -> None:
    """INV-FPT-1: a process never runs without the fault that was asked for."""
    ended = passing(tmp_path, setting, "a.b")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("enjin: E-FPT-001: ENJIN_FAILPOINT is ")
    assert ended.stderr.count("\n") == 1


def test_init_has_the_same_points(tmp_path: Path) -> None:
    """Init, which imports nothing of ours, obeys the same variables."""
    code = PASSING.format("supervision.init.failpoints")
    for setting, status, said in (
        ("b.c:kill9:2", -signal.SIGKILL, ["b.c", "a.b"]),
        ("*:count", 0, ["b.c", "a.b", "b.c"]),
        ("", 0, ["b.c", "a.b", "b.c"]),
    ):
        log = tmp_path / f"log{status}{len(setting)}"
        environment = {**os.environ, "ENJIN_FAILPOINT": setting, "ENJIN_FAILPOINT_LOG": str(log)}
        ended = subprocess.run(
            [sys.executable, "-c", code, "b.c", "a.b", "b.c"],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert (ended.returncode, ended.stdout.split()) == (status, said)
        assert log.exists() is bool(setting)
        if status == 0 and setting:
            passed = [line.split() for line in log.read_text().splitlines()]
            assert ([name for name, _pid in passed], len({pid for _name, pid in passed})) == (["b.c", "a.b", "b.c"], 1)


def test_what_is_inherited_is_what_was_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon hands on the two variables and nothing else, and nothing where none is set."""
    for name in failpoints.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert failpoints.inherited() == {}
    monkeypatch.setenv("ENJIN_FAILPOINT", "a.b:count")
    assert failpoints.inherited() == {"ENJIN_FAILPOINT": "a.b:count"}


def test_a_simulator_hears_each_point() -> None:
    """While armed, each point is told by name; afterwards none is."""
    heard: list[str] = []
    with failpoints.armed(heard.append):
        failpoints.failpoint("a.b")
    failpoints.failpoint("a.b")
    assert heard == ["a.b"]
