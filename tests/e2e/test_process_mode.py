"""A cloud of a user without any privilege: the same tour, and it says what separates the apps, and what does not."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ring0.commands.genesis import genesis
from supervision.probe import try_bubblewrap
from tests.cloud import Cloud, cloud, wait_for
from tests.e2e.other_user import User, UsersCloud, other_user, users_cloud

pytestmark = pytest.mark.timeout(300)
SHARED = "share this machine's network"
NOTHING = "no isolation"


@pytest.fixture(scope="module")
def user() -> Iterator[User]:
    """Somebody without privileges."""
    with other_user() as made:
        yield made


@pytest.fixture(scope="module")
def theirs(user: User) -> Iterator[UsersCloud]:
    """A cloud of that user, with hello in it."""
    with users_cloud(user) as made:
        made.push(user.checkout / "examples/hello", "hello")
        yield made


def ring2(one: Cloud) -> list[dict[str, Any]]:
    """Return the nodes of ring 2."""
    return [node for node in one.json("status")["nodes"] if node["ring"] == 2]


def test_the_url_answers(theirs: UsersCloud) -> None:
    """A pushed app answers through the router, on an unprivileged port."""
    answer = theirs.get("hello")
    assert (answer.status, b"hello from enjin" in answer.body) == (200, True)


def test_everything_is_that_user_on_loopback(theirs: UsersCloud) -> None:
    """No process of the cloud has another uid, and every node has an address of 127.64.0.0/16."""
    uids = {os.stat(f"/proc/{process.pid}").st_uid for process in theirs.processes()}
    assert uids <= {theirs.user.uid, 0}  # what a jail's init must not show belongs to root in /proc
    assert theirs.user.uid in uids
    real = {Path(f"/proc/{process.pid}/status").read_text().split("Uid:")[1].split()[0] for process in theirs.processes()}
    assert real == {str(theirs.user.uid)}
    nodes = theirs.json("status")["nodes"]
    assert {node["strategy"] for node in nodes} == {"host", "process"}
    assert [node["address"] for node in nodes if not node["address"].startswith("127.64.")] == []


def test_status_says_what_isolates(theirs: UsersCloud) -> None:
    """Status names the means of isolation of each instance, and that builds share the host's network."""
    expected = NOTHING if try_bubblewrap(theirs.user.uid if os.geteuid() == 0 else None, network=False) else "namespaces"
    assert [node for node in ring2(theirs) if expected not in node["isolation"]["means"]] == []
    assert any("builds share the host's network" in line for line in theirs.json("status")["warnings"])
    assert "builds share the host's network" in theirs.run("status").stderr


def test_status_warns_of_root_shares(theirs: UsersCloud) -> None:
    """Three shares in one place are the cloud: status names each of them, as `enjin up` does."""
    named = [line for line in theirs.json("status")["warnings"] if "root/share-" in line]
    assert [line for line in named if str(theirs.home) in line] == named
    assert len(named) == 3


def test_the_tour(theirs: UsersCloud) -> None:
    """Scale, settings, releases, rollback, restart and logs work as everywhere."""
    theirs.run("ps", "scale", "web=2", "--app", "hello")
    wait_for(lambda: [one["state"] for one in theirs.json("ps", "--app", "hello")] == ["ready"] * 2, 30, "two instances")
    theirs.run("config", "set", "GREETING=x", "--app", "hello")
    theirs.run("rollback", "--app", "hello")
    theirs.run("restart", "--app", "hello")
    assert [row["cause"] for row in theirs.json("releases", "--app", "hello")][-2:] == ["settings", "push"]
    assert "listening on 127.64." in theirs.run("logs", "--app", "hello").stdout
    assert theirs.answers("hello")
    assert "nothing to change" in theirs.run("up").stderr


def test_a_push_says_what_is_shared(theirs: UsersCloud) -> None:
    """A push says that the network is shared; an app that listens where it is told is on loopback alone."""
    said = theirs.run("push", str(theirs.user.checkout / "examples/hello"), "--app", "second")
    assert SHARED in said.stderr
    listening = {line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:] if line.split()[3] == "0A"}
    ports = {one["port"]: one["address"] for one in theirs.json("ps")}
    assert [port for port in ports if f"00000000:{port:04X}" in listening] == []


def test_down_and_up_again(theirs: UsersCloud) -> None:
    """`enjin down` leaves no process, and the next `enjin up` brings the apps back."""
    theirs.run("down")
    assert wait_for(lambda: not theirs.user.processes() or os.geteuid() != 0, 10, "no process of the user")
    theirs.run("up")
    wait_for(lambda: theirs.answers("hello"), 30, "hello")


def test_every_nodes_own_lines_can_be_read(theirs: UsersCloud) -> None:
    """Without root too: ring 0's, ring 1's and an agent's, hands' among them; the machine's own way reads the same."""
    for words in (("ring0",), ("ring1",), ("agent.default",), ("ring0", "--local")):
        told = [json.loads(line) for line in theirs.run("node", "logs", *words, "--json").stdout.splitlines()]
        assert any("started" in line["text"] for line in told), words
    assert theirs.run("node", "logs", "ring0", "--service", "hands").returncode == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to forbid namespaces to somebody")
def test_without_namespaces_nothing_separates_and_it_says_so(user: User) -> None:
    """Where no user namespace can be made apps run all the same, push and status say `no isolation`, and destroy leaves nothing."""
    with users_cloud(user, bare=True) as bare:
        said = bare.run("push", str(user.checkout / "examples/hello"), "--app", "hello")
        assert NOTHING in said.stderr
        assert SHARED in said.stderr
        assert b"hello from enjin" in bare.get("hello").body
        assert [node["isolation"]["means"] for node in ring2(bare)] == [NOTHING]
        assert NOTHING in bare.run("status").stderr
        running = bare.processes()
        bare.run("down", "--destroy", "--yes")
        assert not bare.home.exists()
        assert [process for process in running if Path(f"/proc/{process.pid}").exists() and process.pid in user.processes()] == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_root_can_force_it_and_is_warned(tmp_path: Path) -> None:
    """`--ring1 process` as root comes up with two shares of a ceremony, pushes, and says loudly that apps run as root."""
    held = json.loads(CliRunner().invoke(genesis, ["--to", str(tmp_path), "--json"], catch_exceptions=False).stdout)
    shares = [word for path in held["shares"][1:] for word in ("--share", path)]
    with cloud("--ring1", "process", *shares) as forced:
        status = forced.json("status")
        assert status["cloud"] == held["cloud"]
        assert [line for line in status["warnings"] if "root key" in line] == []
        assert "ROOT" in forced.run("up").stderr
        forced.push(Path(__file__).resolve().parents[2] / "examples/hello", "hello")
        assert forced.answers("hello")
        assert any("root itself" in line for line in forced.json("status")["warnings"])
