"""A cloud from up to destroy: what it is made of, what it refuses, and what it leaves on the machine."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import leaks
from tests.cloud import ENJIN, ROOT
from tests.e2e.clouds import BACK_S, Raised, namespaces, raised, wait_for
from tests.places import free_port_base, temporary_home

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]
UIDS = Path("/var/lib/enjin-uids.json")
LINE = "enjin: "


def own(cloud: Raised, tag: str) -> set[str]:
    """Return everything on the machine that has this cloud's name, its processes and its mounts."""
    found = {thing for thing in leaks.things() if tag in thing}
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    found |= {f"mount {line.split()[4]}" for line in mounts if str(cloud.home) in line}
    return found | {f"process {process.line}" for process in cloud.processes()}


def refused(cloud: Raised, code: str, *words: str, **environment: str) -> str:
    """Run a command that must be refused with one line and *code*; return the line."""
    done = subprocess.run(
        words if words[0].startswith("/") else [str(ENJIN), *words],
        env=cloud.environment | environment, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    lines = [line for line in done.stderr.splitlines() if line.startswith(LINE)]
    assert done.returncode not in (0, 255), done.stdout + done.stderr
    assert len(lines) == 1, done.stderr
    assert lines[0].endswith(f"[{code}]"), lines[0]
    assert "Traceback" not in done.stderr
    return lines[0]


@pytest.fixture
def unraised() -> Iterator[Raised]:
    """A place for a cloud that nobody has raised yet; whatever is raised there is removed."""
    with temporary_home() as folder:
        made = Raised(folder, free_port_base())
        try:
            yield made
        finally:
            made.down()


def test_a_second_up_changes_nothing(hello: Raised) -> None:
    """And says so; neither journal moves and every process stays."""
    wait_for(lambda: hello.settled("hello"), BACK_S, "a settled cloud")
    before, processes = (hello.head(0), hello.head(1)), hello.processes()
    assert "nothing to change" in hello.run("up").stderr
    assert (hello.head(0), hello.head(1)) == before
    assert [one.pid for one in hello.processes()] == [one.pid for one in processes]


def test_status_has_every_node_of_every_ring(hello: Raised) -> None:
    """The machine-readable form that other tools rely on."""
    found = hello.json("status")
    nodes = {node["label"]: node for node in found["nodes"]}
    assert {node["ring"] for node in nodes.values()} == {0, 1, 2}
    for node in nodes.values():
        assert {"id", "ring", "label", "state", "strategy", "address", "supervisor"} <= node.keys()
    ring0, ring1, app = nodes["ring0"], nodes["ring1"], nodes["hello.web.1"]
    assert (ring1["supervisor"], app["supervisor"]) == (ring0["id"], ring1["id"])
    assert (ring1["strategy"], app["strategy"]) == ("jail", "jail")
    assert len({node["address"] for node in nodes.values()}) == len(nodes)
    assert found["endpoints"]["router"] == f"http://127.0.0.1:{hello.place[1]}"
    assert found["endpoints"]["api"] == f"http://127.0.0.1:{hello.port_base + 1}"


def test_rings_are_in_different_namespaces(hello: Raised) -> None:
    """Read from /proc: host, ring 1 and app share none of pid, network, user, mount, ipc and uts."""
    rings = [namespaces(pid) for pid in (os.getpid(), hello.init_of(1).pid, hello.one(".enjin/serve").pid)]
    for kind in ("pid", "net", "user", "mnt", "ipc", "uts"):
        assert len({ring[kind] for ring in rings}) == 3, kind
    ring0 = namespaces(hello.init_of(0).pid)
    assert {kind: ring0[kind] for kind in ("pid", "net", "user")} == {kind: rings[0][kind] for kind in ("pid", "net", "user")}
    uids = [int(Path(f"/proc/{one.pid}/status").read_text().split("Uid:")[1].split()[0]) for one in hello.find("supervision/init/")]
    assert sum(uid == 0 for uid in uids) == 1
    for uid in uids:
        if uid:
            with pytest.raises(KeyError):
                pwd.getpwuid(uid)


def test_a_taken_port_is_refused(unraised: Raised) -> None:
    """E-UP-001 before anything is made: no home, no keys, no uids."""
    uids = UIDS.read_text() if UIDS.exists() else ""
    with socket.create_server(("127.0.0.1", unraised.port_base + 1)):
        line = refused(unraised, "E-UP-001", "up")
    assert str(unraised.port_base + 1) in line
    assert str(unraised.home) not in (UIDS.read_text() if UIDS.exists() else "")
    assert not unraised.keys.exists()
    assert not unraised.home.exists() or not list(unraised.home.iterdir())
    assert uids is not None


def test_a_missing_program_is_refused(unraised: Raised) -> None:
    """In a mount namespace where bubblewrap cannot be executed: told which package, nothing made."""
    line = refused(unraised, "E-UP-003", "/usr/bin/unshare", "-m", "sh", "-c", f"mount --bind /dev/null /usr/bin/bwrap && exec {ENJIN} up")
    assert "bubblewrap" in line
    assert not unraised.keys.exists()
    assert not unraised.home.exists() or not list(unraised.home.iterdir())


def test_another_checkout_is_refused(hello: Raised, tmp_path: Path) -> None:
    """While the cloud runs its home belongs to the checkout that raised it."""
    copy = tmp_path / "other"
    copy.mkdir()
    for name in ("enjin", "keys", "bus", "compartments", "supervision", "ring0", "ring1", "ring2", "systemd"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, copy / name)
    before = hello.head(0)
    code = "from ring0.commands.cloud import up; from enjin.cli import enjin; import sys, enjin.cli as cli; "
    code += "cli.enjin.add_command(up); cli.Commands.get_command = lambda self, context, name: up; sys.argv = ['enjin', 'up']; cli.main()"
    python = str(ROOT / ".venv/bin/python")
    line = refused(hello, "E-UP-004", python, "-P", "-c", code, PYTHONPATH=str(copy), PYTHONDONTWRITEBYTECODE="1")
    assert str(ROOT) in line
    assert hello.head(0) == before
    assert hello.settled("hello")


def test_two_clouds_side_by_side(hello: Raised, fresh_cloud: Raised) -> None:
    """An app of the same name in each; what one does is not seen in the other, and destroying one leaves the other."""
    tags = hello.tag, fresh_cloud.tag
    assert tags[0] != tags[1]
    before = hello.json("releases", "--app", "hello")
    fresh_cloud.push(ROOT / "examples/static", "hello")
    assert b"It is served" in fresh_cloud.get("hello", router=fresh_cloud.place).body
    assert b"hello from enjin" in hello.get("hello", router=hello.place).body
    assert hello.json("releases", "--app", "hello") == before
    assert not {one.pid for one in hello.processes()} & {one.pid for one in fresh_cloud.processes()}
    assert not {thing for thing in own(hello, tags[0]) & own(fresh_cloud, tags[1]) if not thing.startswith("process ")}
    fresh_cloud.run("app", "destroy", "hello", "--yes")
    assert hello.settled("hello")


def test_down_and_up_and_destroy(unraised: Raised) -> None:
    """Down leaves nothing that runs; up brings every app back with its state; destroy leaves the machine as it was."""
    cloud = unraised
    before = leaks.things()
    uids = UIDS.exists()
    cloud.up()
    tag = cloud.tag
    cloud.push(ROOT / "examples/hello", "hello")
    cloud.run("config", "set", "COLOUR=green", "--app", "hello")
    wait_for(lambda: len(cloud.instances("hello")) == 1, BACK_S, "one instance")
    apps, heads, releases = cloud.json("app", "list"), (cloud.head(0), cloud.head(1)), cloud.json("releases", "--app", "hello")
    assert own(cloud, tag)
    cloud.run("down")
    assert own(cloud, tag) == set()
    assert not cloud.answers("hello", cloud.place)
    assert "already" in cloud.run("down").stderr
    cloud.up()
    wait_for(lambda: cloud.settled("hello"), BACK_S, "the app after up")
    assert cloud.json("app", "list") == apps
    assert [one["release"] for one in cloud.json("releases", "--app", "hello")] == [one["release"] for one in releases]
    assert [one["key"] for one in cloud.json("config", "get", "--app", "hello")["values"]] == ["COLOUR"]
    assert (cloud.verify(0)["ok"], cloud.verify(1)["ok"]) == (True, True)
    assert cloud.verify(1)["entries"] >= heads[1].number
    cloud.down()
    assert own(cloud, tag) == set()
    assert not cloud.home.exists()
    assert not cloud.keys.exists()
    assert {thing for thing in leaks.things() - before if tag in thing or str(cloud.folder) in thing} == set()
    assert str(cloud.home) not in (UIDS.read_text() if UIDS.exists() else "")
    assert uids or not UIDS.exists() or "{" in UIDS.read_text()


def test_a_cloud_that_fails_to_rise_is_removed(tmp_path: Path) -> None:
    """The context in which tests raise clouds takes them down also after a failure."""
    with temporary_home() as folder:
        home = folder / "h"
        with pytest.raises(RuntimeError, match="in the middle"), raised(folder, free_port_base()):
            raise RuntimeError("in the middle")
        assert not home.exists()
    assert tmp_path.exists()
